//! The reference ledger: the durable log, read a second time by somebody who knows the
//! specification (`docs/architecture.md`, "Invariants"; `docs/semantics.md`) and nothing of the
//! engine's code. It is told what clients ask and what was acknowledged, walks the records in the
//! order of the log with plain maps, and stops at the first that ought not to be there.

use super::books::{Books, Charges, Hold};
use super::rules::History;
use super::spec::{HOLD_MILLIS, cost, is_provisional, left, month, size};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, broken, ensure};
use engine::command::{Ask, Reported};
use persist::record::{
    Actor, Arithmetic, Call, Change, ChargeFlags, Charged, DirectoryRecord, EndReason, HoldEnded,
    HoldMinted, HoldUsed, Operation, Record, State, WorkflowStateChanged,
};
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub struct Ledger {
    pub lsn: Lsn,
    now: Millis,
    pub books: Books,
    pub holds: BTreeMap<HoldId, Hold>,
    pub charges: Charges,
    /// An event id is known for at least as many others after it.
    pub remembered: u64,
    pub rules: History,
    /// Operators' commands, by the person who gave each.
    pub done: BTreeMap<u128, Lsn>,
    /// Calls by trace id, with the last change of the rules that was acknowledged before.
    pub asked: BTreeMap<String, (Ask, Lsn)>,
    /// Events by span id, with the org and key that report them.
    pub reported: BTreeMap<String, (OrgId, KeyId, Reported)>,
    /// Holds that somebody was told of.
    pub delivered: BTreeSet<HoldId>,
    /// The books as of places somebody reads at.
    pub watched: BTreeMap<Lsn, Option<Books>>,
}

impl Ledger {
    pub fn open(&self) -> impl Iterator<Item = (&HoldId, &Hold)> {
        self.holds.iter().filter(|(_, hold)| hold.ended.is_none())
    }

    /// What was let through under this operation, on a hold that is still open.
    pub fn operation(&self, key: u128) -> Option<Operation> {
        let mut known = self.open().flat_map(|(_, hold)| hold.operations.iter());
        known.find(|known| known.key == key).copied()
    }

    /// Every cap that applies to a call, and what is taken from it at this place.
    pub fn caps(&self, call: &Call<'_>) -> Vec<Arithmetic> {
        self.books.caps(self.rules.at(call.rules), call)
    }

    /// Takes the next record of the log.
    pub fn record(&mut self, lsn: Lsn, record: &Record<'_>) -> Check {
        let expected = self.lsn.next();
        ensure(lsn == expected, SameLogSameState, || {
            format!("LSN {lsn} stands where {expected} is due")
        })?;
        self.lsn = lsn;
        match record {
            Record::Directory(changed) => self.directory(changed),
            Record::Refused(refused) => self.refused(&refused.call, &refused.cause),
            Record::HoldMinted(minted) => self.minted(minted),
            Record::HoldUsed(used) => self.used(used),
            Record::Charged(charged) => self.charged(charged),
            Record::HoldEnded(ended) => self.ended(ended),
            Record::WorkflowState(changed) => self.state(changed),
        }?;
        if let Some(watched) = self.watched.get_mut(&lsn) {
            *watched = Some(self.books.clone());
        }
        Ok(())
    }

    /// Time never goes back in the log.
    pub fn at(&mut self, at: Millis) -> Check {
        let before = std::mem::replace(&mut self.now, at);
        ensure(at >= before, SameLogSameState, || {
            format!("time goes back to {at:?}")
        })
    }

    fn obeyed(&mut self, actor: Actor) -> Check {
        let Actor::User(by) = actor else {
            return Ok(());
        };
        let before = self.done.insert(by.0, self.lsn);
        ensure(before.is_none(), CountsOnce, || {
            format!("the command of {by} was done twice")
        })
    }

    fn directory(&mut self, changed: &DirectoryRecord<'_>) -> Check {
        self.at(changed.at)?;
        self.rules.change(self.lsn, &changed.changes);
        for change in &changed.changes {
            if let Change::WorkflowAdded(new) | Change::WorkflowChanged(new) = change {
                let workflow = self.books.workflows.entry(new.id).or_default();
                (workflow.cap, workflow.per_call) = (new.budget, new.max_per_call);
            }
        }
        self.obeyed(changed.actor)
    }

    fn state(&mut self, changed: &WorkflowStateChanged<'_>) -> Check {
        self.at(changed.at)?;
        let workflow = self.books.workflows.entry(changed.workflow).or_default();
        let follows = (changed.from, changed.version) == (workflow.state, workflow.version + 1)
            && workflow.state != State::Killed;
        (workflow.state, workflow.version) = (changed.to, changed.version);
        ensure(follows, AcknowledgedStays, || {
            format!("{changed:?} does not follow from what was")
        })?;
        self.obeyed(changed.actor)
    }

    /// What every call that runs must pass, whatever it holds.
    fn let_through(&self, call: &Call<'_>) -> Result<&Ask, Violation> {
        let lsn = self.lsn;
        let known = call.trace_id.and_then(|id| self.asked.get(id));
        let (ask, acknowledged) = known
            .ok_or_else(|| broken(CountsOnce, format!("nobody asked for the allow at {lsn}")))?;
        let state = self.books.workflows.get(&call.workflow).map(|w| w.state);
        let runs = matches!(state, Some(State::Normal | State::Flagged));
        ensure(runs, KillIsAFence, || {
            format!("the allow at LSN {lsn} runs in a workflow that is {state:?} there")
        })?;
        let rules = self.rules.at(call.rules);
        let key = rules.keys.get(&call.key).is_some_and(|key| !key.revoked);
        let fresh = call.rules >= *acknowledged && call.rules < lsn;
        let ruled = fresh && key && !rules.tools_block(call, ask);
        ensure(ruled, AcknowledgedStays, || {
            format!(
                "the allow at LSN {lsn} is against the rules: decided by those at {}, {acknowledged} \
                 was acknowledged, the key is good: {key}",
                call.rules
            )
        })?;
        Ok(ask)
    }

    fn minted(&mut self, minted: &HoldMinted<'_>) -> Check {
        let (call, lsn) = (&minted.call, self.lsn);
        self.at(call.at)?;
        let ask = self.let_through(call)?;
        let caps = self.caps(call);
        let size = size(ask, self.books.workflows.get(&call.workflow), &caps);
        let held = minted.amount;
        let fits = caps.iter().all(|cap| held <= left(cap));
        ensure(fits, FitsUnderCaps, || {
            format!("the allow at LSN {lsn} holds {held} under {caps:?}")
        })?;
        let least = caps.iter().map(left).min();
        let tightest = caps.iter().find(|cap| Some(left(cap)) == least);
        let noted = tightest.map(|cap| Arithmetic {
            asked: size.hold,
            ..*cap
        });
        let exact = size.fits && (held, minted.budget) == (size.hold, noted);
        ensure(exact, CapIsWholeSum, || {
            let said = minted.budget;
            format!("the allow at LSN {lsn} is {held} of {said:?}; {size:?} of {noted:?} is due")
        })?;
        let operation = minted.operation;
        let again = operation.is_some_and(|op| self.operation(op.key).is_some());
        ensure(!again && ask.new_hold == minted.hold, CountsOnce, || {
            format!("the allow at LSN {lsn} answers what is answered already")
        })?;
        let hold = Hold {
            org: call.org,
            workflow: call.workflow,
            key: call.key,
            left: minted.amount,
            month: month(call.at),
            expires_at: call.at.plus(HOLD_MILLIS),
            minted: lsn,
            ended: None,
            operations: operation.into_iter().collect(),
            remaining: least.map(|least| least - minted.amount),
        };
        let times = (minted.period_start, minted.expires_at) == (hold.month, hold.expires_at);
        self.books
            .book(hold.whose(), hold.month, Nanos::ZERO, hold.left)?;
        let before = self.holds.insert(minted.hold, hold);
        ensure(before.is_none() && times, HoldEndsOnce, || {
            format!("{} is there twice or has wrong times", minted.hold)
        })
    }

    fn open_hold(&mut self, id: HoldId) -> Result<&mut Hold, Violation> {
        let lsn = self.lsn;
        let hold = self.holds.get_mut(&id).filter(|hold| hold.ended.is_none());
        hold.ok_or_else(|| broken(HoldEndsOnce, format!("{id} is not open at LSN {lsn}")))
    }

    fn used(&mut self, used: &HoldUsed<'_>) -> Check {
        self.at(used.call.at)?;
        let ask = self.let_through(&used.call)?;
        let asked = ((ask.org, ask.workflow, ask.key), ask.reservation);
        let hold = self.open_hold(used.hold)?;
        hold.operations.extend(used.operation);
        let whose = (hold.whose(), Some(used.hold));
        ensure(asked == whose, FitsUnderCaps, || {
            format!("{asked:?} runs on the hold of {whose:?}")
        })
    }

    fn charged(&mut self, charged: &Charged<'_>) -> Check {
        self.at(charged.at)?;
        let (event, lsn) = (&charged.event, self.lsn);
        let span = event.span_id.unwrap_or_default();
        let (org, key, reported) = self.reported.get(span).cloned().ok_or_else(|| {
            broken(
                CountsOnce,
                format!("nobody reported the charge at LSN {lsn}"),
            )
        })?;
        let open = |id: &HoldId| self.holds.get(id).filter(|hold| hold.ended.is_none());
        let named = reported.holds.into_iter().flatten();
        let hold = { named }.find(|id| open(id).is_some_and(|hold| hold.org == org));
        let (whose, month, left) = match hold.and_then(|id| self.holds.get(&id)) {
            Some(hold) => (hold.whose(), hold.month, hold.left),
            None => (
                (org, reported.workflow, key),
                month(charged.at),
                Nanos::ZERO,
            ),
        };
        let cost = cost(reported.model.as_deref(), &reported.tokens);
        let state = self.books.workflows.get(&whose.1).map(|w| w.state);
        let guess = is_provisional(reported.model.as_deref()) && cost.is_positive();
        let runs = matches!(state, Some(State::Normal | State::Flagged));
        let flags = u32::from(guess) * ChargeFlags::PROVISIONAL.0
            + u32::from(hold.is_some() && cost > left) * ChargeFlags::OVERAGE.0
            + u32::from(hold.is_none() && reported.holds[0].is_some()) * ChargeFlags::NO_HOLD.0
            + u32::from(!runs) * ChargeFlags::NOT_NORMAL.0;
        let due = Charged {
            org,
            workflow: whose.1,
            key,
            payer: whose.2,
            hold,
            period_start: month,
            cost,
            from_hold: cost.min(left),
            flags: ChargeFlags(flags),
            event_key: reported.event_key,
            ..charged.clone()
        };
        let told = (event.tokens, event.model) == (reported.tokens, reported.model.as_deref());
        ensure(*charged == due && told, NoSpendLost, || {
            format!("at LSN {lsn} stands {charged:?}, and {due:?} is due")
        })?;
        let has_id = reported.event_key.is_some();
        let charges = &mut self.charges;
        let first = charges.add(span, (lsn, cost), has_id, self.remembered);
        ensure(first, CountsOnce, || {
            format!("{span} is charged again at LSN {lsn}")
        })?;
        if let Some(hold) = hold.and_then(|id| self.holds.get_mut(&id)) {
            hold.left -= due.from_hold;
        }
        self.books.book(whose, month, cost, -due.from_hold)
    }

    fn ended(&mut self, ended: &HoldEnded) -> Check {
        self.at(ended.at)?;
        let lsn = self.lsn;
        let hold = self.open_hold(ended.hold)?;
        hold.ended = Some((lsn, ended.released));
        let (org, workflow, key) = hold.whose();
        let due = HoldEnded {
            org,
            workflow,
            key,
            period_start: hold.month,
            released: hold.left,
            ..ended.clone()
        };
        let over = hold.expires_at <= ended.at;
        let told = self.delivered.contains(&ended.hold);
        let true_reason = match ended.reason {
            EndReason::Expired => over,
            EndReason::Withdrawn => !told,
            EndReason::SpanEnd | EndReason::Cancelled => true,
        };
        ensure(*ended == due && true_reason, HoldEndsOnce, || {
            format!("at LSN {lsn} stands {ended:?}, and {due:?} is due")
        })?;
        let whose = (org, workflow, key);
        self.books
            .book(whose, due.period_start, Nanos::ZERO, -due.released)
    }
}
