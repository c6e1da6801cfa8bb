//! Frames of one segment, one after the other, read in large pieces. Recovery, followers and
//! inspection all read through this; what an end *means* is theirs to judge.

use crate::disk::{Disk, DiskFile};
use crate::frame::{self, ALIGN, HEADER_LEN, Header, NotAFrame, Place};
use crate::ids::LogId;
use crate::segment::{self, FIRST_FRAME};
use crate::{Error, Result};

/// A segment file and a place in it.
#[derive(Debug)]
pub(crate) struct Scan {
    file: Box<dyn DiskFile>,
    /// For messages.
    pub(crate) path: String,
    /// The segment's number.
    pub(crate) number: u64,
    /// The log it belongs to.
    pub(crate) log: LogId,
    /// Where the next frame is expected.
    pub(crate) offset: u64,
    /// Payload checksum of the frame before, 0 at the beginning.
    pub(crate) prev_crc: u32,
    /// Bytes of the file from `buffer_at` on.
    buffer: Vec<u8>,
    buffer_at: u64,
    /// Bytes asked for at once.
    piece: usize,
}

/// A whole frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) header: Header,
    pub(crate) payload: &'a [u8],
    /// Of the segment file.
    pub(crate) path: &'a str,
    /// Where it stands.
    pub(crate) offset: u64,
    /// Does it follow on the frame before it in its segment?
    pub(crate) in_sequence: bool,
}

impl Scan {
    /// Opens a segment, checks its header, and stands before its first frame. `piece` is how many
    /// bytes are read at once: a frame that is larger is read whole.
    pub(crate) fn open(disk: &dyn Disk, number: u64, piece: usize) -> Result<Self> {
        let name = segment::name(number);
        let path = disk.path_of(&name);
        let file = disk.open(&name).map_err(|e| Error::io("open", &path, e))?;
        let mut scan = Self {
            file,
            path,
            number,
            log: LogId::default(),
            offset: 0,
            prev_crc: 0,
            buffer: Vec::new(),
            buffer_at: 0,
            piece,
        };
        scan.ensure(FIRST_FRAME as usize)?;
        scan.log = segment::check_header(scan.unread(), number, &scan.path)?;
        scan.offset = FIRST_FRAME;
        Ok(scan)
    }

    /// The frame at this place. What does not look like one is read again before it is said: the
    /// writer may have put it there after it was read ahead.
    pub(crate) fn peek(&mut self) -> Result<std::result::Result<Frame<'_>, NotAFrame>> {
        self.ensure_frame()?;
        let mut checked = self.check();
        if checked.is_err() {
            self.forget();
            self.ensure_frame()?;
            checked = self.check();
        }
        Ok(checked.map(|header| self.frame(header)))
    }

    /// Goes behind the frame that [`Scan::peek`] has shown.
    pub(crate) fn step(&mut self, header: &Header) {
        self.offset += header.span();
        self.prev_crc = header.payload_crc;
    }

    /// Everything from here to the end of the file, as it is now.
    pub(crate) fn rest(&self) -> Result<Vec<u8>> {
        let len = self.file_len()?.saturating_sub(self.offset);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self
            .file
            .read_at(self.offset, &mut bytes)
            .map_err(|e| Error::io("read", &self.path, e))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Length of the file in bytes.
    pub(crate) fn file_len(&self) -> Result<u64> {
        self.file
            .len()
            .map_err(|e| Error::io("measure", &self.path, e))
    }

    /// Where a frame at `offset` of this segment stands.
    pub(crate) fn place(&self, offset: u64) -> Place {
        Place {
            log: self.log,
            segment: self.number,
            offset,
        }
    }

    /// Damage in this segment.
    pub(crate) fn damaged(&self, offset: u64, what: String) -> Error {
        Error::Damaged {
            file: self.path.clone(),
            offset,
            what,
        }
    }

    fn check(&self) -> std::result::Result<Header, NotAFrame> {
        frame::parse(self.unread(), self.place(self.offset)).map(|(header, _)| header)
    }

    /// The frame here, whose checked header this is.
    fn frame(&self, header: Header) -> Frame<'_> {
        let end = HEADER_LEN + header.payload_len as usize;
        Frame {
            header,
            payload: self.unread().get(HEADER_LEN..end).unwrap_or_default(),
            path: &self.path,
            offset: self.offset,
            in_sequence: header.prev_crc == self.prev_crc,
        }
    }

    /// Bytes in memory from this place on.
    fn unread(&self) -> &[u8] {
        let from = self.offset.saturating_sub(self.buffer_at);
        self.buffer.get(from as usize..).unwrap_or_default()
    }

    /// Reads until the whole frame here is in memory, if the file has so much.
    fn ensure_frame(&mut self) -> Result<()> {
        self.ensure(HEADER_LEN)?;
        let here = self.place(self.offset);
        if let Some(header) = frame::header(self.unread(), here) {
            self.ensure(HEADER_LEN + header.payload_len as usize)?;
        }
        Ok(())
    }

    /// Reads until `bytes` from here on are in memory, or the file ends.
    fn ensure(&mut self, bytes: usize) -> Result<()> {
        let have = self.unread().len();
        if have >= bytes {
            return Ok(());
        }
        let read_before = (self.offset - self.buffer_at) as usize;
        self.buffer.drain(..read_before.min(self.buffer.len()));
        self.buffer_at = self.offset;
        let want = bytes.max(self.piece);
        self.buffer.resize(want, 0);
        let into = self.buffer.get_mut(have..).unwrap_or_default();
        let read = self
            .file
            .read_at(self.offset + have as u64, into)
            .map_err(|e| Error::io("read", &self.path, e))?;
        self.buffer.truncate(have + read);
        // A frame of 16 MiB must not stay in memory for as long as somebody follows.
        self.buffer.shrink_to(want);
        Ok(())
    }

    fn forget(&mut self) {
        self.buffer.clear();
        self.buffer_at = self.offset;
    }
}

/// Looks for a whole frame behind the first byte of `rest`, which stands where `scan` does.
pub(crate) fn later_frame(scan: &Scan, rest: &[u8]) -> Option<u64> {
    let mut at = ALIGN;
    while let Some(bytes) = rest
        .get(at as usize..)
        .filter(|bytes| bytes.len() >= HEADER_LEN)
    {
        let offset = scan.offset + at;
        if bytes.starts_with(b"NRF1") && frame::parse(bytes, scan.place(offset)).is_ok() {
            return Some(offset);
        }
        at += ALIGN;
    }
    None
}

/// Bytes up to the last one that is not zero.
pub(crate) fn used(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last as u64 + 1)
}

/// In words.
pub(crate) fn describe(stop: NotAFrame) -> &'static str {
    match stop {
        NotAFrame::Blank => "there is nothing",
        NotAFrame::Header => "the frame's header is broken",
        NotAFrame::Payload => "the frame's payload is broken",
    }
}
