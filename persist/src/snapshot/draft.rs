//! A snapshot being written. Its parts come first, under names nobody lists; then its manifest takes
//! the slot of the older snapshot. Until then both older ones are as they were.

use super::manifest::{self, Manifest, SLOTS, Slot};
use super::part::{self, PartRef};
use super::store::Store;
use crate::disk::Disk;
use crate::ids::LogId;
use crate::units::Lsn;
use crate::whole_file;
use crate::{Error, Result, crash_points};
use std::collections::BTreeSet;

/// Parts written so far. Dropped unfinished, it leaves files that the next snapshot removes.
#[derive(Debug)]
pub struct Draft<'a> {
    store: &'a Store,
    slot: usize,
    manifest: Manifest,
    written: u32,
}

impl<'a> Draft<'a> {
    /// `newest` is the snapshot that must stay whatever happens.
    pub(super) fn begin(
        store: &'a Store,
        newest: Option<&Manifest>,
        log: LogId,
        lsn: Lsn,
    ) -> Result<Self> {
        let disk = store.disk.as_ref();
        whole_file::sweep(disk, |name| part::is_name(name) || SLOTS.contains(&name))?;
        let slots = manifest::slots(disk)?;
        // A slot that cannot be read may list parts that its owner would like to look at: they go
        // when the slot is taken.
        if !slots.iter().any(|slot| matches!(slot, Slot::Damaged(_))) {
            remove_unlisted(disk, &slots)?;
        }
        let names = whole_file::list(disk)?;
        let of_parts = names.iter().filter_map(|name| part::sequence_of(name));
        let of_slots = slots.iter().filter_map(|slot| match slot {
            Slot::Whole(manifest) => Some(manifest.sequence),
            _ => None,
        });
        // Above every number in use, those of damaged snapshots included: no file is written over.
        let sequence = of_parts.chain(of_slots).max().unwrap_or(0) + 1;
        let is_newest = |slot: &Slot| matches!(slot, Slot::Whole(m) if Some(m) == newest);
        let slot = usize::from(slots.first().is_some_and(is_newest));
        Ok(Self {
            store,
            slot,
            manifest: Manifest {
                log,
                sequence,
                lsn,
                parts: Vec::new(),
            },
            written: 0,
        })
    }

    /// Writes a part. `kind` and `tag` come back with it.
    pub fn put(&mut self, kind: u8, tag: u64, payload: &[u8]) -> Result<PartRef> {
        let mut part = PartRef {
            sequence: self.manifest.sequence,
            index: self.written,
            kind,
            tag,
            lsn: self.manifest.lsn,
            len: 0,
            crc: 0,
        };
        part::write(
            self.store.disk.as_ref(),
            self.manifest.log,
            &mut part,
            payload,
        )?;
        self.written += 1;
        self.manifest.parts.push(part);
        Ok(part)
    }

    /// Lists a part of an earlier snapshot again. False if its file is not what it should be; then it
    /// has to be put anew. Its contents are not read: damage in them, which both snapshots then
    /// share, shows when it is loaded.
    pub fn keep(&mut self, part: &PartRef) -> Result<bool> {
        let there = part::open(self.store.disk.as_ref(), self.manifest.log, part)?.is_ok();
        if there {
            self.manifest.parts.push(*part);
        }
        Ok(there)
    }

    /// Makes it the newest snapshot, durably, and removes what neither it nor the one before lists.
    ///
    /// # Errors
    /// If the manifest could not be written, the snapshots before are as they were. An error while
    /// old files are removed leaves the new snapshot in place.
    pub fn finish(self) -> Result<Manifest> {
        let disk = self.store.disk.as_ref();
        whole_file::sync_names(disk, crash_points::PARTS_DIR_SYNCED)?;
        manifest::write(disk, self.slot, &self.manifest)?;
        remove_unlisted(disk, &manifest::slots(disk)?)?;
        Ok(self.manifest)
    }
}

/// Removes parts that no slot lists. What a crash brings back is removed the next time.
fn remove_unlisted(disk: &dyn Disk, slots: &[Slot]) -> Result<()> {
    let listed: BTreeSet<String> = slots
        .iter()
        .filter_map(|slot| match slot {
            Slot::Whole(manifest) => Some(manifest.parts.iter().map(PartRef::name)),
            _ => None,
        })
        .flatten()
        .collect();
    for name in whole_file::list(disk)? {
        if part::is_name(&name) && !listed.contains(&name) {
            disk.remove(&name)
                .map_err(|e| Error::io("remove", &disk.path_of(&name), e))?;
            whole_file::reach(disk, crash_points::OLD_PART_REMOVED)?;
        }
    }
    Ok(())
}
