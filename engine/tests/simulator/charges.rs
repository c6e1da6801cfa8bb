//! Which events were counted, for the reference: by the report (its span) and by the event's own id,
//! in generations as the log's seals divide them.

use super::violation::Invariant::CountsOnce;
use super::violation::{Check, ensure};
use persist::record::EventsSealed;
use persist::{Lsn, Nanos};
use std::collections::BTreeMap;

/// Generations that the engine's memory of events is divided into.
const GENERATIONS: u64 = 8;

/// One charge.
#[derive(Debug, Clone, Copy)]
pub struct Charge {
    /// Where it stands for the first time.
    pub lsn: Lsn,
    pub cost: Nanos,
}

#[derive(Debug, Default)]
pub struct Charges {
    by_span: BTreeMap<String, Charge>,
    /// The first charge of each event id, and the generation of its last.
    by_event: BTreeMap<u128, (Lsn, u64)>,
    /// Ids in each generation; the last is open.
    sizes: Vec<u64>,
    keep_from: u64,
    /// How many ids the engine remembers.
    pub capacity: u64,
    /// Events that were charged again, long after.
    pub forgotten: u64,
}

impl Charges {
    pub fn of_span(&self, span: &str) -> Option<Charge> {
        self.by_span.get(span).copied()
    }

    pub fn of_event(&self, event: u128) -> Option<Lsn> {
        self.by_event.get(&event).map(|(lsn, _)| *lsn)
    }

    fn open(&self) -> u64 {
        (self.sizes.len() as u64).saturating_sub(1)
    }

    /// Adds a charge; false if it must not be there again: an event counts anew only once the seals
    /// in the log have made everybody forget the generation it was counted in.
    pub fn add(&mut self, span: &str, event: Option<u128>, charge: Charge) -> bool {
        let open = self.open();
        if self.sizes.is_empty() {
            self.sizes.push(0);
        }
        let reported = self.by_span.insert(span.to_owned(), charge);
        let Some(event) = event else {
            return reported.is_none();
        };
        if let Some(size) = self.sizes.last_mut() {
            *size += 1;
        }
        let known = self.by_event.entry(event).or_insert((charge.lsn, open));
        if known.0 == charge.lsn {
            return true;
        }
        self.forgotten += 1;
        std::mem::replace(&mut known.1, open) < self.keep_from
    }

    /// A generation is closed. `exact`: one pump counts alone, so what was counted before the seal is
    /// exactly what stands before it; with several, counts that were on their way to the log while
    /// the first pump looked stand on the other side of it.
    pub fn seal(&mut self, sealed: &EventsSealed, exact: bool) -> Check {
        let open = self.open();
        let next = sealed.number == open && (self.keep_from..=open).contains(&sealed.keep_from);
        let kept = |from: u64| self.sizes.iter().skip(from as usize).sum::<u64>();
        let least = self.capacity / GENERATIONS;
        let most = self.capacity - least;
        let full = self.sizes.last().is_some_and(|size| *size >= least);
        // Nothing is forgotten that there is room for, and no more is kept than there is room for.
        let forgets = sealed.keep_from > self.keep_from;
        let needed = !forgets || kept(sealed.keep_from - 1) > most;
        let enough = sealed.keep_from == open || kept(sealed.keep_from) <= most;
        let sizes = !exact || (full && needed && enough);
        ensure(next && sizes, CountsOnce, || {
            let (sizes, kept) = (&self.sizes, self.keep_from);
            format!("{sealed:?}, the generations from 0 have {sizes:?} events, kept from {kept}")
        })?;
        self.keep_from = sealed.keep_from;
        self.sizes.push(0);
        Ok(())
    }
}
