//! The state of a shard: workflows, their money, open holds, counted events. Only `fold` changes
//! it, and only by what a record says.

use crate::account::Account;
use crate::dedup::Dedup;
use crate::hold::{Holds, NewHold};
use hashbrown::HashMap;
use persist::record::{Change, Charged, HoldEnded, HoldMinted, Record, State, Workflow};
use persist::{KeyId, Millis, Nanos, OrgId, WorkflowId};

/// A workflow's live part.
#[derive(Debug, Clone)]
pub struct WorkflowLive {
    /// Id.
    pub id: WorkflowId,
    /// Whose.
    pub org: OrgId,
    /// State.
    pub state: State,
    /// Grows with each change of state.
    pub version: u64,
    /// Why it is in that state.
    pub reason: Option<Box<str>>,
    /// When it came to it.
    pub state_since: Millis,
    /// Cap in a period.
    pub budget: Option<Nanos>,
    /// Cap on one call.
    pub max_per_call: Option<Nanos>,
    /// Money.
    pub account: Account,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    index: HashMap<WorkflowId, u32>,
    workflows: Vec<WorkflowLive>,
    /// Money by key.
    pub keys: HashMap<KeyId, Account>,
    /// Money by org.
    pub orgs: HashMap<OrgId, Account>,
    /// Open holds.
    pub holds: Holds,
    /// Counted events.
    pub dedup: Dedup,
}

impl Shard {
    /// An empty shard that remembers about `dedup_keys` events.
    #[must_use]
    pub fn new(dedup_keys: usize) -> Self {
        Self {
            index: HashMap::new(),
            workflows: Vec::new(),
            keys: HashMap::new(),
            orgs: HashMap::new(),
            holds: Holds::default(),
            dedup: Dedup::with_capacity(dedup_keys),
        }
    }

    /// A workflow.
    #[must_use]
    pub fn workflow(&self, id: WorkflowId) -> Option<&WorkflowLive> {
        self.index
            .get(&id)
            .and_then(|at| self.workflows.get(*at as usize))
    }

    fn workflow_mut(&mut self, id: WorkflowId) -> Option<&mut WorkflowLive> {
        self.index
            .get(&id)
            .and_then(|at| self.workflows.get_mut(*at as usize))
    }

    /// Every workflow by id.
    #[must_use]
    pub fn sorted(&self) -> Vec<&WorkflowLive> {
        let mut all: Vec<_> = self.workflows.iter().collect();
        all.sort_unstable_by_key(|workflow| workflow.id);
        all
    }

    /// Applies a record.
    pub fn fold(&mut self, record: &Record<'_>) {
        match record {
            Record::Directory(record) => {
                for change in &record.changes {
                    match change {
                        Change::WorkflowAdded(workflow) => self.add_workflow(workflow),
                        Change::WorkflowChanged(workflow) => self.change_workflow(workflow),
                        _ => {}
                    }
                }
            }
            Record::Refused(_) => {}
            Record::HoldMinted(minted) => self.mint(minted),
            Record::HoldUsed(used) => {
                if let Some(operation) = used.operation {
                    self.holds.bind(used.hold, operation);
                }
            }
            Record::Charged(charged) => self.charge(charged),
            Record::HoldEnded(ended) => self.end(ended),
            Record::WorkflowState(changed) => {
                if let Some(workflow) = self.workflow_mut(changed.workflow) {
                    assert!(
                        changed.version > workflow.version,
                        "a workflow's version strictly grows"
                    );
                    workflow.state = changed.to;
                    workflow.version = changed.version;
                    workflow.reason = changed.reason.map(Into::into);
                    workflow.state_since = changed.at;
                }
            }
        }
    }

    fn add_workflow(&mut self, new: &Workflow<'_>) {
        self.put_workflow(WorkflowLive {
            id: new.id,
            org: new.org,
            state: State::Normal,
            version: 0,
            reason: None,
            state_since: new.created_at,
            budget: new.budget,
            max_per_call: new.max_per_call,
            account: Account::default(),
        });
    }

    /// Puts a workflow in place, as `fold` and snapshots do.
    pub fn put_workflow(&mut self, workflow: WorkflowLive) {
        if let Some(at) = self.index.get(&workflow.id)
            && let Some(place) = self.workflows.get_mut(*at as usize)
        {
            *place = workflow;
            return;
        }
        let at = u32::try_from(self.workflows.len()).unwrap_or(u32::MAX);
        self.index.insert(workflow.id, at);
        self.workflows.push(workflow);
    }

    fn change_workflow(&mut self, new: &Workflow<'_>) {
        if let Some(workflow) = self.workflow_mut(new.id) {
            workflow.budget = new.budget;
            workflow.max_per_call = new.max_per_call;
        }
    }

    /// The three accounts every amount is counted in.
    fn accounts(
        &mut self,
        org: OrgId,
        workflow: WorkflowId,
        key: KeyId,
        act: impl Fn(&mut Account),
    ) {
        if let Some(workflow) = self.workflow_mut(workflow) {
            act(&mut workflow.account);
        }
        act(self.keys.entry(key).or_default());
        act(self.orgs.entry(org).or_default());
    }

    fn mint(&mut self, minted: &HoldMinted<'_>) {
        let call = &minted.call;
        self.holds.open(NewHold {
            id: minted.hold,
            org: call.org,
            workflow: call.workflow,
            key: call.key,
            minted: minted.amount,
            left: minted.amount,
            period_start: minted.period_start,
            expires_at: minted.expires_at,
        });
        if let Some(operation) = minted.operation {
            self.holds.bind(minted.hold, operation);
        }
        self.accounts(call.org, call.workflow, call.key, |account| {
            account.hold(minted.period_start, minted.amount);
        });
    }

    fn charge(&mut self, charged: &Charged<'_>) {
        if let Some(key) = charged.event_key {
            self.dedup.insert(charged.at, key);
        }
        if let Some(hold) = charged.hold.and_then(|id| self.holds.get_mut(id)) {
            hold.left -= charged.from_hold;
            assert!(
                hold.left >= Nanos::ZERO,
                "invariant 8: no hold goes negative"
            );
        }
        if charged.cost == Nanos::ZERO {
            return;
        }
        self.accounts(charged.org, charged.workflow, charged.payer, |account| {
            account.hold(charged.period_start, -charged.from_hold);
            account.spend(charged.period_start, charged.cost);
        });
    }

    fn end(&mut self, ended: &HoldEnded) {
        let hold = self.holds.end(ended.hold);
        assert!(
            hold.is_some_and(|hold| hold.left == ended.released),
            "invariant 8: a hold ends once and releases what was left of it"
        );
        self.accounts(ended.org, ended.workflow, ended.key, |account| {
            account.hold(ended.period_start, -ended.released);
        });
    }
}
