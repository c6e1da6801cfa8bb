//! `/orgs/{org_id}/policies`: rules, their templates, and what they come to. The body's names follow
//! the documentation and its older spellings: `type` for `policy_type`, `workflow_id` and
//! `api_key_id` for `scope_id`, `org` for `Org`.

mod config;
mod effective;
mod evaluate;
mod look;
mod shapes;
mod templates;
pub mod words;

use super::once::Named;
use super::{Admitted, List, Page, admit, done, id, no_content, unexpected};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, LimitError, OrgErrors, OrgPath, PageQuery, PathError,
    PolicyPath, QueryErrors,
};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use config::Matching;
use engine::manage::{Manage, Managed, PolicyPatch};
use engine::rules::Compiled;
use http::StatusCode;
use persist::record::Role;
use persist::{OrgId, PolicyId};
use serde::Deserialize;
use shapes::{Create, Patch, Shown, show};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use words::{ActionName, Mode, TypeName};

pub use look::{Note, notes};

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, create))
        .routes(routes!(get, patch, delete))
        .routes(routes!(toggle))
        .merge(templates::routes())
        .merge(effective::routes())
        .merge(evaluate::routes())
}

/// Makes a change and returns the policy as it is then.
async fn changed(app: &App, change: Manage) -> ApiResult<Arc<Compiled>> {
    match *done(app, change).await? {
        Managed::Policy(policy) => Ok(policy),
        _ => Err(ApiError::not_found("policy")),
    }
}

fn find(app: &App, org: OrgId, policy: PolicyId) -> ApiResult<Arc<Compiled>> {
    let directory = app.directory();
    let found = directory.org(org).and_then(|org| org.rules.get(policy));
    found.cloned().ok_or_else(|| ApiError::not_found("policy"))
}

/// Make a policy. It holds for every call that starts after the answer.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/policies",
    operation_id = "create_policy",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Create,
    responses(
        (status = 201, description = "Made", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError, LimitError
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    let create = Manage::CreatePolicy {
        org: admitted.org,
        actor: admitted.actor(),
        id: PolicyId(hash::new_id(clock::now())),
        draft: body.draft()?,
    };
    let made = changed(&app, create).await?;
    Ok(json_response(
        StatusCode::CREATED,
        &show(admitted.org, &made),
    ))
}

/// List policies, in the order they are asked.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/policies",
    operation_id = "list_policies",
    tag = "policies",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, PageQuery),
    responses(
        (status = 200, description = "Policies", body = List<Shown>),
        QueryErrors, OrgErrors
    )
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let page = Page::parse(query.as_deref(), &[])?;
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let (ids, next) = page.of(entry.rules.all().iter().map(|policy| policy.id))?;
    let found = ids.iter().filter_map(|id| entry.rules.get(*id));
    let shown: Vec<_> = found.map(|policy| show(org, policy)).collect();
    Ok(json_response(StatusCode::OK, &List::new(shown, next)))
}

/// Get a policy.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/policies/{policy_id}",
    operation_id = "get_policy",
    tag = "policies",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(PolicyPath),
    responses((status = 200, description = "The policy", body = Shown), PathError, OrgErrors)
)]
async fn get(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let found = find(&app, org, id(&policy, "policy")?)?;
    Ok(json_response(StatusCode::OK, &show(org, &found)))
}

/// Change a policy. What the body does not say stays, within `config` and `match` too; a list replaces
/// the list there was. A change that changes nothing leaves its version.
#[utoipa::path(
    patch,
    path = "/api/v1/orgs/{org_id}/policies/{policy_id}",
    operation_id = "update_policy",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(PolicyPath),
    request_body = Patch,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError
    )
)]
async fn patch(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let id: PolicyId = id(&policy, "policy")?;
    let body: Patch = admitted.received.json()?;
    // A policy keeps its type; all else it says is looked at where the change is made.
    let kind = find(&app, admitted.org, id)?.policy_type;
    let matching = body
        .matching
        .map(|matching| matching.map_or_else(Matching::none, |Named(matching)| matching));
    let terms = config::terms(kind, body.config.as_ref(), matching.as_ref())?;
    let patch = Manage::PatchPolicy {
        org: admitted.org,
        actor: admitted.actor(),
        id,
        patch: PolicyPatch {
            name: body.name,
            policy_type: body.policy_type.map(TypeName::policy_type),
            priority: body.priority,
            action: body.action.map(ActionName::action),
            terms,
            is_active: body.is_active,
            shadow: body.mode.map(Mode::is_shadow),
        },
    };
    let now = changed(&app, patch).await?;
    Ok(json_response(StatusCode::OK, &show(admitted.org, &now)))
}

/// Delete a policy.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}/policies/{policy_id}",
    operation_id = "delete_policy",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(PolicyPath),
    responses((status = 204, description = "Gone"), PathError, OrgErrors, BusyError)
)]
async fn delete(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let delete = Manage::DeletePolicy {
        org: admitted.org,
        actor: admitted.actor(),
        id: id(&policy, "policy")?,
    };
    done(&app, delete).await?;
    Ok(no_content())
}

/// On or off.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyToggle)]
struct Toggle {
    /// The other way round if absent.
    #[schema(example = false)]
    is_active: Option<bool>,
}

/// Switch a policy on or off. Without a body it is switched the other way round; with one, asking
/// again changes nothing.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/policies/{policy_id}/toggle",
    operation_id = "toggle_policy",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(PolicyPath),
    request_body = Option<Toggle>,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError
    )
)]
async fn toggle(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Toggle = admitted.received.json_or_default()?;
    let toggle = Manage::TogglePolicy {
        org: admitted.org,
        actor: admitted.actor(),
        id: id(&policy, "policy")?,
        active: body.is_active,
    };
    let now = changed(&app, toggle).await?;
    Ok(json_response(StatusCode::OK, &show(admitted.org, &now)))
}
