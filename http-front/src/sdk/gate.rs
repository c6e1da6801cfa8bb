//! `/gate`, `/execute`, `/check`: may this call run?

use super::decision::{Answers, Echo, NoReservation, OtherOperation, Style, render, reservation};
use super::number;
use crate::app::App;
use crate::error::ApiResult;
use crate::hash;
use crate::openapi::{
    BodyErrors, KeyError, ProtocolHeader, SignatureHeaders, StrictHeader, WorkflowHeader,
};
use crate::request::{self, Received};
use crate::shards::Unanswered;
use crate::sign_in::{self, Caller, Denied, Signing};
use crate::{clock, text};
use axum::extract::{Request, State};
use axum::response::Response;
use engine::code::Code;
use engine::command::{Ask, ChainAsk, Command, Decision, Outcome, Protocol};
use engine::directory::KeyEntry;
use engine::engine::refused;
use engine::limits;
use persist::record::{Endpoint, Operation, Scopes};
use persist::{HoldId, WorkflowId};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(gate))
        .routes(routes!(execute))
        .routes(routes!(check))
}

/// A call that asks whether it may run. Clients send more, which is not needed to decide.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Call, example = json!({
    "operation_id": "3f983b39-8559-45af-a804-487542e94b1c", "model": "gpt-4o-mini",
    "tools": ["send_mail"], "estimated_tokens": 1200, "max_output_tokens": 500
}))]
struct Body {
    /// Must be the key's, if it is there.
    organization_id: Option<String>,
    /// Of `/execute`: the `reservation_id` of its gate, whose hold it then runs on.
    execution_id: Option<String>,
    trace_id: Option<String>,
    /// One tool; it adds to `tools`.
    #[schema(max_length = 256)]
    tool: Option<String>,
    /// The tools the call will run.
    #[schema(max_items = 128)]
    tools: Option<Vec<String>>,
    #[schema(example = "gpt-4o-mini")]
    model: Option<String>,
    /// Prompt tokens; 0 and 1 mean that they are not known.
    #[serde(default, deserialize_with = "number::count")]
    #[schema(value_type = Option<u64>, maximum = 1000000000000_u64)]
    estimated_tokens: u64,
    /// The most the model may write.
    #[serde(default, deserialize_with = "number::maybe")]
    #[schema(maximum = 1000000000000_u64)]
    max_output_tokens: Option<u64>,
    /// Makes a repeated request the same request, and a gate and its execute one call.
    operation_id: Option<String>,
    approval_id: Option<String>,
    action_digest: Option<String>,
    /// The chain of calls it belongs to.
    #[schema(max_length = 128)]
    chain_id: Option<String>,
    /// `end` ends the chain.
    chain_op: Option<String>,
    /// The most the chain may spend, if this call begins it.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    max_cents: Option<i64>,
}

/// Ask before a step of an agent: policies, rates and budgets decide, and money is held for it.
#[utoipa::path(
    post,
    path = "/api/v1/gate",
    operation_id = "gate",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, StrictHeader, SignatureHeaders),
    request_body = Body,
    responses(Answers<'_>, OtherOperation<'_>, BodyErrors, KeyError)
)]
async fn gate(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    decide(&app, request, Endpoint::Gate).await
}

/// Ask before a tool runs: the same questions as at the gate. With the reservation of a gate it runs on
/// that hold; without one it gets its own.
#[utoipa::path(
    post,
    path = "/api/v1/execute",
    operation_id = "execute",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, StrictHeader, SignatureHeaders),
    request_body = Body,
    responses(Answers<'_>, NoReservation<'_>, OtherOperation<'_>, BodyErrors, KeyError)
)]
async fn execute(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    decide(&app, request, Endpoint::Execute).await
}

/// Ask whether a call of this size would find its workflow running and its budgets open. Nothing is held
/// or counted.
#[utoipa::path(
    post,
    path = "/api/v1/check",
    operation_id = "check",
    tag = "agents",
    security(("api_key" = [])),
    params(ProtocolHeader, WorkflowHeader, StrictHeader, SignatureHeaders),
    request_body = Body,
    responses(Answers<'_>, BodyErrors, KeyError)
)]
async fn check(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    decide(&app, request, Endpoint::Check).await
}

async fn decide(app: &App, request: Request, endpoint: Endpoint) -> ApiResult {
    let received = request::receive(request).await?;
    // Before anything else: a client of another age must be told so.
    let protocol = received.protocol()?;
    let style = Style {
        endpoint,
        protocol,
        strict_status: received.strict_status(),
    };
    let scope = if endpoint == Endpoint::Execute {
        Scopes::EXECUTE
    } else {
        Scopes::GATE
    };
    let signed_in = sign_in::key(
        app,
        &received.headers,
        &received.path,
        &received.body,
        scope,
        Signing::Expected,
    );
    let caller = match signed_in {
        Ok(caller) => caller,
        Err(denied) => return denied_answer(app, denied, &received, style),
    };
    let body: Body = received.json()?;
    let echo = Echo {
        operation_id: body.operation_id.as_deref(),
        execution_id: body.execution_id.as_deref(),
        digest: body.action_digest.as_deref(),
        request_id: received.header("x-request-id"),
    };
    let decision = match ask(app, &caller, &body, &received, style) {
        Err(refusal) => *refusal,
        Ok(_) if app.is_stopping() => stopping(),
        Ok(_) if !app.log.room().is_plenty() => no_room(),
        Ok(ask) => answer(app, ask).await,
    };
    app.metrics.decided(endpoint, &decision);
    Ok(render(&decision, echo, style))
}

async fn answer(app: &App, ask: Ask) -> Decision {
    let patience = Duration::from_millis(app.config.admission_deadline_ms);
    match app.shards.ask(Command::Ask(Box::new(ask)), patience).await {
        Ok(reply) => match reply.outcome {
            Outcome::Decision(decision) => decision,
            _ => stopping(),
        },
        Err(Unanswered::Overloaded) => refused(
            Code::Overloaded,
            "too many requests wait; ask again in a second",
            Some(1000),
        ),
        Err(Unanswered::TooLate) => refused(
            Code::DeadlineExceeded,
            "the disk did not confirm in time, so nothing is held; ask again",
            Some(1000),
        ),
        Err(Unanswered::Stopping) => stopping(),
    }
}

fn no_room() -> Decision {
    refused(
        Code::StorageFull,
        "the gateway's disk has no room for what it would have to remember; its operator must free \
         some, or raise NULLRUN_LOG_QUOTA_MIB",
        Some(5000),
    )
}

fn stopping() -> Decision {
    refused(
        Code::ShuttingDown,
        "the gateway is stopping; ask again in a moment",
        Some(1000),
    )
}

/// At protocol 4 a 401 stops the agent; before that it would let it go on, so known keys are told
/// with a block.
fn denied_answer(app: &App, denied: Denied, received: &Received, style: Style) -> ApiResult {
    let told = match &denied {
        Denied::Known(code, why)
            if style.protocol < Protocol::V4 || *code == Code::MissingScope =>
        {
            Some((*code, *why))
        }
        // No client stops at a 5xx.
        Denied::Other(_) => Some((
            Code::InternalError,
            "the gateway cannot check this key; its log says what to do",
        )),
        _ => None,
    };
    match told {
        Some((code, why)) => {
            let body: Option<Body> = serde_json::from_slice(&received.body).ok();
            let body = body.as_ref();
            let echo = Echo {
                operation_id: body.and_then(|body| body.operation_id.as_deref()),
                execution_id: body.and_then(|body| body.execution_id.as_deref()),
                digest: body.and_then(|body| body.action_digest.as_deref()),
                request_id: received.header("x-request-id"),
            };
            let decision = refused(code, why, None);
            app.metrics.decided(style.endpoint, &decision);
            Ok(render(&decision, echo, style))
        }
        None => Err(denied.into_error()),
    }
}

/// The question for the engine, or the refusal that needs no engine.
fn ask(
    app: &App,
    caller: &Caller,
    body: &Body,
    received: &Received,
    style: Style,
) -> Result<Ask, Box<Decision>> {
    let key = &caller.key;
    let no = |code, why: &str| Box::new(refused(code, why, None));
    if body
        .organization_id
        .as_ref()
        .is_some_and(|org| !names(org, key))
    {
        return Err(no(
            Code::OrgMismatch,
            "organization_id is not the organization of this API key",
        ));
    }
    let workflow = workflow(app, key, received.header("x-workflow-id"))?;
    let tools = tool_names(body.tools.iter().flatten().chain(&body.tool))?;
    let model = model(body.model.as_deref());
    let kept = |text: &Option<String>| text.clone().map(|text| text::cut(text, limits::ID_BYTES));
    let digest = body.action_digest.as_deref();
    let now = clock::now();
    let slot = workflow.slot(key.org);
    let chain = chain(body, workflow)?;
    let tools_line = tools.join("\n");
    let id = body.operation_id.as_deref().filter(|id| !id.is_empty());
    let named = |id: &str| hash::identity(&[b"call", &workflow.0.to_le_bytes(), id.as_bytes()]);
    let call = id.map(named);
    let operation = call.map(|call| {
        let asked = match &body.approval_id {
            Some(approval) => {
                hash::identity(&[b"approved", &call.to_le_bytes(), approval.as_bytes()])
            }
            None => call,
        };
        let says = hash::identity(&[
            b"fingerprint",
            tools_line.as_bytes(),
            body.tool.as_deref().unwrap_or_default().as_bytes(),
            model.unwrap_or_default().as_bytes(),
            &body.estimated_tokens.to_le_bytes(),
            &body.max_output_tokens.unwrap_or(u64::MAX).to_le_bytes(),
            digest.unwrap_or_default().as_bytes(),
        ]);
        Operation::of(asked, style.endpoint, says as u64)
    });
    Ok(Ask {
        endpoint: style.endpoint,
        protocol: style.protocol,
        org: key.org,
        key: key.id,
        workflow,
        call,
        operation,
        operation_id: kept(&body.operation_id),
        execution_id: kept(&body.execution_id),
        trace_id: kept(&body.trace_id),
        model: model.map(|model| text::cut(model.to_owned(), limits::NAME_BYTES)),
        model_lower: model.map(str::to_ascii_lowercase),
        tools_line,
        tools,
        digest: kept(&body.action_digest),
        estimated_tokens: body.estimated_tokens,
        max_output_tokens: body.max_output_tokens,
        chain,
        chain_end: ends_chain(body, style.endpoint),
        reservation: reservation(body.execution_id.as_deref()),
        must_find_reservation: style.strict_status
            && style.endpoint == Endpoint::Execute
            && body.execution_id.is_some(),
        new_hold: HoldId::mint(now, slot, u64::from_le_bytes(hash::random())),
        noted: Vec::new(),
        figures: None,
    })
}

/// The chain a request belongs to.
fn chain(body: &Body, workflow: WorkflowId) -> Result<Option<ChainAsk>, Box<Decision>> {
    let Some(id) = body.chain_id.as_deref().filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let no = |why: &str| Err(Box::new(refused(Code::ChainIdInvalid, why, None)));
    if !text::fits_id(id) || text::has_control(id) {
        return no(&format!(
            "chain_id takes 1 to {} bytes and no control characters",
            limits::ID_BYTES
        ));
    }
    if body
        .max_cents
        .is_some_and(|cents| !(0..=limits::BUDGET_CENTS).contains(&cents))
    {
        return no(&format!("max_cents takes 0 to {}", limits::BUDGET_CENTS));
    }
    Ok(Some(ChainAsk {
        key: chain_key(workflow, id),
        id: id.to_owned(),
        cap: body.max_cents.map(persist::Nanos::from_cents),
    }))
}

/// A chain's identity: one id in two workflows is two chains.
#[must_use]
pub fn chain_key(workflow: WorkflowId, id: &str) -> u128 {
    hash::identity(&[b"chain", &workflow.0.to_le_bytes(), id.as_bytes()])
}

/// Does the request end a chain and ask for nothing else? Clients repeat a chain's word on calls that
/// want to run: those are decided like any other.
fn ends_chain(body: &Body, endpoint: Endpoint) -> bool {
    let wants_to_run = body.tool.is_some()
        || body.tools.is_some()
        || body.model.is_some()
        || body.max_output_tokens.is_some()
        || body.estimated_tokens > 1;
    endpoint == Endpoint::Gate && body.chain_op.as_deref() == Some("end") && !wants_to_run
}

fn names(text: &str, key: &KeyEntry) -> bool {
    text.parse() == Ok(key.org)
}

/// The workflow a call counts for: the key's; a key bound to none picks one by header.
pub fn workflow(
    app: &App,
    key: &KeyEntry,
    header: Option<&str>,
) -> Result<WorkflowId, Box<Decision>> {
    let named = header
        .filter(|text| !text.is_empty())
        .map(|text| app.directory().resolve(key.org, text));
    match (key.workflow, named) {
        (Some(own), None) => Ok(own),
        (Some(own), Some(named)) if named == Some(own) => Ok(own),
        (Some(_), Some(_)) => Err(Box::new(refused(
            Code::WorkflowIdBodyMismatch,
            "X-Workflow-Id names another workflow than the one this API key is bound to; leave it out",
            None,
        ))),
        (None, Some(Some(named))) => Ok(named),
        (None, _) => Err(Box::new(refused(
            Code::WorkflowIdRequired,
            "this API key is bound to no workflow; name one of the organization's in X-Workflow-Id",
            None,
        ))),
    }
}

/// The model a call names; none for the clients' placeholder.
#[must_use]
pub fn model(named: Option<&str>) -> Option<&str> {
    named.filter(|model| *model != "budget-precheck" && !model.is_empty())
}

/// `tools` and `tool` together, lower case, without doubles.
pub fn tool_names<'a>(
    named: impl Iterator<Item = &'a String>,
) -> Result<Vec<String>, Box<Decision>> {
    let mut tools = Vec::new();
    for (index, name) in named.enumerate() {
        let name = name.trim();
        if name.is_empty() {
            continue;
        }
        if name.len() > limits::NAME_BYTES || text::has_control(name) || index >= limits::TOOLS {
            let why = format!(
                "a tool name has at most {} bytes and no control characters, and a call at most {} tools",
                limits::NAME_BYTES,
                limits::TOOLS
            );
            return Err(Box::new(refused(Code::ToolNameInvalid, &why, None)));
        }
        let lower = name.to_lowercase();
        if !tools.contains(&lower) {
            tools.push(lower);
        }
    }
    Ok(tools)
}

/// `POST /floor`: reads the body and gives a fixed answer of a gate answer's size; for measuring
/// what HTTP alone costs.
pub async fn floor(request: Request) -> ApiResult<Response> {
    let received = request::receive(request).await?;
    drop(received);
    const ANSWER: &str = r#"{"decision":"allow","decision_source":"gateway","operation_id":"3f983b39-8559-45af-a804-487542e94b1c","reservation_id":"019ab2f4-0000-7000-8000-000000000000","execution_id":"019ab2f4-0000-7000-8000-000000000000","explanation":"allowed","explanations":[],"category":null,"error_code":null,"details":{},"policy_id":null,"policy_version":null,"remaining_budget_cents":100000,"projected_cost_cents":1,"action_digest":null,"retry_after_ms":null}"#;
    let mut response = Response::new(axum::body::Body::from(ANSWER));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}
