//! The writer of the log: one, owned, synchronous. It knows where the next frame goes and nothing
//! of threads; `group_commit` drives it, so does the simulator.
//!
//! After any error but [`Error::Full`] the writer is of no further use: what reached the disk is
//! unknown, and a sync that failed once must never be tried again. Recovery reads the disk and
//! decides.
//!
//! A full disk is met before a frame is touched: `space` makes room first.

mod space;

use crate::disk::{Disk, DiskFile};
use crate::frame::{FrameBuf, Place};
use crate::ids::LogId;
use crate::reader::{self, Tail};
use crate::segment::{self, FIRST_FRAME, PIECE, Prepared};
use crate::units::Lsn;
use crate::{Error, Result, crash_points, whole_file};
use std::sync::Arc;

/// How the log is laid out.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// A segment is closed when the next frame would pass this many bytes.
    pub segment_bytes: u64,
    /// When all segments together reach this many bytes, [`Writer::room`] says so. Nothing is
    /// refused here.
    pub quota_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            quota_bytes: None,
        }
    }
}

/// What opening the log found.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// The log's identity.
    pub log: LogId,
    /// The last LSN that is there.
    pub last_lsn: Lsn,
    /// Records given to the visitor.
    pub replayed: u64,
    /// Bytes of a torn frame that were cut off; nothing acknowledged was in them.
    pub cut_bytes: u64,
}

/// Appends frames to the last segment.
#[derive(Debug)]
pub struct Writer {
    disk: Arc<dyn Disk>,
    options: Options,
    log: LogId,
    segment: u64,
    path: String,
    file: Box<dyn DiskFile>,
    offset: u64,
    zeroed_to: u64,
    next_lsn: Lsn,
    prev_crc: u32,
    /// The next segment, once this one is half full.
    next: Option<Prepared>,
    /// Making room failed for want of space, and has not succeeded since.
    full: bool,
    /// Bytes of the segments before this one.
    older_bytes: u64,
}

impl Writer {
    /// Opens the log in `disk`, or makes one with the identity `new_log`. Visits every record after
    /// `from`, cuts a torn tail, and syncs what it read before anybody may rely on it.
    ///
    /// # Errors
    /// [`Error::Damaged`] if something that was durable cannot be read back.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        new_log: LogId,
        from: Lsn,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<(Self, Recovery)> {
        segment::sweep(disk.as_ref())?;
        let mut replayed = 0;
        let tail = reader::read(disk.as_ref(), from, Lsn(u64::MAX), &mut |lsn, bytes| {
            replayed += 1;
            visit(lsn, bytes)
        })?;
        let ends_at = tail.map_or(Lsn(1), |tail| tail.next_lsn);
        if ends_at <= from {
            return Err(Error::Damaged {
                file: disk.path_of(&segment::name(tail.map_or(1, |tail| tail.segment))),
                offset: tail.map_or(0, |tail| tail.offset),
                what: format!("the log ends before LSN {ends_at}, and a snapshot holds {from}"),
            });
        }
        let Some(tail) = tail else {
            return Self::create(disk, options, new_log);
        };
        let name = segment::name(tail.segment);
        let path = disk.path_of(&name);
        let mut file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let zeroed_to = Self::cut(file.as_mut(), &tail, &path)?;
        if tail.torn_bytes > 0 {
            whole_file::reach(disk.as_ref(), crash_points::RECOVERY_CUT)?;
        }
        // What was read may sit in the page cache only.
        file.sync().map_err(|e| Error::io("sync", &path, e))?;
        disk.sync_dir()
            .map_err(|e| Error::io("sync the directory of", &path, e))?;
        Self::remove_unused(disk.as_ref(), tail.segment)?;
        let recovery = Recovery {
            log: tail.log,
            last_lsn: Lsn(tail.next_lsn.0 - 1),
            replayed,
            cut_bytes: tail.torn_bytes,
        };
        let mut writer = Self {
            disk,
            options,
            log: tail.log,
            segment: tail.segment,
            path,
            file,
            offset: tail.offset,
            zeroed_to,
            next_lsn: tail.next_lsn,
            prev_crc: tail.prev_crc,
            next: None,
            full: false,
            older_bytes: 0,
        };
        writer.recount()?;
        Ok((writer, recovery))
    }

    fn create(disk: Arc<dyn Disk>, options: Options, log: LogId) -> Result<(Self, Recovery)> {
        let number = 1;
        let first = Prepared::make(disk.as_ref(), log, number, PIECE.min(options.segment_bytes))?;
        if !first.show(disk.as_ref())? {
            return Err(Error::Full {
                file: disk.path_of(&segment::name(number)),
            });
        }
        let path = disk.path_of(&segment::name(number));
        let writer = Self {
            disk,
            options,
            log,
            segment: number,
            path,
            file: first.file,
            offset: FIRST_FRAME,
            zeroed_to: first.zeroed_to,
            next_lsn: Lsn(1),
            prev_crc: 0,
            next: None,
            full: false,
            older_bytes: 0,
        };
        Ok((
            writer,
            Recovery {
                log,
                last_lsn: Lsn::ZERO,
                replayed: 0,
                cut_bytes: 0,
            },
        ))
    }

    /// Zeroes what a torn frame left; returns where the zeros end.
    fn cut(file: &mut dyn DiskFile, tail: &Tail, path: &str) -> Result<u64> {
        if tail.torn_bytes > 0 {
            let mut from = tail.offset;
            segment::write_zeros(file, &mut from, tail.offset + tail.torn_bytes)
                .map_err(|e| Error::io("cut the torn tail of", path, e))?;
        }
        Ok(tail.file_len.max(tail.offset))
    }

    /// Removes segments shown behind the tail, with no frame in them: their place is taken again when it is needed.
    fn remove_unused(disk: &dyn Disk, tail: u64) -> Result<()> {
        for number in segment::list(disk)?
            .into_iter()
            .filter(|number| *number > tail)
        {
            let name = segment::name(number);
            disk.remove(&name)
                .map_err(|e| Error::io("remove", &disk.path_of(&name), e))?;
            whole_file::reach(disk, crash_points::RECOVERY_UNUSED_REMOVED)?;
        }
        disk.sync_dir()
            .map_err(|e| Error::io("sync", &disk.path_of(""), e))
    }

    /// The LSN the next record gets.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// The log's identity.
    #[must_use]
    pub const fn log(&self) -> LogId {
        self.log
    }

    /// Writes one frame. It is durable only after [`Writer::sync`]. Returns its last LSN.
    ///
    /// # Errors
    /// [`Error::Full`] if there is no room for it: nothing has changed, and it may be tried again.
    pub fn write(&mut self, frame: &mut FrameBuf) -> Result<Lsn> {
        if !self.make_room(frame)? {
            return Err(Error::Full {
                file: self.path.clone(),
            });
        }
        let place = Place {
            log: self.log,
            segment: self.segment,
            offset: self.offset,
        };
        let count = u64::from(frame.count());
        let (bytes, crc) = frame.finish(place, self.next_lsn, self.prev_crc);
        self.file
            .write_at(self.offset, bytes)
            .map_err(|e| Error::io("write", &self.path, e))?;
        if self.offset == FIRST_FRAME {
            whole_file::reach(self.disk.as_ref(), crash_points::SEGMENT_FIRST_FRAME)?;
        }
        self.offset += bytes.len() as u64;
        self.prev_crc = crc;
        self.next_lsn = self.next_lsn.plus(count);
        Ok(Lsn(self.next_lsn.0 - 1))
    }

    /// Makes everything written durable.
    pub fn sync(&mut self) -> Result<()> {
        self.file
            .sync()
            .map_err(|e| Error::io("sync", &self.path, e))
    }
}
