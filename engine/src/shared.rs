//! What all shards share about an org, or about a key that is bound to no workflow.

use crate::account::Executions;
use crate::cell::Cell;
use crate::meter::{Burn, PerSecond, Rate};
use persist::{Day, Millis, Nanos};
use std::sync::{Mutex, OnceLock, PoisonError};

/// One call, as a cell counts it.
pub const ONE: Nanos = Nanos(1);

/// The shared figures of one subject. The meters take room only once they are used.
#[derive(Debug, Default)]
pub struct Shared {
    /// What was taken of its caps.
    pub money: Cell,
    /// Calls that were allowed, as a cell counts them: one is one unit.
    executions: OnceLock<Box<Cell>>,
    /// Calls of this second, where the plan limits them.
    pub second: PerSecond,
    rate: OnceLock<Box<Rate>>,
    burn: OnceLock<Box<Mutex<Burn>>>,
}

impl Shared {
    /// Its calls that were allowed.
    #[must_use]
    pub fn executions(&self) -> &Cell {
        self.executions.get_or_init(Box::default)
    }

    /// How many calls were allowed from `first` on.
    #[must_use]
    pub fn executed_since(&self, first: Day) -> u64 {
        let executions = self.executions.get();
        let taken = executions.map_or(0, |cell| cell.since(first).taken().0);
        taken.unsigned_abs()
    }

    /// Counts a call of which `taken` says whether [`Cell::take`] has it already.
    pub fn executed(&self, today: Day, taken: bool) {
        let before = if taken { ONE } else { Nanos::ZERO };
        self.executions().charge(today, ONE, before);
    }

    /// Adds what was counted before this process, when the state is loaded.
    pub fn add_executions(&self, counted: &Executions) {
        if let Some((month, calls)) = counted.newest() {
            let calls = Nanos(i64::from(calls));
            self.executions().charge(month, calls, Nanos::ZERO);
        }
    }

    /// Its calls.
    #[must_use]
    pub fn rate(&self) -> &Rate {
        self.rate.get_or_init(Box::default)
    }

    /// A copy of its calls; none if no rate was ever set.
    #[must_use]
    pub fn rate_copy(&self) -> Option<Rate> {
        self.rate.get().map(|rate| Rate::clone(rate))
    }

    /// Calls of the last minute; none if no rate was ever set.
    #[must_use]
    pub fn calls(&self, now: Millis) -> u32 {
        self.rate.get().map_or(0, |rate| rate.calls(now))
    }

    /// Notes spending.
    pub fn spent(&self, now: Millis, cost: Nanos) {
        let burn = self
            .burn
            .get_or_init(|| Box::new(Mutex::new(Burn::new(now))));
        burn.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spent(now, cost);
    }

    /// Nano-dollars spent in the last ten minutes, and the seconds they took.
    #[must_use]
    pub fn burn_rate(&self, now: Millis) -> (i64, u64) {
        self.burn.get().map_or((0, 1), |burn| {
            burn.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .rate(now)
        })
    }
}
