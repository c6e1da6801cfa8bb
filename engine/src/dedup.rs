//! Which events have been counted. Keys live in generations: the open one takes new keys; when it is
//! full it is sealed by a record, and the oldest are forgotten by that same record. How far back
//! that reaches is shown in `/health`.
//!
//! An event may come again by another way (another key, another workflow's name), so the keys are
//! shared by all shards: stripes with a lock each, held for one probe.

use hashbrown::HashSet;
use persist::Millis;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Generations that the memory is divided into.
const GENERATIONS: usize = 8;
/// What the hash tables take per place: the key and a control byte.
const PLACE_BYTES: usize = size_of::<u128>() + 1;
/// The smallest table, in places.
const LEAST_PLACES: usize = 1024;
/// Stripes at most; with much memory there are more than half as many. Many more than threads.
const STRIPES: usize = 127;

/// How the memory is divided: every generation has a table in every stripe. Tables have a power of
/// two of places and never grow, so the number of stripes is what fits them to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    stripes: usize,
    places: usize,
}

impl Shape {
    /// Keys that a table takes without growing.
    const fn table(self) -> usize {
        self.places / 8 * 7
    }

    /// Keys of a generation, so that no stripe is full before the generation is: chance puts more
    /// keys in one stripe than in another, and some come before the seal is written.
    const fn generation(self) -> usize {
        let slack = 8 * self.table().isqrt();
        self.stripes * (self.table() - slack)
    }

    fn first(fits: impl Fn(usize) -> usize) -> Self {
        let mut places = LEAST_PLACES;
        while fits(places) > STRIPES {
            places *= 2;
        }
        Self {
            stripes: fits(places).max(1),
            places,
        }
    }

    /// The one that takes no more than so many bytes.
    fn within(bytes: usize) -> Self {
        Self::first(|places| bytes / (GENERATIONS * PLACE_BYTES * places))
    }

    /// The one with room for so many keys in each generation.
    fn with_room(keys: usize) -> Self {
        let one = |places| Self { stripes: 1, places }.generation();
        Self::first(|places| keys.div_ceil(one(places)))
    }
}

/// One generation of a snapshot: its number, when it began, its keys in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generation {
    /// From 0, without gaps.
    pub number: u64,
    /// When its first key came; 0 while it is empty.
    pub since: Millis,
    /// The keys, ascending.
    pub keys: Vec<u128>,
}

#[derive(Debug, Default)]
struct Stripe {
    /// Oldest first; the last is open.
    generations: VecDeque<HashSet<u128>>,
    /// Claimed by a pump that has not appended yet: (key, pump).
    claimed: Vec<(u128, u32)>,
}

/// What is known of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was not counted (as far as is remembered).
    New,
    /// It was counted.
    Counted,
    /// Another pump is counting it at this moment.
    Elsewhere,
}

/// All remembered event keys.
#[derive(Debug)]
pub struct Dedup {
    stripes: Box<[Mutex<Stripe>]>,
    /// Number of the oldest generation and when each began, the open one last.
    began: Mutex<(u64, VecDeque<Millis>)>,
    open_keys: AtomicUsize,
    /// Keys in sealed generations, oldest first.
    sealed_keys: Mutex<VecDeque<usize>>,
    shape: Shape,
    /// Keys of a generation.
    full_at: usize,
    /// When the oldest remembered key came, if anything has been forgotten; else 0.
    since: AtomicU64,
    /// Generations before this one are forgotten.
    keep_from: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dedup {
    /// Keys that can be remembered in so much memory.
    #[must_use]
    pub fn keys_within(bytes: usize) -> usize {
        Shape::within(bytes).generation() * GENERATIONS
    }

    /// Remembers the last `keys` keys, and at least three quarters of them.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        let full_at = (keys / GENERATIONS).max(1);
        let shape = Shape::with_room(full_at);
        let stripe = || {
            Mutex::new(Stripe {
                generations: VecDeque::from([HashSet::with_capacity(shape.table())]),
                claimed: Vec::new(),
            })
        };
        Self {
            stripes: (0..shape.stripes).map(|_| stripe()).collect(),
            began: Mutex::new((0, VecDeque::from([Millis(0)]))),
            open_keys: AtomicUsize::new(0),
            sealed_keys: Mutex::new(VecDeque::new()),
            shape,
            full_at,
            since: AtomicU64::new(0),
            keep_from: AtomicU64::new(0),
        }
    }

    fn stripe(&self, key: u128) -> MutexGuard<'_, Stripe> {
        // Keys are hashes already; the sets use other bits.
        let high = (key >> 64) as u64;
        let at = (u128::from(high) * self.stripes.len() as u128) >> 64;
        lock(&self.stripes[at as usize])
    }

    /// Was this event counted? `pump` is the asker: what it has claimed itself is counted.
    #[must_use]
    pub fn known(&self, key: u128, pump: u32) -> Known {
        let stripe = self.stripe(key);
        if let Some((_, owner)) = stripe.claimed.iter().find(|(claimed, _)| *claimed == key) {
            return if *owner == pump {
                Known::Counted
            } else {
                Known::Elsewhere
            };
        }
        if stripe.generations.iter().any(|keys| keys.contains(&key)) {
            Known::Counted
        } else {
            Known::New
        }
    }

    /// Takes an event for `pump`, which will count it and then [`Dedup::settle`] it; false if it is
    /// not new.
    pub fn claim(&self, key: u128, pump: u32) -> bool {
        let mut stripe = self.stripe(key);
        let taken = stripe.claimed.iter().any(|(claimed, _)| *claimed == key)
            || stripe.generations.iter().any(|keys| keys.contains(&key));
        if !taken {
            stripe.claimed.push((key, pump));
        }
        !taken
    }

    /// The record that counts a claimed event is appended.
    pub fn settle(&self, at: Millis, key: u128) {
        // In this order, so that it is known at every moment.
        self.insert(at, key);
        self.give_back(key);
    }

    /// A claimed event is not counted by its claimer after all.
    pub fn give_back(&self, key: u128) {
        let mut stripe = self.stripe(key);
        stripe.claimed.retain(|(claimed, _)| *claimed != key);
    }

    /// Remembers an event that the log holds.
    pub fn insert(&self, at: Millis, key: u128) {
        let mut stripe = self.stripe(key);
        let new = stripe
            .generations
            .back_mut()
            .is_some_and(|open| open.insert(key));
        drop(stripe);
        if new && self.open_keys.fetch_add(1, Ordering::Relaxed) == 0 {
            let mut began = lock(&self.began);
            if let Some(open) = began.1.back_mut() {
                *open = at;
            }
        }
    }

    /// If the open generation is full: its number, and the oldest one to keep once it is sealed.
    #[must_use]
    pub fn full(&self) -> Option<(u64, u64)> {
        let open = self.open_keys.load(Ordering::Relaxed);
        if open < self.full_at {
            return None;
        }
        let (first, count) = {
            let began = lock(&self.began);
            (began.0, began.1.len() as u64)
        };
        let number = first + count - 1;
        let sealed = lock(&self.sealed_keys);
        // Room for one more open generation must remain.
        let most = (GENERATIONS - 1) * self.full_at;
        let mut kept: usize = sealed.iter().sum::<usize>() + open;
        let mut keep_from = first;
        for keys in sealed.iter() {
            if kept <= most {
                break;
            }
            kept -= keys;
            keep_from += 1;
        }
        Some((number, keep_from))
    }

    /// Generations before this one are forgotten, by a record folded here, whether they were ever
    /// here or not.
    #[must_use]
    pub fn keep_from(&self) -> u64 {
        self.keep_from.load(Ordering::Relaxed)
    }

    /// Closes the open generation and forgets those before `keep_from`, as a record says.
    pub fn seal(&self, keep_from: u64) {
        self.open_next();
        self.forget(keep_from);
    }

    /// Closes the open generation; new keys go into the next.
    pub fn open_next(&self) {
        let mut began = lock(&self.began);
        let mut sealed = lock(&self.sealed_keys);
        for stripe in &self.stripes {
            let mut stripe = lock(stripe);
            let open = HashSet::with_capacity(self.shape.table());
            stripe.generations.push_back(open);
        }
        sealed.push_back(self.open_keys.swap(0, Ordering::Relaxed));
        began.1.push_back(Millis(0));
    }

    /// Forgets the generations before `keep_from`.
    pub fn forget(&self, keep_from: u64) {
        self.keep_from.fetch_max(keep_from, Ordering::Relaxed);
        let mut began = lock(&self.began);
        let mut sealed = lock(&self.sealed_keys);
        let gone = usize::try_from(keep_from.saturating_sub(began.0))
            .unwrap_or(usize::MAX)
            .min(sealed.len());
        for stripe in &self.stripes {
            lock(stripe).generations.drain(..gone);
        }
        sealed.drain(..gone);
        began.0 += gone as u64;
        began.1.drain(..gone);
        if began.0 > 0 {
            let since = began.1.front().map_or(0, |at| at.0);
            self.since.store(since, Ordering::Relaxed);
        }
    }

    /// Since when every counted event is still known, in milliseconds; 0 while none was forgotten.
    #[must_use]
    pub fn remembered_since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// Numbers of the oldest and of the open generation.
    #[must_use]
    pub fn numbers(&self) -> (u64, u64) {
        let began = lock(&self.began);
        (began.0, began.0 + began.1.len() as u64 - 1)
    }

    /// One generation, for a snapshot.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<Generation> {
        let began = lock(&self.began);
        let index = usize::try_from(number.checked_sub(began.0)?).ok()?;
        let since = *began.1.get(index)?;
        let mut keys = Vec::new();
        for stripe in &self.stripes {
            keys.extend(lock(stripe).generations.get(index)?.iter().copied());
        }
        keys.sort_unstable();
        Some(Generation {
            number,
            since,
            keys,
        })
    }

    /// Puts back what a snapshot held, oldest first, the open one last. Its oldest is `keep_from`, which
    /// need not be among those that were read.
    pub fn restore(&self, generations: &[Generation], keep_from: u64) {
        if generations.is_empty() {
            return;
        }
        let mut began = lock(&self.began);
        let mut sealed = lock(&self.sealed_keys);
        began.0 = generations.first().map_or(0, |first| first.number);
        self.keep_from.store(keep_from, Ordering::Relaxed);
        began.1 = generations.iter().map(|g| g.since).collect();
        *sealed = generations.iter().map(|g| g.keys.len()).collect();
        let open = sealed.pop_back().unwrap_or(0);
        self.open_keys.store(open, Ordering::Relaxed);
        for stripe in &self.stripes {
            let mut stripe = lock(stripe);
            stripe.generations = generations
                .iter()
                .map(|_| HashSet::with_capacity(self.shape.table()))
                .collect();
        }
        for (index, generation) in generations.iter().enumerate() {
            for key in &generation.keys {
                if let Some(keys) = self.stripe(*key).generations.get_mut(index) {
                    keys.insert(*key);
                }
            }
        }
        if began.0 > 0 {
            let since = began.1.front().map_or(0, |at| at.0);
            self.since.store(since, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> u128 {
        u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    #[test]
    fn the_oldest_events_are_forgotten_first_and_only_when_it_is_full() {
        let dedup = Dedup::with_capacity(80);
        let mut sealed = 0;
        for n in 0..200 {
            dedup.insert(Millis(u64::from(n) + 1), key(n));
            if let Some((number, keep_from)) = dedup.full() {
                assert_eq!(number, sealed);
                dedup.seal(keep_from);
                sealed += 1;
            }
            let remembered = (0..=n).filter(|m| dedup.known(key(*m), 0) == Known::Counted);
            let remembered = remembered.count();
            assert!(remembered >= (n as usize + 1).min(70), "{n}: {remembered}");
            assert!(remembered <= 80, "{n}: {remembered}");
            assert_eq!(dedup.known(key(n), 0), Known::Counted);
        }
        assert_eq!(dedup.known(key(0), 0), Known::New);
        assert_eq!(dedup.remembered_since(), 131);
    }

    #[test]
    fn generations_come_back_as_they_were() {
        let dedup = Dedup::with_capacity(80);
        for n in 0..35 {
            dedup.insert(Millis(7), key(n));
            if let Some((_, keep_from)) = dedup.full() {
                dedup.seal(keep_from);
            }
        }
        let (first, open) = dedup.numbers();
        let all: Vec<_> = (first..=open).filter_map(|n| dedup.generation(n)).collect();
        let again = Dedup::with_capacity(80);
        again.restore(&all, first);
        let twice: Vec<_> = (first..=open).filter_map(|n| again.generation(n)).collect();
        assert_eq!(all, twice);
        assert_eq!(dedup.full(), again.full());
    }

    #[test]
    fn putting_the_open_generation_back_alone_forgets_none_before_it() {
        let dedup = Dedup::with_capacity(80);
        let open = Generation {
            number: 3,
            ..Generation::default()
        };
        dedup.restore(&[open], 1);
        assert_eq!(dedup.keep_from(), 1);
    }

    #[test]
    fn an_event_that_another_pump_is_counting_is_neither_new_nor_counted() {
        let dedup = Dedup::with_capacity(80);
        assert!(dedup.claim(1, 0));
        assert!(!dedup.claim(1, 1));
        assert_eq!(dedup.known(1, 0), Known::Counted);
        assert_eq!(dedup.known(1, 1), Known::Elsewhere);
        dedup.settle(Millis(1), 1);
        assert_eq!(dedup.known(1, 1), Known::Counted);
        assert!(!dedup.claim(1, 1));
    }
}
