//! Runs seeds and tells what became of them.

use super::rng::Rng;
use super::trace::{Counts, Seen};
use super::violation::{Invariant, Violation};
use super::world::{Trial, World};
use engine::mutation::Mutation;
use std::cell::RefCell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Instant;

/// How much is done: the same tests with other numbers.
#[derive(Debug, Clone, Copy)]
struct Scale {
    name: &'static str,
    fresh_seeds: u64,
    steps: u64,
}

const QUICK: Scale = Scale {
    name: "quick",
    fresh_seeds: 1_100,
    steps: 2_000,
};
const LONG: Scale = Scale {
    name: "long",
    fresh_seeds: 5_000,
    steps: 10_000,
};
/// Seeds in which a switched-on defect must show.
#[cfg(debug_assertions)]
const DEFECT_SEEDS: u64 = 100;

fn scale() -> Scale {
    match std::env::var("NULLRUN_TEST_SCALE").as_deref() {
        Err(_) | Ok("quick") => QUICK,
        Ok("long") => LONG,
        Ok(other) => panic!("NULLRUN_TEST_SCALE is {other:?}; it takes quick or long"),
    }
}

/// A run that broke something.
#[derive(Debug)]
struct Broken {
    seed: u64,
    violation: Violation,
    events: Vec<String>,
    counts: Counts,
}

impl Broken {
    fn report(&self, scale: Scale) -> String {
        let Violation(invariant, sentence) = &self.violation;
        format!(
            "seed {:#x}, step {}: {invariant:?} is broken: {sentence}\n\
             the last events:\n{}\n\
             again: NULLRUN_SIM_SEED={:#x} NULLRUN_TEST_SCALE={} cargo test -p nullrun-engine \
             --test simulator every_invariant -- --nocapture",
            self.seed,
            self.counts.steps,
            self.events.join("\n"),
            self.seed,
            scale.name
        )
    }
}

/// A run in which all went well.
#[derive(Debug, Default)]
struct Sound {
    counts: Counts,
    seen: Seen,
    /// Of everything that happened, in order.
    hash: u64,
}

fn run(seed: u64, steps: u64, trial: Trial) -> Result<Sound, Box<Broken>> {
    quiet_panics();
    let mut world = None;
    let done = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(World::new(seed, trial)?);
        for _ in 0..steps {
            world.step()?;
        }
        world.finish()
    }));
    QUIET.with(|quiet| quiet.set(false));
    let checked = done.unwrap_or_else(|_| {
        let message = PANIC.with_borrow_mut(std::mem::take);
        Err(Violation(Invariant::EngineAsserts, message))
    });
    let Some(world) = world else {
        let why = checked.map_err(|Violation(_, why)| why);
        panic!("seed {seed:#x} does not even start: {why:?}");
    };
    match checked {
        Ok(()) => Ok(Sound {
            counts: world.counts,
            seen: world.seen,
            hash: world.trace.hash,
        }),
        Err(violation) => Err(Box::new(Broken {
            seed,
            violation,
            events: world.trace.last.into(),
            counts: world.counts,
        })),
    }
}

thread_local! {
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// An assertion of the engine is a finding here: it is kept for the report, not printed.
fn quiet_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with(std::cell::Cell::get) {
                PANIC.with_borrow_mut(|message| *message = info.to_string());
            } else {
                before(info);
            }
        }));
    });
    QUIET.with(|quiet| quiet.set(true));
}

fn seed_of(text: &str) -> u64 {
    let digits = text.trim();
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is no seed: give a number, 0x for hexadecimal"))
}

/// What fresh seeds must have met, so that nobody takes silence for safety.
const MUST_OCCUR: [&str; 72] = [
    "hold",
    "last cents",
    "zero hold",
    "hold used",
    "learned hold",
    "overdraft used",
    "held over Day",
    "held over Week",
    "held over Month",
    "held over Rolling30",
    "held over Lifetime",
    "refused over Day",
    "refused over Week",
    "refused over Month",
    "refused over Rolling30",
    "refused over Lifetime",
    "replayed",
    "allowed, nothing held",
    "chain begun",
    "chain goes on",
    "chain renewed",
    "chain ended Asked",
    "chain ended Idle",
    "heartbeat of nothing",
    "charge",
    "provisional",
    "overage",
    "charge after the hold",
    "charge after a kill",
    "charge on another's hold",
    "charge on the day before",
    "duplicate event",
    "events sealed",
    "events forgotten",
    "counted again, forgotten",
    "sent on",
    "cancel of nothing",
    "directory",
    "Cancelled",
    "Expired",
    "Released",
    "SpanEnd",
    "Withdrawn",
    "Normal",
    "Flagged",
    "Tripped",
    "Paused",
    "Killed",
    "API_KEY_EXPIRED",
    "API_KEY_REVOKED",
    "BUDGET_HARD_BLOCKED",
    "BUDGET_ORG_CEILING_BLOCKED",
    "CHAIN_MAX_DURATION_EXCEEDED",
    "CIRCUIT_BREAKER_TRIPPED",
    "EXECUTION_LIMIT_EXCEEDED",
    "EXECUTION_NOT_FOUND",
    "IDEMPOTENCY_KEY_MISMATCH",
    "LOOP_DETECTED",
    "RATE_LIMIT_EXCEEDED",
    "TOOL_BLOCKED",
    "WORKFLOW_KILLED",
    "WORKFLOW_PAUSED",
    "turns that met",
    "decided beside others",
    "decided while others moved",
    "put off",
    "disk full",
    "log trimmed",
    "snapshot read",
    "torn tail",
    "restart with another number of shards",
    "restart with another number of pumps",
];

#[test]
fn every_invariant_holds_on_fresh_seeds() {
    let scale = scale();
    let given = std::env::var("NULLRUN_SIM_SEED").ok();
    let first = match &given {
        Some(text) => seed_of(text),
        None => RandomState::new().build_hasher().finish(),
    };
    let mut seeds = Rng::new(first);
    let runs = given.as_ref().map_or(scale.fresh_seeds, |_| 1);
    println!(
        "scale {}: {runs} runs of {} steps, first seed {first:#x}",
        scale.name, scale.steps
    );
    let began = Instant::now();
    let (mut counts, mut seen) = (Counts::default(), Seen::default());
    for n in 0..runs {
        let seed = if n == 0 { first } else { seeds.next() };
        let sound = run(seed, scale.steps, Trial::default());
        let sound = sound.unwrap_or_else(|b| panic!("run {n}, {}", b.report(scale)));
        counts.add(&sound.counts);
        for (kind, times) in sound.seen.0 {
            seen.add(&kind, times);
        }
    }
    let secs = began.elapsed().as_secs_f64();
    println!("{counts:?}\n{seen:?}");
    println!(
        "{:.1} runs and {:.0} steps a second",
        runs as f64 / secs,
        counts.steps as f64 / secs
    );
    if given.is_none() {
        let never = MUST_OCCUR
            .iter()
            .filter(|kind| !seen.0.contains_key(**kind));
        let never: Vec<_> = never.collect();
        assert!(never.is_empty(), "these never occurred: {never:?}");
    }
}

#[test]
fn no_seed_that_ever_failed_fails_again() {
    for line in include_str!("seeds.txt").lines() {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        if let Err(broken) = run(seed_of(text), QUICK.steps, Trial::default()) {
            panic!("{line}\n{}", broken.report(QUICK));
        }
    }
}

#[test]
fn a_seed_replays_to_the_same_events() {
    for seed in 1..=3 {
        let again =
            || run(seed, 1_000, Trial::default()).unwrap_or_else(|b| panic!("{}", b.report(QUICK)));
        let (one, two) = (again(), again());
        assert_eq!((one.hash, &one.seen), (two.hash, &two.seen), "seed {seed}");
        assert!(one.counts.records > 100, "{:?}", one.counts);
    }
}

/// Runs seeds with a defect until it shows in the log or in the answers as what it is, and says how
/// soon: with one pump, and with several. Whatever else it breaks on the way is told as well.
#[cfg(debug_assertions)]
fn must_be_found(mutation: Mutation, as_what: &[Invariant]) {
    for pumps in 1..=3 {
        let trial = Trial {
            defect: Some(mutation),
            pumps: Some(pumps),
        };
        let mut steps = 0;
        let found = (1..=DEFECT_SEEDS).any(|seed| match run(seed, QUICK.steps, trial) {
            Ok(sound) => {
                steps += sound.counts.steps;
                false
            }
            Err(broken) => {
                steps += broken.counts.steps;
                let Violation(what, sentence) = &broken.violation;
                println!(
                    "{mutation:?}, {pumps} pumps, seed {seed}, after {steps} steps: {what:?}: \
                     {sentence}"
                );
                as_what.contains(what)
            }
        });
        assert!(
            found,
            "{mutation:?} did not show as any of {as_what:?} in {steps} steps of {pumps} pumps"
        );
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_release_that_is_visible_before_it_is_appended_is_found() {
    use Invariant::{AcknowledgedStays, CapIsWholeSum, FitsUnderCaps, HoldEndsOnce};
    must_be_found(
        Mutation::ReleaseBeforeAppend,
        &[
            AcknowledgedStays,
            CapIsWholeSum,
            FitsUnderCaps,
            HoldEndsOnce,
        ],
    );
}

#[cfg(debug_assertions)]
#[test]
fn a_hold_that_ends_twice_is_found() {
    use Invariant::{EngineAsserts, HoldEndsOnce};
    must_be_found(Mutation::EndTwice, &[HoldEndsOnce, EngineAsserts]);
}

#[cfg(debug_assertions)]
#[test]
fn a_kill_that_races_an_allow_is_found() {
    must_be_found(Mutation::LateKill, &[Invariant::KillIsAFence]);
}
