//! `/plans`: what there is, for everybody; and `/admin/orgs`: which organization has which, for who runs
//! the gateway.

use super::admin::admit;
use super::{List, Page, done, id};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    AdminErrors, BodyErrors, BusyError, NotFoundError, OrgPath, PageQuery, QueryErrors,
};
use crate::sdk::decision::json_response;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use engine::directory::{Directory, OrgEntry};
use engine::manage::{Manage, Managed, OrgPatch};
use engine::plan::{Features, Limits, Plan};
use http::StatusCode;
use persist::OrgId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(catalog))
        .routes(routes!(orgs))
        .routes(routes!(patch_org))
}

/// How much a plan allows; null for no limit.
#[derive(Debug, Serialize, ToSchema)]
struct PlanLimits {
    workflows: Option<u32>,
    /// Calls allowed in a calendar month, UTC.
    executions_per_month: Option<u64>,
    /// Shown only.
    history_days: Option<u32>,
    /// Members and open invitations.
    seats: Option<u32>,
    /// Keys that are not revoked.
    api_keys: Option<u32>,
    policies: Option<u32>,
    /// Policies that ask a person.
    approval_rules: Option<u32>,
    /// Shown only.
    tokens_per_hour: Option<u64>,
    requests_per_second: Option<u32>,
}

impl PlanLimits {
    const fn of(limits: &Limits) -> Self {
        Self {
            workflows: limits.workflows,
            executions_per_month: limits.executions_per_month,
            history_days: limits.history_days,
            seats: limits.seats,
            api_keys: limits.api_keys,
            policies: limits.policies,
            approval_rules: limits.approval_rules,
            tokens_per_hour: limits.tokens_per_hour,
            requests_per_second: limits.requests_per_second,
        }
    }
}

/// What a plan has.
#[derive(Debug, Serialize, ToSchema)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a feature of its own"
)]
struct PlanFeatures {
    /// Policies about tools.
    custom_policies: bool,
    /// Calls that wait for a person.
    approvals: bool,
    /// Shown only.
    alerts: bool,
    /// Shown only.
    audit_log: bool,
    /// Invitations.
    team: bool,
    /// Shown only.
    rbac: bool,
    /// Shown only.
    replay: bool,
    /// Shown only.
    sso: bool,
}

impl PlanFeatures {
    const fn of(features: &Features) -> Self {
        Self {
            custom_policies: features.custom_policies,
            approvals: features.approvals,
            alerts: features.alerts,
            audit_log: features.audit_log,
            team: features.team,
            rbac: features.rbac,
            replay: features.replay,
            sso: features.sso,
        }
    }
}

/// A plan.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
struct Shown {
    #[schema(example = "growth")]
    name: String,
    #[schema(example = "Growth")]
    title: String,
    /// New organizations get it.
    is_default: bool,
    limits: PlanLimits,
    features: PlanFeatures,
}

fn show(plan: &Plan, default: &str) -> Shown {
    Shown {
        name: plan.name.clone(),
        title: plan.title.clone(),
        is_default: plan.name == default,
        limits: PlanLimits::of(&plan.limits),
        features: PlanFeatures::of(&plan.features),
    }
}

/// List the plans of this gateway. Open to all.
#[utoipa::path(
    get,
    path = "/api/v1/plans",
    operation_id = "list_plans",
    tag = "organizations",
    security(()),
    responses((status = 200, description = "All plans", body = List<Shown>))
)]
async fn catalog(State(app): State<Arc<App>>) -> Response {
    let plans = app.plans.iter();
    let plans = plans.map(|plan| show(plan, app.plans.default_name()));
    json_response(StatusCode::OK, &List::new(plans.collect(), None))
}

/// An organization, as who runs the gateway sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminOrganization)]
struct OrgShown {
    id: String,
    name: String,
    plan: String,
    contact_email: String,
    members: usize,
    workflows: usize,
    api_keys: usize,
    created_at: String,
}

fn show_org(directory: &Directory, org: &OrgEntry) -> OrgShown {
    OrgShown {
        id: org.id.to_string(),
        name: org.name.to_string(),
        plan: org.plan.to_string(),
        contact_email: org.contact_email.to_string(),
        members: org.members.len(),
        workflows: org.workflows.len(),
        api_keys: engine::usage::api_keys(directory, org),
        created_at: clock::rfc3339(org.created_at),
    }
}

/// What a list of organizations is narrowed to.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Filter {
    /// Only those whose name holds this text, in any case.
    #[param(max_length = 100)]
    search: Option<String>,
    /// Only those that have this plan.
    plan: Option<String>,
}

/// List all organizations of this gateway, oldest first, with their plans.
#[utoipa::path(
    get,
    path = "/api/v1/admin/orgs",
    operation_id = "list_all_organizations",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    params(Filter, PageQuery),
    responses(
        (status = 200, description = "Organizations", body = List<OrgShown>),
        QueryErrors, AdminErrors
    )
)]
async fn orgs(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    admit(&app, request).await?;
    let page = Page::parse(query.as_deref(), &["search", "plan"])?;
    let search = page.search()?;
    let plan = page.filter("plan");
    let directory = app.directory();
    let wanted = |org: &&Arc<OrgEntry>| {
        plan.is_none_or(|plan| *org.plan == *plan)
            && search
                .as_ref()
                .is_none_or(|text| org.name.to_lowercase().contains(text))
    };
    let mut found: Vec<_> = directory.orgs().filter(wanted).collect();
    found.sort_unstable_by_key(|org| (org.created_at, org.id));
    let (ids, next) = page.of::<OrgId>(found.iter().map(|org| org.id))?;
    let shown = ids.iter().filter_map(|id| directory.org(*id));
    let shown = shown.map(|org| show_org(&directory, org)).collect();
    Ok(json_response(StatusCode::OK, &List::new(shown, next)))
}

/// What changes in an organization.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminOrganizationPatch)]
struct Patch {
    /// The name of a plan of `GET /api/v1/plans`.
    #[schema(example = "growth")]
    plan: String,
}

/// Give an organization another plan. Nothing it has is taken away: what is beyond the new limits stays,
/// and only more is refused.
#[utoipa::path(
    patch,
    path = "/api/v1/admin/orgs/{org_id}",
    operation_id = "set_plan",
    tag = "admin",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Patch,
    responses(
        (status = 200, description = "The organization as it is now", body = OrgShown),
        BodyErrors, AdminErrors, BusyError, NotFoundError
    )
)]
async fn patch_org(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let (received, actor) = admit(&app, request).await?;
    let org = id(&org, "organization")?;
    let body: Patch = received.json()?;
    let patch = Manage::PatchOrg {
        org,
        actor,
        patch: OrgPatch {
            plan: Some(body.plan),
            ..OrgPatch::default()
        },
    };
    match *done(&app, patch).await? {
        Managed::Org(org) => Ok(json_response(
            StatusCode::OK,
            &show_org(&app.directory(), &org),
        )),
        _ => Err(ApiError::not_found("organization")),
    }
}
