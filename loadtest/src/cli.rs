//! The command line: one subcommand per scenario, mapped to its parameters.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nullrun_loadtest::gate_load::GivenKeys;
use nullrun_loadtest::{
    Error, Result, Target, Violations, burst, crash, events, floor, gate_load, kill_fence,
};

/// Drives a NullRun gateway, remembers every acknowledged answer, and compares the gateway's ledger with it.
#[derive(Debug, Parser)]
#[command(name = "nullrun-loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What a scenario printed and whether everything held.
#[derive(Debug)]
pub struct Outcome {
    /// For stdout.
    pub text: String,
    /// False on any violation.
    pub ok: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load of signed gates on a running gateway; compares the ledger afterwards.
    Gate(GateArgs),
    /// Gates alternating with the no-op route: throughput, latency, server CPU, system calls, wakes.
    Floor(FloorArgs),
    /// Random load, kill -9, restart, comparison of the ledger with every acknowledged answer; many rounds.
    Crash(CrashArgs),
    /// Many equal gates at once on a cap: exactly as many as fit are allowed.
    Burst(BurstArgs),
    /// Gates in flight while an operator kills the workflow: nothing started afterwards is allowed.
    KillFence(KillFenceArgs),
    /// A great many small charges in batches: the sums are exact to the nano-dollar.
    Events(EventsArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Where {
    /// Gateway binary to start on a temporary data directory.
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
    /// Address of a running gateway, http://host:port.
    #[arg(long)]
    url: Option<String>,
}

impl Where {
    fn target(self) -> Result<Target> {
        match (self.gateway, self.url) {
            (Some(path), _) => Ok(Target::binary(path)),
            (None, Some(url)) => Ok(Target::url(url)),
            (None, None) => Err(Error::Usage("give --gateway PATH or --url URL".into())),
        }
    }
}

#[derive(Debug, Args)]
struct GateArgs {
    /// Address of the gateway, http://host:port.
    #[arg(long)]
    url: String,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of load (per route, with --floor).
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    duration: f64,
    /// Requests per second over all connections, latencies counted from the schedule; without it a closed loop.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Measure POST /floor as well (the gateway needs NULLRUN_FLOOR_ROUTE=on).
    #[arg(long)]
    floor: bool,
    /// Write the result as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Use this API key instead of registering an account.
    #[arg(long, requires = "secret_key")]
    api_key: Option<String>,
    /// The secret of --api-key.
    #[arg(long, requires = "api_key")]
    secret_key: Option<String>,
}

#[derive(Debug, Args)]
struct FloorArgs {
    /// Gateway binary to start (a release build, for numbers that mean anything).
    #[arg(long, value_name = "PATH")]
    gateway: PathBuf,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 64])]
    connections: Vec<usize>,
    /// Alternating runs per number of connections.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Seconds of one run of one route.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    duration: f64,
    /// Requests per route of the counting pass under strace; 0 leaves it out.
    #[arg(long, default_value_t = 2_000)]
    counted_requests: u64,
}

#[derive(Debug, Args)]
struct CrashArgs {
    /// Gateway binary to start and kill.
    #[arg(long, value_name = "PATH")]
    gateway: PathBuf,
    /// Rounds of load, kill -9, restart, check.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Connections of load.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Restart from what completed syncs covered (lost-pages shim; needs cc) instead of from the page cache.
    #[arg(long)]
    power_cut: bool,
    /// Tiny segments, frequent snapshots, and load long enough for kills to fall into them.
    #[arg(long)]
    snapshots: bool,
    /// Replay the plan of the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Extra environment of the gateway, NAME=VALUE; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

#[derive(Debug, Args)]
struct BurstArgs {
    #[command(flatten)]
    target: Where,
    /// Whose cap.
    #[arg(long, value_enum, default_value_t = CapKind::All)]
    cap: CapKind,
    /// Gates of $0.10, one per connection.
    #[arg(long, default_value_t = 1_000)]
    gates: usize,
    /// The cap, in cents.
    #[arg(long, default_value_t = 500)]
    cap_cents: i64,
    /// Replay the operation ids of the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
}

/// One of the bursts.
type Scenario = fn(&Target, &burst::Params) -> Result<burst::Report>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CapKind {
    Workflow,
    Org,
    Key,
    FreeKey,
    All,
}

#[derive(Debug, Args)]
struct KillFenceArgs {
    #[command(flatten)]
    target: Where,
    /// Rounds, each with a workflow of its own.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Connections that ask all the time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Replay the plan of the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Extra environment of the gateway started by --gateway, NAME=VALUE; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
}

#[derive(Debug, Args)]
struct EventsArgs {
    #[command(flatten)]
    target: Where,
    /// Events of $0.000047 in all.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Events of one batch.
    #[arg(long, default_value_t = 1_000)]
    per_batch: u64,
    /// Batches in flight at once.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Send the same event ids as the run that printed this seed.
    #[arg(long)]
    seed: Option<u64>,
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> Result<Outcome> {
        match self.command {
            Command::Gate(args) => gate(args),
            Command::Floor(args) => {
                let duration = seconds(args.duration)?;
                let FloorArgs {
                    gateway,
                    connections,
                    runs,
                    counted_requests,
                    ..
                } = args;
                let params = floor::Params {
                    connections,
                    runs,
                    duration,
                    counted_requests,
                };
                let report = floor::run(&gateway, &params)?;
                Ok(outcome(&report, &report.violations))
            }
            Command::Crash(args) => run_crash(args),
            Command::Burst(args) => run_burst(args),
            Command::KillFence(args) => {
                let target = variables(&args.env)?
                    .into_iter()
                    .fold(args.target.target()?, |target, (name, value)| {
                        target.env(name, value)
                    });
                let KillFenceArgs {
                    rounds,
                    connections,
                    seed,
                    ..
                } = args;
                let params = kill_fence::Params {
                    rounds,
                    connections,
                    seed,
                    ..kill_fence::Params::quick()
                };
                let report = kill_fence::run(&target, &params)?;
                Ok(outcome(&report, &report.violations))
            }
            Command::Events(args) => {
                let target = args.target.target()?;
                let EventsArgs {
                    events,
                    per_batch,
                    connections,
                    seed,
                    ..
                } = args;
                let params = events::Params {
                    events,
                    per_batch,
                    connections,
                    seed,
                    ..events::Params::quick()
                };
                let report = events::run(&target, &params)?;
                Ok(outcome(&report, &report.violations))
            }
        }
    }
}

fn outcome(report: &impl Display, violations: &Violations) -> Outcome {
    Outcome {
        text: report.to_string(),
        ok: violations.is_empty(),
    }
}

fn gate(args: GateArgs) -> Result<Outcome> {
    let keys = args.api_key.zip(args.secret_key);
    let params = gate_load::Params {
        url: args.url,
        connections: args.connections,
        duration: seconds(args.duration)?,
        rate_per_s: args.rate,
        floor: args.floor,
        keys: keys.map(|(api_key, secret_key)| GivenKeys {
            api_key,
            secret_key,
        }),
    };
    let report = gate_load::run(&params)?;
    if let Some(path) = args.json {
        let json = serde_json::to_string_pretty(&report)
            .map_err(|error| Error::Usage(error.to_string()))?;
        std::fs::write(&path, json + "\n")
            .map_err(Error::io(format!("writing {}", path.display())))?;
    }
    Ok(Outcome {
        text: report.to_string(),
        ok: report.is_ok(),
    })
}

fn run_crash(args: CrashArgs) -> Result<Outcome> {
    let params = crash::Params {
        rounds: args.rounds,
        connections: args.connections,
        seed: args.seed,
        power_cut: args.power_cut,
        environment: variables(&args.env)?,
        ..crash::Params::quick()
    };
    let params = if args.snapshots {
        params.with_snapshots()
    } else {
        params
    };
    let report = crash::run(&args.gateway, &params)?;
    Ok(outcome(&report, &report.violations))
}

fn run_burst(args: BurstArgs) -> Result<Outcome> {
    let target = args.target.target()?;
    let params = burst::Params {
        gates: args.gates,
        cap_cents: args.cap_cents,
        seed: args.seed,
        ..burst::Params::quick()
    };
    let mut all = Outcome {
        text: String::new(),
        ok: true,
    };
    let scenarios: [(CapKind, Scenario); 4] = [
        (CapKind::Workflow, burst::workflow_cap),
        (CapKind::Org, burst::org_cap),
        (CapKind::Key, burst::key_cap),
        (CapKind::FreeKey, burst::free_key_cap),
    ];
    for (kind, scenario) in scenarios {
        if args.cap == kind || args.cap == CapKind::All {
            let report = scenario(&target, &params)?;
            all.text.push_str(&report.to_string());
            all.ok &= report.violations.is_empty();
        }
    }
    Ok(all)
}

fn seconds(number: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(number)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| {
            Error::Usage(format!(
                "--duration {number} is no positive number of seconds"
            ))
        })
}

fn variables(pairs: &[String]) -> Result<Vec<(String, String)>> {
    let split = |pair: &String| {
        let (name, value) = pair.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let all: Option<Vec<_>> = pairs.iter().map(split).collect();
    all.ok_or_else(|| Error::Usage("--env takes NAME=VALUE".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_gate_command_parses() {
        let line = "nullrun-loadtest gate --url http://127.0.0.1:8080 --connections 64 --duration 5 --rate 100 --floor";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
    }

    #[test]
    fn a_scenario_needs_a_binary_or_an_address_and_not_both() {
        for (line, fine) in [
            (
                "nullrun-loadtest events --gateway target/debug/nullrun",
                true,
            ),
            ("nullrun-loadtest events --url http://127.0.0.1:8080", true),
            ("nullrun-loadtest events", false),
            ("nullrun-loadtest events --gateway x --url y", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), fine, "{line}");
        }
    }
}
