//! What policies say that decide nothing: those that flag, and those in the shadow. A policy in the
//! shadow is asked as if it alone were in force beside those that are, and counts calls by itself:
//! that it is there changes no decision.

use crate::budget::{self, Size};
use crate::command::Ask;
use crate::decide::Context;
use crate::directory::OrgEntry;
use crate::rules::{Compiled, Described, SCOPES};
use crate::shard::WorkflowLive;
use persist::record::{Note, PolicyAction, PolicyType};
use std::sync::Arc;

/// What a policy said.
#[derive(Debug, Clone)]
pub struct Noted {
    /// Which.
    pub policy: Arc<Compiled>,
    /// In force it would have refused the call.
    pub refuses: bool,
}

impl Noted {
    /// What a policy says of a call that goes past its limit, or that its pattern names, or does
    /// not; nothing, if it only flags and there is nothing to flag.
    #[must_use]
    pub fn of(policy: &Arc<Compiled>, applies: bool) -> Option<Self> {
        let refuses = policy.shadow && applies && policy.action == PolicyAction::Block;
        (policy.shadow || applies).then(|| Self {
            policy: Arc::clone(policy),
            refuses,
        })
    }

    /// As it is recorded.
    #[must_use]
    pub fn to_record(&self) -> Note {
        Note {
            policy: self.policy.id,
            version: self.policy.version,
            shadow: self.policy.shadow,
            refuses: self.refuses,
        }
    }

    /// Is it about how often? Such notes are made once, when the call is counted.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        matches!(
            self.policy.policy_type,
            PolicyType::RateLimit | PolicyType::LoopDetection
        )
    }
}

/// What rules about tools say. One whose pattern is named refuses; so does any, where a call has to
/// name its tools and does not.
pub fn tools(org: &OrgEntry, must_name: bool, call: &Described<'_>, notes: &mut Vec<Noted>) {
    if !org.rules.observes() {
        return;
    }
    if call.tools.is_empty() {
        let shadows = org.rules.tool_rules_in_shadow(call);
        notes.extend(shadows.filter(|_| must_name).map(|policy| Noted {
            policy: Arc::clone(policy),
            refuses: true,
        }));
        return;
    }
    for scope in SCOPES {
        let heard = org.rules.tool_observers(org.composition, scope, call);
        notes.extend(
            heard
                .into_iter()
                .filter_map(|policy| Noted::of(policy, true)),
        );
    }
}

/// What rates say. A call that `runs` on is counted by those that would let it pass.
pub fn rates(
    context: &Context<'_>,
    org: &OrgEntry,
    call: &Described<'_>,
    runs: bool,
    notes: &mut Vec<Noted>,
) {
    if !org.rules.observes() {
        return;
    }
    for scope in SCOPES {
        let question = PolicyType::RateLimit;
        let heard = org.rules.observers(org.composition, question, scope, call);
        for policy in heard {
            let over = match (&policy.calls, policy.calls_per_minute) {
                (Some(calls), Some(limit)) => {
                    let over = calls.calls(context.now) >= limit;
                    if runs && !over {
                        calls.add(context.now);
                    }
                    over
                }
                _ => false,
            };
            notes.extend(Noted::of(policy, over));
        }
    }
}

/// What budget policies say.
pub fn budgets(
    context: &Context<'_>,
    org: &OrgEntry,
    live: Option<&WorkflowLive>,
    ask: &Ask,
    call: &Described<'_>,
    size: Size,
    notes: &mut Vec<Noted>,
) {
    if !org.rules.observes() {
        return;
    }
    for scope in SCOPES {
        let question = PolicyType::BudgetLimit;
        let heard = org.rules.observers(org.composition, question, scope, call);
        for policy in heard {
            let cap = budget::cap_of(context, org, live, ask, policy);
            let over = cap.is_some_and(|cap| cap.refuses(size));
            notes.extend(Noted::of(policy, over));
        }
    }
}
