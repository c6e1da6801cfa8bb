//! May this call run? The questions are asked in a fixed order, and the first that says no ends it:
//! workflow state, stored operation, tool rules, rate, budget. A refusal before the budget holds
//! nothing.

use crate::code::Code;
use crate::command::{Ask, Block, Decision, Protocol, Verdict};
use crate::directory::{Directory, OrgEntry};
use crate::hold::Seen;
use crate::limits;
use crate::meter::{Meters, Subject};
use crate::money::Dollars;
use crate::period::Period;
use crate::price::PriceTable;
use crate::rules::{Compiled, Described, SCOPES};
use crate::shard::{Shard, WorkflowLive};
use persist::record::{Arithmetic, Endpoint, Scope, State};
use persist::{Millis, Nanos};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// What a decision reads.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The directory, as it was durable.
    pub directory: &'a Directory,
    /// The workflow's shard.
    pub shard: &'a Shard,
    /// Prices.
    pub prices: &'a PriceTable,
    /// The least an undeclared call must find free.
    pub floor: Nanos,
    /// The time.
    pub now: Millis,
    /// The budget period around it.
    pub period: Period,
}

/// What the engine does about a decision.
#[derive(Debug)]
pub enum Effect {
    /// A hold of this amount is minted; the budget that came closest is noted.
    Mint(Nanos, Option<Arithmetic>),
    /// The call runs on the hold it named.
    Use(persist::HoldId),
    /// A replay, a check or a chain's end: nothing new.
    Nothing,
    /// It was refused.
    Refuse,
}

/// One cap, with what is already taken from it.
#[derive(Debug)]
struct Cap {
    figures: Arithmetic,
    policy: Option<Arc<Compiled>>,
}

impl Cap {
    fn remaining(&self) -> Nanos {
        self.figures.cap - self.figures.spent - self.figures.held
    }
}

/// How much a call asks for, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// The client said; it must fit.
    Declared(Nanos),
    /// Unknown: the floor, or what is left of it.
    UpTo(Nanos),
    /// The client cannot end a hold: nothing is held, but this much must be free.
    NothingIf(Nanos),
}

/// Decides a call. Meters are the only thing it changes.
pub fn decide(context: &Context<'_>, meters: &mut Meters, ask: &Ask) -> (Decision, Effect) {
    let refuse = |block: Block| {
        let decision = Decision {
            verdict: Verdict::Block(Box::new(block)),
            remaining: None,
            projected: Nanos::ZERO,
        };
        (decision, Effect::Refuse)
    };
    let (Some(org), Some(workflow)) = (
        context.directory.org(ask.org),
        // The front has seen to that already; invariant 9 does not hang on it alone.
        context
            .shard
            .workflow(ask.workflow)
            .filter(|workflow| workflow.org == ask.org),
    ) else {
        return refuse(Block::new(
            Code::WorkflowIdRequired,
            "the key's workflow does not exist; mint a key for one that does",
        ));
    };
    let size = size(context, ask);
    let projected = match size {
        Size::Declared(amount) | Size::UpTo(amount) | Size::NothingIf(amount) => amount,
    };
    let model = ask.model.as_deref().map(str::to_ascii_lowercase);
    let call = Described {
        workflow: ask.workflow,
        key: ask.key,
        tools: &ask.tools,
        model: model.as_deref(),
        projected,
    };
    let caps = caps(context, org, workflow, ask, &call);
    let remaining = caps.iter().map(Cap::remaining).min();
    let decided = |verdict, remaining, effect| {
        (
            Decision {
                verdict,
                remaining,
                projected,
            },
            effect,
        )
    };
    let allow = |hold, replayed| Verdict::Allow { hold, replayed };
    let block = |block: Block| decided(Verdict::Block(Box::new(block)), remaining, Effect::Refuse);

    if let Some(refusal) = key_refusal(context, ask) {
        return block(refusal);
    }
    if let Some(refusal) = state_refusal(workflow, ask) {
        return block(refusal);
    }
    if ask.chain_end {
        return decided(allow(None, false), remaining, Effect::Nothing);
    }
    let check = ask.endpoint == Endpoint::Check;
    if let Some(operation) = ask.operation.filter(|_| !check) {
        match context.shard.holds.seen(operation) {
            Some(Seen::Same(hold)) => {
                return decided(allow(Some(hold), true), remaining, Effect::Nothing);
            }
            Some(Seen::Different) => {
                return block(Block::new(
                    Code::IdempotencyKeyMismatch,
                    "this operation_id belongs to another request that is still open; use a new one",
                ));
            }
            None => {}
        }
    }
    if !check && let Some(refusal) = tool_refusal(org, ask, &call) {
        return block(refusal);
    }
    // `/execute` after its `/gate` runs on that hold: it was counted and paid for there.
    let linked = ask
        .reservation
        .filter(|_| ask.endpoint == Endpoint::Execute)
        .and_then(|id| {
            let hold = context.shard.holds.get(id)?;
            let same = hold.org == ask.org && hold.workflow == ask.workflow && hold.key == ask.key;
            same.then_some(id)
        });
    if let Some(hold) = linked {
        return decided(allow(Some(hold), false), remaining, Effect::Use(hold));
    }
    if ask.must_find_reservation {
        return block(Block::new(
            Code::ExecutionNotFound,
            "no open reservation has this execution_id; ask /gate again",
        ));
    }
    if !check && let Some(refusal) = rate_refusal(context, meters, org, ask, &call) {
        return block(refusal);
    }
    match reserve(context, workflow, ask, &caps, size) {
        Err(refusal) => block(refusal),
        Ok(_) if check => decided(allow(None, false), remaining, Effect::Nothing),
        Ok(amount) => {
            let tightest = caps.iter().min_by_key(|cap| cap.remaining());
            let figures = tightest.map(|cap| Arithmetic {
                asked: amount,
                ..cap.figures
            });
            let verdict = allow(Some(ask.new_hold), false);
            let decision = Decision {
                verdict,
                remaining: remaining.map(|r| r - amount),
                projected,
            };
            (decision, Effect::Mint(amount, figures))
        }
    }
}

/// The front has checked the key already; it may have ended while the call waited.
fn key_refusal(context: &Context<'_>, ask: &Ask) -> Option<Block> {
    match context.directory.key(ask.key) {
        Some(key)
            if key.revoked_at.is_none() && key.expires_at.is_none_or(|at| context.now <= at) =>
        {
            None
        }
        Some(key) if key.revoked_at.is_none() => Some(Block::new(
            Code::ApiKeyExpired,
            "this API key's time is over; use another",
        )),
        _ => Some(Block::new(
            Code::ApiKeyRevoked,
            "this API key was revoked; use another",
        )),
    }
}

fn state_refusal(workflow: &WorkflowLive, ask: &Ask) -> Option<Block> {
    let (code, what) = match workflow.state {
        State::Normal | State::Flagged => return None,
        State::Killed => (Code::WorkflowKilled, "killed; make a new one to go on"),
        // Nothing runs when a chain ends.
        State::Paused | State::Tripped if ask.chain_end => return None,
        State::Paused => (Code::WorkflowPaused, "paused; resume it to go on"),
        State::Tripped => (
            Code::CircuitBreakerTripped,
            "stopped by a detector; resume it to go on",
        ),
    };
    let why = match &workflow.reason {
        Some(reason) => format!("this workflow was {what} (reason given: {reason})"),
        None => format!("this workflow was {what}"),
    };
    Some(Block {
        reason: "workflow_state",
        ..Block::new(code, &why)
    })
}

fn tool_refusal(org: &OrgEntry, ask: &Ask, call: &Described<'_>) -> Option<Block> {
    if let Some(hit) = org.rules.blocked_tool(org.composition, call) {
        let why = format!(
            "the tool {} is blocked by the policy \"{}\" (pattern {})",
            hit.tool, hit.policy.name, hit.pattern
        );
        return Some(Block {
            reason: "tool_pattern",
            tool: hit.tool,
            pattern: hit.pattern,
            policy: Some(hit.policy),
            ..Block::new(Code::ToolBlocked, &why)
        });
    }
    // Older clients cannot name tools at the gate: for them the rules wait for `/execute`.
    let must_name = ask.protocol == Protocol::V4 || ask.endpoint == Endpoint::Execute;
    if must_name && ask.tools.is_empty() && org.rules.has_tool_rules(call) {
        let policy = org.rules.first_tool_rule(call).cloned();
        let why = "tool rules are in force and the call is blocked because it names no tool; \
                   send \"tools\": [..] (or \"tool\"), an SDK does so for protected functions";
        return Some(Block {
            reason: "no_tools_field",
            policy,
            ..Block::new(Code::ToolBlocked, why)
        });
    }
    None
}

fn rate_refusal(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    call: &Described<'_>,
) -> Option<Block> {
    let rates = SCOPES.map(|scope| Some((scope, org.rules.rate(org.composition, scope, call)?)));
    if rates.iter().all(Option::is_none) {
        return None;
    }
    // What was counted is not counted again, nor refused for itself.
    let identity = call_identity(ask);
    if identity.is_some_and(|call| meters.was_counted(context.now, call)) {
        return None;
    }
    for (scope, (limit, policy)) in rates.iter().flatten() {
        let subject = subject(*scope, ask);
        let used = meters.calls(context.now, subject);
        if used >= *limit {
            let retry_after_ms = meters.opens_in(context.now, subject);
            let why = format!(
                "rate limit of the {}: {used} of {limit} calls in the last minute (policy \"{}\"); \
                 there is room again in {} s",
                noun(*scope),
                policy.name,
                retry_after_ms.div_ceil(1000)
            );
            return Some(Block {
                reason: "rate_limit",
                policy: Some(Arc::clone(policy)),
                retry_after_ms: Some(retry_after_ms),
                ..Block::new(Code::RateLimitExceeded, &why)
            });
        }
    }
    if let Some(call) = identity {
        meters.note_counted(call);
    }
    for (scope, _) in rates.into_iter().flatten() {
        meters.count_call(context.now, subject(scope, ask));
    }
    None
}

/// What the gate and the execute of one call have in common.
fn call_identity(ask: &Ask) -> Option<u128> {
    let hash = Sha256::new()
        .chain_update(ask.workflow.0.to_le_bytes())
        .chain_update(ask.operation_id.as_deref()?)
        .finalize();
    hash.first_chunk().map(|bytes| u128::from_le_bytes(*bytes))
}

fn subject(scope: Scope, ask: &Ask) -> Subject {
    match scope {
        Scope::Org => Subject::Org(ask.org.0),
        Scope::Workflow => Subject::Workflow(ask.workflow.0),
        Scope::ApiKey => Subject::Key(ask.key.0),
    }
}

const fn noun(scope: Scope) -> &'static str {
    match scope {
        Scope::Org => "org",
        Scope::Workflow => "workflow",
        Scope::ApiKey => "key",
    }
}

fn size(context: &Context<'_>, ask: &Ask) -> Size {
    let input = if ask.estimated_tokens > 1 {
        ask.estimated_tokens
    } else {
        0
    };
    if input > 0 || ask.max_output_tokens.is_some() {
        let quote = context.prices.quote(ask.model.as_deref(), None);
        return Size::Declared(quote.declared(input, ask.max_output_tokens.unwrap_or(0)));
    }
    let cannot_end = match (ask.protocol, ask.endpoint) {
        (Protocol::Seed, _) | (Protocol::V3, Endpoint::Execute) => true,
        (Protocol::V3 | Protocol::V4, _) => false,
    };
    if cannot_end {
        Size::NothingIf(context.floor)
    } else {
        Size::UpTo(context.floor)
    }
}

/// Every cap that applies: those set on org, workflow and key, and those of budget policies.
fn caps(
    context: &Context<'_>,
    org: &OrgEntry,
    workflow: &WorkflowLive,
    ask: &Ask,
    call: &Described<'_>,
) -> Vec<Cap> {
    let key = context.directory.key(ask.key);
    let mut caps = Vec::new();
    for scope in SCOPES {
        let (account, own) = match scope {
            Scope::Org => (context.shard.orgs.get(&ask.org), org.budget),
            Scope::Workflow => (Some(&workflow.account), workflow.budget),
            Scope::ApiKey => (
                context.shard.keys.get(&ask.key),
                key.and_then(|key| key.budget),
            ),
        };
        let sums = account
            .map(|account| account.in_period(&context.period))
            .unwrap_or_default();
        let figures = |cap| Arithmetic {
            scope,
            cap,
            spent: sums.spent,
            held: sums.held,
            asked: Nanos::ZERO,
        };
        if let Some(cap) = own {
            caps.push(Cap {
                figures: figures(cap),
                policy: None,
            });
        }
        if let Some((cap, policy)) = org.rules.budget(org.composition, scope, call) {
            caps.push(Cap {
                figures: figures(cap),
                policy: Some(Arc::clone(policy)),
            });
        }
    }
    caps
}

/// The amount to hold, such that `spent + held + ask ≤ cap` for every cap (invariant 1).
fn reserve(
    context: &Context<'_>,
    workflow: &WorkflowLive,
    ask: &Ask,
    caps: &[Cap],
    size: Size,
) -> Result<Nanos, Block> {
    let least = caps.iter().map(Cap::remaining).min();
    let per_call = workflow.max_per_call;
    let (hold, needed) = match size {
        Size::Declared(amount) => (amount, amount),
        Size::NothingIf(floor) => (Nanos::ZERO, floor),
        // Never more than what is left while anything is left: no phantom refusal of the last cents.
        Size::UpTo(floor) => {
            let floor = per_call.map_or(floor, |most| floor.min(most));
            let amount = least.map_or(floor, |least| floor.min(least.max(Nanos(1))));
            (amount, amount)
        }
    };
    if let Some(most) = per_call.filter(|most| hold > *most || *most <= Nanos::ZERO) {
        let why = format!(
            "budget of one call: it may cost {}, and the workflow allows {} per call",
            Dollars(needed),
            Dollars(most)
        );
        return Err(Block {
            reason: "per_call_cap",
            ..Block::new(Code::BudgetHardBlocked, &why)
        });
    }
    sum_refusal(context, workflow, ask, hold)?;
    for cap in caps {
        // A cap that is used up lets nothing through, not even a call declared to be free.
        let exhausted = cap.remaining() <= Nanos::ZERO;
        if exhausted || needed > cap.remaining() {
            return Err(budget_refusal(context, cap, needed));
        }
    }
    Ok(hold)
}

/// Without any cap there still is an end: sums of holds must stay exact.
fn sum_refusal(
    context: &Context<'_>,
    workflow: &WorkflowLive,
    ask: &Ask,
    hold: Nanos,
) -> Result<(), Block> {
    let held = [
        Some(&workflow.account),
        context.shard.keys.get(&ask.key),
        context.shard.orgs.get(&ask.org),
    ]
    .into_iter()
    .flatten()
    .map(|account| account.held())
    .max()
    .unwrap_or_default();
    if hold <= limits::HOLD && held + hold <= limits::HELD {
        return Ok(());
    }
    let why = format!(
        "budget of one call: {} is more than one call may hold ({}), or more than fits beside the {} \
         held already; declare fewer tokens",
        Dollars(hold),
        Dollars(limits::HOLD),
        Dollars(held)
    );
    Err(Block {
        reason: "hold_too_large",
        ..Block::new(Code::BudgetHardBlocked, &why)
    })
}

fn budget_refusal(context: &Context<'_>, cap: &Cap, asked: Nanos) -> Block {
    let Arithmetic {
        scope,
        cap: limit,
        spent,
        held,
        ..
    } = cap.figures;
    let code = match scope {
        Scope::Org => Code::BudgetOrgCeilingBlocked,
        Scope::Workflow | Scope::ApiKey => Code::BudgetHardBlocked,
    };
    let by = cap
        .policy
        .as_ref()
        .map(|p| format!(" (policy \"{}\")", p.name))
        .unwrap_or_default();
    let why = format!(
        "budget of the {} exhausted{by}: of {} this month, {} is spent and {} held, and the call \
         asks for {}",
        noun(scope),
        Dollars(limit),
        Dollars(spent),
        Dollars(held),
        Dollars(asked)
    );
    Block {
        reason: "budget",
        policy: cap.policy.clone(),
        budget: Some(Arithmetic {
            asked,
            ..cap.figures
        }),
        resets_at: Some(context.period.end),
        ..Block::new(code, &why)
    }
}
