//! Whole blocks around a write: which they are, what their edges keep, and what of the disk is
//! known without reading it. No I/O here.

use std::ops::Range;

/// Bytes of a block. Direct writes begin and end at a multiple of it: the page size, and at least
/// the logical block of any disk the probe lets through.
pub(super) const BLOCK: u64 = 4096;

/// The bytes of one block.
pub(super) type Block = [u8; BLOCK as usize];

/// A block of zeros.
pub(super) fn zeros() -> Box<Block> {
    Box::new([0; BLOCK as usize])
}

const fn down(offset: u64) -> u64 {
    offset - offset % BLOCK
}

/// Copies the part of `from` (which stands at `from_at`) that lies inside `into` (at `into_at`).
fn overlay(into: &mut [u8], into_at: u64, from: &[u8], from_at: u64) {
    let begin = into_at.max(from_at);
    let end = (into_at + into.len() as u64).min(from_at + from.len() as u64);
    if begin >= end {
        return;
    }
    // Both differences are smaller than a length in memory.
    let part = |start: u64| (begin - start) as usize..(end - start) as usize;
    if let (Some(into), Some(from)) = (into.get_mut(part(into_at)), from.get(part(from_at))) {
        into.copy_from_slice(from);
    }
}

/// Bytes to write, and the blocks around them.
#[derive(Debug)]
pub(super) struct Patch<'a> {
    offset: u64,
    bytes: &'a [u8],
    kept: Vec<(u64, Box<Block>)>,
}

impl<'a> Patch<'a> {
    /// `bytes`, not empty, at `offset`.
    pub(super) const fn new(offset: u64, bytes: &'a [u8]) -> Self {
        Self {
            offset,
            bytes,
            kept: Vec::new(),
        }
    }

    /// Where the bytes end.
    pub(super) const fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// From the first to the last block.
    pub(super) const fn span(&self) -> Range<u64> {
        down(self.offset)..self.end().next_multiple_of(BLOCK)
    }

    /// The blocks of which only a part is written.
    pub(super) fn edges(&self) -> impl Iterator<Item = u64> + use<> {
        let (first, last) = (down(self.offset), down(self.end()));
        let head = (first != self.offset).then_some(first);
        let tail = (last != self.end()).then_some(last);
        head.into_iter()
            .chain(tail.filter(|tail| head != Some(*tail)))
    }

    /// Says what stands in an edge block now.
    pub(super) fn keep(&mut self, at: u64, block: Box<Block>) {
        self.kept.push((at, block));
    }

    /// What is to stand on disk at `at`, which is inside the span.
    pub(super) fn fill(&self, at: u64, into: &mut [u8]) {
        for (kept_at, block) in &self.kept {
            overlay(into, at, block.as_slice(), *kept_at);
        }
        overlay(into, at, self.bytes, self.offset);
    }
}

/// What stands on disk, as far as the last writes tell.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The block the last write ended in: the next append begins there.
    tail: Option<(u64, Box<Block>)>,
    /// Zeros written ahead, over which appends go.
    zeros: Range<u64>,
}

impl Known {
    /// The block at `at`, if it is known.
    pub(super) fn block(&self, at: u64) -> Option<Box<Block>> {
        match &self.tail {
            Some((tail, block)) if *tail == at => Some(block.clone()),
            _ if self.zeros.start <= at && at + BLOCK <= self.zeros.end => Some(zeros()),
            _ => None,
        }
    }

    /// What is known after `patch` was written.
    pub(super) fn after(mut self, patch: &Patch<'_>) -> Self {
        let last = down(patch.end());
        self.tail = (last != patch.end()).then(|| {
            let mut block = zeros();
            patch.fill(last, block.as_mut_slice());
            (last, block)
        });
        let written = patch.offset..patch.end();
        if patch.bytes.iter().all(|byte| *byte == 0) {
            let continues = self.zeros.contains(&written.start) || self.zeros.end == written.start;
            self.zeros = if continues {
                self.zeros.start..self.zeros.end.max(written.end)
            } else {
                written
            };
        } else if written.start < self.zeros.end {
            self.zeros.start = self.zeros.start.max(written.end);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_the_blocks_of_which_only_a_part_is_written() {
        let bytes = [1; 8192];
        let edges = |offset, len: usize| {
            Patch::new(offset, bytes.get(..len).unwrap_or_default())
                .edges()
                .collect::<Vec<_>>()
        };
        assert!(edges(0, 4096).is_empty());
        assert!(edges(4096, 8192).is_empty());
        assert_eq!(edges(4100, 10), [4096]);
        assert_eq!(edges(4096, 10), [4096]);
        assert_eq!(edges(8100, 92), [4096]);
        assert_eq!(edges(100, 8192), [0, 8192]);
    }

    #[test]
    fn a_patch_keeps_what_stands_around_it() {
        let mut patch = Patch::new(4090, &[7; 10]);
        assert_eq!(patch.span(), 0..8192);
        patch.keep(0, Box::new([1; 4096]));
        patch.keep(4096, Box::new([2; 4096]));
        let mut written = [0; 8192];
        patch.fill(0, &mut written);
        let mut expected = [1; 8192];
        expected[4096..].fill(2);
        expected[4090..4100].fill(7);
        assert_eq!(written, expected);
        // The same in pieces.
        let mut piece = [0; 4096];
        patch.fill(4096, &mut piece);
        assert_eq!(piece, expected[4096..]);
    }

    #[test]
    fn appends_over_zeros_written_ahead_need_no_reading() {
        let mut known = Known::default();
        assert!(known.block(0).is_none());
        for piece in 0..4 {
            known = known.after(&Patch::new(8192 * piece, &[0; 8192]));
        }
        let mut patch = Patch::new(0, &[9; 100]);
        for at in patch.edges() {
            patch.keep(at, known.block(at).unwrap());
        }
        known = known.after(&patch);
        let block = known.block(0).unwrap();
        assert_eq!((block[99], block[100]), (9, 0));
        assert!(known.block(4096).is_some_and(|block| *block == [0; 4096]));
        // Behind the zeros nothing is known.
        assert!(known.block(28672).is_some());
        assert!(known.block(32768).is_none());
    }

    #[test]
    fn what_was_overwritten_is_known_no_more() {
        let known = Known::default()
            .after(&Patch::new(0, &[0; 8192]))
            .after(&Patch::new(4096, &[5; 4096]));
        assert!(known.block(0).is_none());
        assert!(known.block(4096).is_none());
    }
}
