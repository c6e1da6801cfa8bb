//! One SDK worker of the crash driver: a random mix of gates, charges, cancels and retries on one connection until a
//! request stays without an answer. Every request is in the record before its first byte is sent.

use std::time::Instant;

use serde_json::{Value, json};

use super::stage::{Kind, Stage};
use crate::client::{Answer, Connection, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::record::{Charge, Hold, NO_VERDICT, Route, cancel_body};
use crate::wire::{Ask, Usage};

/// Smallest and largest hold, in output tokens: 1 to 20 cents.
const HOLD_TOKENS: (u64, u64) = (2_000, 40_000);
/// Most tokens of one charge within a hold: far below the smallest hold.
const CHARGE_TOKENS: u64 = 100;
/// Most events of one batch.
const BATCH_EVENTS: u64 = 20;

pub(super) async fn work(mut connection: Connection, stage: Stage, mut dice: Dice) {
    loop {
        let done = match dice.between(1, 100) {
            1..=35 => gate(&mut connection, &stage, &mut dice).await,
            36..=42 => retry(&mut connection, &stage, &mut dice).await,
            43..=62 => charge_on_hold(&mut connection, &stage, &mut dice).await,
            63..=80 => cancel(&mut connection, &stage, &mut dice).await,
            81..=84 => look(&mut connection, &stage, &mut dice).await,
            85..=94 => batch(&mut connection, &stage, &mut dice).await,
            _ => free_charge(&mut connection, &stage, &mut dice).await,
        };
        match done {
            Ok(()) => {}
            Err(Error::NoAnswer { .. }) => return,
            Err(error) => return stage.complain(error.to_string()),
        }
    }
}

async fn gate(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some(place) = stage.any_place(dice, |_| true) else {
        return Ok(());
    };
    let ask = Ask {
        operation_id: dice.uuid(),
        organization_id: stage.account.org.clone(),
        max_output_tokens: i64::try_from(dice.between(HOLD_TOKENS.0, HOLD_TOKENS.1))
            .unwrap_or(i64::MAX),
    };
    let operation = ask.operation_id.clone();
    let body = ask.gate_body();
    stage.record.lock().gate_sent(&place.workflow, ask);
    let answer = connection
        .post_signed("/api/v1/gate", &place.key, &body)
        .await?;
    match (answer.is_allow(), answer.body["reservation_id"].as_str()) {
        (true, Some(reservation)) => stage.record.lock().gate_allowed(&operation, reservation),
        (true, None) => stage.complain(format!(
            "gate {operation} was allowed without a reservation"
        )),
        _ if refused(&answer) => stage.record.lock().gate_refused(&operation),
        _ => stage.complain(format!("gate {operation} answered {}", answer.in_short())),
    }
    Ok(())
}

/// The same operation again, while its hold is open: the same reservation.
async fn retry(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((hold, key)) = claim(stage, dice) else {
        return Ok(());
    };
    let operation = &hold.ask.operation_id;
    let answer = connection
        .post_signed("/api/v1/gate", &key, &hold.ask.gate_body())
        .await?;
    let expected = hold.reservation.as_deref().unwrap_or_default();
    let came = answer.text("reservation_id");
    let excused = refused(&answer) && NO_VERDICT.contains(&answer.error_code());
    let returned = answer.is_allow() && came == expected;
    if !(excused || returned) {
        stage.complain(format!(
            "retry of {operation} holding {expected} answered {} {came}",
            answer.in_short()
        ));
    }
    stage.record.lock().release(operation);
    Ok(())
}

async fn charge_on_hold(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((hold, key)) = claim(stage, dice) else {
        return Ok(());
    };
    let usage = usage(dice, CHARGE_TOKENS);
    if usage.nanos() < hold.most_left_nanos() {
        let charge = Charge {
            event_id: dice.chance(80).then(|| dice.uuid()),
            workflow: hold.workflow.clone(),
            hold: Some(hold.ask.operation_id.clone()),
            reservation: hold.reservation.clone(),
            usage,
            route: Route::Track,
            certain: false,
        };
        track(connection, stage, &key, charge).await?;
    }
    stage.record.lock().release(&hold.ask.operation_id);
    Ok(())
}

async fn free_charge(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some(place) = stage.any_place(dice, |kind| kind == Kind::Open) else {
        return Ok(());
    };
    let charge = free(dice, &place.workflow, Route::Track);
    track(connection, stage, &place.key, charge).await
}

async fn track(
    connection: &mut Connection,
    stage: &Stage,
    key: &SdkKey,
    charge: Charge,
) -> Result<()> {
    let body = charge
        .usage
        .track_body(charge.reservation.as_deref(), charge.event_id.as_deref());
    let id = stage.record.lock().charge_sent(charge);
    let answer = connection.post_signed("/api/v1/track", key, &body).await?;
    if answer.status == 200 {
        stage.record.lock().charge_acknowledged(id);
    } else {
        stage.complain(format!("/track answered {}", answer.in_short()));
    }
    Ok(())
}

/// A batch in which some event may stand twice: it counts once.
async fn batch(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some(place) = stage.any_place(dice, |kind| kind == Kind::Open) else {
        return Ok(());
    };
    let charges: Vec<Charge> = (0..dice.between(1, BATCH_EVENTS))
        .map(|_| free(dice, &place.workflow, Route::Batch))
        .collect();
    let mut events: Vec<Value> = charges.iter().filter_map(event_of).collect();
    if dice.chance(25) {
        events.extend(events.first().cloned());
    }
    let ids: Vec<_> = {
        let mut record = stage.record.lock();
        charges
            .into_iter()
            .map(|charge| record.charge_sent(charge))
            .collect()
    };
    let answer = connection
        .post_signed(
            "/api/v1/track/batch",
            &place.key,
            &json!({"events": events}),
        )
        .await?;
    if answer.status != 200 {
        stage.complain(format!("/track/batch answered {}", answer.in_short()));
        return Ok(());
    }
    let accepted = answer.body["accepted_event_ids"]
        .as_array()
        .map_or(0, Vec::len);
    if accepted < ids.len() {
        stage.complain(format!(
            "a batch of {} had only {accepted} accepted: {}",
            ids.len(),
            answer.body
        ));
        return Ok(());
    }
    let mut record = stage.record.lock();
    for id in ids {
        record.charge_acknowledged(id);
    }
    Ok(())
}

async fn cancel(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((hold, key)) = claim(stage, dice) else {
        return Ok(());
    };
    let operation = &hold.ask.operation_id;
    stage.record.lock().cancel_sent(operation);
    let answer = connection
        .post_signed("/api/v1/cancel", &key, &cancel_body(&hold))
        .await?;
    if answer.status == 200 {
        stage.record.lock().cancel_acknowledged(operation);
    } else {
        stage.complain(format!("/cancel answered {}", answer.in_short()));
    }
    Ok(())
}

/// Reads a workflow under load: never over its cap, and what was shown as spent stays spent.
async fn look(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some(place) = stage.any_place(dice, |_| true) else {
        return Ok(());
    };
    let shown = stage.account.workflow(connection, &place.workflow).await?;
    let mut record = stage.record.lock();
    record.spent_seen(&place.workflow, shown.spent_nanos);
    let cap = record
        .workflows
        .get(&place.workflow)
        .and_then(|known| known.hard_cap_nanos);
    let used = shown.spent_nanos + shown.held_nanos;
    if let Some(cap) = cap.filter(|cap| used > *cap) {
        stage.complain(format!(
            "under load, workflow {} uses {used} nanos of a cap of {cap}",
            place.workflow
        ));
    }
    Ok(())
}

/// A proper refusal: a block at 200, or the overload answer of protocol 4.
fn refused(answer: &Answer) -> bool {
    answer.text("decision") == "block" && matches!(answer.status, 200 | 503)
}

fn claim(stage: &Stage, dice: &mut Dice) -> Option<(Hold, SdkKey)> {
    let mut record = stage.record.lock();
    let hold = record.claim_open_hold(dice, Instant::now())?;
    let key = record.key_of(&hold.workflow)?;
    Some((hold, key))
}

fn free(dice: &mut Dice, workflow: &str, route: Route) -> Charge {
    let identified = route == Route::Batch || dice.chance(80);
    Charge {
        event_id: identified.then(|| dice.uuid()),
        workflow: workflow.to_owned(),
        hold: None,
        reservation: None,
        usage: usage(dice, 10_000),
        route,
        certain: false,
    }
}

fn event_of(charge: &Charge) -> Option<Value> {
    Some(charge.usage.batch_event(charge.event_id.as_deref()?))
}

fn usage(dice: &mut Dice, most: u64) -> Usage {
    let mut tokens = || i64::try_from(dice.between(1, most)).unwrap_or(1);
    Usage {
        input: tokens(),
        output: tokens() / 10,
    }
}
