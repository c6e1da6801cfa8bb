//! The state as bytes (rkyv) and back. The rows stand in an order that depends only on what is in
//! them, so two equal states have equal bytes: the state hash is the hash of the snapshot.

use crate::account::{Account, Sums};
use crate::dedup::Generation;
use crate::engine::Engine;
use crate::hold::NewHold;
use crate::shard::WorkflowLive;
use persist::record::{DirectoryRecord, Operation, Record, State};
use persist::{HoldId, KeyId, Millis, Nanos, OrgId, WorkflowId};
use rkyv::{Archive, Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

#[derive(Archive, Serialize, Deserialize, Debug)]
struct Snapshot {
    now: u64,
    /// Postcard, each a `Record::Directory`.
    directory: Vec<Vec<u8>>,
    aliases: Vec<(u128, String, u128)>,
    workflows: Vec<WorkflowRow>,
    keys: Vec<AccountRow>,
    orgs: Vec<AccountRow>,
    holds: Vec<HoldRow>,
    dedup: Vec<GenerationRow>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct WorkflowRow {
    id: u128,
    org: u128,
    state: u8,
    version: u64,
    reason: Option<String>,
    state_since: u64,
    budget: Option<i64>,
    max_per_call: Option<i64>,
    account: AccountRow,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct AccountRow {
    id: u128,
    current: (u64, i64, i64),
    previous: (u64, i64, i64),
    lifetime: i64,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct HoldRow {
    id: u128,
    org: u128,
    workflow: u128,
    key: u128,
    minted: i64,
    left: i64,
    period_start: u64,
    expires_at: u64,
    operations: Vec<(u128, u64)>,
}

#[derive(Archive, Serialize, Deserialize, Debug)]
struct GenerationRow {
    since: u64,
    keys: Vec<u128>,
}

/// The snapshot does not decode although its checksum is right.
#[derive(Debug, thiserror::Error)]
#[error(
    "the snapshot does not decode ({0}). It was written by another version: start that version, or \
     remove the file and let the log be replayed."
)]
pub struct Undecodable(String);

const STATES: [State; 5] = [
    State::Normal,
    State::Flagged,
    State::Tripped,
    State::Paused,
    State::Killed,
];

impl Engine {
    /// The whole state as bytes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn to_snapshot(&self) -> Result<Vec<u8>, Undecodable> {
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&self.rows());
        Ok(bytes.map_err(|e| Undecodable(e.to_string()))?.to_vec())
    }

    /// A hash of the whole state: equal states, equal hashes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn state_hash(&self) -> Result<[u8; 32], Undecodable> {
        Ok(Sha256::digest(self.to_snapshot()?).into())
    }

    /// Fills this (new) engine with a snapshot's state.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Undecodable> {
        let undecodable = |e: rkyv::rancor::Error| Undecodable(e.to_string());
        let mut aligned = rkyv::util::AlignedVec::<16>::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        let rows =
            rkyv::from_bytes::<Snapshot, rkyv::rancor::Error>(&aligned).map_err(undecodable)?;
        for bytes in &rows.directory {
            let record = postcard::from_bytes::<DirectoryRecord<'_>>(bytes)
                .map_err(|e| Undecodable(e.to_string()))?;
            self.fold(&Record::Directory(record));
        }
        for (org, alias, workflow) in &rows.aliases {
            self.directory_mut()
                .restore_alias(OrgId(*org), alias, WorkflowId(*workflow));
        }
        for row in rows.workflows {
            self.shard.put_workflow(row.live());
        }
        self.shard.keys = rows
            .keys
            .iter()
            .map(|row| (KeyId(row.id), row.account()))
            .collect();
        self.shard.orgs = rows
            .orgs
            .iter()
            .map(|row| (OrgId(row.id), row.account()))
            .collect();
        for row in rows.holds {
            let id = HoldId(row.id);
            self.shard.holds.open(row.hold());
            for (key, fingerprint) in row.operations.iter().rev() {
                self.shard.holds.bind(
                    id,
                    Operation {
                        key: *key,
                        fingerprint: *fingerprint,
                    },
                );
            }
        }
        self.shard
            .dedup
            .restore(rows.dedup.into_iter().map(|row| Generation {
                since: Millis(row.since),
                keys: row.keys.into_iter().collect(),
            }));
        self.advance(Millis(rows.now));
        self.take_directory_changed();
        Ok(())
    }

    fn rows(&self) -> Snapshot {
        let mut directory = Vec::new();
        self.directory().visit(&mut |record| {
            // A record that came from the log goes back into bytes.
            if let Ok(bytes) = postcard::to_stdvec(record) {
                directory.push(bytes);
            }
        });
        let aliases = self
            .directory()
            .former_aliases()
            .into_iter()
            .map(|(org, alias, id)| (org.0, alias.to_string(), id.0))
            .collect();
        let mut keys: Vec<_> = self
            .shard
            .keys
            .iter()
            .map(|(id, account)| AccountRow::of(id.0, account))
            .collect();
        keys.sort_unstable_by_key(|row| row.id);
        let mut orgs: Vec<_> = self
            .shard
            .orgs
            .iter()
            .map(|(id, account)| AccountRow::of(id.0, account))
            .collect();
        orgs.sort_unstable_by_key(|row| row.id);
        let holds = self.shard.holds.sorted().into_iter().map(|hold| HoldRow {
            id: hold.id.0,
            org: hold.org.0,
            workflow: hold.workflow.0,
            key: hold.key.0,
            minted: hold.minted.0,
            left: hold.left.0,
            period_start: hold.period_start.0,
            expires_at: hold.expires_at.0,
            operations: self
                .shard
                .holds
                .operations_of(hold)
                .map(|op| (op.key, op.fingerprint))
                .collect(),
        });
        let dedup = self.shard.dedup.generations().map(|generation| {
            let mut keys: Vec<_> = generation.keys.iter().copied().collect();
            keys.sort_unstable();
            GenerationRow {
                since: generation.since.0,
                keys,
            }
        });
        Snapshot {
            now: self.now().0,
            directory,
            aliases,
            workflows: self
                .shard
                .sorted()
                .into_iter()
                .map(WorkflowRow::of)
                .collect(),
            keys,
            orgs,
            holds: holds.collect(),
            dedup: dedup.collect(),
        }
    }
}

impl WorkflowRow {
    fn of(live: &WorkflowLive) -> Self {
        let state = STATES
            .iter()
            .position(|state| *state == live.state)
            .unwrap_or(0);
        Self {
            id: live.id.0,
            org: live.org.0,
            state: state as u8,
            version: live.version,
            reason: live.reason.as_deref().map(str::to_owned),
            state_since: live.state_since.0,
            budget: live.budget.map(|n| n.0),
            max_per_call: live.max_per_call.map(|n| n.0),
            account: AccountRow::of(live.id.0, &live.account),
        }
    }

    fn live(self) -> WorkflowLive {
        WorkflowLive {
            id: WorkflowId(self.id),
            org: OrgId(self.org),
            // An unknown state stops the workflow rather than letting it run.
            state: STATES
                .get(usize::from(self.state))
                .copied()
                .unwrap_or(State::Paused),
            version: self.version,
            reason: self.reason.map(Into::into),
            state_since: Millis(self.state_since),
            budget: self.budget.map(Nanos),
            max_per_call: self.max_per_call.map(Nanos),
            account: self.account.account(),
        }
    }
}

impl AccountRow {
    fn of(id: u128, account: &Account) -> Self {
        let sums = |sums: &Sums| (sums.start.0, sums.spent.0, sums.held.0);
        Self {
            id,
            current: sums(&account.current),
            previous: sums(&account.previous),
            lifetime: account.lifetime.0,
        }
    }

    fn account(&self) -> Account {
        let sums = |(start, spent, held): (u64, i64, i64)| Sums {
            start: Millis(start),
            spent: Nanos(spent),
            held: Nanos(held),
        };
        Account {
            current: sums(self.current),
            previous: sums(self.previous),
            lifetime: Nanos(self.lifetime),
        }
    }
}

impl HoldRow {
    fn hold(&self) -> NewHold {
        NewHold {
            id: HoldId(self.id),
            org: OrgId(self.org),
            workflow: WorkflowId(self.workflow),
            key: KeyId(self.key),
            minted: Nanos(self.minted),
            left: Nanos(self.left),
            period_start: Millis(self.period_start),
            expires_at: Millis(self.expires_at),
        }
    }
}
