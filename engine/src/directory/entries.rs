//! What the directory has an entry for, and what each looks like in the log.

use crate::limits;
use crate::rules::Rules;
use crate::shared::Shared;
use imbl::Vector;
use persist::record::{
    Change, Composition, Invite, Key, KeyRotation, LoopWatch, Org, Overdraft, PeriodKind, Role,
    Scopes, Session, TokenKind, User, Workflow,
};
use persist::{InviteId, KeyId, Millis, Nanos, OrgId, SessionId, UserId, WorkflowId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A person.
#[derive(Debug, Clone)]
pub struct UserEntry {
    /// Id.
    pub id: UserId,
    /// Address, lower case.
    pub email: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Argon2id, PHC form; empty if the person signs in through a provider only.
    pub password_hash: Box<str>,
    /// When it was shown that the address is theirs.
    pub verified_at: Option<Millis>,
    /// When registered.
    pub created_at: Millis,
    /// Where they belong.
    pub orgs: Vector<OrgId>,
    /// Accounts at providers that sign them in: provider and the provider's id.
    pub identities: Vector<(Arc<str>, Arc<str>)>,
}

/// An org.
#[derive(Debug, Clone)]
pub struct OrgEntry {
    /// Id.
    pub id: OrgId,
    /// Name.
    pub name: Box<str>,
    /// Plan.
    pub plan: Box<str>,
    /// Where to write to about it.
    pub contact_email: Box<str>,
    /// Cap over all its workflows.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
    /// How its policies combine.
    pub composition: Composition,
    /// When made.
    pub created_at: Millis,
    /// Who belongs to it, in the order they joined.
    pub members: Vector<MemberEntry>,
    /// Its workflows, oldest first.
    pub workflows: Vector<WorkflowId>,
    /// Its keys, oldest first.
    pub keys: Vector<KeyId>,
    /// Invitations that are open, oldest first.
    pub invites: Vector<InviteId>,
    /// Its policies.
    pub rules: Arc<Rules>,
    /// What all shards share about it; the same through all versions of this entry.
    pub shared: Arc<Shared>,
}

/// A person's place in an org.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberEntry {
    /// The person.
    pub user: UserId,
    /// As what.
    pub role: Role,
    /// Since when.
    pub joined_at: Millis,
}

/// The name and settings of a workflow; its money and state are the shard's.
#[derive(Debug, Clone)]
pub struct WorkflowEntry {
    /// Id.
    pub id: WorkflowId,
    /// Whose.
    pub org: OrgId,
    /// Name.
    pub name: Box<str>,
    /// [`NO_CAP`] if there is none: an `Option` would take twice the room.
    pub(super) budget: Nanos,
    /// The period of that cap.
    pub period: PeriodKind,
    /// When made.
    pub created_at: Millis,
    /// What few workflows say otherwise than all others; it takes no room in those that do not.
    pub(super) rare: Option<Box<RareSettings>>,
}

const _: () = assert!(size_of::<WorkflowEntry>() == 80);

/// No cap is as small.
pub(super) const NO_CAP: Nanos = Nanos(i64::MIN);

impl WorkflowEntry {
    /// Cap.
    #[must_use]
    pub fn budget(&self) -> Option<Nanos> {
        (self.budget != NO_CAP).then_some(self.budget)
    }

    /// When its settings last changed.
    #[must_use]
    pub fn updated_at(&self) -> Millis {
        self.rare().updated_at.unwrap_or(self.created_at)
    }

    /// The settings that few workflows have otherwise than all others.
    #[must_use]
    pub fn rare(&self) -> &RareSettings {
        self.rare.as_deref().unwrap_or(&RareSettings::USUAL)
    }
}

/// Settings of a workflow that are mostly left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RareSettings {
    /// The operator's own id.
    pub external_id: Option<Box<str>>,
    /// What it is for.
    pub description: Option<Box<str>>,
    /// A soft cap: how far calls in a chain may go beyond it.
    pub overdraft: Option<Overdraft>,
    /// Cap on one call.
    pub max_per_call: Option<Nanos>,
    /// Cap on one chain.
    pub chain_cap: Option<Nanos>,
    /// The longest a chain may last, in seconds.
    pub chain_secs: u32,
    /// Watches for the same tool again and again.
    pub watch: Option<LoopWatch>,
    /// May its calls wait for a person's approval?
    pub approvals: bool,
    /// When the settings last changed, if they did.
    pub(super) updated_at: Option<Millis>,
}

impl RareSettings {
    /// As they are if nobody says otherwise.
    pub(super) const USUAL: Self = Self {
        external_id: None,
        description: None,
        overdraft: None,
        max_per_call: None,
        chain_cap: None,
        chain_secs: limits::CHAIN_SECS,
        watch: None,
        approvals: true,
        updated_at: None,
    };

    pub(super) fn of(workflow: &Workflow<'_>) -> Self {
        let described = !workflow.description.is_empty();
        Self {
            external_id: workflow.external_id.map(Into::into),
            description: described.then(|| workflow.description.into()),
            overdraft: workflow.overdraft,
            max_per_call: workflow.max_per_call,
            chain_cap: workflow.chain_cap,
            chain_secs: workflow.chain_secs,
            watch: workflow.watch,
            approvals: workflow.approvals,
            updated_at: (workflow.updated_at != workflow.created_at).then_some(workflow.updated_at),
        }
    }
}

/// An API key.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// Id.
    pub id: KeyId,
    /// Whose.
    pub org: OrgId,
    /// The workflow it is bound to.
    pub workflow: Option<WorkflowId>,
    /// Name.
    pub name: Box<str>,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// First characters.
    pub prefix: Box<str>,
    /// Last characters.
    pub suffix: Box<str>,
    /// Signing secret, sealed.
    pub sealed_secret: Box<[u8]>,
    /// Grows with each rotation.
    pub key_version: u32,
    /// What it was before its last rotation.
    pub previous: Option<Arc<PreviousKey>>,
    /// What it may do.
    pub scopes: Scopes,
    /// Cap.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
    /// Calls per minute.
    pub calls_per_minute: Option<u32>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
    /// When minted.
    pub created_at: Millis,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Millis>,
    /// When it was last used, as far as the log tells: to the hour.
    pub used_at: Option<Millis>,
    /// When it was last used, as far as this process knows; the same through all versions of this
    /// entry, and in no record.
    pub used: Arc<LastUse>,
    /// What all shards share about a key that is bound to no workflow. The money of one that is
    /// bound is in its workflow's shard.
    pub shared: Option<Arc<Shared>>,
}

/// A key's text and secret before its last rotation.
#[derive(Debug)]
pub struct PreviousKey {
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// Signing secret, sealed.
    pub sealed_secret: Box<[u8]>,
    /// Its version.
    pub key_version: u32,
    /// Until when it works.
    pub until: Millis,
}

/// When something was last used.
#[derive(Debug, Default)]
pub struct LastUse {
    at: AtomicU64,
    /// When somebody last took it upon them to tell the log.
    told: AtomicU64,
}

impl LastUse {
    /// Notes a use.
    pub fn note(&self, at: Millis) {
        self.at.fetch_max(at.0, Ordering::Relaxed);
    }

    /// The last one.
    #[must_use]
    pub fn at(&self) -> Option<Millis> {
        let at = self.at.load(Ordering::Relaxed);
        (at > 0).then_some(Millis(at))
    }

    /// Is it for this asker to tell the log? Of all who ask within `millis`, one is told yes.
    #[must_use]
    pub fn must_tell(&self, now: Millis, millis: u64) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        let due = told == 0 || now.since(Millis(told)) >= millis;
        let order = Ordering::Relaxed;
        due && self
            .told
            .compare_exchange(told, now.0, order, order)
            .is_ok()
    }

    /// The log could not be told after all: the next one tries again.
    pub fn untold(&self) {
        self.told.store(0, Ordering::Relaxed);
    }
}

/// A session.
#[derive(Debug, Clone)]
pub struct SessionEntry {
    /// Id.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// The address it was opened from.
    pub ip: Box<str>,
    /// What it was opened with.
    pub user_agent: Box<str>,
    /// When opened.
    pub created_at: Millis,
    /// Until when.
    pub expires_at: Millis,
}

/// A mailed link that lets a person do one thing once.
#[derive(Debug, Clone, Copy)]
pub struct TokenEntry {
    /// What.
    pub kind: TokenKind,
    /// Who.
    pub user: UserId,
    /// Until when.
    pub expires_at: Millis,
}

/// What became of an invitation's mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailState {
    /// It is under way.
    Pending,
    /// It went out.
    Sent,
    /// It did not.
    Failed,
}

/// An open invitation.
#[derive(Debug, Clone)]
pub struct InviteEntry {
    /// Id.
    pub id: InviteId,
    /// To which org.
    pub org: OrgId,
    /// To whom, lower case.
    pub email: Box<str>,
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
    /// The newest mail with its link.
    pub mail: MailState,
}

impl UserEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> User<'_> {
        User {
            id: self.id,
            email: &self.email,
            name: &self.name,
            password_hash: &self.password_hash,
            verified_at: self.verified_at,
            created_at: self.created_at,
        }
    }
}

impl SessionEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self, token_hash: [u8; 32]) -> Session<'_> {
        Session {
            id: self.id,
            token_hash,
            user: self.user,
            ip: &self.ip,
            user_agent: &self.user_agent,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

impl InviteEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Invite<'_> {
        Invite {
            id: self.id,
            org: self.org,
            email: &self.email,
            role: self.role,
            token_hash: self.token_hash,
            invited_by: self.invited_by,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }

    pub(super) fn visit<'a>(&'a self, one: &mut impl FnMut(Millis, Change<'a>)) {
        one(self.created_at, Change::InviteAdded(self.to_record()));
        if self.mail != MailState::Pending {
            let mailed = Change::InviteMailed {
                org: self.org,
                invite: self.id,
                token_hash: self.token_hash,
                sent: self.mail == MailState::Sent,
            };
            one(self.created_at, mailed);
        }
    }
}

impl OrgEntry {
    /// A person's role in it.
    #[must_use]
    pub fn role(&self, user: UserId) -> Option<Role> {
        let mut members = self.members.iter();
        members.find(|known| known.user == user).map(|m| m.role)
    }

    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Org<'_> {
        Org {
            id: self.id,
            name: &self.name,
            plan: &self.plan,
            contact_email: &self.contact_email,
            budget: self.budget,
            period: self.period,
            composition: self.composition,
            created_at: self.created_at,
        }
    }
}

impl WorkflowEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Workflow<'_> {
        let rare = self.rare();
        Workflow {
            id: self.id,
            org: self.org,
            name: &self.name,
            external_id: rare.external_id.as_deref(),
            description: rare.description.as_deref().unwrap_or_default(),
            budget: self.budget(),
            period: self.period,
            overdraft: rare.overdraft,
            max_per_call: rare.max_per_call,
            chain_cap: rare.chain_cap,
            chain_secs: rare.chain_secs,
            watch: rare.watch,
            approvals: rare.approvals,
            created_at: self.created_at,
            updated_at: self.updated_at(),
        }
    }
}

impl KeyEntry {
    pub(super) fn visit<'a>(&'a self, one: &mut impl FnMut(Millis, Change<'a>)) {
        let previous = self.previous.as_deref();
        one(self.created_at, Change::KeyAdded(self.first(previous)));
        if let Some(previous) = previous {
            one(self.created_at, Change::KeyRotated(self.rotation(previous)));
        }
        if let Some(at) = self.used_at {
            one(at, Change::KeyUsed { key: self.id });
        }
        if let Some(at) = self.revoked_at {
            one(at, Change::KeyRevoked { key: self.id });
        }
    }

    /// As it was minted, or as it was before its last rotation.
    fn first<'a>(&'a self, previous: Option<&'a PreviousKey>) -> Key<'a> {
        Key {
            id: self.id,
            org: self.org,
            workflow: self.workflow,
            name: &self.name,
            key_hash: previous.map_or(self.key_hash, |p| p.key_hash),
            prefix: &self.prefix,
            suffix: &self.suffix,
            sealed_secret: previous.map_or(&*self.sealed_secret, |p| &*p.sealed_secret),
            key_version: previous.map_or(self.key_version, |p| p.key_version),
            scopes: self.scopes,
            budget: self.budget,
            period: self.period,
            calls_per_minute: self.calls_per_minute,
            expires_at: self.expires_at,
            created_at: self.created_at,
        }
    }

    fn rotation<'a>(&'a self, previous: &PreviousKey) -> KeyRotation<'a> {
        KeyRotation {
            key: self.id,
            key_hash: self.key_hash,
            prefix: &self.prefix,
            suffix: &self.suffix,
            sealed_secret: &self.sealed_secret,
            key_version: self.key_version,
            previous_until: previous.until,
        }
    }

    /// May a text with this hash still be used at `now`? The one before a rotation may for a while.
    #[must_use]
    pub fn accepts(&self, hash: &[u8; 32], now: Millis) -> bool {
        let before = self.before_rotation(hash);
        self.key_hash == *hash || before.is_some_and(|previous| now <= previous.until)
    }

    /// What the key was before its last rotation, if a text with this hash is of that time.
    #[must_use]
    pub fn before_rotation(&self, hash: &[u8; 32]) -> Option<&PreviousKey> {
        let previous = self.previous.as_deref();
        previous.filter(|previous| previous.key_hash == *hash)
    }

    /// When it was last used, as far as anybody knows.
    #[must_use]
    pub fn last_used(&self) -> Option<Millis> {
        self.used_at.max(self.used.at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_who_use_a_key_one_in_an_hour_tells_the_log() {
        const HOUR: u64 = 3_600_000;
        let used = LastUse::default();
        let tellers = |at: u64| (0..10).filter(|_| used.must_tell(Millis(at), HOUR)).count();
        assert_eq!(tellers(5), 1);
        assert_eq!(tellers(4 + HOUR), 0);
        assert_eq!(tellers(5 + HOUR), 1);
        used.untold();
        assert_eq!(tellers(6 + HOUR), 1, "it was not told after all");
        used.note(Millis(9));
        used.note(Millis(8));
        assert_eq!(used.at(), Some(Millis(9)), "never backwards");
    }
}
