//! Prices that are set here, and charges that are booked anew at them: exactly once, to the
//! nano-dollar, by every pump for its own workflows.

use super::desk::{DEDUP_KEYS, Desk, KEY, NOON, ORG, PRICES, WORKFLOW, cents, event};
use engine::command::{Command, Outcome, Place, Reported, Repriced, Track, Unpriced};
use engine::directory::Directory;
use engine::manage::{Manage, NewPrice};
use engine::price::PriceTable;
use engine::snapshot::read_directory;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::ids::{SLOTS, Slot};
use persist::record::{Actor, ChargeFlags, Rates, Record, Tokens};
use persist::{Day, KeyId, Millis, Nanos, OrgId, WorkflowId};
use proptest::prelude::*;
use std::sync::Arc;

const TODAY: Day = Day::of(Millis(NOON));

/// Nano-dollars per million tokens.
fn rates(input: i64, output: i64) -> Option<Rates> {
    Some(Rates {
        input: Nanos(input),
        output: Nanos(output),
        cache_read: None,
        cache_write: None,
        reasoning: None,
    })
}

fn input(tokens: u64) -> Tokens {
    Tokens {
        total: tokens,
        input: tokens,
        ..Tokens::default()
    }
}

fn of_model(model: &str, tokens: u64) -> impl FnOnce(&mut Reported) + use<> {
    let model = model.to_owned();
    move |event| {
        event.model = Some(model);
        event.tokens = input(tokens);
    }
}

fn reprice(model: &str, after: Option<Place>) -> Command {
    Command::Reprice {
        model: model.to_owned(),
        from: None,
        after,
        actor: Actor::System,
    }
}

impl Desk {
    /// A price from the beginning of time, or from `effective_at` on.
    fn price(&mut self, model: &str, rates: Option<Rates>, effective_at: u64) {
        let price = NewPrice {
            model: model.to_owned(),
            rates,
            effective_at: Some(Millis(effective_at)),
        };
        let actor = Actor::System;
        let done = self.manage(Manage::SetPrice { actor, price });
        assert!(matches!(done, Outcome::Managed(_)), "{done:?}");
    }

    fn reprice(&mut self, model: &str) -> Repriced {
        let mut all = Repriced::default();
        loop {
            match self.apply(&reprice(model, all.next)) {
                Outcome::Repriced(done) => all.join(done),
                other => panic!("{other:?}"),
            }
            if all.next.is_none() {
                return all;
            }
        }
    }

    fn unpriced(&mut self) -> Vec<Unpriced> {
        match self.apply(&Command::ReadUnpriced { after: None }) {
            Outcome::Unpriced { found, next: None } => found,
            other => panic!("{other:?}"),
        }
    }

    /// Prices of the charges so far, and whether each is a guess.
    fn charged(&self) -> Vec<(u64, bool)> {
        let mut all = Vec::new();
        self.records(|record| {
            if let Record::Charged(charged) = record {
                let guess = charged.flags.has(ChargeFlags::PROVISIONAL);
                all.push((charged.price, guess));
            }
        });
        all
    }

    /// What all records together have booked.
    fn booked(&self) -> Nanos {
        let mut sum = Nanos::ZERO;
        self.records(|record| match record {
            Record::Charged(charged) => sum += charged.cost,
            Record::Rerated(rerated) => sum += rerated.after - rerated.before,
            _ => {}
        });
        sum
    }

    fn corrections(&self) -> Vec<(u64, u64, Nanos, Nanos)> {
        let mut all = Vec::new();
        self.records(|record| {
            if let Record::Rerated(rerated) = record {
                all.push((rerated.from, rerated.to, rerated.before, rerated.after));
            }
        });
        all
    }

    /// The same state at another engine, by way of a snapshot.
    fn restored(&self, shards: u16) -> Self {
        let mut engine = empty(shards);
        let directory = self.engine.directory_part().unwrap();
        engine.restore_directory(read_directory(&directory).unwrap());
        let all = Slot(0)..=Slot(SLOTS - 1);
        let slots = self.engine.slots_part(all).unwrap();
        engine.restore_slots(&slots).unwrap();
        engine.fill_cells();
        self.beside(engine)
    }
}

fn empty(shards: u16) -> Engine {
    let settings = Settings {
        shards,
        dedup_keys: DEDUP_KEYS,
        ..Settings::default()
    };
    let prices = PriceTable::from_json(PRICES).unwrap();
    Engine::new(Arc::new(prices), settings)
}

#[test]
fn what_was_charged_without_a_price_is_booked_anew_once_with_one_rounding_for_the_sum() {
    let mut desk = Desk::new();
    for tokens in [333, 7, 1] {
        assert!(desk.track(of_model("Mystery", tokens)).provisional);
    }
    desk.track(of_model("small", 50));
    let unpriced = desk.unpriced();
    assert_eq!(unpriced.len(), 1);
    assert_eq!(unpriced[0].model, "mystery");
    assert_eq!((unpriced[0].charges, unpriced[0].tokens), (3, 341));
    assert_eq!(unpriced[0].cost, Nanos(341 * 9_000));
    assert_eq!((unpriced[0].first, unpriced[0].last), (TODAY, TODAY));
    assert_eq!(Vec::from_iter(&unpriced[0].orgs), [&ORG]);
    assert_eq!(desk.reprice("mystery"), Repriced::default(), "no price yet");

    // 341 × 1.5 = 511.5: half up once; rounded one by one it would be 500 + 11 + 2 = 513.
    desk.price("mystery", rates(1_500_000, 0), 0);
    let done = desk.reprice("mystery");
    let expected = Repriced {
        entries: 1,
        charges: 3,
        before: Nanos(341 * 9_000),
        after: Nanos(512),
        next: None,
    };
    assert_eq!(done, expected);
    assert_eq!(
        desk.corrections(),
        [(0, 1, expected.before, expected.after)]
    );
    let spent = Nanos(512 + 50_000);
    assert_eq!(desk.books(), (spent, Nanos::ZERO));
    let org = desk.org(ORG);
    assert_eq!(org.sums.spent, spent);
    assert_eq!(org.keys, [(KEY, org.sums)]);
    let cell = desk.engine.shared(ORG).unwrap().money.since(Day(0));
    assert_eq!(cell.spent, spent);
    assert_eq!(desk.booked(), spent);

    assert_eq!(desk.reprice("mystery"), Repriced::default(), "never twice");
    assert!(desk.unpriced().is_empty());
    assert_eq!(desk.corrections().len(), 1);
    // From now on it has a price.
    let tracked = desk.track(of_model("openai/MYSTERY-2026-01-02", 2));
    assert_eq!((tracked.cost, tracked.provisional), (Nanos(3), false));
    assert_eq!(desk.charged()[4], (1, false));
}

#[test]
fn a_wrong_price_is_rolled_back_to_the_right_one_or_to_none() {
    let mut desk = Desk::new();
    desk.price("mystery", rates(5_000_000_000, 0), 0);
    desk.track(of_model("mystery", 100));
    desk.track(of_model("mystery-latest", 10));
    assert_eq!(desk.books().0, Nanos(110 * 5_000));

    desk.price("mystery", rates(2_000_000_000, 0), 0);
    let done = desk.reprice("mystery");
    assert_eq!((done.entries, done.charges), (2, 2), "one per name");
    assert_eq!(desk.books().0, Nanos(110 * 2_000));
    assert_eq!(desk.reprice("mystery").entries, 0);

    // Taken away, the provisional price comes back, and the model is missing one again.
    desk.price("mystery", None, 0);
    assert_eq!(desk.reprice("mystery").entries, 2);
    assert_eq!(desk.books().0, Nanos(110 * 9_000));
    let missing = desk.unpriced();
    let missing: Vec<_> = missing
        .iter()
        .map(|m| (m.model.as_str(), m.charges))
        .collect();
    assert_eq!(missing, [("mystery", 1), ("mystery-latest", 1)]);
    desk.price("mystery", rates(1_000_000_000, 0), 0);
    desk.reprice("mystery");
    assert_eq!(desk.books().0, Nanos(110 * 1_000));
    assert_eq!(desk.booked(), Nanos(110 * 1_000));
}

#[test]
fn a_built_in_price_comes_back_when_the_one_set_over_it_goes() {
    let mut desk = Desk::new();
    desk.track(of_model("small", 10));
    desk.price("small", rates(0, 0), 0);
    // What is free is remembered too: the price may be wrong.
    assert_eq!(desk.track(of_model("small", 10)).cost, Nanos::ZERO);
    desk.price("small", None, 0);
    let done = desk.reprice("small");
    assert_eq!(
        (done.entries, done.before, done.after),
        (1, Nanos(0), Nanos(10_000))
    );
    assert_eq!(desk.books().0, Nanos(20_000));
    assert!(desk.unpriced().is_empty());
}

#[test]
fn equal_costs_change_the_version_and_nothing_else() {
    let mut desk = Desk::new();
    desk.track(of_model("mystery", 10));
    desk.price("mystery", rates(9_000_000_000, 0), 0);
    let done = desk.reprice("mystery");
    assert_eq!((done.entries, done.before), (1, done.after));
    assert!(desk.unpriced().is_empty());
    assert_eq!(desk.reprice("mystery").entries, 0);
}

#[test]
fn a_price_holds_from_its_time_on_and_a_sum_takes_the_price_of_its_day() {
    let mut desk = Desk::new();
    desk.track(of_model("mystery", 1_000));
    desk.clock(NOON + Day::MILLIS);
    desk.track(of_model("mystery", 1_000));
    // From this noon on: what was charged this morning had no price then, and keeps none.
    desk.price("mystery", rates(1_000_000_000, 0), NOON + Day::MILLIS);
    assert_eq!(desk.reprice("mystery").entries, 0);
    desk.track(of_model("mystery", 1_000));
    assert_eq!(desk.charged(), [(0, true), (0, true), (1, false)]);
    // From the beginning of yesterday on: both sums of yesterday and this morning.
    desk.price("mystery", rates(2_000_000_000, 0), TODAY.start().0);
    assert_eq!(desk.reprice("mystery").entries, 3);
    assert_eq!(desk.books().0, Nanos(3 * 2_000_000));
}

#[test]
fn only_what_is_booked_at_one_version_can_be_asked_for() {
    let mut desk = Desk::new();
    desk.track(of_model("mystery", 10));
    desk.price("mystery", rates(1_000_000_000, 0), 0);
    desk.track(of_model("mystery", 10));
    desk.price("mystery", rates(2_000_000_000, 0), 0);
    let command = Command::Reprice {
        model: "mystery".to_owned(),
        from: Some(1),
        after: None,
        actor: Actor::System,
    };
    let done = desk.apply(&command);
    assert!(
        matches!(done, Outcome::Repriced(Repriced { entries: 1, .. })),
        "{done:?}"
    );
    assert_eq!(desk.books().0, Nanos(10 * 9_000 + 10 * 2_000));
}

#[test]
fn a_price_that_is_set_already_is_not_set_again() {
    let mut desk = Desk::new();
    for _ in 0..2 {
        desk.price("mystery", rates(1, 1), 0);
    }
    assert_eq!(desk.published.prices().newest(), 1);
    desk.price("mystery", rates(1, 1), 5);
    assert_eq!(desk.published.prices().newest(), 2);
    desk.price("never set", None, 0);
    assert_eq!(desk.published.prices().newest(), 2);
}

#[test]
fn caps_see_the_new_sums_and_what_is_held_stays_held() {
    let mut desk = Desk::new();
    desk.cap_workflow(Some(cents(10)));
    desk.cap_org(Some(cents(10)));
    let hold = desk.allowed(|ask| ask.estimated_tokens = 10_000);
    // 9.9 cents at the provisional price: with the hold's cent it is debt.
    desk.track(of_model("mystery", 11_000));
    desk.refused(|ask| ask.estimated_tokens = 10);
    desk.price("mystery", rates(1_000_000_000, 0), 0);
    let done = desk.reprice("mystery");
    assert!(done.after < done.before);
    assert_eq!(desk.books(), (Nanos(11_000_000), cents(1)));
    let second = desk.allowed(|ask| ask.estimated_tokens = 78_000);
    desk.refused(|ask| ask.estimated_tokens = 1_001);
    // Dearer than all that was there: debt that blocks, and holds end as ever.
    desk.price("mystery", rates(90_000_000_000, 0), 0);
    desk.reprice("mystery");
    desk.refused(|ask| ask.estimated_tokens = 2);
    assert_eq!(desk.cancel(ORG, hold), Some(cents(1)));
    assert_eq!(desk.cancel(ORG, second), Some(Nanos(78_000_000)));
    assert_eq!(desk.books(), (Nanos(990_000_000), Nanos::ZERO));
}

#[test]
fn declared_calls_hold_what_the_price_set_here_says() {
    let mut desk = Desk::new();
    desk.price("small", rates(3_000_000_000, 5_000_000_000), 0);
    let hold = desk.allowed(|ask| {
        ask.estimated_tokens = 100;
        ask.max_output_tokens = Some(10);
    });
    assert_eq!(desk.left(hold), Some(Nanos(100 * 3_000 + 10 * 5_000)));
}

#[test]
fn tokens_are_split_as_their_provider_counts_whatever_the_price_is_then() {
    let mut desk = Desk::new();
    let tokens = Tokens {
        total: 150,
        input: 100,
        output: 50,
        cache_read: 40,
        reasoning: 20,
        ..Tokens::default()
    };
    for provider in ["openai", "anthropic"] {
        desk.track(|event| {
            event.model = Some("mystery".to_owned());
            event.provider = Some(provider.to_owned());
            event.tokens = tokens;
        });
    }
    let price = Rates {
        cache_read: Some(Nanos(100_000_000)),
        reasoning: Some(Nanos(7_000_000_000)),
        ..rates(1_000_000_000, 3_000_000_000).unwrap()
    };
    desk.price("mystery", Some(price), 0);
    desk.reprice("mystery");
    let shared = 40 * 100 + 30 * 3_000 + 20 * 7_000;
    assert_eq!(desk.books().0, Nanos((60 + 100) * 1_000 + 2 * shared));
}

#[test]
fn a_snapshot_in_between_changes_nothing() {
    let mut desk = Desk::new();
    let second = desk.add_workflow(None);
    for (workflow, tokens) in [(WORKFLOW, 11), (second, 13), (WORKFLOW, 17)] {
        desk.track(|event| {
            of_model("mystery", tokens)(event);
            event.workflow = workflow;
        });
    }
    desk.price("mystery", rates(1_500_000, 0), 0);
    let mut restored = desk.restored(3);
    let hash = |desk: &Desk| desk.engine.state_hash().unwrap();
    assert_eq!(hash(&desk), hash(&restored));
    assert_eq!(desk.reprice("mystery"), restored.reprice("mystery"));
    assert_eq!(hash(&desk), hash(&restored));
    // A crash after it, with the log folded again: done is done.
    let mut folded = empty(5);
    desk.records(|record| folded.fold(record));
    folded.advance(desk.engine.now());
    folded.fill_cells();
    let mut folded = desk.beside(folded);
    assert_eq!(hash(&desk), hash(&folded));
    assert_eq!(folded.reprice("mystery"), Repriced::default());
    assert_eq!(restored.restored(1).reprice("mystery"), Repriced::default());
}

/// Two pumps that share an org and a key.
struct Pumps {
    engines: Vec<Engine>,
    batches: Vec<Batch>,
    published: Directory,
    key: KeyId,
    workflows: Vec<WorkflowId>,
}

impl Pumps {
    fn new() -> Self {
        let mut desk = Desk::new();
        let key = desk.add_key(None, None);
        let all: Vec<_> = (0..20).map(|_| desk.add_workflow(None)).collect();
        desk.price("dear", rates(9_000_000_000, 0), 0);
        for (index, workflow) in all.iter().enumerate() {
            let events = ["mystery", "dear"].map(|model| {
                event(|event| {
                    of_model(model, index as u64 + 1)(event);
                    event.workflow = *workflow;
                })
            });
            let track = Track {
                org: ORG,
                key,
                events: events.into(),
            };
            desk.apply(&Command::Track(Box::new(track)));
        }
        desk.price("mystery", rates(1_000_000_000, 0), 0);
        desk.price("dear", rates(20_000_000_000, 0), 0);
        let published = desk.published;
        let engines = desk.engine.split(2);
        Self {
            batches: engines.iter().map(|_| Batch::default()).collect(),
            engines,
            published,
            key,
            workflows: all,
        }
    }

    fn reprice(&mut self, pump: usize, model: &str) -> Repriced {
        let command = reprice(model, None);
        let batch = &mut self.batches[pump];
        let done = self.engines[pump].apply(&self.published, &command, 0, batch);
        match done.unwrap().0 {
            Outcome::Repriced(done) => done,
            other => panic!("{other:?}"),
        }
    }

    /// What everybody sees of the org and of the key.
    fn spent(&self) -> [i64; 2] {
        let org = &self.published.org(ORG).unwrap().shared;
        let key = self.published.key(self.key).unwrap();
        let shared = [org, key.shared.as_ref().unwrap()];
        shared.map(|shared| shared.money.since(Day(0)).spent.0)
    }
}

#[test]
fn each_pump_books_its_own_workflows_anew_and_shows_less_only_when_it_is_in_the_log() {
    let mut pumps = Pumps::new();
    let tokens: i64 = (1..=pumps.workflows.len() as i64).sum();
    let before = pumps.spent();
    assert_eq!(before, [tokens * 18_000; 2]);
    let done = [0, 1].map(|pump| pumps.reprice(pump, "mystery"));
    assert!(done.iter().all(|done| done.entries > 0), "{done:?}");
    assert_eq!(done[0].entries + done[1].entries, 20);
    assert_eq!(pumps.spent(), before, "a refund nobody may rely on yet");
    for engine in &mut pumps.engines {
        engine.appended();
    }
    assert_eq!(pumps.spent(), [tokens * 10_000; 2]);
    // More counts from the moment it is decided.
    for pump in [0, 1] {
        pumps.reprice(pump, "dear");
    }
    assert_eq!(pumps.spent(), [tokens * 21_000; 2]);
    for pump in [0, 1] {
        for model in ["mystery", "dear"] {
            assert_eq!(pumps.reprice(pump, model), Repriced::default());
        }
    }
}

#[test]
fn very_many_workflows_are_gone_through_in_pieces() {
    let mut desk = Desk::new();
    let workflows: Vec<_> = (0..2_500).map(|_| desk.add_workflow(None)).collect();
    for workflow in &workflows {
        desk.track(|event| {
            of_model("mystery", 3)(event);
            event.workflow = *workflow;
        });
    }
    desk.price("mystery", rates(1_000_000_000, 0), 0);
    let first = match desk.apply(&reprice("mystery", None)) {
        Outcome::Repriced(done) => done,
        other => panic!("{other:?}"),
    };
    assert!(first.next.is_some() && first.entries < 2_500, "{first:?}");
    // The rest, begun anew as after a crash: the first ones are not booked again.
    assert_eq!(desk.reprice("mystery").entries, 2_500 - first.entries);
    assert_eq!(desk.org(ORG).sums.spent, Nanos(2_500 * 3_000));
}

#[derive(Debug, Clone)]
enum Step {
    Charge(u8, u64),
    Price(u8, Option<i64>, u64),
    Reprice(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..5_000_u64).prop_map(|(model, n)| Step::Charge(model, n)),
        2 => (0..3_u8, proptest::option::of(0..9_999_999_i64), 0..4 * Day::MILLIS)
            .prop_map(|(model, rate, at)| Step::Price(model, rate, at)),
        2 => (0..3_u8).prop_map(Step::Reprice),
        1 => (1..2 * Day::MILLIS).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However charges, prices and corrections come: what is booked is what the records say, a
    /// second correction finds nothing, and the log folded again is the same state.
    #[test]
    fn sums_are_those_of_the_records_and_a_correction_is_made_once(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let model = |n: u8| ["mystery", "small", "other-2026-01-02"][usize::from(n)];
        let base = |n: u8| ["mystery", "small", "other"][usize::from(n)];
        let mut desk = Desk::new();
        for step in steps {
            match step {
                Step::Charge(n, tokens) => {
                    desk.track(of_model(model(n), tokens));
                }
                Step::Price(n, rate, at) => {
                    let rates = rate.and_then(|rate| rates(rate, 0));
                    desk.price(base(n), rates, TODAY.start().0 - Day::MILLIS + at);
                }
                Step::Reprice(n) => {
                    desk.reprice(base(n));
                    prop_assert_eq!(desk.reprice(base(n)), Repriced::default());
                }
                Step::Wait(millis) => desk.wait(millis),
            }
        }
        let lifetime = desk.workflow().lifetime;
        prop_assert_eq!(lifetime, desk.booked());
        let cell = desk.engine.shared(ORG).unwrap().money.since(Day(0));
        prop_assert_eq!(cell.spent, lifetime);
        let mut folded = empty(7);
        desk.records(|record| folded.fold(record));
        folded.advance(desk.engine.now());
        let hash = desk.engine.state_hash().unwrap();
        prop_assert_eq!(hash, folded.state_hash().unwrap());
        prop_assert_eq!(hash, desk.restored(2).engine.state_hash().unwrap());
    }
}

#[test]
fn another_orgs_key_or_a_removed_org_stops_nothing() {
    let mut desk = Desk::new();
    let (org, workflow, key) = (OrgId(71), WorkflowId(72), KeyId(73));
    desk.sign_up(org, workflow, key);
    let track = Track {
        org,
        key,
        events: vec![event(|event| {
            of_model("mystery", 10)(event);
            event.workflow = workflow;
        })],
    };
    desk.apply(&Command::Track(Box::new(track)));
    desk.track(of_model("mystery", 10));
    desk.price("mystery", rates(1_000_000_000, 0), 0);
    assert_eq!(desk.unpriced(), []);
    assert_eq!(desk.reprice("mystery").entries, 2);
    assert_eq!(desk.org(org).sums.spent, Nanos(10_000));
    assert_eq!(desk.books().0, Nanos(10_000));
}
