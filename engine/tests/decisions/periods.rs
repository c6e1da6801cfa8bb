//! Periods: what counts when a day, a week, a month ends, and what never ends.

use super::desk::{Desk, KEY, ORG, WORKFLOW, at, cents, tenths, tools};
use engine::manage::{Terms, WorkflowPatch};
use persist::record::{PeriodKind, PolicyType, Scope};
use persist::{KeyId, Nanos};

/// Whose cap it is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    Workflow,
    Org,
    BoundKey,
    FreeKey,
    Policy,
}

const EVERYBODY: [Whose; 5] = [
    Whose::Workflow,
    Whose::Org,
    Whose::BoundKey,
    Whose::FreeKey,
    Whose::Policy,
];

fn period(desk: &mut Desk, kind: PeriodKind) {
    desk.patch_workflow(WorkflowPatch {
        period: Some(kind),
        ..WorkflowPatch::default()
    });
}

/// A cap of so many cents over this period; returns the key to ask with.
fn cap(desk: &mut Desk, whose: Whose, amount: i64, kind: PeriodKind) -> KeyId {
    let amount = Some(cents(amount));
    match whose {
        Whose::Workflow => {
            desk.cap_workflow(amount);
            period(desk, kind);
        }
        Whose::Org => {
            desk.cap_org(amount);
            desk.org_period(kind);
        }
        Whose::BoundKey => {
            return desk.add_key_with(Some(WORKFLOW), amount, |key| key.period = kind);
        }
        Whose::FreeKey => return desk.add_key_with(None, amount, |key| key.period = kind),
        Whose::Policy => {
            let terms = Terms {
                budget: amount,
                period: kind,
                ..Terms::default()
            };
            desk.add_policy(PolicyType::BudgetLimit, terms, |_| {});
        }
    }
    KEY
}

#[test]
fn a_period_ends_at_its_midnight_and_what_was_held_in_it_is_charged_to_it() {
    for (kind, last) in [
        (PeriodKind::Day, "2026-06-15T23:59:59.999Z"),
        (PeriodKind::Day, "2028-02-28T23:59:59.999Z"),
        (PeriodKind::Day, "2028-02-29T23:59:59.999Z"),
        (PeriodKind::Week, "2026-06-21T23:59:59.999Z"),
        (PeriodKind::Week, "2027-01-03T23:59:59.999Z"),
        (PeriodKind::Month, "2026-06-30T23:59:59.999Z"),
        (PeriodKind::Month, "2026-12-31T23:59:59.999Z"),
        (PeriodKind::Month, "2027-02-28T23:59:59.999Z"),
        (PeriodKind::Month, "2028-02-29T23:59:59.999Z"),
    ] {
        for whose in EVERYBODY {
            let mut desk = Desk::new();
            let key = cap(&mut desk, whose, 2, kind);
            let two_cents = |ask: &mut engine::command::Ask| {
                (ask.key, ask.estimated_tokens) = (key, 20_000);
            };
            desk.clock(at(last));
            let hold = desk.allowed(two_cents);
            let block = desk.refused(two_cents);
            assert_eq!(block.resets_at.unwrap().0, at(last) + 1, "{kind:?}");
            assert_eq!(block.budget.unwrap().period, kind);
            desk.clock(at(last) + 1);
            let next = desk.allowed(two_cents);
            // Half a cent beyond the hold: also that counts on its day.
            let tracked = desk.track(|event| {
                event.holds[0] = Some(hold);
                event.tokens = tenths(25);
            });
            assert_eq!(tracked.overage, Some(Nanos(5_000_000)));
            desk.refused(two_cents);
            desk.cancel(ORG, next);
            desk.cancel(ORG, hold);
            desk.allowed(two_cents);
            assert_eq!(desk.workflow().lifetime, Nanos(25_000_000));
        }
    }
}

#[test]
fn a_day_in_the_middle_of_a_period_ends_nothing() {
    for (kind, last) in [
        (PeriodKind::Week, "2026-06-20T23:59:59.999Z"),
        (PeriodKind::Week, "2026-06-30T23:59:59.999Z"),
        (PeriodKind::Month, "2028-02-28T23:59:59.999Z"),
        (PeriodKind::Month, "2026-07-30T23:59:59.999Z"),
        (PeriodKind::Rolling30, "2026-06-30T23:59:59.999Z"),
        (PeriodKind::Lifetime, "2026-12-31T23:59:59.999Z"),
    ] {
        for whose in EVERYBODY {
            let mut desk = Desk::new();
            let key = cap(&mut desk, whose, 1, kind);
            desk.clock(at(last));
            desk.allowed(|ask| ask.key = key);
            desk.clock(at(last) + 1);
            desk.refused(|ask| ask.key = key);
        }
    }
}

#[test]
fn the_oldest_of_thirty_rolling_days_leaves_at_midnight() {
    for whose in EVERYBODY {
        let mut desk = Desk::new();
        let key = cap(&mut desk, whose, 3, PeriodKind::Rolling30);
        let spend = |desk: &mut Desk, tokens, n| {
            let hold = desk.allowed(|ask| (ask.key, ask.estimated_tokens) = (key, tokens));
            desk.track(|event| {
                event.holds[0] = Some(hold);
                event.tokens = tenths(n);
            });
            desk.cancel(ORG, hold);
        };
        spend(&mut desk, 20_000, 20);
        desk.clock(at("2026-06-25T08:00:00Z"));
        spend(&mut desk, 10_000, 10);
        desk.refused(|ask| ask.key = key);
        // 14 July is the thirtieth day.
        desk.clock(at("2026-07-14T23:59:59.999Z"));
        let block = desk.refused(|ask| ask.key = key);
        assert_eq!(block.resets_at.unwrap().0, at("2026-07-15T00:00:00Z"));
        assert_eq!(block.budget.unwrap().spent, cents(3));
        desk.clock(at("2026-07-15T00:00:00Z"));
        desk.refused(|ask| (ask.key, ask.estimated_tokens) = (key, 20_001));
        spend(&mut desk, 20_000, 20);
        desk.clock(at("2026-07-24T23:59:59.999Z"));
        desk.refused(|ask| ask.key = key);
        desk.clock(at("2026-07-25T00:00:00Z"));
        desk.allowed(|ask| (ask.key, ask.estimated_tokens) = (key, 10_000));
    }
}

#[test]
fn a_lifetime_never_begins_anew() {
    for whose in EVERYBODY {
        let mut desk = Desk::new();
        let key = cap(&mut desk, whose, 4, PeriodKind::Lifetime);
        for year in ["2026", "2027", "2028", "2040"] {
            desk.clock(at(&format!("{year}-12-31T23:59:59.999Z")));
            let hold = desk.allowed(|ask| (ask.key, ask.estimated_tokens) = (key, 10_000));
            desk.track(|event| {
                event.holds[0] = Some(hold);
                event.tokens = tenths(10);
            });
            desk.cancel(ORG, hold);
        }
        desk.clock(at("2099-12-31T23:59:59.999Z"));
        let block = desk.refused(|ask| ask.key = key);
        assert_eq!(block.resets_at, None);
        assert_eq!(block.budget.unwrap().spent, cents(4));
    }
}

#[test]
fn a_cap_may_change_its_period_in_the_middle_of_one_and_loses_nothing() {
    let mut desk = Desk::new();
    let cost = |desk: &mut Desk, n| {
        desk.track(|event| event.tokens = tenths(n));
    };
    let books = |desk: &mut Desk, kind| {
        period(desk, kind);
        desk.books().0
    };
    use PeriodKind::{Day, Lifetime, Month, Rolling30, Week};
    desk.cap_workflow(Some(cents(3)));
    cost(&mut desk, 20);
    desk.clock(at("2026-06-23T10:00:00Z"));
    cost(&mut desk, 10);
    desk.clock(at("2026-06-24T10:00:00Z"));
    cost(&mut desk, 5);
    for (kind, spent, refused) in [
        (Month, 35, true),
        (Day, 5, false),
        (Week, 15, false),
        (Rolling30, 35, true),
        (Lifetime, 35, true),
        (Day, 5, false),
        (Month, 35, true),
    ] {
        assert_eq!(
            books(&mut desk, kind),
            cents(spent / 10) + Nanos(spent % 10 * 1_000_000)
        );
        if refused {
            desk.refused(|_| {});
        } else {
            let hold = desk.allowed(|_| {});
            desk.cancel(ORG, hold);
        }
    }
    desk.clock(at("2026-07-15T00:00:00Z"));
    for (kind, spent) in [(Month, 0), (Rolling30, 15), (Lifetime, 35), (Week, 0)] {
        assert_eq!(books(&mut desk, kind), Nanos(spent * 1_000_000));
    }
}

#[test]
fn caps_with_different_periods_apply_side_by_side() {
    let mut desk = Desk::new();
    cap(&mut desk, Whose::Org, 10, PeriodKind::Lifetime);
    cap(&mut desk, Whose::Workflow, 5, PeriodKind::Month);
    desk.add_policy(
        PolicyType::BudgetLimit,
        Terms {
            budget: Some(cents(2)),
            period: PeriodKind::Day,
            ..Terms::default()
        },
        |draft| (draft.scope, draft.scope_id) = (Scope::Workflow, Some(WORKFLOW.0)),
    );
    let refused = |desk: &mut Desk, period| {
        let figures = desk.refused(|_| {}).budget.unwrap();
        assert_eq!(figures.period, period);
    };
    let spend = |desk: &mut Desk, n| {
        desk.track(|event| event.tokens = tenths(n));
    };
    spend(&mut desk, 20);
    refused(&mut desk, PeriodKind::Day);
    desk.clock(at("2026-06-16T00:00:00Z"));
    desk.allowed(|_| {});
    spend(&mut desk, 30);
    desk.clock(at("2026-06-17T00:00:00Z"));
    refused(&mut desk, PeriodKind::Month);
    desk.clock(at("2026-07-01T00:00:00Z"));
    desk.allowed(|_| {});
    spend(&mut desk, 50);
    desk.clock(at("2026-08-01T00:00:00Z"));
    refused(&mut desk, PeriodKind::Lifetime);
}

#[test]
fn under_the_strictest_every_matching_policy_caps_its_own_period() {
    let mut desk = Desk::new();
    for (amount, kind) in [(5, PeriodKind::Month), (2, PeriodKind::Day)] {
        let terms = Terms {
            budget: Some(cents(amount)),
            period: kind,
            ..Terms::default()
        };
        desk.add_policy(PolicyType::BudgetLimit, terms, |draft| {
            draft.priority = amount as i32;
        });
    }
    let terms = Terms {
        budget: Some(Nanos::ZERO),
        tools: tools(&["never"]),
        ..Terms::default()
    };
    desk.add_policy(PolicyType::BudgetLimit, terms, |_| {});
    // The first by priority is the day's: that of the month is not asked.
    for _ in 0..3 {
        desk.track(|event| event.tokens = tenths(20));
        desk.wait(86_400_000);
        let hold = desk.allowed(|_| {});
        desk.cancel(ORG, hold);
    }
    desk.most_restrictive();
    let figures = desk.refused(|_| {}).budget.unwrap();
    assert_eq!(
        (figures.period, figures.spent),
        (PeriodKind::Month, cents(6))
    );
    desk.clock(at("2026-07-01T00:00:00Z"));
    desk.track(|event| event.tokens = tenths(20));
    let figures = desk.refused(|_| {}).budget.unwrap();
    assert_eq!((figures.period, figures.cap), (PeriodKind::Day, cents(2)));
}

#[test]
fn a_refusal_names_its_period() {
    for (kind, words) in [
        (PeriodKind::Day, "of $0.00 today,"),
        (PeriodKind::Week, "of $0.00 this week,"),
        (PeriodKind::Month, "of $0.00 this month,"),
        (PeriodKind::Rolling30, "of $0.00 in the last 30 days,"),
        (PeriodKind::Lifetime, "of $0.00 in all,"),
    ] {
        let mut desk = Desk::new();
        cap(&mut desk, Whose::Workflow, 0, kind);
        let why = desk.refused(|_| {}).explanation;
        assert!(why.contains(words), "{why}");
    }
}
