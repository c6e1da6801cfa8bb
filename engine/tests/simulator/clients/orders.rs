//! What operators ask for: workflows, keys, caps, policies, states.

use super::{Clients, TOOLS, Want, Wish};
use crate::promises::Question;
use crate::rng::Rng;
use crate::spec::SMALL_PLAN;
use engine::command::{Command, Transition};
use engine::manage::{
    KeyTexts, Manage, NewKey, NewSession, OrgPatch, OverdraftPatch, PolicyDraft, PolicyPatch,
    Registration, Terms, WatchPatch, WorkflowPatch, WorkflowSettings,
};
use persist::record::{
    Actor, Composition, LoopWatch, Overdraft, PeriodKind, PolicyAction, PolicyType, Scope, Scopes,
};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, SessionId, UserId, WorkflowId};

impl Clients {
    /// Signs an org up (again, if the answer never came).
    pub(super) fn register(&mut self, org: OrgId, now: Millis) -> Want {
        let by = self.fresh();
        let id = org.0;
        let registration = Registration {
            user: UserId(by),
            email: format!("{id:x}@example.com"),
            name: String::new(),
            password_hash: "$argon2id$".to_owned(),
            identity: None,
            org,
            org_name: format!("org {id:x}"),
            // Every second org's calls are limited.
            plan: match (id >> 32) % 2 {
                0 => SMALL_PLAN.0.to_owned(),
                _ => "unlimited".to_owned(),
            },
            workflow: WorkflowId(id | 1),
            workflow_name: "first".to_owned(),
            key: new_key(KeyId(id | 2), Some(WorkflowId(id | 1))),
            session: NewSession {
                id: SessionId(by),
                token_hash: [7; 32],
                ip: String::new(),
                user_agent: String::new(),
                user: UserId(by),
                expires_at: now.plus(1_000_000),
            },
        };
        manage(Manage::Register(Box::new(registration)), by)
    }

    pub(super) fn set_state(&mut self, rng: &mut Rng, to: Transition) -> Want {
        let at = self.tenant(rng);
        let workflow = self.workflow(rng, at);
        let command = Command::SetState {
            org: self.tenants[at].org,
            workflow,
            to,
            reason: rng.chance(30).then(|| "because".to_owned()),
            actor: Actor::User(UserId(self.fresh())),
        };
        Want::Do(command, Question::State(workflow, to))
    }

    /// An operator frees a hold.
    pub(super) fn release(&mut self, rng: &mut Rng) -> Want {
        let at = self.tenant(rng);
        let (org, hold) = (self.tenants[at].org, self.hold(rng));
        let command = Command::Release {
            org,
            hold,
            note: "long enough".to_owned(),
            actor: Actor::User(UserId(self.fresh())),
        };
        Want::Do(command, Question::Release(org, hold))
    }

    fn cap(&self, rng: &mut Rng) -> Option<Nanos> {
        rng.chance(self.habits.capped).then(|| self.amount(rng))
    }

    fn amount(&self, rng: &mut Rng) -> Nanos {
        let cents = rng.below(self.habits.cap_cents) as i64;
        let odd = if rng.chance(30) {
            rng.below(9_999_999) as i64
        } else {
            0
        };
        Nanos(cents * Nanos::PER_CENT + odd)
    }

    fn overdraft(&self, rng: &mut Rng) -> Option<Overdraft> {
        rng.chance(self.habits.soft).then(|| Overdraft {
            amount: rng.chance(60).then(|| self.amount(rng)),
            percent: rng.chance(60).then(|| rng.below(300) as u32),
        })
    }

    pub(super) fn change(&mut self, rng: &mut Rng, now: Millis, at: usize, what: usize) -> Want {
        let by = self.fresh();
        let actor = Actor::User(UserId(by));
        let org = self.tenants[at].org;
        let workflow = self.workflow(rng, at);
        let change = match what {
            0 => Manage::PatchWorkflow {
                org,
                actor,
                id: workflow,
                patch: self.patch(rng),
            },
            1 => Manage::PatchOrg {
                org,
                actor,
                patch: OrgPatch {
                    budget: rng.chance(80).then(|| self.cap(rng)),
                    period: rng.chance(30).then(|| period(rng)),
                    composition: rng
                        .chance(20)
                        .then_some([Composition::FirstMatch, Composition::MostRestrictive])
                        .and_then(|both| rng.pick(&both)),
                    ..OrgPatch::default()
                },
            },
            2 => {
                let id = WorkflowId(org.0 | self.fresh());
                self.wishes.push((at, Wish::Workflow(id)));
                let settings = WorkflowSettings {
                    budget: self.cap(rng),
                    period: period(rng),
                    overdraft: self.overdraft(rng),
                    ..WorkflowSettings::named(format!("workflow {:x}", id.0))
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
                let bound = rng.chance(50).then_some(workflow);
                self.wishes.push((at, Wish::Key(id, bound)));
                let key = NewKey {
                    budget: self.cap(rng),
                    period: period(rng),
                    expires_at: rng.chance(20).then(|| now.plus(rng.within(1_000, 600_000))),
                    ..new_key(id, bound)
                };
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
                    shadow: rng.chance(30).then(|| rng.chance(30)),
                    ..PolicyPatch::default()
                },
            },
            _ => Manage::DeletePolicy {
                org,
                actor,
                id: rng.pick(&self.tenants[at].policies).unwrap_or_default(),
            },
        };
        manage(change, by)
    }

    fn patch(&self, rng: &mut Rng) -> WorkflowPatch {
        WorkflowPatch {
            budget: rng.chance(80).then(|| self.cap(rng)),
            period: rng.chance(30).then(|| period(rng)),
            overdraft: if rng.chance(20) {
                OverdraftPatch::to(self.overdraft(rng))
            } else {
                OverdraftPatch::default()
            },
            max_per_call: rng.chance(20).then(|| self.cap(rng)),
            chain_cap: rng.chance(20).then(|| self.cap(rng)),
            chain_secs: rng.chance(20).then(|| rng.within(1, 900) as u32),
            watch: if rng.chance(15) {
                WatchPatch::to(rng.chance(50).then(|| LoopWatch {
                    threshold: rng.within(2, 8) as u32,
                    window_secs: rng.within(1, 120) as u32,
                }))
            } else {
                WatchPatch::default()
            },
            ..WorkflowPatch::default()
        }
    }

    fn policy(&mut self, rng: &mut Rng, at: usize, workflow: WorkflowId) -> PolicyDraft {
        let kinds = [
            PolicyType::ToolBlock,
            PolicyType::BudgetLimit,
            PolicyType::RateLimit,
            PolicyType::LoopDetection,
        ];
        let policy_type = kinds[rng.weighted(&self.habits.policies)];
        let (key, _) = self.key(rng, at);
        let scopes = [
            (Scope::Org, None),
            (Scope::Workflow, Some(workflow.0)),
            (Scope::ApiKey, Some(key.0)),
        ];
        let (scope, scope_id) = scopes[rng.below(3) as usize];
        let action = match policy_type {
            PolicyType::RateLimit => PolicyAction::Block,
            PolicyType::LoopDetection => {
                let actions = [PolicyAction::Block, PolicyAction::Flag];
                actions[rng.below(2) as usize]
            }
            _ if rng.chance(25) => PolicyAction::Allow,
            _ => PolicyAction::Block,
        };
        let mut tools = Vec::new();
        let names = match policy_type {
            PolicyType::ToolBlock => true,
            PolicyType::LoopDetection => rng.chance(50),
            _ => false,
        };
        if names {
            tools.extend(rng.pick(&TOOLS).map(str::to_owned));
        }
        PolicyDraft {
            name: "a rule".to_owned(),
            policy_type,
            scope,
            scope_id,
            priority: rng.below(5) as i32,
            action,
            terms: Terms {
                tools,
                budget: Some(self.amount(rng)),
                period: period(rng),
                overdraft: self.overdraft(rng),
                calls_per_minute: Some(rng.within(1, 20) as u32),
                loop_threshold: rng.chance(80).then(|| rng.within(2, 8) as u32),
                loop_window_secs: rng.chance(80).then(|| rng.within(1, 120) as u32),
                ..Terms::default()
            },
            is_active: rng.chance(80),
            shadow: rng.chance(20),
            template: None,
        }
    }
}

fn manage(change: Manage, by: u128) -> Want {
    let question = match &change {
        Manage::PatchPolicy { id, patch, .. } => Question::Patch(by, *id, patch.clone()),
        _ => Question::Manage(by),
    };
    Want::Do(Command::Manage(Box::new(change)), question)
}

fn period(rng: &mut Rng) -> PeriodKind {
    PeriodKind::NAMED[rng.below(5) as usize].0
}

fn new_key(id: KeyId, workflow: Option<WorkflowId>) -> NewKey {
    let mut key_hash = [0; 32];
    key_hash[..16].copy_from_slice(&id.0.to_le_bytes());
    NewKey {
        id,
        workflow,
        name: "key".to_owned(),
        texts: KeyTexts {
            key_hash,
            prefix: "nr_live".to_owned(),
            suffix: "0000".to_owned(),
            sealed_secret: vec![1, 2, 3],
        },
        scopes: Scopes::ALL,
        budget: None,
        period: PeriodKind::Month,
        calls_per_minute: None,
        expires_at: None,
    }
}
