//! The state as bytes (rkyv) and back, in parts: the directory, the workflows of a range of slots,
//! one generation of counted events. The rows stand in an order that depends only on what is in
//! them, so equal states have equal bytes, and the hash of all parts is the hash of the state.

use crate::account::{Account, DaySums, Executions, Sums};
use crate::chain::{Chain, NONE};
use crate::dedup::Generation;
use crate::directory::Directory;
use crate::engine::Engine;
use crate::learned::{Estimate, Learned};
use crate::ratings::{Row, Sum};
use crate::shard::{OpenHold, SavedWorkflow, Standing, WorkflowLive};
use persist::ids::Slot;
use persist::record::{Actor, DirectoryRecord, Operation, Rated, State};
use persist::{Day, HoldId, KeyId, Millis, Nanos, OrgId, UserId, WorkflowId};
use rkyv::rancor::Error as RkyvError;
use rkyv::rend::{u64_le, u128_le};
use rkyv::tuple::ArchivedTuple2;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};
use sha2::{Digest as _, Sha256};
use std::ops::RangeInclusive;

#[derive(Archive, Serialize)]
struct DirectoryRows {
    now: u64,
    /// Postcard, each a `DirectoryRecord`.
    records: Vec<Vec<u8>>,
    /// Key of a name, and the workflow that has or had it.
    aliases: Vec<(u128, u128)>,
}

#[derive(Archive, Serialize)]
struct SlotRows {
    workflows: Vec<WorkflowRow>,
    payers: Vec<PayerRow>,
    chains: Vec<ChainRow>,
    holds: Vec<HoldRow>,
    ratings: Vec<RatingRow>,
    unratable: Vec<UnratableRow>,
}

/// Charges that may have to be booked at another price.
#[derive(Archive, Serialize)]
struct RatingRow {
    org: u128,
    workflow: u128,
    day: u32,
    model: String,
    payer: u128,
    version: u64,
    /// Input, output, cache read, cache write, reasoning.
    tokens: [u64; 5],
    cost: i64,
    charges: u64,
}

/// Charges that can no longer be.
#[derive(Archive, Serialize)]
struct UnratableRow {
    org: u128,
    workflow: u128,
    charges: u64,
}

#[derive(Archive, Serialize)]
struct AccountRow {
    older: i64,
    /// Day, spent, held.
    days: Vec<(u32, i64, i64)>,
}

#[derive(Archive, Serialize)]
struct StateRow {
    at: u64,
    reason: Option<String>,
    /// 0 the gateway, 1 a person, 2 a key.
    actor_kind: u8,
    actor: u128,
}

#[derive(Archive, Serialize)]
struct WorkflowRow {
    id: u128,
    org: u128,
    state: u8,
    version: u64,
    /// How it came to its state, if that ever changed.
    changed: Option<Box<StateRow>>,
    account: AccountRow,
    learned: Vec<(u64, i64)>,
}

#[derive(Archive, Serialize)]
struct PayerRow {
    org: u128,
    workflow: u128,
    key: u128,
    account: AccountRow,
    /// First day of the newest month with calls, and how many.
    executions: (u32, u32),
}

#[derive(Archive, Serialize)]
struct ChainRow {
    key: u128,
    org: u128,
    workflow: u128,
    started_at: u64,
    active_at: u64,
    cap: Option<i64>,
    spent: i64,
    held: i64,
}

#[derive(Archive, Serialize)]
struct HoldRow {
    id: u128,
    org: u128,
    workflow: u128,
    key: u128,
    minted: i64,
    left: i64,
    day: u32,
    expires_at: u64,
    chain: Option<u128>,
    minted_for: Option<(u128, u64)>,
    /// The others bound to it, newest first.
    operations: Vec<(u128, u64)>,
}

#[derive(Archive, Serialize)]
struct GenerationRows {
    number: u64,
    since: u64,
    keys: Vec<u128>,
}

/// A part does not decode although its checksum is right.
#[derive(Debug, thiserror::Error)]
#[error(
    "the snapshot does not decode ({0}). It was written by another version: start that version, or \
     remove the snapshots and let the log be replayed."
)]
pub struct Undecodable(String);

const STATES: [State; 5] = [
    State::Normal,
    State::Flagged,
    State::Tripped,
    State::Paused,
    State::Killed,
];

fn to_bytes(
    rows: &impl for<'a> Serialize<
        rkyv::api::high::HighSerializer<
            AlignedVec,
            rkyv::ser::allocator::ArenaHandle<'a>,
            RkyvError,
        >,
    >,
) -> Result<AlignedVec, Undecodable> {
    rkyv::to_bytes::<RkyvError>(rows).map_err(|e| Undecodable(e.to_string()))
}

fn aligned(bytes: &[u8]) -> AlignedVec {
    let mut aligned = AlignedVec::with_capacity(bytes.len());
    aligned.extend_from_slice(bytes);
    aligned
}

fn undecodable(error: &RkyvError) -> Undecodable {
    Undecodable(error.to_string())
}

impl Engine {
    /// A hash of the whole state: equal states, equal hashes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn state_hash(&self) -> Result<[u8; 32], Undecodable> {
        let mut hash = Sha256::new();
        hash.update(self.directory_part()?);
        hash.update(self.slots_part(Slot(0)..=Slot(persist::ids::SLOTS - 1))?);
        let (first, open) = self.dedup().numbers();
        for number in first..=open {
            if let Some(generation) = self.dedup().generation(number) {
                hash.update(generation_part(&generation)?);
            }
        }
        Ok(hash.finalize().into())
    }

    /// The directory and the time as bytes.
    pub fn directory_part(&self) -> Result<AlignedVec, Undecodable> {
        let mut records = Vec::new();
        let mut aliases = Vec::new();
        if let Some(directory) = self.directory() {
            directory.visit(&mut |record| {
                // A record that came from the log goes back into bytes.
                if let Ok(bytes) = postcard::to_stdvec(record) {
                    records.push(bytes);
                }
            });
            let keys = directory.alias_keys().into_iter();
            aliases.extend(keys.map(|(key, id)| (key, id.0)));
        }
        to_bytes(&DirectoryRows {
            now: self.now().0,
            records,
            aliases,
        })
    }

    /// Gives this (new) engine a directory.
    pub fn restore_directory(&mut self, (directory, now): (Directory, Millis)) {
        if let Some(own) = self.directory_mut() {
            *own = directory;
        }
        self.advance(now);
        self.take_directory_changed();
    }

    /// The workflows of a range of slots as bytes.
    pub fn slots_part(&self, slots: RangeInclusive<Slot>) -> Result<AlignedVec, Undecodable> {
        let inside = |org: OrgId, id: WorkflowId| slots.contains(&id.slot(org));
        let mut rows = SlotRows {
            workflows: Vec::new(),
            payers: Vec::new(),
            chains: Vec::new(),
            holds: Vec::new(),
            ratings: Vec::new(),
            unratable: Vec::new(),
        };
        for shard in self.shards() {
            let workflows = shard.workflows().map(|live| (shard.org_of(live), live));
            let workflows = workflows.filter(|(org, live)| inside(*org, live.id));
            rows.workflows
                .extend(workflows.map(|(org, live)| workflow_row(org, live)));
            let payers = shard.payers().map(|payer| PayerRow {
                org: shard.org_of(payer.workflow).0,
                workflow: payer.workflow.id.0,
                key: payer.key.0,
                account: account_row(payer.account),
                executions: payer
                    .executions
                    .newest()
                    .map_or((0, 0), |(day, n)| (day.0, n)),
            });
            let payers = payers.filter(|row| inside(OrgId(row.org), WorkflowId(row.workflow)));
            rows.payers.extend(payers);
            for (chain, _) in shard.sorted_chains() {
                let owner = shard.chain_owner(chain);
                if let Some((org, workflow)) = owner.filter(|(org, id)| inside(*org, *id)) {
                    rows.chains.push(chain_row(chain, org, workflow));
                }
            }
            let holds = shard.sorted_holds().into_iter();
            let holds = holds.filter(|hold| inside(hold.org, hold.workflow));
            rows.holds.extend(holds.map(|hold| hold_row(shard, &hold)));
            let rated = shard.ratings.behind(None);
            for (workflow, of) in rated.filter(|(id, of)| inside(of.org, *id)) {
                let (org, workflow) = (of.org.0, workflow.0);
                let ratings = of.rows().map(|row| rating_row(org, workflow, &row));
                rows.ratings.extend(ratings);
                if of.lost > 0 {
                    rows.unratable.push(UnratableRow {
                        org,
                        workflow,
                        charges: of.lost,
                    });
                }
            }
        }
        rows.workflows.sort_unstable_by_key(|row| row.id);
        rows.payers
            .sort_unstable_by_key(|row| (row.workflow, row.key));
        rows.chains.sort_unstable_by_key(|row| row.key);
        rows.holds.sort_unstable_by_key(|row| row.id);
        let place = |row: &RatingRow| (row.workflow, row.day, row.payer, row.version);
        let order = |a: &RatingRow, b: &RatingRow| {
            place(a).cmp(&place(b)).then_with(|| a.model.cmp(&b.model))
        };
        rows.ratings.sort_unstable_by(order);
        rows.unratable.sort_unstable_by_key(|row| row.workflow);
        to_bytes(&rows)
    }

    /// Adds the workflows of a range of slots.
    pub fn restore_slots(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        let bytes = aligned(bytes);
        let rows =
            rkyv::access::<ArchivedSlotRows, RkyvError>(&bytes).map_err(|e| undecodable(&e))?;
        self.make_room(rows);
        for row in rows.workflows.iter() {
            let (org, id) = (OrgId(row.org.to_native()), WorkflowId(row.id.to_native()));
            if let Some(shard) = self.part_mut(id.slot(org)) {
                shard.put_workflow(saved(row, org, id));
            }
        }
        for row in rows.payers.iter() {
            let org = OrgId(row.org.to_native());
            let workflow = WorkflowId(row.workflow.to_native());
            if let Some(shard) = self.part_mut(workflow.slot(org)) {
                let key = KeyId(row.key.to_native());
                let (month, calls) = (row.executions.0.to_native(), row.executions.1.to_native());
                let executions = Executions::from_parts(Day(month), calls);
                shard.put_payer(org, workflow, key, account(&row.account), executions);
            }
        }
        for row in rows.ratings.iter() {
            let org = OrgId(row.org.to_native());
            let workflow = WorkflowId(row.workflow.to_native());
            if let Some(shard) = self.part_mut(workflow.slot(org)) {
                shard.ratings.put(org, workflow, &rating(row));
            }
        }
        for row in rows.unratable.iter() {
            let org = OrgId(row.org.to_native());
            let workflow = WorkflowId(row.workflow.to_native());
            if let Some(shard) = self.part_mut(workflow.slot(org)) {
                let charges = row.charges.to_native();
                shard.ratings.put_lost(org, workflow, charges);
            }
        }
        for row in rows.chains.iter() {
            let org = OrgId(row.org.to_native());
            let workflow = WorkflowId(row.workflow.to_native());
            if let Some(shard) = self.part_mut(workflow.slot(org)) {
                shard.put_chain(org, workflow, chain(row));
            }
        }
        for row in rows.holds.iter() {
            let hold = hold(row);
            if let Some(shard) = self.part_mut(hold.workflow.slot(hold.org)) {
                let at = shard.put_hold(&hold);
                if let Some(minted_for) = row.minted_for.as_ref() {
                    shard.holds.bind_minted(at, operation(minted_for));
                }
                for bound in row.operations.iter().rev() {
                    shard.holds.bind_at(at, operation(bound));
                }
            }
        }
        Ok(())
    }

    /// Tables that grow while a state is loaded would be copied again and again.
    fn make_room(&mut self, rows: &ArchivedSlotRows) {
        let shards = self.settings.shards;
        let mut counts = vec![(0, 0); usize::from(shards)];
        let mut count = |org: u128, workflow: u128, add: fn(&mut (usize, usize))| {
            let slot = WorkflowId(workflow).slot(OrgId(org));
            let shard = usize::from(crate::engine::shard_of(slot, shards));
            if let Some(counts) = counts.get_mut(shard) {
                add(counts);
            }
        };
        for row in rows.workflows.iter() {
            count(row.org.to_native(), row.id.to_native(), |n| n.0 += 1);
        }
        for row in rows.holds.iter() {
            count(row.org.to_native(), row.workflow.to_native(), |n| n.1 += 1);
        }
        self.reserve(&counts);
    }
}

/// The directory and the time back from bytes.
pub fn read_directory(bytes: &[u8]) -> Result<(Directory, Millis), Undecodable> {
    let bytes = aligned(bytes);
    let rows =
        rkyv::access::<ArchivedDirectoryRows, RkyvError>(&bytes).map_err(|e| undecodable(&e))?;
    let mut directory = Directory::default();
    directory.reserve(rows.aliases.len());
    for bytes in rows.records.iter() {
        let record = postcard::from_bytes::<DirectoryRecord<'_>>(bytes)
            .map_err(|e| Undecodable(e.to_string()))?;
        directory.fold(&record);
    }
    for row in rows.aliases.iter() {
        directory.restore_alias(row.0.to_native(), WorkflowId(row.1.to_native()));
    }
    directory.shrink();
    Ok((directory, Millis(rows.now.to_native())))
}

/// One generation of counted events as bytes.
pub fn generation_part(generation: &Generation) -> Result<AlignedVec, Undecodable> {
    to_bytes(&GenerationRows {
        number: generation.number,
        since: generation.since.0,
        keys: generation.keys.clone(),
    })
}

/// A generation back from bytes.
pub fn read_generation(bytes: &[u8]) -> Result<Generation, Undecodable> {
    let bytes = aligned(bytes);
    let rows = rkyv::access::<ArchivedGenerationRows, RkyvError>(&bytes);
    let rows = rows.map_err(|e| undecodable(&e))?;
    Ok(Generation {
        number: rows.number.to_native(),
        since: Millis(rows.since.to_native()),
        keys: rows.keys.iter().map(|key| key.to_native()).collect(),
    })
}

fn account_row(account: &Account) -> AccountRow {
    let days = account.days().iter();
    AccountRow {
        older: account.older().0,
        days: days
            .map(|day| (day.day.0, day.sums.spent.0, day.sums.held.0))
            .collect(),
    }
}

fn account(row: &ArchivedAccountRow) -> Account {
    let days = row.days.iter().map(|day| DaySums {
        day: Day(day.0.to_native()),
        sums: Sums {
            spent: Nanos(day.1.to_native()),
            held: Nanos(day.2.to_native()),
        },
    });
    Account::from_parts(days, Nanos(row.older.to_native()))
}

fn workflow_row(org: OrgId, live: &WorkflowLive) -> WorkflowRow {
    let standing = live.standing();
    let state = STATES.iter().position(|state| *state == standing.state);
    let learned = live.learned.estimates().iter();
    WorkflowRow {
        id: live.id.0,
        org: org.0,
        state: state.unwrap_or(0) as u8,
        version: standing.version,
        changed: state_row(standing).map(Box::new),
        account: account_row(&live.account),
        learned: learned.map(|e| (e.model, e.nanos.0)).collect(),
    }
}

fn state_row(standing: &Standing) -> Option<StateRow> {
    let (actor_kind, actor) = match standing.by? {
        Actor::System => (0, 0),
        Actor::User(user) => (1, user.0),
        Actor::Key(key) => (2, key.0),
    };
    Some(StateRow {
        at: standing.since.0,
        reason: standing.reason.as_deref().map(str::to_owned),
        actor_kind,
        actor,
    })
}

fn actor(row: &ArchivedStateRow) -> Actor {
    let id = row.actor.to_native();
    match row.actor_kind {
        1 => Actor::User(UserId(id)),
        2 => Actor::Key(KeyId(id)),
        _ => Actor::System,
    }
}

fn saved(row: &ArchivedWorkflowRow, org: OrgId, id: WorkflowId) -> SavedWorkflow {
    let learned = row.learned.iter().map(|estimate| Estimate {
        model: estimate.0.to_native(),
        nanos: Nanos(estimate.1.to_native()),
    });
    let state = STATES.get(usize::from(row.state)).copied();
    let changed = row.changed.as_deref();
    SavedWorkflow {
        org,
        id,
        standing: Standing {
            // An unknown state stops the workflow rather than letting it run.
            state: state.unwrap_or(State::Paused),
            version: row.version.to_native(),
            reason: changed
                .and_then(|row| row.reason.as_ref())
                .map(|reason| reason.as_str().into()),
            since: Millis(changed.map_or(0, |row| row.at.to_native())),
            by: changed.map(actor),
        },
        account: account(&row.account),
        learned: Learned::from_parts(learned.collect()),
    }
}

fn rating_row(org: u128, workflow: u128, row: &Row<'_>) -> RatingRow {
    let tokens = &row.sum.tokens;
    RatingRow {
        org,
        workflow,
        day: row.day.0,
        model: row.model.to_owned(),
        payer: row.payer.0,
        version: row.version,
        tokens: [
            tokens.input,
            tokens.output,
            tokens.cache_read,
            tokens.cache_write,
            tokens.reasoning,
        ],
        cost: row.sum.cost.0,
        charges: row.sum.charges,
    }
}

fn rating(row: &ArchivedRatingRow) -> Row<'_> {
    let [input, output, cache_read, cache_write, reasoning] = row.tokens.map(|n| n.to_native());
    Row {
        day: Day(row.day.to_native()),
        model: &row.model,
        payer: KeyId(row.payer.to_native()),
        version: row.version.to_native(),
        sum: Sum {
            tokens: Rated {
                input,
                output,
                cache_read,
                cache_write,
                reasoning,
            },
            cost: Nanos(row.cost.to_native()),
            charges: row.charges.to_native(),
        },
    }
}

fn chain_row(chain: &Chain, org: OrgId, workflow: WorkflowId) -> ChainRow {
    ChainRow {
        key: chain.key,
        org: org.0,
        workflow: workflow.0,
        started_at: chain.started_at.0,
        active_at: chain.active_at.0,
        cap: chain.cap.map(|cap| cap.0),
        spent: chain.sums.spent.0,
        held: chain.sums.held.0,
    }
}

fn chain(row: &ArchivedChainRow) -> Chain {
    Chain {
        key: row.key.to_native(),
        row: NONE,
        started_at: Millis(row.started_at.to_native()),
        active_at: Millis(row.active_at.to_native()),
        cap: row.cap.as_ref().map(|cap| Nanos(cap.to_native())),
        sums: Sums {
            spent: Nanos(row.spent.to_native()),
            held: Nanos(row.held.to_native()),
        },
        first_hold: NONE,
    }
}

fn hold_row(shard: &crate::shard::Shard, hold: &OpenHold) -> HoldRow {
    let open = shard.holds.get(hold.id);
    let minted_for = open.and_then(|open| shard.holds.minted_for(open));
    let operations = open.map(|open| shard.holds.operations_of(open));
    let others = operations.into_iter().flatten();
    let others = others.filter(|operation| Some(*operation) != minted_for);
    let row = |operation: Operation| (operation.key, operation.fingerprint);
    HoldRow {
        id: hold.id.0,
        org: hold.org.0,
        workflow: hold.workflow.0,
        key: hold.key.0,
        minted: hold.minted.0,
        left: hold.left.0,
        day: hold.day.0,
        expires_at: hold.expires_at.0,
        chain: hold.chain,
        minted_for: minted_for.map(row),
        operations: others.map(row).collect(),
    }
}

type ArchivedOperation = ArchivedTuple2<u128_le, u64_le>;

fn operation(row: &ArchivedOperation) -> Operation {
    Operation {
        key: row.0.to_native(),
        fingerprint: row.1.to_native(),
    }
}

fn hold(row: &ArchivedHoldRow) -> OpenHold {
    OpenHold {
        id: HoldId(row.id.to_native()),
        org: OrgId(row.org.to_native()),
        workflow: WorkflowId(row.workflow.to_native()),
        key: KeyId(row.key.to_native()),
        minted: Nanos(row.minted.to_native()),
        left: Nanos(row.left.to_native()),
        day: Day(row.day.to_native()),
        expires_at: Millis(row.expires_at.to_native()),
        chain: row.chain.as_ref().map(|chain| chain.to_native()),
    }
}
