//! What the engine is asked, and what it answers. Times and ids come in with the command: the
//! engine has no clock and no randomness.

use crate::code::Code;
use crate::directory::WorkflowEntry;
use crate::manage::Manage;
use crate::period::Period;
use crate::rules::Compiled;
use persist::record::{Actor, Arithmetic, Endpoint, Operation, State, Tokens};
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
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
    /// Show some workflows of an org, in that order.
    ReadWorkflows {
        /// The caller's org.
        org: OrgId,
        /// Which.
        ids: Vec<WorkflowId>,
    },
    /// Show an org's ledger.
    ReadOrg {
        /// Which.
        org: OrgId,
    },
    /// Change the directory.
    Manage(Box<Manage>),
    /// Take part in the order of the log and do nothing: answered when all before it is durable.
    Barrier,
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
    /// Tools, lower case, without doubles.
    pub tools: Vec<String>,
    /// `action_digest`.
    pub digest: Option<String>,
    /// Declared prompt tokens; 1 means undeclared.
    pub estimated_tokens: u64,
    /// Declared bound on completion tokens.
    pub max_output_tokens: Option<u64>,
    /// `chain_op` is `end`.
    pub chain_end: bool,
    /// The reservation `/execute` names.
    pub reservation: Option<HoldId>,
    /// Under strict statuses an unknown reservation is refused.
    pub must_find_reservation: bool,
    /// The id of the hold, should one be minted.
    pub new_hold: HoldId,
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
    Decision(Box<Decision>),
    /// To [`Command::Track`], one per event.
    Tracked(Vec<Tracked>),
    /// To [`Command::Cancel`]: what was released; `None` if the hold is not open.
    Cancelled(Option<Nanos>),
    /// To everything about one workflow.
    Workflow(Box<WorkflowView>),
    /// To [`Command::ReadWorkflows`].
    Workflows(Vec<WorkflowView>),
    /// To [`Command::ReadOrg`].
    Org(Box<OrgView>),
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
        }
    }
}

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
    /// Booked in this period.
    pub spent: Nanos,
    /// Held in this period.
    pub held: Nanos,
    /// The period.
    pub period: Period,
}

impl WorkflowView {
    /// What its own cap leaves.
    #[must_use]
    pub fn remaining(&self) -> Option<Nanos> {
        self.entry.budget.map(|cap| cap - self.spent - self.held)
    }
}

/// An org's ledger.
#[derive(Debug, Clone)]
pub struct OrgView {
    /// Booked in this period.
    pub spent: Nanos,
    /// Held in this period.
    pub held: Nanos,
    /// Its cap.
    pub budget: Option<Nanos>,
    /// Booked ever.
    pub lifetime: Nanos,
    /// Seconds until the cap is reached at the rate of the last ten minutes.
    pub exhausted_in_secs: Option<u64>,
    /// Nano-dollars per hour at that rate.
    pub burn_per_hour: Nanos,
    /// Calls in the last minute, where a rate is set for the org.
    pub rate_used: u32,
    /// The rate set for the org.
    pub rate_limit: Option<u32>,
    /// Open holds.
    pub open_holds: u64,
    /// The period.
    pub period: Period,
    /// Its workflows, oldest first.
    pub workflows: Vec<WorkflowView>,
    /// Totals per key in this period: (key, spent, held).
    pub keys: Vec<(KeyId, Nanos, Nanos)>,
}

/// When an answer may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once: it promises nothing.
    Now,
    /// When everything appended so far is durable.
    Durable,
}

/// An answer with the LSN it depends on.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub outcome: Outcome,
    /// Everything up to here is in it.
    pub as_of: Lsn,
}
