//! Which events have been counted. Keys live in generations: the open one takes new keys, and when
//! it is full the oldest is forgotten. How far back that reaches is shown in `/health`.

use hashbrown::HashSet;
use persist::Millis;
use std::collections::VecDeque;

/// Generations kept, the open one included.
const GENERATIONS: usize = 8;

/// The event keys of one stretch of time.
#[derive(Debug, Clone, Default)]
pub struct Generation {
    /// When its first key came.
    pub since: Millis,
    /// The keys.
    pub keys: HashSet<u128>,
}

/// All remembered event keys. What is forgotten when depends only on the keys folded in, so
/// recovery forgets the same.
#[derive(Debug, Clone)]
pub struct Dedup {
    generations: VecDeque<Generation>,
    keys_per_generation: usize,
}

impl Dedup {
    /// Remembers about `keys` keys.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            generations: VecDeque::from([Generation::default()]),
            keys_per_generation: (keys / GENERATIONS).max(1),
        }
    }

    /// Was this event counted?
    #[must_use]
    pub fn contains(&self, key: u128) -> bool {
        self.generations
            .iter()
            .any(|generation| generation.keys.contains(&key))
    }

    /// Remembers an event.
    pub fn insert(&mut self, at: Millis, key: u128) {
        let full = self
            .generations
            .back()
            .is_none_or(|open| open.keys.len() >= self.keys_per_generation);
        if full {
            if self.generations.len() == GENERATIONS {
                self.generations.pop_front();
            }
            self.generations.push_back(Generation::default());
        }
        if let Some(open) = self.generations.back_mut() {
            if open.keys.is_empty() {
                open.since = at;
            }
            open.keys.insert(key);
        }
    }

    /// The time of the oldest event that is still known, if any is.
    #[must_use]
    pub fn reaches_back_to(&self) -> Option<Millis> {
        self.generations
            .iter()
            .find(|g| !g.keys.is_empty())
            .map(|g| g.since)
    }

    /// Has anything been forgotten yet, or will the next generation push one out?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.generations.len() == GENERATIONS
    }

    /// Every generation, oldest first.
    pub fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.generations.iter()
    }

    /// Puts back what a snapshot held, oldest first.
    pub fn restore(&mut self, generations: impl Iterator<Item = Generation>) {
        self.generations = generations.collect();
        if self.generations.is_empty() {
            self.generations.push_back(Generation::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_events_are_forgotten_first_and_only_when_it_is_full() {
        let mut dedup = Dedup::with_capacity(GENERATIONS * 10);
        for n in 0..80 {
            dedup.insert(Millis(n), u128::from(n));
        }
        assert!((0..80).all(|n| dedup.contains(n)));
        assert_eq!(dedup.reaches_back_to(), Some(Millis(0)));
        dedup.insert(Millis(80), 80);
        assert!(!dedup.contains(9) && dedup.contains(10) && dedup.contains(80));
        assert_eq!(dedup.reaches_back_to(), Some(Millis(10)));
    }
}
