//! The simulated world: one thread, one seed. Clients send, the pump turns, frames are written and
//! synced one at a time, time jumps, disks fail, the power goes; after every step the reference is
//! asked whether all is well.

use super::clients::{Clients, Habits};
use super::promises::{Promises, Question};
use super::reference::Ledger;
use super::rng::Rng;
use super::spec::{FLOOR, HOLD_MILLIS, month, price_file};
use super::trace::{Counts, Seen, Trace, answer_kinds, brief, brief_answer, promised};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, broken, ensure};
use super::wal::Wal;
use engine::Settings;
use engine::command::{Command, Reply};
use engine::mutation::Mutation;
use engine::price::PriceTable;
use engine::pump::{Pump, Respond};
use engine::recover::{self, Rebuild};
use persist::disk::{Faults, FaultyDisk};
use persist::log::Options;
use persist::{Error, LogId, Lsn, Millis};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

const HOUR: u64 = 3_600_000;
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

macro_rules! note {
    ($world:expr, $($what:tt)*) => {
        $world.trace.note($world.step, format_args!($($what)*))
    };
}

mod restart;

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

impl World {
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let habits = Habits::draw(&mut rng);
        let (log_disk, snapshot_disk) = (FaultyDisk::default(), FaultyDisk::default());
        // A few runs remember so few events that they have to forget.
        let (dedup_keys, remembered) = [(1 << 20, 1 << 20), (16, 14)][rng.weighted(&[80, 20])];
        let prices = PriceTable::from_json(&price_file()).expect("the price file is well formed");
        let rebuild = Rebuild {
            wal: Arc::new(log_disk.clone()),
            snapshots: Arc::new(snapshot_disk.clone()),
            prices: Arc::new(prices),
            settings: Settings {
                floor: FLOOR,
                hold_millis: HOLD_MILLIS,
                dedup_keys,
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
        world.ledger.remembered = remembered;
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
                restart::walk(
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
}
