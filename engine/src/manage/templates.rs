//! Policies that many want, ready to be enabled. One that is enabled is a policy like any other,
//! which remembers its template.

use super::policies::{PolicyDraft, Terms};
use super::{Refusal, check};
use crate::directory::OrgEntry;
use crate::rules::Compiled;
use persist::Nanos;
use persist::record::{PeriodKind, PolicyAction, PolicyType, Scope};
use std::sync::Arc;

/// A policy that can be enabled.
#[derive(Debug)]
pub struct Template {
    /// Id.
    pub id: &'static str,
    /// The name of its policy.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// What it decides about.
    pub policy_type: PolicyType,
    /// It is for one workflow, which who enables it names; otherwise for the whole org unless they
    /// say more.
    pub needs_workflow: bool,
    tools: &'static [&'static str],
    budget_cents: Option<i64>,
    calls_per_minute: Option<u32>,
    repeats: Option<(u32, u32)>,
}

impl Template {
    const fn new(
        id: &'static str,
        name: &'static str,
        description: &'static str,
        policy_type: PolicyType,
    ) -> Self {
        Self {
            id,
            name,
            description,
            policy_type,
            needs_workflow: false,
            tools: &[],
            budget_cents: None,
            calls_per_minute: None,
            repeats: None,
        }
    }

    /// Its conditions and figures.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            tools: self.tools.iter().map(|tool| (*tool).to_owned()).collect(),
            budget: self.budget_cents.map(Nanos::from_cents),
            period: PeriodKind::Day,
            calls_per_minute: self.calls_per_minute,
            loop_threshold: self.repeats.map(|(calls, _)| calls),
            loop_window_secs: self.repeats.map(|(_, secs)| secs),
            ..Terms::default()
        }
    }

    /// The template of that id.
    #[must_use]
    pub fn find(id: &str) -> Option<&'static Self> {
        CATALOG.iter().find(|template| template.id == id)
    }

    /// The policy it is enabled as.
    #[must_use]
    pub fn enabled_in<'a>(&self, org: &'a OrgEntry) -> Option<&'a Arc<Compiled>> {
        let mut all = org.rules.all().iter();
        all.find(|policy| policy.template.as_deref() == Some(self.id))
    }
}

/// Every template.
pub static CATALOG: [Template; 7] = [
    Template {
        tools: &["send_*"],
        ..Template::new(
            "permissive",
            "Permissive",
            "A first rule: everything may run but tools that send something to somebody.",
            PolicyType::ToolBlock,
        )
    },
    Template {
        tools: &[
            "write_*",
            "delete_*",
            "drop_*",
            "update_*",
            "insert_*",
            "truncate_*",
            "*.write",
            "*.delete",
            "*.drop",
            "*.update",
            "*.insert",
            "*.truncate",
            "*.put",
            "*.post",
        ],
        ..Template::new(
            "block-write-tools",
            "Block write tools",
            "Tools that write, change or delete something are refused.",
            PolicyType::ToolBlock,
        )
    },
    Template {
        tools: &[
            "stripe.*",
            "paypal.*",
            "payment*",
            "charge_*",
            "refund_*",
            "*.charge",
            "*.refund",
            "*.payout",
            "*.transfer",
        ],
        ..Template::new(
            "block-payments",
            "Block payments",
            "Tools that move money are refused.",
            PolicyType::ToolBlock,
        )
    },
    Template {
        calls_per_minute: Some(100),
        needs_workflow: true,
        ..Template::new(
            "cap-workflow-rate",
            "100 calls a minute",
            "A workflow may make 100 calls a minute.",
            PolicyType::RateLimit,
        )
    },
    Template {
        calls_per_minute: Some(1000),
        ..Template::new(
            "cap-organization-rate",
            "1,000 calls a minute",
            "All workflows together may make 1,000 calls a minute.",
            PolicyType::RateLimit,
        )
    },
    Template {
        repeats: Some((6, 60)),
        ..Template::new(
            "loop-guard",
            "Loop guard",
            "A workflow that calls the same tool six times within a minute is stopped.",
            PolicyType::LoopDetection,
        )
    },
    Template {
        budget_cents: Some(500),
        ..Template::new(
            "dev-daily-spend",
            "Development: $5 a day",
            "No more than $5 a day, for a start.",
            PolicyType::BudgetLimit,
        )
    },
];

/// What who enables a template says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateTerms {
    /// For the whole org, or for one workflow or key.
    pub scope: Option<(Scope, Option<u128>)>,
    /// Only noted, or in force.
    pub shadow: Option<bool>,
}

/// The policy to be made of a template; none if it is there already.
pub(super) fn enable(
    org: &OrgEntry,
    id: &str,
    said: TemplateTerms,
) -> Result<Option<PolicyDraft>, Refusal> {
    let template = Template::find(id).ok_or(Refusal::NotFound("template"))?;
    if let Some(there) = template.enabled_in(org) {
        let place = (there.scope, there.scope_id);
        let same = said.scope.is_none_or(|scope| scope == place)
            && said.shadow.is_none_or(|shadow| shadow == there.shadow);
        if same {
            return Ok(None);
        }
        return Err(Refusal::Conflict {
            code: "template_already_enabled",
            message: format!(
                "the template is enabled as the policy {} on other terms; change that policy, or \
                 disable the template first",
                there.id
            ),
        });
    }
    let (scope, scope_id) = said.scope.unwrap_or((Scope::Org, None));
    if template.needs_workflow && scope != Scope::Workflow {
        return Err(check::invalid(
            "workflow_id",
            "this template is for one workflow: name it in workflow_id".to_owned(),
        ));
    }
    Ok(Some(PolicyDraft {
        name: template.name.to_owned(),
        policy_type: template.policy_type,
        scope,
        scope_id,
        priority: super::policies::PRIORITY,
        action: PolicyAction::Block,
        terms: template.terms(),
        is_active: true,
        shadow: said.shadow.unwrap_or(false),
        template: Some(template.id.to_owned()),
    }))
}
