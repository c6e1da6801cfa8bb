//! What a run leaves for people: its last events, a hash of all of them, and how often each kind of
//! thing happened.

use super::spec::FLOOR;
use engine::command::{Ask, Command, Outcome, Reply, Verdict};
use engine::manage::Manage;
use persist::record::{ChargeFlags, HoldMinted, Record, WorkflowStateChanged};
use persist::{Day, HoldId, Nanos};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

const EVENTS_SHOWN: usize = 30;

/// How often each kind of thing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen(pub BTreeMap<String, u64>);

impl Seen {
    pub fn bump(&mut self, kind: &str) {
        self.add(kind, 1);
    }

    pub fn add(&mut self, kind: &str, times: u64) {
        match self.0.get_mut(kind) {
            Some(known) => *known += times,
            None => {
                self.0.insert(kind.to_owned(), times);
            }
        }
    }
}

/// The last events, for people, and a hash of all of them.
#[derive(Debug, Default)]
pub struct Trace {
    pub last: VecDeque<String>,
    pub hash: u64,
}

impl Trace {
    pub fn note(&mut self, step: u64, what: std::fmt::Arguments<'_>) {
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
    pub snapshots: u64,
    pub answers: u64,
}

impl Counts {
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.records += other.records;
        self.crashes += other.crashes;
        self.snapshots += other.snapshots;
        self.answers += other.answers;
    }
}

/// What a record is an example of; `asked` is the call it is about.
pub fn kinds(record: &Record<'_>, asked: Option<&Ask>) -> Vec<String> {
    match record {
        Record::Directory(_) => vec!["directory".to_owned()],
        Record::Rerated(_) => vec!["re-rated".to_owned()],
        Record::Refused(refused) => {
            let cause = &refused.cause;
            let period = cause
                .budget
                .map(|cap| format!("refused over {:?}", cap.period));
            period.into_iter().chain([cause.code.to_owned()]).collect()
        }
        Record::HoldMinted(minted) => minted_kinds(minted, asked),
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
                    "charge on another's hold",
                    charged.hold.is_some() && charged.key != charged.payer,
                ),
                (
                    "charge on the day before",
                    charged.day != Day::of(charged.at),
                ),
            ];
            let set = flags.into_iter().filter(|(_, set)| *set);
            set.map(|(kind, _)| kind.to_owned()).collect()
        }
        Record::HoldEnded(ended) => vec![format!("{:?}", ended.reason)],
        Record::WorkflowState(WorkflowStateChanged { to, .. }) => vec![format!("{to:?}")],
        Record::ChainRenewed(_) => vec!["chain renewed".to_owned()],
        Record::ChainEnded(ended) => vec![format!("chain ended {:?}", ended.reason)],
        Record::EventsSealed(sealed) if sealed.keep_from > 0 => {
            vec!["events sealed".to_owned(), "events forgotten".to_owned()]
        }
        Record::EventsSealed(_) => vec!["events sealed".to_owned()],
    }
}

fn minted_kinds(minted: &HoldMinted<'_>, asked: Option<&Ask>) -> Vec<String> {
    let amount = minted.amount;
    let undeclared =
        asked.is_some_and(|ask| ask.estimated_tokens < 2 && ask.max_output_tokens.is_none());
    let beyond = minted
        .budget
        .is_some_and(|cap| cap.cap - cap.spent - cap.held < amount);
    let chain = minted.chain;
    let kinds = [
        ("zero hold", amount == Nanos::ZERO),
        ("last cents", amount > Nanos::ZERO && amount < FLOOR),
        ("hold", amount >= FLOOR),
        ("learned hold", undeclared && amount > FLOOR),
        ("overdraft used", beyond),
        (
            "chain begun",
            chain.is_some_and(|link| link.begins.is_some()),
        ),
        (
            "chain goes on",
            chain.is_some_and(|link| link.begins.is_none()),
        ),
    ];
    let set = kinds.into_iter().filter(|(_, set)| *set);
    let period = minted
        .budget
        .map(|cap| format!("held over {:?}", cap.period));
    let set = set.map(|(kind, _)| kind.to_owned());
    set.chain(period).collect()
}

pub fn brief(command: &Command) -> String {
    match command {
        Command::Ask(ask) => format!(
            "{:?} {:?} {:x} key {:x} hold {:x} on {:?} op {:?} tokens {}/{:?} {:?} {:?} {:?}{}",
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
            ask.chain.as_ref().map(|chain| (chain.key, chain.cap)),
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

pub fn promised(outcome: &Outcome) -> Option<HoldId> {
    let Outcome::Decision(decision) = outcome else {
        return None;
    };
    match decision.verdict {
        Verdict::Allow { hold, .. } => hold,
        Verdict::Block(_) => None,
    }
}

pub fn answer_kinds(outcome: &Outcome) -> Vec<&'static str> {
    match outcome {
        Outcome::Decision(decision) => match decision.verdict {
            Verdict::Allow { replayed: true, .. } => vec!["replayed"],
            Verdict::Allow { hold: None, .. } => vec!["allowed, nothing held"],
            _ => Vec::new(),
        },
        Outcome::Tracked(tracked) => {
            let duplicates = tracked.iter().flatten().filter(|tracked| tracked.duplicate);
            duplicates.map(|_| "duplicate event").collect()
        }
        Outcome::Cancelled(None) => vec!["cancel of nothing"],
        Outcome::Alive(false) => vec!["heartbeat of nothing"],
        _ => Vec::new(),
    }
}

pub fn brief_answer(reply: &Reply) -> String {
    let what = match &reply.outcome {
        Outcome::Decision(decision) => match &decision.verdict {
            Verdict::Allow { hold, replayed } => {
                let left = decision.remaining;
                format!("allow {hold:?}, replayed {replayed}, remaining {left:?}")
            }
            Verdict::Block(block) => format!("block {}", block.explanation),
        },
        Outcome::Workflow(view) => format!(
            "{:x} is {:?} {}, {:?} of {:?}",
            view.entry.id.0,
            view.state,
            view.version,
            view.sums,
            view.entry.budget()
        ),
        Outcome::Org(view) => format!("org: {:?}", view.sums),
        Outcome::Managed(_) => "done".to_owned(),
        other => format!("{other:?}"),
    };
    format!("as of {}: {what}", reply.as_of)
}
