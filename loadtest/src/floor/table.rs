//! The floor's result as one table: medians, spreads (least to most) and ratios to the no-op route.

use std::fmt;
use std::time::Duration;

use super::{Allocations, Counting, Run, Series};
use crate::report::{Table, Violations};

/// What the measurement showed.
#[derive(Debug, Clone)]
pub struct Report {
    /// Alternating runs per route.
    pub runs: u32,
    /// Time of one run.
    pub duration: Duration,
    /// One series per number of connections.
    pub series: Vec<Series>,
    /// Calls of the allocator, if they were counted.
    pub allocations: Option<Allocations>,
    /// Requests that were refused or failed, and a ledger that contradicts itself.
    pub violations: Violations,
}

/// Median, least and most of some runs.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(runs: &[Run], value: impl Fn(&Run) -> f64) -> Self {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self {
            median,
            least: at(0),
            most: at(values.len().wrapping_sub(1)),
        }
    }

    fn show(self, decimals: usize) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.decimals$} [{least:.decimals$}-{most:.decimals$}]")
    }
}

/// How many of the measures make sense as a ratio: all but the harness's own business, the last.
const RATIOS: usize = MEASURES.len() - 1;

/// Reads one measure of a run.
type Measure = fn(&Run) -> f64;

/// The measures of a run, with the decimals they are shown with.
const MEASURES: [(Measure, usize); 5] = [
    (|run| run.throughput_per_s, 0),
    (|run| run.p50_us, 0),
    (|run| run.p99_us, 0),
    (|run| run.server_cpu_us, 1),
    (|run| run.harness_busy_percent, 0),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} alternating runs of {:.1} s per route; medians [least-most]",
            self.runs,
            self.duration.as_secs_f64()
        )?;
        let mut table = Table::new([
            "connections, route",
            "per second",
            "p50 us",
            "p99 us",
            "server CPU us/request",
            "harness busy %",
            "syscalls/request",
            "wakes/request",
        ]);
        for series in &self.series {
            let gate = row(&series.gate, &series.gate_counted);
            let floor = row(&series.floor, &series.floor_counted);
            let name = |route: &str| format!("{} {route}", series.connections);
            table.row(std::iter::once(name("gate")).chain(gate));
            table.row(std::iter::once(name("floor")).chain(floor));
            table.row(std::iter::once(name("ratio")).chain(ratios(series)));
        }
        write!(f, "{table}")?;
        if let Some(Allocations { gate, floor }) = self.allocations {
            writeln!(
                f,
                "calls of the allocator per request: gate {gate:.1}, floor {floor:.1}"
            )?;
        }
        for series in &self.series {
            for counting in [&series.gate_counted, &series.floor_counted] {
                if let Counting::NotMeasured(why) = counting {
                    writeln!(
                        f,
                        "syscalls and wakes at {} connections: not measured: {why}",
                        series.connections
                    )?;
                }
            }
        }
        write!(f, "{}", self.violations)
    }
}

fn row(runs: &[Run], counting: &Counting) -> Vec<String> {
    let mut cells: Vec<String> = MEASURES
        .iter()
        .map(|(value, decimals)| Spread::of(runs, value).show(*decimals))
        .collect();
    match counting {
        Counting::Done(counted) => {
            cells.push(format!("{:.2}", counted.syscalls));
            cells.push(format!("{:.2}", counted.wakes));
        }
        Counting::NotMeasured(_) => {
            cells.extend(["not measured".to_owned(), "not measured".to_owned()])
        }
    }
    cells
}

fn ratios(series: &Series) -> Vec<String> {
    let ratio = |gate: f64, floor: f64| {
        // Below what the table shows, the quotient would be noise.
        if floor >= 0.01 {
            format!("{:.2}", gate / floor)
        } else {
            "-".to_owned()
        }
    };
    let mut cells: Vec<String> = MEASURES
        .iter()
        .map(|(value, _)| {
            ratio(
                Spread::of(&series.gate, value).median,
                Spread::of(&series.floor, value).median,
            )
        })
        .take(RATIOS)
        .chain(std::iter::once(String::new()))
        .collect();
    if let (Counting::Done(gate), Counting::Done(floor)) =
        (&series.gate_counted, &series.floor_counted)
    {
        cells.push(ratio(gate.syscalls, floor.syscalls));
        cells.push(ratio(gate.wakes, floor.wakes));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(throughput_per_s: f64) -> Run {
        Run {
            throughput_per_s,
            p50_us: 1.0,
            p99_us: 2.0,
            server_cpu_us: 3.0,
            harness_busy_percent: 4.0,
        }
    }

    #[test]
    fn the_median_of_an_even_number_of_runs_is_the_middle_of_the_two_inner_ones() {
        let spread = Spread::of(&[run(4.0), run(1.0), run(3.0), run(2.0)], |run| {
            run.throughput_per_s
        });
        assert_eq!(spread.show(1), "2.5 [1.0-4.0]");
    }
}
