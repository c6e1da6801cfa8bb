//! What is checked after every step.

use super::World;
use crate::compare;
use crate::violation::Invariant::{AcknowledgedStays, HoldEndsOnce, SameLogSameState};
use crate::violation::{Check, ensure};
use engine::Engine;
use engine::engine::about;
use persist::Day;
use persist::ids::{SLOTS, Slot};
use persist::record::Record;
use std::cell::Ref;
use std::ops::RangeInclusive;

impl World {
    pub(super) fn check(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        // Whoever signs in reads this directory without asking.
        let published = live.publisher.load().lsn;
        let durable = published <= self.ledger.lsn && published >= self.promises.rules;
        ensure(durable, AcknowledgedStays, || {
            let (promised, lsn) = (self.promises.rules, self.ledger.lsn);
            format!(
                "the published directory is that of {published}; {promised} was acknowledged, \
                 {lsn} is durable"
            )
        })?;
        if live.wal.borrow().appended_lsn() != self.ledger.lsn {
            return Ok(());
        }
        self.counts.records = self.ledger.lsn.0;
        let pumps: Vec<_> = live.pumps.iter().map(|pump| pump.borrow()).collect();
        let engines: Vec<_> = pumps.iter().map(|pump| pump.engine()).collect();
        self.compare(&engines)?;
        for pump in 0..engines.len() {
            compare::on_time(live.swept(pump), &self.ledger, pump)?;
        }
        if self.looks_inside() {
            let today = engines.iter().map(|engine| Day::of(engine.now())).max();
            let published = live.publisher.load();
            compare::shared(&published, &self.ledger, today.unwrap_or_default())?;
        }
        let at_rest = live.is_at_rest();
        for (id, hold) in self.ledger.books.open() {
            let promised = self.ledger.delivered.contains(id) || hold.minted <= self.ledger.began;
            ensure(promised || !at_rest, HoldEndsOnce, || {
                format!("{id} is held for nobody: its answer was never delivered")
            })?;
        }
        drop(engines);
        drop(pumps);
        if self.rng.chance(2) {
            self.check_hash()?;
        }
        Ok(())
    }

    /// Is the engines' inside looked at? Not while a defect is on: it has to show outside, in the
    /// log and in the answers.
    pub(super) const fn looks_inside(&self) -> bool {
        self.trial.defect.is_none()
    }

    pub(super) fn compare(&self, engines: &[&Engine]) -> Check {
        if !self.looks_inside() {
            return Ok(());
        }
        if let Some(directory) = engines.first().and_then(|first| first.directory()) {
            compare::directory(directory, &self.ledger)?;
        }
        compare::compare(engines, &self.ledger)
    }

    /// The state of each running pump is the log, folded.
    pub(super) fn check_hash(&self) -> Check {
        let Some(live) = self.live().filter(|_| self.looks_inside()) else {
            return Ok(());
        };
        let wal = live.wal.borrow();
        for (number, pump) in live.pumps.iter().enumerate() {
            let pump: Ref<'_, _> = pump.borrow();
            let engine = pump.engine();
            // A pump with a part of the shards knows the time of its own records only.
            let ours = |record: &Record<'_>| {
                let of = about(record).1;
                of.map_or(number == 0, |(org, id)| {
                    self.layout.pump_of(id.slot(org)) == number
                })
            };
            let mut folded = self.folded(&wal.appended, ours)?;
            folded.advance(engine.now());
            let slots = self.slots(number);
            let rows = engine
                .slots_part(slots.clone())
                .map(|rows| rows.to_vec())
                .ok();
            let same = rows == folded.slots_part(slots).map(|rows| rows.to_vec()).ok();
            let people = engine.directory_part().map(|rows| rows.to_vec()).ok();
            let same = same
                && (number != 0
                    || people == folded.directory_part().map(|rows| rows.to_vec()).ok());
            ensure(same, SameLogSameState, || {
                format!("the state of pump {number} is not the log folded")
            })?;
        }
        // Which generation an event is in is exact with one pump only: see `charges.rs`.
        let whole = self.folded(&wal.appended, |_| true)?;
        let first = live.pumps.first().map(|pump| pump.borrow());
        let numbers = first.map(|pump| pump.engine().dedup().numbers());
        let same = numbers.is_none_or(|numbers| numbers == whole.dedup().numbers());
        ensure(same, SameLogSameState, || {
            format!("the generations of events are {numbers:?}, the log has others")
        })
    }

    /// The slots of a pump: a row.
    fn slots(&self, pump: usize) -> RangeInclusive<Slot> {
        let own = |slot: &u16| self.layout.pump_of(Slot(*slot)) == pump;
        let first = (0..SLOTS).find(own).unwrap_or(0);
        let last = (0..SLOTS).rev().find(own).unwrap_or(0);
        Slot(first)..=Slot(last)
    }
}
