//! The pump: takes the commands that wait, decides them in order, appends their records in one go,
//! and lets each answer leave when the log says that everything it stands on is durable.
//!
//! It has no thread and no runtime of its own: somebody calls `turn` when commands wait and
//! `release` when the log got further.

use crate::command::{Command, Outcome, Reply, Verdict, When};
use crate::directory::Directory;
use crate::engine::Engine;
use arc_swap::ArcSwap;
use persist::group_commit::Batch;
use persist::{HoldId, Lsn, Millis};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where records go.
pub trait Append {
    /// Appends a batch; returns the LSN of its first record.
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn>;
}

impl Append for &persist::Log {
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn> {
        persist::Log::append(self, batch)
    }
}

/// The other end of a question.
pub trait Respond {
    /// Gives the answer; false if nobody waits for it any more.
    fn respond(self, reply: Reply) -> bool;
    /// Has the asker left already?
    fn is_abandoned(&self) -> bool;
}

#[derive(Debug)]
struct Parked<R> {
    /// Everything of the turn, so that a directory is published before its change is answered.
    lsn: Lsn,
    /// What the answer has seen.
    as_of: Lsn,
    outcome: Outcome,
    respond: R,
}

/// Drives one engine.
#[derive(Debug)]
pub struct Pump<R> {
    engine: Engine,
    published: Arc<ArcSwap<Directory>>,
    /// Directories that wait to be durable, oldest first.
    staged: VecDeque<(Lsn, Directory)>,
    parked: VecDeque<Parked<R>>,
    withdrawn: Vec<HoldId>,
    batch: Batch,
    turn: Vec<(u32, Outcome, R)>,
    appended: Lsn,
    remembered_since: Arc<AtomicU64>,
}

impl<R: Respond> Pump<R> {
    /// A pump over an engine that has folded the log up to `appended`, all of it durable.
    #[must_use]
    pub fn new(mut engine: Engine, appended: Lsn) -> Self {
        engine.stamp_directory(appended);
        let published = Arc::new(ArcSwap::from_pointee(engine.directory().clone()));
        Self {
            engine,
            published,
            staged: VecDeque::new(),
            parked: VecDeque::new(),
            withdrawn: Vec::new(),
            batch: Batch::default(),
            turn: Vec::new(),
            appended,
            remembered_since: Arc::default(),
        }
    }

    /// The durable directory, for those who read it without asking.
    #[must_use]
    pub fn published(&self) -> Arc<ArcSwap<Directory>> {
        Arc::clone(&self.published)
    }

    /// The time, in milliseconds, since which every counted event is still known; 0 while none has
    /// been forgotten.
    #[must_use]
    pub fn remembered_since(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.remembered_since)
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

    /// Answers that wait for the disk.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// The last LSN given out.
    #[must_use]
    pub const fn appended(&self) -> Lsn {
        self.appended
    }

    /// Decides everything in `inbox` at `wall` time and appends what came of it.
    ///
    /// # Errors
    /// If the log takes nothing any more: the process must end, and no answer may leave.
    pub fn turn(
        &mut self,
        wall: Millis,
        log: &mut impl Append,
        inbox: &mut dyn Iterator<Item = (Command, R)>,
    ) -> persist::Result<()> {
        self.engine.advance(wall);
        self.batch.clear();
        self.engine.expire(&mut self.batch)?;
        // Loaded after the queue was drained (`inbox` holds what it held): whoever asked after a
        // directory change was answered, is decided with that change.
        let directory = self.published.load_full();
        for hold in std::mem::take(&mut self.withdrawn) {
            self.engine
                .apply(&directory, &Command::Withdraw { hold }, &mut self.batch)?;
        }
        for (command, respond) in inbox {
            if respond.is_abandoned() && matches!(command, Command::Ask(_)) {
                continue;
            }
            let (outcome, when) = self.engine.apply(&directory, &command, &mut self.batch)?;
            match when {
                When::Now => {
                    respond.respond(Reply {
                        outcome,
                        as_of: self.appended,
                    });
                }
                When::Durable => self.turn.push((self.batch.count(), outcome, respond)),
            }
        }
        let before = self.appended;
        if !self.batch.is_empty() {
            let first = log.append(&self.batch)?;
            self.appended = Lsn(first.0 + u64::from(self.batch.count()) - 1);
        }
        if self.engine.take_directory_changed() {
            self.engine.stamp_directory(self.appended);
            self.staged
                .push_back((self.appended, self.engine.directory().clone()));
        }
        let dedup = &self.engine.shard().dedup;
        let since = dedup.reaches_back_to().filter(|_| dedup.is_full());
        self.remembered_since
            .store(since.map_or(0, |at| at.0), Ordering::Relaxed);
        let lsn = self.appended;
        let first = Lsn(lsn.0 - u64::from(self.batch.count()));
        for (records, outcome, respond) in self.turn.drain(..) {
            // What was appended between two turns is somebody else's.
            let as_of = if records == 0 {
                before
            } else {
                first.plus(u64::from(records))
            };
            self.parked.push_back(Parked {
                lsn,
                as_of,
                outcome,
                respond,
            });
        }
        Ok(())
    }

    /// Publishes and answers everything that stands on LSNs up to `durable`. Returns whether a turn
    /// is needed although no command waits.
    pub fn release(&mut self, durable: Lsn) -> bool {
        let mut newest = None;
        while let Some((_, directory)) = self.staged.pop_front_if(|(lsn, _)| *lsn <= durable) {
            newest = Some(directory);
        }
        if let Some(directory) = newest {
            self.published.store(Arc::new(directory));
        }
        while let Some(parked) = self.parked.pop_front_if(|parked| parked.lsn <= durable) {
            let promised = promised_hold(&parked.outcome);
            let reply = Reply {
                outcome: parked.outcome,
                as_of: parked.as_of,
            };
            if !parked.respond.respond(reply)
                && let Some(hold) = promised
            {
                self.withdrawn.push(hold);
            }
        }
        !self.withdrawn.is_empty()
    }
}

/// The hold an answer lets its reader run on.
fn promised_hold(outcome: &Outcome) -> Option<HoldId> {
    match outcome {
        Outcome::Decision(decision) => match decision.verdict {
            Verdict::Allow { hold, .. } => hold,
            Verdict::Block(_) => None,
        },
        _ => None,
    }
}
