//! `/orgs/{org_id}/workflows`: the resource, its budget, pause, resume and kill.

use super::caps::{ModeName, PeriodName, Span};
use super::{Admitted, List, Page, admit, cents, done, id, nullable, unexpected};
use crate::app::{App, refused};
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, ConflictError, LimitError, OrgErrors, OrgPath, PageQuery, PathError,
    QueryErrors, StateError, WorkflowPath,
};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash, text};
use axum::extract::{Path, Request, State as Shared};
use engine::command::{Command, Outcome, Transition, WorkflowView};
use engine::limits;
use engine::manage::{
    Manage, Managed, OverdraftPatch, WatchPatch, WorkflowPatch, WorkflowSettings,
};
use http::StatusCode;
use persist::record::{Actor, Role, State};
use persist::{Nanos, OrgId, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, create))
        .routes(routes!(get, patch))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(kill))
}

/// A workflow to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkflowCreate)]
struct Create {
    #[schema(
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "nightly research"
    )]
    name: String,
    /// Your own id for it; agents may name the workflow by it.
    #[schema(
        max_length = 64,
        pattern = "^[A-Za-z0-9_-]+$",
        example = "nightly-research"
    )]
    external_id: Option<String>,
    #[schema(max_length = 2000, pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
    description: Option<String>,
    /// Cap in a period; null for none, 0 lets nothing be spent.
    #[schema(minimum = 0, maximum = 900000000000_i64, example = 500)]
    budget_cents: Option<i64>,
    budget_period: Option<PeriodName>,
    enforcement_mode: Option<ModeName>,
    /// How far calls in a chain may go beyond a soft cap.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    max_overdraft_cents: Option<i64>,
    /// The same in percent of the cap; the lesser of the two holds.
    #[schema(maximum = 1000)]
    max_overdraft_percent: Option<u32>,
    /// Cap on one call's hold.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    max_per_call_cents: Option<i64>,
    /// Cap on one chain of calls.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    chain_max_cents: Option<i64>,
    /// The longest a chain may last.
    #[schema(minimum = 1, maximum = 604800)]
    max_chain_duration_seconds: Option<u32>,
    /// Stops the workflow when one tool is called so often within `loop_window_secs`.
    #[schema(minimum = 2, maximum = 1000)]
    loop_threshold: Option<u32>,
    /// 60 if only the threshold is given.
    #[schema(minimum = 1, maximum = 3600)]
    loop_window_secs: Option<u32>,
    /// May its calls wait for a person's approval? They are refused otherwise. Without a word, they
    /// may if the plan has approvals.
    human_approvals_enabled: Option<bool>,
}

/// What changes in a workflow; what is absent stays, null takes it off.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkflowPatch)]
struct Patch {
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    external_id: Option<Option<String>>,
    #[schema(max_length = 2000, pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
    description: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64, example = 500)]
    budget_cents: Option<Option<i64>>,
    budget_period: Option<PeriodName>,
    enforcement_mode: Option<ModeName>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64)]
    max_overdraft_cents: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u32>, maximum = 1000)]
    max_overdraft_percent: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64)]
    max_per_call_cents: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64)]
    chain_max_cents: Option<Option<i64>>,
    #[schema(minimum = 1, maximum = 604800)]
    max_chain_duration_seconds: Option<u32>,
    /// Null ends the watching.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<u32>, minimum = 2, maximum = 1000)]
    loop_threshold: Option<Option<u32>>,
    #[schema(minimum = 1, maximum = 3600)]
    loop_window_secs: Option<u32>,
    human_approvals_enabled: Option<bool>,
}

/// Why a workflow's state is changed.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StateReason)]
struct Reason {
    /// For people, and for the agents that are stopped.
    #[schema(
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "spends too fast"
    )]
    reason: Option<String>,
}

/// A workflow with its money.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Workflow)]
pub struct Shown {
    id: String,
    organization_id: String,
    name: String,
    external_id: Option<String>,
    description: String,
    state: StateName,
    /// Grows with each change of state.
    version: u64,
    /// Why it is in that state.
    reason: Option<String>,
    /// When it came to that state; null if it never changed.
    state_since: Option<String>,
    /// Who brought it there; null if it never changed.
    state_changed_by: Option<ActorShown>,
    budget_cents: Option<i64>,
    budget_period: PeriodName,
    enforcement_mode: ModeName,
    max_overdraft_cents: Option<i64>,
    max_overdraft_percent: Option<u32>,
    max_per_call_cents: Option<i64>,
    chain_max_cents: Option<i64>,
    max_chain_duration_seconds: u32,
    loop_threshold: Option<u32>,
    loop_window_secs: Option<u32>,
    human_approvals_enabled: bool,
    /// Booked in this period, in nano-dollars.
    spent_nanos: i64,
    /// Held for calls in flight, in nano-dollars.
    held_nanos: i64,
    lifetime_spent_nanos: i64,
    open_holds: u64,
    /// What the cap leaves; negative in debt, null without a cap.
    remaining_nanos: Option<i64>,
    /// Half up.
    spent_cents: i64,
    /// Rounded up.
    held_cents: i64,
    /// Rounded down.
    remaining_cents: Option<i64>,
    in_debt: bool,
    period: Span,
    created_at: String,
    updated_at: String,
}

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Actor)]
struct ActorShown {
    #[serde(rename = "type")]
    kind: ActorKind,
    /// Null for the gateway itself.
    id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ActorType)]
enum ActorKind {
    /// The gateway itself: a detector.
    System,
    /// A person.
    User,
    /// An API key.
    ApiKey,
}

impl ActorShown {
    fn of(actor: Actor) -> Self {
        let (kind, id) = match actor {
            Actor::System => (ActorKind::System, None),
            Actor::User(user) => (ActorKind::User, Some(user.to_string())),
            Actor::Key(key) => (ActorKind::ApiKey, Some(key.to_string())),
        };
        Self { kind, id }
    }
}

/// States of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkflowState)]
pub enum StateName {
    /// Calls may run.
    Normal,
    /// Marked for attention; calls may run.
    Flagged,
    /// Stopped by a detector; resume leaves it.
    Tripped,
    /// Stopped by an operator; resume leaves it.
    Paused,
    /// Stopped for ever.
    Killed,
}

impl StateName {
    /// On the wire.
    #[must_use]
    pub const fn of(state: State) -> Self {
        match state {
            State::Normal => Self::Normal,
            State::Flagged => Self::Flagged,
            State::Tripped => Self::Tripped,
            State::Paused => Self::Paused,
            State::Killed => Self::Killed,
        }
    }
}

/// A workflow on the wire.
#[must_use]
pub fn show(view: &WorkflowView) -> Shown {
    let entry = &view.entry;
    let remaining = view.remaining();
    let overdraft = entry.rare().overdraft;
    Shown {
        id: entry.id.to_string(),
        organization_id: entry.org.to_string(),
        name: entry.name.to_string(),
        external_id: entry.rare().external_id.as_deref().map(str::to_owned),
        description: entry
            .rare()
            .description
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        state: StateName::of(view.state),
        version: view.version,
        reason: view.reason.clone(),
        state_since: view.state_by.map(|_| clock::rfc3339(view.state_since)),
        state_changed_by: view.state_by.map(ActorShown::of),
        budget_cents: entry.budget().map(Nanos::cents_down),
        budget_period: PeriodName::of(entry.period),
        enforcement_mode: ModeName::of(overdraft),
        max_overdraft_cents: overdraft.and_then(|o| o.amount).map(Nanos::cents_down),
        max_overdraft_percent: overdraft.and_then(|o| o.percent),
        max_per_call_cents: entry.rare().max_per_call.map(Nanos::cents_down),
        chain_max_cents: entry.rare().chain_cap.map(Nanos::cents_down),
        max_chain_duration_seconds: entry.rare().chain_secs,
        loop_threshold: entry.rare().watch.map(|watch| watch.threshold),
        loop_window_secs: entry.rare().watch.map(|watch| watch.window_secs),
        human_approvals_enabled: entry.rare().approvals,
        spent_nanos: view.sums.spent.0,
        held_nanos: view.sums.held.0,
        lifetime_spent_nanos: view.lifetime.0,
        open_holds: view.open_holds,
        remaining_nanos: remaining.map(|n| n.0),
        spent_cents: view.sums.spent.cents_half_up(),
        held_cents: view.sums.held.cents_up(),
        remaining_cents: remaining.map(Nanos::cents_down),
        in_debt: remaining.is_some_and(|n| n.0 < 0),
        period: Span::of(&view.period),
        created_at: clock::rfc3339(entry.created_at),
        updated_at: clock::rfc3339(entry.updated_at().max(view.state_since)),
    }
}

/// What a request says of how hard a cap is.
fn overdraft(
    mode: Option<ModeName>,
    most: Option<Option<i64>>,
    percent: Option<Option<u32>>,
) -> OverdraftPatch {
    OverdraftPatch {
        soft: mode.map(|mode| mode == ModeName::Soft),
        amount: most.map(cents),
        percent,
    }
}

async fn shown(app: &App, status: StatusCode, command: Command) -> ApiResult {
    let reply = app.call(command).await?;
    match &reply.outcome {
        Outcome::Workflow(view) => Ok(json_response(status, &show(view))),
        _ => Err(unexpected(&reply)),
    }
}

/// Makes a change and shows the workflow after it: the change is the directory's, the money its
/// shard's.
async fn changed(app: &App, status: StatusCode, change: Manage) -> ApiResult {
    let org = match &change {
        Manage::CreateWorkflow { org, .. } | Manage::PatchWorkflow { org, .. } => *org,
        _ => return Err(ApiError::not_found("workflow")),
    };
    match *done(app, change).await? {
        Managed::Workflow(workflow) => {
            shown(app, status, Command::ReadWorkflow { org, workflow }).await
        }
        _ => Err(ApiError::not_found("workflow")),
    }
}

/// Make a workflow.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/workflows",
    operation_id = "create_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Create,
    responses(
        (status = 201, description = "Made", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError, LimitError
    )
)]
async fn create(
    Shared(app): Shared<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    let overdraft = overdraft(
        body.enforcement_mode,
        Some(body.max_overdraft_cents),
        Some(body.max_overdraft_percent),
    );
    let watch = WatchPatch {
        threshold: body.loop_threshold.map(Some),
        window_secs: body.loop_window_secs,
    };
    let create = Manage::CreateWorkflow {
        org: admitted.org,
        actor: admitted.actor(),
        id: WorkflowId(hash::new_id(clock::now())),
        settings: WorkflowSettings {
            external_id: body.external_id,
            budget: cents(body.budget_cents),
            period: body
                .budget_period
                .map_or_else(Default::default, PeriodName::kind),
            overdraft: overdraft.of(None).map_err(refused)?,
            max_per_call: cents(body.max_per_call_cents),
            chain_cap: cents(body.chain_max_cents),
            chain_secs: body
                .max_chain_duration_seconds
                .unwrap_or(limits::CHAIN_SECS),
            description: body.description.unwrap_or_default(),
            watch: watch.of(None).map_err(refused)?,
            approvals: body.human_approvals_enabled,
            ..WorkflowSettings::named(body.name)
        },
    };
    changed(&app, StatusCode::CREATED, create).await
}

/// What a list of workflows is narrowed to.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Filter {
    /// Only those in this state.
    state: Option<StateName>,
    /// Only those whose name, `external_id` or id holds this text, in any case.
    #[param(max_length = 100)]
    search: Option<String>,
}

/// Workflows looked at for one page of a narrowed list: a page may be short, and have a next one all
/// the same.
const LOOKED_AT: usize = 10_000;
/// Workflows asked for at a time.
const AT_ONCE: usize = 200;

/// List workflows, oldest first. A page of a narrowed list may be short: go on while there is a
/// `next_cursor`.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/workflows",
    operation_id = "list_workflows",
    tag = "workflows",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(OrgPath, Filter, PageQuery),
    responses(
        (status = 200, description = "Workflows", body = List<Shown>),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn index(
    Shared(app): Shared<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let page = Page::parse(query.as_deref(), &["state", "search"])?;
    let state = page.filter("state").map(state_name).transpose()?;
    let search = page.search()?;
    let mut shown = Vec::new();
    let mut next = page.cursor::<WorkflowId>()?;
    let mut looked_at = 0;
    loop {
        let (ids, last, more) = candidates(&app, org, next, search.as_deref())?;
        looked_at += AT_ONCE;
        for view in app.workflows(org, ids).await? {
            if shown.len() == page.limit() {
                break;
            }
            next = Some(view.entry.id);
            if state.is_none_or(|state| StateName::of(view.state) == state) {
                shown.push(show(&view));
            }
        }
        if shown.len() < page.limit() {
            next = last.or(next);
        }
        let full = shown.len() == page.limit();
        if full || !more || looked_at >= LOOKED_AT {
            let goes_on = more || follows(&app, org, next);
            let next = next.filter(|_| goes_on).map(|id| id.to_string());
            return Ok(json_response(StatusCode::OK, &List::new(shown, next)));
        }
    }
}

fn state_name(text: &str) -> ApiResult<StateName> {
    serde_json::from_value(text.into()).map_err(|_| {
        ApiError::field(
            "state",
            "state is Normal, Flagged, Tripped, Paused or Killed",
        )
    })
}

/// The next workflows behind one that a search lets through; the last one looked at, and whether
/// there are more.
fn candidates(
    app: &App,
    org: OrgId,
    after: Option<WorkflowId>,
    search: Option<&str>,
) -> ApiResult<(Vec<WorkflowId>, Option<WorkflowId>, bool)> {
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let mut behind = entry.workflows.iter().copied().peekable();
    if let Some(after) = after
        && !behind.any(|id| id == after)
    {
        return Err(Page::bad_cursor());
    }
    let chunk: Vec<_> = behind.by_ref().take(AT_ONCE).collect();
    let last = chunk.last().copied();
    let found = |id: &WorkflowId| {
        let Some(search) = search else { return true };
        let known = directory.workflow(org, *id);
        known.is_some_and(|workflow| {
            text::holds(&workflow.name, search)
                || text::holds(
                    workflow.rare().external_id.as_deref().unwrap_or_default(),
                    search,
                )
                || id.to_string().contains(search)
        })
    };
    let ids = chunk.into_iter().filter(found).collect();
    Ok((ids, last, behind.peek().is_some()))
}

fn follows(app: &App, org: OrgId, last: Option<WorkflowId>) -> bool {
    let directory = app.directory();
    let newest = directory.org(org).and_then(|org| org.workflows.back());
    newest.copied() != last
}

/// Get a workflow.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}",
    operation_id = "get_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = []), ("api_key" = [])),
    params(WorkflowPath),
    responses(
        (status = 200, description = "The workflow", body = Shown),
        PathError, OrgErrors, BusyError
    )
)]
async fn get(
    Shared(app): Shared<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let workflow = id(&workflow, "workflow")?;
    shown(
        &app,
        StatusCode::OK,
        Command::ReadWorkflow { org, workflow },
    )
    .await
}

/// Change a workflow's settings. Another cap holds for every call that starts after the answer.
#[utoipa::path(
    patch,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}",
    operation_id = "update_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath),
    request_body = Patch,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError, ConflictError
    )
)]
async fn patch(
    Shared(app): Shared<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let workflow = id(&workflow, "workflow")?;
    let body: Patch = admitted.received.json()?;
    let patch = Manage::PatchWorkflow {
        org: admitted.org,
        actor: admitted.actor(),
        id: workflow,
        patch: WorkflowPatch {
            name: body.name,
            external_id: body.external_id,
            budget: body.budget_cents.map(cents),
            period: body.budget_period.map(PeriodName::kind),
            overdraft: overdraft(
                body.enforcement_mode,
                body.max_overdraft_cents,
                body.max_overdraft_percent,
            ),
            max_per_call: body.max_per_call_cents.map(cents),
            chain_cap: body.chain_max_cents.map(cents),
            chain_secs: body.max_chain_duration_seconds,
            description: body.description,
            watch: WatchPatch {
                threshold: body.loop_threshold,
                window_secs: body.loop_window_secs,
            },
            approvals: body.human_approvals_enabled,
        },
    };
    changed(&app, StatusCode::OK, patch).await
}

async fn set_state(
    app: &App,
    org: &str,
    workflow: &str,
    request: Request,
    to: Transition,
) -> ApiResult {
    let admitted = admit(app, org, request, Role::Operator, Keys::Refused).await?;
    let workflow = id(workflow, "workflow")?;
    let body: Reason = admitted.received.json_or_default()?;
    let reason = text::reason(body.reason.as_deref().unwrap_or_default(), 0)?;
    let command = Command::SetState {
        org: admitted.org,
        workflow,
        to,
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        actor: admitted.actor(),
    };
    shown(app, StatusCode::OK, command).await
}

/// Pause a workflow: its calls are refused until it is resumed.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}/pause",
    operation_id = "pause_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath),
    request_body = Option<Reason>,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError, StateError
    )
)]
async fn pause(
    Shared(app): Shared<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Pause).await
}

/// Resume a workflow that is paused, flagged or tripped.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}/resume",
    operation_id = "resume_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath),
    request_body = Option<Reason>,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError, StateError
    )
)]
async fn resume(
    Shared(app): Shared<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Resume).await
}

/// Kill a workflow, for ever. No call that starts after the answer is allowed.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}/kill",
    operation_id = "kill_workflow",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath),
    request_body = Option<Reason>,
    responses(
        (status = 200, description = "As it is now", body = Shown),
        BodyErrors, OrgErrors, BusyError
    )
)]
async fn kill(
    Shared(app): Shared<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Kill).await
}
