//! The engines' state held against the reference's, figure by figure, once everything is in the log.

use super::books::{Sums, Whose};
use super::reference::Ledger;
use super::spec::IDLE_MILLIS;
use super::violation::Invariant::*;
use super::violation::{Check, ensure};
use engine::Engine;
use engine::account::Account;
use engine::directory::Directory;
use engine::period::Period;
use persist::record::{PeriodKind, Scope};
use persist::{Day, Lsn, Millis, Nanos};
use std::collections::BTreeMap;

/// Compares engines that together have folded exactly the log that the reference has walked.
pub fn compare(engines: &[&Engine], ledger: &Ledger) -> Check {
    let mut keys: BTreeMap<u128, Nanos> = BTreeMap::new();
    let shards = || engines.iter().flat_map(|engine| engine.shards());
    for live in shards().flat_map(|shard| shard.workflows()) {
        let known = ledger.books.workflows.get(&live.id);
        let said = (live.standing().state, live.standing().version);
        let due = known.map(|w| (w.state, w.version)).unwrap_or_default();
        ensure(due == said, SameLogSameState, || {
            format!("{} is {said:?}, the log says {due:?}", live.id)
        })?;
        account(ledger, Scope::Workflow, live.id.0, &live.account)?;
    }
    for (of, payer) in shards().flat_map(|shard| shard.payers().map(move |payer| (shard, payer))) {
        let whose = (of.org_of(payer.workflow), payer.workflow.id, payer.key);
        let newest = payer.executions.newest();
        let due = executions(
            ledger,
            |of| of == whose,
            newest.map_or(Day(0), |(day, _)| day),
        );
        let said = newest.map_or(0, |(_, calls)| u64::from(calls));
        ensure(said == due, CountsOnce, || {
            format!("{whose:?} made {newest:?} executions, the log says {due}")
        })?;
        *keys.entry(payer.key.0).or_default() += payer.account.since(Day(0)).taken();
    }
    for (scope, id) in subjects(ledger) {
        let due = ledger.books.since(scope, id, Day(0)).taken();
        let said = match scope {
            Scope::ApiKey => keys.get(&id).copied().unwrap_or_default(),
            Scope::Workflow => {
                let rows = shards().flat_map(|shard| shard.workflows());
                let row = { rows }.find(|row| row.id.0 == id);
                row.map_or(Nanos::ZERO, |row| row.account.since(Day(0)).taken())
            }
            Scope::Org => {
                let rows = shards().flat_map(|shard| {
                    let rows = shard.workflows();
                    rows.filter(|row| shard.org_of(row).0 == id)
                });
                rows.map(|row| row.account.since(Day(0)).taken()).sum()
            }
        };
        ensure(due == said, NoSpendLost, || {
            format!("{scope:?} {id:x} has taken {said}, the log says {due}")
        })?;
    }
    holds(engines, ledger)?;
    chains(engines, ledger)
}

/// Executions from the first day of a month on: of the newest month these are all.
fn executions(ledger: &Ledger, of: impl Fn(Whose) -> bool, first: Day) -> u64 {
    let all = ledger.books.executions.iter();
    let counted = all.filter(|((whose, day), _)| of(*whose) && *day >= first);
    counted.map(|(_, calls)| calls).sum()
}

fn subjects(ledger: &Ledger) -> Vec<(Scope, u128)> {
    let keys = ledger.books.sums.keys();
    let mut all: Vec<_> = keys.map(|(scope, id, _)| (*scope, *id)).collect();
    all.dedup();
    all
}

/// Days are kept one by one as long as a period reaches them, older ones in one sum.
fn account(ledger: &Ledger, scope: Scope, id: u128, live: &Account) -> Check {
    let books = &ledger.books;
    let mut rest = books.since(scope, id, Day(0));
    for day in live.days() {
        let due = books.sums.get(&(scope, id, day.day));
        let due = due.copied().unwrap_or_default();
        let said = (day.sums.spent, day.sums.held);
        ensure((due.spent, due.held) == said, CapIsWholeSum, || {
            format!("{scope:?} {id:x} has {day:?}, the log says {due:?}")
        })?;
        rest.spent -= due.spent;
        rest.held -= due.held;
    }
    let older = Sums {
        spent: live.older(),
        held: Nanos::ZERO,
    };
    ensure(rest == older, NoSpendLost, || {
        format!("{scope:?} {id:x} has {older:?} on older days, the log says {rest:?}")
    })
}

fn holds(engines: &[&Engine], ledger: &Ledger) -> Check {
    let shards = || engines.iter().flat_map(|engine| engine.shards());
    let mut said: Vec<_> = shards()
        .flat_map(|shard| shard.sorted_holds())
        .map(|hold| (hold.id, hold.left, hold.day, hold.expires_at, hold.chain))
        .collect();
    said.sort_unstable();
    let open = ledger.books.open();
    let due: Vec<_> = open
        .map(|(id, hold)| (*id, hold.left, hold.day, hold.expires_at, hold.chain))
        .collect();
    ensure(said == due, HoldEndsOnce, || {
        format!("the open holds are {said:?}, the log says {due:?}")
    })?;
    for shard in shards() {
        for hold in shard.holds.sorted() {
            let mut operations: Vec<_> = shard.holds.operations_of(hold).collect();
            let known = ledger.books.holds.get(&hold.id);
            let mut bound = known.map(|h| h.operations.clone()).unwrap_or_default();
            let minted_for = shard.holds.minted_for(hold);
            ensure(
                minted_for == known.and_then(|h| h.minted_for),
                CountsOnce,
                || format!("{} was minted for {minted_for:?}", hold.id),
            )?;
            operations.sort_by_key(|op| op.key);
            bound.sort_by_key(|op| op.key);
            ensure(operations == bound, CountsOnce, || {
                format!("{} answers {operations:?}, the log says {bound:?}", hold.id)
            })?;
        }
    }
    Ok(())
}

fn chains(engines: &[&Engine], ledger: &Ledger) -> Check {
    let shards = engines.iter().flat_map(|engine| engine.shards());
    let mut said: Vec<_> = shards
        .flat_map(|shard| shard.sorted_chains())
        .map(|(chain, workflow)| {
            let sums = (chain.sums.spent, chain.sums.held);
            (
                chain.key,
                workflow,
                chain.started_at,
                chain.active_at,
                chain.cap,
                sums,
            )
        })
        .collect();
    said.sort_unstable();
    let due = ledger.books.chains.iter().map(|(key, chain)| {
        let sums = (chain.sums.spent, chain.sums.held);
        (
            *key,
            chain.workflow,
            chain.started_at,
            chain.active_at,
            chain.cap,
            sums,
        )
    });
    let due: Vec<_> = due.collect();
    ensure(said == due, CapIsWholeSum, || {
        format!("the chains are {said:?}, the log says {due:?}")
    })
}

/// What time has ended: no open hold and no chain outlives it.
pub fn on_time(now: Millis, ledger: &Ledger, pump: usize) -> Check {
    for (id, hold) in ledger.books.open() {
        let ours = ledger.layout.pump_of(id.slot()) == pump;
        ensure(!ours || hold.expires_at > now, HoldEndsOnce, || {
            let due = hold.expires_at;
            format!("{id} should have expired at {due:?}, it is {now:?}")
        })?;
    }
    for chain in ledger.books.chains.values() {
        let ours = ledger.layout.pump_of(chain.workflow.slot(chain.org)) == pump;
        let over = chain.active_at.plus(IDLE_MILLIS) <= now;
        ensure(!ours || !over, HoldEndsOnce, || {
            format!("{chain:?} should be over, it is {now:?}")
        })?;
    }
    Ok(())
}

/// What all pumps share: the sums of orgs and of keys bound to no workflow, on every day that a
/// period can reach, with nothing on its way.
pub fn shared(directory: &Directory, ledger: &Ledger, today: Day) -> Check {
    let rules = ledger.rules.at(directory.lsn);
    let orgs = rules.orgs.keys().filter_map(|id| {
        let shared = &directory.org(*id)?.shared;
        Some((Scope::Org, id.0, shared))
    });
    let keys = rules.keys.keys().filter_map(|id| {
        let shared = directory.key(*id)?.shared.as_ref()?;
        Some((Scope::ApiKey, id.0, shared))
    });
    for (scope, id, shared) in orgs.chain(keys) {
        let days = (0..31).map(|back| today.back(back));
        for first in days.chain([Day(0)]) {
            let due = ledger.books.since(scope, id, first);
            let said = shared.money.since(first);
            ensure(
                (due.spent, due.held) == (said.spent, said.held),
                CapIsWholeSum,
                || {
                    format!(
                        "the cell of {scope:?} {id:x} has {said:?} since {first:?}, the log says {due:?}"
                    )
                },
            )?;
        }
        let month = Period::around(PeriodKind::Month, today).first;
        let of = |(org, _, key): Whose| match scope {
            Scope::Org => org.0 == id,
            _ => key.0 == id,
        };
        let (due, said) = (executions(ledger, of, month), shared.executed_since(month));
        ensure(due == said, CountsOnce, || {
            format!("{scope:?} {id:x} made {said} executions, the log says {due}")
        })?;
        let moving = shared.money.moving().at_rest(0).is_none();
        ensure(!moving, CapIsWholeSum, || {
            format!("something of {scope:?} {id:x} is on its way for ever")
        })?;
    }
    Ok(())
}

/// The directory with every change so far.
pub fn directory(directory: &Directory, ledger: &Ledger) -> Check {
    let rules = ledger.rules.at(Lsn(u64::MAX));
    for (id, due) in &rules.orgs {
        let said = directory
            .org(*id)
            .map(|o| (o.budget, o.period, o.composition));
        let due = Some((due.cap, due.period, due.composition));
        ensure(said == due, AcknowledgedStays, || {
            format!("org {id} is {said:?}, the log says {due:?}")
        })?;
    }
    for (id, due) in &rules.workflows {
        let entry = directory.workflow(due.org, *id);
        let said = entry.map(|w| {
            (
                w.budget(),
                w.period,
                w.rare().overdraft,
                w.rare().max_per_call,
                w.rare().chain_cap,
            )
        });
        let due = Some((
            due.cap,
            due.period,
            due.overdraft,
            due.per_call,
            due.chain_cap,
        ));
        ensure(said == due, AcknowledgedStays, || {
            format!("{id} is {said:?}, the log says {due:?}")
        })?;
    }
    for (id, key) in &rules.keys {
        let entry = directory.key(*id);
        let said = entry.map(|known| (known.budget, known.workflow, known.revoked_at.is_some()));
        let due = Some((key.cap, key.bound, key.revoked));
        ensure(said == due, AcknowledgedStays, || {
            format!("key {id} is {said:?}, the log says {key:?}")
        })?;
    }
    let policies = rules.policies.iter();
    let due: Vec<_> = policies.map(|(id, policy)| (*id, policy.version)).collect();
    let orgs = rules.orgs.keys().filter_map(|id| directory.org(*id));
    let said = orgs.flat_map(|org| org.rules.all().iter().map(|p| (p.id, p.version)));
    let mut said: Vec<_> = said.collect();
    said.sort();
    ensure(said == due, AcknowledgedStays, || {
        format!("the policies are {said:?}, the log says {due:?}")
    })
}
