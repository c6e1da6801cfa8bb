//! The people and agents of the simulation. They remember what they sent, send it again, name holds
//! that have ended or are somebody else's, and give orders in any order.

use super::promises::Question;
use super::reference::Ledger;
use super::rng::Rng;
use engine::command::{Ask, Command, Track, Transition};
use persist::record::State;
use persist::{HoldId, KeyId, Lsn, Millis, OrgId, PolicyId, WorkflowId};
use std::collections::{BTreeSet, VecDeque};

mod calls;
mod orders;
mod reports;

const TOOLS: [&str; 4] = ["bash", "mail", "search", "*"];
const MODELS: [Option<&str>; 4] = [Some("small"), Some("odd"), Some("mystery"), None];
/// Requests each client may still send again.
const REMEMBERED: usize = 24;

/// What somebody wants.
#[derive(Debug)]
pub enum Want {
    /// Something one pump does.
    Do(Command, Question),
    /// Events booked.
    Book(Track),
    /// An org's money, or its open holds.
    Look(OrgId, bool),
}

/// How this run's people behave: drawn once per run, so that runs differ in kind.
#[derive(Debug, Clone)]
pub struct Habits {
    pub orgs: u64,
    /// How many things are asked at one moment, at most: what meets in several pumps.
    pub rush: u64,
    /// Of a hundred calls, how many name an operation.
    pub operations: u64,
    /// Of a hundred calls, how many are in a chain, and how many chains bring a cap.
    pub chains: u64,
    pub chain_caps: u64,
    /// Of a hundred caps, how many are soft.
    pub soft: u64,
    /// Of a hundred settings of a cap, how many set one; the rest take it off.
    pub capped: u64,
    /// The largest cap, in cents.
    pub cap_cents: u64,
    /// Weights of ask, ask again, track, report again, cancel, release, heartbeat, pause, resume,
    /// kill, directory.
    pub weights: [u64; 11],
    /// Weights of changes: workflow's caps, org, new workflow, new key, revoke, new policy, change
    /// of a policy, end of a policy.
    pub changes: [u64; 8],
    /// Weights of tool, budget, rate and loop policies.
    pub policies: [u64; 4],
}

impl Habits {
    pub fn draw(rng: &mut Rng) -> Self {
        let mut some = |percent, from, to| {
            if rng.chance(percent) {
                rng.within(from, to)
            } else {
                0
            }
        };
        Self {
            orgs: some(100, 1, 3),
            rush: some(40, 2, 8),
            operations: some(80, 10, 100),
            chains: some(70, 5, 80),
            chain_caps: some(60, 10, 60),
            soft: some(60, 10, 80),
            capped: some(90, 30, 100),
            cap_cents: some(100, 2, 60),
            weights: [
                some(100, 20, 60),
                some(80, 5, 20),
                some(90, 10, 40),
                some(80, 1, 10),
                some(80, 1, 15),
                some(60, 1, 4),
                some(80, 1, 8),
                some(60, 1, 2),
                some(100, 4, 10),
                some(50, 1, 3),
                some(100, 3, 15),
            ],
            changes: [
                some(80, 5, 20),
                some(70, 1, 10),
                some(100, 1, 5),
                some(100, 1, 4),
                some(50, 1, 2),
                some(50, 1, 6),
                some(50, 1, 6),
                some(100, 1, 6),
            ],
            policies: [
                some(50, 1, 3),
                some(80, 1, 3),
                some(30, 1, 3),
                some(60, 2, 5),
            ],
        }
    }
}

#[derive(Debug, Default)]
struct Tenant {
    org: OrgId,
    workflows: Vec<WorkflowId>,
    keys: Vec<(KeyId, Option<WorkflowId>)>,
    policies: Vec<PolicyId>,
    signed_up: bool,
}

/// Something an operator asked for, and may use once it is there.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Workflow(WorkflowId),
    Key(KeyId, Option<WorkflowId>),
    Policy(PolicyId),
}

#[derive(Debug)]
pub struct Clients {
    pub habits: Habits,
    tenants: Vec<Tenant>,
    asks: VecDeque<Ask>,
    tracks: VecDeque<Track>,
    holds: VecDeque<HoldId>,
    told: VecDeque<HoldId>,
    wishes: Vec<(usize, Wish)>,
    /// Killed workflows and keys that are over: known to be of no use, and tried now and then.
    useless: BTreeSet<u128>,
    serial: u128,
}

fn remember<T>(into: &mut VecDeque<T>, what: T) {
    into.push_back(what);
    if into.len() > REMEMBERED {
        into.pop_front();
    }
}

fn nth<T: Clone>(rng: &mut Rng, of: &VecDeque<T>) -> Option<T> {
    of.get(rng.below(of.len() as u64) as usize).cloned()
}

/// Usually the last one.
fn recent<T: Clone>(rng: &mut Rng, of: &VecDeque<T>) -> Option<T> {
    if rng.chance(60) {
        return of.back().cloned();
    }
    nth(rng, of)
}

impl Clients {
    pub fn new(habits: Habits) -> Self {
        let tenants = (1..=u128::from(habits.orgs)).map(|n| Tenant {
            org: OrgId(n << 32),
            workflows: vec![WorkflowId(n << 32 | 1)],
            keys: vec![(KeyId(n << 32 | 2), Some(WorkflowId(n << 32 | 1)))],
            policies: Vec::new(),
            signed_up: false,
        });
        Self {
            tenants: tenants.collect(),
            habits,
            asks: VecDeque::new(),
            tracks: VecDeque::new(),
            holds: VecDeque::new(),
            told: VecDeque::new(),
            wishes: Vec::new(),
            useless: BTreeSet::new(),
            serial: 1 << 16,
        }
    }

    /// Looks at what is there by now: nobody uses an id before it is published, the front sees to
    /// that.
    pub fn learn(&mut self, ledger: &Ledger, published: Lsn, now: Millis) {
        let rules = ledger.rules.at(published);
        let killed = ledger.books.workflows.iter();
        let killed = killed.filter(|(_, workflow)| workflow.state == State::Killed);
        let over = rules
            .keys
            .iter()
            .filter(|(_, key)| key.revoked || key.expires_at.is_some_and(|at| at < now));
        let useless = killed.map(|(id, _)| id.0).chain(over.map(|(id, _)| id.0));
        self.useless = useless.collect();
        let Self {
            tenants, wishes, ..
        } = self;
        for tenant in tenants.iter_mut() {
            tenant.signed_up = rules.orgs.contains_key(&tenant.org);
        }
        wishes.retain(|(at, wish)| {
            let Some(tenant) = tenants.get_mut(*at) else {
                return false;
            };
            match *wish {
                Wish::Workflow(id) if rules.workflows.contains_key(&id) => {
                    tenant.workflows.push(id);
                }
                Wish::Key(id, bound) if rules.keys.contains_key(&id) => {
                    tenant.keys.push((id, bound));
                }
                Wish::Policy(id) if rules.policies.contains_key(&id) => tenant.policies.push(id),
                _ => return true,
            }
            false
        });
    }

    fn fresh(&mut self) -> u128 {
        self.serial += 1;
        self.serial
    }

    /// The next thing somebody wants.
    pub fn next(&mut self, rng: &mut Rng, now: Millis) -> Want {
        let stranger = self.tenants.iter().find(|tenant| !tenant.signed_up);
        if let Some(org) = stranger.map(|tenant| tenant.org) {
            return self.register(org, now);
        }
        let at = self.tenant(rng);
        if let Some(wanted) = self.wanting(at).filter(|_| rng.chance(50)) {
            return self.change(rng, now, at, wanted);
        }
        let weights = self.habits.weights;
        match rng.weighted(&weights) {
            0 => self.ask(rng, now),
            1 => self.ask_again(rng, now),
            2 => self.track(rng),
            3 => self.report_again(rng),
            4 => self.cancel(rng),
            5 => self.release(rng),
            6 => self.heartbeat(rng),
            7 => self.set_state(rng, Transition::Pause),
            8 => self.set_state(rng, Transition::Resume),
            9 => self.set_state(rng, Transition::Kill),
            _ => {
                let changes = self.habits.changes;
                let what = rng.weighted(&changes);
                self.change(rng, now, at, what)
            }
        }
    }

    /// The change this tenant cannot go on without: a new workflow or a new key. With few workflows
    /// there is little for several pumps to do.
    fn wanting(&self, at: usize) -> Option<usize> {
        let useless = |id: u128| self.useless.contains(&id);
        let tenant = &self.tenants[at];
        let bound = |id: &Option<WorkflowId>| id.is_some_and(|id| useless(id.0));
        let mut workflows = tenant.workflows.iter();
        if workflows.all(|id| useless(id.0)) {
            return Some(2);
        }
        let mut keys = tenant.keys.iter();
        let none = keys.all(|(key, workflow)| useless(key.0) || bound(workflow));
        none.then_some(3)
    }

    /// Somebody looks at the figures.
    pub fn read(&mut self, rng: &mut Rng) -> Want {
        let at = self.tenant(rng);
        let org = self.tenants[at].org;
        match rng.pick(&self.tenants[at].workflows) {
            Some(workflow) if rng.chance(40) => Want::Do(
                Command::ReadWorkflow { org, workflow },
                Question::Workflow(org, workflow),
            ),
            _ => match nth(rng, &self.asks).filter(|_| rng.chance(30)) {
                Some(ask) => self.wonder(rng, ask),
                None => Want::Look(org, rng.chance(70)),
            },
        }
    }

    fn tenant(&self, rng: &mut Rng) -> usize {
        rng.below(self.tenants.len() as u64) as usize
    }

    /// A workflow of this tenant, rarely a killed one.
    fn workflow(&self, rng: &mut Rng, at: usize) -> WorkflowId {
        let all = &self.tenants[at].workflows;
        let mut id = rng.pick(all).unwrap_or_default();
        for _ in 0..4 {
            if !self.useless.contains(&id.0) {
                break;
            }
            id = rng.pick(all).unwrap_or_default();
        }
        id
    }

    /// A key of this tenant, and the workflow it works for.
    fn key(&self, rng: &mut Rng, at: usize) -> (KeyId, WorkflowId) {
        let mut chosen = (KeyId::default(), WorkflowId::default());
        for _ in 0..4 {
            let (key, bound) = rng.pick(&self.tenants[at].keys).unwrap_or_default();
            chosen = (key, bound.unwrap_or_else(|| self.workflow(rng, at)));
            let useless = [key.0, chosen.1.0];
            if useless.iter().all(|id| !self.useless.contains(id)) {
                break;
            }
        }
        chosen
    }

    /// Notes that a call was allowed on this hold.
    pub fn told(&mut self, hold: HoldId) {
        remember(&mut self.told, hold);
    }

    /// A hold: usually one somebody was told of lately, else any that was ever asked for.
    fn hold(&self, rng: &mut Rng) -> HoldId {
        let recent = self.told.len().saturating_sub(6);
        let known = match rng.below(10) {
            0..7 => self.told.get(recent + rng.below(6) as usize).copied(),
            7 => Some(HoldId(99)),
            _ => nth(rng, &self.holds),
        };
        known.or_else(|| nth(rng, &self.told)).unwrap_or(HoldId(99))
    }
}
