//! A small log to tear, flip and read back.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test binary uses a part of it; a test says what is wrong by failing"
)]

pub mod opaque;

use persist::disk::{Disk, MemoryDisk, read_all};
use persist::frame::FrameBuf;
use persist::group_commit::{Batch, Pending};
use persist::log::{Options, Recovery, Writer};
use persist::record::{Actor, EndReason, HoldEnded, Record};
use persist::{HoldId, KeyId, LogId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::sync::Arc;

pub const LOG: LogId = LogId(77);

/// A record that tells its number.
pub fn record(n: u64) -> Record<'static> {
    Record::HoldEnded(HoldEnded {
        at: Millis(n),
        org: OrgId(1),
        workflow: WorkflowId(2),
        key: KeyId(3),
        hold: HoldId(u128::from(n)),
        day: persist::Day(0),
        note: None,
        released: Nanos(5),
        reason: EndReason::Expired,
        actor: Actor::System,
    })
}

/// A frame of some records.
pub fn frame(numbers: impl IntoIterator<Item = u64>) -> FrameBuf {
    let mut batch = Batch::default();
    for n in numbers {
        batch.push(&record(n)).unwrap();
    }
    let mut pending = Pending::default();
    pending.push(&batch);
    pending.pop().unwrap()
}

/// Opens a log; gives back the records in it.
pub fn open(
    disk: &Arc<dyn Disk>,
    options: Options,
) -> persist::Result<(Writer, Recovery, Vec<u64>)> {
    let mut numbers = Vec::new();
    let mut expected = Lsn(1);
    let visit = &mut |lsn: Lsn, bytes: &[u8]| {
        assert_eq!(lsn, expected, "records come in order, each once");
        expected = lsn.next();
        let Ok(Record::HoldEnded(ended)) = postcard::from_bytes::<Record<'_>>(bytes) else {
            panic!("a record came back as something else");
        };
        numbers.push(ended.at.0);
        Ok(())
    };
    let (writer, recovery) = Writer::open(Arc::clone(disk), options, LOG, Lsn::ZERO, visit)?;
    Ok((writer, recovery, numbers))
}

/// A log of three frames: records 1-2, 3-4, 5-6. Also where the last frame begins and ends.
pub fn three_frames() -> (MemoryDisk, u64, u64) {
    let disk = MemoryDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut writer, ..) = open(&shared, Options::default()).unwrap();
    let mut ends = Vec::new();
    for numbers in [1..=2, 3..=4, 5..=6] {
        writer.write(&mut frame(numbers)).unwrap();
        writer.sync().unwrap();
        ends.push(used(&disk));
    }
    (disk, ends[1], ends[2])
}

/// Where the last byte that is not zero stands, rounded up to a frame's alignment.
pub fn used(disk: &MemoryDisk) -> u64 {
    let bytes = bytes(disk, SEGMENT);
    let last = bytes.iter().rposition(|b| *b != 0).unwrap() as u64;
    (last + 1).next_multiple_of(persist::frame::ALIGN)
}

pub const SEGMENT: &str = "0000000000000001.seg";

pub fn bytes(disk: &MemoryDisk, name: &str) -> Vec<u8> {
    read_all(disk.open(name).unwrap().as_ref()).unwrap()
}

/// A disk with the same file, changed.
pub fn with_segment(bytes: &[u8]) -> Arc<dyn Disk> {
    let disk = MemoryDisk::default();
    disk.create(SEGMENT).unwrap().write_at(0, bytes).unwrap();
    Arc::new(disk)
}
