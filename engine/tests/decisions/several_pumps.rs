//! Caps and events over several shards, and two pumps side by side, driven by hand: what one has
//! decided and not yet appended.

use super::desk::{Desk, KEY, ORG, ask, cents, event, tenths, tools};
use engine::Engine;
use engine::cell::Limit;
use engine::code::Code;
use engine::command::{
    Ask, Command, Decision, OrgView, Outcome, Reported, Track, Tracked, Verdict, When,
};
use engine::directory::Directory;
use engine::manage::{Refusal, Terms};
use persist::group_commit::Batch;
use persist::record::{PolicyAction, PolicyType, Record, Scope, State};
use persist::{Day, HoldId, KeyId, Millis, Nanos, WorkflowId};

/// Two pumps, each with a workflow.
struct Pumps {
    engines: Vec<Engine>,
    batches: Vec<Batch>,
    workflows: Vec<WorkflowId>,
    /// Bound to no workflow.
    key: KeyId,
    published: Directory,
    serial: u64,
}

impl Pumps {
    fn new(key_cap: Option<Nanos>, prepare: impl FnOnce(&mut Desk)) -> Self {
        Self::at(Desk::new(), key_cap, prepare)
    }

    fn at(mut desk: Desk, key_cap: Option<Nanos>, prepare: impl FnOnce(&mut Desk)) -> Self {
        let key = desk.add_key(None, key_cap);
        let all: Vec<_> = (0..20).map(|_| desk.add_workflow(None)).collect();
        prepare(&mut desk);
        let published = desk.published;
        let engines = desk.engine.split(2);
        let of = |engine: &Engine| {
            let here = |id: &&WorkflowId| engine.shard_with(ORG, **id).is_some();
            *all.iter().find(here).unwrap()
        };
        Self {
            workflows: engines.iter().map(of).collect(),
            batches: engines.iter().map(|_| Batch::default()).collect(),
            engines,
            key,
            published,
            serial: 0,
        }
    }

    fn apply(&mut self, pump: usize, attempt: u32, command: &Command) -> (Outcome, When) {
        let batch = &mut self.batches[pump];
        let done = self.engines[pump].apply(&self.published, command, attempt, batch);
        done.unwrap()
    }

    /// A call in the pump's workflow with the free key.
    fn ask(&mut self, pump: usize, attempt: u32, change: impl Fn(&mut Ask)) -> (Decision, When) {
        self.serial += 1;
        let mut ask = ask();
        ask.workflow = self.workflows[pump];
        ask.key = self.key;
        let slot = ask.workflow.slot(ORG);
        ask.new_hold = HoldId::mint(self.engines[pump].now(), slot, self.serial);
        change(&mut ask);
        match self.apply(pump, attempt, &Command::Ask(Box::new(ask))) {
            (Outcome::Decision(decision), when) => (decision, when),
            other => panic!("{other:?}"),
        }
    }

    fn allowed(&mut self, pump: usize, attempt: u32, tokens: u64) -> HoldId {
        match self.ask(pump, attempt, |ask| ask.estimated_tokens = tokens) {
            (decision, When::Durable) => match decision.verdict {
                Verdict::Allow { hold, .. } => hold.unwrap(),
                Verdict::Block(block) => panic!("{block:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// When the refusal of a call that asks for a cent may leave.
    fn refused(&mut self, pump: usize, attempt: u32) -> When {
        let (decision, when) = self.ask(pump, attempt, |ask| ask.estimated_tokens = 10_000);
        assert!(
            matches!(decision.verdict, Verdict::Block(_)),
            "{decision:?}"
        );
        when
    }

    fn cancel(&mut self, pump: usize, hold: HoldId) {
        let command = Command::Cancel {
            org: ORG,
            key: self.key,
            hold,
        };
        let (outcome, _) = self.apply(pump, 0, &command);
        assert!(
            matches!(outcome, Outcome::Cancelled(Some(_))),
            "{outcome:?}"
        );
    }

    fn track(&mut self, pump: usize, events: Vec<Reported>) -> Option<Vec<Option<Tracked>>> {
        let track = Track {
            org: ORG,
            key: self.key,
            events,
        };
        match self.apply(pump, 0, &Command::Track(Box::new(track))) {
            (Outcome::Tracked(tracked), When::Durable) => Some(tracked.into_vec()),
            (_, When::Again) => None,
            other => panic!("{other:?}"),
        }
    }

    /// An event of the pump's workflow that costs a tenth of a cent.
    fn event(&self, pump: usize, key: u128) -> Reported {
        event(|event| {
            event.workflow = self.workflows[pump];
            event.event_key = Some(key);
            event.tokens = tenths(1);
        })
    }

    /// The pump's turn is in the log.
    fn append(&mut self, pump: usize) {
        self.batches[pump].clear();
        self.engines[pump].appended();
    }

    fn records(&self, pump: usize) -> u32 {
        self.batches[pump].count()
    }

    /// What the org has taken, as everybody sees it.
    fn taken(&self) -> Nanos {
        let org = self.published.org(ORG).unwrap();
        org.shared.money.since(Day(0)).taken()
    }

    fn org(&mut self) -> OrgView {
        let views = (0..self.engines.len()).map(|pump| {
            match self.apply(pump, 0, &Command::ReadOrg { org: ORG }).0 {
                Outcome::Org(view) => *view,
                other => panic!("{other:?}"),
            }
        });
        let joined = views.reduce(|mut all, view| {
            all.join(view);
            all
        });
        joined.unwrap()
    }
}

fn org_cap(amount: i64) -> Pumps {
    Pumps::new(None, |desk| desk.cap_org(Some(cents(amount))))
}

#[test]
fn the_executions_of_a_plan_are_shared_by_two_pumps() {
    let mut pumps = Pumps::at(Desk::under(super::plans::executions(3)), None, |_| {});
    pumps.allowed(0, 0, 1);
    pumps.allowed(1, 0, 1);
    pumps.allowed(1, 0, 1);
    for pump in [0, 1] {
        let (decision, when) = pumps.ask(pump, 0, |_| {});
        let Verdict::Block(block) = decision.verdict else {
            panic!("{decision:?}");
        };
        assert_eq!(
            (block.code, when),
            (Code::ExecutionLimitExceeded, When::Now)
        );
    }
    // Nobody is refused for a place that may be given back in a moment.
    let org = std::sync::Arc::clone(pumps.published.org(ORG).unwrap());
    org.shared.executions().moving().begin();
    assert_eq!(pumps.refused(0, 0), When::Again);
    org.shared.executions().moving().end();
    assert_eq!(pumps.refused(0, 1), When::Now);
}

#[test]
fn an_unbound_keys_cap_spans_workflows_in_all_shards() {
    let mut desk = Desk::new();
    let key = desk.add_key(None, Some(cents(6)));
    let workflows: Vec<_> = (0..12).map(|_| desk.add_workflow(None)).collect();
    let call = |workflow| move |ask: &mut Ask| (ask.key, ask.workflow) = (key, workflow);
    let holds: Vec<_> = workflows[..6]
        .iter()
        .map(|id| desk.allowed(call(*id)))
        .collect();
    for workflow in &workflows[6..] {
        let figures = desk.refused(call(*workflow)).budget.unwrap();
        assert_eq!((figures.scope, figures.held), (Scope::ApiKey, cents(6)));
    }
    // Spent in one, free again in another.
    desk.track(|event| {
        event.holds[0] = Some(holds[0]);
        event.tokens = tenths(15);
    });
    desk.cancel(ORG, holds[1]);
    let last = desk.allowed(call(workflows[11]));
    assert_eq!(desk.left(last), Some(Nanos(5_000_000)));
    let sums = desk.org(ORG).keys;
    let (_, sums) = sums.iter().find(|(id, _)| *id == key).unwrap();
    assert_eq!(
        (sums.spent, sums.held),
        (Nanos(15_000_000), Nanos(45_000_000))
    );
    // Other keys have nothing to do with it.
    desk.allowed(|_| {});
}

#[test]
fn two_pumps_share_the_caps_of_the_org_and_of_an_unbound_key() {
    let mut pumps = org_cap(3);
    pumps.allowed(0, 0, 20_000);
    pumps.allowed(1, 0, 10_000);
    assert_eq!(pumps.refused(0, 0), When::Now);
    assert_eq!(pumps.refused(1, 0), When::Now);
    let mut pumps = Pumps::new(Some(cents(3)), |_| {});
    pumps.allowed(0, 0, 20_000);
    pumps.allowed(1, 0, 10_000);
    assert_eq!(pumps.refused(0, 0), When::Now);
    assert_eq!(
        pumps.taken(),
        cents(3),
        "what the key refused is not held of the org"
    );
}

#[test]
fn a_release_frees_money_for_its_own_pump_at_once_and_for_others_when_it_is_appended() {
    let mut pumps = org_cap(2);
    let hold = pumps.allowed(0, 0, 20_000);
    pumps.append(0);
    pumps.cancel(0, hold);
    // It may be free soon: to be asked again, and nothing is written down.
    assert_eq!(pumps.refused(1, 0), When::Again);
    assert_eq!(pumps.records(1), 0);
    pumps.append(0);
    let hold = pumps.allowed(1, 1, 20_000);
    pumps.append(1);
    pumps.cancel(1, hold);
    pumps.allowed(1, 0, 20_000);
    assert_eq!(
        pumps.taken(),
        cents(4),
        "the release is behind the second hold still"
    );
    assert_eq!(pumps.refused(1, 0), When::Now, "nothing of others moves");
    assert_eq!(pumps.refused(0, 0), When::Again);
    pumps.append(1);
    assert_eq!(pumps.taken(), cents(2));
    assert_eq!(pumps.refused(0, 1), When::Now);
}

#[test]
fn a_call_that_is_put_off_too_often_is_refused_for_good() {
    let mut pumps = org_cap(2);
    let hold = pumps.allowed(0, 0, 20_000);
    pumps.cancel(0, hold);
    for attempt in 0..3 {
        assert_eq!(pumps.refused(1, attempt), When::Again);
    }
    assert_eq!(pumps.refused(1, 3), When::Now);
    assert_eq!(pumps.records(1), 1);
}

#[test]
fn a_release_of_the_keys_money_is_waited_for_like_one_of_the_orgs() {
    let mut pumps = Pumps::new(Some(cents(2)), |desk| desk.cap_org(Some(cents(9))));
    let hold = pumps.allowed(0, 0, 20_000);
    pumps.cancel(0, hold);
    assert_eq!(pumps.refused(1, 0), When::Again);
    assert_eq!(pumps.taken(), cents(2));
    pumps.append(0);
    pumps.allowed(1, 1, 20_000);
}

#[test]
fn an_expired_hold_and_a_withdrawn_one_are_released_like_any_other() {
    let mut pumps = org_cap(2);
    let withdrawn = pumps.allowed(0, 0, 10_000);
    pumps.allowed(0, 0, 10_000);
    pumps.append(0);
    pumps.apply(0, 0, &Command::Withdraw { hold: withdrawn });
    assert_eq!(pumps.refused(1, 0), When::Again);
    pumps.append(0);
    assert_eq!(pumps.taken(), cents(1));
    let later = Millis(pumps.engines[0].now().0 + 300_000);
    pumps.engines[0].advance(later);
    let (engine, batch) = (&mut pumps.engines[0], &mut pumps.batches[0]);
    engine.expire(&pumps.published, batch).unwrap();
    assert_eq!(pumps.taken(), cents(1));
    pumps.append(0);
    assert_eq!(pumps.taken(), Nanos::ZERO);
}

#[test]
fn nobody_is_refused_for_holds_that_another_pump_is_still_ending() {
    let mut pumps = org_cap(1100);
    for _ in 0..1100 {
        pumps.allowed(0, 0, 10_000);
    }
    pumps.append(0);
    let later = Millis(pumps.engines[0].now().0 + 300_000);
    let expire = |pumps: &mut Pumps| {
        pumps.engines[0].advance(later);
        let (engine, batch) = (&mut pumps.engines[0], &mut pumps.batches[0]);
        engine.expire(&pumps.published, batch).unwrap();
    };
    expire(&mut pumps);
    pumps.append(0);
    let all = |ask: &mut Ask| ask.estimated_tokens = 11_000_000;
    assert_eq!(pumps.ask(1, 0, all).1, When::Later);
    // What is free already may be taken.
    pumps.allowed(1, 0, 0);
    expire(&mut pumps);
    assert_eq!(pumps.ask(1, 1, all).1, When::Again, "it is not in the log");
    pumps.append(0);
    assert_eq!(pumps.taken(), cents(1));
    pumps.allowed(1, 1, 10_990_000);
    assert_eq!(pumps.refused(1, 0), When::Now);
}

#[test]
fn a_charge_counts_for_everybody_at_once() {
    let mut pumps = org_cap(2);
    let event = pumps.event(0, 1);
    pumps.track(0, vec![event]).unwrap();
    assert_eq!(pumps.taken(), Nanos(1_000_000));
    let (decision, _) = pumps.ask(1, 0, |ask| ask.estimated_tokens = 19_001);
    let Verdict::Block(block) = decision.verdict else {
        panic!("the other pump's charge does not count");
    };
    assert_eq!(block.code, Code::BudgetOrgCeilingBlocked);
    pumps.allowed(1, 0, 19_000);
}

#[test]
fn an_event_another_pump_is_counting_is_put_off_until_that_is_in_the_log() {
    let mut pumps = org_cap(9);
    let (here, there) = (pumps.event(0, 7), pumps.event(1, 7));
    pumps.track(0, vec![here.clone(), here]).unwrap();
    assert!(pumps.track(1, vec![there.clone()]).is_none());
    assert_eq!(pumps.records(1), 0);
    pumps.append(0);
    let tracked = pumps.track(1, vec![there]).unwrap();
    assert!(tracked[0].as_ref().unwrap().duplicate);
    assert_eq!(pumps.taken(), Nanos(1_000_000));
}

#[test]
fn of_events_that_are_put_off_none_is_taken() {
    let mut pumps = org_cap(9);
    let first = pumps.event(0, 7);
    pumps.track(0, vec![first]).unwrap();
    let batch = vec![pumps.event(1, 8), pumps.event(1, 7)];
    assert!(pumps.track(1, batch.clone()).is_none());
    // The other pump may count what was put off here.
    let eighth = pumps.event(0, 8);
    let tracked = pumps.track(0, vec![eighth]).unwrap();
    assert!(!tracked[0].as_ref().unwrap().duplicate);
    pumps.append(0);
    let tracked = pumps.track(1, batch).unwrap();
    assert!(tracked.iter().flatten().all(|tracked| tracked.duplicate));
    assert_eq!(pumps.taken(), Nanos(2_000_000));
}

#[test]
fn an_event_is_forgotten_when_the_seal_that_says_so_is_in_the_log() {
    let mut pumps = org_cap(900);
    let tracked = |pumps: &mut Pumps, pump, key: u128| {
        let event = pumps.event(pump, key << 120 | key);
        let tracked = pumps.track(pump, vec![event]).unwrap();
        tracked[0].as_ref().unwrap().duplicate
    };
    let expire = |pumps: &mut Pumps| {
        let (engine, batch) = (&mut pumps.engines[0], &mut pumps.batches[0]);
        engine.expire(&pumps.published, batch).unwrap();
    };
    // As many as are remembered at most, so that the next seal forgets the first.
    let mut key = 0;
    while pumps.engines[0].dedup().keep_from() == 0 {
        assert!(tracked(&mut pumps, 1, 1) || key == 0, "event {key}");
        key += 1;
        tracked(&mut pumps, 1, key);
        pumps.append(1);
        expire(&mut pumps);
        assert!(tracked(&mut pumps, 1, 1), "the seal is not in the log");
        pumps.append(0);
    }
    assert!(!tracked(&mut pumps, 1, 1));
}

#[test]
fn an_event_of_another_pump_is_handed_back_and_may_be_counted_there() {
    let mut pumps = org_cap(9);
    let (strange, own) = (pumps.event(1, 7), pumps.event(0, 8));
    let tracked = pumps.track(0, vec![strange.clone(), own]).unwrap();
    assert!(tracked[0].is_none() && tracked[1].is_some());
    let tracked = pumps.track(1, vec![strange]).unwrap();
    assert!(!tracked[0].as_ref().unwrap().duplicate);
}

#[test]
fn an_event_that_stands_twice_in_a_report_keeps_its_claim_if_only_the_first_is_elsewhere() {
    let mut pumps = org_cap(9);
    let (strange, own) = (pumps.event(1, 7), pumps.event(0, 7));
    let tracked = pumps.track(0, vec![strange.clone(), own]).unwrap();
    assert!(tracked[0].is_none());
    assert!(!tracked[1].as_ref().unwrap().duplicate);
    // Sent on, it waits for the record of the other and is then found counted.
    assert!(pumps.track(1, vec![strange.clone()]).is_none());
    pumps.append(0);
    let tracked = pumps.track(1, vec![strange]).unwrap();
    assert!(tracked[0].as_ref().unwrap().duplicate);
    assert_eq!(pumps.taken(), Nanos(1_000_000));
}

#[test]
fn a_loop_is_marked_even_if_its_call_is_put_off() {
    let mut pumps = Pumps::new(None, |desk| {
        desk.cap_org(Some(cents(2)));
        let terms = Terms {
            loop_threshold: Some(2),
            ..Terms::default()
        };
        desk.add_policy(PolicyType::LoopDetection, terms, |draft| {
            draft.action = PolicyAction::Flag;
        });
    });
    let call = |ask: &mut Ask| {
        ask.tools = tools(&["mail"]);
        ask.estimated_tokens = 10_000;
    };
    pumps.ask(1, 0, call);
    let hold = pumps.allowed(0, 0, 10_000);
    pumps.cancel(0, hold);
    let (_, when) = pumps.ask(1, 0, call);
    assert_eq!(when, When::Again);
    pumps.append(0);
    pumps.ask(1, 1, call);
    let mut marks = Vec::new();
    for bytes in pumps.batches[1].records() {
        if let Record::WorkflowState(changed) = postcard::from_bytes(bytes).unwrap() {
            marks.push(changed.to);
        }
    }
    assert_eq!(marks, [State::Flagged]);
}

#[test]
fn what_was_noted_is_kept_while_a_call_is_put_off_and_noted_once() {
    let mut pumps = Pumps::new(None, |desk| {
        desk.cap_org(Some(cents(2)));
        let terms = Terms {
            loop_threshold: Some(2),
            calls_per_minute: Some(1),
            tools: tools(&["mail"]),
            budget: Some(cents(1)),
            ..Terms::default()
        };
        for kind in [
            PolicyType::ToolBlock,
            PolicyType::LoopDetection,
            PolicyType::RateLimit,
            PolicyType::BudgetLimit,
        ] {
            desk.add_policy(kind, terms.clone(), |draft| draft.shadow = true);
        }
    });
    let call = |ask: &mut Ask| {
        ask.tools = tools(&["mail"]);
        ask.estimated_tokens = 10_000;
    };
    let said = |decision: &Decision| {
        let notes = decision.notes.iter();
        let mut said: Vec<_> = notes
            .map(|noted| (noted.policy.policy_type as u8, noted.refuses))
            .collect();
        said.sort_unstable();
        said
    };
    pumps.ask(1, 0, call);
    let hold = pumps.allowed(0, 0, 10_000);
    pumps.cancel(0, hold);
    let (first, when) = pumps.ask(1, 0, call);
    assert_eq!(when, When::Again);
    pumps.append(0);
    let (second, _) = pumps.ask(1, 1, |ask| {
        call(ask);
        ask.put_off(first.clone());
    });
    assert!(matches!(second.verdict, Verdict::Allow { .. }));
    assert_eq!(said(&second), [(0, true), (1, true), (2, true), (3, true)]);
}

#[test]
fn a_rate_of_the_org_spans_the_pumps() {
    let mut pumps = Pumps::new(None, |desk| {
        let terms = Terms {
            calls_per_minute: Some(3),
            ..Terms::default()
        };
        desk.add_policy(PolicyType::RateLimit, terms, |_| {});
    });
    for pump in [0, 1, 0] {
        pumps.allowed(pump, 0, 0);
    }
    for pump in [0, 1] {
        let (decision, when) = pumps.ask(pump, 0, |_| {});
        let Verdict::Block(block) = decision.verdict else {
            panic!("a fourth call");
        };
        assert_eq!((block.code, when), (Code::RateLimitExceeded, When::Now));
    }
}

#[test]
fn the_parts_of_an_orgs_ledger_add_up() {
    let mut pumps = org_cap(90);
    for (pump, n) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
        let hold = pumps.allowed(pump, 0, 20_000);
        let mut event = pumps.event(pump, n);
        event.holds[0] = Some(hold);
        pumps.track(pump, vec![event]).unwrap();
    }
    let key = pumps.key;
    let view = pumps.org();
    let holds = view.workflows.iter().map(|workflow| workflow.open_holds);
    assert_eq!((holds.sum::<u64>(), view.workflows.len()), (4, 21));
    assert_eq!(view.sums.spent, Nanos(4_000_000));
    assert_eq!(view.sums.held, cents(8) - Nanos(4_000_000));
    let (_, sums) = view.keys.iter().find(|(id, _)| *id == key).unwrap();
    assert_eq!(*sums, view.sums);
    assert!(view.keys.iter().any(|(id, _)| *id == KEY));
}

#[test]
fn what_a_pump_does_not_keep_it_does_not_pretend_to() {
    let mut pumps = org_cap(9);
    let strange = pumps.workflows[0];
    let (decision, _) = pumps.ask(1, 0, |ask| ask.workflow = strange);
    let Verdict::Block(block) = decision.verdict else {
        panic!("a workflow of the other pump");
    };
    assert_eq!(block.code, Code::InternalError);
    let hold = pumps.allowed(0, 0, 10_000);
    let (outcome, _) = pumps.apply(
        1,
        0,
        &Command::Cancel {
            org: ORG,
            key: KEY,
            hold,
        },
    );
    assert!(matches!(outcome, Outcome::Cancelled(None)));
    let change = engine::manage::Manage::RevokeKey {
        org: ORG,
        actor: persist::record::Actor::System,
        id: KEY,
    };
    let (outcome, _) = pumps.apply(1, 0, &Command::Manage(Box::new(change)));
    assert!(matches!(outcome, Outcome::Refused(Refusal::WrongState(_))));
}

#[test]
fn an_amount_on_its_way_in_another_day_is_seen_across_midnight() {
    let pumps = org_cap(9);
    let money = &pumps.published.org(ORG).unwrap().shared.money;
    let limit = |most| {
        [Limit {
            first: Day(0),
            most: cents(most),
        }]
    };
    let today = pumps.engines[0].calendar().today;
    money.take(today.next(), cents(2), 0, &limit(3)).unwrap();
    assert!(money.take(today, cents(2), 0, &limit(3)).is_err());
    money.take(today, cents(1), 0, &limit(3)).unwrap();
    assert_eq!(money.since(today).held, cents(3));
    assert_eq!(money.since(today.next()).held, cents(2));
}
