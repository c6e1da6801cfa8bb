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

use crate::disk::{Disk, DiskFile};
use crate::frame::{put, u32_at, u64_at, u128_at};
use crate::ids::LogId;
use crate::{Error, Result};

/// Where the first frame stands.
pub const FIRST_FRAME: u64 = 4096;
/// The format version this build writes and the newest it reads.
pub const VERSION: u32 = 1;
/// Zeros are written ahead in pieces of this size.
pub const PIECE: u64 = 256 << 10;

const MAGIC: &[u8; 8] = b"NULLRUNW";
const SUFFIX: &str = ".seg";
const BAKING: &str = ".baking";

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
    let names = disk
        .list()
        .map_err(|e| Error::io("list", &disk.path_of(""), e))?;
    Ok(names.iter().filter_map(|name| number(name)).collect())
}

/// Removes what a crash left half made. Only the writer may: a reader would take a segment from
/// under its hands.
pub fn sweep(disk: &dyn Disk) -> Result<()> {
    let names = disk
        .list()
        .map_err(|e| Error::io("list", &disk.path_of(""), e))?;
    for leftover in names.iter().filter(|name| name.ends_with(BAKING)) {
        disk.remove(leftover)
            .map_err(|e| Error::io("remove", &disk.path_of(leftover), e))?;
    }
    Ok(())
}

/// Makes a segment under a temporary name, durable, then gives it its name: a segment that can be
/// seen always has a whole header.
pub fn bake(
    disk: &dyn Disk,
    log: LogId,
    number: u64,
    zeros: u64,
) -> Result<(Box<dyn DiskFile>, u64)> {
    let name = name(number);
    let path = disk.path_of(&name);
    let temporary = format!("{name}{BAKING}");
    let mut header = [0; FIRST_FRAME as usize];
    put(&mut header, 0, MAGIC);
    put(&mut header, 8, &VERSION.to_le_bytes());
    put(&mut header, 16, &log.0.to_le_bytes());
    put(&mut header, 32, &number.to_le_bytes());
    let crc = crc32fast::hash(header.get(..40).unwrap_or_default());
    put(&mut header, 40, &crc.to_le_bytes());

    let mut file = disk
        .create(&temporary)
        .map_err(|e| Error::io("create", &path, e))?;
    file.write_at(0, &header)
        .map_err(|e| Error::io("write", &path, e))?;
    let zeroed_to = write_zeros(file.as_mut(), FIRST_FRAME, zeros)
        .map_err(|e| Error::io("extend", &path, e))?;
    file.sync().map_err(|e| Error::io("sync", &path, e))?;
    disk.rename(&temporary, &name)
        .map_err(|e| Error::io("rename", &path, e))?;
    disk.sync_dir()
        .map_err(|e| Error::io("sync the directory of", &path, e))?;
    Ok((file, zeroed_to))
}

/// Writes `len` zeros from `offset`; returns where they end.
pub fn write_zeros(file: &mut dyn DiskFile, offset: u64, len: u64) -> std::io::Result<u64> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let n = (end - at).min(ZEROS.len() as u64);
        file.write_at(at, ZEROS.get(..n as usize).unwrap_or_default())?;
        at += n;
    }
    Ok(end)
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
