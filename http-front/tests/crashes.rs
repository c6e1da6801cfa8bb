//! What survives `kill -9`, and what survives a machine that loses every byte no completed sync
//! covered; and at every named place in between. Each start has another number of shards. The same
//! driver must fail when syncing is switched off: a test that cannot fail proves nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::crash::{self, Params, Report};
use nullrun_loadtest::gateway::{Gateway, Settings};
use persist::crash_points;
use std::collections::BTreeSet;
use support::{GATEWAY, LAYOUTS, Scale, scale};

fn params() -> Params {
    let params = match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    };
    // Small segments, and rounds long enough for snapshots under the knife.
    let params = params.env("NULLRUN_SEGMENT_BYTES", "262144");
    // About 6,000 events in a generation: some are sealed on the way.
    let params = params.env("NULLRUN_DEDUP_MEMORY", "1");
    params.with_layouts(LAYOUTS.map(|(_, layout)| layout))
}

fn run(params: &Params) -> Report {
    let report = crash::run(GATEWAY.as_ref(), params).unwrap();
    println!("{report}");
    report
}

#[test]
fn nothing_acknowledged_is_missing_after_kill_9() {
    let report = run(&params());
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn nothing_acknowledged_is_missing_when_unsynced_pages_are_lost() {
    let report = run(&params().with_power_cut());
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.counts.joined > 0, "nobody joined: {report}");
}

#[test]
fn nothing_acknowledged_is_missing_when_the_crash_falls_into_a_snapshot() {
    let params = Params {
        rounds: params().rounds / 2,
        ..params().with_snapshots().with_power_cut()
    };
    let report = run(&params);
    assert!(report.violations.is_empty(), "{report}");
    println!("{} generations of events were sealed", report.sealed);
    assert!(
        report.sealed > 0,
        "no snapshot holds a sealed generation: {report}"
    );
}

#[test]
fn nothing_acknowledged_is_missing_after_dying_at_any_named_place() {
    // No follower holds the log back in a gateway of this version, so none writes a cursor; and a start
    // has something to cut or to remove only now and then. These places are tried on the log itself
    // and on the engine.
    let elsewhere: BTreeSet<&str> = [
        crash_points::CURSOR_WRITTEN,
        crash_points::CURSOR_SYNCED,
        crash_points::CURSOR_RENAMED,
        crash_points::CURSOR_DIR_SYNCED,
        crash_points::RECOVERY_CUT,
        crash_points::RECOVERY_UNUSED_REMOVED,
    ]
    .into();
    let all = crash_points::ALL
        .iter()
        .copied()
        .chain(engine::recover::POINTS.iter().copied());
    let under_load: Vec<&str> = all.filter(|point| !elsewhere.contains(point)).collect();
    println!("{} places: {under_load:?}", under_load.len());
    let times = match scale() {
        Scale::Quick => 1,
        Scale::Long => 10,
    };
    let points = under_load.iter().copied().cycle();
    let params = params()
        .with_snapshots()
        .with_power_cut()
        .at_points(points.take(under_load.len() * times));
    let report = run(&params);
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.at_points as usize, under_load.len() * times);
}

/// A gateway that dies while it makes its directory starts on what is left.
#[test]
fn a_first_start_that_dies_while_the_master_key_is_made_is_followed_by_one_that_serves() {
    for point in [
        "master-key-written",
        "master-key-synced",
        "master-key-renamed",
        "master-key-dir-synced",
    ] {
        let data = tempfile::TempDir::new().unwrap();
        let settings = Settings::new(GATEWAY, data.path());
        let died = Gateway::start(settings.clone().env("NULLRUN_TEST_CRASH_AT", point));
        let words = died.unwrap_err().to_string();
        assert!(words.contains("signal: 6"), "{point}: {words}");
        Gateway::start(settings).unwrap();
        let key = std::fs::read_to_string(data.path().join("master.key")).unwrap();
        assert_eq!(key.len(), 64, "{point}");
    }
}

#[test]
fn the_crash_driver_notices_when_syncing_is_switched_off() {
    let params = params()
        .with_power_cut()
        .env("NULLRUN_TEST_FAULT", "skip-sync");
    // Either the ledger lacks what was acknowledged, or the log does not even open.
    match crash::run(GATEWAY.as_ref(), &params) {
        Ok(report) => {
            println!("{report}");
            assert!(
                !report.violations.is_empty(),
                "nothing was noticed: {report}"
            );
        }
        Err(error @ nullrun_loadtest::Error::NotUp { .. }) => {
            println!("the gateway did not come back: {error}");
        }
        Err(error) => panic!("the driver could not run: {error}"),
    }
}
