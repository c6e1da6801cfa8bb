//! Templates: policies that many want, enabled with one request.

use super::config::ConfigShown;
use super::shapes::{Place, Shown, show};
use super::words::{Mode, ScopeName, TypeName};
use super::{Admitted, List, admit, changed, done, no_content};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, LimitError, OrgErrors, OrgPath, PathError, TemplatePath,
};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use engine::manage::{CATALOG, Manage, TemplateTerms};
use http::StatusCode;
use persist::PolicyId;
use persist::record::Role;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index))
        .routes(routes!(enable))
        .routes(routes!(disable))
}

/// A policy that can be enabled.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyTemplate)]
struct Offered {
    #[schema(example = "loop-guard")]
    id: &'static str,
    name: &'static str,
    description: &'static str,
    policy_type: TypeName,
    config: ConfigShown,
    /// Who enables it must name a workflow.
    needs_workflow: bool,
    enabled: bool,
    /// The policy it is enabled as.
    policy_id: Option<String>,
}

/// What who enables a template says otherwise.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyTemplateEnable)]
struct Enable {
    /// The organization, unless `workflow_id` or `api_key_id` says otherwise.
    scope: Option<ScopeName>,
    scope_id: Option<String>,
    workflow_id: Option<String>,
    api_key_id: Option<String>,
    /// In force if absent.
    mode: Option<Mode>,
}

/// List templates, and which of them are enabled.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/policies/templates",
    operation_id = "list_policy_templates",
    tag = "policies",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath),
    responses(
        (status = 200, description = "Templates; all on one page", body = List<Offered>),
        PathError, OrgErrors
    )
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let offered = CATALOG.iter().map(|template| {
        let policy = template.enabled_in(entry);
        Offered {
            id: template.id,
            name: template.name,
            description: template.description,
            policy_type: TypeName::of(template.policy_type),
            config: ConfigShown::of(template.policy_type, &template.terms()),
            needs_workflow: template.needs_workflow,
            enabled: policy.is_some(),
            policy_id: policy.map(|policy| policy.id.to_string()),
        }
    });
    let offered = List::new(offered.collect::<Vec<_>>(), None);
    Ok(json_response(StatusCode::OK, &offered))
}

/// Enable a template: it becomes a policy. One that is enabled on these terms stays as it is.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/policies/templates/{template_id}/enable",
    operation_id = "enable_policy_template",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(TemplatePath),
    request_body = Option<Enable>,
    responses(
        (status = 200, description = "It was enabled before", body = Shown),
        (status = 201, description = "The policy it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError, LimitError
    )
)]
async fn enable(
    State(app): State<Arc<App>>,
    Path((org, template)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Enable = admitted.received.json_or_default()?;
    let place = Place {
        scope: body.scope,
        scope_id: body.scope_id.as_deref(),
        workflow_id: body.workflow_id.as_deref(),
        api_key_id: body.api_key_id.as_deref(),
    };
    let scope = (!place.is_empty()).then(|| place.read()).transpose()?;
    let id = PolicyId(hash::new_id(clock::now()));
    let enable = Manage::EnableTemplate {
        org: admitted.org,
        actor: admitted.actor(),
        id,
        template,
        terms: TemplateTerms {
            scope,
            shadow: body.mode.map(Mode::is_shadow),
        },
    };
    let policy = changed(&app, enable).await?;
    let status = if policy.id == id {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json_response(status, &show(admitted.org, &policy)))
}

/// Disable a template: its policy is deleted, if there is one.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}/policies/templates/{template_id}",
    operation_id = "disable_policy_template",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(TemplatePath),
    responses((status = 204, description = "It is not enabled"), PathError, OrgErrors, BusyError)
)]
async fn disable(
    State(app): State<Arc<App>>,
    Path((org, template)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let disable = Manage::DisableTemplate {
        org: admitted.org,
        actor: admitted.actor(),
        template,
    };
    done(&app, disable).await?;
    Ok(no_content())
}
