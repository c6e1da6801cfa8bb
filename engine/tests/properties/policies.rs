//! Which policy answers, beside searches through the whole list: one for each way in which policies
//! combine, that share nothing but the question whether a policy concerns a call.

#[cfg(test)]
mod decided;

use engine::limits::{LOOP_THRESHOLD, LOOP_WINDOW_SECS};
use engine::rules::{Compiled, Described, Rules, SCOPES};
use persist::record::{Composition, PeriodKind, Policy, PolicyAction, PolicyType, Scope};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const BLOCK: PolicyAction = PolicyAction::Block;
const ALLOW: PolicyAction = PolicyAction::Allow;
const FLAG: PolicyAction = PolicyAction::Flag;
const TYPES: [PolicyType; 4] = [
    PolicyType::BudgetLimit,
    PolicyType::RateLimit,
    PolicyType::ToolBlock,
    PolicyType::LoopDetection,
];

#[derive(Debug, Clone)]
struct Call {
    workflow: u128,
    key: u128,
    tools: Vec<String>,
    model: Option<&'static str>,
    projected: i64,
}

fn policy() -> impl Strategy<Value = Policy<'static>> {
    let about = (
        select(&TYPES[..]),
        select(&SCOPES[..]),
        1..3_u128,
        select(&[ALLOW, FLAG, BLOCK, BLOCK][..]),
    );
    let order = (
        0..3_i32,
        0..3_u64,
        proptest::bool::weighted(0.9),
        proptest::bool::weighted(0.25),
    );
    let conditions = (
        subsequence(vec!["mail*", "bash", "*"], 0..3),
        subsequence(vec!["gpt*"], 0..2),
        proptest::option::weighted(0.2, 5..10_i64),
    );
    let figures = (
        proptest::option::weighted(0.9, 0..4_i64),
        proptest::option::weighted(0.9, 1..4_u32),
        proptest::option::of(2..4_u32),
        proptest::option::of(10..12_u32),
    );
    (about, order, conditions, figures).prop_map(|(about, order, conditions, figures)| Policy {
        id: PolicyId(0),
        org: OrgId(1),
        name: "a rule",
        policy_type: about.0,
        scope: about.1,
        scope_id: (about.1 != Scope::Org).then_some(about.2),
        action: about.3,
        priority: order.0,
        created_at: Millis(order.1),
        is_active: order.2,
        shadow: order.3,
        template: None,
        tools: conditions.0,
        models: conditions.1,
        min_cost: conditions.2.map(Nanos),
        budget: figures.0.map(Nanos),
        calls_per_minute: figures.1,
        loop_threshold: figures.2,
        loop_window_secs: figures.3,
        period: PeriodKind::Month,
        overdraft: None,
        version: 1,
        updated_at: Millis(0),
    })
}

fn call() -> impl Strategy<Value = Call> {
    let tools = subsequence(vec!["mail.send", "bash", "web"], 0..=3).prop_shuffle();
    let model = select(&[None, Some("gpt-9"), Some("small")][..]);
    (1..3_u128, 1..3_u128, tools, model, 0..12_i64).prop_map(
        |(workflow, key, tools, model, projected)| Call {
            workflow,
            key,
            tools: tools.into_iter().map(str::to_owned).collect(),
            model,
            projected,
        },
    )
}

// --- the references -------------------------------------------------------------------------

/// What the policies of each scope say of a call.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    /// The first tool that may not run, and whose rule says so.
    blocked: Option<(PolicyId, String)>,
    caps: Vec<(Scope, Nanos, PolicyId)>,
    /// Calls per minute.
    rates: Vec<(Scope, u32, PolicyId)>,
    /// Calls, seconds.
    loops: Vec<(Scope, (u32, u32), PolicyId)>,
}

fn hits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

fn names(p: &Policy<'_>, tool: &str) -> bool {
    p.tools.iter().any(|pattern| hits(pattern, tool))
}

/// Active policies about a question and a scope of the call, its conditions left aside, in order;
/// those in the shadow too.
fn listed<'a>(
    all: &'a [Policy<'static>],
    question: PolicyType,
    scope: Scope,
    call: &Call,
) -> impl Iterator<Item = &'a Policy<'static>> {
    let subject = match scope {
        Scope::Org => None,
        Scope::Workflow => Some(call.workflow),
        Scope::ApiKey => Some(call.key),
    };
    let mut asked: Vec<_> = all
        .iter()
        .filter(|p| p.is_active && p.policy_type == question)
        .filter(|p| p.scope == scope && p.scope_id == subject)
        .collect();
    asked.sort_by_key(|p| (p.priority, p.created_at, p.id));
    asked.into_iter()
}

/// Those of them that are in force.
fn asked<'a>(
    all: &'a [Policy<'static>],
    question: PolicyType,
    scope: Scope,
    call: &Call,
) -> impl Iterator<Item = &'a Policy<'static>> {
    listed(all, question, scope, call).filter(|p| !p.shadow)
}

/// Those of them whose conditions the call meets.
fn matching<'a>(
    all: &'a [Policy<'static>],
    question: PolicyType,
    scope: Scope,
    call: &Call,
) -> impl Iterator<Item = &'a Policy<'static>> {
    asked(all, question, scope, call).filter(move |p| {
        let model = |m: &str| p.models.iter().any(|pattern| hits(pattern, m));
        (p.models.is_empty() || call.model.is_some_and(model))
            && p.min_cost.is_none_or(|min| Nanos(call.projected) >= min)
            && (question == PolicyType::ToolBlock
                || p.tools.is_empty()
                || call.tools.iter().any(|tool| names(p, tool)))
    })
}

/// Threshold and window of a loop rule.
fn terms(p: &Policy<'_>) -> (u32, u32) {
    let threshold = p.loop_threshold.unwrap_or(LOOP_THRESHOLD);
    (threshold, p.loop_window_secs.unwrap_or(LOOP_WINDOW_SECS))
}

/// The first policy that matches says it all, for its question and scope.
fn first_match(all: &[Policy<'static>], call: &Call) -> Answer {
    let mut answer = Answer::default();
    for scope in SCOPES {
        for tool in &call.tools {
            let first = matching(all, PolicyType::ToolBlock, scope, call).find(|p| names(p, tool));
            if let Some(p) = first.filter(|p| p.action == BLOCK) {
                answer.blocked.get_or_insert((p.id, tool.clone()));
            }
        }
        let first = |question| matching(all, question, scope, call).next();
        if let Some(p) = first(PolicyType::BudgetLimit).filter(|p| p.action == BLOCK) {
            answer.caps.extend(p.budget.map(|cap| (scope, cap, p.id)));
        }
        if let Some(p) = first(PolicyType::RateLimit).filter(|p| p.action == BLOCK) {
            let limit = p.calls_per_minute.map(|calls| (scope, calls, p.id));
            answer.rates.extend(limit);
        }
        if let Some(p) = first(PolicyType::LoopDetection).filter(|p| p.action != ALLOW) {
            answer.loops.push((scope, terms(p), p.id));
        }
    }
    answer
}

/// Every policy that forbids is heard: all caps, the lowest rate, and of loop rules a block before a
/// flag, then the fewest calls, then the longest time.
fn most_restrictive(all: &[Policy<'static>], call: &Call) -> Answer {
    let mut answer = Answer::default();
    for scope in SCOPES {
        let of = |question, action| {
            matching(all, question, scope, call).filter(move |p| p.action == action)
        };
        for tool in &call.tools {
            if let Some(p) = of(PolicyType::ToolBlock, BLOCK).find(|p| names(p, tool)) {
                answer.blocked.get_or_insert((p.id, tool.clone()));
            }
        }
        let caps = of(PolicyType::BudgetLimit, BLOCK);
        let caps = caps.filter_map(|p| Some((scope, p.budget?, p.id)));
        answer.caps.extend(caps);
        let rates = of(PolicyType::RateLimit, BLOCK);
        let rates = rates.filter_map(|p| Some((scope, p.calls_per_minute?, p.id)));
        answer
            .rates
            .extend(rates.min_by_key(|(_, calls, _)| *calls));
        let worst = |action| {
            let rules = of(PolicyType::LoopDetection, action);
            rules.min_by_key(|p| (terms(p).0, u32::MAX - terms(p).1))
        };
        let rule = worst(BLOCK).or_else(|| worst(FLAG));
        answer.loops.extend(rule.map(|p| (scope, terms(p), p.id)));
    }
    answer
}

/// The rule about tools that a call without tools is told of.
fn first_tool_rule(all: &[Policy<'static>], call: &Call) -> Option<PolicyId> {
    let of = |scope| asked(all, PolicyType::ToolBlock, scope, call).next();
    SCOPES.into_iter().find_map(of).map(|p| p.id)
}

// --- the engine -----------------------------------------------------------------------------

fn with_ids(mut all: Vec<Policy<'static>>) -> Vec<Policy<'static>> {
    for (n, policy) in all.iter_mut().enumerate() {
        policy.id = PolicyId(n as u128);
    }
    all
}

/// What the compiled rules say.
fn compiled(rules: &Rules, composition: Composition, call: &Call) -> Answer {
    let described = Described {
        workflow: WorkflowId(call.workflow),
        key: KeyId(call.key),
        tools: &call.tools,
        model: call.model,
        projected: Nanos(call.projected),
    };
    let hit = rules.blocked_tool(composition, &described);
    let mut answer = Answer {
        blocked: hit.map(|hit| (hit.policy.id, hit.tool)),
        ..Answer::default()
    };
    for scope in SCOPES {
        let caps = rules.budgets(composition, scope, &described);
        answer.caps.extend(caps.map(|(cap, p)| (scope, cap, p.id)));
        let rate = rules.rate(composition, scope, &described);
        answer
            .rates
            .extend(rate.map(|(limit, p)| (scope, limit, p.id)));
        let repeats = rules.repeats(composition, scope, &described);
        let repeats = repeats.map(|(calls, secs, p)| (scope, (calls, secs), p.id));
        answer.loops.extend(repeats);
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_question_is_answered_by_the_policy_a_plain_search_finds(
        all in proptest::collection::vec(policy(), 0..14).prop_map(with_ids),
        calls in proptest::collection::vec(call(), 1..6),
    ) {
        let rules = all.iter().fold(Rules::default(), |rules, policy| {
            rules.with(Compiled::from_record(policy))
        });
        for call in &calls {
            let first = compiled(&rules, Composition::FirstMatch, call);
            prop_assert_eq!(first, first_match(&all, call));
            let strictest = compiled(&rules, Composition::MostRestrictive, call);
            prop_assert_eq!(strictest, most_restrictive(&all, call));
        }
    }
}
