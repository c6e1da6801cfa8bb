//! What this gateway speaks, and how it is: for clients before they sign in, and for who watches it.

use super::decision::json_response;
use crate::app::{App, unanswered};
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::openapi::BusyError;
use axum::extract::State;
use axum::response::Response;
use engine::command::Command;
use http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(capabilities))
        .routes(routes!(health))
        .routes(routes!(health_root))
        .routes(routes!(healthz))
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(startup))
}

/// What this gateway speaks and has, in the clients' words.
#[derive(Serialize, ToSchema)]
struct Capabilities {
    min_protocol_version: u8,
    max_protocol_version: u8,
    protocol_version: u8,
    server_version: &'static str,
    /// Always null.
    built_at: Option<String>,
    sdk_min_version: &'static str,
    /// There are none.
    lua_script_version: &'static str,
    endpoints: Endpoints,
    capabilities: Abilities,
}

/// Always empty: all are where clients look for them.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Endpoints {}

/// What this gateway does.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "the clients' shape")]
struct Abilities {
    server_minted_execution_id: bool,
    per_execution_reservations: bool,
    enforcement_modes_soft: bool,
    heartbeat_time_based: bool,
    heartbeat_interval_seconds: u32,
    heartbeat_skew_tolerance_seconds: u32,
    chain_idle_ttl_seconds: u32,
    decision_log: bool,
    outbox_async_drain: bool,
    idempotency_keys: bool,
    execution_graph: bool,
    wire_evidence_echo: bool,
    rate_limit_fail_scope: RateLimitFailScope,
}

/// What becomes of calls when rates cannot be read: they are refused.
#[derive(Serialize, ToSchema)]
struct RateLimitFailScope {
    aggregate: &'static str,
    per_key: &'static str,
}

const fn spoken() -> Capabilities {
    Capabilities {
        min_protocol_version: 2,
        max_protocol_version: 4,
        protocol_version: 4,
        server_version: env!("CARGO_PKG_VERSION"),
        built_at: None,
        sdk_min_version: "0.4.0",
        lua_script_version: "n/a",
        endpoints: Endpoints {},
        capabilities: Abilities {
            server_minted_execution_id: true,
            per_execution_reservations: true,
            enforcement_modes_soft: true,
            heartbeat_time_based: true,
            heartbeat_interval_seconds: 30,
            heartbeat_skew_tolerance_seconds: 5,
            chain_idle_ttl_seconds: 300,
            decision_log: true,
            outbox_async_drain: false,
            idempotency_keys: true,
            execution_graph: false,
            wire_evidence_echo: true,
            rate_limit_fail_scope: RateLimitFailScope {
                aggregate: "closed",
                per_key: "closed",
            },
        },
    }
}

/// Get what this gateway speaks and has. Open to all.
#[utoipa::path(
    get,
    path = "/api/v1/capabilities",
    operation_id = "capabilities",
    tag = "agents",
    security(()),
    responses((status = 200, description = "Protocols and abilities", body = Capabilities))
)]
async fn capabilities() -> Response {
    json_response(StatusCode::OK, &spoken())
}

/// The process is up.
#[derive(Serialize, ToSchema)]
struct Health {
    // Clients of 0.13 and 0.14 look for the capabilities here.
    #[serde(flatten)]
    spoken: Capabilities,
    status: HealthWord,
    version: &'static str,
    event_dedup: EventDedup,
}

/// How it is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthWord {
    /// It serves.
    Ok,
    /// It finishes what is under way and ends.
    Stopping,
}

/// Within which time events are counted once.
#[derive(Serialize, ToSchema)]
struct EventDedup {
    /// For ever, so far.
    complete: bool,
    /// Else from here on.
    since: Option<String>,
}

fn shown(app: &App) -> Response {
    let since = app.dedup.remembered_since();
    let since = (since > 0).then(|| clock::rfc3339(persist::Millis(since)));
    let body = Health {
        spoken: spoken(),
        status: if app.is_stopping() {
            HealthWord::Stopping
        } else {
            HealthWord::Ok
        },
        version: env!("CARGO_PKG_VERSION"),
        event_dedup: EventDedup {
            complete: since.is_none(),
            since,
        },
    };
    json_response(StatusCode::OK, &body)
}

/// Is the process up? Open to all.
#[utoipa::path(
    get,
    path = "/api/v1/health",
    operation_id = "health",
    tag = "health",
    security(()),
    responses((status = 200, description = "It is up", body = Health))
)]
async fn health(State(app): State<Arc<App>>) -> Response {
    shown(&app)
}

/// The same as `GET /api/v1/health`.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health_root",
    tag = "health",
    security(()),
    responses((status = 200, description = "It is up", body = Health))
)]
async fn health_root(State(app): State<Arc<App>>) -> Response {
    shown(&app)
}

/// The same as `GET /api/v1/health`.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "health",
    security(()),
    responses((status = 200, description = "It is up", body = Health))
)]
async fn healthz(State(app): State<Arc<App>>) -> Response {
    shown(&app)
}

/// The same as `GET /api/v1/health`.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "health_live",
    tag = "health",
    security(()),
    responses((status = 200, description = "It is up", body = Health))
)]
async fn live(State(app): State<Arc<App>>) -> Response {
    shown(&app)
}

/// The log answers and has room.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// Always `ok`.
    #[schema(pattern = "^ok$")]
    status: &'static str,
    /// The last record known to be durable.
    #[schema(example = 4711)]
    durable_lsn: Option<u64>,
    checks: Checks,
}

/// What was looked at.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadyChecks)]
struct Checks {
    /// Always `ok`.
    #[schema(pattern = "^ok$")]
    log: &'static str,
}

async fn shown_ready(app: &App) -> ApiResult {
    if app.is_stopping() {
        return Err(ApiError::unavailable(
            "shutting_down",
            "the gateway is stopping",
        ));
    }
    let patience = Duration::from_secs(10);
    let asked = app.shards.ask_all(|| Command::Barrier, patience);
    let replies = asked.await.map_err(unanswered)?;
    if !app.log.room().is_plenty() {
        return Err(ApiError::unavailable(
            "storage_full",
            "the disk has no room for the log: gates are refused, reports are still taken",
        ));
    }
    let body = Ready {
        status: "ok",
        durable_lsn: replies.iter().map(|reply| reply.as_of.0).max(),
        checks: Checks { log: "ok" },
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// Does the log answer, and has it room? 503 while it does not, or while the gateway stops. Open to
/// all.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "health_ready",
    tag = "health",
    security(()),
    responses((status = 200, description = "It serves", body = Ready), BusyError)
)]
async fn ready(State(app): State<Arc<App>>) -> ApiResult {
    shown_ready(&app).await
}

/// The same as `GET /health/ready`.
#[utoipa::path(
    get,
    path = "/health/startup",
    operation_id = "health_startup",
    tag = "health",
    security(()),
    responses((status = 200, description = "It serves", body = Ready), BusyError)
)]
async fn startup(State(app): State<Arc<App>>) -> ApiResult {
    shown_ready(&app).await
}
