//! A burst of equal gates on a cap that only some of them fit under: exactly so many may be allowed, however many
//! arrive at once. Then everything is cancelled, and the whole cap must be there again.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Barrier;

use crate::account::Account;
use crate::client::{Connection, InFlight, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::ledger::Ledger;
use crate::record::NO_VERDICT;
use crate::report::{Violations, dollars};
use crate::target::{Running, Target, block_on};
use crate::wire::{Ask, NANOS_PER_CENT};

/// Output tokens of one gate: $0.10.
const GATE_TOKENS: i64 = 20_000;

/// How large the burst is.
#[derive(Debug, Clone)]
pub struct Params {
    /// Gates of $0.10, each on a connection of its own.
    pub gates: usize,
    /// The cap in cents.
    pub cap_cents: i64,
    /// Workflows that share the organization's cap, or a key's.
    pub workflows: usize,
    /// Requests that must have been in flight at one moment.
    pub least_in_flight: usize,
    /// Seed of the operation ids; `None` draws one.
    pub seed: Option<u64>,
}

impl Params {
    /// 1,000 gates of $0.10 on $5.00, at least 64 in flight; caps of several workflows over 20 of them.
    pub fn quick() -> Self {
        Self {
            gates: 1_000,
            cap_cents: 500,
            workflows: 20,
            least_in_flight: 64,
            seed: None,
        }
    }

    /// 4,000 gates on $50.00 over 100 workflows, at least 256 in flight.
    pub fn long() -> Self {
        Self {
            gates: 4_000,
            cap_cents: 5_000,
            workflows: 100,
            least_in_flight: 256,
            ..Self::quick()
        }
    }

    /// How many of the gates fit.
    pub fn fitting(&self) -> usize {
        usize::try_from(self.cap_cents * NANOS_PER_CENT / hold_nanos()).unwrap_or(0)
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whose cap it was.
    pub cap: &'static str,
    /// Seed of the operation ids.
    pub seed: u64,
    /// Gates sent.
    pub gates: usize,
    /// Gates allowed.
    pub allowed: usize,
    /// Gates refused for the budget.
    pub refused: usize,
    /// Gates refused because of load; they count as refused by nobody's cap.
    pub shed: usize,
    /// Most requests written and not answered at one moment.
    pub peak_in_flight: usize,
    /// Remaining after all were cancelled, in nano-dollars, as far as the gateway shows it.
    pub remaining_nanos: Option<i64>,
    /// Gates allowed in the second burst.
    pub allowed_again: usize,
    /// Broken rules.
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cap of the {}  (seed {})", self.cap, self.seed)?;
        writeln!(
            f,
            "gates       {} ({} in flight at the peak)",
            self.gates, self.peak_in_flight
        )?;
        writeln!(
            f,
            "answers     {} allowed, {} refused, {} shed",
            self.allowed, self.refused, self.shed
        )?;
        let remaining = self
            .remaining_nanos
            .map_or_else(|| "not shown".into(), dollars);
        writeln!(
            f,
            "cancelled   remaining {remaining}, {} allowed again",
            self.allowed_again
        )?;
        write!(f, "{}", self.violations)
    }
}

/// The burst under a workflow's own cap.
pub fn workflow_cap(target: &Target, params: &Params) -> Result<Report> {
    run(target, params, Cap::Workflow)
}

/// The burst under an organization's cap, spread over several workflows.
pub fn org_cap(target: &Target, params: &Params) -> Result<Report> {
    run(target, params, Cap::Org)
}

/// The burst under a key's cap.
pub fn key_cap(target: &Target, params: &Params) -> Result<Report> {
    run(target, params, Cap::Key)
}

/// The burst under the cap of a key that is bound to no workflow, spread over several.
pub fn free_key_cap(target: &Target, params: &Params) -> Result<Report> {
    run(target, params, Cap::FreeKey)
}

#[derive(Debug, Clone, Copy)]
enum Cap {
    Workflow,
    Org,
    Key,
    FreeKey,
}

impl Cap {
    const fn name(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Org => "organization",
            Self::Key => "key",
            Self::FreeKey => "key of no workflow",
        }
    }
}

fn hold_nanos() -> i64 {
    Ask {
        operation_id: String::new(),
        organization_id: String::new(),
        max_output_tokens: GATE_TOKENS,
    }
    .hold_nanos()
}

fn run(target: &Target, params: &Params, cap: Cap) -> Result<Report> {
    let running = target.start()?;
    block_on(burst(&running, params, cap))
}

async fn burst(running: &Running, params: &Params, cap: Cap) -> Result<Report> {
    let seed = params.seed.unwrap_or_else(Dice::fresh_seed);
    let mut dice = Dice::from_seed(seed);
    let mut operator = running.connect();
    let account = Account::register(&mut operator, &mut dice).await?;
    let keys = set_up(&mut operator, &account, params, cap).await?;
    let in_flight = Arc::new(InFlight::default());
    let connections = running.connect_many(params.gates, &in_flight).await?;

    let first = fire(connections, &keys, &account.org, &mut dice).await?;
    let mut report = Report {
        cap: cap.name(),
        seed,
        gates: params.gates,
        allowed: first.allowed.len(),
        refused: first.refused,
        shed: first.shed,
        peak_in_flight: in_flight.peak(),
        remaining_nanos: None,
        allowed_again: 0,
        violations: first.violations,
    };
    judge_first(&mut report, params);
    let held = Ledger::read(&mut operator, &account).await?;
    report.violations.absorb(held.contradictions());
    expect_held(&held, &mut report, first.allowed.len());

    for (index, reservation) in &first.allowed {
        let body = serde_json::json!({"execution_id": reservation, "reason": "harness"});
        let key = &keys[index % keys.len()];
        operator
            .post_signed("/api/v1/cancel", key, &body)
            .await?
            .expect(&[200])?;
    }
    let freed = Ledger::read(&mut operator, &account).await?;
    report.violations.absorb(freed.contradictions());
    expect_held(&freed, &mut report, 0);
    report.remaining_nanos = remaining(&mut operator, &account, &freed, cap).await?;
    if let Some(remaining) = report.remaining_nanos {
        let whole = params.cap_cents * NANOS_PER_CENT;
        report.violations.require(remaining == whole, || {
            format!(
                "after all were cancelled {} remain of {}",
                dollars(remaining),
                dollars(whole)
            )
        });
    }

    let again = fire(first.connections, &keys, &account.org, &mut dice).await?;
    report.allowed_again = again.allowed.len();
    report.violations.absorb(again.violations);
    let (came, fitting) = (report.allowed_again, params.fitting());
    report.violations.require(came == fitting, || {
        format!("after all were cancelled {came} were allowed, exactly {fitting} fit")
    });
    Ok(report)
}

fn judge_first(report: &mut Report, params: &Params) {
    let (came, fitting) = (report.allowed, params.fitting());
    report.violations.require(came == fitting, || {
        format!("{came} gates were allowed, exactly {fitting} fit")
    });
    let (peak, least) = (report.peak_in_flight, params.least_in_flight);
    report.violations.require(peak >= least, || {
        format!("only {peak} requests were in flight at once, {least} are needed for the test to mean anything")
    });
}

fn expect_held(ledger: &Ledger, report: &mut Report, holds: usize) {
    let expected = i64::try_from(holds).unwrap_or(i64::MAX) * hold_nanos();
    let shown = ledger.status.totals.held_nanos;
    report.violations.require(shown == expected, || {
        format!(
            "{holds} holds are open, so {} must be held, shown is {}",
            dollars(expected),
            dollars(shown)
        )
    });
}

/// Makes the workflows and keys, with the cap where it belongs; the burst takes the keys in turn.
async fn set_up(
    operator: &mut Connection,
    account: &Account,
    params: &Params,
    cap: Cap,
) -> Result<Vec<SdkKey>> {
    let cents = Some(params.cap_cents);
    match cap {
        Cap::Workflow => {
            account
                .set_workflow_budget(operator, &account.workflow, cents)
                .await?;
            Ok(vec![account.key.clone()])
        }
        Cap::Key => Ok(vec![
            account
                .create_key(operator, Some(&account.workflow), cents)
                .await?
                .key,
        ]),
        Cap::FreeKey => {
            let key = account.create_key(operator, None, cents).await?.key;
            let mut keys = Vec::new();
            for number in 0..params.workflows {
                let workflow = account
                    .create_workflow(operator, &format!("burst {number}"), None)
                    .await?;
                keys.push(key.clone().for_workflow(workflow));
            }
            Ok(keys)
        }
        Cap::Org => {
            account.set_org_budget(operator, cents).await?;
            let mut keys = Vec::new();
            for number in 0..params.workflows {
                let workflow = account
                    .create_workflow(operator, &format!("burst {number}"), None)
                    .await?;
                keys.push(
                    account
                        .create_key(operator, Some(&workflow), None)
                        .await?
                        .key,
                );
            }
            Ok(keys)
        }
    }
}

async fn remaining(
    operator: &mut Connection,
    account: &Account,
    ledger: &Ledger,
    cap: Cap,
) -> Result<Option<i64>> {
    Ok(match cap {
        Cap::Workflow => {
            account
                .workflow(operator, &account.workflow)
                .await?
                .remaining_nanos
        }
        Cap::Org => ledger.status.remaining_nanos,
        // Keys show no money of their own: that the second burst is allowed again has to do.
        Cap::Key | Cap::FreeKey => None,
    })
}

struct Fired {
    /// Number of the gate and its reservation.
    allowed: Vec<(usize, String)>,
    refused: usize,
    shed: usize,
    violations: Violations,
    connections: Vec<Connection>,
}

/// One gate per connection, all released at one moment.
async fn fire(
    connections: Vec<Connection>,
    keys: &[SdkKey],
    org: &str,
    dice: &mut Dice,
) -> Result<Fired> {
    let start = Arc::new(Barrier::new(connections.len()));
    let mut tasks = Vec::new();
    for (index, mut connection) in connections.into_iter().enumerate() {
        let ask = Ask {
            operation_id: dice.uuid(),
            organization_id: org.to_owned(),
            max_output_tokens: GATE_TOKENS,
        };
        let (key, start) = (keys[index % keys.len()].clone(), Arc::clone(&start));
        tasks.push(tokio::spawn(async move {
            start.wait().await;
            let answer = connection
                .post_signed("/api/v1/gate", &key, &ask.gate_body())
                .await;
            (index, answer, connection)
        }));
    }
    let mut fired = Fired {
        allowed: Vec::new(),
        refused: 0,
        shed: 0,
        violations: Violations::default(),
        connections: Vec::new(),
    };
    for task in tasks {
        let done = task
            .await
            .map_err(|error| Error::Usage(format!("a worker of the harness failed: {error}")))?;
        let (index, answer, connection) = done;
        let answer = answer?;
        fired.connections.push(connection);
        if answer.is_allow() {
            fired
                .allowed
                .push((index, answer.required("reservation_id")?));
        } else if answer.text("decision") == "block" && NO_VERDICT.contains(&answer.error_code()) {
            fired.shed += 1;
        } else if answer.text("decision") == "block" {
            fired.refused += 1;
        } else {
            fired
                .violations
                .add(format!("a gate answered {}", answer.in_short()));
        }
    }
    Ok(fired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_gates_of_ten_cents_fit_under_five_dollars() {
        assert_eq!(Params::quick().fitting(), 50);
    }
}
