//! A kill is a fence: nothing that starts after its 200 is allowed, retries included.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::kill_fence::{self, Params};
use support::{Scale, scale, target};

fn params() -> Params {
    match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    }
}

#[test]
fn no_gate_that_starts_after_a_kills_200_is_allowed() {
    let report = kill_fence::run(&target(), &params()).unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn the_fence_test_notices_when_the_fence_is_removed() {
    let unfenced = target().env("NULLRUN_TEST_FAULT", "no-kill-fence");
    let report = kill_fence::run(&unfenced, &params()).unwrap();
    println!("{report}");
    assert!(
        !report.violations.is_empty(),
        "nothing was noticed: {report}"
    );
}
