//! `/orgs/{org_id}/status` and `/orgs/{org_id}/quota`: what an org has used of what it may, from the
//! very figures that calls are decided with.

use super::caps::{Span, percent};
use super::workflows::StateName;
use super::{List, Page, admit, unexpected};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{BusyError, OrgErrors, OrgPath, PageQuery, QueryErrors};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use engine::command::{Command, KeyView, OrgSums, Outcome, WorkflowView};
use engine::directory::OrgEntry;
use engine::period::Period;
use engine::usage;
use http::StatusCode;
use persist::record::Role;
use persist::{KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(quota))
        .routes(routes!(usage_alias))
}

/// A limit of the plan, and how much of it is used.
#[derive(Debug, Serialize, ToSchema)]
struct PlanCap {
    /// Null where it is not measured.
    used: Option<u64>,
    /// Null for none.
    limit: Option<u64>,
    percent: Option<u64>,
}

impl PlanCap {
    fn of(used: u64, limit: Option<u64>) -> Self {
        Self {
            used: Some(used),
            limit,
            percent: limit.map(|limit| percent(used, limit)),
        }
    }

    fn count(used: usize, limit: Option<u32>) -> Self {
        Self::of(used as u64, limit.map(u64::from))
    }
}

/// Every limit of the plan.
#[derive(Debug, Serialize, ToSchema)]
struct PlanCaps {
    workflows: PlanCap,
    policies: PlanCap,
    /// Keys that are not revoked.
    api_keys: PlanCap,
    /// Members and open invitations.
    seats: PlanCap,
    /// Calls allowed in this calendar month, UTC; one operation counts once.
    executions: PlanCap,
    /// Calls in this second; counted where the plan limits them.
    requests_per_second: PlanCap,
    /// Shown only.
    tokens_per_hour: PlanCap,
    approval_rules: PlanCap,
}

impl PlanCaps {
    fn of(app: &App, org: &OrgEntry, sums: &OrgSums) -> Self {
        let limits = &app.plans.of(&org.plan).limits;
        let directory = app.directory();
        let in_second = limits.requests_per_second;
        Self {
            workflows: PlanCap::count(org.workflows.len(), limits.workflows),
            policies: PlanCap::count(org.rules.all().len(), limits.policies),
            api_keys: PlanCap::count(usage::api_keys(&directory, org), limits.api_keys),
            seats: PlanCap::count(usage::seats(&directory, org, sums.now), limits.seats),
            executions: PlanCap::of(sums.executions, limits.executions_per_month),
            requests_per_second: PlanCap {
                used: in_second.map(|_| u64::from(sums.in_second)),
                ..PlanCap::count(sums.in_second as usize, in_second)
            },
            tokens_per_hour: PlanCap {
                used: None,
                limit: limits.tokens_per_hour,
                percent: None,
            },
            approval_rules: PlanCap::count(usage::approval_rules(org), limits.approval_rules),
        }
    }
}

/// A workflow's state and money.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowStatus {
    workflow_id: String,
    name: String,
    state: StateName,
    /// Grows with each change of state.
    version: u64,
    /// Why it is in that state.
    reason: Option<String>,
    /// When it came to that state, in Unix seconds.
    updated_at: u64,
    budget_cents: Option<i64>,
    spent_nanos: i64,
    held_nanos: i64,
    /// What its own cap leaves; negative in debt, null without a cap.
    remaining_nanos: Option<i64>,
    /// Booked in the period of its cap, half up.
    current_spend_cents: i64,
}

fn of_workflow(view: &WorkflowView) -> WorkflowStatus {
    WorkflowStatus {
        workflow_id: view.entry.id.to_string(),
        name: view.entry.name.to_string(),
        state: StateName::of(view.state),
        version: view.version,
        reason: view.reason.clone(),
        updated_at: view.state_since.secs(),
        budget_cents: view.entry.budget().map(Nanos::cents_down),
        spent_nanos: view.sums.spent.0,
        held_nanos: view.sums.held.0,
        remaining_nanos: view.remaining().map(|n| n.0),
        current_spend_cents: view.sums.spent.cents_half_up(),
    }
}

/// Spend, budget, rate, plan and workflows of an organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrganizationStatus)]
struct Status {
    organization_id: String,
    /// Everything up to this record of the log is in it.
    as_of_lsn: u64,
    /// The period of the budget.
    period: Span,
    /// Booked in this period, half up.
    #[schema(example = 2340)]
    current_spend_cents: i64,
    /// Held for calls in flight, rounded up.
    held_cents: i64,
    /// The cap that leaves least, of the organization's own and those that its policies set for all
    /// calls; null without one.
    #[schema(example = 5000)]
    budget_cents: Option<i64>,
    /// The policy that sets it; null if it is the organization's own.
    budget_policy_id: Option<String>,
    /// Rounded down; negative in debt.
    remaining_cents: Option<i64>,
    spent_nanos: i64,
    held_nanos: i64,
    remaining_nanos: Option<i64>,
    in_debt: bool,
    lifetime_spent_nanos: i64,
    /// Seconds until the budget is used up, at the rate of what was booked in the last ten minutes, or
    /// since the first charge if that is less long ago; null without a budget or without spend.
    #[schema(example = 86400)]
    time_to_exhaustion_secs: Option<u64>,
    /// The same again, as some clients read it.
    time_to_exhaustion: Option<u64>,
    /// That rate.
    burn_cents_per_hour: i64,
    /// Calls in the last 60 seconds; counted where a policy limits them for the whole organization.
    #[schema(example = 12)]
    rate_used: u32,
    #[schema(example = 60)]
    rate_limit_per_min: Option<u32>,
    #[schema(example = "growth")]
    plan: String,
    plan_caps: PlanCaps,
    /// A page of its workflows, oldest first.
    workflows: Vec<WorkflowStatus>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

/// Workflows that one status shows, if nobody says how many.
const WORKFLOWS: usize = 200;

async fn sums(app: &App, org: OrgId) -> ApiResult<(Box<OrgSums>, Lsn)> {
    let reply = app.call(Command::ReadSums { org }).await?;
    let as_of = reply.as_of;
    match reply.outcome {
        Outcome::Sums(sums) => Ok((sums, as_of)),
        _ => Err(unexpected(&reply)),
    }
}

fn entry(app: &App, org: OrgId) -> ApiResult<Arc<OrgEntry>> {
    let directory = app.directory();
    let entry = directory.org(org).cloned();
    entry.ok_or_else(|| ApiError::not_found("organization"))
}

/// Get spend, budget, time to exhaustion, rate, plan and the states of workflows in one call. An API
/// key may read its own organization. The figures are those that calls are decided with, held money
/// included. Workflows come in pages.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/status",
    operation_id = "get_status",
    tag = "organizations",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, PageQuery),
    responses(
        (status = 200, description = "The status", body = Status),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn status(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let org = admit(&app, &org, request, Role::Viewer, Keys::MayRead)
        .await?
        .org;
    let page = Page::parse(query.as_deref(), &[])?.or_so_many(WORKFLOWS);
    let (sums, as_of) = sums(&app, org).await?;
    let entry = entry(&app, org)?;
    let (ids, next_cursor) = page.of::<WorkflowId>(entry.workflows.iter().copied())?;
    let views = app.workflows(org, ids).await?;
    let remaining = sums.remaining();
    let exhausted = sums.exhausted_in_secs();
    let body = Status {
        organization_id: org.to_string(),
        as_of_lsn: as_of.0,
        period: Span::of(&sums.period),
        current_spend_cents: sums.sums.spent.cents_half_up(),
        held_cents: sums.sums.held.cents_up(),
        budget_cents: sums.budget.map(Nanos::cents_down),
        budget_policy_id: sums.policy.as_ref().map(|policy| policy.id.to_string()),
        remaining_cents: remaining.map(Nanos::cents_down),
        spent_nanos: sums.sums.spent.0,
        held_nanos: sums.sums.held.0,
        remaining_nanos: remaining.map(|n| n.0),
        in_debt: remaining.is_some_and(|n| n.0 < 0),
        lifetime_spent_nanos: sums.lifetime.0,
        time_to_exhaustion_secs: exhausted,
        time_to_exhaustion: exhausted,
        burn_cents_per_hour: sums.burn_per_hour().cents_half_up(),
        rate_used: sums.rate_used,
        rate_limit_per_min: sums.rate_limit,
        plan: entry.plan.to_string(),
        plan_caps: PlanCaps::of(&app, &entry, &sums),
        workflows: views.iter().map(of_workflow).collect(),
        next_cursor,
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// A key with what it used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyUsage)]
struct KeyUsage {
    api_key_id: String,
    name: String,
    key_prefix: String,
    workflow_id: Option<String>,
    revoked: bool,
    /// The period of its cap.
    period: Span,
    spent_nanos: i64,
    held_nanos: i64,
    spent_cents: i64,
    budget_cents: Option<i64>,
    remaining_nanos: Option<i64>,
    remaining_cents: Option<i64>,
    /// How much of its cap is spent or held.
    percent: Option<u64>,
    lifetime_spent_nanos: i64,
    /// Calls allowed in this calendar month, UTC.
    executions: u64,
    last_used_at: Option<String>,
}

fn of_key(view: &KeyView) -> KeyUsage {
    let (entry, sums) = (&view.entry, view.sums);
    let remaining = view.remaining();
    KeyUsage {
        api_key_id: entry.id.to_string(),
        name: entry.name.to_string(),
        key_prefix: entry.prefix.to_string(),
        workflow_id: entry.workflow.map(|id| id.to_string()),
        revoked: entry.revoked_at.is_some(),
        period: Span::of(&view.period),
        spent_nanos: sums.spent.0,
        held_nanos: sums.held.0,
        spent_cents: sums.spent.cents_half_up(),
        budget_cents: entry.budget.map(Nanos::cents_down),
        remaining_nanos: remaining.map(|n| n.0),
        remaining_cents: remaining.map(Nanos::cents_down),
        percent: entry.budget.map(|cap| of_money(sums.taken(), cap)),
        lifetime_spent_nanos: view.lifetime.0,
        executions: view.executions,
        last_used_at: entry.last_used().map(clock::rfc3339),
    }
}

fn of_money(taken: Nanos, cap: Nanos) -> u64 {
    percent(taken.0.max(0).unsigned_abs(), cap.0.max(0).unsigned_abs())
}

/// How far a budget is used.
#[derive(Debug, Serialize, ToSchema)]
struct BudgetUsage {
    period: Span,
    budget_cents: Option<i64>,
    spent_nanos: i64,
    held_nanos: i64,
    remaining_nanos: Option<i64>,
    spent_cents: i64,
    percent: Option<u64>,
}

/// What executions are counted over.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ExecutionsPeriodKind {
    /// A civil month in UTC.
    CalendarMonth,
}

/// What an organization and its keys used of what they may.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrganizationQuota)]
struct Quota {
    organization_id: String,
    as_of_lsn: u64,
    #[schema(example = "growth")]
    plan: String,
    plan_title: String,
    caps: PlanCaps,
    executions_period_kind: ExecutionsPeriodKind,
    executions_period: Span,
    budget: BudgetUsage,
    /// Executions or budget will be used up before their period ends, if it goes on as it did since it
    /// began; or nine tenths of one are used.
    at_risk: bool,
    /// Whole days until the first of them is used up, at that pace; null if none will be.
    projected_hit_in_days: Option<u64>,
    /// A page of its keys, oldest first.
    keys: List<KeyUsage>,
}

/// From this percentage on, a limit is at risk whatever the pace is.
const AT_RISK_PERCENT: u64 = 90;
const DAY_MILLIS: u128 = 24 * 3_600_000;

/// What the pace since the period began says of a limit: is it at risk, and the days until it is
/// reached.
fn projection(used: u64, limit: Option<u64>, period: &Period, now: Millis) -> (bool, Option<u64>) {
    let Some(limit) = limit else {
        return (false, None);
    };
    // A lifetime has no pace: it began at no time.
    let Some(end) = period.end() else {
        return (percent(used, limit) >= AT_RISK_PERCENT, None);
    };
    let elapsed = u128::from(now.since(period.start()).max(1));
    let left = u128::from(limit.saturating_sub(used));
    let millis = (left * elapsed).checked_div(u128::from(used));
    let hit = millis.map(|millis| u64::try_from(millis / DAY_MILLIS).unwrap_or(u64::MAX));
    let in_period = millis.is_some_and(|millis| millis < u128::from(end.since(now)));
    (in_period || percent(used, limit) >= AT_RISK_PERCENT, hit)
}

/// Get what the organization used of every limit of its plan, how its budget goes, and what each key
/// used. An API key may read its own organization.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/quota",
    operation_id = "get_quota",
    tag = "organizations",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, PageQuery),
    responses(
        (status = 200, description = "What is used", body = Quota),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn quota(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    shown_quota(&app, &org, request).await
}

/// The same as `GET /api/v1/orgs/{org_id}/quota`.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/usage",
    operation_id = "get_usage",
    tag = "organizations",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, PageQuery),
    responses(
        (status = 200, description = "What is used", body = Quota),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn usage_alias(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    shown_quota(&app, &org, request).await
}

async fn shown_quota(app: &App, org: &str, request: Request) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let org = admit(app, org, request, Role::Viewer, Keys::MayRead)
        .await?
        .org;
    let page = Page::parse(query.as_deref(), &[])?;
    let (sums, as_of) = sums(app, org).await?;
    let entry = entry(app, org)?;
    let (ids, next_cursor) = page.of::<KeyId>(entry.keys.iter().copied())?;
    let keys = app.keys(org, ids).await?;
    let plan = app.plans.of(&entry.plan);
    let (taken, cap) = (sums.sums.taken().0.max(0), sums.budget.map(|cap| cap.0));
    let projections = [
        projection(
            sums.executions,
            plan.limits.executions_per_month,
            &sums.month,
            sums.now,
        ),
        projection(
            taken.unsigned_abs(),
            cap.map(|cap| cap.max(0).unsigned_abs()),
            &sums.period,
            sums.now,
        ),
    ];
    let body = Quota {
        organization_id: org.to_string(),
        as_of_lsn: as_of.0,
        plan: entry.plan.to_string(),
        plan_title: plan.title.clone(),
        caps: PlanCaps::of(app, &entry, &sums),
        executions_period_kind: ExecutionsPeriodKind::CalendarMonth,
        executions_period: Span::of(&sums.month),
        budget: BudgetUsage {
            period: Span::of(&sums.period),
            budget_cents: sums.budget.map(Nanos::cents_down),
            spent_nanos: sums.sums.spent.0,
            held_nanos: sums.sums.held.0,
            remaining_nanos: sums.remaining().map(|n| n.0),
            spent_cents: sums.sums.spent.cents_half_up(),
            percent: sums.budget.map(|cap| of_money(sums.sums.taken(), cap)),
        },
        at_risk: projections.iter().any(|(at_risk, _)| *at_risk),
        projected_hit_in_days: projections.iter().filter_map(|(_, days)| *days).min(),
        keys: List::new(keys.iter().map(of_key).collect(), next_cursor),
    };
    Ok(json_response(StatusCode::OK, &body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::period::Period;
    use persist::Day;
    use persist::record::PeriodKind;

    #[test]
    fn a_limit_is_at_risk_if_the_pace_of_its_period_reaches_it_before_the_end() {
        // 2026-06-11, ten days into June.
        let today = Day(20_615);
        let now = today.start();
        let month = Period::around(PeriodKind::Month, today);
        assert_eq!(projection(100, Some(400), &month, now), (false, Some(30)));
        assert_eq!(projection(100, Some(299), &month, now), (true, Some(19)));
        assert_eq!(projection(0, Some(10), &month, now), (false, None));
        assert_eq!(projection(10, Some(10), &month, now), (true, Some(0)));
        assert_eq!(projection(5, None, &month, now), (false, None));
        let ever = Period::around(PeriodKind::Lifetime, today);
        assert_eq!(projection(90, Some(100), &ever, now), (true, None));
        assert_eq!(projection(89, Some(100), &ever, now), (false, None));
    }
}
