//! The simulated world: one thread, one seed. Clients send, the pump turns, frames are written and
//! synced one at a time, time jumps, disks fail, the power goes; after every step the reference is
//! asked whether all is well.

use super::clients::{Clients, Habits};
use super::compare::compare;
use super::promises::{Promises, Question};
use super::reference::Ledger;
use super::rng::Rng;
use super::spec::{FLOOR, HOLD_MILLIS, month, price_file};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, broken, ensure};
use super::wal::Wal;
use engine::command::{Command, Outcome, Reply, Verdict};
use engine::manage::Manage;
use engine::mutation::Mutation;
use engine::price::PriceTable;
use engine::pump::{Pump, Respond};
use engine::recover::{self, Rebuild};
use engine::{Engine, Settings};
use persist::disk::{Faults, FaultyDisk};
use persist::log::Options;
use persist::record::{ChargeFlags, Record};
use persist::{Error, HoldId, LogId, Lsn, Millis, Nanos, reader};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

const HOUR: u64 = 3_600_000;
const EVENTS_SHOWN: usize = 30;
const READS_WATCHED: usize = 32;
const TO_REST: u64 = 10_000;

/// Answers on their way, and who does not wait for theirs any more.
#[derive(Debug, Default)]
struct Mail {
    answers: VecDeque<(u64, Reply)>,
    gone: BTreeSet<u64>,
}

/// One client's end of a question.
#[derive(Debug)]
struct Client {
    id: u64,
    mail: Rc<RefCell<Mail>>,
}

impl Respond for Client {
    fn respond(self, reply: Reply) -> bool {
        let mut mail = self.mail.borrow_mut();
        if mail.gone.contains(&self.id) {
            return false;
        }
        mail.answers.push_back((self.id, reply));
        true
    }

    fn is_abandoned(&self) -> bool {
        self.mail.borrow().gone.contains(&self.id)
    }
}

/// The last events, for people, and a hash of all of them.
#[derive(Debug, Default)]
pub struct Trace {
    pub last: VecDeque<String>,
    pub hash: u64,
}

impl Trace {
    fn note(&mut self, step: u64, what: std::fmt::Arguments<'_>) {
        let mut line = if self.last.len() == EVENTS_SHOWN {
            self.last.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let _written = write!(line, "{step:>6} {what}");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.last.push_back(line);
    }
}

/// What a run went through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub steps: u64,
    pub records: u64,
    pub crashes: u64,
    pub torn: u64,
    pub snapshots: u64,
    pub from_snapshot: u64,
    pub answers: u64,
}

/// The process that is running.
#[derive(Debug)]
struct Live {
    pump: Pump<Client>,
    wal: Wal,
    /// A turn is needed although nobody asks.
    turn_due: bool,
    /// What was durable when it began.
    began: Lsn,
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
    mutation: Option<Mutation>,
    live: Option<Live>,
    clients: Clients,
    ledger: Ledger,
    promises: Promises,
    mail: Rc<RefCell<Mail>>,
    inbox: VecDeque<(Command, Client)>,
    open: BTreeMap<u64, Question>,
    next_request: u64,
    /// Weights of: send, turn, write, sync, time, leave, read, checkpoint, faults, crash.
    weights: [u64; 10],
    jumpy: u64,
    pub trace: Trace,
    pub counts: Counts,
    /// How often each kind of thing happened.
    pub seen: Seen,
}

pub type Seen = BTreeMap<String, u64>;

macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        $world.trace.note($world.step, format_args!($($what)*))
    };
}

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let habits = Habits::draw(&mut rng);
        let (log_disk, snapshot_disk) = (FaultyDisk::default(), FaultyDisk::default());
        let prices = PriceTable::from_json(&price_file()).expect("the price file is well formed");
        let rebuild = Rebuild {
            wal: Arc::new(log_disk.clone()),
            snapshots: Arc::new(snapshot_disk.clone()),
            prices: Arc::new(prices),
            settings: Settings {
                floor: FLOOR,
                hold_millis: HOLD_MILLIS,
                dedup_keys: 1 << 20,
            },
        };
        let segment_bytes = [8 << 10, 16 << 10, 64 << 10][rng.below(3) as usize];
        let weights = [
            rng.within(20, 50),
            rng.within(8, 30),
            rng.within(4, 25),
            rng.within(4, 25),
            rng.within(1, 8),
            rng.below(4),
            rng.within(1, 3),
            rng.below(3),
            rng.below(2),
            rng.below(3),
        ];
        let mut world = Self {
            step: 0,
            // Shortly before the end of a month, in some year.
            wall: Millis(1_793_487_600_000 + rng.below(400) * HOUR),
            log_disk,
            snapshot_disk,
            rebuild,
            options: Options { segment_bytes },
            mutation,
            live: None,
            clients: Clients::new(habits),
            ledger: Ledger::default(),
            promises: Promises::default(),
            mail: Rc::default(),
            inbox: VecDeque::new(),
            open: BTreeMap::new(),
            next_request: 0,
            weights,
            jumpy: rng.below(4),
            rng,
            trace: Trace::default(),
            counts: Counts::default(),
            seen: Seen::new(),
        };
        world.restart()?;
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
            4 => self.pass_time(),
            5 => self.leave(),
            6 => self.read()?,
            7 => self.checkpoint()?,
            8 => self.break_disk(),
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
        }
        if self.live.as_ref().is_some_and(|live| live.wal.failed) {
            self.crash("the log has failed")?;
        }
        let patience = self.step + TO_REST;
        while !(self.inbox.is_empty() && self.is_at_rest()) {
            self.step += 1;
            ensure(self.step < patience, EngineAsserts, || {
                "it does not come to rest".to_owned()
            })?;
            self.turn()?;
            self.write()?;
            self.sync()?;
            self.check()?;
        }
        self.check_hash()?;
        let open = &self.open;
        ensure(open.is_empty(), AcknowledgedStays, || {
            format!("everything is durable and these were never answered: {open:?}")
        })?;
        self.crash("the last")?;
        self.check()
    }

    fn is_at_rest(&self) -> bool {
        self.live
            .as_ref()
            .is_none_or(|live| live.wal.is_idle() && live.pump.parked() == 0 && !live.turn_due)
    }

    // --- clients ---------------------------------------------------------------------------

    fn send(&mut self) {
        self.clients.learn(&self.ledger);
        let (command, question) = self.clients.next(&mut self.rng, self.wall);
        self.post(command, question);
    }

    /// Puts a question into the queue, where the reference sees it.
    fn post(&mut self, command: Command, mut question: Question) {
        let id = self.next_request;
        self.next_request += 1;
        note!(self, "#{id} asks {}", brief(&command));
        match &mut question {
            Question::Ask { ask, killed, since } => {
                *killed = self.promises.killed.contains(&ask.workflow);
                *since = self.ledger.lsn;
                let trace = ask.trace_id.clone().unwrap_or_default();
                let known = ((**ask).clone(), self.promises.rules);
                self.ledger.asked.insert(trace, known);
            }
            Question::Track(track) => {
                for event in &track.events {
                    let span = event.span_id.clone().unwrap_or_default();
                    let known = (track.org, track.key, event.clone());
                    self.ledger.reported.insert(span, known);
                }
            }
            _ => {}
        }
        self.open.insert(id, question);
        let mail = Rc::clone(&self.mail);
        self.inbox.push_back((command, Client { id, mail }));
    }

    fn leave(&mut self) {
        let waiting: Vec<_> = self.open.keys().copied().collect();
        if let Some(id) = self.rng.pick(&waiting) {
            note!(self, "#{id} leaves");
            self.open.remove(&id);
            self.mail.borrow_mut().gone.insert(id);
        }
    }

    fn deliver(&mut self) -> Check {
        loop {
            let next = self.mail.borrow_mut().answers.pop_front();
            let Some((id, reply)) = next else {
                return Ok(());
            };
            self.counts.answers += 1;
            if let Some(hold) = promised(&reply.outcome) {
                self.clients.told(hold);
            }
            for kind in answer_kinds(&reply.outcome) {
                *self.seen.entry(kind.to_owned()).or_default() += 1;
            }
            note!(self, "#{id} {}", brief_answer(&reply));
            if let Some(question) = self.open.remove(&id) {
                self.promises
                    .answered(&mut self.ledger, &question, &reply)?;
            }
        }
    }

    // --- the process -----------------------------------------------------------------------

    fn turn(&mut self) -> Check {
        let most = self.rng.below(9) as usize;
        let take = most.min(self.inbox.len());
        let commands: Vec<_> = self.inbox.drain(..take).collect();
        self.turn_over(commands)
    }

    fn turn_over(&mut self, commands: Vec<(Command, Client)>) -> Check {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let ids: Vec<_> = commands.iter().map(|(_, client)| client.id).collect();
        let turned = live
            .pump
            .turn(self.wall, &mut live.wal, &mut commands.into_iter());
        note!(self, "turn over {ids:?}, appended {}", live.pump.appended());
        match turned {
            Ok(()) => {
                live.turn_due = live.pump.release(live.wal.durable);
                self.deliver()
            }
            Err(error) => self.crash(&error.to_string()),
        }
    }

    /// Reads in a turn of its own, so that the place it reads at is known.
    fn read(&mut self) -> Check {
        let (command, question) = self.clients.read(&mut self.rng);
        if self.live.as_ref().is_some_and(|live| live.wal.failed) {
            return Ok(());
        }
        self.post(command, question);
        let Some(asked) = self.inbox.pop_back() else {
            return Ok(());
        };
        let before = self.ledger.watched.len();
        if before > READS_WATCHED {
            self.ledger.watched.pop_first();
        }
        // The place is known only afterwards; answers at it come later still, or now.
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let turned = live
            .pump
            .turn(self.wall, &mut live.wal, &mut std::iter::once(asked));
        if let Err(error) = turned {
            return self.crash(&error.to_string());
        }
        let place = live.pump.appended();
        let now = (place == self.ledger.lsn).then(|| self.ledger.books.clone());
        self.ledger.watched.insert(place, now);
        live.turn_due = live.pump.release(live.wal.durable);
        self.deliver()
    }

    fn write(&mut self) -> Check {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        match live.wal.write() {
            Ok(None) => Ok(()),
            Ok(Some(last)) => {
                note!(self, "writes up to {last}");
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    fn sync(&mut self) -> Check {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        match live.wal.sync() {
            Ok(None) => Ok(()),
            Ok(Some(durable)) => {
                note!(self, "synced up to {durable}");
                walk(
                    &mut self.ledger,
                    &live.wal.appended,
                    durable,
                    &mut self.seen,
                )?;
                live.turn_due = live.pump.release(durable);
                self.deliver()
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
        let to =
            match self
                .rng
                .weighted(&[60, 15, 3 * self.jumpy, self.jumpy, self.jumpy, self.jumpy])
            {
                0 => from.plus(self.rng.within(1, 60)),
                1 => from.plus(self.rng.within(100, 20_000)),
                2 => from.plus(self.rng.within(60_000, 2 * HOLD_MILLIS)),
                3 => from.plus(self.rng.within(1, 900) * HOUR),
                4 => Millis(from.0 - self.rng.below(2 * HOUR)),
                _ => {
                    // A moment before the month ends, so that holds live across it.
                    let next = month(month(from).plus(32 * 24 * HOUR));
                    Millis(next.0 - self.rng.within(1, 20_000))
                }
            };
        note!(self, "the clock goes from {} to {}", from.0, to.0);
        self.wall = to;
    }

    fn checkpoint(&mut self) -> Check {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let behind = self.rng.below(20).min(live.wal.durable.0);
        let until = Lsn(live.wal.durable.0 - if self.rng.chance(50) { behind } else { 0 });
        let fails = self.rng.chance(25);
        if fails {
            let faults = self.faults_soon(2);
            self.snapshot_disk.set_faults(faults);
        }
        let made = self.rebuild.checkpoint(LogId(1), until);
        self.snapshot_disk.set_faults(Faults::default());
        note!(self, "snapshot up to {until}: {made:?}");
        match made {
            Ok(_) => self.counts.snapshots += 1,
            Err(recover::Error::Persist(Error::Io { .. })) if fails => {
                if self.rng.chance(70) {
                    self.crash("in the middle of a snapshot")?;
                }
            }
            Err(error) => return Err(broken(SameLogSameState, format!("no snapshot: {error}"))),
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
        if self.rng.chance(20) {
            let faults = self.faults_soon(4);
            note!(self, "the disk is going to fail: {faults:?}");
            self.log_disk.set_faults(faults);
        }
    }

    // --- crashes ---------------------------------------------------------------------------

    /// The process ends where it stands. Of what was not synced, some sectors are there afterwards.
    fn crash(&mut self, why: &str) -> Check {
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

    fn restart(&mut self) -> Check {
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

    // --- checks ----------------------------------------------------------------------------

    fn check(&mut self) -> Check {
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
    fn check_hash(&self) -> Check {
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
fn walk(ledger: &mut Ledger, appended: &[Vec<u8>], durable: Lsn, seen: &mut Seen) -> Check {
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

/// What a record is an example of.
fn kinds(record: &Record<'_>) -> Vec<String> {
    match record {
        Record::Directory(_) => vec!["directory".to_owned()],
        Record::Refused(refused) => vec![refused.cause.code.to_owned()],
        Record::HoldMinted(minted) if minted.amount == Nanos::ZERO => vec!["zero hold".to_owned()],
        Record::HoldMinted(minted) if minted.amount < FLOOR => vec!["last cents".to_owned()],
        Record::HoldMinted(_) => vec!["hold".to_owned()],
        Record::HoldUsed(_) => vec!["hold used".to_owned()],
        Record::Charged(charged) => {
            let flags = [
                ("charge", true),
                ("provisional", charged.flags.has(ChargeFlags::PROVISIONAL)),
                ("overage", charged.flags.has(ChargeFlags::OVERAGE)),
                (
                    "charge after the hold",
                    charged.flags.has(ChargeFlags::NO_HOLD),
                ),
                (
                    "charge after a kill",
                    charged.flags.has(ChargeFlags::NOT_NORMAL),
                ),
                (
                    "charge in the month before",
                    charged.period_start != month(charged.at),
                ),
            ];
            let set = flags.into_iter().filter(|(_, set)| *set);
            set.map(|(kind, _)| kind.to_owned()).collect()
        }
        Record::HoldEnded(ended) => vec![format!("{:?}", ended.reason)],
        Record::WorkflowState(changed) => vec![format!("{:?}", changed.to)],
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::Ask(ask) => format!(
            "{:?} {:?} {:x} key {:x} hold {:x} on {:?} op {:?} tokens {}/{:?} {:?} {:?}{}",
            ask.endpoint,
            ask.protocol,
            ask.workflow.0,
            ask.key.0,
            ask.new_hold.0,
            ask.reservation,
            ask.operation.map(|op| (op.key, op.fingerprint)),
            ask.estimated_tokens,
            ask.max_output_tokens,
            ask.model,
            ask.tools,
            if ask.chain_end { " chain end" } else { "" },
        ),
        Command::Track(track) => {
            let events = track.events.iter().map(|event| {
                let span = event.span_id.as_deref().unwrap_or_default();
                format!(" {span} on {:?} ends {:?}", event.holds, event.ends)
            });
            format!("track key {:x}:{}", track.key.0, events.collect::<String>())
        }
        Command::Manage(manage) => match &**manage {
            Manage::Register(new) => format!("register {:x}", new.org.0),
            Manage::CreateKey { key, .. } => {
                format!("key {:x} of {:?}, {:?}", key.id.0, key.workflow, key.budget)
            }
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    }
}

fn promised(outcome: &Outcome) -> Option<HoldId> {
    let Outcome::Decision(decision) = outcome else {
        return None;
    };
    match decision.verdict {
        Verdict::Allow { hold, .. } => hold,
        Verdict::Block(_) => None,
    }
}

fn answer_kinds(outcome: &Outcome) -> Vec<&'static str> {
    match outcome {
        Outcome::Decision(decision) => match decision.verdict {
            Verdict::Allow { replayed: true, .. } => vec!["replayed"],
            Verdict::Allow { hold: None, .. } => vec!["allowed, nothing held"],
            _ => Vec::new(),
        },
        Outcome::Tracked(tracked) => {
            let duplicates = tracked.iter().filter(|tracked| tracked.duplicate);
            duplicates.map(|_| "duplicate event").collect()
        }
        Outcome::Cancelled(None) => vec!["cancel of nothing"],
        _ => Vec::new(),
    }
}

fn brief_answer(reply: &Reply) -> String {
    let what = match &reply.outcome {
        Outcome::Decision(decision) => match &decision.verdict {
            Verdict::Allow { hold, replayed } => {
                let left = decision.remaining;
                format!("allow {hold:?}, replayed {replayed}, remaining {left:?}")
            }
            Verdict::Block(block) => format!("block {}", block.explanation),
        },
        Outcome::Workflow(view) => format!(
            "{:x} is {:?} {}, {} spent, {} held of {:?}",
            view.entry.id.0, view.state, view.version, view.spent, view.held, view.entry.budget
        ),
        Outcome::Org(view) => format!(
            "org: {} spent, {} held of {:?}",
            view.spent, view.held, view.budget
        ),
        Outcome::Managed(_) => "done".to_owned(),
        other => format!("{other:?}"),
    };
    format!("as of {}: {what}", reply.as_of)
}

impl Counts {
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.records += other.records;
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.snapshots += other.snapshots;
        self.from_snapshot += other.from_snapshot;
        self.answers += other.answers;
    }
}
