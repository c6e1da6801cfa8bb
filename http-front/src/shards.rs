//! The way to the engine: a bounded queue and the task that runs the pump on it. Nothing here waits
//! without a bound, and nothing blocks the thread.

use crate::clock;
use engine::command::{Command, Reply};
use engine::pump::{Pump, Respond};
use flume::{Receiver, Sender, TrySendError};
use persist::{Log, Lsn};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// Commands decided in one turn at most: bounds how long one append can get.
const TURN: usize = 1024;
/// How often expired holds are looked for when nothing else happens.
const IDLE_TICK: Duration = Duration::from_millis(250);

/// The asker's end of a question.
#[derive(Debug)]
pub struct Waiter(oneshot::Sender<Reply>);

impl Respond for Waiter {
    fn respond(self, reply: Reply) -> bool {
        self.0.send(reply).is_ok()
    }

    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// Why a command was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Too many wait already.
    Overloaded,
    /// The time was over first.
    TooLate,
    /// The gateway is stopping.
    Stopping,
}

/// The front's handle on the engine.
#[derive(Debug, Clone)]
pub struct Shards {
    queue: Sender<(Command, Waiter)>,
    admit_below: usize,
}

impl Shards {
    /// A queue of `depth` commands.
    #[must_use]
    pub fn new(depth: usize) -> (Self, Receiver<(Command, Waiter)>) {
        let (queue, receiver) = flume::bounded(depth);
        (
            Self {
                queue,
                admit_below: (depth * 3 / 4).max(1),
            },
            receiver,
        )
    }

    /// Asks something that may be refused under load: only three quarters of the queue are for it,
    /// the rest is kept for reports of what was already spent.
    pub async fn ask(&self, command: Command, patience: Duration) -> Result<Reply, Unanswered> {
        if self.queue.len() >= self.admit_below {
            return Err(Unanswered::Overloaded);
        }
        let (sender, receiver) = oneshot::channel();
        match self.queue.try_send((command, Waiter(sender))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Unanswered::Overloaded),
            Err(TrySendError::Disconnected(_)) => return Err(Unanswered::Stopping),
        }
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Unanswered::Stopping),
            // The receiver is gone: a hold minted for it is withdrawn.
            Err(_) => Err(Unanswered::TooLate),
        }
    }

    /// Tells something that must not be lost: waits for room, then for durability.
    pub async fn tell(&self, command: Command) -> Result<Reply, Unanswered> {
        let (sender, receiver) = oneshot::channel();
        self.queue
            .send_async((command, Waiter(sender)))
            .await
            .map_err(|_| Unanswered::Stopping)?;
        receiver.await.map_err(|_| Unanswered::Stopping)
    }
}

impl Shards {
    /// Tells something that must get through when questions are refused for load (a kill, above
    /// all), and waits for the answer as long as patience lasts.
    pub async fn insist(&self, command: Command, patience: Duration) -> Result<Reply, Unanswered> {
        match tokio::time::timeout(patience, self.tell(command)).await {
            Ok(reply) => reply,
            Err(_) => Err(Unanswered::TooLate),
        }
    }
}

/// The log's voice: wakes the pump once for each batch that became durable.
#[derive(Debug)]
pub struct Durable {
    /// Rung after each sync.
    pub bell: Arc<Notify>,
    /// Ends the process.
    pub failed: Arc<Failure>,
}

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

impl persist::group_commit::Listener for Durable {
    fn durable(&mut self, _lsn: Lsn) {
        self.bell.notify_one();
    }

    fn failed(&mut self, error: persist::Error) {
        self.failed.tell(error.to_string());
    }
}

/// Runs the pump until every `Shards` is gone and everything is answered.
pub async fn run(
    mut pump: Pump<Waiter>,
    log: Arc<Log>,
    queue: Receiver<(Command, Waiter)>,
    bell: Arc<Notify>,
    failed: Arc<Failure>,
) {
    let parked_most = queue.capacity().unwrap_or(TURN);
    let mut first = None;
    let mut open = true;
    let mut again = false;
    while open || again || pump.parked() > 0 {
        // With the disk behind, commands stay in the queue, where their number is bounded.
        let room = pump.parked() < parked_most;
        tokio::select! {
            biased;
            () = bell.notified() => {}
            received = queue.recv_async(), if open && room => match received {
                Ok(command) => first = Some(command),
                Err(_) => open = false,
            },
            () = tokio::time::sleep(IDLE_TICK), if !again => {}
            () = std::future::ready(()), if again => {}
        }
        if first.is_some() {
            // One full turn of the runtime: everybody who is ready gets into this batch.
            tokio::task::yield_now().await;
        }
        let take = if room { TURN } else { 0 };
        let mut inbox = first.take().into_iter().chain(queue.try_iter()).take(take);
        if let Err(error) = pump.turn(clock::now(), &mut &*log, &mut inbox) {
            failed.tell(error.to_string());
            return;
        }
        again = pump.release(log.durable_lsn());
    }
}
