//! The pump: takes the commands that wait, decides them in order, appends their records in one go,
//! and parks each answer until the log says that everything it stands on is durable.
//!
//! It has no thread and no runtime of its own: somebody calls `turn` when commands wait, and
//! [`Parking::release`] when the log got further. There may be several pumps, each with some of the
//! shards; the first keeps the directory.

use crate::code::Code;
use crate::command::{Command, Outcome, Reply, Verdict, When};
use crate::directory::Directory;
use crate::engine::Engine;
use arc_swap::ArcSwap;
use persist::group_commit::Batch;
use persist::{HoldId, Lsn, Millis};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Calls that may wait until expired holds are ended; more are told to come again.
const LATER_MOST: usize = 4096;

/// Where records go.
pub trait Append {
    /// Appends a batch; returns the LSN of its first record.
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn>;
    /// The last LSN given out, to any pump.
    fn appended_lsn(&self) -> Lsn;
}

impl Append for &persist::Log {
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn> {
        persist::Log::append(self, batch)
    }

    fn appended_lsn(&self) -> Lsn {
        persist::Log::appended_lsn(self)
    }
}

/// The other end of a question.
pub trait Respond {
    /// Gives the answer; false if nobody waits for it any more.
    fn respond(self, reply: Reply) -> bool;
    /// Has the asker left already?
    fn is_abandoned(&self) -> bool;
}

/// The durable directory, and versions of it that wait to be durable. What was acknowledged is
/// published: whoever answers calls [`Publisher::advance`] first.
#[derive(Debug)]
pub struct Publisher {
    published: ArcSwap<Directory>,
    /// Oldest first.
    staged: Mutex<VecDeque<(Lsn, Directory)>>,
    waiting: AtomicUsize,
    /// How much of what is there, for who watches.
    pub figures: Figures,
}

/// Sums over all pumps, as each turn left them.
#[derive(Debug, Default)]
pub struct Figures {
    holds: AtomicUsize,
    chains: AtomicUsize,
}

impl Figures {
    /// Open holds.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.holds.load(Ordering::Relaxed)
    }

    /// Chains that are not over.
    #[must_use]
    pub fn chains(&self) -> usize {
        self.chains.load(Ordering::Relaxed)
    }

    /// One pump had `before` of them and has `now`. What others do meanwhile is not lost.
    fn change(sum: &AtomicUsize, before: &mut usize, now: usize) {
        if *before != now {
            sum.fetch_add(now.wrapping_sub(*before), Ordering::Relaxed);
            *before = now;
        }
    }
}

impl Publisher {
    /// Publishes `directory`.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self {
            published: ArcSwap::from_pointee(directory),
            staged: Mutex::default(),
            waiting: AtomicUsize::new(0),
            figures: Figures::default(),
        }
    }

    /// The durable directory at this moment.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Directory>> {
        self.published.load()
    }

    fn stage(&self, lsn: Lsn, directory: Directory) {
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        staged.push_back((lsn, directory));
        self.waiting.store(staged.len(), Ordering::SeqCst);
    }

    /// Publishes what is durable by now.
    pub fn advance(&self, durable: Lsn) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        // The lock is held until it is stored: nobody finds the queue empty and the old one published.
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = None;
        while let Some((_, directory)) = staged.pop_front_if(|(lsn, _)| *lsn <= durable) {
            newest = Some(directory);
        }
        if let Some(directory) = newest {
            self.published.store(Arc::new(directory));
        }
        self.waiting.store(staged.len(), Ordering::SeqCst);
    }
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub struct Parked<R> {
    /// Which pump gave it.
    pub pump: u32,
    /// Everything it may have seen.
    lsn: Lsn,
    reply: Reply,
    /// Who asked.
    pub respond: R,
}

/// Answers that wait for the disk, of one thread that serves clients.
#[derive(Debug)]
pub struct Parking<R> {
    /// By pump: within each, the LSNs ascend.
    lanes: Vec<VecDeque<Parked<R>>>,
}

impl<R: Respond> Parking<R> {
    /// For the answers of `pumps` pumps.
    #[must_use]
    pub fn new(pumps: u32) -> Self {
        Self {
            lanes: (0..pumps).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Answers that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Takes an answer in.
    pub fn park(&mut self, parked: Parked<R>) {
        if let Some(lane) = self.lanes.get_mut(parked.pump as usize) {
            lane.push_back(parked);
        }
    }

    /// Publishes and answers everything that stands on LSNs up to `durable`. `withdraw` gets the
    /// holds that were promised to somebody who has left, with their pump.
    pub fn release(
        &mut self,
        publisher: &Publisher,
        durable: Lsn,
        mut withdraw: impl FnMut(u32, HoldId),
    ) {
        publisher.advance(durable);
        for lane in &mut self.lanes {
            while let Some(parked) = lane.pop_front_if(|parked| parked.lsn <= durable) {
                let promised = promised_hold(&parked.reply.outcome);
                if !parked.respond.respond(parked.reply)
                    && let Some(hold) = promised
                {
                    withdraw(parked.pump, hold);
                }
            }
        }
    }
}

/// The hold an answer lets its reader run on.
const fn promised_hold(outcome: &Outcome) -> Option<HoldId> {
    match outcome {
        Outcome::Decision(decision) => match decision.verdict {
            Verdict::Allow { hold, .. } => hold,
            Verdict::Block(_) => None,
        },
        _ => None,
    }
}

/// A command as it is asked again: a call keeps what was noted when it was counted.
fn put_off(mut command: Command, outcome: Outcome) -> Command {
    if let (Command::Ask(ask), Outcome::Decision(decision)) = (&mut command, outcome) {
        ask.put_off(decision);
    }
    command
}

/// A command and who waits for its answer.
#[derive(Debug)]
pub struct Asked<R> {
    /// The command.
    pub command: Command,
    /// Nobody, for withdrawals.
    pub respond: Option<R>,
}

/// Drives one engine.
#[derive(Debug)]
pub struct Pump<R> {
    engine: Engine,
    number: u32,
    publisher: Arc<Publisher>,
    /// Commands put off because another pump is at work on the same figures.
    again: Vec<(Asked<R>, u32)>,
    /// Commands put off until no pump has holds to end that are over.
    later: Vec<(Asked<R>, u32)>,
    /// Empty between turns; keeps its memory.
    commands: Vec<(Asked<R>, u32)>,
    batch: Batch,
    turn: Vec<(u32, Outcome, R)>,
    appended: Lsn,
    /// What this pump has told of open holds and chains.
    told: (usize, usize),
}

impl<R: Respond> Pump<R> {
    /// Pumps over an engine that has folded the log up to `appended`, all of it durable: as many as
    /// `pumps`, or as there are shards.
    #[must_use]
    pub fn start(mut engine: Engine, appended: Lsn, pumps: u32) -> (Vec<Self>, Arc<Publisher>) {
        engine.stamp_directory(appended);
        engine.fill_cells();
        engine.take_directory_changed();
        let directory = engine.directory().cloned().unwrap_or_default();
        let publisher = Arc::new(Publisher::new(directory));
        let pumps = engine.split(pumps).into_iter().zip(0..);
        let pumps = pumps.map(|(engine, number)| Self {
            engine,
            number,
            publisher: Arc::clone(&publisher),
            again: Vec::new(),
            later: Vec::new(),
            commands: Vec::new(),
            batch: Batch::default(),
            turn: Vec::new(),
            appended,
            told: (0, 0),
        });
        (pumps.collect(), publisher)
    }

    /// The engine.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, for tests that switch defects on.
    pub const fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The last LSN this pump was given.
    #[must_use]
    pub const fn appended(&self) -> Lsn {
        self.appended
    }

    /// Is a turn needed although no command waits?
    #[must_use]
    pub const fn must_turn(&self) -> bool {
        !self.again.is_empty() || !self.later.is_empty() || self.engine.has_due()
    }

    /// Decides everything in `inbox` at `wall` time, appends what came of it, and parks the answers.
    ///
    /// # Errors
    /// If the log takes nothing any more: the process must end, and no answer may leave.
    pub fn turn(
        &mut self,
        wall: Millis,
        log: &mut impl Append,
        inbox: &mut dyn Iterator<Item = Asked<R>>,
        park: &mut impl FnMut(Parked<R>),
    ) -> persist::Result<()> {
        self.engine.advance(wall);
        self.batch.clear();
        let put_off = std::mem::take(&mut self.again);
        // Drained before the directory is loaded: whoever asked after a directory change was
        // answered is decided with that change.
        let mut commands = std::mem::take(&mut self.commands);
        commands.extend(put_off);
        commands.extend(inbox.map(|asked| (asked, 0)));
        let directory = Arc::clone(&self.publisher.load());
        self.engine.expire(&directory, &mut self.batch)?;
        if !self.later.is_empty() && !self.engine.is_behind() {
            for (asked, attempt) in std::mem::take(&mut self.later) {
                self.one(&directory, asked, attempt)?;
            }
        }
        for (asked, attempt) in commands.drain(..) {
            self.one(&directory, asked, attempt)?;
        }
        self.commands = commands;
        let before = self.appended;
        if !self.batch.is_empty() {
            let first = log.append(&self.batch)?;
            self.appended = Lsn(first.0 + u64::from(self.batch.count()) - 1);
            self.engine.appended();
        }
        if self.engine.take_directory_changed() {
            self.engine.stamp_directory(self.appended);
            if let Some(newest) = self.engine.directory().cloned() {
                self.publisher.stage(self.appended, newest);
            }
        }
        let (holds, chains) = self.engine.shards().fold((0, 0), |(holds, chains), shard| {
            (holds + shard.holds.len(), chains + shard.chains.len())
        });
        let figures = &self.publisher.figures;
        Figures::change(&figures.holds, &mut self.told.0, holds);
        Figures::change(&figures.chains, &mut self.told.1, chains);
        // What shared figures showed may be another pump's, appended just now.
        let lsn = log.appended_lsn().max(self.appended);
        let first = Lsn(self.appended.0 - u64::from(self.batch.count()));
        for (records, outcome, respond) in self.turn.drain(..) {
            // What was appended between two turns is somebody else's.
            let as_of = if records == 0 {
                before
            } else {
                first.plus(u64::from(records))
            };
            park(Parked {
                pump: self.number,
                lsn,
                reply: Reply { outcome, as_of },
                respond,
            });
        }
        Ok(())
    }

    fn one(&mut self, directory: &Directory, asked: Asked<R>, attempt: u32) -> persist::Result<()> {
        let left = asked.respond.as_ref().is_some_and(Respond::is_abandoned);
        if left && matches!(asked.command, Command::Ask(_)) {
            return Ok(());
        }
        let (outcome, when) =
            self.engine
                .apply(directory, &asked.command, attempt, &mut self.batch)?;
        match (when, asked.respond) {
            (When::Again, respond) => {
                let command = put_off(asked.command, outcome);
                self.again.push((Asked { command, respond }, attempt + 1));
            }
            (When::Later, respond) if self.later.len() < LATER_MOST => {
                let command = put_off(asked.command, outcome);
                self.later.push((Asked { command, respond }, attempt + 1));
            }
            (_, None) => {}
            (When::Later, Some(respond)) => {
                let why = "many holds whose time is over are being ended; ask again";
                let refused = crate::engine::refused(Code::Overloaded, why, Some(1000));
                respond.respond(Reply {
                    outcome: Outcome::Decision(refused),
                    as_of: self.appended,
                });
            }
            (When::Now, Some(respond)) => {
                respond.respond(Reply {
                    outcome,
                    as_of: self.appended,
                });
            }
            (When::Durable, Some(respond)) => {
                self.turn.push((self.batch.count(), outcome, respond));
            }
        }
        Ok(())
    }
}
