//! From disk to engine: the newest snapshot, then the log behind it. The same code makes the next
//! snapshot and verifies a ledger, so every checkpoint is a test of recovery.

use crate::engine::{Engine, Settings};
use crate::price::PriceTable;
use crate::snapshot::Undecodable;
use persist::disk::Disk;
use persist::log::{Options, Recovery, Writer};
use persist::record::Record;
use persist::{LogId, Lsn, reader, snapshot};
use std::sync::Arc;

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
    /// The snapshots' directory.
    pub snapshots: Arc<dyn Disk>,
    /// Prices (not used in folding).
    pub prices: Arc<PriceTable>,
    /// Settings.
    pub settings: Settings,
}

/// An engine ready to serve.
#[derive(Debug)]
pub struct Recovered {
    /// The engine.
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
    pub damaged_snapshots: Vec<String>,
}

fn fold(engine: &mut Engine, lsn: Lsn, bytes: &[u8]) -> persist::Result<()> {
    let record =
        postcard::from_bytes::<Record<'_>>(bytes).map_err(|e| persist::Error::Undecodable {
            lsn,
            what: e.to_string(),
        })?;
    engine.fold(&record);
    Ok(())
}

impl Rebuild {
    fn empty(&self) -> Engine {
        Engine::new(Arc::clone(&self.prices), self.settings)
    }

    fn newest_snapshot(&self) -> Result<(Engine, Lsn, Option<LogId>, Vec<String>), Error> {
        let (found, damaged) = snapshot::newest(self.snapshots.as_ref())?;
        let mut engine = self.empty();
        let Some(found) = found else {
            return Ok((engine, Lsn::ZERO, None, damaged));
        };
        engine.restore(found.payload())?;
        Ok((engine, found.lsn, Some(found.log), damaged))
    }

    /// Rebuilds the state and opens the log (making one named `new_log` if there is none).
    pub fn open(&self, options: Options, new_log: LogId) -> Result<Recovered, Error> {
        let (mut engine, from, log, damaged_snapshots) = self.newest_snapshot()?;
        let mut replayed_bytes = 0;
        let (writer, recovery) = Writer::open(
            Arc::clone(&self.wal),
            options,
            log.unwrap_or(new_log),
            from,
            &mut |lsn, bytes| {
                replayed_bytes += bytes.len() as u64;
                fold(&mut engine, lsn, bytes)
            },
        )?;
        if log.is_some_and(|log| log != recovery.log) {
            return Err(Error::Persist(persist::Error::Damaged {
                file: self.snapshots.path_of(""),
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
            damaged_snapshots,
        })
    }

    /// Folds the log up to `until` onto the newest snapshot and writes the next one. Returns its
    /// LSN.
    pub fn checkpoint(&self, log: LogId, until: Lsn) -> Result<Lsn, Error> {
        let (mut engine, from, _, _) = self.newest_snapshot()?;
        let mut last = from;
        reader::read(self.wal.as_ref(), from, until, &mut |lsn, bytes| {
            last = lsn;
            fold(&mut engine, lsn, bytes)
        })?;
        if last > from {
            snapshot::write(self.snapshots.as_ref(), log, last, &engine.to_snapshot()?)?;
        }
        Ok(last)
    }

    /// Folds the log up to `until` from its very beginning, without any snapshot: an independent
    /// account of what the live engine says.
    pub fn replay(&self, until: Lsn) -> Result<Engine, Error> {
        let mut engine = self.empty();
        reader::read(self.wal.as_ref(), Lsn::ZERO, until, &mut |lsn, bytes| {
            fold(&mut engine, lsn, bytes)
        })?;
        Ok(engine)
    }
}
