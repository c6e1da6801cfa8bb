//! May this call run? The questions are asked in a fixed order, and the first that says no ends it:
//! key, workflow state, stored operation, tool rules, loops, chain, plan, rate, budget. A refusal
//! before the budget holds nothing.

use crate::budget::{self, Cap};
use crate::cell::Limit;
use crate::code::Code;
use crate::command::{Ask, Block, Decision, NO_KEY, Protocol, Verdict};
use crate::directory::{Directory, OrgEntry, WorkflowEntry};
use crate::hold::Seen;
use crate::meter::Meters;
use crate::note::{self, Noted};
use crate::pace::{self, Executions, Loop};
use crate::pending::Pending;
use crate::period::Calendar;
use crate::plan::PlanTable;
use crate::price::{PriceTable, Quote};
use crate::rules::Described;
use crate::shard::{Shard, WorkflowLive};
use persist::record::{Arithmetic, ChainLink, ChainTerms, Endpoint, PolicyType, State};
use persist::{HoldId, Millis, Nanos};
use smallvec::SmallVec;

/// What a decision reads.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The directory, as it was durable.
    pub directory: &'a Directory,
    /// The workflow's shard.
    pub shard: &'a Shard,
    /// Built-in prices; [`Context::quote`] is how a price is found.
    pub prices: &'a PriceTable,
    /// The least an undeclared call must find free.
    pub floor: Nanos,
    /// The time.
    pub now: Millis,
    /// The budget periods around it.
    pub calendar: &'a Calendar,
    /// What this pump released and has not appended.
    pub pending: &'a Pending,
    /// What each plan has.
    pub plans: &'a PlanTable,
}

impl Context<'_> {
    /// The price of a model at this moment: one that was set here, else the built-in one, else the
    /// provisional one.
    #[must_use]
    pub fn quote(&self, model: Option<&str>, provider: Option<&str>) -> Quote {
        let book = self.directory.prices();
        book.quote(self.prices, model, provider, self.now)
    }
}

/// Limits that an amount is to be taken under; few.
pub type Limits = SmallVec<[Limit; 4]>;

/// A hold to be minted.
#[derive(Debug)]
pub struct Mint {
    /// How much it holds.
    pub amount: Nanos,
    /// The budget that comes closest.
    pub budget: Option<Arithmetic>,
    /// The call's place in its chain.
    pub chain: Option<ChainLink>,
    /// The org's limits, for its shared cell.
    pub org: Limits,
    /// The key's, if it is shared.
    pub key: Limits,
    /// The call is one more execution of its org.
    pub counts: bool,
    /// The plan's limit on these.
    pub executions: Option<Limit>,
}

/// What the engine does about a decision.
#[derive(Debug)]
pub enum Effect {
    /// A hold is minted, if its amount can be taken.
    Mint(Mint),
    /// The call runs on the hold it named.
    Use(HoldId, Option<ChainLink>),
    /// A replay or a check: nothing new.
    Nothing,
    /// The chain ends.
    EndChain(u128),
    /// It was refused.
    Refuse,
    /// It was refused, but another pump is at work on the same figures: worth asking again.
    Contended,
}

/// The state a detector puts the workflow in, and why.
#[derive(Debug)]
pub struct Mark {
    /// `Flagged` or `Tripped`.
    pub to: State,
    /// For people.
    pub reason: String,
}

/// A decision and what follows from it.
#[derive(Debug)]
pub struct Decided {
    /// The answer.
    pub decision: Decision,
    /// What is done.
    pub effect: Effect,
    /// What a detector says.
    pub mark: Option<Mark>,
    /// The questions that policies answer, up to the one that ended it.
    pub asked: Questions,
}

/// Questions that policies answer, in the order they are asked.
pub type Questions = SmallVec<[PolicyType; 4]>;

impl Decided {
    fn refused(block: Block, remaining: Option<Nanos>, projected: Nanos) -> Self {
        Self {
            decision: Decision {
                verdict: Verdict::Block(Box::new(block)),
                remaining,
                projected,
                notes: Vec::new(),
            },
            effect: Effect::Refuse,
            mark: None,
            asked: Questions::new(),
        }
    }
}

/// What is said of a call beside the decision.
#[derive(Default)]
struct Aside {
    mark: Option<Mark>,
    notes: Vec<Noted>,
    asked: Questions,
}

/// Decides a call. Meters are the only thing it changes, and the second time (`again`) not even
/// these.
pub fn decide(context: &Context<'_>, meters: &mut Meters, ask: &Ask, again: bool) -> Decided {
    // Noted before it was put off, by policies that say the same now.
    let rules = context.directory.org(ask.org).map(|org| &org.rules);
    let same = |noted: &&Noted| {
        let now = rules.and_then(|rules| rules.get(noted.policy.id));
        now.is_some_and(|now| now.version == noted.policy.version)
    };
    let mut aside = Aside {
        notes: ask.noted.iter().filter(same).cloned().collect(),
        ..Aside::default()
    };
    let decided = questions(context, meters, ask, again, &mut aside);
    Decided {
        decision: Decision {
            notes: aside.notes,
            ..decided.decision
        },
        mark: aside.mark,
        asked: aside.asked,
        ..decided
    }
}

fn questions(
    context: &Context<'_>,
    meters: &mut Meters,
    ask: &Ask,
    again: bool,
    aside: &mut Aside,
) -> Decided {
    let (Some(org), Some(workflow)) = (
        context.directory.org(ask.org),
        // The front has seen to that already; invariant 9 does not hang on it alone.
        context.directory.workflow(ask.org, ask.workflow),
    ) else {
        let why = "the key's workflow does not exist; mint a key for one that does";
        let block = Block::new(Code::WorkflowIdRequired, why);
        return Decided::refused(block, None, Nanos::ZERO);
    };
    let live = context.shard.workflow(ask.workflow);
    let size = budget::size(context, live, ask);
    let projected = size.amount();
    let call = Described {
        workflow: ask.workflow,
        key: ask.key,
        tools: &ask.tools,
        model: ask.model_lower.as_deref(),
        projected,
    };
    // Before the sums are read: what moved meanwhile may have made a refusal wrong.
    let rest = budget::rest(context, org, ask);
    let caps = budget::caps(context, org, workflow, live, ask, &call);
    let remaining = caps.iter().map(Cap::remaining).min();
    let block = |block: Block| Decided::refused(block, remaining, projected);
    let allow = |hold, replayed, remaining, effect| Decided {
        decision: Decision {
            verdict: Verdict::Allow { hold, replayed },
            remaining,
            projected,
            notes: Vec::new(),
        },
        effect,
        mark: None,
        asked: Questions::new(),
    };

    if let Some(refusal) = key_refusal(context, ask) {
        return block(refusal);
    }
    if let Some(refusal) = live.and_then(|live| state_refusal(live, ask)) {
        return block(refusal);
    }
    if ask.chain_end {
        let chain = ask.chain.as_ref().map(|chain| chain.key);
        let effect = chain.filter(|key| context.shard.chain(*key).is_some());
        let effect = effect.map_or(Effect::Nothing, Effect::EndChain);
        return allow(None, false, remaining, effect);
    }
    let check = ask.endpoint == Endpoint::Check;
    if let Some(operation) = ask.operation.filter(|_| !check) {
        match context.shard.holds.seen(operation) {
            Some(Seen::Same(hold)) => {
                return allow(Some(hold), true, remaining, Effect::Nothing);
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
    if !check {
        aside.asked.push(PolicyType::ToolBlock);
        note::tools(org, must_name_tools(ask), &call, &mut aside.notes);
        if let Some(refusal) = tool_refusal(org, ask, &call) {
            return block(refusal);
        }
    }
    // `/execute` after its `/gate` runs on that hold: it was counted and paid for there.
    let linked = ask
        .reservation
        .filter(|_| ask.endpoint == Endpoint::Execute)
        .filter(|id| {
            context.shard.hold(*id).is_some_and(|hold| {
                hold.org == ask.org && hold.workflow == ask.workflow && hold.key == ask.key
            })
        });
    if !check && !again {
        aside.asked.push(PolicyType::LoopDetection);
        let looked = pace::repeats(
            context,
            meters,
            (org, workflow),
            ask,
            &call,
            linked.is_some(),
            &mut aside.notes,
        );
        let mut mark = |to, reason| aside.mark = Some(Mark { to, reason });
        match looked {
            Loop::No => {}
            Loop::Flag(reason) => mark(State::Flagged, reason),
            Loop::Block(refusal, reason) => {
                mark(State::Tripped, reason);
                return block(refusal);
            }
        }
    }
    let chain = match chain_link(context, workflow, ask) {
        Ok(chain) => chain,
        Err(refusal) => return block(refusal),
    };
    if let Some(hold) = linked {
        let effect = Effect::Use(hold, chain);
        return allow(Some(hold), false, remaining, effect);
    }
    if ask.must_find_reservation {
        return block(Block::new(
            Code::ExecutionNotFound,
            "no open reservation has this execution_id; ask /gate again",
        ));
    }
    let (counts, executions) = if check {
        (false, None)
    } else {
        match pace::executions(context, org, ask) {
            Executions::Counted => (false, None),
            Executions::One(limit) => (true, limit),
            Executions::Full(refusal, effect) => {
                let decided = block(refusal);
                return Decided { effect, ..decided };
            }
        }
    };
    if !check && !again {
        aside.asked.push(PolicyType::RateLimit);
        let refusal = pace::rate_refusal(context, meters, org, ask, &call);
        pace::note_rates(
            context,
            meters,
            org,
            ask,
            &call,
            refusal.is_none(),
            &mut aside.notes,
        );
        if let Some(refusal) = refusal {
            return block(refusal);
        }
    }
    aside.asked.push(PolicyType::BudgetLimit);
    note::budgets(context, org, live, ask, &call, size, &mut aside.notes);
    let amount = match budget::reserve(context, workflow, live, ask, &caps, size) {
        Ok(amount) => amount,
        Err(refusal) => {
            let decided = block(refusal);
            let still = rest.is_some() && budget::rest(context, org, ask) == rest;
            let effect = if still {
                Effect::Refuse
            } else {
                Effect::Contended
            };
            return Decided { effect, ..decided };
        }
    };
    if check {
        return allow(None, false, remaining, Effect::Nothing);
    }
    let tightest = caps.iter().min_by_key(|cap| cap.remaining());
    let mint = Mint {
        amount,
        budget: tightest.map(|cap| cap.asking(amount)),
        chain,
        org: budget::limits(&caps, persist::record::Scope::Org),
        key: budget::limits(&caps, persist::record::Scope::ApiKey),
        counts,
        executions,
    };
    allow(
        Some(ask.new_hold),
        false,
        remaining.map(|r| r - amount),
        Effect::Mint(mint),
    )
}

/// The front has checked the key already; it may have ended while the call waited.
fn key_refusal(context: &Context<'_>, ask: &Ask) -> Option<Block> {
    match context.directory.key(ask.key) {
        None if ask.figures.is_some() && ask.key == NO_KEY => None,
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
    let (code, what) = match workflow.standing().state {
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
    let why = match &workflow.standing().reason {
        Some(reason) => format!("this workflow was {what} (reason given: {reason})"),
        None => format!("this workflow was {what}"),
    };
    Some(Block {
        reason: "workflow_state",
        ..Block::new(code, &why)
    })
}

/// Older clients cannot name tools at the gate: for them the rules wait for `/execute`.
fn must_name_tools(ask: &Ask) -> bool {
    ask.protocol == Protocol::V4 || ask.endpoint == Endpoint::Execute
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
    let policy = org.rules.first_tool_rule(call);
    let policy = policy.filter(|_| must_name_tools(ask) && ask.tools.is_empty())?;
    let why = "tool rules are in force and the call is blocked because it names no tool; \
               send \"tools\": [..] (or \"tool\"), an SDK does so for protected functions";
    Some(Block {
        reason: "no_tools_field",
        policy: Some(policy.clone()),
        ..Block::new(Code::ToolBlocked, why)
    })
}

/// The call's place in its chain, or why the chain may not go on.
fn chain_link(
    context: &Context<'_>,
    workflow: &WorkflowEntry,
    ask: &Ask,
) -> Result<Option<ChainLink>, Block> {
    let Some(chain) = ask.chain.as_ref() else {
        return Ok(None);
    };
    let Some(live) = context.shard.chain(chain.key) else {
        let terms = ChainTerms { cap: chain.cap };
        return Ok(Some(ChainLink {
            chain: chain.key,
            begins: Some(terms),
        }));
    };
    let secs = live.secs(context.now);
    if secs >= u64::from(workflow.rare().chain_secs) {
        let why = format!(
            "this chain began {secs} s ago and may last {} s; end it and start another",
            workflow.rare().chain_secs
        );
        return Err(Block {
            reason: "chain_duration",
            ..Block::new(Code::ChainMaxDurationExceeded, &why)
        });
    }
    Ok(Some(ChainLink {
        chain: chain.key,
        begins: None,
    }))
}
