//! The small SDK routes: cancel, heartbeat, status, approximate budget.

use super::decision::{json_response, reservation};
use crate::app::{App, unanswered};
use crate::error::{ApiError, ApiResult};
use crate::manage::workflows::StateName;
use crate::openapi::{
    BodyErrors, BusyError, FaultError, KeyError, KeyErrors, ProtocolHeader, QueryErrors,
    SignatureHeaders, WorkflowHeader,
};
use crate::request::{self, Received};
use crate::sign_in::{self, Denied, Signing};
use crate::{clock, text};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use engine::command::{Command, Outcome};
use http::StatusCode;
use persist::record::Scopes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(cancel))
        .routes(routes!(heartbeat))
        .routes(routes!(workflow_status))
        .routes(routes!(approximate_budget))
        .routes(routes!(no_policies))
}

/// Always an empty list.
#[derive(Serialize, ToSchema)]
#[schema(max_items = 0, value_type = Vec<String>, example = json!([]))]
struct NoPolicies([String; 0]);

fn caller(
    app: &App,
    received: &Received,
    scope: Scopes,
    signing: Signing,
) -> ApiResult<sign_in::Caller> {
    received.protocol()?;
    sign_in::key(
        app,
        &received.headers,
        &received.path,
        &received.body,
        scope,
        signing,
    )
    .map_err(Denied::into_error)
}

/// A hold that is not needed any more.
#[derive(Deserialize, ToSchema)]
#[schema(as = HoldCancel)]
struct Cancel {
    /// The reservation.
    #[schema(
        min_length = 1,
        max_length = 128,
        example = "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b"
    )]
    execution_id: String,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
#[schema(as = HoldCanceled)]
struct Canceled<'a> {
    execution_id: &'a str,
    /// Null if it was not open.
    canceled_at: Option<String>,
    /// Rounded down.
    reservation_released_cents: i64,
    reservation_released_nanos: i64,
    /// It was not open: cancelled before, ended, or never there.
    already_canceled: bool,
}

/// Free a hold. One that is unknown or has ended is answered alike.
#[utoipa::path(
    post,
    path = "/api/v1/cancel",
    operation_id = "cancel",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, SignatureHeaders),
    request_body = Cancel,
    responses(
        (status = 200, description = "It is not held any more", body = Canceled<'_>),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn cancel(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes::GATE, Signing::Expected)?;
    let body: Cancel = received.json()?;
    text::id("execution_id", &body.execution_id)?;
    let released = match reservation(Some(&body.execution_id)) {
        Some(hold) => {
            let command = Command::Cancel {
                org: caller.key.org,
                key: caller.key.id,
                hold,
            };
            let reply = app.shards.tell(command).await.map_err(unanswered)?;
            match reply.outcome {
                Outcome::Cancelled(released) => released,
                _ => None,
            }
        }
        None => None,
    };
    let body = Canceled {
        execution_id: &body.execution_id,
        canceled_at: released.map(|_| clock::rfc3339(clock::now())),
        reservation_released_cents: released.map_or(0, persist::Nanos::cents_down),
        reservation_released_nanos: released.map_or(0, |n| n.0),
        already_canceled: released.is_none(),
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// A chain that goes on.
#[derive(Deserialize, ToSchema)]
struct Heartbeat {
    #[schema(min_length = 1, max_length = 128)]
    chain_id: String,
}

/// It was heard.
#[derive(Serialize, ToSchema)]
#[schema(as = HeartbeatHeard)]
struct Heard<'a> {
    /// Always `ok`.
    #[schema(pattern = "^ok$")]
    status: &'static str,
    chain_id: &'a str,
    /// Unix seconds.
    last_active: u64,
    /// There is such a chain. A heartbeat may overtake the chain's first call, or come after its end.
    active: bool,
}

/// Say that a chain of calls goes on, and the holds of its calls with it.
#[utoipa::path(
    post,
    path = "/api/v1/heartbeat",
    operation_id = "heartbeat",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, SignatureHeaders),
    request_body = Heartbeat,
    responses(
        (status = 200, description = "Heard", body = Heard<'_>),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn heartbeat(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes::GATE, Signing::Expected)?;
    let body: Heartbeat = received.json()?;
    text::id("chain_id", &body.chain_id)?;
    // Whose chain it is follows the rule of gates. Without such a chain nothing is renewed, and the
    // answer is the same: a heartbeat may overtake the chain's first call, or come after its end.
    let header = received.header("x-workflow-id");
    let mut alive = false;
    if let Ok(workflow) = super::gate::workflow(&app, &caller.key, header) {
        let command = Command::Heartbeat {
            org: caller.key.org,
            key: caller.key.id,
            workflow,
            chain: super::gate::chain_key(workflow, &body.chain_id),
        };
        let reply = app.shards.tell(command).await.map_err(unanswered)?;
        alive = matches!(reply.outcome, Outcome::Alive(true));
    }
    let body = Heard {
        status: "ok",
        chain_id: &body.chain_id,
        last_active: clock::now().secs(),
        active: alive,
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// A workflow's state.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkflowPoll)]
struct Polled {
    /// As it was asked for.
    workflow_id: String,
    state: StateName,
    /// Grows with each change of state.
    version: u64,
    /// Why it is in that state.
    reason: Option<String>,
    /// When it came to that state, in Unix seconds.
    updated_at: u64,
}

/// A workflow in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
struct WorkflowName {
    /// Its id, external id or name.
    workflow: String,
}

/// Get the state of a workflow. One that is unknown is Normal: whoever asks learns nothing about others.
#[utoipa::path(
    get,
    path = "/api/v1/status/{workflow}",
    operation_id = "poll_workflow",
    tag = "agents",
    security(("api_key" = [])),
    params(WorkflowName, ProtocolHeader, SignatureHeaders),
    responses(
        (status = 200, description = "Its state", body = Polled),
        QueryErrors, KeyError, FaultError, BusyError
    )
)]
async fn workflow_status(
    State(app): State<Arc<App>>,
    Path(text): Path<String>,
    request: Request,
) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes(0), Signing::Optional)?;
    let org = caller.key.org;
    let found = app.directory().resolve(org, &text);
    let view = match found {
        Some(workflow) => match app
            .call(Command::ReadWorkflow { org, workflow })
            .await?
            .outcome
        {
            Outcome::Workflow(view) => Some(view),
            _ => None,
        },
        None => None,
    };
    let body = match view {
        Some(view) => Polled {
            workflow_id: text,
            state: StateName::of(view.state),
            version: view.version,
            reason: view.reason,
            updated_at: view.state_since.secs(),
        },
        None => Polled {
            workflow_id: text,
            state: StateName::Normal,
            version: 0,
            reason: None,
            updated_at: 0,
        },
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// How sure it is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = BudgetConfidence)]
enum Confidence {
    /// It is exact.
    High,
}

/// Spend of the key's workflow, or of the organization for a key that is bound to none.
#[derive(Serialize, ToSchema)]
struct ApproximateBudget {
    /// Half up.
    current_spend_cents_estimate: i64,
    budget_cents: Option<i64>,
    /// Rounded down; negative in debt, null without a cap.
    remaining_budget_cents: Option<i64>,
    /// Always true, as clients expect it.
    is_approximate: bool,
    /// Always `ledger`.
    #[schema(pattern = "^ledger$")]
    source: &'static str,
    confidence: Confidence,
    last_updated_at: String,
}

/// Get spend and budget for display. The figures are exact, in the clients' shape.
#[utoipa::path(
    get,
    path = "/api/v1/budget/approximate",
    operation_id = "approximate_budget",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, SignatureHeaders),
    responses(
        (status = 200, description = "Spend and budget", body = ApproximateBudget),
        QueryErrors, KeyError, FaultError, BusyError
    )
)]
async fn approximate_budget(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes(0), Signing::Optional)?;
    let org = caller.key.org;
    let (spent, budget, remaining) = match caller.key.workflow {
        Some(workflow) => {
            let reply = app.call(Command::ReadWorkflow { org, workflow }).await?;
            let Outcome::Workflow(own) = reply.outcome else {
                return Err(ApiError::not_found("workflow"));
            };
            (own.sums.spent, own.entry.budget(), own.remaining())
        }
        // A key without a workflow is shown its organization.
        None => {
            let reply = app.call(Command::ReadSums { org }).await?;
            let Outcome::Sums(whole) = reply.outcome else {
                return Err(ApiError::not_found("organization"));
            };
            (whole.sums.spent, whole.budget, whole.remaining())
        }
    };
    let body = ApproximateBudget {
        current_spend_cents_estimate: spent.cents_half_up(),
        budget_cents: budget.map(persist::Nanos::cents_down),
        remaining_budget_cents: remaining.map(persist::Nanos::cents_down),
        is_approximate: true,
        source: "ledger",
        confidence: Confidence::High,
        last_updated_at: clock::rfc3339(clock::now()),
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// No policies: the oldest clients ask for some before they sign in, and go on with their own defaults
/// when the list is empty. Enforcement is at the gate.
#[utoipa::path(
    post,
    path = "/api/v1/policies",
    operation_id = "no_policies",
    tag = "agents",
    security(()),
    responses((status = 200, description = "Always an empty list", body = NoPolicies))
)]
async fn no_policies() -> Response {
    json_response(StatusCode::OK, &NoPolicies([]))
}
