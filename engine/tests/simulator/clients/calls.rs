//! Calls: of any size, with and without operations, tools and chains, sent again and changed.

use super::{Clients, MODELS, TOOLS, Want, nth, remember};
use crate::promises::Question;
use crate::rng::Rng;
use engine::command::{Ask, ChainAsk, Command, Figures, Protocol};
use persist::record::{Endpoint, Operation};
use persist::{HoldId, Millis, Nanos, WorkflowId};

/// Chains that one workflow has names for: few, so that they begin again and again.
const CHAINS: u64 = 3;
/// More than any call may hold, in tokens.
const TOO_MANY: u64 = 1_000_000_000_000;

const fn call_key(workflow: WorkflowId, name: u128) -> u128 {
    workflow.0 << 80 | name << 4
}

fn fingerprint(ask: &Ask) -> u64 {
    let mut sum = ask.estimated_tokens ^ ask.max_output_tokens.map_or(0, |most| most + 1) << 32;
    for byte in ask.tools.iter().chain(&ask.model).flat_map(|s| s.bytes()) {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    sum
}

impl Clients {
    pub(super) fn ask(&mut self, rng: &mut Rng, now: Millis) -> Want {
        let at = self.tenant(rng);
        let (key, workflow) = self.key(rng, at);
        let org = self.tenants[at].org;
        let endpoint = [Endpoint::Gate, Endpoint::Execute, Endpoint::Check];
        let endpoint = endpoint[rng.weighted(&[70, 25, 8])];
        let protocols = [Protocol::Seed, Protocol::V3, Protocol::V4];
        let tools = (0..rng.below(3)).filter_map(|_| rng.pick(&TOOLS[..3]));
        let mut tools: Vec<_> = tools.map(str::to_owned).collect();
        tools.dedup();
        let declares = rng.chance(50);
        let mut ask = Ask {
            endpoint,
            protocol: protocols[rng.weighted(&[20, 30, 50])],
            org,
            key,
            workflow,
            call: None,
            operation: None,
            operation_id: None,
            execution_id: None,
            trace_id: None,
            model: rng.pick(&MODELS).flatten().map(str::to_owned),
            model_lower: None,
            tools,
            tools_line: String::new(),
            digest: None,
            estimated_tokens: if declares {
                rng.within(2, 9_000)
            } else {
                rng.below(2)
            },
            max_output_tokens: (declares && rng.chance(50)).then(|| rng.below(2_000)),
            chain: None,
            chain_end: false,
            reservation: None,
            must_find_reservation: false,
            new_hold: HoldId::default(),
            noted: Vec::new(),
            figures: None,
        };
        if rng.chance(1) {
            ask.max_output_tokens = Some(TOO_MANY);
        }
        let mut same = None;
        if endpoint == Endpoint::Execute && rng.chance(70) {
            // After the gate of the same client, usually; sometimes after another's.
            if let Some(gate) = nth(rng, &self.asks).filter(|_| rng.chance(80)) {
                (ask.org, ask.key, ask.workflow) = (gate.org, gate.key, gate.workflow);
                // Old clients name the operation and not the hold.
                ask.reservation = rng.chance(70).then_some(gate.new_hold);
                same = gate.operation_id.filter(|_| rng.chance(70));
            } else {
                ask.reservation = Some(self.hold(rng));
            }
            ask.must_find_reservation = rng.chance(20);
        }
        if rng.chance(self.habits.chains) {
            self.put_in_chain(rng, &mut ask);
        }
        if same.is_some() || rng.chance(self.habits.operations) {
            let same = same.and_then(|id| u128::from_str_radix(&id, 16).ok());
            let name = same.unwrap_or_else(|| self.fresh());
            ask.operation_id = Some(format!("{name:x}"));
            let call = call_key(ask.workflow, name);
            ask.call = Some(call);
            ask.operation = Some(Operation::of(call, endpoint, fingerprint(&ask)));
        }
        self.send(rng, now, ask)
    }

    fn put_in_chain(&self, rng: &mut Rng, ask: &mut Ask) {
        let (key, id) = chain(ask.workflow, rng.below(CHAINS));
        let cents = rng.below(self.habits.cap_cents) as i64;
        let capped = rng.chance(self.habits.chain_caps);
        ask.chain = Some(ChainAsk {
            key,
            id,
            cap: capped.then_some(Nanos::from_cents(cents)),
        });
        if ask.endpoint == Endpoint::Gate && rng.chance(15) {
            ask.chain_end = true;
            ask.tools.clear();
            (ask.model, ask.estimated_tokens, ask.max_output_tokens) = (None, 0, None);
        }
    }

    pub(super) fn ask_again(&mut self, rng: &mut Rng, now: Millis) -> Want {
        let Some(mut ask) = nth(rng, &self.asks) else {
            return self.ask(rng, now);
        };
        if rng.chance(15) && !ask.chain_end {
            ask.estimated_tokens += 1;
            ask.operation = ask.operation.map(|before| Operation {
                fingerprint: fingerprint(&ask),
                ..before
            });
        }
        self.send(rng, now, ask)
    }

    fn send(&mut self, rng: &mut Rng, now: Millis, mut ask: Ask) -> Want {
        ask.trace_id = Some(format!("t{:x}", self.fresh()));
        ask.new_hold = HoldId::mint(now, ask.workflow.slot(ask.org), rng.next());
        ask.model_lower.clone_from(&ask.model);
        ask.tools_line = ask.tools.join("\n");
        if ask.endpoint != Endpoint::Check {
            remember(&mut self.asks, ask.clone());
            remember(&mut self.holds, ask.new_hold);
        }
        let question = Question::Ask(Box::new(ask.clone()));
        Want::Do(Command::Ask(Box::new(ask)), question)
    }

    /// Somebody asks how a call like one before would end.
    pub(super) fn wonder(&self, rng: &mut Rng, mut ask: Ask) -> Want {
        ask.figures = Some(Box::new(Figures {
            cost: None,
            calls: rng.chance(30).then(|| rng.below(20) as u32),
            tool_calls: rng.chance(30).then(|| rng.below(8) as u32),
        }));
        let ask = Box::new(ask);
        Want::Do(Command::Evaluate { ask, rules: None }, Question::Evaluate)
    }

    pub(super) fn heartbeat(&self, rng: &mut Rng) -> Want {
        let at = self.tenant(rng);
        let (key, workflow) = self.key(rng, at);
        let (chain, _) = chain(workflow, rng.below(CHAINS));
        let command = Command::Heartbeat {
            org: self.tenants[at].org,
            key,
            workflow,
            chain,
        };
        Want::Do(command, Question::Heartbeat(chain))
    }

    pub(super) fn cancel(&self, rng: &mut Rng) -> Want {
        let at = self.tenant(rng);
        let org = self.tenants[at].org;
        let (key, _) = self.key(rng, at);
        let hold = self.hold(rng);
        let command = Command::Cancel { org, key, hold };
        Want::Do(command, Question::Cancel(org, hold))
    }
}

/// A chain of a workflow: its identity and its name.
fn chain(workflow: WorkflowId, number: u64) -> (u128, String) {
    (
        workflow.0 << 8 | u128::from(number),
        format!("chain {number}"),
    )
}
