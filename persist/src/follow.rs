//! Reading the log behind its writer: history, audit, push messages and snapshots all do it through
//! this. A [`Reader`] keeps its place and reads only what is new; a [`Follower`] keeps it across
//! restarts.

mod cursor;

pub use cursor::{Follower, Followers, Saved, saved};

use crate::disk::Disk;
use crate::frame::NotAFrame;
use crate::reader::{first_needed, for_each_record, out_of_sequence};
use crate::scan::{Frame, Scan, describe};
use crate::units::Lsn;
use crate::{Error, Result, segment};
use std::io;
use std::sync::Arc;

/// Bytes read at once. A follower that keeps up reads a few kilobytes at a time.
const PIECE: usize = 256 << 10;

/// A place in the log. It never judges the tail: what is asked for must be durable.
#[derive(Debug)]
pub struct Reader {
    disk: Arc<dyn Disk>,
    /// The LSN it gives next.
    next: Lsn,
    at: Option<Place>,
}

/// A frame in a segment.
#[derive(Debug)]
struct Place {
    scan: Scan,
    /// The LSN that the frame there begins with.
    begins: Lsn,
}

/// What became of one frame.
enum Seen {
    /// All of it was given; the next begins with this LSN.
    Whole(Lsn),
    /// The rest of it lies behind `until`.
    Enough,
    /// There is none in this segment.
    End(NotAFrame),
}

impl Reader {
    /// Stands behind `after`: `Lsn::ZERO` is the beginning. Nothing is opened yet.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, after: Lsn) -> Self {
        Self {
            disk,
            next: after.next(),
            at: None,
        }
    }

    /// The LSN of the record it gives next.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Visits every record up to `until` that was not visited yet, in order; returns how many. Stops
    /// exactly there, in the middle of a frame if need be, and goes on there the next time. A record
    /// whose visit fails is visited again.
    ///
    /// `until` must be durable: at most [`crate::Log::durable_lsn`].
    ///
    /// # Errors
    /// [`Error::FellBehind`] if the log begins behind its place; [`Error::Damaged`] if a record up to
    /// `until` cannot be read.
    pub fn read(
        &mut self,
        until: Lsn,
        visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let before = self.next;
        while self.next <= until {
            let mut place = match self.at.take() {
                Some(place) => place,
                None => self.find()?,
            };
            match frame(&mut place, &mut self.next, until, visit) {
                Ok(Seen::End(stop)) => self.at = Some(self.behind(&place, stop)?),
                Ok(Seen::Whole(begins)) => {
                    place.begins = begins;
                    self.at = Some(place);
                }
                Ok(Seen::Enough) => {
                    self.at = Some(place);
                    break;
                }
                Err(error) => {
                    self.at = Some(place);
                    return Err(error);
                }
            }
        }
        Ok(self.next.0 - before.0)
    }

    /// The segment that holds the next record.
    fn find(&self) -> Result<Place> {
        loop {
            let disk = self.disk.as_ref();
            let numbers = segment::list(disk)?;
            let after = Lsn(self.next.0 - 1);
            let (index, begins) = first_needed(disk, &numbers, after)?;
            let Some(number) = numbers.get(index).copied() else {
                return Err(self.not_there(disk.path_of(""), 0, "there is no segment"));
            };
            match begins {
                Some(begins) if begins <= self.next => {
                    if let Some(scan) = self.open(number)? {
                        return Ok(Place { scan, begins });
                    }
                }
                _ => match segment::first_lsn(disk, number)? {
                    Some(begins) => {
                        return Err(Error::FellBehind {
                            needed: self.next,
                            begins,
                        });
                    }
                    None if segment::list(disk)?.first() == Some(&number) => {
                        let path = disk.path_of(&segment::name(number));
                        return Err(self.not_there(
                            path,
                            segment::FIRST_FRAME,
                            "there is no frame",
                        ));
                    }
                    None => {}
                },
            }
            // The segment was trimmed between the looks: look again.
        }
    }

    /// The segment behind `place`, in which there is no frame any more.
    fn behind(&self, place: &Place, stop: NotAFrame) -> Result<Place> {
        let number = place.scan.number + 1;
        if let Some(mut scan) = self.open(number)? {
            if scan.log != place.scan.log {
                return Err(scan.damaged(16, "it belongs to another log".to_owned()));
            }
            let begins = place.begins;
            match scan.peek()? {
                Ok(first) if first.header.first_lsn == begins => {
                    return Ok(Place { scan, begins });
                }
                // It holds something later, or nothing: what is missing stood here.
                Ok(_) | Err(NotAFrame::Blank) => {}
                Err(stop) => {
                    return Err(self.not_there(scan.path, scan.offset, describe(stop)));
                }
            }
        } else if segment::list(self.disk.as_ref())?.first() > Some(&number) {
            return self.find();
        }
        let path = place.scan.path.clone();
        Err(self.not_there(path, place.scan.offset, describe(stop)))
    }

    fn open(&self, number: u64) -> Result<Option<Scan>> {
        match Scan::open(self.disk.as_ref(), number, PIECE) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn not_there(&self, file: String, offset: u64, what: &str) -> Error {
        let what = format!("LSN {} should be there, but {what}", self.next);
        Error::Damaged { file, offset, what }
    }
}

/// Gives the records of the frame at `place` from `next` to `until`.
fn frame(
    place: &mut Place,
    next: &mut Lsn,
    until: Lsn,
    visit: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<Seen> {
    let found: Frame<'_> = match place.scan.peek()? {
        Ok(found) => found,
        Err(stop) => return Ok(Seen::End(stop)),
    };
    let header = found.header;
    if header.first_lsn != place.begins || !found.in_sequence {
        return Err(out_of_sequence(&found, place.begins));
    }
    // A frame before the first that is wanted: its records are not looked at.
    if header.next_lsn() > *next {
        for_each_record(&found, &mut |lsn, record| {
            if lsn == *next && lsn <= until {
                visit(lsn, record)?;
                *next = lsn.next();
            }
            Ok(())
        })?;
        if header.next_lsn() > *next {
            return Ok(Seen::Enough);
        }
    }
    place.scan.step(&header);
    Ok(Seen::Whole(header.next_lsn()))
}
