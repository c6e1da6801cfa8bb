//! What happened, booked: costs, overage, lateness, duplicates, and the end of a span.

use super::desk::{Desk, KEY, ORG, WORKFLOW, cents, event, tenths};
use engine::account::Sums;
use engine::command::{Tracked, Transition};
use persist::record::{ChargeFlags, EndReason, Record, Tokens};
use persist::{HoldId, KeyId, Millis, Nanos, OrgId, WorkflowId};

/// Flags, period-independent figures and hold of every charge so far.
fn charges(desk: &Desk) -> Vec<(WorkflowId, KeyId, Option<HoldId>, Nanos, Nanos, ChargeFlags)> {
    let mut all = Vec::new();
    desk.records(|record| {
        if let Record::Charged(c) = record {
            all.push((c.workflow, c.payer, c.hold, c.cost, c.from_hold, c.flags));
        }
    });
    all
}

#[test]
fn a_charge_comes_off_its_hold() {
    let mut desk = Desk::new();
    let hold = desk.allowed(|ask| ask.estimated_tokens = 30_000);
    for (tenth, left) in [(10, cents(2)), (15, Nanos(5_000_000))] {
        let tracked = desk.track(|event| {
            event.holds[0] = Some(hold);
            event.tokens = tenths(tenth);
        });
        assert_eq!(tracked.overage, Some(Nanos::ZERO));
        assert_eq!(desk.left(hold), Some(left));
    }
    assert_eq!(desk.books(), (Nanos(25_000_000), Nanos(5_000_000)));
    desk.cancel(ORG, hold);
    assert_eq!(desk.books(), (Nanos(25_000_000), Nanos::ZERO));
}

#[test]
fn a_charge_over_its_hold_is_booked_in_full_and_flagged() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(2)));
    let hold = desk.allowed(|_| {});
    let tracked = desk.track(|event| {
        event.holds[0] = Some(hold);
        event.tokens = tenths(30);
    });
    let expected = Tracked {
        duplicate: false,
        cost: cents(3),
        provisional: false,
        overage: Some(cents(2)),
        workflow: WORKFLOW,
        state: persist::record::State::Normal,
    };
    assert_eq!(tracked, expected);
    assert_eq!(desk.books(), (cents(3), Nanos::ZERO));
    let overage = ChargeFlags::OVERAGE;
    assert_eq!(
        charges(&desk),
        [(WORKFLOW, KEY, Some(hold), cents(3), cents(1), overage)]
    );
    // What does not fit is debt, and blocks.
    assert_eq!(desk.workflow().remaining(), Some(cents(-1)));
    desk.refused(|_| {});
}

#[test]
fn a_charge_after_its_hold_is_over_is_booked_on_the_workflow_it_names() {
    let mut desk = Desk::new();
    let own = desk.add_workflow(None);
    let hold = desk.allowed(|_| {});
    desk.wait(300_000);
    let tracked = desk.track(|event| {
        event.holds[0] = Some(hold);
        event.workflow = own;
        event.tokens = tenths(4);
    });
    assert_eq!((tracked.workflow, tracked.overage), (own, None));
    let late = ChargeFlags::NO_HOLD;
    assert_eq!(
        charges(&desk),
        [(own, KEY, None, Nanos(4_000_000), Nanos::ZERO, late)]
    );
}

#[test]
fn a_charge_with_a_hold_is_booked_where_the_hold_is_and_on_its_key() {
    let mut desk = Desk::new();
    let (second, key) = (desk.add_workflow(None), desk.add_key(None, None));
    let hold = desk.allowed(|ask| (ask.workflow, ask.key) = (second, key));
    let tracked = desk.track(|event| {
        // The first that is open counts, of those of one shard.
        let gone = HoldId::mint(Millis(7), hold.slot(), 7);
        event.holds = [Some(gone), Some(hold)];
        event.tokens = tenths(4);
    });
    assert_eq!(tracked.workflow, second);
    let (cost, none) = (Nanos(4_000_000), ChargeFlags::default());
    assert_eq!(
        charges(&desk),
        [(second, key, Some(hold), cost, cost, none)]
    );
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn a_hold_of_another_org_is_neither_charged_nor_ended() {
    let mut desk = Desk::new();
    let (org, workflow, key) = (OrgId(50), WorkflowId(51), KeyId(52));
    desk.sign_up(org, workflow, key);
    let theirs = desk.allowed(|ask| (ask.org, ask.workflow, ask.key) = (org, workflow, key));
    let tracked = desk.track(|event| {
        event.holds[0] = Some(theirs);
        event.ends = Some(theirs);
        event.tokens = tenths(5);
    });
    assert_eq!((tracked.workflow, tracked.overage), (WORKFLOW, None));
    assert_eq!(desk.left(theirs), Some(cents(1)));
    assert_eq!(desk.org(org).sums.spent, Nanos::ZERO);
    assert_eq!(desk.org(ORG).sums.spent, Nanos(5_000_000));
}

#[test]
fn spend_is_booked_whatever_the_state_of_the_workflow() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(Nanos::ZERO));
    desk.set_state(Transition::Kill);
    let tracked = desk.track(|event| event.tokens = tenths(50));
    assert_eq!(tracked.cost, cents(5));
    assert_eq!(desk.books(), (cents(5), Nanos::ZERO));
    assert!(charges(&desk)[0].5.has(ChargeFlags::NOT_NORMAL));
}

#[test]
fn an_unknown_price_is_a_provisional_one_and_marked() {
    let mut desk = Desk::new();
    for model in [Some("never-heard-of-it"), None] {
        let tracked = desk.track(|event| {
            event.model = model.map(str::to_owned);
            event.tokens = tenths(1);
        });
        assert_eq!(
            (tracked.cost, tracked.provisional),
            (Nanos(9_000_000), true)
        );
    }
    // No tokens, no guess.
    let tracked = desk.track(|event| event.model = None);
    assert_eq!((tracked.cost, tracked.provisional), (Nanos::ZERO, false));
    let marked = charges(&desk);
    let marked: Vec<_> = marked
        .iter()
        .map(|c| c.5.has(ChargeFlags::PROVISIONAL))
        .collect();
    assert_eq!(marked, [true, true, false]);
    assert_eq!(desk.books().0, Nanos(18_000_000));
}

#[test]
fn an_event_with_an_id_counts_once_and_without_one_every_time() {
    let mut desk = Desk::new();
    let named = |key| {
        event(|event| {
            event.event_key = Some(key);
            event.tokens = tenths(1);
        })
    };
    // In one batch, in the next, and in between.
    let tracked = desk.track_all(vec![named(1), named(1), named(2)]);
    let duplicates: Vec<_> = tracked.iter().map(|t| t.duplicate).collect();
    assert_eq!(duplicates, [false, true, false]);
    let tracked = desk.track_all(vec![named(2), named(3)]);
    assert_eq!((tracked[0].duplicate, tracked[0].cost), (true, Nanos::ZERO));
    assert_eq!(desk.books().0, Nanos(3_000_000));
    for _ in 0..3 {
        desk.track(|event| event.tokens = tenths(1));
    }
    assert_eq!(desk.books().0, Nanos(6_000_000));
}

#[test]
fn the_end_of_the_outermost_span_releases_what_its_own_charge_leaves() {
    let mut desk = Desk::new();
    let hold = desk.allowed(|ask| ask.estimated_tokens = 20_000);
    let ends = |event: &mut engine::command::Reported| {
        event.kind = "span_end".to_owned();
        event.event_key = Some(9);
        event.holds[0] = Some(hold);
        event.ends = Some(hold);
        event.tokens = tenths(5);
    };
    assert_eq!(desk.track(ends).overage, Some(Nanos::ZERO));
    assert_eq!(desk.books(), (Nanos(5_000_000), Nanos::ZERO));
    assert!(desk.track(ends).duplicate);
    let mut ends = Vec::new();
    desk.records(|record| {
        if let Record::HoldEnded(ended) = record {
            ends.push((ended.hold, ended.reason, ended.released));
        }
    });
    assert_eq!(ends, [(hold, EndReason::SpanEnd, Nanos(15_000_000))]);
}

#[test]
fn the_end_of_a_span_that_was_counted_already_still_ends_its_hold() {
    let mut desk = Desk::new();
    let span_end = |hold| {
        event(|event| {
            event.event_key = Some(9);
            event.ends = hold;
        })
    };
    desk.track_all(vec![span_end(None)]);
    let hold = desk.allowed(|_| {});
    assert!(desk.track_all(vec![span_end(Some(hold))])[0].duplicate);
    assert_eq!(desk.left(hold), None);
}

#[test]
fn ten_thousand_small_events_add_up_to_the_nano_dollar() {
    let mut desk = Desk::new();
    let small = || {
        event(|event| {
            event.tokens = Tokens {
                total: 47,
                ..Tokens::default()
            };
        })
    };
    for _ in 0..100 {
        desk.track_all((0..100).map(|_| small()).collect());
    }
    let org = desk.org(ORG);
    assert_eq!(org.sums.spent, Nanos(470_000_000));
    assert_eq!(desk.books().0, Nanos(470_000_000));
    let sums = Sums {
        spent: Nanos(470_000_000),
        held: Nanos::ZERO,
    };
    assert_eq!(org.keys, [(KEY, sums)]);
}
