//! `/gate`, `/execute`, `/check`: may this call run?

use super::decision::{Echo, Style, render, reservation};
use super::number;
use crate::app::App;
use crate::error::ApiResult;
use crate::hash;
use crate::request::{self, Received};
use crate::shards::Unanswered;
use crate::sign_in::{self, Caller, Denied, Signing};
use crate::{clock, text};
use axum::extract::{Request, State};
use axum::response::Response;
use engine::code::Code;
use engine::command::{Ask, Command, Decision, Outcome, Protocol};
use engine::directory::KeyEntry;
use engine::engine::refused;
use engine::limits;
use persist::record::{Endpoint, Operation, Scopes};
use persist::{HoldId, WorkflowId};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// What is read of a request; clients send more, which is not needed to decide.
#[derive(Debug, Deserialize)]
struct Body {
    organization_id: Option<String>,
    execution_id: Option<String>,
    trace_id: Option<String>,
    tool: Option<String>,
    tools: Option<Vec<String>>,
    model: Option<String>,
    #[serde(default, deserialize_with = "number::count")]
    estimated_tokens: u64,
    #[serde(default, deserialize_with = "number::maybe")]
    max_output_tokens: Option<u64>,
    operation_id: Option<String>,
    approval_id: Option<String>,
    action_digest: Option<String>,
    chain_op: Option<String>,
}

/// `POST /api/v1/gate`.
pub async fn gate(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    decide(&app, request, Endpoint::Gate).await
}

/// `POST /api/v1/execute`.
pub async fn execute(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    decide(&app, request, Endpoint::Execute).await
}

/// `POST /api/v1/check`.
pub async fn check(State(app): State<Arc<App>>, request: Request) -> ApiResult {
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
        Err(denied) => return denied_answer(denied, &received, style),
    };
    let body: Body = received.json()?;
    let echo = Echo {
        operation_id: body.operation_id.as_deref(),
        execution_id: body.execution_id.as_deref(),
        digest: body.action_digest.as_deref(),
    };
    let decision = match ask(app, &caller, &body, &received, style) {
        Err(refusal) => *refusal,
        Ok(_) if app.is_stopping() => stopping(),
        Ok(ask) => answer(app, ask).await,
    };
    Ok(render(&decision, echo, style))
}

async fn answer(app: &App, ask: Ask) -> Decision {
    let patience = Duration::from_millis(app.config.admission_deadline_ms);
    match app.shards.ask(Command::Ask(Box::new(ask)), patience).await {
        Ok(reply) => match reply.outcome {
            Outcome::Decision(decision) => *decision,
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

fn stopping() -> Decision {
    refused(
        Code::ShuttingDown,
        "the gateway is stopping; ask again in a moment",
        Some(1000),
    )
}

/// At protocol 4 a 401 stops the agent; before that it would let it go on, so known keys are told
/// with a block.
fn denied_answer(denied: Denied, received: &Received, style: Style) -> ApiResult {
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
            let echo = body.as_ref().map(|body| Echo {
                operation_id: body.operation_id.as_deref(),
                execution_id: body.execution_id.as_deref(),
                digest: body.action_digest.as_deref(),
            });
            Ok(render(
                &refused(code, why, None),
                echo.unwrap_or_default(),
                style,
            ))
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
    let tools = tools(body)?;
    let model = body
        .model
        .as_deref()
        .filter(|model| *model != "budget-precheck" && !model.is_empty());
    let kept = |text: &Option<String>| text.clone().map(|text| text::cut(text, limits::ID_BYTES));
    let digest = body.action_digest.as_deref();
    let now = clock::now();
    let slot = workflow.slot(key.org);
    let operation = body
        .operation_id
        .as_deref()
        .filter(|id| !id.is_empty())
        .map(|id| Operation {
            key: hash::identity(&[
                b"operation",
                &workflow.0.to_le_bytes(),
                endpoint_name(style.endpoint),
                id.as_bytes(),
                body.approval_id.as_deref().unwrap_or_default().as_bytes(),
            ]),
            fingerprint: hash::identity(&[
                b"fingerprint",
                tools.join("\n").as_bytes(),
                body.tool.as_deref().unwrap_or_default().as_bytes(),
                model.unwrap_or_default().as_bytes(),
                &body.estimated_tokens.to_le_bytes(),
                &body.max_output_tokens.unwrap_or(u64::MAX).to_le_bytes(),
                digest.unwrap_or_default().as_bytes(),
            ]) as u64,
        });
    Ok(Ask {
        endpoint: style.endpoint,
        protocol: style.protocol,
        org: key.org,
        key: key.id,
        workflow,
        operation,
        operation_id: kept(&body.operation_id),
        execution_id: kept(&body.execution_id),
        trace_id: kept(&body.trace_id),
        model: model.map(|model| text::cut(model.to_owned(), limits::NAME_BYTES)),
        tools,
        digest: kept(&body.action_digest),
        estimated_tokens: body.estimated_tokens,
        max_output_tokens: body.max_output_tokens,
        chain_end: ends_chain(body, style.endpoint),
        reservation: reservation(body.execution_id.as_deref()),
        must_find_reservation: style.strict_status
            && style.endpoint == Endpoint::Execute
            && body.execution_id.is_some(),
        new_hold: HoldId::mint(now, slot, u64::from_le_bytes(hash::random())),
    })
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
fn workflow(app: &App, key: &KeyEntry, header: Option<&str>) -> Result<WorkflowId, Box<Decision>> {
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

/// `tools` and `tool` together, lower case, without doubles.
fn tools(body: &Body) -> Result<Vec<String>, Box<Decision>> {
    let mut tools = Vec::new();
    for (index, name) in body.tools.iter().flatten().chain(&body.tool).enumerate() {
        let name = name.trim();
        if name.is_empty() {
            continue;
        }
        if name.len() > limits::NAME_BYTES || text::has_control(name) || index > limits::TOOLS {
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

const fn endpoint_name(endpoint: Endpoint) -> &'static [u8] {
    match endpoint {
        Endpoint::Gate => b"gate",
        Endpoint::Execute => b"execute",
        Endpoint::Check => b"check",
    }
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
