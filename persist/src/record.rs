//! The records of the log: what was decided, never what was asked. A record carries resolved
//! amounts, times and ids, so that folding it needs no clock, no price table and no rule.
//!
//! The encoding is postcard. Variants and enum members are only ever appended, and the fields of a
//! released struct never change: a new need gets a new variant. `tests/golden_records.rs` holds the
//! bytes of every variant.

mod directory;

pub use directory::*;

use crate::ids::{HoldId, KeyId, OrgId, PolicyId, UserId, WorkflowId};
use crate::units::{Day, Lsn, Millis, Nanos};
use serde::{Deserialize, Serialize};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// People, orgs, keys, policies, workflows: one or more changes that happen together.
    #[serde(borrow)]
    Directory(DirectoryRecord<'a>),
    /// A call was refused. For history only: it changes no state.
    #[serde(borrow)]
    Refused(Refused<'a>),
    /// A call was allowed and money is held for it.
    #[serde(borrow)]
    HoldMinted(HoldMinted<'a>),
    /// A call was allowed on a hold that is already there.
    #[serde(borrow)]
    HoldUsed(HoldUsed<'a>),
    /// An event was stored; its cost (often nothing) is booked.
    #[serde(borrow)]
    Charged(Charged<'a>),
    /// A hold ended and what was left of it is free again.
    #[serde(borrow)]
    HoldEnded(HoldEnded<'a>),
    /// A workflow changed its state.
    #[serde(borrow)]
    WorkflowState(WorkflowStateChanged<'a>),
    /// A chain of calls was kept alive, and its holds with it.
    ChainRenewed(ChainRenewed),
    /// A chain of calls is over.
    ChainEnded(ChainEnded),
    /// The newest generation of counted events is closed and the next one begins.
    EventsSealed(EventsSealed),
    /// What was charged at one price is now booked at another.
    #[serde(borrow)]
    Rerated(Rerated<'a>),
}

/// Which endpoint took a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    /// `/gate`.
    Gate,
    /// `/execute`.
    Execute,
    /// `/check`: never recorded, named for completeness.
    Check,
}

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// The gateway itself (expiry, bootstrap).
    System,
    /// A signed-in person.
    User(UserId),
    /// An API key.
    Key(KeyId),
}

/// The call a decision was about, as the client described it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call<'a> {
    /// When the decision was taken.
    pub at: Millis,
    /// The key's org.
    pub org: OrgId,
    /// The workflow the call counts for.
    pub workflow: WorkflowId,
    /// The key that asked.
    pub key: KeyId,
    /// Where it asked.
    pub endpoint: Endpoint,
    /// `X-NULLRUN-PROTOCOL`; 0 when absent.
    pub protocol: u8,
    /// The directory change the rules were read at, so that the decision can be recomputed.
    pub rules: Lsn,
    /// The client's `operation_id`.
    pub operation_id: Option<&'a str>,
    /// The client's `execution_id`.
    pub execution_id: Option<&'a str>,
    /// The client's `trace_id`.
    pub trace_id: Option<&'a str>,
    /// The client's `chain_id`.
    pub chain_id: Option<&'a str>,
    /// The model it named.
    pub model: Option<&'a str>,
    /// The tools it named, joined by newlines (a tool name holds no control character).
    pub tools: &'a str,
    /// `action_digest`.
    pub digest: Option<&'a str>,
}

/// The rule or arithmetic behind a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cause<'a> {
    /// The error code of a refusal, empty for an allow.
    pub code: &'a str,
    /// The policy that answered.
    pub policy: Option<PolicyId>,
    /// Its version at that time.
    pub policy_version: u64,
    /// The tool that was blocked, if one was.
    pub tool: &'a str,
    /// The pattern that matched it.
    pub pattern: &'a str,
    /// The budget that decided, if one did.
    pub budget: Option<Arithmetic>,
}

/// A policy that matched a call and did not decide it: it flags, or stands in the shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub policy: PolicyId,
    /// Its version at that time.
    pub version: u64,
    /// It stands in the shadow.
    pub shadow: bool,
    /// It would have refused the call.
    pub refuses: bool,
}

/// `spent + held + asked ≤ cap + overdraft`, with the figures at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Whose cap it is.
    pub scope: Scope,
    /// Over which period.
    pub period: PeriodKind,
    /// The cap.
    pub cap: Nanos,
    /// How far beyond it this call might go (soft caps within a chain).
    pub overdraft: Nanos,
    /// Booked in this period.
    pub spent: Nanos,
    /// Held in this period.
    pub held: Nanos,
    /// What this call asked for.
    pub asked: Nanos,
}

/// Over which time a cap counts. Days, weeks (from Monday) and months are civil, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PeriodKind {
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month.
    #[default]
    Month,
    /// Today and the 29 days before it.
    Rolling30,
    /// Since ever.
    Lifetime,
}

impl PeriodKind {
    /// Every kind and its name on the wire.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::Day, "day"),
        (Self::Week, "week"),
        (Self::Month, "month"),
        (Self::Rolling30, "rolling_30_days"),
        (Self::Lifetime, "lifetime"),
    ];

    /// On the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Rolling30 => "rolling_30_days",
            Self::Lifetime => "lifetime",
        }
    }
}

/// How far beyond a cap the calls of a chain may go: the lesser of the two that are set, nothing if
/// none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Overdraft {
    /// An amount.
    pub amount: Option<Nanos>,
    /// A part of the cap, in percent.
    pub percent: Option<u32>,
}

/// A call's place in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainLink {
    /// First 16 bytes of SHA-256 over (workflow, chain id).
    pub chain: u128,
    /// The chain begins with this call, on these terms.
    pub begins: Option<ChainTerms>,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChainTerms {
    /// The most it may spend and hold; none when absent.
    pub cap: Option<Nanos>,
}

/// The three levels at which caps and policies stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// The whole org.
    Org,
    /// One workflow.
    Workflow,
    /// One API key.
    ApiKey,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused<'a> {
    /// What was asked.
    #[serde(borrow)]
    pub call: Call<'a>,
    /// Why not.
    #[serde(borrow)]
    pub cause: Cause<'a>,
    /// Policies that only had something to say.
    pub notes: Vec<Note>,
}

/// An allow that holds money.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldMinted<'a> {
    /// What was asked.
    #[serde(borrow)]
    pub call: Call<'a>,
    /// The tightest budget at that moment, if any was set.
    pub budget: Option<Arithmetic>,
    /// The new hold.
    pub hold: HoldId,
    /// How much it holds; may be nothing.
    pub amount: Nanos,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// The day it counts in, and everything that is charged on it.
    pub day: Day,
    /// The request's identity, if it named an operation.
    pub operation: Option<Operation>,
    /// The chain it belongs to.
    pub chain: Option<ChainLink>,
    /// Policies that only had something to say.
    pub notes: Vec<Note>,
}

/// An allow on a live hold (`/execute` after `/gate`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HoldUsed<'a> {
    /// What was asked.
    #[serde(borrow)]
    pub call: Call<'a>,
    /// The hold it runs on.
    pub hold: HoldId,
    /// The request's identity, if it named an operation.
    pub operation: Option<Operation>,
    /// The chain this call belongs to.
    pub chain: Option<ChainLink>,
    /// Policies that only had something to say.
    pub notes: Vec<Note>,
}

/// Identity of a request: the same key with the same fingerprint is the same request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// First 16 bytes of SHA-256 over (workflow, operation id, approval id if there is one); the lowest
    /// bit tells the endpoint instead.
    pub key: u128,
    /// First 8 bytes of SHA-256 over what must be equal (tool, tools, model, tokens, digest).
    pub fingerprint: u64,
}

impl Operation {
    /// The operation of a call at an endpoint.
    #[must_use]
    pub const fn of(call: u128, endpoint: Endpoint, fingerprint: u64) -> Self {
        let executes = matches!(endpoint, Endpoint::Execute) as u128;
        Self {
            key: call & !1 | executes,
            fingerprint,
        }
    }

    /// The key of the same call at the other endpoint.
    #[must_use]
    pub const fn twin(&self) -> u128 {
        self.key ^ 1
    }
}

/// Token counts of an event. Absent on the wire is 0 here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// As the client totalled them.
    pub total: u64,
    /// Prompt.
    pub input: u64,
    /// Completion.
    pub output: u64,
    /// Read from the provider's cache.
    pub cache_read: u64,
    /// Written to it.
    pub cache_write: u64,
    /// Spent on reasoning (inside `output`).
    pub reasoning: u64,
}

/// What a client reported, for history. Strings are the client's, cut to their limits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Event<'a> {
    /// `llm_call`, `tool_call`, `span_start`, `span_end`, or any word of the user's.
    pub kind: &'a str,
    /// The client's `event_id`.
    pub event_id: Option<&'a str>,
    /// The model it named.
    pub model: Option<&'a str>,
    /// The provider it named.
    pub provider: Option<&'a str>,
    /// Token counts.
    pub tokens: Tokens,
    /// The tool, for tool calls.
    pub tool: Option<&'a str>,
    /// Trace identity.
    pub trace_id: Option<&'a str>,
    /// Span identity.
    pub span_id: Option<&'a str>,
    /// The span above.
    pub parent_span_id: Option<&'a str>,
    /// The client's execution id.
    pub execution_id: Option<&'a str>,
    /// The workflow the body named, when it is not the one charged.
    pub label: Option<&'a str>,
    /// The agent's id.
    pub agent_id: Option<&'a str>,
    /// How long it took, as the client measured.
    pub latency_ms: Option<u64>,
    /// The error of a failed span, cut.
    pub error: Option<&'a str>,
}

/// Remarks on a charge, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChargeFlags(pub u32);

impl ChargeFlags {
    /// No price was known: the provisional one was booked.
    pub const PROVISIONAL: Self = Self(1);
    /// More was spent than the hold had left.
    pub const OVERAGE: Self = Self(2);
    /// A reservation was named that is not open (any more).
    pub const NO_HOLD: Self = Self(4);
    /// The workflow was killed or paused at that time.
    pub const NOT_NORMAL: Self = Self(8);

    /// Adds a remark.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Is this remark there?
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One stored event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Charged<'a> {
    /// When it arrived.
    pub at: Millis,
    /// Whose money.
    pub org: OrgId,
    /// The workflow it is booked on.
    pub workflow: WorkflowId,
    /// The key that reported it.
    pub key: KeyId,
    /// The key the money counts for: that of the hold, else the reporting one.
    pub payer: KeyId,
    /// The hold it was booked against, if that was open.
    pub hold: Option<HoldId>,
    /// The day it counts in: that of its hold, else the day it arrived.
    pub day: Day,
    /// What it cost.
    pub cost: Nanos,
    /// How much of that the hold covered.
    pub from_hold: Nanos,
    /// Remarks.
    pub flags: ChargeFlags,
    /// Whose price it was: [`ModelPrice::version`], 0 for a built-in or a provisional one.
    pub price: u64,
    /// Identity of the event within its org, when it had an `event_id`.
    pub event_key: Option<u128>,
    /// What was reported.
    #[serde(borrow)]
    pub event: Event<'a>,
}

/// Tokens by the rate they are charged at, whatever way a provider counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rated {
    /// At the input rate.
    pub input: u64,
    /// At the output rate.
    pub output: u64,
    /// At the rate of what is read from the cache.
    pub cache_read: u64,
    /// At the rate of what is written to it.
    pub cache_write: u64,
    /// At the rate of reasoning.
    pub reasoning: u64,
}

/// Charges of one day, workflow, key and model, booked at one price, are booked at another from here
/// on. The charges themselves stay as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rerated<'a> {
    /// When.
    pub at: Millis,
    /// Whose.
    pub org: OrgId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// The key they count for.
    pub payer: KeyId,
    /// The day they count in.
    pub day: Day,
    /// The model, as it was reported, lower case.
    pub model: &'a str,
    /// Version of the price they were booked at; 0 for the provisional one.
    pub from: u64,
    /// Version of the price they are booked at now.
    pub to: u64,
    /// All their tokens.
    pub tokens: Rated,
    /// What they had cost.
    pub before: Nanos,
    /// What they cost now.
    pub after: Nanos,
    /// By whom.
    pub actor: Actor,
}

/// Why a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// The outermost span of its execution ended.
    SpanEnd,
    /// The client cancelled it.
    Cancelled,
    /// Its time was over.
    Expired,
    /// The gateway could not answer in time and took the allow back.
    Withdrawn,
    /// An operator freed it.
    Released,
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldEnded<'a> {
    /// When.
    pub at: Millis,
    /// Whose.
    pub org: OrgId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// Counting for which key.
    pub key: KeyId,
    /// The hold.
    pub hold: HoldId,
    /// The day it counted in.
    pub day: Day,
    /// What was left of it.
    pub released: Nanos,
    /// Why.
    pub reason: EndReason,
    /// The operator's words.
    pub note: Option<&'a str>,
    /// By whom.
    pub actor: Actor,
}

/// The states of a workflow, in the client's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum State {
    /// Calls may run.
    #[default]
    Normal,
    /// Marked for attention; calls may run.
    Flagged,
    /// Stopped by a detector; resume leaves it.
    Tripped,
    /// Stopped by an operator; resume leaves it.
    Paused,
    /// Stopped for ever.
    Killed,
}

impl State {
    /// The spelling every published client compares with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Flagged => "Flagged",
            Self::Tripped => "Tripped",
            Self::Paused => "Paused",
            Self::Killed => "Killed",
        }
    }
}

/// A workflow went from one state to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowStateChanged<'a> {
    /// When.
    pub at: Millis,
    /// Whose.
    pub org: OrgId,
    /// Which.
    pub workflow: WorkflowId,
    /// Its new version: one more than before, for ever growing.
    pub version: u64,
    /// Where it was.
    pub from: State,
    /// Where it is.
    pub to: State,
    /// Why, in the operator's words.
    pub reason: Option<&'a str>,
    /// By whom.
    pub actor: Actor,
}

/// A chain goes on: its calls may take their time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRenewed {
    /// When.
    pub at: Millis,
    /// Whose.
    pub org: OrgId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// The chain.
    pub chain: u128,
    /// Its open holds now end by themselves at this time.
    pub expires_at: Millis,
    /// By which key.
    pub key: KeyId,
}

/// Why a chain is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainEnd {
    /// The client said so.
    Asked,
    /// Nothing came for too long.
    Idle,
    /// It took longer than a chain may.
    TooLong,
}

/// A chain is over. Its holds live on until they are charged, cancelled or over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEnded {
    /// When.
    pub at: Millis,
    /// Whose.
    pub org: OrgId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// The chain.
    pub chain: u128,
    /// Why.
    pub reason: ChainEnd,
    /// By whom.
    pub actor: Actor,
}

/// A generation of counted events is closed. Only this record decides what is forgotten when, so
/// every reader of the log forgets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsSealed {
    /// When.
    pub at: Millis,
    /// The generation that is closed; the next one is open from here on.
    pub number: u64,
    /// Generations before this one are forgotten.
    pub keep_from: u64,
}
