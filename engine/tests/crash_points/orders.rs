//! What clients and an operator ask in the crash test: drawn from a seed, so that a run can be had
//! again; and who waits for the answers.

use engine::Pump;
use engine::command::{
    Ask, ChainAsk, Command, Outcome, Protocol, Reply, Reported, Track, Transition, Verdict,
};
use engine::manage::{
    KeyTexts, Manage, NewKey, NewSession, Registration, WorkflowPatch, WorkflowSettings,
};
use engine::pump::{Asked, Parked, Parking, Publisher, Respond};
use persist::record::{Actor, Endpoint, Operation, PeriodKind, Scopes, Tokens};
use persist::{HoldId, KeyId, Lsn, Millis, Nanos, OrgId, SessionId, UserId, WorkflowId};
use std::sync::{Arc, Mutex};

const ORG: OrgId = OrgId(1);
/// Bound to no workflow.
const KEY: KeyId = KeyId(3);
/// Noon of 15 June 2026.
const NOON: u64 = 1_781_524_800_000;
const WORKFLOWS: u64 = 9;

/// `small` costs 1,000 nano-dollars per input token and 4,000 per output token.
pub const PRICES: &str = r#"{"source":"a test","retrieved":"never",
 "provisional":{"input":9000000000,"output":9000000000,"cache_read":9000000000,
                "cache_write":9000000000,"reasoning":9000000000},
 "models":[{"model":"small","provider":"openai","input":1000000000,"output":4000000000,
            "cache_read":100000000,"cache_write":1000000000,"reasoning":4000000000}]}"#;

/// The number after `n`.
pub const fn next(n: u64) -> u64 {
    n.wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}

/// Holds that were given, whether their clients know of it or not.
type Holds = Arc<Mutex<Vec<HoldId>>>;

/// Somebody who waits for an answer.
pub struct Client(Holds);

impl Respond for Client {
    fn respond(self, reply: Reply) -> bool {
        if let Outcome::Decision(decision) = &reply.outcome
            && let Verdict::Allow {
                hold: Some(hold), ..
            } = decision.verdict
        {
            self.0.lock().unwrap().push(hold);
        }
        true
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

/// All who ask.
pub struct Orders {
    dice: u64,
    now: u64,
    serial: u128,
    holds: Holds,
    parked: Vec<Parked<Client>>,
}

fn workflow(n: u64) -> WorkflowId {
    WorkflowId(100 + u128::from(n))
}

impl Orders {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: next(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            now: NOON,
            serial: 1000,
            holds: Holds::default(),
            parked: Vec::new(),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.dice = next(self.dice);
        (self.dice >> 33) % n
    }

    fn fresh(&mut self) -> u128 {
        self.serial += 1;
        self.serial
    }

    /// Time passes: mostly seconds, now and then more than a hold lives.
    pub fn tick(&mut self) -> u64 {
        self.now += match self.below(12) {
            0 => 400_000,
            _ => 1 + self.below(9000),
        };
        self.now
    }

    /// An answer that waits for the disk.
    pub fn waits(&mut self, parked: Parked<Client>) {
        self.parked.push(parked);
    }

    /// Everything up to `durable` is, and is answered.
    pub fn answered(&mut self, publisher: &Publisher, durable: Lsn) {
        let mut parking = Parking::new(8);
        for parked in self.parked.drain(..) {
            parking.park(parked);
        }
        parking.release(publisher, durable, |_, _| {});
    }

    /// The next questions, by pump.
    pub fn draw(&mut self, pumps: &[Pump<Client>]) -> Vec<Vec<Asked<Client>>> {
        let mut all: Vec<Vec<Asked<Client>>> = pumps.iter().map(|_| Vec::new()).collect();
        let empty = pumps[0].engine().directory().is_none_or(|d| d.users() == 0);
        if empty {
            // A death may have taken it back: then somebody signs up again.
            for command in self.sign_up() {
                all[0].push(self.asked(command));
            }
            return all;
        }
        for _ in 0..4 + self.below(4) {
            let (slot, command) = self.command();
            let of = |pump: &Pump<Client>| pump.engine().part(slot).is_some();
            let pump = match command {
                Command::Manage(_) => 0,
                _ => pumps.iter().position(of).unwrap(),
            };
            all[pump].push(self.asked(command));
        }
        all
    }

    fn asked(&self, command: Command) -> Asked<Client> {
        Asked {
            command,
            respond: Some(Client(Arc::clone(&self.holds))),
        }
    }

    fn sign_up(&mut self) -> Vec<Command> {
        let user = UserId(self.fresh());
        let first = Registration {
            user,
            email: "a@example.com".to_owned(),
            name: String::new(),
            password_hash: String::new(),
            identity: None,
            org: ORG,
            org_name: "an org".to_owned(),
            plan: String::new(),
            workflow: workflow(0),
            workflow_name: "first".to_owned(),
            key: NewKey {
                id: KEY,
                workflow: None,
                name: "a key".to_owned(),
                texts: KeyTexts {
                    key_hash: [3; 32],
                    ..KeyTexts::default()
                },
                scopes: Scopes::ALL,
                budget: Some(Nanos::from_cents(5000)),
                period: PeriodKind::Month,
                calls_per_minute: None,
                expires_at: None,
            },
            session: NewSession {
                id: SessionId(1),
                ip: String::new(),
                user_agent: String::new(),
                token_hash: [0; 32],
                user,
                expires_at: Millis(u64::MAX),
            },
        };
        let more = (1..WORKFLOWS).map(|n| Manage::CreateWorkflow {
            org: ORG,
            actor: Actor::System,
            id: workflow(n),
            settings: WorkflowSettings {
                budget: Some(Nanos::from_cents(400)),
                ..WorkflowSettings::named(format!("workflow {n}"))
            },
        });
        let all = [Manage::Register(Box::new(first))].into_iter().chain(more);
        all.map(|manage| Command::Manage(Box::new(manage)))
            .collect()
    }

    /// A command, and the slot that says which pump it belongs to.
    fn command(&mut self) -> (persist::ids::Slot, Command) {
        let workflow = workflow(self.below(WORKFLOWS));
        let slot = workflow.slot(ORG);
        let known = self.holds.lock().unwrap().clone();
        let hold = match known.len() {
            0 => None,
            n => Some(known[self.below(n as u64) as usize]),
        };
        match (self.below(20), hold) {
            (0..7, _) => (slot, self.ask(workflow)),
            (7..9, Some(hold)) => {
                let command = Command::Cancel {
                    org: ORG,
                    key: KEY,
                    hold,
                };
                (hold.slot(), command)
            }
            (9..13, Some(hold)) => (hold.slot(), self.track(workflow, Some(hold), 1)),
            (13, _) => {
                let to = match self.below(3) {
                    0 => Transition::Pause,
                    _ => Transition::Resume,
                };
                let command = Command::SetState {
                    org: ORG,
                    workflow,
                    to,
                    reason: None,
                    actor: Actor::System,
                };
                (slot, command)
            }
            (14, _) => {
                let cents = 100 + self.below(900) as i64;
                let manage = Manage::PatchWorkflow {
                    org: ORG,
                    actor: Actor::System,
                    id: workflow,
                    patch: WorkflowPatch {
                        budget: Some(Some(Nanos::from_cents(cents))),
                        ..WorkflowPatch::default()
                    },
                };
                (slot, Command::Manage(Box::new(manage)))
            }
            (15, _) => {
                let command = Command::Heartbeat {
                    org: ORG,
                    key: KEY,
                    workflow,
                    chain: chain(workflow),
                };
                (slot, command)
            }
            _ => {
                let count = 1 + self.below(7);
                (slot, self.track(workflow, None, count))
            }
        }
    }

    fn ask(&mut self, workflow: WorkflowId) -> Command {
        let (serial, tokens) = (self.fresh(), 2 + self.below(20_000));
        let chained = self.below(3) == 0;
        Command::Ask(Box::new(Ask {
            endpoint: Endpoint::Gate,
            protocol: Protocol::V4,
            org: ORG,
            key: KEY,
            workflow,
            call: Some(serial << 8),
            operation: Some(Operation::of(serial << 8, Endpoint::Gate, 1)),
            operation_id: Some(serial.to_string()),
            execution_id: None,
            trace_id: None,
            model: Some("small".to_owned()),
            model_lower: Some("small".to_owned()),
            tools: Vec::new(),
            tools_line: String::new(),
            digest: None,
            estimated_tokens: tokens,
            max_output_tokens: None,
            chain: chained.then(|| ChainAsk {
                key: chain(workflow),
                id: "c".to_owned(),
                cap: None,
            }),
            chain_end: false,
            reservation: None,
            must_find_reservation: false,
            new_hold: HoldId::mint(Millis(self.now), workflow.slot(ORG), serial as u64),
            noted: Vec::new(),
            figures: None,
        }))
    }

    fn track(&mut self, workflow: WorkflowId, hold: Option<HoldId>, count: u64) -> Command {
        let events = (0..count).map(|_| {
            // Some come again.
            let back = self.below(6).saturating_sub(3);
            let n = self.fresh() - u128::from(back);
            let tokens = 1 + self.below(3000);
            Reported {
                event_key: Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
                holds: [hold, None],
                workflow,
                kind: "llm_call".to_owned(),
                model: Some("small".to_owned()),
                tokens: Tokens {
                    total: tokens,
                    input: tokens,
                    ..Tokens::default()
                },
                ..Reported::default()
            }
        });
        Command::Track(Box::new(Track {
            org: ORG,
            key: KEY,
            events: events.collect(),
        }))
    }
}

/// The chain of a workflow.
fn chain(workflow: WorkflowId) -> u128 {
    0xc4a1 << 64 | workflow.0
}
