//! Settings of orgs, keys and policies as of one place in the log, for the reference: which cap a
//! policy sets and which tool it blocks.

use engine::command::{Ask, Protocol};
use persist::record::{Call, Change, Composition, Endpoint, PolicyAction, PolicyType, Scope};
use persist::{KeyId, Lsn, Millis, Nanos, OrgId, PolicyId};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Policy {
    pub org: OrgId,
    pub about: (PolicyType, Scope, Option<u128>),
    pub order: (i32, Millis, PolicyId),
    pub action: PolicyAction,
    pub tools: Vec<String>,
    pub budget: Option<Nanos>,
    pub is_active: bool,
    pub version: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub cap: Option<Nanos>,
    pub revoked: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub orgs: BTreeMap<OrgId, (Option<Nanos>, Composition)>,
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
                self.orgs.insert(org.id, (org.budget, org.composition));
            }
            Change::KeyAdded(key) => {
                let known = Key {
                    cap: key.budget,
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
                    is_active: new.is_active,
                    version: new.version,
                };
                self.policies.insert(new.id, policy);
            }
            Change::PolicyRemoved { policy, .. } => {
                self.policies.remove(policy);
            }
            Change::WorkflowAdded(_)
            | Change::WorkflowChanged(_)
            | Change::UserAdded(_)
            | Change::MemberAdded(_)
            | Change::SessionAdded(_) => {}
        }
    }

    /// The active policies of one kind that concern a call at one level: by priority, then age.
    fn asked(&self, kind: PolicyType, org: OrgId, (scope, id): (Scope, u128)) -> Vec<&Policy> {
        let about = (kind, scope, (scope != Scope::Org).then_some(id));
        let mut asked: Vec<_> = self
            .policies
            .values()
            .filter(|policy| policy.is_active && policy.org == org && policy.about == about)
            .collect();
        asked.sort_by_key(|policy| policy.order);
        asked
    }

    fn composition(&self, org: OrgId) -> Composition {
        self.orgs.get(&org).map(|org| org.1).unwrap_or_default()
    }

    /// Is any policy of this kind in force for a call?
    pub fn any(&self, kind: PolicyType, call: &Call<'_>) -> bool {
        levels(call)
            .into_iter()
            .any(|level| !self.asked(kind, call.org, level).is_empty())
    }

    /// The cap that budget policies set at one level.
    pub fn budget(&self, call: &Call<'_>, level: (Scope, u128)) -> Option<Nanos> {
        let asked = self.asked(PolicyType::BudgetLimit, call.org, level);
        let mut caps = asked.iter().map(|policy| {
            policy
                .budget
                .filter(|_| policy.action != PolicyAction::Allow)
        });
        match self.composition(call.org) {
            Composition::FirstMatch => caps.next().flatten(),
            Composition::MostRestrictive => caps.flatten().min(),
        }
    }

    /// May this call not run for its tools? Clients that name none at the gate are asked again at
    /// `/execute`.
    pub fn tools_block(&self, call: &Call<'_>, ask: &Ask) -> bool {
        let must_name = ask.protocol == Protocol::V4 || ask.endpoint == Endpoint::Execute;
        if ask.tools.is_empty() {
            return must_name && self.any(PolicyType::ToolBlock, call);
        }
        levels(call).into_iter().any(|level| {
            let asked = self.asked(PolicyType::ToolBlock, call.org, level);
            ask.tools.iter().any(|tool| {
                let mut actions = asked
                    .iter()
                    .filter(|policy| policy.tools.iter().any(|t| t == "*" || t == tool))
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
