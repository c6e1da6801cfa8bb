//! What the gateway itself says about its ledger: `/status` and `/ledger/verify`, read together and compared with each
//! other. What it *should* say is the business of [`crate::record`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::account::{Account, view};
use crate::client::Connection;
use crate::error::Result;
use crate::report::Violations;

/// Spent and held, in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Totals {
    /// Booked charges of the period.
    pub spent_nanos: i64,
    /// Open holds.
    pub held_nanos: i64,
}

/// One workflow on the status page.
#[derive(Debug, Clone, Deserialize)]
pub struct StatusRow {
    /// Its id.
    pub workflow_id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// `Normal`, `Paused`, `Killed`, …
    pub state: String,
    /// Version of the state.
    pub version: i64,
    /// Cap in cents, if any.
    pub budget_cents: Option<i64>,
    /// Its money.
    #[serde(flatten)]
    pub totals: Totals,
    /// Cap minus spent minus held.
    pub remaining_nanos: Option<i64>,
}

/// `GET /orgs/{org}/status`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The organization's money.
    #[serde(flatten)]
    pub totals: Totals,
    /// The organization's cap minus spent minus held.
    pub remaining_nanos: Option<i64>,
    /// Its workflows, of all pages.
    pub workflows: Vec<StatusRow>,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

impl Status {
    /// The organization's, and each workflow's.
    fn money(&self) -> Vec<Totals> {
        let rows = self.workflows.iter().map(|row| row.totals);
        rows.chain([self.totals]).collect()
    }
}

/// How often both are read, if the money goes on moving.
const READINGS: u32 = 8;

#[derive(Debug, Clone, Deserialize)]
struct VerifyRow {
    workflow_id: String,
    live: Totals,
    recomputed: Totals,
}

/// `GET /orgs/{org}/ledger/verify`.
#[derive(Debug, Clone, Deserialize)]
pub struct Verify {
    verified: bool,
    live: Totals,
    recomputed: Totals,
    workflows: Vec<VerifyRow>,
    #[serde(default)]
    mismatches: Vec<Value>,
}

/// Both readings, of one moment: the status page was the same before and after the recomputation.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The status page.
    pub status: Status,
    /// The recomputation from the log.
    pub verify: Verify,
}

impl Ledger {
    /// Reads both. Nothing else may be writing. A hold that ends by itself in between makes them differ for an
    /// honest reason: then they are read again, a few times at most.
    pub async fn read(connection: &mut Connection, account: &Account) -> Result<Self> {
        let mut status = Self::status(connection, account).await?;
        let path = account.path("/ledger/verify");
        let mut readings = 0;
        loop {
            let verify = connection
                .get(&path, account.operator())
                .await?
                .expect(&[200])?;
            let verify = view(&path, verify.body)?;
            let after = Self::status(connection, account).await?;
            readings += 1;
            if after.money() == status.money() || readings == READINGS {
                return Ok(Self { status, verify });
            }
            status = after;
        }
    }

    async fn status(connection: &mut Connection, account: &Account) -> Result<Status> {
        let mut path = account.path("/status");
        let mut workflows = Vec::new();
        loop {
            let page = connection
                .get(&path, account.operator())
                .await?
                .expect(&[200])?;
            let mut page: Status = view(&path, page.body)?;
            workflows.append(&mut page.workflows);
            match page.next_cursor.take() {
                Some(cursor) => path = account.path(&format!("/status?cursor={cursor}")),
                None => return Ok(Status { workflows, ..page }),
            }
        }
    }

    /// Workflows of the status page by id.
    pub fn rows(&self) -> BTreeMap<&str, &StatusRow> {
        self.status
            .workflows
            .iter()
            .map(|row| (row.workflow_id.as_str(), row))
            .collect()
    }

    /// The organization's spend as `/ledger/verify` shows it: live, and recomputed from the log.
    pub fn verified_spent(&self) -> [i64; 2] {
        [
            self.verify.live.spent_nanos,
            self.verify.recomputed.spent_nanos,
        ]
    }

    /// Every way in which the two readings contradict each other or themselves.
    pub fn contradictions(&self) -> Violations {
        let mut found = Violations::default();
        let verify = &self.verify;
        found.require(verify.verified && verify.mismatches.is_empty(), || {
            format!(
                "/ledger/verify is not verified: {}",
                Value::from(verify.mismatches.clone())
            )
        });
        let mut compare = |whose: &str, what: &str, left: Totals, right: Totals| {
            found.require(left == right, || {
                format!("{whose}: {what} differ: {left:?} and {right:?}")
            });
        };
        compare(
            "organization",
            "live and recomputed money",
            verify.live,
            verify.recomputed,
        );
        compare(
            "organization",
            "status and live money",
            self.status.totals,
            verify.live,
        );
        let rows = self.rows();
        let mut sum = Totals::default();
        for row in &verify.workflows {
            let whose = format!("workflow {}", row.workflow_id);
            compare(
                &whose,
                "live and recomputed money",
                row.live,
                row.recomputed,
            );
            if let Some(shown) = rows.get(row.workflow_id.as_str()) {
                compare(&whose, "status and live money", shown.totals, row.live);
            }
            sum.spent_nanos += row.live.spent_nanos;
            sum.held_nanos += row.live.held_nanos;
        }
        compare(
            "organization",
            "its money and the sum of its workflows",
            verify.live,
            sum,
        );
        for row in &self.status.workflows {
            let (Some(cents), Some(remaining)) = (row.budget_cents, row.remaining_nanos) else {
                continue;
            };
            let expected = cents * crate::wire::NANOS_PER_CENT
                - row.totals.spent_nanos
                - row.totals.held_nanos;
            found.require(remaining == expected, || {
                format!(
                    "workflow {}: remaining {remaining}, but cap - spent - held = {expected}",
                    row.workflow_id
                )
            });
        }
        found
    }
}
