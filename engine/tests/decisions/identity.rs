//! The same request again, reservations, and answers that nobody got.

use super::desk::{Desk, KEY, ORG, cents, operation};
use engine::code::Code;
use engine::command::{Command, Verdict};
use persist::record::Endpoint;
use persist::{HoldId, KeyId, Nanos, OrgId, WorkflowId};

const GATE: Endpoint = Endpoint::Gate;
const EXECUTE: Endpoint = Endpoint::Execute;

#[test]
fn the_same_request_again_gets_the_same_hold_and_nothing_more_is_held() {
    let mut desk = Desk::new();
    let hold = desk.allowed(operation(GATE, "op", 1));
    for _ in 0..3 {
        let again = desk.ask(operation(GATE, "op", 1)).verdict;
        let Verdict::Allow {
            hold: Some(same),
            replayed: true,
        } = again
        else {
            panic!("{again:?}");
        };
        assert_eq!(same, hold);
    }
    assert_eq!(desk.books(), (Nanos::ZERO, cents(1)));
}

#[test]
fn the_same_operation_with_other_contents_is_refused_while_its_hold_is_open() {
    let mut desk = Desk::new();
    let hold = desk.allowed(operation(GATE, "op", 1));
    let block = desk.refused(operation(GATE, "op", 2));
    assert_eq!(block.code, Code::IdempotencyKeyMismatch);
    // Once the hold has ended it is a new question, whatever it says.
    desk.cancel(ORG, hold);
    let next = desk.allowed(operation(GATE, "op", 2));
    assert_ne!(next, hold);
}

#[test]
fn an_operation_is_a_new_question_once_its_hold_is_over() {
    let mut desk = Desk::new();
    let first = desk.allowed(operation(GATE, "op", 1));
    desk.wait(299_999);
    assert_eq!(desk.allowed(operation(GATE, "op", 1)), first);
    desk.wait(1);
    assert_ne!(desk.allowed(operation(GATE, "op", 1)), first);
    assert_eq!(desk.books(), (Nanos::ZERO, cents(1)));
}

#[test]
fn a_gate_and_an_execute_of_one_operation_are_two_decisions() {
    let mut desk = Desk::new();
    let gate = desk.allowed(operation(GATE, "op", 1));
    let execute = desk.allowed(operation(EXECUTE, "op", 2));
    assert_ne!(gate, execute);
    assert_eq!(desk.allowed(operation(GATE, "op", 1)), gate);
    assert_eq!(desk.allowed(operation(EXECUTE, "op", 2)), execute);
}

#[test]
fn a_refusal_is_not_remembered() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(Nanos::ZERO));
    desk.refused(operation(GATE, "op", 1));
    desk.cap_workflow(Some(cents(5)));
    desk.allowed(operation(GATE, "op", 1));
}

#[test]
fn without_an_operation_every_request_is_new() {
    let mut desk = Desk::new();
    assert_ne!(desk.allowed(|_| {}), desk.allowed(|_| {}));
    assert_eq!(desk.books(), (Nanos::ZERO, cents(2)));
}

#[test]
fn an_execute_on_a_live_reservation_runs_on_that_hold() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(1)));
    let hold = desk.allowed(operation(GATE, "op", 1));
    let execute = |ask: &mut engine::command::Ask| {
        operation(EXECUTE, "op", 2)(ask);
        ask.reservation = Some(hold);
    };
    assert_eq!(desk.allowed(execute), hold);
    let again = desk.ask(execute).verdict;
    assert!(
        matches!(again, Verdict::Allow { replayed: true, .. }),
        "{again:?}"
    );
    assert_eq!(desk.books(), (Nanos::ZERO, cents(1)));
}

#[test]
fn a_reservation_of_another_key_workflow_or_org_is_no_reservation() {
    let mut desk = Desk::new();
    let workflow = desk.add_workflow(None);
    let key = desk.add_key(None, None);
    let (org, theirs, their_key) = (OrgId(50), WorkflowId(51), KeyId(52));
    desk.sign_up(org, theirs, their_key);
    let hold = desk.allowed(|_| {});
    type Change = Box<dyn Fn(&mut engine::command::Ask)>;
    let others: [Change; 3] = [
        Box::new(move |ask| ask.key = key),
        Box::new(move |ask| (ask.key, ask.workflow) = (key, workflow)),
        Box::new(move |ask| (ask.org, ask.key, ask.workflow) = (org, their_key, theirs)),
    ];
    for other in others {
        let strict = desk.refused(|ask| {
            other(ask);
            ask.endpoint = EXECUTE;
            ask.reservation = Some(hold);
            ask.must_find_reservation = true;
        });
        assert_eq!(strict.code, Code::ExecutionNotFound);
        let own = desk.allowed(|ask| {
            other(ask);
            ask.endpoint = EXECUTE;
            ask.reservation = Some(hold);
        });
        assert_ne!(own, hold);
    }
    assert_eq!(desk.left(hold), Some(cents(1)));
}

#[test]
fn a_strict_execute_without_an_open_reservation_is_refused() {
    let mut desk = Desk::new();
    let hold = desk.allowed(|_| {});
    let strict = |ask: &mut engine::command::Ask| {
        ask.endpoint = EXECUTE;
        ask.reservation = Some(hold);
        ask.must_find_reservation = true;
    };
    assert_eq!(desk.allowed(strict), hold);
    desk.cancel(ORG, hold);
    assert_eq!(desk.refused(strict).code, Code::ExecutionNotFound);
}

#[test]
fn a_hold_is_cancelled_once_and_only_by_its_own_org() {
    let mut desk = Desk::new();
    desk.sign_up(OrgId(50), WorkflowId(51), KeyId(52));
    let hold = desk.allowed(|_| {});
    assert_eq!(desk.cancel(OrgId(50), hold), None);
    assert_eq!(desk.cancel(ORG, HoldId(99)), None);
    assert_eq!(desk.left(hold), Some(cents(1)));
    assert_eq!(desk.cancel(ORG, hold), Some(cents(1)));
    assert_eq!(desk.cancel(ORG, hold), None);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn a_withdrawn_answer_ends_its_hold_unless_somebody_else_was_promised_it() {
    let mut desk = Desk::new();
    let alone = desk.allowed(|_| {});
    desk.apply(&Command::Withdraw { hold: alone });
    assert_eq!(desk.left(alone), None);

    let shared = desk.allowed(operation(GATE, "op", 1));
    desk.allowed(operation(GATE, "op", 1));
    desk.apply(&Command::Withdraw { hold: shared });
    assert_eq!(desk.left(shared), Some(cents(1)));
    desk.apply(&Command::Withdraw { hold: shared });
    assert_eq!(desk.left(shared), None);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn thousands_of_holds_that_are_over_end_in_a_few_sweeps() {
    let mut desk = Desk::new();
    for _ in 0..3000 {
        desk.allowed(|_| {});
    }
    assert_eq!(desk.open_holds(ORG), 3000);
    desk.wait(299_999);
    assert_eq!(desk.open_holds(ORG), 3000);
    for left in [3000 - 1024, 3000 - 2048, 0] {
        desk.wait(1);
        let org = desk.org(ORG);
        assert_eq!(
            (desk.open_holds(ORG), org.sums.held),
            (left, cents(left as i64))
        );
    }
}

#[test]
fn an_org_is_shown_its_own_holds_only() {
    let mut desk = Desk::new();
    let (org, workflow, key) = (OrgId(50), WorkflowId(51), KeyId(52));
    desk.sign_up(org, workflow, key);
    desk.allowed(|_| {});
    desk.allowed(|_| {});
    desk.allowed(|ask| (ask.org, ask.key, ask.workflow) = (org, key, workflow));
    assert_eq!(desk.open_holds(ORG), 2);
    let theirs = desk.org(org);
    assert_eq!((desk.open_holds(org), theirs.sums.held), (1, cents(1)));
    assert!(theirs.keys.iter().all(|(id, ..)| *id != KEY));
}
