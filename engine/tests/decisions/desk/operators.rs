//! What an operator does and looks at.

use super::{Desk, KEY, ORG, WORKFLOW, new_key};
use engine::command::{Command, OrgView, Outcome, Transition, WorkflowView};
use engine::manage::{
    Manage, NewKey, OrgPatch, PolicyDraft, Terms, WorkflowPatch, WorkflowSettings,
};
use engine::shard::OpenHold;
use persist::record::{Actor, Composition, PeriodKind, PolicyAction, PolicyType, Scope};
use persist::{HoldId, KeyId, Millis, Nanos, OrgId, PolicyId, WorkflowId};

/// A policy of the org that blocks.
pub fn draft(policy_type: PolicyType, terms: Terms) -> PolicyDraft {
    PolicyDraft {
        name: "a rule".to_owned(),
        policy_type,
        scope: Scope::Org,
        scope_id: None,
        priority: 100,
        action: PolicyAction::Block,
        terms,
        is_active: true,
        shadow: false,
        template: None,
    }
}

impl Desk {
    pub fn manage(&mut self, manage: Manage) -> Outcome {
        self.apply(&Command::Manage(Box::new(manage)))
    }

    pub fn set_state(&mut self, to: Transition) -> Outcome {
        self.apply(&Command::SetState {
            org: ORG,
            workflow: WORKFLOW,
            to,
            reason: None,
            actor: Actor::System,
        })
    }

    pub fn cap_workflow(&mut self, budget: Option<Nanos>) {
        self.patch_workflow(WorkflowPatch {
            budget: Some(budget),
            ..WorkflowPatch::default()
        });
    }

    pub fn patch_workflow(&mut self, patch: WorkflowPatch) {
        let done = self.manage(Manage::PatchWorkflow {
            org: ORG,
            actor: Actor::System,
            id: WORKFLOW,
            patch,
        });
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
    }

    pub fn cap_org(&mut self, budget: Option<Nanos>) {
        self.patch_org(Some(budget), None);
    }

    pub fn most_restrictive(&mut self) {
        self.patch_org(None, Some(Composition::MostRestrictive));
    }

    pub fn org_period(&mut self, kind: PeriodKind) {
        self.change_org(None, Some(kind), None);
    }

    fn patch_org(&mut self, budget: Option<Option<Nanos>>, composition: Option<Composition>) {
        self.change_org(budget, None, composition);
    }

    fn change_org(
        &mut self,
        budget: Option<Option<Nanos>>,
        period: Option<PeriodKind>,
        composition: Option<Composition>,
    ) {
        self.manage(Manage::PatchOrg {
            org: ORG,
            actor: Actor::System,
            patch: OrgPatch {
                budget,
                period,
                composition,
                ..OrgPatch::default()
            },
        });
    }

    pub fn add_workflow(&mut self, budget: Option<Nanos>) -> WorkflowId {
        let id = WorkflowId(self.fresh());
        self.manage(Manage::CreateWorkflow {
            org: ORG,
            actor: Actor::System,
            id,
            settings: WorkflowSettings {
                budget,
                ..WorkflowSettings::named(format!("workflow {id}"))
            },
        });
        id
    }

    pub fn add_key(&mut self, workflow: Option<WorkflowId>, budget: Option<Nanos>) -> KeyId {
        self.add_key_with(workflow, budget, |_| {})
    }

    /// A key of the workflow that works until `at`.
    pub fn add_key_until(&mut self, at: Millis) -> KeyId {
        self.add_key_with(Some(WORKFLOW), None, |key| key.expires_at = Some(at))
    }

    pub fn add_key_with(
        &mut self,
        workflow: Option<WorkflowId>,
        budget: Option<Nanos>,
        change: impl FnOnce(&mut NewKey),
    ) -> KeyId {
        let id = KeyId(self.fresh());
        let mut key = new_key(id, workflow, budget);
        change(&mut key);
        self.manage(Manage::CreateKey {
            org: ORG,
            actor: Actor::System,
            key,
        });
        id
    }

    /// A policy of the org, changed as told.
    pub fn add_policy(
        &mut self,
        policy_type: PolicyType,
        terms: Terms,
        change: impl FnOnce(&mut PolicyDraft),
    ) -> PolicyId {
        let id = PolicyId(self.fresh());
        let mut draft = draft(policy_type, terms);
        change(&mut draft);
        let done = self.manage(Manage::CreatePolicy {
            org: ORG,
            actor: Actor::System,
            id,
            draft,
        });
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
        id
    }

    pub fn workflow(&mut self) -> WorkflowView {
        match self.apply(&Command::ReadWorkflow {
            org: ORG,
            workflow: WORKFLOW,
        }) {
            Outcome::Workflow(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    pub fn org(&mut self, org: OrgId) -> OrgView {
        match self.apply(&Command::ReadOrg { org }) {
            Outcome::Org(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Open holds of an org, as its workflows show them.
    pub fn open_holds(&mut self, org: OrgId) -> u64 {
        let workflows = self.org(org).workflows;
        workflows.iter().map(|workflow| workflow.open_holds).sum()
    }

    /// Spent and held of the workflow in this period.
    pub fn books(&mut self) -> (Nanos, Nanos) {
        let view = self.workflow();
        (view.sums.spent, view.sums.held)
    }

    /// Keeps a chain alive; is there such a chain?
    pub fn heartbeat(&mut self, chain: u128) -> bool {
        match self.apply(&Command::Heartbeat {
            org: ORG,
            key: KEY,
            workflow: WORKFLOW,
            chain,
        }) {
            Outcome::Alive(alive) => alive,
            other => panic!("{other:?}"),
        }
    }

    pub fn release(&mut self, org: OrgId, hold: HoldId, note: &str) -> Outcome {
        self.apply(&Command::Release {
            org,
            hold,
            note: note.to_owned(),
            actor: Actor::System,
        })
    }

    pub fn holds(
        &mut self,
        org: OrgId,
        workflow: Option<WorkflowId>,
        after: Option<HoldId>,
        limit: usize,
    ) -> Vec<OpenHold> {
        match self.apply(&Command::ReadHolds {
            org,
            workflow,
            after,
            limit,
        }) {
            Outcome::Holds(holds) => holds,
            other => panic!("{other:?}"),
        }
    }
}
