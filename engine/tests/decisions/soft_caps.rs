//! Soft caps: how far a chain may go beyond a cap.

use super::desk::{Desk, ORG, WORKFLOW, cents, in_chain, tenths};
use engine::command::Ask;
use engine::manage::{OverdraftPatch, Terms, WatchPatch, WorkflowPatch};
use persist::Nanos;
use persist::record::{Overdraft, PolicyType, Scope};

const fn up_to(amount: Option<Nanos>, percent: Option<u32>) -> Overdraft {
    Overdraft { amount, percent }
}

fn soft(desk: &mut Desk, overdraft: Overdraft) {
    desk.patch_workflow(WorkflowPatch {
        overdraft: OverdraftPatch::to(Some(overdraft)),
        ..WorkflowPatch::default()
    });
}

/// A call that asks for so many tenths of a cent.
fn asking(n: u64) -> impl Fn(&mut Ask) {
    move |ask| ask.estimated_tokens = n * 1000
}

fn chained(n: u64) -> impl Fn(&mut Ask) {
    move |ask| {
        in_chain("run", None)(ask);
        asking(n)(ask);
    }
}

#[test]
fn a_chain_may_go_beyond_a_soft_cap_by_the_lesser_of_amount_and_percent() {
    for (amount, percent, beyond) in [
        (Some(cents(3)), Some(20), 20),
        (Some(cents(1)), Some(20), 10),
        (Some(cents(3)), None, 30),
        (None, Some(55), 55),
        (None, Some(1000), 1000),
        (Some(Nanos::ZERO), Some(50), 0),
        (Some(cents(5)), Some(0), 0),
        (None, None, 0),
    ] {
        let mut desk = Desk::new();
        desk.cap_workflow(Some(cents(10)));
        soft(&mut desk, up_to(amount, percent));
        let figures = desk.refused(chained(101 + beyond)).budget.unwrap();
        assert_eq!(figures.overdraft, Nanos(beyond as i64 * 1_000_000));
        assert_eq!(figures.cap, cents(10));
        let decision = desk.ask(chained(100 + beyond));
        assert_eq!(
            decision.remaining,
            Some(Nanos::ZERO),
            "{amount:?} {percent:?}"
        );
        desk.refused(in_chain("run", None));
    }
}

#[test]
fn a_call_in_no_chain_stops_at_the_cap_itself() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(10)));
    soft(&mut desk, up_to(Some(cents(5)), None));
    let figures = desk.refused(asking(101)).budget.unwrap();
    assert_eq!(figures.overdraft, Nanos::ZERO);
    let hold = desk.allowed(asking(100));
    desk.refused(|_| {});
    desk.allowed(chained(40));
    // Beyond the cap now: chains go on, others wait.
    desk.cancel(ORG, hold);
    desk.track(|event| event.tokens = tenths(100));
    desk.refused(|_| {});
    desk.allowed(chained(10));
    let why = desk.refused(chained(1)).explanation;
    assert!(why.contains("and an overdraft of $0.05"), "{why}");
}

#[test]
fn the_workflows_overdraft_helps_no_other_cap() {
    let mut desk = Desk::new();
    let key = desk.add_key(Some(WORKFLOW), Some(cents(12)));
    desk.cap_org(Some(cents(11)));
    desk.cap_workflow(Some(cents(10)));
    soft(&mut desk, up_to(Some(cents(5)), None));
    let block = desk.refused(chained(111));
    assert_eq!(block.budget.unwrap().scope, Scope::Org);
    desk.cap_org(None);
    let with_key = |n| {
        move |ask: &mut Ask| {
            chained(n)(ask);
            ask.key = key;
        }
    };
    assert_eq!(
        desk.refused(with_key(121)).budget.unwrap().scope,
        Scope::ApiKey
    );
    let terms = Terms {
        budget: Some(cents(10)),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::BudgetLimit, terms, |draft| {
        (draft.scope, draft.scope_id) = (Scope::Workflow, Some(WORKFLOW.0));
    });
    let block = desk.refused(chained(101));
    assert!(block.policy.is_some());
    assert_eq!(block.budget.unwrap().overdraft, Nanos::ZERO);
}

#[test]
fn a_policy_has_an_overdraft_of_its_own_at_any_scope() {
    for (scope, id) in [(Scope::Org, None), (Scope::Workflow, Some(WORKFLOW.0))] {
        let mut desk = Desk::new();
        desk.cap_workflow(Some(cents(20)));
        let terms = Terms {
            budget: Some(cents(10)),
            overdraft: Some(up_to(None, Some(20))),
            ..Terms::default()
        };
        desk.add_policy(PolicyType::BudgetLimit, terms, |draft| {
            (draft.scope, draft.scope_id) = (scope, id);
        });
        desk.refused(asking(101));
        desk.refused(chained(121));
        desk.allowed(chained(120));
        desk.refused(chained(1));
    }
}

#[test]
fn an_undeclared_call_of_a_chain_takes_what_the_overdraft_leaves() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(1)));
    soft(&mut desk, up_to(Some(Nanos(5_000_000)), None));
    desk.allowed(|_| {});
    desk.refused(|_| {});
    let hold = desk.allowed(in_chain("run", None));
    assert_eq!(desk.left(hold), Some(Nanos(5_000_000)));
}

#[test]
fn of_two_who_change_different_parts_of_a_workflows_settings_at_once_both_are_heard() {
    let mut desk = Desk::new();
    // Both requests came in while nothing was set.
    for (amount, percent) in [(Some(Some(cents(5))), None), (None, Some(Some(20)))] {
        desk.patch_workflow(WorkflowPatch {
            overdraft: OverdraftPatch {
                soft: Some(true),
                amount,
                percent,
            },
            ..WorkflowPatch::default()
        });
    }
    for (threshold, window_secs) in [(Some(Some(4)), None), (None, Some(30))] {
        desk.patch_workflow(WorkflowPatch {
            watch: WatchPatch {
                threshold,
                window_secs,
            },
            ..WorkflowPatch::default()
        });
    }
    let entry = desk.workflow().entry;
    let watch = entry.rare().watch.unwrap();
    assert_eq!(
        entry.rare().overdraft,
        Some(up_to(Some(cents(5)), Some(20)))
    );
    assert_eq!((watch.threshold, watch.window_secs), (4, 30));
}
