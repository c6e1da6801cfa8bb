//! Policies in the shadow and policies that flag: they decide nothing, and what they say is noted.

use super::desk::{Desk, WORKFLOW, cents, operation, tools};
use engine::code::Code;
use engine::command::{Ask, Command, Decision, Figures, NO_KEY, Outcome, Verdict};
use engine::evaluate::{Evaluated, nothing};
use engine::limits;
use engine::manage::{
    Manage, PolicyDraft, PolicyPatch, Refusal, Terms, WatchPatch, WorkflowPatch, draft_rules,
};
use engine::plan::{Limits, Plan};
use engine::rules::Standing;
use persist::record::{
    Actor, Endpoint, LoopWatch, Note, PolicyAction, PolicyType, Record, Scope, State,
};
use persist::{Nanos, PolicyId};
use std::sync::Arc;

fn shadow(draft: &mut PolicyDraft) {
    draft.shadow = true;
}

fn flag(draft: &mut PolicyDraft) {
    draft.action = PolicyAction::Flag;
}

fn naming(names: &[&str]) -> Terms {
    Terms {
        tools: tools(names),
        ..Terms::default()
    }
}

fn rate(calls: u32) -> Terms {
    Terms {
        calls_per_minute: Some(calls),
        ..Terms::default()
    }
}

fn cap(cap: Nanos) -> Terms {
    Terms {
        budget: Some(cap),
        ..Terms::default()
    }
}

fn repeats(calls: u32) -> Terms {
    Terms {
        loop_threshold: Some(calls),
        ..Terms::default()
    }
}

fn mail(ask: &mut Ask) {
    ask.tools = tools(&["mail"]);
}

/// Who said something of a call, and whether it would have refused it.
fn said(decision: &Decision) -> Vec<(PolicyId, bool)> {
    let notes = decision.notes.iter();
    notes
        .map(|noted| (noted.policy.id, noted.refuses))
        .collect()
}

fn recorded(desk: &Desk) -> Vec<Note> {
    let mut last = Vec::new();
    desk.records(|record| match record {
        Record::HoldMinted(minted) => last.clone_from(&minted.notes),
        Record::HoldUsed(used) => last.clone_from(&used.notes),
        Record::Refused(refused) => last.clone_from(&refused.notes),
        _ => {}
    });
    last
}

fn is_allowed(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Allow { .. })
}

#[test]
fn a_tool_rule_in_the_shadow_blocks_nothing_and_its_refusal_stands_in_the_record() {
    let mut desk = Desk::new();
    let rule = desk.add_policy(PolicyType::ToolBlock, naming(&["mail"]), shadow);
    let decision = desk.ask(mail);
    assert!(is_allowed(&decision));
    assert_eq!(said(&decision), [(rule, true)]);
    let note = Note {
        policy: rule,
        version: 1,
        shadow: true,
        refuses: true,
    };
    assert_eq!(recorded(&desk), [note]);
    let other = desk.ask(|ask| ask.tools = tools(&["bash"]));
    assert!(is_allowed(&other) && other.notes.is_empty());
}

#[test]
fn a_tool_rule_that_only_observes_is_noted_once_however_many_tools_it_names() {
    let mut desk = Desk::new();
    let allow = |draft: &mut PolicyDraft| {
        (draft.action, draft.priority) = (PolicyAction::Allow, 2);
    };
    let before = |draft: &mut PolicyDraft| {
        shadow(draft);
        draft.priority = 1;
    };
    let first = desk.add_policy(PolicyType::ToolBlock, naming(&["mail*", "bash"]), before);
    desk.add_policy(PolicyType::ToolBlock, naming(&["mail*"]), allow);
    // Of the first tool another one answers before it; of the second nothing does.
    let last = desk.add_policy(PolicyType::ToolBlock, naming(&["*"]), shadow);
    let decision = desk.ask(|ask| ask.tools = tools(&["mail", "bash", "mail.send", "db"]));
    assert_eq!(said(&decision), [(first, true), (last, true)]);
    let decision = desk.ask(|ask| ask.tools = tools(&["mail", "mail.send"]));
    assert_eq!(said(&decision), [(first, true)]);
}

#[test]
fn a_call_that_names_no_tools_is_noted_by_tool_rules_in_the_shadow() {
    let mut desk = Desk::new();
    let rule = desk.add_policy(PolicyType::ToolBlock, naming(&["mail"]), shadow);
    let decision = desk.ask(|_| {});
    assert!(is_allowed(&decision));
    assert_eq!(said(&decision), [(rule, true)]);
}

#[test]
fn a_rate_in_the_shadow_counts_by_itself_and_says_what_it_would_have_refused() {
    let mut desk = Desk::new();
    let in_force = desk.add_policy(PolicyType::RateLimit, rate(4), |draft| {
        draft.terms.models = tools(&["small"]);
        draft.priority = 200;
    });
    let rule = desk.add_policy(PolicyType::RateLimit, rate(2), shadow);
    for refuses in [false, false, true] {
        // Of no model: the limit in force is not about it, and does not count it.
        let decision = desk.ask(|ask| ask.model = None);
        assert_eq!(said(&decision), [(rule, refuses)]);
    }
    for _ in 0..4 {
        assert!(is_allowed(&desk.ask(|_| {})));
    }
    let block = desk.refused(|_| {});
    assert_eq!(block.policy.map(|policy| policy.id), Some(in_force));
    desk.wait(60_000);
    assert_eq!(said(&desk.ask(|_| {})), [(rule, false)]);
}

#[test]
fn an_operation_is_noted_by_rates_once_however_often_it_is_asked_about() {
    let mut desk = Desk::new();
    let rule = desk.add_policy(PolicyType::RateLimit, rate(1), shadow);
    let gate = |name| operation(Endpoint::Gate, name, 1);
    assert_eq!(said(&desk.ask(gate("a"))), [(rule, false)]);
    assert_eq!(said(&desk.ask(gate("a"))), []);
    assert_eq!(said(&desk.ask(gate("b"))), [(rule, true)]);
}

#[test]
fn a_budget_in_the_shadow_says_what_it_would_have_refused() {
    let mut desk = Desk::new();
    let rule = desk.add_policy(PolicyType::BudgetLimit, cap(cents(2)), shadow);
    for refuses in [false, false, true] {
        let decision = desk.ask(|_| {});
        assert!(is_allowed(&decision));
        assert_eq!(said(&decision), [(rule, refuses)]);
        assert_eq!(decision.remaining, None, "it is no cap");
    }
}

#[test]
fn a_loop_rule_in_the_shadow_marks_no_workflow() {
    let mut desk = Desk::new();
    let rule = desk.add_policy(PolicyType::LoopDetection, repeats(2), shadow);
    assert_eq!(said(&desk.ask(mail)), [(rule, false)]);
    assert_eq!(said(&desk.ask(mail)), [(rule, true)]);
    assert_eq!(desk.workflow().state, State::Normal);
}

#[test]
fn with_first_match_a_policy_behind_the_answer_is_not_heard_and_with_most_restrictive_it_is() {
    let mut desk = Desk::new();
    desk.add_policy(PolicyType::BudgetLimit, cap(cents(100)), |draft| {
        draft.priority = 1;
    });
    let rule = desk.add_policy(PolicyType::BudgetLimit, cap(Nanos::ZERO), shadow);
    assert_eq!(said(&desk.ask(|_| {})), []);
    desk.most_restrictive();
    assert_eq!(said(&desk.ask(|_| {})), [(rule, true)]);
}

#[test]
fn questions_behind_a_refusal_are_not_asked_in_the_shadow_either() {
    let mut desk = Desk::new();
    desk.add_policy(PolicyType::ToolBlock, naming(&["mail"]), |_| {});
    desk.add_policy(PolicyType::RateLimit, rate(1), shadow);
    let tool = desk.add_policy(PolicyType::ToolBlock, naming(&["*"]), |draft| {
        draft.shadow = true;
        draft.priority = 1;
    });
    let decision = desk.ask(mail);
    assert!(!is_allowed(&decision));
    assert_eq!(said(&decision), [(tool, true)]);
    assert_eq!(recorded(&desk).len(), 1);
}

#[test]
fn what_a_policy_flags_is_noted_and_nothing_else_of_it() {
    let mut desk = Desk::new();
    let tool = desk.add_policy(PolicyType::ToolBlock, naming(&["mail"]), flag);
    let rate = desk.add_policy(PolicyType::RateLimit, rate(2), flag);
    let cap = desk.add_policy(PolicyType::BudgetLimit, cap(cents(3)), flag);
    let bash = |ask: &mut Ask| ask.tools = tools(&["bash"]);
    assert_eq!(said(&desk.ask(bash)), []);
    assert_eq!(said(&desk.ask(mail)), [(tool, false)]);
    assert_eq!(said(&desk.ask(bash)), [(rate, false)]);
    let last = desk.ask(bash);
    assert_eq!(said(&last), [(rate, false), (cap, false)]);
    assert!(recorded(&desk).iter().all(|note| !note.shadow));
    assert_eq!(desk.workflow().state, State::Normal);
}

#[test]
fn a_workflows_own_loop_rule_stops_it_beside_all_policies() {
    let mut desk = Desk::new();
    desk.patch_workflow(WorkflowPatch {
        watch: WatchPatch::to(Some(LoopWatch {
            threshold: 3,
            window_secs: 60,
        })),
        ..WorkflowPatch::default()
    });
    desk.add_policy(PolicyType::LoopDetection, repeats(9), |draft| {
        (draft.scope, draft.scope_id) = (Scope::Workflow, Some(WORKFLOW.0));
    });
    desk.allowed(mail);
    desk.allowed(mail);
    let block = desk.refused(mail);
    assert_eq!(
        (block.code, block.policy.is_none()),
        (Code::LoopDetected, true)
    );
    assert!(
        block.explanation.contains("loop_threshold"),
        "{}",
        block.explanation
    );
    let view = desk.workflow();
    assert_eq!(
        (view.state, view.state_by),
        (State::Tripped, Some(Actor::System))
    );
}

#[test]
fn only_so_many_policies_may_observe() {
    let mut desk = Desk::new();
    for _ in 0..limits::OBSERVERS {
        desk.add_policy(PolicyType::RateLimit, rate(1), shadow);
    }
    let plain = desk.add_policy(PolicyType::RateLimit, rate(1), |_| {});
    let patch = Manage::PatchPolicy {
        org: super::desk::ORG,
        actor: Actor::System,
        id: plain,
        patch: PolicyPatch {
            shadow: Some(true),
            ..PolicyPatch::default()
        },
    };
    let refused = desk.manage(patch);
    assert!(
        matches!(&refused, Outcome::Refused(Refusal::Conflict { code, .. }) if *code == "observer_limit_reached"),
        "{refused:?}"
    );
}

// --- what would be ---------------------------------------------------------------------------

fn evaluate(
    desk: &mut Desk,
    drafts: Option<&[PolicyDraft]>,
    change: impl FnOnce(&mut Ask),
) -> Evaluated {
    let mut ask = nothing(super::desk::ORG, WORKFLOW, NO_KEY);
    ask.figures = Some(Box::default());
    change(&mut ask);
    let now = desk.engine.now();
    let rules = drafts
        .map(|drafts| draft_rules(&desk.published, super::desk::ORG, drafts, now).unwrap())
        .map(Arc::new);
    let ask = Box::new(ask);
    match desk.apply(&Command::Evaluate { ask, rules }) {
        Outcome::Evaluated(evaluated) => *evaluated,
        other => panic!("{other:?}"),
    }
}

fn draft(policy_type: PolicyType, terms: Terms) -> PolicyDraft {
    PolicyDraft {
        name: "a draft".to_owned(),
        policy_type,
        scope: Scope::Org,
        scope_id: None,
        priority: 100,
        action: PolicyAction::Block,
        terms,
        is_active: true,
        shadow: false,
        template: None,
    }
}

fn code(decision: &Decision) -> Option<Code> {
    match &decision.verdict {
        Verdict::Allow { .. } => None,
        Verdict::Block(block) => Some(block.code),
    }
}

#[test]
fn a_call_that_is_tried_holds_counts_and_writes_nothing() {
    let mut desk = Desk::new();
    desk.add_policy(PolicyType::RateLimit, rate(1), |_| {});
    let watched = desk.add_policy(PolicyType::RateLimit, rate(1), |draft| {
        (draft.shadow, draft.priority) = (true, 1);
    });
    desk.add_policy(PolicyType::LoopDetection, repeats(2), |_| {});
    let (before, hash) = (desk.count(), desk.engine.state_hash().unwrap());
    for _ in 0..5 {
        let tried = evaluate(&mut desk, None, mail);
        assert!(is_allowed(&tried.decision), "{tried:?}");
        assert_eq!(said(&tried.decision), [(watched, false)]);
    }
    assert_eq!(desk.count(), before);
    assert_eq!(desk.engine.state_hash().unwrap(), hash);
    let decision = desk.ask(mail);
    assert!(is_allowed(&decision));
    assert_eq!(said(&decision), [(watched, false)]);
    let tried = evaluate(&mut desk, None, |_| {});
    assert_eq!(code(&tried.decision), Some(Code::RateLimitExceeded));
    // The loop comes before the rate.
    let tried = evaluate(&mut desk, None, mail);
    assert_eq!(code(&tried.decision), Some(Code::LoopDetected));
    assert_eq!(desk.workflow().state, State::Normal);
}

#[test]
fn a_call_that_is_tried_takes_nothing_of_the_plans_second() {
    let mut desk = Desk::under(Plan {
        limits: Limits {
            requests_per_second: Some(1),
            ..Limits::default()
        },
        ..Plan::default()
    });
    for _ in 0..3 {
        let tried = evaluate(&mut desk, None, mail);
        assert!(is_allowed(&tried.decision), "{tried:?}");
    }
    assert!(is_allowed(&desk.ask(mail)));
    let refused = desk.ask(mail);
    assert_eq!(code(&refused), Some(Code::RateLimitExceeded));
}

#[test]
fn a_draft_is_asked_instead_of_the_policies_there_are_and_what_was_looked_at_is_shown() {
    let mut desk = Desk::new();
    desk.add_policy(PolicyType::ToolBlock, naming(&["*"]), |_| {});
    let allow = PolicyDraft {
        action: PolicyAction::Allow,
        priority: 1,
        ..draft(PolicyType::ToolBlock, naming(&["mail"]))
    };
    let drafts = [
        draft(PolicyType::ToolBlock, naming(&["mail", "bash"])),
        allow,
        draft(PolicyType::RateLimit, rate(5)),
        PolicyDraft {
            shadow: true,
            ..draft(PolicyType::BudgetLimit, cap(Nanos::ZERO))
        },
    ];
    let tried = evaluate(&mut desk, Some(&drafts), mail);
    assert!(is_allowed(&tried.decision));
    assert_eq!(said(&tried.decision), [(PolicyId(3), true)]);
    assert_eq!(
        standings(&tried),
        [
            (1, Standing::Answers),
            (0, Standing::Behind),
            (2, Standing::Answers),
            (3, Standing::Shadow)
        ]
    );
    let tried = evaluate(&mut desk, Some(&drafts), |ask| ask.tools = tools(&["bash"]));
    assert_eq!(code(&tried.decision), Some(Code::ToolBlocked));
    assert_eq!(
        standings(&tried),
        [(1, Standing::NotMet), (0, Standing::Answers)]
    );
}

/// Each policy that was looked at, and how it stands.
fn standings(tried: &Evaluated) -> Vec<(u128, Standing)> {
    let looked = tried.looked.iter().flat_map(|(_, looked)| looked);
    looked.map(|one| (one.policy.id.0, one.standing)).collect()
}

#[test]
fn of_a_call_without_tools_the_rule_that_refuses_it_is_shown_as_the_one_that_answers() {
    let mut desk = Desk::new();
    let drafts = [
        draft(PolicyType::ToolBlock, naming(&["mail"])),
        PolicyDraft {
            priority: 1,
            shadow: true,
            ..draft(PolicyType::ToolBlock, naming(&["bash"]))
        },
        PolicyDraft {
            priority: 200,
            ..draft(PolicyType::ToolBlock, naming(&["*"]))
        },
    ];
    let tried = evaluate(&mut desk, Some(&drafts), |_| {});
    let Verdict::Block(block) = &tried.decision.verdict else {
        panic!("{tried:?}");
    };
    assert_eq!(block.policy.as_ref().map(|policy| policy.id.0), Some(0));
    assert_eq!(said(&tried.decision), [(PolicyId(1), true)]);
    let must = [
        (1, Standing::Shadow),
        (0, Standing::Answers),
        (2, Standing::Behind),
    ];
    assert_eq!(standings(&tried), must);
}

#[test]
fn a_call_without_tools_is_shown_as_none_of_a_loop() {
    let mut desk = Desk::new();
    let drafts = [draft(PolicyType::LoopDetection, repeats(3))];
    let tried = evaluate(&mut desk, Some(&drafts), |_| {});
    assert_eq!(standings(&tried), [(0, Standing::NotMet)]);
    assert!(tried.limits.loops.is_empty());
    let tried = evaluate(&mut desk, Some(&drafts), mail);
    assert_eq!(standings(&tried), [(0, Standing::Answers)]);
    assert_eq!(tried.limits.loops.len(), 1);
}

#[test]
fn what_a_tried_call_was_held_against_ends_with_the_question_that_ended_it() {
    let mut desk = Desk::under(Plan {
        limits: Limits {
            executions_per_month: Some(1),
            ..Limits::default()
        },
        ..Plan::default()
    });
    desk.cap_org(Some(cents(50)));
    let key = desk.add_key_with(Some(WORKFLOW), Some(cents(40)), |key| {
        key.calls_per_minute = Some(7);
    });
    desk.patch_workflow(WorkflowPatch {
        watch: WatchPatch::to(Some(LoopWatch {
            threshold: 9,
            window_secs: 60,
        })),
        ..WorkflowPatch::default()
    });
    desk.add_policy(PolicyType::RateLimit, rate(6), |_| {});
    let call = |ask: &mut Ask| {
        mail(ask);
        ask.key = key;
    };
    let tried = evaluate(&mut desk, None, call);
    let limits = &tried.limits;
    let rates: Vec<_> = limits.rates.iter().map(|rate| rate.limit).collect();
    let loops: Vec<_> = limits.loops.iter().map(|rule| rule.threshold).collect();
    let caps: Vec<_> = limits.caps.iter().map(|(cap, _)| cap.cap).collect();
    assert_eq!((rates, loops), (vec![6, 7], vec![9]));
    assert_eq!(caps, [cents(50), cents(40)]);
    // The plan comes behind loops and before rates.
    desk.allowed(call);
    let tried = evaluate(&mut desk, None, call);
    assert_eq!(code(&tried.decision), Some(Code::ExecutionLimitExceeded));
    let asked: Vec<_> = tried.looked.iter().map(|(question, _)| *question).collect();
    assert_eq!(asked, [PolicyType::ToolBlock, PolicyType::LoopDetection]);
    let limits = &tried.limits;
    assert!(limits.rates.is_empty() && limits.caps.is_empty());
    assert_eq!(limits.loops.len(), 1);
}

#[test]
fn beside_what_a_draft_makes_of_a_call_stands_what_becomes_of_it_now() {
    let mut desk = Desk::new();
    desk.add_policy(PolicyType::ToolBlock, naming(&["mail"]), |_| {});
    let drafts = [draft(PolicyType::RateLimit, rate(5))];
    let tried = evaluate(&mut desk, Some(&drafts), mail);
    assert!(is_allowed(&tried.decision));
    let present = tried.present.unwrap();
    assert_eq!(code(&present), Some(Code::ToolBlocked));
    assert!(evaluate(&mut desk, None, mail).present.is_none());
}

#[test]
fn a_described_call_is_held_against_the_figures_it_names() {
    let mut desk = Desk::new();
    let drafts = [
        draft(PolicyType::RateLimit, rate(5)),
        draft(PolicyType::LoopDetection, repeats(3)),
        draft(PolicyType::BudgetLimit, cap(cents(10))),
    ];
    let figures = |cost, calls, tool_calls| Figures {
        cost,
        calls,
        tool_calls,
    };
    for (figures, ends) in [
        (figures(Some(cents(10)), Some(4), Some(1)), None),
        (
            figures(Some(cents(11)), None, None),
            Some(Code::BudgetOrgCeilingBlocked),
        ),
        (figures(None, Some(5), None), Some(Code::RateLimitExceeded)),
        (figures(None, None, Some(2)), Some(Code::LoopDetected)),
    ] {
        let tried = evaluate(&mut desk, Some(&drafts), |ask| {
            mail(ask);
            ask.figures = Some(Box::new(figures));
        });
        assert_eq!(code(&tried.decision), ends, "{figures:?}");
    }
}

#[test]
fn a_wrong_policy_of_a_draft_is_named_by_its_place() {
    let desk = Desk::new();
    let drafts = [
        draft(PolicyType::RateLimit, rate(5)),
        draft(PolicyType::ToolBlock, Terms::default()),
    ];
    let wrong = draft_rules(
        &desk.published,
        super::desk::ORG,
        &drafts,
        desk.engine.now(),
    );
    assert_eq!(wrong.err().map(|(at, _)| at), Some(1));
    let many = tools(&["x"; 250]);
    let drafts: Vec<_> = (0..9)
        .map(|_| {
            let terms = Terms {
                tools: many.clone(),
                ..Terms::default()
            };
            draft(PolicyType::ToolBlock, terms)
        })
        .collect();
    let wrong = draft_rules(
        &desk.published,
        super::desk::ORG,
        &drafts,
        desk.engine.now(),
    );
    assert_eq!(wrong.err().map(|(at, _)| at), Some(8));
}
