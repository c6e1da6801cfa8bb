//! What a durable answer costs over no answer at all: signed strict gates alternating with the no-op route, same
//! bodies and headers, same gateway, same connections. Throughput and latency from the client's side, CPU per request
//! from the server's, and in a separate counting pass system calls and cross-thread wakes per request.

mod allocations;
mod counting;
mod process;
mod table;

use std::path::Path;
use std::time::Duration;

use crate::client::Connection;
use crate::error::{Error, Result};
use crate::gate_load::{Drive, FLOOR, GATE, Subject};
use crate::identity::Dice;
use crate::report::Violations;
use crate::target::{Running, Target, block_on};

pub use allocations::Allocations;
pub use counting::{Counted, Counting};
pub use table::Report;

/// Load before the first measured run, so that allocators, caches and the branch predictor have settled.
const WARM_UP: Duration = Duration::from_millis(500);

/// How to measure.
#[derive(Debug, Clone)]
pub struct Params {
    /// Numbers of connections, measured one after the other.
    pub connections: Vec<usize>,
    /// Alternating runs of gate and floor per number of connections.
    pub runs: u32,
    /// Time of one run of one route.
    pub duration: Duration,
    /// Requests of the counting pass per route (under `strace`, so they are slow); 0 leaves the pass out.
    pub counted_requests: u64,
}

impl Params {
    /// 32 and 64 connections, 5 runs of 1 s each.
    pub fn quick() -> Self {
        Self {
            connections: vec![32, 64],
            runs: 5,
            duration: Duration::from_secs(1),
            counted_requests: 2_000,
        }
    }

    /// 9 runs of 5 s each.
    pub fn long() -> Self {
        Self {
            runs: 9,
            duration: Duration::from_secs(5),
            counted_requests: 10_000,
            ..Self::quick()
        }
    }
}

/// One run of one route.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Answers per second.
    pub throughput_per_s: f64,
    /// 50th percentile of the latency, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: f64,
    /// CPU time of the server (user and system) per answer, in microseconds.
    pub server_cpu_us: f64,
    /// CPU time of this harness over the time of the run, in percent of one core. Near 100 the harness, which runs on
    /// one thread, is the limit and not the server.
    pub harness_busy_percent: f64,
}

/// All runs with one number of connections.
#[derive(Debug, Clone)]
pub struct Series {
    /// Connections.
    pub connections: usize,
    /// Runs of the gate.
    pub gate: Vec<Run>,
    /// Runs of the no-op route.
    pub floor: Vec<Run>,
    /// What the gate's counting pass showed.
    pub gate_counted: Counting,
    /// What the no-op route's counting pass showed.
    pub floor_counted: Counting,
}

/// Starts `binary` with the no-op route and measures.
///
/// # Errors
/// When the gateway cannot be started or set up, or does not serve the no-op route.
pub fn run(binary: &Path, params: &Params) -> Result<Report> {
    let target = Target::binary(binary)
        .env("NULLRUN_FLOOR_ROUTE", "on")
        .env("NULLRUN_LOG", "warn,nullrun=info");
    let mut running = target.start()?;
    let server = running.gateway().map(|gateway| gateway.pid());
    let server =
        server.ok_or_else(|| Error::Usage("the floor needs a gateway started here".into()))?;
    let mut report = block_on(measure(&running, server, params))?;
    drop(running);
    if params.counted_requests > 0 {
        let connections = params.connections.first().copied().unwrap_or(1);
        report.allocations = Some(allocations::count(
            binary,
            connections,
            params.counted_requests,
        )?);
    }
    Ok(report)
}

async fn measure(running: &Running, server: u32, params: &Params) -> Result<Report> {
    let mut dice = Dice::from_seed(Dice::fresh_seed());
    let mut operator = running.connect();
    let subject = Subject::find(&mut operator, None, &mut dice).await?;
    subject.require_floor(&mut operator).await?;
    let mut report = Report {
        runs: params.runs,
        duration: params.duration,
        series: Vec::new(),
        allocations: None,
        violations: Violations::default(),
    };
    for &connections in &params.connections {
        let measurer = Measurer {
            running,
            server,
            subject: &subject,
            connections,
        };
        report.series.push(
            measurer
                .series(params, &mut dice, &mut operator, &mut report.violations)
                .await?,
        );
    }
    Ok(report)
}

struct Measurer<'a> {
    running: &'a Running,
    server: u32,
    subject: &'a Subject,
    connections: usize,
}

impl Measurer<'_> {
    async fn series(
        &self,
        params: &Params,
        dice: &mut Dice,
        operator: &mut Connection,
        violations: &mut Violations,
    ) -> Result<Series> {
        let drive = Drive::open(
            self.running.endpoint(),
            self.subject,
            self.connections,
            None,
        )
        .await?;
        drive.run(GATE, WARM_UP, dice).await?;
        drive.run(FLOOR, WARM_UP, dice).await?;
        let (mut gate, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..params.runs {
            gate.push(
                self.one(&drive, GATE, params.duration, dice, violations)
                    .await?,
            );
            floor.push(
                self.one(&drive, FLOOR, params.duration, dice, violations)
                    .await?,
            );
        }
        let gate_counted =
            counting::count(self.server, &drive, GATE, params.counted_requests, dice).await?;
        let floor_counted =
            counting::count(self.server, &drive, FLOOR, params.counted_requests, dice).await?;
        violations.absorb(self.subject.contradictions(operator).await?);
        Ok(Series {
            connections: self.connections,
            gate,
            floor,
            gate_counted,
            floor_counted,
        })
    }

    async fn one(
        &self,
        drive: &Drive,
        path: &'static str,
        duration: Duration,
        dice: &mut Dice,
        violations: &mut Violations,
    ) -> Result<Run> {
        let cpu_before = process::cpu_time(self.server)?;
        let own_before = process::cpu_time(std::process::id())?;
        let measured = drive.run(path, duration, dice).await?;
        let own = process::cpu_time(std::process::id())?.saturating_sub(own_before);
        let cpu = process::cpu_time(self.server)?.saturating_sub(cpu_before);
        let unwanted = measured.errors + measured.blocked;
        violations.require(unwanted == 0, || {
            let example = measured.first_error.clone().unwrap_or_default();
            format!(
                "{path}: {unwanted} of {} requests were refused or failed {example}",
                measured.answered
            )
        });
        Ok(Run {
            throughput_per_s: measured.throughput_per_s(),
            p50_us: measured.percentile_us(50.0) as f64,
            p99_us: measured.percentile_us(99.0) as f64,
            server_cpu_us: cpu.as_secs_f64() * 1e6 / measured.answered.max(1) as f64,
            harness_busy_percent: 100.0 * own.as_secs_f64() / measured.took.as_secs_f64().max(1e-9),
        })
    }
}
