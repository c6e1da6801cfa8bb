//! What operators ask for: workflows, keys, caps, policies, states.

use super::{Clients, TOOLS, Wish};
use crate::promises::Question;
use crate::rng::Rng;
use engine::command::{Command, Transition};
use engine::manage::{
    Manage, NewKey, PolicyDraft, PolicyPatch, Registration, Terms, WorkflowPatch, WorkflowSettings,
};
use persist::record::{Actor, Composition, PolicyAction, PolicyType, Scope, Scopes, Session};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, UserId, WorkflowId};

impl Clients {
    /// Signs an org up (again, if the answer never came).
    pub(super) fn register(&mut self, org: OrgId, now: Millis) -> (Command, Question) {
        let by = self.fresh();
        let id = org.0;
        let registration = Registration {
            user: UserId(by),
            email: format!("{id:x}@example.com"),
            name: String::new(),
            password_hash: "$argon2id$".to_owned(),
            org,
            org_name: format!("org {id:x}"),
            plan: "unlimited".to_owned(),
            workflow: WorkflowId(id | 1),
            workflow_name: "first".to_owned(),
            key: new_key(KeyId(id | 2), Some(WorkflowId(id | 1)), None),
            session: Session {
                token_hash: [7; 32],
                user: UserId(by),
                expires_at: now.plus(1_000_000),
            },
        };
        let manage = Manage::Register(Box::new(registration));
        (Command::Manage(Box::new(manage)), Question::Manage(by))
    }

    pub(super) fn set_state(&mut self, rng: &mut Rng, to: Transition) -> (Command, Question) {
        let at = self.tenant(rng);
        let workflow = self.workflow(rng, at);
        let command = Command::SetState {
            org: self.tenants[at].org,
            workflow,
            to,
            reason: rng.chance(30).then(|| "because".to_owned()),
            actor: Actor::User(UserId(self.fresh())),
        };
        (command, Question::State { workflow, to })
    }

    fn cap(&self, rng: &mut Rng) -> Option<Nanos> {
        if !rng.chance(self.habits.capped) {
            return None;
        }
        let cents = rng.below(self.habits.cap_cents) as i64;
        let odd = if rng.chance(30) {
            rng.below(9_999_999) as i64
        } else {
            0
        };
        Some(Nanos(cents * Nanos::PER_CENT + odd))
    }

    pub(super) fn change(&mut self, rng: &mut Rng, at: usize, what: usize) -> (Command, Question) {
        let by = self.fresh();
        let actor = Actor::User(UserId(by));
        let org = self.tenants[at].org;
        let workflow = self.workflow(rng, at);
        let manage = match what {
            0 => Manage::PatchWorkflow {
                org,
                actor,
                id: workflow,
                patch: WorkflowPatch {
                    budget: rng.chance(80).then(|| self.cap(rng)),
                    max_per_call: rng.chance(20).then(|| self.cap(rng)),
                    ..WorkflowPatch::default()
                },
            },
            1 => Manage::PatchOrg {
                org,
                actor,
                name: None,
                budget: rng.chance(80).then(|| self.cap(rng)),
                composition: rng
                    .chance(20)
                    .then_some([Composition::FirstMatch, Composition::MostRestrictive])
                    .and_then(|both| rng.pick(&both)),
            },
            2 => {
                let id = WorkflowId(org.0 | self.fresh());
                self.wishes.push((at, Wish::Workflow(id)));
                let settings = WorkflowSettings {
                    name: format!("workflow {:x}", id.0),
                    external_id: None,
                    budget: self.cap(rng),
                    max_per_call: None,
                };
                Manage::CreateWorkflow {
                    org,
                    actor,
                    id,
                    settings,
                }
            }
            3 => {
                let id = KeyId(org.0 | self.fresh());
                let bound = rng.chance(70).then_some(workflow);
                self.wishes.push((at, Wish::Key(id, bound)));
                let key = new_key(id, bound, self.cap(rng));
                Manage::CreateKey { org, actor, key }
            }
            4 => {
                let (id, _) = self.key(rng, at);
                Manage::RevokeKey { org, actor, id }
            }
            5 => {
                let id = PolicyId(self.fresh());
                self.wishes.push((at, Wish::Policy(id)));
                let draft = self.policy(rng, at, workflow);
                Manage::CreatePolicy {
                    org,
                    actor,
                    id,
                    draft,
                }
            }
            6 => Manage::PatchPolicy {
                org,
                actor,
                id: rng.pick(&self.tenants[at].policies).unwrap_or_default(),
                patch: PolicyPatch {
                    priority: rng.chance(50).then(|| rng.below(5) as i32),
                    is_active: rng.chance(70).then(|| rng.chance(50)),
                    ..PolicyPatch::default()
                },
            },
            _ => Manage::DeletePolicy {
                org,
                actor,
                id: rng.pick(&self.tenants[at].policies).unwrap_or_default(),
            },
        };
        (Command::Manage(Box::new(manage)), Question::Manage(by))
    }

    fn policy(&mut self, rng: &mut Rng, at: usize, workflow: WorkflowId) -> PolicyDraft {
        let kinds = [
            PolicyType::ToolBlock,
            PolicyType::BudgetLimit,
            PolicyType::RateLimit,
        ];
        let policy_type = kinds[rng.weighted(&self.habits.policies)];
        let (key, _) = self.key(rng, at);
        let scopes = [
            (Scope::Org, None),
            (Scope::Workflow, Some(workflow.0)),
            (Scope::ApiKey, Some(key.0)),
        ];
        let (scope, scope_id) = scopes[rng.below(3) as usize];
        let allows = policy_type != PolicyType::RateLimit && rng.chance(25);
        let mut tools = Vec::new();
        if policy_type == PolicyType::ToolBlock {
            tools.extend(rng.pick(&TOOLS).map(str::to_owned));
        }
        PolicyDraft {
            name: "a rule".to_owned(),
            policy_type,
            scope,
            scope_id,
            priority: rng.below(5) as i32,
            action: if allows {
                PolicyAction::Allow
            } else {
                PolicyAction::Block
            },
            terms: Terms {
                tools,
                budget: Some(Nanos::from_cents(rng.below(self.habits.cap_cents) as i64)),
                calls_per_minute: Some(rng.within(1, 20) as u32),
                ..Terms::default()
            },
            is_active: rng.chance(80),
        }
    }
}

fn new_key(id: KeyId, workflow: Option<WorkflowId>, budget: Option<Nanos>) -> NewKey {
    let mut key_hash = [0; 32];
    key_hash[..16].copy_from_slice(&id.0.to_le_bytes());
    NewKey {
        id,
        workflow,
        name: "key".to_owned(),
        key_hash,
        prefix: "nr_live".to_owned(),
        suffix: "0000".to_owned(),
        sealed_secret: vec![1, 2, 3],
        scopes: Scopes::ALL,
        budget,
        expires_at: None,
    }
}
