//! The kill fence: once the operator has read the 200 of a kill, no request that starts afterwards is allowed, retries
//! of operations that were allowed before included.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::client::{Answer, Connection, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::report::Violations;
use crate::target::{Running, Target, block_on};
use crate::wire::Ask;

/// Output tokens of one gate: a tenth of a cent, so that nothing but the kill refuses.
const GATE_TOKENS: i64 = 200;
/// A round that has not seen its gates by then is given up.
const ROUND_WITHIN: Duration = Duration::from_secs(60);

/// How often and how hard.
#[derive(Debug, Clone)]
pub struct Params {
    /// Rounds, each with a workflow of its own that is killed.
    pub rounds: u32,
    /// Connections that ask all the time.
    pub connections: usize,
    /// Allows that must be counted before the kill is sent.
    pub allows_before: u64,
    /// Requests started after the kill's answer that must be counted.
    pub gates_after: u64,
    /// Seed; `None` draws one.
    pub seed: Option<u64>,
}

impl Params {
    /// 20 rounds on 32 connections.
    pub fn quick() -> Self {
        Self {
            rounds: 20,
            connections: 32,
            allows_before: 20,
            gates_after: 20,
            seed: None,
        }
    }

    /// 100 rounds.
    pub fn long() -> Self {
        Self {
            rounds: 100,
            ..Self::quick()
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// Rounds carried out.
    pub rounds: u32,
    /// Fewest allows before a kill, over all rounds.
    pub least_allows_before: u64,
    /// Fewest requests started after a kill's answer, over all rounds.
    pub least_gates_after: u64,
    /// Requests that were in flight while a kill was answered, in all rounds.
    pub straddling: u64,
    /// Requests started after a kill's answer that repeated an allowed operation, in all rounds.
    pub retries_after: u64,
    /// Broken rules.
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rounds      {} (seed {})", self.rounds, self.seed)?;
        writeln!(
            f,
            "per round   at least {} allows before, {} requests after the kill",
            self.least_allows_before, self.least_gates_after
        )?;
        writeln!(
            f,
            "in all      {} in flight across a kill, {} retries of allowed operations after one",
            self.straddling, self.retries_after
        )?;
        write!(f, "{}", self.violations)
    }
}

/// Runs the rounds.
pub fn run(target: &Target, params: &Params) -> Result<Report> {
    let running = target.start()?;
    block_on(rounds(&running, params))
}

async fn rounds(running: &Running, params: &Params) -> Result<Report> {
    let seed = params.seed.unwrap_or_else(Dice::fresh_seed);
    let mut operator = running.connect();
    let account = Account::register(&mut operator, &mut Dice::from_seed(seed)).await?;
    let mut report = Report {
        seed,
        rounds: 0,
        least_allows_before: u64::MAX,
        least_gates_after: u64::MAX,
        straddling: 0,
        retries_after: 0,
        violations: Violations::default(),
    };
    let mut connections = Vec::new();
    for _ in 0..params.connections {
        connections.push(running.connect());
    }
    for number in 1..=params.rounds {
        let round = Round::new(&mut operator, &account, params, number).await?;
        let mut workers = Vec::new();
        for (worker, connection) in connections.drain(..).enumerate() {
            let dice = Dice::for_worker(seed ^ u64::from(number), worker as u64);
            workers.push(tokio::spawn(Arc::clone(&round).ask(connection, dice)));
        }
        round.kill_when_warm(&mut operator, &account).await?;
        for worker in workers {
            let asked = worker.await.map_err(|error| {
                Error::Usage(format!("a worker of the harness failed: {error}"))
            })?;
            connections.push(asked?);
        }
        round.judge(&mut report);
        report.rounds = number;
    }
    Ok(report)
}

/// One workflow, asked about by all connections until enough was seen after its kill.
struct Round {
    number: u32,
    workflow: String,
    key: SdkKey,
    org: String,
    allows_wanted: u64,
    after_wanted: u64,
    allows: AtomicU64,
    after: AtomicU64,
    straddling: AtomicU64,
    retries_after: AtomicU64,
    given_up: Instant,
    /// When the kill's 200 had been read.
    killed: Mutex<Option<Instant>>,
    violations: Mutex<Violations>,
}

impl Round {
    async fn new(
        operator: &mut Connection,
        account: &Account,
        params: &Params,
        number: u32,
    ) -> Result<Arc<Self>> {
        let workflow = account
            .create_workflow(operator, &format!("fence {number}"), None)
            .await?;
        let key = account
            .create_key(operator, Some(&workflow), None)
            .await?
            .key;
        Ok(Arc::new(Self {
            number,
            workflow,
            key,
            org: account.org.clone(),
            allows_wanted: params.allows_before,
            after_wanted: params.gates_after,
            allows: AtomicU64::new(0),
            after: AtomicU64::new(0),
            straddling: AtomicU64::new(0),
            retries_after: AtomicU64::new(0),
            given_up: Instant::now() + ROUND_WITHIN,
            killed: Mutex::new(None),
            violations: Mutex::default(),
        }))
    }

    async fn kill_when_warm(&self, operator: &mut Connection, account: &Account) -> Result<()> {
        while self.allows.load(Ordering::Relaxed) < self.allows_wanted
            && Instant::now() < self.given_up
        {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        account
            .change_state(operator, &self.workflow, "kill")
            .await?;
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    fn killed_at(&self) -> Option<Instant> {
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        self.after.load(Ordering::Relaxed) >= self.after_wanted || Instant::now() > self.given_up
    }

    /// Asks in turn: new gates, retries of allowed ones, executes and checks.
    async fn ask(
        self: Arc<Self>,
        mut connection: Connection,
        mut dice: Dice,
    ) -> Result<Connection> {
        let mut allowed: Vec<(Ask, String)> = Vec::new();
        while !self.is_done() {
            let pick = dice.between(1, 10);
            let old = allowed.get(dice.index(allowed.len())).cloned();
            let new = Ask {
                operation_id: dice.uuid(),
                organization_id: self.org.clone(),
                max_output_tokens: GATE_TOKENS,
            };
            let (path, body, is_retry) = match (pick, &old) {
                (1..=3, Some((ask, _))) => ("/api/v1/gate", ask.gate_body(), true),
                (4, Some((ask, reservation))) => {
                    ("/api/v1/execute", ask.execute_body(reservation), true)
                }
                (5, _) => (
                    "/api/v1/execute",
                    new.execute_body(&new.operation_id),
                    false,
                ),
                (6, _) => ("/api/v1/check", new.gate_body(), false),
                _ => ("/api/v1/gate", new.gate_body(), false),
            };
            let started = Instant::now();
            let answer = connection.post_signed(path, &self.key, &body).await?;
            self.judge_answer(started, path, is_retry, &answer);
            if path == "/api/v1/gate" && !is_retry && answer.is_allow() {
                allowed.push((new, answer.text("reservation_id").to_owned()));
            }
        }
        Ok(connection)
    }

    fn judge_answer(&self, started: Instant, path: &str, is_retry: bool, answer: &Answer) {
        let allows = answer.is_allow() || answer.body["allowed"] == true;
        if answer.status != 200 && answer.text("decision") != "block" {
            self.complain(format!(
                "round {}: {path} answered {}",
                self.number,
                answer.in_short()
            ));
        }
        let Some(killed) = self.killed_at() else {
            self.allows.fetch_add(u64::from(allows), Ordering::Relaxed);
            return;
        };
        if started <= killed {
            self.straddling.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.after.fetch_add(1, Ordering::Relaxed);
        self.retries_after
            .fetch_add(u64::from(is_retry), Ordering::Relaxed);
        if allows {
            let late = started.duration_since(killed).as_micros();
            let what = if is_retry {
                "a retry"
            } else {
                "a new operation"
            };
            self.complain(format!(
                "round {}: {path} with {what}, started {late} us after the kill's 200 was read, was allowed",
                self.number
            ));
        }
    }

    fn complain(&self, sentence: String) {
        self.violations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(sentence);
    }

    fn judge(&self, report: &mut Report) {
        let (allows, after) = (
            self.allows.load(Ordering::Relaxed),
            self.after.load(Ordering::Relaxed),
        );
        report.least_allows_before = report.least_allows_before.min(allows);
        report.least_gates_after = report.least_gates_after.min(after);
        report.straddling += self.straddling.load(Ordering::Relaxed);
        report.retries_after += self.retries_after.load(Ordering::Relaxed);
        let found = std::mem::take(
            &mut *self
                .violations
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        report.violations.absorb(found);
        let enough = allows >= self.allows_wanted && after >= self.after_wanted;
        report.violations.require(enough, || {
            format!(
                "round {}: only {allows} allows before and {after} requests after the kill",
                self.number
            )
        });
    }
}
