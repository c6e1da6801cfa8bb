//! Accounts beside a map of days.

use engine::account::{Account, Sums};
use persist::{Day, Nanos};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Step {
    /// Time goes on by so many days.
    Wait(u32),
    /// A hold is made today.
    Hold(i64),
    /// A cost without a hold is booked today.
    Spend(i64),
    /// The n-th open hold is charged: so much comes off it, so much is spent.
    Charge(usize, i64, i64),
    /// The n-th open hold ends.
    End(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..50_u32).prop_map(Step::Wait),
        4 => (0..100_i64).prop_map(Step::Hold),
        3 => (1..100_i64).prop_map(Step::Spend),
        3 => (any::<usize>(), 0..60_i64, 0..60_i64).prop_map(|(n, held, cost)| Step::Charge(n, held, cost)),
        3 => any::<usize>().prop_map(Step::End),
    ];
    proptest::collection::vec(step, 1..120)
}

#[derive(Default)]
struct Reference(BTreeMap<u32, (i64, i64)>);

impl Reference {
    fn since(&self, first: u32) -> Sums {
        let days = self.0.range(first..).map(|(_, sums)| *sums);
        let (spent, held) = days.fold((0, 0), |all, day| (all.0 + day.0, all.1 + day.1));
        Sums {
            spent: Nanos(spent),
            held: Nanos(held),
        }
    }
}

proptest! {
    #[test]
    fn an_account_says_of_every_period_what_a_map_of_days_says(steps in steps()) {
        let (mut account, mut reference) = (Account::default(), Reference::default());
        let (mut today, mut open) = (1000_u32, Vec::new());
        for step in steps {
            match step {
                Step::Wait(days) => today += days,
                Step::Hold(amount) => {
                    open.push((today, amount));
                    account.hold(Day(today), Nanos(amount));
                    reference.0.entry(today).or_default().1 += amount;
                }
                Step::Spend(cost) => {
                    account.spend(Day(today), Nanos(cost));
                    reference.0.entry(today).or_default().0 += cost;
                }
                Step::Charge(n, held, cost) if !open.is_empty() => {
                    let n = n % open.len();
                    let (day, left) = open[n];
                    let held = held.min(left);
                    open[n].1 -= held;
                    account.hold(Day(day), Nanos(-held));
                    account.spend(Day(day), Nanos(cost));
                    let sums = reference.0.entry(day).or_default();
                    *sums = (sums.0 + cost, sums.1 - held);
                }
                Step::End(n) if !open.is_empty() => {
                    let (day, left) = open.swap_remove(n % open.len());
                    account.hold(Day(day), Nanos(-left));
                    reference.0.entry(day).or_default().1 -= left;
                }
                Step::Charge(..) | Step::End(_) => {}
            }
            // A month is the longest period, and a lifetime reaches back to the beginning.
            for first in (today - 31..=today + 1).chain([0]) {
                prop_assert_eq!(account.since(Day(first)), reference.since(first), "from {}", first);
            }
            let again = Account::from_parts(account.days().iter().copied(), account.older());
            prop_assert_eq!(again, account.clone());
        }
    }
}
