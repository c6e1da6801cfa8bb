//! The directory: people, orgs, keys, policies, and which workflows there are. It is a persistent
//! map: a clone costs nothing, so each durable version is published whole and read without a lock.
//!
//! A decision reads the directory as it was durable when the decision was taken. Switches that
//! concern a whole org or key are facts here, never messages to every workflow.

use crate::buckets::Buckets;
use crate::limits;
use crate::price_book::PriceBook;
use crate::rules::{Compiled, Rules};
use crate::shared::Shared;
use imbl::{HashMap, OrdSet, Vector};
use persist::record::{
    Change, Composition, DirectoryRecord, Identity, Invite, Key, KeyRotation, LoopWatch, Member,
    Org, Overdraft, PeriodKind, Role, Scopes, Session, Token, TokenKind, User, Workflow,
};
use persist::{InviteId, KeyId, Lsn, Millis, Nanos, OrgId, SessionId, UserId, WorkflowId};
use sha2::{Digest as _, Sha256};
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
    budget: Nanos,
    /// The period of that cap.
    pub period: PeriodKind,
    /// When made.
    pub created_at: Millis,
    /// What few workflows say otherwise than all others; it takes no room in those that do not.
    rare: Option<Box<RareSettings>>,
}

const _: () = assert!(size_of::<WorkflowEntry>() == 80);

/// No cap is as small.
const NO_CAP: Nanos = Nanos(i64::MIN);

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
    updated_at: Option<Millis>,
}

impl RareSettings {
    /// As they are if nobody says otherwise.
    const USUAL: Self = Self {
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

    fn of(workflow: &Workflow<'_>) -> Self {
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

/// Everything but money and states.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The last change in it.
    pub lsn: Lsn,
    users: HashMap<UserId, Arc<UserEntry>>,
    /// Who registered first.
    first_user: Option<(Millis, UserId)>,
    users_by_email: HashMap<Arc<str>, UserId>,
    orgs: HashMap<OrgId, Arc<OrgEntry>>,
    workflows: Buckets<Arc<WorkflowEntry>>,
    /// By 128 bits of SHA-256 over org and name.
    aliases: Buckets<WorkflowId>,
    keys: HashMap<KeyId, Arc<KeyEntry>>,
    keys_by_hash: HashMap<[u8; 32], KeyId>,
    sessions: HashMap<[u8; 32], Arc<SessionEntry>>,
    /// The same sessions by when they end, and by person.
    sessions_by_end: OrdSet<(Millis, [u8; 32])>,
    sessions_by_user: OrdSet<(UserId, SessionId, [u8; 32])>,
    identities: HashMap<(Arc<str>, Arc<str>), UserId>,
    tokens: HashMap<[u8; 32], TokenEntry>,
    /// The same links by when they end, and by person, those that end first before the others.
    tokens_by_end: OrdSet<(Millis, [u8; 32])>,
    tokens_by_user: OrdSet<(UserId, Millis, [u8; 32])>,
    invites: HashMap<InviteId, Arc<InviteEntry>>,
    invites_by_hash: HashMap<[u8; 32], InviteId>,
    prices: PriceBook,
}

impl Directory {
    /// A person.
    #[must_use]
    pub fn user(&self, id: UserId) -> Option<&Arc<UserEntry>> {
        self.users.get(&id)
    }

    /// A person by address (lower case).
    #[must_use]
    pub fn user_by_email(&self, email: &str) -> Option<&Arc<UserEntry>> {
        self.users_by_email
            .get(email)
            .and_then(|id| self.users.get(id))
    }

    /// Who registered first: whoever set the gateway up.
    #[must_use]
    pub fn first_user(&self) -> Option<UserId> {
        self.first_user.map(|(_, id)| id)
    }

    /// How many people there are.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// An org.
    #[must_use]
    pub fn org(&self, id: OrgId) -> Option<&Arc<OrgEntry>> {
        self.orgs.get(&id)
    }

    /// A workflow of this org.
    #[must_use]
    pub fn workflow(&self, org: OrgId, id: WorkflowId) -> Option<&Arc<WorkflowEntry>> {
        self.workflows
            .get(id.0)
            .filter(|workflow| workflow.org == org)
    }

    /// A key.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&Arc<KeyEntry>> {
        self.keys.get(&id)
    }

    /// A key by the SHA-256 of what the client sent.
    #[must_use]
    pub fn key_by_hash(&self, hash: &[u8; 32]) -> Option<&Arc<KeyEntry>> {
        self.keys_by_hash.get(hash).and_then(|id| self.keys.get(id))
    }

    /// A session by the SHA-256 of its token, if it is still open at `now`.
    #[must_use]
    pub fn session(&self, hash: &[u8; 32], now: Millis) -> Option<&Arc<SessionEntry>> {
        self.sessions
            .get(hash)
            .filter(|session| now < session.expires_at)
    }

    /// The open sessions of a person, oldest first.
    pub fn sessions_of(&self, user: UserId, now: Millis) -> impl Iterator<Item = &SessionEntry> {
        let from = (user, SessionId::default(), [0; 32]);
        let theirs = self.sessions_by_user.range(from..);
        let theirs = theirs.take_while(move |(whose, ..)| *whose == user);
        theirs
            .filter_map(|(_, _, hash)| self.sessions.get(hash))
            .map(Arc::as_ref)
            .filter(move |session| now < session.expires_at)
    }

    /// The person a provider's account signs in.
    #[must_use]
    pub fn user_by_identity(&self, provider: &str, subject: &str) -> Option<&Arc<UserEntry>> {
        let id = self.identities.get(&(provider.into(), subject.into()))?;
        self.users.get(id)
    }

    /// A mailed link by the SHA-256 of its token, if it still holds at `now`.
    #[must_use]
    pub fn token(&self, hash: &[u8; 32], kind: TokenKind, now: Millis) -> Option<&TokenEntry> {
        let token = self.tokens.get(hash)?;
        (token.kind == kind && now < token.expires_at).then_some(token)
    }

    /// The mailed links of a person that hold at `now`, oldest first.
    pub fn tokens_of(
        &self,
        user: UserId,
        kind: TokenKind,
        now: Millis,
    ) -> impl Iterator<Item = [u8; 32]> {
        let theirs = self.tokens_by_user.range((user, now, [0; 32])..);
        theirs
            .take_while(move |(whose, ..)| *whose == user)
            .map(|(.., hash)| *hash)
            .filter(move |hash| self.token(hash, kind, now).is_some())
    }

    /// An open invitation of an org.
    #[must_use]
    pub fn invite(&self, org: OrgId, id: InviteId) -> Option<&Arc<InviteEntry>> {
        self.invites.get(&id).filter(|invite| invite.org == org)
    }

    /// An open invitation by the SHA-256 of its token, if it still holds at `now`.
    #[must_use]
    pub fn invite_by_hash(&self, hash: &[u8; 32], now: Millis) -> Option<&Arc<InviteEntry>> {
        let invite = self.invites.get(self.invites_by_hash.get(hash)?)?;
        (now < invite.expires_at).then_some(invite)
    }

    /// Prices that were set here.
    #[must_use]
    pub const fn prices(&self) -> &PriceBook {
        &self.prices
    }

    /// Every org.
    pub fn orgs(&self) -> impl Iterator<Item = &Arc<OrgEntry>> {
        self.orgs.values()
    }

    /// How many orgs there are.
    #[must_use]
    pub fn org_count(&self) -> usize {
        self.orgs.len()
    }

    /// How many workflows there are.
    #[must_use]
    pub fn workflow_count(&self) -> usize {
        self.workflows.len()
    }

    /// Every workflow.
    pub fn workflows(&self) -> impl Iterator<Item = &Arc<WorkflowEntry>> {
        self.workflows.iter().map(|(_, workflow)| workflow)
    }

    /// A person's role in an org.
    #[must_use]
    pub fn role(&self, org: OrgId, user: UserId) -> Option<Role> {
        self.orgs.get(&org)?.role(user)
    }

    /// The workflow a text names in an org: an id, an `external_id` or a name. Aliases are given
    /// to the first that uses them and never to another.
    #[must_use]
    pub fn resolve(&self, org: OrgId, text: &str) -> Option<WorkflowId> {
        if let Ok(id) = text.parse()
            && self.workflow(org, id).is_some()
        {
            return Some(id);
        }
        self.aliases.get(alias_key(org, text)).copied()
    }

    /// The workflow a charge without a hold is booked on, and whether the label was understood:
    /// the one it names, if the key may use it; else the key's own; else the org's first.
    #[must_use]
    pub fn charge_workflow(&self, key: &KeyEntry, label: Option<&str>) -> Option<WorkflowId> {
        let named = label.and_then(|label| self.resolve(key.org, label));
        let usable = named.filter(|id| key.workflow.is_none_or(|own| own == *id));
        usable
            .or(key.workflow)
            .or_else(|| self.orgs.get(&key.org)?.workflows.front().copied())
    }

    /// Applies a record. Recovery, snapshots and the running gateway all do it here.
    pub fn fold(&mut self, record: &DirectoryRecord<'_>) {
        for change in &record.changes {
            self.fold_change(record.at, change);
        }
    }

    fn fold_change(&mut self, at: Millis, change: &Change<'_>) {
        match change {
            Change::UserAdded(user) | Change::UserChanged(user) => self.put_user(user),
            Change::IdentityAdded(identity) => self.add_identity(identity),
            Change::TokenAdded(token) => self.add_token(at, token),
            Change::TokenUsed { token_hash } => self.end_token(token_hash),
            Change::OrgAdded(org) | Change::OrgChanged(org) => self.put_org(org),
            Change::OrgRemoved { org } => self.remove_org(at, *org),
            Change::MemberAdded(member) => self.add_member(at, member),
            Change::MemberChanged(member) => self.change_member(member),
            Change::MemberRemoved { org, user } => self.remove_member(*org, *user),
            Change::InviteAdded(invite) | Change::InviteChanged(invite) => self.put_invite(invite),
            Change::InviteEnded { org, invite, .. } => self.end_invite(*org, *invite),
            Change::SessionAdded(session) => self.add_session(at, session),
            Change::SessionEnded { user, session } => self.end_session(*user, *session),
            Change::SessionsEnded { user, but } => self.end_sessions(*user, *but),
            Change::WorkflowAdded(workflow) => {
                self.put_workflow(workflow);
                if let Some(org) = self.orgs.get_mut(&workflow.org) {
                    Arc::make_mut(org).workflows.push_back(workflow.id);
                }
            }
            Change::WorkflowChanged(workflow) => self.put_workflow(workflow),
            Change::KeyAdded(key) => self.add_key(key),
            Change::KeyRotated(rotation) => self.rotate_key(rotation),
            Change::KeyRevoked { key } => self.revoke_key(at, *key),
            Change::KeyUsed { key } => {
                if let Some(key) = self.keys.get_mut(key) {
                    Arc::make_mut(key).used_at = Some(at);
                }
            }
            Change::PolicyAdded(policy) | Change::PolicyChanged(policy) => {
                self.change_rules(policy.org, |rules| {
                    rules.with(Compiled::from_record(policy))
                });
            }
            Change::PolicyRemoved { org, policy } => {
                self.change_rules(*org, |rules| rules.without(*policy));
            }
            Change::PriceSet(price) => self.prices.set(price),
            Change::InviteMailed {
                invite,
                token_hash,
                sent,
                ..
            } => self.note_mail(*invite, token_hash, *sent),
        }
    }

    fn put_user(&mut self, user: &User<'_>) {
        let before = self.users.get(&user.id);
        let entry = UserEntry {
            id: user.id,
            email: user.email.into(),
            name: user.name.into(),
            password_hash: user.password_hash.into(),
            verified_at: user.verified_at,
            created_at: user.created_at,
            orgs: before.map(|b| b.orgs.clone()).unwrap_or_default(),
            identities: before.map(|b| b.identities.clone()).unwrap_or_default(),
        };
        let here = (user.created_at, user.id);
        self.first_user = Some(self.first_user.map_or(here, |first| first.min(here)));
        self.users_by_email.insert(user.email.into(), user.id);
        self.users.insert(user.id, Arc::new(entry));
    }

    fn add_identity(&mut self, identity: &Identity<'_>) {
        let account: (Arc<str>, Arc<str>) = (identity.provider.into(), identity.subject.into());
        if let Some(user) = self.users.get_mut(&identity.user) {
            Arc::make_mut(user).identities.push_back(account.clone());
        }
        self.identities.insert(account, identity.user);
    }

    fn add_token(&mut self, at: Millis, token: &Token) {
        // Those whose time is over are dropped whenever one is made.
        while let Some((ends, hash)) = self.tokens_by_end.get_min().copied()
            && ends <= at
        {
            self.end_token(&hash);
        }
        self.end_token(&token.token_hash);
        self.tokens_by_end
            .insert((token.expires_at, token.token_hash));
        self.tokens_by_user
            .insert((token.user, token.expires_at, token.token_hash));
        let entry = TokenEntry {
            kind: token.kind,
            user: token.user,
            expires_at: token.expires_at,
        };
        self.tokens.insert(token.token_hash, entry);
    }

    fn end_token(&mut self, hash: &[u8; 32]) {
        if let Some(token) = self.tokens.remove(hash) {
            self.tokens_by_end.remove(&(token.expires_at, *hash));
            self.tokens_by_user
                .remove(&(token.user, token.expires_at, *hash));
        }
    }

    fn put_org(&mut self, org: &Org<'_>) {
        let before = self.orgs.get(&org.id).cloned();
        let entry = OrgEntry {
            id: org.id,
            name: org.name.into(),
            plan: org.plan.into(),
            contact_email: org.contact_email.into(),
            budget: org.budget,
            period: org.period,
            composition: org.composition,
            created_at: org.created_at,
            shared: before
                .as_ref()
                .map(|b| Arc::clone(&b.shared))
                .unwrap_or_default(),
            members: before
                .as_ref()
                .map(|b| b.members.clone())
                .unwrap_or_default(),
            workflows: before
                .as_ref()
                .map(|b| b.workflows.clone())
                .unwrap_or_default(),
            keys: before.as_ref().map(|b| b.keys.clone()).unwrap_or_default(),
            invites: before
                .as_ref()
                .map(|b| b.invites.clone())
                .unwrap_or_default(),
            rules: before.map(|b| Arc::clone(&b.rules)).unwrap_or_default(),
        };
        self.orgs.insert(org.id, Arc::new(entry));
    }

    fn add_member(&mut self, at: Millis, member: &Member) {
        if let Some(org) = self.orgs.get_mut(&member.org) {
            Arc::make_mut(org).members.push_back(MemberEntry {
                user: member.user,
                role: member.role,
                joined_at: at,
            });
        }
        if let Some(user) = self.users.get_mut(&member.user) {
            Arc::make_mut(user).orgs.push_back(member.org);
        }
    }

    fn change_member(&mut self, member: &Member) {
        if let Some(org) = self.orgs.get_mut(&member.org) {
            let mut members = Arc::make_mut(org).members.iter_mut();
            if let Some(known) = members.find(|known| known.user == member.user) {
                known.role = member.role;
            }
        }
    }

    fn remove_member(&mut self, org: OrgId, user: UserId) {
        if let Some(org) = self.orgs.get_mut(&org) {
            Arc::make_mut(org)
                .members
                .retain(|member| member.user != user);
        }
        if let Some(user) = self.users.get_mut(&user) {
            Arc::make_mut(user).orgs.retain(|place| *place != org);
        }
    }

    /// Its keys stay, revoked: some clients go on when a key is unknown, and stop when it is revoked.
    fn remove_org(&mut self, at: Millis, id: OrgId) {
        let Some(org) = self.orgs.remove(&id) else {
            return;
        };
        for member in &org.members {
            self.remove_member(id, member.user);
        }
        for invite in &org.invites {
            self.end_invite(id, *invite);
        }
        for key in &org.keys {
            self.revoke_key(at, *key);
        }
        for workflow in &org.workflows {
            self.workflows.remove(workflow.0);
        }
    }

    fn put_invite(&mut self, invite: &Invite<'_>) {
        match self.invites.get(&invite.id) {
            Some(before) => {
                self.invites_by_hash.remove(&before.token_hash);
            }
            None => {
                if let Some(org) = self.orgs.get_mut(&invite.org) {
                    Arc::make_mut(org).invites.push_back(invite.id);
                }
            }
        }
        self.invites_by_hash.insert(invite.token_hash, invite.id);
        let entry = InviteEntry {
            id: invite.id,
            org: invite.org,
            email: invite.email.into(),
            role: invite.role,
            token_hash: invite.token_hash,
            invited_by: invite.invited_by,
            created_at: invite.created_at,
            expires_at: invite.expires_at,
            mail: MailState::Pending,
        };
        self.invites.insert(invite.id, Arc::new(entry));
    }

    fn note_mail(&mut self, id: InviteId, token_hash: &[u8; 32], sent: bool) {
        let invite = self.invites.get_mut(&id);
        if let Some(invite) = invite.filter(|invite| invite.token_hash == *token_hash) {
            let mail = match sent {
                true => MailState::Sent,
                false => MailState::Failed,
            };
            Arc::make_mut(invite).mail = mail;
        }
    }

    fn end_invite(&mut self, org: OrgId, id: InviteId) {
        if let Some(invite) = self.invites.remove(&id) {
            self.invites_by_hash.remove(&invite.token_hash);
        }
        if let Some(org) = self.orgs.get_mut(&org) {
            Arc::make_mut(org).invites.retain(|invite| *invite != id);
        }
    }

    fn add_session(&mut self, at: Millis, session: &Session<'_>) {
        // Sessions that ended are dropped whenever one is opened.
        while let Some((ends, hash)) = self.sessions_by_end.get_min().copied()
            && ends <= at
        {
            self.drop_session(&hash);
        }
        // Each session stands in each index once, whatever the log says.
        self.drop_session(&session.token_hash);
        self.sessions_by_end
            .insert((session.expires_at, session.token_hash));
        self.sessions_by_user
            .insert((session.user, session.id, session.token_hash));
        let entry = SessionEntry {
            id: session.id,
            user: session.user,
            ip: session.ip.into(),
            user_agent: session.user_agent.into(),
            created_at: session.created_at,
            expires_at: session.expires_at,
        };
        self.sessions.insert(session.token_hash, Arc::new(entry));
    }

    fn drop_session(&mut self, hash: &[u8; 32]) {
        if let Some(session) = self.sessions.remove(hash) {
            self.sessions_by_end.remove(&(session.expires_at, *hash));
            self.sessions_by_user
                .remove(&(session.user, session.id, *hash));
        }
    }

    fn end_session(&mut self, user: UserId, id: SessionId) {
        let from = (user, id, [0; 32]);
        let found = self.sessions_by_user.range(from..).next().copied();
        if let Some((whose, session, hash)) = found
            && (whose, session) == (user, id)
        {
            self.drop_session(&hash);
        }
    }

    fn end_sessions(&mut self, user: UserId, but: Option<SessionId>) {
        let from = (user, SessionId::default(), [0; 32]);
        let theirs = self.sessions_by_user.range(from..);
        let theirs = theirs.take_while(|(whose, ..)| *whose == user);
        let ended: Vec<_> = theirs
            .filter(|(_, id, _)| Some(*id) != but)
            .map(|(_, _, hash)| *hash)
            .collect();
        for hash in ended {
            self.drop_session(&hash);
        }
    }

    fn put_workflow(&mut self, workflow: &Workflow<'_>) {
        for alias in [Some(workflow.name), workflow.external_id]
            .into_iter()
            .flatten()
        {
            let key = alias_key(workflow.org, alias);
            if self.aliases.get(key).is_none() {
                self.aliases.insert(key, workflow.id);
            }
        }
        let rare = RareSettings::of(workflow);
        let entry = WorkflowEntry {
            id: workflow.id,
            org: workflow.org,
            name: workflow.name.into(),
            budget: workflow.budget.unwrap_or(NO_CAP),
            period: workflow.period,
            created_at: workflow.created_at,
            rare: (rare != RareSettings::USUAL).then(|| Box::new(rare)),
        };
        self.workflows.insert(workflow.id.0, Arc::new(entry));
    }

    fn add_key(&mut self, key: &Key<'_>) {
        if let Some(org) = self.orgs.get_mut(&key.org) {
            Arc::make_mut(org).keys.push_back(key.id);
        }
        self.keys_by_hash.insert(key.key_hash, key.id);
        let entry = KeyEntry {
            id: key.id,
            org: key.org,
            workflow: key.workflow,
            name: key.name.into(),
            key_hash: key.key_hash,
            prefix: key.prefix.into(),
            suffix: key.suffix.into(),
            sealed_secret: key.sealed_secret.into(),
            key_version: key.key_version,
            previous: None,
            scopes: key.scopes,
            budget: key.budget,
            period: key.period,
            calls_per_minute: key.calls_per_minute,
            expires_at: key.expires_at,
            created_at: key.created_at,
            revoked_at: None,
            used_at: None,
            used: Arc::default(),
            shared: key.workflow.is_none().then(Arc::default),
        };
        self.keys.insert(key.id, Arc::new(entry));
    }

    fn revoke_key(&mut self, at: Millis, key: KeyId) {
        if let Some(key) = self.keys.get_mut(&key) {
            Arc::make_mut(key).revoked_at.get_or_insert(at);
        }
    }

    fn rotate_key(&mut self, rotation: &KeyRotation<'_>) {
        let Some(key) = self.keys.get_mut(&rotation.key) else {
            return;
        };
        let key = Arc::make_mut(key);
        // Two are valid at a time, never three.
        if let Some(older) = &key.previous {
            self.keys_by_hash.remove(&older.key_hash);
        }
        let previous = PreviousKey {
            key_hash: key.key_hash,
            sealed_secret: std::mem::take(&mut key.sealed_secret),
            key_version: key.key_version,
            until: rotation.previous_until,
        };
        key.previous = Some(Arc::new(previous));
        key.key_hash = rotation.key_hash;
        key.prefix = rotation.prefix.into();
        key.suffix = rotation.suffix.into();
        key.sealed_secret = rotation.sealed_secret.into();
        key.key_version = rotation.key_version;
        self.keys_by_hash.insert(rotation.key_hash, rotation.key);
    }

    /// This directory with other rules for an org: to ask what would be.
    #[must_use]
    pub fn with_rules(&self, org: OrgId, rules: Rules) -> Self {
        let mut changed = self.clone();
        changed.change_rules(org, |_| rules);
        changed
    }

    fn change_rules(&mut self, org: OrgId, change: impl FnOnce(&Rules) -> Rules) {
        if let Some(org) = self.orgs.get_mut(&org) {
            let rules = change(&org.rules);
            Arc::make_mut(org).rules = Arc::new(rules);
        }
    }

    /// The records that make this directory again, in an order that depends only on its contents.
    pub fn visit(&self, visit: &mut dyn FnMut(&DirectoryRecord<'_>)) {
        let mut one = |at: Millis, change: Change<'_>| {
            visit(&DirectoryRecord {
                at,
                actor: persist::record::Actor::System,
                changes: vec![change],
            });
        };
        let mut users: Vec<_> = self.users.values().collect();
        users.sort_by_key(|user| user.id);
        for user in &users {
            one(user.created_at, Change::UserAdded(user.to_record()));
            for (provider, subject) in &user.identities {
                let user = user.id;
                let identity = Identity {
                    user,
                    provider,
                    subject,
                };
                one(Millis(0), Change::IdentityAdded(identity));
            }
        }
        let mut orgs: Vec<_> = self.orgs.values().collect();
        orgs.sort_by_key(|org| org.id);
        for org in orgs {
            one(org.created_at, Change::OrgAdded(org.to_record()));
            for known in &org.members {
                let member = Member {
                    org: org.id,
                    user: known.user,
                    role: known.role,
                };
                one(known.joined_at, Change::MemberAdded(member));
            }
            for workflow in org
                .workflows
                .iter()
                .filter_map(|id| self.workflows.get(id.0))
            {
                one(
                    workflow.created_at,
                    Change::WorkflowAdded(workflow.to_record()),
                );
            }
            for key in org.keys.iter().filter_map(|id| self.keys.get(id)) {
                key.visit(&mut one);
            }
            for policy in org.rules.all() {
                one(
                    policy.created_at,
                    Change::PolicyAdded(policy.to_record(org.id)),
                );
            }
            for invite in org.invites.iter().filter_map(|id| self.invites.get(id)) {
                invite.visit(&mut one);
            }
        }
        // Those of orgs that are gone.
        let orphan = |key: &&Arc<KeyEntry>| !self.orgs.contains_key(&key.org);
        let mut orphans: Vec<_> = self.keys.values().filter(orphan).collect();
        orphans.sort_by_key(|key| key.id);
        for key in orphans {
            key.visit(&mut one);
        }
        for (_, hash) in &self.sessions_by_end {
            if let Some(session) = self.sessions.get(hash) {
                one(Millis(0), Change::SessionAdded(session.to_record(*hash)));
            }
        }
        for (_, hash) in &self.tokens_by_end {
            if let Some(token) = self.tokens.get(hash) {
                let token = Token {
                    token_hash: *hash,
                    kind: token.kind,
                    user: token.user,
                    expires_at: token.expires_at,
                };
                one(Millis(0), Change::TokenAdded(token));
            }
        }
        for price in self.prices.all() {
            one(price.created_at, Change::PriceSet(price.to_record()));
        }
    }

    /// Every name a workflow has or had, as its key: they must outlive a rename.
    #[must_use]
    pub fn alias_keys(&self) -> Vec<(u128, WorkflowId)> {
        let mut all: Vec<_> = self.aliases.iter().map(|(key, id)| (key, *id)).collect();
        all.sort_unstable();
        all
    }

    /// Makes room for so many names of workflows in a directory that has none; ends with
    /// [`Directory::shrink`].
    pub fn reserve(&mut self, names: usize) {
        self.workflows.reserve(names);
        self.aliases.reserve(names);
    }

    /// Gives back the room that is not used.
    pub fn shrink(&mut self) {
        self.workflows.shrink();
        self.aliases.shrink();
    }

    /// Puts a name back.
    pub fn restore_alias(&mut self, key: u128, workflow: WorkflowId) {
        if self.aliases.get(key) != Some(&workflow) {
            self.aliases.insert(key, workflow);
        }
    }
}

/// What stands for a name in an org: nobody finds two names with the same.
fn alias_key(org: OrgId, text: &str) -> u128 {
    let hash = Sha256::new()
        .chain_update(org.0.to_le_bytes())
        .chain_update(text)
        .finalize();
    hash.first_chunk()
        .map_or(0, |first| u128::from_le_bytes(*first))
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

    fn visit<'a>(&'a self, one: &mut impl FnMut(Millis, Change<'a>)) {
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
    fn visit<'a>(&'a self, one: &mut impl FnMut(Millis, Change<'a>)) {
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
