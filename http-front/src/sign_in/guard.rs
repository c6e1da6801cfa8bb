//! How often something may be tried for one address from one origin.

use persist::Millis;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Wrong logins by address and origin: five, then a wait. A table of fixed size, in sets of a few
/// places: in a full set, whoever has the fewest and oldest tries is forgotten.
#[derive(Debug)]
pub struct LoginGuard {
    sets: Mutex<Box<[[Tries; LOGIN_WAYS]]>>,
    // Keyed at random: nobody can aim at a set.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    who: u64,
    wrong: u32,
    last: Millis,
}

const LOGIN_TRIES: u32 = 5;
const LOGIN_WAIT_MS: u64 = 300_000;
const LOGIN_SETS: usize = 1 << 14;
const LOGIN_WAYS: usize = 4;

impl Default for LoginGuard {
    fn default() -> Self {
        Self {
            sets: Mutex::new(vec![Default::default(); LOGIN_SETS].into_boxed_slice()),
            hasher: RandomState::new(),
        }
    }
}

impl LoginGuard {
    fn with<T>(
        &self,
        email: &str,
        ip: IpAddr,
        then: impl FnOnce(u64, &mut [Tries; LOGIN_WAYS]) -> T,
    ) -> Option<T> {
        let who = self.hasher.hash_one((email, ip));
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = sets.get_mut((who >> 32) as usize % LOGIN_SETS)?;
        Some(then(who, set))
    }

    /// Counts a try, as a wrong one until [`LoginGuard::forget`]; or milliseconds to wait, if too
    /// many were wrong or are being looked at.
    pub fn admit(&self, email: &str, ip: IpAddr, now: Millis) -> Result<(), u64> {
        let admitted = self.with(email, ip, |who, set| {
            for tries in set.iter_mut() {
                if now.since(tries.last) >= LOGIN_WAIT_MS {
                    *tries = Tries::default();
                }
            }
            let known = set
                .iter()
                .position(|tries| tries.who == who && tries.wrong > 0);
            // Free places have no tries and come first.
            let place = match known {
                Some(at) => set.get_mut(at),
                None => set.iter_mut().min_by_key(|tries| (tries.wrong, tries.last)),
            };
            let Some(place) = place else {
                return Ok(());
            };
            if known.is_none() {
                *place = Tries {
                    who,
                    ..Tries::default()
                };
            } else if place.wrong >= LOGIN_TRIES {
                return Err(LOGIN_WAIT_MS - now.since(place.last));
            }
            place.wrong += 1;
            place.last = now;
            Ok(())
        });
        admitted.unwrap_or(Ok(()))
    }

    /// A try that was not looked at does not count.
    pub fn undo(&self, email: &str, ip: IpAddr) {
        self.change(email, ip, |tries| {
            tries.wrong = tries.wrong.saturating_sub(1)
        });
    }

    /// The password was right: the wrong ones before are forgotten.
    pub fn forget(&self, email: &str, ip: IpAddr) {
        self.change(email, ip, |tries| *tries = Tries::default());
    }

    fn change(&self, email: &str, ip: IpAddr, change: impl FnOnce(&mut Tries)) {
        let _changed = self.with(email, ip, |who, set| {
            set.iter_mut().find(|tries| tries.who == who).map(change)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_five_wrong_logins_one_has_to_wait() {
        let guard = LoginGuard::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for n in 1..=5 {
            assert_eq!(guard.admit("a@b", ip, Millis(n)), Ok(()));
        }
        assert_eq!(guard.admit("a@b", ip, Millis(6)), Err(LOGIN_WAIT_MS - 1));
        assert_eq!(guard.admit("c@d", ip, Millis(6)), Ok(()));
        assert_eq!(guard.admit("a@b", ip, Millis(5 + LOGIN_WAIT_MS)), Ok(()));
        for n in 0..100 {
            let now = Millis(6 + LOGIN_WAIT_MS + n);
            assert_eq!(guard.admit("a@b", ip, now), Ok(()));
            guard.forget("a@b", ip);
            assert_eq!(guard.admit("a@b", ip, now), Ok(()));
            guard.undo("a@b", ip);
        }
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_memory_and_does_not_free_whoever_waits() {
        let guard = LoginGuard::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for n in 1..=5 {
            assert_eq!(guard.admit("a@b", ip, Millis(n)), Ok(()));
        }
        let places = LOGIN_SETS * LOGIN_WAYS;
        for n in 0..places * 4 {
            assert_eq!(guard.admit(&format!("{n}@crowd"), ip, Millis(10)), Ok(()));
        }
        assert!(guard.admit("a@b", ip, Millis(11)).is_err());
        assert_eq!(guard.sets.lock().unwrap().len() * LOGIN_WAYS, places);
    }
}
