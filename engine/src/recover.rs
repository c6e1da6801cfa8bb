//! From disk to engine: the newest snapshot, then the log behind it. The same code makes the next
//! snapshot and verifies a ledger, so every checkpoint is a test of recovery.

use crate::dedup::Generation;
use crate::engine::{Engine, Settings, about};
use crate::price::PriceTable;
use crate::snapshot::{Undecodable, generation_part, read_directory, read_generation};
use persist::disk::Disk;
use persist::follow::Reader;
use persist::ids::{SLOTS, Slot};
use persist::log::{Options, Recovery, Writer};
use persist::record::Record;
use persist::snapshot::{Damage, Found, Manifest, PartRef, Store};
use persist::{LogId, Lsn};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a part holds.
const DIRECTORY: u8 = 1;
/// The workflows of a range of slots; the tag is the range's number.
const SLOT_RANGE: u8 = 2;
/// A generation of counted events; the tag is its number.
const EVENTS: u8 = 3;

/// Into how many ranges the slots are divided in a snapshot, whatever the number of shards is.
const RANGES: u16 = 16;
/// What a snapshot costs in memory, unless somebody says otherwise.
const FOLDED_AT_ONCE: u64 = 64 << 20;

// Points at which the machine may die, beside those of `persist::crash_points`.

/// The log behind the last snapshot is folded, and nothing is written.
pub const FOLDED: &str = "snapshot-folded";
/// A generation of counted events that an earlier snapshot wrote is listed again.
pub const GENERATION_KEPT: &str = "generation-kept";
/// A generation that was sealed since the last snapshot is written: from now on it is only kept.
pub const EVENTS_SEALED: &str = "events-sealed";
/// The open generation is written.
pub const GENERATION_WRITTEN: &str = "generation-written";

/// Every point of this crate.
pub const POINTS: &[&str] = &[FOLDED, GENERATION_KEPT, EVENTS_SEALED, GENERATION_WRITTEN];

/// Why the state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk, the log or a snapshot file.
    #[error(transparent)]
    Persist(#[from] persist::Error),
    /// A snapshot's contents.
    #[error(transparent)]
    Snapshot(#[from] Undecodable),
}

/// What a state is rebuilt with.
#[derive(Debug, Clone)]
pub struct Rebuild {
    /// The log's directory.
    pub wal: Arc<dyn Disk>,
    /// The snapshots.
    pub snapshots: Arc<Store>,
    /// The snapshots' directory.
    pub snapshot_disk: Arc<dyn Disk>,
    /// Prices (not used in folding).
    pub prices: Arc<PriceTable>,
    /// Settings.
    pub settings: Settings,
    /// Ranges of slots are folded together for a snapshot as long as their parts in the last one do
    /// not pass this many bytes: what a snapshot costs in memory.
    pub folded_at_once: u64,
}

/// An engine ready to serve.
#[derive(Debug)]
pub struct Recovered {
    /// The engine, with all shards.
    pub engine: Engine,
    /// The log, open for appending.
    pub writer: Writer,
    /// What was found.
    pub recovery: Recovery,
    /// The LSN of the snapshot it began with.
    pub snapshot: Lsn,
    /// Bytes of records folded behind it.
    pub replayed_bytes: u64,
    /// Snapshot files that are damaged and were passed over.
    pub damaged: Vec<Damage>,
}

fn decode(lsn: Lsn, bytes: &[u8]) -> persist::Result<Record<'_>> {
    postcard::from_bytes::<Record<'_>>(bytes).map_err(|e| persist::Error::Undecodable {
        lsn,
        what: e.to_string(),
    })
}

/// The slots of a range.
fn slots(range: u16) -> RangeInclusive<Slot> {
    let size = SLOTS / RANGES;
    Slot(range * size)..=Slot(range * size + size - 1)
}

const fn range_of(slot: Slot) -> u16 {
    slot.0 / (SLOTS / RANGES)
}

impl Rebuild {
    /// Rebuilds from these two directories.
    #[must_use]
    pub fn new(
        wal: Arc<dyn Disk>,
        snapshots: Arc<dyn Disk>,
        prices: Arc<PriceTable>,
        settings: Settings,
    ) -> Self {
        Self {
            wal,
            snapshots: Arc::new(Store::open(Arc::clone(&snapshots))),
            snapshot_disk: snapshots,
            prices,
            settings,
            folded_at_once: FOLDED_AT_ONCE,
        }
    }

    fn empty(&self) -> Engine {
        Engine::new(Arc::clone(&self.prices), self.settings)
    }

    /// The engine of a snapshot, as far as `wanted` parts go. The directory, about half of the work
    /// when there are many workflows, is read beside the rest.
    fn read(&self, found: &Found, wanted: impl Fn(&PartRef) -> bool) -> Result<Engine, Error> {
        let parts = found.manifest.parts.iter().filter(|part| wanted(part));
        let (directory, rest): (Vec<&PartRef>, Vec<&PartRef>) =
            parts.partition(|part| part.kind == DIRECTORY);
        std::thread::scope(|scope| {
            let directory = scope.spawn(|| {
                let part = directory.first();
                part.map(|part| Ok::<_, Error>(read_directory(&found.read(part)?)?))
                    .transpose()
            });
            let engine = self.read_shards(found, &rest);
            let directory = directory.join();
            let directory = directory.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let mut engine = engine?;
            if let Some(directory) = directory? {
                engine.restore_directory(directory);
            }
            Ok(engine)
        })
    }

    fn read_shards(&self, found: &Found, parts: &[&PartRef]) -> Result<Engine, Error> {
        let mut engine = self.empty();
        let mut generations: Vec<Generation> = Vec::new();
        for part in parts {
            let bytes = found.read(part)?;
            match part.kind {
                SLOT_RANGE => engine.restore_slots(&bytes)?,
                EVENTS => generations.push(read_generation(&bytes)?),
                // A part of a kind that only a newer version knows.
                _ => {
                    let file = self.snapshot_disk.path_of(&part.name());
                    return Err(Error::Persist(persist::Error::Version {
                        file,
                        found: u32::from(part.kind),
                        known: u32::from(EVENTS),
                    }));
                }
            }
        }
        generations.sort_by_key(|generation| generation.number);
        let listed = found.manifest.parts.iter();
        let listed = listed.filter(|part| part.kind == EVENTS);
        let oldest = listed.map(|part| part.tag).min().unwrap_or(0);
        engine.dedup().restore(&generations, oldest);
        Ok(engine)
    }

    fn newest(&self) -> Result<(Engine, Option<Manifest>, Vec<Damage>), Error> {
        let loaded = self.snapshots.load(|found| self.read(found, |_| true))?;
        Ok(match loaded.built {
            Some((manifest, engine)) => (engine, Some(manifest), loaded.damaged),
            None => (self.empty(), None, loaded.damaged),
        })
    }

    /// Rebuilds the state and opens the log (making one named `new_log` if there is none).
    pub fn open(&self, options: Options, new_log: LogId) -> Result<Recovered, Error> {
        let (mut engine, manifest, damaged) = self.newest()?;
        let from = manifest.as_ref().map_or(Lsn::ZERO, |manifest| manifest.lsn);
        let log = manifest.map(|manifest| manifest.log);
        let mut replayed_bytes = 0;
        let (writer, recovery) = Writer::open(
            Arc::clone(&self.wal),
            options,
            log.unwrap_or(new_log),
            from,
            &mut |lsn, bytes| {
                replayed_bytes += bytes.len() as u64;
                engine.fold(&decode(lsn, bytes)?);
                Ok(())
            },
        )?;
        if log.is_some_and(|log| log != recovery.log) {
            return Err(Error::Persist(persist::Error::Damaged {
                file: self.snapshot_disk.path_of(""),
                offset: 0,
                what: "the snapshot was made from another log than the one beside it".to_owned(),
            }));
        }
        Ok(Recovered {
            engine,
            writer,
            recovery,
            snapshot: from,
            replayed_bytes,
            damaged,
        })
    }

    /// Folds the log up to `until` (which is durable) onto the newest snapshot and writes the next
    /// one, some ranges of slots at a time. Returns its LSN.
    pub fn checkpoint(&self, log: LogId, until: Lsn) -> Result<Lsn, Error> {
        let sizes = self.snapshots.load(|_| Ok::<_, Error>(()))?.built;
        let from = sizes
            .as_ref()
            .map_or(Lsn::ZERO, |(manifest, ())| manifest.lsn);
        if until <= from {
            return Ok(from);
        }
        let last = sizes.as_ref().map(|(manifest, ())| manifest);
        let groups = groups(last, self.folded_at_once);
        let mut draft = None;
        for group in groups {
            let (engine, base) = self.fold_group(&group, until)?;
            self.reach(FOLDED)?;
            let draft = match &mut draft {
                Some(draft) => draft,
                None => draft.insert(self.snapshots.begin(log, until)?),
            };
            if group.contains(&0) {
                draft.put(DIRECTORY, 0, &engine.directory_part()?)?;
                self.put_events(&engine, base.as_ref(), draft)?;
            }
            for range in group {
                let rows = engine.slots_part(slots(range))?;
                draft.put(SLOT_RANGE, u64::from(range), &rows)?;
            }
        }
        match draft {
            Some(draft) => Ok(draft.finish()?.lsn),
            None => Ok(from),
        }
    }

    /// The state of some ranges of slots at `until`; with range 0 also the directory and the events.
    fn fold_group(&self, group: &[u16], until: Lsn) -> Result<(Engine, Option<Manifest>), Error> {
        let first = group.contains(&0);
        let loaded = self.snapshots.load(|found| {
            let open = open_generation(&found.manifest);
            self.read(found, |part| match part.kind {
                SLOT_RANGE => group.iter().any(|range| u64::from(*range) == part.tag),
                // Sealed generations are listed again unread.
                EVENTS => first && Some(part.tag) == open,
                _ => first,
            })
        })?;
        let (base, mut engine) = match loaded.built {
            Some((manifest, engine)) => (Some(manifest), engine),
            None => (None, self.empty()),
        };
        let from = base.as_ref().map_or(Lsn::ZERO, |manifest| manifest.lsn);
        Reader::new(Arc::clone(&self.wal), from).read(until, &mut |lsn, bytes| {
            let record = decode(lsn, bytes)?;
            let (at, workflow) = about(&record);
            let ours = workflow.map_or(first, |(org, id)| group.contains(&range_of(id.slot(org))));
            match &record {
                // An event counts wherever it is booked.
                Record::Charged(charged) if first && !ours => {
                    if let Some(key) = charged.event_key {
                        engine.dedup().insert(at, key);
                    }
                    engine.advance(at);
                }
                record if ours => engine.fold(record),
                _ => engine.advance(at),
            }
            Ok(())
        })?;
        Ok((engine, base))
    }

    /// Generations that were sealed by the last snapshot never change: they are listed again, as long as
    /// they are remembered. Those of `engine` are written.
    fn put_events(
        &self,
        engine: &Engine,
        base: Option<&Manifest>,
        draft: &mut persist::snapshot::Draft<'_>,
    ) -> Result<(), Error> {
        let keep_from = engine.dedup().keep_from();
        if let Some(base) = base {
            let open = open_generation(base);
            let sealed = base.parts.iter().filter(|part| part.kind == EVENTS);
            for part in sealed.filter(|part| Some(part.tag) != open && part.tag >= keep_from) {
                if !draft.keep(part)? {
                    return Err(Error::Persist(persist::Error::SnapshotDamaged {
                        lsn: base.lsn,
                        damage: Damage {
                            file: part.name(),
                            what: "is gone or damaged".to_owned(),
                        },
                    }));
                }
                self.reach(GENERATION_KEPT)?;
            }
        }
        let (first, open) = engine.dedup().numbers();
        for number in first.max(keep_from)..=open {
            if let Some(generation) = engine.dedup().generation(number) {
                draft.put(EVENTS, number, &generation_part(&generation)?)?;
                self.reach(if number == open {
                    GENERATION_WRITTEN
                } else {
                    EVENTS_SEALED
                })?;
            }
        }
        Ok(())
    }

    /// Says that a point is reached.
    fn reach(&self, point: &'static str) -> Result<(), Error> {
        let io = |source| persist::Error::Io {
            action: "pass",
            file: point.to_owned(),
            source,
        };
        Ok(self.snapshot_disk.reach(point).map_err(io)?)
    }

    /// Folds the log up to `until`, from its very beginning if it is still there, else from the older
    /// snapshot: an account of what the live engine says that does not rest on the newest snapshot.
    pub fn replay(&self, until: Lsn) -> Result<Engine, Error> {
        self.replay_parts(until, &|_| until, until)
    }

    /// The same, each slot up to an LSN of its own (at most `most`). It may begin with a snapshot of
    /// `before` or less.
    ///
    /// # Errors
    /// [`persist::Error::FellBehind`] if a newer snapshot has taken the place of that.
    pub fn replay_parts(
        &self,
        before: Lsn,
        until: &dyn Fn(Slot) -> Lsn,
        most: Lsn,
    ) -> Result<Engine, Error> {
        let (mut engine, from) = self.replay_base()?;
        if from > before {
            return Err(Error::Persist(persist::Error::FellBehind {
                needed: before,
                begins: from,
            }));
        }
        Reader::new(Arc::clone(&self.wal), from).read(most, &mut |lsn, bytes| {
            let record = decode(lsn, bytes)?;
            let (_, workflow) = about(&record);
            if workflow.is_none_or(|(org, id)| lsn <= until(id.slot(org))) {
                engine.fold(&record);
            }
            Ok(())
        })?;
        Ok(engine)
    }

    fn replay_base(&self) -> Result<(Engine, Lsn), Error> {
        if persist::segment::list(self.wal.as_ref())?.first() == Some(&1) {
            return Ok((self.empty(), Lsn::ZERO));
        }
        let oldest = self
            .snapshots
            .load_oldest(|found| self.read(found, |_| true))?;
        Ok(match oldest.built {
            Some((manifest, engine)) => (engine, manifest.lsn),
            // The reader says what is missing.
            None => (self.empty(), Lsn::ZERO),
        })
    }
}

/// Ranges that are folded together: each group passes the log once.
fn groups(last: Option<&Manifest>, folded_at_once: u64) -> Vec<Vec<u16>> {
    let size = |range: u16| {
        let parts = last.into_iter().flat_map(|manifest| &manifest.parts);
        let part = parts.filter(|part| part.kind == SLOT_RANGE && part.tag == u64::from(range));
        part.map(|part| part.len).sum::<u64>()
    };
    let mut groups: Vec<Vec<u16>> = Vec::new();
    let mut open = 0;
    for range in 0..RANGES {
        match groups.last_mut() {
            Some(group) if open + size(range) <= folded_at_once => group.push(range),
            _ => {
                open = 0;
                groups.push(vec![range]);
            }
        }
        open += size(range);
    }
    groups
}

/// The newest generation of a snapshot was open when that was made.
fn open_generation(manifest: &Manifest) -> Option<u64> {
    let events = manifest.parts.iter().filter(|part| part.kind == EVENTS);
    events.map(|part| part.tag).max()
}
