//! What a pump does all day (allow a call, answer it again, run on its hold, charge it, end it)
//! takes no memory from the allocator once tables have grown to their load; and remembered events
//! take no more than they are given.
//!
//! ```text
//! cargo test -p nullrun-engine --test allocations
//! ```

#![cfg(test)]
#![allow(
    unsafe_code,
    reason = "an allocator that counts has to be an allocator; it only forwards to the system's"
)]

#[allow(
    dead_code,
    unused_imports,
    reason = "this test needs little of the desk that the decision tests have"
)]
#[path = "decisions/desk.rs"]
mod desk;

use desk::{Desk, KEY, ORG, WORKFLOW, ask, cents, event, in_chain, tenths, tools};
use engine::command::{Ask, Command, Outcome, Reported, Track, Verdict, When};
use engine::dedup::{Dedup, Known};
use engine::directory::Directory;
use engine::manage::Terms;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::record::{Endpoint, Operation, PolicyType};
use persist::{HoldId, KeyId, Millis};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated at this moment, and the most there ever were.
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

// Nobody counts while a thread ends.
fn note() {
    let _gone = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn held(more: i64) {
    let _gone = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + more, most.max(now + more)));
    });
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        held(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        held(-(layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`, and `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        held(size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps the contract of `realloc`, and `at` came from `System`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// One call from its gate to the end of its hold, as commands that are made before anything counts.
struct Call {
    gate: Command,
    again: Command,
    execute: Command,
    charge: Command,
    named_charge: Command,
    cancel: Command,
    hold: HoldId,
}

/// How often each of them called the allocator.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    gate: u64,
    again: u64,
    execute: u64,
    charge: u64,
    named_charge: u64,
    cancel: u64,
}

struct Bench {
    engines: Vec<Engine>,
    published: Directory,
    batch: Batch,
    key: KeyId,
    chained: bool,
    serial: u64,
}

impl Bench {
    fn new(free_key: bool, chained: bool, pumps: u32, prepare: impl FnOnce(&mut Desk)) -> Self {
        let mut desk = Desk::with(Settings {
            shards: 4,
            dedup_keys: 100_000,
            ..Settings::default()
        });
        desk.cap_org(Some(cents(900_000)));
        desk.cap_workflow(Some(cents(900_000)));
        let bound = (!free_key).then_some(WORKFLOW);
        let key = desk.add_key(bound, Some(cents(900_000)));
        let terms = Terms {
            tools: tools(&["bash", "db.*"]),
            ..Terms::default()
        };
        desk.add_policy(PolicyType::ToolBlock, terms, |_| {});
        prepare(&mut desk);
        Self {
            published: desk.published,
            engines: desk.engine.split(pumps),
            batch: Batch::default(),
            key,
            chained,
            serial: 0,
        }
    }

    fn call(&mut self) -> Call {
        self.serial += 1;
        let n = self.serial;
        let slot = WORKFLOW.slot(ORG);
        let hold = HoldId::mint(Millis(n), slot, n);
        let ask = |endpoint, change: &dyn Fn(&mut Ask)| {
            let mut ask = ask();
            ask.endpoint = endpoint;
            ask.key = self.key;
            ask.operation_id = Some(format!("operation {n}"));
            ask.execution_id = Some(format!("execution {n}"));
            ask.trace_id = Some(format!("trace {n}"));
            let call = u128::from(n) << 8;
            ask.call = Some(call);
            ask.operation = Some(Operation::of(call, endpoint, 1));
            ask.tools = tools(&["mail", "web"]);
            ask.tools_line = ask.tools.join("\n");
            if self.chained {
                in_chain("run", Some(cents(900_000)))(&mut ask);
            }
            ask.new_hold = hold;
            change(&mut ask);
            Command::Ask(Box::new(ask))
        };
        let charge = |change: &dyn Fn(&mut Reported)| {
            let event = event(|event| {
                event.holds[0] = Some(hold);
                event.event_id = Some(format!("event {n}"));
                event.tokens = tenths(3);
                change(event);
            });
            Command::Track(Box::new(Track {
                org: ORG,
                key: self.key,
                events: vec![event],
            }))
        };
        let spread = u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n);
        Call {
            gate: ask(Endpoint::Gate, &|_| {}),
            again: ask(Endpoint::Gate, &|_| {}),
            execute: ask(Endpoint::Execute, &|ask| ask.reservation = Some(hold)),
            charge: charge(&|_| {}),
            named_charge: charge(&|event| event.event_key = Some(spread)),
            cancel: Command::Cancel {
                org: ORG,
                key: KEY,
                hold,
            },
            hold,
        }
    }

    /// Applies a command; returns how often it called the allocator.
    fn apply(&mut self, command: &Command, hold: Option<HoldId>) -> u64 {
        let here = |engine: &&mut Engine| engine.shard_with(ORG, WORKFLOW).is_some();
        let engine = self.engines.iter_mut().find(here).unwrap();
        let before = ALLOCATIONS.get();
        let done = engine.apply(&self.published, command, 0, &mut self.batch);
        let taken = ALLOCATIONS.get() - before;
        let (outcome, when) = done.unwrap();
        assert_eq!(when, When::Durable);
        match outcome {
            Outcome::Decision(decision) => assert!(
                matches!(decision.verdict, Verdict::Allow { hold: given, .. } if given == hold),
                "{decision:?}"
            ),
            Outcome::Tracked(tracked) => assert!(!tracked[0].as_ref().unwrap().duplicate),
            Outcome::Cancelled(released) => assert!(released.is_some()),
            other => panic!("{other:?}"),
        }
        taken
    }

    /// Some calls side by side, from their gates to the ends of their holds; what each took at most.
    fn turn(&mut self) -> Taken {
        let calls: Vec<_> = (0..50).map(|_| self.call()).collect();
        let mut taken = Taken::default();
        for call in &calls {
            taken.gate += self.apply(&call.gate, Some(call.hold));
        }
        for call in &calls {
            taken.again += self.apply(&call.again, Some(call.hold));
            taken.execute += self.apply(&call.execute, Some(call.hold));
            taken.charge += self.apply(&call.charge, None);
            taken.named_charge += self.apply(&call.named_charge, None);
        }
        for call in &calls {
            taken.cancel += self.apply(&call.cancel, None);
        }
        // As a pump does between two turns.
        self.batch.clear();
        for engine in &mut self.engines {
            engine.appended();
            engine.advance(Millis(engine.now().0 + 100));
            engine.expire(&self.published, &mut self.batch).unwrap();
        }
        self.batch.clear();
        taken
    }

    /// Turns after a warm-up, one after the other.
    fn steady(&mut self) -> Vec<Taken> {
        for _ in 0..400 {
            self.turn();
        }
        (0..40).map(|_| self.turn()).collect()
    }
}

#[test]
fn a_call_takes_no_memory_from_its_gate_to_the_end_of_its_hold() {
    let rules = |desk: &mut Desk| {
        let terms = Terms {
            calls_per_minute: Some(1_000_000),
            loop_threshold: Some(1000),
            loop_window_secs: Some(1),
            budget: Some(cents(900_000)),
            ..Terms::default()
        };
        desk.add_policy(PolicyType::RateLimit, terms.clone(), |_| {});
        desk.add_policy(PolicyType::BudgetLimit, terms.clone(), |_| {});
        desk.add_policy(PolicyType::LoopDetection, terms, |_| {});
    };
    for (free_key, chained, pumps, ruled) in [
        (false, false, 1, false),
        (true, false, 1, false),
        (true, true, 1, false),
        (true, true, 2, false),
        (true, true, 2, true),
    ] {
        let mut bench = Bench::new(free_key, chained, pumps, |desk| {
            if ruled {
                rules(desk);
            }
        });
        for taken in bench.steady() {
            assert_eq!(
                taken,
                Taken::default(),
                "key without workflow: {free_key}, in a chain: {chained}, pumps: {pumps}, \
                 rules: {ruled}"
            );
        }
    }
}

#[test]
fn remembered_events_take_no_more_memory_than_they_are_given() {
    for mib in [1_usize, 3, 8, 20] {
        let given = mib << 20;
        let keys = Dedup::keys_within(given);
        // A key and its control byte are 17 bytes; the rest is what tables must leave free.
        assert!(keys * 29 > given, "{mib} MiB: {keys} keys");
        let (before, _) = HELD.get();
        HELD.set((before, before));
        let dedup = Dedup::with_capacity(keys);
        // A sequence that spreads like hashes do.
        let key = |n: usize| (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        for n in 0..keys * 5 / 2 {
            dedup.insert(Millis(1), key(n));
            // A turn of a pump may count many events before it seals.
            if n % 2000 == 0
                && let Some((_, keep_from)) = dedup.full()
            {
                dedup.seal(keep_from);
            }
        }
        let most = (HELD.get().1 - before) as usize;
        println!("{mib} MiB: {keys} keys in {most} bytes");
        // Beside the tables: locks and lists, a few bytes per stripe.
        assert!(most <= given + 128 * 1024, "{mib} MiB: {most} bytes");
        let newest = keys * 5 / 2 - 1;
        let known = |n: usize| dedup.known(key(n), 0) == Known::Counted;
        assert!((newest - keys * 3 / 4..=newest).all(known));
        assert!(!known(newest - keys * 5 / 4));
    }
}
