//! Where decisions stand, and what they saw. One pump decides with everything that stands before
//! its record in the log, and nothing else. Of several pumps, each decides with what was appended
//! when it looked, what it has decided itself since its last append, and what the others have
//! decided and not appended yet.
//!
//! The simulator knows when each decision was taken, so the first two are exact. The third is on its
//! way: it can only tighten (`docs/architecture.md`, "tighten before append, loosen after append"),
//! and by no more than the turns that were under way then brought into the log.

use super::books::{Books, Entry, Sums, Terms};
use super::spec::first_day;
use engine::engine::about;
use persist::record::{Arithmetic, Call, Record, Scope};
use persist::{Day, KeyId, Lsn, Nanos, OrgId, WorkflowId};

/// What a decision was taken with.
#[derive(Debug, Default)]
pub struct Place {
    /// The last record that was appended.
    pub seen: Lsn,
    /// The first record of the decision's own turn.
    pub first: Lsn,
    /// What turns under way brought into the log later.
    pub flights: Vec<Flight>,
    /// How often it was taken: a refusal that met another pump's release is taken anew.
    pub attempts: u32,
}

/// Money that was on its way: taken, or released and not yet visible to others.
#[derive(Debug, Clone, Copy)]
pub struct Flight {
    entry: Entry,
    loosens: bool,
    /// A call that was allowed.
    minted: bool,
}

impl Flight {
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let (day, key, amount) = match record {
            Record::HoldMinted(minted) => (minted.day, minted.call.key, minted.amount),
            Record::Charged(charged) => (charged.day, charged.payer, charged.cost),
            Record::HoldEnded(ended) => (ended.day, ended.key, ended.released),
            _ => return None,
        };
        let (org, workflow): (OrgId, WorkflowId) = about(record).1?;
        let whose: (OrgId, WorkflowId, KeyId) = (org, workflow, key);
        let entry = Entry {
            lsn: Lsn::ZERO,
            whose,
            day,
            spent: Nanos::ZERO,
            held: amount,
            terms: None,
        };
        Some(Self {
            entry,
            loosens: matches!(record, Record::HoldEnded(_)),
            minted: matches!(record, Record::HoldMinted(_)),
        })
    }

    /// May it be an execution of this org?
    pub fn may_count(&self, org: OrgId) -> bool {
        self.minted && self.entry.concerns(Scope::Org, org.0)
    }
}

impl Place {
    /// A decision that saw all before it.
    pub fn alone(lsn: Lsn) -> Self {
        Self {
            seen: Lsn(lsn.0 - 1),
            first: lsn,
            flights: Vec::new(),
            attempts: 1,
        }
    }
}

/// A cap as a decision saw it.
#[derive(Debug)]
pub struct Cap {
    pub figures: Arithmetic,
    /// By how much more it may have been taken than `figures` say.
    pub slack: Nanos,
    /// The part of that which tightens.
    pub tighter: Nanos,
    /// What others put before this decision's record after it was taken, and what they were let do
    /// under the same terms: by that the cap may not be passed either.
    others: Nanos,
}

impl Cap {
    pub fn new(
        mut figures: Arithmetic,
        id: u128,
        first: Day,
        books: &Books,
        place: &Place,
        call: &Call<'_>,
        in_chain: bool,
    ) -> Self {
        debug_assert_eq!(first, first_day(figures.period, Day::of(call.at)));
        let scope = figures.scope;
        let concerns = |entry: &Entry| entry.concerns(scope, id) && entry.day >= first;
        let (mut sums, mut others) = (books.since(scope, id, first), Nanos::ZERO);
        let later = books.behind(place.seen);
        for entry in later.filter(|entry| entry.lsn < place.first && concerns(entry)) {
            sums.spent -= entry.spent;
            sums.held -= entry.held;
            if !may_pass(entry, call, in_chain) {
                others += entry.spent + entry.held;
            }
        }
        let flights = place.flights.iter();
        let flights = flights.filter(|flight| concerns(&flight.entry));
        let tighten = flights.clone().filter(|flight| !flight.loosens);
        let Sums { spent, held } = sums;
        (figures.spent, figures.held) = (spent, held);
        Self {
            figures,
            slack: flights.map(|flight| flight.entry.held).sum(),
            tighter: tighten.map(|flight| flight.entry.held).sum(),
            others,
        }
    }

    /// What it leaves.
    pub fn left(&self) -> Nanos {
        left(&self.figures)
    }

    /// What it leaves at the decision's place in the log.
    pub fn left_in_log(&self) -> Nanos {
        self.left() - self.others
    }

    /// Is this how the decision may have seen it?
    pub fn is_seen_as(&self, said: &Arithmetic) -> bool {
        let due = &self.figures;
        let set = |a: &Arithmetic| (a.scope, a.period, a.cap, a.overdraft);
        if self.slack == Nanos::ZERO {
            return set(due) == set(said) && (due.spent, due.held) == (said.spent, said.held);
        }
        let within = |due: Nanos, said: Nanos| due <= said && said <= due + self.slack;
        set(due) == set(said)
            && within(due.spent, said.spent)
            && within(due.spent + due.held, said.spent + said.held)
    }
}

/// What a cap leaves.
pub fn left(figures: &Arithmetic) -> Nanos {
    figures.cap + figures.overdraft - figures.spent - figures.held
}

/// May this entry, decided after a call and appended before it, go beyond the call's cap? A charge
/// beyond its hold may: it is nobody's to refuse. So may a call that stood under other terms: other
/// rules, another day, or a chain's overdraft.
fn may_pass(entry: &Entry, call: &Call<'_>, in_chain: bool) -> bool {
    match entry.terms {
        None => (entry.spent + entry.held).is_positive(),
        Some(Terms {
            rules,
            today,
            in_chain: others,
        }) => rules != call.rules || today != Day::of(call.at) || (others && !in_chain),
    }
}
