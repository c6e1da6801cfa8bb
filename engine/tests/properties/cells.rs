//! A shared cell, used by one at a time, beside a map of days.

use engine::cell::{Cell, Full, Limit};
use persist::{Day, Nanos};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    Wait(u32),
    /// An amount, and limits: how many days back they reach (more than a hundred: for ever), and
    /// how much is allowed.
    Take(i64, Vec<(u32, i64)>),
    /// The n-th amount taken is charged: so much of it, so much is spent.
    Charge(usize, i64, i64),
    Release(usize),
    /// Something of somebody else is on its way while an amount is asked for.
    TakeMeanwhile(i64, i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let limits = proptest::collection::vec((0..110_u32, 0..300_i64), 0..4);
    let step = prop_oneof![
        2 => (0..20_u32).prop_map(Step::Wait),
        6 => (0..100_i64, limits).prop_map(|(amount, limits)| Step::Take(amount, limits)),
        3 => (any::<usize>(), 0..60_i64, 0..60_i64).prop_map(|(n, held, cost)| Step::Charge(n, held, cost)),
        3 => any::<usize>().prop_map(Step::Release),
        1 => (0..100_i64, 0..300_i64).prop_map(|(amount, most)| Step::TakeMeanwhile(amount, most)),
    ];
    proptest::collection::vec(step, 1..120)
}

/// By day: taken and spent.
#[derive(Default)]
struct Reference(BTreeMap<u32, (i64, i64)>);

impl Reference {
    fn since(&self, first: u32) -> (i64, i64) {
        let days = self.0.range(first..).map(|(_, sums)| *sums);
        days.fold((0, 0), |all, day| (all.0 + day.0, all.1 + day.1))
    }

    fn fits(&self, amount: i64, limits: &[Limit]) -> bool {
        let mut limits = limits.iter();
        limits.all(|limit| self.since(limit.first.0).0 + amount <= limit.most.0)
    }

    fn add(&mut self, day: u32, taken: i64, spent: i64) {
        let sums = self.0.entry(day).or_default();
        *sums = (sums.0 + taken, sums.1 + spent);
    }
}

proptest! {
    #[test]
    fn a_cell_gives_what_a_map_of_days_would_give(steps in steps()) {
        let (cell, mut reference) = (Cell::default(), Reference::default());
        let (mut today, mut open) = (1000_u32, Vec::new());
        for step in steps {
            match step {
                Step::Wait(days) => {
                    today += days;
                    // No hold gets so old that its day is not kept.
                    open.retain(|(day, _): &(u32, i64)| day + 60 > today);
                }
                Step::Take(amount, limits) => {
                    let limits: Vec<_> = limits
                        .into_iter()
                        .map(|(back, most)| Limit {
                            first: Day(if back > 60 { 0 } else { today - back }),
                            most: Nanos(most),
                        })
                        .collect();
                    let expected = reference.fits(amount, &limits);
                    let taken = cell.take(Day(today), Nanos(amount), 0, &limits);
                    prop_assert_eq!(taken, if expected { Ok(()) } else { Err(Full::Final) });
                    if expected {
                        reference.add(today, amount, 0);
                        open.push((today, amount));
                    }
                }
                Step::TakeMeanwhile(amount, most) => {
                    let limits = [Limit { first: Day(today), most: Nanos(most) }];
                    cell.moving().begin();
                    let expected = reference.fits(amount, &limits);
                    let taken = cell.take(Day(today), Nanos(amount), 0, &limits);
                    prop_assert_eq!(taken, if expected { Ok(()) } else { Err(Full::Contended) });
                    cell.moving().end();
                    if expected {
                        reference.add(today, amount, 0);
                        open.push((today, amount));
                    }
                }
                Step::Charge(n, held, cost) if !open.is_empty() => {
                    let n = n % open.len();
                    let (day, left) = open[n];
                    let held = held.min(left);
                    open[n].1 -= held;
                    cell.charge(Day(day), Nanos(cost), Nanos(held));
                    reference.add(day, cost - held, cost);
                }
                Step::Release(n) if !open.is_empty() => {
                    let (day, left) = open.swap_remove(n % open.len());
                    cell.release(Day(day), Nanos(left));
                    reference.add(day, -left, 0);
                }
                Step::Charge(..) | Step::Release(_) => {}
            }
            for first in today - 60..=today + 1 {
                let sums = cell.since(Day(first));
                prop_assert_eq!((sums.taken().0, sums.spent.0), reference.since(first));
            }
            prop_assert_eq!(cell.since(Day(0)).taken().0, reference.since(0).0);
        }
    }
}
