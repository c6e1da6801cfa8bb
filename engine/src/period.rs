//! Budget periods: calendar months, UTC.

use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use persist::Millis;

/// One period: `start ≤ t < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// First instant.
    pub start: Millis,
    /// First instant of the next period.
    pub end: Millis,
}

impl Period {
    /// The calendar month around `at`.
    #[must_use]
    pub fn month_of(at: Millis) -> Self {
        let whole = Self {
            start: Millis(0),
            end: Millis(u64::MAX),
        };
        let Ok(at) = i64::try_from(at.0) else {
            return whole;
        };
        let Ok(timestamp) = jiff::Timestamp::from_millisecond(at) else {
            return whole;
        };
        let first = TimeZone::UTC.to_datetime(timestamp).date().first_of_month();
        let bound = |date: jiff::civil::Date| {
            let midnight = date.to_datetime(jiff::civil::Time::midnight());
            let timestamp = TimeZone::UTC.to_timestamp(midnight).ok()?;
            u64::try_from(timestamp.as_millisecond()).ok().map(Millis)
        };
        match (
            bound(first),
            first.checked_add(1.month()).ok().and_then(bound),
        ) {
            (Some(start), Some(end)) => Self { start, end },
            _ => whole,
        }
    }

    /// Is `at` inside?
    #[must_use]
    pub fn contains(&self, at: Millis) -> bool {
        self.start <= at && at < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        let timestamp: jiff::Timestamp = text.parse().unwrap();
        Millis(u64::try_from(timestamp.as_millisecond()).unwrap())
    }

    #[test]
    fn a_month_begins_at_its_first_midnight_and_ends_before_the_next_ones() {
        let period = Period::month_of(at("2028-02-29T23:59:59.999Z"));
        assert_eq!(period.start, at("2028-02-01T00:00:00Z"));
        assert_eq!(period.end, at("2028-03-01T00:00:00Z"));
        assert!(period.contains(at("2028-02-29T23:59:59.999Z")));
        assert!(!period.contains(period.end));
        assert_eq!(
            Period::month_of(at("2026-12-31T00:00:00Z")).end,
            at("2027-01-01T00:00:00Z")
        );
    }

    #[test]
    fn a_clock_out_of_range_is_one_endless_period() {
        assert!(Period::month_of(Millis(u64::MAX)).contains(Millis(5)));
    }
}
