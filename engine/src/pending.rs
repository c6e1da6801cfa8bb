//! What a pump has decided and not yet appended, as far as other pumps must not see it: releases,
//! events it is counting, and which it forgets. Alone, a pump needs none of this: nobody else can see its figures
//! before the log has them in order.

use crate::account::Sums;
use crate::dedup::{Dedup, Known};
use crate::shared::Shared;
use hashbrown::HashMap;
use persist::{Day, Millis, Nanos};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug)]
struct Releases {
    shared: Arc<Shared>,
    days: SmallVec<[(Day, Nanos); 2]>,
    /// What is booked no more.
    refunds: Vec<(Day, Nanos)>,
}

/// Releases and counted events of the turn that is being decided.
#[derive(Debug, Default)]
pub struct Pending {
    together: bool,
    /// By the address of the shared figures.
    releases: HashMap<usize, Releases>,
    events: Vec<(Millis, u128)>,
    /// Generations of events before this one are to be forgotten.
    forget: Option<u64>,
    /// Claimed for the command that is being done, in the order of its events.
    claimed: VecDeque<u128>,
    /// Claimed for the command, and not used by the event that came up for it.
    unused: Vec<u128>,
}

fn address(shared: &Arc<Shared>) -> usize {
    Arc::as_ptr(shared).addr()
}

impl Pending {
    /// For a pump beside others.
    #[must_use]
    pub fn together() -> Self {
        Self {
            together: true,
            ..Self::default()
        }
    }

    /// Are there other pumps?
    #[must_use]
    pub const fn is_together(&self) -> bool {
        self.together
    }

    /// Frees an amount: at once when alone, else when the turn is appended.
    pub fn release(&mut self, shared: &Arc<Shared>, day: Day, amount: Nanos) {
        if amount == Nanos::ZERO {
            return;
        }
        if !self.together {
            shared.money.release(day, amount);
            return;
        }
        let releases = self.of(shared);
        match releases.days.iter_mut().find(|(of, _)| *of == day) {
            Some((_, sum)) => *sum += amount,
            None => releases.days.push((day, amount)),
        }
    }

    /// Takes an amount out of what is booked: at once when alone, else when the turn is appended.
    pub fn refund(&mut self, shared: &Arc<Shared>, day: Day, amount: Nanos) {
        if self.together {
            self.of(shared).refunds.push((day, amount));
        } else {
            shared.money.charge(day, -amount, Nanos::ZERO);
        }
    }

    fn of(&mut self, shared: &Arc<Shared>) -> &mut Releases {
        self.releases.entry(address(shared)).or_insert_with(|| {
            shared.money.moving().begin();
            Releases {
                shared: Arc::clone(shared),
                days: SmallVec::new(),
                refunds: Vec::new(),
            }
        })
    }

    /// What is booked and held on the days from `first` on as this pump sees it, and how much of it
    /// it has released while nobody else sees that yet.
    #[must_use]
    pub fn sums(&self, shared: &Arc<Shared>, first: Day) -> (Sums, Nanos) {
        let mut sums = shared.money.since(first);
        let released = self.released(shared, first);
        sums.held -= released;
        (sums, released)
    }

    fn released(&self, shared: &Arc<Shared>, first: Day) -> Nanos {
        let Some(releases) = self.releases.get(&address(shared)) else {
            return Nanos::ZERO;
        };
        let days = releases.days.iter().filter(|(day, _)| *day >= first);
        days.map(|(_, amount)| *amount).sum()
    }

    /// How many of the amounts on their way there are this pump's own.
    #[must_use]
    pub fn own(&self, shared: &Arc<Shared>) -> u32 {
        u32::from(self.releases.contains_key(&address(shared)))
    }

    /// Claims those of a command's events that are new; false, and nothing is claimed, if another
    /// pump is counting one of them: whoever is told "counted before" relies on its record.
    pub fn claim(
        &mut self,
        dedup: &Dedup,
        pump: u32,
        keys: &mut dyn Iterator<Item = u128>,
    ) -> bool {
        self.claimed.clear();
        for key in keys {
            match dedup.known(key, pump) {
                Known::Counted => continue,
                Known::New if dedup.claim(key, pump) => self.claimed.push_back(key),
                Known::New | Known::Elsewhere => {
                    for key in self.claimed.drain(..) {
                        dedup.give_back(key);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Is this event, the next of the command, one that was claimed for it?
    pub fn take_claimed(&mut self, key: u128) -> bool {
        if self.claimed.pop_front_if(|first| *first == key).is_some() {
            return true;
        }
        let unused = self.unused.iter().position(|of| *of == key);
        unused.map(|at| self.unused.swap_remove(at)).is_some()
    }

    /// The event was not booked here. A later one of the command with the same key may use the
    /// claim; given back at once, it could be booked here and by another pump.
    pub fn not_used(&mut self, key: u128) {
        self.unused.push(key);
    }

    /// The command is done: what it claimed and did not book, another pump may count.
    pub fn give_back_unused(&mut self, dedup: &Dedup) {
        for key in self.unused.drain(..) {
            dedup.give_back(key);
        }
    }

    /// An event this pump has claimed.
    pub fn counted(&mut self, at: Millis, key: u128) {
        self.events.push((at, key));
    }

    /// A generation is sealed, and those before `keep_from` are over: that counts when it is in the
    /// log, or an event could stand there twice before it.
    pub fn sealed(&mut self, keep_from: u64) {
        self.forget = Some(keep_from);
    }

    /// The turn is in the log: everybody may see it.
    pub fn appended(&mut self, dedup: &Dedup) {
        for (_, releases) in self.releases.drain() {
            for (day, amount) in releases.days {
                releases.shared.money.release(day, amount);
            }
            for (day, amount) in releases.refunds {
                releases.shared.money.charge(day, -amount, Nanos::ZERO);
            }
            releases.shared.money.moving().end();
        }
        for (at, key) in self.events.drain(..) {
            dedup.settle(at, key);
        }
        if let Some(keep_from) = self.forget.take() {
            dedup.forget(keep_from);
        }
    }
}
