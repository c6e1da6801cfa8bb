//! The engine: directory, shard, meters and prices behind two functions, `apply` (decide, then
//! fold) and `fold` (replay). It is deterministic: time and ids come in, records come out.

use crate::charge::{self, Booking};
use crate::code::Code;
use crate::command::Block;
use crate::command::{
    Ask, Command, Decision, OrgView, Outcome, Tracked, Transition, Verdict, When, WorkflowView,
};
use crate::decide::{self, Context, Effect};
use crate::directory::Directory;
use crate::manage::{self, Manage, Managed, Refusal};
use crate::meter::{Meters, Subject};
use crate::mutation::Mutations;
use crate::period::Period;
use crate::price::PriceTable;
use crate::rules::Described;
use crate::shard::Shard;
use persist::group_commit::Batch;
use persist::record::{
    Actor, Call, Cause, Charged, EndReason, HoldEnded, HoldMinted, HoldUsed, Record, Refused,
    Scope, State, WorkflowStateChanged,
};
use persist::{HoldId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use std::sync::Arc;

/// Holds that end by themselves are ended this many at a time.
const EXPIRE_AT_ONCE: usize = 1024;

/// Settings of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The least an undeclared call must find free, and holds.
    pub floor: Nanos,
    /// How long a hold lives, in milliseconds.
    pub hold_millis: u64,
    /// How many events are remembered.
    pub dedup_keys: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            floor: Nanos::from_cents(1),
            hold_millis: crate::limits::HOLD_MILLIS,
            // 256 MiB at about 21 bytes a key.
            dedup_keys: 12_000_000,
        }
    }
}

/// Everything that is decided with.
#[derive(Debug)]
pub struct Engine {
    directory: Directory,
    directory_changed: bool,
    pub(crate) shard: Shard,
    meters: Meters,
    prices: Arc<PriceTable>,
    settings: Settings,
    now: Millis,
    period: Period,
    /// Seeded defects for tests of the tests.
    pub mutations: Mutations,
}

impl Engine {
    /// An engine that knows nobody.
    #[must_use]
    pub fn new(prices: Arc<PriceTable>, settings: Settings) -> Self {
        Self {
            directory: Directory::default(),
            directory_changed: false,
            shard: Shard::new(settings.dedup_keys),
            meters: Meters::default(),
            prices,
            settings,
            now: Millis(0),
            period: Period::month_of(Millis(0)),
            mutations: Mutations::default(),
        }
    }

    /// The directory with every change so far, durable or not.
    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(crate) const fn directory_mut(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// The shard.
    #[must_use]
    pub const fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The time of the last decision or record.
    #[must_use]
    pub const fn now(&self) -> Millis {
        self.now
    }

    /// Did a record change the directory since this was last asked?
    pub fn take_directory_changed(&mut self) -> bool {
        std::mem::take(&mut self.directory_changed)
    }

    /// Notes up to where the directory is folded.
    pub const fn stamp_directory(&mut self, lsn: Lsn) {
        self.directory.lsn = lsn;
    }

    /// Moves time on; it never goes back, whatever the wall clock does.
    pub fn advance(&mut self, wall: Millis) {
        self.now = self.now.max(wall);
        if !self.period.contains(self.now) {
            self.period = Period::month_of(self.now);
        }
    }

    /// Applies a record: recovery and the running gateway alike.
    pub fn fold(&mut self, record: &Record<'_>) {
        if let Record::Directory(changes) = record {
            self.directory.fold(changes);
            self.directory_changed = true;
        }
        self.shard.fold(record);
        self.advance(at(record));
    }

    fn emit(&mut self, record: &Record<'_>, batch: &mut Batch) -> persist::Result<()> {
        if self.mutations.intercept(self.now, record, batch)? {
            return Ok(());
        }
        if !self.mutations.hold_back(record) {
            batch.push(record)?;
        }
        self.fold(record);
        Ok(())
    }

    /// Ends holds whose time is over. Runs before each turn's commands, so that no call is refused
    /// for money that an expired hold still binds.
    pub fn expire(&mut self, batch: &mut Batch) -> persist::Result<()> {
        for record in self.mutations.due(self.now, batch)? {
            self.fold(&record);
        }
        loop {
            let due = self.shard.holds.due(self.now, EXPIRE_AT_ONCE);
            let ended = due.len();
            for hold in due {
                self.end(None, hold, EndReason::Expired, Actor::System, batch)?;
            }
            if ended < EXPIRE_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Decides and does one command. `published` is the durable directory. Records go to `batch`.
    ///
    /// # Errors
    /// Only if a record cannot be encoded; the process cannot go on then.
    pub fn apply(
        &mut self,
        published: &Directory,
        command: &Command,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        match command {
            Command::Ask(ask) => self.ask(published, ask, batch),
            Command::Track(track) => {
                let mut tracked = Vec::with_capacity(track.events.len());
                for event in &track.events {
                    tracked.push(self.track(published, track, event, batch)?);
                }
                Ok((Outcome::Tracked(tracked), When::Durable))
            }
            Command::Cancel { org, key, hold } => {
                let released = self.end(
                    Some(*org),
                    *hold,
                    EndReason::Cancelled,
                    Actor::Key(*key),
                    batch,
                )?;
                Ok((Outcome::Cancelled(released), When::Durable))
            }
            Command::Withdraw { hold } => {
                let unclaimed = self.shard.holds.get_mut(*hold).is_some_and(|hold| {
                    hold.claims = hold.claims.saturating_sub(1);
                    hold.claims == 0
                });
                if unclaimed {
                    self.end(None, *hold, EndReason::Withdrawn, Actor::System, batch)?;
                }
                Ok((Outcome::Done, When::Now))
            }
            Command::SetState {
                org,
                workflow,
                to,
                reason,
                actor,
            } => self.set_state(*org, *workflow, *to, reason.as_deref(), *actor, batch),
            Command::ReadWorkflow { org, workflow } => {
                Ok((self.show(*org, *workflow), When::Durable))
            }
            Command::ReadWorkflows { org, ids } => {
                let views = ids.iter().filter_map(|id| self.view(*org, *id)).collect();
                Ok((Outcome::Workflows(views), When::Durable))
            }
            Command::ReadOrg { org } => Ok((self.show_org(*org), When::Durable)),
            Command::Manage(manage) => self.manage(manage, batch),
            Command::Barrier => Ok((Outcome::Done, When::Durable)),
        }
    }

    fn context<'a>(&'a self, directory: &'a Directory) -> Context<'a> {
        Context {
            directory,
            shard: &self.shard,
            prices: &self.prices,
            floor: self.settings.floor,
            now: self.now,
            period: self.period,
        }
    }

    fn ask(
        &mut self,
        published: &Directory,
        ask: &Ask,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        let mut meters = std::mem::take(&mut self.meters);
        let (decision, effect) = decide::decide(&self.context(published), &mut meters, ask);
        self.meters = meters;
        let tools = ask.tools.join("\n");
        let call = self.call(published, ask, &tools);
        let when = match effect {
            Effect::Mint(amount, budget) => {
                let minted = HoldMinted {
                    call,
                    budget,
                    hold: ask.new_hold,
                    amount,
                    expires_at: self.now.plus(self.settings.hold_millis),
                    period_start: self.period.start,
                    operation: ask.operation,
                };
                self.emit(&Record::HoldMinted(minted), batch)?;
                When::Durable
            }
            Effect::Use(hold) => {
                self.claim(hold);
                let used = HoldUsed {
                    call,
                    hold,
                    operation: ask.operation,
                };
                self.emit(&Record::HoldUsed(used), batch)?;
                When::Durable
            }
            Effect::Nothing => {
                if let Verdict::Allow {
                    hold: Some(hold), ..
                } = decision.verdict
                {
                    self.claim(hold);
                }
                When::Durable
            }
            Effect::Refuse if ask.endpoint == persist::record::Endpoint::Check => When::Now,
            Effect::Refuse => {
                if let Verdict::Block(block) = &decision.verdict {
                    let cause = cause(block);
                    self.emit(&Record::Refused(Refused { call, cause }), batch)?;
                }
                When::Now
            }
        };
        Ok((Outcome::Decision(Box::new(decision)), when))
    }

    fn claim(&mut self, hold: HoldId) {
        if let Some(hold) = self.shard.holds.get_mut(hold) {
            hold.claims = hold.claims.saturating_add(1);
        }
    }

    fn call<'a>(&self, published: &Directory, ask: &'a Ask, tools: &'a str) -> Call<'a> {
        Call {
            at: self.now,
            org: ask.org,
            workflow: ask.workflow,
            key: ask.key,
            endpoint: ask.endpoint,
            protocol: ask.protocol.number(),
            rules: published.lsn,
            operation_id: ask.operation_id.as_deref(),
            execution_id: ask.execution_id.as_deref(),
            trace_id: ask.trace_id.as_deref(),
            model: ask.model.as_deref(),
            tools,
            digest: ask.digest.as_deref(),
        }
    }

    fn track(
        &mut self,
        published: &Directory,
        track: &crate::command::Track,
        event: &crate::command::Reported,
        batch: &mut Batch,
    ) -> persist::Result<Tracked> {
        let context = self.context(published);
        let ends = charge::span_end(&context, track.org, track.key, event);
        let tracked = match charge::book(&context, track, event) {
            Booking::Duplicate(tracked) => tracked,
            Booking::Booked(charged, tracked) => {
                let Charged { org, cost, .. } = charged;
                self.emit(&Record::Charged(charged), batch)?;
                if cost.is_positive() {
                    self.meters.spent(self.now, org, cost);
                }
                tracked
            }
        };
        // After the charge: what the span itself cost comes off the hold first.
        if let Some(ended) = ends {
            self.end(
                Some(ended.org),
                ended.hold,
                ended.reason,
                ended.actor,
                batch,
            )?;
        }
        Ok(tracked)
    }

    /// Ends a hold if it is open; returns what it releases.
    fn end(
        &mut self,
        org: Option<OrgId>,
        hold: HoldId,
        reason: EndReason,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<Option<Nanos>> {
        let ended: Option<HoldEnded> =
            charge::end_hold(&self.context(&self.directory), org, hold, reason, actor);
        let Some(ended) = ended else { return Ok(None) };
        let released = ended.released;
        #[cfg(debug_assertions)]
        let again = self
            .shard
            .holds
            .get(hold)
            .filter(|_| self.mutations.keeps_ended_holds())
            .cloned();
        self.emit(&Record::HoldEnded(ended), batch)?;
        #[cfg(debug_assertions)]
        if let Some(again) = again {
            self.shard.holds.open(again.as_new());
        }
        Ok(Some(released))
    }

    fn set_state(
        &mut self,
        org: OrgId,
        id: WorkflowId,
        to: Transition,
        reason: Option<&str>,
        actor: Actor,
        batch: &mut Batch,
    ) -> persist::Result<(Outcome, When)> {
        let found = self
            .shard
            .workflow(id)
            .filter(|workflow| workflow.org == org);
        let Some(workflow) = found else {
            return Ok((
                Outcome::Refused(Refusal::NotFound("workflow")),
                When::Durable,
            ));
        };
        let target = match to {
            Transition::Pause => State::Paused,
            Transition::Resume => State::Normal,
            Transition::Kill => State::Killed,
        };
        let from = workflow.state;
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
                version: workflow.version + 1,
                from,
                to: target,
                reason,
                actor,
            };
            self.emit(&Record::WorkflowState(changed), batch)?;
        }
        Ok((self.show(org, id), When::Durable))
    }

    fn manage(&mut self, manage: &Manage, batch: &mut Batch) -> persist::Result<(Outcome, When)> {
        // A persistent map: this clone is a few pointers.
        let before = self.directory.clone();
        let done = manage::decide(&before, self.now, manage, |record| {
            self.emit(&Record::Directory(record), batch)
        });
        match done {
            Err(refusal) => Ok((Outcome::Refused(refusal), When::Durable)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) => Ok((
                match manage::shown(&self.directory, manage) {
                    Managed::Workflow(id) => match manage {
                        Manage::CreateWorkflow { org, .. } | Manage::PatchWorkflow { org, .. } => {
                            self.show(*org, id)
                        }
                        _ => Outcome::Done,
                    },
                    managed => Outcome::Managed(Box::new(managed)),
                },
                When::Durable,
            )),
        }
    }

    fn show(&self, org: OrgId, id: WorkflowId) -> Outcome {
        match self.view(org, id) {
            Some(view) => Outcome::Workflow(Box::new(view)),
            None => Outcome::Refused(Refusal::NotFound("workflow")),
        }
    }

    fn view(&self, org: OrgId, id: WorkflowId) -> Option<WorkflowView> {
        let entry = self.directory.workflow(org, id)?;
        let live = self.shard.workflow(id)?;
        let sums = live.account.in_period(&self.period);
        Some(WorkflowView {
            entry: Arc::clone(entry),
            state: live.state,
            version: live.version,
            reason: live.reason.as_deref().map(str::to_owned),
            state_since: live.state_since,
            spent: sums.spent,
            held: sums.held,
            period: self.period,
        })
    }

    fn show_org(&mut self, org: OrgId) -> Outcome {
        let Some(entry) = self.directory.org(org).cloned() else {
            return Outcome::Refused(Refusal::NotFound("organization"));
        };
        let account = self.shard.orgs.get(&org).copied().unwrap_or_default();
        let sums = account.in_period(&self.period);
        let (burnt, secs) = self.meters.burn_rate(self.now, org);
        let per_hour = i128::from(burnt) * 3600 / i128::from(secs.max(1));
        let left = entry
            .budget
            .map(|cap| (cap - sums.spent - sums.held).max(Nanos::ZERO));
        let exhausted_in_secs = left.filter(|_| burnt > 0).map(|left| {
            let secs = i128::from(left.0) * i128::from(secs) / i128::from(burnt);
            u64::try_from(secs).unwrap_or(u64::MAX)
        });
        let nobody = Described {
            workflow: WorkflowId(0),
            key: persist::KeyId(0),
            tools: &[],
            model: None,
            projected: Nanos::MAX,
        };
        let rate = entry
            .rules
            .rate(entry.composition, Scope::Org, &nobody)
            .map(|(limit, _)| limit);
        let keys = entry.keys.iter().map(|id| {
            let sums = self
                .shard
                .keys
                .get(id)
                .map(|a| a.in_period(&self.period))
                .unwrap_or_default();
            (*id, sums.spent, sums.held)
        });
        Outcome::Org(Box::new(OrgView {
            spent: sums.spent,
            held: sums.held,
            budget: entry.budget,
            lifetime: account.lifetime,
            exhausted_in_secs,
            burn_per_hour: Nanos(i64::try_from(per_hour).unwrap_or(i64::MAX)),
            rate_used: self.meters.calls(self.now, Subject::Org(org.0)),
            rate_limit: rate,
            open_holds: self.shard.holds.of_org(org),
            period: self.period,
            keys: keys.collect(),
            workflows: entry
                .workflows
                .iter()
                .filter_map(|id| self.view(org, *id))
                .collect(),
        }))
    }
}

fn at(record: &Record<'_>) -> Millis {
    match record {
        Record::Directory(record) => record.at,
        Record::Refused(record) => record.call.at,
        Record::HoldMinted(record) => record.call.at,
        Record::HoldUsed(record) => record.call.at,
        Record::Charged(record) => record.at,
        Record::HoldEnded(record) => record.at,
        Record::WorkflowState(record) => record.at,
    }
}

fn cause(block: &Block) -> Cause<'_> {
    Cause {
        code: block.code.name(),
        policy: block.policy.as_ref().map(|policy| policy.id),
        policy_version: block.policy.as_ref().map_or(0, |policy| policy.version),
        tool: &block.tool,
        pattern: &block.pattern,
        budget: block.budget,
    }
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
    }
}
