//! How long segments live: until everything in them is behind the older of two snapshots and behind
//! every follower.

use crate::disk::Disk;
use crate::follow::Followers;
use crate::snapshot::Store;
use crate::units::Lsn;
use crate::{Error, Result, crash_points, segment, whole_file};

/// The LSN up to which nobody needs the log any more: that of the older usable snapshot, or of the
/// slowest follower if that is less. `None` with fewer than two usable snapshots: then the log is the
/// only way back should the newer one turn out to be damaged, and all of it stays.
pub fn floor(snapshots: &Store, followers: &Followers) -> Result<Option<Lsn>> {
    let snapshots = snapshots.floor()?;
    Ok(snapshots.map(|lsn| {
        followers
            .low_water()
            .map_or(lsn, |slowest| slowest.min(lsn))
    }))
}

/// Unlinks segments whose every record is at or before `floor`, oldest first; never the last one.
/// Returns the bytes freed. Each unlinking is durable before the next: a crash leaves no gap.
pub fn trim(disk: &dyn Disk, floor: Lsn) -> Result<u64> {
    let numbers = segment::list(disk)?;
    let mut freed = 0;
    for pair in numbers.windows(2) {
        let &[number, behind] = pair else { break };
        // What the next one begins with says where this one ends. If it holds no frame yet, this one
        // may still be the last.
        let Some(begins) = segment::first_lsn(disk, behind)? else {
            break;
        };
        if begins > floor.next() {
            break;
        }
        let name = segment::name(number);
        let path = disk.path_of(&name);
        let len = disk
            .open(&name)
            .and_then(|file| file.len())
            .map_err(|e| Error::io("measure", &path, e))?;
        disk.remove(&name)
            .map_err(|e| Error::io("remove", &path, e))?;
        whole_file::reach(disk, crash_points::SEGMENT_REMOVED)?;
        whole_file::sync_names(disk, crash_points::SEGMENT_REMOVAL_SYNCED)?;
        freed += len;
    }
    Ok(freed)
}

/// Bytes of all segments, the one prepared for later included.
pub fn disk_bytes(disk: &dyn Disk) -> Result<u64> {
    segment::total_bytes(disk)
}
