//! schemathesis over the gateway's own description, all checks on, as an owner and as a key that signs: no
//! 5xx, no answer that is not described, and each operation takes something. See `schemathesis/run.py`;
//! `schemathesis/schemathesis.toml` says what is narrowed and why. python3 and its package index are needed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs it and returns what it printed.
fn run(command: &mut Command, remedy: &str) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{remedy}: {error}"));
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail = errors.lines().rev().take(40).collect::<Vec<_>>();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    assert!(output.status.success(), "{remedy}\n{words}\n{tail}");
    words
}

/// The interpreter of the environment, made now unless it is there.
fn python(folder: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let environment = target.join("schemathesis-environment");
    let requirements = folder.join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    std::fs::create_dir_all(&target).unwrap();
    let lock = std::fs::File::create(target.join("schemathesis-environment.lock")).unwrap();
    lock.lock().unwrap();
    let stamp = environment.join("made-from");
    let python = environment.join("bin/python");
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        let _none = std::fs::remove_dir_all(&environment);
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&environment);
        run(&mut make, "python3 with its venv module is needed");
        let mut install = Command::new(&python);
        install
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--requirement"])
            .arg(&requirements);
        run(
            &mut install,
            "pip cannot install: the index must be reachable",
        );
        std::fs::write(&stamp, &wanted).unwrap();
    }
    python
}

#[test]
fn schemathesis_finds_nothing_and_every_operation_takes_something() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let mut command = Command::new(python(&folder));
    command
        .arg(folder.join("run.py"))
        .args(["--gateway", env!("CARGO_BIN_EXE_nullrun")]);
    let words = run(&mut command, "schemathesis found something, see below");
    let counts = words.split("== how often").nth(1).unwrap();
    println!("== how often{counts}");
}
