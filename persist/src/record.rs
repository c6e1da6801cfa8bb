//! The records of the log: what was decided, never what was asked. A record carries resolved
//! amounts, times and ids, so that folding it needs no clock, no price table and no rule.
//!
//! The encoding is postcard. Variants and enum members are only ever appended, and the fields of a
//! released struct never change: a new need gets a new variant. `tests/golden_records.rs` holds the
//! bytes of every variant.

use crate::ids::{HoldId, KeyId, OrgId, PolicyId, UserId, WorkflowId};
use crate::units::{Lsn, Millis, Nanos};
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
    HoldEnded(HoldEnded),
    /// A workflow changed its state.
    #[serde(borrow)]
    WorkflowState(WorkflowStateChanged<'a>),
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

/// `spent + held + asked ≤ cap`, with the figures at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Whose cap it is.
    pub scope: Scope,
    /// The cap.
    pub cap: Nanos,
    /// Booked in this period.
    pub spent: Nanos,
    /// Held in this period.
    pub held: Nanos,
    /// What this call asked for.
    pub asked: Nanos,
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
    /// First instant of the budget period it counts in.
    pub period_start: Millis,
    /// The request's identity, if it named an operation.
    pub operation: Option<Operation>,
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
}

/// Identity of a request: the same key with the same fingerprint is the same request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// First 16 bytes of SHA-256 over (workflow, endpoint, operation id, approval id).
    pub key: u128,
    /// First 8 bytes of SHA-256 over what must be equal (tool, tools, model, tokens, digest).
    pub fingerprint: u64,
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
    /// First instant of the budget period it counts in.
    pub period_start: Millis,
    /// What it cost.
    pub cost: Nanos,
    /// How much of that the hold covered.
    pub from_hold: Nanos,
    /// Remarks.
    pub flags: ChargeFlags,
    /// Identity of the event within its org, when it had an `event_id`.
    pub event_key: Option<u128>,
    /// What was reported.
    #[serde(borrow)]
    pub event: Event<'a>,
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
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldEnded {
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
    /// The period it counted in.
    pub period_start: Millis,
    /// What was left of it.
    pub released: Nanos,
    /// Why.
    pub reason: EndReason,
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

/// Changes to the directory that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectoryRecord<'a> {
    /// When.
    pub at: Millis,
    /// By whom.
    pub actor: Actor,
    /// What.
    #[serde(borrow)]
    pub changes: Vec<Change<'a>>,
}

/// One change to the directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change<'a> {
    /// A person registered.
    #[serde(borrow)]
    UserAdded(User<'a>),
    /// An org was made.
    #[serde(borrow)]
    OrgAdded(Org<'a>),
    /// An org's settings are now these.
    #[serde(borrow)]
    OrgChanged(Org<'a>),
    /// A person belongs to an org.
    MemberAdded(Member),
    /// A session was opened.
    SessionAdded(Session),
    /// A workflow was made.
    #[serde(borrow)]
    WorkflowAdded(Workflow<'a>),
    /// A workflow's settings are now these.
    #[serde(borrow)]
    WorkflowChanged(Workflow<'a>),
    /// A key was minted.
    #[serde(borrow)]
    KeyAdded(Key<'a>),
    /// A key is refused from now on.
    KeyRevoked {
        /// Which.
        key: KeyId,
    },
    /// A policy was made.
    #[serde(borrow)]
    PolicyAdded(Policy<'a>),
    /// A policy is now this.
    #[serde(borrow)]
    PolicyChanged(Policy<'a>),
    /// A policy is gone.
    PolicyRemoved {
        /// Whose.
        org: OrgId,
        /// Which.
        policy: PolicyId,
    },
}

/// A person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User<'a> {
    /// Id.
    pub id: UserId,
    /// Address, lower case.
    pub email: &'a str,
    /// Name, may be empty.
    pub name: &'a str,
    /// Argon2id in PHC form.
    pub password_hash: &'a str,
    /// When registered.
    pub created_at: Millis,
}

/// How policies of one question combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Composition {
    /// The first active match by priority answers.
    #[default]
    FirstMatch,
    /// The strictest of all matches answers.
    MostRestrictive,
}

/// An org.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Org<'a> {
    /// Id.
    pub id: OrgId,
    /// Name.
    pub name: &'a str,
    /// Plan.
    pub plan: &'a str,
    /// Cap over all its workflows in a period; none when absent.
    pub budget: Option<Nanos>,
    /// How its policies combine.
    pub composition: Composition,
    /// When made.
    pub created_at: Millis,
}

/// Roles, each including those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Acts on workflows, policies, keys.
    Operator,
    /// Manages people.
    Admin,
    /// Everything.
    Owner,
}

/// A person's place in an org.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The org.
    pub org: OrgId,
    /// The person.
    pub user: UserId,
    /// The role.
    pub role: Role,
}

/// A session. The token itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Whose.
    pub user: UserId,
    /// Until when.
    pub expires_at: Millis,
}

/// A workflow's name and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workflow<'a> {
    /// Id.
    pub id: WorkflowId,
    /// Whose.
    pub org: OrgId,
    /// Name.
    pub name: &'a str,
    /// The operator's own id for it.
    pub external_id: Option<&'a str>,
    /// Cap in a period; none when absent.
    pub budget: Option<Nanos>,
    /// Cap on one call's hold; none when absent.
    pub max_per_call: Option<Nanos>,
    /// When made.
    pub created_at: Millis,
    /// When last changed.
    pub updated_at: Millis,
}

/// What a key may do, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes(pub u8);

impl Scopes {
    /// `/gate`, `/check`, `/heartbeat`, `/cancel`.
    pub const GATE: Self = Self(1);
    /// `/execute`.
    pub const EXECUTE: Self = Self(2);
    /// `/track`, `/track/batch`.
    pub const TRACK: Self = Self(4);
    /// `/auth/verify`.
    pub const VERIFY: Self = Self(8);
    /// Everything an SDK does.
    pub const ALL: Self = Self(15);

    /// Every scope and its name on the wire.
    pub const NAMED: [(Self, &'static str); 4] = [
        (Self::GATE, "gate"),
        (Self::EXECUTE, "execute"),
        (Self::TRACK, "track"),
        (Self::VERIFY, "verify"),
    ];

    /// Does the set hold `scope`?
    #[must_use]
    pub const fn has(self, scope: Self) -> bool {
        self.0 & scope.0 == scope.0
    }
}

/// An API key. Neither the key nor its secret is stored in the clear.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key<'a> {
    /// Id.
    pub id: KeyId,
    /// Whose.
    pub org: OrgId,
    /// The workflow it is bound to; none for a key that picks one per call.
    pub workflow: Option<WorkflowId>,
    /// Name.
    pub name: &'a str,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// Its first characters, for lists.
    pub prefix: &'a str,
    /// Its last characters, for lists.
    pub suffix: &'a str,
    /// The signing secret, sealed with the data directory's key.
    pub sealed_secret: &'a [u8],
    /// Grows with each rotation.
    pub key_version: u32,
    /// What it may do.
    pub scopes: Scopes,
    /// Cap in a period; none when absent.
    pub budget: Option<Nanos>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
    /// When minted.
    pub created_at: Millis,
}

/// What a policy decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PolicyType {
    /// A cap on spend.
    BudgetLimit,
    /// A cap on calls per minute.
    RateLimit,
    /// Which tools may run.
    ToolBlock,
    /// Repeated tool calls.
    LoopDetection,
}

/// What a matching policy does, where its type leaves a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyAction {
    /// Let it pass and ask no further policy of this scope.
    Allow,
    /// Let it pass and say so.
    Flag,
    /// Ask a person.
    RequireApproval,
    /// Refuse.
    Block,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy<'a> {
    /// Id.
    pub id: PolicyId,
    /// Whose.
    pub org: OrgId,
    /// Name.
    pub name: &'a str,
    /// What it decides about; never changes.
    pub policy_type: PolicyType,
    /// At which level it stands.
    pub scope: Scope,
    /// The workflow or key, at those levels.
    pub scope_id: Option<u128>,
    /// Lower answers first.
    pub priority: i32,
    /// What a match does.
    pub action: PolicyAction,
    /// Tool patterns (one list: the match's and the config's).
    pub tools: Vec<&'a str>,
    /// Model patterns; any model when empty.
    pub models: Vec<&'a str>,
    /// Matches only calls projected to cost at least this.
    pub min_cost: Option<Nanos>,
    /// BudgetLimit: the cap.
    pub budget: Option<Nanos>,
    /// RateLimit: calls per minute.
    pub calls_per_minute: Option<u32>,
    /// LoopDetection: calls.
    pub loop_threshold: Option<u32>,
    /// LoopDetection: seconds.
    pub loop_window_secs: Option<u32>,
    /// Off policies answer nothing.
    pub is_active: bool,
    /// Grows with each change.
    pub version: u64,
    /// When made: breaks ties of priority.
    pub created_at: Millis,
    /// When last changed.
    pub updated_at: Millis,
}
