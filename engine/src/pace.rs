//! How often: calls per minute, and the same tool again and again. Each operation counts once,
//! however often it is asked about.

use crate::cell::Limit;
use crate::code::Code;
use crate::command::{Ask, Block, Protocol, Used};
use crate::decide::{Context, Effect};
use crate::directory::{OrgEntry, WorkflowEntry};
use crate::hold::Holds;
use crate::meter::{Count, Meters, Rate, Subject};
use crate::note::{self, Noted};
use crate::plan::Plan;
use crate::rules::{Compiled, Described, SCOPES};
use persist::record::{Operation, PeriodKind, PolicyAction, PolicyType, Scope};
use persist::{KeyId, Nanos};
use smallvec::SmallVec;
use std::sync::Arc;

/// What a loop rule says of a call.
#[derive(Debug)]
pub enum Loop {
    /// Nothing.
    No,
    /// Mark the workflow and let it pass.
    Flag(String),
    /// Stop the workflow.
    Block(Block, String),
}

/// A loop rule that applies to a call. One that no policy sets is the workflow's own.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    /// Whose.
    pub scope: Scope,
    /// Calls of one tool.
    pub threshold: u32,
    /// Within so many seconds.
    pub secs: u32,
    /// The policy that sets it.
    pub policy: Option<&'a Arc<Compiled>>,
}

/// Every loop rule that applies to a call.
#[must_use]
pub fn watches<'a>(
    org: &'a OrgEntry,
    workflow: &WorkflowEntry,
    call: &Described<'_>,
) -> SmallVec<[Watch<'a>; 4]> {
    let mut watches = SmallVec::new();
    for scope in SCOPES {
        let found = org.rules.repeats(org.composition, scope, call);
        watches.extend(found.map(|(threshold, secs, policy)| Watch {
            scope,
            threshold,
            secs,
            policy: Some(policy),
        }));
    }
    watches.extend(workflow.rare().watch.map(|own| Watch {
        scope: Scope::Workflow,
        threshold: own.threshold,
        secs: own.window_secs,
        policy: None,
    }));
    watches
}

/// Counts the call's tools and says whether one was called too often. `linked` calls run on a hold
/// whose gate may have named the same tools.
pub fn repeats(
    context: &Context<'_>,
    meters: &mut Meters,
    (org, workflow): (&OrgEntry, &WorkflowEntry),
    ask: &Ask,
    call: &Described<'_>,
    linked: bool,
    notes: &mut Vec<Noted>,
) -> Loop {
    // The gate of a linked call has named them already, if its client can.
    let counted_at_gate = linked && ask.protocol == Protocol::V4 && ask.operation_id.is_none();
    if ask.tools.is_empty() || counted_at_gate {
        return Loop::No;
    }
    note_repeats(context, meters, org, ask, call, notes);
    let watches = watches(org, workflow, call);
    if watches.is_empty() || !is_first(context, meters, Counted::Tools, ask) {
        return Loop::No;
    }
    let most = watches.iter().map(|watch| watch.threshold).max();
    let longest = watches.iter().map(|watch| watch.secs).max();
    let (most, longest) = (most.unwrap_or(1), longest.unwrap_or(1));
    let of = Count {
        workflow: ask.workflow,
        rule: None,
    };
    for tool in &ask.tools {
        meters.tool_called(context.now, of, tool, longest, most);
    }
    let mut flagged = Loop::No;
    for watch in &watches {
        let (threshold, secs) = (watch.threshold, watch.secs);
        let about = |tool: &&String| watch.policy.is_none_or(|policy| policy.is_about(tool));
        let mut watched = ask.tools.iter().filter(about);
        let before = stated(ask);
        let repeated = watched.find(|tool| {
            let counted = meters.tool_calls(context.now, of, tool, secs);
            before.map_or(counted, |before| before.saturating_add(1)) >= threshold
        });
        let Some(tool) = repeated else { continue };
        let by = watch.policy.map_or_else(
            || "the workflow's own loop_threshold".to_owned(),
            |policy| format!("policy \"{}\"", policy.name),
        );
        let reason =
            format!("loop: the tool {tool} was called {threshold} times within {secs} s ({by})");
        if let Some(policy) = watch.policy
            && policy.action == PolicyAction::Flag
        {
            notes.extend(Noted::of(policy, true));
            flagged = Loop::Flag(reason);
            continue;
        }
        let why = format!("{reason}; the workflow is stopped until somebody resumes it");
        let block = Block {
            reason: "loop",
            tool: tool.clone(),
            policy: watch.policy.cloned(),
            ..Block::new(Code::LoopDetected, &why)
        };
        return Loop::Block(block, reason);
    }
    flagged
}

/// Counts the call's tools for each loop rule in the shadow by itself, and notes what it says.
fn note_repeats(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    call: &Described<'_>,
    notes: &mut Vec<Noted>,
) {
    if !org.rules.observes() || !is_first(context, meters, Counted::ToolsInShadow, ask) {
        return;
    }
    let (composition, question) = (org.composition, PolicyType::LoopDetection);
    for scope in SCOPES {
        let heard = org.rules.observers(composition, question, scope, call);
        for policy in heard.filter(|policy| policy.shadow) {
            let (threshold, secs) = policy.repeats();
            let of = Count {
                workflow: ask.workflow,
                rule: Some(policy.id),
            };
            let mut repeated = false;
            for tool in ask.tools.iter().filter(|tool| policy.is_about(tool)) {
                meters.tool_called(context.now, of, tool, secs, threshold);
                let counted = meters.tool_calls(context.now, of, tool, secs);
                let counted = stated(ask).map_or(counted, |before| before.saturating_add(1));
                repeated |= counted >= threshold;
            }
            notes.extend(Noted::of(policy, repeated));
        }
    }
}

/// How often its tools were called before, if that is said of a described call.
fn stated(ask: &Ask) -> Option<u32> {
    ask.figures.as_ref()?.tool_calls
}

/// Is the operation not counted yet for this? It is from now on.
fn is_first(context: &Context<'_>, meters: &mut Meters, counted: Counted, ask: &Ask) -> bool {
    let Some(identity) = identity(counted, ask) else {
        return true;
    };
    let first = !meters.was_counted(context.now, identity);
    if first {
        meters.note_counted(identity);
    }
    first
}

/// A rate that applies to a call. One that no policy sets is the key's own.
pub type Rule<'a> = (Scope, u32, Option<&'a Arc<Compiled>>);

/// Every rate that applies to a call.
#[must_use]
pub fn limits<'a>(
    context: &Context<'a>,
    org: &'a OrgEntry,
    key: KeyId,
    call: &Described<'_>,
) -> SmallVec<[Rule<'a>; 4]> {
    let mut limits = SmallVec::new();
    for scope in SCOPES {
        let of_policy = org.rules.rate(org.composition, scope, call);
        limits.extend(of_policy.map(|(limit, policy)| (scope, limit, Some(policy))));
    }
    let own = context
        .directory
        .key(key)
        .and_then(|key| key.calls_per_minute);
    limits.extend(own.map(|limit| (Scope::ApiKey, limit, None)));
    limits
}

/// Notes what rates say that limit nothing, once for each operation.
pub fn note_rates(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    call: &Described<'_>,
    runs: bool,
    notes: &mut Vec<Noted>,
) {
    if org.rules.observes() && (!runs || is_first(context, meters, Counted::CallInShadow, ask)) {
        note::rates(context, org, call, runs, notes);
    }
}

/// Counts the call, or says which rate is used up.
pub fn rate_refusal(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    call: &Described<'_>,
) -> Option<Block> {
    let plan = context.plans.of(&org.plan);
    // A described call leaves the meter that all share alone.
    let in_second = plan
        .limits
        .requests_per_second
        .filter(|_| !meters.is_apart());
    let limits = limits(context, org, ask.key, call);
    if limits.is_empty() && in_second.is_none() {
        return None;
    }
    // What was counted is not counted again, nor refused for itself.
    let identity = identity(Counted::Call, ask);
    if identity.is_some_and(|call| meters.was_counted(context.now, call)) {
        return None;
    }
    let refusal = in_second
        .and_then(|most| second_refusal(context, org, plan, most))
        .or_else(|| {
            let refusal = minute_refusal(context, meters, org, ask, &limits)?;
            if in_second.is_some() {
                org.shared.second.take_back(context.now);
            }
            Some(refusal)
        });
    if refusal.is_some() {
        return refusal;
    }
    if let Some(call) = identity {
        meters.note_counted(call);
    }
    None
}

fn minute_refusal(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    limits: &[Rule<'_>],
) -> Option<Block> {
    let now = context.now;
    for limit in limits {
        if let Some(refusal) = with_rate(context, meters, org, ask, limit.0, |rate| {
            (rate.calls(now) >= limit.1).then(|| refusal(limit, rate, context))
        }) {
            return Some(refusal);
        }
    }
    // A scope has one meter, however many limits are read from it.
    let metered = SCOPES.map(|scope| limits.iter().any(|(of, ..)| *of == scope));
    let metered = || SCOPES.into_iter().zip(metered).filter(|(_, is)| *is);
    for (scope, _) in metered() {
        with_rate(context, meters, org, ask, scope, |rate| rate.add(now));
    }
    // Another shard may have counted on the same meter meanwhile: then one too many goes back.
    for limit in limits {
        let over = with_rate(context, meters, org, ask, limit.0, |rate| {
            (rate.calls(now) > limit.1).then(|| refusal(limit, rate, context))
        });
        if over.is_some() {
            for (scope, _) in metered() {
                with_rate(context, meters, org, ask, scope, |rate| {
                    rate.take_back(now);
                });
            }
            return over;
        }
    }
    None
}

fn with_rate<T>(
    context: &Context<'_>,
    meters: &mut Meters,
    org: &OrgEntry,
    ask: &Ask,
    scope: Scope,
    act: impl FnOnce(&Rate) -> T,
) -> T {
    let apart = meters.is_apart();
    let key = || {
        let shared = context.directory.key(ask.key)?.shared.as_ref();
        shared.filter(|_| !apart)
    };
    match scope {
        Scope::Org if apart => act(meters.rate(context.now, Subject::Org(ask.org))),
        Scope::Org => act(org.shared.rate()),
        Scope::Workflow => act(meters.rate(context.now, Subject::Workflow(ask.workflow))),
        Scope::ApiKey => match key() {
            Some(shared) => act(shared.rate()),
            None => act(meters.rate(context.now, Subject::Key(ask.key))),
        },
    }
}

/// Calls of the minute before a call in a scope: as counted, or as is said of a described one.
#[must_use]
pub fn calls(context: &Context<'_>, org: &OrgEntry, ask: &Ask, scope: Scope) -> u32 {
    stated_calls(ask).unwrap_or_else(|| {
        counted(context, org, ask, scope).map_or(0, |rate| rate.calls(context.now))
    })
}

/// How many calls there were in the minute before, if that is said of a described call.
fn stated_calls(ask: &Ask) -> Option<u32> {
    ask.figures.as_ref()?.calls
}

/// A copy of a scope's meter; none if nothing was counted.
fn counted(context: &Context<'_>, org: &OrgEntry, ask: &Ask, scope: Scope) -> Option<Rate> {
    let meters = &context.shard.meters;
    let key = || context.directory.key(ask.key)?.shared.as_ref();
    match (scope, key()) {
        (Scope::Org, _) => org.shared.rate_copy(),
        (Scope::Workflow, _) => meters.rate_copy(Subject::Workflow(ask.workflow)),
        (Scope::ApiKey, Some(shared)) => shared.rate_copy(),
        (Scope::ApiKey, None) => meters.rate_copy(Subject::Key(ask.key)),
    }
}

/// Meters for a described call that count for nobody else: with what was counted so far, or with
/// what is said of the minute before.
#[must_use]
pub fn meters_apart(context: &Context<'_>, org: &OrgEntry, ask: &Ask) -> Meters {
    let mut apart = Meters::apart();
    let stated = stated_calls(ask);
    for scope in SCOPES {
        let subject = match scope {
            Scope::Org => Subject::Org(ask.org),
            Scope::Workflow => Subject::Workflow(ask.workflow),
            Scope::ApiKey => Subject::Key(ask.key),
        };
        let meter = match stated {
            Some(calls) => Some(Rate::of(context.now, calls)),
            None => counted(context, org, ask, scope),
        };
        if let Some(meter) = meter {
            apart.put_rate(context.now, subject, meter);
        }
    }
    let shadows = org.rules.all().iter().filter(|policy| policy.shadow);
    let rules = shadows.map(|policy| Some(policy.id));
    for rule in rules.chain([None]) {
        let of = Count {
            workflow: ask.workflow,
            rule,
        };
        for tool in &ask.tools {
            apart.copy_tool(&context.shard.meters, of, tool);
        }
    }
    apart
}

fn refusal(limit: &Rule<'_>, rate: &Rate, context: &Context<'_>) -> Block {
    let (scope, limit, policy) = *limit;
    let retry_after_ms = rate.opens_in(context.now);
    let by = policy.map_or_else(
        || "its own max_calls_per_minute".to_owned(),
        |policy| format!("policy \"{}\"", policy.name),
    );
    let why = format!(
        "rate limit of the {}: {} of {limit} calls in the last minute ({by}); there is room again in \
         {} s",
        noun(scope),
        rate.calls(context.now).min(limit),
        retry_after_ms.div_ceil(1000)
    );
    Block {
        reason: "rate_limit",
        policy: policy.cloned(),
        retry_after_ms: Some(retry_after_ms),
        ..Block::new(Code::RateLimitExceeded, &why)
    }
}

/// What a call is counted for, once each.
#[derive(Debug, Clone, Copy)]
enum Counted {
    Tools = 1,
    ToolsInShadow,
    Call,
    CallInShadow,
}

/// What stands for a call that is counted for something, whichever endpoint is asked.
fn identity(counted: Counted, ask: &Ask) -> Option<u128> {
    ask.call.map(|call| call ^ counted as u128)
}

/// Was a call counted among the month's executions at the other endpoint? It counts once as long as the
/// hold is open that it was counted with.
#[must_use]
pub fn was_executed(holds: &Holds, operation: Option<Operation>) -> bool {
    operation.is_some_and(|operation| holds.is_minted_for(operation.twin()))
}

/// What a call adds to the executions of its org.
#[derive(Debug)]
pub enum Executions {
    /// Nothing: its operation was counted.
    Counted,
    /// One, under the plan's limit if there is one.
    One(Option<Limit>),
    /// The plan has no room for it; not final if another pump is at work on the same figure.
    Full(Block, Effect),
}

/// Are there executions left in this month?
pub fn executions(context: &Context<'_>, org: &OrgEntry, ask: &Ask) -> Executions {
    if was_executed(&context.shard.holds, ask.operation) {
        return Executions::Counted;
    }
    let plan = context.plans.of(&org.plan);
    let Some(limit) = plan.limits.executions_per_month else {
        return Executions::One(None);
    };
    let month = context.calendar.period(PeriodKind::Month);
    // Before the figure is read: what moved meanwhile may have made a refusal wrong.
    let moving = org.shared.executions().moving();
    let rest = moving.at_rest(0);
    let current = org.shared.executed_since(month.first);
    if current < limit {
        return Executions::One(Some(Limit {
            first: month.first,
            most: Nanos(i64::try_from(limit).unwrap_or(i64::MAX)),
        }));
    }
    let why = format!(
        "the plan {} allows {limit} executions a month, and {current} were made; they begin anew at \
         the first of the next month, UTC, or ask for another plan",
        plan.title
    );
    let block = Block {
        reason: "plan_limit",
        resets_at: month.end(),
        plan: Some(Used {
            resource: "executions",
            current,
            limit,
        }),
        ..Block::new(Code::ExecutionLimitExceeded, &why)
    };
    let still = rest.is_some() && moving.at_rest(0) == rest;
    let effect = if still {
        Effect::Refuse
    } else {
        Effect::Contended
    };
    Executions::Full(block, effect)
}

/// Counts the call in this second, or says that the plan has no room for it.
fn second_refusal(context: &Context<'_>, org: &OrgEntry, plan: &Plan, most: u32) -> Option<Block> {
    if org.shared.second.take(context.now, most) {
        return None;
    }
    let why = format!(
        "rate limit of the plan {}: {most} calls in a second; there is room again in the next second",
        plan.title
    );
    Some(Block {
        reason: "plan_limit",
        retry_after_ms: Some(1000 - context.now.0 % 1000),
        plan: Some(Used {
            resource: "requests_per_second",
            current: u64::from(most),
            limit: u64::from(most),
        }),
        ..Block::new(Code::RateLimitExceeded, &why)
    })
}

/// A scope in a sentence.
#[must_use]
pub const fn noun(scope: Scope) -> &'static str {
    match scope {
        Scope::Org => "org",
        Scope::Workflow => "workflow",
        Scope::ApiKey => "key",
    }
}
