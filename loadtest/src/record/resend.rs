//! Asking again after a crash. Whatever is in doubt is sent once more under its old identity, which settles it;
//! acknowledged holds must come back with the same reservation, acknowledged charges must count nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Charge, ChargeId, CheckReport, Hold, HoldEnd, Route, SharedRecord};
use crate::client::{Connection, SdkKey};
use crate::error::Result;
use crate::identity::Dice;

/// Events of one re-sent batch.
const BATCH: usize = 500;
/// Refusals that say nothing about whether the hold exists.
pub(crate) const NO_VERDICT: [&str; 4] = [
    "OVERLOADED",
    "DEADLINE_EXCEEDED",
    "SHUTTING_DOWN",
    "WORKFLOW_PAUSED",
];

pub(super) async fn everything_in_doubt(
    connection: &mut Connection,
    record: &SharedRecord,
    report: &mut CheckReport,
) -> Result<()> {
    gates_in_doubt(connection, record, report).await?;
    cancels_in_doubt(connection, record, report).await?;
    let charges: Vec<(ChargeId, Charge)> = {
        let record = record.lock();
        let open = record
            .charges
            .iter()
            .filter(|(_, charge)| !charge.certain && charge.event_id.is_some());
        open.map(|(id, charge)| (*id, charge.clone())).collect()
    };
    report.in_doubt += charges.len() as u64;
    let known: Vec<Charge> = charges.iter().map(|(_, charge)| charge.clone()).collect();
    send_charges(connection, record, &known, report).await?;
    let mut record = record.lock();
    for (id, _) in charges {
        record.charge_acknowledged(id);
    }
    Ok(())
}

async fn gates_in_doubt(
    connection: &mut Connection,
    record: &SharedRecord,
    report: &mut CheckReport,
) -> Result<()> {
    for (hold, key) in choose(record, |hold| hold.reservation.is_none()) {
        report.in_doubt += 1;
        let operation = &hold.ask.operation_id;
        let answer = connection
            .post_signed("/api/v1/gate", &key, &hold.ask.gate_body())
            .await?;
        if answer.is_allow() {
            record
                .lock()
                .gate_allowed(operation, answer.text("reservation_id"));
        } else if answer.text("decision") == "block" && !NO_VERDICT.contains(&answer.error_code()) {
            record.lock().gate_refused(operation);
        } else if answer.text("decision") != "block" {
            report.violations.add(format!(
                "gate {operation} asked again answered {}",
                answer.in_short()
            ));
        }
    }
    Ok(())
}

async fn cancels_in_doubt(
    connection: &mut Connection,
    record: &SharedRecord,
    report: &mut CheckReport,
) -> Result<()> {
    for (hold, key) in choose(record, |hold| {
        hold.end == HoldEnd::InDoubt && hold.reservation.is_some()
    }) {
        report.in_doubt += 1;
        let answer = connection
            .post_signed("/api/v1/cancel", &key, &cancel_body(&hold))
            .await?;
        if answer.status == 200 {
            record.lock().cancel_acknowledged(&hold.ask.operation_id);
        } else {
            report.violations.add(format!(
                "a cancel asked again answered {}",
                answer.in_short()
            ));
        }
    }
    Ok(())
}

pub(super) async fn acknowledged_holds(
    connection: &mut Connection,
    record: &SharedRecord,
    limit: usize,
    dice: &mut Dice,
    report: &mut CheckReport,
) -> Result<()> {
    let now = Instant::now();
    let mut open = choose(record, |hold| hold.is_plainly_open(now));
    while open.len() > limit {
        open.swap_remove(dice.index(open.len()));
    }
    for (hold, key) in open {
        report.holds_resent += 1;
        let answer = connection
            .post_signed("/api/v1/gate", &key, &hold.ask.gate_body())
            .await?;
        let expected = hold.reservation.as_deref().unwrap_or_default();
        let came = answer.text("reservation_id");
        report.violations.require(answer.is_allow() && came == expected, || {
            format!(
                "operation {} holds {expected}, {} nanos, workflow {}; asked again it answered {} {came}",
                hold.ask.operation_id,
                hold.most_left_nanos(),
                hold.workflow,
                answer.in_short()
            )
        });
    }
    Ok(())
}

pub(super) async fn acknowledged_charges(
    connection: &mut Connection,
    record: &SharedRecord,
    limit: usize,
    dice: &mut Dice,
    report: &mut CheckReport,
) -> Result<()> {
    let mut chosen: Vec<Charge> = {
        let record = record.lock();
        let certain = record
            .charges
            .iter()
            .filter(|(_, charge)| charge.certain && charge.event_id.is_some())
            .filter(|(id, _)| record.is_remembered(**id));
        certain.map(|(_, charge)| charge.clone()).collect()
    };
    while chosen.len() > limit {
        chosen.swap_remove(dice.index(chosen.len()));
    }
    chosen.extend(record.lock().some_old_charges(dice, limit));
    report.charges_resent += chosen.len() as u64;
    send_charges(connection, record, &chosen, report).await
}

/// Sends charges under their event ids, each by its own route. Any answer but 200 is a violation: spend is never shed.
async fn send_charges(
    connection: &mut Connection,
    record: &SharedRecord,
    charges: &[Charge],
    report: &mut CheckReport,
) -> Result<()> {
    let mut batches: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for charge in charges {
        let Some(event_id) = charge.event_id.as_deref() else {
            continue;
        };
        if charge.route == Route::Batch {
            batches
                .entry(&charge.workflow)
                .or_default()
                .push(charge.usage.batch_event(event_id));
            continue;
        }
        let Some(key) = record.lock().key_of(&charge.workflow) else {
            continue;
        };
        let body = charge
            .usage
            .track_body(charge.reservation.as_deref(), Some(event_id));
        let answer = connection.post_signed("/api/v1/track", &key, &body).await?;
        report.violations.require(answer.status == 200, || {
            format!(
                "event {event_id} sent again to /track answered {}",
                answer.in_short()
            )
        });
    }
    for (workflow, events) in batches {
        let Some(key) = record.lock().key_of(workflow) else {
            continue;
        };
        for part in events.chunks(BATCH) {
            let answer = connection
                .post_signed("/api/v1/track/batch", &key, &json!({"events": part}))
                .await?;
            let accepted = answer.body["accepted_event_ids"]
                .as_array()
                .map_or(0, Vec::len);
            report
                .violations
                .require(answer.status == 200 && accepted == part.len(), || {
                    format!(
                        "{} events sent again: {} with {accepted} accepted",
                        part.len(),
                        answer.in_short()
                    )
                });
        }
    }
    Ok(())
}

/// The body that cancels a hold.
pub(crate) fn cancel_body(hold: &Hold) -> Value {
    json!({"execution_id": hold.reservation, "reason": "harness"})
}

fn choose(record: &SharedRecord, wanted: impl Fn(&Hold) -> bool) -> Vec<(Hold, SdkKey)> {
    let record = record.lock();
    let holds = record.holds.values().filter(|hold| wanted(hold));
    holds
        .filter_map(|hold| Some((hold.clone(), record.key_of(&hold.workflow)?)))
        .collect()
}
