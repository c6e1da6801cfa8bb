//! `/orgs/{org}`: settings, the single-call status, and the proof of the ledger.

use super::workflows::period;
use super::{Admitted, admit, cents, nullable, unexpected};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use engine::command::{Command, OrgView, Outcome};
use engine::directory::OrgEntry;
use engine::manage::{Manage, Managed};
use http::StatusCode;
use persist::record::{Composition, Role};
use persist::{Lsn, Nanos, OrgId};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    budget_cents: Option<Option<i64>>,
    composition: Option<CompositionName>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum CompositionName {
    FirstMatch,
    MostRestrictive,
}

fn show(org: &OrgEntry) -> Value {
    let composition = match org.composition {
        Composition::FirstMatch => "first_match",
        Composition::MostRestrictive => "most_restrictive",
    };
    json!({
        "id": org.id.to_string(),
        "name": org.name,
        "plan": org.plan,
        "budget_cents": org.budget.map(Nanos::cents_down),
        "composition": composition,
        "created_at": clock::rfc3339(org.created_at),
    })
}

/// `GET /orgs/{org}`.
pub async fn get(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    Ok(json_response(StatusCode::OK, &show(entry)))
}

/// `PATCH /orgs/{org}`.
pub async fn patch(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Admin, Keys::Refused).await?;
    let body: Patch = admitted.received.json()?;
    let patch = Manage::PatchOrg {
        org: admitted.org,
        actor: admitted.actor(),
        name: body.name,
        budget: body.budget_cents.map(cents),
        composition: body.composition.map(|name| match name {
            CompositionName::FirstMatch => Composition::FirstMatch,
            CompositionName::MostRestrictive => Composition::MostRestrictive,
        }),
    };
    let reply = app.call(Command::Manage(Box::new(patch))).await?;
    match &reply.outcome {
        Outcome::Managed(managed) => match managed.as_ref() {
            Managed::Org(org) => Ok(json_response(StatusCode::OK, &show(org))),
            _ => Err(unexpected(&reply)),
        },
        _ => Err(unexpected(&reply)),
    }
}

async fn read(app: &App, org: OrgId) -> ApiResult<(Box<OrgView>, Lsn)> {
    let reply = app.call(Command::ReadOrg { org }).await?;
    match reply.outcome {
        Outcome::Org(view) => Ok((view, reply.as_of)),
        _ => Err(unexpected(&reply)),
    }
}

/// `GET /orgs/{org}/status`: spend, budget, time to exhaustion, rate, plan, and each workflow's
/// state, in one call, from the ledger that enforcement uses.
pub async fn status(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let (view, as_of) = read(&app, org).await?;
    let remaining = view.budget.map(|cap| cap - view.spent - view.held);
    let workflows: Vec<_> = view
        .workflows
        .iter()
        .map(|workflow| {
            json!({
                "workflow_id": workflow.entry.id.to_string(),
                "name": workflow.entry.name,
                "state": workflow.state.name(),
                "version": workflow.version,
                "reason": workflow.reason,
                "updated_at": workflow.state_since.secs(),
                "budget_cents": workflow.entry.budget.map(Nanos::cents_down),
                "spent_nanos": workflow.spent.0,
                "held_nanos": workflow.held.0,
                "remaining_nanos": workflow.remaining().map(|n| n.0),
            })
        })
        .collect();
    let body = json!({
        "organization_id": org.to_string(),
        "as_of_lsn": as_of.0,
        "period": period(&view.period),
        "current_spend_cents": view.spent.cents_half_up(),
        "held_cents": view.held.cents_up(),
        "budget_cents": view.budget.map(Nanos::cents_down),
        "remaining_cents": remaining.map(Nanos::cents_down),
        "spent_nanos": view.spent.0,
        "held_nanos": view.held.0,
        "remaining_nanos": remaining.map(|n| n.0),
        "in_debt": remaining.is_some_and(|n| n.0 < 0),
        "lifetime_spent_nanos": view.lifetime.0,
        "time_to_exhaustion_secs": view.exhausted_in_secs,
        "time_to_exhaustion": view.exhausted_in_secs,
        "burn_cents_per_hour": view.burn_per_hour.cents_half_up(),
        "rate_used": view.rate_used,
        "rate_limit_per_min": view.rate_limit,
        "plan_caps": {},
        "workflows": workflows,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /orgs/{org}/ledger/verify`: folds the log from its first record and compares every sum with
/// the live ledger, to the nano-dollar.
pub async fn verify(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let one_at_a_time = Arc::clone(&app.verifying)
        .acquire_owned()
        .await
        .map_err(|_| ApiError::unavailable("shutting_down", "the gateway is stopping"))?;
    let (view, as_of) = read(&app, org).await?;
    let rebuild = app.rebuild.clone();
    let replayed = tokio::task::spawn_blocking(move || {
        // It goes on when the asker hangs up, and so does its turn.
        let _turn = one_at_a_time;
        rebuild.replay(as_of)
    })
    .await;
    let engine = match replayed {
        Ok(Ok(engine)) => engine,
        Ok(Err(error)) => {
            tracing::error!(%error, "the ledger cannot be recomputed");
            return Err(unreadable());
        }
        Err(_) => return Err(unreadable()),
    };
    Ok(json_response(
        StatusCode::OK,
        &compare(&view, as_of, org, &engine),
    ))
}

fn unreadable() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the log cannot be read back; the gateway's log says why",
    )
}

fn compare(view: &OrgView, as_of: Lsn, org: OrgId, engine: &engine::Engine) -> Value {
    let sums = |spent: Nanos, held: Nanos| json!({ "spent_nanos": spent.0, "held_nanos": held.0 });
    let mut mismatches = Vec::new();
    let mut check = |what: String, live: (Nanos, Nanos), again: (Nanos, Nanos)| {
        if live != again {
            mismatches.push(json!({
                "what": what,
                "live": sums(live.0, live.1),
                "recomputed": sums(again.0, again.1),
            }));
        }
    };
    let account = engine.shard().orgs.get(&org).copied().unwrap_or_default();
    let again = account.in_period(&view.period);
    check(
        format!("organization {org}"),
        (view.spent, view.held),
        (again.spent, again.held),
    );
    let mut from_workflows = (Nanos::ZERO, Nanos::ZERO);
    let workflows: Vec<_> = view
        .workflows
        .iter()
        .map(|live| {
            let id = live.entry.id;
            let workflow = engine.shard().workflow(id);
            let again = workflow
                .map(|w| w.account.in_period(&view.period))
                .unwrap_or_default();
            from_workflows = (
                from_workflows.0 + again.spent,
                from_workflows.1 + again.held,
            );
            check(
                format!("workflow {id}"),
                (live.spent, live.held),
                (again.spent, again.held),
            );
            json!({
                "workflow_id": id.to_string(),
                "live": sums(live.spent, live.held),
                "recomputed": sums(again.spent, again.held),
            })
        })
        .collect();
    check(
        "sum of workflows".to_owned(),
        (view.spent, view.held),
        from_workflows,
    );
    for (key, spent, held) in &view.keys {
        let again = engine
            .shard()
            .keys
            .get(key)
            .map(|a| a.in_period(&view.period))
            .unwrap_or_default();
        check(
            format!("key {key}"),
            (*spent, *held),
            (again.spent, again.held),
        );
    }
    json!({
        "verified": mismatches.is_empty(),
        "as_of_lsn": as_of.0,
        "period": period(&view.period),
        "live": sums(view.spent, view.held),
        "recomputed": sums(again.spent, again.held),
        "workflows": workflows,
        "mismatches": mismatches,
    })
}
