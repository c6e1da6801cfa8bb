//! The snapshots of a data directory: which is the newest that can be used, and how far back the
//! older one reaches.

use super::draft::Draft;
use super::manifest::{self, Manifest, Slot};
use super::part::{self, PartRef};
use super::{Damage, SLOTS};
use crate::disk::Disk;
use crate::ids::LogId;
use crate::units::Lsn;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The directory of snapshots. One process may write to it; any number may read.
#[derive(Debug)]
pub struct Store {
    pub(super) disk: Arc<dyn Disk>,
    /// Snapshots with a part that turned out to be damaged, by sequence: not used again, and the
    /// first to be replaced.
    rotten: Mutex<BTreeMap<u64, Damage>>,
}

/// A snapshot whose manifest checks out, and whose parts are all there.
#[derive(Debug)]
pub struct Found {
    disk: Arc<dyn Disk>,
    /// Its log (which must be the one it is used with), its LSN, its parts.
    pub manifest: Manifest,
    /// What reading a part has found.
    damage: Mutex<Option<Damage>>,
}

/// The newest usable snapshot, checked to the last byte.
#[derive(Debug)]
pub struct Newest {
    /// Without one, the whole log has to be read; if it no longer begins at LSN 1, reading it is
    /// refused with [`Error::Gone`].
    pub found: Option<Found>,
    /// What was passed over on the way. Worth a warning: there was one snapshot more to fall back on.
    pub damaged: Vec<Damage>,
}

/// What was built from the newest usable snapshot.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The snapshot and what was made of it; `None` as in [`Newest::found`].
    pub built: Option<(Manifest, T)>,
    /// As [`Newest::damaged`].
    pub damaged: Vec<Damage>,
}

impl Found {
    /// Reads a part whole.
    ///
    /// # Errors
    /// [`Error::SnapshotDamaged`] if it is not what was written: then the snapshot must not be used.
    pub fn read(&self, part: &PartRef) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(part.len).unwrap_or(0));
        self.read_pieces(part, &mut |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Reads a part piece by piece, into memory of the caller's own alignment. It is checked on the
    /// way: what was taken is good only if this ends well.
    ///
    /// # Errors
    /// As [`Found::read`].
    pub fn read_pieces(&self, part: &PartRef, take: &mut dyn FnMut(&[u8])) -> Result<()> {
        let read = part::read(self.disk.as_ref(), self.manifest.log, part, take)?;
        read.map_err(|damage| {
            *lock(&self.damage) = Some(damage.clone());
            Error::SnapshotDamaged {
                lsn: self.manifest.lsn,
                damage,
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Uses the snapshots in `disk`. Nothing is changed by it.
    #[must_use]
    pub fn open(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            rotten: Mutex::default(),
        }
    }

    /// Has `build` make something of the newest usable snapshot. If a part that it reads turns out to
    /// be damaged, it is called again with the snapshot before: what it had built is dropped. So
    /// every byte is read once, and none is believed unchecked.
    ///
    /// # Errors
    /// Whatever `build` returns for another reason; [`Error::Version`] if a newer build wrote them.
    pub fn load<T, E: From<Error>>(
        &self,
        build: impl FnMut(&Found) -> std::result::Result<T, E>,
    ) -> std::result::Result<Loaded<T>, E> {
        let (candidates, damaged) = self.candidates()?;
        self.build(candidates, damaged, build)
    }

    /// The same with the oldest usable snapshot first: for an account that does not rest on the
    /// newest.
    pub fn load_oldest<T, E: From<Error>>(
        &self,
        build: impl FnMut(&Found) -> std::result::Result<T, E>,
    ) -> std::result::Result<Loaded<T>, E> {
        let (mut candidates, damaged) = self.candidates()?;
        candidates.reverse();
        self.build(candidates, damaged, build)
    }

    fn build<T, E: From<Error>>(
        &self,
        candidates: Vec<Found>,
        mut damaged: Vec<Damage>,
        mut build: impl FnMut(&Found) -> std::result::Result<T, E>,
    ) -> std::result::Result<Loaded<T>, E> {
        for found in candidates {
            let result = build(&found);
            let damage = lock(&found.damage).take();
            match (result, damage) {
                (_, Some(damage)) => {
                    damaged.push(damage.clone());
                    lock(&self.rotten).insert(found.manifest.sequence, damage);
                }
                (Ok(built), None) => {
                    let built = Some((found.manifest, built));
                    return Ok(Loaded { built, damaged });
                }
                (Err(error), None) => return Err(error),
            }
        }
        let built = None;
        Ok(Loaded { built, damaged })
    }

    /// The newest snapshot that checks out, every byte of it. Reading its parts then reads them a
    /// second time; [`Store::load`] does not.
    ///
    /// # Errors
    /// [`Error::Version`] if a newer build wrote it.
    pub fn newest(&self) -> Result<Newest> {
        let Loaded { built, damaged } = self.load(|found| {
            let mut parts = found.manifest.parts.iter();
            parts.try_for_each(|part| found.read_pieces(part, &mut |_| {}))
        })?;
        let found = built.map(|(manifest, ())| Found {
            disk: Arc::clone(&self.disk),
            manifest,
            damage: Mutex::default(),
        });
        Ok(Newest { found, damaged })
    }

    /// The LSN of the older of two usable snapshots: with the log from there on, either of them will
    /// do. `None` with fewer than two: keep the log as it is, it stands in for the missing one.
    pub fn floor(&self) -> Result<Option<Lsn>> {
        let (candidates, _) = self.candidates()?;
        let both = candidates.len() == SLOTS.len();
        let lsns = candidates.iter().map(|found| found.manifest.lsn);
        Ok(lsns.min().filter(|_| both))
    }

    /// Begins a snapshot of everything up to `lsn`. Nothing of it counts until
    /// [`Draft::finish`]. One at a time.
    pub fn begin(&self, log: LogId, lsn: Lsn) -> Result<Draft<'_>> {
        let (candidates, _) = self.candidates()?;
        Draft::begin(
            self,
            candidates.first().map(|found| &found.manifest),
            log,
            lsn,
        )
    }

    /// Snapshots that look usable, newest first, and what is wrong with the others. Parts are not
    /// read, only looked for.
    pub(crate) fn candidates(&self) -> Result<(Vec<Found>, Vec<Damage>)> {
        let mut candidates = Vec::new();
        let mut damaged = Vec::new();
        for slot in manifest::slots(self.disk.as_ref())? {
            match slot {
                Slot::Empty => {}
                Slot::Damaged(damage) => damaged.push(damage),
                Slot::Whole(manifest) => match self.flaw(&manifest)? {
                    Some(damage) => damaged.push(damage),
                    None => candidates.push(Found {
                        disk: Arc::clone(&self.disk),
                        manifest,
                        damage: Mutex::default(),
                    }),
                },
            }
        }
        candidates.sort_by_key(|found| std::cmp::Reverse(found.manifest.sequence));
        Ok((candidates, damaged))
    }

    /// What was found wrong with a snapshot before, or its first part that is not there.
    fn flaw(&self, manifest: &Manifest) -> Result<Option<Damage>> {
        if let Some(damage) = lock(&self.rotten).get(&manifest.sequence) {
            return Ok(Some(damage.clone()));
        }
        for part in &manifest.parts {
            if let Err(damage) = part::open(self.disk.as_ref(), manifest.log, part)? {
                return Ok(Some(damage));
            }
        }
        Ok(None)
    }
}
