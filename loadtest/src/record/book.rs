//! Holds and charges in the record, and the bounds that follow from them.

use std::time::{Duration, Instant};

use crate::wire::{Ask, HOLD_LIFETIME_SECS, Usage};

/// How far from its nominal expiry a hold may be counted either way: reading a ledger takes time, and the gateway
/// stamps a hold somewhere between the request's first byte and the answer's last.
const EXPIRY_MARGIN: Duration = Duration::from_secs(20);
const LIFETIME: Duration = Duration::from_secs(HOLD_LIFETIME_SECS);
/// A request without an answer reached the gateway within this time or not at all.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);

/// Number of a charge in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChargeId(pub(super) u64);

/// The route a charge takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `POST /track`.
    Track,
    /// One event of a `POST /track/batch`.
    Batch,
}

/// A charge that was sent.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Makes it count once however often it is sent; without one every send counts.
    pub event_id: Option<String>,
    /// The workflow it is booked on.
    pub workflow: String,
    /// Operation id of the hold it is booked on, if any.
    pub hold: Option<String>,
    /// That hold's reservation id.
    pub reservation: Option<String>,
    /// Tokens; the price follows.
    pub usage: Usage,
    /// How it was sent.
    pub route: Route,
    /// True once acknowledged.
    pub certain: bool,
}

/// What is known about the end of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEnd {
    /// Nobody ended it.
    Open,
    /// A cancel was sent and not answered.
    InDoubt,
    /// A cancel was acknowledged.
    Ended,
}

/// A hold: in doubt until it has a reservation.
#[derive(Debug, Clone)]
pub struct Hold {
    /// The question, to be asked again identically.
    pub ask: Ask,
    /// Whose cap it counts against.
    pub workflow: String,
    /// `None` while no answer came.
    pub reservation: Option<String>,
    /// Charges booked on it for certain, in nano-dollars.
    pub charged: i64,
    /// Charges that may be booked on it, in nano-dollars.
    pub charged_in_doubt: i64,
    /// Its end.
    pub end: HoldEnd,
    /// A worker is using it.
    pub claimed: bool,
    pub(super) sent: Instant,
    pub(super) answered: Option<Instant>,
}

impl Hold {
    pub(super) fn in_doubt(workflow: &str, ask: Ask, sent: Instant) -> Self {
        Self {
            ask,
            workflow: workflow.to_owned(),
            reservation: None,
            charged: 0,
            charged_in_doubt: 0,
            end: HoldEnd::Open,
            claimed: false,
            sent,
            answered: None,
        }
    }

    /// What is left of it if everything in doubt has happened; never negative.
    pub fn least_left_nanos(&self) -> i64 {
        (self.ask.hold_nanos() - self.charged - self.charged_in_doubt).max(0)
    }

    /// What is left of it if nothing in doubt has happened; never negative.
    pub fn most_left_nanos(&self) -> i64 {
        (self.ask.hold_nanos() - self.charged).max(0)
    }

    fn may_have_expired(&self, now: Instant) -> bool {
        now + EXPIRY_MARGIN > self.sent + LIFETIME
    }

    fn has_expired(&self, now: Instant) -> bool {
        let decided_by = self.answered.unwrap_or(self.sent + LONGEST_REQUEST);
        now > decided_by + LIFETIME + EXPIRY_MARGIN
    }

    /// Acknowledged, with nothing in doubt, something left, and far from its expiry: asking again must return it.
    pub fn is_plainly_open(&self, now: Instant) -> bool {
        self.reservation.is_some()
            && self.end == HoldEnd::Open
            && self.charged_in_doubt == 0
            && self.most_left_nanos() > 0
            && !self.may_have_expired(now)
    }

    /// Ended for certain, so it holds nothing any more.
    pub fn is_over(&self, now: Instant) -> bool {
        self.end == HoldEnd::Ended || self.has_expired(now)
    }
}

/// What a workflow's ledger must show at least and may show at most, in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Acknowledged charges.
    pub least_spent: i64,
    /// Those, and all in doubt.
    pub most_spent: i64,
    /// What is certainly held.
    pub least_held: i64,
    /// What may be held.
    pub most_held: i64,
}

impl Bounds {
    pub(super) fn starting_at(spent: i64) -> Self {
        Self {
            least_spent: spent,
            most_spent: spent,
            least_held: 0,
            most_held: 0,
        }
    }

    pub(super) fn add_charge(&mut self, charge: &Charge) {
        self.most_spent += charge.usage.nanos();
        if charge.certain {
            self.least_spent += charge.usage.nanos();
        }
    }

    pub(super) fn add_hold(&mut self, hold: &Hold, now: Instant) {
        if hold.is_over(now) {
            return;
        }
        self.most_held += hold.most_left_nanos();
        let certainly_held =
            hold.reservation.is_some() && hold.end == HoldEnd::Open && !hold.may_have_expired(now);
        if certainly_held {
            self.least_held += hold.least_left_nanos();
        }
    }
}
