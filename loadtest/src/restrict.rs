//! The launcher for poorer machines (`loadtest/shim/restrict.c`): without io_uring, with little locked memory, with
//! fewer processors, bound by file modes. Compiled on demand; what it does is in `shim/README.md`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::cc;
use crate::error::{Error, Result};

const SOURCE: &str = include_str!("../shim/restrict.c");

/// The compiled launcher.
#[derive(Debug, Clone)]
pub struct Restrict {
    /// Keeps the program's file alive as long as anybody may still start it.
    _dir: Arc<TempDir>,
    program: PathBuf,
}

impl Restrict {
    /// Compiles the launcher into a temporary directory with `cc`.
    pub fn compile() -> Result<Self> {
        let dir = TempDir::with_prefix("restrict-").map_err(Error::io("a temporary directory"))?;
        let program = dir.path().join("restrict");
        cc::compile(SOURCE, &[], &program)?;
        Ok(Self {
            _dir: Arc::new(dir),
            program,
        })
    }

    /// The command line to put before a program's, with flags such as `["--memlock", "65536"]`. It lasts as long as
    /// `self`.
    pub fn with(&self, flags: &[&str]) -> Vec<OsString> {
        let flags = flags.iter().copied().chain(["--"]).map(OsString::from);
        std::iter::once(self.program.clone().into())
            .chain(flags)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn shell(flags: &[&str], script: &str) -> String {
        let restrict = Restrict::compile().unwrap();
        let line = restrict.with(flags);
        let output = Command::new(&line[0])
            .args(&line[1..])
            .args(["sh", "-c", script])
            .output()
            .unwrap();
        let words = [output.stdout, output.stderr].concat();
        String::from_utf8(words).unwrap().trim().to_owned()
    }

    #[test]
    fn memory_processors_and_system_calls_are_restricted() {
        let flags = ["--memlock", "65536", "--cpus", "1", "--no-io-uring"];
        let script = "ulimit -l; nproc; grep Seccomp: /proc/self/status | tr -d '\\t'";
        assert_eq!(shell(&flags, script), "64\n1\nSeccomp:2");
    }

    #[test]
    fn file_modes_bind_whoever_obeys_them() {
        let dir = TempDir::new().unwrap();
        let script = format!(
            "cd {} && chmod 555 . && touch x 2>/dev/null || echo refused",
            dir.path().display()
        );
        assert_eq!(shell(&["--obey-modes"], &script), "refused");
    }

    #[test]
    fn a_wrong_flag_is_answered_with_the_usage() {
        assert!(shell(&["--no-such-flag"], "true").starts_with("usage: restrict"));
    }
}
