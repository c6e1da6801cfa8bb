//! Everything NullRun keeps on disk: the ids and units records are made of, the records, the
//! write-ahead log they are kept in, its followers, and snapshots. This crate knows no HTTP and no rule: what a
//! record *means* is decided and folded by `nullrun-engine`.
//!
//! `docs/format.md` draws every byte written here.

pub mod backend;
pub mod crash_points;
pub mod disk;
pub mod follow;
pub mod frame;
pub mod group_commit;
pub mod ids;
pub mod inspect;
pub mod latency;
pub mod log;
pub mod reader;
pub mod record;
pub mod retain;
pub mod room;
mod scan;
pub mod segment;
pub mod snapshot;
pub mod units;
pub mod whole_file;

pub use backend::{Choice, Wanted};
pub use group_commit::{Batch, Log};
pub use ids::{HoldId, InviteId, KeyId, LogId, OrgId, PolicyId, SessionId, UserId, WorkflowId};
pub use room::Room;
pub use units::{Day, Lsn, Millis, Nanos};

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
    /// The log no longer holds what has to be read.
    #[error(
        "LSN {needed} is needed, but the log begins at LSN {begins} ({file}): the segments before it \
         are gone, and no usable snapshot holds what was in them. Restore the data directory, \
         snapshots and log together, from a backup; to only look at what is left, begin at LSN \
         {begins}."
    )]
    Gone {
        /// The first segment that is left.
        file: String,
        /// The LSN it begins with.
        begins: Lsn,
        /// The LSN that is asked for.
        needed: Lsn,
    },
    /// A follower's cursor is older than the log.
    #[error(
        "this follower needs LSN {needed}, but the log begins at LSN {begins}: the segments between \
         were removed while it was not registered, or its cursor was put back. Unregister it and \
         register it again at LSN {begins}; what lies between is lost to it."
    )]
    FellBehind {
        /// The LSN that is asked for.
        needed: Lsn,
        /// The LSN the log begins with.
        begins: Lsn,
    },
    /// A follower's cursor cannot be read.
    #[error(
        "{file} is not the cursor of a follower of this log: {what}. Remove the file; its follower \
         then begins again where it registers."
    )]
    Cursor {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A follower's name would not do as a file's.
    #[error("{name:?} cannot name a follower: use 1 to 64 lower-case letters, digits and hyphens")]
    FollowerName {
        /// What was given.
        name: String,
    },
    /// A part of a snapshot turned out to be damaged while it was read.
    #[error(
        "the snapshot up to LSN {lsn} cannot be used: {damage}. The one before it, or the log from \
         its beginning, takes its place."
    )]
    SnapshotDamaged {
        /// The snapshot's LSN.
        lsn: Lsn,
        /// Which part, and what is wrong with it.
        damage: snapshot::Damage,
    },
    /// There is no space for a frame. Nothing was written; it may be tried again.
    #[error(
        "no space is left to write {file}. Free space on its disk, or raise the quota of the user \
         the gateway runs as: nothing is lost, and writing goes on by itself."
    )]
    Full {
        /// The segment that cannot grow.
        file: String,
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

    /// Is it that there was no space on the disk?
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => disk::is_full(source),
            _ => false,
        }
    }
}

/// The result of everything that touches the disk.
pub type Result<T> = std::result::Result<T, Error>;
