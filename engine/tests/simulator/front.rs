//! The way to the pumps and back, as `http-front/src/shards.rs` goes it: which pump a command belongs
//! to, batches of events that are divided and put together again, questions that all pumps answer.

use super::promises::Question;
use engine::command::{Command, Outcome, Reply, Reported, Track, Tracked};
use engine::engine::shard_of;
use persist::ids::Slot;
use persist::{HoldId, Lsn, OrgId};
use std::collections::{BTreeMap, VecDeque};

/// How the slots are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub shards: u16,
    pub pumps: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            shards: 1,
            pumps: 1,
        }
    }
}

impl Layout {
    /// The pump of a slot.
    pub fn pump_of(self, slot: Slot) -> usize {
        let shard = shard_of(slot, self.shards);
        (u32::from(shard) * self.pumps / u32::from(self.shards)) as usize
    }

    fn route(self, command: &Command) -> usize {
        let slot = match command {
            Command::Ask(ask) | Command::Evaluate { ask, .. } => ask.workflow.slot(ask.org),
            Command::Track(track) => {
                let first = track.events.first();
                first.map_or(Slot(0), |event| home(track.org, event))
            }
            Command::Cancel { hold, .. }
            | Command::Withdraw { hold }
            | Command::Release { hold, .. }
            | Command::EndSpan { hold, .. } => hold.slot(),
            Command::Heartbeat { org, workflow, .. }
            | Command::SetState { org, workflow, .. }
            | Command::ReadWorkflow { org, workflow }
            | Command::ReadEffective { org, workflow, .. } => workflow.slot(*org),
            Command::ReadWorkflows { .. }
            | Command::ReadOrg { .. }
            | Command::ReadSums { .. }
            | Command::ReadKeys { .. }
            | Command::ReadHolds { .. }
            | Command::Manage(_)
            | Command::Reprice { .. }
            | Command::ReadUnpriced { .. }
            | Command::Barrier => return 0,
        };
        self.pump_of(slot)
    }
}

/// Where an event is sent: to the hold it names first, else to its workflow.
fn home(org: OrgId, event: &Reported) -> Slot {
    let hold = event.named_holds().next().filter(|_| !event.elsewhere);
    hold.map_or_else(|| event.workflow.slot(org), HoldId::slot)
}

/// A part of a request on its way to a pump.
#[derive(Debug)]
pub struct Sent {
    pub pump: usize,
    pub part: usize,
    pub command: Command,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub enum Request {
    One(Question),
    All(Question, Vec<Option<Reply>>),
    Book(Booking),
}

/// An answer, whole.
#[derive(Debug)]
pub enum Answer {
    One(Question, Reply),
    All(Question, Vec<Reply>),
    Booked(Track, Vec<(Tracked, Lsn)>),
}

/// What follows from a part of an answer.
#[derive(Debug)]
pub enum Next {
    Wait(Request, Vec<Sent>),
    Done(Answer),
}

impl Request {
    /// Something one pump answers.
    pub fn one(layout: Layout, command: Command, question: Question) -> (Self, Vec<Sent>) {
        let pump = layout.route(&command);
        let sent = Sent {
            pump,
            part: 0,
            command,
        };
        (Self::One(question), vec![sent])
    }

    /// Something every pump answers.
    pub fn all(
        layout: Layout,
        question: Question,
        command: impl Fn() -> Command,
    ) -> (Self, Vec<Sent>) {
        let pumps = 0..layout.pumps as usize;
        let sent = pumps.clone().map(|pump| Sent {
            pump,
            part: pump,
            command: command(),
        });
        let request = Self::All(question, pumps.map(|_| None).collect());
        (request, sent.collect())
    }

    pub fn book(layout: Layout, track: Track) -> (Self, Vec<Sent>) {
        let homes = track.events.iter().map(|event| home(track.org, event));
        let homes: Vec<_> = homes.collect();
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, home) in homes.iter().enumerate() {
            let pump = layout.pump_of(*home);
            parts.entry(pump).or_default().push(index);
        }
        let mut booking = Booking {
            results: track.events.iter().map(|_| None).collect(),
            track,
            layout,
            waiting: BTreeMap::new(),
            homes,
            parts: 0,
            ends: VecDeque::new(),
            spans_told: false,
        };
        let parts = parts.into_values();
        let sent = parts.map(|indexes| booking.send(indexes, false)).collect();
        (Self::Book(booking), sent)
    }

    /// Takes the answer to a part.
    pub fn answered(self, part: usize, reply: Reply) -> Next {
        match self {
            Self::One(question) => Next::Done(Answer::One(question, reply)),
            Self::All(question, mut replies) => {
                replies[part] = Some(reply);
                if replies.iter().any(Option::is_none) {
                    return Next::Wait(Self::All(question, replies), Vec::new());
                }
                Next::Done(Answer::All(
                    question,
                    replies.into_iter().flatten().collect(),
                ))
            }
            Self::Book(booking) => booking.answered(part, reply),
        }
    }
}

/// Events on their way into the books.
#[derive(Debug)]
pub struct Booking {
    layout: Layout,
    track: Track,
    results: Vec<Option<(Tracked, Lsn)>>,
    /// Which events each part that is not answered yet holds.
    waiting: BTreeMap<usize, Vec<usize>>,
    /// Where each event is booked, or tried to be.
    homes: Vec<Slot>,
    parts: usize,
    /// Ends of spans that are still to be told to the pumps of their holds.
    ends: VecDeque<Command>,
    spans_told: bool,
}

impl Booking {
    fn send(&mut self, indexes: Vec<usize>, elsewhere: bool) -> Sent {
        let events = indexes.iter().map(|index| Reported {
            elsewhere,
            ..self.track.events[*index].clone()
        });
        let track = Track {
            org: self.track.org,
            key: self.track.key,
            events: events.collect(),
        };
        self.waiting.insert(self.parts, indexes);
        self.send_command(Command::Track(Box::new(track)))
    }

    fn send_command(&mut self, command: Command) -> Sent {
        let (pump, part) = (self.layout.route(&command), self.parts);
        self.parts += 1;
        Sent {
            pump,
            part,
            command,
        }
    }

    fn answered(mut self, part: usize, reply: Reply) -> Next {
        let indexes = self.waiting.remove(&part).unwrap_or_default();
        let mut sent = Vec::new();
        if let Outcome::Tracked(tracked) = reply.outcome {
            for (index, tracked) in indexes.into_iter().zip(tracked) {
                match tracked {
                    Some(tracked) => self.results[index] = Some((tracked, reply.as_of)),
                    // Its hold is not open any more: it counts where its workflow is.
                    None => {
                        let event = &self.track.events[index];
                        self.homes[index] = event.workflow.slot(self.track.org);
                        sent.push(self.send(vec![index], true));
                    }
                }
            }
        }
        if sent.is_empty() && self.waiting.is_empty() {
            if !self.spans_told {
                self.spans_told = true;
                self.ends = self.ends_elsewhere();
            }
            match self.ends.pop_front() {
                Some(command) => sent.push(self.send_command(command)),
                None => {
                    let results = self.results.into_iter().flatten().collect();
                    return Next::Done(Answer::Booked(self.track, results));
                }
            }
        }
        Next::Wait(Request::Book(self), sent)
    }

    /// Spans that end on another pump than the one their event was booked by.
    fn ends_elsewhere(&self) -> VecDeque<Command> {
        let (org, key) = (self.track.org, self.track.key);
        let events = self.track.events.iter().zip(&self.homes);
        let away = events.filter_map(|(event, home)| {
            let hold = event.ends?;
            let away = self.layout.pump_of(hold.slot()) != self.layout.pump_of(*home);
            away.then_some(Command::EndSpan { org, key, hold })
        });
        away.collect()
    }
}
