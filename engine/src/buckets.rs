//! A persistent map from 128-bit keys: a clone is a few pointers, a change copies one bucket and the
//! way to it. For tables with a row for each workflow, where a general map takes 200 bytes a row.
//!
//! Linear hashing: each insertion that finds the map too full splits one bucket, so no insertion ever
//! moves more than one. Buckets hold about [`FULL`] entries and are searched from end to end.

use imbl::Vector;
use std::sync::Arc;

/// Entries per bucket, on average, at which the next bucket is split.
const FULL: usize = 8;

/// In two halves: a 128-bit number would be aligned to 16 bytes.
type Key = [u64; 2];

type Bucket<V> = Vec<(Key, V)>;

/// The map.
#[derive(Debug, Clone)]
pub struct Buckets<V> {
    buckets: Vector<Arc<Bucket<V>>>,
    len: usize,
}

impl<V> Default for Buckets<V> {
    fn default() -> Self {
        Self {
            buckets: Vector::new(),
            len: 0,
        }
    }
}

const fn halves(key: u128) -> Key {
    [key as u64, (key >> 64) as u64]
}

/// Spreads keys that differ in few bits.
const fn mix([low, high]: Key) -> usize {
    let mut mixed = low ^ high.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as usize
}

/// The bucket of a key among `count`: by as many bits as `count` needs, one fewer if that bucket is
/// not there yet.
const fn bucket_of(key: Key, count: usize) -> usize {
    let bits = count.next_power_of_two();
    let at = mix(key) & (bits - 1);
    if at < count { at } else { at & (bits / 2 - 1) }
}

impl<V: Clone> Buckets<V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// None?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for so many entries in a map that has none: they are not moved again. Ends with
    /// [`Buckets::shrink`].
    pub fn reserve(&mut self, entries: usize) {
        if self.is_empty() {
            let count = entries.div_ceil(FULL);
            let bucket = |_| Arc::new(Vec::with_capacity(FULL));
            self.buckets = (0..count).map(bucket).collect();
        }
    }

    /// Gives back the room that is not used.
    pub fn shrink(&mut self) {
        for bucket in &mut self.buckets {
            if let Some(bucket) = Arc::get_mut(bucket) {
                bucket.shrink_to_fit();
            }
        }
    }

    fn bucket(&self, key: Key) -> &[(Key, V)] {
        let count = self.buckets.len();
        let found = self.buckets.get(bucket_of(key, count.max(1)));
        found.map_or(&[], |bucket| bucket.as_slice())
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: u128) -> Option<&V> {
        let key = halves(key);
        let mut bucket = self.bucket(key).iter();
        bucket.find(|(known, _)| *known == key).map(|(_, v)| v)
    }

    /// The bucket of a key, to be changed: copied if a clone of the map has it too.
    fn bucket_mut(&mut self, key: Key) -> Option<&mut Bucket<V>> {
        let at = bucket_of(key, self.buckets.len().max(1));
        self.buckets.get_mut(at).map(Arc::make_mut)
    }

    /// Adds an entry, or changes the value of one; returns whether it is new.
    pub fn insert(&mut self, key: u128, value: V) -> bool {
        let key = halves(key);
        if self.buckets.is_empty() {
            self.buckets.push_back(Arc::default());
        }
        let Some(bucket) = self.bucket_mut(key) else {
            return false;
        };
        if let Some((_, known)) = bucket.iter_mut().find(|(known, _)| *known == key) {
            *known = value;
            return false;
        }
        if bucket.len() == bucket.capacity() {
            bucket.reserve_exact(1);
        }
        bucket.push((key, value));
        self.len += 1;
        if self.len > self.buckets.len() * FULL {
            self.split();
        }
        true
    }

    /// Takes an entry away.
    pub fn remove(&mut self, key: u128) -> Option<V> {
        let key = halves(key);
        let bucket = self.bucket_mut(key)?;
        let at = bucket.iter().position(|(known, _)| *known == key)?;
        let (_, value) = bucket.swap_remove(at);
        self.len -= 1;
        Some(value)
    }

    /// Adds a bucket and moves there what belongs there, from the one bucket that had it.
    fn split(&mut self) {
        let count = self.buckets.len() + 1;
        let from = (count - 1) - count.next_power_of_two() / 2;
        let Some(full) = self.buckets.get_mut(from).map(Arc::make_mut) else {
            return;
        };
        let goes = |(key, _): &(Key, V)| bucket_of(*key, count) == count - 1;
        let mut gone = Vec::with_capacity(full.iter().filter(|entry| goes(entry)).count());
        gone.extend(full.extract_if(.., |entry| goes(entry)));
        full.shrink_to_fit();
        self.buckets.push_back(Arc::new(gone));
    }

    /// Every entry, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (u128, &V)> {
        let whole = |[low, high]: Key| u128::from(high) << 64 | u128::from(low);
        let entries = self.buckets.iter().flat_map(|bucket| bucket.iter());
        entries.map(move |(key, value)| (whole(*key), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_a_sorted_map_holds_and_its_clones_do_not_change(
            steps in prop::collection::vec((0..300_u128, any::<Option<u8>>()), 0..600)
        ) {
            let (mut map, mut known) = (Buckets::default(), BTreeMap::new());
            let mut kept = (map.clone(), known.clone());
            for (n, (key, value)) in steps.into_iter().enumerate() {
                // Keys with equal low halves, too.
                let key = key << 61;
                match value {
                    Some(value) => {
                        let is_new = known.insert(key, value).is_none();
                        prop_assert_eq!(map.insert(key, value), is_new);
                    }
                    None => prop_assert_eq!(map.remove(key), known.remove(&key)),
                }
                prop_assert_eq!(map.get(key), known.get(&key));
                if n == 250 {
                    kept = (map.clone(), known.clone());
                }
            }
            let all = |map: &Buckets<u8>| map.iter().map(|(k, v)| (k, *v)).collect::<BTreeMap<_, _>>();
            prop_assert_eq!((map.len(), all(&map)), (known.len(), known));
            prop_assert_eq!(all(&kept.0), kept.1);
        }
    }

    #[test]
    fn a_map_with_room_is_one_that_grew() {
        let mut grown = Buckets::default();
        let mut roomy = Buckets::default();
        roomy.reserve(1000);
        for key in 0..1100_u128 {
            grown.insert(key << 70, key);
            roomy.insert(key << 70, key);
        }
        roomy.shrink();
        let all = |map: &Buckets<u128>| {
            let all: Vec<_> = map.buckets.iter().map(|bucket| bucket.len()).collect();
            (map.len(), all, map.get(7 << 70).copied())
        };
        assert_eq!(all(&grown), all(&roomy));
        assert!(roomy.buckets.iter().all(|b| b.capacity() == b.len()));
    }

    #[test]
    fn buckets_stay_small_however_many_there_are() {
        let mut map = Buckets::default();
        for key in 0..100_000_u128 {
            assert!(map.insert(key << 80 | key, ()));
        }
        let longest = map.buckets.iter().map(|bucket| bucket.len()).max();
        assert!(longest.is_some_and(|longest| longest < 40), "{longest:?}");
        assert_eq!(map.buckets.len(), 100_000_usize.div_ceil(FULL));
    }
}
