//! schemathesis over the gateway's own description, all checks on, as an owner and as a key that signs: no
//! 5xx, no answer that is not described, and each operation takes something. See `schemathesis/run.py`;
//! `schemathesis/schemathesis.toml` says what is narrowed and why. python3 and its package index are needed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "support/python.rs"]
mod python;

use std::path::Path;
use std::process::Command;

#[test]
fn schemathesis_finds_nothing_and_every_operation_takes_something() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let mut command = Command::new(python::interpreter("schemathesis", &folder));
    command
        .arg(folder.join("run.py"))
        .args(["--gateway", env!("CARGO_BIN_EXE_nullrun")]);
    let words = python::run(&mut command, "schemathesis found something, see below");
    let counts = words.split("== how often").nth(1).unwrap();
    println!("== how often{counts}");
}
