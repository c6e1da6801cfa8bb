//! What the benchmarks share: an engine with an org, a key and as many workflows as asked for.

use engine::command::{Ask, Command, Protocol, Reported, Track};
use engine::price::PriceTable;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::record::{
    Actor, Change, Composition, DirectoryRecord, Endpoint, Key, Operation, Org, Record, Scopes,
    Tokens, Workflow,
};
use persist::{HoldId, KeyId, Millis, Nanos, OrgId, WorkflowId};
use std::sync::Arc;

/// The org of every workflow here.
pub const ORG: OrgId = OrgId(7);
/// The key of every call here.
pub const KEY: KeyId = KeyId(9);
/// When everything happens: inside one month.
pub const START: Millis = Millis(1_795_000_000_000);

/// An engine with `workflows` capped workflows (ids from 1).
///
/// # Errors
/// If the built-in prices do not parse.
pub fn engine(workflows: u128) -> Result<Engine, engine::price::BadTable> {
    let mut engine = Engine::new(Arc::new(PriceTable::built_in()?), Settings::default());
    let org = Org {
        id: ORG,
        name: "bench",
        plan: "self-hosted",
        budget: Some(Nanos(i64::MAX / 2)),
        composition: Composition::FirstMatch,
        created_at: START,
    };
    let key = Key {
        id: KEY,
        org: ORG,
        workflow: None,
        name: "bench",
        key_hash: [0; 32],
        prefix: "",
        suffix: "",
        sealed_secret: &[],
        key_version: 1,
        scopes: Scopes::ALL,
        budget: None,
        expires_at: None,
        created_at: START,
    };
    let fold = |engine: &mut Engine, changes| {
        engine.fold(&Record::Directory(DirectoryRecord {
            at: START,
            actor: Actor::System,
            changes,
        }));
    };
    fold(
        &mut engine,
        vec![Change::OrgAdded(org), Change::KeyAdded(key)],
    );
    for id in 1..=workflows {
        let workflow = Workflow {
            id: WorkflowId(id),
            org: ORG,
            name: "w",
            external_id: None,
            budget: Some(Nanos(i64::MAX / 2)),
            max_per_call: None,
            created_at: START,
            updated_at: START,
        };
        fold(&mut engine, vec![Change::WorkflowAdded(workflow)]);
    }
    Ok(engine)
}

/// A gate of one cent or so on a workflow.
#[must_use]
pub fn gate(workflow: u128, n: u64) -> Command {
    let workflow = WorkflowId(workflow);
    Command::Ask(Box::new(Ask {
        endpoint: Endpoint::Gate,
        protocol: Protocol::V4,
        org: ORG,
        key: KEY,
        workflow,
        operation: Some(Operation {
            key: u128::from(n) << 64 | 1,
            fingerprint: 1,
        }),
        operation_id: Some("3f983b39-8559-45af-a804-487542e94b1c".to_owned()),
        execution_id: Some("01a209eb-6b17-71a7-88c2-8a1f210323b3".to_owned()),
        trace_id: Some("c4e02d12-f303-4a1d-bfde-5166fd18c89f".to_owned()),
        model: Some("gpt-4o-mini".to_owned()),
        tools: vec!["my_agent".to_owned()],
        digest: None,
        estimated_tokens: 1,
        max_output_tokens: Some(512),
        chain_end: false,
        reservation: None,
        must_find_reservation: false,
        new_hold: HoldId::mint(START, workflow.slot(ORG), n),
    }))
}

/// The report that ends gate `n` of a workflow.
#[must_use]
pub fn commit(workflow: u128, n: u64) -> Command {
    let workflow = WorkflowId(workflow);
    let hold = HoldId::mint(START, workflow.slot(ORG), n);
    Command::Track(Box::new(Track {
        org: ORG,
        key: KEY,
        events: vec![Reported {
            holds: [Some(hold), None],
            workflow,
            ends: Some(hold),
            kind: "span_end".to_owned(),
            model: Some("gpt-4o-mini".to_owned()),
            tokens: Tokens {
                total: 120,
                input: 100,
                output: 20,
                ..Tokens::default()
            },
            ..Reported::default()
        }],
    }))
}

/// Applies a command and forgets its records.
///
/// # Errors
/// If a record does not encode.
pub fn apply(engine: &mut Engine, command: &Command, batch: &mut Batch) -> persist::Result<()> {
    let directory = engine.directory().clone();
    batch.clear();
    engine.apply(&directory, command, batch).map(drop)
}
