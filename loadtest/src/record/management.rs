//! Workflows and keys in the record: states with versions, caps, revocations; certain ones and ones in doubt.

use super::Record;
use crate::client::SdkKey;
use crate::wire::NANOS_PER_CENT;

/// A workflow that was acknowledged as created.
#[derive(Debug, Clone)]
pub struct WorkflowRecord {
    /// The last acknowledged state.
    pub state: String,
    /// Its version.
    pub version: i64,
    /// A state that was asked for without an answer.
    pub state_in_doubt: Option<String>,
    /// The last acknowledged cap, in cents.
    pub budget_cents: Option<i64>,
    /// A cap that was asked for without an answer.
    pub budget_in_doubt: Option<Option<i64>>,
    /// Spent plus held must never pass this, in nano-dollars; `None` where charges without holds are sent, or without
    /// any cap.
    pub hard_cap_nanos: Option<i64>,
    /// A key bound to it, when calls are made for it.
    pub key: Option<SdkKey>,
    /// Sum of acknowledged charges that left the record, in nano-dollars.
    pub settled_spent_nanos: i64,
    /// The most that a read has shown as spent, in nano-dollars.
    pub spent_seen_nanos: i64,
}

impl WorkflowRecord {
    /// A workflow as its creation left it.
    pub fn created(budget_cents: Option<i64>, key: Option<SdkKey>) -> Self {
        Self {
            state: "Normal".into(),
            version: -1,
            state_in_doubt: None,
            budget_cents,
            budget_in_doubt: None,
            hard_cap_nanos: None,
            key,
            settled_spent_nanos: 0,
            spent_seen_nanos: 0,
        }
    }

    /// Only charges within holds are sent for it, so spent plus held never passes its cap.
    #[must_use]
    pub fn with_hard_cap(mut self, cents: i64) -> Self {
        self.hard_cap_nanos = Some(cents * NANOS_PER_CENT);
        self
    }
}

/// A key that was acknowledged as minted.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// The key pair.
    pub key: SdkKey,
    /// What is known of its revocation.
    pub revocation: Revocation,
    /// Still to be checked after the next crash.
    pub fresh: bool,
}

/// A policy that was acknowledged as created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRecord {
    /// What is known of its removal.
    pub removal: Revocation,
    /// Is it on?
    pub active: Switch,
    /// Still to be checked after the next crash.
    pub fresh: bool,
}

/// The policy template that is switched on and off.
pub const TEMPLATE: &str = "loop-guard";

/// Something that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switch {
    /// As it was last acknowledged.
    pub acknowledged: bool,
    /// As it was asked to be, without an answer.
    pub in_doubt: Option<bool>,
}

impl Switch {
    /// May it be so? What is read settles the doubt.
    pub fn seen(&mut self, on: bool) -> bool {
        let fits = on == self.acknowledged || Some(on) == self.in_doubt;
        self.acknowledged = on;
        self.in_doubt = None;
        fits
    }
}

/// What is known of a key's revocation or a policy's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Nobody asked for it: the key must work, the policy must be there.
    None,
    /// Asked for, no answer.
    InDoubt,
    /// Acknowledged: the key must not work, the policy must be gone.
    Certain,
}

impl Record {
    /// A state change is about to be sent.
    pub fn state_sent(&mut self, workflow: &str, state: &str) {
        if let Some(known) = self.workflows.get_mut(workflow) {
            known.state_in_doubt = Some(state.to_owned());
        }
    }

    /// A state was acknowledged (or read after a crash). Returns a sentence if its version is not a new one.
    pub fn state_seen(&mut self, workflow: &str, state: &str, version: i64) -> Option<String> {
        let known = self.workflows.get_mut(workflow)?;
        let changed = known.state != state;
        let fine = if changed {
            version > known.version
        } else {
            version >= known.version
        };
        let complaint = (!fine).then(|| {
            format!(
                "workflow {workflow}: {state} has version {version} after {} had {}",
                known.state, known.version
            )
        });
        known.state = state.to_owned();
        known.version = version;
        known.state_in_doubt = None;
        self.counts.states += u64::from(changed);
        complaint
    }

    /// A cap is about to be sent.
    pub fn budget_sent(&mut self, workflow: &str, cents: Option<i64>) {
        if let Some(known) = self.workflows.get_mut(workflow) {
            known.budget_in_doubt = Some(cents);
            // Holds minted under the larger cap may outlive a lowered one.
            let asked = cents.map(|cents| cents * NANOS_PER_CENT);
            known.hard_cap_nanos = known
                .hard_cap_nanos
                .zip(asked)
                .map(|(before, asked)| before.max(asked));
        }
    }

    /// A cap was acknowledged (or read after a crash).
    pub fn budget_seen(&mut self, workflow: &str, cents: Option<i64>) {
        if let Some(known) = self.workflows.get_mut(workflow) {
            known.budget_cents = cents;
            known.budget_in_doubt = None;
            self.counts.management += 1;
        }
    }

    /// A workflow was acknowledged as created.
    pub fn workflow_created(&mut self, id: &str, workflow: WorkflowRecord) {
        self.workflows.insert(id.to_owned(), workflow);
        self.counts.management += 1;
    }

    /// A key was acknowledged as minted.
    pub fn key_minted(&mut self, id: &str, key: SdkKey) {
        self.keys.insert(
            id.to_owned(),
            KeyRecord {
                key,
                revocation: Revocation::None,
                fresh: true,
            },
        );
        self.counts.management += 1;
    }

    /// A revocation is about to be sent.
    pub fn revocation_sent(&mut self, id: &str) {
        if let Some(key) = self.keys.get_mut(id) {
            key.revocation = Revocation::InDoubt;
            key.fresh = true;
        }
    }

    /// A revocation was acknowledged.
    pub fn revocation_acknowledged(&mut self, id: &str) {
        if let Some(key) = self.keys.get_mut(id) {
            key.revocation = Revocation::Certain;
            self.counts.management += 1;
        }
    }

    /// A policy was acknowledged as created.
    pub fn policy_created(&mut self, id: &str) {
        let active = Switch {
            acknowledged: true,
            in_doubt: None,
        };
        let policy = PolicyRecord {
            removal: Revocation::None,
            active,
            fresh: true,
        };
        self.policies.insert(id.to_owned(), policy);
        self.counts.management += 1;
    }

    /// A policy is about to be switched on or off.
    pub fn toggle_sent(&mut self, id: &str, active: bool) {
        if let Some(policy) = self.policies.get_mut(id) {
            policy.active.in_doubt = Some(active);
            policy.fresh = true;
        }
    }

    /// That was acknowledged.
    pub fn toggle_acknowledged(&mut self, id: &str) {
        if let Some(policy) = self.policies.get_mut(id)
            && let Some(active) = policy.active.in_doubt.take()
        {
            policy.active.acknowledged = active;
            self.counts.management += 1;
        }
    }

    /// What was asked of the template was acknowledged.
    pub fn template_acknowledged(&mut self) {
        if let Some(enabled) = self.template.in_doubt.take() {
            self.template.acknowledged = enabled;
            self.counts.management += 1;
        }
    }

    /// A policy's removal is about to be sent.
    pub fn removal_sent(&mut self, id: &str) {
        self.removal(id, Revocation::InDoubt);
    }

    fn removal(&mut self, id: &str, removal: Revocation) {
        if let Some(policy) = self.policies.get_mut(id) {
            policy.removal = removal;
            policy.fresh = true;
        }
    }

    /// A policy's removal was acknowledged.
    pub fn removal_acknowledged(&mut self, id: &str) {
        self.removal(id, Revocation::Certain);
        self.counts.management += 1;
    }

    /// A read showed this much spent. Reads wait for durability too, so it must never be less again.
    pub fn spent_seen(&mut self, workflow: &str, nanos: i64) {
        if let Some(known) = self.workflows.get_mut(workflow) {
            known.spent_seen_nanos = known.spent_seen_nanos.max(nanos);
        }
    }
}
