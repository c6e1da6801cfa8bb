//! What answers promise, held against the reference: an answer may leave only when the durable log
//! has what it says, and what follows must honour it.

use super::front::Answer;
use super::places::left;
use super::reference::Ledger;
use super::rules::Rules;
use super::spec::IDLE_MILLIS;
use super::views;
use super::violation::Invariant::*;
use super::violation::{Check, ensure};
use engine::command::{Ask, Decision, Outcome, Reply, Track, Tracked, Transition, Verdict};
use engine::manage::PolicyPatch;
use persist::record::{Endpoint, State};
use persist::{HoldId, Lsn, Millis, Nanos, OrgId, PolicyId, WorkflowId};
use std::collections::BTreeSet;

/// What was asked, as far as the answer can be checked by it.
#[derive(Debug)]
pub enum Question {
    Ask(Box<Ask>),
    /// How would it end?
    Evaluate,
    Cancel(OrgId, HoldId),
    Release(OrgId, HoldId),
    Heartbeat(u128),
    State(WorkflowId, Transition),
    /// A change to the directory, by the person who gives the command.
    Manage(u128),
    /// The same, of a policy: what is so already needs no record.
    Patch(u128, PolicyId, PolicyPatch),
    Workflow(OrgId, WorkflowId),
    /// Its money, or its open holds.
    Org(OrgId),
}

/// How things stood when somebody asked.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Where the durable log ended.
    pub since: Lsn,
    /// The last change of the rules that was acknowledged.
    pub rules: Lsn,
    /// The kill of the workflow it is about was acknowledged.
    pub killed: bool,
    /// No pump's time was before this.
    pub from: Millis,
}

/// What has been promised so far.
#[derive(Debug, Default)]
pub struct Promises {
    /// Workflows whose kill was acknowledged.
    pub killed: BTreeSet<WorkflowId>,
    /// The last change to the directory that was acknowledged.
    pub rules: Lsn,
}

impl Promises {
    /// Checks an answer; `until` is no pump's time yet behind.
    pub fn answered(
        &mut self,
        ledger: &mut Ledger,
        moment: Moment,
        until: Millis,
        answer: &Answer,
    ) -> Check {
        match answer {
            Answer::One(asked, reply) => {
                durable(ledger, reply)?;
                self.one(ledger, moment, until, asked, reply)
            }
            Answer::Booked(track, results) => booked(ledger, moment, track, results),
            Answer::All(asked, replies) => {
                for reply in replies {
                    durable(ledger, reply)?;
                }
                match asked {
                    Question::Org(org) => views::of_all_pumps(ledger, moment, *org, replies),
                    _ => Ok(()),
                }
            }
        }
    }

    fn one(
        &mut self,
        ledger: &mut Ledger,
        moment: Moment,
        until: Millis,
        asked: &Question,
        reply: &Reply,
    ) -> Check {
        let as_of = reply.as_of;
        match (asked, &reply.outcome) {
            (Question::Ask(ask), Outcome::Decision(decision)) => {
                decided(ledger, ask, moment, decision)
            }
            // What it may not do shows in the books.
            (Question::Evaluate, Outcome::Evaluated(_) | Outcome::Refused(_)) => Ok(()),
            (Question::Cancel(org, hold), Outcome::Cancelled(released)) => {
                ended(ledger, *org, *hold, *released, as_of)
            }
            (Question::Release(org, hold), Outcome::Released(freed)) => {
                ended(ledger, *org, *hold, Some(freed.left), as_of)
            }
            (Question::Release(org, hold), Outcome::Refused(_)) => {
                ended(ledger, *org, *hold, None, as_of)
            }
            (Question::Heartbeat(chain), Outcome::Alive(alive)) => {
                alive_as_said(ledger, *chain, *alive, (moment, until), as_of)
            }
            (Question::State(workflow, to), outcome) => self.state(ledger, *workflow, *to, outcome),
            (Question::Patch(by, id, patch), Outcome::Managed(_))
                if !ledger.done.contains_key(by) =>
            {
                let known = ledger.rules.at(as_of).policies.get(id);
                let so = known.is_some_and(|known| {
                    patch.priority.is_none_or(|to| to == known.order.0)
                        && patch.is_active.is_none_or(|to| to == known.is_active)
                        && patch.shadow.is_none_or(|to| to == known.shadow)
                });
                ensure(so, AcknowledgedStays, || {
                    format!("{patch:?} was acknowledged as of {as_of}, {known:?} is in the log")
                })
            }
            (Question::Manage(by) | Question::Patch(by, ..), Outcome::Refused(_)) => {
                let done = ledger.done.get(by);
                ensure(done.is_none(), AcknowledgedStays, || {
                    format!("a refused change stands at {done:?}")
                })
            }
            (Question::Manage(by) | Question::Patch(by, ..), _) => {
                let done = ledger.done.get(by).filter(|lsn| **lsn <= as_of);
                self.rules = self.rules.max(done.copied().unwrap_or_default());
                ensure(done.is_some(), AcknowledgedStays, || {
                    format!("the change acknowledged as of {as_of} is not in the log")
                })
            }
            (Question::Workflow(org, id), Outcome::Workflow(view)) => {
                views::workflow(ledger, moment, until, *org, *id, view, as_of)
            }
            (Question::Workflow(_, id), Outcome::Refused(_)) => {
                let known = ledger.rules.at(moment.rules).workflows.contains_key(id);
                ensure(!known, AcknowledgedStays, || format!("{id} is not shown"))
            }
            (asked, outcome) => ensure(false, EngineAsserts, || {
                format!("{outcome:?} is no answer to {asked:?}")
            }),
        }
    }

    fn state(
        &mut self,
        ledger: &Ledger,
        workflow: WorkflowId,
        to: Transition,
        outcome: &Outcome,
    ) -> Check {
        let known = ledger.books.workflows.get(&workflow);
        let (state, version) = known.map_or((State::Normal, 0), |w| (w.state, w.version));
        match outcome {
            Outcome::Workflow(view) => {
                if to == Transition::Kill {
                    self.killed.insert(workflow);
                }
                let there =
                    version >= view.version && (state == State::Killed || to != Transition::Kill);
                ensure(there, AcknowledgedStays, || {
                    format!("{to:?} of {workflow} was acknowledged, {known:?} is in the log")
                })
            }
            outcome => ensure(state == State::Killed, NoPhantomRefusal, || {
                format!("{to:?} of {workflow} was refused: {outcome:?}")
            }),
        }
    }
}

/// Only a refusal may leave before what it stands on is durable.
fn durable(ledger: &Ledger, reply: &Reply) -> Check {
    let as_of = reply.as_of;
    let refusal = matches!(&reply.outcome, Outcome::Decision(decision)
        if matches!(decision.verdict, Verdict::Block(_)));
    ensure(refusal || as_of <= ledger.lsn, AcknowledgedStays, || {
        let durable = ledger.lsn;
        format!("an answer stands on LSN {as_of}, durable is {durable}: {reply:?}")
    })
}

fn decided(ledger: &mut Ledger, ask: &Ask, moment: Moment, decision: &Decision) -> Check {
    let (hold, replayed) = match &decision.verdict {
        Verdict::Allow { hold, replayed } => (*hold, *replayed),
        Verdict::Block(block) => {
            let short = block.budget.is_none_or(|cap| {
                let left = left(&cap);
                cap.asked > left || !left.is_positive()
            });
            return ensure(short, NoPhantomRefusal, || {
                format!("a refusal for {:?} that fits", block.budget)
            });
        }
    };
    ensure(!moment.killed, KillIsAFence, || {
        format!(
            "{:?} of {} was allowed, and started after its kill was acknowledged",
            ask.endpoint, ask.workflow
        )
    })?;
    let Some(id) = hold else {
        let over = !ask.chain_end || chain_over(ledger, ask, moment);
        let holds_nothing = ask.endpoint == Endpoint::Check || ask.chain_end;
        return ensure(holds_nothing && over, HoldEndsOnce, || {
            format!("an allow without a hold, or of a chain's end that goes on: {ask:?}")
        });
    };
    ledger.delivered.insert(id);
    let Some(hold) = ledger.books.holds.get(&id) else {
        return ensure(false, AcknowledgedStays, || {
            format!("an allow on {id}, which is not in the log")
        });
    };
    // A hold that had ended before the question answers nothing any more.
    let lives = hold.ended.is_none_or(|(lsn, _)| lsn > moment.since);
    let whose = hold.whose() == (ask.org, ask.workflow, ask.key) || replayed;
    ensure(lives && whose, HoldEndsOnce, || {
        let since = moment.since;
        format!("an allow on {hold:?}, asked when {since} was durable")
    })?;
    let known = ask.operation;
    let known = known.is_some_and(|op| hold.operations.contains(&op));
    ensure(!replayed || known, CountsOnce, || {
        format!(
            "{:?} was answered with another's hold {hold:?}",
            ask.operation
        )
    })?;
    let minted_now = id == ask.new_hold && !replayed;
    let said = hold.remaining.is_none_or(|left| left == decision.remaining);
    ensure(!minted_now || said, CapIsWholeSum, || {
        let said = decision.remaining;
        format!("{:?} remains, {said:?} is said", hold.remaining)
    })
}

/// A chain whose end was acknowledged is over; one of its name may have begun since.
fn chain_over(ledger: &Ledger, ask: &Ask, moment: Moment) -> bool {
    let chain = ask.chain.as_ref();
    let chain = chain.and_then(|chain| ledger.books.chains.get(&chain.key));
    chain.is_none_or(|chain| chain.began > moment.since)
}

/// A chain was renewed, or is over: it ended, was silent, or has lasted as long as it may.
fn alive_as_said(
    ledger: &Ledger,
    chain: u128,
    alive: bool,
    (moment, until): (Moment, Millis),
    as_of: Lsn,
) -> Check {
    let open = ledger.books.chains.get(&chain);
    let is_so = if alive {
        let mut renewed = ledger.renewed.range((chain, Lsn::ZERO)..=(chain, as_of));
        renewed
            .next_back()
            .is_some_and(|(_, lsn)| *lsn > moment.since)
    } else {
        open.is_none_or(|open| {
            let of_workflow = |rules: &Rules| rules.workflows.get(&open.workflow).copied();
            let mut terms = ledger.rules.since(moment.rules).filter_map(of_workflow);
            let secs = until.since(open.started_at) / 1000;
            open.began > moment.since
                || open.active_at.plus(IDLE_MILLIS) <= until
                || terms.any(|workflow| secs >= u64::from(workflow.chain_secs))
        })
    };
    ensure(is_so, AcknowledgedStays, || {
        format!("the chain {chain:x} was said to be alive: {alive}; it is {open:?}")
    })
}

/// Every event is in the books, and every span that ended has given its hold back.
fn booked(ledger: &Ledger, moment: Moment, track: &Track, results: &[(Tracked, Lsn)]) -> Check {
    ensure(track.events.len() == results.len(), NoSpendLost, || {
        format!("{} of {} events", results.len(), track.events.len())
    })?;
    for (event, (tracked, as_of)) in track.events.iter().zip(results) {
        let span = event.span_id.as_deref().unwrap_or_default();
        // What another pump counted is durable, and is not in this pump's part of the log.
        let until = if ledger.alone() { *as_of } else { ledger.lsn };
        let lsn = match event.event_key.filter(|_| tracked.duplicate) {
            Some(key) => ledger.charges.of_event(key).filter(|lsn| *lsn <= until),
            None => ledger.charges.of_span(span).map(|charge| charge.lsn),
        };
        let there = lsn.is_some() && *as_of <= ledger.lsn;
        ensure(there, NoSpendLost, || {
            format!("{span} was accepted as of {as_of} and is not in the log: {tracked:?}")
        })?;
        let cost = ledger.charges.of_span(span).map(|charge| charge.cost);
        let exact = tracked.duplicate || cost == Some(tracked.cost);
        ensure(exact, NoSpendLost, || {
            format!("{span} is booked with {cost:?}, {tracked:?} was said")
        })?;
        let ended = event.ends.and_then(|id| ledger.books.open_hold(id));
        let ended = ended.filter(|hold| hold.org == track.org && hold.minted <= moment.since);
        ensure(ended.is_none(), HoldEndsOnce, || {
            format!("the span of {ended:?} ended with {span}, and it is still open")
        })?;
    }
    Ok(())
}

fn ended(ledger: &Ledger, org: OrgId, hold: HoldId, released: Option<Nanos>, as_of: Lsn) -> Check {
    let known = ledger.books.holds.get(&hold).filter(|hold| hold.org == org);
    let ended = known.and_then(|hold| hold.ended);
    match released {
        Some(amount) => ensure(
            ended.is_some_and(|(lsn, what)| lsn <= as_of && what == amount),
            AcknowledgedStays,
            || format!("the end of {hold} ({amount}) is not in the log up to {as_of}"),
        ),
        None => ensure(
            known.is_none_or(|hold| hold.ended.is_some() || hold.minted > as_of),
            HoldEndsOnce,
            || format!("{hold} is open and was said to be unknown"),
        ),
    }
}
