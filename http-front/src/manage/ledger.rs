//! `/orgs/{org_id}/ledger/verify`: the ledger, proven from the log.

use super::caps::Span;
use super::{Admitted, admit};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{BusyError, FaultError, OrgErrors, OrgPath, PathError};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use engine::account::Sums;
use engine::command::OrgView;
use engine::period::Calendar;
use http::StatusCode;
use persist::record::Role;
use persist::{KeyId, Lsn, OrgId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(verify))
}

/// What was booked and what is held.
#[derive(Debug, Serialize, ToSchema)]
struct Booked {
    spent_nanos: i64,
    held_nanos: i64,
}

impl Booked {
    const fn of(sums: Sums) -> Self {
        Self {
            spent_nanos: sums.spent.0,
            held_nanos: sums.held.0,
        }
    }
}

/// A workflow in both ledgers.
#[derive(Debug, Serialize, ToSchema)]
struct WorkflowLedger {
    workflow_id: String,
    live: Booked,
    recomputed: Booked,
}

/// Where they differ.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LedgerMismatch)]
struct Mismatch {
    /// Organization, workflow or key.
    what: String,
    live: Booked,
    recomputed: Booked,
}

/// The ledger that calls are decided with, beside the one the log gives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LedgerVerified)]
struct Verified {
    /// They are equal in every sum.
    verified: bool,
    /// Up to this record of the log.
    as_of_lsn: u64,
    period: Span,
    live: Booked,
    recomputed: Booked,
    /// Oldest first.
    workflows: Vec<WorkflowLedger>,
    mismatches: Vec<Mismatch>,
}

/// Prove the ledger: fold the log anew and compare every sum with the live one, to the nano-dollar.
/// One verification runs at a time; others wait.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/ledger/verify",
    operation_id = "verify_ledger",
    tag = "organizations",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    responses(
        (status = 200, description = "Both ledgers, and where they differ", body = Verified),
        PathError, OrgErrors, BusyError, FaultError
    )
)]
async fn verify(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let turn = Arc::clone(&app.verifying)
        .acquire_owned()
        .await
        .map_err(|_| ApiError::unavailable("shutting_down", "the gateway is stopping"))?;
    // It goes on when the asker hangs up, and so does its turn.
    let turn = Arc::new(turn);
    let mut attempt = 1;
    loop {
        // What is shown below holds at least this much.
        let before = app.log.durable_lsn();
        let (view, as_of) = app.org(org).await?;
        let most = as_of.iter().copied().max().unwrap_or_default();
        match replay(&app, before, as_of, Arc::clone(&turn)).await {
            Ok(engine) => {
                let body = compare(&view, most, org, &engine);
                return Ok(json_response(StatusCode::OK, &body));
            }
            // A snapshot was made meanwhile, and what it was read from is gone.
            Err(error) if attempt < VERIFY_ATTEMPTS => {
                tracing::debug!(%error, attempt, "verifying a ledger again");
                attempt += 1;
            }
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be recomputed");
                return Err(unreadable());
            }
        }
    }
}

/// How often the log may be trimmed under a verification's eyes.
const VERIFY_ATTEMPTS: u32 = 3;

/// The state as of what each pump has shown.
async fn replay(
    app: &App,
    before: Lsn,
    as_of: Vec<Lsn>,
    turn: Arc<OwnedSemaphorePermit>,
) -> Result<engine::Engine, engine::recover::Error> {
    let layout = app.shards.layout();
    let rebuild = app.rebuild.clone();
    let replayed = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let until = |slot| {
            let pump = layout.pump_of(slot) as usize;
            as_of.get(pump).copied().unwrap_or_default()
        };
        let most = as_of.iter().copied().max().unwrap_or_default();
        rebuild.replay_parts(before, &until, most)
    });
    replayed.await.map_err(|error| {
        engine::recover::Error::Persist(persist::Error::Poisoned(error.to_string()))
    })?
}

fn unreadable() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the log cannot be read back; the gateway's log says why",
    )
}

fn compare(view: &OrgView, as_of: Lsn, org: OrgId, engine: &engine::Engine) -> Verified {
    let mut mismatches = Vec::new();
    let mut check = |what: String, live: Sums, again: Sums| {
        if live != again {
            mismatches.push(Mismatch {
                what,
                live: Booked::of(live),
                recomputed: Booked::of(again),
            });
        }
    };
    let calendar = Calendar::of(view.today);
    let account = |id, first| {
        let row = engine
            .shard_with(org, id)
            .and_then(|shard| shard.workflow(id));
        row.map(|row| row.account.since(first)).unwrap_or_default()
    };
    let mut whole = Sums::default();
    let mut keys: BTreeMap<KeyId, Sums> = BTreeMap::new();
    let mut workflows = Vec::with_capacity(view.workflows.len());
    for live in &view.workflows {
        let id = live.entry.id;
        let again = account(id, live.period.first);
        whole += account(id, view.period.first);
        check(format!("workflow {id}"), live.sums, again);
        workflows.push(WorkflowLedger {
            workflow_id: id.to_string(),
            live: Booked::of(live.sums),
            recomputed: Booked::of(again),
        });
        let Some(shard) = engine.shard_with(org, id) else {
            continue;
        };
        for (payer, account) in shard.payers_of(id) {
            let key = engine
                .directory()
                .and_then(|directory| directory.key(payer));
            let kind = key.map(|key| key.period).unwrap_or_default();
            let period = calendar.period(kind);
            *keys.entry(payer).or_default() += account.since(period.first);
        }
    }
    check(format!("organization {org}"), view.sums, whole);
    for (key, live) in &view.keys {
        let again = keys.get(key).copied().unwrap_or_default();
        check(format!("key {key}"), *live, again);
    }
    Verified {
        verified: mismatches.is_empty(),
        as_of_lsn: as_of.0,
        period: Span::of(&view.period),
        live: Booked::of(view.sums),
        recomputed: Booked::of(whole),
        workflows,
        mismatches,
    }
}
