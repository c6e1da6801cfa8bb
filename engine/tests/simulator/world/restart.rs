//! Crashes, restarts with another division of the work, and what must be so after them.

use super::World;
use crate::front::Layout;
use crate::machine::{Client, Machine};
use crate::reference::Ledger;
use crate::rng::Rng;
use crate::spec::SMALL_PLAN;
use crate::trace::{Seen, kinds};
use crate::violation::Invariant::{AcknowledgedStays, SameLogSameState};
use crate::violation::{Check, broken, ensure};
use crate::wal::Wal;
use engine::Engine;
use engine::plan::{Limits, Plan, PlanTable};
use engine::pump::Pump;
use engine::recover;
use persist::ids::{SLOTS, Slot};
use persist::log::Recovery;
use persist::record::Record;
use persist::{Error, LogId, Lsn, reader, segment};
use std::sync::Arc;

impl World {
    /// The process ends where it stands. Of what was not synced, some sectors are there afterwards.
    pub(super) fn crash(&mut self, why: &str) -> Check {
        let kept = [0, 100, 50, 90, 10][self.rng.below(5) as usize];
        note!(
            self,
            "crash ({why}), {kept} % of the unsynced sectors are kept"
        );
        self.counts.crashes += 1;
        let live = self.live.take();
        let appended = live.map(|live| std::mem::take(&mut live.wal.borrow_mut().appended));
        self.open.clear();
        self.lose_power(kept);
        self.restart(appended.unwrap_or_default())
    }

    fn lose_power(&mut self, kept: u64) {
        let Self { rng, .. } = self;
        self.log_disk.crash(|| rng.chance(kept));
        self.snapshot_disk.crash(|| rng.chance(kept));
    }

    /// Starts the process on what the crash left of `appended`, with the work divided anew.
    pub(super) fn restart(&mut self, mut appended: Vec<Vec<u8>>) -> Check {
        let faults = self.step > 0 && self.rng.chance(15);
        if faults {
            let faults = self.faults_soon(4);
            self.log_disk.set_faults(faults);
        }
        let layout = self.draw_layout();
        self.rebuild.settings.shards = layout.shards;
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
        let damaged = &recovered.damaged;
        ensure(damaged.is_empty(), SameLogSameState, || {
            format!("a crash left snapshots that can be seen and not read: {damaged:?}")
        })?;
        let last = recovered.recovery.last_lsn;
        note!(
            self,
            "starts at {last} from the snapshot at {}, {} were durable, {} appended, {layout:?}",
            recovered.snapshot,
            self.ledger.lsn,
            appended.len()
        );
        self.same_log(&mut appended, last)?;
        walk(&mut self.ledger, &appended, last, &mut self.seen)?;
        self.same_state(&recovered.engine, &appended)?;
        self.note_start(&recovered.recovery, recovered.snapshot, layout);
        (self.layout, self.rebuild.settings.shards) = (layout, layout.shards);
        self.ledger.begin(layout);
        let (mut pumps, publisher) =
            Pump::start(recovered.engine.with_plans(plans()), last, layout.pumps);
        self.switch_on(&mut pumps);
        let wal = Wal::new(recovered.writer, appended);
        let (workers, rng) = (self.rng.within(1, 2), Rng::new(self.rng.next()));
        self.live = Some(Machine::start(pumps, publisher, wal, workers as usize, rng));
        Ok(())
    }

    fn note_start(&mut self, recovery: &Recovery, snapshot: Lsn, layout: Layout) {
        let started = self.step > 0;
        let kinds = [
            ("torn tail", recovery.cut_bytes > 0),
            ("snapshot read", snapshot > Lsn::ZERO),
            (
                "restart with another number of shards",
                started && self.layout.shards != layout.shards,
            ),
            (
                "restart with another number of pumps",
                started && self.layout.pumps != layout.pumps,
            ),
        ];
        for (kind, _) in kinds.into_iter().filter(|(_, so)| *so) {
            self.seen.bump(kind);
        }
    }

    fn draw_layout(&mut self) -> Layout {
        let least = self.trial.pumps.unwrap_or(1);
        let shards = self.rng.within(u64::from(least), 7) as u16;
        let drawn = [1, 2, 3][self.rng.weighted(&[40, 35, 25])];
        let pumps = self.trial.pumps.unwrap_or(drawn);
        Layout {
            shards,
            pumps: u32::from(shards).min(pumps),
        }
    }

    #[cfg(debug_assertions)]
    fn switch_on(&self, pumps: &mut [Pump<Client>]) {
        if let Some(defect) = self.trial.defect {
            for pump in pumps {
                pump.engine_mut().mutations.switch_on(defect);
            }
        }
    }

    #[cfg(not(debug_assertions))]
    fn switch_on(&self, _pumps: &mut [Pump<Client>]) {
        assert!(
            self.trial.defect.is_none(),
            "a release build has no defects to switch on"
        );
    }

    /// What can be read back is a prefix of what was appended, and no shorter than what was synced;
    /// its beginning may be gone once two snapshots hold it.
    fn same_log(&self, appended: &mut Vec<Vec<u8>>, last: Lsn) -> Check {
        let durable = self.ledger.lsn;
        let kept = last >= durable && last.0 <= appended.len() as u64;
        ensure(kept, AcknowledgedStays, || {
            let appended = appended.len();
            format!("the log ends at {last}, {durable} was durable, {appended} appended")
        })?;
        appended.truncate(last.0 as usize);
        let begins = segment::list(&self.log_disk).ok();
        let begins = begins.and_then(|all| all.first().copied());
        let begins = begins.and_then(|n| segment::first_lsn(&self.log_disk, n).ok().flatten());
        let from = Lsn(begins.map_or(0, |lsn| lsn.0 - 1));
        let mut same = from.0;
        let all = &mut |lsn: Lsn, bytes: &[u8]| {
            let there = appended.get(lsn.0 as usize - 1);
            same += u64::from(there.is_some_and(|there| there == bytes));
            Ok(())
        };
        let read = reader::read(&self.log_disk, from, Lsn(u64::MAX), all);
        ensure(read.is_ok() && same == last.0, SameLogSameState, || {
            format!("{same} of {last} records are read back as they were written ({read:?})")
        })
    }

    /// The log folded from its beginning, without a snapshot, gives the state that recovery gave;
    /// and that is the reference's.
    fn same_state(&self, engine: &Engine, appended: &[Vec<u8>]) -> Check {
        let folded = self.folded(appended, |_| true)?;
        let same = folded.state_hash().ok() == engine.state_hash().ok();
        ensure(same, SameLogSameState, || {
            let parts = apart(&folded, engine);
            format!("the log is another state with its snapshot than without: {parts:?}")
        })?;
        self.compare(&[engine])
    }

    /// The log folded, as far as `wanted` records go.
    pub(super) fn folded(
        &self,
        appended: &[Vec<u8>],
        wanted: impl Fn(&Record<'_>) -> bool,
    ) -> Result<Engine, crate::violation::Violation> {
        let prices = Arc::clone(&self.rebuild.prices);
        let mut engine = Engine::new(prices, self.rebuild.settings);
        for bytes in appended {
            let record = postcard::from_bytes::<Record<'_>>(bytes);
            let record = record.map_err(|e| broken(SameLogSameState, e.to_string()))?;
            if wanted(&record) {
                engine.fold(&record);
            }
        }
        Ok(engine)
    }
}

/// The table of plans.
fn plans() -> Arc<PlanTable> {
    let (name, most) = SMALL_PLAN;
    let small = Plan {
        name: name.to_owned(),
        limits: Limits {
            executions_per_month: Some(most),
            ..Limits::default()
        },
        ..Plan::default()
    };
    Arc::new(PlanTable::new(vec![small], name.to_owned()))
}

/// In which parts two states differ.
fn apart(one: &Engine, two: &Engine) -> Vec<String> {
    let mut apart = Vec::new();
    let directory = |e: &Engine| e.directory_part().map(|rows| rows.to_vec()).ok();
    if directory(one) != directory(two) {
        apart.push(format!("directory at {:?} and {:?}", one.now(), two.now()));
    }
    let slots = |e: &Engine| {
        let rows = e.slots_part(Slot(0)..=Slot(SLOTS - 1));
        rows.map(|rows| rows.to_vec()).ok()
    };
    if slots(one) != slots(two) {
        apart.push("workflows".to_owned());
    }
    let events = |e: &Engine| {
        let (first, open) = e.dedup().numbers();
        let all = (first..=open).filter_map(|number| e.dedup().generation(number));
        let brief = all.map(|one| (one.number, one.since, one.keys.len()));
        format!("events {:?}", brief.collect::<Vec<_>>())
    };
    if events(one) != events(two) {
        apart.extend([events(one), events(two)]);
    }
    apart
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
        let call = match &record {
            Record::HoldMinted(minted) => minted.call.trace_id,
            _ => None,
        };
        let asked = call.and_then(|trace| ledger.asked.get(trace));
        for kind in kinds(&record, asked.map(|asked| &asked.ask)) {
            seen.bump(&kind);
        }
    }
    Ok(())
}
