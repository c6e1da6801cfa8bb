//! Seeded defects, for testing the tests: the simulator and the crash driver must find each of
//! them. A release build cannot switch them on, and they cost it nothing.

use persist::Millis;
use persist::group_commit::Batch;
use persist::record::{HoldEnded, Record, State, WorkflowStateChanged};

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A release is visible to other calls before it is in the log.
    ReleaseBeforeAppend,
    /// A hold stays in place when it ends, so that it can end again.
    EndTwice,
    /// A kill is acknowledged before decisions see it.
    LateKill,
}

/// How long a late kill is late, in milliseconds.
const LATE_MILLIS: u64 = 200;

/// A record that was put aside.
#[derive(Debug)]
pub struct Aside {
    since: Millis,
    state: WorkflowStateChanged<'static>,
}

impl Aside {
    /// The record.
    #[must_use]
    pub fn as_record(&self) -> Record<'_> {
        Record::WorkflowState(self.state.clone())
    }
}

/// What is switched on, and what it put aside.
#[derive(Debug, Default)]
pub struct Mutations {
    #[cfg(debug_assertions)]
    on: Option<Mutation>,
    #[cfg(debug_assertions)]
    late: Vec<Aside>,
    #[cfg(debug_assertions)]
    releases: Vec<HoldEnded>,
}

#[cfg(debug_assertions)]
impl Mutations {
    /// Switches a defect on.
    pub fn switch_on(&mut self, mutation: Mutation) {
        self.on = Some(mutation);
    }

    /// Takes a record away from its ordinary path if the defect is about it.
    pub(crate) fn intercept(
        &mut self,
        now: Millis,
        record: &Record<'_>,
        batch: &mut Batch,
    ) -> persist::Result<bool> {
        match (self.on, record) {
            (Some(Mutation::LateKill), Record::WorkflowState(changed))
                if changed.to == State::Killed =>
            {
                batch.push(record)?;
                let WorkflowStateChanged {
                    at,
                    org,
                    workflow,
                    version,
                    from,
                    to,
                    actor,
                    ..
                } = *changed;
                let state = WorkflowStateChanged {
                    at,
                    org,
                    workflow,
                    version,
                    from,
                    to,
                    reason: None,
                    actor,
                };
                self.late.push(Aside { since: now, state });
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Must this record be folded but not yet appended?
    pub(crate) fn hold_back(&mut self, record: &Record<'_>) -> bool {
        match (self.on, record) {
            (Some(Mutation::ReleaseBeforeAppend), Record::HoldEnded(ended)) => {
                self.releases.push(ended.clone());
                true
            }
            _ => false,
        }
    }

    /// Does an ended hold stay?
    #[must_use]
    pub fn keeps_ended_holds(&self) -> bool {
        self.on == Some(Mutation::EndTwice)
    }

    /// What was put aside and is due: appends the late releases, returns the late kills.
    pub(crate) fn due(&mut self, now: Millis, batch: &mut Batch) -> persist::Result<Vec<Aside>> {
        for ended in self.releases.drain(..) {
            batch.push(&Record::HoldEnded(ended))?;
        }
        Ok(self
            .late
            .extract_if(.., |aside| now.since(aside.since) >= LATE_MILLIS)
            .collect())
    }
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unused_self, reason = "the same interface as with defects")]
impl Mutations {
    pub(crate) const fn intercept(
        &mut self,
        _now: Millis,
        _record: &Record<'_>,
        _batch: &mut Batch,
    ) -> persist::Result<bool> {
        Ok(false)
    }

    pub(crate) const fn hold_back(&mut self, _record: &Record<'_>) -> bool {
        false
    }

    pub(crate) const fn due(
        &mut self,
        _now: Millis,
        _batch: &mut Batch,
    ) -> persist::Result<Vec<Aside>> {
        Ok(Vec::new())
    }
}
