//! Exactness over HTTP, whatever the number of shards and wherever they run: bursts on one cap, a
//! million small events.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::burst::{self, Params, Report};
use nullrun_loadtest::{Result, Target, events};
use support::{LAYOUTS, Scale, scale, target_in, with_each};

fn burst_under(cap: fn(&Target, &Params) -> Result<Report>) {
    let params = match scale() {
        Scale::Quick => Params::quick(),
        Scale::Long => Params::long(),
    };
    with_each(&LAYOUTS, |layout| {
        let report = cap(&target_in(layout), &params).unwrap();
        println!("{report}");
        assert!(report.violations.is_empty(), "{layout:?}: {report}");
    });
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
fn of_1000_concurrent_gates_exactly_those_that_fit_the_cap_of_a_key_over_workflows_are_allowed() {
    burst_under(burst::free_key_cap);
}

#[test]
fn a_million_events_of_47_microdollars_sum_to_the_nano_dollar() {
    let scale = scale();
    with_each(&LAYOUTS, |layout| {
        // One workflow on one shard gets all of them; elsewhere each batch goes to twenty.
        let one_shard = layout == LAYOUTS[0].1;
        let params = match scale {
            Scale::Quick => events::Params::quick(),
            Scale::Long => events::Params::long(),
        };
        let params = if one_shard {
            params
        } else {
            events::Params {
                events: params.events / 10,
                workflows: 20,
                ..params
            }
        };
        let report = events::run(&target_in(layout), &params).unwrap();
        println!("{report}");
        assert!(report.violations.is_empty(), "{layout:?}: {report}");
    });
}
