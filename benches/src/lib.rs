//! What the benchmarks share: an engine with an org, a key and as many workflows as asked for.

use engine::command::{Ask, Command, Protocol, Reported, Track};
use engine::price::PriceTable;
use engine::{Engine, Settings};
use persist::group_commit::Batch;
use persist::record::{
    Actor, Change, Composition, DirectoryRecord, Endpoint, Key, Operation, Org, PeriodKind, Record,
    Scopes, Tokens, Workflow,
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
    engine_with(workflows as u64, Settings::default())
}

/// The same with other settings.
///
/// # Errors
/// If the built-in prices do not parse.
pub fn engine_with(workflows: u64, settings: Settings) -> Result<Engine, engine::price::BadTable> {
    let mut engine = Engine::new(Arc::new(PriceTable::built_in()?), settings);
    engine.fold(&org_and_key());
    for id in 1..=workflows {
        engine.fold(&new_workflows(id, &names(id, id)));
    }
    Ok(engine)
}

/// The record that makes [`ORG`] and [`KEY`].
#[must_use]
pub fn org_and_key() -> Record<'static> {
    let org = Org {
        id: ORG,
        name: "bench",
        plan: "self-hosted",
        contact_email: "",
        budget: Some(Nanos(i64::MAX / 2)),
        period: PeriodKind::Month,
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
        period: PeriodKind::Month,
        calls_per_minute: None,
        expires_at: None,
        created_at: START,
    };
    directory(vec![Change::OrgAdded(org), Change::KeyAdded(key)])
}

/// Names of the workflows `first..=last`.
#[must_use]
pub fn names(first: u64, last: u64) -> Vec<String> {
    (first..=last)
        .map(|id| format!("nightly research {id}"))
        .collect()
}

/// The record that makes workflows of these names, with ids from `first` on.
#[must_use]
pub fn new_workflows(first: u64, names: &[String]) -> Record<'_> {
    let workflow = |id, name| Workflow {
        id: WorkflowId(u128::from(id)),
        org: ORG,
        name,
        external_id: None,
        description: "",
        budget: Some(Nanos(i64::MAX / 2)),
        period: PeriodKind::Month,
        overdraft: None,
        max_per_call: None,
        chain_cap: None,
        chain_secs: engine::limits::CHAIN_SECS,
        watch: None,
        approvals: true,
        created_at: START,
        updated_at: START,
    };
    let new = (first..)
        .zip(names)
        .map(|(id, name)| Change::WorkflowAdded(workflow(id, name)));
    directory(new.collect())
}

const fn directory(changes: Vec<Change<'_>>) -> Record<'_> {
    Record::Directory(DirectoryRecord {
        at: START,
        actor: Actor::System,
        changes,
    })
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
        call: Some(u128::from(n) << 64),
        operation: Some(Operation::of(u128::from(n) << 64, Endpoint::Gate, 1)),
        operation_id: Some("3f983b39-8559-45af-a804-487542e94b1c".to_owned()),
        execution_id: Some("01a209eb-6b17-71a7-88c2-8a1f210323b3".to_owned()),
        trace_id: Some("c4e02d12-f303-4a1d-bfde-5166fd18c89f".to_owned()),
        model: Some("gpt-4o-mini".to_owned()),
        model_lower: Some("gpt-4o-mini".to_owned()),
        tools: vec!["my_agent".to_owned()],
        tools_line: "my_agent".to_owned(),
        digest: None,
        estimated_tokens: 1,
        max_output_tokens: Some(512),
        chain: None,
        chain_end: false,
        reservation: None,
        must_find_reservation: false,
        new_hold: HoldId::mint(START, workflow.slot(ORG), n),
        noted: Vec::new(),
        figures: None,
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

/// Applies a command; its records are added to the batch.
///
/// # Errors
/// If a record does not encode.
pub fn apply(engine: &mut Engine, command: &Command, batch: &mut Batch) -> persist::Result<()> {
    // A persistent map: a few pointers.
    let directory = engine.directory().cloned().unwrap_or_default();
    engine.apply(&directory, command, 0, batch).map(drop)
}
