//! Which policy answers, and rates.

use super::desk::{Desk, KEY, WORKFLOW, cents, operation, tools};
use engine::code::Code;
use engine::command::{Ask, Outcome, Protocol};
use engine::manage::{Manage, OverdraftPatch, PolicyDraft, PolicyPatch, Terms, TermsPatch};
use persist::Nanos;
use persist::record::{Actor, Endpoint, Overdraft, PeriodKind, PolicyAction, PolicyType, Scope};

fn tool_rule(desk: &mut Desk, pattern: &str, change: impl FnOnce(&mut PolicyDraft)) {
    let terms = Terms {
        tools: tools(&[pattern]),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::ToolBlock, terms, change);
}

fn budget_rule(desk: &mut Desk, cap: Nanos, change: impl FnOnce(&mut PolicyDraft)) {
    let terms = Terms {
        budget: Some(cap),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::BudgetLimit, terms, change);
}

fn rate_rule(desk: &mut Desk, calls: u32, change: impl FnOnce(&mut PolicyDraft)) {
    let terms = Terms {
        calls_per_minute: Some(calls),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::RateLimit, terms, change);
}

fn naming(names: &'static [&'static str]) -> impl Fn(&mut Ask) {
    move |ask| ask.tools = tools(names)
}

#[test]
fn the_first_matching_tool_rule_answers_and_the_strictest_where_the_org_says_so() {
    let mut desk = Desk::new();
    tool_rule(&mut desk, "*", |draft| draft.priority = 20);
    tool_rule(&mut desk, "mail.*", |draft| {
        draft.priority = 10;
        draft.action = PolicyAction::Allow;
    });
    desk.allowed(naming(&["mail.send"]));
    let block = desk.refused(naming(&["mail.send", "bash"]));
    assert_eq!((&*block.tool, &*block.pattern), ("bash", "*"));
    desk.most_restrictive();
    let block = desk.refused(naming(&["mail.send"]));
    assert_eq!((&*block.tool, &*block.pattern), ("mail.send", "*"));
}

#[test]
fn of_two_rules_of_one_priority_the_older_answers() {
    let mut desk = Desk::new();
    tool_rule(&mut desk, "bash", |draft| {
        draft.action = PolicyAction::Allow
    });
    desk.wait(1);
    tool_rule(&mut desk, "bash", |_| {});
    desk.allowed(naming(&["bash"]));
}

#[test]
fn every_scope_is_asked_and_any_block_blocks() {
    for (scope, id) in [
        (Scope::Org, None),
        (Scope::Workflow, Some(WORKFLOW.0)),
        (Scope::ApiKey, Some(KEY.0)),
    ] {
        let mut desk = Desk::new();
        // What another scope allows helps nothing.
        tool_rule(&mut desk, "*", |draft| {
            (draft.scope, draft.scope_id) = match scope {
                Scope::Org => (Scope::Workflow, Some(WORKFLOW.0)),
                Scope::Workflow | Scope::ApiKey => (Scope::Org, None),
            };
            draft.action = PolicyAction::Allow;
            draft.priority = 1;
        });
        tool_rule(&mut desk, "bash", |draft| {
            (draft.scope, draft.scope_id) = (scope, id)
        });
        desk.refused(naming(&["bash"]));
        desk.allowed(naming(&["mail"]));
    }
}

#[test]
fn a_rule_that_is_switched_off_answers_nothing() {
    let mut desk = Desk::new();
    tool_rule(&mut desk, "bash", |draft| draft.is_active = false);
    desk.allowed(naming(&["bash"]));
    desk.allowed(|_| {});
}

#[test]
fn the_first_budget_policy_sets_the_cap_and_the_smallest_where_the_org_says_so() {
    let mut desk = Desk::new();
    budget_rule(&mut desk, cents(3), |draft| draft.priority = 10);
    budget_rule(&mut desk, cents(1), |draft| draft.priority = 20);
    desk.allowed(|_| {});
    desk.allowed(|_| {});
    desk.most_restrictive();
    let block = desk.refused(|_| {});
    assert_eq!(block.budget.unwrap().cap, cents(1));
    assert_eq!(block.policy.unwrap().priority, 20);
}

#[test]
fn an_allowing_budget_policy_ends_its_question_without_a_cap_but_not_the_others() {
    let mut desk = Desk::new();
    budget_rule(&mut desk, cents(0), |draft| draft.priority = 20);
    desk.refused(|_| {});
    budget_rule(&mut desk, cents(0), |draft| {
        draft.priority = 10;
        draft.action = PolicyAction::Allow;
    });
    desk.allowed(|_| {});
    budget_rule(&mut desk, cents(1), |draft| {
        (draft.scope, draft.scope_id) = (Scope::ApiKey, Some(KEY.0));
    });
    assert_eq!(desk.refused(|_| {}).budget.unwrap().scope, Scope::ApiKey);
}

#[test]
fn a_policy_with_conditions_concerns_only_the_calls_that_meet_them() {
    let mut desk = Desk::new();
    let terms = Terms {
        models: tools(&["gpt-*"]),
        min_cost: Some(cents(2)),
        budget: Some(Nanos::ZERO),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::BudgetLimit, terms, |_| {});
    let call = |model: &'static str, tokens| {
        move |ask: &mut Ask| {
            ask.model = Some(model.to_owned());
            ask.estimated_tokens = tokens;
        }
    };
    desk.allowed(call("small", 50_000));
    // 9,000 nano-dollars a token, the provisional price.
    desk.allowed(call("GPT-9", 2_222));
    desk.refused(call("GPT-9", 2_223));
}

#[test]
fn a_directory_change_decides_only_once_it_is_durable() {
    let mut desk = Desk::new();
    let before = desk.published.clone();
    tool_rule(&mut desk, "bash", |_| {});
    desk.cap_org(Some(Nanos::ZERO));
    let after = std::mem::replace(&mut desk.published, before);
    desk.allowed(naming(&["bash"]));
    desk.published = after;
    assert_eq!(desk.refused(naming(&["bash"])).code, Code::ToolBlocked);
    assert_eq!(
        desk.refused(naming(&["mail"])).code,
        Code::BudgetOrgCeilingBlocked
    );
}

#[test]
fn a_rate_is_calls_in_sixty_seconds_and_says_when_there_is_room_again() {
    let mut desk = Desk::new();
    rate_rule(&mut desk, 2, |_| {});
    desk.allowed(|_| {});
    desk.wait(10_000);
    desk.allowed(|_| {});
    let block = desk.refused(|_| {});
    assert_eq!(block.code, Code::RateLimitExceeded);
    assert_eq!(block.retry_after_ms, Some(50_000));
    desk.wait(49_999);
    desk.refused(|_| {});
    desk.wait(1);
    desk.allowed(|_| {});
    desk.refused(|_| {});
    assert_eq!(desk.workflow().sums.held, cents(3));
}

#[test]
fn an_operation_counts_once_however_often_it_is_asked_about() {
    let mut desk = Desk::new();
    rate_rule(&mut desk, 2, |_| {});
    let gate = |name| operation(Endpoint::Gate, name, 1);
    let hold = desk.allowed(gate("a"));
    for _ in 0..5 {
        desk.allowed(gate("a"));
    }
    // Asked anew after its hold has ended, it is still the same operation.
    desk.cancel(super::desk::ORG, hold);
    desk.allowed(gate("a"));
    desk.allowed(gate("b"));
    desk.refused(gate("c"));
}

#[test]
fn an_execute_counts_with_its_gate() {
    let mut desk = Desk::new();
    rate_rule(&mut desk, 2, |_| {});
    // On the gate's reservation, as clients of protocol 4 do.
    let hold = desk.allowed(operation(Endpoint::Gate, "a", 1));
    desk.allowed(|ask| {
        operation(Endpoint::Execute, "a", 1)(ask);
        ask.reservation = Some(hold);
    });
    // Without it, as clients of protocol 3 do: one call, named twice.
    for endpoint in [Endpoint::Gate, Endpoint::Execute] {
        desk.allowed(|ask| {
            operation(endpoint, "b", 1)(ask);
            ask.protocol = Protocol::V3;
        });
    }
    desk.refused(operation(Endpoint::Gate, "c", 1));
}

#[test]
fn an_operation_that_was_counted_is_not_refused_for_itself() {
    let mut desk = Desk::new();
    rate_rule(&mut desk, 1, |_| {});
    desk.cap_workflow(Some(Nanos::ZERO));
    let gate = |name| operation(Endpoint::Gate, name, 1);
    assert_eq!(desk.refused(gate("a")).code, Code::BudgetHardBlocked);
    // A raised cap helps the retry; another call finds the rate used up.
    desk.cap_workflow(None);
    desk.allowed(gate("a"));
    assert_eq!(desk.refused(gate("b")).code, Code::RateLimitExceeded);
}

#[test]
fn the_rates_of_org_workflow_and_key_are_counted_apart() {
    let mut desk = Desk::new();
    let second = desk.add_workflow(None);
    let other = desk.add_key(None, None);
    rate_rule(&mut desk, 3, |_| {});
    rate_rule(&mut desk, 1, |draft| {
        (draft.scope, draft.scope_id) = (Scope::Workflow, Some(second.0));
    });
    let call = move |workflow| move |ask: &mut Ask| (ask.key, ask.workflow) = (other, workflow);
    desk.allowed(call(second));
    desk.refused(call(second));
    // What one scope refuses is counted in none.
    desk.allowed(call(WORKFLOW));
    desk.allowed(call(WORKFLOW));
    desk.refused(call(WORKFLOW));
}

#[test]
fn a_keys_own_rate_is_asked_in_addition_and_each_call_counts_once() {
    let mut desk = Desk::new();
    let key = desk.add_key_with(Some(WORKFLOW), None, |key| key.calls_per_minute = Some(2));
    let other = desk.add_key_with(Some(WORKFLOW), None, |key| key.calls_per_minute = Some(9));
    for (of, calls) in [(key, 9), (other, 3)] {
        rate_rule(&mut desk, calls, |draft| {
            (draft.scope, draft.scope_id) = (Scope::ApiKey, Some(of.0));
        });
    }
    for _ in 0..2 {
        desk.allowed(|ask| ask.key = key);
    }
    let refused = desk.refused(|ask| ask.key = key);
    assert!(refused.policy.is_none() && refused.retry_after_ms.is_some());
    assert!(
        refused.explanation.contains("max_calls_per_minute"),
        "{}",
        refused.explanation
    );
    // The policy is the stricter one here; its meter counted each call once.
    for _ in 0..3 {
        desk.allowed(|ask| ask.key = other);
    }
    assert!(desk.refused(|ask| ask.key = other).policy.is_some());
}

#[test]
fn of_two_who_change_different_parts_of_a_policy_at_once_both_are_heard() {
    let mut desk = Desk::new();
    let terms = Terms {
        budget: Some(cents(5)),
        models: tools(&["gpt-*"]),
        ..Terms::default()
    };
    let id = desk.add_policy(PolicyType::BudgetLimit, terms, |_| {});
    let soft = Overdraft {
        amount: Some(cents(1)),
        percent: None,
    };
    // Both requests came in while the policy was as it was made.
    for terms in [
        TermsPatch {
            budget: Some(cents(7)),
            ..TermsPatch::default()
        },
        TermsPatch {
            period: Some(PeriodKind::Day),
            min_cost: Some(Some(cents(2))),
            overdraft: OverdraftPatch::to(Some(soft)),
            ..TermsPatch::default()
        },
        TermsPatch {
            tools: Some(tools(&["mail"])),
            ..TermsPatch::default()
        },
    ] {
        let done = desk.manage(Manage::PatchPolicy {
            org: super::desk::ORG,
            actor: Actor::System,
            id,
            patch: PolicyPatch {
                terms,
                ..PolicyPatch::default()
            },
        });
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
    }
    let org = desk.published.org(super::desk::ORG).unwrap();
    let now = Terms::of(org.rules.get(id).unwrap());
    assert_eq!(
        (now.budget, now.period, now.min_cost, now.overdraft),
        (Some(cents(7)), PeriodKind::Day, Some(cents(2)), Some(soft))
    );
    assert_eq!(
        (now.tools, now.models),
        (tools(&["mail"]), tools(&["gpt-*"]))
    );
}
