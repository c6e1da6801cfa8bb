//! Decision bodies. One shape serves every published client: `decision_source` is always
//! `gateway`, a block always has a category, an explanation that begins with its code, and a list of
//! explanations that is not empty (`docs/compatibility.md`).

use crate::clock;
use crate::error::retry_after;
use crate::manage::policies::{Note, notes};
use crate::openapi::ErrorBody;
use axum::response::{IntoResponse as _, Response};
use engine::code::{Category, Code};
use engine::command::{Block, Decision, Protocol, Verdict};
use engine::rules::Compiled;
use http::{HeaderValue, StatusCode, header};
use persist::HoldId;
use persist::record::{Arithmetic, Endpoint, Scope};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

/// What of the request is echoed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo<'a> {
    /// `operation_id`.
    pub operation_id: Option<&'a str>,
    /// `execution_id`.
    pub execution_id: Option<&'a str>,
    /// `action_digest`.
    pub digest: Option<&'a str>,
    /// What the request is known by.
    pub request_id: Option<&'a str>,
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

/// May the call run? Refusals are 200 with `decision: "block"`, for published clients run the call on
/// anything else.
#[derive(Serialize, ToSchema)]
#[schema(as = Decision, example = json!({
    "decision": "block", "decision_source": "gateway", "operation_id": "op-1",
    "reservation_id": null, "execution_id": null,
    "explanation": "BUDGET_HARD_BLOCKED: budget of the workflow exhausted: of $5.00 this month, $4.99 is spent and $0.01 held, and the call asks for $0.01",
    "explanations": ["BUDGET_HARD_BLOCKED: budget of the workflow exhausted: of $5.00 this month, $4.99 is spent and $0.01 held, and the call asks for $0.01"],
    "category": "budget", "error_code": "BUDGET_HARD_BLOCKED",
    "details": {
        "error_code": "BUDGET_HARD_BLOCKED", "reason": "budget",
        "budget": {
            "scope": "workflow", "cap_nanos": 5000000000_i64, "spent_nanos": 4990000000_i64,
            "held_nanos": 10000000, "asked_nanos": 10000000, "cap_cents": 500
        },
        "resets_at": "2026-12-01T00:00:00Z"
    },
    "policy_id": null, "policy_version": null, "remaining_budget_cents": 0,
    "projected_cost_cents": 1, "action_digest": null, "retry_after_ms": null
}))]
pub struct Body<'a> {
    decision: Word,
    /// Always `gateway`.
    #[schema(pattern = "^gateway$")]
    decision_source: &'static str,
    /// Only of `/check`: the decision as a truth value.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<bool>,
    /// As the request named it.
    operation_id: Option<&'a str>,
    /// The hold the call runs on: `/track` names it, `/cancel` frees it.
    reservation_id: Option<&'a str>,
    /// The same again, or what the request named.
    execution_id: Option<&'a str>,
    /// For people and models; that of a refusal begins with its code.
    explanation: &'a str,
    /// The same again; empty when allowed.
    #[schema(value_type = Vec<String>)]
    explanations: &'a [&'a str],
    /// What kind of refusal it is.
    category: Option<CategoryWord>,
    /// Why it was refused. Contract.
    error_code: Option<&'static str>,
    details: Details<'a>,
    /// The policy that refused.
    policy_id: Option<String>,
    policy_version: Option<u64>,
    /// What the tightest cap leaves once the call is held; null without caps.
    remaining_budget_cents: Option<i64>,
    /// What the call asks for, rounded up.
    projected_cost_cents: i64,
    /// As the request named it.
    action_digest: Option<&'a str>,
    /// What policies said that decide nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policy_notes: Vec<Note>,
    /// The request was answered before, and this is that answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotent_replay: Option<bool>,
    /// When asking again may help.
    retry_after_ms: Option<u64>,
    /// Of a refusal: the request's id, also in the header X-Request-Id.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// May it run?
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DecisionWord)]
enum Word {
    /// Yes.
    Allow,
    /// No.
    Block,
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DecisionCategory)]
enum CategoryWord {
    /// A rule says no.
    Denied,
    /// Money is short.
    Budget,
    /// A person or a detector stopped the workflow.
    Halt,
    /// The gateway or the request is at fault, not the agent.
    Infra,
}

impl CategoryWord {
    const fn of(category: Category) -> Self {
        match category {
            Category::Denied => Self::Denied,
            Category::Budget => Self::Budget,
            Category::Halt => Self::Halt,
            Category::Infra => Self::Infra,
        }
    }
}

/// Particulars of a refusal; empty when allowed.
#[derive(Serialize, Default, ToSchema)]
#[schema(as = DecisionDetails)]
#[serde(deny_unknown_fields)]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    /// A word beneath the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "budget")]
    reason: Option<&'static str>,
    /// Of a tool rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_kind: Option<&'static str>,
    /// Of a tool rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforcement_path: Option<&'static str>,
    /// The tool that was blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    /// The pattern that matched it.
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_pattern: Option<&'a str>,
    /// The policy that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyShown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_context: Option<DecisionContext>,
    /// The cap that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<BudgetShown>,
    /// Of a plan's limit: what is limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "executions")]
    resource: Option<&'static str>,
    /// Of a plan's limit: how much is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    /// Of a plan's limit: how much there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// When the budget, or the plan's month, begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The policy that refused.
#[derive(Serialize, ToSchema)]
#[schema(as = DecisionPolicy)]
struct PolicyShown {
    id: String,
    name: String,
    version: u64,
    priority: i32,
}

/// Whose word it is, as some clients read it.
#[derive(Serialize, ToSchema)]
struct DecisionContext {
    /// The policy's id.
    actor: String,
}

/// The cap that refused: `spent + held + asked` is more than it has.
#[derive(Serialize, ToSchema)]
#[schema(as = DecisionBudget)]
struct BudgetShown {
    scope: ScopeWord,
    cap_nanos: i64,
    spent_nanos: i64,
    held_nanos: i64,
    asked_nanos: i64,
    cap_cents: i64,
}

/// Whose cap it is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DecisionScope)]
enum ScopeWord {
    /// The organization's.
    Org,
    /// The workflow's.
    Workflow,
    /// The key's.
    ApiKey,
}

/// Answers to a question whether a call may run.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum Answers<'a> {
    /// Allowed or blocked.
    #[response(status = 200)]
    Decided(Body<'a>),
    /// Under X-NullRun-Strict-Status: a budget, or the time of a chain, is used up.
    #[response(status = 402)]
    NoMoney(Body<'a>),
    /// Under X-NullRun-Strict-Status: a rule, the workflow's state, the key's organization or scope.
    #[response(status = 403)]
    Denied(Body<'a>),
    /// Under X-NullRun-Strict-Status: a workflow, chain or tool that cannot be used.
    #[response(status = 422)]
    Unusable(Body<'a>),
    /// Under X-NullRun-Strict-Status: a rate, a loop, or the plan's executions.
    #[response(status = 429)]
    TooMany(Body<'a>),
    /// At protocol 4, or under X-NullRun-Strict-Status: overloaded; the body is a block. Without it:
    /// too many large bodies arrive.
    #[response(status = 503)]
    Busy(Busy<'a>),
}

/// Under X-NullRun-Strict-Status: the operation_id belongs to another request that is still open.
#[derive(IntoResponses)]
#[response(status = 409)]
#[expect(dead_code, reason = "it only describes")]
pub struct OtherOperation<'a>(Body<'a>);

/// Under X-NullRun-Strict-Status: the execution_id names a reservation that is not open.
#[derive(IntoResponses)]
#[response(status = 404)]
#[expect(dead_code, reason = "it only describes")]
pub struct NoReservation<'a>(Body<'a>);

/// A block, or an error where no decision was taken.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = DecisionOrError)]
#[expect(dead_code, reason = "it only describes")]
pub enum Busy<'a> {
    /// A block.
    Block(Body<'a>),
    /// An error.
    Error(ErrorBody),
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
                decision: Word::Allow,
                decision_source: "gateway",
                allowed: check.then_some(true),
                operation_id: echo.operation_id,
                reservation_id: id.as_deref(),
                execution_id: id.as_deref().or(echo.execution_id),
                explanation: "allowed",
                explanations: &[],
                category: None,
                error_code: None,
                details: Details::default(),
                policy_id: None,
                policy_version: None,
                remaining_budget_cents: remaining,
                projected_cost_cents: projected,
                action_digest: echo.digest,
                policy_notes: notes(&decision.notes, false),
                idempotent_replay: replayed.then_some(true),
                retry_after_ms: None,
                request_id: None,
            };
            json_response(StatusCode::OK, &body)
        }
        Verdict::Block(block) => {
            let body = Body {
                decision: Word::Block,
                decision_source: "gateway",
                allowed: check.then_some(false),
                operation_id: echo.operation_id,
                reservation_id: None,
                execution_id: echo.execution_id,
                explanation: &block.explanation,
                explanations: &[&block.explanation],
                category: Some(CategoryWord::of(block.code.category())),
                error_code: Some(block.code.name()),
                details: details(block),
                policy_id: block.policy.as_ref().map(|policy| policy.id.to_string()),
                policy_version: block.policy.as_ref().map(|policy| policy.version),
                remaining_budget_cents: remaining,
                projected_cost_cents: projected,
                action_digest: echo.digest,
                policy_notes: notes(&decision.notes, false),
                idempotent_replay: None,
                retry_after_ms: block.retry_after_ms,
                request_id: echo.request_id,
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

fn details(block: &Block) -> Details<'_> {
    let of_tool = block.code == Code::ToolBlocked;
    let policy = block.policy.as_deref();
    Details {
        error_code: Some(block.code.name()),
        reason: Some(block.reason).filter(|reason| !reason.is_empty()),
        rule_kind: of_tool.then_some("tool_pattern"),
        enforcement_path: of_tool.then_some("policy"),
        tool: of_tool.then_some(&*block.tool),
        matched_pattern: of_tool.then_some(&*block.pattern),
        policy: policy.map(shown),
        decision_context: policy.map(|policy| DecisionContext {
            actor: policy.id.to_string(),
        }),
        budget: block.budget.as_ref().map(arithmetic),
        resource: block.plan.map(|used| used.resource),
        current: block.plan.map(|used| used.current),
        limit: block.plan.map(|used| used.limit),
        resets_at: block.resets_at.map(clock::rfc3339),
        retry_after_ms: block.retry_after_ms,
    }
}

fn shown(policy: &Compiled) -> PolicyShown {
    PolicyShown {
        id: policy.id.to_string(),
        name: policy.name.to_string(),
        version: policy.version,
        priority: policy.priority,
    }
}

fn arithmetic(budget: &Arithmetic) -> BudgetShown {
    BudgetShown {
        scope: match budget.scope {
            Scope::Org => ScopeWord::Org,
            Scope::Workflow => ScopeWord::Workflow,
            Scope::ApiKey => ScopeWord::ApiKey,
        },
        cap_nanos: budget.cap.0,
        spent_nanos: budget.spent.0,
        held_nanos: budget.held.0,
        asked_nanos: budget.asked.0,
        cap_cents: budget.cap.cents_down(),
    }
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
