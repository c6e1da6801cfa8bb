//! What the policies and caps come to for the calls of a workflow.

use super::look::{self, Asked, Named};
use super::words::{CompositionName, ScopeName};
use super::{Admitted, admit, id, unexpected};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::manage::Page;
use crate::manage::caps::PeriodName;
use crate::openapi::{BusyError, OrgErrors, OrgPath, QueryErrors};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use engine::command::{Command, Outcome};
use engine::directory::{Directory, WorkflowEntry};
use engine::evaluate::{Effective, InForce};
use engine::rules::Compiled;
use http::StatusCode;
use persist::record::{Arithmetic, Role};
use persist::{KeyId, Nanos, OrgId, WorkflowId};
use serde::Serialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(effective))
}

/// Whose calls.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Whose {
    /// The workflow; that of the key if absent.
    workflow_id: Option<uuid::Uuid>,
    /// The API key; without one, no policy of a key is looked at.
    api_key_id: Option<uuid::Uuid>,
}

/// What holds for the calls of a workflow.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PoliciesEffective)]
struct Shown {
    organization_id: String,
    workflow_id: String,
    api_key_id: Option<String>,
    composition: CompositionName,
    /// In the order they are asked.
    questions: Vec<Asked>,
    /// What every call is held against; conditions of policies may add to it.
    limits: Limits,
}

/// What calls are held against.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyLimits)]
pub struct Limits {
    rates: Vec<Rate>,
    loops: Vec<Loop>,
    budgets: Vec<Budget>,
    /// Cap on one call.
    max_per_call_cents: Option<i64>,
    /// Cap on one chain of calls.
    chain_max_cents: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RateInForce)]
struct Rate {
    scope: ScopeName,
    max_calls_per_minute: u32,
    /// Calls of the minute before.
    used: u32,
    /// Null for the key's own rate.
    policy: Option<Named>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LoopInForce)]
struct Loop {
    scope: ScopeName,
    loop_threshold: u32,
    loop_window_secs: u32,
    /// It marks the workflow and stops nothing.
    flags: bool,
    /// Null for the workflow's own setting.
    policy: Option<Named>,
}

/// A cap, and what is taken from it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BudgetInForce)]
pub struct Budget {
    scope: ScopeName,
    budget_period: PeriodName,
    budget_cents: i64,
    /// Booked in this period.
    spent_cents: i64,
    /// Held for calls in flight.
    held_cents: i64,
    /// What it leaves, rounded down; negative in debt.
    remaining_cents: i64,
    remaining_nanos: i64,
    /// Null for a cap that the organization, workflow or key has itself.
    policy: Option<Named>,
}

impl Budget {
    /// On the wire.
    pub fn of(figures: &Arithmetic, policy: Option<Named>) -> Self {
        let left = figures.cap + figures.overdraft - figures.spent - figures.held;
        Self {
            scope: ScopeName::of(figures.scope),
            budget_period: PeriodName::of(figures.period),
            budget_cents: figures.cap.cents_down(),
            spent_cents: figures.spent.cents_half_up(),
            held_cents: figures.held.cents_up(),
            remaining_cents: left.cents_down(),
            remaining_nanos: left.0,
            policy,
        }
    }
}

/// The workflow and key of a question: the key's workflow if none is named.
pub fn whose(
    directory: &Directory,
    org: OrgId,
    workflow: Option<&str>,
    key: Option<&str>,
) -> ApiResult<(WorkflowId, Option<KeyId>)> {
    let key = key.map(|text| {
        let id = id::<KeyId>(text, "key")?;
        let known = directory.key(id).filter(|key| key.org == org);
        known.cloned().ok_or_else(|| ApiError::not_found("key"))
    });
    let key = key.transpose()?;
    let bound = key.as_ref().and_then(|key| key.workflow);
    let named = workflow.map(|text| id::<WorkflowId>(text, "workflow"));
    let named = named.transpose()?;
    if let (Some(bound), Some(named)) = (bound, named)
        && bound != named
    {
        return Err(ApiError::field(
            "workflow_id",
            "this API key is bound to another workflow; leave workflow_id out",
        ));
    }
    let workflow = named.or(bound).ok_or_else(|| {
        ApiError::field(
            "workflow_id",
            "name a workflow in workflow_id, or a key that is bound to one in api_key_id",
        )
    })?;
    directory
        .workflow(org, workflow)
        .ok_or_else(|| ApiError::not_found("workflow"))?;
    Ok((workflow, key.map(|key| key.id)))
}

fn show(org: OrgId, key: Option<KeyId>, effective: &Effective) -> Shown {
    let workflow = &effective.workflow;
    Shown {
        organization_id: org.to_string(),
        workflow_id: workflow.id.to_string(),
        api_key_id: key.map(|key| key.to_string()),
        composition: CompositionName::of(effective.composition),
        questions: look::show(&effective.looked, false),
        limits: held_against(&effective.limits, workflow, false),
    }
}

/// Limits on the wire, with the workflow's own on single calls and chains.
pub fn held_against(limits: &InForce, workflow: &WorkflowEntry, is_draft: bool) -> Limits {
    let named = |policy: &Option<Arc<Compiled>>| policy.as_ref().map(|p| Named::of(p, is_draft));
    let rates = limits.rates.iter().map(|rate| Rate {
        scope: ScopeName::of(rate.scope),
        max_calls_per_minute: rate.limit,
        used: rate.used,
        policy: named(&rate.policy),
    });
    let loops = limits.loops.iter().map(|rule| Loop {
        scope: ScopeName::of(rule.scope),
        loop_threshold: rule.threshold,
        loop_window_secs: rule.secs,
        flags: rule.flags,
        policy: named(&rule.policy),
    });
    let budgets = limits.caps.iter();
    let budgets = budgets.map(|(figures, policy)| Budget::of(figures, named(policy)));
    Limits {
        rates: rates.collect(),
        loops: loops.collect(),
        budgets: budgets.collect(),
        max_per_call_cents: workflow.rare().max_per_call.map(Nanos::cents_down),
        chain_max_cents: workflow.rare().chain_cap.map(Nanos::cents_down),
    }
}

/// Show which policies and caps hold for the calls of a workflow and key: in the order they are
/// asked, which of them wins, and the figures they come to.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/policies/effective",
    operation_id = "get_effective_policies",
    tag = "policies",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, Whose),
    responses(
        (status = 200, description = "What holds", body = Shown),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn effective(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let given = Page::parse(query.as_deref(), &["workflow_id", "api_key_id"])?;
    let (workflow, key) = whose(
        &app.directory(),
        org,
        given.filter("workflow_id"),
        given.filter("api_key_id"),
    )?;
    let read = Command::ReadEffective { org, workflow, key };
    let reply = app.call(read).await?;
    match &reply.outcome {
        Outcome::Effective(effective) => {
            Ok(json_response(StatusCode::OK, &show(org, key, effective)))
        }
        _ => Err(unexpected(&reply)),
    }
}
