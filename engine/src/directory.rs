//! The directory: people, orgs, keys, policies, and which workflows there are. It is a persistent
//! map: a clone costs nothing, so each durable version is published whole and read without a lock.
//!
//! A decision reads the directory as it was durable when the decision was taken. Switches that
//! concern a whole org or key are facts here, never messages to every workflow.

use crate::buckets::Buckets;
use crate::price_book::PriceBook;
use imbl::{HashMap, OrdSet};
use persist::record::{Role, TokenKind};
use persist::{InviteId, KeyId, Lsn, Millis, OrgId, SessionId, UserId, WorkflowId};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

mod entries;
mod fold;
mod visit;

pub use entries::{
    InviteEntry, KeyEntry, LastUse, MailState, MemberEntry, OrgEntry, PreviousKey, RareSettings,
    SessionEntry, TokenEntry, UserEntry, WorkflowEntry,
};

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
