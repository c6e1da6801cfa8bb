//! Metrics: what is counted while the gateway works, without a lock or an allocation, and the page
//! that Prometheus reads. No series carries an organization, workflow, key or model: their number is
//! the same whatever the number of workflows.

mod page;
mod process;
mod routes;

pub use page::routes as page_routes;

use engine::code::Code;
use engine::command::{Decision, Verdict};
use persist::Lsn;
use persist::record::Endpoint;
use routes::RouteTable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The questions of policies that only have something to say, in the order of [`PolicyType`].
const QUESTIONS: [&str; 4] = ["budget", "rate", "tool", "loop"];
/// What they say.
const SAID: [&str; 3] = ["would_block", "would_allow", "flagged"];

const ENDPOINTS: [(Endpoint, &str); 3] = [
    (Endpoint::Gate, "gate"),
    (Endpoint::Execute, "execute"),
    (Endpoint::Check, "check"),
];

/// Everything that is counted in the front.
#[derive(Debug)]
pub struct Metrics {
    /// Requests.
    pub requests: RouteTable,
    /// By endpoint; allows first, then refusals in the order of [`Code::ALL`].
    decisions: [Box<[AtomicU64]>; ENDPOINTS.len()],
    /// By question and what is said.
    notes: [[AtomicU64; SAID.len()]; QUESTIONS.len()],
    /// Snapshots.
    pub snapshots: Snapshots,
}

impl Default for Metrics {
    fn default() -> Self {
        let none = || (0..=Code::ALL.len()).map(|_| AtomicU64::new(0)).collect();
        Self {
            requests: RouteTable::default(),
            decisions: std::array::from_fn(|_| none()),
            notes: Default::default(),
            snapshots: Snapshots::default(),
        }
    }
}

impl Metrics {
    /// Counts a decision that leaves.
    pub fn decided(&self, endpoint: Endpoint, decision: &Decision) {
        let place = match &decision.verdict {
            Verdict::Allow { .. } => 0,
            Verdict::Block(block) => 1 + block.code as usize,
        };
        let row = ENDPOINTS.iter().position(|(one, _)| *one == endpoint);
        let row = row.and_then(|at| self.decisions.get(at));
        if let Some(counter) = row.and_then(|row| row.get(place)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        for noted in &decision.notes {
            let said = match (noted.policy.shadow, noted.refuses) {
                (true, true) => 0,
                (true, false) => 1,
                (false, _) => 2,
            };
            let row = self.notes.get(noted.policy.policy_type as usize);
            if let Some(counter) = row.and_then(|row| row.get(said)) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Question, what was said and how often, of all notes.
    fn all_notes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = QUESTIONS.iter().zip(&self.notes);
        rows.flat_map(|(question, row)| {
            let row = SAID.iter().zip(row);
            row.map(|(said, n)| (*question, *said, n.load(Ordering::Relaxed)))
        })
    }

    /// Endpoint, outcome, reason and number of all decisions.
    fn all_decisions(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'static str, u64)> {
        let rows = ENDPOINTS.iter().zip(&self.decisions);
        rows.flat_map(|((_, endpoint), row)| {
            let refusals = Code::ALL.iter().map(|code| ("block", code.name()));
            let kinds = std::iter::once(("allow", "none")).chain(refusals);
            kinds.zip(row.iter()).map(|((outcome, reason), n)| {
                (*endpoint, outcome, reason, n.load(Ordering::Relaxed))
            })
        })
    }
}

/// What became of snapshots.
#[derive(Debug, Default)]
pub struct Snapshots {
    written: AtomicU64,
    failed: AtomicU64,
    lsn: AtomicU64,
    secs: AtomicU64,
    micros: AtomicU64,
}

impl Snapshots {
    /// One was written up to `lsn`, at a Unix time in seconds.
    pub fn wrote(&self, lsn: Lsn, at_secs: u64, took: Duration) {
        self.written.fetch_add(1, Ordering::Relaxed);
        self.begins_with(lsn);
        self.secs.store(at_secs, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// The newest there is goes up to `lsn`.
    pub fn begins_with(&self, lsn: Lsn) {
        self.lsn.store(lsn.0, Ordering::Relaxed);
    }

    /// One could not be written.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::engine::refused;

    #[test]
    fn a_decision_is_counted_under_its_own_code() {
        let metrics = Metrics::default();
        for code in Code::ALL {
            metrics.decided(Endpoint::Execute, &refused(*code, "", None));
        }
        metrics.decided(Endpoint::Check, &refused(Code::StorageFull, "", None));
        for (endpoint, outcome, reason, n) in metrics.all_decisions() {
            let check = u64::from(reason == Code::StorageFull.name());
            let expected = match (endpoint, outcome) {
                ("execute", "block") => 1,
                ("check", "block") => check,
                _ => 0,
            };
            assert_eq!(n, expected, "{endpoint} {outcome} {reason}");
        }
    }
}
