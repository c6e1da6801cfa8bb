//! Chains: calls that a client ties together. A chain begins with its first allowed call, ends when
//! the client says so or nothing came for a while, may have a cap of its own, and may go beyond a
//! soft cap. Everything here is derived from records by `fold`.

use crate::account::Sums;
use crate::limits;
use hashbrown::{DefaultHashBuilder, HashTable};
use persist::{Millis, Nanos};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher as _;

/// No place in a table.
pub const NONE: u32 = u32::MAX;

/// A chain that is not over.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Its identity: a hash over workflow and `chain_id`.
    pub key: u128,
    /// The workflow's row in the shard.
    pub row: u32,
    /// When its first call was allowed.
    pub started_at: Millis,
    /// When its last call was allowed, or its last heartbeat came.
    pub active_at: Millis,
    /// The most it may spend and hold.
    pub cap: Option<Nanos>,
    /// What it spent and holds.
    pub sums: Sums,
    /// The first of its open holds.
    pub first_hold: u32,
}

impl Chain {
    /// How long it has lasted.
    #[must_use]
    pub const fn secs(&self, now: Millis) -> u64 {
        now.since(self.started_at) / 1000
    }

    /// Did nothing come for so long that it is over?
    #[must_use]
    pub fn is_silent(&self, now: Millis) -> bool {
        self.active_at.plus(limits::CHAIN_IDLE_MILLIS) <= now
    }
}

/// The chains of a shard: a slab, an index, and a heap of when to look for silence.
#[derive(Debug, Default)]
pub struct Chains {
    slab: Vec<Chain>,
    /// Which beginning each place holds: the same name may begin again and again.
    serials: Vec<u64>,
    begun: u64,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// When a chain may have fallen silent: not earlier than this. Entries of ended chains are
    /// dropped when they come up.
    looks: BinaryHeap<Reverse<Look>>,
}

/// (when to look, which chain, which of its beginnings).
type Look = (Millis, u128, u64);

impl Chains {
    /// Chains that are not over.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The place of a chain.
    #[must_use]
    pub fn find(&self, key: u128) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let same = |at: &u32| self.slab.get(*at as usize).is_some_and(|c| c.key == key);
        self.index.find(hash, same).copied()
    }

    /// The chain at a place.
    #[must_use]
    pub fn get(&self, at: u32) -> Option<&Chain> {
        self.slab.get(at as usize)
    }

    /// The chain at a place, to change its sums and times.
    pub fn get_mut(&mut self, at: u32) -> Option<&mut Chain> {
        self.slab.get_mut(at as usize)
    }

    /// Every chain by key.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Chain> {
        let mut all: Vec<_> = self.index.iter().filter_map(|at| self.get(*at)).collect();
        all.sort_unstable_by_key(|chain| chain.key);
        all
    }

    /// Begins a chain; returns its place.
    pub fn begin(&mut self, chain: Chain) -> u32 {
        let key = chain.key;
        self.begun += 1;
        self.looks.push(Reverse((chain.active_at, key, self.begun)));
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slab.get_mut(at as usize) {
                    *place = chain;
                }
                at
            }
            None => {
                self.slab.push(chain);
                self.serials.push(0);
                u32::try_from(self.slab.len() - 1).unwrap_or(NONE)
            }
        };
        if let Some(serial) = self.serials.get_mut(at as usize) {
            *serial = self.begun;
        }
        let Self {
            index,
            slab,
            hasher,
            ..
        } = self;
        let hash_of = |at: &u32| hasher.hash_one(slab.get(*at as usize).map_or(0, |c| c.key));
        index.insert_unique(hasher.hash_one(key), at, hash_of);
        at
    }

    /// Ends a chain; its place may be used again.
    pub fn end(&mut self, key: u128) -> Option<Chain> {
        let at = self.find(key)?;
        if let Ok(entry) = self
            .index
            .find_entry(self.hasher.hash_one(key), |found| *found == at)
        {
            entry.remove();
        }
        self.free.push(at);
        self.slab.get(at as usize).cloned()
    }

    /// Up to `most` chains that were silent for `idle` milliseconds at `now`.
    pub fn silent(&mut self, now: Millis, idle: u64, most: usize) -> Vec<u128> {
        let mut silent = Vec::new();
        while silent.len() < most {
            let due = |(since, ..): &Look| since.plus(idle) <= now;
            let Some(Reverse((_, key, serial))) = self.looks.peek().copied().filter(|r| due(&r.0))
            else {
                break;
            };
            self.looks.pop();
            let Some(at) = self
                .find(key)
                .filter(|at| self.serials.get(*at as usize) == Some(&serial))
            else {
                continue;
            };
            let active_at = self.get(at).map_or(Millis(0), |chain| chain.active_at);
            if active_at.plus(idle) <= now {
                silent.push(key);
            } else {
                self.looks.push(Reverse((active_at, key, serial)));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(key: u128, at: u64) -> Chain {
        Chain {
            key,
            row: 0,
            started_at: Millis(at),
            active_at: Millis(at),
            cap: None,
            sums: Sums::default(),
            first_hold: NONE,
        }
    }

    #[test]
    fn a_chain_is_silent_after_its_last_sign_of_life_and_not_after_its_first() {
        let mut chains = Chains::default();
        chains.begin(chain(1, 1000));
        let two = chains.begin(chain(2, 1000));
        chains.get_mut(two).unwrap().active_at = Millis(1200);
        assert!(chains.silent(Millis(1299), 300, 10).is_empty());
        assert_eq!(chains.silent(Millis(1300), 300, 10), [1]);
        assert!(chains.end(1).is_some());
        assert!(chains.end(1).is_none());
        assert_eq!(chains.silent(Millis(1500), 300, 10), [2]);
        assert_eq!(chains.len(), 1);
        assert_eq!(chains.find(2), Some(two));
    }

    #[test]
    fn a_name_that_begins_again_and_again_leaves_nothing_behind() {
        let mut chains = Chains::default();
        for at in 0..1000 {
            chains.begin(chain(7, at));
            assert!(chains.end(7).is_some());
        }
        chains.begin(chain(7, 1000));
        // Nothing is said of those that are over, and nothing is kept of them.
        assert!(chains.silent(Millis(1299), 300, 10).is_empty());
        assert_eq!(chains.looks.len(), 1);
        assert_eq!(chains.silent(Millis(1300), 300, 10), [7]);
    }
}
