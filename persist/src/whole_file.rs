//! Files that are either whole or not there: written under a temporary name, synced, renamed. Also
//! the checked header that parts, manifests and cursors begin with:
//!
//! ```text
//!  0  magic    8 bytes
//!  8  version  u32
//! 12  crc      u32   CRC-32 of every byte from 8 on, these four left out
//! ```

use crate::disk::Disk;
use crate::frame::{put, u32_at};
use crate::{Error, Result};
use std::io;

/// The end of a name whose file is being made.
pub(crate) const BAKING: &str = ".baking";

/// The crash points of one kind of file.
#[derive(Debug)]
pub struct Points {
    /// Written under its temporary name, not synced.
    pub written: &'static str,
    /// Durable under its temporary name.
    pub synced: &'static str,
    /// Under its own name, which is not durable yet.
    pub renamed: &'static str,
}

/// Says that a crash point is reached.
pub(crate) fn reach(disk: &dyn Disk, point: &'static str) -> Result<()> {
    disk.reach(point).map_err(|e| Error::io("pass", point, e))
}

/// Every name in the directory, sorted.
pub(crate) fn list(disk: &dyn Disk) -> Result<Vec<String>> {
    disk.list()
        .map_err(|e| Error::io("list", &disk.path_of(""), e))
}

/// Writes a file of these pieces in one go. Its name is durable only after [`sync_names`].
pub fn write(disk: &dyn Disk, name: &str, pieces: &[&[u8]], points: &Points) -> Result<()> {
    let path = disk.path_of(name);
    let temporary = format!("{name}{BAKING}");
    let mut file = create(disk, &temporary).map_err(|e| Error::io("create", &path, e))?;
    let mut at = 0;
    for piece in pieces {
        file.write_at(at, piece)
            .map_err(|e| Error::io("write", &path, e))?;
        at += piece.len() as u64;
    }
    reach(disk, points.written)?;
    file.sync().map_err(|e| Error::io("sync", &path, e))?;
    reach(disk, points.synced)?;
    disk.rename(&temporary, name)
        .map_err(|e| Error::io("rename", &path, e))?;
    reach(disk, points.renamed)
}

/// Makes a file, in place of what an attempt before it may have left.
pub(crate) fn create(disk: &dyn Disk, name: &str) -> io::Result<Box<dyn crate::disk::DiskFile>> {
    match disk.create(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(name)?;
            disk.create(name)
        }
        made => made,
    }
}

/// Makes the names of a directory durable, then passes `point`.
pub fn sync_names(disk: &dyn Disk, point: &'static str) -> Result<()> {
    disk.sync_dir()
        .map_err(|e| Error::io("sync the directory", &disk.path_of(""), e))?;
    reach(disk, point)
}

/// Removes the half-made files that `owns` claims. Only whoever writes such files may: a reader
/// would take one from under the writer's hands.
pub(crate) fn sweep(disk: &dyn Disk, owns: impl Fn(&str) -> bool) -> Result<()> {
    for name in list(disk)? {
        if name.strip_suffix(BAKING).is_some_and(&owns) {
            disk.remove(&name)
                .map_err(|e| Error::io("remove", &disk.path_of(&name), e))?;
        }
    }
    Ok(())
}

/// Writes magic, version and checksum into a header that is filled from byte 16 on; returns the
/// checksum.
pub(crate) fn seal(header: &mut [u8], magic: &[u8; 8], version: u32, payload: &[u8]) -> u32 {
    put(header, 0, magic);
    put(header, 8, &version.to_le_bytes());
    let mut hasher = hash_of_header(header);
    hasher.update(payload);
    let crc = hasher.finalize();
    put(header, 12, &crc.to_le_bytes());
    crc
}

/// Is this file, read whole, what [`seal`] made?
pub(crate) fn is_whole(bytes: &[u8], magic: &[u8; 8]) -> bool {
    bytes.get(..8) == Some(magic) && hash_of_header(bytes).finalize() == u32_at(bytes, 12)
}

/// The checksum so far, to be continued with the payload.
pub(crate) fn hash_of_header(header: &[u8]) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(8..12).unwrap_or_default());
    hasher.update(header.get(16..).unwrap_or_default());
    hasher
}

/// Refuses a version that this build does not know.
pub(crate) fn known_version(header: &[u8], known: u32, path: &str) -> Result<()> {
    let found = u32_at(header, 8);
    if found == known {
        return Ok(());
    }
    Err(Error::Version {
        file: path.to_owned(),
        found,
        known,
    })
}
