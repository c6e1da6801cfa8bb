//! Is a refusal true? Recomputed from the books as the decision saw them. With several pumps a
//! refusal for money is true if what was on its way then could make it so: what others were about to
//! take, or, after a few attempts, what they were about to release.

use super::places::{Cap, left};
use super::reference::{Asked, Ledger};
use super::violation::Invariant::NoPhantomRefusal;
use super::violation::{Check, ensure};
use persist::Nanos;
use persist::record::{Arithmetic, Call, Cause, PolicyAction, PolicyType, State};

/// How often a call is decided that meets what another pump is about to release.
const ATTEMPTS: u32 = 4;

impl Ledger {
    pub fn refused(&mut self, call: &Call<'_>, cause: &Cause<'_>) -> Check {
        self.note_tools(call);
        let asked = call.trace_id.and_then(|id| self.asked.get(id));
        let is_true = asked.is_some_and(|asked| self.is_so(call, cause, asked));
        ensure(is_true, NoPhantomRefusal, || {
            format!(
                "the refusal at LSN {} is not so: {cause:?}, caps {:?}, workflow {:?}",
                self.lsn,
                asked.map(|asked| self.caps(call, asked)),
                self.books.workflows.get(&call.workflow)
            )
        })
    }

    fn is_so(&self, call: &Call<'_>, cause: &Cause<'_>, asked: &Asked) -> bool {
        let rules = self.rules.at(call.rules);
        let (ask, state) = (&asked.ask, self.workflow_state(call));
        let key = rules.keys.get(&call.key);
        match cause.code {
            "WORKFLOW_ID_REQUIRED" => {
                let owner = rules.workflows.get(&call.workflow).map(|w| w.org);
                owner != Some(call.org)
            }
            "API_KEY_REVOKED" => key.is_none_or(|key| key.revoked),
            "API_KEY_EXPIRED" => key
                .and_then(|k| k.expires_at)
                .is_some_and(|at| at < call.at),
            "WORKFLOW_PAUSED" => state == State::Paused,
            "WORKFLOW_KILLED" => state == State::Killed,
            "CIRCUIT_BREAKER_TRIPPED" => state == State::Tripped,
            "LOOP_DETECTED" => state == State::Tripped && self.repeats(call, asked),
            "CHAIN_MAX_DURATION_EXCEEDED" => self.chain_is_over(call, ask),
            "IDEMPOTENCY_KEY_MISMATCH" => ask.operation.is_some_and(|asked| {
                let before = self.operation(asked.key);
                before.is_some_and(|before| before.fingerprint != asked.fingerprint)
            }),
            "TOOL_BLOCKED" => rules.tools_block(call, ask),
            // How many calls there were is in no record: a restart forgets the window.
            "RATE_LIMIT_EXCEEDED" => !rules.all(PolicyType::RateLimit, call).is_empty(),
            "EXECUTION_LIMIT_EXCEEDED" => self.plan_is_used_up(call, asked),
            "EXECUTION_NOT_FOUND" => {
                let named = ask.reservation.and_then(|id| self.books.open_hold(id));
                let own =
                    named.is_some_and(|hold| (hold.workflow, hold.key) == (ask.workflow, ask.key));
                ask.must_find_reservation && !own
            }
            "BUDGET_HARD_BLOCKED" | "BUDGET_ORG_CEILING_BLOCKED" => {
                self.is_short(call, asked, cause.budget)
            }
            _ => false,
        }
    }

    /// Was one of the call's tools called too often? Every call that counts leaves a record, so there
    /// are at least as many of them; some do not count (an operation counts once), and a restart
    /// forgives all. With several pumps a call is counted when it is decided for the first time, and
    /// recorded only when it no longer meets another pump's: that may be later than this.
    fn repeats(&self, call: &Call<'_>, asked: &Asked) -> bool {
        let rules = self.rules.at(call.rules);
        let of_policies = rules.all(PolicyType::LoopDetection, call).into_iter();
        let blocking = of_policies.filter(|rule| rule.action == PolicyAction::Block);
        let blocking = blocking.map(|rule| (rule.repeats, Some(rule)));
        let own = rules.workflows.get(&call.workflow).and_then(|w| w.watch);
        let mut blocking = blocking.chain(own.map(|watch| (watch, None)));
        let calls = self.books.workflows.get(&call.workflow).map(|w| &w.calls);
        blocking.any(|((most, secs), rule)| {
            let recent = |tool: &String| {
                let calls = calls.into_iter().flatten();
                let same = calls.filter(|(at, named)| {
                    named == tool && call.at.since(*at) < u64::from(secs) * 1000
                });
                same.count() >= most as usize
            };
            let about = |tool: &&String| rule.is_none_or(|rule| rule.watches(tool));
            let mut watched = asked.ask.tools.iter().filter(about);
            watched.any(|tool| !self.alone() || recent(tool))
        })
    }

    fn is_short(&self, call: &Call<'_>, asked: &Asked, said: Option<Arithmetic>) -> bool {
        let caps = self.caps(call, asked);
        let most = self.size(call, &asked.ask, &caps, |_| Nanos::ZERO);
        let tighter = self.size(call, &asked.ask, &caps, |cap| cap.tighter);
        let least = self.size(call, &asked.ask, &caps, |cap| cap.slack);
        let Some(said) = said else {
            return least.stopped;
        };
        let cap = Arithmetic {
            asked: Nanos::ZERO,
            ..said
        };
        let short = said.asked > left(&cap) || !left(&cap).is_positive();
        let sized = least.needed <= said.asked && said.asked <= most.needed;
        let seen = caps.iter().any(|due: &Cap| due.is_seen_as(&cap));
        // Only for money that another pump was about to release? Then it was asked often enough.
        let patient = !tighter.fits || self.place(asked).attempts >= ATTEMPTS;
        !least.fits && sized && short && seen && patient
    }
}
