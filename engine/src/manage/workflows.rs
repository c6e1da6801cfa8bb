//! Workflows: their settings, and what is checked about them.

use super::check::{bounded, budget, external_id, overdraft, text, within};
use super::{OverdraftPatch, Refusal, WatchPatch, check};
use crate::directory::{Directory, OrgEntry, WorkflowEntry};
use crate::limits;
use crate::plan::{Feature, Plan};
use persist::record::{LoopWatch, Overdraft, PeriodKind, Workflow};
use persist::{Millis, Nanos, OrgId, WorkflowId};

/// A workflow's settings.
#[derive(Debug, Clone)]
pub struct WorkflowSettings {
    /// Name.
    pub name: String,
    /// The operator's own id.
    pub external_id: Option<String>,
    /// Cap.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
    /// A soft cap: how far calls in a chain may go beyond it.
    pub overdraft: Option<Overdraft>,
    /// Cap on one call.
    pub max_per_call: Option<Nanos>,
    /// Cap on one chain.
    pub chain_cap: Option<Nanos>,
    /// The longest a chain may last, in seconds.
    pub chain_secs: u32,
    /// What it is for.
    pub description: String,
    /// Watches for the same tool again and again.
    pub watch: Option<LoopWatch>,
    /// May its calls wait for a person's approval? As the plan has it, where nobody says.
    pub approvals: Option<bool>,
}

impl WorkflowSettings {
    /// A workflow of that name and nothing else set.
    #[must_use]
    pub fn named(name: String) -> Self {
        Self {
            name,
            external_id: None,
            budget: None,
            period: PeriodKind::Month,
            overdraft: None,
            max_per_call: None,
            chain_cap: None,
            chain_secs: limits::CHAIN_SECS,
            description: String::new(),
            watch: None,
            approvals: None,
        }
    }
}

/// What changes in a workflow; absent stays.
#[derive(Debug, Clone, Default)]
pub struct WorkflowPatch {
    /// Name.
    pub name: Option<String>,
    /// The operator's own id; `Some(None)` takes it off.
    pub external_id: Option<Option<String>>,
    /// Cap; `Some(None)` takes it off.
    pub budget: Option<Option<Nanos>>,
    /// The period of that cap.
    pub period: Option<PeriodKind>,
    /// How hard it is.
    pub overdraft: OverdraftPatch,
    /// Cap on one call; `Some(None)` takes it off.
    pub max_per_call: Option<Option<Nanos>>,
    /// Cap on one chain; `Some(None)` takes it off.
    pub chain_cap: Option<Option<Nanos>>,
    /// The longest a chain may last, in seconds.
    pub chain_secs: Option<u32>,
    /// What it is for.
    pub description: Option<String>,
    /// Watches for the same tool again and again.
    pub watch: WatchPatch,
    /// May its calls wait for a person's approval?
    pub approvals: Option<bool>,
}

pub(super) fn check_workflow(
    directory: &Directory,
    org: OrgId,
    id: Option<WorkflowId>,
    settings: &WorkflowSettings,
) -> Result<(), Refusal> {
    directory
        .org(org)
        .ok_or(Refusal::NotFound("organization"))?;
    bounded("name", &settings.name, limits::WORKFLOW_NAME_BYTES)?;
    external_id(settings.external_id.as_deref())?;
    budget("budget_cents", settings.budget)?;
    budget("max_per_call_cents", settings.max_per_call)?;
    budget("chain_max_cents", settings.chain_cap)?;
    overdraft(
        ["max_overdraft_cents", "max_overdraft_percent"],
        settings.overdraft,
    )?;
    within(
        "max_chain_duration_seconds",
        Some(settings.chain_secs),
        limits::CHAIN_SECS_RANGE,
    )?;
    text(
        "description",
        &settings.description,
        limits::DESCRIPTION_BYTES,
    )?;
    within(
        "loop_threshold",
        settings.watch.map(|watch| watch.threshold),
        limits::LOOP_THRESHOLD_RANGE,
    )?;
    within(
        "loop_window_secs",
        settings.watch.map(|watch| watch.window_secs),
        limits::LOOP_WINDOW_RANGE,
    )?;
    if let Some(text) = &settings.external_id
        && let Some(other) = directory.resolve(org, text)
        && Some(other) != id
    {
        return Err(Refusal::Conflict {
            code: "external_id_taken",
            message: format!("the workflow {other} is or was known as {text}"),
        });
    }
    Ok(())
}

pub(super) fn patched(
    before: &WorkflowEntry,
    patch: &WorkflowPatch,
) -> Result<WorkflowSettings, Refusal> {
    Ok(WorkflowSettings {
        name: patch
            .name
            .clone()
            .unwrap_or_else(|| before.name.to_string()),
        external_id: patch
            .external_id
            .clone()
            .unwrap_or_else(|| before.rare().external_id.as_deref().map(str::to_owned)),
        budget: patch.budget.unwrap_or(before.budget()),
        period: patch.period.unwrap_or(before.period),
        overdraft: patch.overdraft.of(before.rare().overdraft)?,
        max_per_call: patch.max_per_call.unwrap_or(before.rare().max_per_call),
        chain_cap: patch.chain_cap.unwrap_or(before.rare().chain_cap),
        chain_secs: patch.chain_secs.unwrap_or(before.rare().chain_secs),
        description: patch.description.clone().unwrap_or_else(|| {
            before
                .rare()
                .description
                .as_deref()
                .unwrap_or_default()
                .to_owned()
        }),
        watch: patch.watch.of(before.rare().watch)?,
        approvals: Some(patch.approvals.unwrap_or(before.rare().approvals)),
    })
}

pub(super) fn workflow_record<'a>(
    org: OrgId,
    id: WorkflowId,
    settings: &'a WorkflowSettings,
    plan: &Plan,
    created_at: Millis,
    updated_at: Millis,
) -> Workflow<'a> {
    Workflow {
        id,
        org,
        name: &settings.name,
        external_id: settings.external_id.as_deref(),
        description: &settings.description,
        budget: settings.budget,
        period: settings.period,
        overdraft: settings.overdraft,
        max_per_call: settings.max_per_call,
        chain_cap: settings.chain_cap,
        chain_secs: settings.chain_secs,
        watch: settings.watch,
        approvals: settings.approvals.unwrap_or(plan.has(Feature::Approvals)),
        created_at,
        updated_at,
    }
}

/// Has the org room for one more?
pub(super) fn room(org: &OrgEntry, plan: &Plan) -> Result<(), Refusal> {
    check::room(
        "workflow_limit_reached",
        "workflows",
        org.workflows.len(),
        plan.limits.workflows,
    )
}
