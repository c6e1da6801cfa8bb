//! How long something takes, as a row of counters that any thread adds to without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; one more bucket takes the rest.
const BOUNDS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// Durations by bucket, and their sum.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a [`Latency`] shows at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// All durations together, in seconds.
    pub sum_secs: f64,
    /// How many.
    pub count: u64,
    /// Upper bound in seconds, and how many are in the bucket below it and above the one before.
    pub buckets: Vec<(f64, u64)>,
}

impl Latency {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let secs = |micros: u64| micros as f64 / 1e6;
        let bounds = BOUNDS.iter().map(|bound| secs(*bound));
        let bounds = bounds.chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|n| n.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        Shown {
            sum_secs: secs(self.sum_micros.load(Ordering::Relaxed)),
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_it_does_not_pass() {
        let latency = Latency::default();
        for micros in [0, 100, 101, 5_000_000, 5_000_001] {
            latency.note(Duration::from_micros(micros));
        }
        let shown = latency.shown();
        let filled = shown.buckets.iter().filter(|(_, count)| *count > 0);
        let filled: Vec<_> = filled
            .map(|(bound, count)| (bound.to_string(), *count))
            .collect();
        let expected = [("0.0001", 2), ("0.00025", 1), ("5", 1), ("inf", 1)];
        assert_eq!(
            filled,
            expected.map(|(bound, count)| (bound.to_owned(), count))
        );
        assert_eq!(shown.count, 5);
    }
}
