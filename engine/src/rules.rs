//! Policies, compiled, and which of them answers.
//!
//! Within each scope and question the first active match by priority, then age, answers
//! (`Composition::FirstMatch`); or all matches together, the strictest winning
//! (`Composition::MostRestrictive`). Every scope is asked, and all must pass.

use crate::glob::Glob;
use hashbrown::HashMap;
use persist::record::{Composition, Policy, PolicyAction, PolicyType, Scope};
use persist::{KeyId, Nanos, PolicyId, WorkflowId};
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
    /// RateLimit: calls per minute.
    pub calls_per_minute: Option<u32>,
    /// LoopDetection: calls.
    pub loop_threshold: Option<u32>,
    /// LoopDetection: seconds.
    pub loop_window_secs: Option<u32>,
    /// Off policies answer nothing.
    pub is_active: bool,
    /// Grows with each change.
    pub version: u64,
    /// When made.
    pub created_at: persist::Millis,
    /// When last changed.
    pub updated_at: persist::Millis,
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
        Self {
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
            calls_per_minute: policy.calls_per_minute,
            loop_threshold: policy.loop_threshold,
            loop_window_secs: policy.loop_window_secs,
            is_active: policy.is_active,
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
            calls_per_minute: self.calls_per_minute,
            loop_threshold: self.loop_threshold,
            loop_window_secs: self.loop_window_secs,
            is_active: self.is_active,
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

    fn matches_call(&self, call: &Described<'_>) -> bool {
        let model = self.models.is_empty()
            || call
                .model
                .is_some_and(|model| self.models.iter().any(|glob| glob.matches(model)));
        let cost = self.min_cost.is_none_or(|min| call.projected >= min);
        // A tool pattern on another question narrows it to calls that name such a tool.
        let tool = self.policy_type == PolicyType::ToolBlock
            || self.tools.is_empty()
            || call
                .tools
                .iter()
                .any(|tool| self.matches_tool(tool).is_some());
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

    fn of(mut all: Vec<Arc<Compiled>>) -> Self {
        all.sort_by_key(|policy| (policy.priority, policy.created_at, policy.id));
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for policy in all.iter().filter(|policy| policy.is_active) {
            index
                .entry((policy.policy_type, policy.scope, policy.scope_id))
                .or_default()
                .push(Arc::clone(policy));
        }
        Self { all, index }
    }

    /// The active policies of one question and scope that concern a call, in order.
    fn asked(&self, question: PolicyType, scope: Scope, call: &Described<'_>) -> &[Arc<Compiled>] {
        let subject = match scope {
            Scope::Org => None,
            Scope::Workflow => Some(call.workflow.0),
            Scope::ApiKey => Some(call.key.0),
        };
        self.index
            .get(&(question, scope, subject))
            .map_or(&[], Vec::as_slice)
    }

    /// Is any rule about tools in force for this call?
    #[must_use]
    pub fn has_tool_rules(&self, call: &Described<'_>) -> bool {
        SCOPES
            .iter()
            .any(|scope| !self.asked(PolicyType::ToolBlock, *scope, call).is_empty())
    }

    /// The first rule about tools in force, for a call that names none.
    #[must_use]
    pub fn first_tool_rule(&self, call: &Described<'_>) -> Option<&Arc<Compiled>> {
        SCOPES
            .iter()
            .find_map(|scope| self.asked(PolicyType::ToolBlock, *scope, call).first())
    }

    /// The tool that may not run, if there is one: each tool is decided alone, any block blocks.
    #[must_use]
    pub fn blocked_tool(&self, composition: Composition, call: &Described<'_>) -> Option<ToolHit> {
        for scope in SCOPES {
            let asked = self.asked(PolicyType::ToolBlock, scope, call);
            for tool in call.tools {
                let matching = asked
                    .iter()
                    .filter(|policy| policy.matches_call(call))
                    .filter_map(|policy| {
                        policy.matches_tool(tool).map(|pattern| (policy, pattern))
                    });
                let hit = match composition {
                    Composition::FirstMatch => { matching }.next(),
                    // The first of the strictest: `max_by_key` would keep the last.
                    Composition::MostRestrictive => {
                        matching.min_by_key(|(policy, _)| std::cmp::Reverse(policy.action))
                    }
                };
                if let Some((policy, pattern)) = hit
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

    /// The cap that policies set on a scope for this call.
    #[must_use]
    pub fn budget(
        &self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> Option<(Nanos, &Arc<Compiled>)> {
        self.smallest(
            PolicyType::BudgetLimit,
            composition,
            scope,
            call,
            |policy| policy.budget,
        )
    }

    /// The rate that policies set on a scope for this call, in calls per minute.
    #[must_use]
    pub fn rate(
        &self,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
    ) -> Option<(u32, &Arc<Compiled>)> {
        self.smallest(PolicyType::RateLimit, composition, scope, call, |p| {
            p.calls_per_minute
        })
    }

    fn smallest<T: Copy + Ord>(
        &self,
        question: PolicyType,
        composition: Composition,
        scope: Scope,
        call: &Described<'_>,
        value: impl Fn(&Compiled) -> Option<T>,
    ) -> Option<(T, &Arc<Compiled>)> {
        let mut matching = self
            .asked(question, scope, call)
            .iter()
            .filter(|policy| policy.matches_call(call));
        // An allow or a flag ends the question without a limit.
        let limit = |policy: &'_ Arc<Compiled>| {
            let limits = policy.action > PolicyAction::Flag;
            limits.then(|| value(policy)).flatten()
        };
        match composition {
            Composition::FirstMatch => matching.next().and_then(|p| limit(p).map(|v| (v, p))),
            Composition::MostRestrictive => matching
                .filter_map(|p| limit(p).map(|v| (v, p)))
                .min_by_key(|(v, p)| (*v, p.priority, p.created_at, p.id)),
        }
    }
}

/// The scopes in the order they are asked.
pub const SCOPES: [Scope; 3] = [Scope::Org, Scope::Workflow, Scope::ApiKey];
