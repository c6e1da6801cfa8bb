//! A great many small charges in batches: the sum must be exact to the nano-dollar wherever it is shown, and a batch
//! sent twice must count once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::account::Account;
use crate::client::{Caller, Connection, Protocol, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::ledger::Ledger;
use crate::report::{Violations, dollars};
use crate::target::{Running, Target, block_on};
use crate::wire::Usage;

/// What one event costs: $0.000047.
const USAGE: Usage = Usage {
    input: 47,
    output: 0,
};

/// How many events, and how they are sent.
#[derive(Debug, Clone)]
pub struct Params {
    /// Events in all.
    pub events: u64,
    /// Events of one batch.
    pub per_batch: u64,
    /// Batches in flight at once, one per connection.
    pub connections: usize,
    /// Workflows that the events of each batch name in turn; 1 for the key's own.
    pub workflows: usize,
    /// Batches sent once more at the end.
    pub replayed_batches: u64,
    /// Seed of the event ids; `None` draws one.
    pub seed: Option<u64>,
}

impl Params {
    /// 1,000,000 events in batches of 1,000 over 4 connections.
    pub fn quick() -> Self {
        Self {
            events: 1_000_000,
            per_batch: 1_000,
            connections: 4,
            workflows: 1,
            replayed_batches: 10,
            seed: None,
        }
    }

    /// 10,000,000 events.
    pub fn long() -> Self {
        Self {
            events: 10_000_000,
            replayed_batches: 100,
            ..Self::quick()
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Seed of the event ids.
    pub seed: u64,
    /// Events sent.
    pub events: u64,
    /// How long the first sending took.
    pub took: Duration,
    /// What they cost, in nano-dollars.
    pub expected_nanos: i64,
    /// What the workflows show, together.
    pub workflow_nanos: i64,
    /// What `/status` shows.
    pub status_nanos: i64,
    /// What `/ledger/verify` shows and recomputes.
    pub verify_nanos: [i64; 2],
    /// Broken rules.
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let rate = self.events as f64 / seconds.max(1e-9);
        writeln!(
            f,
            "events      {} in {seconds:.1} s ({rate:.0} per second; seed {})",
            self.events, self.seed
        )?;
        writeln!(f, "expected    {}", dollars(self.expected_nanos))?;
        writeln!(f, "workflow    {}", dollars(self.workflow_nanos))?;
        writeln!(f, "status      {}", dollars(self.status_nanos))?;
        writeln!(f, "verify      {} live", dollars(self.verify_nanos[0]))?;
        writeln!(
            f,
            "verify      {} recomputed",
            dollars(self.verify_nanos[1])
        )?;
        write!(f, "{}", self.violations)
    }
}

/// Sends the events and reads the sums.
pub fn run(target: &Target, params: &Params) -> Result<Report> {
    let running = target.start()?;
    block_on(send_and_sum(&running, params))
}

async fn send_and_sum(running: &Running, params: &Params) -> Result<Report> {
    let seed = params.seed.unwrap_or_else(Dice::fresh_seed);
    let mut operator = running.connect();
    let account = Account::register(&mut operator, &mut Dice::from_seed(seed)).await?;
    let mut workflows = Vec::new();
    for number in 1..params.workflows.max(1) {
        let name = format!("events {number}");
        let made = account.create_workflow(&mut operator, &name, None).await?;
        workflows.push(made);
    }
    let key = match workflows.is_empty() {
        true => account.key.clone(),
        false => account.create_key(&mut operator, None, None).await?.key,
    };
    workflows.push(account.workflow.clone());
    let plan = Arc::new(Plan {
        key,
        workflows,
        seed,
        events: params.events,
        per_batch: params.per_batch.max(1),
        next_batch: AtomicU64::new(0),
    });
    let started = Instant::now();
    let mut workers = Vec::new();
    for _ in 0..params.connections.max(1) {
        workers.push(tokio::spawn(Arc::clone(&plan).send_all(running.connect())));
    }
    let mut violations = Violations::default();
    for worker in workers {
        let sent = worker
            .await
            .map_err(|error| Error::Usage(format!("a worker of the harness failed: {error}")))?;
        violations.absorb(sent?);
    }
    let took = started.elapsed();

    let once = Ledger::read(&mut operator, &account).await?;
    let batches = plan.batches();
    for replay in 0..params.replayed_batches.min(batches) {
        plan.send(
            &mut operator,
            replay * batches / params.replayed_batches,
            &mut violations,
        )
        .await?;
    }
    let mut workflow_nanos = 0;
    for workflow in &plan.workflows {
        let shown = account.workflow(&mut operator, workflow).await?;
        workflow_nanos += shown.spent_nanos;
    }
    let ledger = Ledger::read(&mut operator, &account).await?;
    violations.absorb(ledger.contradictions());
    let expected_nanos = i64::try_from(params.events).unwrap_or(i64::MAX) * USAGE.nanos();
    let report = Report {
        seed,
        events: params.events,
        took,
        expected_nanos,
        workflow_nanos,
        status_nanos: ledger.status.totals.spent_nanos,
        verify_nanos: ledger.verified_spent(),
        violations,
    };
    Ok(report.judged(once.status.totals.spent_nanos))
}

impl Report {
    fn judged(mut self, before_replay: i64) -> Self {
        let expected = self.expected_nanos;
        let shown = [
            ("/status before any batch was sent twice", before_replay),
            ("its workflows together", self.workflow_nanos),
            ("/status", self.status_nanos),
            ("/ledger/verify live", self.verify_nanos[0]),
            ("/ledger/verify recomputed", self.verify_nanos[1]),
        ];
        for (place, nanos) in shown {
            self.violations.require(nanos == expected, || {
                format!(
                    "{place} shows {}, expected {}",
                    dollars(nanos),
                    dollars(expected)
                )
            });
        }
        self
    }
}

/// Which events belong to which batch; a batch's ids follow from the seed and its number, so it can be sent again.
struct Plan {
    key: SdkKey,
    /// Named in turn, if there are several.
    workflows: Vec<String>,
    seed: u64,
    events: u64,
    per_batch: u64,
    next_batch: AtomicU64,
}

impl Plan {
    fn batches(&self) -> u64 {
        self.events.div_ceil(self.per_batch)
    }

    async fn send_all(self: Arc<Self>, mut connection: Connection) -> Result<Violations> {
        let mut violations = Violations::default();
        loop {
            let batch = self.next_batch.fetch_add(1, Ordering::Relaxed);
            if batch >= self.batches() {
                return Ok(violations);
            }
            self.send(&mut connection, batch, &mut violations).await?;
        }
    }

    async fn send(
        &self,
        connection: &mut Connection,
        batch: u64,
        violations: &mut Violations,
    ) -> Result<()> {
        let first = batch * self.per_batch;
        let count = self.per_batch.min(self.events - first);
        let mut dice = Dice::for_worker(self.seed, batch);
        let mut turn = self.workflows.iter().cycle();
        let events: Vec<_> = (0..count)
            .map(|_| {
                let mut event = USAGE.batch_event(&dice.uuid());
                if self.workflows.len() > 1 {
                    event["workflow_id"] = json!(turn.next());
                }
                event
            })
            .collect();
        let body = Bytes::from(json!({"events": events}).to_string());
        let caller = Caller::Signed(&self.key, Protocol::V4);
        let prepared =
            connection.prepare(Method::POST, "/api/v1/track/batch", caller, Some(body))?;
        let answer = connection.send(prepared).await?;
        let accepted = answer.body["accepted_event_ids"]
            .as_array()
            .map_or(0, |ids| ids.len() as u64);
        violations.require(answer.status == 200 && accepted == count, || {
            format!(
                "batch {batch} of {count} events: {} with {accepted} accepted",
                answer.in_short()
            )
        });
        Ok(())
    }
}
