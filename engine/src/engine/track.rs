//! Reports: every event of a command is booked, or all of them are put off while another pump counts
//! one of them.

use super::Engine;
use crate::charge::{self, Booking, Place};
use crate::command::{Outcome, Reported, Track, Tracked, TrackedList, When};
use crate::dedup::Known;
use crate::directory::Directory;
use persist::HoldId;
use persist::group_commit::Batch;
use persist::record::{Actor, EndReason, Record};

impl Engine {
    pub(super) fn track_all(
        &mut self,
        published: &Directory,
        track: &Track,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        // Before anything is booked: all of it is done, or put off.
        let mut keys = track.events.iter().filter_map(|event| event.event_key);
        if self.pending.is_together() && !self.pending.claim(&self.dedup, self.pump, &mut keys) {
            return Ok((Outcome::Done, When::Again));
        }
        let mut tracked = TrackedList::with_capacity(track.events.len());
        for event in &track.events {
            tracked.push(self.track(published, track, event, batch)?);
        }
        self.pending.give_back_unused(&self.dedup);
        Ok((Outcome::Tracked(tracked), When::Durable))
    }

    /// Books one event; `None` if it belongs to another pump.
    fn track(
        &mut self,
        published: &Directory,
        track: &Track,
        event: &Reported,
        batch: &mut Batch,
    ) -> persist::Result<Option<Tracked>> {
        let claimed = event
            .event_key
            .filter(|key| self.pending.take_claimed(*key));
        let named = || event.named_holds().filter(|_| !event.elsewhere);
        let here = |id: &HoldId| self.part(id.slot()).is_some();
        let hold = named().filter(here).find_map(|id| {
            let hold = self.part(id.slot())?.hold(id)?;
            (hold.org == track.org).then_some(hold)
        });
        let workflow = hold.map_or(event.workflow, |hold| hold.workflow);
        let shard = self.shard_with(track.org, workflow);
        let Some(shard) = shard.filter(|_| named().all(|id| here(&id))) else {
            if let Some(key) = claimed {
                self.pending.not_used(key);
            }
            return Ok(None);
        };
        let known = |key| self.dedup.known(key, self.pump) != Known::New;
        let counted = claimed.is_none() && event.event_key.is_some_and(known);
        let place = Place {
            hold: hold.as_ref(),
            counted,
        };
        let context = self.context(published, shard);
        let tracked = match charge::book(&context, track, event, place) {
            Booking::Duplicate(tracked) => tracked,
            Booking::Booked(charged, tracked) => {
                if charged.cost.is_positive() {
                    let (day, cost, held) = (charged.day, charged.cost, charged.from_hold);
                    if let Some(org) = published.org(track.org) {
                        org.shared.money.charge(day, cost, held);
                        org.shared.spent(self.now, cost);
                    }
                    let payer = published.key(charged.payer);
                    if let Some(shared) = payer.and_then(|key| key.shared.as_ref()) {
                        shared.money.charge(day, cost, held);
                    }
                }
                self.emit(&Record::Charged(charged), batch)?;
                tracked
            }
        };
        // After the charge: what the span itself cost comes off the hold first.
        if let Some(ends) = event.ends {
            let (reason, actor) = (EndReason::SpanEnd, Actor::Key(track.key));
            self.end_of(published, track.org, ends, reason, None, actor, batch)?;
        }
        Ok(Some(tracked))
    }
}
