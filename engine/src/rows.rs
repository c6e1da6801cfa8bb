//! A vector that grows piece by piece: what is in it never moves, so growing takes no longer the more
//! there is, and no more than one piece is unused.

/// Rows of a piece.
const PIECE: usize = 1024;

/// The rows.
#[derive(Debug)]
pub struct Rows<T> {
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Rows<T> {
    /// The row at a place.
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }

    /// Adds a row behind all others; returns its place.
    ///
    /// # Panics
    /// If there are as many as places: 2^32 - 1.
    pub fn push(&mut self, row: T) -> u32 {
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let full = self.pieces.len().saturating_sub(1) * PIECE;
        let last = self.pieces.last_mut();
        let within = last.map_or(0, |last| {
            last.push(row);
            last.len() - 1
        });
        let at = u32::try_from(full + within).unwrap_or(u32::MAX);
        assert!(at != u32::MAX, "four thousand million rows do not fit");
        at
    }

    /// Every row, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_places_and_their_addresses() {
        let mut rows = Rows::default();
        let first = rows.push(0_usize);
        let address = std::ptr::from_ref(rows.get(first).unwrap());
        for n in 1..5000 {
            assert_eq!(rows.push(n), u32::try_from(n).unwrap());
        }
        assert_eq!(address, std::ptr::from_ref(rows.get(first).unwrap()));
        *rows.get_mut(4321).unwrap() += 1;
        assert_eq!(rows.get(4321), Some(&4322));
        assert_eq!(rows.get(5000), None);
        assert_eq!(rows.get(u32::MAX), None);
        assert_eq!(rows.iter().count(), 5000);
        assert_eq!(rows.pieces.len(), 5);
    }
}
