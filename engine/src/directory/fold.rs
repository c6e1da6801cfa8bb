//! Records change the directory here, and nowhere else: recovery, snapshots and the running gateway.

use crate::rules::{Compiled, Rules};
use persist::record::{
    Change, DirectoryRecord, Identity, Invite, Key, KeyRotation, Member, Org, Session, Token, User,
    Workflow,
};
use persist::{InviteId, KeyId, Millis, OrgId, SessionId, UserId};
use std::sync::Arc;

use super::entries::NO_CAP;
use super::{
    Directory, InviteEntry, KeyEntry, MailState, MemberEntry, OrgEntry, PreviousKey, RareSettings,
    SessionEntry, TokenEntry, UserEntry, WorkflowEntry, alias_key,
};

impl Directory {
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
}
