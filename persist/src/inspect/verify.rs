//! Reads everything there is, as a start of the gateway would and more: every frame, every record,
//! every byte of both snapshots, every cursor.

use super::{Directory, undisturbed};
use crate::record::Record;
use crate::snapshot::Store;
use crate::units::Lsn;
use crate::{Error, Result, follow, reader, segment};
use serde::Serialize;
use std::sync::Arc;

/// What was read.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The first record that is there.
    pub first_lsn: Lsn,
    /// The last.
    pub last_lsn: Lsn,
    /// Bytes of a torn frame at the end; a start would cut it. Beside a running gateway: a frame that
    /// is being written.
    pub torn_bytes: u64,
    /// The LSNs of the snapshots that are good to the last byte, newest first.
    pub snapshots: Vec<Lsn>,
    /// What is wrong and would not keep the gateway from starting: a snapshot that cannot be used, a
    /// cursor that cannot be read.
    pub warnings: Vec<String>,
}

/// Verifies a data directory.
///
/// # Errors
/// The first thing that would keep the gateway from starting, with its file, its place in it, and
/// what to do.
pub fn verify(directory: &Directory) -> Result<Verified> {
    let mut verified = undisturbed(|| log(directory))?;
    if snapshots(directory, &mut verified)? {
        // A snapshot may have been replaced meanwhile: a second look tells.
        verified.snapshots.clear();
        verified.warnings.clear();
        snapshots(directory, &mut verified)?;
    }
    let newest = verified.snapshots.first().copied().unwrap_or_default();
    if verified.first_lsn > newest.next() {
        let file = segment::list(directory.wal.as_ref())?.first().copied();
        return Err(Error::Gone {
            file: directory.wal.path_of(&segment::name(file.unwrap_or(1))),
            begins: verified.first_lsn,
            needed: newest.next(),
        });
    }
    for cursor in follow::saved(directory.followers.as_ref())? {
        if let Err(error) = cursor {
            verified.warnings.push(error.to_string());
        }
    }
    Ok(verified)
}

/// Reads both snapshots; true if there is something to warn of.
fn snapshots(directory: &Directory, verified: &mut Verified) -> Result<bool> {
    let store = Store::open(Arc::clone(&directory.snapshots));
    let (candidates, damaged) = store.candidates()?;
    let damaged = damaged.iter().map(ToString::to_string);
    verified.warnings.extend(damaged);
    for found in &candidates {
        let mut parts = found.manifest.parts.iter();
        match parts.try_for_each(|part| found.read_pieces(part, &mut |_| {})) {
            Ok(()) => verified.snapshots.push(found.manifest.lsn),
            Err(error @ Error::SnapshotDamaged { .. }) => verified.warnings.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(!verified.warnings.is_empty())
}

/// The log: from its first record, whichever that is.
fn log(directory: &Directory) -> Result<Verified> {
    let disk = directory.wal.as_ref();
    let first = match segment::list(disk)?.first() {
        Some(number) => segment::first_lsn(disk, *number)?.unwrap_or(Lsn(1)),
        None => return Ok(Verified::default()),
    };
    let before = Lsn(first.0.saturating_sub(1));
    let tail =
        reader::read(
            disk,
            before,
            Lsn(u64::MAX),
            &mut |lsn, bytes| match postcard::from_bytes::<Record<'_>>(bytes) {
                Ok(_) => Ok(()),
                Err(error) => Err(Error::Undecodable {
                    lsn,
                    what: error.to_string(),
                }),
            },
        )?;
    let mut verified = Verified {
        first_lsn: first,
        ..Verified::default()
    };
    if let Some(tail) = tail {
        verified.last_lsn = Lsn(tail.next_lsn.0.saturating_sub(1));
        verified.torn_bytes = tail.torn_bytes;
    }
    Ok(verified)
}
