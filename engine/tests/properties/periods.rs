//! Periods beside a calendar that counts days one by one.

use engine::period::{Calendar, Period};
use persist::Day;
use persist::record::PeriodKind;
use proptest::prelude::*;

const fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// First day of the month around a day, and of the next month.
fn month(day: u32) -> (u32, u32) {
    let (mut year, mut month, mut first) = (1970, 1, 0);
    loop {
        let next = first + days_of(year, month);
        if day < next {
            return (first, next);
        }
        (year, month) = if month == 12 {
            (year + 1, 1)
        } else {
            (year, month + 1)
        };
        first = next;
    }
}

fn expected(kind: PeriodKind, day: u32) -> (u32, Option<u32>) {
    match kind {
        PeriodKind::Day => (day, Some(day + 1)),
        PeriodKind::Week => {
            // Day 4 was a Monday.
            let monday = (0..7).map(|back| day - back).find(|day| day % 7 == 4);
            let monday = monday.unwrap();
            (monday, Some(monday + 7))
        }
        PeriodKind::Month => {
            let (first, next) = month(day);
            (first, Some(next))
        }
        PeriodKind::Rolling30 => (day - 29, Some(day + 1)),
        PeriodKind::Lifetime => (0, None),
    }
}

fn check(day: u32) {
    let calendar = Calendar::of(Day(day));
    for (kind, _) in PeriodKind::NAMED {
        let period = calendar.period(kind);
        let (first, next) = expected(kind, day);
        assert_eq!((period.first, period.next), (Day(first), next.map(Day)));
        assert_eq!(period, Period::around(kind, Day(day)));
        assert_eq!(period.kind, kind);
        assert!(period.end().is_none_or(|end| end > Day(day).start()));
    }
}

#[test]
fn every_day_until_2060_lies_in_the_periods_a_calendar_shows() {
    for day in 29..33_000 {
        check(day);
    }
}

proptest! {
    #[test]
    fn any_day_lies_in_the_periods_a_calendar_shows(day in 29..2_900_000_u32) {
        check(day);
    }
}
