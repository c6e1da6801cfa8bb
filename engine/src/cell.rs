//! Cells: what an org, or a key that is bound to no workflow, has taken of its caps. These caps span
//! shards, so the sums are shared by all threads and changed without a lock.
//!
//! A cell has one sum per day, made on the day's first use, so that no counter is ever reset at
//! midnight. The rules that keep a cap exact with several writers:
//!
//! - **Tighten before append, loosen after append.** A hold or a charge counts from the moment it is
//!   decided, a release only when it is in the log. Whoever reserves on the strength of a release
//!   stands behind it in the log, and a crash keeps a prefix.
//! - On one day, a reservation is a compare-and-swap against the sum it was decided with. Across two
//!   days (midnight, when one thread is already in the next day), each adds to its own day and then
//!   looks at the other's again: sequential consistency shows it to at least one of them, which
//!   takes its amount back.
//! - While something is on its way (a release not yet appended, an amount that may be taken back) a
//!   refusal is not final: the asker is told [`Full::Contended`] and asks again.
//!
//! `model` is that for `loom`, which tries every order in which threads may meet, days that begin
//! meanwhile included:
//! `RUSTFLAGS="--cfg loom" cargo test -p nullrun-engine --release --lib cell`.

use crate::account::Sums;
use persist::{Day, Nanos};

#[cfg(loom)]
use loom::sync::atomic::{AtomicI64, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering, fence};

/// Days a cell keeps one by one; longer than any period and any hold.
const DAYS_KEPT: u32 = 64;

/// One day's sums.
#[derive(Debug)]
pub struct DayCell {
    day: Day,
    /// Spent and held together: the sum that caps are compared with.
    taken: AtomicI64,
    /// The spent part, for display.
    spent: AtomicI64,
}

impl DayCell {
    fn new(day: Day, sums: Sums) -> Self {
        Self {
            day,
            taken: AtomicI64::new(sums.taken().0),
            spent: AtomicI64::new(sums.spent.0),
        }
    }

    /// Spent and held together, as far as it is visible.
    fn taken(&self) -> i64 {
        self.taken.load(Ordering::SeqCst)
    }

    fn spent(&self) -> i64 {
        self.spent.load(Ordering::SeqCst)
    }

    /// Books a cost of which `held` was taken before.
    fn charge(&self, cost: Nanos, held: Nanos) {
        add(&self.taken, cost - held);
        add(&self.spent, cost);
    }

    /// Frees an amount.
    fn release(&self, amount: Nanos) {
        add(&self.taken, -amount);
    }

    /// Adds what another sum of this day has.
    fn add(&self, sums: Sums) {
        add(&self.taken, sums.taken());
        add(&self.spent, sums.spent);
    }
}

/// Adds without wrapping: a sum that was reported absurdly large stays on the refusing side.
fn add(sum: &AtomicI64, amount: Nanos) {
    sum.update(Ordering::SeqCst, Ordering::SeqCst, |sum| {
        sum.saturating_add(amount.0)
    });
}

/// What is taken on these days from `first` on, but for one day.
fn others<'a>(days: impl Iterator<Item = &'a DayCell>, first: Day, but: Day) -> i64 {
    days.filter(|cell| cell.day >= first && cell.day != but)
        .fold(0, |sum, cell| sum.saturating_add(cell.taken()))
}

/// Why an amount does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// It does not.
    Final,
    /// It does not now, but something is on its way that may make room.
    Contended,
}

/// A cap over the days from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The first day that counts.
    pub first: Day,
    /// The most that may be taken on these days. What the asker itself has released but not yet
    /// appended is still in the sums, so it is added here.
    pub most: Nanos,
}

/// Amounts on their way, of everybody: releases that are not yet appended, and amounts that may be
/// taken back.
#[derive(Debug, Default)]
pub struct Moving {
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Moving {
    /// Something is on its way from now on.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// It has arrived.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// How many have begun, if nothing of others is on its way; `own` are the asker's.
    #[must_use]
    pub fn at_rest(&self, own: u32) -> Option<u32> {
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        (begun.wrapping_sub(ended) <= own).then_some(begun)
    }
}

/// Takes `amount` on the day `today`, if every limit allows it.
///
/// `others` sums up what is taken on all other days from a first one on. It looks anew each time:
/// somebody may begin the next day meanwhile. `own` is how many of the amounts on their way are the
/// asker's own.
pub fn take(
    others: impl Fn(Day) -> i64,
    moving: &Moving,
    own: u32,
    today: &DayCell,
    amount: Nanos,
    limits: &[Limit],
) -> Result<(), Full> {
    loop {
        // A refusal is final if nothing moved from before the sums were read until after.
        let rest = moving.at_rest(own);
        let before = today.taken.load(Ordering::SeqCst);
        let fits = |limit: &Limit| {
            let taken = others(limit.first).saturating_add(before);
            taken.saturating_add(amount.0) <= limit.most.0
        };
        if !limits.iter().all(fits) {
            let still = rest.is_some() && moving.at_rest(own) == rest;
            return Err(if still { Full::Final } else { Full::Contended });
        }
        let after = before.saturating_add(amount.0);
        moving.begin();
        let swapped =
            today
                .taken
                .compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst);
        if swapped.is_err() {
            moving.end();
            continue;
        }
        // Somebody in another day may have added at the same time: of two that add and then look,
        // at least one sees the other.
        fence(Ordering::SeqCst);
        let still = limits
            .iter()
            .all(|limit| others(limit.first).saturating_add(after) <= limit.most.0);
        if !still {
            today.taken.fetch_sub(amount.0, Ordering::SeqCst);
        }
        moving.end();
        return if still { Ok(()) } else { Err(Full::Contended) };
    }
}

/// Takes of two cells, the first of which is `moving`'s, or of neither: what the second refuses is
/// given back to the first, and is on its way until then. `first` is told how many of the amounts on
/// their way are the asker's own.
pub fn take_both(
    moving: &Moving,
    own: u32,
    first: impl FnOnce(u32) -> Result<(), Full>,
    second: impl FnOnce() -> Result<(), Full>,
    undo: impl FnOnce(),
) -> Result<(), Full> {
    moving.begin();
    let result = first(own + 1).and_then(|()| second().inspect_err(|_| undo()));
    moving.end();
    result
}

pub use whole::Cell;

mod whole {
    use super::{DAYS_KEPT, DayCell, Full, Limit, Moving, others, take};
    use crate::account::{Account, Sums};
    use arc_swap::ArcSwap;
    use persist::{Day, Nanos};
    use std::sync::Arc;

    #[derive(Debug, Default, Clone)]
    struct Days {
        /// Spent on days that are not kept any more.
        older: i64,
        list: Vec<Arc<DayCell>>,
    }

    /// The shared sums of one subject.
    #[derive(Debug, Default)]
    pub struct Cell {
        days: ArcSwap<Days>,
        moving: Moving,
    }

    impl Cell {
        /// What was taken from `first` on, as far as it is visible. Day 0 means since ever.
        #[must_use]
        pub fn since(&self, first: Day) -> Sums {
            let days = self.days.load();
            let (mut taken, mut spent) = if first == Day(0) {
                (days.older, days.older)
            } else {
                (0, 0)
            };
            for cell in days.list.iter().filter(|cell| cell.day >= first) {
                taken = taken.saturating_add(cell.taken());
                spent = spent.saturating_add(cell.spent());
            }
            Sums {
                spent: Nanos(spent),
                held: Nanos(taken.saturating_sub(spent)),
            }
        }

        /// Takes `amount` today, if every limit allows it; see [`take`].
        pub fn take(
            &self,
            today: Day,
            amount: Nanos,
            own: u32,
            limits: &[Limit],
        ) -> Result<(), Full> {
            self.with(today, |cell| {
                let others = |first| self.others(first, today);
                take(others, &self.moving, own, cell, amount, limits)
            })
        }

        /// What is taken from `first` on, but for one day.
        fn others(&self, first: Day, but: Day) -> i64 {
            let days = self.days.load();
            let older = if first == Day(0) { days.older } else { 0 };
            let list = days.list.iter().map(AsRef::as_ref);
            others(list, first, but).saturating_add(older)
        }

        /// Books a cost of which `held` was taken before.
        pub fn charge(&self, day: Day, cost: Nanos, held: Nanos) {
            self.with(day, |cell| cell.charge(cost, held));
        }

        /// Frees an amount: its release is in the log, or a second cell refused what was taken.
        pub fn release(&self, day: Day, amount: Nanos) {
            self.with(day, |cell| cell.release(amount));
        }

        /// What is on its way.
        #[must_use]
        pub const fn moving(&self) -> &Moving {
            &self.moving
        }

        /// Adds an account's sums, when the state is loaded.
        pub fn add(&self, account: &Account) {
            self.days.rcu(|days| Days {
                older: days.older.saturating_add(account.older().0),
                list: days.list.clone(),
            });
            for day in account.days() {
                self.with(day.day, |cell| cell.add(day.sums));
            }
        }

        fn with<T>(&self, day: Day, act: impl FnOnce(&DayCell) -> T) -> T {
            loop {
                let days = self.days.load();
                // Newest last: today is found at once.
                if let Some(cell) = days.list.iter().rev().find(|cell| cell.day == day) {
                    return act(cell);
                }
                drop(days);
                self.days.rcu(|days| days.with(day));
            }
        }
    }

    impl Days {
        /// These days and one more; those that no period reaches are added up, unless something is
        /// still held on them.
        fn with(&self, day: Day) -> Self {
            let mut next = self.clone();
            let at = next.list.partition_point(|cell| cell.day < day);
            if next.list.get(at).is_some_and(|cell| cell.day == day) {
                return next;
            }
            next.list
                .insert(at, Arc::new(DayCell::new(day, Sums::default())));
            let newest = next.list.last().map_or(day, |cell| cell.day);
            while let Some(oldest) = next
                .list
                .first()
                .filter(|cell| cell.day != day && cell.day.0.saturating_add(DAYS_KEPT) <= newest.0)
            {
                if oldest.taken() != oldest.spent() {
                    break;
                }
                next.older = next.older.saturating_add(oldest.taken());
                next.list.remove(0);
            }
            next
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TODAY: Day = Day(100);

    fn limit(first: u32, most: i64) -> Limit {
        Limit {
            first: Day(first),
            most: Nanos(most),
        }
    }

    #[test]
    fn an_amount_fits_if_every_limit_has_room_for_it() {
        let cell = Cell::default();
        cell.charge(Day(70), Nanos(5), Nanos::ZERO);
        assert_eq!(
            cell.take(TODAY, Nanos(6), 0, &[limit(100, 9), limit(70, 10)]),
            Err(Full::Final)
        );
        assert_eq!(
            cell.take(TODAY, Nanos(5), 0, &[limit(100, 9), limit(70, 10)]),
            Ok(())
        );
        assert_eq!(
            cell.since(Day(70)),
            Sums {
                spent: Nanos(5),
                held: Nanos(5)
            }
        );
        cell.release(TODAY, Nanos(2));
        cell.charge(TODAY, Nanos(4), Nanos(3));
        assert_eq!(
            cell.since(Day(0)),
            Sums {
                spent: Nanos(9),
                held: Nanos(0)
            }
        );
    }

    #[test]
    fn a_refusal_is_not_final_while_a_release_of_somebody_else_is_on_its_way() {
        let cell = Cell::default();
        cell.charge(TODAY, Nanos(10), Nanos::ZERO);
        cell.moving().begin();
        let limits = [limit(100, 10)];
        assert_eq!(cell.take(TODAY, Nanos(1), 0, &limits), Err(Full::Contended));
        assert_eq!(cell.take(TODAY, Nanos(1), 1, &limits), Err(Full::Final));
    }

    #[test]
    fn a_lifetime_counts_days_that_are_not_kept() {
        let cell = Cell::default();
        for day in 0..200 {
            cell.charge(Day(day), Nanos(1), Nanos::ZERO);
        }
        assert_eq!(cell.since(Day(0)).spent, Nanos(200));
        assert_eq!(cell.since(Day(190)).spent, Nanos(10));
        assert_eq!(
            cell.take(Day(200), Nanos(2), 0, &[limit(0, 201)]),
            Err(Full::Final)
        );
        assert_eq!(cell.take(Day(200), Nanos(1), 0, &[limit(0, 201)]), Ok(()));
    }

    #[test]
    fn a_day_is_kept_as_long_as_something_is_held_on_it() {
        let cell = Cell::default();
        assert_eq!(cell.take(Day(100), Nanos(5), 0, &[]), Ok(()));
        cell.charge(Day(200), Nanos(1), Nanos::ZERO);
        let sums = |spent, held| Sums {
            spent: Nanos(spent),
            held: Nanos(held),
        };
        assert_eq!(cell.since(Day(0)), sums(1, 5));
        cell.charge(Day(100), Nanos(3), Nanos(3));
        cell.release(Day(100), Nanos(2));
        assert_eq!(cell.since(Day(0)), sums(4, 0));
        cell.charge(Day(201), Nanos(1), Nanos::ZERO);
        assert_eq!(cell.since(Day(0)), sums(5, 0));
        assert_eq!(cell.since(Day(200)), sums(2, 0));
    }

    #[test]
    fn absurd_sums_stay_on_the_refusing_side() {
        let cell = Cell::default();
        for day in 100..103 {
            for _ in 0..3 {
                cell.charge(Day(day), Nanos::MAX, Nanos::ZERO);
            }
        }
        assert_eq!(cell.since(Day(0)).spent, Nanos::MAX);
        let limits = [limit(100, i64::MAX - 1)];
        assert_eq!(cell.take(Day(103), Nanos(1), 0, &limits), Err(Full::Final));
    }

    #[test]
    fn threads_that_take_at_once_never_take_more_than_the_cap() {
        let cell = Cell::default();
        let taken: i64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u32)
                .map(|n| {
                    let cell = &cell;
                    scope.spawn(move || {
                        let day = Day(100 + n % 2);
                        let mut taken = 0;
                        for _ in 0..20_000 {
                            if cell.take(day, Nanos(1), 0, &[limit(100, 30_000)]).is_ok() {
                                taken += 1;
                            }
                        }
                        taken
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!(taken <= 30_000, "{taken}");
        assert_eq!(cell.since(TODAY).held, Nanos(taken));
    }
}

#[cfg(all(test, loom))]
mod model;
