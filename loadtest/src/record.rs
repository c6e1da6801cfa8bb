//! Everything the gateway acknowledged, and everything it was asked without an answer coming back.
//!
//! An effect is written down as *in doubt* before its request is sent and as *certain* once the answer was read, so
//! the record is right at whatever moment the gateway dies. From it follow bounds: what must be in the ledger and
//! what may be. The record knows no HTTP; [`check`] compares it with a gateway.

mod book;
mod check;
mod management;
mod people;
mod resend;

pub use book::{Bounds, Charge, ChargeId, Hold, HoldEnd, Route};
pub use check::{CheckOptions, CheckReport, Counts, ledger_check};
pub use management::{KeyRecord, PolicyRecord, Revocation, Switch, TEMPLATE, WorkflowRecord};
pub use people::{Guest, OrgRecord, Standing};
pub(crate) use resend::{NO_VERDICT, cancel_body};

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::client::SdkKey;
use crate::identity::Dice;
use crate::wire::Ask;

/// A record that many workers write to. Never held over an `await`.
#[derive(Debug, Clone, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    /// Exclusive access. A worker that panicked while holding it has left a usable record behind.
    pub fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record.
#[derive(Debug, Default)]
pub struct Record {
    /// Workflows by id, with the keys to call for them.
    pub workflows: BTreeMap<String, WorkflowRecord>,
    /// Keys that were minted to be revoked, by id.
    pub keys: BTreeMap<String, KeyRecord>,
    /// Policies by id.
    pub policies: BTreeMap<String, PolicyRecord>,
    /// The policy template [`TEMPLATE`].
    pub template: Switch,
    /// Invited people by address, until it was checked that they are gone.
    pub guests: BTreeMap<String, Guest>,
    /// Further organizations by id.
    pub orgs: BTreeMap<String, OrgRecord>,
    /// Holds by operation id, until they have ended for certain.
    pub holds: BTreeMap<String, Hold>,
    /// Charges of this round, and those of earlier rounds that are still in doubt.
    pub charges: BTreeMap<ChargeId, Charge>,
    /// A bounded choice of older charges with event ids, re-sent now and then.
    old_charges: Vec<(ChargeId, Charge)>,
    next_charge: u64,
    /// Totals of what was acknowledged since the beginning.
    pub counts: Counts,
}

/// How many old charges are kept for re-sending.
const OLD_CHARGES_KEPT: usize = 2_000;

/// The fewest events that a gateway remembers: six of the eight generations of `NULLRUN_DEDUP_MEMORY=1`. Sent again
/// after so many others, an event may count once more.
const EVENTS_REMEMBERED: u64 = 27_500;

impl Record {
    /// A gate is about to be sent.
    pub fn gate_sent(&mut self, workflow: &str, ask: Ask) {
        let operation = ask.operation_id.clone();
        self.holds
            .insert(operation, Hold::in_doubt(workflow, ask, Instant::now()));
    }

    /// The gate was allowed with this reservation.
    pub fn gate_allowed(&mut self, operation: &str, reservation: &str) {
        if let Some(hold) = self.holds.get_mut(operation) {
            hold.reservation = Some(reservation.to_owned());
            hold.answered = Some(Instant::now());
            self.counts.holds += 1;
        }
    }

    /// The gate was refused: there is no hold.
    pub fn gate_refused(&mut self, operation: &str) {
        self.holds.remove(operation);
        self.counts.refusals += 1;
    }

    /// A charge is about to be sent; give the id to [`Record::charge_acknowledged`].
    pub fn charge_sent(&mut self, charge: Charge) -> ChargeId {
        if let Some(hold) = charge
            .hold
            .as_ref()
            .and_then(|operation| self.holds.get_mut(operation))
        {
            hold.charged_in_doubt += charge.usage.nanos();
        }
        let id = ChargeId(self.next_charge);
        self.next_charge += 1;
        self.charges.insert(id, charge);
        id
    }

    /// The charge was acknowledged.
    pub fn charge_acknowledged(&mut self, id: ChargeId) {
        let Some(charge) = self.charges.get_mut(&id) else {
            return;
        };
        if charge.certain {
            return;
        }
        charge.certain = true;
        self.counts.charges += 1;
        let nanos = charge.usage.nanos();
        if let Some(hold) = charge
            .hold
            .as_ref()
            .and_then(|operation| self.holds.get_mut(operation))
        {
            hold.charged_in_doubt -= nanos;
            hold.charged += nanos;
        }
    }

    /// A cancel is about to be sent.
    pub fn cancel_sent(&mut self, operation: &str) {
        if let Some(hold) = self.holds.get_mut(operation) {
            hold.end = HoldEnd::InDoubt;
        }
    }

    /// The cancel was acknowledged.
    pub fn cancel_acknowledged(&mut self, operation: &str) {
        if let Some(hold) = self.holds.get_mut(operation) {
            hold.end = HoldEnd::Ended;
            self.counts.cancels += 1;
        }
    }

    /// Takes an open hold that nobody else works on; give it back with [`Record::release`].
    pub fn claim_open_hold(&mut self, dice: &mut Dice, now: Instant) -> Option<Hold> {
        let open: Vec<&String> = self
            .holds
            .iter()
            .filter(|(_, hold)| !hold.claimed && hold.is_plainly_open(now))
            .map(|(operation, _)| operation)
            .take(64)
            .collect();
        let operation = (*open.get(dice.index(open.len()))?).clone();
        let hold = self.holds.get_mut(&operation)?;
        hold.claimed = true;
        Some(hold.clone())
    }

    /// Gives a claimed hold back.
    pub fn release(&mut self, operation: &str) {
        if let Some(hold) = self.holds.get_mut(operation) {
            hold.claimed = false;
        }
    }

    /// After a crash nobody works on anything any more.
    pub fn release_all(&mut self) {
        for hold in self.holds.values_mut() {
            hold.claimed = false;
        }
    }

    /// What the ledger must and may show for `workflow` at `now`.
    pub fn bounds(&self, workflow: &str, now: Instant) -> Bounds {
        let known = self.workflows.get(workflow);
        let mut bounds = Bounds::starting_at(known.map_or(0, |known| known.settled_spent_nanos));
        for charge in self
            .charges
            .values()
            .filter(|charge| charge.workflow == workflow)
        {
            bounds.add_charge(charge);
        }
        for hold in self.holds.values().filter(|hold| hold.workflow == workflow) {
            bounds.add_hold(hold, now);
        }
        // A read that showed more than was acknowledged made some of what is in doubt durable.
        bounds.least_spent = bounds
            .least_spent
            .max(known.map_or(0, |known| known.spent_seen_nanos));
        bounds
    }

    /// The key that calls for `workflow`.
    pub fn key_of(&self, workflow: &str) -> Option<SdkKey> {
        self.workflows.get(workflow)?.key.clone()
    }

    /// Forgets what can no longer change: ended holds, and certain charges (their sum is kept). Called between rounds.
    pub fn settle(&mut self, dice: &mut Dice, now: Instant) {
        self.holds.retain(|_, hold| !hold.is_over(now));
        let certain: Vec<ChargeId> = self
            .charges
            .iter()
            .filter(|(_, charge)| charge.certain)
            .map(|(id, _)| *id)
            .collect();
        for id in certain {
            let Some(charge) = self.charges.remove(&id) else {
                continue;
            };
            if let Some(workflow) = self.workflows.get_mut(&charge.workflow) {
                workflow.settled_spent_nanos += charge.usage.nanos();
            }
            if charge.event_id.is_some() {
                if self.old_charges.len() < OLD_CHARGES_KEPT {
                    self.old_charges.push((id, charge));
                } else {
                    let place = dice.index(OLD_CHARGES_KEPT);
                    self.old_charges[place] = (id, charge);
                }
            }
        }
    }

    /// Does a gateway with the least memory still know the charge's event, if it ever counted it?
    pub fn is_remembered(&self, id: ChargeId) -> bool {
        self.next_charge - id.0 <= EVENTS_REMEMBERED
    }

    /// At most `limit` older charges, chosen at random, whose events are still remembered.
    pub fn some_old_charges(&self, dice: &mut Dice, limit: usize) -> Vec<Charge> {
        let known = self.old_charges.iter();
        let known: Vec<_> = known.filter(|(id, _)| self.is_remembered(*id)).collect();
        (0..limit.min(known.len()))
            .filter_map(|_| Some(known.get(dice.index(known.len()))?.1.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
