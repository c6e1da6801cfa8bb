//! How would a call end? Asked of the policies there are, or of others.

use super::effective::{Budget, Limits, held_against, whose};
use super::look::{self, Asked, Named, Note};
use super::shapes::Create;
use super::words::CompositionName;
use super::{admit, unexpected};
use crate::app::{App, refused};
use crate::error::{ApiError, ApiResult};
use crate::openapi::{BodyErrors, BusyError, OrgErrors, OrgPath};
use crate::sdk::decision::json_response;
use crate::sdk::gate::{chain_key, model, tool_names};
use crate::sign_in::Keys;
use crate::{clock, text};
use axum::extract::{Path, Request, State};
use engine::command::{Block, ChainAsk, Command, Decision, Figures, NO_KEY, Outcome, Verdict};
use engine::evaluate::nothing;
use engine::limits;
use engine::manage::{PolicyDraft, draft_rules};
use http::StatusCode;
use persist::record::Role;
use persist::{Nanos, OrgId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(evaluate))
}

/// A call to be tried, and the policies to try it with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyEvaluate)]
struct Evaluate {
    /// The workflow; that of the key if absent.
    workflow_id: Option<String>,
    /// The API key; without one, nothing of a key is asked.
    api_key_id: Option<String>,
    tool: Option<String>,
    #[schema(max_items = 128)]
    tools: Option<Vec<String>>,
    model: Option<String>,
    /// Prompt tokens.
    #[schema(maximum = 1000000000000_i64)]
    estimated_tokens: Option<u64>,
    #[schema(maximum = 1000000000000_i64)]
    max_output_tokens: Option<u64>,
    /// What it costs, instead of what its tokens cost.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    projected_cost_cents: Option<i64>,
    /// The chain of calls it belongs to.
    #[schema(min_length = 1, max_length = 128)]
    chain_id: Option<String>,
    /// Calls in the minute before, of the organization, the workflow and the key alike; as counted if
    /// absent.
    #[schema(maximum = 1000000)]
    calls_before: Option<u32>,
    /// Calls of each of its tools in the window before; as counted if absent.
    #[schema(maximum = 1000000)]
    tool_calls_before: Option<u32>,
    /// Instead of the organization's policies.
    #[schema(max_items = 1000)]
    policies: Option<Vec<Create>>,
}

/// How a described call ends.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyEvaluation)]
struct Shown {
    decision: DecisionWord,
    /// Why not, as on `/gate`.
    error_code: Option<&'static str>,
    category: Option<&'static str>,
    explanation: String,
    /// The policy that decided.
    policy: Option<Named>,
    /// The tool that may not run.
    tool: Option<String>,
    matched_pattern: Option<String>,
    /// The cap that decided.
    budget: Option<Budget>,
    /// The least that any cap leaves; null without caps.
    remaining_budget_cents: Option<i64>,
    projected_cost_cents: i64,
    retry_after_ms: Option<u64>,
    /// What policies said that decide nothing.
    policy_notes: Vec<Note>,
    composition: CompositionName,
    /// What was looked at, up to the question that ended it.
    questions: Vec<Asked>,
    /// What the call was held against in these questions, whoever set it; null where no question was
    /// reached. Limits on single calls and chains belong to the budget.
    limits: Option<Limits>,
    /// What the draft would change for this call; null without a draft.
    impact: Option<Impact>,
}

/// What a draft would change for a call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyImpact)]
struct Impact {
    change: ChangeWord,
    /// By the organization's own policies.
    decision: DecisionWord,
    error_code: Option<&'static str>,
    explanation: String,
    /// The policy of the organization that decides.
    policy: Option<Named>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyImpactChange)]
enum ChangeWord {
    /// It ends as it does now.
    None,
    /// It is refused now, and would be allowed.
    Allows,
    /// It is allowed now, and would be refused.
    Blocks,
    /// It is refused now, and would be refused for something else.
    OtherReason,
}

impl Impact {
    fn of(present: &Decision, draft: &Decision) -> Self {
        let (now, then) = (block_of(present), block_of(draft));
        Self {
            change: match (now, then) {
                (None, None) => ChangeWord::None,
                (Some(_), None) => ChangeWord::Allows,
                (None, Some(_)) => ChangeWord::Blocks,
                (Some(now), Some(then)) if now.code == then.code => ChangeWord::None,
                (Some(_), Some(_)) => ChangeWord::OtherReason,
            },
            decision: DecisionWord::of(present),
            error_code: now.map(|block| block.code.name()),
            explanation: explanation(present),
            policy: now
                .and_then(|block| block.policy.as_ref())
                .map(|policy| Named::of(policy, false)),
        }
    }
}

const fn block_of(decision: &Decision) -> Option<&Block> {
    match &decision.verdict {
        Verdict::Allow { .. } => None,
        Verdict::Block(block) => Some(block),
    }
}

fn explanation(decision: &Decision) -> String {
    block_of(decision)
        .map_or("allowed", |block| &block.explanation)
        .to_owned()
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DecisionWord)]
enum DecisionWord {
    Allow,
    Block,
}

impl DecisionWord {
    const fn of(decision: &Decision) -> Self {
        match decision.verdict {
            Verdict::Allow { .. } => Self::Allow,
            Verdict::Block(_) => Self::Block,
        }
    }
}

/// The error of one policy of a draft.
fn at(index: usize, mut error: ApiError) -> ApiError {
    error.message = format!("policies[{index}]: {}", error.message);
    if let Some(field) = error.details.get_mut("field")
        && let Some(name) = field.as_str()
    {
        *field = format!("policies[{index}].{name}").into();
    }
    error
}

fn drafts(policies: Vec<Create>) -> ApiResult<Vec<PolicyDraft>> {
    let drafts = policies.into_iter().enumerate();
    drafts
        .map(|(index, policy)| policy.draft().map_err(|error| at(index, error)))
        .collect()
}

fn bounds(body: &Evaluate) -> ApiResult<()> {
    let within = |field: &'static str, value: Option<u64>, most: u64| match value {
        Some(value) if value > most => {
            let why = format!("{field} takes 0 to {most}");
            Err(ApiError::field(field, why))
        }
        _ => Ok(()),
    };
    let calls = u64::from(limits::CALLS_PER_MINUTE);
    within("estimated_tokens", body.estimated_tokens, limits::TOKENS)?;
    within("max_output_tokens", body.max_output_tokens, limits::TOKENS)?;
    within("calls_before", body.calls_before.map(u64::from), calls)?;
    within(
        "tool_calls_before",
        body.tool_calls_before.map(u64::from),
        calls,
    )?;
    if let Some(chain) = &body.chain_id {
        text::id("chain_id", chain)?;
        if text::has_control(chain) {
            let why = "chain_id may hold no control characters";
            return Err(ApiError::field("chain_id", why));
        }
    }
    let cost = body.projected_cost_cents;
    if cost.is_some_and(|cents| !(0..=limits::BUDGET_CENTS).contains(&cents)) {
        let why = format!("projected_cost_cents takes 0 to {}", limits::BUDGET_CENTS);
        return Err(ApiError::field("projected_cost_cents", why));
    }
    Ok(())
}

fn show(decision: &Decision, composition: CompositionName, is_draft: bool) -> Shown {
    let block = block_of(decision);
    let word = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let named = || {
        let policy = block.and_then(|block| block.policy.as_ref());
        policy.map(|policy| Named::of(policy, is_draft))
    };
    let budget = block.and_then(|block| block.budget.as_ref());
    Shown {
        decision: DecisionWord::of(decision),
        error_code: block.map(|block| block.code.name()),
        category: block.map(|block| block.code.category().name()),
        explanation: explanation(decision),
        policy: named(),
        tool: block.and_then(|block| word(&block.tool)),
        matched_pattern: block.and_then(|block| word(&block.pattern)),
        budget: budget.map(|figures| Budget::of(figures, named())),
        remaining_budget_cents: decision.remaining.map(Nanos::cents_down),
        projected_cost_cents: decision.projected.cents_up(),
        retry_after_ms: block.and_then(|block| block.retry_after_ms),
        policy_notes: look::notes(&decision.notes, is_draft),
        composition,
        questions: Vec::new(),
        limits: None,
        impact: None,
    }
}

/// Try a call: how would `/gate` decide it, by the policies there are or by a draft of others? Nothing
/// is held, counted or written.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/policies/evaluate",
    operation_id = "evaluate_policies",
    tag = "policies",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Evaluate,
    responses(
        (status = 200, description = "How it would end", body = Shown),
        BodyErrors, OrgErrors, BusyError
    )
)]
async fn evaluate(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let body: Evaluate = admitted.received.json()?;
    let org = admitted.org;
    bounds(&body)?;
    let command = {
        let directory = app.directory();
        let (workflow, key) = (body.workflow_id.as_deref(), body.api_key_id.as_deref());
        let (workflow, key) = whose(&directory, org, workflow, key)?;
        let named = body.tools.iter().flatten().chain(&body.tool);
        let tools = match tool_names(named) {
            Ok(tools) => tools,
            Err(decision) => {
                let composition = composition(&app, org)?;
                let shown = show(&decision, composition, false);
                return Ok(json_response(StatusCode::OK, &shown));
            }
        };
        let rules = match body.policies {
            None => None,
            Some(policies) => {
                let drafts = drafts(policies)?;
                let rules = draft_rules(&directory, org, &drafts, clock::now());
                let rules = rules.map_err(|(index, refusal)| at(index, refused(refusal)))?;
                Some(Arc::new(rules))
            }
        };
        let mut ask = nothing(org, workflow, key.unwrap_or(NO_KEY));
        let model = model(body.model.as_deref());
        ask.model = model.map(|model| text::cut(model.to_owned(), limits::NAME_BYTES));
        ask.model_lower = model.map(str::to_ascii_lowercase);
        ask.tools = tools;
        ask.estimated_tokens = body.estimated_tokens.unwrap_or_default();
        ask.max_output_tokens = body.max_output_tokens;
        ask.chain = body.chain_id.map(|id| ChainAsk {
            key: chain_key(workflow, &id),
            id,
            cap: None,
        });
        ask.figures = Some(Box::new(Figures {
            cost: body.projected_cost_cents.map(Nanos::from_cents),
            calls: body.calls_before,
            tool_calls: body.tool_calls_before,
        }));
        Command::Evaluate {
            ask: Box::new(ask),
            rules,
        }
    };
    let is_draft = matches!(&command, Command::Evaluate { rules: Some(_), .. });
    let reply = app.call(command).await?;
    match &reply.outcome {
        Outcome::Evaluated(evaluated) => {
            let (decision, looked) = (&evaluated.decision, &evaluated.looked);
            let composition = CompositionName::of(evaluated.composition);
            let limits = held_against(&evaluated.limits, &evaluated.workflow, is_draft);
            let present = evaluated.present.as_ref();
            let shown = Shown {
                questions: look::show(looked, is_draft),
                limits: (!looked.is_empty()).then_some(limits),
                impact: present.map(|present| Impact::of(present, decision)),
                ..show(decision, composition, is_draft)
            };
            Ok(json_response(StatusCode::OK, &shown))
        }
        _ => Err(unexpected(&reply)),
    }
}

fn composition(app: &App, org: OrgId) -> ApiResult<CompositionName> {
    let directory = app.directory();
    let entry = directory.org(org);
    let entry = entry.ok_or_else(|| ApiError::not_found("organization"))?;
    Ok(CompositionName::of(entry.composition))
}
