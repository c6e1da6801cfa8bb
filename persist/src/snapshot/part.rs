//! A part: one archive of a snapshot behind a checked header. It is written once and never changed;
//! later snapshots may list it again.
//!
//! ```text
//!  0  magic        8 bytes  "NULLRUNP"
//!  8  version      u32
//! 12  crc          u32      over bytes 8..12, 16..64 and the payload
//! 16  log_id       u128
//! 32  lsn          u64      the last LSN folded in
//! 40  kind         u8, then 7 zeros
//! 48  tag          u64
//! 56  payload_len  u64
//! 64  payload
//! ```

use super::{Damage, VERSION};
use crate::disk::{Disk, DiskFile};
use crate::frame::{put, u32_at, u64_at, u128_at};
use crate::ids::LogId;
use crate::units::Lsn;
use crate::whole_file::{self, Points};
use crate::{Error, Result, crash_points};
use std::io;

const HEADER_LEN: usize = 64;
const MAGIC: &[u8; 8] = b"NULLRUNP";
const SUFFIX: &str = ".part";
/// Bytes read at once.
const PIECE: usize = 1 << 20;
const POINTS: Points = Points {
    written: crash_points::PART_WRITTEN,
    synced: crash_points::PART_SYNCED,
    renamed: crash_points::PART_RENAMED,
};

/// What a manifest says of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRef {
    /// The snapshot it was written for; with `index`, its file's name.
    pub sequence: u64,
    /// Its place among the parts written for that snapshot.
    pub index: u32,
    /// What it is, in the engine's numbering.
    pub kind: u8,
    /// Which one of that kind.
    pub tag: u64,
    /// The last LSN folded in. Less than its snapshot's if the part was kept from an earlier one.
    pub lsn: Lsn,
    /// Bytes of its payload.
    pub len: u64,
    /// The checksum in its header.
    pub crc: u32,
}

impl PartRef {
    /// The name of its file.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:016x}-{:08x}{SUFFIX}", self.sequence, self.index)
    }
}

/// Is this the name of a part?
pub(super) fn is_name(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

/// The snapshot a part of this name was written for.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    let (sequence, _) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    u64::from_str_radix(sequence, 16).ok()
}

/// Writes the file of a part, whose `len` and `crc` it fills in. Its name is not durable yet.
pub(super) fn write(disk: &dyn Disk, log: LogId, part: &mut PartRef, payload: &[u8]) -> Result<()> {
    part.len = payload.len() as u64;
    let mut header = header_of(log, part);
    part.crc = whole_file::seal(&mut header, MAGIC, VERSION, payload);
    whole_file::write(disk, &part.name(), &[&header, payload], &POINTS)
}

/// Everything of a header but its checksum and version.
fn header_of(log: LogId, part: &PartRef) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    put(&mut header, 0, MAGIC);
    put(&mut header, 16, &log.0.to_le_bytes());
    put(&mut header, 32, &part.lsn.0.to_le_bytes());
    put(&mut header, 40, &[part.kind]);
    put(&mut header, 48, &part.tag.to_le_bytes());
    put(&mut header, 56, &part.len.to_le_bytes());
    header
}

/// A part's file, opened, its header the one that its manifest speaks of. The payload is not looked
/// at.
#[derive(Debug)]
pub(super) struct Opened {
    file: Box<dyn DiskFile>,
    header: [u8; HEADER_LEN],
}

/// Opens a part, or says what is wrong with it.
pub(super) fn open(
    disk: &dyn Disk,
    log: LogId,
    part: &PartRef,
) -> Result<std::result::Result<Opened, Damage>> {
    let path = disk.path_of(&part.name());
    let damage = |what: String| {
        Ok(Err(Damage {
            file: path.clone(),
            what,
        }))
    };
    let file = match disk.open(&part.name()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return damage("is missing".to_owned());
        }
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    let mut header = [0; HEADER_LEN];
    let found = file.len().and_then(|len| {
        let read = file.read_at(0, &mut header)?;
        Ok((len, read))
    });
    let (len, read) = match found {
        Ok(found) => found,
        Err(error) => return damage(format!("cannot be read ({error})")),
    };
    if len != HEADER_LEN as u64 + part.len || read != HEADER_LEN {
        return damage(format!("is {len} bytes long, which is not its length"));
    }
    let mut expected = header_of(log, part);
    // Which version it is says the payload's checksum, when that is read.
    put(&mut expected, 8, &u32_at(&header, 8).to_le_bytes());
    put(&mut expected, 12, &part.crc.to_le_bytes());
    if header != expected {
        return damage(format!(
            "is not the part that the manifest lists (it says log {}, LSN {}, kind {}, tag {})",
            LogId(u128_at(&header, 16)),
            u64_at(&header, 32),
            header[40],
            u64_at(&header, 48),
        ));
    }
    Ok(Ok(Opened { file, header }))
}

/// Gives the payload to `take`, piece by piece, and checks it on the way: what was taken is good only
/// if this ends well.
pub(super) fn read(
    disk: &dyn Disk,
    log: LogId,
    part: &PartRef,
    take: &mut dyn FnMut(&[u8]),
) -> Result<std::result::Result<(), Damage>> {
    let opened = match open(disk, log, part)? {
        Ok(opened) => opened,
        Err(damage) => return Ok(Err(damage)),
    };
    let path = disk.path_of(&part.name());
    let mut hasher = whole_file::hash_of_header(&opened.header);
    let mut piece = vec![0; PIECE];
    let mut left = part.len;
    while left > 0 {
        let want = left.min(PIECE as u64) as usize;
        let into = piece.get_mut(..want).unwrap_or_default();
        let at = HEADER_LEN as u64 + part.len - left;
        match opened.file.read_at(at, into) {
            Ok(read) if read == want => {}
            Ok(_) => {
                let what = "ends too early".to_owned();
                return Ok(Err(Damage { file: path, what }));
            }
            Err(error) => {
                let what = format!("cannot be read at byte {at} ({error})");
                return Ok(Err(Damage { file: path, what }));
            }
        }
        hasher.update(into);
        take(into);
        left -= want as u64;
    }
    if hasher.finalize() != part.crc {
        let what = "has a wrong checksum".to_owned();
        return Ok(Err(Damage { file: path, what }));
    }
    whole_file::known_version(&opened.header, VERSION, &path)?;
    Ok(Ok(()))
}
