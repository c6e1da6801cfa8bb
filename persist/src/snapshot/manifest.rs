//! Manifests: which parts make a snapshot. Two slots, written in turn; the higher sequence is the
//! newer snapshot.
//!
//! ```text
//!  0  magic     8 bytes  "NULLRUNM"
//!  8  version   u32
//! 12  crc       u32      over bytes 8..12 and 16 to the end
//! 16  log_id    u128
//! 32  sequence  u64      grows with every snapshot
//! 40  lsn       u64      the last LSN folded in
//! 48  count     u64      parts
//! 56  count × 48 bytes:
//!      0  sequence u64, 8 index u32   the part's file name
//!     12  kind     u8, then 3 zeros
//!     16  tag      u64
//!     24  lsn      u64
//!     32  len      u64
//!     40  crc      u32, then 4 zeros
//! ```

use super::part::PartRef;
use super::{Damage, VERSION};
use crate::disk::{Disk, read_all};
use crate::frame::{put, u32_at, u64_at, u128_at};
use crate::ids::LogId;
use crate::units::Lsn;
use crate::whole_file::{self, Points};
use crate::{Error, Result, crash_points};
use std::io;

/// The names of the slots.
pub const SLOTS: [&str; 2] = ["manifest.0", "manifest.1"];

const HEADER_LEN: usize = 56;
const ROW_LEN: usize = 48;
const MAGIC: &[u8; 8] = b"NULLRUNM";
/// A longer file is not read: no snapshot has so many parts.
const MAX_LEN: u64 = 64 << 20;
const POINTS: Points = Points {
    written: crash_points::MANIFEST_WRITTEN,
    synced: crash_points::MANIFEST_SYNCED,
    renamed: crash_points::MANIFEST_RENAMED,
};

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The log it was folded from.
    pub log: LogId,
    /// Grows with every snapshot.
    pub sequence: u64,
    /// The last LSN folded in.
    pub lsn: Lsn,
    /// Its parts, in the order they were given.
    pub parts: Vec<PartRef>,
}

/// What stands in a slot.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing yet.
    Empty,
    /// A file that is no manifest (any more).
    Damaged(Damage),
    /// A manifest that checks out. Its parts may not.
    Whole(Manifest),
}

/// Reads both slots.
pub(super) fn slots(disk: &dyn Disk) -> Result<[Slot; 2]> {
    let [first, second] = SLOTS;
    Ok([slot(disk, first)?, slot(disk, second)?])
}

fn slot(disk: &dyn Disk, name: &str) -> Result<Slot> {
    let path = disk.path_of(name);
    let damaged = |what: String| {
        Ok(Slot::Damaged(Damage {
            file: path.clone(),
            what,
        }))
    };
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Slot::Empty),
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    let bytes = match file.len() {
        Ok(len) if len > MAX_LEN => return damaged(format!("is {len} bytes long")),
        Ok(_) => read_all(file.as_ref()),
        Err(error) => Err(error),
    };
    match bytes {
        Err(error) => damaged(format!("cannot be read ({error})")),
        Ok(bytes) if !whole_file::is_whole(&bytes, MAGIC) => {
            damaged("has a wrong checksum".to_owned())
        }
        Ok(bytes) => {
            whole_file::known_version(&bytes, VERSION, &path)?;
            match decode(&bytes) {
                Some(manifest) => Ok(Slot::Whole(manifest)),
                None => damaged("lists more or fewer parts than it says".to_owned()),
            }
        }
    }
}

/// Writes a manifest into a slot, in place of what is there, durably.
pub(super) fn write(disk: &dyn Disk, slot: usize, manifest: &Manifest) -> Result<()> {
    let mut bytes = encode(manifest);
    whole_file::seal(&mut bytes, MAGIC, VERSION, &[]);
    let name = SLOTS.get(slot).copied().unwrap_or(SLOTS[0]);
    whole_file::write(disk, name, &[&bytes], &POINTS)?;
    whole_file::sync_names(disk, crash_points::MANIFEST_DIR_SYNCED)
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN + ROW_LEN * manifest.parts.len()];
    put(&mut bytes, 16, &manifest.log.0.to_le_bytes());
    put(&mut bytes, 32, &manifest.sequence.to_le_bytes());
    put(&mut bytes, 40, &manifest.lsn.0.to_le_bytes());
    put(&mut bytes, 48, &(manifest.parts.len() as u64).to_le_bytes());
    for (row, part) in manifest.parts.iter().enumerate() {
        let at = HEADER_LEN + row * ROW_LEN;
        put(&mut bytes, at, &part.sequence.to_le_bytes());
        put(&mut bytes, at + 8, &part.index.to_le_bytes());
        put(&mut bytes, at + 12, &[part.kind]);
        put(&mut bytes, at + 16, &part.tag.to_le_bytes());
        put(&mut bytes, at + 24, &part.lsn.0.to_le_bytes());
        put(&mut bytes, at + 32, &part.len.to_le_bytes());
        put(&mut bytes, at + 40, &part.crc.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Manifest> {
    let (rows, rest) = bytes.get(HEADER_LEN..)?.as_chunks::<ROW_LEN>();
    if !rest.is_empty() || rows.len() as u64 != u64_at(bytes, 48) {
        return None;
    }
    let parts = rows.iter().map(|row| PartRef {
        sequence: u64_at(row, 0),
        index: u32_at(row, 8),
        kind: row[12],
        tag: u64_at(row, 16),
        lsn: Lsn(u64_at(row, 24)),
        len: u64_at(row, 32),
        crc: u32_at(row, 40),
    });
    Some(Manifest {
        log: LogId(u128_at(bytes, 16)),
        sequence: u64_at(bytes, 32),
        lsn: Lsn(u64_at(bytes, 40)),
        parts: parts.collect(),
    })
}
