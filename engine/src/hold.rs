//! Open holds: a slab, an index by id, an index of the operations that may be replayed on them, and
//! a wheel that says which are due. Everything here is derived from records by `fold`; nothing
//! allocates once the slabs have grown to their load.

use crate::chain::NONE;
use crate::rows::Rows;
use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use persist::record::Operation;
use persist::{Day, HoldId, Millis, Nanos};
use std::hash::BuildHasher as _;

const WHEEL: usize = crate::limits::WHEEL_SECS as usize;

/// An open hold.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Id.
    pub id: HoldId,
    /// What it was minted with.
    pub minted: Nanos,
    /// What charges have left of it.
    pub left: Nanos,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// The day it counts in.
    pub day: Day,
    /// The payer's row in the shard: a key in a workflow.
    pub payer: u32,
    /// The chain's place, or [`NONE`].
    pub chain: u32,
    /// Replies that promised this hold and were not lost. Not part of the state: a restart
    /// forgets it, and the hold's time ends it.
    pub claims: u32,
    first_operation: u32,
    /// The place of the operation it was minted for, or [`NONE`].
    minted_for: u32,
    due: Links,
    due_slot: u32,
    of_workflow: Links,
    of_chain: Links,
}

#[derive(Debug, Clone, Copy)]
struct Links {
    next: u32,
    previous: u32,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            next: NONE,
            previous: NONE,
        }
    }
}

/// What a new hold is made of.
#[derive(Debug, Clone, Copy)]
pub struct NewHold {
    /// Id.
    pub id: HoldId,
    /// What it holds.
    pub minted: Nanos,
    /// What is left of that.
    pub left: Nanos,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// The day it counts in.
    pub day: Day,
    /// The payer's row in the shard.
    pub payer: u32,
    /// The chain's place, or [`NONE`].
    pub chain: u32,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    /// In two halves: a 128-bit number would be aligned to 16 bytes, and there may be millions.
    key: [u64; 2],
    fingerprint: u64,
    hold: u32,
    next: u32,
}

const _: () = assert!(size_of::<Bound>() == 32);

impl Bound {
    const fn key(&self) -> u128 {
        let [low, high] = self.key;
        (high as u128) << 64 | low as u128
    }

    const fn operation(&self) -> Operation {
        Operation {
            key: self.key(),
            fingerprint: self.fingerprint,
        }
    }
}

/// A request that was seen before on an open hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The very same request.
    Same(HoldId),
    /// The same operation with other contents.
    Different,
}

/// Which of the lists through the slab.
#[derive(Debug, Clone, Copy)]
enum List {
    Due,
    Workflow,
    Chain,
}

/// All open holds of a shard.
#[derive(Debug)]
pub struct Holds {
    slab: Rows<Hold>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    operations: Rows<Bound>,
    free_operations: Vec<u32>,
    by_operation: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Heads of lists of holds by the second they are due, modulo the wheel.
    wheel: Box<[u32]>,
    /// Every hold due before this second has been returned by `due`.
    swept_secs: u64,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            slab: Rows::default(),
            free: Vec::new(),
            by_id: HashTable::new(),
            operations: Rows::default(),
            free_operations: Vec::new(),
            by_operation: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            wheel: vec![NONE; WHEEL].into_boxed_slice(),
            swept_secs: 0,
        }
    }
}

impl Holds {
    /// Open holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// None open?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Makes room for so many, so that none of them grows a table.
    pub fn reserve(&mut self, holds: usize) {
        let Self {
            slab,
            by_id,
            operations,
            by_operation,
            hasher,
            ..
        } = self;
        by_id.reserve(holds, |at| hasher.hash_one(id_at(slab, *at)));
        by_operation.reserve(holds, |at| hasher.hash_one(key_at(operations, *at)));
    }

    fn place(&self, id: HoldId) -> Option<u32> {
        let same = |at: &u32| id_at(&self.slab, *at) == id;
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    /// One open hold.
    #[must_use]
    pub fn get(&self, id: HoldId) -> Option<&Hold> {
        self.slab.get(self.place(id)?)
    }

    /// One open hold, to change what is left of it or its claims.
    pub fn get_mut(&mut self, id: HoldId) -> Option<&mut Hold> {
        let at = self.place(id)?;
        self.slab.get_mut(at)
    }

    /// Every open hold by id.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Hold> {
        let holds = self.by_id.iter();
        let mut all: Vec<_> = holds.filter_map(|at| self.slab.get(*at)).collect();
        all.sort_unstable_by_key(|hold| hold.id);
        all
    }

    /// The holds of a workflow, given its first, newest first.
    pub fn of_workflow(&self, first: u32) -> impl Iterator<Item = &Hold> {
        self.list(first, |hold| hold.of_workflow.next)
    }

    /// The holds of a chain, given its first, newest first.
    pub fn of_chain(&self, first: u32) -> impl Iterator<Item = &Hold> {
        self.list(first, |hold| hold.of_chain.next)
    }

    fn list(&self, first: u32, next: impl Fn(&Hold) -> u32) -> impl Iterator<Item = &Hold> {
        let mut at = first;
        std::iter::from_fn(move || {
            let hold = self.slab.get(at)?;
            at = next(hold);
            Some(hold)
        })
    }

    fn operation(&self, key: u128) -> Option<u32> {
        let same = |at: &u32| key_at(&self.operations, *at) == key;
        let hash = self.hasher.hash_one(key);
        self.by_operation.find(hash, same).copied()
    }

    /// Was this operation answered on a hold that is still open?
    #[must_use]
    pub fn seen(&self, operation: Operation) -> Option<Seen> {
        let bound = self.operations.get(self.operation(operation.key)?)?;
        if bound.fingerprint != operation.fingerprint {
            return Some(Seen::Different);
        }
        self.slab.get(bound.hold).map(|hold| Seen::Same(hold.id))
    }

    /// The open hold an operation is bound to, whatever the request said.
    #[must_use]
    pub fn bound_to(&self, operation: u128) -> Option<HoldId> {
        let bound = self.operations.get(self.operation(operation)?)?;
        self.slab.get(bound.hold).map(|hold| hold.id)
    }

    /// Was an open hold minted for this operation?
    #[must_use]
    pub fn is_minted_for(&self, operation: u128) -> bool {
        let minted_for = |place| {
            let bound = self.operations.get(place)?;
            Some(self.slab.get(bound.hold)?.minted_for == place)
        };
        self.operation(operation).and_then(minted_for) == Some(true)
    }

    /// The operation a hold was minted for.
    #[must_use]
    pub fn minted_for(&self, hold: &Hold) -> Option<Operation> {
        self.operations.get(hold.minted_for).map(Bound::operation)
    }

    /// The operations bound to a hold, newest first.
    pub fn operations_of(&self, hold: &Hold) -> impl Iterator<Item = Operation> {
        let mut at = hold.first_operation;
        std::iter::from_fn(move || {
            let bound = self.operations.get(at)?;
            at = bound.next;
            Some(bound.operation())
        })
    }

    /// Opens a hold; it becomes the first of its workflow (whose first is `first_of_workflow`) and
    /// of its chain. Returns its place.
    pub fn open(&mut self, new: NewHold, first_of_workflow: u32, first_of_chain: u32) -> u32 {
        let hold = Hold {
            id: new.id,
            minted: new.minted,
            left: new.left,
            expires_at: new.expires_at,
            day: new.day,
            payer: new.payer,
            chain: new.chain,
            claims: 1,
            first_operation: NONE,
            minted_for: NONE,
            due: Links::default(),
            due_slot: NONE,
            of_workflow: Links::default(),
            of_chain: Links::default(),
        };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.slab.get_mut(at) {
                    *place = hold;
                }
                at
            }
            None => self.slab.push(hold),
        };
        assert!(
            at != NONE,
            "four thousand million holds do not fit in memory"
        );
        let Self {
            by_id,
            slab,
            hasher,
            ..
        } = self;
        // Its place in the slab is its own already, and no other may have its id.
        let same = |of: &u32| *of != at && id_at(slab, *of) == new.id;
        let hash = |at: &u32| hasher.hash_one(id_at(slab, *at));
        let entry = by_id.entry(hasher.hash_one(new.id), same, hash);
        assert!(
            matches!(entry, Entry::Vacant(_)),
            "invariant 8: a hold is opened once"
        );
        entry.insert(at);
        self.link_due(at);
        self.put_first(List::Workflow, at, first_of_workflow);
        if new.chain != NONE {
            self.put_first(List::Chain, at, first_of_chain);
        }
        at
    }

    /// Binds an operation to an open hold, so that the same request finds it again.
    pub fn bind(&mut self, id: HoldId, operation: Operation) {
        if let Some(at) = self.place(id) {
            self.bind_at(at, operation);
        }
    }

    /// Binds the operation that the hold at a place was minted for.
    pub fn bind_minted(&mut self, at: u32, operation: Operation) {
        if let Some(place) = self.bind_at(at, operation)
            && let Some(hold) = self.slab.get_mut(at)
        {
            hold.minted_for = place;
        }
    }

    /// As [`Holds::bind`], with the place of the hold. Returns that of the operation, if no hold had it.
    pub fn bind_at(&mut self, at: u32, operation: Operation) -> Option<u32> {
        let Self {
            slab,
            by_operation,
            operations,
            free_operations,
            hasher,
            ..
        } = self;
        let hold = slab.get_mut(at)?;
        let same = |at: &u32| key_at(operations, *at) == operation.key;
        let hash = |at: &u32| hasher.hash_one(key_at(operations, *at));
        let entry = by_operation.entry(hasher.hash_one(operation.key), same, hash);
        let Entry::Vacant(vacant) = entry else {
            return None;
        };
        let bound = Bound {
            key: [operation.key as u64, (operation.key >> 64) as u64],
            fingerprint: operation.fingerprint,
            hold: at,
            next: hold.first_operation,
        };
        let place = match free_operations.pop() {
            Some(place) => {
                if let Some(free) = operations.get_mut(place) {
                    *free = bound;
                }
                place
            }
            None => operations.push(bound),
        };
        hold.first_operation = place;
        vacant.insert(place);
        Some(place)
    }

    /// Ends a hold and forgets its operations; `None` if it is not open. Also returns the new first
    /// hold of its workflow and of its chain, where it was the first.
    pub fn end(&mut self, id: HoldId) -> Option<Ended> {
        let at = self.place(id)?;
        if let Ok(entry) = self
            .by_id
            .find_entry(self.hasher.hash_one(id), |found| *found == at)
        {
            entry.remove();
        }
        self.unlink_due(at);
        let first_of_workflow = self.take_out(List::Workflow, at);
        let hold = self.slab.get(at)?.clone();
        let first_of_chain = if hold.chain == NONE {
            None
        } else {
            self.take_out(List::Chain, at)
        };
        let mut operation = hold.first_operation;
        while let Some(bound) = self.operations.get(operation).copied() {
            let hash = self.hasher.hash_one(bound.key());
            let same = |found: &u32| *found == operation;
            if let Ok(entry) = self.by_operation.find_entry(hash, same) {
                entry.remove();
            }
            self.free_operations.push(operation);
            operation = bound.next;
        }
        self.free.push(at);
        Some(Ended {
            hold,
            first_of_workflow,
            first_of_chain,
        })
    }

    /// Another end for the holds of a chain, given its first.
    pub fn renew_chain(&mut self, first: u32, expires_at: Millis) {
        let mut at = first;
        while at != NONE {
            self.unlink_due(at);
            let Some(hold) = self.slab.get_mut(at) else {
                return;
            };
            hold.expires_at = hold.expires_at.max(expires_at);
            let next = hold.of_chain.next;
            self.link_due(at);
            at = next;
        }
    }

    /// The chain of these holds is over; they live on by themselves.
    pub fn leave_chain(&mut self, first: u32) {
        let mut at = first;
        while let Some(hold) = self.slab.get_mut(at) {
            at = hold.of_chain.next;
            hold.chain = NONE;
            hold.of_chain = Links::default();
        }
    }

    /// Up to `most` holds whose time is over at `now`, oldest second first.
    pub fn due(&mut self, now: Millis, most: usize) -> Vec<HoldId> {
        let mut due = Vec::new();
        let now_secs = now.secs();
        if self.is_empty() {
            self.swept_secs = now_secs;
            return due;
        }
        // One turn of the wheel covers every hold there is.
        let mut second = self
            .swept_secs
            .max(now_secs.saturating_sub(WHEEL as u64 - 1));
        while second <= now_secs {
            let mut at = self
                .wheel
                .get(second as usize % WHEEL)
                .copied()
                .unwrap_or(NONE);
            while let Some(hold) = self.slab.get(at) {
                if hold.expires_at <= now {
                    if due.len() == most {
                        self.swept_secs = second;
                        return due;
                    }
                    due.push(hold.id);
                }
                at = hold.due.next;
            }
            second += 1;
        }
        // The current second is swept again: holds due later in it are still to come.
        self.swept_secs = now_secs;
        due
    }

    fn links(&mut self, list: List, at: u32) -> Option<&mut Links> {
        let hold = self.slab.get_mut(at)?;
        Some(match list {
            List::Due => &mut hold.due,
            List::Workflow => &mut hold.of_workflow,
            List::Chain => &mut hold.of_chain,
        })
    }

    fn put_first(&mut self, list: List, at: u32, first: u32) {
        if let Some(links) = self.links(list, first) {
            links.previous = at;
        }
        if let Some(links) = self.links(list, at) {
            *links = Links {
                next: first,
                previous: NONE,
            };
        }
    }

    /// Takes a hold out of a list; returns the list's new first if this was the first.
    fn take_out(&mut self, list: List, at: u32) -> Option<u32> {
        let links = std::mem::take(self.links(list, at)?);
        if let Some(next) = self.links(list, links.next) {
            next.previous = links.previous;
        }
        match self.links(list, links.previous) {
            Some(previous) => {
                previous.next = links.next;
                None
            }
            None => Some(links.next),
        }
    }

    fn link_due(&mut self, at: u32) {
        let Some(hold) = self.slab.get_mut(at) else {
            return;
        };
        // A hold that is already due (after a restart) goes where the next sweep looks.
        let second = hold.expires_at.secs().max(self.swept_secs);
        let slot = (second % WHEEL as u64) as u32;
        hold.due_slot = slot;
        let Some(head) = self.wheel.get_mut(slot as usize) else {
            return;
        };
        let first = std::mem::replace(head, at);
        self.put_first(List::Due, at, first);
    }

    fn unlink_due(&mut self, at: u32) {
        let Some(slot) = self.slab.get(at).map(|hold| hold.due_slot) else {
            return;
        };
        if let Some(first) = self.take_out(List::Due, at)
            && let Some(head) = self.wheel.get_mut(slot as usize)
        {
            *head = first;
        }
    }
}

/// A hold that has ended.
#[derive(Debug)]
pub struct Ended {
    /// As it was.
    pub hold: Hold,
    /// The workflow's new first hold, if this was the first.
    pub first_of_workflow: Option<u32>,
    /// The chain's new first hold, if this was the first.
    pub first_of_chain: Option<u32>,
}

fn id_at(slab: &Rows<Hold>, at: u32) -> HoldId {
    slab.get(at).map_or(HoldId(0), |hold| hold.id)
}

fn key_at(operations: &Rows<Bound>, at: u32) -> u128 {
    operations.get(at).map_or(0, Bound::key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: u128, expires_at: u64) -> NewHold {
        NewHold {
            id: HoldId(id),
            minted: Nanos(5),
            left: Nanos(5),
            expires_at: Millis(expires_at),
            day: Day(0),
            payer: 0,
            chain: NONE,
        }
    }

    #[test]
    fn holds_are_due_when_their_time_is_over_and_not_before() {
        let mut holds = Holds::default();
        let start = 1_000_000_000;
        holds.due(Millis(start), 10);
        let mut first = NONE;
        for (id, expires) in [
            (1, start + 300_000),
            (2, start + 300_500),
            (3, start + 300_000),
            (4, start + 3_600_000),
        ] {
            first = holds.open(new(id, expires), first, NONE);
        }
        assert_eq!(holds.due(Millis(start + 299_999), 10), []);
        let mut due = holds.due(Millis(start + 300_000), 10);
        due.sort();
        assert_eq!(due, [HoldId(1), HoldId(3)]);
        holds.end(HoldId(3));
        holds.end(HoldId(1));
        assert_eq!(holds.due(Millis(start + 300_499), 10), []);
        assert_eq!(holds.due(Millis(start + 300_500), 10), [HoldId(2)]);
        assert_eq!(holds.end(HoldId(2)).map(|e| e.hold.id), Some(HoldId(2)));
        // A jump of the clock over a whole turn of the wheel.
        assert_eq!(holds.due(Millis(start + 50_000_000), 10), [HoldId(4)]);
    }

    #[test]
    fn a_sweep_with_a_bound_comes_back_for_the_rest() {
        let mut holds = Holds::default();
        for id in 0..10 {
            holds.open(new(id, 1_000 + id as u64), NONE, NONE);
        }
        let mut ended = 0;
        loop {
            let due = holds.due(Millis(500_000), 3);
            if due.is_empty() {
                break;
            }
            assert!(due.len() <= 3);
            for id in due {
                assert!(holds.end(id).is_some());
                ended += 1;
            }
        }
        assert_eq!((ended, holds.len()), (10, 0));
    }

    #[test]
    fn a_hold_that_was_due_before_a_restart_is_found() {
        let mut holds = Holds::default();
        holds.due(Millis(9_000_000), 10);
        holds.open(new(1, 5_000_000), NONE, NONE);
        assert_eq!(holds.due(Millis(9_000_000), 10), [HoldId(1)]);
    }

    #[test]
    fn a_workflows_holds_are_listed_whichever_ends_first() {
        let mut holds = Holds::default();
        let mut first = NONE;
        for id in 1..=4 {
            first = holds.open(new(id, 1000), first, NONE);
        }
        let ids = |holds: &Holds, first| -> Vec<u128> {
            holds.of_workflow(first).map(|hold| hold.id.0).collect()
        };
        assert_eq!(ids(&holds, first), [4, 3, 2, 1]);
        for (end, left) in [(2, vec![4, 3, 1]), (4, vec![3, 1]), (1, vec![3])] {
            let ended = holds.end(HoldId(end)).unwrap();
            first = ended.first_of_workflow.unwrap_or(first);
            assert_eq!(ids(&holds, first), left);
        }
        let ended = holds.end(HoldId(3)).unwrap();
        assert_eq!(ended.first_of_workflow, Some(NONE));
    }

    #[test]
    fn a_renewed_chain_keeps_its_holds_longer_and_an_ended_one_lets_them_go() {
        let mut holds = Holds::default();
        let in_chain = |id| NewHold {
            chain: 7,
            ..new(id, 1000)
        };
        let one = holds.open(in_chain(1), NONE, NONE);
        let two = holds.open(in_chain(2), one, one);
        holds.open(new(3, 1000), two, NONE);
        holds.renew_chain(two, Millis(90_000));
        assert_eq!(holds.due(Millis(5_000), 10), [HoldId(3)]);
        assert!(holds.end(HoldId(3)).is_some());
        holds.leave_chain(two);
        assert_eq!(holds.get(HoldId(1)).map(|hold| hold.chain), Some(NONE));
        assert_eq!(holds.end(HoldId(2)).unwrap().first_of_chain, None);
        assert_eq!(holds.due(Millis(89_999), 10), []);
        assert_eq!(holds.due(Millis(90_000), 10), [HoldId(1)]);
    }

    #[test]
    fn an_operation_is_remembered_as_long_as_its_hold_is_open() {
        let mut holds = Holds::default();
        holds.open(new(1, 1_000), NONE, NONE);
        let gate = Operation {
            key: 10,
            fingerprint: 1,
        };
        let execute = Operation {
            key: 11,
            fingerprint: 2,
        };
        holds.bind(HoldId(1), gate);
        holds.bind(HoldId(1), execute);
        assert_eq!(holds.seen(gate), Some(Seen::Same(HoldId(1))));
        assert_eq!(
            holds.seen(Operation {
                key: 11,
                fingerprint: 9
            }),
            Some(Seen::Different)
        );
        let hold = holds.get(HoldId(1)).unwrap();
        assert_eq!(holds.operations_of(hold).count(), 2);
        holds.end(HoldId(1));
        assert_eq!(holds.seen(gate), None);
        assert_eq!(holds.seen(execute), None);
        assert!(holds.end(HoldId(1)).is_none());
    }
}
