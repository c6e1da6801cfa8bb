//! The reference's books: what was spent and held, by subject and day, with a journal of every
//! entry; holds and chains. Plain maps that forget nothing.

use super::spec::{HOLD_MILLIS, Usual};
use super::violation::{Check, Invariant, ensure};
use persist::record::{Operation, Scope, State};
use persist::{Day, HoldId, KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub spent: Nanos,
    pub held: Nanos,
}

impl Sums {
    pub fn taken(self) -> Nanos {
        self.spent + self.held
    }

    pub fn add(&mut self, entry: &Entry) {
        self.spent += entry.spent;
        self.held += entry.held;
    }
}

/// Whom money concerns: org, workflow, key.
pub type Whose = (OrgId, WorkflowId, KeyId);

/// What a hold was allowed by: the rules, the day, and whether it was in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub rules: Lsn,
    pub today: Day,
    pub in_chain: bool,
}

/// One movement of money.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub lsn: Lsn,
    pub whose: Whose,
    pub day: Day,
    pub spent: Nanos,
    pub held: Nanos,
    /// Of a new hold.
    pub terms: Option<Terms>,
}

impl Entry {
    pub const fn concerns(&self, scope: Scope, id: u128) -> bool {
        let (org, workflow, key) = self.whose;
        id == match scope {
            Scope::Org => org.0,
            Scope::Workflow => workflow.0,
            Scope::ApiKey => key.0,
        }
    }
}

/// A workflow's live part.
#[derive(Debug, Clone, Default)]
pub struct Workflow {
    pub state: State,
    pub version: u64,
    /// Every state it came to, and where.
    pub history: Vec<(Lsn, State, u64)>,
    pub usual: Usual,
    /// Calls that were decided and named tools: when, and which.
    pub calls: Vec<(Millis, String)>,
}

#[derive(Debug, Clone)]
pub struct Hold {
    pub org: OrgId,
    pub workflow: WorkflowId,
    pub key: KeyId,
    pub left: Nanos,
    pub day: Day,
    pub expires_at: Millis,
    pub minted: Lsn,
    pub ended: Option<(Lsn, Nanos)>,
    /// The chain it belongs to, until that ends.
    pub chain: Option<u128>,
    /// The requests that were let through on it.
    pub operations: Vec<Operation>,
    /// The operation it was minted for.
    pub minted_for: Option<Operation>,
    /// What the tightest cap left once it was minted, if that is known exactly.
    pub remaining: Option<Option<Nanos>>,
}

impl Hold {
    /// Was it open at a place?
    pub fn is_open_at(&self, place: Lsn) -> bool {
        self.minted <= place && self.ended.is_none_or(|(lsn, _)| lsn > place)
    }

    pub const fn whose(&self) -> Whose {
        (self.org, self.workflow, self.key)
    }
}

#[derive(Debug, Clone)]
pub struct Chain {
    pub org: OrgId,
    pub workflow: WorkflowId,
    pub began: Lsn,
    pub started_at: Millis,
    pub active_at: Millis,
    pub cap: Option<Nanos>,
    pub sums: Sums,
}

/// Everything as of one place in the log.
#[derive(Debug, Default)]
pub struct Books {
    pub workflows: BTreeMap<WorkflowId, Workflow>,
    pub sums: BTreeMap<(Scope, u128, Day), Sums>,
    pub journal: Vec<Entry>,
    pub holds: BTreeMap<HoldId, Hold>,
    /// Calls that count as executions: whose, on which day, and how many.
    pub executions: BTreeMap<(Whose, Day), u64>,
    /// Those that are not over.
    pub chains: BTreeMap<u128, Chain>,
}

impl Books {
    /// The sums of one subject from a day on.
    pub fn since(&self, scope: Scope, id: u128, first: Day) -> Sums {
        let days = self
            .sums
            .range((scope, id, first)..=(scope, id, Day(u32::MAX)));
        days.fold(Sums::default(), |mut all, (_, day)| {
            all.spent += day.spent;
            all.held += day.held;
            all
        })
    }

    /// The journal behind a place.
    pub fn behind(&self, place: Lsn) -> impl Iterator<Item = &Entry> {
        let newest_first = self.journal.iter().rev();
        newest_first.take_while(move |entry| entry.lsn > place)
    }

    pub fn open(&self) -> impl Iterator<Item = (&HoldId, &Hold)> {
        self.holds.iter().filter(|(_, hold)| hold.ended.is_none())
    }

    /// The sums of those entries.
    pub fn of(&self, entries: impl Fn(&Entry) -> bool) -> Sums {
        let entries = self.journal.iter().filter(|entry| entries(entry));
        entries.fold(Sums::default(), |mut sums, entry| {
            sums.add(entry);
            sums
        })
    }

    /// A workflow's state and version as of a place.
    pub fn state_at(&self, id: WorkflowId, place: Lsn) -> (State, u64) {
        let known = self.workflows.get(&id).map(|workflow| &workflow.history);
        let before = known.into_iter().flatten().rev();
        let mut before = before.filter(|(lsn, ..)| *lsn <= place);
        before
            .next()
            .map_or((State::Normal, 0), |(_, state, version)| (*state, *version))
    }

    /// A hold, if it is open.
    pub fn open_hold(&self, id: HoldId) -> Option<&Hold> {
        self.holds.get(&id).filter(|hold| hold.ended.is_none())
    }

    /// Books an entry on the three that it concerns.
    pub fn book(&mut self, entry: Entry) -> Check {
        let (org, workflow, key) = entry.whose;
        let levels = [
            (Scope::Org, org.0),
            (Scope::Workflow, workflow.0),
            (Scope::ApiKey, key.0),
        ];
        for (scope, id) in levels {
            let sums = self.sums.entry((scope, id, entry.day)).or_default();
            sums.add(&entry);
            let negative = sums.held < Nanos::ZERO || sums.spent < Nanos::ZERO;
            ensure(!negative, Invariant::HoldEndsOnce, || {
                format!("the sums of {scope:?} go negative")
            })?;
        }
        self.journal.push(entry);
        Ok(())
    }

    /// A sign of life of a chain's calls: its open holds live on.
    pub fn renew(&mut self, chain: u128, at: Millis) {
        if let Some(known) = self.chains.get_mut(&chain) {
            known.active_at = at;
        }
        for hold in self.holds.values_mut() {
            if hold.ended.is_none() && hold.chain == Some(chain) {
                hold.expires_at = hold.expires_at.max(at.plus(HOLD_MILLIS));
            }
        }
    }

    /// A chain is over; its holds live on by themselves.
    pub fn end_chain(&mut self, chain: u128) -> Option<Chain> {
        for hold in self.holds.values_mut() {
            if hold.chain == Some(chain) {
                hold.chain = None;
            }
        }
        self.chains.remove(&chain)
    }
}
