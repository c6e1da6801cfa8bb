//! The small SDK routes: cancel, heartbeat, status, approximate budget, capabilities, health.

use super::decision::{json_response, reservation};
use crate::app::{App, unanswered};
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::request::{self, Received};
use crate::sign_in::{self, Denied, Signing};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use engine::command::{Command, Outcome};
use engine::limits;
use http::StatusCode;
use persist::record::Scopes;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

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

fn bounded(field: &'static str, text: &str) -> ApiResult<()> {
    if text.is_empty() || text.len() > limits::ID_BYTES {
        return Err(ApiError::field(
            field,
            format!("{field} takes 1 to {} bytes", limits::ID_BYTES),
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Cancel {
    execution_id: String,
}

/// `POST /api/v1/cancel`: frees a hold. An unknown or ended one is answered alike.
pub async fn cancel(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes::GATE, Signing::Expected)?;
    let body: Cancel = received.json()?;
    bounded("execution_id", &body.execution_id)?;
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
    let body = json!({
        "execution_id": body.execution_id,
        "canceled_at": released.map(|_| clock::rfc3339(clock::now())),
        "reservation_released_cents": released.map_or(0, persist::Nanos::cents_down),
        "reservation_released_nanos": released.map_or(0, |n| n.0),
        "already_canceled": released.is_none(),
    });
    Ok(json_response(StatusCode::OK, &body))
}

#[derive(Deserialize)]
struct Heartbeat {
    chain_id: String,
}

/// `POST /api/v1/heartbeat`.
pub async fn heartbeat(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    caller(&app, &received, Scopes::GATE, Signing::Expected)?;
    let body: Heartbeat = received.json()?;
    bounded("chain_id", &body.chain_id)?;
    let body =
        json!({ "status": "ok", "chain_id": body.chain_id, "last_active": clock::now().secs() });
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /api/v1/status/{workflow_id}`: the state of a workflow by id, external id or name. An
/// unknown one is Normal: whoever asks learns nothing about others.
pub async fn workflow_status(
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
        Some(view) => json!({
            "workflow_id": text,
            "state": view.state.name(),
            "version": view.version,
            "reason": view.reason,
            "updated_at": view.state_since.secs(),
        }),
        None => {
            json!({ "workflow_id": text, "state": "Normal", "version": 0, "reason": null, "updated_at": 0 })
        }
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /api/v1/budget/approximate`: for display; exact here, in the client's shape.
pub async fn approximate_budget(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = caller(&app, &received, Scopes(0), Signing::Optional)?;
    let reply = app
        .call(Command::ReadOrg {
            org: caller.key.org,
        })
        .await?;
    let Outcome::Org(view) = reply.outcome else {
        return Err(ApiError::not_found("organization"));
    };
    let own = caller
        .key
        .workflow
        .and_then(|id| view.workflows.iter().find(|w| w.entry.id == id));
    let (spent, budget, remaining) = match own {
        Some(own) => (own.spent, own.entry.budget, own.remaining()),
        None => (
            view.spent,
            view.budget,
            view.budget.map(|cap| cap - view.spent - view.held),
        ),
    };
    let body = json!({
        "current_spend_cents_estimate": spent.cents_half_up(),
        "budget_cents": budget.map(persist::Nanos::cents_down),
        "remaining_budget_cents": remaining.map(persist::Nanos::cents_down),
        "is_approximate": true,
        "source": "ledger",
        "confidence": "High",
        "last_updated_at": clock::rfc3339(clock::now()),
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// What this gateway speaks and has, in the clients' words.
fn spoken() -> serde_json::Map<String, serde_json::Value> {
    let spoken = json!({
        "min_protocol_version": 2,
        "max_protocol_version": 4,
        "protocol_version": 4,
        "server_version": env!("CARGO_PKG_VERSION"),
        "built_at": null,
        "sdk_min_version": "0.4.0",
        "lua_script_version": "n/a",
        "endpoints": {},
        "capabilities": {
            "server_minted_execution_id": true,
            "per_execution_reservations": true,
            "enforcement_modes_soft": false,
            "heartbeat_time_based": true,
            "heartbeat_interval_seconds": 30,
            "heartbeat_skew_tolerance_seconds": 5,
            "chain_idle_ttl_seconds": 300,
            "decision_log": true,
            "outbox_async_drain": false,
            "idempotency_keys": true,
            "execution_graph": false,
            "wire_evidence_echo": true,
            "rate_limit_fail_scope": { "aggregate": "closed", "per_key": "closed" },
        },
    });
    match spoken {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    }
}

/// `GET /api/v1/capabilities`; open to all.
pub async fn capabilities() -> Response {
    json_response(StatusCode::OK, &spoken())
}

/// `POST /api/v1/policies`: the oldest clients ask for policies before they sign in. They go on
/// with their own defaults when the list is empty; enforcement is at the gate anyway.
pub async fn no_policies() -> Response {
    json_response(StatusCode::OK, &json!([]))
}

/// `GET /health` and its aliases: the process is up.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let status = if app.is_stopping() { "stopping" } else { "ok" };
    let since = app
        .remembered_since
        .load(std::sync::atomic::Ordering::Relaxed);
    let since = (since > 0).then(|| clock::rfc3339(persist::Millis(since)));
    // Clients of 0.13 and 0.14 look for the capabilities here.
    let mut body = spoken();
    body.insert("status".to_owned(), json!(status));
    body.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    // Events are counted once within this window; without `since`, for ever so far.
    body.insert(
        "event_dedup".to_owned(),
        json!({ "complete": since.is_none(), "since": since }),
    );
    json_response(StatusCode::OK, &body)
}

/// `GET /health/ready`: the log answers. 503 while it does not, or while the gateway stops.
pub async fn ready(State(app): State<Arc<App>>) -> ApiResult {
    if app.is_stopping() {
        return Err(ApiError::unavailable(
            "shutting_down",
            "the gateway is stopping",
        ));
    }
    let reply = app.call(Command::Barrier).await?;
    let body = json!({ "status": "ok", "durable_lsn": reply.as_of.0, "checks": { "log": "ok" } });
    Ok(json_response(StatusCode::OK, &body))
}
