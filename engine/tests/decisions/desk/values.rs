//! Calls, events, keys, as tests describe them.

use super::{KEY, ORG, WORKFLOW};
use engine::command::{Ask, ChainAsk, Protocol, Reported};
use engine::manage::{KeyTexts, NewKey};
use persist::record::{Endpoint, Operation, PeriodKind, Scopes, Tokens};
use persist::{HoldId, KeyId, Nanos, WorkflowId};

/// An undeclared gate of protocol 4, without operation or tools.
pub fn ask() -> Ask {
    Ask {
        endpoint: Endpoint::Gate,
        protocol: Protocol::V4,
        org: ORG,
        key: KEY,
        workflow: WORKFLOW,
        operation: None,
        call: None,
        operation_id: None,
        execution_id: None,
        trace_id: None,
        model: Some("small".to_owned()),
        model_lower: Some("small".to_owned()),
        tools: Vec::new(),
        tools_line: String::new(),
        digest: None,
        estimated_tokens: 0,
        max_output_tokens: None,
        chain: None,
        chain_end: false,
        reservation: None,
        must_find_reservation: false,
        new_hold: HoldId(0),
        noted: Vec::new(),
        figures: None,
    }
}

pub fn event(change: impl FnOnce(&mut Reported)) -> Reported {
    let mut event = Reported {
        workflow: WORKFLOW,
        kind: "llm_call".to_owned(),
        model: Some("small".to_owned()),
        ..Reported::default()
    };
    change(&mut event);
    event
}

/// Input tokens of `small` that cost `n` tenths of a cent.
pub fn tenths(n: u64) -> Tokens {
    Tokens {
        total: n * 1000,
        input: n * 1000,
        ..Tokens::default()
    }
}

/// A request's identity: the name of the operation, and what the request says.
pub fn operation(endpoint: Endpoint, name: &str, says: u64) -> impl FnOnce(&mut Ask) + use<> {
    let name = name.to_owned();
    move |ask| {
        let call = name
            .bytes()
            .fold(0, |call, byte| call << 8 | u128::from(byte))
            << 8;
        ask.endpoint = endpoint;
        ask.operation_id = Some(name);
        ask.call = Some(call);
        ask.operation = Some(Operation::of(call, endpoint, says));
    }
}

/// A chain's identity, as its key in the engine.
pub fn chain(name: &str) -> u128 {
    name.bytes()
        .fold(0xc4a1, |key, byte| key << 8 | u128::from(byte))
}

/// A call of a chain, which begins with a cap of its own if it has one.
pub fn in_chain(name: &str, cap: Option<Nanos>) -> impl Fn(&mut Ask) + use<> {
    let name = name.to_owned();
    move |ask| {
        ask.chain = Some(ChainAsk {
            key: chain(&name),
            id: name.clone(),
            cap,
        });
    }
}

pub fn tools(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn new_key(id: KeyId, workflow: Option<WorkflowId>, budget: Option<Nanos>) -> NewKey {
    let mut key_hash = [0; 32];
    key_hash[..16].copy_from_slice(&id.0.to_le_bytes());
    NewKey {
        id,
        workflow,
        name: "a key".to_owned(),
        texts: KeyTexts {
            key_hash,
            ..KeyTexts::default()
        },
        scopes: Scopes::ALL,
        budget,
        period: PeriodKind::Month,
        calls_per_minute: None,
        expires_at: None,
    }
}

/// A moment, from its usual spelling.
pub fn at(text: &str) -> u64 {
    let timestamp: jiff::Timestamp = text.parse().unwrap();
    u64::try_from(timestamp.as_millisecond()).unwrap()
}
