//! The machine dies at every named point of the log, of snapshots, of sealing and of a start, each
//! time the point comes by in a short run of real commands through real pumps; it starts again with
//! another number of shards. What is rebuilt is the fold of every record that survived, from LSN 1
//! and without a snapshot; and nothing acknowledged is missing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

#[path = "crash_points/orders.rs"]
mod orders;

use engine::price::PriceTable;
use engine::pump::{Append, Publisher};
use engine::recover::{Error, Rebuild, Recovered};
use engine::{Engine, Pump, Settings};
use orders::{Client, Orders};
use persist::disk::{Disk, FaultyDisk};
use persist::follow::{Follower, Followers};
use persist::group_commit::{Batch, Pending};
use persist::ids::{SLOTS, Slot};
use persist::log::{Options, Writer};
use persist::record::Record;
use persist::{LogId, Lsn, Millis, crash_points, retain};
use std::sync::Arc;

/// Shards and pumps of each start, in turn.
const LAYOUTS: [(u16, u32); 3] = [(1, 1), (2, 2), (7, 3)];
const LOG: LogId = LogId(77);
const OPTIONS: Options = Options {
    segment_bytes: 9 << 10,
    quota_bytes: None,
};
/// Eight generations of 16.
const DEDUP_KEYS: usize = 128;
const TURNS: u64 = 28;

// Points of this test: a record that seals a generation is in the log, unsynced, then durable.
const SEAL_WRITTEN: &str = "seal-record-written";
const SEAL_SYNCED: &str = "seal-record-synced";
const SEALING: &[&str] = &[SEAL_WRITTEN, SEAL_SYNCED];

fn settings(shards: u16) -> Settings {
    Settings {
        shards,
        dedup_keys: DEDUP_KEYS,
        ..Settings::default()
    }
}

/// The log as a pump sees it: what all pumps append in a turn becomes a frame.
struct Tail {
    pending: Pending,
    next: Lsn,
    /// Every record since LSN 1, durable or not.
    records: Vec<Vec<u8>>,
}

impl Append for Tail {
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn> {
        let first = self.next;
        self.pending.push(batch);
        self.records.extend(batch.records().map(<[u8]>::to_vec));
        self.next = first.plus(u64::from(batch.count()));
        Ok(first)
    }

    fn appended_lsn(&self) -> Lsn {
        Lsn(self.next.0 - 1)
    }
}

/// What outlives the machine: its disk, and what somebody was told.
struct World {
    faulty: FaultyDisk,
    disk: Arc<dyn Disk>,
    prices: Arc<PriceTable>,
    records: Vec<Vec<u8>>,
    durable: Lsn,
    starts: usize,
    /// Decides what of the unsynced survives.
    coins: u64,
}

impl World {
    fn new(prices: &Arc<PriceTable>, seed: u64) -> Self {
        let faulty = FaultyDisk::default();
        Self {
            disk: Arc::new(faulty.clone()),
            faulty,
            prices: Arc::clone(prices),
            records: Vec::new(),
            durable: Lsn::ZERO,
            starts: seed as usize,
            coins: seed,
        }
    }

    fn rebuild(&self, shards: u16) -> Rebuild {
        let (wal, snapshots) = (Arc::clone(&self.disk), Arc::clone(&self.disk));
        Rebuild::new(wal, snapshots, Arc::clone(&self.prices), settings(shards))
    }

    /// Loses power.
    fn crash(&mut self) {
        let coins = &mut self.coins;
        self.faulty.crash(|| {
            *coins = orders::next(*coins);
            *coins >> 40 & 1 == 1
        });
    }

    /// The first `last` records, all of them folded, with yet another number of shards.
    fn folded(&self, last: Lsn) -> Engine {
        let mut engine = Engine::new(Arc::clone(&self.prices), settings(4));
        for bytes in &self.records[..last.0 as usize] {
            engine.fold(&postcard::from_bytes::<Record<'_>>(bytes).unwrap());
        }
        engine
    }

    /// Starts with the next layout and compares what it finds with the fold.
    fn start(&mut self) -> Result<(Rebuild, Recovered, u32), Error> {
        let (shards, pumps) = LAYOUTS[self.starts % LAYOUTS.len()];
        let rebuild = self.rebuild(shards);
        let recovered = rebuild.open(OPTIONS, LOG)?;
        self.starts += 1;
        assert_eq!(recovered.damaged, [], "a crash is no damage");
        let last = recovered.recovery.last_lsn;
        assert!(last >= self.durable, "{last} is there of {}", self.durable);
        assert!(last.0 as usize <= self.records.len(), "{last}");
        // What was in doubt is decided now, for ever.
        self.records.truncate(last.0 as usize);
        self.durable = last;
        let folded = self.folded(last);
        same(&recovered.engine, &folded, "rebuilt", last);
        same(&rebuild.replay(last)?, &folded, "from the older", last);
        Ok((rebuild, recovered, pumps))
    }

    /// Starts, and works for some turns.
    fn live(&mut self, orders: &mut Orders, turns: u64) -> Result<(), Error> {
        let (rebuild, recovered, pumps) = self.start()?;
        let followers = Followers::open(Arc::clone(&self.disk), LOG)?;
        let follower = followers.register("history", Lsn::ZERO)?;
        let (pumps, publisher) = Pump::start(recovered.engine, self.durable, pumps);
        let mut life = Life {
            rebuild,
            followers,
            follower,
            writer: recovered.writer,
            pumps,
            publisher,
            tail: Tail {
                pending: Pending::default(),
                next: self.durable.next(),
                records: std::mem::take(&mut self.records),
            },
        };
        let mut ended = Ok(());
        for turn in 0..turns {
            ended = life.turn(orders, &self.disk, &mut self.durable, turn);
            if ended.is_err() {
                break;
            }
        }
        self.records = life.tail.records;
        ended
    }
}

/// Equal states have equal hashes; if not, which part of them differs.
fn same(engine: &Engine, folded: &Engine, how: &str, last: Lsn) {
    if engine.state_hash().unwrap() == folded.state_hash().unwrap() {
        return;
    }
    let slots = |engine: &Engine| engine.slots_part(Slot(0)..=Slot(SLOTS - 1)).unwrap();
    let events = |engine: &Engine| {
        let (first, open) = engine.dedup().numbers();
        let all = (first..=open).filter_map(|number| engine.dedup().generation(number));
        all.map(|g| (g.number, g.since, g.keys.len()))
            .collect::<Vec<_>>()
    };
    panic!(
        "{how}, at LSN {last}: another state; the same directory: {}, the same slots: {}, events {:?} and {:?}",
        engine.directory_part().unwrap()[..] == folded.directory_part().unwrap()[..],
        slots(engine)[..] == slots(folded)[..],
        events(engine),
        events(folded),
    );
}

/// One start of the machine.
struct Life {
    rebuild: Rebuild,
    followers: Followers,
    follower: Follower,
    writer: Writer,
    pumps: Vec<Pump<Client>>,
    publisher: Arc<Publisher>,
    tail: Tail,
}

impl Life {
    fn turn(
        &mut self,
        orders: &mut Orders,
        disk: &Arc<dyn Disk>,
        durable: &mut Lsn,
        turn: u64,
    ) -> Result<(), Error> {
        let before = self.tail.records.len();
        let now = Millis(orders.tick());
        let mut asked = orders.draw(&self.pumps);
        for (pump, asked) in self.pumps.iter_mut().zip(&mut asked) {
            let mut inbox = std::mem::take(asked).into_iter();
            pump.turn(now, &mut self.tail, &mut inbox, &mut |parked| {
                orders.waits(parked);
            })?;
        }
        let seals = self.tail.records[before..].iter().any(|bytes| {
            let record = postcard::from_bytes::<Record<'_>>(bytes).unwrap();
            matches!(record, Record::EventsSealed(_))
        });
        while let Some(mut frame) = self.tail.pending.pop() {
            self.writer.write(&mut frame)?;
            pass(disk, SEAL_WRITTEN, seals)?;
            *durable = {
                self.writer.sync()?;
                Lsn(self.writer.next_lsn().0 - 1)
            };
            pass(disk, SEAL_SYNCED, seals)?;
        }
        orders.answered(&self.publisher, *durable);
        self.writer.prepare()?;
        if turn % 6 == 5 {
            self.rebuild.checkpoint(LOG, *durable)?;
            self.follower.save(*durable)?;
            let floor = retain::floor(&self.rebuild.snapshots, &self.followers)?;
            if let Some(floor) = floor {
                retain::trim(disk.as_ref(), floor)?;
            }
        }
        Ok(())
    }
}

fn pass(disk: &Arc<dyn Disk>, point: &'static str, here: bool) -> persist::Result<()> {
    let io = |source| persist::Error::Io {
        action: "pass",
        file: point.to_owned(),
        source,
    };
    match here {
        true => disk.reach(point).map_err(io),
        false => Ok(()),
    }
}

/// Runs until the machine dies at `point` for the `nth` time, and again at its next time; each time
/// it starts with another layout. False if the run is over before that.
fn dies(prices: &Arc<PriceTable>, point: &str, nth: u32) -> bool {
    let mut world = World::new(prices, u64::from(nth) + point.len() as u64);
    let mut orders = Orders::new(u64::from(nth));
    world.faulty.die_at(point, nth);
    let ended = world.live(&mut orders, TURNS);
    if !world.faulty.is_dead() {
        ended.unwrap_or_else(|error| panic!("{point}, {nth}: {error}"));
        return false;
    }
    world.crash();
    world.faulty.die_at(point, 1);
    let again = world.live(&mut orders, 7);
    let dead = world.faulty.is_dead();
    assert_eq!(again.is_err(), dead, "{point}, {nth}: {again:?}");
    world.crash();
    let last = world.live(&mut orders, 7);
    last.unwrap_or_else(|error| panic!("{point}, {nth}: {error}"));
    true
}

fn prices() -> Arc<PriceTable> {
    Arc::new(PriceTable::from_json(orders::PRICES).unwrap())
}

#[test]
fn after_dying_at_any_point_at_any_time_another_number_of_shards_rebuilds_what_the_log_folds_to() {
    let prices = prices();
    let all = [crash_points::ALL, engine::recover::POINTS, SEALING].concat();
    let mut deaths = Vec::new();
    for point in all {
        if crash_points::IN_RECOVERY.contains(&point) {
            continue;
        }
        let times = (1..).take_while(|nth| dies(&prices, point, *nth)).count();
        assert!(times > 1, "{point} was reached {times} times");
        deaths.push(format!("{point} {times}"));
    }
    println!("died at: {}", deaths.join(", "));
}

/// A start passes these only after a death; so the machine dies twice.
#[test]
fn a_start_that_dies_while_it_cuts_or_removes_leaves_what_the_next_one_rebuilds() {
    let prices = prices();
    for (point, before) in [
        (crash_points::RECOVERY_CUT, SEAL_WRITTEN),
        (
            crash_points::RECOVERY_CUT,
            crash_points::SEGMENT_FIRST_FRAME,
        ),
        (
            crash_points::RECOVERY_UNUSED_REMOVED,
            crash_points::SEGMENT_RENAMED,
        ),
        (
            crash_points::RECOVERY_UNUSED_REMOVED,
            crash_points::SEGMENT_DIR_SYNCED,
        ),
    ] {
        let mut deaths = 0;
        for nth in 1..30 {
            let mut world = World::new(&prices, u64::from(nth));
            let mut orders = Orders::new(u64::from(nth));
            world.faulty.die_at(before, 1 + nth % 4);
            let ended = world.live(&mut orders, TURNS);
            assert!(world.faulty.is_dead(), "{before}, {nth}: {ended:?}");
            world.crash();
            world.faulty.die_at(point, 1);
            let again = world.live(&mut orders, 3);
            let dead = world.faulty.is_dead();
            assert_eq!(again.is_err(), dead, "{point}, {nth}: {again:?}");
            deaths += u32::from(dead);
            world.crash();
            let last = world.live(&mut orders, 7);
            last.unwrap_or_else(|error| panic!("{point}, {nth}: {error}"));
        }
        println!("died at {point} after {before}: {deaths}");
        assert!(deaths > 3, "{point} was reached {deaths} times");
    }
}
