//! The engine: the shards of one pump, and for one of the pumps the directory, behind two functions:
//! `apply` (decide, then fold) and `fold` (replay). It is deterministic: time and ids come in,
//! records come out.
//!
//! Recovery, snapshots and verification use one engine with all shards. A running gateway with
//! several pumps splits it: each gets some shards, and the first keeps the directory.

mod ask;
mod end;
mod track;

use crate::code::Code;
use crate::command::{Block, Command, Decision, Outcome, Transition, Verdict, When};
use crate::decide::Context;
use crate::dedup::Dedup;
use crate::directory::Directory;
use crate::limits;
use crate::manage::{self, Desk, Manage, Managed, Refusal};
use crate::mutation::Mutations;
use crate::pending::Pending;
use crate::period::Calendar;
use crate::plan::PlanTable;
use crate::price::PriceTable;
use crate::shard::Shard;
use crate::shared::Shared;
use persist::group_commit::Batch;
use persist::ids::{SLOTS, Slot};
use persist::record::{Actor, Call, ChainRenewed, EndReason, Record, State, WorkflowStateChanged};
use persist::{Day, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Settings of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The least an undeclared call must find free, and holds.
    pub floor: Nanos,
    /// How long a hold lives, in milliseconds.
    pub hold_millis: u64,
    /// How many events are remembered; see [`Dedup::keys_within`].
    pub dedup_keys: usize,
    /// Into how many shards the workflows are divided.
    pub shards: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            floor: Nanos::from_cents(1),
            hold_millis: limits::HOLD_MILLIS,
            // 256 MiB at about 21 bytes a key.
            dedup_keys: 12_000_000,
            shards: 1,
        }
    }
}

/// The shard of a slot, of `shards`: a row of slots each.
#[must_use]
pub const fn shard_of(slot: Slot, shards: u16) -> u16 {
    (slot.0 as u32 * shards as u32 / SLOTS as u32) as u16
}

/// Everything one pump decides with.
#[derive(Debug)]
pub struct Engine {
    /// This pump's number.
    pump: u32,
    /// By number; those of other pumps are absent.
    shards: Vec<Option<Shard>>,
    /// Only the first pump keeps it; the others read what was published.
    directory: Option<Directory>,
    directory_changed: bool,
    dedup: Arc<Dedup>,
    pending: Pending,
    /// More was over in the last turn than it could end.
    has_due: bool,
    /// How many pumps have such a rest: it binds money that is free for all of them.
    behind: Arc<AtomicU32>,
    prices: Arc<PriceTable>,
    plans: Arc<PlanTable>,
    pub(crate) settings: Settings,
    now: Millis,
    pub(crate) calendar: Calendar,
    /// Seeded defects for tests of the tests.
    pub mutations: Mutations,
}

impl Engine {
    /// An engine that knows nobody, with all shards.
    #[must_use]
    pub fn new(prices: Arc<PriceTable>, settings: Settings) -> Self {
        let count = settings.shards.clamp(1, SLOTS);
        let room = |of: usize| of.div_ceil(usize::from(count));
        let shard = || {
            let mut shard = Shard::default();
            shard.reserve(room(limits::ROOM_WORKFLOWS), room(limits::ROOM_HOLDS));
            Some(shard)
        };
        Self {
            pump: 0,
            shards: (0..count).map(|_| shard()).collect(),
            directory: Some(Directory::default()),
            directory_changed: false,
            dedup: Arc::new(Dedup::with_capacity(settings.dedup_keys)),
            pending: Pending::default(),
            has_due: false,
            behind: Arc::default(),
            prices,
            plans: Arc::default(),
            settings: Settings {
                shards: count,
                ..settings
            },
            now: Millis(0),
            calendar: Calendar::of(Day(0)),
            mutations: Mutations::default(),
        }
    }

    /// What each plan has; without a table, no plan limits anything.
    #[must_use]
    pub fn with_plans(mut self, plans: Arc<PlanTable>) -> Self {
        self.plans = plans;
        self
    }

    /// Divides the shards among `pumps` pumps; the first keeps the directory.
    #[must_use]
    pub fn split(mut self, pumps: u32) -> Vec<Self> {
        let pumps = pumps.clamp(1, u32::from(self.settings.shards));
        if pumps == 1 {
            return vec![self];
        }
        let mut all: Vec<Self> = (0..pumps)
            .map(|pump| Self {
                pump,
                shards: self.shards.iter().map(|_| None).collect(),
                directory: None,
                directory_changed: false,
                dedup: Arc::clone(&self.dedup),
                pending: Pending::together(),
                has_due: false,
                behind: Arc::clone(&self.behind),
                prices: Arc::clone(&self.prices),
                plans: Arc::clone(&self.plans),
                settings: self.settings,
                now: self.now,
                calendar: self.calendar,
                mutations: self.mutations.same(),
            })
            .collect();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let pump = number * pumps as usize / usize::from(self.settings.shards);
            if let Some(part) = all.get_mut(pump)
                && let Some(place) = part.shards.get_mut(number)
            {
                *place = shard.take();
            }
        }
        if let Some(first) = all.first_mut() {
            first.directory = self.directory.take();
        }
        all
    }

    /// The directory with every change so far, durable or not; empty where it is not kept.
    #[must_use]
    pub const fn directory(&self) -> Option<&Directory> {
        self.directory.as_ref()
    }

    pub(crate) const fn directory_mut(&mut self) -> Option<&mut Directory> {
        self.directory.as_mut()
    }

    /// The shards that are here.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().flatten()
    }

    /// Counted events, of all pumps.
    #[must_use]
    pub const fn dedup(&self) -> &Arc<Dedup> {
        &self.dedup
    }

    /// The shard of a slot, if it is here.
    #[must_use]
    pub fn part(&self, slot: Slot) -> Option<&Shard> {
        let number = shard_of(slot, self.settings.shards);
        self.shards.get(usize::from(number))?.as_ref()
    }

    pub(crate) fn part_mut(&mut self, slot: Slot) -> Option<&mut Shard> {
        let number = shard_of(slot, self.settings.shards);
        self.shards.get_mut(usize::from(number))?.as_mut()
    }

    /// The shard of a workflow, if it is here.
    #[must_use]
    pub fn shard_with(&self, org: OrgId, workflow: WorkflowId) -> Option<&Shard> {
        self.part(workflow.slot(org))
    }

    /// The time of the last decision or record.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.now
    }

    /// The budget periods around it.
    #[must_use]
    pub const fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// Did a record change the directory since this was last asked?
    pub const fn take_directory_changed(&mut self) -> bool {
        std::mem::replace(&mut self.directory_changed, false)
    }

    /// Notes up to where the directory is folded.
    pub const fn stamp_directory(&mut self, lsn: Lsn) {
        if let Some(directory) = &mut self.directory {
            directory.lsn = lsn;
        }
    }

    /// Moves time on; it never goes back, whatever the wall clock does.
    pub fn advance(&mut self, wall: Millis) {
        self.now = self.now.max(wall);
        let today = Day::of(self.now);
        if self.calendar.today != today {
            self.calendar = Calendar::of(today);
        }
    }

    /// Fills the shared figures from the shards, once a state is loaded.
    pub fn fill_cells(&self) {
        let Some(directory) = &self.directory else {
            return;
        };
        for shard in self.shards() {
            for row in shard.workflows() {
                if let Some(org) = directory.org(shard.org_of(row)) {
                    org.shared.money.add(&row.account);
                }
            }
            for payer in shard.payers() {
                if let Some(org) = directory.org(shard.org_of(payer.workflow)) {
                    org.shared.add_executions(&payer.executions);
                }
                let key = directory.key(payer.key);
                if let Some(shared) = key.and_then(|key| key.shared.as_ref()) {
                    shared.money.add(payer.account);
                    shared.add_executions(&payer.executions);
                }
            }
        }
    }

    /// Applies a record: recovery and the running gateway alike.
    pub fn fold(&mut self, record: &Record<'_>) {
        match record {
            Record::Directory(changes) => {
                if let Some(directory) = &mut self.directory {
                    directory.fold(changes);
                    self.directory_changed = true;
                }
            }
            Record::EventsSealed(sealed) if self.pending.is_together() => {
                self.dedup.open_next();
                self.pending.sealed(sealed.keep_from);
            }
            Record::EventsSealed(sealed) => self.dedup.seal(sealed.keep_from),
            _ => {}
        }
        if let Record::Charged(charged) = record
            && let Some(key) = charged.event_key
        {
            if self.pending.is_together() {
                self.pending.counted(charged.at, key);
            } else {
                self.dedup.insert(charged.at, key);
            }
        }
        let (at, workflow) = about(record);
        if let Some((org, workflow)) = workflow
            && let Some(shard) = self.part_mut(workflow.slot(org))
        {
            shard.fold(record);
        }
        self.advance(at);
    }

    pub(crate) fn emit(&mut self, record: &Record<'_>, batch: &mut Batch) -> persist::Result<()> {
        if self.mutations.intercept(self.now, record, batch)? {
            return Ok(());
        }
        if !self.mutations.hold_back(record) {
            batch.push(record)?;
        }
        self.fold(record);
        Ok(())
    }

    /// The turn's records are in the log.
    pub fn appended(&mut self) {
        self.pending.appended(&self.dedup);
    }

    /// Decides and does one command. `published` is the durable directory. Records go to `batch`.
    /// `attempt` counts how often this command has been put off with [`When::Again`] or
    /// [`When::Later`].
    ///
    /// # Errors
    /// Only if a record cannot be encoded; the process cannot go on then.
    pub fn apply(
        &mut self,
        published: &Directory,
        command: &Command,
        attempt: u32,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        match command {
            Command::Ask(ask) => self.ask(published, ask, attempt, batch),
            Command::Track(track) => self.track_all(published, track, batch),
            Command::Cancel { org, key, hold } => {
                let (reason, actor) = (EndReason::Cancelled, Actor::Key(*key));
                let ended = self.end_of(published, *org, *hold, reason, None, actor, batch)?;
                let released = ended.map(|hold| hold.left);
                Ok((Outcome::Cancelled(released), When::Durable))
            }
            Command::EndSpan { org, key, hold } => {
                let (reason, actor) = (EndReason::SpanEnd, Actor::Key(*key));
                self.end_of(published, *org, *hold, reason, None, actor, batch)?;
                Ok((Outcome::Done, When::Durable))
            }
            Command::Release {
                org,
                hold,
                note,
                actor,
            } => {
                let (reason, note) = (EndReason::Released, Some(note.as_str()));
                let ended = self.end_of(published, *org, *hold, reason, note, *actor, batch)?;
                let outcome = match ended {
                    Some(hold) => Outcome::Released(hold),
                    None => Outcome::Refused(Refusal::NotFound("hold")),
                };
                Ok((outcome, When::Durable))
            }
            Command::Withdraw { hold } => {
                self.withdraw(published, *hold, batch)?;
                Ok((Outcome::Done, When::Now))
            }
            Command::Heartbeat {
                org,
                key,
                workflow,
                chain,
            } => {
                // One that has lasted as long as it may is kept alive no more, nor are its holds.
                let longest = published
                    .workflow(*org, *workflow)
                    .map(|of| of.rare().chain_secs);
                let shard = self.shard_with(*org, *workflow);
                let alive = shard
                    .and_then(|shard| shard.chain(*chain))
                    .is_some_and(|chain| {
                        let secs = chain.secs(self.now);
                        !chain.is_silent(self.now) && longest.is_some_and(|most| secs < most.into())
                    });
                if alive {
                    let renewed = ChainRenewed {
                        at: self.now,
                        org: *org,
                        workflow: *workflow,
                        chain: *chain,
                        expires_at: self.now.plus(self.settings.hold_millis),
                        key: *key,
                    };
                    self.emit(&Record::ChainRenewed(renewed), batch)?;
                }
                Ok((Outcome::Alive(alive), When::Durable))
            }
            Command::SetState {
                org,
                workflow,
                to,
                reason,
                actor,
            } => {
                let at = (*org, *workflow);
                self.set_state(published, at, *to, reason.as_deref(), *actor, batch)
            }
            Command::ReadWorkflow { org, workflow } => {
                Ok((self.show(published, *org, *workflow), When::Durable))
            }
            Command::ReadEffective { org, workflow, key } => {
                let effective = self.effective(published, *org, *workflow, *key);
                Ok((effective, When::Durable))
            }
            Command::Evaluate { ask, rules } => {
                let evaluated = self.evaluate(published, ask, rules.as_deref());
                Ok((evaluated, When::Durable))
            }
            Command::ReadWorkflows { org, ids } => {
                let views = ids.iter();
                let views = views.filter_map(|id| self.view(published, *org, *id));
                Ok((Outcome::Workflows(views.collect()), When::Durable))
            }
            Command::ReadOrg { org } => Ok((self.show_org(published, *org), When::Durable)),
            Command::ReadSums { org } => Ok((self.show_sums(published, *org), When::Durable)),
            Command::ReadKeys { org, ids } => {
                let keys = self.show_keys(published, *org, ids);
                Ok((Outcome::Keys(keys), When::Durable))
            }
            Command::ReadHolds {
                org,
                workflow,
                after,
                limit,
            } => {
                let holds = self.open_holds(published, *org, *workflow, *after, *limit);
                Ok((Outcome::Holds(holds), When::Durable))
            }
            Command::Manage(manage) => self.manage(manage, batch),
            Command::Reprice {
                model,
                from,
                after,
                actor,
            } => self.reprice(published, (model, *from), *after, *actor, batch),
            Command::ReadUnpriced { after } => Ok(self.unpriced(published, *after)),
            Command::Barrier => Ok((Outcome::Done, When::Durable)),
        }
    }

    pub(crate) fn price_table(&self) -> &PriceTable {
        &self.prices
    }

    pub(crate) const fn pending(&self) -> &Pending {
        &self.pending
    }

    pub(crate) const fn pending_mut(&mut self) -> &mut Pending {
        &mut self.pending
    }

    /// The shards that are here, with their numbers.
    pub(crate) fn numbered_shards(&self) -> impl Iterator<Item = (u16, &Shard)> {
        let numbered = (0..).zip(&self.shards);
        numbered.filter_map(|(number, shard)| Some((number, shard.as_ref()?)))
    }

    pub(crate) fn context<'a>(&'a self, directory: &'a Directory, shard: &'a Shard) -> Context<'a> {
        Context {
            directory,
            shard,
            prices: &self.prices,
            floor: self.settings.floor,
            now: self.now,
            calendar: &self.calendar,
            pending: &self.pending,
            plans: &self.plans,
        }
    }

    fn set_state(
        &mut self,
        published: &Directory,
        (org, id): (OrgId, WorkflowId),
        to: Transition,
        reason: Option<&str>,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        let (Some(_), Some(shard)) = (published.workflow(org, id), self.shard_with(org, id)) else {
            let refusal = Refusal::NotFound("workflow");
            return Ok((Outcome::Refused(refusal), When::Durable));
        };
        let live = shard.workflow(id);
        let (from, version) = live.map_or((State::Normal, 0), |live| {
            let standing = live.standing();
            (standing.state, standing.version)
        });
        let target = match to {
            Transition::Pause => State::Paused,
            Transition::Resume => State::Normal,
            Transition::Kill => State::Killed,
        };
        if from == State::Killed && target != State::Killed {
            let refusal = Refusal::WrongState(
                "a killed workflow stays killed; create a new one to go on".to_owned(),
            );
            return Ok((Outcome::Refused(refusal), When::Durable));
        }
        if from != target {
            let changed = WorkflowStateChanged {
                at: self.now,
                org,
                workflow: id,
                version: version + 1,
                from,
                to: target,
                reason,
                actor,
            };
            self.emit(&Record::WorkflowState(changed), batch)?;
            if let Some(shard) = self.part_mut(id.slot(org)) {
                shard.meters.forgive(id);
            }
        }
        Ok((self.show(published, org, id), When::Durable))
    }

    fn manage(&mut self, manage: &Manage, batch: &mut Batch) -> persist::Result<(Outcome, When)> {
        // A persistent map: this clone is a few pointers.
        let Some(directory) = self.directory.clone() else {
            let refusal = Refusal::WrongState("another pump keeps the directory".to_owned());
            return Ok((Outcome::Refused(refusal), When::Durable));
        };
        let plans = Arc::clone(&self.plans);
        let desk = Desk {
            directory: &directory,
            plans: &plans,
            now: self.now,
        };
        let done = manage::decide(desk, manage, |record| {
            // What is so already needs no record.
            if record.changes.is_empty() {
                return Ok(());
            }
            self.emit(&Record::Directory(record), batch)
        });
        match done {
            Err(refusal) => return Ok((Outcome::Refused(refusal), When::Durable)),
            Ok(emitted) => emitted?,
        }
        let shown = self.directory.as_ref().map(|d| manage::shown(d, manage));
        let managed = shown.unwrap_or(Managed::Done);
        Ok((Outcome::Managed(Box::new(managed)), When::Durable))
    }

    /// Makes room in each shard for so many workflows and holds.
    pub(crate) fn reserve(&mut self, counts: &[(usize, usize)]) {
        for (shard, (workflows, holds)) in self.shards.iter_mut().zip(counts) {
            if let Some(shard) = shard {
                shard.reserve(*workflows, *holds);
            }
        }
    }

    /// The shared figures of an org, for tests.
    #[must_use]
    pub fn shared(&self, org: OrgId) -> Option<&Arc<Shared>> {
        Some(&self.directory.as_ref()?.org(org)?.shared)
    }
}

/// When a record was made, and the workflow whose shard it concerns.
#[must_use]
pub const fn about(record: &Record<'_>) -> (Millis, Option<(OrgId, WorkflowId)>) {
    match record {
        Record::Directory(record) => (record.at, None),
        Record::EventsSealed(record) => (record.at, None),
        Record::Refused(record) => of_call(&record.call),
        Record::HoldMinted(record) => of_call(&record.call),
        Record::HoldUsed(record) => of_call(&record.call),
        Record::Charged(record) => (record.at, Some((record.org, record.workflow))),
        Record::Rerated(record) => (record.at, Some((record.org, record.workflow))),
        Record::HoldEnded(record) => (record.at, Some((record.org, record.workflow))),
        Record::WorkflowState(record) => (record.at, Some((record.org, record.workflow))),
        Record::ChainRenewed(record) => (record.at, Some((record.org, record.workflow))),
        Record::ChainEnded(record) => (record.at, Some((record.org, record.workflow))),
    }
}

const fn of_call(call: &Call<'_>) -> (Millis, Option<(OrgId, WorkflowId)>) {
    (call.at, Some((call.org, call.workflow)))
}

/// A refusal decided before the engine was asked (overload, deadline, shutdown, identity).
#[must_use]
pub fn refused(code: Code, why: &str, retry_after_ms: Option<u64>) -> Decision {
    let block = Block {
        retry_after_ms,
        ..Block::new(code, why)
    };
    Decision {
        verdict: Verdict::Block(Box::new(block)),
        remaining: None,
        projected: Nanos::ZERO,
        notes: Vec::new(),
    }
}
