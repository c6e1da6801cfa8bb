//! The crash driver: rounds of seeded random load on one data directory, each ended by `kill -9` at a random moment,
//! followed by a restart and a comparison of the ledger with the record, which lives across all rounds.
//!
//! With `power_cut`, every restart happens on what completed syncs made durable (the lost-pages shim), because the
//! page cache survives `kill -9` and hides a missing sync.

mod ground;
mod mix;
mod operator;
mod params;
mod people;
mod stage;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Connection;
use crate::error::{Error, Result};
use crate::gateway::Gateway;
use crate::identity::Dice;
use crate::record::{CheckOptions, CheckReport, Counts, ledger_check};
use crate::report::Violations;
use crate::system::raise_open_files;
use crate::target::block_on;
use ground::Ground;
pub use params::Params;
use stage::Stage;

/// How long the load may take until a named place is reached.
const POINT_WITHIN: Duration = Duration::from_secs(120);

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Replays the plan.
    pub seed: u64,
    /// Crashes.
    pub rounds: u32,
    /// Whether restarts lost unsynced bytes.
    pub power_cut: bool,
    /// Crashes at a named place.
    pub at_points: u32,
    /// What was acknowledged in all rounds.
    pub counts: Counts,
    /// Requests in doubt at the kills, asked again.
    pub in_doubt: u64,
    /// Acknowledged holds that were asked again.
    pub holds_resent: u64,
    /// Acknowledged charges that were sent again.
    pub charges_resent: u64,
    /// The highest generation of counted events in a snapshot at the end: as many were sealed before it.
    pub sealed: u64,
    /// Broken promises. The run stops after the first round that has any.
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed        {} (--seed replays the plan)", self.seed)?;
        let loss = if self.power_cut {
            "every byte no completed sync covered is lost"
        } else {
            "page cache survives"
        };
        let how = if self.at_points > 0 {
            "at named places"
        } else {
            "by kill -9"
        };
        writeln!(f, "crashes     {} {how} ({loss})", self.rounds)?;
        writeln!(f, "acknowledged {}", self.counts)?;
        writeln!(
            f,
            "asked again {} in doubt, {} holds, {} charges",
            self.in_doubt, self.holds_resent, self.charges_resent
        )?;
        write!(f, "{}", self.violations)
    }
}

/// Runs the crash driver on `binary`, on a temporary data directory.
///
/// # Errors
/// When the gateway cannot be started the first time, or the scenario cannot be set up. A gateway that does not come
/// up *after* a crash is a violation.
pub fn run(binary: &Path, params: &Params) -> Result<Report> {
    raise_open_files();
    block_on(drive(binary, params))
}

async fn drive(binary: &Path, params: &Params) -> Result<Report> {
    let seed = params.seed.unwrap_or_else(Dice::fresh_seed);
    let mut dice = Dice::from_seed(seed);
    let home =
        TempDir::with_prefix("nullrun-crash-").map_err(Error::io("a temporary directory"))?;
    let mut ground = Ground::prepare(binary, params, home.path())?;
    let mut gateway = ground.start(0)?;
    let stage = Stage::set_up(&mut Connection::new(&gateway.endpoint()?), &mut dice).await?;
    let mut report = Report {
        seed,
        rounds: 0,
        power_cut: params.power_cut,
        at_points: 0,
        counts: Counts::default(),
        in_doubt: 0,
        holds_resent: 0,
        charges_resent: 0,
        sealed: 0,
        violations: Violations::default(),
    };
    for round in 1..=params.rounds {
        if let Some(point) = params.point(round) {
            drop(gateway);
            gateway = ground.start_to_die(round, point)?;
        }
        let load =
            Duration::from_millis(dice.between(params.shortest_load_ms, params.longest_load_ms));
        let round_of = (round, load, seed ^ u64::from(round));
        crash_under_load(&mut gateway, &stage, params, round_of).await?;
        report.rounds = round;
        report.at_points += u32::from(params.point(round).is_some());
        gateway = match ground.come_back(gateway, round) {
            Ok(gateway) => gateway,
            Err(error @ Error::NotUp { .. }) => {
                report
                    .violations
                    .add(format!("round {round}: after the crash, {error}"));
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        let found = check(&gateway, &stage, params.check, &mut dice).await;
        if !report.take(found, &format!("round {round}"), &mut gateway)? {
            return Ok(report);
        }
        stage
            .thin_out(&mut Connection::new(&gateway.endpoint()?), &mut dice)
            .await?;
    }
    orderly_restart(gateway, &stage, params, &mut dice, &mut report).await?;
    Ok(report)
}

/// The last restart is an orderly one: it must lose nothing either.
async fn orderly_restart(
    mut gateway: Gateway,
    stage: &Stage,
    params: &Params,
    dice: &mut Dice,
    report: &mut Report,
) -> Result<()> {
    let status = gateway.stop()?;
    report.violations.require(status.success(), || {
        format!("SIGTERM ended the gateway with {status}")
    });
    report.sealed = sealed(&gateway.settings().data_dir().join("snapshots"))?;
    let mut gateway = gateway.restart()?;
    let found = check(&gateway, stage, params.check, dice).await;
    report.take(found, "after an orderly restart", &mut gateway)?;
    Ok(())
}

/// The highest number of a generation of events among the parts of snapshots (`docs/format.md`); 0 without snapshots.
fn sealed(snapshots: &Path) -> Result<u64> {
    let failed = || Error::io(format!("reading {}", snapshots.display()));
    const EVENTS: u8 = 3;
    let mut highest = 0;
    for entry in std::fs::read_dir(snapshots).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.extension().is_some_and(|ext| ext == "part") {
            let bytes = std::fs::read(&path).map_err(failed())?;
            let tag = bytes.get(48..).and_then(|rest| rest.first_chunk::<8>());
            if let (Some(&EVENTS), Some(tag)) = (bytes.get(40), tag) {
                highest = highest.max(u64::from_le_bytes(*tag));
            }
        }
    }
    Ok(highest)
}

async fn crash_under_load(
    gateway: &mut Gateway,
    stage: &Stage,
    params: &Params,
    (round, load, seed): (u32, Duration, u64),
) -> Result<()> {
    let endpoint = gateway.endpoint()?;
    let charges = || stage.record.lock().counts.charges;
    let enough = charges() + params.least_charges;
    let mut workers = Vec::new();
    for worker in 0..params.connections {
        let dice = Dice::for_worker(seed, worker as u64);
        workers.push(tokio::spawn(mix::work(
            Connection::new(&endpoint),
            stage.clone(),
            dice,
        )));
    }
    let dice = Dice::for_worker(seed, u64::MAX - 1);
    workers.push(tokio::spawn(operator::work(
        Connection::new(&endpoint),
        stage.clone(),
        gateway.settings().data_dir().to_owned(),
        dice,
    )));
    match params.point(round) {
        Some(point) => dies_at(gateway, stage, point).await,
        None => {
            tokio::time::sleep(load).await;
            // On a busy machine little may have happened by then.
            let deadline = Instant::now() + POINT_WITHIN;
            while charges() < enough && gateway.ended().is_none() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if let Some(status) = gateway.ended() {
                stage.complain(format!(
                    "the gateway ended on its own with {status}:\n{}",
                    gateway.output()
                ));
            }
        }
    }
    gateway.kill_9()?;
    for worker in workers {
        // A worker ends at its first request without an answer; one that panicked shows in its missing answers.
        worker
            .await
            .map_err(|error| Error::Usage(format!("a worker of the harness failed: {error}")))?;
    }
    stage.record.lock().release_all();
    Ok(())
}

/// Waits until the gateway has died at `point`.
async fn dies_at(gateway: &mut Gateway, stage: &Stage, point: &str) {
    let deadline = Instant::now() + POINT_WITHIN;
    while gateway.ended().is_none() {
        if Instant::now() > deadline {
            return stage.complain(format!(
                "{point} was not reached within {} s of load",
                POINT_WITHIN.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // A broken invariant ends the process in the same way, but not without a word.
    let words = gateway.output();
    if words.contains("panicked") || words.contains("ERROR") {
        stage.complain(format!("on the way to {point}:\n{words}"));
    }
}

async fn check(
    gateway: &Gateway,
    stage: &Stage,
    options: CheckOptions,
    dice: &mut Dice,
) -> Result<CheckReport> {
    let mut connection = Connection::new(&gateway.endpoint()?);
    let mut found = ledger_check(
        &mut connection,
        &stage.account,
        &stage.record,
        options,
        dice,
    )
    .await?;
    found.violations.absorb(stage.take_complaints());
    Ok(found)
}

impl Report {
    /// Adds what a check found; false when the run must stop.
    fn take(
        &mut self,
        found: Result<CheckReport>,
        when: &str,
        gateway: &mut Gateway,
    ) -> Result<bool> {
        match found {
            Ok(found) => {
                self.counts = found.counts;
                self.in_doubt += found.in_doubt;
                self.holds_resent += found.holds_resent;
                self.charges_resent += found.charges_resent;
                if !found.violations.is_empty() {
                    self.violations.add(format!(
                        "{when}, gateway's last words:\n{}",
                        gateway.output()
                    ));
                }
                self.violations.absorb(found.violations);
            }
            Err(error) if gateway.ended().is_some() => {
                self.violations.add(format!(
                    "{when}: the gateway ended ({error}):\n{}",
                    gateway.output()
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(self.violations.is_empty())
    }
}
