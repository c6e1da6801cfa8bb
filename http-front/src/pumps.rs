//! Who runs the pumps. On one or two cores a pump is a task of the front's own thread: a request
//! that crosses threads costs more than its decision. With more cores each pump has a thread, and
//! the answers are parked with the worker whose client asked, which the log wakes once per batch.

use crate::clock;
use crate::shards::{Shards, Waiter};
use engine::pump::{Asked, Parked, Parking, Publisher, Pump};
use flume::{Receiver, RecvTimeoutError};
use persist::{HoldId, Log, Lsn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Commands decided in one turn at most: bounds how long one append can get.
const TURN: usize = 1024;
/// How often expired holds are looked for when nothing else happens.
const IDLE_TICK: Duration = Duration::from_millis(250);
/// How often a pump looks for room when too many answers wait for the disk.
const NO_ROOM: Duration = Duration::from_millis(1);

/// A failure of the log, told to the main task.
#[derive(Debug, Default)]
pub struct Failure {
    text: std::sync::OnceLock<String>,
    bell: Notify,
}

impl Failure {
    /// Notes the first failure.
    pub fn tell(&self, text: String) {
        let _first = self.text.set(text);
        self.bell.notify_one();
    }

    /// Waits for a failure.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(text) = self.text.get() {
                return text.clone();
            }
            self.bell.notified().await;
        }
    }
}

/// Where the answers of a worker's clients wait.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Given by pumps, not yet sorted.
    letters: Mutex<Vec<Parked<Waiter>>>,
    /// Is anything parked at all? Then the log rings.
    waiting: AtomicBool,
    bell: Notify,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Vec<Parked<Waiter>>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What pumps, workers and the log share.
#[derive(Debug)]
pub struct Exchange {
    /// One for each worker.
    mailboxes: Vec<Mailbox>,
    /// Answers that wait for the disk, of all workers.
    parked: AtomicUsize,
    parked_most: usize,
    /// No more commands come.
    closing: AtomicBool,
    /// The log failed.
    pub failed: Failure,
}

impl Exchange {
    /// For so many workers; at most `parked_most` answers wait for the disk.
    #[must_use]
    pub fn new(workers: u32, parked_most: usize) -> Arc<Self> {
        Arc::new(Self {
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            parked: AtomicUsize::new(0),
            parked_most,
            closing: AtomicBool::new(false),
            failed: Failure::default(),
        })
    }

    /// Lets the pumps end once their queues are empty.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for mailbox in &self.mailboxes {
            mailbox.bell.notify_one();
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    fn has_room(&self) -> bool {
        self.parked.load(Ordering::SeqCst) < self.parked_most
    }
}

/// The log's voice: wakes each worker with parked answers once for each batch that became durable.
#[derive(Debug)]
pub struct Durable(pub Arc<Exchange>);

impl persist::group_commit::Listener for Durable {
    fn durable(&mut self, _lsn: Lsn) {
        for mailbox in &self.0.mailboxes {
            if mailbox.waiting.load(Ordering::SeqCst) {
                mailbox.bell.notify_one();
            }
        }
    }

    fn failed(&mut self, error: persist::Error) {
        self.0.failed.tell(error.to_string());
    }
}

/// Runs one pump as a task of the only worker, until closing.
pub async fn run_in_front(
    mut pump: Pump<Waiter>,
    log: Arc<Log>,
    queue: Receiver<Asked<Waiter>>,
    exchange: Arc<Exchange>,
    publisher: Arc<Publisher>,
) {
    let Some(mailbox) = exchange.mailboxes.first() else {
        return;
    };
    // The log always rings: this task has its own answers only.
    mailbox.waiting.store(true, Ordering::SeqCst);
    let mut parking = Parking::new(1);
    let mut first = None;
    let mut withdrawn: Vec<HoldId> = Vec::new();
    // Whether anybody is left who may ask.
    let mut open = true;
    loop {
        let over = !open || exchange.is_closing();
        let again = pump.must_turn() || !withdrawn.is_empty();
        if over && queue.is_empty() && parking.is_empty() && !again {
            return;
        }
        // With the disk behind, commands stay in the queue, where their number is bounded.
        let room = parking.len() < exchange.parked_most;
        tokio::select! {
            biased;
            () = mailbox.bell.notified() => {}
            received = queue.recv_async(), if room && open => match received {
                Ok(asked) => first = Some(asked),
                // Nobody can ask any more.
                Err(_) => open = false,
            },
            () = tokio::time::sleep(IDLE_TICK), if !again => {}
            // Clients get their turn in between: ending many holds takes many turns.
            () = tokio::task::yield_now(), if again => {}
        }
        if first.is_some() {
            // One full turn of the runtime: everybody who is ready gets into this batch.
            tokio::task::yield_now().await;
        }
        let take = if room { TURN } else { 0 };
        let withdrawals = withdrawn.drain(..).map(|hold| Asked {
            command: engine::command::Command::Withdraw { hold },
            respond: None,
        });
        let commands = first.take().into_iter().chain(queue.try_iter()).take(take);
        let mut inbox = withdrawals.chain(commands);
        let mut park = |parked| parking.park(parked);
        if let Err(error) = pump.turn(clock::now(), &mut &*log, &mut inbox, &mut park) {
            exchange.failed.tell(error.to_string());
            return;
        }
        drop(inbox);
        parking.release(&publisher, log.durable_lsn(), |_, hold| {
            withdrawn.push(hold)
        });
    }
}

/// Runs one pump on this thread, until closing.
pub fn run_on_thread(
    mut pump: Pump<Waiter>,
    log: &Log,
    queue: &Receiver<Asked<Waiter>>,
    exchange: &Exchange,
) {
    let mut touched = vec![false; exchange.mailboxes.len()];
    loop {
        if !exchange.has_room() {
            std::thread::sleep(NO_ROOM);
            if !exchange.is_closing() {
                continue;
            }
        }
        let first = if pump.must_turn() {
            // Another pump may need a moment to append what this one waits for.
            std::thread::yield_now();
            queue.try_recv().ok()
        } else {
            match queue.recv_timeout(IDLE_TICK) {
                Ok(asked) => Some(asked),
                Err(RecvTimeoutError::Timeout) if exchange.is_closing() => return,
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let mut inbox = first.into_iter().chain(queue.try_iter()).take(TURN);
        let mut park = |parked: Parked<Waiter>| {
            let worker = parked.respond.worker as usize;
            if let (Some(mailbox), Some(touched)) =
                (exchange.mailboxes.get(worker), touched.get_mut(worker))
            {
                exchange.parked.fetch_add(1, Ordering::SeqCst);
                mailbox.letters().push(parked);
                *touched = true;
            }
        };
        let mut log = log;
        if let Err(error) = pump.turn(clock::now(), &mut log, &mut inbox, &mut park) {
            exchange.failed.tell(error.to_string());
            return;
        }
        let all_durable = log.durable_lsn() >= log.appended_lsn();
        for (mailbox, touched) in exchange.mailboxes.iter().zip(&mut touched) {
            if std::mem::take(touched) {
                // In this order: whoever syncs now either sees it waiting, or was seen above.
                mailbox.waiting.store(true, Ordering::SeqCst);
                if all_durable || log.durable_lsn() >= log.appended_lsn() {
                    mailbox.bell.notify_one();
                }
            }
        }
    }
}

/// Releases the answers of worker `number`'s clients as the log gets further, until closing.
pub async fn release(
    number: u32,
    shards: Shards,
    log: Arc<Log>,
    exchange: Arc<Exchange>,
    publisher: Arc<Publisher>,
) {
    let Some(mailbox) = exchange.mailboxes.get(number as usize) else {
        return;
    };
    let mut parking = Parking::new(shards.layout().pumps);
    let mut withdrawn: Vec<(u32, HoldId)> = Vec::new();
    loop {
        let new = std::mem::take(&mut *mailbox.letters());
        for parked in new {
            parking.park(parked);
        }
        let before = parking.len();
        parking.release(&publisher, log.durable_lsn(), |pump, hold| {
            withdrawn.push((pump, hold));
        });
        exchange
            .parked
            .fetch_sub(before - parking.len(), Ordering::SeqCst);
        withdrawn.retain(|(pump, hold)| !shards.withdraw(*pump, *hold));
        if parking.is_empty() {
            // What was put in meanwhile rings by itself, or is seen at once.
            mailbox.waiting.store(false, Ordering::SeqCst);
            if exchange.is_closing() && mailbox.letters().is_empty() {
                return;
            }
            if !mailbox.letters().is_empty() {
                mailbox.waiting.store(true, Ordering::SeqCst);
                continue;
            }
        }
        tokio::select! {
            biased;
            () = mailbox.bell.notified() => {}
            // A withdrawal found the queue full; and nothing waits for ever.
            () = tokio::time::sleep(IDLE_TICK) => {}
        }
    }
}
