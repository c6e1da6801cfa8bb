//! Decision bodies. One shape serves every published client: `decision_source` is always
//! `gateway`, a block always has a category, an explanation that begins with its code, and a list of
//! explanations that is not empty (`docs/compatibility.md`).

use crate::clock;
use crate::error::retry_after;
use axum::response::{IntoResponse as _, Response};
use engine::code::Code;
use engine::command::{Block, Decision, Protocol, Verdict};
use engine::rules::Compiled;
use http::{HeaderValue, StatusCode, header};
use persist::HoldId;
use persist::record::{Arithmetic, Endpoint, Scope};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What of the request is echoed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo<'a> {
    /// `operation_id`.
    pub operation_id: Option<&'a str>,
    /// `execution_id`.
    pub execution_id: Option<&'a str>,
    /// `action_digest`.
    pub digest: Option<&'a str>,
}

/// How the answer is to look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Where it was asked.
    pub endpoint: Endpoint,
    /// The client's generation.
    pub protocol: Protocol,
    /// It wants the status codes of the documentation.
    pub strict_status: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    decision: &'static str,
    decision_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<bool>,
    operation_id: Option<&'a str>,
    reservation_id: Option<&'a str>,
    execution_id: Option<&'a str>,
    explanation: &'a str,
    explanations: &'a [&'a str],
    category: Option<&'static str>,
    error_code: Option<&'static str>,
    details: Value,
    policy_id: Option<String>,
    policy_version: Option<u64>,
    remaining_budget_cents: Option<i64>,
    projected_cost_cents: i64,
    action_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotent_replay: Option<bool>,
    retry_after_ms: Option<u64>,
}

/// The answer on the wire.
#[must_use]
pub fn render(decision: &Decision, echo: Echo<'_>, style: Style) -> Response {
    let remaining = decision.remaining.map(persist::Nanos::cents_down);
    let projected = decision.projected.cents_up();
    let check = style.endpoint == Endpoint::Check;
    match &decision.verdict {
        Verdict::Allow { hold, replayed } => {
            let id = hold.map(|hold| hold.to_string());
            let body = Body {
                decision: "allow",
                decision_source: "gateway",
                allowed: check.then_some(true),
                operation_id: echo.operation_id,
                reservation_id: id.as_deref(),
                execution_id: id.as_deref().or(echo.execution_id),
                explanation: "allowed",
                explanations: &[],
                category: None,
                error_code: None,
                details: Value::Object(Map::new()),
                policy_id: None,
                policy_version: None,
                remaining_budget_cents: remaining,
                projected_cost_cents: projected,
                action_digest: echo.digest,
                idempotent_replay: replayed.then_some(true),
                retry_after_ms: None,
            };
            json_response(StatusCode::OK, &body)
        }
        Verdict::Block(block) => {
            let body = Body {
                decision: "block",
                decision_source: "gateway",
                allowed: check.then_some(false),
                operation_id: echo.operation_id,
                reservation_id: None,
                execution_id: echo.execution_id,
                explanation: &block.explanation,
                explanations: &[&block.explanation],
                category: Some(block.code.category().name()),
                error_code: Some(block.code.name()),
                details: details(block),
                policy_id: block.policy.as_ref().map(|policy| policy.id.to_string()),
                policy_version: block.policy.as_ref().map(|policy| policy.version),
                remaining_budget_cents: remaining,
                projected_cost_cents: projected,
                action_digest: echo.digest,
                idempotent_replay: None,
                retry_after_ms: block.retry_after_ms,
            };
            let mut response = json_response(status(block.code, style), &body);
            if let Some(after) = block.retry_after_ms {
                retry_after(&mut response, after);
            }
            response
        }
    }
}

/// Refusals are 200: published clients run the agent's step on anything else.
fn status(code: Code, style: Style) -> StatusCode {
    let overload = code == Code::Overloaded && style.protocol == Protocol::V4;
    if style.strict_status || overload {
        return StatusCode::from_u16(code.strict_status()).unwrap_or(StatusCode::FORBIDDEN);
    }
    StatusCode::OK
}

fn details(block: &Block) -> Value {
    let mut details = Map::new();
    let mut put = |name: &str, value: Value| {
        details.insert(name.to_owned(), value);
    };
    put("error_code", json!(block.code.name()));
    if !block.reason.is_empty() {
        put("reason", json!(block.reason));
    }
    if block.code == Code::ToolBlocked {
        put("rule_kind", json!("tool_pattern"));
        put("enforcement_path", json!("policy"));
        put("tool", json!(block.tool));
        put("matched_pattern", json!(block.pattern));
    }
    if let Some(policy) = &block.policy {
        put("policy", shown(policy));
        put(
            "decision_context",
            json!({ "actor": policy.id.to_string() }),
        );
    }
    if let Some(budget) = &block.budget {
        put("budget", arithmetic(budget));
    }
    if let Some(at) = block.resets_at {
        put("resets_at", json!(clock::rfc3339(at)));
    }
    if let Some(after) = block.retry_after_ms {
        put("retry_after_ms", json!(after));
    }
    Value::Object(details)
}

fn shown(policy: &Compiled) -> Value {
    json!({ "id": policy.id.to_string(), "name": policy.name, "version": policy.version, "priority": policy.priority })
}

fn arithmetic(budget: &Arithmetic) -> Value {
    let scope = match budget.scope {
        Scope::Org => "org",
        Scope::Workflow => "workflow",
        Scope::ApiKey => "api_key",
    };
    json!({
        "scope": scope,
        "cap_nanos": budget.cap.0,
        "spent_nanos": budget.spent.0,
        "held_nanos": budget.held.0,
        "asked_nanos": budget.asked.0,
        "cap_cents": budget.cap.cents_down(),
    })
}

/// A JSON answer.
#[must_use]
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = (status, bytes).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The reservation a text names, if it could be one of ours.
#[must_use]
pub fn reservation(text: Option<&str>) -> Option<HoldId> {
    text.and_then(|text| text.parse().ok())
}
