//! What would become of a call, and which policies and limits there are for calls in general. Both
//! ask the functions that decide; neither holds, counts or writes anything.

use crate::budget;
use crate::code::Code;
use crate::command::{Ask, Decision, NO_KEY, Outcome, Protocol, Verdict};
use crate::decide::{Context, decide};
use crate::directory::{Directory, OrgEntry, WorkflowEntry};
use crate::engine::Engine;
use crate::manage::Refusal;
use crate::pace;
use crate::rules::{Compiled, Described, Looked, QUESTIONS, Rules};
use persist::record::{Arithmetic, Composition, Endpoint, PolicyAction, PolicyType, Scope};
use persist::{HoldId, KeyId, Nanos, OrgId, WorkflowId};
use std::sync::Arc;

/// How a described call ends.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// As `/gate` would give it.
    pub decision: Decision,
    /// How the policies combine.
    pub composition: Composition,
    /// What was looked at, question by question, up to the one that ended it.
    pub looked: Vec<(PolicyType, Vec<Looked>)>,
}

/// Decides a described call by `rules`, or the org's own, as if it came now. `None` if there is no
/// such org.
#[must_use]
pub fn evaluate(context: &Context<'_>, rules: Option<&Rules>, ask: &Ask) -> Option<Evaluated> {
    let own = &context.directory.org(ask.org)?.rules;
    let stated = ask.figures.as_ref().and_then(|figures| figures.calls);
    let apart = rules.unwrap_or(own).apart(context.now, stated);
    let directory = context.directory.with_rules(ask.org, apart);
    let context = Context {
        directory: &directory,
        ..*context
    };
    let org = directory.org(ask.org)?;
    let mut meters = pace::meters_apart(&context, org, ask);
    let decision = decide(&context, &mut meters, ask, false).decision;
    let call = Described {
        workflow: ask.workflow,
        key: ask.key,
        tools: &ask.tools,
        model: ask.model_lower.as_deref(),
        projected: decision.projected,
    };
    let asked = QUESTIONS.iter().take(questions(&decision));
    let looked = asked.map(|question| {
        let looked = org.rules.look(org.composition, *question, &call);
        (*question, looked)
    });
    Some(Evaluated {
        composition: org.composition,
        looked: looked.collect(),
        decision,
    })
}

/// How many of the questions about policies were asked.
const fn questions(decision: &Decision) -> usize {
    match &decision.verdict {
        Verdict::Allow { .. } => QUESTIONS.len(),
        Verdict::Block(block) => match block.code {
            Code::ToolBlocked => 1,
            Code::LoopDetected | Code::ChainMaxDurationExceeded => 2,
            Code::RateLimitExceeded => 3,
            Code::BudgetHardBlocked | Code::BudgetOrgCeilingBlocked => 4,
            _ => 0,
        },
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
    /// Rates that every call is held against.
    pub rates: Vec<RateInForce>,
    /// Loop rules.
    pub loops: Vec<LoopInForce>,
    /// Caps, with what is taken from them.
    pub caps: Vec<(Arithmetic, Option<Arc<Compiled>>)>,
}

/// A rate that every call is held against.
#[derive(Debug, Clone)]
pub struct RateInForce {
    /// Whose.
    pub scope: Scope,
    /// Calls per minute.
    pub limit: u32,
    /// Calls of the last minute.
    pub used: u32,
    /// The policy that sets it; none for the key's own.
    pub policy: Option<Arc<Compiled>>,
}

/// A loop rule that every call is held against.
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
    let plain = Described::plain(workflow.id, key);
    let ask = nothing(org.id, workflow.id, key);
    let rates = pace::limits(context, org, key, &plain).into_iter();
    let rates = rates.map(|(scope, limit, policy)| RateInForce {
        scope,
        limit,
        used: pace::calls(context, org, &ask, scope),
        policy: policy.cloned(),
    });
    let loops = pace::watches(org, workflow, &plain).into_iter();
    let loops = loops.map(|watch| LoopInForce {
        scope: watch.scope,
        threshold: watch.threshold,
        secs: watch.secs,
        flags: watch
            .policy
            .is_some_and(|policy| policy.action == PolicyAction::Flag),
        policy: watch.policy.cloned(),
    });
    let live = context.shard.workflow(workflow.id);
    let caps = budget::caps(context, org, workflow, live, &ask, &plain);
    let caps = caps
        .iter()
        .map(|cap| (cap.asking(Nanos::ZERO), cap.policy().cloned()));
    Effective {
        workflow: Arc::clone(workflow),
        composition,
        looked: looked.collect(),
        rates: rates.collect(),
        loops: loops.collect(),
        caps: caps.collect(),
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
        let workflow = directory.workflow(ask.org, ask.workflow);
        let shard = self.shard_with(ask.org, ask.workflow);
        let evaluated = workflow.and(shard).and_then(|shard| {
            let context = self.context(directory, shard);
            evaluate(&context, rules, ask)
        });
        match evaluated {
            Some(evaluated) => Outcome::Evaluated(Box::new(evaluated)),
            None => Outcome::Refused(Refusal::NotFound("workflow")),
        }
    }
}
