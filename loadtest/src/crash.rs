//! The crash driver: rounds of seeded random load on one data directory, each ended by `kill -9` at a random moment,
//! followed by a restart and a comparison of the ledger with the record, which lives across all rounds.
//!
//! With `power_cut`, every restart happens on what completed syncs made durable (the lost-pages shim), because the
//! page cache survives `kill -9` and hides a missing sync.

mod mix;
mod operator;
mod stage;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Connection;
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Settings};
use crate::identity::Dice;
use crate::record::{CheckOptions, CheckReport, Counts, ledger_check};
use crate::report::Violations;
use crate::shim::{Mount, Shim};
use crate::system::raise_open_files;
use crate::target::block_on;
use stage::Stage;

/// How long an orderly end may take.
const TERMINATE_WITHIN: Duration = Duration::from_secs(30);

/// How to crash.
#[derive(Debug, Clone)]
pub struct Params {
    /// Rounds of load, `kill -9`, restart, check.
    pub rounds: u32,
    /// Connections of SDK load; one more belongs to the operator.
    pub connections: usize,
    /// Shortest time of load before the kill, in milliseconds.
    pub shortest_load_ms: u64,
    /// Longest time of load before the kill, in milliseconds.
    pub longest_load_ms: u64,
    /// Replays the plan of an earlier run; `None` draws a seed.
    pub seed: Option<u64>,
    /// Restart from what completed syncs covered instead of from the page cache.
    pub power_cut: bool,
    /// Extra environment of the gateway.
    pub environment: Vec<(String, String)>,
    /// What is asked again in each check.
    pub check: CheckOptions,
}

impl Params {
    /// 20 rounds.
    pub fn quick() -> Self {
        Self {
            rounds: 20,
            connections: 16,
            shortest_load_ms: 50,
            longest_load_ms: 600,
            seed: None,
            power_cut: false,
            environment: Vec::new(),
            check: CheckOptions {
                holds: 100,
                charges: 100,
            },
        }
    }

    /// 200 rounds.
    pub fn long() -> Self {
        Self {
            rounds: 200,
            ..Self::quick()
        }
    }

    /// The same, restarting from what completed syncs covered.
    #[must_use]
    pub fn with_power_cut(mut self) -> Self {
        self.power_cut = true;
        self
    }

    /// The same with tiny segments and frequent snapshots, and load that lasts until after the gateway's next look
    /// (once a second) at whether a snapshot is due: kills then fall before, into and after snapshots.
    #[must_use]
    pub fn with_snapshots(self) -> Self {
        let small = self
            .env("NULLRUN_SEGMENT_BYTES", "65536")
            .env("NULLRUN_SNAPSHOT_BYTES", "65536");
        Self {
            shortest_load_ms: 900,
            longest_load_ms: 2_100,
            ..small
        }
    }

    /// The same, with one more variable in the gateway's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Report {
    /// Replays the plan.
    pub seed: u64,
    /// Crashes.
    pub rounds: u32,
    /// Whether restarts lost unsynced bytes.
    pub power_cut: bool,
    /// What was acknowledged in all rounds.
    pub counts: Counts,
    /// Requests in doubt at the kills, asked again.
    pub in_doubt: u64,
    /// Acknowledged holds that were asked again.
    pub holds_resent: u64,
    /// Acknowledged charges that were sent again.
    pub charges_resent: u64,
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
        writeln!(f, "crashes     {} by kill -9 ({loss})", self.rounds)?;
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
    let mut gateway = Gateway::start(ground.settings.clone())?;
    let stage = Stage::set_up(&mut Connection::new(&gateway.endpoint()?), &mut dice).await?;
    let mut report = Report {
        seed,
        rounds: 0,
        power_cut: params.power_cut,
        counts: Counts::default(),
        in_doubt: 0,
        holds_resent: 0,
        charges_resent: 0,
        violations: Violations::default(),
    };
    for round in 1..=params.rounds {
        let load =
            Duration::from_millis(dice.between(params.shortest_load_ms, params.longest_load_ms));
        crash_under_load(&mut gateway, &stage, params, load, seed ^ u64::from(round)).await?;
        report.rounds = round;
        gateway = match ground.come_back(gateway) {
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
    let status = gateway.terminate(TERMINATE_WITHIN)?;
    report.violations.require(status.success(), || {
        format!("SIGTERM ended the gateway with {status}")
    });
    let mut gateway = gateway.restart()?;
    let found = check(&gateway, stage, params.check, dice).await;
    report.take(found, "after an orderly restart", &mut gateway)?;
    Ok(())
}

async fn crash_under_load(
    gateway: &mut Gateway,
    stage: &Stage,
    params: &Params,
    load: Duration,
    seed: u64,
) -> Result<()> {
    let endpoint = gateway.endpoint()?;
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
        dice,
    )));
    tokio::time::sleep(load).await;
    if let Some(status) = gateway.ended() {
        stage.complain(format!(
            "the gateway ended on its own with {status}:\n{}",
            gateway.output()
        ));
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

/// What the gateway stands on: a plain directory, or one on the shim.
struct Ground {
    settings: Settings,
    mount: Option<Mount>,
}

impl Ground {
    fn prepare(binary: &Path, params: &Params, home: &Path) -> Result<Self> {
        let plain = Settings::new(binary, home.join("data"));
        let settings = params
            .environment
            .iter()
            .fold(plain, |settings, (name, value)| settings.env(name, value));
        if !params.power_cut {
            return Ok(Self {
                settings,
                mount: None,
            });
        }
        let mount = Shim::compile()?.mount(home, 0)?;
        Ok(Self {
            settings: settings.on_shim(mount.clone()),
            mount: Some(mount),
        })
    }

    /// Restarts on the same directory, or on a copy of what was durable.
    fn come_back(&mut self, dead: Gateway) -> Result<Gateway> {
        drop(dead);
        if let Some(mount) = self.mount.take() {
            let mount = mount.after_power_cut()?;
            self.settings = self.settings.clone().on_shim(mount.clone());
            self.mount = Some(mount);
        }
        Gateway::start(self.settings.clone())
    }
}
