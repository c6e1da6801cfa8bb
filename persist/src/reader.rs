//! Reads the log in order and judges its end: for recovery, export and verification. Frames are
//! checked one by one; where they stop, the reader decides between the end, a torn tail and damage.
//! Whoever reads behind a running writer uses [`crate::follow`] instead.

use crate::disk::Disk;
use crate::frame;
use crate::ids::LogId;
use crate::scan::{Frame, Scan, describe, later_frame, used};
use crate::segment::{self, FIRST_FRAME};
use crate::units::Lsn;
use crate::{Error, Result};

/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Where the log ends, as far as it can be read.
#[derive(Debug, Clone, Copy)]
pub struct Tail {
    /// The log's identity.
    pub log: LogId,
    /// The last segment that holds a frame (or the first segment).
    pub segment: u64,
    /// Where the next frame goes in it.
    pub offset: u64,
    /// The LSN after the last record.
    pub next_lsn: Lsn,
    /// Payload checksum of the last frame of that segment, 0 if it has none.
    pub prev_crc: u32,
    /// Length of the segment's file.
    pub file_len: u64,
    /// Bytes of a torn frame behind `offset`; 0 when the log ends clean.
    pub torn_bytes: u64,
}

/// Visits every record with `from < lsn ≤ until` and returns the tail; `None` if there is no log.
///
/// With `until` short of the end, reading stops there and the tail is not judged.
///
/// # Errors
/// [`Error::Gone`] if the log begins behind `from`, [`Error::Damaged`] if something that was durable
/// cannot be read back.
pub fn read(
    disk: &dyn Disk,
    from: Lsn,
    until: Lsn,
    visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<Option<Tail>> {
    let numbers = segment::list(disk)?;
    let Some(&first_number) = numbers.first() else {
        return Ok(None);
    };
    for (index, number) in numbers.iter().enumerate() {
        if *number != first_number + index as u64 {
            return Err(Error::Damaged {
                file: disk.path_of(&segment::name(first_number + index as u64)),
                offset: 0,
                what: "this segment is missing".to_owned(),
            });
        }
    }
    let (start, next_lsn) = first_needed(disk, &numbers, from)?;
    let mut reading = Reading {
        from,
        until,
        next_lsn,
        tail: None,
        log: None,
    };
    for (index, number) in numbers.iter().enumerate().skip(start) {
        let mut scan = Scan::open(disk, *number, PIECE)?;
        if *reading.log.get_or_insert(scan.log) != scan.log {
            return Err(scan.damaged(16, "it belongs to another log".to_owned()));
        }
        let last = index + 1 == numbers.len();
        if reading.segment(&mut scan, last, visit)? {
            break;
        }
    }
    Ok(reading.tail)
}

/// Index of the first segment that holds a record after `from`, and the LSN it begins with, where
/// that is known for certain.
pub(crate) fn first_needed(
    disk: &dyn Disk,
    numbers: &[u64],
    from: Lsn,
) -> Result<(usize, Option<Lsn>)> {
    // A segment can be skipped when the one behind it begins at or before `from + 1`.
    for (index, number) in numbers.iter().enumerate().rev() {
        let first = segment::first_lsn(disk, *number)?;
        if first.is_some_and(|lsn| lsn <= from.next()) {
            return Ok((index, first));
        }
    }
    Ok((0, (numbers.first() == Some(&1)).then_some(Lsn(1))))
}

struct Reading {
    from: Lsn,
    until: Lsn,
    next_lsn: Option<Lsn>,
    tail: Option<Tail>,
    log: Option<LogId>,
}

impl Reading {
    /// Reads one segment; true when nothing behind it matters.
    fn segment(
        &mut self,
        scan: &mut Scan,
        last: bool,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let mut looked_again = None;
        let rest = loop {
            if self.frames(scan, visit)? {
                return Ok(true);
            }
            // Anything valid behind the stop was written after what is missing here was durable.
            let rest = scan.rest()?;
            let Some(later) = later_frame(scan, &rest) else {
                break rest;
            };
            // Beside a running writer, both may have been written since: look once more.
            if looked_again == Some(scan.offset) {
                let stop = scan.peek()?.err();
                let what = stop.map_or("the frame is broken", describe);
                let what = format!("{what}, but a whole frame follows at byte {later}");
                return Err(scan.damaged(scan.offset, what));
            }
            looked_again = Some(scan.offset);
        };
        let torn_bytes = used(&rest);
        // A segment is shown only when all before it is durable: a broken end there is not a crash's.
        if let Some(before) = self.tail.filter(|before| before.torn_bytes > 0) {
            let what = format!(
                "segment {} before it ends in a broken frame at byte {}",
                before.segment, before.offset
            );
            return Err(scan.damaged(FIRST_FRAME, what));
        }
        if scan.offset == FIRST_FRAME && self.tail.is_some() && torn_bytes == 0 {
            // A segment that was shown and not used: the tail stays where it is.
            return Ok(last);
        }
        self.tail = Some(Tail {
            log: scan.log,
            segment: scan.number,
            offset: scan.offset,
            next_lsn: self.next_lsn.unwrap_or(self.from.next()),
            prev_crc: scan.prev_crc,
            file_len: scan.file_len()?,
            torn_bytes,
        });
        Ok(last)
    }

    /// Reads whole frames from where `scan` stands; true when `until` is reached.
    fn frames(
        &mut self,
        scan: &mut Scan,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        while let Ok(frame) = scan.peek()? {
            let header = frame.header;
            let expected = *self.next_lsn.get_or_insert(header.first_lsn);
            if header.first_lsn != expected || !frame.in_sequence {
                return Err(out_of_sequence(&frame, expected));
            }
            if frame.offset == FIRST_FRAME && self.tail.is_none() && expected > self.from.next() {
                return Err(Error::Gone {
                    file: frame.path.to_owned(),
                    begins: expected,
                    needed: self.from.next(),
                });
            }
            for_each_record(&frame, &mut |lsn, record| {
                if lsn > self.from && lsn <= self.until {
                    visit(lsn, record)?;
                }
                Ok(())
            })?;
            self.next_lsn = Some(header.next_lsn());
            scan.step(&header);
            if header.next_lsn() > self.until {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A frame that is whole, in a place where another is due.
pub(crate) fn out_of_sequence(frame: &Frame<'_>, expected: Lsn) -> Error {
    Error::Damaged {
        file: frame.path.to_owned(),
        offset: frame.offset,
        what: format!(
            "LSN {expected} is expected, {} is there",
            frame.header.first_lsn
        ),
    }
}

/// Visits every record of a frame.
pub(crate) fn for_each_record(
    frame: &Frame<'_>,
    visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut payload = frame.payload;
    for n in 0..frame.header.count {
        let record = frame::next_record(&mut payload).ok_or_else(|| Error::Damaged {
            file: frame.path.to_owned(),
            offset: frame.offset,
            what: "a record is longer than its frame".to_owned(),
        })?;
        visit(frame.header.first_lsn.plus(u64::from(n)), record)?;
    }
    Ok(())
}
