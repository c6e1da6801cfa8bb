//! What calls of unknown size hold, once the gateway has seen what they cost.

use super::desk::{Desk, ORG, WORKFLOW, cents, event, in_chain, tenths};
use engine::manage::WorkflowPatch;
use persist::Nanos;

/// Calls of the model cost so many tenths of a cent.
fn learn(desk: &mut Desk, model: Option<&str>, n: u64) {
    desk.track(|event| {
        event.model = model.map(str::to_owned);
        event.tokens = tenths(n);
    });
}

/// What an undeclared call of the model holds.
fn held(desk: &mut Desk, model: Option<&str>) -> Nanos {
    let hold = desk.allowed(|ask| ask.model = model.map(str::to_owned));
    let left = desk.left(hold).unwrap();
    desk.cancel(ORG, hold);
    left
}

#[test]
fn a_call_of_unknown_size_holds_what_such_calls_cost_and_the_floor_at_least() {
    let mut desk = Desk::new();
    assert_eq!(held(&mut desk, Some("small")), cents(1));
    learn(&mut desk, Some("small"), 30);
    assert_eq!(held(&mut desk, Some("SMALL")), cents(3));
    // Another model is not known yet; a call that names none is like the others.
    assert_eq!(held(&mut desk, Some("other")), cents(1));
    assert_eq!(held(&mut desk, None), cents(3));
    // Cheap calls bring it down, not below the floor.
    for _ in 0..300 {
        learn(&mut desk, Some("small"), 1);
    }
    assert_eq!(held(&mut desk, Some("small")), cents(1));
}

#[test]
fn one_dear_call_moves_the_estimate_a_little_and_many_a_lot() {
    let mut desk = Desk::new();
    for _ in 0..10 {
        learn(&mut desk, Some("small"), 30);
    }
    learn(&mut desk, Some("small"), 3000);
    let after_one = held(&mut desk, Some("small"));
    assert!(after_one > cents(3) && after_one < cents(4), "{after_one}");
    for _ in 0..100 {
        learn(&mut desk, Some("small"), 3000);
    }
    assert_eq!(held(&mut desk, Some("small")), cents(300));
}

#[test]
fn what_is_learned_in_one_workflow_says_nothing_of_another() {
    let mut desk = Desk::new();
    let other = desk.add_workflow(None);
    learn(&mut desk, Some("small"), 30);
    let hold = desk.allowed(|ask| {
        ask.workflow = other;
        ask.key = super::desk::KEY;
    });
    assert_eq!(desk.left(hold), Some(cents(1)));
}

#[test]
fn a_learned_size_never_refuses_the_last_cents() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(10)));
    learn(&mut desk, Some("small"), 85);
    assert_eq!(held(&mut desk, Some("small")), Nanos(15_000_000));
    let last = desk.allowed(|_| {});
    assert_eq!(desk.left(last), Some(Nanos(15_000_000)));
    assert_eq!(desk.workflow().remaining(), Some(Nanos::ZERO));
    desk.refused(|_| {});
    desk.cancel(ORG, last);
    desk.track(|event| event.tokens = tenths(14));
    desk.track_all(vec![event(|event| event.tokens.input = 999)]);
    // A thousand nano-dollars are left.
    let hold = desk.allowed(|_| {});
    assert_eq!(desk.left(hold), Some(Nanos(1000)));
}

#[test]
fn a_learned_size_respects_the_cap_on_one_call_and_on_the_chain() {
    let mut desk = Desk::new();
    learn(&mut desk, Some("small"), 85);
    let hold = desk.allowed(in_chain("run", Some(cents(10))));
    assert_eq!(desk.left(hold), Some(Nanos(85_000_000)));
    let hold = desk.allowed(in_chain("run", None));
    assert_eq!(desk.left(hold), Some(Nanos(15_000_000)));
    desk.patch_workflow(WorkflowPatch {
        max_per_call: Some(Some(cents(2))),
        ..WorkflowPatch::default()
    });
    assert_eq!(held(&mut desk, Some("small")), cents(2));
}

#[test]
fn a_declared_call_is_not_learned_about_and_free_events_teach_nothing() {
    let mut desk = Desk::new();
    learn(&mut desk, Some("small"), 30);
    for _ in 0..100 {
        desk.track(|event| event.workflow = WORKFLOW);
    }
    assert_eq!(held(&mut desk, Some("small")), cents(3));
    let hold = desk.allowed(|ask| ask.max_output_tokens = Some(0));
    assert_eq!(desk.left(hold), Some(Nanos::ZERO));
}
