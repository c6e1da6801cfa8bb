//! What the load of all rounds plays on: one account with workflows of several kinds, and the record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::account::Account;
use crate::client::{Connection, SdkKey};
use crate::error::Result;
use crate::identity::Dice;
use crate::record::{SharedRecord, WorkflowRecord};
use crate::report::Violations;

/// Caps are a few holds wide, so that gates meet them all the time.
const CAP_CENTS: i64 = 200;
/// Open holds that survive the thinning between rounds, so that old ones are checked again and again.
const HOLDS_KEPT: usize = 40;

/// What kind of load a workflow gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A cap, and charges within holds only: spent plus held never passes the cap.
    Capped,
    /// The same, and the operator moves the cap.
    Patched,
    /// No cap; the operator pauses and resumes it.
    Switched,
    /// No cap; charges without holds and batches.
    Open,
}

/// A workflow with a key bound to it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) workflow: String,
    pub(super) kind: Kind,
    pub(super) key: SdkKey,
}

/// Shared by all workers.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) account: Account,
    pub(super) record: SharedRecord,
    pub(super) places: Arc<Vec<Place>>,
    complaints: Arc<Mutex<Violations>>,
}

impl Stage {
    pub(super) async fn set_up(connection: &mut Connection, dice: &mut Dice) -> Result<Self> {
        let account = Account::register(connection, dice).await?;
        let record = SharedRecord::default();
        let mut places = Vec::new();
        let plan = [
            ("capped by workflow 1", Kind::Capped, Some(CAP_CENTS), None),
            ("capped by workflow 2", Kind::Capped, Some(CAP_CENTS), None),
            ("capped by key", Kind::Capped, None, Some(CAP_CENTS)),
            ("patched", Kind::Patched, Some(CAP_CENTS), None),
            ("switched", Kind::Switched, None, None),
            ("open 1", Kind::Open, None, None),
            ("open 2", Kind::Open, None, None),
        ];
        for (name, kind, workflow_cap, key_cap) in plan {
            let workflow = account
                .create_workflow(connection, name, workflow_cap)
                .await?;
            let key = account
                .create_key(connection, Some(&workflow), key_cap)
                .await?
                .key;
            let mut known = WorkflowRecord::created(workflow_cap, Some(key.clone()));
            if let Some(cents) = workflow_cap.or(key_cap) {
                known = known.with_hard_cap(cents);
            }
            record.lock().workflow_created(&workflow, known);
            places.push(Place {
                workflow,
                kind,
                key,
            });
        }
        Ok(Self {
            account,
            record,
            places: Arc::new(places),
            complaints: Arc::default(),
        })
    }

    /// The only place of a kind the operator works on.
    pub(super) fn place(&self, kind: Kind) -> Option<&Place> {
        self.places.iter().find(|place| place.kind == kind)
    }

    /// A random place where `wanted` is true.
    pub(super) fn any_place(
        &self,
        dice: &mut Dice,
        wanted: impl Fn(Kind) -> bool,
    ) -> Option<&Place> {
        let fitting: Vec<&Place> = self
            .places
            .iter()
            .filter(|place| wanted(place.kind))
            .collect();
        fitting.get(dice.index(fitting.len())).copied()
    }

    /// A broken rule that a worker saw in an answer.
    pub(super) fn complain(&self, sentence: String) {
        self.complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(sentence);
    }

    pub(super) fn take_complaints(&self) -> Violations {
        std::mem::take(
            &mut *self
                .complaints
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Between rounds: forget what is settled, cancel most open holds so that the caps do not stay full.
    pub(super) async fn thin_out(
        &self,
        connection: &mut Connection,
        dice: &mut Dice,
    ) -> Result<()> {
        let now = Instant::now();
        let mut open: Vec<_> = {
            let record = self.record.lock();
            record
                .holds
                .values()
                .filter(|hold| hold.is_plainly_open(now))
                .cloned()
                .collect()
        };
        for _ in 0..HOLDS_KEPT.min(open.len()) {
            open.swap_remove(dice.index(open.len()));
        }
        for hold in open {
            let Some(key) = self.record.lock().key_of(&hold.workflow) else {
                continue;
            };
            let operation = &hold.ask.operation_id;
            self.record.lock().cancel_sent(operation);
            let body = crate::record::cancel_body(&hold);
            connection
                .post_signed("/api/v1/cancel", &key, &body)
                .await?
                .expect(&[200])?;
            self.record.lock().cancel_acknowledged(operation);
        }
        self.record.lock().settle(dice, now);
        Ok(())
    }
}
