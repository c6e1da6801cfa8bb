//! The reference ledger: the durable log, read a second time by somebody who knows the
//! specification (`docs/architecture.md`, "Invariants"; `docs/semantics.md`) and nothing of the
//! engine's code. It is told what clients ask and what was acknowledged, walks the records in the
//! order of the log with plain maps, and stops at the first that ought not to be there.

use super::rules::{Rules, levels};
use super::spec::{HOLD_MILLIS, cost, is_provisional, left, month, size};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, ensure};
use engine::command::{Ask, Reported};
use persist::record::{
    Actor, Arithmetic, Call, Cause, Change, ChargeFlags, Charged, DirectoryRecord, EndReason,
    HoldEnded, HoldMinted, HoldUsed, Operation, PolicyType, Record, Scope, State,
    Workflow as Named, WorkflowStateChanged,
};
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Ledger {
    pub lsn: Lsn,
    now: Millis,
    pub books: Books,
    pub rules: BTreeMap<Lsn, Rules>,
    pub holds: BTreeMap<HoldId, Hold>,
    /// Events by span id: where, and what they cost.
    pub charges: BTreeMap<String, (Lsn, Nanos)>,
    /// Operators' commands, by the person who gave each.
    pub done: BTreeMap<u128, Lsn>,
    /// Calls by trace id, with the last change of the rules that was acknowledged before.
    pub asked: BTreeMap<String, (Ask, Lsn)>,
    /// Events by span id, with the org and key that report them.
    pub reported: BTreeMap<String, (OrgId, KeyId, Reported)>,
    /// The books as of places somebody reads at.
    pub watched: BTreeMap<Lsn, Option<Books>>,
}

impl Ledger {
    pub fn rules_at(&self, place: Lsn) -> Rules {
        let known = self.rules.range(..=place).next_back();
        known.map(|(_, rules)| rules.clone()).unwrap_or_default()
    }

    pub fn open(&self) -> impl Iterator<Item = (&HoldId, &Hold)> {
        self.holds.iter().filter(|(_, hold)| hold.ended.is_none())
    }

    /// What was let through on an open hold under this operation.
    pub fn operation(&self, key: u128) -> Option<Operation> {
        let mut known = self.open().flat_map(|(_, hold)| hold.operations.iter());
        known.find(|known| known.key == key).copied()
    }

    /// Takes the next record of the log.
    pub fn record(&mut self, lsn: Lsn, record: &Record<'_>) -> Check {
        ensure(lsn == self.lsn.next(), SameLogSameState, || {
            format!("LSN {lsn} follows {}", self.lsn)
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
        let mut rules = self.rules_at(self.lsn);
        for change in &changed.changes {
            rules.change(change);
            if let Change::WorkflowAdded(Named {
                id,
                budget,
                max_per_call,
                ..
            })
            | Change::WorkflowChanged(Named {
                id,
                budget,
                max_per_call,
                ..
            }) = change
            {
                let workflow = self.books.workflows.entry(*id).or_default();
                (workflow.cap, workflow.per_call) = (*budget, *max_per_call);
            }
        }
        self.rules.insert(self.lsn, rules);
        self.obeyed(changed.actor)
    }

    fn state(&mut self, changed: &WorkflowStateChanged<'_>) -> Check {
        self.at(changed.at)?;
        let workflow = self.books.workflows.entry(changed.workflow).or_default();
        let follows = (changed.from, changed.version) == (workflow.state, workflow.version + 1)
            && workflow.state != State::Killed;
        (workflow.state, workflow.version) = (changed.to, changed.version);
        ensure(follows, AcknowledgedStays, || {
            format!("{changed:?} does not follow")
        })?;
        self.obeyed(changed.actor)
    }

    pub fn caps(&self, call: &Call<'_>) -> Vec<Arithmetic> {
        self.books.caps(&self.rules_at(call.rules), call)
    }

    /// What every call that runs must pass, whatever it holds.
    fn let_through(&self, call: &Call<'_>) -> Result<&Ask, Violation> {
        let lsn = self.lsn;
        let known = call.trace_id.and_then(|id| self.asked.get(id));
        let lost = || {
            Violation(
                CountsOnce,
                format!("nobody asked for the allow at LSN {lsn}"),
            )
        };
        let (ask, acknowledged) = known.ok_or_else(lost)?;
        let state = self.books.workflows.get(&call.workflow).map(|w| w.state);
        ensure(
            matches!(state, Some(State::Normal | State::Flagged)),
            KillIsAFence,
            || format!("the allow at LSN {lsn} runs in a workflow that is {state:?} there"),
        )?;
        let rules = self.rules_at(call.rules);
        let fresh = call.rules >= *acknowledged && call.rules < lsn;
        let key = rules
            .keys
            .get(&call.key)
            .is_some_and(|(_, revoked)| !revoked);
        ensure(
            fresh && key && !rules.tools_block(call, ask),
            AcknowledgedStays,
            || {
                format!(
                    "the allow at LSN {lsn} is against the rules (decided at {}, acknowledged {}, key \
                 good {key})",
                    call.rules, acknowledged
                )
            },
        )?;
        Ok(ask)
    }

    fn minted(&mut self, minted: &HoldMinted<'_>) -> Check {
        let (call, lsn) = (&minted.call, self.lsn);
        self.at(call.at)?;
        let ask = self.let_through(call)?;
        let caps = self.caps(call);
        let workflow = self
            .books
            .workflows
            .get(&call.workflow)
            .cloned()
            .unwrap_or_default();
        let size = size(ask, &workflow, &caps);
        ensure(
            size.fits && minted.amount == size.hold,
            FitsUnderCaps,
            || {
                format!(
                    "the allow at LSN {lsn} holds {}, but {size:?} under {caps:?}",
                    minted.amount
                )
            },
        )?;
        let least = caps.iter().map(left).min();
        let noted = minted.budget.map(|cap| {
            (
                left(&cap),
                cap.asked,
                caps.contains(&Arithmetic {
                    asked: Nanos::ZERO,
                    ..cap
                }),
            )
        });
        ensure(
            noted == least.map(|least| (least, size.hold, true)),
            CapIsWholeSum,
            || {
                format!(
                    "the allow at LSN {lsn} notes {:?} of {caps:?}",
                    minted.budget
                )
            },
        )?;
        let again = minted
            .operation
            .is_some_and(|op| self.operation(op.key).is_some());
        ensure(!again && ask.new_hold == minted.hold, CountsOnce, || {
            format!("the allow at LSN {lsn} answers an operation that is answered already")
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
            operations: minted.operation.into_iter().collect(),
            remaining: least.map(|least| least - minted.amount),
        };
        let right = (minted.period_start, minted.expires_at) == (hold.month, hold.expires_at);
        let whose = (call.org, call.workflow, call.key);
        self.books
            .book(whose, hold.month, Nanos::ZERO, minted.amount)?;
        let before = self.holds.insert(minted.hold, hold);
        ensure(before.is_none() && right, HoldEndsOnce, || {
            format!(
                "hold {} at LSN {lsn} is there twice or has wrong times",
                minted.hold
            )
        })
    }

    fn used(&mut self, used: &HoldUsed<'_>) -> Check {
        self.at(used.call.at)?;
        let ask = self.let_through(&used.call)?;
        let whose = (ask.workflow, ask.key, ask.reservation);
        let open = self
            .holds
            .get_mut(&used.hold)
            .filter(|hold| hold.ended.is_none());
        let open = open.filter(|hold| (hold.workflow, hold.key, Some(used.hold)) == whose);
        let missing = || Violation(HoldEndsOnce, format!("{} is used and not open", used.hold));
        open.ok_or_else(missing)?.operations.extend(used.operation);
        Ok(())
    }

    fn charged(&mut self, charged: &Charged<'_>) -> Check {
        self.at(charged.at)?;
        let (event, lsn) = (&charged.event, self.lsn);
        let span = event.span_id.unwrap_or_default();
        let lost = || {
            Violation(
                CountsOnce,
                format!("nobody reported the charge at LSN {lsn}"),
            )
        };
        let (org, key, reported) = self.reported.get(span).cloned().ok_or_else(lost)?;
        let named = reported
            .holds
            .into_iter()
            .flatten()
            .filter_map(|id| Some((id, self.holds.get(&id)?)));
        let hold = { named }.find(|(_, hold)| hold.ended.is_none() && hold.org == org);
        let cost = cost(event.model, &event.tokens);
        let covered = hold
            .as_ref()
            .map_or(Nanos::ZERO, |(_, hold)| hold.left.min(cost));
        let books = hold.map_or(
            (reported.workflow, key, month(charged.at), None),
            |(id, hold)| (hold.workflow, hold.key, hold.month, Some(id)),
        );
        let state = self
            .books
            .workflows
            .get(&books.0)
            .map(|w| w.state)
            .unwrap_or_default();
        let flags = [
            (
                ChargeFlags::PROVISIONAL,
                is_provisional(event.model) && cost.is_positive(),
            ),
            (ChargeFlags::OVERAGE, books.3.is_some() && cost > covered),
            (
                ChargeFlags::NO_HOLD,
                books.3.is_none() && reported.holds[0].is_some(),
            ),
            (
                ChargeFlags::NOT_NORMAL,
                !matches!(state, State::Normal | State::Flagged),
            ),
        ];
        let booked = (
            charged.workflow,
            charged.payer,
            charged.period_start,
            charged.hold,
        );
        let same = (
            charged.org,
            charged.key,
            charged.cost,
            charged.from_hold,
            charged.event_key,
        ) == (org, key, cost, covered, reported.event_key)
            && event.tokens == reported.tokens
            && flags
                .iter()
                .all(|(flag, set)| charged.flags.has(*flag) == *set);
        ensure(same && booked == books, NoSpendLost, || {
            format!("the charge at LSN {lsn} is {charged:?}; {cost} is due on {books:?}")
        })?;
        let before = self.charges.insert(span.to_owned(), (lsn, cost));
        ensure(before.is_none(), CountsOnce, || {
            format!("{span} is charged again at LSN {lsn}")
        })?;
        if let Some(hold) = books.3.and_then(|id| self.holds.get_mut(&id)) {
            hold.left -= covered;
        }
        self.books
            .book((org, books.0, books.1), books.2, cost, -covered)
    }

    fn ended(&mut self, ended: &HoldEnded) -> Check {
        self.at(ended.at)?;
        let (lsn, id) = (self.lsn, ended.hold);
        let open = self.holds.get_mut(&id).filter(|hold| hold.ended.is_none());
        let missing = || {
            Violation(
                HoldEndsOnce,
                format!("{id} ends at LSN {lsn} and is not open"),
            )
        };
        let hold = open.ok_or_else(missing)?;
        hold.ended = Some((lsn, ended.released));
        let whose = (hold.org, hold.workflow, hold.key);
        let said = (ended.org, ended.workflow, ended.key);
        let right = (said, ended.released, ended.period_start) == (whose, hold.left, hold.month)
            && (ended.reason != EndReason::Expired || hold.expires_at <= ended.at);
        let month = hold.month;
        ensure(right, HoldEndsOnce, || {
            format!("{ended:?} is not the end of that hold")
        })?;
        self.books.book(whose, month, Nanos::ZERO, -ended.released)
    }
}
