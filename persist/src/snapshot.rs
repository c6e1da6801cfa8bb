//! Snapshots: the folded log up to one LSN, as several archives of opaque bytes and a manifest that
//! lists them. There are two slots for manifests, written in turn, so that the snapshot before is
//! whole whatever becomes of this one.
//!
//! Writing: [`Store::begin`], [`Draft::put`] and [`Draft::keep`], [`Draft::finish`]. Reading:
//! [`Store::load`]. What a part's kind and tag mean is the engine's business.

mod draft;
mod manifest;
mod part;
mod store;

pub use draft::Draft;
pub use manifest::{Manifest, SLOTS};
pub use part::PartRef;
pub use store::{Found, Loaded, Newest, Store};

/// The format version this build writes and the newest it reads.
pub const VERSION: u32 = 1;

/// A file of a snapshot that cannot be used, to be told to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.file, self.what)
    }
}
