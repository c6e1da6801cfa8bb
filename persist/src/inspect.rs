//! Looking at a data directory without touching it: what is in it, whether all of it can be read,
//! and its records as JSON. Nothing here takes the lock or removes anything, so it works beside a
//! running gateway; what that one is writing at the moment is then a torn tail.

mod export;
mod redact;
mod verify;

pub use export::{export, to_json};
pub use verify::{Verified, verify};

use crate::disk::{Disk, PlainDisk};
use crate::follow;
use crate::ids::LogId;
use crate::scan::{Scan, later_frame, used};
use crate::segment;
use crate::snapshot::Store;
use crate::units::Lsn;
use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// The parts of a data directory.
#[derive(Debug, Clone)]
pub struct Directory {
    /// `wal/`.
    pub wal: Arc<dyn Disk>,
    /// `snapshots/`.
    pub snapshots: Arc<dyn Disk>,
    /// `followers/`.
    pub followers: Arc<dyn Disk>,
}

impl Directory {
    /// The data directory at `root`, to be looked at only.
    #[must_use]
    pub fn read_only(root: &Path) -> Self {
        let part = |name| Arc::new(PlainDisk::read_only(&root.join(name)));
        Self {
            wal: part("wal"),
            snapshots: part("snapshots"),
            followers: part("followers"),
        }
    }
}

/// What is in a data directory. [`to_json`] makes an answer of it.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// The log's identity, if a segment tells it.
    pub log: Option<LogId>,
    /// Every segment, in order.
    pub segments: Vec<Segment>,
    /// Usable snapshots, newest first. Their parts are there; `verify` reads them.
    pub snapshots: Vec<Snapshot>,
    /// Cursors.
    pub followers: Vec<Follower>,
    /// What is wrong outside the segments, in words.
    pub problems: Vec<String>,
}

/// One segment.
#[derive(Debug, Default, Serialize)]
pub struct Segment {
    /// Its file.
    pub file: String,
    /// Bytes of the file, zeros included.
    pub bytes: u64,
    /// Whole frames.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// The first record.
    pub first_lsn: Option<Lsn>,
    /// The last record.
    pub last_lsn: Option<Lsn>,
    /// Bytes behind the last whole frame that are not zero: a frame that was torn, or is being
    /// written.
    pub torn_bytes: u64,
    /// What keeps it from being read, in words.
    pub problem: Option<String>,
}

/// One snapshot.
#[derive(Debug, Serialize)]
pub struct Snapshot {
    /// Its number.
    pub sequence: u64,
    /// The log it was folded from.
    pub log: LogId,
    /// The last LSN in it.
    pub lsn: Lsn,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// One part of a snapshot.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its file.
    pub file: String,
    /// The engine's kind.
    pub kind: u8,
    /// The engine's tag.
    pub tag: u64,
    /// The last LSN in it.
    pub lsn: Lsn,
    /// Bytes of payload.
    pub bytes: u64,
}

/// One follower.
#[derive(Debug, Serialize)]
pub struct Follower {
    /// Its name.
    pub name: String,
    /// The last LSN it is done with.
    pub lsn: Lsn,
}

/// Lists what is in a data directory. Damage is part of the answer, not an error.
pub fn inspect(directory: &Directory) -> Result<Summary> {
    let mut summary = Summary::default();
    for number in segment::list(directory.wal.as_ref())? {
        let mut found = Segment {
            file: directory.wal.path_of(&segment::name(number)),
            ..Segment::default()
        };
        match one_segment(directory.wal.as_ref(), number, &mut found) {
            Ok(log) => summary.log = summary.log.or(Some(log)),
            // Trimmed meanwhile.
            Err(error) if is_gone(&error) => continue,
            Err(error) => found.problem = Some(error.to_string()),
        }
        summary.segments.push(found);
    }
    let store = Store::open(Arc::clone(&directory.snapshots));
    let candidates = match store.candidates() {
        // Or was a snapshot replaced meanwhile? Then a second look finds the new one.
        Ok((_, damaged)) if !damaged.is_empty() => store.candidates(),
        first => first,
    };
    match candidates {
        Ok((candidates, damaged)) => {
            let problems = damaged.iter().map(ToString::to_string);
            summary.problems.extend(problems);
            let snapshots = candidates.iter().map(|found| Snapshot {
                sequence: found.manifest.sequence,
                log: found.manifest.log,
                lsn: found.manifest.lsn,
                parts: found.manifest.parts.iter().map(part).collect(),
            });
            summary.snapshots = snapshots.collect();
        }
        Err(error) => summary.problems.push(error.to_string()),
    }
    for cursor in follow::saved(directory.followers.as_ref())? {
        match cursor {
            Ok(saved) => summary.followers.push(Follower {
                name: saved.name,
                lsn: saved.lsn,
            }),
            Err(error) => summary.problems.push(error.to_string()),
        }
    }
    Ok(summary)
}

fn part(part: &crate::snapshot::PartRef) -> Part {
    Part {
        file: part.name(),
        kind: part.kind,
        tag: part.tag,
        lsn: part.lsn,
        bytes: part.len,
    }
}

fn one_segment(disk: &dyn Disk, number: u64, found: &mut Segment) -> Result<LogId> {
    let mut scan = Scan::open(disk, number, PIECE)?;
    found.bytes = scan.file_len()?;
    while let Ok(frame) = scan.peek()? {
        let header = frame.header;
        found.frames += 1;
        found.records += u64::from(header.count);
        found.first_lsn = found.first_lsn.or(Some(header.first_lsn));
        found.last_lsn = Some(Lsn(header.next_lsn().0.saturating_sub(1)));
        scan.step(&header);
    }
    let rest = scan.rest()?;
    found.torn_bytes = used(&rest);
    if let Some(later) = later_frame(&scan, &rest)
        && scan.peek()?.is_err()
    {
        let what = format!("the frame there is broken, but a whole frame follows at byte {later}");
        return Err(scan.damaged(scan.offset, what));
    }
    Ok(scan.log)
}

/// Repeats `look` if a file went away meanwhile: beside a running gateway, segments are trimmed.
pub(crate) fn undisturbed<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..3 {
        match look() {
            Err(error) if is_gone(&error) => {}
            done => return done,
        }
    }
    look()
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
