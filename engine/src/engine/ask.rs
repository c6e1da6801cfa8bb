//! Calls that ask: decided, their amount taken of the shared figures, the record emitted. What met
//! another pump is put off.

use super::{Engine, refused};
use crate::cell::{self, Full};
use crate::code::Code;
use crate::command::{Ask, Block, Decision, Outcome, Verdict, When};
use crate::decide::{self, Decided, Effect, Mark, Mint};
use crate::directory::Directory;
use crate::note::Noted;
use crate::shard::Shard;
use crate::shared::{ONE, Shared};
use persist::HoldId;
use persist::group_commit::Batch;
use persist::record::{
    Actor, Call, Cause, ChainEnd, ChainEnded, Endpoint, HoldMinted, HoldUsed, Record, Refused,
    State, WorkflowStateChanged,
};
use std::sync::Arc;

/// How often a decision that met another pump's is taken anew before it is final.
const ATTEMPTS: u32 = 3;

impl Engine {
    pub(super) fn ask(
        &mut self,
        published: &Directory,
        ask: &Ask,
        attempt: u32,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        // Before the sums are read: what ends meanwhile may have made a refusal wrong.
        let behind = self.is_behind();
        if self.has_due {
            self.expire_named(published, ask, batch)?;
        }
        let slot = ask.workflow.slot(ask.org);
        let Some(meters) = self.part_mut(slot).map(|s| std::mem::take(&mut s.meters)) else {
            let why = "the call was sent to another shard than its workflow's";
            let refused = refused(Code::InternalError, why, None);
            return Ok((Outcome::Decision(refused), When::Now));
        };
        let mut meters = meters;
        let decided = self
            .part(slot)
            .map(|shard| self.decide(published, shard, &mut meters, ask, attempt));
        if let Some(shard) = self.part_mut(slot) {
            shard.meters = meters;
        }
        let Some(Decided {
            decision,
            effect,
            mark,
            ..
        }) = decided
        else {
            let refused = refused(Code::InternalError, "this shard is gone", None);
            return Ok((Outcome::Decision(refused), When::Now));
        };
        // Also when the call is put off: it is counted, and will not be counted again.
        if let Some(mark) = &mark {
            self.mark(ask, mark, batch)?;
        }
        if behind && decision.wants_money() {
            return Ok((Outcome::Decision(decision), When::Later));
        }
        if matches!(effect, Effect::Contended) && attempt < ATTEMPTS {
            return Ok((Outcome::Decision(decision), When::Again));
        }
        let when = self.carry_out(published, ask, &decision, effect, batch)?;
        Ok((Outcome::Decision(decision), when))
    }

    /// Decides, and takes what is to be held from the shared figures.
    fn decide(
        &self,
        published: &Directory,
        shard: &Shard,
        meters: &mut crate::meter::Meters,
        ask: &Ask,
        attempt: u32,
    ) -> Decided {
        let context = self.context(published, shard);
        let mut decided = decide::decide(&context, meters, ask, attempt > 0);
        for _ in 0..ATTEMPTS {
            let Effect::Mint(mint) = &decided.effect else {
                return decided;
            };
            if self.take(published, ask, mint) {
                return decided;
            }
            let first = decided;
            decided = decide::decide(&context, meters, ask, true);
            decided.mark = first.mark;
            let again = &mut decided.decision.notes;
            for noted in first.decision.notes.into_iter().filter(Noted::is_counted) {
                if !again.iter().any(|one| one.policy.id == noted.policy.id) {
                    again.push(noted);
                }
            }
        }
        let why = "too many calls want the same budget at once; ask again";
        let refused = refused(Code::Overloaded, why, Some(100));
        Decided {
            decision: Decision {
                notes: decided.decision.notes,
                ..refused
            },
            effect: Effect::Contended,
            mark: decided.mark,
            asked: decided.asked,
        }
    }

    /// Takes of all shared figures of the org and the key what a call adds to them, or of none.
    fn take(&self, published: &Directory, ask: &Ask, mint: &Mint) -> bool {
        let today = self.calendar.today;
        let Some(org) = published.org(ask.org) else {
            return false;
        };
        let key = published.key(ask.key).and_then(|key| key.shared.as_ref());
        let executions = mint.executions.as_ref().map(std::slice::from_ref);
        let taken = match executions {
            None => self.take_money(&org.shared, key, mint),
            Some(limits) => {
                let cell = org.shared.executions();
                cell::take_both(
                    cell.moving(),
                    0,
                    |own| cell.take(today, ONE, own, limits),
                    || self.take_money(&org.shared, key, mint),
                    || cell.release(today, ONE),
                )
            }
        };
        if taken.is_ok() && mint.counts {
            org.shared.executed(today, executions.is_some());
            if let Some(key) = key {
                key.executed(today, false);
            }
        }
        taken.is_ok()
    }

    /// Takes an amount of the org's and the key's caps, or of neither.
    fn take_money(
        &self,
        org: &Arc<Shared>,
        key: Option<&Arc<Shared>>,
        mint: &Mint,
    ) -> Result<(), Full> {
        let (today, amount) = (self.calendar.today, mint.amount);
        let own = self.pending.own(org);
        let Some(key) = key else {
            return org.money.take(today, amount, own, &mint.org);
        };
        let (first, second) = (&org.money, &key.money);
        cell::take_both(
            first.moving(),
            own,
            |own| first.take(today, amount, own, &mint.org),
            || second.take(today, amount, self.pending.own(key), &mint.key),
            || first.release(today, amount),
        )
    }

    fn mark(&mut self, ask: &Ask, mark: &Mark, batch: &mut Batch) -> persist::Result<()> {
        let live = self
            .shard_with(ask.org, ask.workflow)
            .and_then(|shard| shard.workflow(ask.workflow));
        let (from, version) = live.map_or((State::Normal, 0), |live| {
            let standing = live.standing();
            (standing.state, standing.version)
        });
        // A flag does not undo a stop, and a mark that is there is not made again.
        if from == mark.to || !matches!(from, State::Normal | State::Flagged) {
            return Ok(());
        }
        let changed = WorkflowStateChanged {
            at: self.now,
            org: ask.org,
            workflow: ask.workflow,
            version: version + 1,
            from,
            to: mark.to,
            reason: Some(&mark.reason),
            actor: Actor::System,
        };
        self.emit(&Record::WorkflowState(changed), batch)
    }

    fn carry_out(
        &mut self,
        published: &Directory,
        ask: &Ask,
        decision: &Decision,
        effect: Effect,
        batch: &mut Batch,
    ) -> persist::Result<When> {
        let call = self.call(published, ask);
        let notes = || decision.notes.iter().map(Noted::to_record).collect();
        match effect {
            Effect::Mint(mint) => {
                let minted = HoldMinted {
                    call,
                    budget: mint.budget,
                    hold: ask.new_hold,
                    amount: mint.amount,
                    expires_at: self.now.plus(self.settings.hold_millis),
                    day: self.calendar.today,
                    operation: ask.operation,
                    chain: mint.chain,
                    notes: notes(),
                };
                self.emit(&Record::HoldMinted(minted), batch)?;
                Ok(When::Durable)
            }
            Effect::Use(hold, chain) => {
                self.claim(hold);
                let used = HoldUsed {
                    call,
                    hold,
                    operation: ask.operation,
                    chain,
                    notes: notes(),
                };
                self.emit(&Record::HoldUsed(used), batch)?;
                Ok(When::Durable)
            }
            Effect::EndChain(chain) => {
                let ended = ChainEnded {
                    at: self.now,
                    org: ask.org,
                    workflow: ask.workflow,
                    chain,
                    reason: ChainEnd::Asked,
                    actor: Actor::Key(ask.key),
                };
                self.emit(&Record::ChainEnded(ended), batch)?;
                Ok(When::Durable)
            }
            Effect::Nothing => {
                if let Verdict::Allow {
                    hold: Some(hold), ..
                } = decision.verdict
                {
                    self.claim(hold);
                }
                Ok(When::Durable)
            }
            Effect::Refuse | Effect::Contended => {
                if ask.endpoint != Endpoint::Check
                    && let Verdict::Block(block) = &decision.verdict
                {
                    let cause = cause(block);
                    let notes = notes();
                    self.emit(&Record::Refused(Refused { call, cause, notes }), batch)?;
                }
                Ok(When::Now)
            }
        }
    }

    fn claim(&mut self, hold: HoldId) {
        let shard = self.part_mut(hold.slot());
        if let Some(hold) = shard.and_then(|shard| shard.holds.get_mut(hold)) {
            hold.claims = hold.claims.saturating_add(1);
        }
    }

    fn call<'a>(&self, published: &Directory, ask: &'a Ask) -> Call<'a> {
        Call {
            at: self.now,
            org: ask.org,
            workflow: ask.workflow,
            key: ask.key,
            endpoint: ask.endpoint,
            protocol: ask.protocol.number(),
            rules: published.lsn,
            operation_id: ask.operation_id.as_deref(),
            execution_id: ask.execution_id.as_deref(),
            trace_id: ask.trace_id.as_deref(),
            chain_id: ask.chain.as_ref().map(|chain| chain.id.as_str()),
            model: ask.model.as_deref(),
            tools: &ask.tools_line,
            digest: ask.digest.as_deref(),
        }
    }
}

fn cause(block: &Block) -> Cause<'_> {
    Cause {
        code: block.code.name(),
        policy: block.policy.as_ref().map(|policy| policy.id),
        policy_version: block.policy.as_ref().map_or(0, |policy| policy.version),
        tool: &block.tool,
        pattern: &block.pattern,
        budget: block.budget,
    }
}
