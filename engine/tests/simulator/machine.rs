//! The process that is running: pumps with a queue each, one log, and threads that serve clients,
//! all on one thread. A pump may be stopped anywhere between two commands and around its append,
//! and another takes a turn there: that is how turns of real threads meet, but for the inside of a
//! command (`engine/src/cell.rs` has a model of that).

use super::places::{Flight, Place};
use super::rng::Rng;
use super::wal::Wal;
use engine::command::{Command, Reply};
use engine::pump::{Append, Asked, Parked, Parking, Publisher, Pump, Respond};
use persist::group_commit::Batch;
use persist::record::Record;
use persist::{HoldId, Lsn, Millis};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// One client's end of a command: a part of a request.
#[derive(Debug)]
pub struct Client {
    pub request: u64,
    pub part: usize,
    pub machine: Weak<Machine>,
}

impl Respond for Client {
    fn respond(self, reply: Reply) -> bool {
        let Some(machine) = self.machine.upgrade() else {
            return false;
        };
        if machine.gone.borrow().contains(&self.request) {
            return false;
        }
        let mut answers = machine.answers.borrow_mut();
        answers.push_back((self.request, self.part, reply));
        true
    }

    /// The pump asks this before each command.
    fn is_abandoned(&self) -> bool {
        let Some(machine) = self.machine.upgrade() else {
            return true;
        };
        machine.interrupt();
        machine.note_decision(self.request);
        machine.gone.borrow().contains(&self.request)
    }
}

/// A turn and what it brought into the log.
#[derive(Debug, Default)]
struct Turn {
    appended: Option<(Lsn, Lsn)>,
}

/// When a request was decided (for the last time).
#[derive(Debug)]
struct Decision {
    seen: Lsn,
    turn: usize,
    /// Turns that were under way then.
    around: Vec<usize>,
    attempts: u32,
}

#[derive(Debug)]
pub struct Machine {
    pub pumps: Vec<RefCell<Pump<Client>>>,
    pub queues: Vec<RefCell<VecDeque<Asked<Client>>>>,
    pub wal: RefCell<Wal>,
    pub publisher: Arc<Publisher>,
    /// One for each thread that serves clients.
    parking: Vec<RefCell<Parking<Client>>>,
    pub answers: RefCell<VecDeque<(u64, usize, Reply)>>,
    /// Requests whose client does not wait any more.
    pub gone: RefCell<BTreeSet<u64>>,
    pub wall: Cell<Millis>,
    /// Each pump's time when it last looked for what is over.
    swept: Vec<Cell<Millis>>,
    /// Of a hundred places where another pump may come between, how many it takes.
    meets: u64,
    rng: RefCell<Rng>,
    turns: RefCell<Vec<Turn>>,
    under_way: RefCell<Vec<usize>>,
    decisions: RefCell<BTreeMap<u64, Decision>>,
    /// How often each request was decided.
    attempts: RefCell<BTreeMap<u64, u32>>,
    /// How often a turn came into the midst of another, and how many commands were put off.
    pub met: Cell<u64>,
    pub notes: RefCell<Vec<String>>,
    /// A pump that came between found that the log takes nothing any more.
    pub failure: RefCell<Option<String>>,
}

impl Machine {
    pub fn start(
        pumps: Vec<Pump<Client>>,
        publisher: Arc<Publisher>,
        wal: Wal,
        workers: usize,
        mut rng: Rng,
    ) -> Rc<Self> {
        let count = pumps.len() as u32;
        Rc::new(Self {
            queues: pumps.iter().map(|_| RefCell::default()).collect(),
            swept: pumps.iter().map(|_| Cell::default()).collect(),
            pumps: pumps.into_iter().map(RefCell::new).collect(),
            wal: RefCell::new(wal),
            publisher,
            parking: (0..workers)
                .map(|_| RefCell::new(Parking::new(count)))
                .collect(),
            answers: RefCell::default(),
            gone: RefCell::default(),
            wall: Cell::new(Millis(0)),
            meets: [0, 15, 60][rng.weighted(&[10, 50, 40])],
            rng: RefCell::new(rng),
            turns: RefCell::default(),
            under_way: RefCell::default(),
            decisions: RefCell::default(),
            attempts: RefCell::default(),
            met: Cell::new(0),
            notes: RefCell::default(),
            failure: RefCell::default(),
        })
    }

    pub const fn workers(&self) -> usize {
        self.parking.len()
    }

    /// Up to which time a pump has ended what is over: none before its first turn.
    pub fn swept(&self, pump: usize) -> Millis {
        self.swept[pump].get()
    }

    pub fn durable(&self) -> Lsn {
        self.wal.borrow().durable
    }

    /// Is everything appended durable, and everything durable answered?
    pub fn is_at_rest(&self) -> bool {
        let quiet = |queue: &RefCell<VecDeque<Asked<Client>>>| {
            let queue = queue.borrow();
            queue.iter().all(|asked| asked.respond.is_some())
        };
        let settled = |pump: &RefCell<Pump<Client>>| !pump.borrow().must_turn();
        self.wal.borrow().is_idle()
            && self
                .parking
                .iter()
                .all(|parking| parking.borrow().is_empty())
            && self.queues.iter().all(quiet)
            && self.pumps.iter().all(settled)
    }

    pub fn is_done(&self) -> bool {
        self.is_at_rest() && self.queues.iter().all(|queue| queue.borrow().is_empty())
    }

    /// One pump takes a turn over some of what waits for it.
    pub fn turn(&self, number: usize, most: usize, wall: Millis) -> persist::Result<()> {
        let Ok(mut pump) = self.pumps[number].try_borrow_mut() else {
            return Ok(());
        };
        let mut commands: Vec<_> = {
            let mut queue = self.queues[number].borrow_mut();
            let most = most.min(queue.len());
            queue.drain(..most).collect()
        };
        let asked = commands.iter().filter_map(|asked| asked.respond.as_ref());
        let ids: Vec<_> = asked.map(|client| client.request).collect();
        let turn = self.turns.borrow().len();
        self.turns.borrow_mut().push(Turn::default());
        self.under_way.borrow_mut().push(turn);
        let mut park = |parked: Parked<Client>| {
            let worker = parked.respond.request as usize % self.parking.len();
            self.parking[worker].borrow_mut().park(parked);
        };
        let mut log = Log {
            machine: self,
            turn,
        };
        let done = pump.turn(wall, &mut log, &mut commands.drain(..), &mut park);
        self.swept[number].set(pump.engine().now());
        self.under_way.borrow_mut().pop();
        let appended = self.turns.borrow()[turn].appended;
        let note = format!(
            "pump {number} turns over {ids:?} at {}, appended {appended:?}",
            wall.0
        );
        self.notes.borrow_mut().push(note);
        done
    }

    /// Another pump comes between, or none.
    fn interrupt(&self) {
        let (number, most, later) = {
            let mut rng = self.rng.borrow_mut();
            if self.pumps.len() == 1 || !rng.chance(self.meets) {
                return;
            }
            let later = [rng.below(3), rng.below(60_000)][rng.weighted(&[95, 5])];
            (
                rng.below(self.pumps.len() as u64) as usize,
                rng.below(5),
                later,
            )
        };
        if self.pumps[number].try_borrow_mut().is_err() {
            return;
        }
        self.met.set(self.met.get() + 1);
        let turned = self.turn(number, most as usize, self.wall.get().plus(later));
        if let Err(error) = turned {
            self.failure.replace(Some(error.to_string()));
        }
    }

    fn note_decision(&self, request: u64) {
        let under_way = self.under_way.borrow();
        if let Some((turn, around)) = under_way.split_last() {
            let mut attempts = self.attempts.borrow_mut();
            let attempts = attempts.entry(request).or_default();
            *attempts += 1;
            let decision = Decision {
                seen: self.wal.borrow().appended_lsn(),
                turn: *turn,
                around: around.to_vec(),
                attempts: *attempts,
            };
            self.decisions.borrow_mut().insert(request, decision);
        }
    }

    /// What the decisions of the turns that are over were taken with, by request.
    pub fn places(&self) -> Vec<(u64, Place)> {
        let wal = self.wal.borrow();
        let mut turns = self.turns.borrow_mut();
        let flights = |turn: &usize| {
            let appended = turns.get(*turn).and_then(|turn| turn.appended);
            let (first, last) = appended.unwrap_or((Lsn(1), Lsn(0)));
            let records = (first.0..=last.0).filter_map(|lsn| wal.appended.get(lsn as usize - 1));
            let records =
                records.filter_map(|bytes| postcard::from_bytes::<Record<'_>>(bytes).ok());
            let flights = records.filter_map(|record| Flight::of(&record));
            flights.collect::<Vec<_>>()
        };
        let decisions = std::mem::take(&mut *self.decisions.borrow_mut());
        let places = decisions.into_iter().filter_map(|(request, decision)| {
            let (first, _) = turns.get(decision.turn)?.appended?;
            let place = Place {
                seen: decision.seen,
                first,
                flights: decision.around.iter().flat_map(flights).collect(),
                attempts: decision.attempts,
            };
            Some((request, place))
        });
        let places = places.collect();
        turns.clear();
        places
    }

    /// One serving thread publishes and answers what is durable by now.
    pub fn release(&self, worker: usize) {
        let mut withdrawn: Vec<(u32, HoldId)> = Vec::new();
        let durable = self.durable();
        self.parking[worker]
            .borrow_mut()
            .release(&self.publisher, durable, |pump, hold| {
                withdrawn.push((pump, hold));
            });
        for (pump, hold) in withdrawn {
            self.queues[pump as usize].borrow_mut().push_back(Asked {
                command: Command::Withdraw { hold },
                respond: None,
            });
        }
    }
}

/// The log as a pump sees it in the midst of its turn.
struct Log<'a> {
    machine: &'a Machine,
    turn: usize,
}

impl Append for Log<'_> {
    fn append(&mut self, batch: &Batch) -> persist::Result<Lsn> {
        self.machine.interrupt();
        let first = self.machine.wal.borrow_mut().append(batch)?;
        let last = Lsn(first.0 + u64::from(batch.count()) - 1);
        self.machine.turns.borrow_mut()[self.turn].appended = Some((first, last));
        // In the log, and not yet visible to others as far as it loosens.
        self.machine.interrupt();
        Ok(first)
    }

    fn appended_lsn(&self) -> Lsn {
        self.machine.wal.borrow().appended_lsn()
    }
}
