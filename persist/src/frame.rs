//! A frame is the unit of group commit: the records of one batch behind one header. It is there
//! whole or it never happened.
//!
//! ```text
//!  0  magic        u32   "NRF1"
//!  4  payload_len  u32   bytes after the header, without padding
//!  8  first_lsn    u64   of the first record
//! 16  count        u32   records
//! 20  prev_crc     u32   payload_crc of the frame before, 0 for the first of a segment
//! 24  header_crc   u32   over bytes 0..24, seeded
//! 28  payload_crc  u32   over the payload, seeded with header_crc
//! 32  payload            count × { len u32, record }
//!     zero bytes to the next multiple of 8
//! ```
//! All integers are little-endian. The seed of `header_crc` is the CRC of (log id, segment number,
//! offset in the file): a frame copied, replayed or left over from elsewhere is never valid.

use crate::ids::LogId;
use crate::units::Lsn;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 32;
/// Frames start at multiples of this.
pub const ALIGN: u64 = 8;
/// The largest payload. Lengths beyond it are never allocated for.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// The largest record.
pub const MAX_RECORD: usize = 1 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"NRF1");

const _: () = assert!((HEADER_LEN as u64).is_multiple_of(ALIGN));
const _: () = assert!(MAX_RECORD + 4 <= MAX_PAYLOAD);

/// Where a frame stands: part of its checksum.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The log.
    pub log: LogId,
    /// The segment's number.
    pub segment: u64,
    /// The frame's offset in the segment file.
    pub offset: u64,
}

impl Place {
    fn seed(self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.log.0.to_le_bytes());
        hasher.update(&self.segment.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher.finalize()
    }
}

/// A frame's header, already checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub payload_len: u32,
    /// LSN of the first record.
    pub first_lsn: Lsn,
    /// Records in the frame.
    pub count: u32,
    /// Checksum of the frame before.
    pub prev_crc: u32,
    /// Checksum of this header.
    pub header_crc: u32,
    /// Checksum of the payload.
    pub payload_crc: u32,
}

impl Header {
    /// Bytes from this frame's start to the next one's.
    #[must_use]
    pub fn span(&self) -> u64 {
        (HEADER_LEN as u64 + u64::from(self.payload_len)).next_multiple_of(ALIGN)
    }

    /// The LSN after this frame's last record.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.first_lsn.plus(u64::from(self.count))
    }
}

/// A frame being filled: records are appended behind room for the header.
#[derive(Debug)]
pub struct FrameBuf {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for FrameBuf {
    fn default() -> Self {
        Self {
            bytes: vec![0; HEADER_LEN],
            count: 0,
        }
    }
}

impl FrameBuf {
    /// Records so far.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of payload so far.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - HEADER_LEN
    }

    /// Appends length-prefixed records.
    pub fn push(&mut self, encoded: &[u8], count: u32) {
        self.bytes.extend_from_slice(encoded);
        self.count += count;
    }

    /// Empties it for reuse, keeping its memory up to a bound.
    pub fn clear(&mut self) {
        const KEEP: usize = 1 << 20;
        self.bytes.truncate(HEADER_LEN);
        self.bytes.shrink_to(KEEP);
        self.count = 0;
    }

    /// Writes the header and the padding; returns the frame's bytes and its payload checksum.
    pub fn finish(&mut self, place: Place, first_lsn: Lsn, prev_crc: u32) -> (&[u8], u32) {
        let payload_len = self.payload_len();
        let mut header = [0; HEADER_LEN];
        put(&mut header, 0, &MAGIC.to_le_bytes());
        put(
            &mut header,
            4,
            &u32::try_from(payload_len).unwrap_or(u32::MAX).to_le_bytes(),
        );
        put(&mut header, 8, &first_lsn.0.to_le_bytes());
        put(&mut header, 16, &self.count.to_le_bytes());
        put(&mut header, 20, &prev_crc.to_le_bytes());
        let header_crc = crc(place.seed(), header.get(..24).unwrap_or_default());
        let payload_crc = crc(header_crc, self.bytes.get(HEADER_LEN..).unwrap_or_default());
        put(&mut header, 24, &header_crc.to_le_bytes());
        put(&mut header, 28, &payload_crc.to_le_bytes());
        put(&mut self.bytes, 0, &header);
        let padded = self.bytes.len().next_multiple_of(ALIGN as usize);
        self.bytes.resize(padded, 0);
        (&self.bytes, payload_crc)
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAFrame {
    /// All zero: nothing was written here.
    Blank,
    /// The magic number or the header's checksum is wrong.
    Header,
    /// The header is right, the payload is not (torn or changed).
    Payload,
}

/// Checks the frame at the start of `bytes`, which stand at `place`; returns its header and
/// payload.
pub fn parse(bytes: &[u8], place: Place) -> Result<(Header, &[u8]), NotAFrame> {
    let Some(header) = header(bytes, place) else {
        let start = bytes.get(..HEADER_LEN).unwrap_or(bytes);
        let blank = start.iter().all(|b| *b == 0);
        return Err(if blank {
            NotAFrame::Blank
        } else {
            NotAFrame::Header
        });
    };
    let payload = bytes
        .get(HEADER_LEN..HEADER_LEN + header.payload_len as usize)
        .ok_or(NotAFrame::Payload)?;
    if crc(header.header_crc, payload) != header.payload_crc {
        return Err(NotAFrame::Payload);
    }
    Ok((header, payload))
}

/// The header at the start of `bytes`, if it is whole. Whether its payload is, is not looked at.
#[must_use]
pub fn header(bytes: &[u8], place: Place) -> Option<Header> {
    let bytes = bytes.get(..HEADER_LEN)?;
    if u32_at(bytes, 0) != MAGIC {
        return None;
    }
    let header_crc = crc(place.seed(), bytes.get(..24).unwrap_or_default());
    let payload_len = u32_at(bytes, 4);
    if header_crc != u32_at(bytes, 24) || payload_len as usize > MAX_PAYLOAD {
        return None;
    }
    Some(Header {
        payload_len,
        first_lsn: Lsn(u64_at(bytes, 8)),
        count: u32_at(bytes, 16),
        prev_crc: u32_at(bytes, 20),
        header_crc,
        payload_crc: u32_at(bytes, 28),
    })
}

/// Takes the next record off a payload.
pub fn next_record<'a>(payload: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = payload.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_RECORD {
        return None;
    }
    let (record, rest) = rest.split_at_checked(len)?;
    *payload = rest;
    Some(record)
}

fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u32::from_le_bytes(*b))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u64::from_le_bytes(*b))
}

pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |b| u128::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        log: LogId(7),
        segment: 3,
        offset: 4096,
    };

    fn frame() -> Vec<u8> {
        let mut buf = FrameBuf::default();
        buf.push(&[3, 0, 0, 0, b'a', b'b', b'c'], 1);
        buf.push(&[1, 0, 0, 0, b'z'], 1);
        buf.finish(PLACE, Lsn(41), 9).0.to_vec()
    }

    #[test]
    fn a_frame_gives_back_its_records_in_order() {
        let bytes = frame();
        assert_eq!(bytes.len() as u64 % ALIGN, 0);
        let (header, mut payload) = parse(&bytes, PLACE).unwrap();
        assert_eq!(
            (header.first_lsn, header.count, header.prev_crc),
            (Lsn(41), 2, 9)
        );
        assert_eq!(header.next_lsn(), Lsn(43));
        assert_eq!(header.span(), bytes.len() as u64);
        assert_eq!(next_record(&mut payload), Some(&b"abc"[..]));
        assert_eq!(next_record(&mut payload), Some(&b"z"[..]));
        assert_eq!(next_record(&mut payload), None);
    }

    #[test]
    fn a_frame_is_valid_only_in_its_own_place() {
        let bytes = frame();
        for place in [
            Place {
                log: LogId(8),
                ..PLACE
            },
            Place {
                segment: 4,
                ..PLACE
            },
            Place {
                offset: 4104,
                ..PLACE
            },
        ] {
            assert_eq!(parse(&bytes, place), Err(NotAFrame::Header));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = frame();
        let payload_end = HEADER_LEN + 12;
        for at in 0..payload_end {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(parse(&bad, PLACE).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..payload_end {
            assert!(parse(&bytes[..len], PLACE).is_err(), "cut to {len}");
        }
        assert_eq!(parse(&[0; 64], PLACE), Err(NotAFrame::Blank));
    }
}
