//! `cargo bench -p nullrun-benches --bench apply`: what the engine alone costs, per reserve + commit.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that fails says so by ending"
)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use nullrun_benches::{START, apply, commit, engine, gate};
use persist::group_commit::Batch;

fn reserve_and_commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reserve + commit");
    for workflows in [1_000_u128, 100_000] {
        let mut engine = engine(workflows).unwrap();
        engine.advance(START);
        let mut batch = Batch::default();
        let mut n = 0_u64;
        group.bench_function(format!("{workflows} workflows"), |bencher| {
            bencher.iter_batched(
                || {
                    n += 1;
                    // A stride that visits all workflows out of order.
                    let workflow = u128::from(n.wrapping_mul(0x9e37_79b9)) % workflows + 1;
                    (gate(workflow, n), commit(workflow, n))
                },
                |(gate, commit)| {
                    apply(&mut engine, &gate, &mut batch).unwrap();
                    apply(&mut engine, &commit, &mut batch).unwrap();
                    batch.clear();
                    engine.appended();
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, reserve_and_commit);
criterion_main!(benches);
