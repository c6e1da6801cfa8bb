//! What clients ask, on its way to the pumps and back.

use super::{Open, World};
use crate::clients::Want;
use crate::front::{Answer, Next, Request, Sent};
use crate::machine::Client;
use crate::promises::{Moment, Question};
use crate::reference::{Asked, Report};
use crate::trace::{answer_kinds, brief, brief_answer, promised};
use crate::violation::Check;
use engine::command::{Ask, Command, Track};
use engine::pump::Asked as Queued;
use std::rc::Rc;

impl World {
    pub(super) fn send(&mut self) {
        let published = self.live().map(|live| live.publisher.load().lsn);
        let published = published.unwrap_or_default();
        self.clients.learn(&self.ledger, published, self.wall);
        let rush = self.clients.habits.rush;
        for _ in 0..=self.rng.below(rush) {
            let want = self.clients.next(&mut self.rng, self.wall);
            self.post(want);
        }
    }

    pub(super) fn read(&mut self) {
        let want = self.clients.read(&mut self.rng);
        self.post(want);
    }

    /// Sends a request on its way, where the reference sees it.
    fn post(&mut self, want: Want) {
        let Some(live) = self.live() else { return };
        let id = self.next_request;
        self.next_request += 1;
        let times = live.pumps.iter().map(|pump| pump.borrow().engine().now());
        let mut moment = Moment {
            since: self.ledger.lsn,
            rules: self.promises.rules,
            killed: false,
            from: times.min().unwrap_or_default(),
        };
        let (request, sent) = match want {
            Want::Do(command, question) => {
                if let Question::Ask(ask) = &question {
                    moment.killed = self.promises.killed.contains(&ask.workflow);
                    self.note_ask(id, ask);
                }
                Request::one(self.layout, command, question)
            }
            Want::Look(org, true) => {
                let read = || Command::ReadOrg { org };
                Request::all(self.layout, Question::Org(org), read)
            }
            Want::Look(org, false) => {
                let read = || Command::ReadHolds {
                    org,
                    workflow: None,
                    after: None,
                    limit: usize::MAX,
                };
                Request::all(self.layout, Question::Org(org), read)
            }
            Want::Book(track) => {
                self.note_reports(&track);
                Request::book(self.layout, track)
            }
        };
        self.open.insert(id, Open { request, moment });
        self.dispatch(id, sent);
    }

    fn note_ask(&mut self, request: u64, ask: &Ask) {
        let trace = ask.trace_id.clone().unwrap_or_default();
        let asked = Asked {
            ask: ask.clone(),
            acknowledged: self.promises.rules,
            request,
        };
        self.ledger.asked.insert(trace, asked);
        if let Some(chain) = ask.chain.as_ref().filter(|_| ask.chain_end) {
            self.ledger.ending.insert(chain.key);
        }
    }

    fn note_reports(&mut self, track: &Track) {
        let since = self.ledger.lsn;
        for event in &track.events {
            let span = event.span_id.clone().unwrap_or_default();
            self.ledger.reported.entry(span).or_insert_with(|| Report {
                org: track.org,
                key: track.key,
                event: event.clone(),
                since,
                elsewhere: false,
            });
        }
    }

    /// Puts parts of a request into the queues of their pumps.
    fn dispatch(&mut self, request: u64, sent: Vec<Sent>) {
        let Some(live) = self.live() else { return };
        for Sent {
            pump,
            part,
            command,
        } in sent
        {
            note!(
                self,
                "#{request}.{part} to pump {pump}: {}",
                brief(&command)
            );
            if let Command::Track(track) = &command {
                for event in track.events.iter().filter(|event| event.elsewhere) {
                    let span = event.span_id.as_deref().unwrap_or_default();
                    if let Some(report) = self.ledger.reported.get_mut(span) {
                        report.elsewhere = true;
                        self.seen.bump("sent on");
                    }
                }
            }
            let client = Client {
                request,
                part,
                machine: Rc::downgrade(&live),
            };
            live.queues[pump].borrow_mut().push_back(Queued {
                command,
                respond: Some(client),
            });
        }
    }

    pub(super) fn leave(&mut self) {
        let waiting: Vec<_> = self.open.keys().copied().collect();
        if let (Some(id), Some(live)) = (self.rng.pick(&waiting), self.live()) {
            note!(self, "#{id} leaves");
            self.open.remove(&id);
            live.gone.borrow_mut().insert(id);
        }
    }

    pub(super) fn deliver(&mut self) -> Check {
        let Some(live) = self.live() else {
            return Ok(());
        };
        loop {
            let next = live.answers.borrow_mut().pop_front();
            let Some((id, part, reply)) = next else {
                return Ok(());
            };
            self.counts.answers += 1;
            if let Some(hold) = promised(&reply.outcome) {
                self.clients.told(hold);
            }
            for kind in answer_kinds(&reply.outcome) {
                self.seen.bump(kind);
            }
            note!(self, "#{id}.{part} {}", brief_answer(&reply));
            let Some(Open { request, moment }) = self.open.remove(&id) else {
                continue;
            };
            match request.answered(part, reply) {
                Next::Wait(request, sent) => {
                    self.open.insert(id, Open { request, moment });
                    self.dispatch(id, sent);
                }
                Next::Done(answer) => self.answered(moment, &answer)?,
            }
        }
    }

    fn answered(&mut self, moment: Moment, answer: &Answer) -> Check {
        let pumps = self.live().into_iter().flat_map(|live| {
            let times = live.pumps.iter().map(|pump| pump.borrow().engine().now());
            times.collect::<Vec<_>>()
        });
        let until = pumps.max().unwrap_or_default();
        self.promises
            .answered(&mut self.ledger, moment, until, answer)
    }
}
