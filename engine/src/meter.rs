//! Meters: calls per minute and the rate of spending. They are not logged and not part of the
//! state; a restart forgives one window.

use hashbrown::{HashMap, HashSet};
use persist::{Millis, Nanos, OrgId};

/// Seconds of the rate window.
const WINDOW_SECS: u64 = 60;
/// Seconds of one bucket of the burn meter, and how many there are: ten minutes in all.
const BURN_BUCKET_SECS: u64 = 10;
const BURN_BUCKETS: usize = 60;

/// Whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// An org.
    Org(u128),
    /// A workflow.
    Workflow(u128),
    /// A key.
    Key(u128),
}

/// Calls of the last minute, second by second.
#[derive(Debug, Clone)]
struct RateWindow {
    buckets: Box<[u32; WINDOW_SECS as usize]>,
    newest: u64,
}

impl RateWindow {
    fn new() -> Self {
        Self {
            buckets: Box::new([0; WINDOW_SECS as usize]),
            newest: 0,
        }
    }

    fn advance(&mut self, now: Millis) {
        let second = now.secs();
        let gone = second.saturating_sub(self.newest).min(WINDOW_SECS);
        for back in 0..gone {
            if let Some(bucket) = self
                .buckets
                .get_mut(((second - back) % WINDOW_SECS) as usize)
            {
                *bucket = 0;
            }
        }
        self.newest = self.newest.max(second);
    }

    fn count(&mut self, now: Millis) -> u32 {
        self.advance(now);
        self.buckets.iter().sum()
    }

    fn add(&mut self, now: Millis) {
        self.advance(now);
        if let Some(bucket) = self.buckets.get_mut((self.newest % WINDOW_SECS) as usize) {
            *bucket += 1;
        }
    }

    /// Milliseconds until the oldest counted call leaves the window.
    fn opens_in(&mut self, now: Millis) -> u64 {
        self.advance(now);
        for age in (0..WINDOW_SECS).rev() {
            let second = self.newest.saturating_sub(age);
            if self
                .buckets
                .get((second % WINDOW_SECS) as usize)
                .is_some_and(|n| *n > 0)
            {
                let leaves = (second + WINDOW_SECS) * 1000;
                return leaves.saturating_sub(now.0).max(1);
            }
        }
        1
    }
}

/// Spending of the last ten minutes.
#[derive(Debug, Clone)]
struct Burn {
    buckets: Box<[i64; BURN_BUCKETS]>,
    newest: u64,
    since: Millis,
}

impl Burn {
    fn advance(&mut self, now: Millis) {
        let bucket = now.secs() / BURN_BUCKET_SECS;
        let gone = bucket.saturating_sub(self.newest).min(BURN_BUCKETS as u64);
        for back in 0..gone {
            if let Some(b) = self
                .buckets
                .get_mut((bucket - back) as usize % BURN_BUCKETS)
            {
                *b = 0;
            }
        }
        self.newest = self.newest.max(bucket);
    }
}

/// All meters of a shard.
#[derive(Debug, Default)]
pub struct Meters {
    rates: HashMap<Subject, RateWindow>,
    burns: HashMap<OrgId, Burn>,
    /// Operations counted in this minute and the one before.
    counted: [HashSet<u128>; 2],
    counted_since: Millis,
}

impl Meters {
    /// Calls of `subject` in the last minute.
    pub fn calls(&mut self, now: Millis, subject: Subject) -> u32 {
        self.rates
            .get_mut(&subject)
            .map_or(0, |window| window.count(now))
    }

    /// Milliseconds until a call more may fit.
    pub fn opens_in(&mut self, now: Millis, subject: Subject) -> u64 {
        self.rates
            .get_mut(&subject)
            .map_or(0, |window| window.opens_in(now))
    }

    /// Counts a call.
    pub fn count_call(&mut self, now: Millis, subject: Subject) {
        self.rates
            .entry(subject)
            .or_insert_with(RateWindow::new)
            .add(now);
    }

    /// Was this call counted in the last minute or two? A call counts once, however often it is
    /// asked about (`docs/semantics.md`, "Rates").
    pub fn was_counted(&mut self, now: Millis, call: u128) -> bool {
        let age = now.since(self.counted_since) / (WINDOW_SECS * 1000);
        if age > 0 {
            self.counted.swap(0, 1);
            self.counted[0].clear();
            if age > 1 {
                self.counted[1].clear();
            }
            self.counted_since = now;
        }
        self.counted.iter().any(|set| set.contains(&call))
    }

    /// Remembers a call that was counted.
    pub fn note_counted(&mut self, call: u128) {
        self.counted[0].insert(call);
    }

    /// Notes spending.
    pub fn spent(&mut self, now: Millis, org: OrgId, cost: Nanos) {
        let burn = self.burns.entry(org).or_insert_with(|| Burn {
            buckets: Box::new([0; BURN_BUCKETS]),
            newest: now.secs() / BURN_BUCKET_SECS,
            since: now,
        });
        burn.advance(now);
        if let Some(bucket) = burn.buckets.get_mut(burn.newest as usize % BURN_BUCKETS) {
            *bucket = bucket.saturating_add(cost.0);
        }
    }

    /// Nano-dollars per second that `org` spent over the last ten minutes (or since its first
    /// charge, if that is shorter), as a fraction: (nanos, seconds).
    pub fn burn_rate(&mut self, now: Millis, org: OrgId) -> (i64, u64) {
        let Some(burn) = self.burns.get_mut(&org) else {
            return (0, 1);
        };
        burn.advance(now);
        let sum = burn
            .buckets
            .iter()
            .fold(0_i64, |sum, n| sum.saturating_add(*n));
        let whole = BURN_BUCKET_SECS * BURN_BUCKETS as u64;
        let secs = (now.since(burn.since) / 1000).clamp(BURN_BUCKET_SECS, whole);
        (sum, secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject::Workflow(1);

    #[test]
    fn calls_leave_the_window_after_a_minute() {
        let mut meters = Meters::default();
        let start = Millis(1_000_000);
        for _ in 0..3 {
            meters.count_call(start, SUBJECT);
        }
        meters.count_call(start.plus(30_000), SUBJECT);
        assert_eq!(meters.calls(start.plus(59_999), SUBJECT), 4);
        assert_eq!(meters.opens_in(start.plus(59_000), SUBJECT), 1_000);
        assert_eq!(meters.calls(start.plus(60_000), SUBJECT), 1);
        assert_eq!(meters.calls(start.plus(600_000), SUBJECT), 0);
        assert_eq!(meters.calls(start, Subject::Key(1)), 0);
    }

    #[test]
    fn an_operation_is_counted_once() {
        let mut meters = Meters::default();
        let start = Millis(1_000_000);
        assert!(!meters.was_counted(start, 7));
        meters.note_counted(7);
        assert!(meters.was_counted(start.plus(59_000), 7));
        assert!(!meters.was_counted(start.plus(59_000), 8));
        assert!(meters.was_counted(start.plus(60_000), 7));
        assert!(!meters.was_counted(start.plus(200_000), 7));
    }

    #[test]
    fn the_burn_rate_is_spend_over_the_time_it_took() {
        let mut meters = Meters::default();
        let start = Millis(1_000_000_000);
        assert_eq!(meters.burn_rate(start, OrgId(1)), (0, 1));
        for n in 0..100 {
            meters.spent(start.plus(n * 1000), OrgId(1), Nanos(10));
        }
        assert_eq!(meters.burn_rate(start.plus(100_000), OrgId(1)), (1000, 100));
        assert_eq!(meters.burn_rate(start.plus(10_000_000), OrgId(1)).0, 0);
    }
}
