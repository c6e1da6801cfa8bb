//! Random histories: their state, put into parts and restored with another number of shards, is the
//! same state, decides the same, and is what the log folds to.

use super::desk::{Desk, KEY, NOON, ORG, WORKFLOW, chain, operation, tenths};
use engine::command::{Ask, Command, Transition};
use engine::dedup::Generation;
use engine::manage::{OverdraftPatch, WorkflowPatch};
use engine::price::PriceTable;
use engine::snapshot::{generation_part, read_directory, read_generation};
use engine::{Engine, Settings};
use persist::ids::Slot;
use persist::record::{Actor, Endpoint, Overdraft, PeriodKind};
use persist::{HoldId, KeyId, Nanos, WorkflowId};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// (workflow and key, tokens, operation, chain)
    Ask(usize, u64, Option<u8>, Option<u8>),
    Execute(usize),
    /// (hold, tenths of a cent, event, model, ends the span)
    Track(usize, u64, Option<u8>, bool, bool),
    Cancel(usize),
    Release(usize),
    Heartbeat(u8),
    EndChain(u8),
    State(usize, u8),
    Cap(i64, u8, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let waits = prop_oneof![0..400_000_u64, 0..90_000_000_u64, 0..4_000_000_000_u64];
    let step = prop_oneof![
        2 => waits.prop_map(Step::Wait),
        8 => (any::<usize>(), select_tokens(), proptest::option::of(0..6_u8), proptest::option::of(0..3_u8))
            .prop_map(|(w, t, o, c)| Step::Ask(w, t, o, c)),
        2 => any::<usize>().prop_map(Step::Execute),
        6 => (any::<usize>(), 0..40_u64, proptest::option::of(0..60_u8), any::<bool>(), any::<bool>())
            .prop_map(|(h, n, e, m, ends)| Step::Track(h, n, e, m, ends)),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Release),
        2 => (0..3_u8).prop_map(Step::Heartbeat),
        1 => (0..3_u8).prop_map(Step::EndChain),
        1 => (any::<usize>(), 0..6_u8).prop_map(|(w, to)| Step::State(w, to)),
        1 => (0..30_i64, 0..5_u8, any::<bool>()).prop_map(|(cap, kind, soft)| Step::Cap(cap, kind, soft)),
    ];
    proptest::collection::vec(step, 1..60)
}

fn select_tokens() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 2..40_000_u64]
}

/// A desk with several workflows and keys, and every hold it ever gave.
struct World {
    desk: Desk,
    places: Vec<(WorkflowId, KeyId)>,
    holds: Vec<HoldId>,
}

impl World {
    fn new() -> Self {
        let mut desk = Desk::new();
        let free = desk.add_key(None, Some(Nanos::from_cents(60)));
        let mut places = vec![(WORKFLOW, KEY), (WORKFLOW, free)];
        for _ in 0..6 {
            places.push((desk.add_workflow(Some(Nanos::from_cents(25))), free));
        }
        Self {
            desk,
            places,
            holds: Vec::new(),
        }
    }

    fn hold(&self, n: usize) -> HoldId {
        let at = n % (self.holds.len() + 1);
        self.holds.get(at).copied().unwrap_or(HoldId(5))
    }

    /// Does it; returns what was answered, as text.
    fn step(&mut self, step: &Step) -> String {
        let desk = &mut self.desk;
        match *step {
            Step::Wait(millis) => {
                desk.wait(millis);
                String::new()
            }
            Step::Ask(place, tokens, op, run) => {
                let (workflow, key) = self.places[place % self.places.len()];
                let decision = desk.ask(|ask| {
                    if let Some(op) = op {
                        operation(Endpoint::Gate, &format!("{op} {workflow}"), tokens)(ask);
                    }
                    (ask.workflow, ask.key, ask.estimated_tokens) = (workflow, key, tokens);
                    in_run(run, workflow)(ask);
                });
                let text = format!("{decision:?}");
                if let engine::command::Verdict::Allow {
                    hold: Some(hold), ..
                } = decision.verdict
                {
                    self.holds.push(hold);
                }
                text
            }
            Step::Execute(n) => {
                let id = self.hold(n);
                let Some(hold) = self.desk.hold(id) else {
                    return String::new();
                };
                let decision = self.desk.ask(|ask| {
                    operation(Endpoint::Execute, &format!("{id}"), 1)(ask);
                    (ask.workflow, ask.key, ask.reservation) = (hold.workflow, hold.key, Some(id));
                });
                format!("{decision:?}")
            }
            Step::Track(n, cost, event, model, ends) => {
                let hold = self.hold(n);
                let tracked = self.desk.track(|track| {
                    track.holds[0] = Some(hold);
                    track.event_key = event.map(|e| u128::from(e) << 121 | 3);
                    track.model = Some(if model { "small" } else { "strange" }.to_owned());
                    track.tokens = tenths(cost);
                    track.ends = ends.then_some(hold);
                });
                format!("{tracked:?}")
            }
            Step::Cancel(n) => {
                let hold = self.hold(n);
                format!("{:?}", self.desk.cancel(ORG, hold))
            }
            Step::Release(n) => {
                let hold = self.hold(n);
                format!("{:?}", self.desk.release(ORG, hold, "enough"))
            }
            Step::Heartbeat(run) => format!("{:?}", desk.heartbeat(run_key(run, WORKFLOW))),
            Step::EndChain(run) => {
                let decision = desk.ask(|ask| {
                    in_run(Some(run), WORKFLOW)(ask);
                    ask.chain_end = true;
                });
                format!("{decision:?}")
            }
            Step::State(place, to) => {
                let (workflow, _) = self.places[place % self.places.len()];
                let to = match to {
                    0 => Transition::Kill,
                    1 | 2 => Transition::Pause,
                    _ => Transition::Resume,
                };
                let command = Command::SetState {
                    org: ORG,
                    workflow,
                    to,
                    reason: Some("because".to_owned()),
                    actor: Actor::System,
                };
                format!("{:?}", desk.apply(&command))
            }
            Step::Cap(cents, kind, soft) => {
                let (period, _) = PeriodKind::NAMED[usize::from(kind)];
                let overdraft = Overdraft {
                    amount: None,
                    percent: Some(50),
                };
                desk.patch_workflow(WorkflowPatch {
                    budget: Some(Some(Nanos::from_cents(cents))),
                    period: Some(period),
                    overdraft: OverdraftPatch::to(soft.then_some(overdraft)),
                    ..WorkflowPatch::default()
                });
                String::new()
            }
        }
    }

    fn hash(&self) -> [u8; 32] {
        self.desk.engine.state_hash().unwrap()
    }

    /// The same with an engine restored from parts.
    fn restored(&self, shards: u16) -> Self {
        let mut engine = empty(shards);
        let old = &self.desk.engine;
        engine.restore_directory(read_directory(&old.directory_part().unwrap()).unwrap());
        // In no particular order, and cut in another way than the shards are.
        for (from, to) in [(512, 1023), (0, 99), (100, 511)] {
            let part = old.slots_part(Slot(from)..=Slot(to)).unwrap();
            engine.restore_slots(&part).unwrap();
        }
        let (first, open) = old.dedup().numbers();
        let parts = (first..=open).map(|n| old.dedup().generation(n).unwrap());
        let read = |g: Generation| read_generation(&generation_part(&g).unwrap()).unwrap();
        let parts: Vec<_> = parts.map(read).collect();
        engine.dedup().restore(&parts, first);
        engine.fill_cells();
        Self {
            desk: self.desk.beside(engine),
            places: self.places.clone(),
            holds: self.holds.clone(),
        }
    }

    /// The log, folded from its beginning.
    fn folded(&self, shards: u16) -> Engine {
        let mut engine = empty(shards);
        self.desk.records(|record| engine.fold(record));
        engine.advance(self.desk.engine.now());
        engine
    }
}

fn empty(shards: u16) -> Engine {
    let prices = PriceTable::from_json(super::desk::PRICES).unwrap();
    let settings = Settings {
        shards,
        dedup_keys: super::desk::DEDUP_KEYS,
        ..Settings::default()
    };
    Engine::new(Arc::new(prices), settings)
}

fn run_key(run: u8, workflow: WorkflowId) -> u128 {
    chain(&run.to_string()) ^ workflow.0 << 32
}

fn in_run(run: Option<u8>, workflow: WorkflowId) -> impl Fn(&mut Ask) {
    move |ask| {
        ask.chain = run.map(|run| engine::command::ChainAsk {
            key: run_key(run, workflow),
            id: run.to_string(),
            cap: Some(Nanos::from_cents(8)),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_state_restored_with_other_shards_is_the_same_and_goes_on_the_same(
        before in steps(),
        after in steps(),
        shards in 1..70_u16,
    ) {
        let mut world = World::new();
        for step in &before {
            world.step(step);
        }
        let mut restored = world.restored(shards);
        prop_assert_eq!(world.hash(), restored.hash());
        prop_assert_eq!(world.hash(), world.folded(shards).state_hash().unwrap());
        for step in &after {
            prop_assert_eq!(world.step(step), restored.step(step), "{:?}", step);
            prop_assert_eq!(world.hash(), restored.hash(), "after {:?}", step);
        }
        prop_assert!(world.desk.engine.now().0 >= NOON);
    }
}
