//! Meters: calls per minute, repeated tools, the rate of spending. They are not logged and not part
//! of the state; a restart forgives one window. What trips one is a record.

use hashbrown::{Equivalent, HashMap, HashSet};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seconds of the rate window.
const WINDOW_SECS: u64 = 60;
/// Seconds of one bucket of the burn meter, and how many there are: ten minutes in all.
const BURN_BUCKET_SECS: u64 = 10;
const BURN_BUCKETS: usize = 60;
/// A bucket is (second, count), the count in this many low bits.
const COUNT_BITS: u32 = 24;
/// Meters of a shard are looked through for idle ones when there are this many more than last time.
const PRUNE_EVERY: usize = 4096;
/// A meter that was not used for this long says nothing any more.
const IDLE_MILLIS: u64 = 24 * 3_600_000;

/// Calls of the last minute, second by second; shared without a lock.
#[derive(Debug)]
pub struct Rate([AtomicU64; WINDOW_SECS as usize]);

impl Default for Rate {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Clone for Rate {
    fn clone(&self) -> Self {
        let Self(buckets) = self;
        Self(std::array::from_fn(|at| {
            let bucket = buckets.get(at).map(|bucket| bucket.load(Ordering::SeqCst));
            AtomicU64::new(bucket.unwrap_or_default())
        }))
    }
}

impl Rate {
    /// One that has counted so many calls, just now.
    #[must_use]
    pub fn of(now: Millis, calls: u32) -> Self {
        let rate = Self::default();
        let second = now.secs();
        let calls = u64::from(calls).min((1 << COUNT_BITS) - 1);
        rate.change(second, |_| (second << COUNT_BITS) + calls);
        rate
    }

    /// Calls of the last minute.
    #[must_use]
    pub fn calls(&self, now: Millis) -> u32 {
        let oldest = (now.secs() + 1).saturating_sub(WINDOW_SECS);
        let in_window = self.buckets().filter(|(second, _)| *second >= oldest);
        in_window.fold(0, |sum: u32, (_, count)| sum.saturating_add(count))
    }

    /// Counts a call; [`Rate::take_back`] undoes it.
    pub fn add(&self, now: Millis) {
        let second = now.secs();
        self.change(second, |bucket| {
            if bucket >> COUNT_BITS >= second {
                bucket + 1
            } else {
                (second << COUNT_BITS) + 1
            }
        });
    }

    /// Takes back a call counted at `now`.
    pub fn take_back(&self, now: Millis) {
        let second = now.secs();
        self.change(second, |bucket| {
            if bucket >> COUNT_BITS == second && count(bucket) > 0 {
                bucket - 1
            } else {
                bucket
            }
        });
    }

    /// Milliseconds until the oldest counted call leaves the window.
    #[must_use]
    pub fn opens_in(&self, now: Millis) -> u64 {
        let oldest = (now.secs() + 1).saturating_sub(WINDOW_SECS);
        let counted = self
            .buckets()
            .filter(|(second, n)| *second >= oldest && *n > 0);
        let first = counted.map(|(second, _)| second).min();
        first.map_or(1, |second| {
            ((second + WINDOW_SECS) * 1000).saturating_sub(now.0).max(1)
        })
    }

    fn change(&self, second: u64, change: impl Fn(u64) -> u64) {
        if let Some(bucket) = self.0.get((second % WINDOW_SECS) as usize) {
            bucket.update(Ordering::SeqCst, Ordering::SeqCst, change);
        }
    }

    fn buckets(&self) -> impl Iterator<Item = (u64, u32)> {
        self.0.iter().map(|bucket| {
            let bucket = bucket.load(Ordering::SeqCst);
            (bucket >> COUNT_BITS, count(bucket))
        })
    }
}

/// Calls of this second; shared without a lock.
#[derive(Debug, Default)]
pub struct PerSecond(AtomicU64);

impl PerSecond {
    /// Counts a call, unless there are `most` in this second already.
    pub fn take(&self, now: Millis, most: u32) -> bool {
        let second = now.secs();
        let counted = |bucket: u64| match bucket >> COUNT_BITS >= second {
            true if count(bucket) >= most => None,
            true => Some(bucket + 1),
            false if most == 0 => None,
            false => Some((second << COUNT_BITS) + 1),
        };
        let order = Ordering::SeqCst;
        self.0.try_update(order, order, counted).is_ok()
    }

    /// Calls of this second.
    #[must_use]
    pub fn calls(&self, now: Millis) -> u32 {
        let bucket = self.0.load(Ordering::SeqCst);
        if bucket >> COUNT_BITS >= now.secs() {
            count(bucket)
        } else {
            0
        }
    }

    /// Takes back a call counted at `now`.
    pub fn take_back(&self, now: Millis) {
        let less = |bucket: u64| {
            let counted = bucket >> COUNT_BITS == now.secs() && count(bucket) > 0;
            counted.then(|| bucket - 1)
        };
        let order = Ordering::SeqCst;
        // In another second there is nothing to take back.
        let _left = self.0.try_update(order, order, less);
    }
}

const fn count(bucket: u64) -> u32 {
    (bucket & ((1 << COUNT_BITS) - 1)) as u32
}

/// Spending of the last ten minutes.
#[derive(Debug)]
pub struct Burn {
    buckets: [i64; BURN_BUCKETS],
    newest: u64,
    since: Millis,
}

impl Burn {
    /// Nothing spent yet.
    #[must_use]
    pub const fn new(now: Millis) -> Self {
        Self {
            buckets: [0; BURN_BUCKETS],
            newest: now.secs() / BURN_BUCKET_SECS,
            since: now,
        }
    }

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

    /// Notes spending.
    pub fn spent(&mut self, now: Millis, cost: Nanos) {
        self.advance(now);
        if let Some(bucket) = self.buckets.get_mut(self.newest as usize % BURN_BUCKETS) {
            *bucket = bucket.saturating_add(cost.0);
        }
    }

    /// Nano-dollars spent over the last ten minutes (or since the first charge, if that is shorter)
    /// and the seconds they took.
    pub fn rate(&mut self, now: Millis) -> (i64, u64) {
        self.advance(now);
        let sum = self
            .buckets
            .iter()
            .fold(0_i64, |sum, n| sum.saturating_add(*n));
        let whole = BURN_BUCKET_SECS * BURN_BUCKETS as u64;
        let secs = (now.since(self.since) / 1000).clamp(BURN_BUCKET_SECS, whole);
        (sum, secs)
    }
}

/// Whose calls a shard counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A workflow.
    Workflow(WorkflowId),
    /// A key that is bound to a workflow.
    Key(KeyId),
    /// An org: only of meters that stand apart.
    Org(OrgId),
}

/// Whose count of a tool's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Count {
    /// In which workflow.
    pub workflow: WorkflowId,
    /// A rule in the shadow counts for itself; those in force count together.
    pub rule: Option<PolicyId>,
}

#[derive(Debug, Default)]
struct Used<T> {
    meter: T,
    at: Millis,
}

/// A tool in a count.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ToolKey(Count, Box<str>);

/// The same, borrowed: only a tool that was never called before takes memory.
#[derive(Hash)]
struct ToolRef<'a>(Count, &'a str);

impl Equivalent<ToolKey> for ToolRef<'_> {
    fn equivalent(&self, key: &ToolKey) -> bool {
        self.0 == key.0 && self.1 == &*key.1
    }
}

impl ToolRef<'_> {
    fn to_key(&self) -> ToolKey {
        ToolKey(self.0, self.1.into())
    }
}

/// The meters of one shard.
#[derive(Debug, Default)]
pub struct Meters {
    rates: HashMap<Subject, Used<Rate>>,
    /// When a tool was called in a workflow, oldest first.
    tools: HashMap<ToolKey, Used<VecDeque<Millis>>>,
    /// Operations counted in this minute and the one before.
    counted: [HashSet<u128>; 2],
    counted_since: Millis,
    prune_at: usize,
    /// They stand apart: what all shards share is counted here too.
    is_apart: bool,
}

impl Meters {
    /// The rate meter of a subject.
    pub fn rate(&mut self, now: Millis, subject: Subject) -> &Rate {
        self.prune(now);
        let used = self.rates.entry(subject).or_default();
        used.at = now;
        &used.meter
    }

    /// Notes a call of a tool; the newest `most` of the last `window_secs` seconds are kept.
    pub fn tool_called(&mut self, now: Millis, of: Count, tool: &str, window_secs: u32, most: u32) {
        self.prune(now);
        let tool = ToolRef(of, tool);
        if !self.tools.contains_key(&tool) {
            self.tools.insert(tool.to_key(), Used::default());
        }
        let Some(used) = self.tools.get_mut(&tool) else {
            return;
        };
        used.at = now;
        let calls = &mut used.meter;
        calls.push_back(now);
        let window = u64::from(window_secs) * 1000;
        while calls.len() > most as usize
            || calls.front().is_some_and(|at| now.since(*at) >= window)
        {
            calls.pop_front();
        }
    }

    /// Calls of a tool in the last `window_secs` seconds, as far as they were kept.
    #[must_use]
    pub fn tool_calls(&self, now: Millis, of: Count, tool: &str, window_secs: u32) -> u32 {
        let Some(used) = self.tools.get(&ToolRef(of, tool)) else {
            return 0;
        };
        let window = u64::from(window_secs) * 1000;
        let recent = used.meter.iter().rev();
        let recent = recent.take_while(|at| now.since(**at) < window);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }

    /// A person resumed the workflow: its loops begin anew.
    pub fn forgive(&mut self, workflow: WorkflowId) {
        self.tools.retain(|tool, _| tool.0.workflow != workflow);
    }

    /// Meters that count for nobody else.
    #[must_use]
    pub fn apart() -> Self {
        Self {
            is_apart: true,
            ..Self::default()
        }
    }

    /// Do they stand apart?
    #[must_use]
    pub const fn is_apart(&self) -> bool {
        self.is_apart
    }

    /// A copy of a rate meter; none if nothing was counted.
    #[must_use]
    pub fn rate_copy(&self, subject: Subject) -> Option<Rate> {
        self.rates.get(&subject).map(|used| used.meter.clone())
    }

    /// Puts a rate meter in place.
    pub fn put_rate(&mut self, now: Millis, subject: Subject, meter: Rate) {
        self.rates.insert(subject, Used { meter, at: now });
    }

    /// Puts the calls of a tool in place that another set of meters has counted.
    pub fn copy_tool(&mut self, from: &Self, of: Count, tool: &str) {
        if let Some(used) = from.tools.get(&ToolRef(of, tool)) {
            let (meter, at) = (used.meter.clone(), used.at);
            let key = ToolRef(of, tool).to_key();
            self.tools.insert(key, Used { meter, at });
        }
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

    fn prune(&mut self, now: Millis) {
        if self.rates.len() + self.tools.len() < self.prune_at.max(PRUNE_EVERY) {
            return;
        }
        self.rates
            .retain(|_, used| now.since(used.at) < IDLE_MILLIS);
        self.tools
            .retain(|_, used| now.since(used.at) < IDLE_MILLIS);
        self.prune_at = (self.rates.len() + self.tools.len()) * 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_leave_the_window_after_a_minute() {
        let rate = Rate::default();
        let start = Millis(1_000_000);
        for _ in 0..3 {
            rate.add(start);
        }
        rate.add(start.plus(30_000));
        assert_eq!(rate.calls(start.plus(59_999)), 4);
        assert_eq!(rate.opens_in(start.plus(59_000)), 1_000);
        rate.take_back(start.plus(30_000));
        assert_eq!(rate.calls(start.plus(59_999)), 3);
        assert_eq!(rate.calls(start.plus(60_000)), 0);
        rate.add(start.plus(60_000));
        assert_eq!(rate.calls(start.plus(60_000)), 1);
        assert_eq!(rate.calls(start.plus(600_000)), 0);
    }

    #[test]
    fn a_second_has_room_for_so_many_calls() {
        let second = PerSecond::default();
        let start = Millis(1_000_000);
        assert!(!second.take(start, 0));
        assert!(second.take(start, 2) && second.take(start.plus(999), 2));
        assert!(!second.take(start.plus(999), 2));
        second.take_back(start);
        assert!(second.take(start.plus(999), 2));
        assert!(second.take(start.plus(1000), 2));
        second.take_back(start);
        assert!(second.take(start.plus(1999), 2) && !second.take(start.plus(1999), 2));
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
    fn a_tool_is_counted_within_its_window_and_workflow() {
        let mut meters = Meters::default();
        let start = Millis(1_000_000);
        let of = |workflow| Count {
            workflow: WorkflowId(workflow),
            rule: None,
        };
        let mut called = |workflow, tool, at| {
            meters.tool_called(start.plus(at), of(workflow), tool, 60, 6);
            meters.tool_calls(start.plus(at), of(workflow), tool, 60)
        };
        for n in 1..=6 {
            assert_eq!(called(1, "mail", u64::from(n) * 1000), n);
        }
        assert_eq!(called(1, "mail", 7_000), 6);
        assert_eq!(called(1, "bash", 7_000), 1);
        assert_eq!(called(2, "mail", 7_000), 1);
        assert_eq!(called(1, "mail", 67_000), 1);
        meters.forgive(WorkflowId(1));
        let calls = meters.tool_calls(start.plus(67_000), of(1), "mail", 60);
        assert_eq!(calls, 0);
    }

    #[test]
    fn the_burn_rate_is_spend_over_the_time_it_took() {
        let start = Millis(1_000_000_000);
        let mut burn = Burn::new(start);
        for n in 0..100 {
            burn.spent(start.plus(n * 1000), Nanos(10));
        }
        assert_eq!(burn.rate(start.plus(100_000)), (1000, 100));
        assert_eq!(burn.rate(start.plus(10_000_000)).0, 0);
    }
}
