//! How holds and chains end: asked for, withdrawn because nobody got the answer, or by themselves when
//! their time is over, so many in a turn.

use super::{Engine, shard_of};
use crate::charge;
use crate::command::Ask;
use crate::directory::Directory;
use crate::limits;
use crate::shard::{OpenHold, Shard};
use persist::group_commit::Batch;
use persist::record::{Actor, ChainEnd, ChainEnded, EndReason, EventsSealed, Record};
use persist::{HoldId, OrgId};
use std::sync::atomic::Ordering;

/// Holds and chains that end by themselves are ended this many in a turn at most: bounds how long one
/// append can get, and how long a kill waits for it.
const EXPIRE_AT_ONCE: usize = 1024;

impl Engine {
    /// Ends holds and chains whose time is over, so many of them, and generations of events that are
    /// full. Runs before each turn's commands, so that no call is refused for money that an expired
    /// hold still binds; while there is a rest, such refusals wait ([`crate::command::When::Later`]).
    pub fn expire(&mut self, published: &Directory, batch: &mut Batch) -> persist::Result<()> {
        for record in self.mutations.due(self.now, batch)? {
            self.fold(&record);
        }
        let mut most = EXPIRE_AT_ONCE;
        for number in 0..self.shards.len() {
            most -= self.expire_holds(published, number, most, batch)?;
            most -= self.expire_chains(number, most, batch)?;
        }
        let has_due = most == 0;
        match (self.has_due, has_due) {
            (false, true) => _ = self.behind.fetch_add(1, Ordering::SeqCst),
            (true, false) => _ = self.behind.fetch_sub(1, Ordering::SeqCst),
            _ => {}
        }
        self.has_due = has_due;
        if self.pump == 0
            && let Some((number, keep_from)) = self.dedup.full()
        {
            let sealed = EventsSealed {
                at: self.now,
                number,
                keep_from,
            };
            self.emit(&Record::EventsSealed(sealed), batch)?;
        }
        Ok(())
    }

    /// Is more over than the last turn could end? Then the next should come at once.
    #[must_use]
    pub const fn has_due(&self) -> bool {
        self.has_due
    }

    /// Has any pump such a rest?
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst) > 0
    }

    fn expire_holds(
        &mut self,
        published: &Directory,
        number: usize,
        most: usize,
        batch: &mut Batch,
    ) -> persist::Result<usize> {
        let Some(Some(shard)) = self.shards.get_mut(number) else {
            return Ok(0);
        };
        let due = shard.holds.due(self.now, most);
        for id in &due {
            let shard = self.shards.get(number).and_then(Option::as_ref);
            if let Some(hold) = shard.and_then(|shard| shard.hold(*id)) {
                self.expired(published, &hold, batch)?;
            }
        }
        Ok(due.len())
    }

    fn expired(
        &mut self,
        published: &Directory,
        hold: &OpenHold,
        batch: &mut Batch,
    ) -> persist::Result<()> {
        let (reason, actor) = (EndReason::Expired, Actor::System);
        self.end(published, hold, reason, None, actor, batch)
    }

    fn expire_chains(
        &mut self,
        number: usize,
        most: usize,
        batch: &mut Batch,
    ) -> persist::Result<usize> {
        let Some(Some(shard)) = self.shards.get_mut(number) else {
            return Ok(0);
        };
        let idle = limits::CHAIN_IDLE_MILLIS;
        let silent = shard.chains.silent(self.now, idle, most);
        for chain in &silent {
            self.fell_silent(number, *chain, batch)?;
        }
        Ok(silent.len())
    }

    fn fell_silent(&mut self, shard: usize, chain: u128, batch: &mut Batch) -> persist::Result<()> {
        let shard = self.shards.get(shard).and_then(Option::as_ref);
        let owner = shard.and_then(|shard| shard.chain_owner(shard.chain(chain)?));
        let Some((org, workflow)) = owner else {
            return Ok(());
        };
        let ended = ChainEnded {
            at: self.now,
            org,
            workflow,
            chain,
            reason: ChainEnd::Idle,
            actor: Actor::System,
        };
        self.emit(&Record::ChainEnded(ended), batch)
    }

    /// Ends what a call names and is over, before the sweep comes to it: an operation, a hold or a
    /// chain that ran out is not there for it.
    pub(super) fn expire_named(
        &mut self,
        published: &Directory,
        ask: &Ask,
        batch: &mut Batch,
    ) -> persist::Result<()> {
        let slot = ask.workflow.slot(ask.org);
        let operation = ask.operation.map(|operation| operation.key);
        let of = |shard: &Shard| shard.holds.bound_to(operation?);
        let bound = self.part(slot).and_then(of);
        for id in [bound, ask.reservation].into_iter().flatten() {
            // The second is not open any more if it was the first.
            let hold = self.part(id.slot()).and_then(|shard| shard.hold(id));
            if let Some(hold) = hold.filter(|hold| hold.expires_at <= self.now) {
                self.expired(published, &hold, batch)?;
            }
        }
        if let Some(chain) = ask.chain.as_ref().map(|chain| chain.key)
            && let Some(shard) = self.part(slot)
            && shard
                .chain(chain)
                .is_some_and(|chain| chain.is_silent(self.now))
        {
            let number = usize::from(shard_of(slot, self.settings.shards));
            self.fell_silent(number, chain, batch)?;
        }
        Ok(())
    }

    /// Ends a hold of this org if it is open here; returns it as it was.
    #[expect(
        clippy::too_many_arguments,
        reason = "who ends what, why, and where it is noted"
    )]
    pub(super) fn end_of(
        &mut self,
        published: &Directory,
        org: OrgId,
        hold: HoldId,
        reason: EndReason,
        note: Option<&str>,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<Option<OpenHold>> {
        let hold = self.part(hold.slot()).and_then(|shard| shard.hold(hold));
        let Some(hold) = hold.filter(|hold| hold.org == org) else {
            return Ok(None);
        };
        self.end(published, &hold, reason, note, actor, batch)?;
        Ok(Some(hold))
    }

    fn end(
        &mut self,
        published: &Directory,
        hold: &OpenHold,
        reason: EndReason,
        note: Option<&str>,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<()> {
        let ended = charge::end(self.now, hold, reason, note, actor);
        self.emit(&Record::HoldEnded(ended), batch)?;
        if let Some(org) = published.org(hold.org) {
            self.pending.release(&org.shared, hold.day, hold.left);
        }
        let key = published.key(hold.key);
        if let Some(shared) = key.and_then(|key| key.shared.as_ref()) {
            self.pending.release(shared, hold.day, hold.left);
        }
        #[cfg(debug_assertions)]
        if self.mutations.keeps_ended_holds()
            && let Some(shard) = self.part_mut(hold.id.slot())
        {
            shard.open_again(hold);
        }
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        published: &Directory,
        id: HoldId,
        batch: &mut Batch,
    ) -> persist::Result<()> {
        let Some(shard) = self.part_mut(id.slot()) else {
            return Ok(());
        };
        let unclaimed = shard.holds.get_mut(id).is_some_and(|hold| {
            hold.claims = hold.claims.saturating_sub(1);
            hold.claims == 0
        });
        if unclaimed && let Some(hold) = shard.hold(id) {
            let (reason, actor) = (EndReason::Withdrawn, Actor::System);
            self.end(published, &hold, reason, None, actor, batch)?;
        }
        Ok(())
    }
}
