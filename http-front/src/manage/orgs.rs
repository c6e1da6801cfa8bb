//! `/orgs` and `/orgs/{org_id}`: mine, a further one, settings, the end of one.

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::manage::auth::{RoleName, address};
use crate::manage::caps::PeriodName;
use crate::manage::policies::words::CompositionName;
use crate::manage::{Admitted, List, Page, admit, cents, done, no_content, nullable};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, OrgErrors, OrgPath, PageQuery, PathError, QueryErrors,
    SessionErrors,
};
use crate::sdk::decision::json_response;
use crate::sign_in::{self, Keys};
use crate::{clock, hash, request};
use axum::extract::{Path, Request, State};
use engine::directory::{Directory, OrgEntry};
use engine::manage::{Manage, NewOrg, OrgPatch};
use http::StatusCode;
use persist::record::Role;
use persist::{Nanos, OrgId, UserId, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, create))
        .routes(routes!(get, patch, remove))
}

/// An organization, as one of its members sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Organization)]
pub struct Shown {
    /// Never changes; there is no other name in paths.
    #[schema(example = "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b")]
    id: String,
    #[schema(example = "Analytical Engines")]
    name: String,
    /// What I am in it.
    role: RoleName,
    #[schema(example = "self-hosted")]
    plan: String,
    #[schema(example = "ops@example.com")]
    contact_email: Option<String>,
    /// The cap over all its workflows in a period; null for none.
    budget_cents: Option<i64>,
    budget_period: PeriodName,
    composition: CompositionName,
    created_at: String,
}

impl Shown {
    /// As this person sees it, who belongs to it.
    #[must_use]
    pub fn of(directory: &Directory, org: OrgId, user: UserId) -> Option<Self> {
        let org = directory.org(org)?;
        Some(Self::to(org, org.role(user)?))
    }

    fn to(org: &OrgEntry, role: Role) -> Self {
        let contact_email = (!org.contact_email.is_empty()).then(|| org.contact_email.to_string());
        Self {
            id: org.id.to_string(),
            name: org.name.to_string(),
            role: RoleName::of(role),
            plan: org.plan.to_string(),
            contact_email,
            budget_cents: org.budget.map(Nanos::cents_down),
            budget_period: PeriodName::of(org.period),
            composition: CompositionName::of(org.composition),
            created_at: clock::rfc3339(org.created_at),
        }
    }
}

/// The org as who changed it sees it now.
fn shown(app: &App, org: OrgId, user: UserId, status: StatusCode) -> ApiResult {
    let shown = Shown::of(&app.directory(), org, user);
    let shown = shown.ok_or_else(|| ApiError::not_found("organization"))?;
    Ok(json_response(status, &shown))
}

/// An organization to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganizationCreate)]
struct Create {
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "Difference Engines"
    )]
    name: String,
    /// Where to write to about it; my own address if it is left out.
    #[schema(format = "email", max_length = 254, example = "ops@example.com")]
    contact_email: Option<String>,
}

/// What changes in an organization; at least one field. Its id and its plan cannot.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganizationPatch, min_properties = 1)]
struct Patch {
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"
    )]
    name: Option<String>,
    /// Null for none.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, format = "email", max_length = 254, example = "ops@example.com")]
    contact_email: Option<Option<String>>,
    /// Null for none, 0 lets nothing be spent.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64, example = 50000)]
    budget_cents: Option<Option<i64>>,
    budget_period: Option<PeriodName>,
    composition: Option<CompositionName>,
}

impl Patch {
    const fn is_empty(&self) -> bool {
        matches!(
            self,
            Self {
                name: None,
                contact_email: None,
                budget_cents: None,
                budget_period: None,
                composition: None,
            }
        )
    }
}

/// List the organizations I belong to, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/orgs",
    operation_id = "list_organizations",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(PageQuery),
    responses(
        (status = 200, description = "My organizations, with my role in each", body = List<Shown>),
        QueryErrors, SessionErrors
    )
)]
async fn index(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let received = request::receive(request).await?;
    let user = sign_in::person(&app, &received)?.user;
    let page = Page::parse(query.as_deref(), &[])?;
    let mut mine: Vec<_> = user.orgs.iter().copied().collect();
    mine.sort_unstable();
    let (page, next) = page.of(mine.into_iter())?;
    let directory = app.directory();
    let shown = page.iter();
    let shown = shown.filter_map(|org| Shown::of(&directory, *org, user.id));
    Ok(json_response(
        StatusCode::OK,
        &List::new(shown.collect(), next),
    ))
}

/// Make a further organization. I am its owner, and it has a workflow, `default`; keys are minted with
/// POST /api/v1/orgs/{org_id}/api-keys. 409 `organization_limit_reached` for who belongs to a hundred.
#[utoipa::path(
    post,
    path = "/api/v1/orgs",
    operation_id = "create_organization",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    request_body = Create,
    responses(
        (status = 201, description = "Made", body = Shown),
        BodyErrors, SessionErrors, BusyError, ConflictError
    )
)]
async fn create(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let by = sign_in::person(&app, &received)?.user.id;
    let body: Create = received.json()?;
    let contact_email = body.contact_email.as_deref();
    let contact_email = contact_email.map(|text| address("contact_email", text));
    let now = clock::now();
    let org = OrgId(hash::new_id(now));
    let new = NewOrg {
        org,
        by,
        name: body.name.trim().to_owned(),
        contact_email: contact_email.transpose()?,
        workflow: WorkflowId(hash::new_id(now)),
        workflow_name: "default".to_owned(),
    };
    done(&app, Manage::CreateOrg(Box::new(new))).await?;
    shown(&app, org, by, StatusCode::CREATED)
}

/// Get an organization.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}",
    operation_id = "get_organization",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    responses((status = 200, description = "The organization", body = Shown), PathError, OrgErrors)
)]
async fn get(State(app): State<Arc<App>>, Path(org): Path<String>, request: Request) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    shown(&app, admitted.org, admitted.person()?, StatusCode::OK)
}

/// Change an organization's settings. Takes an admin.
#[utoipa::path(
    patch,
    path = "/api/v1/orgs/{org_id}",
    operation_id = "update_organization",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Patch,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError
    )
)]
async fn patch(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let body: Patch = admitted.received.json()?;
    if body.is_empty() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "nothing_to_change",
            "send at least one of name, contact_email, budget_cents, budget_period, composition",
        ));
    }
    let contact_email = body.contact_email.map(|text| match text {
        Some(text) => address("contact_email", &text),
        None => Ok(String::new()),
    });
    let patch = Manage::PatchOrg {
        org: admitted.org,
        actor: admitted.actor(),
        patch: OrgPatch {
            name: body.name.map(|name| name.trim().to_owned()),
            contact_email: contact_email.transpose()?,
            plan: None,
            budget: body.budget_cents.map(cents),
            period: body.budget_period.map(PeriodName::kind),
            composition: body.composition.map(CompositionName::kind),
        },
    };
    done(&app, patch).await?;
    shown(&app, admitted.org, admitted.person()?, StatusCode::OK)
}

/// Delete an organization, for good: its workflows, policies, members and invitations are gone, and its
/// API keys are refused as revoked from the answer on. Takes an owner who is its last member (409
/// `org_has_members` otherwise). What was spent stays in the log.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}",
    operation_id = "delete_organization",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    responses(
        (status = 204, description = "It is gone"),
        PathError, OrgErrors, BusyError, ConflictError
    )
)]
async fn remove(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Owner, Keys::Refused).await?;
    let Admitted { org, .. } = admitted;
    let by = admitted.person()?;
    done(&app, Manage::RemoveOrg { org, by }).await?;
    Ok(no_content())
}
