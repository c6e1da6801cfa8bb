//! The narrow waist to storage: one directory of flat, named files. `PlainDisk` is the file system,
//! `GlommioDisk` the file system with its appends through io_uring, `MemoryDisk` keeps nothing,
//! `FaultyDisk` loses what a crash may lose.

mod faulty;
#[cfg(target_os = "linux")]
mod glommio;
mod memory;
mod plain;

pub use faulty::{Faults, FaultyDisk};
#[cfg(target_os = "linux")]
pub use glommio::GlommioDisk;
pub use memory::MemoryDisk;
pub use plain::PlainDisk;

use std::fmt::Debug;
use std::io;

/// A directory of files. Creation, renaming and removal are durable only after `sync_dir`.
pub trait Disk: Debug + Send + Sync {
    /// Makes a new empty file; fails if the name is taken.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Every name, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// For messages.
    fn path_of(&self, name: &str) -> String;
    /// A named place where the machine may die (see [`crate::crash_points`]). Only the disks that
    /// tests use do something here: an error means that it died, and everything after fails too.
    fn reach(&self, _point: &'static str) -> io::Result<()> {
        Ok(())
    }
}

/// Does the error say that there is no space: the disk is full, or this user's share of it?
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// An open file. Bytes are durable only after `sync`.
pub trait DiskFile: Debug + Send {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Is it empty?
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads at `offset` until `into` is full or the file ends; returns how much.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, growing the file as needed.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable. After an error the contents are unknown: never
    /// try again, stop.
    fn sync(&mut self) -> io::Result<()>;
}

/// Reads a whole file.
pub fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
