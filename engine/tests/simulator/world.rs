//! The simulated world: one thread, one seed. Clients send, pumps turn, frames are written and synced
//! one at a time, answers are released, time jumps, disks fail and fill up, the power goes; after
//! every step the reference is asked whether all is well.

use super::clients::{Clients, Habits};
use super::front::{Layout, Request};
use super::machine::Machine;
use super::promises::{Moment, Promises};
use super::reference::Ledger;
use super::rng::Rng;
use super::spec::{FLOOR, HOLD_MILLIS, next_month, price_file};
use super::trace::{Counts, Seen, Trace};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, broken, ensure};
use super::wal::Written;
use engine::Settings;
use engine::mutation::Mutation;
use engine::price::PriceTable;
use engine::recover::{self, Rebuild};
use persist::disk::{Faults, FaultyDisk};
use persist::log::Options;
use persist::{Day, Error, LogId, Lsn, Millis};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const HOUR: u64 = 3_600_000;
const TO_REST: u64 = 20_000;

macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        $world.trace.note($world.step, format_args!($($what)*))
    };
}

mod checks;
mod requests;
mod restart;

/// What a run is made to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trial {
    /// A defect that is switched on.
    pub defect: Option<Mutation>,
    /// So many pumps in every process; drawn at each start if it does not matter.
    pub pumps: Option<u32>,
}

/// A request on its way, and how things stood when it began.
#[derive(Debug)]
struct Open {
    request: Request,
    moment: Moment,
}

#[derive(Debug)]
pub struct World {
    rng: Rng,
    step: u64,
    wall: Millis,
    log_disk: FaultyDisk,
    snapshot_disk: FaultyDisk,
    rebuild: Rebuild,
    options: Options,
    trial: Trial,
    layout: Layout,
    /// The running process.
    live: Option<Rc<Machine>>,
    clients: Clients,
    ledger: Ledger,
    promises: Promises,
    open: BTreeMap<u64, Open>,
    next_request: u64,
    /// Weights of: send, turn, write, sync, release, time, leave, read, checkpoint, faults, crash.
    weights: [u64; 11],
    jumpy: u64,
    /// The log behind the older of two snapshots is removed.
    trims: bool,
    pub trace: Trace,
    pub counts: Counts,
    /// How often each kind of thing happened.
    pub seen: Seen,
}

impl World {
    pub fn new(seed: u64, trial: Trial) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let habits = Habits::draw(&mut rng);
        let (log_disk, snapshot_disk) = (FaultyDisk::default(), FaultyDisk::default());
        // A few runs remember so few events that they have to forget.
        let dedup_keys = [1 << 20, 40, 16][rng.weighted(&[60, 20, 20])];
        let prices = PriceTable::from_json(&price_file()).expect("the price file is well formed");
        let mut rebuild = Rebuild::new(
            Arc::new(log_disk.clone()),
            Arc::new(snapshot_disk.clone()),
            Arc::new(prices),
            Settings {
                floor: FLOOR,
                hold_millis: HOLD_MILLIS,
                dedup_keys,
                shards: 1,
            },
        );
        // A few make snapshots a part or a few at a time.
        rebuild.folded_at_once = [1 << 20, 0, 2 << 10][rng.weighted(&[60, 20, 20])];
        let segment_bytes = [8 << 10, 16 << 10, 64 << 10][rng.below(3) as usize];
        let mut world = Self {
            step: 0,
            // Shortly before the end of a month, in some year.
            wall: Millis(1_793_487_600_000 + rng.below(400) * HOUR),
            log_disk,
            snapshot_disk,
            rebuild,
            options: Options {
                segment_bytes,
                quota_bytes: None,
            },
            trial,
            layout: Layout::default(),
            live: None,
            clients: Clients::new(habits),
            ledger: Ledger::default(),
            promises: Promises::default(),
            open: BTreeMap::new(),
            next_request: 0,
            weights: draw_weights(&mut rng),
            jumpy: rng.below(4),
            trims: rng.chance(30),
            rng,
            trace: Trace::default(),
            counts: Counts::default(),
            seen: Seen::default(),
        };
        world.ledger.charges.capacity = dedup_keys as u64;
        world.restart(Vec::new())?;
        Ok(world)
    }

    /// Does one thing and checks everything that can be checked then.
    pub fn step(&mut self) -> Check {
        self.step += 1;
        self.counts.steps += 1;
        let weights = self.weights;
        match self.rng.weighted(&weights) {
            0 => self.send(),
            1 => self.turn()?,
            2 => self.write()?,
            3 => self.sync()?,
            4 => self.release()?,
            5 => self.pass_time(),
            6 => self.leave(),
            7 => self.read(),
            8 => self.checkpoint()?,
            9 => self.break_disk(),
            _ if self.rng.chance(20) => self.crash("the power goes")?,
            _ => {}
        }
        self.check()
    }

    /// Lets everything under way come to rest, loses power and starts a last time.
    pub fn finish(&mut self) -> Check {
        self.step += 1;
        note!(self, "coming to rest");
        for disk in [&self.log_disk, &self.snapshot_disk] {
            disk.set_faults(Faults::default());
            disk.set_full(false);
        }
        if self.live().is_some_and(|live| live.wal.borrow().failed) {
            self.crash("the log has failed")?;
        }
        let patience = self.step + TO_REST;
        while !(self.open.is_empty() && self.live().is_none_or(|live| live.is_done())) {
            self.step += 1;
            ensure(self.step < patience, AcknowledgedStays, || {
                let open = &self.open;
                format!("it does not come to rest; these are not answered: {open:?}")
            })?;
            self.turn()?;
            self.write()?;
            self.sync()?;
            self.release()?;
            self.check()?;
        }
        self.check_hash()?;
        self.crash("the last")?;
        if self.ledger.charges.forgotten > 0 {
            self.seen.bump("counted again, forgotten");
        }
        self.check()
    }

    fn live(&self) -> Option<Rc<Machine>> {
        self.live.clone()
    }

    fn turn(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        let pump = self.rng.below(live.pumps.len() as u64) as usize;
        let most = [4, 20][self.rng.weighted(&[60, 40])];
        let most = self.rng.below(most) as usize;
        let met = live.met.replace(0);
        live.wall.set(self.wall);
        let turned = live.turn(pump, most, self.wall);
        if live.met.get() > met {
            self.seen.bump("turns that met");
        }
        if live.pumps.iter().any(|pump| pump.borrow().must_turn()) {
            self.seen.bump("put off");
        }
        for note in live.notes.borrow_mut().drain(..) {
            note!(self, "{note}");
        }
        for (request, place) in live.places() {
            if !place.flights.is_empty() {
                self.seen.bump("decided beside others");
            }
            if place.first > place.seen.next() {
                self.seen.bump("decided while others moved");
            }
            self.ledger.places.insert(request, Rc::new(place));
        }
        let failure = live.failure.take();
        match (turned, failure) {
            (Ok(()), None) => self.deliver(),
            (Ok(()), Some(failure)) => self.crash(&failure),
            (Err(error), _) => self.crash(&error.to_string()),
        }
    }

    fn release(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        let worker = self.rng.below(live.workers() as u64) as usize;
        live.release(worker);
        self.deliver()
    }

    fn write(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        let written = live.wal.borrow_mut().write();
        match written {
            Ok(Written::Nothing) => Ok(()),
            Ok(Written::NoRoom) => {
                note!(self, "there is no room for the next frame");
                self.seen.bump("disk full");
                Ok(())
            }
            Ok(Written::UpTo(last)) => {
                note!(self, "writes up to {last}");
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    fn sync(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        let synced = live.wal.borrow_mut().sync();
        match synced {
            Ok(None) => Ok(()),
            Ok(Some(durable)) => {
                note!(self, "synced up to {durable}");
                let wal = live.wal.borrow();
                restart::walk(&mut self.ledger, &wal.appended, durable, &mut self.seen)
            }
            Err(error) => self.failed(&error),
        }
    }

    /// The log has failed: the process ends, at once or a little later.
    fn failed(&mut self, error: &Error) -> Check {
        note!(self, "the log fails: {error}");
        if self.rng.chance(50) {
            return self.crash("the log has failed");
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let from = self.wall;
        let jumpy = self.jumpy;
        let weights = [60, 15, 3 * jumpy, jumpy, jumpy, jumpy, jumpy];
        let to = match self.rng.weighted(&weights) {
            0 => from.plus(self.rng.within(1, 60)),
            1 => from.plus(self.rng.within(100, 20_000)),
            2 => from.plus(self.rng.within(60_000, 2 * HOLD_MILLIS)),
            3 => from.plus(self.rng.within(1, 900) * HOUR),
            4 => Millis(from.0 - self.rng.below(2 * HOUR)),
            // A moment before the day ends, or the month, so that holds live across it.
            5 => Millis(Day::of(from).next().start().0 - self.rng.within(1, 20_000)),
            _ => Millis(next_month(Day::of(from)).start().0 - self.rng.within(1, 20_000)),
        };
        note!(self, "the clock goes from {} to {}", from.0, to.0);
        self.wall = to;
    }

    fn checkpoint(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        let durable = live.durable();
        let behind = self.rng.below(20).min(durable.0);
        let until = Lsn(durable.0 - if self.rng.chance(50) { behind } else { 0 });
        let fails = self.rng.chance(25);
        if fails {
            let faults = self.faults_soon(6);
            self.snapshot_disk.set_faults(faults);
        }
        let made = self.rebuild.checkpoint(LogId(1), until);
        self.snapshot_disk.set_faults(Faults::default());
        note!(self, "snapshot up to {until}: {made:?}");
        match made {
            Ok(_) => {
                self.counts.snapshots += 1;
                self.trim()
            }
            Err(recover::Error::Persist(Error::Io { .. })) if fails => {
                if self.rng.chance(70) {
                    self.crash("in the middle of a snapshot")?;
                }
                Ok(())
            }
            Err(error) => Err(broken(SameLogSameState, format!("no snapshot: {error}"))),
        }
    }

    /// Removes the log that two snapshots have made superfluous.
    fn trim(&mut self) -> Check {
        if !self.trims {
            return Ok(());
        }
        let floor = self.rebuild.snapshots.floor();
        let trimmed = floor.and_then(|floor| match floor {
            Some(floor) => persist::retain::trim(&self.log_disk, floor),
            None => Ok(0),
        });
        match trimmed {
            Ok(0) => {}
            Ok(bytes) => {
                note!(self, "{bytes} bytes of the log are removed");
                self.seen.bump("log trimmed");
            }
            Err(error) => return Err(broken(SameLogSameState, format!("no trim: {error}"))),
        }
        Ok(())
    }

    fn faults_soon(&mut self, most: u64) -> Faults {
        let soon = Some(self.rng.below(most) as u32);
        if self.rng.chance(50) {
            Faults {
                fail_write_in: soon,
                fail_sync_in: None,
            }
        } else {
            Faults {
                fail_write_in: None,
                fail_sync_in: soon,
            }
        }
    }

    fn break_disk(&mut self) {
        match self.rng.below(10) {
            0 | 1 => {
                let faults = self.faults_soon(4);
                note!(self, "the disk is going to fail: {faults:?}");
                self.log_disk.set_faults(faults);
            }
            2 => {
                note!(self, "the disk is full");
                self.log_disk.set_full(true);
            }
            _ => self.log_disk.set_full(false),
        }
    }
}

fn draw_weights(rng: &mut Rng) -> [u64; 11] {
    [
        rng.within(20, 50),
        rng.within(15, 40),
        rng.within(4, 25),
        rng.within(4, 25),
        rng.within(4, 25),
        rng.within(1, 8),
        rng.below(4),
        rng.within(1, 4),
        rng.below(3),
        rng.below(2),
        rng.below(3),
    ]
}
