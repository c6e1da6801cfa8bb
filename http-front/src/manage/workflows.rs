//! `/orgs/{org}/workflows`: the resource, its budget, pause, resume and kill.

use super::{Admitted, Page, admit, cents, id, list, nullable, unexpected};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use engine::command::{Command, Outcome, Transition, WorkflowView};
use engine::limits;
use engine::manage::{Manage, WorkflowPatch, WorkflowSettings};
use engine::period::Period;
use http::StatusCode;
use persist::WorkflowId;
use persist::record::Role;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    external_id: Option<String>,
    budget_cents: Option<i64>,
    max_per_call_cents: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    external_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    budget_cents: Option<Option<i64>>,
    #[serde(default, deserialize_with = "nullable")]
    max_per_call_cents: Option<Option<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Reason {
    reason: Option<String>,
}

/// A period on the wire.
#[must_use]
pub fn period(period: &Period) -> Value {
    json!({
        "kind": "calendar_month",
        "start": clock::rfc3339(period.start),
        "end": clock::rfc3339(period.end),
    })
}

/// A workflow on the wire.
#[must_use]
pub fn show(view: &WorkflowView) -> Value {
    let remaining = view.remaining();
    json!({
        "id": view.entry.id.to_string(),
        "organization_id": view.entry.org.to_string(),
        "name": view.entry.name,
        "external_id": view.entry.external_id,
        "state": view.state.name(),
        "version": view.version,
        "reason": view.reason,
        "budget_cents": view.entry.budget.map(persist::Nanos::cents_down),
        "max_per_call_cents": view.entry.max_per_call.map(persist::Nanos::cents_down),
        "spent_nanos": view.spent.0,
        "held_nanos": view.held.0,
        "remaining_nanos": remaining.map(|n| n.0),
        "spent_cents": view.spent.cents_half_up(),
        "held_cents": view.held.cents_up(),
        "remaining_cents": remaining.map(persist::Nanos::cents_down),
        "in_debt": remaining.is_some_and(|n| n.0 < 0),
        "period": period(&view.period),
        "created_at": clock::rfc3339(view.entry.created_at),
        "updated_at": clock::rfc3339(view.entry.updated_at.max(view.state_since)),
    })
}

async fn shown(app: &App, status: StatusCode, command: Command) -> ApiResult {
    let reply = app.call(command).await?;
    match &reply.outcome {
        Outcome::Workflow(view) => Ok(json_response(status, &show(view))),
        _ => Err(unexpected(&reply)),
    }
}

/// `POST /orgs/{org}/workflows`.
pub async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    let create = Manage::CreateWorkflow {
        org: admitted.org,
        actor: admitted.actor(),
        id: WorkflowId(hash::new_id(clock::now())),
        settings: WorkflowSettings {
            name: body.name,
            external_id: body.external_id,
            budget: cents(body.budget_cents),
            max_per_call: cents(body.max_per_call_cents),
        },
    };
    shown(&app, StatusCode::CREATED, Command::Manage(Box::new(create))).await
}

/// `GET /orgs/{org}/workflows`.
pub async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let page = Page::parse(query.as_deref())?;
    let (ids, next) = {
        let directory = app.directory();
        let entry = directory
            .org(org)
            .ok_or_else(|| ApiError::not_found("organization"))?;
        page.of(entry.workflows.iter().copied())?
    };
    let reply = app.call(Command::ReadWorkflows { org, ids }).await?;
    match &reply.outcome {
        Outcome::Workflows(views) => Ok(json_response(
            StatusCode::OK,
            &list(views.iter().map(show).collect(), next),
        )),
        _ => Err(unexpected(&reply)),
    }
}

/// `GET /orgs/{org}/workflows/{id}`.
pub async fn get(
    State(app): State<Arc<App>>,
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

/// `PATCH /orgs/{org}/workflows/{id}`.
pub async fn patch(
    State(app): State<Arc<App>>,
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
            max_per_call: body.max_per_call_cents.map(cents),
        },
    };
    shown(&app, StatusCode::OK, Command::Manage(Box::new(patch))).await
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
    let body: Reason = if admitted.received.body.is_empty() {
        Reason::default()
    } else {
        admitted.received.json()?
    };
    if let Some(reason) = &body.reason
        && (reason.len() > limits::REASON_BYTES || crate::text::has_control(reason))
    {
        return Err(ApiError::field(
            "reason",
            format!(
                "reason may have {} bytes and no control characters",
                limits::REASON_BYTES
            ),
        ));
    }
    let command = Command::SetState {
        org: admitted.org,
        workflow,
        to,
        reason: body.reason.filter(|reason| !reason.is_empty()),
        actor: admitted.actor(),
    };
    shown(app, StatusCode::OK, command).await
}

/// `POST /orgs/{org}/workflows/{id}/pause`.
pub async fn pause(
    State(app): State<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Pause).await
}

/// `POST /orgs/{org}/workflows/{id}/resume`.
pub async fn resume(
    State(app): State<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Resume).await
}

/// `POST /orgs/{org}/workflows/{id}/kill`.
pub async fn kill(
    State(app): State<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    set_state(&app, &org, &workflow, request, Transition::Kill).await
}
