//! Budget periods. Sums are kept by UTC day, so every period is a row of days, and a cap may change
//! its period at any time without losing what was spent.

use jiff::ToSpan as _;
use jiff::civil::Date;
use persist::record::PeriodKind;
use persist::{Day, Millis};

/// One period: `start ≤ t < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// What kind of period.
    pub kind: PeriodKind,
    /// Its first day.
    pub first: Day,
    /// The first day after it: when a cap over it begins anew, or, for rolling days, when the
    /// oldest leaves. `None` for a lifetime.
    pub next: Option<Day>,
}

impl Period {
    /// First instant.
    #[must_use]
    pub const fn start(&self) -> Millis {
        self.first.start()
    }

    /// First instant after it.
    #[must_use]
    pub fn end(&self) -> Option<Millis> {
        self.next.map(Day::start)
    }

    /// The period of this kind around `today`.
    #[must_use]
    pub fn around(kind: PeriodKind, today: Day) -> Self {
        let (first, next) = match kind {
            PeriodKind::Day => (today, Some(today.next())),
            // Day 0 was a Thursday.
            PeriodKind::Week => {
                let first = today.back((today.0 % 7 + 3) % 7);
                (first, Some(Day(first.0 + 7)))
            }
            PeriodKind::Month => month(today),
            PeriodKind::Rolling30 => (today.back(29), Some(today.next())),
            PeriodKind::Lifetime => (Day(0), None),
        };
        Self { kind, first, next }
    }
}

/// First day of the month around `today` and of the next; a lifetime where the calendar ends.
fn month(today: Day) -> (Day, Option<Day>) {
    let epoch = jiff::civil::date(1970, 1, 1);
    let back = |date: Date| {
        u32::try_from(epoch.until(date).ok()?.get_days())
            .ok()
            .map(Day)
    };
    let bounds = || {
        let date = epoch
            .checked_add(jiff::Span::new().try_days(today.0).ok()?)
            .ok()?;
        let first = date.first_of_month();
        Some((back(first)?, back(first.checked_add(1.month()).ok()?)?))
    };
    bounds().map_or((Day(0), None), |(first, next)| (first, Some(next)))
}

/// Every kind of period around one day: worked out once a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// The day.
    pub today: Day,
    periods: [Period; 5],
}

impl Calendar {
    /// The calendar of a day.
    #[must_use]
    pub fn of(today: Day) -> Self {
        Self {
            today,
            periods: PeriodKind::NAMED.map(|(kind, _)| Period::around(kind, today)),
        }
    }

    /// The current period of a kind.
    #[must_use]
    pub fn period(&self, kind: PeriodKind) -> Period {
        let [day, week, month, rolling, lifetime] = self.periods;
        match kind {
            PeriodKind::Day => day,
            PeriodKind::Week => week,
            PeriodKind::Month => month,
            PeriodKind::Rolling30 => rolling,
            PeriodKind::Lifetime => lifetime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        let timestamp: jiff::Timestamp = text.parse().unwrap();
        Millis(u64::try_from(timestamp.as_millisecond()).unwrap())
    }

    fn around(kind: PeriodKind, text: &str) -> (Millis, Option<Millis>) {
        let period = Calendar::of(Day::of(at(text))).period(kind);
        (period.start(), period.end())
    }

    #[test]
    fn a_month_begins_at_its_first_midnight_and_ends_before_the_next_ones() {
        assert_eq!(
            around(PeriodKind::Month, "2028-02-29T23:59:59.999Z"),
            (at("2028-02-01T00:00:00Z"), Some(at("2028-03-01T00:00:00Z")))
        );
        assert_eq!(
            around(PeriodKind::Month, "2026-12-31T00:00:00Z").1,
            Some(at("2027-01-01T00:00:00Z"))
        );
    }

    #[test]
    fn a_week_begins_on_monday() {
        // 2026-11-24 is a Tuesday, 2026-11-29 a Sunday.
        for day in [
            "2026-11-24T12:00:00Z",
            "2026-11-23T00:00:00Z",
            "2026-11-29T23:59:59Z",
        ] {
            assert_eq!(
                around(PeriodKind::Week, day),
                (at("2026-11-23T00:00:00Z"), Some(at("2026-11-30T00:00:00Z")))
            );
        }
    }

    #[test]
    fn thirty_rolling_days_end_with_today() {
        assert_eq!(
            around(PeriodKind::Rolling30, "2026-03-01T05:00:00Z"),
            (at("2026-01-31T00:00:00Z"), Some(at("2026-03-02T00:00:00Z")))
        );
    }

    #[test]
    fn a_clock_out_of_range_is_one_endless_month() {
        let period = Period::around(PeriodKind::Month, Day(u32::MAX));
        assert_eq!((period.first, period.next), (Day(0), None));
    }
}
