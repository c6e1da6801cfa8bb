//! What answers promise, held against the reference: an answer may leave only when the durable log
//! has what it says, and what follows must honour it.

use super::books::{Books, Sums};
use super::reference::Ledger;
use super::spec::month;
use super::violation::Invariant::*;
use super::violation::{Check, ensure};
use engine::command::{
    Ask, Decision, OrgView, Outcome, Reply, Track, Tracked, Transition, Verdict, WorkflowView,
};
use persist::record::{Endpoint, Scope, State};
use persist::{HoldId, Lsn, Nanos, OrgId, WorkflowId};
use std::collections::BTreeSet;

/// What was asked, as far as the answer can be checked by it.
#[derive(Debug)]
pub enum Question {
    Ask {
        ask: Box<Ask>,
        /// Its workflow's kill was acknowledged before.
        killed: bool,
        /// Where the durable log ended when it was asked.
        since: Lsn,
    },
    Track(Box<Track>),
    Cancel {
        org: OrgId,
        hold: HoldId,
    },
    State {
        workflow: WorkflowId,
        to: Transition,
    },
    /// A change to the directory, by the person who gives the command.
    Manage(u128),
    Workflow(WorkflowId),
    Org(OrgId),
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
    /// Checks an answer.
    pub fn answered(&mut self, ledger: &mut Ledger, asked: &Question, reply: &Reply) -> Check {
        let as_of = reply.as_of;
        let refusal = matches!(&reply.outcome, Outcome::Decision(decision)
            if matches!(decision.verdict, Verdict::Block(_)));
        ensure(refusal || as_of <= ledger.lsn, AcknowledgedStays, || {
            format!(
                "an answer stands on LSN {as_of}, durable is {}: {reply:?}",
                ledger.lsn
            )
        })?;
        match (asked, &reply.outcome) {
            (Question::Ask { ask, killed, since }, Outcome::Decision(decision)) => {
                self.decided(ledger, (ask, *killed, *since), decision)
            }
            (Question::Track(track), Outcome::Tracked(tracked)) => {
                let events = track.events.iter().zip(tracked);
                ensure(track.events.len() == tracked.len(), NoSpendLost, || {
                    format!("{} of {} events", tracked.len(), track.events.len())
                })?;
                for (event, tracked) in events {
                    let span = event.span_id.as_deref().unwrap_or_default();
                    counted(ledger, span, tracked, as_of)?;
                }
                Ok(())
            }
            (Question::Cancel { org, hold }, Outcome::Cancelled(released)) => {
                cancelled(ledger, *org, *hold, *released, as_of)
            }
            (Question::State { workflow, to }, outcome) => {
                self.state(ledger, *workflow, *to, outcome)
            }
            (Question::Manage(by), Outcome::Refused(_)) => {
                let done = ledger.done.get(by);
                ensure(done.is_none(), AcknowledgedStays, || {
                    format!("a refused change stands at {done:?}")
                })
            }
            (Question::Manage(by), _) => {
                let done = ledger.done.get(by).filter(|lsn| **lsn <= as_of);
                self.rules = self.rules.max(done.copied().unwrap_or_default());
                ensure(done.is_some(), AcknowledgedStays, || {
                    format!("the change acknowledged as of {as_of} is not in the log")
                })
            }
            (Question::Workflow(id), Outcome::Workflow(view)) => match watched(ledger, as_of) {
                Some(books) => shown(books, *id, view),
                None => Ok(()),
            },
            (Question::Org(id), Outcome::Org(view)) => match watched(ledger, as_of) {
                Some(books) => org_shown(ledger, books, *id, view, as_of),
                None => Ok(()),
            },
            (Question::Workflow(_) | Question::Org(_), Outcome::Refused(_)) => Ok(()),
            (asked, outcome) => ensure(false, EngineAsserts, || {
                format!("{outcome:?} is no answer to {asked:?}")
            }),
        }
    }

    fn decided(
        &mut self,
        ledger: &mut Ledger,
        (ask, killed, since): (&Ask, bool, Lsn),
        decision: &Decision,
    ) -> Check {
        let (hold, replayed) = match &decision.verdict {
            Verdict::Allow { hold, replayed } => (*hold, *replayed),
            Verdict::Block(block) => {
                let short = block.budget.is_none_or(|cap| {
                    let left = cap.cap - cap.spent - cap.held;
                    cap.asked > left || !left.is_positive()
                });
                return ensure(short, NoPhantomRefusal, || {
                    format!("a refusal for {:?} that fits", block.budget)
                });
            }
        };
        ensure(!killed, KillIsAFence, || {
            format!(
                "{:?} of {} was allowed, and started after its kill was acknowledged",
                ask.endpoint, ask.workflow
            )
        })?;
        let Some(id) = hold else {
            let holds_nothing = ask.endpoint == Endpoint::Check || ask.chain_end;
            return ensure(holds_nothing, HoldEndsOnce, || {
                "an allow without a hold".to_owned()
            });
        };
        ledger.delivered.insert(id);
        let Some(hold) = ledger.holds.get(&id) else {
            return ensure(false, AcknowledgedStays, || {
                format!("an allow on {id}, which is not in the log")
            });
        };
        // A hold that had ended before the question answers nothing any more.
        let lives = hold.ended.is_none_or(|(lsn, _)| lsn > since);
        let whose = hold.whose() == (ask.org, ask.workflow, ask.key) || replayed;
        ensure(lives && whose, HoldEndsOnce, || {
            format!("an allow on {hold:?}, asked when {since} was durable")
        })?;
        let known = ask
            .operation
            .is_some_and(|op| hold.operations.contains(&op));
        ensure(!replayed || known, CountsOnce, || {
            format!(
                "{:?} was answered with another's hold {hold:?}",
                ask.operation
            )
        })?;
        let minted_now = id == ask.new_hold;
        ensure(
            !minted_now || decision.remaining == hold.remaining,
            CapIsWholeSum,
            || {
                format!(
                    "{:?} remains, {:?} is said",
                    hold.remaining, decision.remaining
                )
            },
        )
    }

    fn state(
        &mut self,
        ledger: &Ledger,
        workflow: WorkflowId,
        to: Transition,
        outcome: &Outcome,
    ) -> Check {
        let known = ledger.books.workflows.get(&workflow);
        let killed = known.is_some_and(|w| w.state == State::Killed);
        match outcome {
            Outcome::Workflow(view) => {
                if to == Transition::Kill {
                    self.killed.insert(workflow);
                }
                let there = known.is_some_and(|w| w.version >= view.version)
                    && (killed || to != Transition::Kill);
                ensure(there, AcknowledgedStays, || {
                    format!("{to:?} of {workflow} was acknowledged, {known:?} is in the log")
                })
            }
            outcome => ensure(killed || known.is_none(), NoPhantomRefusal, || {
                format!("{to:?} of {workflow} was refused: {outcome:?}")
            }),
        }
    }
}

fn watched(ledger: &Ledger, place: Lsn) -> Option<&Books> {
    ledger.watched.get(&place).and_then(Option::as_ref)
}

fn counted(ledger: &Ledger, span: &str, tracked: &Tracked, as_of: Lsn) -> Check {
    let charge = ledger
        .charges
        .get(span)
        .filter(|charge| charge.lsn <= as_of);
    ensure(charge.is_some(), NoSpendLost, || {
        format!("{span} was accepted as of {as_of} and is not in the log")
    })?;
    let cost = charge.map(|charge| charge.cost);
    ensure(
        tracked.duplicate || cost == Some(tracked.cost),
        NoSpendLost,
        || format!("{span} is booked with {cost:?}, {tracked:?} was said"),
    )
}

fn cancelled(
    ledger: &Ledger,
    org: OrgId,
    hold: HoldId,
    released: Option<Nanos>,
    as_of: Lsn,
) -> Check {
    let known = ledger.holds.get(&hold).filter(|hold| hold.org == org);
    let ended = known.and_then(|hold| hold.ended);
    match released {
        Some(amount) => ensure(
            ended.is_some_and(|(lsn, what)| lsn <= as_of && what == amount),
            AcknowledgedStays,
            || format!("the cancel of {hold} ({amount}) is not in the log up to {as_of}"),
        ),
        None => ensure(
            known.is_none_or(|hold| hold.ended.is_some() || hold.minted > as_of),
            HoldEndsOnce,
            || format!("{hold} is open and was said to be unknown"),
        ),
    }
}

fn shown(books: &Books, id: WorkflowId, view: &WorkflowView) -> Check {
    let Some(known) = books.workflows.get(&id) else {
        return ensure(false, CapIsWholeSum, || {
            format!("{id} is shown, and is not in the log")
        });
    };
    let Sums { spent, held } = books.of(Scope::Workflow, id.0, view.period.start);
    let due = (spent, held, known.state, known.version, known.cap);
    let said = (
        view.spent,
        view.held,
        view.state,
        view.version,
        view.entry.budget,
    );
    let whole = view.remaining().map(|left| view.spent + view.held + left) == known.cap
        && month(view.period.start) == view.period.start;
    ensure(said == due && whole, CapIsWholeSum, || {
        format!("{id} is shown as {said:?}, the log says {due:?}")
    })
}

fn org_shown(ledger: &Ledger, books: &Books, id: OrgId, view: &OrgView, as_of: Lsn) -> Check {
    let start = view.period.start;
    let Sums { spent, held } = books.of(Scope::Org, id.0, start);
    let lifetime = books.lifetime.get(&(Scope::Org, id.0));
    let cap = ledger.rules.at(as_of).orgs.get(&id).and_then(|org| org.0);
    let due = (spent, held, lifetime.copied().unwrap_or_default(), cap);
    let said = (view.spent, view.held, view.lifetime, view.budget);
    ensure(said == due, CapIsWholeSum, || {
        format!("{id} is shown as {said:?}, the log says {due:?}")
    })?;
    let open = ledger.holds.values().filter(|hold| {
        hold.org == id && hold.minted <= as_of && hold.ended.is_none_or(|(lsn, _)| lsn > as_of)
    });
    let open = open.count() as u64;
    ensure(view.open_holds == open, OrgsApart, || {
        format!(
            "{id} is shown {} open holds and has {open}",
            view.open_holds
        )
    })?;
    for (key, spent, held) in &view.keys {
        let due = books.of(Scope::ApiKey, key.0, start);
        ensure(
            (*spent, *held) == (due.spent, due.held),
            CapIsWholeSum,
            || format!("key {key} is shown with {spent} and {held}, the log says {due:?}"),
        )?;
    }
    for workflow in &view.workflows {
        shown(books, workflow.entry.id, workflow)?;
    }
    Ok(())
}
