//! `cargo bench -p nullrun-benches --bench log_append`: one frame written and synced, by the log's two
//! backends, on the disk that holds `target/`. Prints the ratio of their medians, taken in turns, so
//! that a noisy machine is noisy for both.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that fails says so by ending, and its figures are what it is for"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use persist::backend::{Wanted, choose};
use persist::frame::FrameBuf;
use persist::log::{Options, Writer};
use persist::{LogId, Lsn};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a frame's payload: a lone gate, a busy turn, a burst.
const SIZES: [usize; 3] = [256, 4 << 10, 64 << 10];
/// Frames per backend for the ratio.
const TURNS: usize = 400;

/// A log of its own, written frame by frame.
struct Lane {
    name: &'static str,
    writer: Writer,
}

impl Lane {
    /// `None` where the machine has no such backend; says why.
    fn new(root: &Path, name: &'static str, wanted: Wanted) -> Option<Self> {
        let choice = match choose(&root.join(name), wanted) {
            Ok(choice) => choice,
            Err(error) => {
                println!("without {name}: {error}");
                return None;
            }
        };
        let (options, visit) = (Options::default(), &mut |_, _: &[u8]| Ok(()));
        let (writer, _) = Writer::open(choice.disk, options, LogId(1), Lsn::ZERO, visit).unwrap();
        Some(Self { name, writer })
    }

    /// Writes one frame of one record and syncs it; the zeros ahead are written outside of the time,
    /// as the log does when it is idle.
    fn append(&mut self, payload: &[u8]) -> Duration {
        let mut frame = FrameBuf::default();
        frame.push(&u32::try_from(payload.len()).unwrap().to_le_bytes(), 0);
        frame.push(payload, 1);
        let began = Instant::now();
        self.writer.write(&mut frame).unwrap();
        self.writer.sync().unwrap();
        let took = began.elapsed();
        if self.writer.prepare().unwrap() {
            self.writer.sync().unwrap();
        }
        took
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn append(criterion: &mut Criterion) {
    let root = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut lanes: Vec<Lane> = [("plain", Wanted::Plain), ("glommio", Wanted::Glommio)]
        .into_iter()
        .filter_map(|(name, wanted)| Lane::new(root.path(), name, wanted))
        .collect();
    for size in SIZES {
        let payload = vec![7; size];
        let mut group = criterion.benchmark_group(format!("append + sync of {size} bytes"));
        for lane in &mut lanes {
            group.bench_function(BenchmarkId::from_parameter(lane.name), |bencher| {
                bencher.iter_custom(|n| (0..n).map(|_| lane.append(&payload)).sum());
            });
        }
        group.finish();
    }
    println!("medians of {TURNS} in turns, us:");
    for size in SIZES {
        let payload = vec![7; size];
        let mut times = vec![Vec::with_capacity(TURNS); lanes.len()];
        for _ in 0..TURNS {
            for (lane, times) in lanes.iter_mut().zip(&mut times) {
                times.push(lane.append(&payload));
            }
        }
        let medians: Vec<f64> = times
            .iter_mut()
            .map(|times| median(times).as_secs_f64() * 1e6)
            .collect();
        match medians[..] {
            [plain, glommio] => println!(
                "  {size:>6} bytes: plain {plain:.0}, glommio {glommio:.0}, glommio / plain {:.2}",
                glommio / plain
            ),
            _ => println!("  {size:>6} bytes: plain {:.0}", medians[0]),
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = append
}
criterion_main!(benches);
