//! What a plan allows: calls in a month and in a second, how many of a thing there may be, features.

use super::desk::{Desk, NOON, ORG, WORKFLOW, cents, operation};
use engine::code::Code;
use engine::command::{Block, Outcome, Used};
use engine::manage::{
    Manage, NewInvite, OrgPatch, PolicyDraft, PolicyPatch, Refusal, TemplateTerms, Terms,
    WorkflowPatch, WorkflowSettings,
};
use engine::plan::{Features, Limits, Plan, PlanTable};
use engine::price::PriceTable;
use engine::snapshot::read_directory;
use engine::{Engine, Settings};
use persist::ids::{SLOTS, Slot};
use persist::record::{Actor, Endpoint, PolicyAction, PolicyType, Role};
use persist::{InviteId, Millis, PolicyId, WorkflowId};
use std::sync::Arc;

/// 2026-07-01.
const JULY: u64 = 1_782_864_000_000;

fn plan(limits: Limits) -> Plan {
    Plan {
        title: "Small".to_owned(),
        limits,
        ..Plan::default()
    }
}

pub fn executions(most: u64) -> Plan {
    plan(Limits {
        executions_per_month: Some(most),
        ..Limits::default()
    })
}

fn used_up(block: &Block, most: u64) {
    assert_eq!(block.code, Code::ExecutionLimitExceeded, "{block:?}");
    let used = Used {
        resource: "executions",
        current: most,
        limit: most,
    };
    assert_eq!(block.plan, Some(used));
}

#[test]
fn the_executions_of_a_month_are_used_up_one_by_one_and_begin_anew_with_the_next() {
    let mut desk = Desk::under(executions(3));
    let other = desk.add_workflow(None);
    let free = desk.add_key(None, None);
    desk.allowed(|_| {});
    desk.allowed(|ask| (ask.workflow, ask.key) = (other, free));
    desk.allowed(|ask| (ask.workflow, ask.key) = (other, free));
    let block = desk.refused(|_| {});
    used_up(&block, 3);
    assert_eq!(block.resets_at, Some(Millis(JULY)));
    assert!(block.explanation.contains("Small"), "{}", block.explanation);
    desk.clock(JULY - 1);
    used_up(&desk.refused(|_| {}), 3);
    desk.clock(JULY);
    for _ in 0..3 {
        desk.allowed(|_| {});
    }
    used_up(&desk.refused(|_| {}), 3);
}

#[test]
fn an_operation_counts_once_and_what_is_refused_or_only_checked_not_at_all() {
    let mut desk = Desk::under(executions(3));
    desk.cap_workflow(Some(cents(5)));
    for _ in 0..5 {
        desk.ask(|ask| ask.endpoint = Endpoint::Check);
        desk.refused(|ask| ask.estimated_tokens = 1_000_000);
    }
    // A gate, the same again, its execute with and without the hold, and one after an approval.
    let gate = desk.allowed(operation(Endpoint::Gate, "a", 1));
    desk.allowed(operation(Endpoint::Gate, "a", 1));
    desk.allowed(|ask| {
        operation(Endpoint::Execute, "a", 1)(ask);
        ask.reservation = Some(gate);
    });
    desk.allowed(operation(Endpoint::Execute, "ab", 1));
    desk.allowed(operation(Endpoint::Gate, "ab", 1));
    // One has no name.
    let third = desk.allowed(|_| {});
    used_up(&desk.refused(|_| {}), 3);
    used_up(&desk.refused(operation(Endpoint::Gate, "c", 1)), 3);
    // What was counted stays so when its hold ends, and its operation is then another question.
    desk.cancel(ORG, third);
    desk.cancel(ORG, gate);
    used_up(&desk.refused(operation(Endpoint::Execute, "a", 1)), 3);
    // An operation whose hold is open asks on.
    desk.allowed(operation(Endpoint::Gate, "ab", 1));
}

#[test]
fn an_operation_that_ran_on_anothers_hold_counts_when_it_gets_its_own() {
    let mut desk = Desk::under(executions(2));
    let other = desk.allowed(operation(Endpoint::Gate, "b", 1));
    desk.allowed(|ask| {
        operation(Endpoint::Execute, "a", 1)(ask);
        ask.reservation = Some(other);
    });
    desk.allowed(operation(Endpoint::Gate, "a", 1));
    used_up(&desk.refused(|_| {}), 2);
}

#[test]
fn a_call_that_finds_no_money_gives_its_execution_back() {
    let mut desk = Desk::under(executions(2));
    desk.cap_org(Some(cents(1)));
    let hold = desk.allowed(|_| {});
    for _ in 0..4 {
        assert_eq!(
            desk.refused(|_| {}).code,
            Code::BudgetOrgCeilingBlocked,
            "the plan has room"
        );
    }
    desk.cancel(ORG, hold);
    desk.allowed(|_| {});
    used_up(&desk.refused(|_| {}), 2);
}

#[test]
fn executions_outlive_a_restart_from_the_log_or_a_snapshot_with_any_shards() {
    let mut desk = Desk::under(executions(4));
    let free = desk.add_key(None, None);
    desk.allowed(|ask| ask.key = free);
    desk.allowed(operation(Endpoint::Gate, "a", 1));
    desk.allowed(|_| {});
    let all = Slot(0)..=Slot(SLOTS - 1);
    for shards in [1, 2, 7] {
        for from_log in [true, false] {
            let settings = Settings {
                shards,
                ..Settings::default()
            };
            let prices = Arc::new(PriceTable::from_json(super::desk::PRICES).unwrap());
            let plans = PlanTable::new(vec![executions(4)], String::new());
            let mut engine = Engine::new(prices, settings).with_plans(Arc::new(plans));
            if from_log {
                desk.records(|record| engine.fold(record));
            } else {
                let directory = desk.engine.directory_part().unwrap();
                engine.restore_directory(read_directory(&directory).unwrap());
                let slots = desk.engine.slots_part(all.clone()).unwrap();
                engine.restore_slots(&slots).unwrap();
            }
            assert_eq!(
                engine.state_hash().unwrap(),
                desk.engine.state_hash().unwrap()
            );
            engine.fill_cells();
            let mut again = desk.beside(engine);
            // The other half of an operation that was counted before.
            again.allowed(operation(Endpoint::Execute, "a", 1));
            again.allowed(|_| {});
            used_up(&again.refused(|_| {}), 4);
        }
    }
}

#[test]
fn a_plan_has_room_for_so_many_calls_in_a_second() {
    let mut desk = Desk::under(plan(Limits {
        requests_per_second: Some(2),
        ..Limits::default()
    }));
    desk.clock(NOON + 250);
    desk.allowed(operation(Endpoint::Gate, "a", 1));
    desk.allowed(operation(Endpoint::Execute, "a", 1));
    desk.allowed(|_| {});
    let block = desk.refused(|_| {});
    assert_eq!(block.code, Code::RateLimitExceeded);
    assert_eq!(block.retry_after_ms, Some(750));
    let used = Used {
        resource: "requests_per_second",
        current: 2,
        limit: 2,
    };
    assert_eq!(block.plan, Some(used));
    desk.wait(750);
    desk.allowed(|_| {});
    // One that a rate of the minute refuses takes nothing of the second.
    let slow = desk.add_key_with(Some(WORKFLOW), None, |key| key.calls_per_minute = Some(1));
    desk.wait(1000);
    desk.allowed(|ask| ask.key = slow);
    assert_eq!(desk.refused(|ask| ask.key = slow).plan, None);
    desk.allowed(|_| {});
    assert!(desk.refused(|_| {}).plan.is_some());
}

#[test]
fn what_the_plan_lacks_is_refused_with_the_plans_that_have_it() {
    let mut small = plan(Limits::default());
    small.features = Features {
        custom_policies: false,
        approvals: false,
        ..Features::default()
    };
    let mut desk = Desk::under(small);
    let missing = |feature| {
        Outcome::Refused(Refusal::Feature {
            feature,
            plan: "Small".to_owned(),
            plans: Vec::new(),
        })
    };
    let id = WorkflowId(desk.fresh());
    let create = |approvals| Manage::CreateWorkflow {
        org: ORG,
        actor: Actor::System,
        id,
        settings: WorkflowSettings {
            approvals,
            ..WorkflowSettings::named("w".to_owned())
        },
    };
    let refused = |outcome: Outcome, must: Outcome| {
        assert_eq!(format!("{outcome:?}"), format!("{must:?}"));
    };
    refused(desk.manage(create(Some(true))), missing("approvals"));
    assert!(matches!(desk.manage(create(None)), Outcome::Managed(_)));
    let made = desk.published.workflow(ORG, id).unwrap();
    assert!(!made.rare().approvals, "what the plan lacks is off");
    let patch = Manage::PatchWorkflow {
        org: ORG,
        actor: Actor::System,
        id,
        patch: WorkflowPatch {
            approvals: Some(true),
            ..WorkflowPatch::default()
        },
    };
    refused(desk.manage(patch), missing("approvals"));
    let draft = |policy_type, terms| Manage::CreatePolicy {
        org: ORG,
        actor: Actor::System,
        id: persist::PolicyId(9),
        draft: super::desk::draft(policy_type, terms),
    };
    let tools = Terms {
        tools: vec!["mail*".to_owned()],
        ..Terms::default()
    };
    refused(
        desk.manage(draft(PolicyType::ToolBlock, tools)),
        missing("custom_policies"),
    );
    let budget = Terms {
        budget: Some(cents(5)),
        ..Terms::default()
    };
    let made = desk.manage(draft(PolicyType::BudgetLimit, budget));
    assert!(matches!(made, Outcome::Managed(_)), "{made:?}");
}

/// A desk whose org may have rules about tools until it is given the plan `small`.
fn desk_of_two_plans() -> Desk {
    let named = |name: &str, custom_policies| Plan {
        name: name.to_owned(),
        title: name.to_owned(),
        features: Features {
            custom_policies,
            ..Features::default()
        },
        ..Plan::default()
    };
    Desk::of_plans(vec![named("big", true), named("small", false)])
}

fn move_to(desk: &mut Desk, plan: &str) {
    let patch = Manage::PatchOrg {
        org: ORG,
        actor: Actor::System,
        patch: OrgPatch {
            plan: Some(plan.to_owned()),
            ..OrgPatch::default()
        },
    };
    assert!(matches!(desk.manage(patch), Outcome::Managed(_)));
}

fn lacks(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(Refusal::Feature { feature, plans, .. })
        if *feature == "custom_policies" && *plans == ["big"])
}

fn patch(id: PolicyId, patch: PolicyPatch) -> Manage {
    Manage::PatchPolicy {
        org: ORG,
        actor: Actor::System,
        id,
        patch,
    }
}

fn toggle(id: PolicyId, active: Option<bool>) -> Manage {
    Manage::TogglePolicy {
        org: ORG,
        actor: Actor::System,
        id,
        active,
    }
}

#[test]
fn however_a_rule_about_tools_comes_to_be_in_force_the_plan_is_asked_for_it() {
    let mut desk = desk_of_two_plans();
    let mut rule = |change: fn(&mut PolicyDraft)| {
        let terms = Terms {
            tools: vec!["mail*".to_owned()],
            ..Terms::default()
        };
        desk.add_policy(PolicyType::ToolBlock, terms, change)
    };
    let off = rule(|draft| draft.is_active = false);
    let shadow = rule(|draft| draft.shadow = true);
    let flags = rule(|draft| draft.action = PolicyAction::Flag);
    move_to(&mut desk, "small");
    let active = |is_active| PolicyPatch {
        is_active: Some(is_active),
        ..PolicyPatch::default()
    };
    let enforce = PolicyPatch {
        shadow: Some(false),
        ..PolicyPatch::default()
    };
    let block = PolicyPatch {
        action: Some(PolicyAction::Block),
        ..PolicyPatch::default()
    };
    let template = |template: &str| Manage::EnableTemplate {
        org: ORG,
        actor: Actor::System,
        id: PolicyId(77),
        template: template.to_owned(),
        terms: TemplateTerms::default(),
    };
    for change in [
        patch(off, active(true)),
        toggle(off, None),
        toggle(off, Some(true)),
        patch(shadow, enforce.clone()),
        patch(flags, block),
        template("block-payments"),
    ] {
        let words = format!("{change:?}");
        assert!(lacks(&desk.manage(change)), "{words}");
    }
    // Nor in two steps.
    for step in [patch(shadow, active(false)), patch(shadow, enforce)] {
        assert!(matches!(desk.manage(step), Outcome::Managed(_)));
    }
    assert!(lacks(&desk.manage(toggle(shadow, None))));
    // Templates of another kind are in any plan.
    let other = desk.manage(template("loop-guard"));
    assert!(matches!(other, Outcome::Managed(_)), "{other:?}");
    move_to(&mut desk, "big");
    let made = desk.manage(toggle(shadow, None));
    assert!(matches!(made, Outcome::Managed(_)), "{made:?}");
}

#[test]
fn what_is_there_may_be_edited_eased_and_switched_off_in_any_plan() {
    let mut desk = desk_of_two_plans();
    let terms = Terms {
        tools: vec!["mail*".to_owned()],
        ..Terms::default()
    };
    let rule = desk.add_policy(PolicyType::ToolBlock, terms, |_| {});
    move_to(&mut desk, "small");
    let said = PolicyPatch::default;
    for change in [
        patch(
            rule,
            PolicyPatch {
                priority: Some(3),
                ..said()
            },
        ),
        patch(
            rule,
            PolicyPatch {
                action: Some(PolicyAction::Flag),
                ..said()
            },
        ),
        patch(
            rule,
            PolicyPatch {
                shadow: Some(true),
                ..said()
            },
        ),
        toggle(rule, None),
    ] {
        let done = desk.manage(change);
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
    }
}

#[test]
fn a_draft_that_is_wrong_is_told_so_in_any_plan() {
    let mut desk = desk_of_two_plans();
    move_to(&mut desk, "small");
    let wrong = Manage::CreatePolicy {
        org: ORG,
        actor: Actor::System,
        id: PolicyId(9),
        draft: super::desk::draft(PolicyType::ToolBlock, Terms::default()),
    };
    let refused = desk.manage(wrong);
    assert!(
        matches!(&refused, Outcome::Refused(Refusal::Invalid { field, .. }) if *field == "config.tool_pattern"),
        "{refused:?}"
    );
}

#[test]
fn the_first_workflow_of_an_org_waits_for_approvals_only_where_the_plan_has_them() {
    for approvals in [true, false] {
        let mut small = plan(Limits::default());
        small.features.approvals = approvals;
        let desk = Desk::under(small);
        let first = desk.published.workflow(ORG, WORKFLOW).unwrap();
        assert_eq!(first.rare().approvals, approvals);
    }
}

#[test]
fn members_and_open_invitations_take_seats_and_one_that_is_over_takes_one_again_when_it_is_resent()
{
    let mut desk = Desk::under(plan(Limits {
        seats: Some(2),
        ..Limits::default()
    }));
    let owner = desk.published.org(ORG).unwrap().members[0].user;
    let invite = |desk: &mut Desk, n: u128| {
        let expires_at = Millis(desk.engine.now().0 + 1000);
        desk.manage(Manage::Invite {
            org: ORG,
            by: owner,
            invite: NewInvite {
                id: InviteId(n),
                email: format!("{n}@example.com"),
                role: Role::Viewer,
                token_hash: [n as u8; 32],
                expires_at,
            },
        })
    };
    let full = |outcome: Outcome| match outcome {
        Outcome::Refused(Refusal::Limit {
            code,
            current,
            limit,
            ..
        }) => (code, current, limit) == ("seats_limit_reached", 2, 2),
        _ => false,
    };
    assert!(matches!(invite(&mut desk, 1), Outcome::Managed(_)));
    assert!(full(invite(&mut desk, 2)));
    desk.wait(1000);
    assert!(matches!(invite(&mut desk, 2), Outcome::Managed(_)));
    let resend = Manage::ResendInvite {
        org: ORG,
        by: owner,
        id: InviteId(1),
        token_hash: [9; 32],
        expires_at: Millis(u64::MAX),
    };
    assert!(full(desk.manage(resend)));
}
