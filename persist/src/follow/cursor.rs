//! How far each follower has got, in one small file per name: what is behind the slowest of them may
//! be trimmed.
//!
//! ```text
//!  0  magic    8 bytes  "NULLRUNF"
//!  8  version  u32
//! 12  crc      u32      over bytes 8..12 and 16..40
//! 16  log_id   u128
//! 32  lsn      u64      the last LSN that is done with
//! ```

use super::Reader;
use crate::disk::{Disk, read_all};
use crate::frame::{put, u64_at, u128_at};
use crate::ids::LogId;
use crate::units::Lsn;
use crate::whole_file::{self, Points};
use crate::{Error, Result, crash_points};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The format version this build writes and the newest it reads.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"NULLRUNF";
const LEN: usize = 40;
const SUFFIX: &str = ".cursor";
const POINTS: Points = Points {
    written: crash_points::CURSOR_WRITTEN,
    synced: crash_points::CURSOR_SYNCED,
    renamed: crash_points::CURSOR_RENAMED,
};

/// All registered followers of a log. Clones share them.
#[derive(Debug, Clone)]
pub struct Followers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    log: LogId,
    cursors: Mutex<BTreeMap<String, Lsn>>,
}

/// A name and its cursor.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    name: String,
}

/// A cursor as it stands on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The follower.
    pub name: String,
    /// The log it follows.
    pub log: LogId,
    /// The last LSN it is done with.
    pub lsn: Lsn,
}

impl Shared {
    fn cursors(&self) -> MutexGuard<'_, BTreeMap<String, Lsn>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a cursor, durably.
    fn write(&self, name: &str, lsn: Lsn) -> Result<()> {
        let mut bytes = [0; LEN];
        put(&mut bytes, 16, &self.log.0.to_le_bytes());
        put(&mut bytes, 32, &lsn.0.to_le_bytes());
        whole_file::seal(&mut bytes, MAGIC, VERSION, &[]);
        let disk = self.disk.as_ref();
        whole_file::write(disk, &file_name(name), &[&bytes], &POINTS)?;
        whole_file::sync_names(disk, crash_points::CURSOR_DIR_SYNCED)
    }
}

impl Followers {
    /// Reads the cursors in `disk`, which belong to `log`.
    ///
    /// # Errors
    /// [`Error::Cursor`] if one is damaged or of another log: trimming without it could take what its
    /// follower needs.
    pub fn open(disk: Arc<dyn Disk>, log: LogId) -> Result<Self> {
        let is_name = |name: &str| name.ends_with(SUFFIX);
        whole_file::sweep(disk.as_ref(), is_name)?;
        let mut cursors = BTreeMap::new();
        for cursor in saved(disk.as_ref())? {
            let Saved { name, log: of, lsn } = cursor?;
            if of != log {
                return Err(Error::Cursor {
                    file: disk.path_of(&file_name(&name)),
                    what: "it belongs to another log",
                });
            }
            cursors.insert(name, lsn);
        }
        let shared = Shared {
            disk,
            log,
            cursors: Mutex::new(cursors),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The follower of this name, where it was. A new one begins behind `at` (`Lsn::ZERO` is the
    /// beginning of the log); from now on it holds back trimming, across restarts.
    ///
    /// # Errors
    /// [`Error::FollowerName`] for a name that would not do as a file's.
    pub fn register(&self, name: &str, at: Lsn) -> Result<Follower> {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err(Error::FollowerName {
                name: name.to_owned(),
            });
        }
        let mut cursors = self.shared.cursors();
        if !cursors.contains_key(name) {
            self.shared.write(name, at)?;
            cursors.insert(name.to_owned(), at);
        }
        Ok(Follower {
            shared: Arc::clone(&self.shared),
            name: name.to_owned(),
        })
    }

    /// Forgets a follower: it holds nothing back any more. False if there was none of this name.
    pub fn unregister(&self, name: &str) -> Result<bool> {
        let mut cursors = self.shared.cursors();
        if !cursors.contains_key(name) {
            return Ok(false);
        }
        let disk = self.shared.disk.as_ref();
        let file = file_name(name);
        disk.remove(&file)
            .and_then(|()| disk.sync_dir())
            .map_err(|e| Error::io("remove", &disk.path_of(&file), e))?;
        cursors.remove(name);
        Ok(true)
    }

    /// The least cursor of all: records up to it have been seen by everybody. `None` without
    /// followers.
    #[must_use]
    pub fn low_water(&self) -> Option<Lsn> {
        self.shared.cursors().values().min().copied()
    }
}

impl Follower {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The last LSN that is done with, durably; `Lsn::ZERO` after it was unregistered.
    #[must_use]
    pub fn cursor(&self) -> Lsn {
        let cursors = self.shared.cursors();
        cursors.get(&self.name).copied().unwrap_or_default()
    }

    /// A reader of `wal` that stands where the cursor is.
    #[must_use]
    pub fn reader(&self, wal: Arc<dyn Disk>) -> Reader {
        Reader::new(wal, self.cursor())
    }

    /// Everything up to `lsn` is done with: after a restart it goes on behind it. Durable on return.
    /// A cursor never goes back, and one that was unregistered stays away: both change nothing.
    pub fn save(&self, lsn: Lsn) -> Result<()> {
        // Held while writing: cursors of several threads must not pass each other on the way.
        let mut cursors = self.shared.cursors();
        match cursors.get_mut(&self.name) {
            Some(cursor) if *cursor < lsn => {
                self.shared.write(&self.name, lsn)?;
                *cursor = lsn;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn file_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Every cursor on the disk, by name, or what is wrong with it. Changes nothing.
pub fn saved(disk: &dyn Disk) -> Result<Vec<Result<Saved>>> {
    let names = whole_file::list(disk)?;
    let cursors = names.iter().filter_map(|file| {
        let name = file.strip_suffix(SUFFIX)?;
        Some(read(disk, file, name))
    });
    Ok(cursors.collect())
}

fn read(disk: &dyn Disk, file: &str, name: &str) -> Result<Saved> {
    let path = disk.path_of(file);
    let bytes = disk
        .open(file)
        .and_then(|file| read_all(file.as_ref()))
        .map_err(|e| Error::io("read", &path, e))?;
    if bytes.len() != LEN || !whole_file::is_whole(&bytes, MAGIC) {
        return Err(Error::Cursor {
            file: path,
            what: "its checksum is wrong",
        });
    }
    whole_file::known_version(&bytes, VERSION, &path)?;
    Ok(Saved {
        name: name.to_owned(),
        log: LogId(u128_at(&bytes, 16)),
        lsn: Lsn(u64_at(&bytes, 32)),
    })
}
