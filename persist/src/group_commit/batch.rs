//! What waits for the disk: records of a turn, encoded, and the frames they are put into.

use crate::frame::{FrameBuf, MAX_PAYLOAD, MAX_RECORD};
use crate::record::Record;
use crate::units::Lsn;
use crate::{Error, Result};
use std::collections::VecDeque;

/// Records of one pump turn, encoded and in order. Reused from turn to turn.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// Encodes a record behind the others.
    ///
    /// # Errors
    /// If it is larger than [`MAX_RECORD`], which means that a bound on some input is missing.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let undecodable = |what: String| Error::Undecodable {
            lsn: Lsn::ZERO,
            what,
        };
        let bytes = postcard::to_extend(record, std::mem::take(&mut self.bytes));
        self.bytes = bytes.map_err(|e| undecodable(e.to_string()))?;
        let len = self.bytes.len() - start - 4;
        if len > MAX_RECORD {
            self.bytes.truncate(start);
            return Err(undecodable(format!("{len} bytes")));
        }
        crate::frame::put(&mut self.bytes, start, &(len as u32).to_le_bytes());
        self.count += 1;
        Ok(())
    }

    /// Records in it.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Nothing in it?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Every encoded record, in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || crate::frame::next_record(&mut rest))
    }
}

/// Frames that wait for the disk, in order.
#[derive(Debug, Default)]
pub struct Pending {
    frames: VecDeque<FrameBuf>,
    spare: Vec<FrameBuf>,
}

impl Pending {
    /// Puts a batch behind what waits, in as few frames as their bound allows.
    pub fn push(&mut self, batch: &Batch) {
        if batch.bytes.len() <= MAX_PAYLOAD {
            self.frame_with_room(batch.bytes.len())
                .push(&batch.bytes, batch.count);
            return;
        }
        for record in batch.records() {
            let frame = self.frame_with_room(record.len() + 4);
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            frame.push(&len.to_le_bytes(), 0);
            frame.push(record, 1);
        }
    }

    fn frame_with_room(&mut self, bytes: usize) -> &mut FrameBuf {
        let fits = self
            .frames
            .back()
            .is_some_and(|last| last.payload_len() + bytes <= MAX_PAYLOAD);
        if !fits {
            let frame = self.spare.pop().unwrap_or_default();
            self.frames.push_back(frame);
        }
        // The branch above has just made sure that there is one.
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// Does nothing wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes the oldest frame.
    pub fn pop(&mut self) -> Option<FrameBuf> {
        self.frames.pop_front()
    }

    /// Gives a frame's memory back.
    pub fn recycle(&mut self, mut frame: FrameBuf) {
        frame.clear();
        if self.spare.len() < 2 {
            self.spare.push(frame);
        }
    }
}
