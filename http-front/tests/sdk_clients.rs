//! The published Python clients, unmodified, against the gateway binary. What is
//! checked stands in `sdk/run.py`, what each version can do in `sdk/COMPATIBILITY.md`.
//! The clients' environments are made at the first run; python3 is needed.

use std::error::Error;
use std::io::{self, Write};
use std::process::Command;

type Outcome = Result<(), Box<dyn Error>>;

/// Runs a client against the gateway as it starts by itself.
fn run_client(version: &str) -> Outcome {
    run_with(version, &[])
}

/// Runs a client against a gateway of seven shards on threads of their own.
fn run_client_on_threads(version: &str) -> Outcome {
    run_with(version, &["--shards", "7"])
}

fn run_with(version: &str, layout: &[&str]) -> Outcome {
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/run.py");
    let run = Command::new("python3")
        .args([
            driver,
            "--gateway",
            env!("CARGO_BIN_EXE_nullrun"),
            "--versions",
            version,
        ])
        .args(layout)
        .output()
        .map_err(|error| format!("python3 (3.10 or newer) is needed and cannot be run: {error}"))?;
    io::stdout().write_all(&run.stdout)?;
    io::stderr().write_all(&run.stderr)?;
    if run.status.success() {
        Ok(())
    } else {
        Err(format!(
            "client {version}: {}; its checks are printed above",
            run.status
        )
        .into())
    }
}

#[test]
fn client_0_4_0_is_stopped_and_billed_exactly() -> Outcome {
    run_client("0.4.0")
}

#[test]
fn client_0_13_11_is_stopped_and_billed_exactly() -> Outcome {
    run_client("0.13.11")
}

#[test]
fn client_0_14_6_is_stopped_and_billed_exactly() -> Outcome {
    run_client("0.14.6")
}

#[test]
fn client_0_18_5_is_stopped_and_billed_exactly() -> Outcome {
    run_client("0.18.5")
}

#[test]
fn client_0_22_2_is_stopped_and_billed_exactly() -> Outcome {
    run_client("0.22.2")
}

#[test]
fn client_0_4_0_is_stopped_and_billed_exactly_by_seven_shards_on_threads() -> Outcome {
    run_client_on_threads("0.4.0")
}

#[test]
fn client_0_22_2_is_stopped_and_billed_exactly_by_seven_shards_on_threads() -> Outcome {
    run_client_on_threads("0.22.2")
}
