//! The slab of holds with its lists, index and wheel beside plain maps.

use engine::chain::NONE;
use engine::hold::{Holds, NewHold, Seen};
use persist::record::Operation;
use persist::{Day, HoldId, Millis, Nanos};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
enum Step {
    /// In a workflow, perhaps in a chain, for so many milliseconds.
    Open(usize, Option<usize>, u64),
    End(u64),
    Bind(u64, u8, u8),
    Renew(usize, u64),
    Leave(usize),
    /// Time goes on, and what is due ends, so many at once.
    Wait(u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let life = prop_oneof![0..4_000_u64, 0..4_090_000_u64];
    let step = prop_oneof![
        6 => (0..3_usize, proptest::option::of(0..3_usize), life.clone()).prop_map(|(w, c, ms)| Step::Open(w, c, ms)),
        3 => any::<u64>().prop_map(Step::End),
        3 => (any::<u64>(), 0..20_u8, 0..2_u8).prop_map(|(n, key, says)| Step::Bind(n, key, says)),
        2 => (0..3_usize, life).prop_map(|(chain, ms)| Step::Renew(chain, ms)),
        1 => (0..3_usize).prop_map(Step::Leave),
        3 => (prop_oneof![0..3_000_u64, 0..600_000_u64, 0..10_000_000_u64], 1..5_usize).prop_map(|(ms, most)| Step::Wait(ms, most)),
    ];
    proptest::collection::vec(step, 1..150)
}

struct Plain {
    workflow: usize,
    chain: Option<usize>,
    expires_at: u64,
}

/// The holds and what their owner keeps of them, and the reference.
struct Both {
    holds: Holds,
    first_of_workflow: [u32; 3],
    first_of_chain: [u32; 3],
    plain: BTreeMap<u128, Plain>,
    operations: BTreeMap<u128, (u64, u128)>,
    now: u64,
    serial: u128,
}

impl Both {
    fn nth(&self, n: u64) -> u128 {
        // Some that are open, some that never were or are over.
        let at = n % (self.plain.len() as u64 + 1);
        self.plain
            .keys()
            .nth(at as usize)
            .copied()
            .unwrap_or(99_999)
    }

    fn open(&mut self, workflow: usize, chain: Option<usize>, millis: u64) {
        self.serial += 1;
        let expires_at = self.now + millis;
        let new = NewHold {
            id: HoldId(self.serial),
            minted: Nanos(1),
            left: Nanos(1),
            expires_at: Millis(expires_at),
            day: Day(1),
            payer: 0,
            chain: chain.map_or(NONE, |chain| chain as u32),
        };
        let first_of_chain = chain.map_or(NONE, |chain| self.first_of_chain[chain]);
        let at = self
            .holds
            .open(new, self.first_of_workflow[workflow], first_of_chain);
        self.first_of_workflow[workflow] = at;
        if let Some(chain) = chain {
            self.first_of_chain[chain] = at;
        }
        let plain = Plain {
            workflow,
            chain,
            expires_at,
        };
        self.plain.insert(self.serial, plain);
    }

    fn end(&mut self, id: u128) {
        let (ended, plain) = (self.holds.end(HoldId(id)), self.plain.remove(&id));
        assert_eq!(ended.is_some(), plain.is_some());
        let (Some(ended), Some(plain)) = (ended, plain) else {
            return;
        };
        if let Some(first) = ended.first_of_workflow {
            self.first_of_workflow[plain.workflow] = first;
        }
        if let Some(first) = ended.first_of_chain {
            self.first_of_chain[plain.chain.unwrap()] = first;
        }
        self.operations.retain(|_, (_, hold)| *hold != id);
    }

    fn wait(&mut self, millis: u64, most: usize) {
        self.now += millis;
        let over = self
            .plain
            .iter()
            .filter(|(_, hold)| hold.expires_at <= self.now);
        let expected: BTreeSet<_> = over.map(|(id, _)| *id).collect();
        let mut ended = BTreeSet::new();
        loop {
            let due = self.holds.due(Millis(self.now), most);
            assert!(due.len() <= most);
            for id in &due {
                assert!(ended.insert(id.0), "{id} is due twice");
                self.end(id.0);
            }
            if due.len() < most {
                break;
            }
        }
        assert_eq!(ended, expected);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(workflow, chain, millis) => self.open(workflow, chain, millis),
            Step::End(n) => self.end(self.nth(n)),
            Step::Bind(n, key, says) => {
                let (id, key, fingerprint) = (self.nth(n), u128::from(key), u64::from(says));
                self.holds.bind(HoldId(id), Operation { key, fingerprint });
                if self.plain.contains_key(&id) {
                    self.operations.entry(key).or_insert((fingerprint, id));
                }
            }
            Step::Renew(chain, millis) => {
                let until = self.now + millis;
                self.holds
                    .renew_chain(self.first_of_chain[chain], Millis(until));
                let of_chain = self
                    .plain
                    .values_mut()
                    .filter(|hold| hold.chain == Some(chain));
                of_chain.for_each(|hold| hold.expires_at = hold.expires_at.max(until));
            }
            Step::Leave(chain) => {
                self.holds.leave_chain(self.first_of_chain[chain]);
                self.first_of_chain[chain] = NONE;
                let of_chain = self
                    .plain
                    .values_mut()
                    .filter(|hold| hold.chain == Some(chain));
                of_chain.for_each(|hold| hold.chain = None);
            }
            Step::Wait(millis, most) => self.wait(millis, most),
        }
    }

    fn compare(&self) {
        let ids: Vec<_> = self.holds.sorted().iter().map(|hold| hold.id.0).collect();
        assert!(ids.iter().eq(self.plain.keys()));
        assert_eq!(self.holds.len(), self.plain.len());
        for (id, plain) in &self.plain {
            let hold = self.holds.get(HoldId(*id)).unwrap();
            assert_eq!(hold.expires_at.0, plain.expires_at);
            assert_eq!(hold.chain, plain.chain.map_or(NONE, |chain| chain as u32));
            let of_hold = self.operations.iter().filter(|(_, (_, hold))| hold == id);
            let bound: BTreeSet<_> = self.holds.operations_of(hold).map(|op| op.key).collect();
            assert!(of_hold.map(|(key, _)| key).eq(&bound));
        }
        for n in 0..3 {
            let newest_first = |belongs: &dyn Fn(&Plain) -> bool| -> Vec<u128> {
                let all = self.plain.iter().rev().filter(|(_, hold)| belongs(hold));
                all.map(|(id, _)| *id).collect()
            };
            let listed = self.holds.of_workflow(self.first_of_workflow[n]);
            let listed: Vec<_> = listed.map(|hold| hold.id.0).collect();
            assert_eq!(listed, newest_first(&|hold| hold.workflow == n));
            let listed = self.holds.of_chain(self.first_of_chain[n]);
            let listed: Vec<_> = listed.map(|hold| hold.id.0).collect();
            assert_eq!(listed, newest_first(&|hold| hold.chain == Some(n)));
        }
        for key in 0..20 {
            let operation = Operation {
                key,
                fingerprint: 1,
            };
            let expected = self.operations.get(&key).map(|(says, id)| match says {
                1 => Seen::Same(HoldId(*id)),
                _ => Seen::Different,
            });
            assert_eq!(self.holds.seen(operation), expected);
        }
    }
}

proptest! {
    #[test]
    fn holds_are_what_plain_maps_say(steps in steps(), start in 0..2_000_000_000_u64) {
        let mut both = Both {
            holds: Holds::default(),
            first_of_workflow: [NONE; 3],
            first_of_chain: [NONE; 3],
            plain: BTreeMap::new(),
            operations: BTreeMap::new(),
            now: start,
            serial: 0,
        };
        both.wait(0, 1);
        for step in steps {
            both.step(step);
            both.compare();
        }
    }
}
