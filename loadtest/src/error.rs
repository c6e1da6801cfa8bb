//! What can go wrong in the harness itself. A rule that the gateway breaks is not an error here but a violation in a
//! report; an error means that the scenario could not be carried out.

use std::io;
use std::path::PathBuf;

/// A result of the harness.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a scenario could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway binary could not be started at all.
    #[error("cannot start the gateway {}: {source}. Build it first (`cargo build`) and pass its path", binary.display())]
    Spawn {
        /// The path that was tried.
        binary: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway ran but did not announce its address, or ended before it did.
    #[error("the gateway did not come up: {reason}; its output:\n{output}")]
    NotUp {
        /// How it ended, or how long was waited.
        reason: String,
        /// The last lines of its stdout and stderr.
        output: String,
    },
    /// The gateway ran, and did not do what was waited for.
    #[error("the gateway {reason}; its output:\n{output}")]
    Amiss {
        /// What it did not do.
        reason: String,
        /// The last lines of its stdout and stderr.
        output: String,
    },
    /// A request was sent, or was about to be, and no complete answer came: its effect is in doubt.
    #[error("no answer to {request}: {reason}")]
    NoAnswer {
        /// Method and path.
        request: String,
        /// What the connection said.
        reason: String,
    },
    /// An answer came, but not one the scenario can go on with.
    #[error("{request} answered {status}, expected {expected}: {body}")]
    Unexpected {
        /// Method and path.
        request: String,
        /// The HTTP status that came.
        status: u16,
        /// What would have been fine.
        expected: String,
        /// The beginning of the body.
        body: String,
    },
    /// A file, directory or process operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, with the path.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program of `loadtest/shim` could not be compiled.
    #[error("cannot compile a program of loadtest/shim with `cc` (install a C compiler): {0}")]
    Shim(String),
    /// The caller asked for something impossible; the text says what to change.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Wraps an I/O error with what was attempted.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
