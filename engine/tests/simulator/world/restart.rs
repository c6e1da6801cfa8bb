//! Crashes, restarts, and what must be so after them.

use super::{Client, Live, Mail, World};
use crate::compare::compare;
use crate::reference::Ledger;
use crate::trace::{Seen, kinds};
use crate::violation::Invariant::{AcknowledgedStays, HoldEndsOnce, SameLogSameState};
use crate::violation::{Check, broken, ensure};
use crate::wal::Wal;
use engine::Engine;
use engine::pump::Pump;
use engine::recover;
use persist::record::Record;
use persist::{Error, LogId, Lsn, reader};

impl World {
    /// The process ends where it stands. Of what was not synced, some sectors are there afterwards.
    pub(super) fn crash(&mut self, why: &str) -> Check {
        let kept = [0, 100, 50, 90, 10][self.rng.below(5) as usize];
        note!(
            self,
            "crash ({why}), {kept} % of the unsynced sectors are kept"
        );
        self.counts.crashes += 1;
        let appended = self.live.take().map(|live| live.wal.appended);
        self.inbox.clear();
        self.open.clear();
        *self.mail.borrow_mut() = Mail::default();
        self.lose_power(kept);
        self.restart_with(appended.unwrap_or_default())
    }

    fn lose_power(&mut self, kept: u64) {
        let Self { rng, .. } = self;
        self.log_disk.crash(|| rng.chance(kept));
        self.snapshot_disk.crash(|| rng.chance(kept));
    }

    pub(super) fn restart(&mut self) -> Check {
        self.restart_with(Vec::new())
    }

    /// Starts the process on what the crash left of `appended`.
    fn restart_with(&mut self, mut appended: Vec<Vec<u8>>) -> Check {
        if self.step > 0 && self.rng.chance(15) {
            let faults = self.faults_soon(4);
            self.log_disk.set_faults(faults);
        }
        let recovered = loop {
            match self.rebuild.open(self.options, LogId(1)) {
                Ok(recovered) => break recovered,
                Err(recover::Error::Persist(Error::Io { .. })) => {
                    note!(self, "crash while starting");
                    self.lose_power(50);
                }
                Err(error) => {
                    let why = format!("a crash is taken for damage: {error}");
                    return Err(broken(AcknowledgedStays, why));
                }
            }
        };
        let damaged = &recovered.damaged_snapshots;
        ensure(damaged.is_empty(), SameLogSameState, || {
            format!("a crash left snapshots that can be seen and not read: {damaged:?}")
        })?;
        self.counts.torn += u64::from(recovered.recovery.cut_bytes > 0);
        self.counts.from_snapshot += u64::from(recovered.snapshot > Lsn::ZERO);
        let last = recovered.recovery.last_lsn;
        note!(
            self,
            "starts at {last} from the snapshot at {}, {} were durable, {} appended",
            recovered.snapshot,
            self.ledger.lsn,
            appended.len()
        );
        self.same_log(&mut appended, last)?;
        walk(&mut self.ledger, &appended, last, &mut self.seen)?;
        self.same_state(&recovered.engine, last)?;
        let mut pump = Pump::new(recovered.engine, last);
        self.switch_on(&mut pump);
        self.live = Some(Live {
            pump,
            wal: Wal::new(recovered.writer, appended),
            turn_due: false,
            began: last,
        });
        Ok(())
    }

    #[cfg(debug_assertions)]
    fn switch_on(&self, pump: &mut Pump<Client>) {
        if let Some(mutation) = self.mutation {
            pump.engine_mut().mutations.switch_on(mutation);
        }
    }

    #[cfg(not(debug_assertions))]
    fn switch_on(&self, _pump: &mut Pump<Client>) {
        assert!(
            self.mutation.is_none(),
            "a release build has no defects to switch on"
        );
    }

    /// What can be read back is a prefix of what was appended, and no shorter than what was synced.
    fn same_log(&self, appended: &mut Vec<Vec<u8>>, last: Lsn) -> Check {
        let durable = self.ledger.lsn;
        let kept = last >= durable && last.0 <= appended.len() as u64;
        ensure(kept, AcknowledgedStays, || {
            let appended = appended.len();
            format!("the log ends at {last}, {durable} was durable, {appended} appended")
        })?;
        appended.truncate(last.0 as usize);
        let mut same = 0;
        let all = &mut |lsn: Lsn, bytes: &[u8]| {
            let there = appended.get(lsn.0 as usize - 1);
            same += u64::from(there.is_some_and(|there| there == bytes));
            Ok(())
        };
        let read = reader::read(&self.log_disk, Lsn::ZERO, Lsn(u64::MAX), all);
        ensure(read.is_ok() && same == last.0, SameLogSameState, || {
            format!("{same} of {last} records are read back as they were written ({read:?})")
        })
    }

    /// Is the engine's inside looked at? Not while a defect is on: it has to show outside, in the
    /// log and in the answers.
    const fn looks_inside(&self) -> bool {
        self.mutation.is_none()
    }

    /// The log folded from its beginning, without a snapshot, gives the state that recovery gave;
    /// and that is the reference's.
    fn same_state(&self, engine: &Engine, last: Lsn) -> Check {
        let replayed = self
            .rebuild
            .replay(last)
            .map_err(|e| broken(SameLogSameState, format!("the log cannot be replayed: {e}")))?;
        let same = replayed.state_hash().ok() == engine.state_hash().ok();
        ensure(same, SameLogSameState, || {
            format!("the log up to {last} is another state with its snapshot than without")
        })?;
        if self.looks_inside() {
            compare(engine, &self.ledger)?;
        }
        Ok(())
    }

    pub(super) fn check(&mut self) -> Check {
        let Some(live) = &self.live else {
            return Ok(());
        };
        // Whoever signs in reads this directory without asking.
        let published = live.pump.published().load().lsn;
        let durable = published <= self.ledger.lsn && published >= self.promises.rules;
        ensure(durable, AcknowledgedStays, || {
            let (promised, lsn) = (self.promises.rules, self.ledger.lsn);
            format!(
                "the published directory is that of {published}; {promised} was acknowledged, \
                 {lsn} is durable"
            )
        })?;
        let engine = live.pump.engine();
        if live.pump.appended() != self.ledger.lsn {
            return Ok(());
        }
        if self.looks_inside() {
            compare(engine, &self.ledger)?;
        }
        self.counts.records = self.ledger.lsn.0;
        self.counts.forgotten = self.ledger.charges.forgotten;
        let now = engine.now();
        for (id, hold) in self.ledger.open() {
            ensure(hold.expires_at > now, HoldEndsOnce, || {
                format!(
                    "{id} should have expired at {:?}, it is {now:?}",
                    hold.expires_at
                )
            })?;
            let promised = self.ledger.delivered.contains(id) || hold.minted <= live.began;
            ensure(promised || !self.is_at_rest(), HoldEndsOnce, || {
                format!("{id} is held for nobody: its answer was never delivered")
            })?;
        }
        if self.rng.chance(2) {
            self.check_hash()?;
        }
        Ok(())
    }

    /// The running engine's state is the log, folded.
    pub(super) fn check_hash(&self) -> Check {
        let Some(live) = self.live.as_ref().filter(|_| self.looks_inside()) else {
            return Ok(());
        };
        let engine = live.pump.engine();
        let replayed = self.rebuild.replay(self.ledger.lsn);
        let folded = replayed.map(|mut folded| {
            // Time that passed without a record is in no log.
            folded.advance(engine.now());
            folded.state_hash().ok()
        });
        ensure(
            folded.is_ok_and(|hash| hash == engine.state_hash().ok()),
            SameLogSameState,
            || "the running engine's state is not the log folded".to_owned(),
        )
    }
}

/// Shows the reference the records that have become durable.
pub(super) fn walk(
    ledger: &mut Ledger,
    appended: &[Vec<u8>],
    durable: Lsn,
    seen: &mut Seen,
) -> Check {
    while ledger.lsn < durable {
        let lsn = ledger.lsn.next();
        let bytes = appended.get(lsn.0 as usize - 1).map(Vec::as_slice);
        let record = postcard::from_bytes::<Record<'_>>(bytes.unwrap_or_default());
        let record = record.map_err(|e| broken(SameLogSameState, format!("{lsn}: {e}")))?;
        ledger.record(lsn, &record)?;
        for kind in kinds(&record) {
            *seen.entry(kind).or_default() += 1;
        }
    }
    Ok(())
}
