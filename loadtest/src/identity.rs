//! Seeded identities: operation ids, event ids, e-mail addresses. Everything random in a run comes from here or from
//! the same generator, so that a printed seed brings the same plan back.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The generator of every scenario.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// A generator whose whole future follows from `seed`.
    pub fn from_seed(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A seed nobody chose, for runs that were not given one.
    pub fn fresh_seed() -> u64 {
        rand::rng().random()
    }

    /// A generator for one worker: independent of its siblings, determined by the seed and the worker's number.
    pub fn for_worker(seed: u64, worker: u64) -> Self {
        Self::from_seed(seed ^ worker.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A random (version 4) UUID in its usual text form.
    pub fn uuid(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.0.random())
            .into_uuid()
            .to_string()
    }

    /// A whole number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// An index below `len`; 0 when `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        if len == 0 {
            0
        } else {
            self.0.random_range(0..len)
        }
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }
}
