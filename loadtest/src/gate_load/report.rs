//! The result as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Measured, Params};
use crate::report::{Table, Violations};

/// The no-op route, under the same load.
#[derive(Debug, Clone, Serialize)]
pub struct FloorPart {
    /// Answers per second.
    pub throughput_per_s: f64,
    /// 50th percentile of the latency, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the latency, in microseconds.
    pub p99_us: u64,
    /// Requests without a proper answer.
    pub errors: u64,
}

/// What the load showed. Field names are those of the JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Connections.
    pub connections: usize,
    /// Seconds of load per route.
    pub duration_s: f64,
    /// Requested rate; null in a closed loop.
    pub rate_per_s: Option<f64>,
    /// Answers per second.
    pub throughput_per_s: f64,
    /// 50th percentile of the latency, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// 99.9th percentile.
    pub p999_us: u64,
    /// Allowed gates.
    pub allowed: u64,
    /// Blocked gates.
    pub blocked: u64,
    /// Requests without a proper answer.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// Whether the ledger agrees with the count of allowed gates.
    pub ledger_ok: bool,
    /// Where it does not.
    pub violations: Vec<String>,
    /// The no-op route, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<FloorPart>,
    /// Throughput of the gate over that of the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_throughput: Option<f64>,
    /// 99th percentile of the gate over that of the floor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_p99: Option<f64>,
}

impl Report {
    pub(super) fn new(
        params: &Params,
        gate: Measured,
        floor: Option<Measured>,
        violations: Violations,
    ) -> Self {
        let floor = floor.map(|measured| FloorPart {
            throughput_per_s: measured.throughput_per_s(),
            p50_us: measured.percentile_us(50.0),
            p99_us: measured.percentile_us(99.0),
            errors: measured.errors,
        });
        let throughput_per_s = gate.throughput_per_s();
        let p99_us = gate.percentile_us(99.0);
        Self {
            connections: params.connections,
            duration_s: gate.took.as_secs_f64(),
            rate_per_s: params.rate_per_s,
            throughput_per_s,
            p50_us: gate.percentile_us(50.0),
            p99_us,
            p999_us: gate.percentile_us(99.9),
            allowed: gate.allowed,
            blocked: gate.blocked,
            errors: gate.errors,
            ledger_ok: violations.is_empty(),
            violations: violations.sentences().to_vec(),
            ratio_throughput: floor
                .as_ref()
                .map(|floor| throughput_per_s / floor.throughput_per_s.max(1e-9)),
            ratio_p99: floor
                .as_ref()
                .map(|floor| p99_us as f64 / floor.p99_us.max(1) as f64),
            first_error: gate.first_error,
            floor,
        }
    }

    /// True when the ledger agrees and every request was answered properly.
    pub fn is_ok(&self) -> bool {
        self.ledger_ok && self.errors == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([
            "route",
            "per second",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "errors",
        ]);
        table.row([
            "gate".to_owned(),
            format!("{:.0}", self.throughput_per_s),
            self.p50_us.to_string(),
            self.p99_us.to_string(),
            self.p999_us.to_string(),
            self.errors.to_string(),
        ]);
        if let Some(floor) = &self.floor {
            let rate = format!("{:.0}", floor.throughput_per_s);
            let (p50, p99) = (floor.p50_us.to_string(), floor.p99_us.to_string());
            table.row([
                "floor".to_owned(),
                rate,
                p50,
                p99,
                String::new(),
                floor.errors.to_string(),
            ]);
        }
        if let (Some(throughput), Some(p99)) = (self.ratio_throughput, self.ratio_p99) {
            let cells = [
                format!("{throughput:.2}"),
                String::new(),
                format!("{p99:.2}"),
            ];
            table.row(std::iter::once("ratio".to_owned()).chain(cells));
        }
        write!(f, "{table}")?;
        writeln!(
            f,
            "decisions   {} allowed, {} blocked",
            self.allowed, self.blocked
        )?;
        if let Some(example) = &self.first_error {
            writeln!(f, "first error {example}")?;
        }
        writeln!(
            f,
            "ledger      {}",
            if self.ledger_ok {
                "agrees with every allowed gate"
            } else {
                "DISAGREES"
            }
        )?;
        self.violations
            .iter()
            .try_for_each(|sentence| writeln!(f, "  - {sentence}"))
    }
}
