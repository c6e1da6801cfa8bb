//! The people and agents of the simulation. They remember what they sent, send it again, name holds
//! that have ended or are somebody else's, and give orders in any order.

use super::promises::Question;
use super::reference::Ledger;
use super::rng::Rng;
use engine::command::{Ask, Command, Protocol, Reported, Track, Transition};
use persist::record::{Endpoint, Operation, State, Tokens};
use persist::{HoldId, KeyId, Millis, OrgId, PolicyId, WorkflowId};
use std::collections::{BTreeSet, VecDeque};

mod orders;

const TOOLS: [&str; 4] = ["bash", "mail", "search", "*"];
/// Requests each client may still send again.
const REMEMBERED: usize = 24;

/// How this run's people behave: drawn once per run, so that runs differ in kind.
#[derive(Debug, Clone)]
pub struct Habits {
    pub orgs: u64,
    /// Of a hundred calls, how many name an operation.
    pub operations: u64,
    /// Of a hundred settings of a cap, how many set one; the rest take it off.
    pub capped: u64,
    /// The largest cap, in cents.
    pub cap_cents: u64,
    /// Weights of ask, ask again, track, report again, cancel, pause, resume, kill, directory.
    pub weights: [u64; 9],
    /// Weights of changes: workflow's caps, org, new workflow, new key, revoke, new policy, change
    /// of a policy, end of a policy.
    pub changes: [u64; 8],
    /// Weights of tool, budget and rate policies.
    pub policies: [u64; 3],
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
            operations: some(80, 10, 100),
            capped: some(90, 30, 100),
            cap_cents: some(100, 2, 60),
            weights: [
                some(100, 20, 60),
                some(80, 5, 20),
                some(90, 10, 40),
                some(80, 1, 10),
                some(80, 1, 15),
                some(60, 1, 4),
                some(100, 2, 8),
                some(50, 1, 3),
                some(100, 3, 15),
            ],
            changes: [
                some(80, 5, 20),
                some(70, 1, 10),
                some(100, 1, 4),
                some(100, 1, 4),
                some(50, 1, 2),
                some(50, 1, 6),
                some(50, 1, 6),
                some(100, 1, 6),
            ],
            policies: [some(50, 1, 3), some(80, 1, 3), some(30, 1, 3)],
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
    habits: Habits,
    tenants: Vec<Tenant>,
    asks: VecDeque<Ask>,
    tracks: VecDeque<Track>,
    holds: VecDeque<HoldId>,
    told: VecDeque<HoldId>,
    wishes: Vec<(usize, Wish)>,
    /// Killed workflows and revoked keys: known to be of no use, and tried now and then.
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

const fn operation_key(workflow: WorkflowId, endpoint: Endpoint, name: u128) -> u128 {
    workflow.0 << 80 | name << 2 | endpoint as u128
}

fn fingerprint(ask: &Ask) -> u64 {
    let mut sum = ask.estimated_tokens ^ ask.max_output_tokens.map_or(0, |most| most + 1) << 32;
    for byte in ask.tools.iter().chain(&ask.model).flat_map(|s| s.bytes()) {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    sum
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

    /// Looks at what is there by now: nobody uses an id before it is acknowledged, the front sees
    /// to that.
    pub fn learn(&mut self, ledger: &Ledger) {
        let rules = ledger.rules.at(ledger.lsn);
        let revoked = rules.keys.iter().filter(|(_, key)| key.revoked);
        self.useless.extend(revoked.map(|(id, _)| id.0));
        let rules = ledger.rules.at(ledger.lsn);
        let killed = ledger.books.workflows.iter();
        let killed = killed.filter(|(_, workflow)| workflow.state == State::Killed);
        let revoked = rules.keys.iter().filter(|(_, key)| key.revoked);
        let useless = killed
            .map(|(id, _)| id.0)
            .chain(revoked.map(|(id, _)| id.0));
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
                Wish::Workflow(id) if ledger.books.workflows.contains_key(&id) => {
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
    pub fn next(&mut self, rng: &mut Rng, now: Millis) -> (Command, Question) {
        let stranger = self.tenants.iter().find(|tenant| !tenant.signed_up);
        if let Some(org) = stranger.map(|tenant| tenant.org) {
            return self.register(org, now);
        }
        let at = self.tenant(rng);
        if let Some(wanted) = self.wanting(at).filter(|_| rng.chance(50)) {
            return self.change(rng, at, wanted);
        }
        let weights = self.habits.weights;
        match rng.weighted(&weights) {
            0 => self.ask(rng, now),
            1 => self.ask_again(rng, now),
            2 => self.track(rng),
            3 => self.report_again(rng),
            4 => self.cancel(rng),
            5 => self.set_state(rng, Transition::Pause),
            6 => self.set_state(rng, Transition::Resume),
            7 => self.set_state(rng, Transition::Kill),
            _ => {
                let changes = self.habits.changes;
                let what = rng.weighted(&changes);
                self.change(rng, at, what)
            }
        }
    }

    /// The change this tenant cannot go on without: a new workflow or a new key.
    fn wanting(&self, at: usize) -> Option<usize> {
        let useless = |id: u128| self.useless.contains(&id);
        let tenant = &self.tenants[at];
        let bound = |id: &Option<WorkflowId>| id.is_some_and(|id| useless(id.0));
        if tenant.workflows.iter().all(|id| useless(id.0)) {
            return Some(2);
        }
        let mut keys = tenant.keys.iter();
        let none = keys.all(|(key, workflow)| useless(key.0) || bound(workflow));
        none.then_some(3)
    }

    /// Somebody looks at the figures.
    pub fn read(&mut self, rng: &mut Rng) -> (Command, Question) {
        let at = self.tenant(rng);
        let org = self.tenants[at].org;
        match rng.pick(&self.tenants[at].workflows) {
            Some(workflow) if rng.chance(50) => (
                Command::ReadWorkflow { org, workflow },
                Question::Workflow(workflow),
            ),
            _ => (Command::ReadOrg { org }, Question::Org(org)),
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
            7 => nth(rng, &self.told),
            _ => nth(rng, &self.holds),
        };
        known.unwrap_or(HoldId(99))
    }

    fn ask(&mut self, rng: &mut Rng, now: Millis) -> (Command, Question) {
        let at = self.tenant(rng);
        let (key, workflow) = self.key(rng, at);
        let org = self.tenants[at].org;
        let endpoint = [Endpoint::Gate, Endpoint::Execute, Endpoint::Check];
        let endpoint = endpoint[rng.weighted(&[70, 25, 8])];
        let protocols = [Protocol::Seed, Protocol::V3, Protocol::V4];
        let tools = (0..rng.below(3)).filter_map(|_| rng.pick(&TOOLS[..3]));
        let mut tools: Vec<_> = tools.map(str::to_owned).collect();
        tools.dedup();
        let models = [Some("small"), Some("odd"), Some("mystery"), None];
        let declares = rng.chance(50);
        let mut ask = Ask {
            endpoint,
            protocol: protocols[rng.weighted(&[20, 30, 50])],
            org,
            key,
            workflow,
            operation: None,
            operation_id: None,
            execution_id: None,
            trace_id: None,
            model: rng.pick(&models).flatten().map(str::to_owned),
            tools,
            digest: None,
            estimated_tokens: if declares {
                rng.within(2, 9_000)
            } else {
                rng.below(2)
            },
            max_output_tokens: (declares && rng.chance(50)).then(|| rng.below(2_000)),
            chain_end: rng.chance(3),
            reservation: None,
            must_find_reservation: false,
            new_hold: HoldId::default(),
        };
        if endpoint == Endpoint::Execute && rng.chance(70) {
            // After the gate of the same client, usually; sometimes after another's.
            if let Some(gate) = nth(rng, &self.asks).filter(|_| rng.chance(80)) {
                (ask.org, ask.key, ask.workflow) = (gate.org, gate.key, gate.workflow);
                ask.reservation = Some(gate.new_hold);
            } else {
                ask.reservation = Some(self.hold(rng));
            }
            ask.must_find_reservation = rng.chance(20);
        }
        if rng.chance(self.habits.operations) {
            let name = self.fresh();
            ask.operation_id = Some(format!("{name:x}"));
            ask.operation = Some(Operation {
                key: operation_key(ask.workflow, endpoint, name),
                fingerprint: fingerprint(&ask),
            });
        }
        self.send(rng, now, ask)
    }

    fn ask_again(&mut self, rng: &mut Rng, now: Millis) -> (Command, Question) {
        let Some(mut ask) = nth(rng, &self.asks) else {
            return self.ask(rng, now);
        };
        if rng.chance(15) {
            ask.estimated_tokens += 1;
            ask.operation = ask.operation.map(|before| Operation {
                fingerprint: fingerprint(&ask),
                ..before
            });
        }
        self.send(rng, now, ask)
    }

    fn send(&mut self, rng: &mut Rng, now: Millis, mut ask: Ask) -> (Command, Question) {
        ask.trace_id = Some(format!("t{:x}", self.fresh()));
        ask.new_hold = HoldId::mint(now, ask.workflow.slot(ask.org), rng.next());
        if ask.endpoint != Endpoint::Check {
            remember(&mut self.asks, ask.clone());
            remember(&mut self.holds, ask.new_hold);
        }
        let question = Question::Ask {
            ask: Box::new(ask.clone()),
            killed: false,
            since: persist::Lsn::ZERO,
        };
        (Command::Ask(Box::new(ask)), question)
    }

    fn track(&mut self, rng: &mut Rng) -> (Command, Question) {
        let at = self.tenant(rng);
        let (key, workflow) = self.key(rng, at);
        let mut events = Vec::new();
        for _ in 0..rng.within(1, 4) {
            let event = self.event(rng, workflow);
            if event.event_key.is_some() && rng.chance(10) {
                events.push(event.clone());
            }
            events.push(event);
        }
        let track = Track {
            org: self.tenants[at].org,
            key,
            events,
        };
        remember(&mut self.tracks, track.clone());
        (
            Command::Track(Box::new(track.clone())),
            Question::Track(Box::new(track)),
        )
    }

    fn event(&mut self, rng: &mut Rng, workflow: WorkflowId) -> Reported {
        let models = [Some("small"), Some("odd"), Some("mystery"), None];
        let (input, output) = (rng.below(3_000), rng.below(1_500));
        let tokens = match rng.below(4) {
            0 => Tokens::default(),
            1 => Tokens {
                total: input,
                ..Tokens::default()
            },
            _ => Tokens {
                total: input + output,
                input,
                output,
                cache_read: rng.below(input + 1),
                reasoning: rng.below(output + 1),
                cache_write: 0,
            },
        };
        let named = rng.chance(70).then(|| self.hold(rng));
        let second = rng.chance(20).then(|| self.hold(rng));
        let ends = rng
            .chance(20)
            .then(|| named.unwrap_or_else(|| self.hold(rng)));
        let serial = self.fresh();
        Reported {
            event_key: rng.chance(60).then_some(serial << 64),
            holds: [named, second],
            workflow,
            ends,
            kind: if ends.is_some() {
                "span_end"
            } else {
                "llm_call"
            }
            .to_owned(),
            model: rng.pick(&models).flatten().map(str::to_owned),
            tokens,
            span_id: Some(format!("s{serial:x}")),
            ..Reported::default()
        }
    }

    /// The same report once more: what carries an event id, as clients do.
    fn report_again(&mut self, rng: &mut Rng) -> (Command, Question) {
        let Some(mut track) = nth(rng, &self.tracks) else {
            return self.track(rng);
        };
        track.events.retain(|event| event.event_key.is_some());
        if track.events.is_empty() {
            return self.track(rng);
        }
        (
            Command::Track(Box::new(track.clone())),
            Question::Track(Box::new(track)),
        )
    }

    fn cancel(&mut self, rng: &mut Rng) -> (Command, Question) {
        let at = self.tenant(rng);
        let org = self.tenants[at].org;
        let (key, _) = self.key(rng, at);
        let hold = self.hold(rng);
        (
            Command::Cancel { org, key, hold },
            Question::Cancel { org, hold },
        )
    }
}
