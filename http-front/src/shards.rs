//! The way to the engine: a bounded queue per pump, and which pump a command belongs to. Nothing
//! here waits without a bound, and nothing blocks a thread.

use engine::command::{Command, Outcome, Reply, Reported, Track, Tracked};
use engine::pump::{Asked, Respond};
use flume::{Receiver, Sender, TrySendError};
use persist::ids::Slot;
use persist::{HoldId, KeyId, OrgId};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

thread_local! {
    /// The number of the worker that this thread is: where answers to its questions are parked.
    static WORKER: Cell<u32> = const { Cell::new(0) };
}

/// Makes this thread a worker.
pub fn become_worker(number: u32) {
    WORKER.set(number);
}

/// The asker's end of a question.
#[derive(Debug)]
pub struct Waiter {
    sender: oneshot::Sender<Reply>,
    /// The worker whose client asked.
    pub worker: u32,
}

impl Respond for Waiter {
    fn respond(self, reply: Reply) -> bool {
        self.sender.send(reply).is_ok()
    }

    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
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

/// How the slots are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Shards.
    pub shards: u16,
    /// Pumps, each with some of them.
    pub pumps: u32,
}

impl Layout {
    /// The pump of a slot.
    #[must_use]
    pub const fn pump_of(self, slot: Slot) -> u32 {
        let shard = engine::engine::shard_of(slot, self.shards);
        shard as u32 * self.pumps / self.shards as u32
    }
}

/// The front's handle on the engine.
#[derive(Debug, Clone)]
pub struct Shards {
    queues: Arc<[Sender<Asked<Waiter>>]>,
    layout: Layout,
    admit_below: usize,
    refused: Arc<[AtomicU64; REFUSALS.len()]>,
}

/// Why a question got no answer, as it is counted.
const REFUSALS: [&str; 2] = ["queue_full", "too_late"];

/// The pumps' end of the queues.
pub type Queues = Vec<Receiver<Asked<Waiter>>>;

impl Shards {
    /// A queue of `depth` commands for each pump.
    #[must_use]
    pub fn new(layout: Layout, depth: usize) -> (Self, Queues) {
        let (queues, receivers): (Vec<_>, Vec<_>) =
            (0..layout.pumps).map(|_| flume::bounded(depth)).unzip();
        let shards = Self {
            queues: queues.into(),
            layout,
            admit_below: (depth * 3 / 4).max(1),
            refused: Arc::default(),
        };
        (shards, receivers)
    }

    /// How the slots are divided.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Commands that wait, and how many may.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queues = self.queues.iter();
        queues.fold((0, 0), |(waiting, room), queue| {
            (
                waiting + queue.len(),
                room + queue.capacity().unwrap_or_default(),
            )
        })
    }

    /// Questions without an answer since the start, by reason.
    #[must_use]
    pub fn refusals(&self) -> [(&'static str, u64); REFUSALS.len()] {
        std::array::from_fn(|at| {
            let count = self.refused.get(at);
            let count = count.map_or(0, |count| count.load(Ordering::Relaxed));
            (REFUSALS.get(at).copied().unwrap_or_default(), count)
        })
    }

    fn count(&self, why: Unanswered) -> Unanswered {
        let [full, late] = self.refused.as_ref();
        match why {
            Unanswered::Overloaded => full.fetch_add(1, Ordering::Relaxed),
            Unanswered::TooLate => late.fetch_add(1, Ordering::Relaxed),
            Unanswered::Stopping => 0,
        };
        why
    }

    /// The pump that a command is for.
    #[must_use]
    pub fn pump_of(&self, command: &Command) -> u32 {
        let slot = match command {
            Command::Ask(ask) | Command::Evaluate { ask, .. } => ask.workflow.slot(ask.org),
            Command::Track(track) => track
                .events
                .first()
                .map_or(Slot(0), |event| route(track.org, event)),
            Command::Cancel { hold, .. }
            | Command::Withdraw { hold }
            | Command::Release { hold, .. }
            | Command::EndSpan { hold, .. } => hold.slot(),
            Command::Heartbeat { org, workflow, .. }
            | Command::SetState { org, workflow, .. }
            | Command::ReadWorkflow { org, workflow }
            | Command::ReadEffective { org, workflow, .. } => workflow.slot(*org),
            Command::ReadWorkflows { org, ids } => {
                ids.first().map_or(Slot(0), |workflow| workflow.slot(*org))
            }
            // The first pump keeps the directory.
            Command::ReadOrg { .. }
            | Command::ReadSums { .. }
            | Command::ReadKeys { .. }
            | Command::ReadHolds { .. }
            | Command::Manage(_)
            | Command::Reprice { .. }
            | Command::ReadUnpriced { .. }
            | Command::Barrier => return 0,
        };
        self.layout.pump_of(slot)
    }

    fn queue(&self, pump: u32) -> Result<&Sender<Asked<Waiter>>, Unanswered> {
        self.queues.get(pump as usize).ok_or(Unanswered::Stopping)
    }

    fn asked(command: Command) -> (Asked<Waiter>, oneshot::Receiver<Reply>) {
        let (sender, receiver) = oneshot::channel();
        let respond = Some(Waiter {
            sender,
            worker: WORKER.get(),
        });
        (Asked { command, respond }, receiver)
    }

    /// Asks something that may be refused under load: only three quarters of the queue are for it,
    /// the rest is kept for reports of what was already spent.
    pub async fn ask(&self, command: Command, patience: Duration) -> Result<Reply, Unanswered> {
        self.ask_at(self.pump_of(&command), command, patience).await
    }

    /// The same of one pump, about its part of the whole.
    pub async fn ask_at(
        &self,
        pump: u32,
        command: Command,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        let receiver = self.send(pump, command)?;
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(Unanswered::Stopping),
            // The receiver is gone: a hold minted for it is withdrawn.
            Err(_) => Err(self.count(Unanswered::TooLate)),
        }
    }

    fn send(&self, pump: u32, command: Command) -> Result<oneshot::Receiver<Reply>, Unanswered> {
        let queue = self.queue(pump)?;
        if queue.len() >= self.admit_below {
            return Err(self.count(Unanswered::Overloaded));
        }
        let (asked, receiver) = Self::asked(command);
        match queue.try_send(asked) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(self.count(Unanswered::Overloaded)),
            Err(TrySendError::Disconnected(_)) => Err(Unanswered::Stopping),
        }
    }

    /// Asks every pump the same; the answers come in the order of the pumps.
    pub async fn ask_all(
        &self,
        command: impl Fn() -> Command,
        patience: Duration,
    ) -> Result<Vec<Reply>, Unanswered> {
        let mut receivers = Vec::with_capacity(self.queues.len());
        for pump in 0..self.layout.pumps {
            receivers.push(self.send(pump, command())?);
        }
        let answers = async {
            let mut replies = Vec::with_capacity(receivers.len());
            for receiver in receivers {
                replies.push(receiver.await.map_err(|_| Unanswered::Stopping)?);
            }
            Ok(replies)
        };
        match tokio::time::timeout(patience, answers).await {
            Ok(replies) => replies,
            Err(_) => Err(Unanswered::TooLate),
        }
    }

    /// Tells something that must not be lost: waits for room, then for durability.
    pub async fn tell(&self, command: Command) -> Result<Reply, Unanswered> {
        self.tell_at(self.pump_of(&command), command).await
    }

    async fn tell_at(&self, pump: u32, command: Command) -> Result<Reply, Unanswered> {
        let queue = self.queue(pump)?;
        let (asked, receiver) = Self::asked(command);
        queue
            .send_async(asked)
            .await
            .map_err(|_| Unanswered::Stopping)?;
        receiver.await.map_err(|_| Unanswered::Stopping)
    }

    /// Tells one pump something that must get through when questions are refused for load (a kill,
    /// above all), and waits for the answer as long as patience lasts.
    pub async fn insist_at(
        &self,
        pump: u32,
        command: Command,
        patience: Duration,
    ) -> Result<Reply, Unanswered> {
        match tokio::time::timeout(patience, self.tell_at(pump, command)).await {
            Ok(reply) => reply,
            Err(_) => Err(Unanswered::TooLate),
        }
    }

    /// Says something that nobody waits for, if there is room for questions; false if there is not.
    pub fn mention(&self, command: Command) -> bool {
        let Ok(queue) = self.queue(self.pump_of(&command)) else {
            return false;
        };
        let asked = Asked {
            command,
            respond: None,
        };
        queue.len() < self.admit_below && queue.try_send(asked).is_ok()
    }

    /// Takes an allow back that nobody received; false if the queue is full at this moment.
    pub fn withdraw(&self, pump: u32, hold: HoldId) -> bool {
        let asked = Asked {
            command: Command::Withdraw { hold },
            respond: None,
        };
        let full = |queue: &Sender<Asked<Waiter>>| {
            matches!(queue.try_send(asked), Err(TrySendError::Full(_)))
        };
        !self.queue(pump).is_ok_and(full)
    }

    /// Books events, each where its hold or its workflow is; answers in their order when all are
    /// durable.
    pub async fn book(
        &self,
        org: OrgId,
        key: KeyId,
        events: Vec<Reported>,
    ) -> Result<Vec<Tracked>, Unanswered> {
        let mut results: Vec<Option<Tracked>> = events.iter().map(|_| None).collect();
        let mut ends: Vec<_> = events
            .iter()
            .map(|event| (event.ends, route(org, event)))
            .collect();
        let mut parts: Vec<Vec<(usize, Reported)>> =
            self.queues.iter().map(|_| Vec::new()).collect();
        for (index, event) in events.into_iter().enumerate() {
            let pump = self.layout.pump_of(route(org, &event));
            if let Some(part) = parts.get_mut(pump as usize) {
                part.push((index, event));
            }
        }
        // All are sent before the first is waited for: one sync may do for all of them.
        let mut sent = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            sent.push(self.send_part(org, key, part).await?);
        }
        for part in sent {
            for (index, event) in part.answered(&mut results).await? {
                // Its hold is not open any more: it counts where its workflow is.
                if let Some((_, booked)) = ends.get_mut(index) {
                    *booked = route(org, &event);
                }
                let again = self.send_part(org, key, vec![(index, event)]).await?;
                again.answered(&mut results).await?;
            }
        }
        for (hold, booked) in ends {
            if let Some(hold) = hold
                && self.layout.pump_of(hold.slot()) != self.layout.pump_of(booked)
            {
                self.tell(Command::EndSpan { org, key, hold }).await?;
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    async fn send_part(
        &self,
        org: OrgId,
        key: KeyId,
        part: Vec<(usize, Reported)>,
    ) -> Result<SentPart, Unanswered> {
        // Only with several pumps may an event have to go on to another one.
        let kept = if self.layout.pumps > 1 {
            part.iter().map(|(_, event)| without_hold(event)).collect()
        } else {
            Vec::new()
        };
        let (indexes, events): (Vec<_>, Vec<_>) = part.into_iter().unzip();
        let command = Command::Track(Box::new(Track { org, key, events }));
        let queue = self.queue(self.pump_of(&command))?;
        let (asked, receiver) = Self::asked(command);
        let sent = queue.send_async(asked).await;
        sent.map_err(|_| Unanswered::Stopping)?;
        Ok(SentPart {
            indexes,
            kept,
            receiver,
        })
    }
}

/// Events on their way to one pump.
struct SentPart {
    indexes: Vec<usize>,
    /// The same events, should they have to go on.
    kept: Vec<Reported>,
    receiver: oneshot::Receiver<Reply>,
}

impl SentPart {
    /// Puts the answers in their places; returns the events that belong to another pump.
    async fn answered(
        self,
        results: &mut [Option<Tracked>],
    ) -> Result<Vec<(usize, Reported)>, Unanswered> {
        let reply = self.receiver.await.map_err(|_| Unanswered::Stopping)?;
        let Outcome::Tracked(tracked) = reply.outcome else {
            return Err(Unanswered::Stopping);
        };
        let mut kept = self.kept.into_iter();
        let mut elsewhere = Vec::new();
        for (index, tracked) in self.indexes.into_iter().zip(tracked) {
            let event = kept.next();
            match (results.get_mut(index), tracked, event) {
                (Some(place), Some(tracked), _) => *place = Some(tracked),
                (_, _, Some(event)) => elsewhere.push((index, event)),
                (_, _, None) => {}
            }
        }
        Ok(elsewhere)
    }
}

/// Where an event is sent: to the hold it names first, else to its workflow.
fn route(org: OrgId, event: &Reported) -> Slot {
    let hold = event.named_holds().next().filter(|_| !event.elsewhere);
    hold.map_or_else(|| event.workflow.slot(org), HoldId::slot)
}

/// The event, to be booked where its workflow is.
fn without_hold(event: &Reported) -> Reported {
    Reported {
        elsewhere: true,
        ..event.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use persist::record::State;
    use persist::{Lsn, Millis, Nanos, WorkflowId};

    const ORG: OrgId = OrgId(1);

    async fn answer(queue: &Receiver<Asked<Waiter>>, outcome: Outcome) -> Command {
        let asked = tokio::time::timeout(Duration::from_secs(5), queue.recv_async()).await;
        let asked = asked.expect("nothing is asked of this pump").unwrap();
        let as_of = Lsn(1);
        asked.respond.unwrap().respond(Reply { outcome, as_of });
        asked.command
    }

    #[tokio::test]
    async fn a_span_ends_on_its_holds_pump_though_its_event_was_sent_on() {
        let layout = Layout {
            shards: 2,
            pumps: 2,
        };
        let (shards, queues) = Shards::new(layout, 8);
        let mut workflows = (1..).map(WorkflowId);
        let workflow = workflows.find(|id| layout.pump_of(id.slot(ORG)) == 1);
        let workflow = workflow.unwrap();
        let of_first_pump = |n: u16| HoldId::mint(Millis(1), Slot(n), 7);
        let event = Reported {
            holds: [Some(of_first_pump(3)), None],
            ends: Some(of_first_pump(4)),
            workflow,
            ..Reported::default()
        };
        let tracked = Tracked {
            duplicate: false,
            cost: Nanos(1),
            provisional: false,
            overage: None,
            workflow,
            state: State::Normal,
        };
        let pumps = async {
            answer(&queues[0], Outcome::Tracked([None].into_iter().collect())).await;
            answer(
                &queues[1],
                Outcome::Tracked([Some(tracked)].into_iter().collect()),
            )
            .await;
            answer(&queues[0], Outcome::Done).await
        };
        let (booked, ends) = tokio::join!(shards.book(ORG, KeyId(1), vec![event]), pumps);
        assert_eq!(booked.unwrap().len(), 1);
        assert!(
            matches!(ends, Command::EndSpan { hold, .. } if hold == of_first_pump(4)),
            "{ends:?}"
        );
    }
}
