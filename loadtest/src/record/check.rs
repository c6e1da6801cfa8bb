//! The comparison of a gateway's ledger with the record: once as it stands, once after asking everything in doubt
//! again, when it must be exact.

use std::fmt;
use std::time::Instant;

use super::{Revocation, SharedRecord, TEMPLATE, people, resend};
use crate::account::Account;
use crate::client::Connection;
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::ledger::{Ledger, StatusRow};
use crate::report::Violations;

/// How much of what was acknowledged earlier is asked again. What is in doubt is always asked again, all of it.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Acknowledged open holds to ask again: the same reservation must come back.
    pub holds: usize,
    /// Acknowledged charges to send again: they must count nothing.
    pub charges: usize,
}

/// Acknowledged effects since the beginning of the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allowed gates.
    pub holds: u64,
    /// Refused gates.
    pub refusals: u64,
    /// Charges.
    pub charges: u64,
    /// Cancelled holds.
    pub cancels: u64,
    /// Pauses, resumes, kills.
    pub states: u64,
    /// Workflows, keys, revocations, caps.
    pub management: u64,
    /// Invitations, roles, removals, further organizations.
    pub people: u64,
    /// Of these, people who joined.
    pub joined: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Broken promises, one sentence each.
    pub violations: Violations,
    /// Requests without an answer that were asked again.
    pub in_doubt: u64,
    /// Acknowledged holds asked again.
    pub holds_resent: u64,
    /// Acknowledged charges sent again.
    pub charges_resent: u64,
    /// The record's totals.
    pub counts: Counts,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            holds,
            refusals,
            charges,
            cancels,
            states,
            management,
            people,
            joined,
        } = self;
        write!(
            f,
            "{holds} holds, {refusals} refusals, {charges} charges, {cancels} cancels, {states} state changes, \
             {management} management changes, {people} of people and organizations ({joined} joined)"
        )
    }
}

/// Compares the gateway with the record. Nothing else may be calling the organization meanwhile.
///
/// # Errors
/// When the gateway stops answering. Answers that contradict the record are violations, not errors; that includes an
/// account that is not known any more.
pub async fn ledger_check(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    options: CheckOptions,
    dice: &mut Dice,
) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    match read_twice(connection, account, record, options, dice, &mut report).await {
        Err(error @ Error::Unexpected { .. }) => report
            .violations
            .add(format!("the account cannot go on: {error}")),
        other => other?,
    }
    report.counts = record.lock().counts;
    Ok(report)
}

async fn read_twice(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    options: CheckOptions,
    dice: &mut Dice,
    report: &mut CheckReport,
) -> Result<()> {
    let first = Ledger::read(connection, account).await?;
    report.violations.absorb(first.contradictions());
    compare_management(&first, record, &mut report.violations);
    compare_money(&first, record, "as it stands", &mut report.violations);
    resume_paused(connection, account, record, &mut report.violations).await?;
    check_keys(connection, record, &mut report.violations).await?;
    check_policies(connection, account, record, &mut report.violations).await?;
    people::check(connection, account, record, &mut report.violations).await?;
    resend::everything_in_doubt(connection, record, report).await?;
    resend::acknowledged_holds(connection, record, options.holds, dice, report).await?;
    resend::acknowledged_charges(connection, record, options.charges, dice, report).await?;
    let second = Ledger::read(connection, account).await?;
    report.violations.absorb(second.contradictions());
    compare_money(
        &second,
        record,
        "after asking again",
        &mut report.violations,
    );
    Ok(())
}

/// States, versions and caps; what was in doubt is settled by what is read.
fn compare_management(ledger: &Ledger, record: &SharedRecord, violations: &mut Violations) {
    let rows = ledger.rows();
    let mut record = record.lock();
    let ids: Vec<String> = record.workflows.keys().cloned().collect();
    for id in ids {
        let Some(row) = rows.get(id.as_str()) else {
            violations.add(format!(
                "workflow {id} was acknowledged as created and is gone"
            ));
            continue;
        };
        let Some(known) = record.workflows.get(&id) else {
            continue;
        };
        let as_acknowledged =
            row.state == known.state && (row.version == known.version || known.version < 0);
        let as_in_doubt =
            known.state_in_doubt.as_ref() == Some(&row.state) && row.version > known.version;
        violations.require(as_acknowledged || as_in_doubt, || {
            format!(
                "workflow {id} is {} version {}, acknowledged was {} version {}, in doubt {:?}",
                row.state, row.version, known.state, known.version, known.state_in_doubt
            )
        });
        let budget_fits = row.budget_cents == known.budget_cents
            || Some(row.budget_cents) == known.budget_in_doubt;
        violations.require(budget_fits, || {
            format!(
                "workflow {id} has a cap of {:?} cents, acknowledged was {:?}, in doubt {:?}",
                row.budget_cents, known.budget_cents, known.budget_in_doubt
            )
        });
        settle(&mut record, &id, row);
    }
}

fn settle(record: &mut super::Record, id: &str, row: &StatusRow) {
    if let Some(known) = record.workflows.get_mut(id) {
        known.state.clone_from(&row.state);
        known.version = row.version;
        known.state_in_doubt = None;
        known.budget_cents = row.budget_cents;
        known.budget_in_doubt = None;
    }
}

fn compare_money(ledger: &Ledger, record: &SharedRecord, when: &str, violations: &mut Violations) {
    let record = record.lock();
    let now = Instant::now();
    for row in &ledger.status.workflows {
        let id = &row.workflow_id;
        let Some(known) = record.workflows.get(id) else {
            continue;
        };
        let (spent, held) = (row.totals.spent_nanos, row.totals.held_nanos);
        let bounds = record.bounds(id, now);
        let mut within = |what: &str, shown: i64, least: i64, most: i64| {
            violations.require((least..=most).contains(&shown), || {
                let verdict = if shown < least { "acknowledged money is missing" } else { "money was counted twice" };
                format!("workflow {id} {when}: {what} is {shown} nanos, must be {least} to {most}: {verdict}")
            });
        };
        within("spent", spent, bounds.least_spent, bounds.most_spent);
        within("held", held, bounds.least_held, bounds.most_held);
        if let Some(cap) = known.hard_cap_nanos {
            violations.require(spent + held <= cap, || {
                format!("workflow {id} {when}: spent {spent} + held {held} nanos is over the cap of {cap}")
            });
        }
    }
}

/// Asking again needs workflows in state Normal.
async fn resume_paused(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let paused: Vec<String> = {
        let record = record.lock();
        let in_use = record
            .workflows
            .iter()
            .filter(|(_, known)| known.key.is_some() && known.state == "Paused");
        in_use.map(|(id, _)| id.clone()).collect()
    };
    for id in paused {
        record.lock().state_sent(&id, "Normal");
        let view = account.change_state(connection, &id, "resume").await?;
        if let Some(complaint) = record.lock().state_seen(&id, &view.state, view.version) {
            violations.add(complaint);
        }
    }
    Ok(())
}

/// A minted key works until its revocation is acknowledged, and never afterwards.
async fn check_keys(
    connection: &mut Connection,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let fresh: Vec<(String, super::KeyRecord)> = {
        let mut record = record.lock();
        let keys = record.keys.iter_mut().filter(|(_, key)| key.fresh);
        keys.map(|(id, key)| {
            key.fresh = false;
            (id.clone(), key.clone())
        })
        .collect()
    };
    for (id, known) in fresh {
        let body = serde_json::json!({"check_type": "llm", "estimated_tokens": 1, "tools": ["harness_agent"]});
        let answer = connection
            .post_signed("/api/v1/check", &known.key, &body)
            .await?;
        let works = answer.status != 401;
        match known.revocation {
            Revocation::None => violations.require(works, || {
                format!(
                    "key {id} was acknowledged as minted and is refused: {}",
                    answer.in_short()
                )
            }),
            Revocation::Certain => violations.require(!works, || {
                format!(
                    "key {id} was acknowledged as revoked and still works: {}",
                    answer.in_short()
                )
            }),
            Revocation::InDoubt if works => {
                if let Some(key) = record.lock().keys.get_mut(&id) {
                    key.revocation = Revocation::None;
                }
            }
            Revocation::InDoubt => record.lock().revocation_acknowledged(&id),
        }
    }
    Ok(())
}

/// A created policy is there until its removal is acknowledged, and never afterwards.
async fn check_policies(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let fresh: Vec<(String, Revocation)> = {
        let mut record = record.lock();
        let policies = record
            .policies
            .iter_mut()
            .filter(|(_, policy)| policy.fresh);
        policies
            .map(|(id, policy)| {
                policy.fresh = false;
                (id.clone(), policy.removal)
            })
            .collect()
    };
    for (id, removal) in fresh {
        let path = account.path(&format!("/policies/{id}"));
        let answer = connection.get(&path, account.operator()).await?;
        let there = answer.status == 200;
        if there {
            let active = answer.body["is_active"] == true;
            let mut record = record.lock();
            let policy = record.policies.get_mut(&id);
            let fits = policy.is_none_or(|policy| policy.active.seen(active));
            violations.require(fits, || {
                format!("policy {id} was switched, and is_active is {active}")
            });
        }
        match removal {
            Revocation::None => violations.require(there, || {
                format!(
                    "policy {id} was acknowledged as created and is gone: {}",
                    answer.in_short()
                )
            }),
            Revocation::Certain => {
                violations.require(answer.status == 404, || {
                    format!(
                        "policy {id} was acknowledged as removed: {}",
                        answer.in_short()
                    )
                });
            }
            Revocation::InDoubt => {
                let removal = if there {
                    Revocation::None
                } else {
                    Revocation::Certain
                };
                if let Some(policy) = record.lock().policies.get_mut(&id) {
                    policy.removal = removal;
                }
            }
        }
    }
    let path = account.path("/policies/templates");
    let answer = connection.get(&path, account.operator()).await?;
    let rows = answer.expect(&[200])?.body;
    let mut rows = rows["data"].as_array().into_iter().flatten();
    let enabled = rows.any(|row| row["id"] == TEMPLATE && row["enabled"] == true);
    let fits = record.lock().template.seen(enabled);
    violations.require(fits, || {
        format!("template {TEMPLATE} was switched, and enabled is {enabled}")
    });
    Ok(())
}
