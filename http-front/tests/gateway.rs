//! The gateway as a process: start, stop, refusals to start, the first account, a bad disk, limits of
//! HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "gateway/bodies.rs"]
mod bodies;
#[path = "gateway/disk.rs"]
mod disk;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/start.rs"]
mod start;
mod support;

use std::process::Command;
use support::GATEWAY;

/// Runs the gateway until it ends by itself; its exit code and words.
fn ends(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(GATEWAY)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let words = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&words).into_owned(),
    )
}
