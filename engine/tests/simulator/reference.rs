//! The reference ledger: the durable log, read a second time by somebody who knows the
//! specification (`docs/architecture.md`, "Invariants"; `docs/semantics.md`) and nothing of the
//! engine's code. It is told what clients ask and what was acknowledged, walks the records in the
//! order of the log with plain maps, and stops at the first that ought not to be there.

use super::books::{Books, Chain, Sums};
use super::charges::Charges;
use super::front::Layout;
use super::places::{Cap, Place};
use super::rules::{History, Workflow, levels};
use super::spec::{Bounds, HOLD_MILLIS, IDLE_MILLIS, Size, Usual, first_day, size};
use super::violation::Invariant::*;
use super::violation::{Check, Violation, broken, ensure};
use engine::command::{Ask, Reported};
use engine::engine::about;
use persist::record::{
    Actor, Call, ChainEnd, ChainEnded, ChainLink, ChainRenewed, DirectoryRecord, Note, Operation,
    PolicyAction, PolicyType, Record, Scope, State, WorkflowStateChanged,
};
use persist::{Day, HoldId, KeyId, Lsn, Millis, Nanos, OrgId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

mod money;

/// A question that may leave a record.
#[derive(Debug)]
pub struct Asked {
    pub ask: Ask,
    /// The last change of the rules that was acknowledged before.
    pub acknowledged: Lsn,
    pub request: u64,
}

/// An event somebody reported.
#[derive(Debug)]
pub struct Report {
    pub org: OrgId,
    pub key: KeyId,
    pub event: Reported,
    /// Where the durable log ended when it was reported first.
    pub since: Lsn,
    /// It was sent on to its workflow: the holds it names were not open.
    pub elsewhere: bool,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub lsn: Lsn,
    /// How the running process is divided.
    pub layout: Layout,
    /// Each pump's last time, in the running process.
    clocks: BTreeMap<usize, Millis>,
    /// Where the log ended when the process began.
    pub began: Lsn,
    pub books: Books,
    pub charges: Charges,
    pub rules: History,
    /// Operators' commands, by the person who gave each.
    pub done: BTreeMap<u128, Lsn>,
    /// Calls by trace id.
    pub asked: BTreeMap<String, Asked>,
    /// Chains that somebody asked to end.
    pub ending: BTreeSet<u128>,
    /// Every renewal and every end of a chain.
    pub renewed: BTreeSet<(u128, Lsn)>,
    pub chains_ended: BTreeSet<(u128, Lsn)>,
    /// Events by span id.
    pub reported: BTreeMap<String, Report>,
    /// Holds that somebody was told of.
    pub delivered: BTreeSet<HoldId>,
    /// What each request was decided with, in the running process.
    pub places: BTreeMap<u64, Rc<Place>>,
}

impl Ledger {
    /// A new process begins, with time going on from the log's last.
    pub fn begin(&mut self, layout: Layout) {
        let last = self.clocks.values().copied().max().unwrap_or_default();
        self.clocks = (0..layout.pumps as usize)
            .map(|pump| (pump, last))
            .collect();
        self.places.clear();
        self.layout = layout;
        self.began = self.lsn;
    }

    /// Does one pump do everything? Then each decision saw exactly the log before it.
    pub const fn alone(&self) -> bool {
        self.layout.pumps == 1
    }

    /// What was let through under this operation, on a hold that is still open.
    pub fn operation(&self, key: u128) -> Option<Operation> {
        let open = self.books.open();
        let mut known = open.flat_map(|(_, hold)| hold.operations.iter());
        known.find(|known| known.key == key).copied()
    }

    /// Takes the next record of the log.
    pub fn record(&mut self, lsn: Lsn, record: &Record<'_>) -> Check {
        let expected = self.lsn.next();
        ensure(lsn == expected, SameLogSameState, || {
            format!("LSN {lsn} stands where {expected} is due")
        })?;
        self.lsn = lsn;
        self.time(record)?;
        match record {
            Record::Directory(changed) => self.directory(changed),
            Record::Refused(refused) => {
                self.noted(&refused.call, &refused.notes)?;
                self.refused(&refused.call, &refused.cause)
            }
            Record::HoldMinted(minted) => {
                self.noted(&minted.call, &minted.notes)?;
                self.minted(minted)
            }
            Record::HoldUsed(used) => {
                self.noted(&used.call, &used.notes)?;
                self.used(used)
            }
            Record::Charged(charged) => self.charged(charged),
            Record::HoldEnded(ended) => self.ended(ended),
            Record::WorkflowState(changed) => self.state(changed),
            Record::ChainRenewed(renewed) => self.renewed(renewed),
            Record::ChainEnded(ended) => self.chain_ended(ended),
            // Nobody sets a price here.
            Record::Rerated(_) => Err(broken(NoSpendLost, "a charge is re-rated".to_owned())),
            Record::EventsSealed(sealed) => {
                let alone = self.alone();
                self.charges.seal(sealed, alone)
            }
        }
    }

    /// Only active policies that decide nothing are noted, each once; only one in the shadow could have
    /// refused.
    fn noted(&self, call: &Call<'_>, notes: &[Note]) -> Check {
        let rules = self.rules.at(call.rules);
        let levels = levels(call).map(|(scope, id)| (scope, (scope != Scope::Org).then_some(id)));
        let true_of = |note: &Note| {
            let known = rules.policies.get(&note.policy);
            known.is_some_and(|policy| {
                let (_, scope, id) = policy.about;
                let ours = policy.org == call.org && levels.contains(&(scope, id));
                let observes = policy.shadow || policy.action == PolicyAction::Flag;
                let blocks = policy.shadow
                    && (policy.action == PolicyAction::Block || call.tools.is_empty());
                ours && policy.is_active
                    && observes
                    && note.shadow == policy.shadow
                    && (blocks || !note.refuses)
            })
        };
        let once: BTreeSet<_> = notes.iter().map(|note| note.policy).collect();
        let is_so = once.len() == notes.len() && notes.iter().all(true_of);
        ensure(is_so, AcknowledgedStays, || {
            format!("{notes:?} are noted of {call:?}")
        })
    }

    /// Each pump's time never goes back in the log; of two pumps one may be a little behind.
    fn time(&mut self, record: &Record<'_>) -> Check {
        let (at, workflow) = about(record);
        let pump = workflow.map_or(0, |(org, id)| self.layout.pump_of(id.slot(org)));
        let before = self.clocks.insert(pump, at).unwrap_or_default();
        ensure(at >= before, SameLogSameState, || {
            format!("the time of pump {pump} goes back to {at:?}")
        })
    }

    fn obeyed(&mut self, actor: Actor) -> Check {
        let Actor::User(by) = actor else {
            return Ok(());
        };
        let before = self.done.insert(by.0, self.lsn);
        ensure(before.is_none(), CountsOnce, || {
            format!("the command of {by} was done twice")
        })
    }

    fn directory(&mut self, changed: &DirectoryRecord<'_>) -> Check {
        self.rules.change(self.lsn, &changed.changes);
        self.obeyed(changed.actor)
    }

    fn state(&mut self, changed: &WorkflowStateChanged<'_>) -> Check {
        let workflow = self.books.workflows.entry(changed.workflow).or_default();
        let follows = (changed.from, changed.version) == (workflow.state, workflow.version + 1)
            && workflow.state != State::Killed;
        (workflow.state, workflow.version) = (changed.to, changed.version);
        let came = (self.lsn, changed.to, changed.version);
        workflow.history.push(came);
        ensure(follows, AcknowledgedStays, || {
            format!("{changed:?} does not follow from what was")
        })?;
        if changed.actor == Actor::System {
            return self.detected(changed);
        }
        self.obeyed(changed.actor)
    }

    /// A detector stops or marks a workflow that ran, and only where a rule about loops was ever set.
    fn detected(&self, changed: &WorkflowStateChanged<'_>) -> Check {
        let ran = match changed.to {
            State::Flagged => changed.from == State::Normal,
            State::Tripped => matches!(changed.from, State::Normal | State::Flagged),
            State::Normal | State::Paused | State::Killed => false,
        };
        let ruled = self.rules.since(Lsn::ZERO).any(|rules| {
            let about = (changed.org, PolicyType::LoopDetection);
            let own = rules.workflows.get(&changed.workflow);
            let mut policies = rules.policies.values();
            policies.any(|p| (p.org, p.about.0) == about && !p.shadow)
                || own.is_some_and(|workflow| workflow.watch.is_some())
        });
        ensure(ran && ruled, NoPhantomRefusal, || {
            format!("no rule says {changed:?}")
        })
    }

    fn renewed(&mut self, renewed: &ChainRenewed) -> Check {
        let known = self.books.chains.get(&renewed.chain);
        let whose = known.map(|chain| (chain.org, chain.workflow));
        let due = renewed.expires_at == renewed.at.plus(HOLD_MILLIS);
        self.renewed.insert((renewed.chain, self.lsn));
        self.books.renew(renewed.chain, renewed.at);
        ensure(
            due && whose == Some((renewed.org, renewed.workflow)),
            HoldEndsOnce,
            || format!("{renewed:?} renews what is not there or not its own: {whose:?}"),
        )
    }

    /// A chain ends once, because somebody said so or because it was silent.
    fn chain_ended(&mut self, ended: &ChainEnded) -> Check {
        self.chains_ended.insert((ended.chain, self.lsn));
        let known = self.books.end_chain(ended.chain);
        let is_true = known.is_some_and(|chain| {
            let own = (chain.org, chain.workflow) == (ended.org, ended.workflow);
            own && match ended.reason {
                ChainEnd::Idle => chain.active_at.plus(IDLE_MILLIS) <= ended.at,
                ChainEnd::Asked => self.ending.contains(&ended.chain),
                ChainEnd::TooLong => false,
            }
        });
        ensure(is_true, HoldEndsOnce, || {
            format!("{ended:?} is no true end of a chain")
        })
    }

    /// A call in a chain: it begins the chain exactly where none of that name goes on.
    fn link(&mut self, call: &Call<'_>, asked: Option<Nanos>, link: Option<&ChainLink>) -> Check {
        let Some(link) = link else { return Ok(()) };
        let lsn = self.lsn;
        let known = self.books.chains.get_mut(&link.chain);
        let (goes_on, begins) = (known.is_some(), link.begins);
        if let Some(chain) = known {
            chain.active_at = call.at;
        } else {
            let chain = Chain {
                org: call.org,
                workflow: call.workflow,
                began: lsn,
                started_at: call.at,
                active_at: call.at,
                cap: asked,
                sums: Sums::default(),
            };
            self.books.chains.insert(link.chain, chain);
        }
        let terms = begins.is_none_or(|terms| terms.cap == asked);
        ensure(goes_on == begins.is_none() && terms, CapIsWholeSum, || {
            format!("at LSN {lsn} the chain goes on: {goes_on}, and {link:?} stands there")
        })
    }

    /// What every call that runs must pass, whatever it holds.
    fn let_through(&self, call: &Call<'_>) -> Result<&Asked, Violation> {
        let lsn = self.lsn;
        let known = call.trace_id.and_then(|id| self.asked.get(id));
        let asked = known
            .ok_or_else(|| broken(CountsOnce, format!("nobody asked for the allow at {lsn}")))?;
        let state = self.workflow_state(call);
        let runs = matches!(state, State::Normal | State::Flagged);
        ensure(runs, KillIsAFence, || {
            format!("the allow at LSN {lsn} runs in a workflow that is {state:?} there")
        })?;
        let rules = self.rules.at(call.rules);
        let key = rules.keys.get(&call.key);
        let good = key.is_some_and(|k| !k.revoked && k.expires_at.is_none_or(|at| call.at <= at));
        let fresh = call.rules >= asked.acknowledged && call.rules < lsn;
        let ruled = fresh && good && !rules.tools_block(call, &asked.ask);
        let own = rules.workflows.get(&call.workflow).map(|w| w.org) == Some(call.org);
        ensure(ruled && own, AcknowledgedStays, || {
            format!(
                "the allow at LSN {lsn} is against the rules: decided by those at {}, {} was \
                 acknowledged, the key is good: {good}",
                call.rules, asked.acknowledged
            )
        })?;
        ensure(!self.chain_is_over(call, &asked.ask), CapIsWholeSum, || {
            format!("the allow at LSN {lsn} is in a chain that has lasted too long")
        })?;
        Ok(asked)
    }

    pub fn workflow_state(&self, call: &Call<'_>) -> State {
        let known = self.books.workflows.get(&call.workflow);
        known.map_or(State::Normal, |workflow| workflow.state)
    }

    fn settings(&self, call: &Call<'_>) -> Option<Workflow> {
        let rules = self.rules.at(call.rules);
        rules.workflows.get(&call.workflow).copied()
    }

    /// Has the call's chain lasted as long as a chain of that workflow may?
    pub fn chain_is_over(&self, call: &Call<'_>, ask: &Ask) -> bool {
        let chain = ask.chain.as_ref();
        let chain = chain.and_then(|chain| self.books.chains.get(&chain.key));
        let most = self.settings(call).map_or(0, |w| w.chain_secs);
        chain.is_some_and(|chain| call.at.since(chain.started_at) / 1000 >= u64::from(most))
    }

    /// What the call's chain may still take.
    fn chain_left(&self, call: &Call<'_>, ask: &Ask) -> Option<Nanos> {
        let asked = ask.chain.as_ref()?;
        let live = self.books.chains.get(&asked.key);
        let own = live.map_or(asked.cap, |chain| chain.cap);
        let of_workflow = self.settings(call).and_then(|w| w.chain_cap);
        let taken = live.map(|chain| chain.sums.taken()).unwrap_or_default();
        let cap = own.into_iter().chain(of_workflow).min()?;
        Some(cap - taken)
    }

    pub fn place(&self, asked: &Asked) -> Rc<Place> {
        let known = self.places.get(&asked.request).cloned();
        known.unwrap_or_else(|| Rc::new(Place::alone(self.lsn)))
    }

    /// Every cap that applies to a call, and what is taken from it.
    pub fn caps(&self, call: &Call<'_>, asked: &Asked) -> Vec<Cap> {
        let place = self.place(asked);
        let today = Day::of(call.at);
        let in_chain = asked.ask.chain.is_some();
        let caps = self.rules.at(call.rules).caps(call, in_chain);
        let caps = caps.into_iter().map(|(figures, id)| {
            let first = first_day(figures.period, today);
            Cap::new(figures, id, first, &self.books, &place, call, in_chain)
        });
        caps.collect()
    }

    /// The size of a call, if so much of what was on its way counts.
    pub fn size(&self, call: &Call<'_>, ask: &Ask, caps: &[Cap], slack: fn(&Cap) -> Nanos) -> Size {
        let bounds = Bounds {
            per_call: self.settings(call).and_then(|w| w.per_call),
            chain: self.chain_left(call, ask),
            left: caps.iter().map(|cap| cap.left() - slack(cap)).collect(),
        };
        let known = self.books.workflows.get(&call.workflow);
        let nothing = Usual::default();
        size(ask, known.map_or(&nothing, |w| &w.usual), &bounds)
    }

    /// Notes which tools a decided call named.
    pub fn note_tools(&mut self, call: &Call<'_>) {
        let named = call.tools.split('\n').filter(|tool| !tool.is_empty());
        let calls = named.map(|tool| (call.at, tool.to_owned()));
        let workflow = self.books.workflows.entry(call.workflow).or_default();
        workflow.calls.extend(calls);
    }
}
