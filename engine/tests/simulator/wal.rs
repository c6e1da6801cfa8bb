//! The log as the simulator drives it: the real writer, with a frame's write and its sync as
//! separate steps, so that a crash can fall between any two of append, write and sync.

use persist::frame::FrameBuf;
use persist::group_commit::{Batch, Pending};
use persist::log::Writer;
use persist::{Error, Lsn, Result};

#[derive(Debug)]
pub struct Wal {
    writer: Writer,
    pending: Pending,
    /// A frame that waits for room on a full disk.
    stuck: Option<FrameBuf>,
    waiting: usize,
    in_flight: Option<(FrameBuf, Lsn)>,
    /// Every record that was ever appended and not lost in a crash, in order.
    pub appended: Vec<Vec<u8>>,
    /// The last LSN that survives a crash for certain.
    pub durable: Lsn,
    /// A write or sync failed: nothing is taken any more.
    pub failed: bool,
}

/// What writing came to.
#[derive(Debug)]
pub enum Written {
    Nothing,
    UpTo(Lsn),
    /// The disk is full; to be tried again.
    NoRoom,
}

impl Wal {
    /// The log as recovery found it, `appended` being what it holds.
    pub fn new(writer: Writer, appended: Vec<Vec<u8>>) -> Self {
        let durable = Lsn(appended.len() as u64);
        assert_eq!(writer.next_lsn(), durable.next());
        Self {
            writer,
            pending: Pending::default(),
            stuck: None,
            waiting: 0,
            in_flight: None,
            appended,
            durable,
            failed: false,
        }
    }

    /// Is everything appended also durable?
    pub const fn is_idle(&self) -> bool {
        self.waiting == 0 && self.in_flight.is_none()
    }

    /// The last LSN given out.
    pub const fn appended_lsn(&self) -> Lsn {
        Lsn(self.appended.len() as u64)
    }

    /// Writes the next frame, if the disk is free and one waits.
    pub fn write(&mut self) -> Result<Written> {
        if self.failed || self.in_flight.is_some() {
            return Ok(Written::Nothing);
        }
        let Some(mut frame) = self.stuck.take().or_else(|| self.pending.pop()) else {
            self.failed = true;
            self.writer.prepare()?;
            self.failed = false;
            return Ok(Written::Nothing);
        };
        self.failed = true;
        let has_room = self.writer.make_room(&frame)?;
        if !has_room {
            self.failed = false;
            self.stuck = Some(frame);
            return Ok(Written::NoRoom);
        }
        let last = self.writer.write(&mut frame)?;
        self.failed = false;
        self.waiting -= frame.count() as usize;
        self.in_flight = Some((frame, last));
        Ok(Written::UpTo(last))
    }

    /// Syncs the frame in flight. Returns its last LSN.
    pub fn sync(&mut self) -> Result<Option<Lsn>> {
        let Some((frame, last)) = self.in_flight.take().filter(|_| !self.failed) else {
            return Ok(None);
        };
        self.failed = true;
        self.writer.sync()?;
        self.failed = false;
        self.durable = last;
        self.pending.recycle(frame);
        Ok(Some(last))
    }

    pub fn append(&mut self, batch: &Batch) -> Result<Lsn> {
        if self.failed {
            return Err(Error::Poisoned("a write or sync failed".to_owned()));
        }
        let first = Lsn(self.appended.len() as u64 + 1);
        self.appended.extend(batch.records().map(<[u8]>::to_vec));
        self.pending.push(batch);
        self.waiting += batch.count() as usize;
        Ok(first)
    }
}
