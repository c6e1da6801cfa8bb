//! Development builds: what a defect takes away from the ordinary path of a record.

use super::Mutation;
use persist::Millis;
use persist::group_commit::Batch;
use persist::record::{HoldEnded, Record, State, WorkflowStateChanged};

/// How long a late kill is late, in milliseconds.
const LATE_MILLIS: u64 = 200;

/// What is switched on, and what it put aside.
#[derive(Debug, Default)]
pub struct Mutations {
    on: Option<Mutation>,
    late: Vec<(Millis, WorkflowStateChanged<'static>)>,
    releases: Vec<HoldEnded<'static>>,
}

impl Mutations {
    /// Switches a defect on.
    pub fn switch_on(&mut self, mutation: Mutation) {
        self.on = Some(mutation);
    }

    /// The same defect for another pump.
    pub(crate) fn same(&self) -> Self {
        Self {
            on: self.on,
            ..Self::default()
        }
    }

    /// Takes a record away from its ordinary path if the defect is about it.
    pub(crate) fn intercept(
        &mut self,
        now: Millis,
        record: &Record<'_>,
        batch: &mut Batch,
    ) -> persist::Result<bool> {
        let Record::WorkflowState(changed) = record else {
            return Ok(false);
        };
        if self.on != Some(Mutation::LateKill) || changed.to != State::Killed {
            return Ok(false);
        }
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
        let late = WorkflowStateChanged {
            at,
            org,
            workflow,
            version,
            from,
            to,
            reason: None,
            actor,
        };
        self.late.push((now, late));
        Ok(true)
    }

    /// Must this record be folded but not yet appended?
    pub(crate) fn hold_back(&mut self, record: &Record<'_>) -> bool {
        match (self.on, record) {
            (Some(Mutation::ReleaseBeforeAppend), Record::HoldEnded(ended)) => {
                self.releases.push(HoldEnded {
                    note: None,
                    ..*ended
                });
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
    pub(crate) fn due(
        &mut self,
        now: Millis,
        batch: &mut Batch,
    ) -> persist::Result<Vec<Record<'static>>> {
        for ended in self.releases.drain(..) {
            batch.push(&Record::HoldEnded(ended))?;
        }
        let due = self
            .late
            .extract_if(.., |(since, _)| now.since(*since) >= LATE_MILLIS);
        Ok(due
            .map(|(_, changed)| Record::WorkflowState(changed))
            .collect())
    }
}
