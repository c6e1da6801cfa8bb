//! Group commit with real threads on a real file system.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, Faults, FaultyDisk, PlainDisk};
use persist::group_commit::{Batch, Listener, Log};
use persist::log::Options;
use persist::{Error, Lsn, reader};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use support::{open, record};
use tempfile::TempDir;

#[derive(Default, Clone)]
struct Heard {
    durable: Arc<AtomicU64>,
    failures: Arc<AtomicU32>,
}

impl Listener for Heard {
    fn durable(&mut self, lsn: Lsn) {
        let before = self.durable.swap(lsn.0, Ordering::SeqCst);
        assert!(before < lsn.0, "durable LSNs grow");
    }
    fn failed(&mut self, error: Error) {
        assert!(error.to_string().contains("injected"), "{error}");
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn many_appenders_get_every_lsn_once_and_what_is_durable_can_be_read_back() {
    let directory = TempDir::new().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(PlainDisk::at(directory.path()).unwrap());
    let (writer, ..) = open(
        &disk,
        Options {
            segment_bytes: 100_000,
            ..Options::default()
        },
    )
    .unwrap();
    let heard = Heard::default();
    let log = Log::start(writer, heard.clone()).unwrap();
    let given = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (log, given) = (&log, &given);
            scope.spawn(move || {
                let mut batch = Batch::default();
                for turn in 0..200_u64 {
                    batch.clear();
                    let first_number = thread * 1_000_000 + turn * 10;
                    let count = turn % 5 + 1;
                    for n in 0..count {
                        batch.push(&record(first_number + n)).unwrap();
                    }
                    let first = log.append(&batch).unwrap();
                    let mut given = given.lock().unwrap();
                    for n in 0..count {
                        let before = given.insert(first.0 + n, first_number + n);
                        assert_eq!(before, None, "an LSN was given out twice");
                    }
                }
            });
        }
    });
    // While it runs: whatever is durable now can be read back now.
    let durable = log.durable_lsn();
    let mut seen = 0;
    reader::read(disk.as_ref(), Lsn::ZERO, durable, &mut |_, _| {
        seen += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, durable.0);
    log.close();
    let given = given.into_inner().unwrap();
    assert_eq!(heard.durable.load(Ordering::SeqCst), given.len() as u64);
    let (_, recovery, numbers) = open(&disk, Options::default()).unwrap();
    assert_eq!(recovery.last_lsn.0, given.len() as u64);
    let expected: Vec<u64> = given.into_values().collect();
    assert_eq!(numbers, expected, "each record stands where its LSN said");
}

#[test]
fn after_a_failed_sync_nothing_is_taken_any_more_and_it_is_told_once() {
    for faults in [
        Faults {
            fail_sync_in: Some(0),
            fail_write_in: None,
        },
        Faults {
            fail_sync_in: None,
            fail_write_in: Some(0),
        },
    ] {
        let faulty = FaultyDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let (writer, ..) = open(&disk, Options::default()).unwrap();
        let heard = Heard::default();
        let log = Log::start(writer, heard.clone()).unwrap();
        faulty.set_faults(faults);
        let mut batch = Batch::default();
        batch.push(&record(1)).unwrap();
        log.append(&batch).unwrap();
        while heard.failures.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(matches!(log.append(&batch), Err(Error::Poisoned(_))));
        assert_eq!(log.durable_lsn(), Lsn::ZERO);
        log.close();
        assert_eq!(heard.failures.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_batch_larger_than_a_frame_is_spread_over_several_and_comes_back_whole() {
    use persist::record::{Actor, Record, State, WorkflowStateChanged};
    let directory = TempDir::new().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(PlainDisk::at(directory.path()).unwrap());
    let (writer, ..) = open(
        &disk,
        Options {
            segment_bytes: 1 << 30,
            ..Options::default()
        },
    )
    .unwrap();
    let log = Log::start(writer, Heard::default()).unwrap();
    let reason = "x".repeat(900_000);
    let mut batch = Batch::default();
    for n in 0..40 {
        batch
            .push(&Record::WorkflowState(WorkflowStateChanged {
                at: persist::Millis(n),
                org: persist::OrgId(1),
                workflow: persist::WorkflowId(1),
                version: n,
                from: State::Normal,
                to: State::Paused,
                reason: Some(&reason),
                actor: Actor::System,
            }))
            .unwrap();
    }
    assert!(batch.len() > persist::frame::MAX_PAYLOAD);
    log.append(&batch).unwrap();
    log.close();
    let mut versions = Vec::new();
    reader::read(disk.as_ref(), Lsn::ZERO, Lsn(u64::MAX), &mut |_, bytes| {
        if let Ok(Record::WorkflowState(changed)) = postcard::from_bytes::<Record<'_>>(bytes) {
            versions.push(changed.version);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(versions, (0..40).collect::<Vec<_>>());
}
