//! How often something may be tried or asked for: passwords by address and origin, mails by address.

use persist::Millis;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// So many tries of somebody, then a wait from the last one on. A table of fixed size, in sets of a
/// few places: in a full set, whoever has the fewest and oldest tries is forgotten.
#[derive(Debug)]
struct Guard {
    most: u32,
    wait_ms: u64,
    sets: Mutex<Box<[[Tries; WAYS]]>>,
    // Keyed at random: nobody can aim at a set.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    who: u64,
    count: u32,
    last: Millis,
}

const SETS: usize = 1 << 14;
const WAYS: usize = 4;

impl Guard {
    fn new(most: u32, wait_ms: u64) -> Self {
        Self {
            most,
            wait_ms,
            sets: Mutex::new(vec![Default::default(); SETS].into_boxed_slice()),
            hasher: RandomState::new(),
        }
    }

    fn with<T>(
        &self,
        who: impl Hash,
        then: impl FnOnce(u64, &mut [Tries; WAYS]) -> T,
    ) -> Option<T> {
        let who = self.hasher.hash_one(who);
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = sets.get_mut((who >> 32) as usize % SETS)?;
        Some(then(who, set))
    }

    /// Counts a try; or milliseconds to wait, if there were too many.
    fn admit(&self, who: impl Hash, now: Millis) -> Result<(), u64> {
        let admitted = self.with(who, |who, set| {
            for tries in set.iter_mut() {
                if now.since(tries.last) >= self.wait_ms {
                    *tries = Tries::default();
                }
            }
            let known = set
                .iter()
                .position(|tries| tries.who == who && tries.count > 0);
            // Free places have no tries and come first.
            let place = match known {
                Some(at) => set.get_mut(at),
                None => set.iter_mut().min_by_key(|tries| (tries.count, tries.last)),
            };
            let Some(place) = place else {
                return Ok(());
            };
            if known.is_none() {
                *place = Tries {
                    who,
                    ..Tries::default()
                };
            } else if place.count >= self.most {
                return Err(self.wait_ms - now.since(place.last));
            }
            place.count += 1;
            place.last = now;
            Ok(())
        });
        admitted.unwrap_or(Ok(()))
    }

    fn change(&self, who: impl Hash, change: impl FnOnce(&mut Tries)) {
        let _changed = self.with(who, |who, set| {
            set.iter_mut().find(|tries| tries.who == who).map(change)
        });
    }
}

/// Wrong passwords for an address from an origin: five, then a wait.
#[derive(Debug)]
pub struct LoginGuard(Guard);

const LOGIN_TRIES: u32 = 5;
const LOGIN_WAIT_MS: u64 = 300_000;

impl Default for LoginGuard {
    fn default() -> Self {
        Self(Guard::new(LOGIN_TRIES, LOGIN_WAIT_MS))
    }
}

impl LoginGuard {
    /// Counts a try, as a wrong one until [`LoginGuard::forget`]; or milliseconds to wait, if too
    /// many were wrong or are being looked at.
    pub fn admit(&self, email: &str, ip: IpAddr, now: Millis) -> Result<(), u64> {
        self.0.admit((email, ip), now)
    }

    /// A try that was not looked at does not count.
    pub fn undo(&self, email: &str, ip: IpAddr) {
        self.0.change((email, ip), |tries| {
            tries.count = tries.count.saturating_sub(1)
        });
    }

    /// The password was right: the wrong ones before are forgotten.
    pub fn forget(&self, email: &str, ip: IpAddr) {
        self.0
            .change((email, ip), |tries| *tries = Tries::default());
    }
}

/// What a mail was asked for. Each is counted apart: a stranger who asks for one keeps nobody from
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// To set another password.
    Reset,
    /// To verify an address.
    Verify,
    /// To join an organization.
    Invite,
}

/// Mails to an address: few at a time for each who asks, and not many in an hour for all together, or
/// a stranger with many origins could flood a mailbox.
#[derive(Debug)]
pub struct MailGuard {
    of_one: Guard,
    of_all: Guard,
}

const MAILS_OF_ONE: u32 = 5;
const MAILS_OF_ONE_WAIT_MS: u64 = 300_000;
const MAILS_OF_ALL: u32 = 20;
const MAILS_OF_ALL_WAIT_MS: u64 = 3_600_000;

impl Default for MailGuard {
    fn default() -> Self {
        Self {
            of_one: Guard::new(MAILS_OF_ONE, MAILS_OF_ONE_WAIT_MS),
            of_all: Guard::new(MAILS_OF_ALL, MAILS_OF_ALL_WAIT_MS),
        }
    }
}

impl MailGuard {
    /// Counts a mail; or milliseconds to wait, if too many were asked for.
    pub fn admit(&self, what: Asked, email: &str, ip: IpAddr, now: Millis) -> Result<(), u64> {
        self.of_one.admit((what, email, ip), now)?;
        self.of_all.admit((what, email), now)
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
        let places = SETS * WAYS;
        for n in 0..places * 4 {
            assert_eq!(guard.admit(&format!("{n}@crowd"), ip, Millis(10)), Ok(()));
        }
        assert!(guard.admit("a@b", ip, Millis(11)).is_err());
        assert_eq!(guard.0.sets.lock().unwrap().len() * WAYS, places);
    }

    #[test]
    fn many_who_ask_cannot_flood_one_mailbox() {
        let guard = MailGuard::default();
        let ask = |what, email: &str, n: u32, at: u64| {
            let ip = IpAddr::from(n.to_be_bytes());
            guard.admit(what, email, ip, Millis(at))
        };
        for n in 1..=MAILS_OF_ALL {
            assert_eq!(ask(Asked::Reset, "a@b", n, 9), Ok(()));
        }
        let wait = MAILS_OF_ALL_WAIT_MS;
        assert_eq!(ask(Asked::Reset, "a@b", 1000, 10), Err(wait - 1));
        assert_eq!(ask(Asked::Invite, "a@b", 1000, 10), Ok(()));
        assert_eq!(ask(Asked::Reset, "c@d", 1000, 10), Ok(()));
        assert_eq!(ask(Asked::Reset, "a@b", 2000, 9 + wait), Ok(()));
        // One who asks has to wait before.
        for n in 2..=MAILS_OF_ONE {
            assert_eq!(ask(Asked::Reset, "c@d", 1000, u64::from(n) + 9), Ok(()));
        }
        assert!(ask(Asked::Reset, "c@d", 1000, 20).is_err());
    }
}
