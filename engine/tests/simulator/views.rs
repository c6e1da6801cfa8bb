//! What people are shown, held against the reference: a pump shows its shards as of the last record
//! it has put into the log.

use super::promises::Moment;
use super::reference::Ledger;
use super::spec::first_day;
use super::violation::Invariant::*;
use super::violation::{Check, ensure};
use engine::command::{OrgView, Outcome, Reply, WorkflowView};
use engine::shard::OpenHold;
use persist::record::Scope;
use persist::{Day, HoldId, Lsn, Millis, OrgId, WorkflowId};

/// One workflow, shown at some time between two.
pub fn workflow(
    ledger: &Ledger,
    moment: Moment,
    until: Millis,
    org: OrgId,
    id: WorkflowId,
    view: &WorkflowView,
    as_of: Lsn,
) -> Check {
    let (from, to) = (Day::of(moment.from), Day::of(until));
    let mut days = (from.0..=to.0).map(Day);
    let timely = days.any(|today| first_day(view.period.kind, today) == view.period.first);
    ensure(timely, CapIsWholeSum, || {
        format!("{:?} is no period between {from:?} and {to:?}", view.period)
    })?;
    ensure(
        view.entry.org == org && view.entry.id == id,
        OrgsApart,
        || format!("{id} of {org} was asked for, {:?} is shown", view.entry),
    )?;
    shown(ledger, moment, view, as_of)
}

fn shown(ledger: &Ledger, moment: Moment, view: &WorkflowView, as_of: Lsn) -> Check {
    let (id, books) = (view.entry.id, &ledger.books);
    let own =
        |entry: &super::books::Entry| entry.concerns(Scope::Workflow, id.0) && entry.lsn <= as_of;
    let sums = books.of(|entry| own(entry) && entry.day >= view.period.first);
    let (state, version) = books.state_at(id, as_of);
    let open = books
        .holds
        .values()
        .filter(|h| h.workflow == id && h.is_open_at(as_of));
    let due = (
        sums.spent,
        sums.held,
        books.of(own).spent,
        state,
        version,
        open.count() as u64,
    );
    let said = (
        view.sums.spent,
        view.sums.held,
        view.lifetime,
        view.state,
        view.version,
        view.open_holds,
    );
    ensure(said == due, CapIsWholeSum, || {
        format!("{id} is shown as {said:?}, the log up to {as_of} says {due:?}")
    })?;
    let cap = (
        view.entry.budget(),
        view.entry.period,
        view.entry.rare().overdraft,
    );
    let mut rules = ledger.rules.since(moment.rules);
    let ruled = rules.any(|rules| {
        let known = rules.workflows.get(&id);
        known.is_some_and(|w| (w.cap, w.period, w.overdraft) == cap)
    });
    let whole = view.remaining().map(|left| view.sums.taken() + left) == view.entry.budget();
    ensure(
        ruled && whole && view.period.kind == cap.1,
        CapIsWholeSum,
        || format!("{id} is shown with the cap {cap:?} of {:?}", view.period),
    )
}

/// An org's money or its open holds, a part from each pump.
pub fn of_all_pumps(ledger: &Ledger, moment: Moment, org: OrgId, replies: &[Reply]) -> Check {
    let mut whole: Option<OrgView> = None;
    let mut parts = engine::account::Sums::default();
    for (pump, reply) in replies.iter().enumerate() {
        match &reply.outcome {
            Outcome::Holds(holds) => open_holds(ledger, org, pump, holds, reply.as_of)?,
            Outcome::Org(view) => {
                org_shown(ledger, moment, org, pump, view, reply.as_of)?;
                parts += view.sums;
                match &mut whole {
                    Some(whole) => whole.join((**view).clone()),
                    None => whole = Some((**view).clone()),
                }
            }
            _ => {}
        }
    }
    let joined = whole.is_none_or(|whole| whole.sums == parts);
    ensure(joined, CapIsWholeSum, || {
        format!("the parts of {org} do not add up to the whole")
    })
}

fn org_shown(
    ledger: &Ledger,
    moment: Moment,
    org: OrgId,
    pump: usize,
    view: &OrgView,
    as_of: Lsn,
) -> Check {
    let (books, layout) = (&ledger.books, ledger.layout);
    let ours = |entry: &super::books::Entry| {
        let (of, workflow, _) = entry.whose;
        of == org && layout.pump_of(workflow.slot(org)) == pump && entry.lsn <= as_of
    };
    let first = first_day(view.period.kind, view.today);
    let sums = books.of(|entry| ours(entry) && entry.day >= first);
    let mut rules = ledger.rules.since(moment.rules);
    let ruled = rules.any(|rules| {
        let known = rules.orgs.get(&org);
        known.is_some_and(|o| o.period == view.period.kind)
    });
    let lifetimes = view.workflows.iter().map(|workflow| workflow.lifetime);
    let due = (sums.spent, sums.held, books.of(ours).spent, first);
    let said = (
        view.sums.spent,
        view.sums.held,
        lifetimes.sum(),
        view.period.first,
    );
    ensure(ruled && said == due, CapIsWholeSum, || {
        format!("{org} is shown by pump {pump} as {said:?}, the log up to {as_of} says {due:?}")
    })?;
    let open = holds_at(ledger, org, pump, as_of).len() as u64;
    let holds = view.workflows.iter().map(|workflow| workflow.open_holds);
    let holds: u64 = holds.sum();
    ensure(holds == open, OrgsApart, || {
        format!("{org} is shown {holds} open holds and has {open}")
    })?;
    let last = ledger.rules.at(Lsn(u64::MAX));
    for (key, said) in &view.keys {
        let known = last.keys.get(key).filter(|known| known.org == org);
        ensure(known.is_some(), OrgsApart, || {
            format!("{org} is shown {key}")
        })?;
        let kind = known.map(|key| key.period).unwrap_or_default();
        let first = first_day(kind, view.today);
        let due = books
            .of(|entry| ours(entry) && entry.concerns(Scope::ApiKey, key.0) && entry.day >= first);
        ensure(
            (said.spent, said.held) == (due.spent, due.held),
            CapIsWholeSum,
            || format!("{key} is shown with {said:?}, the log says {due:?}"),
        )?;
    }
    for view in &view.workflows {
        ensure(view.entry.org == org, OrgsApart, || {
            format!("{org} is shown {}", view.entry.id)
        })?;
        shown(ledger, moment, view, as_of)?;
    }
    Ok(())
}

/// The open holds of an org in a pump's shards at a place, by id.
fn holds_at(ledger: &Ledger, org: OrgId, pump: usize, place: Lsn) -> Vec<HoldId> {
    let holds = ledger.books.holds.iter();
    let open = holds.filter(|(id, hold)| {
        hold.org == org && ledger.layout.pump_of(id.slot()) == pump && hold.is_open_at(place)
    });
    open.map(|(id, _)| *id).collect()
}

fn open_holds(ledger: &Ledger, org: OrgId, pump: usize, said: &[OpenHold], as_of: Lsn) -> Check {
    let due = holds_at(ledger, org, pump, as_of);
    let ids: Vec<_> = said.iter().map(|hold| hold.id).collect();
    ensure(ids == due, OrgsApart, || {
        format!("{org} is shown the holds {ids:?}, and has {due:?} in pump {pump}")
    })
}
