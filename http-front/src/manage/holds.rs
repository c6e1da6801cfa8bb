//! `/orgs/{org}/holds`: money that is held for calls in flight, and an operator's way to free it.

use super::{List, Page, admit, id, unexpected};
use crate::app::{App, unanswered};
use crate::clock;
use crate::error::ApiResult;
use crate::openapi::{BodyErrors, BusyError, OrgErrors, OrgPath, PageQuery, QueryErrors};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::text;
use axum::extract::{Path, Request, State};
use engine::command::{Command, Outcome};
use engine::shard::OpenHold;
use http::StatusCode;
use persist::record::Role;
use persist::{HoldId, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index))
        .routes(routes!(release))
}

/// Why a hold is freed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HoldRelease)]
struct Release {
    #[schema(
        min_length = 1,
        max_length = 500,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "the agent was stopped by hand"
    )]
    reason: String,
}

/// Money that is held for a call in flight.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hold)]
struct Shown {
    id: String,
    /// The same again, as clients know it.
    reservation_id: String,
    organization_id: String,
    workflow_id: String,
    api_key_id: String,
    /// What it held at first.
    minted_nanos: i64,
    /// What charges have left of it.
    held_nanos: i64,
    /// Rounded up.
    held_cents: i64,
    /// Its call belongs to a chain.
    in_chain: bool,
    /// The day that it and its charges count on.
    counts_on: String,
    /// When it ends by itself.
    expires_at: String,
}

fn show(hold: &OpenHold) -> Shown {
    Shown {
        id: hold.id.to_string(),
        reservation_id: hold.id.to_string(),
        organization_id: hold.org.to_string(),
        workflow_id: hold.workflow.to_string(),
        api_key_id: hold.key.to_string(),
        minted_nanos: hold.minted.0,
        held_nanos: hold.left.0,
        held_cents: hold.left.cents_up(),
        in_chain: hold.chain.is_some(),
        counts_on: clock::rfc3339(hold.day.start()),
        expires_at: clock::rfc3339(hold.expires_at),
    }
}

/// What a hold had left when it was freed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HoldReleased)]
struct Released<'a> {
    id: String,
    workflow_id: String,
    released_nanos: i64,
    /// Rounded up.
    released_cents: i64,
    reason: &'a str,
}

/// What a list of holds is narrowed to.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Filter {
    /// Only those of this workflow.
    workflow_id: Option<uuid::Uuid>,
}

/// A hold in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
struct HoldPath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The hold's id, which is the reservation's.
    hold_id: uuid::Uuid,
}

/// List money that is held for calls in flight, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/holds",
    operation_id = "list_holds",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath, Filter, PageQuery),
    responses(
        (status = 200, description = "Holds", body = List<Shown>),
        QueryErrors, OrgErrors, BusyError
    )
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let org = admit(&app, &org, request, Role::Viewer, Keys::Refused)
        .await?
        .org;
    let page = Page::parse(query.as_deref(), &["workflow_id"])?;
    let workflow = match page.filter("workflow_id") {
        Some(text) => Some(id::<WorkflowId>(text, "workflow")?),
        None => None,
    };
    let after = page.cursor::<HoldId>()?;
    let limit = page.limit();
    let asked = app.shards.ask_all(
        || Command::ReadHolds {
            org,
            workflow,
            after,
            limit: limit + 1,
        },
        Duration::from_secs(10),
    );
    let mut holds = Vec::new();
    for reply in asked.await.map_err(unanswered)? {
        match reply.outcome {
            Outcome::Holds(part) => holds.extend(part),
            _ => return Err(unexpected(&reply)),
        }
    }
    holds.sort_unstable_by_key(|hold| hold.id);
    let more = holds.len() > limit;
    holds.truncate(limit);
    let next = holds
        .last()
        .filter(|_| more)
        .map(|hold| hold.id.to_string());
    let data: Vec<_> = holds.iter().map(show).collect();
    Ok(json_response(StatusCode::OK, &List::new(data, next)))
}

/// Free what is left of a hold, with a reason for the log. What its call still reports is booked all the
/// same.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/holds/{hold_id}/release",
    operation_id = "release_hold",
    tag = "workflows",
    security(("session" = []), ("cookie" = [])),
    params(HoldPath),
    request_body = Release,
    responses(
        (status = 200, description = "It is free", body = Released<'_>),
        BodyErrors, OrgErrors, BusyError
    )
)]
async fn release(
    State(app): State<Arc<App>>,
    Path((org, hold)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let hold = id::<HoldId>(&hold, "hold")?;
    let body: Release = admitted.received.json()?;
    let reason = text::reason(&body.reason, 1)?;
    let command = Command::Release {
        org: admitted.org,
        hold,
        note: reason.to_owned(),
        actor: admitted.actor(),
    };
    let reply = app.call(command).await?;
    match &reply.outcome {
        Outcome::Released(hold) => {
            let body = Released {
                id: hold.id.to_string(),
                workflow_id: hold.workflow.to_string(),
                released_nanos: hold.left.0,
                released_cents: hold.left.cents_up(),
                reason,
            };
            Ok(json_response(StatusCode::OK, &body))
        }
        _ => Err(unexpected(&reply)),
    }
}
