//! What happened, booked: every reported event is stored once, and what it cost is charged whatever
//! the state of the workflow, the hold or the budget (invariant 6). What does not fit is debt.

use crate::command::{Reported, Track, Tracked};
use crate::decide::Context;
use crate::shard::OpenHold;
use persist::record::{Actor, ChargeFlags, Charged, EndReason, Event, HoldEnded, State};
use persist::{Millis, Nanos};

/// What one event does.
#[derive(Debug)]
pub enum Booking<'a> {
    /// It was counted before.
    Duplicate(Tracked),
    /// It is stored, and its cost booked.
    Booked(Charged<'a>, Tracked),
}

/// What another pump may have a say in.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The hold it is booked against, if one it names is open.
    pub hold: Option<&'a OpenHold>,
    /// Was it counted before?
    pub counted: bool,
}

/// Books one event.
#[must_use]
pub fn book<'a>(
    context: &Context<'_>,
    track: &Track,
    event: &'a Reported,
    place: Place<'_>,
) -> Booking<'a> {
    let hold = place.hold;
    let workflow = hold.map_or(event.workflow, |hold| hold.workflow);
    let state = context
        .shard
        .workflow(workflow)
        .map_or(State::Normal, |workflow| workflow.standing().state);
    let quote = context.quote(event.model.as_deref(), event.provider.as_deref());
    let cost = quote.cost(&event.tokens);
    let provisional = quote.guesses(&event.tokens) && cost > Nanos::ZERO;
    if place.counted {
        let tracked = Tracked {
            duplicate: true,
            cost: Nanos::ZERO,
            provisional,
            overage: None,
            workflow,
            state,
        };
        return Booking::Duplicate(tracked);
    }
    let from_hold = hold.map_or(Nanos::ZERO, |hold| hold.left.min(cost));
    let overage = hold.map(|_| cost - from_hold);
    let named_a_hold = event.holds.first().is_some_and(Option::is_some);
    let flags = [
        (ChargeFlags::PROVISIONAL, provisional),
        (
            ChargeFlags::OVERAGE,
            overage.is_some_and(Nanos::is_positive),
        ),
        (ChargeFlags::NO_HOLD, named_a_hold && hold.is_none()),
        (
            ChargeFlags::NOT_NORMAL,
            !matches!(state, State::Normal | State::Flagged),
        ),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .fold(ChargeFlags::default(), |flags, (flag, _)| flags.with(flag));
    let charged = Charged {
        at: context.now,
        org: track.org,
        workflow,
        key: track.key,
        payer: hold.map_or(track.key, |hold| hold.key),
        hold: hold.map(|hold| hold.id),
        day: hold.map_or(context.calendar.today, |hold| hold.day),
        cost,
        from_hold,
        flags,
        price: quote.version,
        event_key: event.event_key,
        event: record(event),
    };
    let tracked = Tracked {
        duplicate: false,
        cost,
        provisional,
        overage,
        workflow,
        state,
    };
    Booking::Booked(charged, tracked)
}

/// The end of an open hold.
#[must_use]
pub const fn end<'a>(
    at: Millis,
    hold: &OpenHold,
    reason: EndReason,
    note: Option<&'a str>,
    actor: Actor,
) -> HoldEnded<'a> {
    HoldEnded {
        at,
        org: hold.org,
        workflow: hold.workflow,
        key: hold.key,
        hold: hold.id,
        day: hold.day,
        released: hold.left,
        reason,
        note,
        actor,
    }
}

fn record(event: &Reported) -> Event<'_> {
    Event {
        kind: &event.kind,
        event_id: event.event_id.as_deref(),
        model: event.model.as_deref(),
        provider: event.provider.as_deref(),
        tokens: event.tokens,
        tool: event.tool.as_deref(),
        trace_id: event.trace_id.as_deref(),
        span_id: event.span_id.as_deref(),
        parent_span_id: event.parent_span_id.as_deref(),
        execution_id: event.execution_id.as_deref(),
        label: event.label.as_deref(),
        agent_id: event.agent_id.as_deref(),
        latency_ms: event.latency_ms,
        error: event.error.as_deref(),
    }
}
