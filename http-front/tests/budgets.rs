//! Exactness over HTTP: bursts on one cap, a million small events.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::burst::{self, Params, Report};
use nullrun_loadtest::{Result, Target, events};
use support::{Scale, scale, target};

fn burst_under(cap: fn(&Target, &Params) -> Result<Report>) {
    let params = match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    };
    let report = cap(&target(), &params).unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

#[test]
fn of_1000_concurrent_gates_exactly_those_that_fit_a_workflows_cap_are_allowed() {
    burst_under(burst::workflow_cap);
}

#[test]
fn of_1000_concurrent_gates_exactly_those_that_fit_an_orgs_cap_are_allowed() {
    burst_under(burst::org_cap);
}

#[test]
fn of_1000_concurrent_gates_exactly_those_that_fit_a_keys_cap_are_allowed() {
    burst_under(burst::key_cap);
}

#[test]
fn a_million_events_of_47_microdollars_sum_to_the_nano_dollar() {
    let params = match scale() {
        Scale::Quick => events::Params::quick(),
        Scale::Long => events::Params::long(),
    };
    let report = events::run(&target(), &params).unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}
