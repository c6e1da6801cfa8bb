//! What survives `kill -9`, and what survives a machine that loses every byte no completed sync
//! covered. The same driver must fail when syncing is switched off: a test that cannot fail proves
//! nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::crash::{self, Params, Report};
use support::{GATEWAY, Scale, scale};

fn params() -> Params {
    let params = match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    };
    // Small segments, and rounds long enough for snapshots under the knife.
    params.env("NULLRUN_SEGMENT_BYTES", "262144")
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
}

#[test]
fn nothing_acknowledged_is_missing_when_the_crash_falls_into_a_snapshot() {
    let params = Params {
        rounds: params().rounds / 2,
        ..params().with_snapshots().with_power_cut()
    };
    let report = run(&params);
    assert!(report.violations.is_empty(), "{report}");
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
