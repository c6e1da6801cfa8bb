//! Room for what comes: zeros behind the last frame, and the next segment under a temporary name.
//!
//! A full disk shows itself here, before a frame is touched, and making room may be tried again. A
//! zero-extension that stopped half way left zeros, or nothing, where nothing was before: both read
//! as blank. A half-made segment is thrown away with all that is in it. Neither ever held data.
//! Writing a frame, and syncing it, is tried once.

use super::Writer;
use crate::frame::{FrameBuf, HEADER_LEN};
use crate::room::Room;
use crate::segment::{self, FIRST_FRAME, PIECE, Prepared};
use crate::{Error, Result};

/// Zeros kept ahead of the last frame.
const AHEAD: u64 = 2 * PIECE;
/// Zeros in the next segment, written in idle time: with `AHEAD`, what can still be written when the
/// disk is full.
const NEXT: u64 = 8 * PIECE;

impl Writer {
    /// Sees to it that `frame` can be written without asking the disk for space: begins the next
    /// segment or writes more zeros. False if the disk is full: nothing has changed, and it may be
    /// tried again (the head of this file says why).
    pub fn make_room(&mut self, frame: &FrameBuf) -> Result<bool> {
        let span =
            ((HEADER_LEN + frame.payload_len()) as u64).next_multiple_of(crate::frame::ALIGN);
        let too_long = self.offset + span > self.options.segment_bytes;
        if too_long && self.offset > FIRST_FRAME && !self.roll()? {
            return Ok(false);
        }
        let end = self.offset + span;
        if end > self.zeroed_to {
            // The zeros ahead are used up: this frame pays for a piece more, if there is one.
            self.extend(end + PIECE.min(self.options.segment_bytes))?;
        }
        Ok(end <= self.zeroed_to)
    }

    /// Does one thing that makes room for what may come, if one is due: writes a piece of zeros
    /// behind the last frame, makes the next segment, writes a piece of zeros into that. Returns
    /// whether it did; [`Writer::room`] tells if it could not for want of space.
    pub fn prepare(&mut self) -> Result<bool> {
        let limit = self.options.segment_bytes;
        if self.zeroed_to - self.offset < AHEAD && self.zeroed_to + PIECE <= limit {
            return self.extend(self.zeroed_to + PIECE);
        }
        let Some(next) = &mut self.next else {
            if self.offset < limit / 2 {
                self.full = false;
                return Ok(false);
            }
            return self.make_next();
        };
        let wanted = (FIRST_FRAME + NEXT).min(limit);
        if next.zeroed_to >= wanted {
            self.full = false;
            return Ok(false);
        }
        let to = (next.zeroed_to + PIECE).min(wanted);
        let result = segment::write_zeros(next.file.as_mut(), &mut next.zeroed_to, to)
            .map_err(|e| Error::io("extend", &self.disk.path_of(&segment::name(next.number)), e));
        self.unless_full(result)
    }

    /// Is it time to prepare the next segment even though there is other work to do?
    #[must_use]
    pub fn must_prepare(&self) -> bool {
        self.next.is_none() && self.offset >= self.options.segment_bytes / 4 * 3
    }

    /// Is space short? Clears when [`Writer::prepare`] has found nothing more to do.
    #[must_use]
    pub fn room(&self) -> Room {
        let prepared = self.next.as_ref().map_or(0, |next| next.zeroed_to);
        let bytes = self.older_bytes + self.zeroed_to + prepared;
        if self.full {
            Room::DiskFull
        } else if self.options.quota_bytes.is_some_and(|quota| bytes >= quota) {
            Room::Quota
        } else {
            Room::Plenty
        }
    }

    /// Counts the bytes of all segments anew: older ones may have been trimmed.
    pub fn recount(&mut self) -> Result<()> {
        let prepared = self.next.as_ref().map_or(0, |next| next.zeroed_to);
        let all = segment::total_bytes(self.disk.as_ref())?;
        self.older_bytes = all.saturating_sub(self.zeroed_to + prepared);
        Ok(())
    }

    /// Closes this segment (it is durable: the frame in flight is synced before the next is
    /// written) and begins the next. False if there is no space for it.
    fn roll(&mut self) -> Result<bool> {
        if self.next.is_none() && !self.make_next()? {
            return Ok(false);
        }
        let Some(next) = &self.next else {
            return Ok(false);
        };
        if !next.show(self.disk.as_ref())? {
            self.full = true;
            return Ok(false);
        }
        let Some(next) = self.next.take() else {
            return Ok(false);
        };
        self.older_bytes += self.zeroed_to;
        self.file = next.file;
        self.path = self.disk.path_of(&segment::name(next.number));
        self.segment = next.number;
        self.offset = FIRST_FRAME;
        self.zeroed_to = next.zeroed_to;
        self.prev_crc = 0;
        Ok(true)
    }

    fn make_next(&mut self) -> Result<bool> {
        let zeros = PIECE.min(self.options.segment_bytes);
        let result = Prepared::make(self.disk.as_ref(), self.log, self.segment + 1, zeros)
            .map(|next| self.next = Some(next));
        self.unless_full(result)
    }

    /// Writes zeros up to `to`; on a full disk as far as they go.
    fn extend(&mut self, to: u64) -> Result<bool> {
        let result = segment::write_zeros(self.file.as_mut(), &mut self.zeroed_to, to)
            .map_err(|e| Error::io("extend", &self.path, e));
        self.unless_full(result)
    }

    /// Tells a full disk, which is remembered and tried again, from any other failure.
    fn unless_full(&mut self, result: Result<()>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => {
                self.full = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
