//! The reference's books: sums by subject and month, workflows, holds, in plain maps that forget
//! nothing.

use super::rules::{Rules, levels};
use super::spec::month;
use super::violation::{Check, Invariant, ensure};
use persist::record::{Arithmetic, Call, Operation, Scope, State};
use persist::{KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub spent: Nanos,
    pub held: Nanos,
}

#[derive(Debug, Clone, Default)]
pub struct Workflow {
    pub state: State,
    pub version: u64,
    pub cap: Option<Nanos>,
    pub per_call: Option<Nanos>,
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub org: OrgId,
    pub workflow: WorkflowId,
    pub key: KeyId,
    pub left: Nanos,
    pub month: Millis,
    pub expires_at: Millis,
    pub minted: Lsn,
    pub ended: Option<(Lsn, Nanos)>,
    /// The requests that were let through on it.
    pub operations: Vec<Operation>,
    /// What the tightest cap left once it was minted.
    pub remaining: Option<Nanos>,
}

/// Sums and states as of one place in the log.
#[derive(Debug, Clone, Default)]
pub struct Books {
    pub workflows: BTreeMap<WorkflowId, Workflow>,
    pub sums: BTreeMap<(Scope, u128, Millis), Sums>,
    pub lifetime: BTreeMap<(Scope, u128), Nanos>,
}

/// Events that were charged, by span id.
#[derive(Debug, Default)]
pub struct Charges {
    by_span: BTreeMap<String, Charge>,
    with_id: u64,
    /// Events that were charged again, long after.
    pub forgotten: u64,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    /// Where it stands for the first time.
    pub lsn: Lsn,
    pub cost: Nanos,
    /// How many events with an id had been charged by then.
    number: u64,
}

impl Charges {
    pub fn get(&self, span: &str) -> Option<Charge> {
        self.by_span.get(span).copied()
    }

    /// Adds a charge; false if it must not be there again. An event with an id may be forgotten
    /// when `remembered` others have come after it.
    pub fn add(&mut self, span: &str, new: (Lsn, Nanos), has_id: bool, remembered: u64) -> bool {
        let (lsn, cost) = new;
        let number = self.with_id;
        self.with_id += u64::from(has_id);
        let Some(known) = self.by_span.get_mut(span) else {
            let charge = Charge { lsn, cost, number };
            self.by_span.insert(span.to_owned(), charge);
            return true;
        };
        let passed = number - std::mem::replace(&mut known.number, number);
        self.forgotten += 1;
        has_id && passed > remembered
    }
}

impl Hold {
    /// The three it concerns.
    pub const fn whose(&self) -> (OrgId, WorkflowId, KeyId) {
        (self.org, self.workflow, self.key)
    }
}

impl Books {
    /// The sums of one subject in one month.
    pub fn of(&self, scope: Scope, id: u128, month: Millis) -> Sums {
        self.sums
            .get(&(scope, id, month))
            .copied()
            .unwrap_or_default()
    }

    /// Every cap that applies to a call, and what is taken from it.
    pub fn caps(&self, rules: &Rules, call: &Call<'_>) -> Vec<Arithmetic> {
        let mut caps = Vec::new();
        for (scope, id) in levels(call) {
            let own = match scope {
                Scope::Org => rules.orgs.get(&call.org).and_then(|org| org.0),
                Scope::Workflow => self.workflows.get(&call.workflow).and_then(|w| w.cap),
                Scope::ApiKey => rules.keys.get(&call.key).and_then(|key| key.cap),
            };
            let Sums { spent, held } = self.of(scope, id, month(call.at));
            let set = own.into_iter().chain(rules.budget(call, (scope, id)));
            caps.extend(set.map(|cap| Arithmetic {
                scope,
                cap,
                spent,
                held,
                asked: Nanos::ZERO,
            }));
        }
        caps
    }

    /// Books an amount on the three that it concerns.
    pub fn book(
        &mut self,
        (org, workflow, key): (OrgId, WorkflowId, KeyId),
        month: Millis,
        spent: Nanos,
        held: Nanos,
    ) -> Check {
        let levels = [
            (Scope::Org, org.0),
            (Scope::Workflow, workflow.0),
            (Scope::ApiKey, key.0),
        ];
        for (scope, id) in levels {
            *self.lifetime.entry((scope, id)).or_default() += spent;
            let sums = self.sums.entry((scope, id, month)).or_default();
            sums.spent += spent;
            sums.held += held;
            let negative = sums.held < Nanos::ZERO || sums.spent < Nanos::ZERO;
            ensure(!negative, Invariant::HoldEndsOnce, || {
                format!("the sums of {scope:?} go negative")
            })?;
        }
        Ok(())
    }
}
