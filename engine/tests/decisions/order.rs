//! Which question is asked first, workflow states, and what holds nothing.

use super::desk::{Desk, KEY, ORG, WORKFLOW, cents, operation, tools};
use engine::code::Code;
use engine::command::{Outcome, Protocol, Transition, Verdict};
use engine::manage::{Manage, Refusal, Terms};
use persist::Nanos;
use persist::record::{Actor, Endpoint, PolicyType, Record, State};

fn block_bash(desk: &mut Desk) {
    let terms = Terms {
        tools: tools(&["bash"]),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::ToolBlock, terms, |_| {});
}

fn rate(desk: &mut Desk, calls: u32) {
    let terms = Terms {
        calls_per_minute: Some(calls),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::RateLimit, terms, |_| {});
}

/// With everything against a call, the questions say no one after the other as each is settled.
#[test]
fn the_questions_are_asked_in_the_documented_order() {
    let mut desk = Desk::new();
    let other = desk.add_key(Some(WORKFLOW), None);
    // An allowed operation that is still open, and then all goes wrong at once.
    desk.allowed(operation(Endpoint::Gate, "op", 1));
    block_bash(&mut desk);
    rate(&mut desk, 1);
    desk.allowed(|ask| ask.tools = tools(&["mail"]));
    desk.cap_org(Some(Nanos::ZERO));
    desk.set_state(Transition::Pause);
    let revoke = Manage::RevokeKey {
        org: ORG,
        actor: Actor::System,
        id: KEY,
    };
    desk.manage(revoke);

    let bad = |ask: &mut engine::command::Ask| {
        operation(Endpoint::Gate, "op", 2)(ask);
        ask.tools = tools(&["bash"]);
    };
    assert_eq!(desk.refused(bad).code, Code::ApiKeyRevoked);
    let bad = |ask: &mut engine::command::Ask| {
        bad(ask);
        ask.key = other;
    };
    assert_eq!(desk.refused(bad).code, Code::WorkflowPaused);
    desk.set_state(Transition::Resume);
    assert_eq!(desk.refused(bad).code, Code::IdempotencyKeyMismatch);
    let bad = |ask: &mut engine::command::Ask| {
        bad(ask);
        ask.operation = None;
    };
    assert_eq!(desk.refused(bad).code, Code::ToolBlocked);
    let bad = |ask: &mut engine::command::Ask| {
        bad(ask);
        ask.tools = tools(&["mail"]);
    };
    assert_eq!(desk.refused(bad).code, Code::RateLimitExceeded);
    desk.wait(60_000);
    assert_eq!(desk.refused(bad).code, Code::BudgetOrgCeilingBlocked);
    desk.cap_org(None);
    desk.wait(60_000);
    desk.allowed(bad);
}

#[test]
fn a_stored_operation_is_answered_before_the_tool_rules() {
    let mut desk = Desk::new();
    let call = |ask: &mut engine::command::Ask| {
        operation(Endpoint::Gate, "op", 1)(ask);
        ask.tools = tools(&["bash"]);
    };
    let hold = desk.allowed(call);
    block_bash(&mut desk);
    assert_eq!(desk.allowed(call), hold);
}

#[test]
fn a_refusal_holds_nothing_and_is_written_down_with_its_reason() {
    let mut desk = Desk::new();
    block_bash(&mut desk);
    desk.cap_workflow(Some(cents(1)));
    desk.refused(|ask| ask.tools = tools(&["bash"]));
    desk.refused(|ask| {
        ask.tools = tools(&["mail"]);
        ask.estimated_tokens = 20_000;
    });
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
    let mut causes = Vec::new();
    desk.records(|record| {
        if let Record::Refused(refused) = record {
            let cause = &refused.cause;
            causes.push((
                cause.code.to_owned(),
                cause.pattern.to_owned(),
                cause.budget,
            ));
        }
    });
    assert_eq!(causes.len(), 2);
    assert_eq!((&*causes[0].0, &*causes[0].1), ("TOOL_BLOCKED", "bash"));
    let figures = causes[1].2.unwrap();
    assert_eq!((figures.cap, figures.asked), (cents(1), cents(2)));
}

#[test]
fn a_check_asks_state_and_budget_and_leaves_no_trace() {
    let mut desk = Desk::new();
    block_bash(&mut desk);
    rate(&mut desk, 1);
    desk.cap_workflow(Some(cents(1)));
    let mut before = 0;
    desk.records(|_| before += 1);
    let check = |ask: &mut engine::command::Ask| {
        ask.endpoint = Endpoint::Check;
        ask.tools = tools(&["bash"]);
    };
    for _ in 0..3 {
        let decision = desk.ask(check);
        let Verdict::Allow { hold: None, .. } = decision.verdict else {
            panic!("{decision:?}");
        };
        assert_eq!(decision.remaining, Some(cents(1)));
    }
    let short = |ask: &mut engine::command::Ask| {
        check(ask);
        ask.estimated_tokens = 20_000;
    };
    assert_eq!(desk.refused(short).code, Code::BudgetHardBlocked);
    desk.allowed(|ask| ask.tools = tools(&["mail"]));
    assert_eq!(desk.refused(check).code, Code::BudgetHardBlocked);
    desk.set_state(Transition::Kill);
    assert_eq!(desk.refused(check).code, Code::WorkflowKilled);
    let mut after = 0;
    desk.records(|_| after += 1);
    // The one gate and the kill.
    assert_eq!(after, before + 2);
}

#[test]
fn the_end_of_a_chain_is_allowed_and_holds_nothing_unless_the_workflow_is_killed() {
    let mut desk = Desk::new();
    block_bash(&mut desk);
    desk.cap_workflow(Some(Nanos::ZERO));
    desk.set_state(Transition::Pause);
    let end = |ask: &mut engine::command::Ask| ask.chain_end = true;
    let Verdict::Allow { hold: None, .. } = desk.ask(end).verdict else {
        panic!("the end of a chain is refused");
    };
    desk.set_state(Transition::Kill);
    assert_eq!(desk.refused(end).code, Code::WorkflowKilled);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn the_same_state_again_changes_no_version_and_a_killed_workflow_stays_killed() {
    let mut desk = Desk::new();
    let mut versions = Vec::new();
    for to in [
        Transition::Resume,
        Transition::Pause,
        Transition::Pause,
        Transition::Resume,
        Transition::Kill,
        Transition::Kill,
    ] {
        match desk.set_state(to) {
            Outcome::Workflow(view) => versions.push((view.version, view.state)),
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        (0, State::Normal),
        (1, State::Paused),
        (1, State::Paused),
        (2, State::Normal),
        (3, State::Killed),
        (3, State::Killed),
    ];
    assert_eq!(versions, expected);
    for to in [Transition::Resume, Transition::Pause] {
        let refused = desk.set_state(to);
        assert!(
            matches!(refused, Outcome::Refused(Refusal::WrongState(_))),
            "{refused:?}"
        );
    }
    assert_eq!(desk.workflow().version, 3);
}

#[test]
fn a_killed_workflow_keeps_its_holds_until_they_are_charged_or_over() {
    let mut desk = Desk::new();
    let hold = desk.allowed(operation(Endpoint::Gate, "op", 1));
    desk.set_state(Transition::Kill);
    // Not even what was allowed before is allowed again.
    let refusal = desk.refused(operation(Endpoint::Gate, "op", 1));
    assert_eq!(refusal.code, Code::WorkflowKilled);
    let reuse = desk.refused(|ask| {
        ask.endpoint = Endpoint::Execute;
        ask.reservation = Some(hold);
    });
    assert_eq!(reuse.code, Code::WorkflowKilled);
    assert_eq!(desk.books(), (Nanos::ZERO, cents(1)));
    desk.wait(300_000);
    assert_eq!(desk.books(), (Nanos::ZERO, Nanos::ZERO));
}

#[test]
fn a_call_that_names_no_tool_is_refused_where_it_could_have_named_one() {
    let mut desk = Desk::new();
    let elsewhere = desk.add_workflow(None);
    let terms = Terms {
        tools: tools(&["bash"]),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::ToolBlock, terms, |draft| {
        draft.scope = persist::record::Scope::Workflow;
        draft.scope_id = Some(elsewhere.0);
    });
    desk.allowed(|_| {});
    block_bash(&mut desk);
    for (protocol, endpoint, refused) in [
        (Protocol::Seed, Endpoint::Gate, false),
        (Protocol::V3, Endpoint::Gate, false),
        (Protocol::V4, Endpoint::Gate, true),
        (Protocol::Seed, Endpoint::Execute, true),
        (Protocol::V3, Endpoint::Execute, true),
        (Protocol::V4, Endpoint::Execute, true),
    ] {
        let call = |ask: &mut engine::command::Ask| {
            ask.protocol = protocol;
            ask.endpoint = endpoint;
        };
        if refused {
            let block = desk.refused(call);
            assert_eq!(block.code, Code::ToolBlocked, "{protocol:?} {endpoint:?}");
            assert_eq!(block.reason, "no_tools_field", "{protocol:?} {endpoint:?}");
            assert!(
                block.explanation.contains("\"tools\""),
                "{}",
                block.explanation
            );
        } else {
            desk.allowed(call);
        }
        desk.allowed(|ask| {
            call(ask);
            ask.tools = tools(&["mail"]);
        });
    }
}

#[test]
fn a_key_that_ends_while_its_call_waits_is_refused() {
    let mut desk = Desk::new();
    let key = desk.add_key_until(persist::Millis(desk.engine.now().0 + 1000));
    desk.allowed(|ask| ask.key = key);
    desk.wait(1001);
    let expired = desk.refused(|ask| ask.key = key);
    assert_eq!(expired.code, Code::ApiKeyExpired);
}

#[test]
fn a_workflow_of_another_org_is_none_of_ours() {
    let mut desk = Desk::new();
    let (org, workflow, key) = (
        persist::OrgId(desk.fresh()),
        persist::WorkflowId(desk.fresh()),
        persist::KeyId(desk.fresh()),
    );
    desk.sign_up(org, workflow, key);
    let foreign = desk.refused(|ask| ask.workflow = workflow);
    assert_eq!(foreign.code, Code::WorkflowIdRequired);
}
