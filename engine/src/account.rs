//! An account: what was spent and what is held, by day, of a workflow or of a key in a workflow; and
//! how many calls a key was allowed there in this month.

use crate::period::Period;
use persist::record::PeriodKind;
use persist::{Day, Nanos};
use smallvec::SmallVec;

/// Days kept one by one. The longest period is 31 days, and a hold may be charged a day late.
const DAYS_KEPT: u32 = 33;

/// What was spent and what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Booked.
    pub spent: Nanos,
    /// Held, not yet booked.
    pub held: Nanos,
}

impl Sums {
    /// Both together: what a cap no longer has.
    #[must_use]
    pub fn taken(&self) -> Nanos {
        self.spent + self.held
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.spent += other.spent;
        self.held += other.held;
    }
}

/// The sums of one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaySums {
    /// The day.
    pub day: Day,
    /// Its sums.
    pub sums: Sums,
}

/// Sums by day, oldest first. A hold and its charges count on the day the hold was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Most workflows are busy on few days.
    days: SmallVec<[DaySums; 1]>,
    /// Booked on days that are not kept any more.
    older: Nanos,
}

impl Account {
    /// An account as a snapshot holds it, days oldest first.
    #[must_use]
    pub fn from_parts(days: impl Iterator<Item = DaySums>, older: Nanos) -> Self {
        Self {
            days: days.collect(),
            older,
        }
    }

    /// The days that are kept.
    #[must_use]
    pub fn days(&self) -> &[DaySums] {
        &self.days
    }

    /// Booked before those.
    #[must_use]
    pub const fn older(&self) -> Nanos {
        self.older
    }

    /// The sums from `first` on. Day 0 means since ever.
    #[must_use]
    pub fn since(&self, first: Day) -> Sums {
        let mut sums = Sums::default();
        if first == Day(0) {
            sums.spent = self.older;
        }
        for day in self.days.iter().rev().take_while(|day| day.day >= first) {
            sums += day.sums;
        }
        sums
    }

    /// Adds to what is held on `day`; `amount` may be negative.
    pub fn hold(&mut self, day: Day, amount: Nanos) {
        let sums = self.day(day);
        sums.held += amount;
        assert!(
            sums.held >= Nanos::ZERO,
            "invariant 8: a held total never goes negative"
        );
    }

    /// Books `cost` on `day`.
    pub fn spend(&mut self, day: Day, cost: Nanos) {
        if self.is_past(day) && self.find(day).is_err() {
            self.older += cost;
        } else {
            self.day(day).spent += cost;
        }
    }

    fn is_past(&self, day: Day) -> bool {
        self.days
            .last()
            .is_some_and(|newest| day.0.saturating_add(DAYS_KEPT) <= newest.day.0)
    }

    fn find(&self, day: Day) -> Result<usize, usize> {
        self.days.binary_search_by_key(&day, |sums| sums.day)
    }

    fn day(&mut self, day: Day) -> &mut Sums {
        let at = match self.find(day) {
            Ok(at) => at,
            Err(at) => {
                let new = DaySums {
                    day,
                    sums: Sums::default(),
                };
                self.days.reserve_exact(1);
                self.days.insert(at, new);
                self.forget_old_days(day);
                self.days.partition_point(|sums| sums.day < day)
            }
        };
        &mut self.days[at].sums
    }

    /// Days that no period reaches are added up, unless something is still held on them.
    fn forget_old_days(&mut self, but: Day) {
        let Some(newest) = self.days.last().map(|sums| sums.day) else {
            return;
        };
        let gone = |sums: &DaySums| {
            sums.day != but
                && sums.day.0.saturating_add(DAYS_KEPT) <= newest.0
                && sums.sums.held == Nanos::ZERO
        };
        let older = &mut self.older;
        self.days.retain(|sums| {
            let gone = gone(sums);
            if gone {
                *older += sums.sums.spent;
            }
            !gone
        });
    }
}

/// Days every month has.
const MONTH_LEAST: u32 = 28;

/// Calls that were allowed in the newest month there were any in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Executions {
    /// The first day of that month.
    month: Day,
    calls: u32,
}

impl Executions {
    /// As a snapshot holds them.
    #[must_use]
    pub const fn from_parts(month: Day, calls: u32) -> Self {
        Self { month, calls }
    }

    /// First day of the month, and the calls in it.
    #[must_use]
    pub fn newest(&self) -> Option<(Day, u32)> {
        (self.calls > 0).then_some((self.month, self.calls))
    }

    /// The calls of the month that begins with `first`.
    #[must_use]
    pub fn of(&self, first: Day) -> u32 {
        if self.month == first { self.calls } else { 0 }
    }

    /// Counts a call on `day`, which is not before the last.
    pub fn add(&mut self, day: Day) {
        // Only at the end of a month is the calendar asked.
        if self.calls == 0 || day.0 >= self.month.0 + MONTH_LEAST {
            let month = Period::around(PeriodKind::Month, day).first;
            if month != self.month {
                *self = Self { month, calls: 0 };
            }
        }
        self.calls = self.calls.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_calendar_months() {
        // 2026-01-30.
        let start = 20_483;
        let mut executions = Executions::default();
        for day in start..start + 61 {
            executions.add(Day(day));
        }
        // January has two of these days left, February 28, March 31.
        let march = Day(start + 30);
        assert_eq!(executions.newest(), Some((march, 31)));
        assert_eq!(executions.of(march), 31);
        executions.add(Day(start + 61));
        assert_eq!(executions.newest(), Some((Day(start + 61), 1)));
        assert_eq!(executions.of(march), 0);
    }

    #[test]
    fn a_hold_and_its_charge_stay_on_the_day_the_hold_was_made() {
        let mut account = Account::default();
        account.hold(Day(5), Nanos(10));
        account.hold(Day(6), Nanos(3));
        account.hold(Day(5), Nanos(-10));
        account.spend(Day(5), Nanos(7));
        let sums = |spent, held| Sums {
            spent: Nanos(spent),
            held: Nanos(held),
        };
        assert_eq!(account.since(Day(6)), sums(0, 3));
        assert_eq!(account.since(Day(5)), sums(7, 3));
        assert_eq!(account.since(Day(0)), sums(7, 3));
    }

    #[test]
    fn days_no_period_reaches_are_added_up_and_a_lifetime_forgets_nothing() {
        let mut account = Account::default();
        account.hold(Day(99), Nanos(1));
        for day in 100..200 {
            account.spend(Day(day), Nanos(2));
        }
        account.spend(Day(120), Nanos(5));
        assert_eq!(account.since(Day(0)).spent, Nanos(205));
        assert_eq!(account.since(Day(170)).spent, Nanos(60));
        // What is held keeps its day.
        assert_eq!(account.days().first().map(|d| d.day), Some(Day(99)));
        account.hold(Day(99), Nanos(-1));
        account.spend(Day(201), Nanos(1));
        assert_eq!(account.days().len(), 32);
        assert_eq!(account.since(Day(0)).spent, Nanos(206));
    }
}
