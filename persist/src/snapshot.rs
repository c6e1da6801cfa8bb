//! Snapshot files: the folded log up to one LSN, as opaque bytes behind a checked header.
//!
//! ```text
//!  0  magic        8 bytes  "NULLRUNS"
//!  8  version      u32
//! 12  crc          u32      over bytes 8..12, 16..48 and the payload
//! 16  log_id       u128
//! 32  lsn          u64      the last LSN folded in
//! 40  payload_len  u64
//! 48  payload
//! ```
//! Written under a temporary name, synced, renamed: a snapshot that can be seen is whole.

use crate::disk::{Disk, read_all};
use crate::frame::{put, u32_at, u64_at, u128_at};
use crate::ids::LogId;
use crate::units::Lsn;
use crate::{Error, Result};

/// The format version this build writes and the newest it reads.
pub const VERSION: u32 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 48;

const MAGIC: &[u8; 8] = b"NULLRUNS";
const SUFFIX: &str = ".snap";
const BAKING: &str = ".baking";
/// Older snapshots kept, should the newest turn out to be damaged.
const KEPT: usize = 2;

/// A snapshot read back.
#[derive(Debug)]
pub struct Snapshot {
    /// The log it was folded from.
    pub log: LogId,
    /// The last LSN in it.
    pub lsn: Lsn,
    /// Header and payload; see [`Snapshot::payload`].
    bytes: Vec<u8>,
}

impl Snapshot {
    /// What was written.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER_LEN..).unwrap_or_default()
    }
}

fn name(lsn: Lsn) -> String {
    format!("{:016x}{SUFFIX}", lsn.0)
}

fn list(disk: &dyn Disk) -> Result<Vec<(Lsn, String)>> {
    let names = disk
        .list()
        .map_err(|e| Error::io("list", &disk.path_of(""), e))?;
    Ok(names
        .into_iter()
        .filter_map(|name| {
            let lsn = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
            Some((Lsn(lsn), name))
        })
        .collect())
}

/// Writes a snapshot and removes all but the newest few.
pub fn write(disk: &dyn Disk, log: LogId, lsn: Lsn, payload: &[u8]) -> Result<()> {
    let name = name(lsn);
    let path = disk.path_of(&name);
    let temporary = format!("{name}{BAKING}");
    let mut header = [0; HEADER_LEN];
    put(&mut header, 0, MAGIC);
    put(&mut header, 8, &VERSION.to_le_bytes());
    put(&mut header, 16, &log.0.to_le_bytes());
    put(&mut header, 32, &lsn.0.to_le_bytes());
    put(&mut header, 40, &(payload.len() as u64).to_le_bytes());
    let crc = checksum(&header, payload);
    put(&mut header, 12, &crc.to_le_bytes());

    if disk.open(&temporary).is_ok() {
        disk.remove(&temporary)
            .map_err(|e| Error::io("remove", &path, e))?;
    }
    let mut file = disk
        .create(&temporary)
        .map_err(|e| Error::io("create", &path, e))?;
    file.write_at(0, &header)
        .map_err(|e| Error::io("write", &path, e))?;
    file.write_at(HEADER_LEN as u64, payload)
        .map_err(|e| Error::io("write", &path, e))?;
    file.sync().map_err(|e| Error::io("sync", &path, e))?;
    disk.rename(&temporary, &name)
        .map_err(|e| Error::io("rename", &path, e))?;
    disk.sync_dir()
        .map_err(|e| Error::io("sync the directory of", &path, e))?;

    let mut all = list(disk)?;
    all.truncate(all.len().saturating_sub(KEPT));
    for (_, old) in all {
        disk.remove(&old)
            .map_err(|e| Error::io("remove", &disk.path_of(&old), e))?;
    }
    Ok(())
}

/// The newest whole snapshot, and the names of newer ones that are damaged.
pub fn newest(disk: &dyn Disk) -> Result<(Option<Snapshot>, Vec<String>)> {
    let mut damaged = Vec::new();
    for (lsn, name) in list(disk)?.into_iter().rev() {
        let path = disk.path_of(&name);
        let file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let bytes = read_all(file.as_ref()).map_err(|e| Error::io("read", &path, e))?;
        match check(bytes, lsn, &path)? {
            Some(snapshot) => return Ok((Some(snapshot), damaged)),
            None => damaged.push(path),
        }
    }
    Ok((None, damaged))
}

fn check(bytes: Vec<u8>, lsn: Lsn, path: &str) -> Result<Option<Snapshot>> {
    let payload = bytes.get(HEADER_LEN..).unwrap_or_default();
    let whole = bytes.get(..8) == Some(MAGIC)
        && u32_at(&bytes, 12) == checksum(&bytes, payload)
        && u64_at(&bytes, 40) == payload.len() as u64
        && u64_at(&bytes, 32) == lsn.0;
    if !whole {
        return Ok(None);
    }
    let version = u32_at(&bytes, 8);
    if version != VERSION {
        return Err(Error::Version {
            file: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    Ok(Some(Snapshot {
        log: LogId(u128_at(&bytes, 16)),
        lsn,
        bytes,
    }))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(8..12).unwrap_or_default());
    hasher.update(header.get(16..HEADER_LEN).unwrap_or_default());
    hasher.update(payload);
    hasher.finalize()
}
