//! What the engine is asked, and what it answers. Times and ids come in with the command: the
//! engine has no clock and no randomness.

use crate::account::Sums;
use crate::code::Code;
use crate::directory::{KeyEntry, WorkflowEntry};
use crate::evaluate::{Effective, Evaluated};
use crate::manage::Manage;
use crate::note::Noted;
use crate::period::Period;
use crate::rules::{Compiled, Rules};
use crate::shard::OpenHold;
use persist::record::{Actor, Arithmetic, Endpoint, Operation, State, Tokens};
use persist::{Day, HoldId, KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Something to decide or do.
#[derive(Debug)]
pub enum Command {
    /// May this call run?
    Ask(Box<Ask>),
    /// These events happened.
    Track(Box<Track>),
    /// This hold is not needed any more.
    Cancel {
        /// The key's org: holds of others are unknown to it.
        org: OrgId,
        /// By whom.
        key: KeyId,
        /// Which.
        hold: HoldId,
    },
    /// Nobody got the answer that promised this hold.
    Withdraw {
        /// Which.
        hold: HoldId,
    },
    /// An operator frees a hold.
    Release {
        /// The caller's org.
        org: OrgId,
        /// Which.
        hold: HoldId,
        /// Why, in the caller's words.
        note: String,
        /// By whom.
        actor: Actor,
    },
    /// The outermost span of a hold's execution ended; for holds of another pump than the event's.
    EndSpan {
        /// The key's org.
        org: OrgId,
        /// By whom.
        key: KeyId,
        /// Which.
        hold: HoldId,
    },
    /// A chain of calls goes on.
    Heartbeat {
        /// The key's org.
        org: OrgId,
        /// By whom.
        key: KeyId,
        /// The chain's workflow.
        workflow: WorkflowId,
        /// The chain's identity.
        chain: u128,
    },
    /// Pause, resume or kill.
    SetState {
        /// The caller's org.
        org: OrgId,
        /// Which workflow.
        workflow: WorkflowId,
        /// To what.
        to: Transition,
        /// Why, in the caller's words.
        reason: Option<String>,
        /// By whom.
        actor: Actor,
    },
    /// Show one workflow.
    ReadWorkflow {
        /// The caller's org.
        org: OrgId,
        /// Which.
        workflow: WorkflowId,
    },
    /// Which policies and limits are there for calls of a workflow?
    ReadEffective {
        /// The caller's org.
        org: OrgId,
        /// Which workflow.
        workflow: WorkflowId,
        /// Calls of this key.
        key: Option<KeyId>,
    },
    /// How would a described call end? Nothing is held, counted or written.
    Evaluate {
        /// The call.
        ask: Box<Ask>,
        /// The rules to ask, instead of the org's own.
        rules: Option<Arc<Rules>>,
    },
    /// Show some workflows of an org, in that order.
    ReadWorkflows {
        /// The caller's org.
        org: OrgId,
        /// Which.
        ids: Vec<WorkflowId>,
    },
    /// Show an org's ledger, as far as this pump's shards hold it.
    ReadOrg {
        /// Which.
        org: OrgId,
    },
    /// Show what an org has used and what limits it, from the figures that calls are decided with.
    ReadSums {
        /// Which.
        org: OrgId,
    },
    /// Show what keys of an org have used, those whose money is with this pump's shards.
    ReadKeys {
        /// Whose.
        org: OrgId,
        /// Which.
        ids: Vec<KeyId>,
    },
    /// Show open holds of an org in this pump's shards.
    ReadHolds {
        /// Whose.
        org: OrgId,
        /// Of one workflow only.
        workflow: Option<WorkflowId>,
        /// Only holds behind this one, by id.
        after: Option<HoldId>,
        /// How many at most.
        limit: usize,
    },
    /// Change the directory.
    Manage(Box<Manage>),
    /// Book at the price that holds now what was charged for a model at another; of each pump's own
    /// workflows.
    Reprice {
        /// The model, lower case; names that resolve to it are meant too.
        model: String,
        /// Only what is booked at this version.
        from: Option<u64>,
        /// Where the answer before ended.
        after: Option<Place>,
        /// By whom.
        actor: Actor,
    },
    /// Show the models that were charged for without a price, in each pump's own workflows.
    ReadUnpriced {
        /// Where the answer before ended.
        after: Option<Place>,
    },
    /// Take part in the order of the log and do nothing: answered when all before it is durable.
    Barrier,
}

/// How far a pump has got through all its workflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The shard.
    pub shard: u16,
    /// The last workflow looked at there.
    pub workflow: WorkflowId,
}

/// What was booked anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repriced {
    /// Corrections.
    pub entries: u64,
    /// Charges behind them.
    pub charges: u64,
    /// What they had cost.
    pub before: Nanos,
    /// What they cost now.
    pub after: Nanos,
    /// Where to go on, if that was not all.
    pub next: Option<Place>,
}

impl Repriced {
    /// Adds what another answer says, which was the later one.
    pub fn join(&mut self, other: Self) {
        self.entries += other.entries;
        self.charges += other.charges;
        self.before += other.before;
        self.after += other.after;
        self.next = other.next;
    }
}

/// A model without a price, and what was charged for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpriced {
    /// The model, as it was reported, lower case.
    pub model: String,
    /// How many charges.
    pub charges: u64,
    /// Their tokens.
    pub tokens: u64,
    /// What is booked for them.
    pub cost: Nanos,
    /// The first day.
    pub first: Day,
    /// The last day.
    pub last: Day,
    /// Whose.
    pub orgs: BTreeSet<OrgId>,
}

impl Unpriced {
    /// Adds what another answer says of the model.
    pub fn join(&mut self, other: Self) {
        self.charges += other.charges;
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.cost += other.cost;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.orgs.extend(other.orgs);
    }
}

/// The protocol generation a client speaks (`X-NULLRUN-PROTOCOL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// No header.
    Seed,
    /// 2 or 3.
    V3,
    /// 4.
    V4,
}

impl Protocol {
    /// For records: 0 when absent.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Seed => 0,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }
}

/// A call that asks to run.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Where it was asked.
    pub endpoint: Endpoint,
    /// By which generation.
    pub protocol: Protocol,
    /// The key's org.
    pub org: OrgId,
    /// The key.
    pub key: KeyId,
    /// The workflow it counts for.
    pub workflow: WorkflowId,
    /// Stands for the workflow and the client's `operation_id` together: what the gate and the execute of
    /// one call have in common.
    pub call: Option<u128>,
    /// Identity of the request.
    pub operation: Option<Operation>,
    /// The client's `operation_id`.
    pub operation_id: Option<String>,
    /// The client's `execution_id`.
    pub execution_id: Option<String>,
    /// The client's `trace_id`.
    pub trace_id: Option<String>,
    /// The model, as named; none for the clients' placeholder.
    pub model: Option<String>,
    /// The same in lower case, as rules compare it.
    pub model_lower: Option<String>,
    /// Tools, lower case, without doubles.
    pub tools: Vec<String>,
    /// The same, joined by newlines, as records hold them.
    pub tools_line: String,
    /// `action_digest`.
    pub digest: Option<String>,
    /// Declared prompt tokens; 1 means undeclared.
    pub estimated_tokens: u64,
    /// Declared bound on completion tokens.
    pub max_output_tokens: Option<u64>,
    /// The chain it belongs to.
    pub chain: Option<ChainAsk>,
    /// It only ends its chain and asks for nothing else.
    pub chain_end: bool,
    /// The reservation `/execute` names.
    pub reservation: Option<HoldId>,
    /// Under strict statuses an unknown reservation is refused.
    pub must_find_reservation: bool,
    /// The id of the hold, should one be minted.
    pub new_hold: HoldId,
    /// What was noted before it was put off.
    pub noted: Vec<Noted>,
    /// The call is only described: what is said of it, and of what was before it.
    pub figures: Option<Box<Figures>>,
}

impl Ask {
    /// It is asked again later, and keeps what was noted when it was counted.
    pub fn put_off(&mut self, decision: Decision) {
        let notes = decision.notes.into_iter();
        self.noted = notes.filter(Noted::is_counted).collect();
    }
}

/// What is said of a call that is only described. Absent is what it is here and now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// What it costs.
    pub cost: Option<Nanos>,
    /// Calls before it within the minute: of the org, the workflow and the key alike.
    pub calls: Option<u32>,
    /// Calls before it of each tool it names, within the window.
    pub tool_calls: Option<u32>,
}

/// The key of a call that is described without one.
pub const NO_KEY: KeyId = KeyId(0);

/// A call's chain.
#[derive(Debug, Clone)]
pub struct ChainAsk {
    /// Identity: a hash over workflow and `chain_id`.
    pub key: u128,
    /// The client's `chain_id`.
    pub id: String,
    /// The most the chain may spend, if this call begins it.
    pub cap: Option<Nanos>,
}

/// Events to book, of one key.
#[derive(Debug, Clone)]
pub struct Track {
    /// The key's org.
    pub org: OrgId,
    /// The key.
    pub key: KeyId,
    /// The events, in order.
    pub events: Vec<Reported>,
}

/// One event as it was reported.
#[derive(Debug, Clone, Default)]
pub struct Reported {
    /// Identity within the org, if it had an `event_id`.
    pub event_key: Option<u128>,
    /// Holds it may belong to, most explicit first.
    pub holds: [Option<HoldId>; 2],
    /// Where it is booked without a hold.
    pub workflow: WorkflowId,
    /// The holds it names are known not to be open any more.
    pub elsewhere: bool,
    /// It ends the outermost span of this execution.
    pub ends: Option<HoldId>,
    /// What it is.
    pub kind: String,
    /// The client's `event_id`.
    pub event_id: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The provider.
    pub provider: Option<String>,
    /// Token counts.
    pub tokens: Tokens,
    /// The tool.
    pub tool: Option<String>,
    /// Trace identity.
    pub trace_id: Option<String>,
    /// Span identity.
    pub span_id: Option<String>,
    /// The span above.
    pub parent_span_id: Option<String>,
    /// The client's execution id.
    pub execution_id: Option<String>,
    /// The workflow it named, if that is not where it is booked.
    pub label: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// How long it took.
    pub latency_ms: Option<u64>,
    /// What failed.
    pub error: Option<String>,
}

impl Reported {
    /// The holds it may belong to. They count only in the shard of the first: what an event may name
    /// must not depend on how many shards there are.
    pub fn named_holds(&self) -> impl Iterator<Item = HoldId> {
        let mut named = self.holds.into_iter().flatten();
        let first = named.next();
        let second = named
            .next()
            .filter(|id| Some(id.slot()) == first.map(HoldId::slot));
        first.into_iter().chain(second)
    }
}

/// What an operator may do to a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Stop until resumed.
    Pause,
    /// Go on.
    Resume,
    /// Stop for ever.
    Kill,
}

/// An answer.
#[derive(Debug)]
pub enum Outcome {
    /// To [`Command::Ask`].
    Decision(Decision),
    /// To [`Command::Track`], one per event; `None` where the event belongs to another pump, because
    /// the hold it names is not open any more.
    Tracked(TrackedList),
    /// To [`Command::Cancel`]: what was released; `None` if the hold is not open.
    Cancelled(Option<Nanos>),
    /// To [`Command::Release`]: the hold as it was.
    Released(OpenHold),
    /// To [`Command::Heartbeat`]: is there such a chain?
    Alive(bool),
    /// To [`Command::ReadHolds`], by id.
    Holds(Vec<OpenHold>),
    /// To everything about one workflow.
    Workflow(Box<WorkflowView>),
    /// To [`Command::ReadEffective`].
    Effective(Box<Effective>),
    /// To [`Command::Evaluate`].
    Evaluated(Box<Evaluated>),
    /// To [`Command::ReadWorkflows`].
    Workflows(Vec<WorkflowView>),
    /// To [`Command::ReadOrg`].
    Org(Box<OrgView>),
    /// To [`Command::ReadSums`].
    Sums(Box<OrgSums>),
    /// To [`Command::ReadKeys`].
    Keys(Vec<KeyView>),
    /// To [`Command::Reprice`].
    Repriced(Repriced),
    /// To [`Command::ReadUnpriced`].
    Unpriced {
        /// The models, by name.
        found: Vec<Unpriced>,
        /// Where to go on, if that was not all.
        next: Option<Place>,
    },
    /// To [`Command::Manage`].
    Managed(Box<crate::manage::Managed>),
    /// The command cannot be done.
    Refused(crate::manage::Refusal),
    /// Nothing to say.
    Done,
}

/// May the call run?
#[derive(Debug, Clone)]
pub struct Decision {
    /// Yes or no.
    pub verdict: Verdict,
    /// The tightest remainder over all caps that apply; none without caps.
    pub remaining: Option<Nanos>,
    /// What the call asked for.
    pub projected: Nanos,
    /// What policies said that decide nothing.
    pub notes: Vec<Noted>,
}

impl Decision {
    /// Is it a refusal that more room under a cap might have spared?
    #[must_use]
    pub const fn wants_money(&self) -> bool {
        match &self.verdict {
            Verdict::Block(block) => matches!(
                block.code,
                Code::BudgetHardBlocked | Code::BudgetOrgCeilingBlocked
            ),
            Verdict::Allow { .. } => false,
        }
    }
}

/// Yes or no.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It may run on this hold; none for questions that hold nothing.
    Allow {
        /// The hold.
        hold: Option<HoldId>,
        /// This request was answered before.
        replayed: bool,
    },
    /// It may not.
    Block(Box<Block>),
}

/// A refusal and everything a person needs to understand it.
#[derive(Debug, Clone)]
pub struct Block {
    /// The code.
    pub code: Code,
    /// A sentence that begins with the code.
    pub explanation: String,
    /// A short machine word beneath the code, e.g. `no_tools_field`.
    pub reason: &'static str,
    /// The policy that decided.
    pub policy: Option<Arc<Compiled>>,
    /// The tool that was blocked.
    pub tool: String,
    /// The pattern that matched it.
    pub pattern: String,
    /// The budget that decided.
    pub budget: Option<Arithmetic>,
    /// When asking again may help.
    pub retry_after_ms: Option<u64>,
    /// When the budget begins anew.
    pub resets_at: Option<Millis>,
    /// The plan's limit that decided.
    pub plan: Option<Used>,
}

/// A limit of a plan, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Of what.
    pub resource: &'static str,
    /// So much.
    pub current: u64,
    /// Of so much.
    pub limit: u64,
}

impl Block {
    /// A refusal with only a code and a sentence.
    #[must_use]
    pub fn new(code: Code, why: &str) -> Self {
        Self {
            code,
            explanation: format!("{}: {why}", code.name()),
            reason: "",
            policy: None,
            tool: String::new(),
            pattern: String::new(),
            budget: None,
            retry_after_ms: None,
            resets_at: None,
            plan: None,
        }
    }
}

/// What became of each event, in order; `None` belongs to another pump. One event, the usual report,
/// takes no memory of its own.
pub type TrackedList = SmallVec<[Option<Tracked>; 1]>;

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// It was counted before and not again.
    pub duplicate: bool,
    /// What it cost.
    pub cost: Nanos,
    /// No price was known.
    pub provisional: bool,
    /// What was spent beyond the hold; none without a hold.
    pub overage: Option<Nanos>,
    /// Where it was booked.
    pub workflow: WorkflowId,
    /// The state of that workflow.
    pub state: State,
}

/// A workflow with its money.
#[derive(Debug, Clone)]
pub struct WorkflowView {
    /// Names and settings.
    pub entry: Arc<WorkflowEntry>,
    /// State.
    pub state: State,
    /// Grows with each change of state.
    pub version: u64,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// When it came to it.
    pub state_since: Millis,
    /// Who brought it there; none if its state never changed.
    pub state_by: Option<Actor>,
    /// Booked and held in this period.
    pub sums: Sums,
    /// Booked since ever.
    pub lifetime: Nanos,
    /// The period of its cap.
    pub period: Period,
    /// How many holds are open.
    pub open_holds: u64,
}

impl WorkflowView {
    /// What its own cap leaves.
    #[must_use]
    pub fn remaining(&self) -> Option<Nanos> {
        self.entry.budget().map(|cap| cap - self.sums.taken())
    }
}

/// An org's ledger, or the part of it that one pump's shards hold.
#[derive(Debug, Clone)]
pub struct OrgView {
    /// Booked and held in the period of its cap.
    pub sums: Sums,
    /// The period.
    pub period: Period,
    /// The day it was shown on.
    pub today: Day,
    /// Its workflows, oldest first.
    pub workflows: Vec<WorkflowView>,
    /// Totals per key in the period of the key's cap, by key.
    pub keys: Vec<(KeyId, Sums)>,
}

impl OrgView {
    /// Adds what another pump holds.
    pub fn join(&mut self, other: Self) {
        self.sums += other.sums;
        self.workflows.extend(other.workflows);
        self.workflows
            .sort_by_key(|view| (view.entry.created_at, view.entry.id));
        for (key, more) in other.keys {
            match self.keys.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(at) => {
                    if let Some((_, sums)) = self.keys.get_mut(at) {
                        *sums += more;
                    }
                }
                // Made between the two pumps' looks at the directory.
                Err(at) => self.keys.insert(at, (key, more)),
            }
        }
    }
}

/// What an org has used, and what limits it.
#[derive(Debug, Clone)]
pub struct OrgSums {
    /// The cap that leaves least, of the org's own and those of its policies for all calls.
    pub budget: Option<Nanos>,
    /// The policy it is from, if it is not the org's own.
    pub policy: Option<Arc<Compiled>>,
    /// Its period; that of the org's own cap, set or not, if there is none.
    pub period: Period,
    /// Booked and held in that period.
    pub sums: Sums,
    /// Booked ever.
    pub lifetime: Nanos,
    /// Nano-dollars spent in the last ten minutes, and the seconds they took.
    pub burnt: (i64, u64),
    /// Calls in the last minute, where a rate is set for the org.
    pub rate_used: u32,
    /// The rate set for the org.
    pub rate_limit: Option<u32>,
    /// Calls that were allowed in this month.
    pub executions: u64,
    /// This month.
    pub month: Period,
    /// Calls in this second, where the plan limits them.
    pub in_second: u32,
    /// The time.
    pub now: Millis,
}

impl OrgSums {
    /// What the cap leaves.
    #[must_use]
    pub fn remaining(&self) -> Option<Nanos> {
        self.budget.map(|cap| cap - self.sums.taken())
    }

    /// Nano-dollars per hour at the rate of the last ten minutes.
    #[must_use]
    pub fn burn_per_hour(&self) -> Nanos {
        let (burnt, secs) = self.burnt;
        let per_hour = i128::from(burnt) * 3600 / i128::from(secs.max(1));
        Nanos(i64::try_from(per_hour).unwrap_or(i64::MAX))
    }

    /// Seconds until the cap is reached at that rate.
    #[must_use]
    pub fn exhausted_in_secs(&self) -> Option<u64> {
        let (burnt, secs) = self.burnt;
        let left = self.remaining()?.max(Nanos::ZERO);
        let secs = (i128::from(left.0) * i128::from(secs)).checked_div(i128::from(burnt))?;
        Some(u64::try_from(secs).unwrap_or(u64::MAX))
    }
}

/// A key with what it has used.
#[derive(Debug, Clone)]
pub struct KeyView {
    /// What it is.
    pub entry: Arc<KeyEntry>,
    /// Booked and held in the period of its cap.
    pub sums: Sums,
    /// Booked ever.
    pub lifetime: Nanos,
    /// The period.
    pub period: Period,
    /// Calls that were allowed in this month.
    pub executions: u64,
}

impl KeyView {
    /// What its own cap leaves.
    #[must_use]
    pub fn remaining(&self) -> Option<Nanos> {
        self.entry.budget.map(|cap| cap - self.sums.taken())
    }
}

/// When an answer may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once: it promises nothing.
    Now,
    /// When everything appended so far is durable.
    Durable,
    /// Not yet: another pump is at work on the same figures. The command is to be applied again in
    /// the next turn.
    Again,
    /// Not yet: it would be refused for money that holds still bind whose time is over, and ending
    /// them takes several turns. To be applied again when no pump has such holds.
    Later,
}

/// An answer with the LSN it depends on.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub outcome: Outcome,
    /// Everything up to here is in it.
    pub as_of: Lsn,
}
