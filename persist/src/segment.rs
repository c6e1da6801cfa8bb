//! Segment files: a header block, then frames, then zeros written ahead so that a sync has no
//! metadata to write.
//!
//! ```text
//!  0  magic       8 bytes  "NULLRUNW"
//!  8  version     u32
//! 12  reserved    u32      0
//! 16  log_id      u128
//! 32  segment     u64      from 1, without gaps
//! 40  crc         u32      over bytes 0..40
//!     zeros to 4096, where the first frame stands
//! ```

use crate::disk::{Disk, DiskFile, is_full};
use crate::frame::{self, Place, put, u32_at, u64_at, u128_at};
use crate::ids::LogId;
use crate::units::Lsn;
use crate::whole_file::{self, BAKING};
use crate::{Error, Result, crash_points};
use std::io;

/// Where the first frame stands.
pub const FIRST_FRAME: u64 = 4096;
/// The format version this build writes and the newest it reads.
pub const VERSION: u32 = 1;
/// Zeros are written ahead in pieces of this size.
pub const PIECE: u64 = 256 << 10;

const MAGIC: &[u8; 8] = b"NULLRUNW";
const SUFFIX: &str = ".seg";

/// The file name of segment `number`.
#[must_use]
pub fn name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The number in a segment's file name.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Numbers of all segments, ascending.
pub fn list(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = whole_file::list(disk)?;
    Ok(names.iter().filter_map(|name| number(name)).collect())
}

/// Removes what a crash left half made, and segments that were prepared and never used. Only the
/// writer may.
pub fn sweep(disk: &dyn Disk) -> Result<()> {
    whole_file::sweep(disk, |name| number(name).is_some())
}

/// Bytes of all segments, the prepared one included.
pub fn total_bytes(disk: &dyn Disk) -> Result<u64> {
    let mut sum = 0;
    for name in whole_file::list(disk)? {
        let shown = name.strip_suffix(BAKING).unwrap_or(&name);
        if number(shown).is_none() {
            continue;
        }
        match disk.open(&name).and_then(|file| file.len()) {
            Ok(len) => sum += len,
            // Trimmed, or given its name, since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("measure", &disk.path_of(&name), error)),
        }
    }
    Ok(sum)
}

/// The LSN a segment begins with; `None` if it has no whole frame header there, or is not there any
/// more.
///
/// A broken header says nothing: were it believed, a torn frame at the beginning of the last segment
/// could hide every segment before it.
pub fn first_lsn(disk: &dyn Disk, number: u64) -> Result<Option<Lsn>> {
    let name = name(number);
    let path = disk.path_of(&name);
    let file = match disk.open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &path, error)),
    };
    let mut head = vec![0; FIRST_FRAME as usize + frame::HEADER_LEN];
    let read = file
        .read_at(0, &mut head)
        .map_err(|e| Error::io("read", &path, e))?;
    head.truncate(read);
    let place = Place {
        log: LogId(u128_at(&head, 16)),
        segment: number,
        offset: FIRST_FRAME,
    };
    let bytes = head.get(FIRST_FRAME as usize..).unwrap_or_default();
    Ok(frame::header(bytes, place).map(|header| header.first_lsn))
}

/// A segment under its temporary name: durable, and seen by no reader. One that can be seen is
/// therefore always in use, and all before it is durable.
#[derive(Debug)]
pub struct Prepared {
    /// Its file.
    pub file: Box<dyn DiskFile>,
    /// Its number.
    pub number: u64,
    /// Where its zeros end.
    pub zeroed_to: u64,
}

impl Prepared {
    /// Makes a segment with `zeros` bytes of room. What an attempt before left is thrown away, so
    /// after an error it may be tried again: nothing was in it.
    pub fn make(disk: &dyn Disk, log: LogId, number: u64, zeros: u64) -> Result<Self> {
        let temporary = format!("{}{BAKING}", name(number));
        let made = Self::bake(disk, log, number, zeros, &temporary);
        if made.is_err() {
            // A full disk gets its blocks back at once. If this fails too, the next attempt or the
            // next start does it.
            let _left = disk.remove(&temporary);
        }
        made
    }

    fn bake(disk: &dyn Disk, log: LogId, number: u64, zeros: u64, temporary: &str) -> Result<Self> {
        let path = disk.path_of(&name(number));
        let mut header = [0; FIRST_FRAME as usize];
        put(&mut header, 0, MAGIC);
        put(&mut header, 8, &VERSION.to_le_bytes());
        put(&mut header, 16, &log.0.to_le_bytes());
        put(&mut header, 32, &number.to_le_bytes());
        let crc = crc32fast::hash(header.get(..40).unwrap_or_default());
        put(&mut header, 40, &crc.to_le_bytes());

        let mut file =
            whole_file::create(disk, temporary).map_err(|e| Error::io("create", &path, e))?;
        whole_file::reach(disk, crash_points::SEGMENT_CREATED)?;
        file.write_at(0, &header)
            .map_err(|e| Error::io("write", &path, e))?;
        let mut zeroed_to = FIRST_FRAME;
        write_zeros(file.as_mut(), &mut zeroed_to, FIRST_FRAME + zeros)
            .map_err(|e| Error::io("extend", &path, e))?;
        whole_file::reach(disk, crash_points::SEGMENT_WRITTEN)?;
        file.sync().map_err(|e| Error::io("sync", &path, e))?;
        whole_file::reach(disk, crash_points::SEGMENT_SYNCED)?;
        Ok(Self {
            file,
            number,
            zeroed_to,
        })
    }

    /// Gives the segment its name, durably. False if the directory has no room for it: then nothing
    /// has changed, and it may be tried again.
    pub fn show(&self, disk: &dyn Disk) -> Result<bool> {
        let name = name(self.number);
        match disk.rename(&format!("{name}{BAKING}"), &name) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Ok(false),
            Err(error) => return Err(Error::io("rename", &disk.path_of(&name), error)),
        }
        whole_file::reach(disk, crash_points::SEGMENT_RENAMED)?;
        whole_file::sync_names(disk, crash_points::SEGMENT_DIR_SYNCED)?;
        Ok(true)
    }
}

/// Writes zeros from `*from` to `to`; `*from` says how far they reach, after an error too.
pub fn write_zeros(file: &mut dyn DiskFile, from: &mut u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while *from < to {
        let n = (to - *from).min(ZEROS.len() as u64);
        file.write_at(*from, ZEROS.get(..n as usize).unwrap_or_default())?;
        *from += n;
    }
    Ok(())
}

/// Checks a segment's header against its number; returns the log it belongs to.
pub fn check_header(bytes: &[u8], number: u64, path: &str) -> Result<LogId> {
    let damaged = |offset, what: &str| Error::Damaged {
        file: path.to_owned(),
        offset,
        what: what.to_owned(),
    };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged(0, "it does not begin like a segment"));
    }
    let crc = crc32fast::hash(bytes.get(..40).unwrap_or_default());
    if crc != u32_at(bytes, 40) {
        return Err(damaged(40, "the header's checksum is wrong"));
    }
    let version = u32_at(bytes, 8);
    if version != VERSION {
        return Err(Error::Version {
            file: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    if u64_at(bytes, 32) != number {
        return Err(damaged(
            32,
            "the segment number differs from the file's name",
        ));
    }
    Ok(LogId(u128_at(bytes, 16)))
}
