//! Reads the log in order: for recovery, snapshots, verification. Frames are checked one by one;
//! where they stop, the reader decides between the end, a torn tail and damage.

use crate::disk::{Disk, read_all};
use crate::frame::{self, ALIGN, Header, NotAFrame, Place};
use crate::ids::LogId;
use crate::segment::{self, FIRST_FRAME};
use crate::units::Lsn;
use crate::{Error, Result};

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
    let mut scan = Scan {
        from,
        until,
        next_lsn,
        tail: None,
        log: None,
    };
    for (index, number) in numbers.iter().enumerate().skip(start) {
        let name = segment::name(*number);
        let path = disk.path_of(&name);
        let file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let bytes = read_all(file.as_ref()).map_err(|e| Error::io("read", &path, e))?;
        let log = segment::check_header(&bytes, *number, &path)?;
        if *scan.log.get_or_insert(log) != log {
            return Err(Error::Damaged {
                file: path,
                offset: 16,
                what: "it belongs to another log".to_owned(),
            });
        }
        let last = index + 1 == numbers.len();
        if scan.segment(&bytes, *number, log, &path, last, visit)? {
            break;
        }
    }
    Ok(scan.tail)
}

/// Index of the first segment that holds a record after `from`, and the LSN it begins with, where
/// that is known for certain.
fn first_needed(disk: &dyn Disk, numbers: &[u64], from: Lsn) -> Result<(usize, Option<Lsn>)> {
    // A segment can be skipped when the one behind it begins at or before `from + 1`.
    for (index, number) in numbers.iter().enumerate().rev() {
        let name = segment::name(*number);
        let path = disk.path_of(&name);
        let file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let mut head = vec![0; FIRST_FRAME as usize + frame::HEADER_LEN];
        let read = file
            .read_at(0, &mut head)
            .map_err(|e| Error::io("read", &path, e))?;
        head.truncate(read);
        // A broken header says nothing: were it believed, a torn frame at the beginning of the last
        // segment could hide every segment before it.
        let place = Place {
            log: LogId(frame::u128_at(&head, 16)),
            segment: *number,
            offset: FIRST_FRAME,
        };
        let header = head.get(FIRST_FRAME as usize..).unwrap_or_default();
        if let Some(first) = frame::header_lsn(header, place).filter(|lsn| *lsn <= from.next()) {
            return Ok((index, Some(first)));
        }
    }
    Ok((0, (numbers.first() == Some(&1)).then_some(Lsn(1))))
}

struct Scan {
    from: Lsn,
    until: Lsn,
    next_lsn: Option<Lsn>,
    tail: Option<Tail>,
    log: Option<LogId>,
}

impl Scan {
    /// Reads one segment; true when nothing behind it matters.
    fn segment(
        &mut self,
        bytes: &[u8],
        number: u64,
        log: LogId,
        path: &str,
        last: bool,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let damaged = |offset, what: String| Error::Damaged {
            file: path.to_owned(),
            offset,
            what,
        };
        let place = |offset| Place {
            log,
            segment: number,
            offset,
        };
        let mut offset = FIRST_FRAME;
        let mut prev_crc = 0;
        let mut frames = 0_u64;
        let stop = loop {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|at| bytes.get(at..))
                .unwrap_or_default();
            let (header, payload) = match frame::parse(rest, place(offset)) {
                Ok(found) => found,
                Err(stop) => break stop,
            };
            let expected = *self.next_lsn.get_or_insert(header.first_lsn);
            if header.first_lsn != expected || header.prev_crc != prev_crc {
                return Err(damaged(
                    offset,
                    format!("LSN {expected} is expected, {} is there", header.first_lsn),
                ));
            }
            if frames == 0 && self.tail.is_none() && expected > self.from.next() {
                return Err(damaged(
                    offset,
                    format!(
                        "the log begins at LSN {expected}, {} is needed",
                        self.from.next()
                    ),
                ));
            }
            self.records(&header, payload, path, offset, visit)?;
            prev_crc = header.payload_crc;
            offset += header.span();
            frames += 1;
            self.next_lsn = Some(header.next_lsn());
            if header.next_lsn() > self.until {
                return Ok(true);
            }
        };
        // Anything valid behind the stop was written after what is missing here was durable.
        if let Some(later) = later_frame(bytes, offset, place) {
            return Err(damaged(
                offset,
                format!(
                    "{}, but a whole frame follows at byte {later}",
                    describe(stop)
                ),
            ));
        }
        let torn = bytes.get(offset as usize..).unwrap_or_default();
        let torn_bytes = torn
            .iter()
            .rposition(|b| *b != 0)
            .map_or(0, |last| last as u64 + 1);
        // A segment is begun only when all before it is durable: a broken end there is not a crash's.
        if let Some(before) = self.tail.filter(|before| before.torn_bytes > 0) {
            return Err(Error::Damaged {
                file: path.to_owned(),
                offset: FIRST_FRAME,
                what: format!(
                    "segment {} before it ends in a broken frame at byte {}",
                    before.segment, before.offset
                ),
            });
        }
        if frames == 0 && self.tail.is_some() && torn_bytes == 0 {
            // A segment that was prepared and not used: the tail stays where it is.
            return Ok(last);
        }
        self.tail = Some(Tail {
            log,
            segment: number,
            offset,
            next_lsn: self.next_lsn.unwrap_or(self.from.next()),
            prev_crc,
            file_len: bytes.len() as u64,
            torn_bytes,
        });
        Ok(last)
    }

    fn records(
        &self,
        header: &Header,
        mut payload: &[u8],
        path: &str,
        offset: u64,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut lsn = header.first_lsn;
        for _ in 0..header.count {
            let record = frame::next_record(&mut payload).ok_or_else(|| Error::Damaged {
                file: path.to_owned(),
                offset,
                what: "a record is longer than its frame".to_owned(),
            })?;
            if lsn > self.from && lsn <= self.until {
                visit(lsn, record)?;
            }
            lsn = lsn.next();
        }
        Ok(())
    }
}

fn describe(stop: NotAFrame) -> &'static str {
    match stop {
        NotAFrame::Blank => "there is nothing",
        NotAFrame::Header => "the frame's header is broken",
        NotAFrame::Payload => "the frame's payload is broken",
    }
}

/// Looks for a whole frame behind `offset`.
fn later_frame(bytes: &[u8], offset: u64, place: impl Fn(u64) -> Place) -> Option<u64> {
    let mut at = offset + ALIGN;
    while let Some(rest) = bytes
        .get(at as usize..)
        .filter(|rest| rest.len() >= frame::HEADER_LEN)
    {
        if rest.starts_with(b"NRF1") && frame::parse(rest, place(at)).is_ok() {
            return Some(at);
        }
        at += ALIGN;
    }
    None
}
