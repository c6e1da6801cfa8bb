//! Holds and charges, record by record.

use super::Ledger;
use crate::books::{Entry, Hold, Terms};
use crate::charges::Charge;
use crate::places::Cap;
use crate::reference::Asked;
use crate::spec::{HOLD_MILLIS, cost, first_day, is_provisional};
use crate::violation::Invariant::*;
use crate::violation::{Check, Violation, broken, ensure};
use engine::command::ChainAsk;
use persist::record::{
    Arithmetic, Call, ChargeFlags, Charged, EndReason, HoldEnded, HoldMinted, HoldUsed, Operation,
    PeriodKind, State,
};
use persist::{Day, HoldId, Nanos, OrgId};

/// A call's chain, and what the tightest cap leaves, if that is known.
type Held = (Option<ChainAsk>, Option<Option<Nanos>>);

impl Ledger {
    pub(super) fn minted(&mut self, minted: &HoldMinted<'_>) -> Check {
        let (call, lsn, held) = (&minted.call, self.lsn, minted.amount);
        let (chain, remaining) = self.may_hold(minted)?;
        let chain_key = chain.as_ref().map(|chain| chain.key);
        let chain_cap = chain.and_then(|chain| chain.cap);
        self.link(call, chain_cap, minted.chain.as_ref())?;
        self.note_tools(call);
        if self.is_execution(minted) {
            let whose = (call.org, call.workflow, call.key);
            let day = (whose, Day::of(call.at));
            *self.books.executions.entry(day).or_default() += 1;
            self.within_plan(call)?;
        }
        let hold = Hold {
            org: call.org,
            workflow: call.workflow,
            key: call.key,
            left: held,
            day: Day::of(call.at),
            expires_at: call.at.plus(HOLD_MILLIS),
            minted: lsn,
            ended: None,
            chain: chain_key,
            operations: minted.operation.into_iter().collect(),
            minted_for: minted.operation,
            remaining,
        };
        let times = (minted.day, minted.expires_at) == (hold.day, hold.expires_at);
        let entry = Entry {
            lsn,
            whose: hold.whose(),
            day: hold.day,
            spent: Nanos::ZERO,
            held,
            terms: Some(Terms {
                rules: call.rules,
                today: hold.day,
                in_chain: chain_key.is_some(),
            }),
        };
        self.books.book(entry)?;
        if let Some(chain) = chain_key.and_then(|key| self.books.chains.get_mut(&key)) {
            chain.sums.held += held;
        }
        let before = self.books.holds.insert(minted.hold, hold);
        ensure(before.is_none() && times, HoldEndsOnce, || {
            format!("{} is there twice or has wrong times", minted.hold)
        })
    }

    /// Of the month of this call, the plan's limit is not passed. A pump whose clock is ahead may have
    /// counted calls of the next month by then.
    fn within_plan(&self, call: &Call<'_>) -> Check {
        let month = |day| first_day(PeriodKind::Month, day);
        let (today, most) = (
            Day::of(call.at),
            self.rules.at(call.rules).executions(call.org),
        );
        let made = self.executions_in(call.org, |day| month(day) == month(today));
        ensure(most.is_none_or(|most| made <= most), FitsUnderCaps, || {
            format!(
                "the allow at LSN {} is execution {made} of {most:?}",
                self.lsn
            )
        })
    }

    /// Executions of an org on some days.
    fn executions_in(&self, org: OrgId, days: impl Fn(Day) -> bool) -> u64 {
        let all = self.books.executions.iter();
        let counted = all.filter(|((whose, day), _)| whose.0 == org && days(*day));
        counted.map(|(_, calls)| calls).sum()
    }

    /// Had the plan no room for this call? What other pumps had counted and not yet in the log may be
    /// what it met.
    pub(crate) fn plan_is_used_up(&self, call: &Call<'_>, asked: &Asked) -> bool {
        let first = first_day(PeriodKind::Month, Day::of(call.at));
        let place = self.place(asked);
        let flights = place.flights.iter();
        let others = flights.filter(|flight| flight.may_count(call.org)).count() as u64;
        let made = self.executions_in(call.org, |day| day >= first);
        let most = self.rules.at(call.rules).executions(call.org);
        most.is_some_and(|most| made + others >= most)
    }

    /// A call is an execution unless a hold that is still open was minted for it at another endpoint.
    fn is_execution(&self, minted: &HoldMinted<'_>) -> bool {
        let Some(operation) = minted.operation else {
            return true;
        };
        let same_call = |other: Operation| other.key >> 1 == operation.key >> 1;
        let mut open = self.books.open();
        !open.any(|(_, hold)| hold.minted_for.is_some_and(same_call))
    }

    /// May this hold be there, with that size? Returns the chain of its call, and what the tightest
    /// cap leaves, if that is known exactly.
    fn may_hold(&self, minted: &HoldMinted<'_>) -> Result<Held, Violation> {
        let (call, lsn, held) = (&minted.call, self.lsn, minted.amount);
        let asked = self.let_through(call)?;
        let caps = self.caps(call, asked);
        // Invariant 1, in the order in which decisions were taken and in the order of the log.
        let fits = |cap: &Cap| held <= cap.left() && held <= cap.left_in_log();
        ensure(caps.iter().all(fits), FitsUnderCaps, || {
            format!("the allow at LSN {lsn} holds {held} under {caps:?}")
        })?;
        let most = self.size(call, &asked.ask, &caps, |_| Nanos::ZERO);
        let least = self.size(call, &asked.ask, &caps, |cap| cap.slack);
        let sized = most.fits && least.hold <= held && held <= most.hold;
        ensure(sized && is_tightest(minted, &caps), CapIsWholeSum, || {
            let said = minted.budget;
            format!("the allow at LSN {lsn} is {held} of {said:?}; {most:?} of {caps:?} is due")
        })?;
        let again = minted.operation;
        let again = again.is_some_and(|op| self.operation(op.key).is_some());
        let same = asked.ask.new_hold == minted.hold;
        ensure(!again && same, CountsOnce, || {
            format!("the allow at LSN {lsn} answers what is answered already")
        })?;
        let chain = asked.ask.chain.clone();
        let said = minted.chain.map(|link| link.chain);
        ensure(chain.as_ref().map(|c| c.key) == said, CapIsWholeSum, || {
            format!("the allow at LSN {lsn} is of chain {chain:?}, {said:?} stands there")
        })?;
        let exact = caps.iter().all(|cap| cap.slack == Nanos::ZERO);
        let remaining = caps.iter().map(Cap::left).min().map(|left| left - held);
        Ok((chain, exact.then_some(remaining)))
    }

    fn open_hold(&mut self, id: HoldId) -> Result<&mut Hold, Violation> {
        let lsn = self.lsn;
        let hold = self.books.holds.get_mut(&id);
        let hold = hold.filter(|hold| hold.ended.is_none());
        hold.ok_or_else(|| broken(HoldEndsOnce, format!("{id} is not open at LSN {lsn}")))
    }

    pub(super) fn used(&mut self, used: &HoldUsed<'_>) -> Check {
        let ask = &self.let_through(&used.call)?.ask;
        let asked = ((ask.org, ask.workflow, ask.key), ask.reservation);
        let chain = ask.chain.as_ref().and_then(|chain| chain.cap);
        let hold = self.open_hold(used.hold)?;
        hold.operations.extend(used.operation);
        let whose = (hold.whose(), Some(used.hold));
        ensure(asked == whose, FitsUnderCaps, || {
            format!("{asked:?} runs on the hold of {whose:?}")
        })?;
        self.note_tools(&used.call);
        self.link(&used.call, chain, used.chain.as_ref())
    }

    pub(super) fn charged(&mut self, charged: &Charged<'_>) -> Check {
        let (event, lsn) = (&charged.event, self.lsn);
        let span = event.span_id.unwrap_or_default();
        let due = self.due(charged)?;
        let reported = self.reported.get(span).map(|report| &report.event);
        let told = reported.is_some_and(|reported| {
            (event.tokens, event.model) == (reported.tokens, reported.model.as_deref())
        });
        ensure(*charged == due && told, NoSpendLost, || {
            format!("at LSN {lsn} stands {charged:?}, and {due:?} is due")
        })?;
        let cost = due.cost;
        let first = self.charges.add(span, due.event_key, Charge { lsn, cost });
        ensure(first, CountsOnce, || {
            format!("{span} is charged again at LSN {lsn}")
        })?;
        if let Some(hold) = due.hold.and_then(|id| self.books.holds.get_mut(&id)) {
            hold.left -= due.from_hold;
            let chain = hold.chain;
            if let Some(chain) = chain.and_then(|key| self.books.chains.get_mut(&key)) {
                chain.sums.held -= due.from_hold;
                chain.sums.spent += cost;
            }
        }
        if cost.is_positive() {
            let workflow = self.books.workflows.entry(due.workflow).or_default();
            workflow.usual.learn(event.model, cost);
        }
        self.books.book(Entry {
            lsn,
            whose: (due.org, due.workflow, due.payer),
            day: due.day,
            spent: cost,
            held: -due.from_hold,
            terms: None,
        })
    }

    /// What ought to stand where a charge stands.
    fn due<'a>(&self, charged: &Charged<'a>) -> Result<Charged<'a>, Violation> {
        let span = charged.event.span_id.unwrap_or_default();
        let report = self.reported.get(span).ok_or_else(|| {
            let lsn = self.lsn;
            broken(
                CountsOnce,
                format!("nobody reported the charge at LSN {lsn}"),
            )
        })?;
        let event = &report.event;
        let open = |id: HoldId| self.books.open_hold(id).filter(|h| h.org == report.org);
        let found = event.named_holds().find(|id| open(*id).is_some());
        // It was sent on because no hold it named was open. One that was made since is not its own.
        let sent_on = |id: &HoldId| {
            let made_since = open(*id).is_some_and(|hold| hold.minted > report.since);
            report.elsewhere && charged.hold.is_none() && made_since
        };
        let found = found.filter(|id| !sent_on(id));
        let hold = found.and_then(open);
        let cost = cost(event.model.as_deref(), &event.tokens);
        let (_, workflow, payer) =
            hold.map_or((report.org, event.workflow, report.key), Hold::whose);
        let left = hold.map_or(Nanos::ZERO, |hold| hold.left);
        let state = self.books.workflows.get(&workflow).map(|w| w.state);
        let runs = matches!(state.unwrap_or_default(), State::Normal | State::Flagged);
        let guess = is_provisional(event.model.as_deref()) && cost.is_positive();
        let flags = u32::from(guess) * ChargeFlags::PROVISIONAL.0
            + u32::from(hold.is_some() && cost > left) * ChargeFlags::OVERAGE.0
            + u32::from(hold.is_none() && event.holds[0].is_some()) * ChargeFlags::NO_HOLD.0
            + u32::from(!runs) * ChargeFlags::NOT_NORMAL.0;
        Ok(Charged {
            org: report.org,
            workflow,
            key: report.key,
            payer,
            hold: found,
            day: hold.map_or(Day::of(charged.at), |hold| hold.day),
            cost,
            from_hold: cost.min(left),
            flags: ChargeFlags(flags),
            event_key: event.event_key,
            ..charged.clone()
        })
    }

    pub(super) fn ended(&mut self, ended: &HoldEnded<'_>) -> Check {
        let lsn = self.lsn;
        let hold = self.open_hold(ended.hold)?;
        hold.ended = Some((lsn, ended.released));
        let (whose, chain, expires_at) = (hold.whose(), hold.chain, hold.expires_at);
        let (org, workflow, key) = whose;
        let due = HoldEnded {
            org,
            workflow,
            key,
            day: hold.day,
            released: hold.left,
            ..ended.clone()
        };
        let told = self.delivered.contains(&ended.hold);
        let true_reason = match ended.reason {
            EndReason::Expired => expires_at <= ended.at,
            EndReason::Withdrawn => !told,
            EndReason::SpanEnd | EndReason::Cancelled | EndReason::Released => true,
        };
        ensure(*ended == due && true_reason, HoldEndsOnce, || {
            format!("at LSN {lsn} stands {ended:?}, and {due:?} is due")
        })?;
        if let Some(chain) = chain.and_then(|key| self.books.chains.get_mut(&key)) {
            chain.sums.held -= due.released;
        }
        if ended.reason == EndReason::Released {
            self.obeyed(ended.actor)?;
        }
        self.books.book(Entry {
            lsn,
            whose,
            day: due.day,
            spent: Nanos::ZERO,
            held: -due.released,
            terms: None,
        })
    }
}

/// Is the budget that an allow names the tightest one? With something on its way any may be that
/// could have been.
fn is_tightest(minted: &HoldMinted<'_>, caps: &[Cap]) -> bool {
    let Some(said) = &minted.budget else {
        return caps.is_empty();
    };
    let none = Arithmetic {
        asked: Nanos::ZERO,
        ..*said
    };
    let least = caps.iter().map(|cap| cap.left() - cap.slack).min();
    let exact = caps.iter().all(|cap| cap.slack == Nanos::ZERO);
    let tightest = if exact {
        let first = caps.iter().find(|cap| Some(cap.left()) == least);
        first.is_some_and(|cap| cap.is_seen_as(&none))
    } else {
        caps.iter().any(|cap| cap.is_seen_as(&none))
    };
    tightest && said.asked == minted.amount
}
