//! The directory as records again, for a snapshot, and what a snapshot keeps beside them.

use persist::record::{Change, DirectoryRecord, Identity, Member, Token};
use persist::{Millis, WorkflowId};
use std::sync::Arc;

use super::{Directory, KeyEntry};

impl Directory {
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
