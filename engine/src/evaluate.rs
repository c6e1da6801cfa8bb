//! What would become of a call, and which policies and limits there are for calls in general. Both
//! ask the functions that decide; neither holds, counts or writes anything.

use crate::budget;
use crate::command::{Ask, Decision, NO_KEY, Outcome, Protocol};
use crate::decide::{Context, decide};
use crate::directory::{Directory, OrgEntry, WorkflowEntry};
use crate::engine::Engine;
use crate::manage::Refusal;
use crate::pace;
use crate::rules::{Compiled, Described, Looked, QUESTIONS, Rules};
use persist::record::{Arithmetic, Composition, Endpoint, PolicyAction, PolicyType, Scope};
use persist::{HoldId, KeyId, OrgId, WorkflowId};
use std::sync::Arc;

/// How a described call ends.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// As `/gate` would give it.
    pub decision: Decision,
    /// The workflow.
    pub workflow: Arc<WorkflowEntry>,
    /// How the policies combine.
    pub composition: Composition,
    /// What was looked at, question by question, up to the one that ended it.
    pub looked: Vec<(PolicyType, Vec<Looked>)>,
    /// What the call was held against in these questions.
    pub limits: InForce,
    /// How it ends by the org's own policies, where others were tried.
    pub present: Option<Decision>,
}

/// Decides a described call by `rules`, or the org's own, as if it came now. `None` if there is no
/// such org or workflow.
#[must_use]
pub fn evaluate(context: &Context<'_>, rules: Option<&Rules>, ask: &Ask) -> Option<Evaluated> {
    let present = match rules {
        Some(_) => Some(evaluate(context, None, ask)?.decision),
        None => None,
    };
    let own = &context.directory.org(ask.org)?.rules;
    let stated = ask.figures.as_ref().and_then(|figures| figures.calls);
    let apart = rules.unwrap_or(own).apart(context.now, stated);
    let directory = context.directory.with_rules(ask.org, apart);
    let context = Context {
        directory: &directory,
        ..*context
    };
    let org = directory.org(ask.org)?;
    let workflow = directory.workflow(ask.org, ask.workflow)?;
    let mut meters = pace::meters_apart(&context, org, ask);
    let decided = decide(&context, &mut meters, ask, false);
    let call = Described {
        workflow: ask.workflow,
        key: ask.key,
        tools: &ask.tools,
        model: ask.model_lower.as_deref(),
        projected: decided.decision.projected,
    };
    let looked = decided.asked.iter().map(|question| {
        let looked = org.rules.look(org.composition, *question, &call);
        (*question, looked)
    });
    Some(Evaluated {
        workflow: Arc::clone(workflow),
        composition: org.composition,
        looked: looked.collect(),
        limits: InForce::of(&context, (org, workflow), ask, &call, &decided.asked),
        decision: decided.decision,
        present,
    })
}

/// Rates, loop rules and caps that a call is held against.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Rates.
    pub rates: Vec<RateInForce>,
    /// Loop rules.
    pub loops: Vec<LoopInForce>,
    /// Caps, with what is taken from them.
    pub caps: Vec<(Arithmetic, Option<Arc<Compiled>>)>,
}

impl InForce {
    /// Those of the questions that are asked, from the functions that decide.
    fn of(
        context: &Context<'_>,
        (org, workflow): (&OrgEntry, &WorkflowEntry),
        ask: &Ask,
        call: &Described<'_>,
        asked: &[PolicyType],
    ) -> Self {
        let mut found = Self::default();
        // A call that names no tool is none of a loop.
        if asked.contains(&PolicyType::LoopDetection) && !call.tools.is_empty() {
            let loops = pace::watches(org, workflow, call).into_iter();
            found.loops.extend(loops.map(|watch| {
                LoopInForce {
                    scope: watch.scope,
                    threshold: watch.threshold,
                    secs: watch.secs,
                    flags: watch
                        .policy
                        .is_some_and(|policy| policy.action == PolicyAction::Flag),
                    policy: watch.policy.cloned(),
                }
            }));
        }
        if asked.contains(&PolicyType::RateLimit) {
            let rates = pace::limits(context, org, call.key, call).into_iter();
            found
                .rates
                .extend(rates.map(|(scope, limit, policy)| RateInForce {
                    scope,
                    limit,
                    used: pace::calls(context, org, ask, scope),
                    policy: policy.cloned(),
                }));
        }
        if asked.contains(&PolicyType::BudgetLimit) {
            let live = context.shard.workflow(workflow.id);
            let caps = budget::caps(context, org, workflow, live, ask, call);
            let caps = caps
                .iter()
                .map(|cap| (cap.asking(call.projected), cap.policy().cloned()));
            found.caps.extend(caps);
        }
        found
    }
}

/// What holds for the calls of a workflow and key.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The workflow.
    pub workflow: Arc<WorkflowEntry>,
    /// How the policies combine.
    pub composition: Composition,
    /// Every policy that concerns them, question by question, in the order it is asked.
    pub looked: Vec<(PolicyType, Vec<Looked>)>,
    /// What every call is held against; loop rules, every call that names a tool.
    pub limits: InForce,
}

/// A rate that a call is held against.
#[derive(Debug, Clone)]
pub struct RateInForce {
    /// Whose.
    pub scope: Scope,
    /// Calls per minute.
    pub limit: u32,
    /// Calls of the minute before.
    pub used: u32,
    /// The policy that sets it; none for the key's own.
    pub policy: Option<Arc<Compiled>>,
}

/// A loop rule that a call is held against.
#[derive(Debug, Clone)]
pub struct LoopInForce {
    /// Whose.
    pub scope: Scope,
    /// Calls of one tool.
    pub threshold: u32,
    /// Within so many seconds.
    pub secs: u32,
    /// It only flags.
    pub flags: bool,
    /// The policy that sets it; none for the workflow's own.
    pub policy: Option<Arc<Compiled>>,
}

/// What holds for a workflow's calls in general; those that meet the condition of a policy may be
/// held against it too.
#[must_use]
pub fn effective(
    context: &Context<'_>,
    org: &OrgEntry,
    workflow: &Arc<WorkflowEntry>,
    key: KeyId,
) -> Effective {
    let composition = org.composition;
    let looked = QUESTIONS.iter().map(|question| {
        let rules = &org.rules;
        (
            *question,
            rules.look_in_general(composition, *question, workflow.id, key),
        )
    });
    // A tool without a name is one of which only rules about every tool speak.
    let nameless = [String::new()];
    let plain = Described::plain(workflow.id, key);
    let any = Described {
        tools: &nameless,
        ..plain
    };
    let ask = nothing(org.id, workflow.id, key);
    let of = |call, asked: &[_]| InForce::of(context, (org, workflow), &ask, call, asked);
    let limits = InForce {
        loops: of(&any, &[PolicyType::LoopDetection]).loops,
        ..of(&plain, &[PolicyType::RateLimit, PolicyType::BudgetLimit])
    };
    Effective {
        workflow: Arc::clone(workflow),
        composition,
        looked: looked.collect(),
        limits,
    }
}

/// A call that names nothing and asks for nothing.
#[must_use]
pub fn nothing(org: OrgId, workflow: WorkflowId, key: KeyId) -> Ask {
    Ask {
        endpoint: Endpoint::Gate,
        protocol: Protocol::V4,
        org,
        key,
        workflow,
        call: None,
        operation: None,
        operation_id: None,
        execution_id: None,
        trace_id: None,
        model: None,
        model_lower: None,
        tools: Vec::new(),
        tools_line: String::new(),
        digest: None,
        estimated_tokens: 0,
        max_output_tokens: None,
        chain: None,
        chain_end: false,
        reservation: None,
        must_find_reservation: false,
        new_hold: HoldId(0),
        noted: Vec::new(),
        figures: None,
    }
}

impl Engine {
    pub(crate) fn effective(
        &self,
        directory: &Directory,
        org: OrgId,
        workflow: WorkflowId,
        key: Option<KeyId>,
    ) -> Outcome {
        let found = (
            directory.org(org),
            directory.workflow(org, workflow),
            self.shard_with(org, workflow),
        );
        let (Some(org), Some(workflow), Some(shard)) = found else {
            return Outcome::Refused(Refusal::NotFound("workflow"));
        };
        let context = self.context(directory, shard);
        let effective = effective(&context, org, workflow, key.unwrap_or(NO_KEY));
        Outcome::Effective(Box::new(effective))
    }

    pub(crate) fn evaluate(
        &self,
        directory: &Directory,
        ask: &Ask,
        rules: Option<&Rules>,
    ) -> Outcome {
        let shard = self.shard_with(ask.org, ask.workflow);
        let evaluated = shard.and_then(|shard| {
            let context = self.context(directory, shard);
            evaluate(&context, rules, ask)
        });
        match evaluated {
            Some(evaluated) => Outcome::Evaluated(Box::new(evaluated)),
            None => Outcome::Refused(Refusal::NotFound("workflow")),
        }
    }
}
