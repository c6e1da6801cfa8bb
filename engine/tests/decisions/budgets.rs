//! How much a call holds, and what it must fit under.

use super::desk::{Desk, KEY, ORG, WORKFLOW, cents, event, tenths};
use engine::code::Code;
use engine::command::{Ask, Protocol, Verdict};
use engine::manage::WorkflowPatch;
use persist::record::{Endpoint, Scope};
use persist::{Millis, Nanos};

const SEED: Protocol = Protocol::Seed;
const V3: Protocol = Protocol::V3;
const V4: Protocol = Protocol::V4;

#[test]
fn an_undeclared_call_holds_the_floor_unless_its_client_cannot_end_a_hold() {
    for (protocol, endpoint, held) in [
        (SEED, Endpoint::Gate, Nanos::ZERO),
        (SEED, Endpoint::Execute, Nanos::ZERO),
        (V3, Endpoint::Gate, cents(1)),
        (V3, Endpoint::Execute, Nanos::ZERO),
        (V4, Endpoint::Gate, cents(1)),
        (V4, Endpoint::Execute, cents(1)),
    ] {
        let call = |ask: &mut Ask| {
            ask.protocol = protocol;
            ask.endpoint = endpoint;
        };
        let mut desk = Desk::new();
        let hold = desk.allowed(call);
        assert_eq!(desk.left(hold), Some(held), "{protocol:?} {endpoint:?}");

        // Who holds nothing must find the floor free; who holds gets by with less.
        let mut desk = Desk::new();
        desk.cap_workflow(Some(Nanos(9_999_999)));
        if held == Nanos::ZERO {
            let budget = desk.refused(call).budget.unwrap();
            assert_eq!((budget.asked, budget.held), (cents(1), Nanos::ZERO));
        } else {
            let hold = desk.allowed(call);
            assert_eq!(desk.left(hold), Some(Nanos(9_999_999)));
        }
    }
}

#[test]
fn a_declared_call_holds_what_it_declares_and_must_fit() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(3)));
    // 10,000 input tokens are a cent, 2,500 output tokens are another.
    let both = |ask: &mut Ask| {
        ask.estimated_tokens = 10_000;
        ask.max_output_tokens = Some(2_500);
    };
    let hold = desk.allowed(both);
    assert_eq!(desk.left(hold), Some(cents(2)));
    let block = desk.refused(both);
    assert_eq!(block.code, Code::BudgetHardBlocked);
    let figures = block.budget.unwrap();
    assert_eq!(
        (figures.cap, figures.held, figures.asked),
        (cents(3), cents(2), cents(2))
    );
    // One token is what clients send who declare nothing.
    let hold = desk.allowed(|ask| ask.estimated_tokens = 1);
    assert_eq!(desk.left(hold), Some(cents(1)));
    assert_eq!(desk.books(), (Nanos::ZERO, cents(3)));
}

#[test]
fn a_hundred_undeclared_gates_on_five_and_a_half_cents_are_six_allows() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(Nanos(55_000_000)));
    for _ in 0..2 {
        let mut holds = Vec::new();
        for _ in 0..100 {
            match desk.ask(|_| {}).verdict {
                Verdict::Allow { hold, .. } => holds.push(hold.unwrap()),
                Verdict::Block(block) => {
                    let figures = block.budget.unwrap();
                    assert_eq!(figures.held, Nanos(55_000_000));
                }
            }
        }
        let left: Vec<_> = holds.iter().map(|hold| desk.left(*hold).unwrap()).collect();
        let one = cents(1);
        assert_eq!(left, [one, one, one, one, one, Nanos(5_000_000)]);
        assert_eq!(desk.workflow().remaining(), Some(Nanos::ZERO));
        for hold in holds {
            desk.cancel(ORG, hold);
        }
        assert_eq!(desk.workflow().remaining(), Some(Nanos(55_000_000)));
    }
}

#[test]
fn the_last_nano_dollar_is_let_out() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(Nanos(1)));
    let hold = desk.allowed(|_| {});
    assert_eq!(desk.left(hold), Some(Nanos(1)));
    desk.refused(|_| {});
}

#[test]
fn no_cap_is_no_limit_and_a_cap_of_nothing_lets_nothing_through() {
    let mut desk = Desk::new();
    desk.allowed(|ask| ask.estimated_tokens = 900_000_000);
    desk.cap_workflow(Some(Nanos::ZERO));
    desk.refused(|_| {});
    // Not even a call that declares to be free.
    desk.refused(|ask| ask.max_output_tokens = Some(0));
    desk.refused(|ask| ask.protocol = SEED);
}

#[test]
fn a_cap_on_one_call_refuses_larger_ones_and_bounds_the_floor() {
    let mut desk = Desk::new();
    let per_call = |cap| WorkflowPatch {
        max_per_call: Some(cap),
        ..WorkflowPatch::default()
    };
    desk.patch_workflow(per_call(Some(Nanos(3_000_000))));
    let block = desk.refused(|ask| ask.estimated_tokens = 3_001);
    assert_eq!(
        (block.code, block.reason),
        (Code::BudgetHardBlocked, "per_call_cap")
    );
    desk.allowed(|ask| ask.estimated_tokens = 3_000);
    let hold = desk.allowed(|_| {});
    assert_eq!(desk.left(hold), Some(Nanos(3_000_000)));
    desk.patch_workflow(per_call(Some(Nanos::ZERO)));
    desk.refused(|_| {});
    desk.refused(|ask| ask.protocol = SEED);
    desk.patch_workflow(per_call(None));
    desk.allowed(|_| {});
}

#[test]
fn the_caps_of_org_workflow_and_key_all_apply_and_each_says_so() {
    let mut desk = Desk::new();
    let second = desk.add_workflow(None);
    let capped = desk.add_key(None, Some(cents(2)));
    desk.cap_workflow(Some(cents(3)));
    desk.cap_org(Some(cents(5)));
    let with = |key, workflow| {
        move |ask: &mut Ask| {
            ask.key = key;
            ask.workflow = workflow;
            ask.estimated_tokens = 10_000;
        }
    };
    // The key's two cents, over two workflows.
    desk.allowed(with(capped, WORKFLOW));
    desk.allowed(with(capped, second));
    let block = desk.refused(with(capped, second));
    assert_eq!(block.code, Code::BudgetHardBlocked);
    assert_eq!(block.budget.unwrap().scope, Scope::ApiKey);
    // The workflow's three, over two keys.
    desk.allowed(with(KEY, WORKFLOW));
    desk.allowed(with(KEY, WORKFLOW));
    let block = desk.refused(with(KEY, WORKFLOW));
    assert_eq!(block.budget.unwrap().scope, Scope::Workflow);
    // The org's five, over all.
    let free = desk.add_key(None, None);
    desk.allowed(with(free, second));
    let block = desk.refused(with(free, second));
    assert_eq!(block.code, Code::BudgetOrgCeilingBlocked);
    let figures = block.budget.unwrap();
    assert_eq!(
        (figures.scope, figures.held, figures.asked),
        (Scope::Org, cents(5), cents(1))
    );
    assert_eq!(block.resets_at, Some(Millis(1_782_864_000_000)), "1 July");
    for word in ["budget", "org", "$0.05", "$0.01"] {
        assert!(block.explanation.contains(word), "{}", block.explanation);
    }
}

#[test]
fn what_remains_is_said_of_the_tightest_cap() {
    let mut desk = Desk::new();
    assert_eq!(desk.ask(|_| {}).remaining, None);
    desk.cap_org(Some(cents(10)));
    desk.cap_workflow(Some(cents(4)));
    assert_eq!(desk.ask(|_| {}).remaining, Some(cents(2)));
    desk.cap_org(Some(cents(3)));
    assert_eq!(desk.ask(|_| {}).remaining, Some(Nanos::ZERO));
}

#[test]
fn debt_blocks_until_the_cap_is_raised_past_it() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(2)));
    desk.track(|event| event.tokens = tenths(35));
    assert_eq!(desk.workflow().remaining(), Some(Nanos(-15_000_000)));
    let figures = desk.refused(|_| {}).budget.unwrap();
    assert_eq!(
        (figures.spent, figures.asked),
        (Nanos(35_000_000), Nanos(1))
    );
    desk.cap_workflow(Some(Nanos(35_000_000)));
    desk.refused(|_| {});
    desk.cap_workflow(Some(Nanos(35_000_001)));
    desk.allowed(|_| {});
}

#[test]
fn a_lowered_cap_keeps_what_is_held_and_blocks_the_next_call() {
    let mut desk = Desk::new();
    let hold = desk.allowed(|_| {});
    desk.cap_workflow(Some(Nanos(1)));
    assert_eq!(desk.left(hold), Some(cents(1)));
    assert_eq!(desk.workflow().remaining(), Some(Nanos(1 - 10_000_000)));
    desk.refused(|_| {});
    desk.cancel(ORG, hold);
    desk.allowed(|_| {});
}

#[test]
fn a_month_begins_with_nothing_spent_and_holds_of_the_last_one_are_charged_there() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(2)));
    let july = 1_782_864_000_000;
    desk.clock(july - 1);
    let hold = desk.allowed(|ask| ask.estimated_tokens = 20_000);
    desk.refused(|_| {});
    desk.clock(july);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
    desk.allowed(|ask| ask.estimated_tokens = 20_000);
    let tracked = desk.track(|event| {
        event.holds[0] = Some(hold);
        event.tokens = tenths(15);
    });
    assert_eq!(tracked.overage, Some(Nanos::ZERO));
    assert_eq!(desk.books(), (Nanos::ZERO, cents(2)));
    assert_eq!(desk.workflow().lifetime, Nanos(15_000_000));
    // Without a hold it counts now.
    desk.track_all(vec![event(|event| event.tokens = tenths(1))]);
    assert_eq!(desk.books(), (Nanos(1_000_000), cents(2)));
}

#[test]
fn time_never_goes_back() {
    let mut desk = Desk::new();
    let hold = desk.allowed(|_| {});
    let before = desk.engine.now();
    desk.clock(before.0 - 86_400_000);
    assert_eq!(desk.engine.now(), before);
    desk.clock(before.0 + 299_999);
    assert!(desk.left(hold).is_some());
    desk.clock(before.0 + 300_000);
    assert!(desk.left(hold).is_none());
}
