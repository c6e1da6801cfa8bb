//! The state of a shard: states and money of workflows, open holds, chains. Only `fold` changes it,
//! and only by what a record says. A workflow has a row once something happened in it; before, it is
//! Normal and has spent nothing.

use crate::account::{Account, Executions, Sums};
use crate::chain::{Chain, Chains, NONE};
use crate::hold::{Holds, NewHold};
use crate::learned::Learned;
use crate::meter::Meters;
use crate::pace;
use crate::payer::Payers;
use crate::ratings::Ratings;
use crate::rows::Rows;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use persist::record::{
    Actor, ChainLink, Charged, HoldEnded, HoldMinted, HoldUsed, Record, Rerated, State,
};
use persist::{Day, HoldId, KeyId, Millis, Nanos, OrgId, WorkflowId};
use std::hash::BuildHasher as _;

/// A workflow's live part. There may be millions, so it is kept small.
#[derive(Debug, Clone)]
pub struct WorkflowLive {
    /// Id.
    pub id: WorkflowId,
    /// Money.
    pub account: Account,
    /// What its calls usually cost.
    pub learned: Learned,
    /// `None` while nobody changed its state.
    standing: Option<Box<Standing>>,
    /// How many open holds it has.
    pub open_holds: u32,
    /// Place among the shard's orgs.
    org: u32,
    first_hold: u32,
    first_payer: u32,
}

/// The state of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// State.
    pub state: State,
    /// Grows with each change of state.
    pub version: u64,
    /// Why it is in that state.
    pub reason: Option<Box<str>>,
    /// When it came to it.
    pub since: Millis,
    /// Who brought it there; none if its state never changed.
    pub by: Option<Actor>,
}

impl Standing {
    /// Of a workflow whose state nobody changed.
    pub const NEW: Self = Self {
        state: State::Normal,
        version: 0,
        reason: None,
        since: Millis(0),
        by: None,
    };
}

const _: () = assert!(size_of::<WorkflowLive>() <= 96);

impl WorkflowLive {
    /// Its state, and how it came to it.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        self.standing.as_deref().unwrap_or(&Standing::NEW)
    }
}

/// A workflow as snapshots hold it.
#[derive(Debug)]
pub struct SavedWorkflow {
    /// Whose.
    pub org: OrgId,
    /// Id.
    pub id: WorkflowId,
    /// State.
    pub standing: Standing,
    /// Money.
    pub account: Account,
    /// What its calls usually cost.
    pub learned: Learned,
}

/// An open hold with the names behind its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHold {
    /// Id.
    pub id: HoldId,
    /// Whose.
    pub org: OrgId,
    /// The workflow it counts for.
    pub workflow: WorkflowId,
    /// The key it counts for.
    pub key: KeyId,
    /// What it was minted with.
    pub minted: Nanos,
    /// What charges have left of it.
    pub left: Nanos,
    /// The day it counts in.
    pub day: Day,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// The chain it belongs to.
    pub chain: Option<u128>,
}

/// What a key did in a workflow.
#[derive(Debug)]
pub struct Paying<'a> {
    /// The key.
    pub key: KeyId,
    /// The workflow.
    pub workflow: &'a WorkflowLive,
    /// What it spent and holds there.
    pub account: &'a Account,
    /// The calls it was allowed there.
    pub executions: Executions,
}

/// One shard.
#[derive(Debug, Default)]
pub struct Shard {
    rows: Rows<WorkflowLive>,
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
    payers: Payers,
    orgs: Vec<OrgId>,
    org_places: HashMap<OrgId, u32>,
    /// Open holds.
    pub holds: Holds,
    /// Chains that are not over.
    pub chains: Chains,
    /// What may have to be booked at another price.
    pub ratings: Ratings,
    /// Meters; not part of the state.
    pub meters: Meters,
}

impl Shard {
    fn place(&self, id: WorkflowId) -> Option<u32> {
        let same = |at: &u32| self.rows.get(*at).is_some_and(|row| row.id == id);
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    /// A workflow, if something happened in it.
    #[must_use]
    pub fn workflow(&self, id: WorkflowId) -> Option<&WorkflowLive> {
        self.rows.get(self.place(id)?)
    }

    /// What a key spent and holds in a workflow.
    #[must_use]
    pub fn payer(&self, workflow: WorkflowId, key: KeyId) -> Option<&Account> {
        let row = self.place(workflow)?;
        let live = self.rows.get(row)?;
        let payer = self.payers.find(row, live.first_payer, key)?;
        Some(self.payers.get(payer)?.account(&live.account))
    }

    /// The keys that pay in a workflow, and what each spent and holds there.
    pub fn payers_of(&self, workflow: WorkflowId) -> impl Iterator<Item = (KeyId, &Account)> {
        let live = self.workflow(workflow).into_iter();
        live.flat_map(|live| {
            let payers = self.payers.of_row(live.first_payer);
            payers.map(|payer| (payer.key, payer.account(&live.account)))
        })
    }

    /// Whose a workflow of this shard is.
    #[must_use]
    pub fn org_of(&self, workflow: &WorkflowLive) -> OrgId {
        let org = self.orgs.get(workflow.org as usize);
        org.copied().unwrap_or(OrgId(0))
    }

    /// The open holds of a workflow, newest first.
    pub fn holds_of(&self, workflow: WorkflowId) -> impl Iterator<Item = HoldId> {
        let first = self.workflow(workflow).map_or(NONE, |row| row.first_hold);
        self.holds.of_workflow(first).map(|hold| hold.id)
    }

    /// One open hold.
    #[must_use]
    pub fn hold(&self, id: HoldId) -> Option<OpenHold> {
        self.resolved(self.holds.get(id)?)
    }

    fn resolved(&self, hold: &crate::hold::Hold) -> Option<OpenHold> {
        let payer = self.payers.get(hold.payer)?;
        let row = self.rows.get(payer.row)?;
        Some(OpenHold {
            id: hold.id,
            org: self.org_of(row),
            workflow: row.id,
            key: payer.key,
            minted: hold.minted,
            left: hold.left,
            day: hold.day,
            expires_at: hold.expires_at,
            chain: self.chains.get(hold.chain).map(|chain| chain.key),
        })
    }

    /// Every open hold by id.
    #[must_use]
    pub fn sorted_holds(&self) -> Vec<OpenHold> {
        let holds = self.holds.sorted();
        holds.into_iter().filter_map(|h| self.resolved(h)).collect()
    }

    /// Every chain by key, with its workflow.
    #[must_use]
    pub fn sorted_chains(&self) -> Vec<(&Chain, WorkflowId)> {
        let named = |chain: &Chain| self.rows.get(chain.row).map(|row| row.id);
        let chains = self.chains.sorted();
        chains
            .into_iter()
            .filter_map(|chain| Some((chain, named(chain)?)))
            .collect()
    }

    /// One chain, if it is not over.
    #[must_use]
    pub fn chain(&self, key: u128) -> Option<&Chain> {
        self.chains.get(self.chains.find(key)?)
    }

    /// The workflow and org of a chain.
    #[must_use]
    pub fn chain_owner(&self, chain: &Chain) -> Option<(OrgId, WorkflowId)> {
        let row = self.rows.get(chain.row)?;
        Some((self.org_of(row), row.id))
    }

    /// Workflows, in no particular order that stays the same.
    pub fn workflows(&self) -> impl Iterator<Item = &WorkflowLive> {
        self.rows.iter()
    }

    /// The calls a key was allowed in a workflow.
    #[must_use]
    pub fn executions(&self, workflow: WorkflowId, key: KeyId) -> Executions {
        let payer = || {
            let row = self.place(workflow)?;
            self.payers.find(row, self.rows.get(row)?.first_payer, key)
        };
        let executions = payer().and_then(|at| self.payers.executions(at));
        executions.unwrap_or_default()
    }

    /// Every payer.
    pub fn payers(&self) -> impl Iterator<Item = Paying<'_>> {
        (0..).zip(self.payers.iter()).filter_map(|(at, payer)| {
            let workflow = self.rows.get(payer.row)?;
            Some(Paying {
                key: payer.key,
                workflow,
                account: payer.account(&workflow.account),
                executions: self.payers.executions(at)?,
            })
        })
    }

    /// Makes room for so many workflows and holds.
    pub fn reserve(&mut self, workflows: usize, holds: usize) {
        let Self {
            rows,
            by_id,
            hasher,
            ..
        } = self;
        by_id.reserve(workflows, |at| hasher.hash_one(row_id(rows, *at)));
        self.holds.reserve(holds);
    }

    fn row(&mut self, org: OrgId, id: WorkflowId) -> u32 {
        match self.place(id) {
            Some(at) => at,
            None => self.put_workflow(SavedWorkflow {
                org,
                id,
                standing: Standing::NEW,
                account: Account::default(),
                learned: Learned::default(),
            }),
        }
    }

    fn org_place(&mut self, org: OrgId) -> u32 {
        let Self {
            orgs, org_places, ..
        } = self;
        *org_places.entry(org).or_insert_with(|| {
            orgs.push(org);
            u32::try_from(orgs.len() - 1).unwrap_or(NONE)
        })
    }

    /// Puts a workflow in place, as `fold` and snapshots do; returns its place.
    pub fn put_workflow(&mut self, saved: SavedWorkflow) -> u32 {
        let org = self.org_place(saved.org);
        let at = self.rows.push(WorkflowLive {
            id: saved.id,
            account: saved.account,
            learned: saved.learned,
            standing: (saved.standing != Standing::NEW).then(|| Box::new(saved.standing)),
            open_holds: 0,
            org,
            first_hold: NONE,
            first_payer: NONE,
        });
        let Self {
            by_id,
            rows,
            hasher,
            ..
        } = self;
        by_id.insert_unique(hasher.hash_one(saved.id), at, |at| {
            hasher.hash_one(row_id(rows, *at))
        });
        at
    }

    fn payer_row(&mut self, org: OrgId, workflow: WorkflowId, key: KeyId) -> u32 {
        let row = self.row(org, workflow);
        let Some(live) = self.rows.get_mut(row) else {
            return NONE;
        };
        match self.payers.find(row, live.first_payer, key) {
            Some(at) => at,
            None => {
                let first = &mut live.first_payer;
                self.payers
                    .add(row, first, key, Account::default(), &live.account)
            }
        }
    }

    /// Puts a payer's money and calls in place, as snapshots do: behind its workflow.
    pub fn put_payer(
        &mut self,
        org: OrgId,
        workflow: WorkflowId,
        key: KeyId,
        account: Account,
        executions: Executions,
    ) {
        let row = self.row(org, workflow);
        if let Some(live) = self.rows.get_mut(row) {
            let first = &mut live.first_payer;
            let at = self.payers.add(row, first, key, account, &live.account);
            if let Some(place) = self.payers.executions_mut(at) {
                *place = executions;
            }
        }
    }

    /// Puts a chain in place, as snapshots do.
    pub fn put_chain(&mut self, org: OrgId, workflow: WorkflowId, chain: Chain) {
        let row = self.row(org, workflow);
        self.chains.begin(Chain { row, ..chain });
    }

    /// Opens a hold without booking it, as snapshots do: their accounts hold it already. Returns its
    /// place.
    pub fn put_hold(&mut self, hold: &OpenHold) -> u32 {
        let payer = self.payer_row(hold.org, hold.workflow, hold.key);
        let chain = hold.chain.and_then(|key| self.chains.find(key));
        self.open(hold, payer, chain.unwrap_or(NONE))
    }

    fn open(&mut self, hold: &OpenHold, payer: u32, chain: u32) -> u32 {
        let row = self.payers.get(payer).map_or(NONE, |payer| payer.row);
        let first_of_workflow = self.rows.get(row).map_or(NONE, |r| r.first_hold);
        let first_of_chain = self.chains.get(chain).map_or(NONE, |c| c.first_hold);
        let new = NewHold {
            id: hold.id,
            minted: hold.minted,
            left: hold.left,
            expires_at: hold.expires_at,
            day: hold.day,
            payer,
            chain,
        };
        let at = self.holds.open(new, first_of_workflow, first_of_chain);
        if let Some(row) = self.rows.get_mut(row) {
            row.first_hold = at;
            row.open_holds += 1;
        }
        if let Some(chain) = self.chains.get_mut(chain) {
            chain.first_hold = at;
        }
        at
    }

    /// Applies a record.
    pub fn fold(&mut self, record: &Record<'_>) {
        match record {
            Record::Directory(_) | Record::Refused(_) | Record::EventsSealed(_) => {}
            Record::HoldMinted(minted) => self.mint(minted),
            Record::HoldUsed(used) => self.used(used),
            Record::Charged(charged) => self.charge(charged),
            Record::Rerated(rerated) => self.rerate(rerated),
            Record::HoldEnded(ended) => self.end(ended),
            Record::WorkflowState(changed) => {
                let row = self.row(changed.org, changed.workflow);
                if let Some(workflow) = self.rows.get_mut(row) {
                    assert!(
                        changed.version > workflow.standing().version,
                        "a workflow's version strictly grows"
                    );
                    workflow.standing = Some(Box::new(Standing {
                        state: changed.to,
                        version: changed.version,
                        reason: changed.reason.map(Into::into),
                        since: changed.at,
                        by: Some(changed.actor),
                    }));
                }
            }
            Record::ChainRenewed(renewed) => {
                if let Some(at) = self.chains.find(renewed.chain)
                    && let Some(chain) = self.chains.get_mut(at)
                {
                    chain.active_at = renewed.at;
                    let first = chain.first_hold;
                    self.holds.renew_chain(first, renewed.expires_at);
                }
            }
            Record::ChainEnded(ended) => {
                if let Some(chain) = self.chains.end(ended.chain) {
                    self.holds.leave_chain(chain.first_hold);
                }
            }
        }
    }

    /// Books what charges cost more, or less, at another price.
    fn rerate(&mut self, rerated: &Rerated<'_>) {
        self.ratings.rerated(rerated);
        let payer = self.payer_row(rerated.org, rerated.workflow, rerated.payer);
        let more = rerated.after - rerated.before;
        self.book(payer, |account| account.spend(rerated.day, more));
    }

    /// Notes a call in its chain; returns the chain's place.
    fn link(&mut self, at: Millis, row: u32, link: &ChainLink) -> u32 {
        if let Some(terms) = &link.begins {
            // One that fell silent a moment ago and was not swept yet: this one takes its name.
            if let Some(before) = self.chains.end(link.chain) {
                self.holds.leave_chain(before.first_hold);
            }
            return self.chains.begin(Chain {
                key: link.chain,
                row,
                started_at: at,
                active_at: at,
                cap: terms.cap,
                sums: Sums::default(),
                first_hold: NONE,
            });
        }
        let Some(place) = self.chains.find(link.chain) else {
            return NONE;
        };
        if let Some(chain) = self.chains.get_mut(place) {
            chain.active_at = at;
        }
        place
    }

    fn mint(&mut self, minted: &HoldMinted<'_>) {
        let call = &minted.call;
        let payer = self.payer_row(call.org, call.workflow, call.key);
        let row = self.payers.get(payer).map_or(NONE, |payer| payer.row);
        let chain = match &minted.chain {
            Some(link) => self.link(call.at, row, link),
            None => NONE,
        };
        let hold = OpenHold {
            id: minted.hold,
            org: call.org,
            workflow: call.workflow,
            key: call.key,
            minted: minted.amount,
            left: minted.amount,
            day: minted.day,
            expires_at: minted.expires_at,
            chain: None,
        };
        let at = self.open(&hold, payer, chain);
        // Before its own operation is bound.
        let counts = !pace::was_executed(&self.holds, minted.operation);
        if let Some(operation) = minted.operation {
            self.holds.bind_minted(at, operation);
        }
        if let Some(executions) = self.payers.executions_mut(payer).filter(|_| counts) {
            executions.add(minted.day);
        }
        self.hold_amount(payer, minted.day, minted.amount);
        if let Some(chain) = self.chains.get_mut(chain) {
            chain.sums.held += minted.amount;
        }
    }

    fn used(&mut self, used: &HoldUsed<'_>) {
        if let Some(operation) = used.operation {
            self.holds.bind(used.hold, operation);
        }
        if let Some(link) = &used.chain {
            let row = self.row(used.call.org, used.call.workflow);
            self.link(used.call.at, row, link);
        }
    }

    /// Changes the account of a payer and that of its workflow; returns the workflow.
    fn book(&mut self, payer: u32, change: impl Fn(&mut Account)) -> Option<&mut WorkflowLive> {
        let payer = self.payers.get_mut(payer)?;
        if let Some(own) = &mut payer.own {
            change(own);
        }
        let row = self.rows.get_mut(payer.row)?;
        change(&mut row.account);
        Some(row)
    }

    fn hold_amount(&mut self, payer: u32, day: Day, amount: Nanos) {
        self.book(payer, |account| account.hold(day, amount));
    }

    fn charge(&mut self, charged: &Charged<'_>) {
        let mut chain = NONE;
        if let Some(hold) = charged.hold.and_then(|id| self.holds.get_mut(id)) {
            hold.left -= charged.from_hold;
            assert!(
                hold.left >= Nanos::ZERO,
                "invariant 8: no hold goes negative"
            );
            chain = hold.chain;
        }
        self.ratings.charged(charged);
        if charged.cost == Nanos::ZERO {
            return;
        }
        if let Some(chain) = self.chains.get_mut(chain) {
            chain.sums.held -= charged.from_hold;
            chain.sums.spent += charged.cost;
        }
        let payer = self.payer_row(charged.org, charged.workflow, charged.payer);
        if charged.from_hold.is_positive() {
            self.hold_amount(payer, charged.day, -charged.from_hold);
        }
        let spend = |account: &mut Account| account.spend(charged.day, charged.cost);
        if let Some(row) = self.book(payer, spend) {
            row.learned.learn(charged.event.model, charged.cost);
        }
    }

    fn end(&mut self, ended: &HoldEnded<'_>) {
        let gone = self.holds.end(ended.hold);
        assert!(
            gone.as_ref()
                .is_some_and(|gone| gone.hold.left == ended.released),
            "invariant 8: a hold ends once and releases what was left of it"
        );
        let Some(gone) = gone else { return };
        self.hold_amount(gone.hold.payer, gone.hold.day, -ended.released);
        let payer = self.payers.get(gone.hold.payer);
        if let Some(row) = payer.and_then(|p| self.rows.get_mut(p.row)) {
            row.open_holds = row.open_holds.saturating_sub(1);
            row.first_hold = gone.first_of_workflow.unwrap_or(row.first_hold);
        }
        if let Some(chain) = self.chains.get_mut(gone.hold.chain) {
            chain.sums.held -= ended.released;
            if let Some(first) = gone.first_of_chain {
                chain.first_hold = first;
            }
        }
    }

    /// Opens a hold again that has just ended, for the seeded defect that ends holds twice.
    #[cfg(debug_assertions)]
    pub fn open_again(&mut self, hold: &OpenHold) {
        let payer = self.payer_row(hold.org, hold.workflow, hold.key);
        self.open(hold, payer, NONE);
    }
}

fn row_id(rows: &Rows<WorkflowLive>, at: u32) -> WorkflowId {
    rows.get(at).map_or(WorkflowId(0), |row| row.id)
}
