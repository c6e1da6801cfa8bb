//! The directory: people, orgs, keys, policies, and which workflows there are. It is a persistent
//! map: a clone costs nothing, so each durable version is published whole and read without a lock.
//!
//! A decision reads the directory as it was durable when the decision was taken. Switches that
//! concern a whole org or key are facts here, never messages to every workflow.

use crate::rules::{Compiled, Rules};
use imbl::{HashMap, OrdSet, Vector};
use persist::record::{
    Change, Composition, DirectoryRecord, Key, Member, Org, Role, Scopes, Session, User, Workflow,
};
use persist::{KeyId, Lsn, Millis, Nanos, OrgId, UserId, WorkflowId};
use std::sync::Arc;

/// A person.
#[derive(Debug, Clone)]
pub struct UserEntry {
    /// Id.
    pub id: UserId,
    /// Address, lower case.
    pub email: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Argon2id, PHC form.
    pub password_hash: Box<str>,
    /// When registered.
    pub created_at: Millis,
    /// Where they belong.
    pub orgs: Vector<OrgId>,
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
    /// Cap over all its workflows.
    pub budget: Option<Nanos>,
    /// How its policies combine.
    pub composition: Composition,
    /// When made.
    pub created_at: Millis,
    /// Who belongs to it.
    pub members: Vector<(UserId, Role)>,
    /// Its workflows, oldest first.
    pub workflows: Vector<WorkflowId>,
    /// Its keys, oldest first.
    pub keys: Vector<KeyId>,
    /// Its policies.
    pub rules: Arc<Rules>,
}

/// The name and place of a workflow; its money and state are the shard's.
#[derive(Debug, Clone)]
pub struct WorkflowEntry {
    /// Id.
    pub id: WorkflowId,
    /// Whose.
    pub org: OrgId,
    /// Name.
    pub name: Box<str>,
    /// The operator's own id.
    pub external_id: Option<Box<str>>,
    /// Cap.
    pub budget: Option<Nanos>,
    /// Cap on one call.
    pub max_per_call: Option<Nanos>,
    /// When made.
    pub created_at: Millis,
    /// When its settings last changed.
    pub updated_at: Millis,
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
    /// What it may do.
    pub scopes: Scopes,
    /// Cap.
    pub budget: Option<Nanos>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
    /// When minted.
    pub created_at: Millis,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Millis>,
}

/// A session.
#[derive(Debug, Clone)]
pub struct SessionEntry {
    /// Whose.
    pub user: UserId,
    /// Until when.
    pub expires_at: Millis,
}

/// Everything but money and states.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The last change in it.
    pub lsn: Lsn,
    users: HashMap<UserId, Arc<UserEntry>>,
    users_by_email: HashMap<Arc<str>, UserId>,
    orgs: HashMap<OrgId, Arc<OrgEntry>>,
    workflows: HashMap<WorkflowId, Arc<WorkflowEntry>>,
    aliases: HashMap<(OrgId, Arc<str>), WorkflowId>,
    keys: HashMap<KeyId, Arc<KeyEntry>>,
    keys_by_hash: HashMap<[u8; 32], KeyId>,
    sessions: HashMap<[u8; 32], Arc<SessionEntry>>,
    /// The same sessions by when they end.
    sessions_by_end: OrdSet<(Millis, [u8; 32])>,
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
            .get(&id)
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

    /// A person's role in an org.
    #[must_use]
    pub fn role(&self, org: OrgId, user: UserId) -> Option<Role> {
        let members = &self.orgs.get(&org)?.members;
        members
            .iter()
            .find(|(member, _)| *member == user)
            .map(|(_, role)| *role)
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
        self.aliases.get(&(org, Arc::from(text))).copied()
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
            Change::UserAdded(user) => self.add_user(user),
            Change::OrgAdded(org) | Change::OrgChanged(org) => self.put_org(org),
            Change::MemberAdded(member) => self.add_member(member),
            Change::SessionAdded(session) => self.add_session(at, session),
            Change::WorkflowAdded(workflow) => {
                self.put_workflow(workflow);
                if let Some(org) = self.orgs.get_mut(&workflow.org) {
                    Arc::make_mut(org).workflows.push_back(workflow.id);
                }
            }
            Change::WorkflowChanged(workflow) => self.put_workflow(workflow),
            Change::KeyAdded(key) => self.add_key(key),
            Change::KeyRevoked { key } => {
                if let Some(key) = self.keys.get_mut(key) {
                    Arc::make_mut(key).revoked_at.get_or_insert(at);
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
        }
    }

    fn add_user(&mut self, user: &User<'_>) {
        self.users_by_email.insert(user.email.into(), user.id);
        self.users.insert(
            user.id,
            Arc::new(UserEntry {
                id: user.id,
                email: user.email.into(),
                name: user.name.into(),
                password_hash: user.password_hash.into(),
                created_at: user.created_at,
                orgs: Vector::new(),
            }),
        );
    }

    fn put_org(&mut self, org: &Org<'_>) {
        let before = self.orgs.get(&org.id).cloned();
        let entry = OrgEntry {
            id: org.id,
            name: org.name.into(),
            plan: org.plan.into(),
            budget: org.budget,
            composition: org.composition,
            created_at: org.created_at,
            members: before
                .as_ref()
                .map(|b| b.members.clone())
                .unwrap_or_default(),
            workflows: before
                .as_ref()
                .map(|b| b.workflows.clone())
                .unwrap_or_default(),
            keys: before.as_ref().map(|b| b.keys.clone()).unwrap_or_default(),
            rules: before.map(|b| Arc::clone(&b.rules)).unwrap_or_default(),
        };
        self.orgs.insert(org.id, Arc::new(entry));
    }

    fn add_member(&mut self, member: &Member) {
        if let Some(org) = self.orgs.get_mut(&member.org) {
            Arc::make_mut(org)
                .members
                .push_back((member.user, member.role));
        }
        if let Some(user) = self.users.get_mut(&member.user) {
            Arc::make_mut(user).orgs.push_back(member.org);
        }
    }

    fn add_session(&mut self, at: Millis, session: &Session) {
        // Sessions that ended are dropped whenever one is opened.
        while let Some((ends, hash)) = self.sessions_by_end.get_min().copied() {
            if ends > at {
                break;
            }
            self.sessions_by_end.remove(&(ends, hash));
            self.sessions.remove(&hash);
        }
        self.sessions_by_end
            .insert((session.expires_at, session.token_hash));
        let entry = SessionEntry {
            user: session.user,
            expires_at: session.expires_at,
        };
        self.sessions.insert(session.token_hash, Arc::new(entry));
    }

    fn put_workflow(&mut self, workflow: &Workflow<'_>) {
        for alias in [Some(workflow.name), workflow.external_id]
            .into_iter()
            .flatten()
        {
            self.aliases
                .entry((workflow.org, alias.into()))
                .or_insert(workflow.id);
        }
        let entry = WorkflowEntry {
            id: workflow.id,
            org: workflow.org,
            name: workflow.name.into(),
            external_id: workflow.external_id.map(Into::into),
            budget: workflow.budget,
            max_per_call: workflow.max_per_call,
            created_at: workflow.created_at,
            updated_at: workflow.updated_at,
        };
        self.workflows.insert(workflow.id, Arc::new(entry));
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
            scopes: key.scopes,
            budget: key.budget,
            expires_at: key.expires_at,
            created_at: key.created_at,
            revoked_at: None,
        };
        self.keys.insert(key.id, Arc::new(entry));
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
        }
        let mut orgs: Vec<_> = self.orgs.values().collect();
        orgs.sort_by_key(|org| org.id);
        for org in orgs {
            one(org.created_at, Change::OrgAdded(org.to_record()));
            for (user, role) in &org.members {
                let member = Member {
                    org: org.id,
                    user: *user,
                    role: *role,
                };
                one(org.created_at, Change::MemberAdded(member));
            }
            for workflow in org.workflows.iter().filter_map(|id| self.workflows.get(id)) {
                one(
                    workflow.created_at,
                    Change::WorkflowAdded(workflow.to_record()),
                );
            }
            for key in org.keys.iter().filter_map(|id| self.keys.get(id)) {
                one(key.created_at, Change::KeyAdded(key.to_record()));
                if let Some(at) = key.revoked_at {
                    one(at, Change::KeyRevoked { key: key.id });
                }
            }
            for policy in org.rules.all() {
                one(
                    policy.created_at,
                    Change::PolicyAdded(policy.to_record(org.id)),
                );
            }
        }
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_by_key(|(hash, _)| **hash);
        for (hash, session) in sessions {
            let session = Session {
                token_hash: *hash,
                user: session.user,
                expires_at: session.expires_at,
            };
            one(Millis(0), Change::SessionAdded(session));
        }
    }

    /// Aliases whose workflow does not carry that name (any more): they must outlive a rename.
    #[must_use]
    pub fn former_aliases(&self) -> Vec<(OrgId, Arc<str>, WorkflowId)> {
        let mut all: Vec<_> = self
            .aliases
            .iter()
            .map(|((org, alias), id)| (*org, Arc::clone(alias), *id))
            .collect();
        all.sort();
        all
    }

    /// Puts aliases back.
    pub fn restore_alias(&mut self, org: OrgId, alias: &str, workflow: WorkflowId) {
        self.aliases.insert((org, alias.into()), workflow);
    }
}

impl UserEntry {
    fn to_record(&self) -> User<'_> {
        User {
            id: self.id,
            email: &self.email,
            name: &self.name,
            password_hash: &self.password_hash,
            created_at: self.created_at,
        }
    }
}

impl OrgEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Org<'_> {
        Org {
            id: self.id,
            name: &self.name,
            plan: &self.plan,
            budget: self.budget,
            composition: self.composition,
            created_at: self.created_at,
        }
    }
}

impl WorkflowEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Workflow<'_> {
        Workflow {
            id: self.id,
            org: self.org,
            name: &self.name,
            external_id: self.external_id.as_deref(),
            budget: self.budget,
            max_per_call: self.max_per_call,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

impl KeyEntry {
    /// As it is stored.
    #[must_use]
    pub fn to_record(&self) -> Key<'_> {
        Key {
            id: self.id,
            org: self.org,
            workflow: self.workflow,
            name: &self.name,
            key_hash: self.key_hash,
            prefix: &self.prefix,
            suffix: &self.suffix,
            sealed_secret: &self.sealed_secret,
            key_version: self.key_version,
            scopes: self.scopes,
            budget: self.budget,
            expires_at: self.expires_at,
            created_at: self.created_at,
        }
    }
}
