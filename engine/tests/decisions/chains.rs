//! Chains: how they begin and end, what they may spend, how long they may last.

use super::desk::{Desk, ORG, WORKFLOW, cents, chain, in_chain, operation, tenths};
use engine::code::Code;
use engine::command::{Ask, Transition, Verdict};
use engine::manage::WorkflowPatch;
use persist::record::{ChainEnd, Endpoint, Record};
use persist::{HoldId, Nanos};

fn settings(desk: &mut Desk, chain_cap: Option<Nanos>, chain_secs: u32) {
    desk.patch_workflow(WorkflowPatch {
        chain_cap: Some(chain_cap),
        chain_secs: Some(chain_secs),
        ..WorkflowPatch::default()
    });
}

/// A call of the chain `run` that asks for so many tenths of a cent.
fn asking(n: u64, cap: Option<Nanos>) -> impl Fn(&mut Ask) {
    move |ask| {
        in_chain("run", cap)(ask);
        ask.estimated_tokens = n * 1000;
    }
}

fn end(name: &'static str) -> impl Fn(&mut Ask) {
    move |ask| {
        in_chain(name, None)(ask);
        ask.chain_end = true;
    }
}

fn charge(desk: &mut Desk, hold: HoldId, n: u64) {
    desk.track(|event| {
        event.holds[0] = Some(hold);
        event.tokens = tenths(n);
    });
}

fn ends(desk: &Desk) -> Vec<(u128, ChainEnd)> {
    let mut ends = Vec::new();
    desk.records(|record| {
        if let Record::ChainEnded(ended) = record {
            ends.push((ended.chain, ended.reason));
        }
    });
    ends
}

fn count(desk: &Desk) -> usize {
    let mut records = 0;
    desk.records(|_| records += 1);
    records
}

#[test]
fn a_chain_begins_with_its_first_allowed_call() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(Nanos::ZERO));
    desk.refused(in_chain("run", None));
    assert!(!desk.heartbeat(chain("run")));
    desk.cap_workflow(None);
    let check = |ask: &mut Ask| {
        in_chain("run", None)(ask);
        ask.endpoint = Endpoint::Check;
    };
    desk.ask(check);
    assert!(!desk.heartbeat(chain("run")), "a check begins nothing");
    let hold = desk.allowed(in_chain("run", None));
    assert!(desk.heartbeat(chain("run")));
    assert_eq!(desk.hold(hold).unwrap().chain, Some(chain("run")));
}

#[test]
fn a_heartbeat_of_an_unknown_chain_is_told_so_and_leaves_no_trace() {
    let mut desk = Desk::new();
    desk.allowed(in_chain("run", None));
    let before = count(&desk);
    assert!(!desk.heartbeat(chain("walk")));
    assert_eq!(count(&desk), before);
}

#[test]
fn all_holds_and_charges_of_a_chain_come_off_its_cap() {
    let mut desk = Desk::new();
    let first = desk.allowed(asking(10, Some(cents(5))));
    let second = desk.allowed(asking(20, None));
    let block = desk.refused(asking(21, Some(cents(99))));
    assert_eq!(
        (block.code, block.reason),
        (Code::BudgetHardBlocked, "chain_cap")
    );
    for word in ["budget", "$0.05", "$0.00 is spent", "$0.03 held", "$0.021"] {
        assert!(block.explanation.contains(word), "{}", block.explanation);
    }
    // Beyond its hold is spent too: 2.5 cents on the first, 0.5 of 2 on the second.
    charge(&mut desk, first, 25);
    charge(&mut desk, second, 5);
    desk.refused(asking(6, None));
    desk.cancel(ORG, second);
    desk.refused(asking(21, None));
    desk.allowed(asking(15, None));
    let last = desk.allowed(in_chain("run", None));
    assert_eq!(desk.left(last), Some(Nanos(5_000_000)));
    // Used up: not even what costs nothing.
    desk.refused(asking(0, None));
    desk.refused(|ask| {
        in_chain("run", None)(ask);
        ask.max_output_tokens = Some(0);
    });
    // Other calls go on, and other chains.
    desk.allowed(|_| {});
    desk.allowed(in_chain("walk", Some(cents(1))));
    assert_eq!(desk.books().0, cents(3));
}

#[test]
fn the_workflow_caps_every_chain_and_the_lesser_cap_counts() {
    let mut desk = Desk::new();
    settings(&mut desk, Some(cents(2)), 3600);
    desk.refused(asking(21, None));
    desk.refused(asking(21, Some(cents(9))));
    desk.allowed(asking(20, Some(cents(9))));
    // Raised for a chain that runs: up to its own.
    settings(&mut desk, Some(cents(20)), 3600);
    desk.refused(asking(71, None));
    desk.allowed(asking(70, None));
    settings(&mut desk, Some(Nanos::ZERO), 3600);
    desk.refused(in_chain("other", None));
}

#[test]
fn a_chain_that_fell_silent_is_over_and_its_name_may_begin_anew() {
    let mut desk = Desk::new();
    let hold = desk.allowed(asking(20, Some(cents(2))));
    charge(&mut desk, hold, 20);
    desk.wait(299_999);
    assert_eq!(
        desk.refused(in_chain("run", Some(cents(5)))).reason,
        "chain_cap"
    );
    // A refusal is no sign of life.
    desk.wait(1);
    assert_eq!(ends(&desk), [(chain("run"), ChainEnd::Idle)]);
    assert!(!desk.heartbeat(chain("run")));
    desk.allowed(asking(40, Some(cents(4))));
    desk.refused(asking(1, None));
    desk.wait(300_000);
    assert_eq!(ends(&desk).len(), 2);
}

#[test]
fn calls_and_heartbeats_keep_a_chain_alive() {
    let mut desk = Desk::new();
    desk.allowed(asking(10, Some(cents(2))));
    for _ in 0..3 {
        desk.wait(299_999);
        assert!(desk.heartbeat(chain("run")));
    }
    desk.wait(299_999);
    desk.allowed(asking(10, None));
    desk.wait(299_999);
    assert!(ends(&desk).is_empty());
    desk.wait(1);
    assert_eq!(ends(&desk).len(), 1);
}

#[test]
fn a_heartbeat_keeps_the_holds_of_its_chain_and_no_others() {
    let mut desk = Desk::new();
    let mine = desk.allowed(in_chain("run", None));
    let other = desk.allowed(in_chain("walk", None));
    let none = desk.allowed(|_| {});
    desk.wait(200_000);
    let later = desk.allowed(in_chain("run", None));
    assert!(desk.heartbeat(chain("run")));
    desk.wait(100_000);
    assert_eq!((desk.left(other), desk.left(none)), (None, None));
    desk.wait(199_999);
    assert_eq!(desk.left(mine), Some(cents(1)));
    assert_eq!(desk.left(later), Some(cents(1)));
    desk.wait(1);
    assert_eq!((desk.left(mine), desk.left(later)), (None, None));
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn a_renewed_operation_is_still_the_same_request() {
    let mut desk = Desk::new();
    let call = |ask: &mut Ask| {
        operation(Endpoint::Gate, "op", 1)(ask);
        in_chain("run", None)(ask);
    };
    let hold = desk.allowed(call);
    desk.wait(299_999);
    desk.heartbeat(chain("run"));
    desk.wait(299_999);
    assert_eq!(desk.allowed(call), hold);
}

#[test]
fn a_chain_ends_when_asked_and_its_holds_live_on() {
    let mut desk = Desk::new();
    let hold = desk.allowed(asking(20, Some(cents(2))));
    let Verdict::Allow { hold: None, .. } = desk.ask(end("run")).verdict else {
        panic!("the end of a chain is refused");
    };
    assert_eq!(ends(&desk), [(chain("run"), ChainEnd::Asked)]);
    assert!(!desk.heartbeat(chain("run")));
    assert_eq!(desk.hold(hold).unwrap().chain, None);
    // The name begins anew; what the old hold is charged is no concern of it.
    desk.allowed(asking(20, Some(cents(4))));
    charge(&mut desk, hold, 20);
    desk.allowed(asking(20, None));
    desk.refused(asking(1, None));
    assert_eq!(desk.books(), (cents(2), cents(4)));
    // Ended twice, or never begun: allowed, and nothing happens.
    let before = count(&desk);
    desk.ask(end("walk"));
    assert_eq!(count(&desk), before);
}

#[test]
fn a_chain_of_a_stopped_workflow_may_end_but_not_that_of_a_killed_one() {
    let mut desk = Desk::new();
    desk.allowed(in_chain("run", None));
    desk.allowed(in_chain("walk", None));
    desk.set_state(Transition::Pause);
    assert_eq!(
        desk.refused(in_chain("run", None)).code,
        Code::WorkflowPaused
    );
    assert!(matches!(
        desk.ask(end("run")).verdict,
        Verdict::Allow { .. }
    ));
    assert_eq!(ends(&desk).len(), 1);
    desk.set_state(Transition::Kill);
    assert_eq!(desk.refused(end("walk")).code, Code::WorkflowKilled);
    assert_eq!(ends(&desk).len(), 1);
    desk.wait(300_000);
    assert_eq!(ends(&desk).len(), 2);
}

#[test]
fn a_chain_may_last_only_so_long_however_alive_it_is() {
    let mut desk = Desk::new();
    settings(&mut desk, None, 60);
    let hold = desk.allowed(in_chain("run", None));
    desk.wait(59_999);
    desk.allowed(in_chain("run", None));
    assert!(desk.heartbeat(chain("run")));
    desk.wait(1);
    assert!(!desk.heartbeat(chain("run")));
    let block = desk.refused(in_chain("run", None));
    assert_eq!(block.code, Code::ChainMaxDurationExceeded);
    assert_eq!(block.reason, "chain_duration");
    assert!(block.explanation.contains("60 s"), "{}", block.explanation);
    // Not on its holds either.
    let linked = desk.refused(|ask| {
        in_chain("run", None)(ask);
        ask.endpoint = Endpoint::Execute;
        ask.reservation = Some(hold);
    });
    assert_eq!(linked.code, Code::ChainMaxDurationExceeded);
    // A longer one may go on; an ended one may begin again.
    settings(&mut desk, None, 61);
    desk.allowed(in_chain("run", None));
    desk.wait(1_000);
    desk.refused(in_chain("run", None));
    desk.ask(end("run"));
    desk.allowed(in_chain("run", None));
}

#[test]
fn a_heartbeat_pins_no_hold_for_longer_than_its_chain_may_last() {
    let mut desk = Desk::new();
    settings(&mut desk, None, 400);
    desk.allowed(asking(10, None));
    desk.wait(299_999);
    assert!(desk.heartbeat(chain("run")));
    desk.wait(100_000);
    // The last moment at which it is alive.
    assert!(desk.heartbeat(chain("run")));
    let before = count(&desk);
    for _ in 0..2 {
        desk.wait(1);
        assert!(!desk.heartbeat(chain("run")));
    }
    assert_eq!(count(&desk), before);
    desk.wait(299_997);
    assert_eq!(desk.books().1, cents(1));
    assert!(ends(&desk).is_empty());
    desk.wait(1);
    assert_eq!(desk.books().1, Nanos::ZERO);
    assert_eq!(ends(&desk), [(chain("run"), ChainEnd::Idle)]);
    // A longer one may be kept alive again while it is not over.
    desk.allowed(asking(10, None));
    for _ in 0..2 {
        desk.wait(200_000);
        settings(&mut desk, None, 401);
        assert!(desk.heartbeat(chain("run")));
    }
    settings(&mut desk, None, 400);
    assert!(!desk.heartbeat(chain("run")));
}

#[test]
fn an_execute_on_a_hold_is_a_sign_of_life_and_takes_nothing_more() {
    let mut desk = Desk::new();
    let hold = desk.allowed(asking(10, Some(cents(1))));
    desk.wait(200_000);
    let execute = |ask: &mut Ask| {
        in_chain("run", None)(ask);
        ask.endpoint = Endpoint::Execute;
        ask.reservation = Some(hold);
    };
    assert_eq!(desk.allowed(execute), hold);
    desk.wait(299_999);
    assert!(desk.heartbeat(chain("run")));
    // The hold itself was not renewed by it.
    assert_eq!(desk.left(hold), None);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn chains_of_one_name_in_two_workflows_are_two() {
    let mut desk = Desk::new();
    let (second, key) = (desk.add_workflow(None), desk.add_key(None, None));
    desk.allowed(asking(10, Some(cents(1))));
    // The front hashes the workflow into the key.
    desk.allowed(|ask| {
        asking(10, Some(cents(1)))(ask);
        (ask.workflow, ask.key) = (second, key);
        ask.chain.as_mut().unwrap().key += 1;
    });
    desk.refused(asking(1, None));
    desk.ask(end("run"));
    desk.allowed(asking(1, None));
    assert_eq!(desk.holds(ORG, Some(WORKFLOW), None, 9).len(), 2);
}
