//! Records that are only bytes, each telling its LSN: tests of files need no record type.

use super::LOG;
use persist::Lsn;
use persist::disk::Disk;
use persist::frame::FrameBuf;
use persist::log::{Options, Recovery, Writer};
use std::sync::Arc;

/// The record with this LSN; no two alike, lengths vary.
pub fn bytes_of(lsn: u64) -> Vec<u8> {
    let mut bytes = lsn.to_le_bytes().to_vec();
    bytes.resize(8 + (lsn * 7 % 61) as usize, (lsn * 31 % 251) as u8 | 1);
    bytes
}

/// A frame of the records `first..first + count`.
pub fn frame_of(first: u64, count: u64) -> FrameBuf {
    let mut frame = FrameBuf::default();
    for lsn in first..first + count {
        let bytes = bytes_of(lsn);
        frame.push(&(bytes.len() as u32).to_le_bytes(), 0);
        frame.push(&bytes, 1);
    }
    frame
}

/// Writes the next `count` records as one durable frame; returns the last LSN.
pub fn append(writer: &mut Writer, count: u64) -> persist::Result<Lsn> {
    let last = writer.write(&mut frame_of(writer.next_lsn().0, count))?;
    writer.sync()?;
    Ok(last)
}

/// Opens a log of such records behind `from`, each checked; returns how many there were.
pub fn open_behind(
    disk: &Arc<dyn Disk>,
    options: Options,
    from: Lsn,
) -> persist::Result<(Writer, Recovery)> {
    let mut next = from.next();
    let (writer, recovery) =
        Writer::open(Arc::clone(disk), options, LOG, from, &mut |lsn, bytes| {
            assert_eq!(lsn, next, "records come in order, each once");
            assert_eq!(bytes, bytes_of(lsn.0), "LSN {lsn} came back as it was");
            next = lsn.next();
            Ok(())
        })?;
    assert_eq!(next, recovery.last_lsn.next(), "up to the end");
    Ok((writer, recovery))
}

/// Random numbers that depend on their seed alone.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// A coin for `FaultyDisk::crash`.
    pub fn coin(&mut self) -> impl FnMut() -> bool + '_ {
        // Some crashes keep nearly everything, some nearly nothing.
        let keeps = [1, 5, 9][self.below(3) as usize];
        move || self.below(10) < keeps
    }
}
