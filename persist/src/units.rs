//! Units: nano-dollars, milliseconds, log sequence numbers. Bare integers do not cross a function
//! boundary.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

/// Signed nano-dollars: one US cent is 10,000,000, one dollar 1,000,000,000. Never a float.
///
/// Arithmetic saturates: sums of money that would pass ±9.2 billion dollars stop there, which
/// keeps every comparison with a cap on the refusing side.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Nanos(pub i64);

impl Nanos {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);
    /// Nano-dollars in one cent.
    pub const PER_CENT: i64 = 10_000_000;

    /// From whole cents; saturates.
    #[must_use]
    pub const fn from_cents(cents: i64) -> Self {
        Self(cents.saturating_mul(Self::PER_CENT))
    }

    /// Whole cents, half away from zero (for spend).
    #[must_use]
    pub const fn cents_half_up(self) -> i64 {
        let half = Self::PER_CENT / 2;
        if self.0 >= 0 {
            self.0.saturating_add(half) / Self::PER_CENT
        } else {
            self.0.saturating_sub(half) / Self::PER_CENT
        }
    }

    /// Whole cents, towards plus infinity (for holds).
    #[must_use]
    pub const fn cents_up(self) -> i64 {
        -((-self.0).div_euclid(Self::PER_CENT))
    }

    /// Whole cents, towards minus infinity (for what remains).
    #[must_use]
    pub const fn cents_down(self) -> i64 {
        self.0.div_euclid(Self::PER_CENT)
    }

    /// Is this more than nothing?
    #[must_use]
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Neg for Nanos {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}
impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for Nanos {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for Nanos {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nano-dollars", self.0)
    }
}

/// Milliseconds since the Unix epoch, UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Millis(pub u64);

impl Millis {
    /// This instant and `millis` more.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this instant, 0 if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }
}

/// A day in UTC, counted from 1970-01-01. Sums of money are kept by day: every budget period is a
/// row of days.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Day(pub u32);

impl Day {
    /// Milliseconds in a day.
    pub const MILLIS: u64 = 86_400_000;

    /// The day around `at`.
    #[must_use]
    pub const fn of(at: Millis) -> Self {
        let day = at.0 / Self::MILLIS;
        Self(if day > u32::MAX as u64 {
            u32::MAX
        } else {
            day as u32
        })
    }

    /// Its first instant.
    #[must_use]
    pub const fn start(self) -> Millis {
        Millis(self.0 as u64 * Self::MILLIS)
    }

    /// The day `days` before it, the first of all at the least.
    #[must_use]
    pub const fn back(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// The day after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Log sequence number: the place of one record in the log's single order, from 1.
/// `appended_lsn ≥ durable_lsn ≥ shipped_lsn` always.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// `n` places further.
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_round_up_for_holds_down_for_what_remains_and_half_up_for_spend() {
        assert_eq!(Nanos(5_000_000).cents_half_up(), 1);
        assert_eq!(Nanos(4_999_999).cents_half_up(), 0);
        assert_eq!(Nanos(-5_000_000).cents_half_up(), -1);
        assert_eq!(Nanos(1).cents_up(), 1);
        assert_eq!(Nanos(0).cents_up(), 0);
        assert_eq!(Nanos(10_000_000).cents_up(), 1);
        assert_eq!(Nanos(19_999_999).cents_down(), 1);
        assert_eq!(Nanos(-1).cents_down(), -1);
    }

    #[test]
    fn money_saturates_instead_of_wrapping() {
        assert_eq!(Nanos(i64::MAX) + Nanos(1), Nanos(i64::MAX));
        assert_eq!(Nanos::from_cents(i64::MAX), Nanos(i64::MAX));
    }
}
