//! Policies, compiled, and which of them answers.
//!
//! Within each scope and question the first active match by priority, then age, answers
//! (`Composition::FirstMatch`); or all matches together, the strictest winning
//! (`Composition::MostRestrictive`). Every scope is asked, and all must pass.
//!
//! A policy in the shadow decides nothing. It is asked as if it alone were in force beside those
//! that are, and what it says is noted; so is what a policy says that only flags.

mod look;

pub use look::{Looked, QUESTIONS, Standing};

use crate::glob::Glob;
use crate::limits;
use crate::meter::Rate;
use hashbrown::HashMap;
use persist::record::{
    Composition, Overdraft, PeriodKind, Policy, PolicyAction, PolicyType, Scope,
};
use persist::{KeyId, Millis, Nanos, PolicyId, WorkflowId};
use smallvec::SmallVec;
use std::sync::Arc;

/// A policy ready to be asked.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Id.
    pub id: PolicyId,
    /// Name.
    pub name: Box<str>,
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
    /// Tool patterns.
    pub tools: Vec<Glob>,
    /// Model patterns; any model when empty.
    pub models: Vec<Glob>,
    /// Matches only calls projected to cost at least this.
    pub min_cost: Option<Nanos>,
    /// BudgetLimit: the cap.
    pub budget: Option<Nanos>,
    /// BudgetLimit: its period.
    pub period: PeriodKind,
    /// BudgetLimit: a soft cap.
    pub overdraft: Option<Overdraft>,
    /// RateLimit: calls per minute.
    pub calls_per_minute: Option<u32>,
    /// LoopDetection: calls.
    pub loop_threshold: Option<u32>,
    /// LoopDetection: seconds.
    pub loop_window_secs: Option<u32>,
    /// Off policies answer nothing.
    pub is_active: bool,
    /// Asked like the others, but its answer is only noted.
    pub shadow: bool,
    /// The template it was made from.
    pub template: Option<Box<str>>,
    /// Grows with each change.
    pub version: u64,
    /// When made.
    pub created_at: persist::Millis,
    /// When last changed.
    pub updated_at: persist::Millis,
    /// RateLimit that only has something to say: the calls it let pass, apart from those that are
    /// counted for limits in force. All shards share it; with each change it begins anew.
    pub calls: Option<Arc<Rate>>,
}

impl Compiled {
    /// Compiles a stored policy. Patterns were checked when it was made; one that no longer
    /// compiles matches everything rather than nothing.
    #[must_use]
    pub fn from_record(policy: &Policy<'_>) -> Self {
        let globs = |patterns: &[&str]| {
            patterns
                .iter()
                .filter_map(|text| Glob::new(text).or_else(|_| Glob::new("*")).ok())
                .collect()
        };
        let watches = policy.shadow || policy.action == PolicyAction::Flag;
        Self {
            calls: (policy.policy_type == PolicyType::RateLimit && watches).then(Arc::default),
            id: policy.id,
            name: policy.name.into(),
            policy_type: policy.policy_type,
            scope: policy.scope,
            scope_id: policy.scope_id,
            priority: policy.priority,
            action: policy.action,
            tools: globs(&policy.tools),
            models: globs(&policy.models),
            min_cost: policy.min_cost,
            budget: policy.budget,
            period: policy.period,
            overdraft: policy.overdraft,
            calls_per_minute: policy.calls_per_minute,
            loop_threshold: policy.loop_threshold,
            loop_window_secs: policy.loop_window_secs,
            is_active: policy.is_active,
            shadow: policy.shadow,
            template: policy.template.map(Into::into),
            version: policy.version,
            created_at: policy.created_at,
            updated_at: policy.updated_at,
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_record(&self, org: persist::OrgId) -> Policy<'_> {
        Policy {
            id: self.id,
            org,
            name: &self.name,
            policy_type: self.policy_type,
            scope: self.scope,
            scope_id: self.scope_id,
            priority: self.priority,
            action: self.action,
            tools: self.tools.iter().map(Glob::text).collect(),
            models: self.models.iter().map(Glob::text).collect(),
            min_cost: self.min_cost,
            budget: self.budget,
            period: self.period,
            overdraft: self.overdraft,
            calls_per_minute: self.calls_per_minute,
            loop_threshold: self.loop_threshold,
            loop_window_secs: self.loop_window_secs,
            is_active: self.is_active,
            shadow: self.shadow,
            template: self.template.as_deref(),
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    /// Which pattern, if any, matches a tool.
    fn matches_tool(&self, lower: &str) -> Option<&str> {
        self.tools
            .iter()
            .find(|glob| glob.matches(lower))
            .map(Glob::text)
    }

    /// Does one of its patterns name the tool?
    #[must_use]
    pub fn names(&self, lower: &str) -> bool {
        self.matches_tool(lower).is_some()
    }

    /// Is this policy about the tool? One without tool patterns is about all.
    #[must_use]
    pub fn is_about(&self, lower: &str) -> bool {
        self.tools.is_empty() || self.names(lower)
    }

    /// LoopDetection: calls of one tool, and within how many seconds.
    #[must_use]
    pub fn repeats(&self) -> (u32, u32) {
        let threshold = self.loop_threshold.unwrap_or(limits::LOOP_THRESHOLD);
        let window = self.loop_window_secs.unwrap_or(limits::LOOP_WINDOW_SECS);
        (threshold, window)
    }

    /// It decides nothing, and what it says is noted.
    #[must_use]
    pub fn only_observes(&self) -> bool {
        self.shadow || self.action == PolicyAction::Flag
    }

    fn matches_call(&self, call: &Described<'_>) -> bool {
        let model = self.models.is_empty()
            || call
                .model
                .is_some_and(|model| self.models.iter().any(|glob| glob.matches(model)));
        let cost = self.min_cost.is_none_or(|min| call.projected >= min);
        // A tool pattern on another question narrows it to calls that name such a tool.
        let tool = self.policy_type == PolicyType::ToolBlock
            || self.tools.is_empty()
            || call.tools.iter().any(|tool| self.is_about(tool));
        model && cost && tool
    }
}

/// What a policy may look at, names in lower case.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The key.
    pub key: KeyId,
    /// The tools it names.
    pub tools: &'a [String],
    /// The model it names.
    pub model: Option<&'a str>,
    /// What it may cost.
    pub projected: Nanos,
}

impl Described<'_> {
    /// A call that meets no condition: it names nothing and costs nothing.
    #[must_use]
    pub const fn plain(workflow: WorkflowId, key: KeyId) -> Self {
        Self {
            workflow,
            key,
            tools: &[],
            model: None,
            projected: Nanos::ZERO,
        }
    }
}

/// A blocked tool.
#[derive(Debug, Clone)]
pub struct ToolHit {
    /// The policy that blocks.
    pub policy: Arc<Compiled>,
    /// The tool.
    pub tool: String,
    /// The pattern.
    pub pattern: String,
}

/// All policies of one org.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Every policy in the order it is asked.
    all: Vec<Arc<Compiled>>,
    /// Active ones by question, scope and subject, in that order.
    index: HashMap<(PolicyType, Scope, Option<u128>), Vec<Arc<Compiled>>>,
    /// Some of them only have something to say.
    observes: bool,
}

impl Rules {
    /// Every policy, active or not, in the order it is asked.
    #[must_use]
    pub fn all(&self) -> &[Arc<Compiled>] {
        &self.all
    }

    /// One policy.
    #[must_use]
    pub fn get(&self, id: PolicyId) -> Option<&Arc<Compiled>> {
        self.all.iter().find(|policy| policy.id == id)
    }

    /// These rules with one policy added or replaced.
    #[must_use]
    pub fn with(&self, policy: Compiled) -> Self {
        let mut all: Vec<_> = self
            .all
            .iter()
            .filter(|p| p.id != policy.id)
            .cloned()
            .collect();
        all.push(Arc::new(policy));
        Self::of(all)
    }

    /// These rules without one policy.
    #[must_use]
    pub fn without(&self, id: PolicyId) -> Self {
        Self::of(self.all.iter().filter(|p| p.id != id).cloned().collect())
    }

    /// The same rules, whose meters count for nobody else; with so many calls in them, if `calls` says.
    #[must_use]
    pub fn apart(&self, now: Millis, calls: Option<u32>) -> Self {
        let apart = |policy: &Arc<Compiled>| match &policy.calls {
            None => Arc::clone(policy),
            Some(counted) => {
                let copied = || Rate::clone(counted);
                let calls = calls.map_or_else(copied, |calls| Rate::of(now, calls));
                Arc::new(Compiled {
                    calls: Some(Arc::new(calls)),
                    ..Compiled::clone(policy)
                })
            }
        };
        Self::of(self.all.iter().map(apart).collect())
    }

    /// Rules of these policies.
    #[must_use]
    pub fn of(mut all: Vec<Arc<Compiled>>) -> Self {
        all.sort_by_key(|policy| (policy.priority, policy.created_at, policy.id));
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for policy in all.iter().filter(|policy| policy.is_active) {
            index
                .entry((policy.policy_type, policy.scope, policy.scope_id))
                .or_default()
                .push(Arc::clone(policy));
        }
        let observes = all
            .iter()
            .any(|policy| policy.is_active && policy.only_observes());
        Self {
            all,
            index,
            observes,
        }
    }

    /// Are there policies that only have something to say?
    #[must_use]
    pub const fn observes(&self) -> bool {
        self.observes
    }

    /// The active policies of one question and scope that concern a call, in order; those in the
    /// shadow too.
    fn listed(&self, question: PolicyType, scope: Scope, call: &Described<'_>) -> &[Arc<Compiled>] {
        let subject = match scope {
            Scope::Org => None,
            Scope::Workflow => Some(call.workflow.0),
            Scope::ApiKey => Some(call.key.0),
        };
        self.index
            .get(&(question, scope, subject))
            .map_or(&[], Vec::as_slice)
    }

    /// Those of them that are in force.
    fn asked(
        &self,
        question: PolicyType,
        scope: Scope,
        call: &Described<'_>,
    ) -> impl Iterator<Item = &Arc<Compiled>> {
        let listed = self.listed(question, scope, call).iter();
        listed.filter(|policy| !policy.shadow)
    }

    /// The policies of a question and scope that only have something to say of a call, and would be
    /// heard: with first match, nothing in force answers before them. Rules about tools are asked
    /// tool by tool, in [`Rules::tool_observers`].
    pub fn observers<'a>(
        &'a self,
        composition: Composition,
        question: PolicyType,
        scope: Scope,
        call: &Described<'_>,
    ) -> impl Iterator<Item = &'a Arc<Compiled>> {
        let listed = self.listed(question, scope, call).iter();
        let mut answered = false;
        listed
            .filter(move |policy| policy.matches_call(call))
            .take_while(move |policy| {
                let heard = !answered;
                answered |= composition == Composition::FirstMatch && !policy.shadow;
                heard
            })
            .filter(|policy| policy.only_observes())
    }

    /// The rules about tools of a scope that only have something to say of one of the call's, each
    /// once. What a rule in the shadow has said of one tool it is not asked again of the next.
    #[must_use]
    pub fn tool_observers<'a>(
        &'a self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> SmallVec<[&'a Arc<Compiled>; 4]> {
        let mut heard: SmallVec<[&'a Arc<Compiled>; 4]> = SmallVec::new();
        if !self.observes {
            return heard;
        }
        let listed = self.listed(PolicyType::ToolBlock, scope, call).iter();
        let met: SmallVec<[_; 8]> = listed.filter(|policy| policy.matches_call(call)).collect();
        for tool in call.tools {
            for policy in met.iter().copied() {
                let known = heard.iter().any(|one| one.id == policy.id);
                if (known && policy.shadow) || !policy.names(tool) {
                    continue;
                }
                if policy.only_observes() && !known {
                    heard.push(policy);
                }
                if composition == Composition::FirstMatch && !policy.shadow {
                    break;
                }
            }
        }
        heard
    }

    /// The rules about tools in the shadow: in force they would refuse a call that names none.
    pub fn tool_rules_in_shadow(
        &self,
        call: &Described<'_>,
    ) -> impl Iterator<Item = &Arc<Compiled>> {
        let listed = SCOPES
            .iter()
            .flat_map(|scope| self.listed(PolicyType::ToolBlock, *scope, call));
        listed.filter(|policy| policy.shadow)
    }

    /// The first rule about tools in force, for a call that names none.
    #[must_use]
    pub fn first_tool_rule(&self, call: &Described<'_>) -> Option<&Arc<Compiled>> {
        SCOPES
            .iter()
            .find_map(|scope| self.asked(PolicyType::ToolBlock, *scope, call).next())
    }

    /// The tool that may not run, if there is one: each tool is decided alone, any block blocks.
    #[must_use]
    pub fn blocked_tool(&self, composition: Composition, call: &Described<'_>) -> Option<ToolHit> {
        for scope in SCOPES {
            for tool in call.tools {
                if let Some((policy, pattern)) = self.tool_answer(composition, scope, call, tool)
                    && policy.action == PolicyAction::Block
                {
                    return Some(ToolHit {
                        policy: Arc::clone(policy),
                        tool: tool.clone(),
                        pattern: pattern.to_owned(),
                    });
                }
            }
        }
        None
    }

    /// The policy that answers for a tool in a scope, with the pattern that matches it.
    fn tool_answer<'a>(
        &'a self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
        tool: &str,
    ) -> Option<(&'a Arc<Compiled>, &'a str)> {
        let mut matching = self
            .matching(PolicyType::ToolBlock, scope, call)
            .filter_map(|policy| policy.matches_tool(tool).map(|pattern| (policy, pattern)));
        match composition {
            Composition::FirstMatch => matching.next(),
            // The first of the strictest: `max_by_key` would keep the last.
            Composition::MostRestrictive => {
                matching.min_by_key(|(policy, _)| std::cmp::Reverse(policy.action))
            }
        }
    }

    /// The caps that policies set on a scope for this call. With first-match there is one at most;
    /// else all that match apply, which is what "the strictest" means where each has a period of its
    /// own.
    pub fn budgets(
        &self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> impl Iterator<Item = (Nanos, &Arc<Compiled>)> {
        let most = match composition {
            Composition::FirstMatch => 1,
            Composition::MostRestrictive => usize::MAX,
        };
        self.matching(PolicyType::BudgetLimit, scope, call)
            .take(most)
            .filter(|policy| sets_a_limit(policy))
            .filter_map(|policy| Some((policy.budget?, policy)))
    }

    /// What the rules say about repeated tools in a scope: threshold and window in seconds.
    #[must_use]
    pub fn repeats(
        &self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> Option<(u32, u32, &Arc<Compiled>)> {
        let mut matching = self.matching(PolicyType::LoopDetection, scope, call);
        let found = match composition {
            Composition::FirstMatch => matching.next(),
            // Blocks before flags; then the fewest calls, over the longest time.
            Composition::MostRestrictive => matching.min_by_key(|policy| {
                let (threshold, window) = policy.repeats();
                use std::cmp::Reverse;
                (Reverse(policy.action), threshold, Reverse(window))
            }),
        };
        let policy = found.filter(|policy| policy.action > PolicyAction::Allow)?;
        let (threshold, window) = policy.repeats();
        Some((threshold, window, policy))
    }

    /// The rate that policies set on a scope for this call, in calls per minute.
    #[must_use]
    pub fn rate(
        &self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> Option<(u32, &Arc<Compiled>)> {
        let mut matching = self.matching(PolicyType::RateLimit, scope, call);
        let limit = |policy: &'_ Arc<Compiled>| {
            let limit = policy.calls_per_minute;
            limit.filter(|_| sets_a_limit(policy))
        };
        match composition {
            Composition::FirstMatch => matching.next().and_then(|p| limit(p).map(|v| (v, p))),
            Composition::MostRestrictive => matching
                .filter_map(|p| limit(p).map(|v| (v, p)))
                .min_by_key(|(v, p)| (*v, p.priority, p.created_at, p.id)),
        }
    }

    fn matching(
        &self,
        question: PolicyType,
        scope: Scope,
        call: &Described<'_>,
    ) -> impl Iterator<Item = &Arc<Compiled>> {
        self.asked(question, scope, call)
            .filter(|policy| policy.matches_call(call))
    }
}

/// An allow or a flag ends the question without a limit.
fn sets_a_limit(policy: &Compiled) -> bool {
    policy.action > PolicyAction::Flag
}

/// The scopes in the order they are asked.
pub const SCOPES: [Scope; 3] = [Scope::Org, Scope::Workflow, Scope::ApiKey];
