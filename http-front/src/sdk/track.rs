//! `/track` and `/track/batch`: what happened. A report is never shed for load and never refused
//! for its contents once its caller is known; a batch names the events it could not read.

use super::decision::{json_response, reservation};
use super::number;
use crate::app::{App, unanswered};
use crate::error::{ApiError, ApiResult};
use crate::hash;
use crate::request::{self, Received};
use crate::sign_in::{self, Caller, Denied, Signing};
use crate::text::cut;
use axum::extract::{Request, State};
use engine::command::{Command, Outcome, Reported, Track, Tracked};
use engine::limits;
use http::StatusCode;
use persist::record::{Scopes, Tokens};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// Events given to the engine in one command.
const CHUNK: usize = 1000;

/// One event as clients send it; fields that are not needed are skipped.
#[derive(Debug, Deserialize)]
struct Event {
    // What decides identity and money must be right.
    event_id: Option<String>,
    #[serde(default, deserialize_with = "number::count")]
    tokens: u64,
    #[serde(default, deserialize_with = "number::count")]
    input_tokens: u64,
    #[serde(default, deserialize_with = "number::count")]
    output_tokens: u64,
    #[serde(default, deserialize_with = "number::count")]
    cache_read_tokens: u64,
    #[serde(default, deserialize_with = "number::count")]
    cache_write_tokens: u64,
    #[serde(default, deserialize_with = "number::count")]
    reasoning_tokens: u64,
    // What only describes is taken as it comes: spend is not refused for a strange label.
    #[serde(rename = "type", default, deserialize_with = "number::text")]
    kind: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    reservation_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    execution_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    workflow_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    model: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    provider: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    tool_name: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    trace_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    span_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    parent_span_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    agent_id: Option<String>,
    #[serde(default, deserialize_with = "number::text")]
    error: Option<String>,
    #[serde(default, deserialize_with = "number::any_count")]
    depth: Option<u64>,
    #[serde(default, deserialize_with = "number::any_count")]
    latency_ms: Option<u64>,
}

fn sign_in(app: &App, received: &Received) -> ApiResult<Caller> {
    received.protocol()?;
    sign_in::key(
        app,
        &received.headers,
        &received.path,
        &received.body,
        Scopes::TRACK,
        Signing::Expected,
    )
    .map_err(Denied::into_error)
}

/// Python writes `NaN`; JSON does not know it.
fn parse<'a, T>(
    body: &'a [u8],
    read: impl Fn(&'a [u8]) -> Option<T>,
    again: impl Fn(&[u8]) -> ApiResult<T>,
) -> ApiResult<T> {
    match read(body) {
        Some(value) => Ok(value),
        None => again(&number::without_nan(body).unwrap_or_else(|| body.to_vec())),
    }
}

/// `POST /api/v1/track`.
pub async fn single(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = sign_in(&app, &received)?;
    received.check_content_type()?;
    let event: Event = parse(
        &received.body,
        |b| serde_json::from_slice(b).ok(),
        request::parse::<Event>,
    )?;
    let event_id = event.event_id.clone();
    let reservation_id = event.reservation_id.clone();
    let event = reported(&app, &caller, event, received.header("x-workflow-id"))?;
    let track = Track {
        org: caller.key.org,
        key: caller.key.id,
        events: vec![event],
    };
    let reply = app
        .shards
        .tell(Command::Track(Box::new(track)))
        .await
        .map_err(unanswered)?;
    let Outcome::Tracked(tracked) = reply.outcome else {
        return Err(unreadable());
    };
    let Some(tracked) = tracked.first() else {
        return Err(unreadable());
    };
    let overage = tracked.overage.filter(|overage| overage.is_positive());
    if let Some(overage) = overage.filter(|_| received.strict_status()) {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "consume_overbudget",
            "more was spent than was reserved; the event is booked in full",
        )
        .with("reservation_recorded", true)
        .with("event_id", event_id)
        .with("execution_id", reservation_id)
        .with("overage_nanos", overage.0)
        .with("actual_cost_cents", tracked.cost.cents_half_up()));
    }
    let body = json!({
        "event_id": event_id,
        "idempotent_replay": tracked.duplicate,
        "cost_nanos": tracked.cost.0,
        "cost_cents": tracked.cost.cents_half_up(),
        "cost_source": if tracked.provisional { "provisional" } else { "authoritative" },
        "confidence": if tracked.provisional { "low" } else { "high" },
        "processing_mode": "sync",
        "workflow_id": tracked.workflow.to_string(),
        "workflow_state": tracked.state.name(),
        "overage": overage.map(|overage| json!({ "nanos": overage.0, "cents": overage.cents_up() })),
        "actions_taken": [],
    });
    Ok(json_response(StatusCode::OK, &body))
}

fn unreadable() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the engine gave another kind of answer",
    )
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// `POST /api/v1/track/batch`.
pub async fn batch(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = sign_in(&app, &received)?;
    received.check_content_type()?;
    let body = match serde_json::from_slice::<Batch<'_>>(&received.body) {
        Ok(_) => Cow::Borrowed(&received.body[..]),
        Err(_) => number::without_nan(&received.body)
            .map_or(Cow::Borrowed(&received.body[..]), Cow::Owned),
    };
    let Ok(batch) = serde_json::from_slice::<Batch<'_>>(&body) else {
        return Err(request::parse::<Unread>(&body)
            .err()
            .unwrap_or_else(|| ApiError::field("events", "events must be a list of events")));
    };
    let mut answer = Answer::default();
    let mut events = Vec::with_capacity(batch.events.len().min(CHUNK));
    for (index, raw) in batch.events.iter().enumerate() {
        match read(&app, &caller, raw, received.header("x-workflow-id")) {
            Ok(event) => events.push(event),
            Err(error) => answer.reject(index, raw, &error),
        }
        if events.len() == CHUNK {
            book(&app, &caller, std::mem::take(&mut events), &mut answer).await?;
        }
    }
    if !events.is_empty() {
        book(&app, &caller, events, &mut answer).await?;
    }
    Ok(json_response(StatusCode::OK, &answer.body()))
}

/// The shape a batch must have, for the error's words.
#[derive(Deserialize)]
struct Unread {
    #[serde(rename = "events")]
    _events: Vec<serde::de::IgnoredAny>,
}

fn read(app: &App, caller: &Caller, raw: &RawValue, workflow: Option<&str>) -> ApiResult<Reported> {
    let event: Event = request::parse(raw.get().as_bytes())?;
    reported(app, caller, event, workflow)
}

async fn book(
    app: &App,
    caller: &Caller,
    events: Vec<Reported>,
    answer: &mut Answer,
) -> ApiResult<()> {
    let ids: Vec<_> = events.iter().map(|event| event.event_id.clone()).collect();
    let track = Track {
        org: caller.key.org,
        key: caller.key.id,
        events,
    };
    let reply = app
        .shards
        .tell(Command::Track(Box::new(track)))
        .await
        .map_err(unanswered)?;
    let Outcome::Tracked(tracked) = reply.outcome else {
        return Err(unreadable());
    };
    for (id, tracked) in ids.into_iter().zip(&tracked) {
        answer.accept(id, tracked);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Answer {
    accepted: u64,
    duplicates: u64,
    ids: Vec<String>,
    rejections: Vec<Value>,
    cost: persist::Nanos,
}

impl Answer {
    fn accept(&mut self, id: Option<String>, tracked: &Tracked) {
        self.accepted += 1;
        self.duplicates += u64::from(tracked.duplicate);
        self.cost += tracked.cost;
        // Known before or stored now: either way the client must not send it again.
        self.ids.extend(id);
    }

    fn reject(&mut self, index: usize, raw: &RawValue, error: &ApiError) {
        #[derive(Deserialize)]
        struct Id {
            event_id: Option<String>,
        }
        let id = serde_json::from_str::<Id>(raw.get())
            .ok()
            .and_then(|id| id.event_id);
        self.rejections.push(json!({
            "event_id": id.map(|id| cut(id, limits::ID_BYTES)),
            "index": index,
            "reason": error.slug,
            "message": error.message,
        }));
    }

    fn body(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "accepted_event_ids": self.ids,
            "duplicates": self.duplicates,
            "cost_nanos": self.cost.0,
            "rejected": null,
            "rejection_details": self.rejections,
            "actions": [],
            "actions_taken": [],
            "messages": [],
        })
    }
}

/// The engine's view of an event: where it counts, what it carries.
fn reported(app: &App, caller: &Caller, event: Event, header: Option<&str>) -> ApiResult<Reported> {
    let key = &caller.key;
    // An identity that was cut would be somebody else's.
    if event
        .event_id
        .as_ref()
        .is_some_and(|id| id.len() > limits::ID_BYTES || id.is_empty())
    {
        return Err(ApiError::field(
            "event_id",
            format!("event_id takes 1 to {} bytes", limits::ID_BYTES),
        ));
    }
    let label = event
        .workflow_id
        .as_deref()
        .or(header)
        .filter(|label| !label.is_empty());
    let workflow = app.directory().charge_workflow(key, label).ok_or_else(|| {
        ApiError::new(
            StatusCode::CONFLICT,
            "conflict",
            "this organization has no workflow",
        )
    })?;
    let own = label.is_some_and(|label| label.parse() == Ok(workflow));
    let kind = event.kind.unwrap_or_else(|| "event".to_owned());
    let execution = reservation(event.execution_id.as_deref());
    let outermost_end = kind == "span_end" && event.depth == Some(0);
    let id = |text: Option<String>| text.map(|text| cut(text, limits::ID_BYTES));
    let name = |text: Option<String>| text.map(|text| cut(text, limits::NAME_BYTES));
    Ok(Reported {
        event_key: event
            .event_id
            .as_ref()
            .map(|id| hash::identity(&[b"event", &key.org.0.to_le_bytes(), id.as_bytes()])),
        holds: [reservation(event.reservation_id.as_deref()), execution],
        workflow,
        ends: execution.filter(|_| outermost_end),
        kind: cut(kind, limits::ID_BYTES),
        event_id: event.event_id,
        model: name(event.model).filter(|model| !model.is_empty()),
        provider: name(event.provider).filter(|provider| !provider.is_empty()),
        tokens: Tokens {
            total: event.tokens,
            input: event.input_tokens,
            output: event.output_tokens,
            cache_read: event.cache_read_tokens,
            cache_write: event.cache_write_tokens,
            reasoning: event.reasoning_tokens,
        },
        tool: name(event.tool_name),
        trace_id: id(event.trace_id),
        span_id: id(event.span_id),
        parent_span_id: id(event.parent_span_id),
        execution_id: id(event.execution_id),
        label: if own { None } else { name(event.workflow_id) },
        agent_id: id(event.agent_id),
        latency_ms: event.latency_ms,
        error: name(event.error),
    })
}
