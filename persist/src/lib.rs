//! Everything NullRun keeps on disk: the ids and units records are made of, the records, the
//! write-ahead log they are kept in, and snapshots. This crate knows no HTTP and no rule: what a
//! record *means* is decided and folded by `nullrun-engine`.
//!
//! `docs/format.md` draws every byte written here.

pub mod disk;
pub mod frame;
pub mod group_commit;
pub mod ids;
pub mod log;
pub mod reader;
pub mod record;
pub mod segment;
pub mod snapshot;
pub mod units;

pub use group_commit::{Batch, Log};
pub use ids::{HoldId, KeyId, LogId, OrgId, PolicyId, UserId, WorkflowId};
pub use units::{Lsn, Millis, Nanos};

/// Why the log or a snapshot cannot be used. Every message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Bytes that were once durable can no longer be read back.
    #[error(
        "{file} is damaged at byte {offset}: {what}. Data after this point exists, so this is not \
         the torn tail of a crash and starting would lose acknowledged changes. Restore the data \
         directory from a backup or from the same disk's last good copy, or move it away to start \
         empty."
    )]
    Damaged {
        /// The damaged file.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a version this one does not know.
    #[error(
        "{file} has format version {found}, this build reads {known}. Start the version that wrote \
         it, or a newer one."
    )]
    Version {
        /// The file.
        file: String,
        /// The version in it.
        found: u32,
        /// The newest version this build reads.
        known: u32,
    },
    /// A record's bytes passed the checksum but do not decode.
    #[error(
        "the record with LSN {lsn} does not decode ({what}). It was written by a newer version: \
         start that version again."
    )]
    Undecodable {
        /// The record's place in the log.
        lsn: Lsn,
        /// The decoder's words.
        what: String,
    },
    /// The log failed earlier and accepts nothing any more.
    #[error("the log stopped after a failed write or sync: {0}")]
    Poisoned(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, file: &str, source: std::io::Error) -> Self {
        Self::Io {
            action,
            file: file.to_owned(),
            source,
        }
    }
}

/// The result of everything that touches the disk.
pub type Result<T> = std::result::Result<T, Error>;
