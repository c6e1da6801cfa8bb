//! `cargo build --release && cargo bench -p nullrun-benches --bench recovery`: what a start costs
//! and what a workflow and a hold take in memory.
//!
//! A log with a million workflows that have spent, and a million open holds, is written to a real
//! disk by the real engine; then it is read back as a start does it: from the log alone, and from a
//! snapshot of the workflows with the holds in the log behind it. Last, the gateway itself is started
//! on nothing and on that directory. `-- --workflows N --holds N --rounds N` changes the numbers.

#![allow(
    unsafe_code,
    reason = "an allocator that counts has to be an allocator; it only forwards to the system's"
)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a benchmark prints, and one that fails says so by ending"
)]

use engine::price::PriceTable;
use engine::recover::Rebuild;
use engine::{Engine, Settings};
use nullrun_benches::{START, apply, commit, engine_with, gate, names, new_workflows, org_and_key};
use nullrun_loadtest::gateway;
use persist::disk::PlainDisk;
use persist::group_commit::{Batch, Listener};
use persist::log::Options;
use persist::record::Record;
use persist::{Error, Log, LogId, Lsn};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that are allocated at this moment, as asked for.
static ALLOCATED: AtomicI64 = AtomicI64::new(0);

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: i64) {
    ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`, and `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps the contract of `realloc`, and `at` came from `System`.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Numbers of a run.
#[derive(Debug)]
struct Numbers {
    workflows: u64,
    holds: u64,
    rounds: usize,
}

impl Numbers {
    fn from_args() -> Self {
        let mut numbers = Self {
            workflows: 1_000_000,
            holds: 1_000_000,
            rounds: 5,
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().and_then(|text| text.parse().ok());
            let value: u64 = value.unwrap_or_else(|| panic!("{name} takes a number"));
            match name.as_str() {
                "--workflows" => numbers.workflows = value,
                "--holds" => numbers.holds = value,
                "--rounds" => numbers.rounds = value.max(1) as usize,
                _ => panic!("{name} is not known: --workflows, --holds, --rounds"),
            }
        }
        numbers
    }
}

struct Deaf;

impl Listener for Deaf {
    fn durable(&mut self, _: Lsn) {}
    fn failed(&mut self, error: Error) {
        panic!("{error}");
    }
}

fn rebuild(directory: &Path) -> Rebuild {
    let disk = |name| Arc::new(PlainDisk::at(&directory.join(name)).unwrap());
    Rebuild::new(
        disk("wal"),
        disk("snapshots"),
        Arc::new(PriceTable::built_in().unwrap()),
        settings(),
    )
}

/// Without room for events: what they take is bounded by a setting of its own.
fn settings() -> Settings {
    Settings {
        dedup_keys: 1000,
        ..Settings::default()
    }
}

/// How long it took to read everything back, and how many records that were.
struct Opened {
    took: Duration,
    records: u64,
}

fn open(directory: &Path) -> Opened {
    let rebuild = rebuild(directory);
    let began = Instant::now();
    let recovered = rebuild.open(Options::default(), LogId(1)).unwrap();
    let took = began.elapsed();
    Opened {
        took,
        records: recovered.recovery.replayed,
    }
}

/// Writes what `fill` makes of the engine that the directory holds.
fn write(directory: &Path, fill: impl FnOnce(&mut Engine, &mut dyn FnMut(&Batch))) -> Lsn {
    let recovered = rebuild(directory)
        .open(Options::default(), LogId(1))
        .unwrap();
    let mut engine = recovered.engine;
    let log = Log::start(recovered.writer, Deaf).unwrap();
    fill(&mut engine, &mut |batch| {
        log.append(batch).unwrap();
    });
    let last = log.appended_lsn();
    log.close();
    last
}

fn median(mut of: Vec<f64>) -> (f64, f64, f64) {
    of.sort_by(f64::total_cmp);
    (of[of.len() / 2], of[0], of[of.len() - 1])
}

fn row(what: &str, values: Vec<f64>, unit: &str) {
    let (middle, least, most) = median(values);
    println!("{what:<58} {middle:>12.1} [{least:.1}-{most:.1}] {unit}");
}

fn allocated() -> i64 {
    ALLOCATED.load(Ordering::Relaxed)
}

fn main() {
    let numbers = Numbers::from_args();
    println!(
        "{} workflows that have spent, {} open holds, medians of {} [least-most]",
        numbers.workflows, numbers.holds, numbers.rounds
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let snapshot = write(path, |engine, append| {
        append_records(engine, &[org_and_key()], append);
        for first in (1..=numbers.workflows).step_by(1000) {
            let last = (first + 999).min(numbers.workflows);
            append_records(engine, &[new_workflows(first, &names(first, last))], append);
        }
        each_thousand(engine, numbers.workflows, append, |engine, n, batch| {
            apply(engine, &gate(u128::from(n), n), batch).unwrap();
            apply(engine, &commit(u128::from(n), n), batch).unwrap();
        });
    });
    let (whole, _) = replay(path, numbers.rounds, "the log alone");
    memory(&numbers);
    rebuild(path).checkpoint(LogId(1), snapshot).unwrap();
    let (_, snapshot) = replay(path, numbers.rounds, "a snapshot alone");
    write(path, |engine, append| {
        each_thousand(engine, numbers.holds, append, |engine, n, batch| {
            let workflow = u128::from(n % numbers.workflows + 1);
            apply(engine, &gate(workflow, numbers.workflows + n), batch).unwrap();
        });
    });
    let what = "that snapshot, and the log of the holds behind it";
    let (held, secs) = replay(path, numbers.rounds, what);
    let rate = held as f64 / (secs - snapshot) / 1e6;
    row("  of the log's part", vec![rate], "M records/s, one core");
    assert!(whole >= numbers.workflows * 3 && held == numbers.holds);
    gateway_starts(&numbers, path);
}

fn append_records(engine: &mut Engine, records: &[Record<'_>], append: &mut dyn FnMut(&Batch)) {
    let mut batch = Batch::default();
    for record in records {
        batch.push(record).unwrap();
        engine.fold(record);
    }
    append(&batch);
}

fn each_thousand(
    engine: &mut Engine,
    count: u64,
    append: &mut dyn FnMut(&Batch),
    act: impl Fn(&mut Engine, u64, &mut Batch),
) {
    engine.advance(START);
    let mut batch = Batch::default();
    for n in 1..=count {
        act(engine, n, &mut batch);
        if n % 1000 == 0 || n == count {
            append(&batch);
            batch.clear();
            engine.appended();
        }
    }
}

/// Reads the directory back and says how fast; returns how many records were in the log, and the
/// seconds it took.
fn replay(path: &Path, rounds: usize, what: &str) -> (u64, f64) {
    let (mut secs, mut records) = (Vec::new(), 0);
    for _ in 0..rounds {
        let opened = open(path);
        records = opened.records;
        secs.push(opened.took.as_secs_f64());
    }
    let (middle, ..) = median(secs.clone());
    row(&format!("ready from {what}"), secs, "s");
    if records > 0 {
        println!("  {records} records replayed");
    }
    (records, middle)
}

/// What things take, as asked of the allocator.
fn memory(numbers: &Numbers) {
    let per = |before: i64, count: u64| (allocated() - before) as f64 / count as f64;
    let before = allocated();
    let mut engine = engine_with(numbers.workflows, settings()).unwrap();
    row(
        "bytes per workflow: name and settings",
        vec![per(before, numbers.workflows)],
        "",
    );
    let mut nothing = |_: &Batch| {};
    each_thousand(
        &mut engine,
        numbers.workflows,
        &mut nothing,
        |engine, n, batch| {
            apply(engine, &gate(u128::from(n), n), batch).unwrap();
            apply(engine, &commit(u128::from(n), n), batch).unwrap();
        },
    );
    row(
        "bytes per idle workflow: the same once it has spent",
        vec![per(before, numbers.workflows)],
        "",
    );
    let before = allocated();
    each_thousand(
        &mut engine,
        numbers.holds,
        &mut nothing,
        |engine, n, batch| {
            let workflow = u128::from(n % numbers.workflows + 1);
            apply(engine, &gate(workflow, numbers.workflows + n), batch).unwrap();
        },
    );
    row(
        "bytes per open hold, with its operation",
        vec![per(before, numbers.holds)],
        "",
    );
}

/// The release build beside this benchmark.
fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let path = here.parent().unwrap().parent().unwrap().join("nullrun");
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build --release` first",
        path.display()
    );
    path
}

fn gateway_starts(numbers: &Numbers, filled: &Path) {
    let start = |what: &str, path: Option<&Path>| {
        let (mut secs, mut megabytes) = (Vec::new(), Vec::new());
        for _ in 0..numbers.rounds {
            let empty = tempfile::tempdir().unwrap();
            let directory = path.unwrap_or_else(|| empty.path());
            let settings = gateway::Settings::new(binary(), directory)
                .env("NULLRUN_ACCEPT_CLOCK_BEHIND", "true")
                .env("NULLRUN_MASTER_KEY", "00".repeat(32));
            let began = Instant::now();
            let gateway = gateway::Gateway::start(settings).unwrap();
            secs.push(began.elapsed().as_secs_f64());
            // Once it has come to rest.
            std::thread::sleep(Duration::from_millis(500));
            megabytes.push(resident(gateway.pid()) as f64 / f64::from(1 << 20));
        }
        row(
            &format!("the gateway on {what}: listening after"),
            secs,
            "s",
        );
        row("  resident memory", megabytes, "MiB");
    };
    start("nothing", None);
    start("this directory", Some(filled));
}

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    kib.parse::<u64>().unwrap() * 1024
}
