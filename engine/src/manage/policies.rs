//! Policies: drafts, and what is checked about them.

use super::check::{bound, bounded, budget, invalid, overdraft, within};
use super::{Desk, OverdraftPatch, Refusal, check};
use crate::directory::{Directory, OrgEntry};
use crate::glob::Glob;
use crate::limits;
use crate::plan::Feature;
use crate::rules::{Compiled, Rules};
use crate::usage;
use persist::record::{Overdraft, PeriodKind, Policy, PolicyAction, PolicyType, Scope};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use std::sync::Arc;

/// The priority of a policy, if nobody says otherwise.
pub const PRIORITY: i32 = 100;

/// A policy to be made. Patterns are already known to compile.
#[derive(Debug, Clone)]
pub struct PolicyDraft {
    /// Name.
    pub name: String,
    /// What it decides about.
    pub policy_type: PolicyType,
    /// At which level.
    pub scope: Scope,
    /// For which workflow or key.
    pub scope_id: Option<u128>,
    /// Lower answers first.
    pub priority: i32,
    /// What a match does.
    pub action: PolicyAction,
    /// Conditions and figures.
    pub terms: Terms,
    /// Off policies answer nothing.
    pub is_active: bool,
    /// Asked like the others, but its answer is only noted.
    pub shadow: bool,
    /// The template it was made from.
    pub template: Option<String>,
}

/// The part of a policy that `config` and `match` describe.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Tool patterns.
    pub tools: Vec<String>,
    /// Model patterns.
    pub models: Vec<String>,
    /// Matches only calls projected to cost at least this.
    pub min_cost: Option<Nanos>,
    /// The cap.
    pub budget: Option<Nanos>,
    /// Its period.
    pub period: PeriodKind,
    /// A soft cap.
    pub overdraft: Option<Overdraft>,
    /// Calls per minute.
    pub calls_per_minute: Option<u32>,
    /// Calls of one tool.
    pub loop_threshold: Option<u32>,
    /// Within so many seconds.
    pub loop_window_secs: Option<u32>,
}

impl Terms {
    /// Those of a policy.
    #[must_use]
    pub fn of(policy: &Compiled) -> Self {
        let texts = |globs: &[Glob]| globs.iter().map(|glob| glob.text().to_owned()).collect();
        Self {
            tools: texts(&policy.tools),
            models: texts(&policy.models),
            min_cost: policy.min_cost,
            budget: policy.budget,
            period: policy.period,
            overdraft: policy.overdraft,
            calls_per_minute: policy.calls_per_minute,
            loop_threshold: policy.loop_threshold,
            loop_window_secs: policy.loop_window_secs,
        }
    }

    /// How many patterns there are, alternatives counted singly.
    fn patterns(&self) -> usize {
        let texts = self.tools.iter().chain(&self.models);
        texts.map(|text| text.split('|').count()).sum()
    }
}

/// What a request says of conditions and figures; absent stays.
#[derive(Debug, Clone, Default)]
pub struct TermsPatch {
    /// Tool patterns, instead of all there were.
    pub tools: Option<Vec<String>>,
    /// Model patterns, instead of all there were.
    pub models: Option<Vec<String>>,
    /// The least projected cost; `Some(None)` for none.
    pub min_cost: Option<Option<Nanos>>,
    /// The cap.
    pub budget: Option<Nanos>,
    /// Its period.
    pub period: Option<PeriodKind>,
    /// How hard it is.
    pub overdraft: OverdraftPatch,
    /// Calls per minute.
    pub calls_per_minute: Option<u32>,
    /// Calls of one tool; `Some(None)` for the usual number.
    pub loop_threshold: Option<Option<u32>>,
    /// Within so many seconds; `Some(None)` for the usual time.
    pub loop_window_secs: Option<Option<u32>>,
}

impl TermsPatch {
    /// The terms after it.
    pub fn of(self, before: Terms) -> Result<Terms, Refusal> {
        Ok(Terms {
            tools: self.tools.unwrap_or(before.tools),
            models: self.models.unwrap_or(before.models),
            min_cost: self.min_cost.unwrap_or(before.min_cost),
            budget: self.budget.or(before.budget),
            period: self.period.unwrap_or(before.period),
            overdraft: self.overdraft.of(before.overdraft)?,
            calls_per_minute: self.calls_per_minute.or(before.calls_per_minute),
            loop_threshold: self.loop_threshold.unwrap_or(before.loop_threshold),
            loop_window_secs: self.loop_window_secs.unwrap_or(before.loop_window_secs),
        })
    }
}

/// What changes in a policy; absent stays.
#[derive(Debug, Clone, Default)]
pub struct PolicyPatch {
    /// Name.
    pub name: Option<String>,
    /// Must be what it is.
    pub policy_type: Option<PolicyType>,
    /// Priority.
    pub priority: Option<i32>,
    /// Action.
    pub action: Option<PolicyAction>,
    /// Conditions and figures.
    pub terms: TermsPatch,
    /// On or off.
    pub is_active: Option<bool>,
    /// Only noted, or in force.
    pub shadow: Option<bool>,
}

/// May a policy say this, in the place of `before` or as one more? What it says is looked at first:
/// one that is wrong is told so in any plan.
pub(super) fn admit(
    desk: Desk<'_>,
    org: &OrgEntry,
    id: PolicyId,
    before: Option<&Compiled>,
    draft: &PolicyDraft,
) -> Result<(), Refusal> {
    check_draft(desk.directory, org.id, id, draft)?;
    room(desk, org, before, draft)?;
    features(desk, org, before, draft)
}

fn check_draft(
    directory: &Directory,
    org: OrgId,
    id: PolicyId,
    draft: &PolicyDraft,
) -> Result<(), Refusal> {
    let others = || {
        let all = directory.org(org).into_iter();
        let all = all.flat_map(|org| org.rules.all());
        all.filter(|policy| policy.id != id)
    };
    let globs = others().flat_map(|policy| policy.tools.iter().chain(&policy.models));
    check_patterns(&draft.terms, globs.map(Glob::alternatives).sum())?;
    let observers = others().filter(|policy| policy.only_observes()).count();
    let observes = draft.shadow || draft.action == PolicyAction::Flag;
    if observes {
        let most = limits::OBSERVERS;
        let sentence = format!(
            "an organization may have {most} policies that only flag or stand in the shadow; enforce \
             or delete one first"
        );
        bound("observer_limit_reached", observers, most, &sentence)?;
    }
    check_alone(directory, org, draft)
}

/// What is checked of a policy whatever others there are.
fn check_alone(directory: &Directory, org: OrgId, draft: &PolicyDraft) -> Result<(), Refusal> {
    bounded("name", &draft.name, limits::POLICY_NAME_BYTES)?;
    match (draft.scope, draft.scope_id) {
        (Scope::Org, None) => {}
        (Scope::Org, Some(_)) => {
            return Err(invalid(
                "scope_id",
                "a policy of the org has no scope_id".to_owned(),
            ));
        }
        (Scope::Workflow | Scope::ApiKey, None) => {
            return Err(invalid(
                "scope_id",
                "scope_id must name the workflow or key".to_owned(),
            ));
        }
        (Scope::Workflow, Some(id)) => {
            directory
                .workflow(org, WorkflowId(id))
                .ok_or(Refusal::NotFound("workflow"))?;
        }
        (Scope::ApiKey, Some(id)) => {
            directory
                .key(KeyId(id))
                .filter(|key| key.org == org)
                .ok_or(Refusal::NotFound("key"))?;
        }
    }
    if draft.action == PolicyAction::RequireApproval {
        return Err(invalid(
            "action",
            "require_approval is not available yet; use block".to_owned(),
        ));
    }
    let terms = &draft.terms;
    budget("config.budget_cents", terms.budget)?;
    overdraft(
        ["config.max_overdraft_cents", "config.max_overdraft_percent"],
        terms.overdraft,
    )?;
    budget("match.min_cost_cents", terms.min_cost)?;
    let missing = |field, what: &str| Err(invalid(field, what.to_owned()));
    match draft.policy_type {
        PolicyType::ToolBlock if terms.tools.is_empty() => missing(
            "config.tool_pattern",
            "config.tool_pattern must list at least one pattern",
        ),
        PolicyType::BudgetLimit if terms.budget.is_none() => missing(
            "config.budget_cents",
            "config.budget_cents is needed: a number of cents, 0 for none at all",
        ),
        PolicyType::RateLimit => match terms.calls_per_minute {
            Some(1..=limits::CALLS_PER_MINUTE) => Ok(()),
            _ => Err(invalid(
                "config.max_calls_per_minute",
                format!(
                    "config.max_calls_per_minute must be 1 to {}",
                    limits::CALLS_PER_MINUTE
                ),
            )),
        },
        PolicyType::LoopDetection => {
            within(
                "config.loop_threshold",
                terms.loop_threshold,
                limits::LOOP_THRESHOLD_RANGE,
            )?;
            within(
                "config.loop_window_secs",
                terms.loop_window_secs,
                limits::LOOP_WINDOW_RANGE,
            )
        }
        PolicyType::ToolBlock | PolicyType::BudgetLimit => Ok(()),
    }
}

/// Policies that are only tried: checked like others, but for the plan's room. The error says which
/// one is wrong.
pub fn draft_rules(
    directory: &Directory,
    org: OrgId,
    drafts: &[PolicyDraft],
    now: Millis,
) -> Result<Rules, (usize, Refusal)> {
    let (mut patterns, mut observers) = (0, 0);
    let mut all = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts.iter().enumerate() {
        let wrong = |refusal| (at, refusal);
        check_patterns(&draft.terms, patterns).map_err(wrong)?;
        check_alone(directory, org, draft).map_err(wrong)?;
        patterns += draft.terms.patterns();
        let observes = draft.shadow || draft.action == PolicyAction::Flag;
        observers += usize::from(observes);
        if observers > limits::OBSERVERS || at >= limits::POLICIES {
            let (most, observing) = (limits::POLICIES, limits::OBSERVERS);
            let why = format!(
                "policies takes {most}, of which {observing} may only flag or stand in the shadow"
            );
            return Err(wrong(invalid("policies", why)));
        }
        let id = PolicyId(at as u128);
        let record = policy_record(org, id, draft, 1, now, now);
        all.push(Arc::new(Compiled::from_record(&record)));
    }
    Ok(Rules::of(all))
}

fn check_patterns(terms: &Terms, others: usize) -> Result<(), Refusal> {
    let texts = || terms.tools.iter().chain(&terms.models);
    let patterns = terms.patterns();
    let bytes: usize = texts().map(String::len).sum();
    let too_many = |what: String| Refusal::Invalid {
        code: "invalid_pattern_list",
        field: "config",
        message: what,
    };
    if patterns > limits::PATTERNS || bytes > limits::POLICY_PATTERN_BYTES {
        return Err(too_many(format!(
            "the patterns of a policy may be {} in number, alternatives counted singly, and {} bytes \
             in all; these are {patterns} with {bytes} bytes",
            limits::PATTERNS,
            limits::POLICY_PATTERN_BYTES
        )));
    }
    if others + patterns > limits::ORG_PATTERNS {
        return Err(too_many(format!(
            "all policies of an organization may have {} patterns; there are {others} already",
            limits::ORG_PATTERNS
        )));
    }
    Ok(())
}

pub(super) fn patched(before: &Compiled, patch: &PolicyPatch) -> Result<PolicyDraft, Refusal> {
    if patch
        .policy_type
        .is_some_and(|kind| kind != before.policy_type)
    {
        return Err(Refusal::Invalid {
            code: "policy_type_immutable",
            field: "policy_type",
            message: "a policy keeps its type; delete it and create another".to_owned(),
        });
    }
    Ok(PolicyDraft {
        name: patch
            .name
            .clone()
            .unwrap_or_else(|| before.name.to_string()),
        policy_type: before.policy_type,
        scope: before.scope,
        scope_id: before.scope_id,
        priority: patch.priority.unwrap_or(before.priority),
        action: patch.action.unwrap_or(before.action),
        terms: patch.terms.clone().of(Terms::of(before))?,
        is_active: patch.is_active.unwrap_or(before.is_active),
        shadow: patch.shadow.unwrap_or(before.shadow),
        template: before.template.as_deref().map(str::to_owned),
    })
}

/// The record of a changed policy; none if it says what it said before.
pub(super) fn changed<'a>(
    org: OrgId,
    before: &Compiled,
    draft: &'a PolicyDraft,
    now: Millis,
) -> Option<Policy<'a>> {
    let of = |version, updated_at| {
        policy_record(
            org,
            before.id,
            draft,
            version,
            before.created_at,
            updated_at,
        )
    };
    let same = of(before.version, before.updated_at) == before.to_record(org);
    (!same).then(|| of(before.version + 1, now))
}

pub(super) fn policy_record(
    org: OrgId,
    id: PolicyId,
    draft: &PolicyDraft,
    version: u64,
    created_at: Millis,
    updated_at: Millis,
) -> Policy<'_> {
    Policy {
        id,
        org,
        name: &draft.name,
        policy_type: draft.policy_type,
        scope: draft.scope,
        scope_id: draft.scope_id,
        priority: draft.priority,
        action: draft.action,
        tools: draft.terms.tools.iter().map(String::as_str).collect(),
        models: draft.terms.models.iter().map(String::as_str).collect(),
        min_cost: draft.terms.min_cost,
        budget: draft.terms.budget,
        period: draft.terms.period,
        overdraft: draft.terms.overdraft,
        calls_per_minute: draft.terms.calls_per_minute,
        loop_threshold: draft.terms.loop_threshold,
        loop_window_secs: draft.terms.loop_window_secs,
        is_active: draft.is_active,
        shadow: draft.shadow,
        template: draft.template.as_deref(),
        version,
        created_at,
        updated_at,
    }
}

/// Has the org room for one more policy, or for one more that asks a person?
fn room(
    desk: Desk<'_>,
    org: &OrgEntry,
    before: Option<&Compiled>,
    draft: &PolicyDraft,
) -> Result<(), Refusal> {
    let plan = &desk.plans.of(&org.plan).limits;
    if before.is_none() {
        let (there, most) = (org.rules.all().len(), limits::POLICIES);
        let sentence = format!("an organization may have {most} policies; delete one first");
        bound("policy_bound_reached", there, most, &sentence)?;
        check::room("policy_limit_reached", "policies", there, plan.policies)?;
    }
    let asks = |action| action == PolicyAction::RequireApproval;
    if !asks(draft.action) || before.is_some_and(|before| asks(before.action)) {
        return Ok(());
    }
    check::room(
        "approval_rule_limit_reached",
        "approval_rules",
        usage::approval_rules(org),
        plan.approval_rules,
    )
}

/// Has the org's plan what this policy needs? It is asked however a policy comes to be, and however
/// more of it comes to be in force.
pub(super) fn features(
    desk: Desk<'_>,
    org: &OrgEntry,
    before: Option<&Compiled>,
    draft: &PolicyDraft,
) -> Result<(), Refusal> {
    if before.is_some_and(|before| !enforces_more(before, draft)) {
        return Ok(());
    }
    if draft.action == PolicyAction::RequireApproval {
        desk.needs(org, Feature::Approvals)?;
    }
    if draft.policy_type == PolicyType::ToolBlock {
        desk.needs(org, Feature::CustomPolicies)?;
    }
    Ok(())
}

/// Is more in force than before? What is there may be edited, eased and switched off in any plan; to
/// switch it on, take it out of the shadow or let it refuse is as much as making it. While it is off
/// nothing is in force, and nothing is asked.
fn enforces_more(before: &Compiled, draft: &PolicyDraft) -> bool {
    let refuses = draft.action > PolicyAction::Flag;
    draft.is_active
        && (!before.is_active
            || (before.shadow && !draft.shadow)
            || (refuses && draft.action != before.action))
}
