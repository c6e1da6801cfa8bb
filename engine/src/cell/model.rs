//! The cell for `loom`, which tries every order in which threads may meet. What runs here is what
//! the engine runs: `take`, `take_both`, and a day's `charge` and `release`. Only the list of days
//! (an `ArcSwap`, which loom does not know) is replaced, by two days of which the second begins when
//! somebody first takes on it.

use super::*;
use loom::sync::Arc;
use loom::thread;

struct Subject {
    days: [DayCell; 2],
    /// How many of the days there are yet.
    begun_days: AtomicU32,
    moving: Moving,
}

const YESTERDAY: usize = 0;
const TODAY: usize = 1;

impl Subject {
    /// With so much held yesterday.
    fn with(held: i64) -> Arc<Self> {
        let sums = |held| Sums {
            held: Nanos(held),
            ..Sums::default()
        };
        Arc::new(Self {
            days: [
                DayCell::new(Day(1), sums(held)),
                DayCell::new(Day(2), sums(0)),
            ],
            begun_days: AtomicU32::new(1),
            moving: Moving {
                begun: AtomicU32::new(0),
                ended: AtomicU32::new(0),
            },
        })
    }

    fn take(&self, day: usize, amount: i64, most: i64) -> Result<(), Full> {
        self.take_with(0, day, amount, most)
    }

    fn take_with(&self, own: u32, day: usize, amount: i64, most: i64) -> Result<(), Full> {
        let limit = Limit {
            first: Day(1),
            most: Nanos(most),
        };
        if day == TODAY {
            self.begun_days.fetch_max(2, Ordering::SeqCst);
        }
        let today = &self.days[day];
        let others = |first| {
            let begun = self.begun_days.load(Ordering::SeqCst);
            others(self.days.iter().take(begun as usize), first, today.day)
        };
        take(others, &self.moving, own, today, Nanos(amount), &[limit])
    }

    /// Frees what was held, as a pump does whose release is in the log; it has begun before.
    fn release(&self, day: usize, amount: i64) {
        self.days[day].release(Nanos(amount));
        self.moving.end();
    }

    fn taken(&self) -> i64 {
        self.days.iter().map(DayCell::taken).sum()
    }
}

/// Takes 1 of an org and of a key.
fn both(
    org: &Subject,
    org_most: i64,
    key: &Subject,
    key_most: i64,
    day: usize,
) -> Result<(), Full> {
    take_both(
        &org.moving,
        0,
        |own| org.take_with(own, day, 1, org_most),
        || key.take(day, 1, key_most),
        || org.days[day].release(Nanos(1)),
    )
}

const fn got(result: Result<(), Full>, amount: i64) -> i64 {
    if result.is_ok() { amount } else { 0 }
}

/// Every order of three threads is too many: those with so many forced changes of thread.
const SWITCHES: usize = 2;

fn model_of_three(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(SWITCHES);
    model.check(run);
}

/// Two threads take at once; what both got never passes the cap, and what is left in the cell is
/// what they got.
fn two_take(days: (usize, usize), amounts: (i64, i64), most: i64) {
    loom::model(move || {
        let cell = Subject::with(0);
        let other = Arc::clone(&cell);
        let there = thread::spawn(move || other.take(days.1, amounts.1, most));
        let here = cell.take(days.0, amounts.0, most);
        let there = there.join().unwrap();
        let taken = got(here, amounts.0) + got(there, amounts.1);
        assert!(taken <= most);
        assert_eq!(cell.taken(), taken);
        // Nobody is refused for good because of an amount that was taken back.
        if here.is_err() && there.is_err() {
            assert!(here == Err(Full::Contended) || there == Err(Full::Contended));
        }
    });
}

#[test]
fn two_reservations_of_one_day_never_pass_the_cap() {
    two_take((YESTERDAY, YESTERDAY), (3, 2), 4);
}

#[test]
fn two_reservations_across_midnight_never_pass_the_cap() {
    two_take((YESTERDAY, TODAY), (3, 2), 4);
}

#[test]
fn two_reservations_that_both_fit_are_both_granted() {
    loom::model(|| {
        let cell = Subject::with(1);
        let other = Arc::clone(&cell);
        let there = thread::spawn(move || other.take(TODAY, 2, 5));
        assert_eq!(cell.take(YESTERDAY, 2, 5), Ok(()));
        assert_eq!(there.join().unwrap(), Ok(()));
        assert_eq!(cell.taken(), 5);
    });
}

/// A release of yesterday's 3 of 4 beside somebody who takes 2 of a cap of 4.
fn release_beside_take(day: usize) {
    loom::model(move || {
        let cell = Subject::with(4);
        cell.moving.begin();
        let other = Arc::clone(&cell);
        let release = thread::spawn(move || other.release(YESTERDAY, 3));
        let asked = cell.take(day, 2, 4);
        assert!(
            asked != Err(Full::Final),
            "a refusal for what was being released"
        );
        release.join().unwrap();
        assert_eq!(cell.taken(), 1 + got(asked, 2));
    });
}

#[test]
fn a_release_is_seen_whole_or_not_at_all_and_never_refuses_for_good() {
    release_beside_take(YESTERDAY);
}

#[test]
fn a_release_of_yesterday_never_refuses_today_for_good() {
    release_beside_take(TODAY);
}

/// A charge of `cost` on a hold of 4 that then ends, beside somebody who takes 1 of a cap of 4.
fn charge_beside_take(day: usize, cost: i64) {
    loom::model(move || {
        let cell = Subject::with(4);
        cell.moving.begin();
        let other = Arc::clone(&cell);
        let charge = thread::spawn(move || {
            let from_hold = cost.min(4);
            other.days[YESTERDAY].charge(Nanos(cost), Nanos(from_hold));
            // One thread sees its own charge at once, whoever else moves.
            assert!(other.taken() >= 4.max(cost));
            other.release(YESTERDAY, 4 - from_hold);
        });
        let asked = cell.take(day, 1, 4);
        charge.join().unwrap();
        // Exact in the end, whoever came first.
        assert_eq!(cell.taken(), cost + got(asked, 1));
        assert_eq!(cell.days[YESTERDAY].spent(), cost);
        if cost < 4 {
            assert!(
                asked != Err(Full::Final),
                "a refusal for what was being freed"
            );
            assert_eq!(cell.take(day, 3 - cost, 4), Ok(()));
        } else {
            assert!(asked.is_err(), "there never was room");
            assert_eq!(cell.take(day, 1, 4), Err(Full::Final));
        }
    });
}

#[test]
fn a_charge_within_its_hold_frees_the_rest_and_nobody_is_refused_for_good_meanwhile() {
    charge_beside_take(YESTERDAY, 2);
}

#[test]
fn a_charge_on_yesterdays_hold_frees_the_rest_for_today() {
    charge_beside_take(TODAY, 2);
}

#[test]
fn a_charge_beyond_its_hold_is_booked_in_full_beside_a_reservation() {
    charge_beside_take(YESTERDAY, 6);
    charge_beside_take(TODAY, 6);
}

#[test]
fn a_charge_without_a_hold_counts_beside_a_reservation_that_found_room() {
    for day in [YESTERDAY, TODAY] {
        loom::model(move || {
            let cell = Subject::with(0);
            let other = Arc::clone(&cell);
            let charge = thread::spawn(move || {
                other.days[YESTERDAY].charge(Nanos(4), Nanos::ZERO);
            });
            let asked = cell.take(day, 1, 4);
            charge.join().unwrap();
            assert_eq!(cell.taken(), 4 + got(asked, 1));
            assert_eq!(cell.take(day, 1, 4), Err(Full::Final));
        });
    }
}

#[test]
fn two_cells_taken_in_order_and_undone_leave_nothing_behind() {
    loom::model(|| {
        let (org, key) = (Subject::with(0), Subject::with(0));
        let (org2, key2) = (Arc::clone(&org), Arc::clone(&key));
        let there = thread::spawn(move || both(&org2, 2, &key2, 1, YESTERDAY));
        let here = both(&org, 2, &key, 1, YESTERDAY);
        let granted = got(here, 1) + got(there.join().unwrap(), 1);
        assert_eq!(granted, 1);
        assert_eq!((org.taken(), key.taken()), (1, 1));
    });
}

/// What a second cell refuses is taken back from yesterday, beside somebody who takes of the org.
fn undo_beside_take(day: usize) {
    loom::model(move || {
        let (org, key) = (Subject::with(0), Subject::with(1));
        let other = Arc::clone(&org);
        let there = thread::spawn(move || both(&other, 1, &key, 1, YESTERDAY));
        let here = org.take(day, 1, 1);
        assert!(there.join().unwrap().is_err(), "its key never had room");
        assert!(
            here != Err(Full::Final),
            "a refusal for what was taken back"
        );
        assert_eq!(org.taken(), got(here, 1));
    });
}

#[test]
fn an_undo_never_refuses_another_reservation_for_good() {
    undo_beside_take(YESTERDAY);
}

#[test]
fn an_undo_of_yesterday_never_refuses_today_for_good() {
    undo_beside_take(TODAY);
}

/// Two who take 2 each of a cap of 4, of which 3 are being released: at most one gets it before.
fn two_take_beside_release(days: (usize, usize)) {
    model_of_three(move || {
        let cell = Subject::with(4);
        cell.moving.begin();
        let (second, third) = (Arc::clone(&cell), Arc::clone(&cell));
        let release = thread::spawn(move || second.release(YESTERDAY, 3));
        let there = thread::spawn(move || third.take(days.1, 2, 4));
        let here = cell.take(days.0, 2, 4);
        release.join().unwrap();
        let there = there.join().unwrap();
        let taken = got(here, 2) + got(there, 2);
        assert!(taken <= 3);
        assert_eq!(cell.taken(), 1 + taken);
        // One of them may be refused for good, for what the other got.
        if taken == 0 {
            assert!(here != Err(Full::Final) || there != Err(Full::Final));
        }
    });
}

#[test]
fn two_reservations_beside_a_release_share_what_it_frees() {
    two_take_beside_release((YESTERDAY, YESTERDAY));
}

#[test]
fn two_reservations_across_midnight_beside_a_release_share_what_it_frees() {
    two_take_beside_release((YESTERDAY, TODAY));
}
