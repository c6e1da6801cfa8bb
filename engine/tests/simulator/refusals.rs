//! Is a refusal true? Recomputed from the books at the refusal's place in the log.

use super::reference::Ledger;
use super::spec::{left, size};
use super::violation::Invariant::NoPhantomRefusal;
use super::violation::{Check, ensure};
use persist::Nanos;
use persist::record::{Arithmetic, Call, Cause, PolicyType, State};

impl Ledger {
    pub fn refused(&mut self, call: &Call<'_>, cause: &Cause<'_>) -> Check {
        self.at(call.at)?;
        let rules = self.rules.at(call.rules);
        let ask = call.trace_id.and_then(|id| self.asked.get(id));
        let workflow = self.books.workflows.get(&call.workflow);
        let state = workflow.map(|workflow| workflow.state);
        let is_true = match (cause.code, ask) {
            (_, None) => false,
            ("WORKFLOW_ID_REQUIRED", _) => {
                workflow.is_none() || !rules.orgs.contains_key(&call.org)
            }
            ("API_KEY_REVOKED", _) => rules.keys.get(&call.key).is_none_or(|key| key.revoked),
            ("WORKFLOW_PAUSED", _) => state == Some(State::Paused),
            ("WORKFLOW_KILLED", _) => state == Some(State::Killed),
            ("IDEMPOTENCY_KEY_MISMATCH", Some((ask, _))) => ask.operation.is_some_and(|asked| {
                let before = self.operation(asked.key);
                before.is_some_and(|before| before.fingerprint != asked.fingerprint)
            }),
            ("TOOL_BLOCKED", Some((ask, _))) => {
                rules.tools_block(call, ask) || rules.any(PolicyType::ToolBlock, call)
            }
            // How many calls there were is in no record: a restart forgets the window.
            ("RATE_LIMIT_EXCEEDED", _) => rules.any(PolicyType::RateLimit, call),
            ("EXECUTION_NOT_FOUND", Some((ask, _))) => {
                let named = ask.reservation.and_then(|id| self.holds.get(&id));
                ask.must_find_reservation
                    && named.is_none_or(|hold| {
                        hold.ended.is_some() || (hold.workflow, hold.key) != (ask.workflow, ask.key)
                    })
            }
            ("BUDGET_HARD_BLOCKED" | "BUDGET_ORG_CEILING_BLOCKED", Some((ask, _))) => {
                let caps = self.caps(call);
                let size = size(ask, workflow, &caps);
                match cause.budget {
                    None => size.over_per_call,
                    Some(figures) => {
                        let cap = Arithmetic {
                            asked: Nanos::ZERO,
                            ..figures
                        };
                        let short = figures.asked > left(&cap) || !left(&cap).is_positive();
                        !size.fits && figures.asked == size.needed && short && caps.contains(&cap)
                    }
                }
            }
            _ => false,
        };
        ensure(is_true, NoPhantomRefusal, || {
            format!(
                "the refusal at LSN {} is not so: {cause:?}, caps {:?}, workflow {workflow:?}",
                self.lsn,
                self.caps(call)
            )
        })
    }
}
