//! The engine's state held against the reference's, figure by figure.

use super::books::Sums;
use super::reference::Ledger;
use super::violation::Invariant::*;
use super::violation::{Check, ensure};
use engine::Engine;
use engine::account::Account;
use persist::record::Scope;
use persist::{Lsn, Nanos};

/// Compares an engine that has folded exactly the log that the reference has walked.
pub fn compare(engine: &Engine, ledger: &Ledger) -> Check {
    let shard = engine.shard();
    let workflows = shard.sorted();
    let (here, there) = (workflows.len(), ledger.books.workflows.len());
    ensure(here == there, SameLogSameState, || {
        format!("the engine has {here} workflows, the log {there}")
    })?;
    for live in workflows {
        let known = ledger.books.workflows.get(&live.id);
        let said = (live.state, live.version, live.budget, live.max_per_call);
        let due = known.map(|w| (w.state, w.version, w.cap, w.per_call));
        ensure(due == Some(said), SameLogSameState, || {
            format!("{} is {said:?}, the log says {due:?}", live.id)
        })?;
        account(ledger, Scope::Workflow, live.id.0, &live.account)?;
    }
    for (id, live) in &shard.orgs {
        account(ledger, Scope::Org, id.0, live)?;
    }
    for (id, live) in &shard.keys {
        account(ledger, Scope::ApiKey, id.0, live)?;
    }
    for ((scope, id, _), sums) in &ledger.books.sums {
        let known = match scope {
            Scope::Org => shard.orgs.keys().any(|org| org.0 == *id),
            Scope::ApiKey => shard.keys.keys().any(|key| key.0 == *id),
            Scope::Workflow => true,
        };
        ensure(known || *sums == Sums::default(), NoSpendLost, || {
            format!("{scope:?} {id:x} has {sums:?} in the log and nothing in the engine")
        })?;
    }
    holds(engine, ledger)?;
    directory(engine, ledger)
}

fn account(ledger: &Ledger, scope: Scope, id: u128, live: &Account) -> Check {
    let books = &ledger.books;
    for sums in [live.current, live.previous] {
        let due = books.of(scope, id, sums.start);
        ensure(
            (due.spent, due.held) == (sums.spent, sums.held),
            CapIsWholeSum,
            || format!("{scope:?} {id:x} has {sums:?}, the log says {due:?}"),
        )?;
    }
    let lifetime = books.lifetime.get(&(scope, id)).copied();
    ensure(
        lifetime.unwrap_or_default() == live.lifetime,
        NoSpendLost,
        || {
            let spent = live.lifetime;
            format!("{scope:?} {id:x} spent {spent} ever, the log says {lifetime:?}")
        },
    )
}

fn holds(engine: &Engine, ledger: &Ledger) -> Check {
    let live = engine.shard().holds.sorted();
    let due: Vec<_> = ledger.open().collect();
    let said: Vec<_> = live.iter().map(|hold| (hold.id, hold.left)).collect();
    let due: Vec<(_, Nanos)> = due.iter().map(|(id, hold)| (**id, hold.left)).collect();
    ensure(said == due, HoldEndsOnce, || {
        format!("the open holds are {said:?}, the log says {due:?}")
    })?;
    for hold in live {
        let mut operations: Vec<_> = engine.shard().holds.operations_of(hold).collect();
        let known = ledger.holds.get(&hold.id);
        let mut bound: Vec<_> = known.map(|h| h.operations.clone()).unwrap_or_default();
        operations.sort_by_key(|op| op.key);
        bound.sort_by_key(|op| op.key);
        ensure(operations == bound, CountsOnce, || {
            format!("{} answers {operations:?}, the log says {bound:?}", hold.id)
        })?;
    }
    Ok(())
}

fn directory(engine: &Engine, ledger: &Ledger) -> Check {
    let rules = ledger.rules.at(Lsn(u64::MAX));
    for (id, (cap, composition)) in &rules.orgs {
        let entry = engine.directory().org(*id);
        let said = entry.map(|org| (org.budget, org.composition));
        ensure(
            said == Some((*cap, *composition)),
            AcknowledgedStays,
            || format!("org {id} is {said:?}, the log says {cap:?}, {composition:?}"),
        )?;
    }
    for (id, key) in &rules.keys {
        let entry = engine.directory().key(*id);
        let said = entry.map(|known| (known.budget, known.revoked_at.is_some()));
        ensure(
            said == Some((key.cap, key.revoked)),
            AcknowledgedStays,
            || format!("key {id} is {said:?}, the log says {key:?}"),
        )?;
    }
    let mut due: Vec<_> = rules
        .policies
        .iter()
        .map(|(id, policy)| (*id, policy.version))
        .collect();
    due.sort();
    let orgs = rules
        .orgs
        .keys()
        .filter_map(|id| engine.directory().org(*id));
    let mut said: Vec<_> = orgs
        .flat_map(|org| org.rules.all().iter().map(|p| (p.id, p.version)))
        .collect();
    said.sort();
    ensure(said == due, AcknowledgedStays, || {
        format!("the policies are {said:?}, the log says {due:?}")
    })
}
