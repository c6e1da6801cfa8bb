//! The same tool again and again.

use super::desk::{Desk, WORKFLOW, in_chain, operation, tools};
use engine::code::Code;
use engine::command::{Ask, Protocol, Transition, Verdict};
use engine::manage::{PolicyDraft, Terms};
use persist::record::{Endpoint, PolicyAction, PolicyType, Record, Scope, State};

fn rule(
    desk: &mut Desk,
    calls: Option<u32>,
    secs: Option<u32>,
    change: impl FnOnce(&mut PolicyDraft),
) {
    let terms = Terms {
        loop_threshold: calls,
        loop_window_secs: secs,
        ..Terms::default()
    };
    desk.add_policy(PolicyType::LoopDetection, terms, change);
}

fn naming(names: &'static [&'static str]) -> impl Fn(&mut Ask) {
    move |ask| ask.tools = tools(names)
}

fn flag(draft: &mut PolicyDraft) {
    draft.action = PolicyAction::Flag;
}

fn state(desk: &mut Desk) -> State {
    desk.workflow().state
}

#[test]
fn the_sixth_call_of_a_tool_within_a_minute_stops_the_workflow() {
    let mut desk = Desk::new();
    rule(&mut desk, None, None, |_| {});
    for _ in 0..5 {
        desk.allowed(naming(&["mail"]));
        desk.allowed(|_| {});
    }
    desk.wait(59_999);
    let block = desk.refused(naming(&["mail"]));
    assert_eq!((block.code, block.reason), (Code::LoopDetected, "loop"));
    assert_eq!((&*block.tool, block.policy.is_some()), ("mail", true));
    for word in ["loop", "mail", "6 times", "60 s", "a rule"] {
        assert!(block.explanation.contains(word), "{}", block.explanation);
    }
    let view = desk.workflow();
    assert_eq!((view.state, view.version), (State::Tripped, 1));
    assert!(view.reason.unwrap().contains("mail"));
    let block = desk.refused(naming(&["bash"]));
    assert_eq!(block.code, Code::CircuitBreakerTripped);
    let end = desk.ask(|ask| {
        in_chain("run", None)(ask);
        ask.chain_end = true;
    });
    assert!(matches!(end.verdict, Verdict::Allow { .. }));
}

#[test]
fn calls_that_are_a_minute_old_are_no_loop() {
    let mut desk = Desk::new();
    rule(&mut desk, None, None, |_| {});
    for _ in 0..5 {
        desk.allowed(naming(&["mail"]));
    }
    desk.wait(60_000);
    for _ in 0..5 {
        desk.allowed(naming(&["mail"]));
    }
    assert_eq!(state(&mut desk), State::Normal);
    desk.refused(naming(&["mail"]));
}

#[test]
fn a_resume_forgives_what_was_counted() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(3), Some(3600), |_| {});
    for round in 1..=3 {
        desk.allowed(naming(&["mail"]));
        desk.allowed(naming(&["mail"]));
        assert_eq!(desk.refused(naming(&["mail"])).code, Code::LoopDetected);
        assert_eq!(desk.workflow().version, round * 2 - 1);
        desk.set_state(Transition::Resume);
        assert_eq!(state(&mut desk), State::Normal);
    }
}

#[test]
fn every_tool_of_a_call_is_counted_by_itself() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(3), None, |_| {});
    desk.allowed(naming(&["mail", "bash"]));
    desk.allowed(naming(&["bash", "web"]));
    desk.allowed(naming(&["mail", "web"]));
    let block = desk.refused(naming(&["http", "web", "bash"]));
    assert_eq!(block.tool, "web");
}

#[test]
fn an_operation_counts_once_whoever_asks_how_often() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(3), None, |_| {});
    let call = |endpoint, name: &'static str| {
        move |ask: &mut Ask| {
            operation(endpoint, name, 1)(ask);
            ask.tools = tools(&["mail"]);
        }
    };
    // A replay, a gate and its execute, and the operation anew after its hold is over.
    let hold = desk.allowed(call(Endpoint::Gate, "a"));
    desk.allowed(call(Endpoint::Gate, "a"));
    desk.allowed(call(Endpoint::Execute, "a"));
    desk.cancel(super::desk::ORG, hold);
    desk.allowed(call(Endpoint::Gate, "a"));
    desk.allowed(call(Endpoint::Gate, "b"));
    for _ in 0..3 {
        desk.allowed(call(Endpoint::Gate, "b"));
    }
    desk.refused(call(Endpoint::Gate, "c"));
}

#[test]
fn an_execute_on_its_gates_hold_counts_where_the_gate_named_no_tools() {
    for (protocol, counted) in [(Protocol::V4, false), (Protocol::V3, true)] {
        let mut desk = Desk::new();
        rule(&mut desk, Some(2), None, |_| {});
        let call = |endpoint, hold| {
            move |ask: &mut Ask| {
                (ask.endpoint, ask.protocol, ask.reservation) = (endpoint, protocol, hold);
                if protocol == Protocol::V4 || endpoint == Endpoint::Execute {
                    ask.tools = tools(&["mail"]);
                }
            }
        };
        let hold = desk.allowed(call(Endpoint::Gate, None));
        desk.allowed(call(Endpoint::Execute, Some(hold)));
        let again = desk.ask(call(Endpoint::Execute, Some(hold))).verdict;
        assert_eq!(matches!(again, Verdict::Block(_)), counted, "{protocol:?}");
    }
}

#[test]
fn a_check_counts_nothing() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(2), None, |_| {});
    for _ in 0..5 {
        desk.ask(|ask| {
            naming(&["mail"])(ask);
            ask.endpoint = Endpoint::Check;
        });
    }
    desk.allowed(naming(&["mail"]));
    desk.refused(naming(&["mail"]));
}

#[test]
fn a_flagging_rule_marks_the_workflow_once_and_lets_it_go_on() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(2), None, flag);
    for _ in 0..6 {
        desk.allowed(naming(&["mail"]));
    }
    let view = desk.workflow();
    assert_eq!((view.state, view.version), (State::Flagged, 1));
    let mut marks = 0;
    desk.records(|record| marks += u32::from(matches!(record, Record::WorkflowState(_))));
    assert_eq!(marks, 1);
    desk.set_state(Transition::Resume);
    assert_eq!(state(&mut desk), State::Normal);
    desk.allowed(naming(&["mail"]));
    assert_eq!(state(&mut desk), State::Normal);
    desk.allowed(naming(&["mail"]));
    assert_eq!(state(&mut desk), State::Flagged);
}

#[test]
fn a_flag_comes_first_and_a_block_after_it() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(2), None, flag);
    rule(&mut desk, Some(4), None, |draft| {
        (draft.scope, draft.scope_id) = (Scope::Workflow, Some(WORKFLOW.0));
    });
    desk.allowed(naming(&["mail"]));
    assert_eq!(state(&mut desk), State::Normal);
    desk.allowed(naming(&["mail"]));
    assert_eq!(state(&mut desk), State::Flagged);
    desk.allowed(naming(&["mail"]));
    assert_eq!(desk.refused(naming(&["mail"])).code, Code::LoopDetected);
    assert_eq!(desk.workflow().version, 2);
    assert_eq!(state(&mut desk), State::Tripped);
}

#[test]
fn within_a_scope_the_first_rule_answers_and_the_strictest_where_the_org_says_so() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(2), None, |draft| {
        flag(draft);
        draft.priority = 1;
    });
    rule(&mut desk, Some(4), None, |_| {});
    for _ in 0..5 {
        desk.allowed(naming(&["mail"]));
    }
    desk.set_state(Transition::Resume);
    desk.most_restrictive();
    for _ in 0..3 {
        desk.allowed(naming(&["mail"]));
    }
    assert_eq!(
        state(&mut desk),
        State::Normal,
        "the flagging rule is not asked"
    );
    desk.refused(naming(&["mail"]));
}

#[test]
fn an_allowing_rule_ends_the_question() {
    let mut desk = Desk::new();
    rule(&mut desk, Some(2), None, |draft| {
        draft.action = PolicyAction::Allow;
        draft.priority = 1;
    });
    rule(&mut desk, Some(2), None, |_| {});
    for _ in 0..5 {
        desk.allowed(naming(&["mail"]));
    }
}

#[test]
fn a_rule_about_some_tools_says_nothing_of_others() {
    let mut desk = Desk::new();
    let terms = Terms {
        tools: tools(&["mail*"]),
        loop_threshold: Some(2),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::LoopDetection, terms, |_| {});
    for _ in 0..3 {
        desk.allowed(naming(&["bash"]));
    }
    desk.allowed(naming(&["bash", "mail.send"]));
    desk.allowed(naming(&["bash", "mail.read"]));
    let block = desk.refused(naming(&["bash", "mail.read"]));
    assert_eq!(block.tool, "mail.read");
}

#[test]
fn a_loop_of_one_workflow_does_not_stop_another() {
    let mut desk = Desk::new();
    let (second, key) = (desk.add_workflow(None), desk.add_key(None, None));
    rule(&mut desk, Some(2), None, |_| {});
    desk.allowed(naming(&["mail"]));
    let elsewhere = |ask: &mut Ask| {
        naming(&["mail"])(ask);
        (ask.workflow, ask.key) = (second, key);
    };
    desk.allowed(elsewhere);
    desk.refused(naming(&["mail"]));
    desk.refused(elsewhere);
}
