//! A full disk refuses, waits and goes on: nothing is poisoned, nothing is lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, Faults, FaultyDisk};
use persist::group_commit::{Batch, Listener, Log};
use persist::log::Options;
use persist::{Error, Lsn, Room, retain};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{open, record};

#[derive(Default, Clone)]
struct Heard {
    durable: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Listener for Heard {
    fn durable(&mut self, lsn: Lsn) {
        self.durable.store(lsn.0, Ordering::SeqCst);
    }
    fn failed(&mut self, error: Error) {
        self.failures.lock().unwrap().push(error.to_string());
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running log that appends numbered records.
struct World {
    faulty: FaultyDisk,
    disk: Arc<dyn Disk>,
    log: Log,
    heard: Heard,
    batch: Batch,
    next: u64,
}

impl World {
    fn start(options: Options) -> Self {
        let faulty = FaultyDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let (writer, ..) = open(&disk, options).unwrap();
        let heard = Heard::default();
        let log = Log::start(writer, heard.clone()).unwrap();
        assert_eq!(log.room(), Room::Plenty);
        Self {
            faulty,
            disk,
            log,
            heard,
            batch: Batch::default(),
            next: 1,
        }
    }

    /// Appends a frame of some kilobytes.
    fn append(&mut self) {
        self.batch.clear();
        for _ in 0..100 {
            self.batch.push(&record(self.next)).unwrap();
            self.next += 1;
        }
        self.log.append(&self.batch).unwrap();
    }

    fn append_durably(&mut self) {
        self.append();
        let last = Lsn(self.next - 1);
        until("durable", || self.log.durable_lsn() == last);
    }

    /// Closes the log and reads back every record.
    fn close_and_read(self) {
        self.log.close();
        assert!(self.heard.failures.lock().unwrap().is_empty());
        let (_, recovery, numbers) = open(&self.disk, Options::default()).unwrap();
        assert_eq!(recovery.cut_bytes, 0);
        assert_eq!(
            numbers,
            (1..self.next).collect::<Vec<_>>(),
            "nothing is lost"
        );
    }
}

fn small(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        quota_bytes: None,
    }
}

#[test]
fn a_full_disk_is_told_before_anything_has_to_wait_and_told_when_it_is_over() {
    for segment_bytes in [300_000, 2 << 20, 64 << 20] {
        let mut world = World::start(small(segment_bytes));
        world.append_durably();
        world.faulty.set_full(true);
        let mut waited = 0;
        while world.log.room() == Room::Plenty {
            world.append_durably();
            waited += 1;
            assert!(waited < 1000);
        }
        assert_eq!(world.log.room(), Room::DiskFull);
        // What must be written still is: into what was zeroed ahead.
        world.append_durably();
        world.faulty.set_full(false);
        until("room again", || world.log.room() == Room::Plenty);
        world.append_durably();
        world.close_and_read();
    }
}

#[test]
fn a_frame_that_finds_no_room_at_all_waits_and_then_goes_through() {
    for segment_bytes in [40_000, 600_000, 64 << 20] {
        let mut world = World::start(small(segment_bytes));
        world.append_durably();
        world.faulty.set_full(true);
        // More than all zeros together.
        for _ in 0..1000 {
            world.append();
        }
        until("room is low", || world.log.room() == Room::DiskFull);
        // A writer that was only not given a processor goes on within a second.
        let (mut before, mut quiet) = (world.log.durable_lsn(), 0);
        until("it stands still", || {
            std::thread::sleep(Duration::from_millis(100));
            let now = world.log.durable_lsn();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            quiet == 10
        });
        assert!(before < Lsn(world.next - 1), "some frames wait");
        assert_eq!(world.heard.durable.load(Ordering::SeqCst), before.0);
        world.faulty.set_full(false);
        let last = Lsn(world.next - 1);
        until("all of it is written", || world.log.durable_lsn() == last);
        until("room again", || world.log.room() == Room::Plenty);
        world.close_and_read();
    }
}

#[test]
fn a_crash_while_the_disk_is_full_loses_nothing_that_was_acknowledged() {
    let mut world = World::start(small(40_000));
    world.append_durably();
    world.faulty.set_full(true);
    for _ in 0..30 {
        world.append();
    }
    until("room is low", || world.log.room() == Room::DiskFull);
    let told = world.log.durable_lsn().0;
    let mut odd = false;
    world.faulty.crash(|| {
        odd = !odd;
        odd
    });
    // Still full: it starts nevertheless.
    let (_, _, numbers) = open(&world.disk, small(40_000)).unwrap();
    assert!(numbers.len() as u64 >= told);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_log_that_starts_on_a_full_disk_says_so_before_anything_is_appended() {
    let faulty = FaultyDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    drop(open(&disk, small(2 << 20)).unwrap());
    faulty.set_full(true);
    let (writer, ..) = open(&disk, small(2 << 20)).unwrap();
    let log = Log::start(writer, Heard::default()).unwrap();
    assert_eq!(log.room(), Room::DiskFull);
    faulty.set_full(false);
    until("room again", || log.room() == Room::Plenty);
}

#[test]
fn closing_gives_up_on_a_disk_that_stays_full_and_says_so() {
    let mut world = World::start(small(40_000));
    world.append_durably();
    world.faulty.set_full(true);
    for _ in 0..200 {
        world.append();
    }
    let start = Instant::now();
    world.log.close();
    assert!(start.elapsed() < Duration::from_secs(60));
    let failures = world.heard.failures.lock().unwrap();
    assert!(failures[0].contains("Free space"), "{failures:?}");
}

#[test]
fn a_failed_write_of_zeros_that_is_not_for_want_of_space_ends_the_log() {
    let mut world = World::start(small(300_000));
    world.append_durably();
    world.faulty.set_full(true);
    while world.log.room() == Room::Plenty {
        world.append_durably();
    }
    world.faulty.set_full(false);
    world.faulty.set_faults(Faults {
        fail_write_in: Some(0),
        fail_sync_in: None,
    });
    until("it fails", || {
        !world.heard.failures.lock().unwrap().is_empty()
    });
    assert!(matches!(
        world.log.append(&world.batch),
        Err(Error::Poisoned(_))
    ));
}

#[test]
fn a_quota_is_told_and_refuses_nothing_and_ends_when_segments_go() {
    let mut world = World::start(Options {
        segment_bytes: 300_000,
        quota_bytes: Some(1_500_000),
    });
    while world.log.room() == Room::Plenty {
        world.append_durably();
        assert!(world.next < 1_000_000);
    }
    assert_eq!(world.log.room(), Room::Quota);
    let bytes = retain::disk_bytes(world.disk.as_ref()).unwrap();
    assert!((1_500_000..2_100_000).contains(&bytes), "{bytes}");
    for _ in 0..600 {
        world.append_durably();
    }
    assert_eq!(world.log.room(), Room::Quota);
    assert!(retain::disk_bytes(world.disk.as_ref()).unwrap() > bytes);
    retain::trim(world.disk.as_ref(), world.log.durable_lsn()).unwrap();
    until("room again", || world.log.room() == Room::Plenty);
    world.append_durably();
    world.log.close();
    assert!(world.heard.failures.lock().unwrap().is_empty());
}
