//! What an operator may look at and set free.

use super::desk::{Desk, ORG, WORKFLOW, cents, tenths};
use engine::command::Outcome;
use engine::manage::Refusal;
use persist::record::{Actor, ChargeFlags, EndReason, Record};
use persist::{HoldId, KeyId, Nanos, OrgId, WorkflowId};

const THEIRS: (OrgId, WorkflowId, KeyId) = (OrgId(50), WorkflowId(51), KeyId(52));

#[test]
fn an_operator_frees_a_hold_and_the_log_says_why() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(2)));
    let hold = desk.allowed(|ask| ask.estimated_tokens = 20_000);
    desk.track(|event| {
        event.holds[0] = Some(hold);
        event.tokens = tenths(5);
    });
    let Outcome::Released(was) = desk.release(ORG, hold, "the agent is gone") else {
        panic!("it was open");
    };
    assert_eq!((was.id, was.left), (hold, Nanos(15_000_000)));
    assert_eq!(desk.books(), (Nanos(5_000_000), Nanos::ZERO));
    let mut ended = Vec::new();
    desk.records(|record| {
        if let Record::HoldEnded(e) = record {
            let note = e.note.map(str::to_owned);
            ended.push((e.reason, note, e.actor, e.released));
        }
    });
    let note = Some("the agent is gone".to_owned());
    let expected = (EndReason::Released, note, Actor::System, was.left);
    assert_eq!(ended, [expected]);
    // What the agent reports nevertheless is booked.
    desk.track(|event| {
        event.holds[0] = Some(hold);
        event.tokens = tenths(5);
    });
    let mut late = false;
    desk.records(|record| {
        if let Record::Charged(charged) = record {
            late = charged.flags.has(ChargeFlags::NO_HOLD);
        }
    });
    assert!(late);
    assert_eq!(desk.books(), (cents(1), Nanos::ZERO));
}

#[test]
fn a_hold_that_is_over_or_anothers_is_not_found() {
    let mut desk = Desk::new();
    let (org, workflow, key) = THEIRS;
    desk.sign_up(org, workflow, key);
    let hold = desk.allowed(|_| {});
    let not_found =
        |outcome: Outcome| matches!(outcome, Outcome::Refused(Refusal::NotFound("hold")));
    assert!(not_found(desk.release(org, hold, "mine")));
    assert_eq!(desk.left(hold), Some(cents(1)));
    assert!(not_found(desk.release(ORG, HoldId(9), "which")));
    assert!(matches!(desk.release(ORG, hold, ""), Outcome::Released(_)));
    assert!(not_found(desk.release(ORG, hold, "again")));
}

#[test]
fn open_holds_are_listed_page_by_page_over_all_shards() {
    let mut desk = Desk::new();
    let (org, workflow, key) = THEIRS;
    desk.sign_up(org, workflow, key);
    desk.allowed(|ask| (ask.org, ask.workflow, ask.key) = (org, workflow, key));
    let free = desk.add_key(None, None);
    let mut workflows = vec![WORKFLOW];
    workflows.extend((0..7).map(|_| desk.add_workflow(None)));
    let slots = workflows.iter().map(|id| id.slot(ORG).0 / 256);
    let shards: std::collections::BTreeSet<_> = slots.collect();
    assert!(shards.len() > 2, "{shards:?}");
    let mut all = Vec::new();
    for n in 0..24 {
        desk.wait(1);
        let workflow = workflows[n % workflows.len()];
        all.push(desk.allowed(|ask| (ask.workflow, ask.key) = (workflow, free)));
    }
    all.sort();
    let mut listed = Vec::new();
    loop {
        let page = desk.holds(ORG, None, listed.last().copied(), 7);
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 7);
        listed.extend(page.iter().map(|hold| hold.id));
    }
    assert_eq!(listed, all);
    let of_one = desk.holds(ORG, Some(workflows[3]), None, 100);
    assert_eq!(of_one.len(), 3);
    assert!(of_one.iter().all(|hold| hold.workflow == workflows[3]));
    assert!(of_one.is_sorted_by_key(|hold| hold.id));
    assert_eq!((of_one[0].key, of_one[0].minted), (free, cents(1)));
    // Neither another org's holds nor its workflows.
    assert_eq!(desk.holds(org, None, None, 100).len(), 1);
    assert!(desk.holds(ORG, Some(workflow), None, 100).is_empty());
    assert!(desk.holds(OrgId(7), None, None, 100).is_empty());
    assert!(desk.holds(ORG, None, None, 0).is_empty());
    // The newest first, as they lie in memory, and the smallest ids on the page: whatever the page.
    for (from, most) in [(0, 1), (0, 23), (5, 24), (11, 3), (23, 9)] {
        let after = (from > 0).then(|| all[from - 1]);
        let page = desk.holds(ORG, None, after, most).into_iter();
        let page: Vec<_> = page.map(|hold| hold.id).collect();
        assert_eq!(page, all[from..(from + most).min(24)]);
    }
    // The number on display follows what ends, whichever end of the list it is on.
    let mut of_one: Vec<_> = of_one.into_iter().map(|hold| hold.id).collect();
    of_one.swap(0, 1);
    for (hold, left) in of_one.into_iter().zip([2, 1, 0]) {
        desk.release(ORG, hold, "done");
        let view = desk.org(ORG).workflows;
        let view = view.iter().find(|view| view.entry.id == workflows[3]);
        assert_eq!(view.unwrap().open_holds, left);
    }
}
