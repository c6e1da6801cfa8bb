//! What is looked at for a call and what counts, policy by policy: for people. The answers are those
//! of the functions that decide.

use super::{Compiled, Described, Rules, SCOPES};
use persist::record::{Composition, PolicyType, Scope};
use persist::{KeyId, PolicyId, WorkflowId};
use smallvec::SmallVec;
use std::sync::Arc;

/// The questions, in the order they are asked.
pub const QUESTIONS: [PolicyType; 4] = [
    PolicyType::ToolBlock,
    PolicyType::LoopDetection,
    PolicyType::RateLimit,
    PolicyType::BudgetLimit,
];

/// A policy that was looked at.
#[derive(Debug, Clone)]
pub struct Looked {
    /// Which.
    pub policy: Arc<Compiled>,
    /// How it stands.
    pub standing: Standing,
}

/// How a policy stands to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its answer counts; with most restrictive, it is the strictest, or one of several caps.
    Answers,
    /// With most restrictive: it is heard, and another one is stricter.
    Heard,
    /// Its conditions are not met.
    NotMet,
    /// Of calls in general: its answer counts for those that meet its conditions.
    Conditional,
    /// Another one answers before it.
    Behind,
    /// It would be asked, and stands in the shadow.
    Shadow,
}

impl Rules {
    /// Everything that one question looks at for a call, in order.
    #[must_use]
    pub fn look(
        &self,
        composition: Composition,
        question: PolicyType,
        call: &Described<'_>,
    ) -> Vec<Looked> {
        let mut looked = Vec::new();
        for scope in SCOPES {
            let answers = self.answers(composition, question, scope, call);
            // A call without tools is none of a loop; rules about tools have it name some.
            let concerns = |policy: &Compiled| match question {
                PolicyType::ToolBlock => {
                    call.tools.is_empty() || call.tools.iter().any(|tool| policy.names(tool))
                }
                PolicyType::LoopDetection => !call.tools.is_empty(),
                PolicyType::RateLimit | PolicyType::BudgetLimit => true,
            };
            let nameless = question == PolicyType::ToolBlock && call.tools.is_empty();
            let heard = match question {
                PolicyType::ToolBlock => self.tool_observers(composition, scope, call),
                _ => SmallVec::new(),
            };
            let mut answered = false;
            for policy in self.listed(question, scope, call) {
                let met = (nameless || policy.matches_call(call)) && concerns(policy);
                let standing = if answers.contains(&policy.id) {
                    answered =
                        composition == Composition::FirstMatch && question != PolicyType::ToolBlock;
                    Standing::Answers
                } else if !met {
                    Standing::NotMet
                } else if policy.shadow {
                    let heard = match question {
                        PolicyType::ToolBlock => {
                            nameless || heard.iter().any(|one| one.id == policy.id)
                        }
                        _ => !answered,
                    };
                    if heard {
                        Standing::Shadow
                    } else {
                        Standing::Behind
                    }
                } else {
                    match composition {
                        Composition::MostRestrictive if !nameless => Standing::Heard,
                        _ => Standing::Behind,
                    }
                };
                looked.push(Looked {
                    policy: Arc::clone(policy),
                    standing,
                });
            }
        }
        looked
    }

    /// The same for the calls of a workflow and key in general, whatever they name and cost.
    #[must_use]
    pub fn look_in_general(
        &self,
        composition: Composition,
        question: PolicyType,
        workflow: WorkflowId,
        key: KeyId,
    ) -> Vec<Looked> {
        // A tool without a name is one of which only rules about every tool speak.
        let nameless = [String::new()];
        let plain = Described {
            tools: match question {
                PolicyType::ToolBlock | PolicyType::LoopDetection => &nameless,
                PolicyType::RateLimit | PolicyType::BudgetLimit => &[],
            },
            ..Described::plain(workflow, key)
        };
        let mut looked = self.look(composition, question, &plain);
        let mut answered = None;
        for one in &mut looked {
            let scope = one.policy.scope;
            one.standing = match one.standing {
                Standing::Answers if composition == Composition::FirstMatch => {
                    answered = Some(scope);
                    Standing::Answers
                }
                Standing::NotMet if answered == Some(scope) => Standing::Behind,
                Standing::NotMet if one.policy.shadow => Standing::Shadow,
                Standing::NotMet => Standing::Conditional,
                other => other,
            };
        }
        looked
    }

    /// The policies whose answers count, of one question and scope.
    fn answers(
        &self,
        composition: Composition,
        question: PolicyType,
        scope: Scope,
        call: &Described<'_>,
    ) -> Vec<PolicyId> {
        match (question, composition) {
            // It is refused for that, by the first rule there is.
            (PolicyType::ToolBlock, _) if call.tools.is_empty() => {
                let first = self.first_tool_rule(call);
                let first = first.filter(|policy| policy.scope == scope);
                first.map(|policy| policy.id).into_iter().collect()
            }
            (PolicyType::LoopDetection, _) if call.tools.is_empty() => Vec::new(),
            (PolicyType::ToolBlock, _) => call
                .tools
                .iter()
                .filter_map(|tool| self.tool_answer(composition, scope, call, tool))
                .map(|(policy, _)| policy.id)
                .collect(),
            (_, Composition::FirstMatch) => {
                let mut matching = self.matching(question, scope, call);
                let first = matching.next();
                first.map(|policy| policy.id).into_iter().collect()
            }
            (PolicyType::BudgetLimit, Composition::MostRestrictive) => {
                let caps = self.budgets(composition, scope, call);
                caps.map(|(_, policy)| policy.id).collect()
            }
            (PolicyType::RateLimit, Composition::MostRestrictive) => {
                let rate = self.rate(composition, scope, call);
                rate.map(|(_, policy)| policy.id).into_iter().collect()
            }
            (PolicyType::LoopDetection, Composition::MostRestrictive) => {
                let repeats = self.repeats(composition, scope, call);
                repeats.map(|(.., policy)| policy.id).into_iter().collect()
            }
        }
    }
}
