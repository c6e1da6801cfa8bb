//! An account: what was spent and what is held, by budget period, of a workflow, a key or an org.

use crate::period::Period;
use persist::{Millis, Nanos};

/// The sums of one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// First instant of the period.
    pub start: Millis,
    /// Booked.
    pub spent: Nanos,
    /// Held, not yet booked.
    pub held: Nanos,
}

/// What was spent and held. A hold and its charges count in the period the hold was made in, so
/// the one before stays open until its last hold has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// The newest period something happened in.
    pub current: Sums,
    /// The one before it.
    pub previous: Sums,
    /// Everything ever booked.
    pub lifetime: Nanos,
}

impl Account {
    /// The sums of `period`, zero if nothing happened in it yet.
    #[must_use]
    pub fn in_period(&self, period: &Period) -> Sums {
        [self.current, self.previous]
            .into_iter()
            .find(|sums| sums.start == period.start)
            .unwrap_or(Sums {
                start: period.start,
                ..Sums::default()
            })
    }

    /// Held in any period: what `docs/semantics.md` calls open holds.
    #[must_use]
    pub fn held(&self) -> Nanos {
        self.current.held + self.previous.held
    }

    /// Adds to what is held in the period that began at `start`; `amount` may be negative.
    pub fn hold(&mut self, start: Millis, amount: Nanos) {
        if let Some(sums) = self.period(start) {
            sums.held += amount;
            assert!(
                sums.held >= Nanos::ZERO,
                "invariant 8: a held total never goes negative"
            );
        }
    }

    /// Books `cost` in the period that began at `start`.
    pub fn spend(&mut self, start: Millis, cost: Nanos) {
        self.lifetime += cost;
        if let Some(sums) = self.period(start) {
            sums.spent += cost;
        }
    }

    /// The sums of the period that began at `start`; opens it if it is newer than all. None for a
    /// period that has left both places: its charges still count in `lifetime`.
    fn period(&mut self, start: Millis) -> Option<&mut Sums> {
        if start > self.current.start {
            // A hold cannot outlive the period after its own, so nothing held is dropped here.
            assert!(
                self.previous.held == Nanos::ZERO,
                "invariant 8: a period closes only when its last hold has ended"
            );
            self.previous = self.current;
            self.current = Sums {
                start,
                ..Sums::default()
            };
        }
        if start == self.current.start {
            Some(&mut self.current)
        } else if start == self.previous.start {
            Some(&mut self.previous)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_and_its_charge_stay_in_the_period_the_hold_was_made_in() {
        let (may, june) = (Millis(5), Millis(6));
        let mut account = Account::default();
        account.hold(may, Nanos(10));
        account.hold(june, Nanos(3));
        account.hold(may, Nanos(-10));
        account.spend(may, Nanos(7));
        assert_eq!(
            account.previous,
            Sums {
                start: may,
                spent: Nanos(7),
                held: Nanos(0)
            }
        );
        assert_eq!(
            account.current,
            Sums {
                start: june,
                spent: Nanos(0),
                held: Nanos(3)
            }
        );
        assert_eq!(account.lifetime, Nanos(7));
        assert_eq!(account.held(), Nanos(3));
    }
}
