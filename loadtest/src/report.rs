//! Violations as sentences, and plain tables for people.

use std::fmt;

/// Broken rules, one sentence each. Bounded: after [`Violations::KEPT`] sentences only the count grows, so a gateway
/// that is wrong on every request does not bury its first mistakes.
#[derive(Debug, Default, Clone)]
pub struct Violations {
    sentences: Vec<String>,
    count: u64,
}

impl Violations {
    /// How many sentences are kept.
    pub const KEPT: usize = 100;

    /// Adds one.
    pub fn add(&mut self, sentence: impl Into<String>) {
        self.count += 1;
        if self.sentences.len() < Self::KEPT {
            self.sentences.push(sentence.into());
        }
    }

    /// Adds all of `other`.
    pub fn absorb(&mut self, other: Self) {
        self.count += other.count.saturating_sub(other.sentences.len() as u64);
        for sentence in other.sentences {
            self.add(sentence);
        }
    }

    /// Adds `sentence` when `holds` is false.
    pub fn require(&mut self, holds: bool, sentence: impl FnOnce() -> String) {
        if !holds {
            self.add(sentence());
        }
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many were found, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sentences kept.
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "violations  none");
        }
        writeln!(f, "violations  {}", self.count)?;
        for sentence in &self.sentences {
            writeln!(f, "  - {sentence}")?;
        }
        let left_out = self.count - self.sentences.len() as u64;
        if left_out > 0 {
            writeln!(f, "  - and {left_out} more")?;
        }
        Ok(())
    }
}

/// A table of text: columns padded to their widest cell, the first left-aligned, the rest right-aligned.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a heading.
    pub fn new<S: Into<String>>(heading: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self::default();
        table.row(heading);
        table
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(f, "{cell:<width$}")?;
                } else {
                    write!(f, "  {cell:>width$}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Nano-dollars as people read them: `$0.000047 (47000 nanos)`.
pub fn dollars(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let fraction = format!("{:09}", magnitude % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    format!(
        "{sign}${}.{fraction:0<2} ({nanos} nanos)",
        magnitude / 1_000_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_keep_every_nano() {
        assert_eq!(dollars(47_000), "$0.000047 (47000 nanos)");
        assert_eq!(dollars(-5_000_000_000), "-$5.00 (-5000000000 nanos)");
    }

    #[test]
    fn violations_beyond_the_kept_ones_are_still_counted() {
        let mut all = Violations::default();
        for n in 0..150 {
            all.add(format!("{n}"));
        }
        let mut sum = Violations::default();
        sum.absorb(all);
        assert_eq!((sum.count(), sum.sentences().len()), (150, 100));
    }
}
