//! What one stretch of load showed.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart, in microseconds (one minute).
const LONGEST_US: u64 = 60_000_000;

/// Counts and latencies.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Latencies in microseconds.
    latencies_us: Histogram<u64>,
    /// Time of load.
    pub took: Duration,
    /// Complete answers with the status that was expected.
    pub answered: u64,
    /// Allowed gates.
    pub allowed: u64,
    /// Blocked gates.
    pub blocked: u64,
    /// Requests without an answer, or with an unexpected one.
    pub errors: u64,
    /// The first such answer, as an example.
    pub first_error: Option<String>,
}

impl Default for Measured {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "the bounds are constants and valid")]
        let latencies_us = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
        Self {
            latencies_us,
            took: Duration::ZERO,
            answered: 0,
            allowed: 0,
            blocked: 0,
            errors: 0,
            first_error: None,
        }
    }
}

impl Measured {
    /// Counts one answer that took `latency`.
    pub(super) fn answer(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.latencies_us.saturating_record(us.clamp(1, LONGEST_US));
        self.answered += 1;
    }

    /// Counts one failure.
    pub(super) fn error(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(what());
        }
    }

    /// Adds what a later stretch showed.
    pub fn absorb(&mut self, later: Self) {
        self.took += later.took;
        self.absorb_parallel(later);
    }

    /// Adds what another worker saw in the same stretch.
    pub(super) fn absorb_parallel(&mut self, other: Self) {
        // Both histograms have the same bounds, so adding cannot fail.
        let _same_bounds = self.latencies_us.add(&other.latencies_us);
        self.answered += other.answered;
        self.allowed += other.allowed;
        self.blocked += other.blocked;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// Complete answers per second.
    pub fn throughput_per_s(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency that `percent` of the answers stayed within, in microseconds.
    pub fn percentile_us(&self, percent: f64) -> u64 {
        self.latencies_us.value_at_percentile(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_add_up_and_workers_of_one_stretch_share_its_time() {
        let one = |ms| {
            let mut measured = Measured {
                took: Duration::from_secs(1),
                ..Measured::default()
            };
            measured.answer(Duration::from_millis(ms));
            measured
        };
        let mut sum = one(1);
        sum.absorb(one(3));
        assert!((sum.throughput_per_s() - 1.0).abs() < 1e-9);
        let mut sum = one(1);
        sum.absorb_parallel(one(3));
        assert!((sum.throughput_per_s() - 2.0).abs() < 1e-9);
        assert!((2_900..3_100).contains(&sum.percentile_us(100.0)));
    }
}
