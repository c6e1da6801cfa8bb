//! `/track` and `/track/batch`: what happened. A report is never shed for load and never refused
//! for its contents once its caller is known; a batch names the events it could not read.

use super::decision::{json_response, reservation};
use super::number;
use crate::app::{App, unanswered};
use crate::error::{ApiError, ApiResult};
use crate::hash;
use crate::manage::workflows::StateName;
use crate::openapi::{
    BodyErrors, BusyError, ErrorBody, FaultError, KeyErrors, ProtocolHeader, SignatureHeaders,
    StrictHeader, WorkflowHeader,
};
use crate::request::{self, Received};
use crate::sign_in::{self, Caller, Denied, Signing};
use crate::text::{self, cut};
use axum::extract::{Request, State};
use engine::command::{Reported, Tracked};
use engine::limits;
use http::StatusCode;
use persist::record::{Scopes, Tokens};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(single))
        .routes(routes!(batch))
}

/// Events given to the engine in one command.
const CHUNK: usize = 1000;

/// Something that happened. Fields that are not needed are skipped.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Event, example = json!({
    "event_id": "6d1f9f6e-2f7a-4a8e-9a1c-0d8f5f3b7c21", "type": "llm_call",
    "reservation_id": "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b", "model": "gpt-4o-mini",
    "input_tokens": 1200, "output_tokens": 340
}))]
struct Event {
    // What decides identity and money must be right.
    /// Makes it count once, however often it is sent.
    #[schema(min_length = 1, max_length = 128)]
    event_id: Option<String>,
    /// As the client totalled them.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    tokens: u64,
    /// Prompt.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    input_tokens: u64,
    /// Completion, reasoning included.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    output_tokens: u64,
    /// Read from the provider's cache.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    cache_read_tokens: u64,
    /// Written to it.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    cache_write_tokens: u64,
    /// Inside `output_tokens`.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
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

/// Report an event. Its cost is booked, whatever it is: on the hold it names as far as that reaches,
/// beyond it in full.
#[utoipa::path(
    post,
    path = "/api/v1/track",
    operation_id = "track",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, StrictHeader, SignatureHeaders),
    request_body = Event,
    responses(
        (status = 200, description = "Booked, or known already", body = Booked),
        (status = 422, description = "Under X-NullRun-Strict-Status: booked in full, and more than was \
            reserved", body = ErrorBody),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn single(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = sign_in(&app, &received)?;
    received.check_content_type()?;
    request::check_object(&received.body)?;
    let event: Event = parse(
        &received.body,
        |b| serde_json::from_slice(b).ok(),
        request::parse::<Event>,
    )?;
    let event_id = event.event_id.clone();
    let reservation_id = event.reservation_id.clone();
    let event = reported(&app, &caller, event, received.header("x-workflow-id"))?;
    let key = &caller.key;
    let booked = app.shards.book(key.org, key.id, vec![event]).await;
    let tracked = booked.map_err(unanswered)?;
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
    let body = Booked {
        event_id,
        idempotent_replay: tracked.duplicate,
        cost_nanos: tracked.cost.0,
        cost_cents: tracked.cost.cents_half_up(),
        cost_source: if tracked.provisional {
            CostSource::Provisional
        } else {
            CostSource::Authoritative
        },
        confidence: if tracked.provisional {
            Confidence::Low
        } else {
            Confidence::High
        },
        processing_mode: "sync",
        workflow_id: tracked.workflow.to_string(),
        workflow_state: StateName::of(tracked.state),
        overage: overage.map(|overage| Overage {
            nanos: overage.0,
            cents: overage.cents_up(),
        }),
        actions_taken: [],
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// What became of an event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventBooked)]
struct Booked {
    event_id: Option<String>,
    /// It was known, and nothing was booked now.
    idempotent_replay: bool,
    cost_nanos: i64,
    /// Half up.
    cost_cents: i64,
    cost_source: CostSource,
    confidence: Confidence,
    /// Always `sync`: the answer comes when it is durable.
    #[schema(pattern = "^sync$")]
    processing_mode: &'static str,
    /// Where it was booked.
    workflow_id: String,
    workflow_state: StateName,
    /// What was spent beyond the hold; null if nothing was, or there was no hold.
    overage: Option<Overage>,
    /// Always empty.
    #[schema(value_type = Vec<String>, max_items = 0)]
    actions_taken: [String; 0],
}

/// Where a price is from.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum CostSource {
    /// From the price list.
    Authoritative,
    /// No price is known; what is booked is corrected when there is one.
    Provisional,
}

/// How sure a cost is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CostConfidence)]
enum Confidence {
    /// Of a known price.
    High,
    /// Of a provisional one.
    Low,
}

/// What was spent beyond a hold.
#[derive(Serialize, ToSchema)]
struct Overage {
    nanos: i64,
    /// Rounded up.
    cents: i64,
}

fn unreadable() -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "the engine gave another kind of answer",
    )
}

/// Events, in order.
#[derive(ToSchema)]
#[schema(as = EventBatch)]
#[expect(dead_code, reason = "it only describes")]
struct Events {
    #[schema(max_items = 10000)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow, deserialize_with = "at_most")]
    events: Vec<&'a RawValue>,
}

/// What is wrong with a body that is no [`Batch`].
fn not_a_batch(body: &[u8]) -> ApiError {
    let unread = request::parse::<Unread>(body).err();
    unread.unwrap_or_else(|| {
        let why = format!("events must be a list of events, {BATCH_EVENTS} at most");
        ApiError::field("events", why)
    })
}

/// Events in one report: what is said of those that cannot be read must not outgrow the body by much.
const BATCH_EVENTS: usize = 10_000;

fn at_most<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<&'de RawValue>, D::Error> {
    struct AtMost;
    impl<'de> Visitor<'de> for AtMost {
        type Value = Vec<&'de RawValue>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {BATCH_EVENTS} events")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut events = Vec::with_capacity(list.size_hint().unwrap_or(128).min(BATCH_EVENTS));
            while let Some(event) = list.next_element()? {
                if events.len() == BATCH_EVENTS {
                    return Err(de::Error::invalid_length(events.len() + 1, &self));
                }
                events.push(event);
            }
            Ok(events)
        }
    }
    deserializer.deserialize_seq(AtMost)
}

/// Report many events: 100 are usual, 10,000 are taken. One that cannot be read is named in
/// `rejection_details`, and the others are stored.
#[utoipa::path(
    post,
    path = "/api/v1/track/batch",
    operation_id = "track_batch",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, SignatureHeaders),
    request_body = Events,
    responses(
        (status = 200, description = "What became of each", body = Report),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn batch(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let caller = sign_in(&app, &received)?;
    received.check_content_type()?;
    request::check_object(&received.body)?;
    let cleaned;
    let batch = match serde_json::from_slice::<Batch<'_>>(&received.body) {
        Ok(batch) => batch,
        Err(_) => {
            cleaned = number::without_nan(&received.body);
            let body = cleaned.as_deref().unwrap_or(&received.body);
            serde_json::from_slice(body).map_err(|_| not_a_batch(body))?
        }
    };
    let mut answer = Report::default();
    let mut events = Vec::with_capacity(batch.events.len().min(CHUNK));
    for (index, raw) in batch.events.iter().enumerate() {
        match read(&app, &caller, raw, received.header("x-workflow-id")) {
            Ok(event) => events.push(event),
            Err(error) => answer.reject(index, raw, error),
        }
        if events.len() == CHUNK {
            book(&app, &caller, std::mem::take(&mut events), &mut answer).await?;
        }
    }
    if !events.is_empty() {
        book(&app, &caller, events, &mut answer).await?;
    }
    Ok(json_response(StatusCode::OK, &answer))
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
    answer: &mut Report,
) -> ApiResult<()> {
    let ids: Vec<_> = events.iter().map(|event| event.event_id.clone()).collect();
    let key = &caller.key;
    let booked = app.shards.book(key.org, key.id, events).await;
    let tracked = booked.map_err(unanswered)?;
    if tracked.len() != ids.len() {
        return Err(unreadable());
    }
    for (id, tracked) in ids.into_iter().zip(&tracked) {
        answer.accept(id, tracked);
    }
    Ok(())
}

/// What became of a batch.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = EventReport)]
struct Report {
    /// Stored, or known already.
    accepted: u64,
    /// Their ids: none of them need be sent again.
    accepted_event_ids: Vec<String>,
    /// How many were known already.
    duplicates: u64,
    /// What was booked, in nano-dollars.
    cost_nanos: i64,
    /// Always null; `rejection_details` has them.
    rejected: Option<u64>,
    /// Those that could not be read.
    rejection_details: Vec<Rejection>,
    /// Always empty.
    #[schema(value_type = Vec<String>, max_items = 0)]
    actions: [String; 0],
    /// Always empty.
    #[schema(value_type = Vec<String>, max_items = 0)]
    actions_taken: [String; 0],
    /// Always empty.
    #[schema(value_type = Vec<String>, max_items = 0)]
    messages: [String; 0],
}

/// An event that could not be read.
#[derive(Serialize, ToSchema)]
#[schema(as = EventRejection)]
struct Rejection {
    /// If it has one that can be read.
    event_id: Option<String>,
    /// Its place in the batch, from 0.
    index: usize,
    #[schema(example = "invalid_field")]
    reason: &'static str,
    message: String,
}

impl Report {
    fn accept(&mut self, id: Option<String>, tracked: &Tracked) {
        self.accepted += 1;
        self.duplicates += u64::from(tracked.duplicate);
        self.cost_nanos = self.cost_nanos.saturating_add(tracked.cost.0);
        // Known before or stored now: either way the client must not send it again.
        self.accepted_event_ids.extend(id);
    }

    fn reject(&mut self, index: usize, raw: &RawValue, error: ApiError) {
        #[derive(Deserialize)]
        struct Id {
            event_id: Option<String>,
        }
        let id = serde_json::from_str::<Id>(raw.get())
            .ok()
            .and_then(|id| id.event_id);
        self.rejection_details.push(Rejection {
            event_id: id.map(|id| cut(id, limits::ID_BYTES)),
            index,
            reason: error.slug,
            message: error.message,
        });
    }
}

/// The engine's view of an event: where it counts, what it carries.
fn reported(app: &App, caller: &Caller, event: Event, header: Option<&str>) -> ApiResult<Reported> {
    let key = &caller.key;
    if let Some(id) = &event.event_id {
        text::id("event_id", id)?;
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
        elsewhere: false,
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
