//! What a call usually costs: the size of a hold for calls that do not declare one. One estimator
//! per model of a workflow, and one for all its calls together, fed by the charges in the log, so
//! every reader of the log has learned the same.

use crate::limits;
use persist::Nanos;

/// A frugal estimate of the ninth decile, in a few integers: up by nine steps for a dearer call,
/// down by one for a cheaper one, so that it rests where one call in ten is dearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Hash of the model's name; [`ANY_MODEL`] for all.
    pub model: u64,
    /// The estimate.
    pub nanos: Nanos,
}

/// Stands for all models of a workflow together.
pub const ANY_MODEL: u64 = 0;

/// A step is this part of the estimate, and at least a thousandth of a cent.
const STEP_PART: i64 = 64;
const LEAST_STEP: i64 = Nanos::PER_CENT / 1000;
/// Steps up for each step down.
const UP: i64 = 9;

impl Estimate {
    fn learn(&mut self, cost: Nanos) {
        let step = (self.nanos.0 / STEP_PART).max(LEAST_STEP);
        let apart = cost - self.nanos;
        self.nanos += Nanos(apart.0.clamp(-step, step * UP));
    }
}

/// The estimates of one workflow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned(Box<[Estimate]>);

impl Learned {
    /// As a snapshot holds them.
    #[must_use]
    pub fn from_parts(estimates: Vec<Estimate>) -> Self {
        Self(estimates.into())
    }

    /// All of them, in the order in which they were learned.
    #[must_use]
    pub fn estimates(&self) -> &[Estimate] {
        &self.0
    }

    /// What a call of this model usually costs, if it was ever seen; any call if none is named.
    #[must_use]
    pub fn size(&self, model: Option<&str>) -> Option<Nanos> {
        let model = model.map_or(ANY_MODEL, model_hash);
        let known = self.0.iter().find(|estimate| estimate.model == model);
        known.map(|estimate| estimate.nanos)
    }

    /// Learns from a charge.
    pub fn learn(&mut self, model: Option<&str>, cost: Nanos) {
        let cost = cost.min(limits::HOLD);
        self.one(ANY_MODEL, cost);
        if let Some(model) = model {
            self.one(model_hash(model), cost);
        }
    }

    fn one(&mut self, model: u64, cost: Nanos) {
        if let Some(known) = self.0.iter_mut().find(|estimate| estimate.model == model) {
            known.learn(cost);
        } else if self.0.len() < limits::LEARNED_MODELS {
            // Few models, many workflows: no room to spare.
            let mut more = std::mem::take(&mut self.0).into_vec();
            more.reserve_exact(1);
            more.push(Estimate { model, nanos: cost });
            self.0 = more.into();
        }
    }
}

/// FNV-1a over the lower-case name: it is written into snapshots, so it never changes.
fn model_hash(model: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in model.bytes() {
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_settles_where_about_one_call_in_ten_is_dearer() {
        let mut learned = Learned::default();
        assert_eq!(learned.size(Some("m")), None);
        let mut above = 0;
        // Costs of 1 to 100 cents in a fixed shuffled order.
        for n in 0..20_000_i64 {
            let cost = Nanos::from_cents(n * 37 % 100 + 1);
            if n >= 10_000 && learned.size(Some("M")).is_some_and(|size| size < cost) {
                above += 1;
            }
            learned.learn(Some("m"), cost);
        }
        // More than one in ten, since the dearest lie nearer than nine steps above it.
        assert!((500..=1500).contains(&above), "{above} of 10000");
        assert_eq!(learned.size(None), learned.size(Some("m")));
    }

    #[test]
    fn a_workflow_with_very_many_models_learns_the_first_ones() {
        let mut learned = Learned::default();
        for n in 0..1000 {
            learned.learn(Some(&format!("m{n}")), Nanos(n));
        }
        assert_eq!(learned.estimates().len(), limits::LEARNED_MODELS);
        assert_eq!(learned.size(Some("m999")), None);
    }
}
