//! A kill is a fence: nothing that starts after its 200 is allowed, retries included, whatever the
//! number of shards and wherever they run.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::kill_fence::{self, Params};
use support::{LAYOUTS, Scale, scale, target_in, with_each};

fn params() -> Params {
    match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    }
}

#[test]
fn no_gate_that_starts_after_a_kills_200_is_allowed() {
    let params = params();
    with_each(&LAYOUTS, |layout| {
        let report = kill_fence::run(&target_in(layout), &params).unwrap();
        println!("{report}");
        assert!(report.violations.is_empty(), "{layout:?}: {report}");
    });
}

#[test]
fn the_fence_test_notices_when_the_fence_is_removed() {
    let params = Params {
        rounds: 5,
        ..params()
    };
    with_each(&LAYOUTS, |layout| {
        let unfenced = target_in(layout).env("NULLRUN_TEST_FAULT", "no-kill-fence");
        let report = kill_fence::run(&unfenced, &params).unwrap();
        println!("noticed {} times", report.violations.count());
        assert!(
            !report.violations.is_empty(),
            "{layout:?}: nothing was noticed: {report}"
        );
    });
}
