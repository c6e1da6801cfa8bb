//! Changes to the directory: people, orgs, invites, keys, workflows, policies, prices.

use super::{Actor, Overdraft, PeriodKind, Scope};
use crate::ids::{InviteId, KeyId, OrgId, PolicyId, SessionId, UserId, WorkflowId};
use crate::units::{Millis, Nanos};
use serde::{Deserialize, Serialize};

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
    /// A person's name, password or proof of address is now this.
    #[serde(borrow)]
    UserChanged(User<'a>),
    /// A person may sign in through a provider's account.
    #[serde(borrow)]
    IdentityAdded(Identity<'a>),
    /// A link was mailed that lets a person do one thing once.
    TokenAdded(Token),
    /// That link is used up.
    TokenUsed {
        /// SHA-256 of the token.
        token_hash: [u8; 32],
    },
    /// An org was made.
    #[serde(borrow)]
    OrgAdded(Org<'a>),
    /// An org's settings are now these.
    #[serde(borrow)]
    OrgChanged(Org<'a>),
    /// An org is gone, with all that was in it; its money stays in the log.
    OrgRemoved {
        /// Which.
        org: OrgId,
    },
    /// A person belongs to an org.
    MemberAdded(Member),
    /// A person has another role in an org.
    MemberChanged(Member),
    /// A person does not belong to an org any more.
    MemberRemoved {
        /// The org.
        org: OrgId,
        /// The person.
        user: UserId,
    },
    /// Somebody was invited to an org.
    #[serde(borrow)]
    InviteAdded(Invite<'a>),
    /// An invitation has another link or role, and lives longer.
    #[serde(borrow)]
    InviteChanged(Invite<'a>),
    /// An invitation is over.
    InviteEnded {
        /// Its org.
        org: OrgId,
        /// Which.
        invite: InviteId,
        /// How.
        end: InviteEnd,
    },
    /// A session was opened.
    #[serde(borrow)]
    SessionAdded(Session<'a>),
    /// A session was ended before its time.
    SessionEnded {
        /// Whose.
        user: UserId,
        /// Which.
        session: SessionId,
    },
    /// All sessions of a person were ended, but one perhaps.
    SessionsEnded {
        /// Whose.
        user: UserId,
        /// The one that goes on.
        but: Option<SessionId>,
    },
    /// A workflow was made.
    #[serde(borrow)]
    WorkflowAdded(Workflow<'a>),
    /// A workflow's settings are now these.
    #[serde(borrow)]
    WorkflowChanged(Workflow<'a>),
    /// A key was minted.
    #[serde(borrow)]
    KeyAdded(Key<'a>),
    /// A key has a new text and secret; the ones before work for a while.
    #[serde(borrow)]
    KeyRotated(KeyRotation<'a>),
    /// A key was used, told at most once an hour.
    KeyUsed {
        /// Which.
        key: KeyId,
    },
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
    /// A model has this price from some time on.
    #[serde(borrow)]
    PriceSet(ModelPrice<'a>),
    /// It is known what became of an invitation's mail.
    InviteMailed {
        /// Its org.
        org: OrgId,
        /// Which.
        invite: InviteId,
        /// SHA-256 of the token in that mail: there may be a newer one.
        token_hash: [u8; 32],
        /// Did it go out?
        sent: bool,
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
    /// Argon2id in PHC form; empty if the person signs in through a provider only.
    pub password_hash: &'a str,
    /// When it was shown that the address is theirs.
    pub verified_at: Option<Millis>,
    /// When registered.
    pub created_at: Millis,
}

/// An account at a provider that signs a person in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity<'a> {
    /// The person.
    pub user: UserId,
    /// The provider's name in the settings.
    pub provider: &'a str,
    /// The provider's own id of the account.
    pub subject: &'a str,
}

/// What a mailed link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKind {
    /// To set another password.
    PasswordReset,
    /// To show that the address is theirs.
    VerifyEmail,
}

/// A mailed link. The token itself is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// What it is for.
    pub kind: TokenKind,
    /// Whose.
    pub user: UserId,
    /// Until when.
    pub expires_at: Millis,
}

/// How an invitation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InviteEnd {
    /// The person joined.
    Accepted,
    /// The person would not.
    Declined,
    /// It was taken back.
    Revoked,
}

/// An invitation to an org.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite<'a> {
    /// Id.
    pub id: InviteId,
    /// To which org.
    pub org: OrgId,
    /// To whom, lower case.
    pub email: &'a str,
    /// As what.
    pub role: Role,
    /// SHA-256 of the token in the link.
    pub token_hash: [u8; 32],
    /// By whom.
    pub invited_by: UserId,
    /// When.
    pub created_at: Millis,
    /// Until when.
    pub expires_at: Millis,
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
    /// Where to write to about it, may be empty.
    pub contact_email: &'a str,
    /// Cap over all its workflows in a period; none when absent.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
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
pub struct Session<'a> {
    /// Id, for lists.
    pub id: SessionId,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Whose.
    pub user: UserId,
    /// The address it was opened from.
    pub ip: &'a str,
    /// What it was opened with, cut.
    pub user_agent: &'a str,
    /// When opened.
    pub created_at: Millis,
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
    /// What it is for, may be empty.
    pub description: &'a str,
    /// Cap in a period; none when absent.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
    /// A soft cap: calls in a chain may go this far beyond it. A hard one when absent.
    pub overdraft: Option<Overdraft>,
    /// Cap on one call's hold; none when absent.
    pub max_per_call: Option<Nanos>,
    /// Cap on one chain of calls; none when absent.
    pub chain_cap: Option<Nanos>,
    /// The longest a chain may last, in seconds.
    pub chain_secs: u32,
    /// Watches for the same tool again and again, beside the policies.
    pub watch: Option<LoopWatch>,
    /// May its calls wait for a person's approval? They are refused otherwise.
    pub approvals: bool,
    /// When made.
    pub created_at: Millis,
    /// When last changed.
    pub updated_at: Millis,
}

/// How often the same tool may be called within how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopWatch {
    /// Calls.
    pub threshold: u32,
    /// Seconds.
    pub window_secs: u32,
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
    /// The period of that cap.
    pub period: PeriodKind,
    /// Calls per minute; no limit of its own when absent.
    pub calls_per_minute: Option<u32>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
    /// When minted.
    pub created_at: Millis,
}

/// A key's new text and secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation<'a> {
    /// Which.
    pub key: KeyId,
    /// SHA-256 of the new text.
    pub key_hash: [u8; 32],
    /// Its first characters.
    pub prefix: &'a str,
    /// Its last characters.
    pub suffix: &'a str,
    /// The new secret, sealed.
    pub sealed_secret: &'a [u8],
    /// One more than before.
    pub key_version: u32,
    /// Until when the ones before work too.
    pub previous_until: Millis,
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
    /// BudgetLimit: its period.
    pub period: PeriodKind,
    /// BudgetLimit: a soft cap, as for workflows.
    pub overdraft: Option<Overdraft>,
    /// RateLimit: calls per minute.
    pub calls_per_minute: Option<u32>,
    /// LoopDetection: calls.
    pub loop_threshold: Option<u32>,
    /// LoopDetection: seconds.
    pub loop_window_secs: Option<u32>,
    /// Off policies answer nothing.
    pub is_active: bool,
    /// Asked like the others, but its answer is only noted.
    pub shadow: bool,
    /// The template it was made from.
    pub template: Option<&'a str>,
    /// Grows with each change.
    pub version: u64,
    /// When made: breaks ties of priority.
    pub created_at: Millis,
    /// When last changed.
    pub updated_at: Millis,
}

/// Prices of a model in nano-dollars per million tokens, from some time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPrice<'a> {
    /// The model, lower case.
    pub model: &'a str,
    /// Grows with each price that is set, of any model; never 0.
    pub version: u64,
    /// The rates; absent takes the price away again, so that the built-in one, or none, holds.
    pub rates: Option<Rates>,
    /// Holds for what is charged from then on.
    pub effective_at: Millis,
    /// When set.
    pub created_at: Millis,
}

/// Nano-dollars per million tokens. What is absent costs what `input` (cache) or `output`
/// (reasoning) costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Prompt.
    pub input: Nanos,
    /// Completion.
    pub output: Nanos,
    /// Read from the provider's cache.
    pub cache_read: Option<Nanos>,
    /// Written to it.
    pub cache_write: Option<Nanos>,
    /// Reasoning.
    pub reasoning: Option<Nanos>,
}
