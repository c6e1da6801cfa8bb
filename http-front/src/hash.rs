//! SHA-256 identities and random tokens.

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A 128-bit identity of a tuple of texts: SHA-256 over length-prefixed parts, its first half.
#[must_use]
pub fn identity(parts: &[&[u8]]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest
        .first_chunk()
        .map_or(0, |first| u128::from_le_bytes(*first))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            // Writing to a string cannot fail.
            let _written = write!(out, "{byte:02x}");
            out
        })
}

/// Bytes of a hex text of exactly `2 N` digits.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: &u8| char::from(*b).to_digit(16);
        let (high, low) = (digit(pair.first()?)?, digit(pair.last()?)?);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(out)
}

/// Bytes of a hex text of any even length.
#[must_use]
pub fn unhex_all(text: &str) -> Option<Vec<u8>> {
    let mut pairs = text.as_bytes().chunks_exact(2);
    let bytes = pairs.by_ref().map(|pair| {
        let [byte] = unhex::<1>(std::str::from_utf8(pair).ok()?)?;
        Some(byte)
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|_| pairs.remainder().is_empty())
}

/// `N` random bytes.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    rand::rng().random()
}

/// `len` random letters and digits.
#[must_use]
pub fn random_word(len: usize) -> String {
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(len)
        .map(char::from)
        .collect()
}

/// A UUIDv7 of this moment for what is never listed, such as a request: it waits for no other thread.
#[must_use]
pub fn unordered_id(now: persist::Millis) -> u128 {
    persist::ids::uuid_v7(now, rand::rng().random())
}

/// A new UUIDv7 of this moment. Of two of this process the later one is the greater, within a
/// millisecond and when the clock goes back, too: what is listed by its id, and policies that were made
/// in one millisecond, are in the order they were made in.
#[must_use]
pub fn new_id(now: persist::Millis) -> u128 {
    static LAST: Mutex<u128> = Mutex::new(0);
    let mut random = rand::rng();
    let fresh = persist::ids::uuid_v7(now, random.random());
    let step = random.random_range(1..=u32::MAX);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = match fresh > *last {
        true => fresh,
        false => persist::ids::uuid_v7_after(*last, step),
    };
    *last
}

#[cfg(test)]
mod tests {
    use super::*;
    use persist::Millis;

    #[test]
    fn ids_are_in_the_order_they_were_made_in_within_a_millisecond_and_over_a_clock_set_back() {
        let times = (0..2000).map(|n| Millis(if n < 1000 { 1_000_000 } else { 1_000 }));
        let ids: Vec<_> = times.map(new_id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }
}
