//! Settings of orgs, workflows, keys and policies as of one place in the log, for the reference:
//! which caps a call stands under and which tool is blocked.

use super::spec::{SMALL_PLAN, beyond};
use engine::command::{Ask, Protocol};
use persist::record::{
    Arithmetic, Call, Change, Composition, Endpoint, Overdraft, PeriodKind, PolicyAction,
    PolicyType, Scope,
};
use persist::{KeyId, Lsn, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Policy {
    pub org: OrgId,
    pub about: (PolicyType, Scope, Option<u128>),
    pub order: (i32, Millis, PolicyId),
    pub action: PolicyAction,
    pub tools: Vec<String>,
    pub budget: Option<Nanos>,
    pub period: PeriodKind,
    pub overdraft: Option<Overdraft>,
    /// Calls of one tool, and within how many seconds.
    pub repeats: (u32, u32),
    pub is_active: bool,
    /// It decides nothing.
    pub shadow: bool,
    pub version: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub org: OrgId,
    /// The workflow it is bound to.
    pub bound: Option<WorkflowId>,
    pub cap: Option<Nanos>,
    pub period: PeriodKind,
    pub expires_at: Option<Millis>,
    pub revoked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workflow {
    pub org: OrgId,
    pub cap: Option<Nanos>,
    pub period: PeriodKind,
    pub overdraft: Option<Overdraft>,
    pub per_call: Option<Nanos>,
    pub chain_cap: Option<Nanos>,
    pub chain_secs: u32,
    /// Calls of one tool, and within how many seconds.
    pub watch: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Org {
    pub cap: Option<Nanos>,
    pub period: PeriodKind,
    pub composition: Composition,
    /// The most calls in a month.
    pub executions: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub orgs: BTreeMap<OrgId, Org>,
    pub workflows: BTreeMap<WorkflowId, Workflow>,
    pub keys: BTreeMap<KeyId, Key>,
    pub policies: BTreeMap<PolicyId, Policy>,
}

/// Every set of rules there ever was, by the place of the change that made it.
#[derive(Debug, Default)]
pub struct History {
    sets: BTreeMap<Lsn, Rules>,
    before_any: Rules,
}

impl History {
    /// The rules as of a place in the log.
    pub fn at(&self, place: Lsn) -> &Rules {
        let known = self.sets.range(..=place).next_back();
        known.map_or(&self.before_any, |(_, rules)| rules)
    }

    /// The rules as of a place, and every change of them since.
    pub fn since(&self, place: Lsn) -> impl Iterator<Item = &Rules> {
        let later = self.sets.range(place.next()..).map(|(_, rules)| rules);
        std::iter::once(self.at(place)).chain(later)
    }

    /// The changes that stand at a place.
    pub fn change(&mut self, place: Lsn, changes: &[Change<'_>]) {
        let mut rules = self.at(place).clone();
        for change in changes {
            rules.change(change);
        }
        self.sets.insert(place, rules);
    }
}

/// The levels of a call and whom each concerns.
pub fn levels(call: &Call<'_>) -> [(Scope, u128); 3] {
    [
        (Scope::Org, call.org.0),
        (Scope::Workflow, call.workflow.0),
        (Scope::ApiKey, call.key.0),
    ]
}

impl Rules {
    fn change(&mut self, change: &Change<'_>) {
        match change {
            Change::OrgAdded(org) | Change::OrgChanged(org) => {
                let known = Org {
                    cap: org.budget,
                    period: org.period,
                    composition: org.composition,
                    executions: (org.plan == SMALL_PLAN.0).then_some(SMALL_PLAN.1),
                };
                self.orgs.insert(org.id, known);
            }
            Change::WorkflowAdded(new) | Change::WorkflowChanged(new) => {
                let workflow = Workflow {
                    org: new.org,
                    cap: new.budget,
                    period: new.period,
                    overdraft: new.overdraft,
                    per_call: new.max_per_call,
                    chain_cap: new.chain_cap,
                    chain_secs: new.chain_secs,
                    watch: new.watch.map(|watch| (watch.threshold, watch.window_secs)),
                };
                self.workflows.insert(new.id, workflow);
            }
            Change::KeyAdded(key) => {
                let known = Key {
                    org: key.org,
                    bound: key.workflow,
                    cap: key.budget,
                    period: key.period,
                    expires_at: key.expires_at,
                    revoked: false,
                };
                self.keys.insert(key.id, known);
            }
            Change::KeyRevoked { key } => {
                self.keys
                    .entry(*key)
                    .and_modify(|known| known.revoked = true);
            }
            Change::PolicyAdded(new) | Change::PolicyChanged(new) => {
                let policy = Policy {
                    org: new.org,
                    about: (new.policy_type, new.scope, new.scope_id),
                    order: (new.priority, new.created_at, new.id),
                    action: new.action,
                    tools: new.tools.iter().map(|tool| (*tool).to_owned()).collect(),
                    budget: new.budget,
                    period: new.period,
                    overdraft: new.overdraft,
                    repeats: (
                        new.loop_threshold.unwrap_or(6),
                        new.loop_window_secs.unwrap_or(60),
                    ),
                    is_active: new.is_active,
                    shadow: new.shadow,
                    version: new.version,
                };
                self.policies.insert(new.id, policy);
            }
            Change::PolicyRemoved { policy, .. } => {
                self.policies.remove(policy);
            }
            // People and prices change no decision here.
            _ => {}
        }
    }

    /// The active policies of one kind that concern a call at one level: by priority, then age.
    fn asked(&self, kind: PolicyType, org: OrgId, (scope, id): (Scope, u128)) -> Vec<&Policy> {
        let about = (kind, scope, (scope != Scope::Org).then_some(id));
        let mut asked: Vec<_> = self
            .policies
            .values()
            .filter(|policy| policy.is_active && !policy.shadow)
            .filter(|policy| policy.org == org && policy.about == about)
            .collect();
        asked.sort_by_key(|policy| policy.order);
        asked
    }

    fn composition(&self, org: OrgId) -> Composition {
        self.orgs
            .get(&org)
            .map(|org| org.composition)
            .unwrap_or_default()
    }

    /// The most calls of an org in a month.
    pub fn executions(&self, org: OrgId) -> Option<u64> {
        self.orgs.get(&org).and_then(|org| org.executions)
    }

    /// Every policy of this kind in force for a call.
    pub fn all(&self, kind: PolicyType, call: &Call<'_>) -> Vec<&Policy> {
        let levels = levels(call).into_iter();
        levels
            .flat_map(|level| self.asked(kind, call.org, level))
            .collect()
    }

    /// Every cap that a call stands under, with nothing taken from it yet: at each level the one
    /// that is set there, then those of budget policies. In a chain a soft cap may be passed by its
    /// overdraft.
    pub fn caps(&self, call: &Call<'_>, in_chain: bool) -> Vec<(Arithmetic, u128)> {
        let (org, key) = (self.orgs.get(&call.org), self.keys.get(&call.key));
        let workflow = self.workflows.get(&call.workflow);
        let mut caps = Vec::new();
        for (scope, id) in levels(call) {
            let own = match scope {
                Scope::Org => org.and_then(|o| Some((o.cap?, o.period, None))),
                Scope::Workflow => workflow.and_then(|w| Some((w.cap?, w.period, w.overdraft))),
                Scope::ApiKey => key.and_then(|k| Some((k.cap?, k.period, None))),
            };
            let most = match self.composition(call.org) {
                Composition::FirstMatch => 1,
                Composition::MostRestrictive => usize::MAX,
            };
            let policies = self.asked(PolicyType::BudgetLimit, call.org, (scope, id));
            let policies = policies.into_iter().take(most);
            let limits = policies.filter(|policy| policy.action > PolicyAction::Flag);
            let set = limits.filter_map(|p| Some((p.budget?, p.period, p.overdraft)));
            for (cap, period, overdraft) in own.into_iter().chain(set) {
                let figures = Arithmetic {
                    scope,
                    period,
                    cap,
                    overdraft: beyond(cap, overdraft.filter(|_| in_chain)),
                    spent: Nanos::ZERO,
                    held: Nanos::ZERO,
                    asked: Nanos::ZERO,
                };
                caps.push((figures, id));
            }
        }
        caps
    }

    /// May this call not run for its tools? Clients that name none at the gate are asked again at
    /// `/execute`.
    pub fn tools_block(&self, call: &Call<'_>, ask: &Ask) -> bool {
        let must_name = ask.protocol == Protocol::V4 || ask.endpoint == Endpoint::Execute;
        if ask.tools.is_empty() {
            return must_name && !self.all(PolicyType::ToolBlock, call).is_empty();
        }
        levels(call).into_iter().any(|level| {
            let asked = self.asked(PolicyType::ToolBlock, call.org, level);
            ask.tools.iter().any(|tool| {
                let mut actions = asked
                    .iter()
                    .filter(|policy| policy.names(tool))
                    .map(|policy| policy.action);
                let decides = match self.composition(call.org) {
                    Composition::FirstMatch => actions.next(),
                    Composition::MostRestrictive => actions.max(),
                };
                decides == Some(PolicyAction::Block)
            })
        })
    }
}

impl Policy {
    /// Does one of its patterns name this tool?
    pub fn names(&self, tool: &str) -> bool {
        self.tools.iter().any(|t| t == "*" || t == tool)
    }

    /// Is it about this tool? A loop rule without patterns is about all.
    pub fn watches(&self, tool: &str) -> bool {
        self.tools.is_empty() || self.names(tool)
    }
}
