//! A snapshot onto the one before, from the files alone.

use super::desk::{Desk, PRICES};
use engine::Settings;
use engine::dedup::Known;
use engine::price::PriceTable;
use engine::recover::Rebuild;
use persist::disk::MemoryDisk;
use persist::group_commit::{Batch, Pending};
use persist::log::Options;
use persist::{LogId, Lsn};
use std::sync::Arc;

const LOG: LogId = LogId(1);

/// The log of a desk, on a disk; returns its last LSN.
fn write(desk: &Desk, rebuild: &Rebuild) -> Lsn {
    let mut writer = rebuild.open(Options::default(), LOG).unwrap().writer;
    let (mut batch, mut pending) = (Batch::default(), Pending::default());
    desk.records(|record| batch.push(record).unwrap());
    pending.push(&batch);
    let mut last = Lsn::ZERO;
    while let Some(mut frame) = pending.pop() {
        last = writer.write(&mut frame).unwrap();
    }
    writer.sync().unwrap();
    last
}

#[test]
fn events_of_sealed_generations_are_known_after_any_number_of_snapshots() {
    let settings = Settings {
        dedup_keys: 80,
        ..Settings::default()
    };
    let mut desk = Desk::with(settings);
    let key = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    for n in 1..=35 {
        desk.track(|event| event.event_key = Some(key(n)));
        desk.wait(1);
    }
    let disk = || Arc::new(MemoryDisk::default());
    let prices = Arc::new(PriceTable::from_json(PRICES).unwrap());
    let rebuild = Rebuild::new(disk(), disk(), prices, settings);
    let last = write(&desk, &rebuild);
    for until in [last.0 - 9, last.0 - 6, last.0 - 3, last.0] {
        rebuild.checkpoint(LOG, Lsn(until)).unwrap();
    }
    let recovered = rebuild.open(Options::default(), LOG).unwrap();
    assert_eq!(recovered.snapshot, last);
    let mut engine = recovered.engine;
    engine.advance(desk.engine.now());
    let dedup = engine.dedup();
    let forgotten = (1..=35).filter(|n| dedup.known(key(*n), 0) != Known::Counted);
    assert_eq!(forgotten.count(), 0);
    let same = engine.state_hash().unwrap() == desk.engine.state_hash().unwrap();
    assert!(same, "the state is another one");
}
