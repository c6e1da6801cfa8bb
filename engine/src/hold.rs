//! Open holds: a slab, an index by id, an index of the operations that may be replayed on them, and
//! a wheel that says which are due. Everything here is derived from records by `fold`.

use hashbrown::HashMap;
use persist::record::Operation;
use persist::{HoldId, KeyId, Millis, Nanos, OrgId, WorkflowId};

const NONE: u32 = u32::MAX;
const WHEEL: usize = crate::limits::WHEEL_SECS as usize;

/// An open hold.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Id.
    pub id: HoldId,
    /// Whose.
    pub org: OrgId,
    /// The workflow it counts for.
    pub workflow: WorkflowId,
    /// The key it counts for.
    pub key: KeyId,
    /// What it was minted with.
    pub minted: Nanos,
    /// What charges have left of it.
    pub left: Nanos,
    /// The period it counts in.
    pub period_start: Millis,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// Replies that promised this hold and were not lost. Not part of the state: a restart
    /// forgets it, and the hold's time ends it.
    pub claims: u32,
    first_operation: Option<u128>,
    due_slot: u32,
    next_due: u32,
    previous_due: u32,
}

impl Hold {
    /// What would open it again.
    #[must_use]
    pub const fn as_new(&self) -> NewHold {
        NewHold {
            id: self.id,
            org: self.org,
            workflow: self.workflow,
            key: self.key,
            minted: self.minted,
            left: self.left,
            period_start: self.period_start,
            expires_at: self.expires_at,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    hold: u32,
    fingerprint: u64,
    next: Option<u128>,
}

/// A request that was seen before on an open hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The very same request.
    Same(HoldId),
    /// The same operation with other contents.
    Different,
}

/// All open holds of a shard.
#[derive(Debug)]
pub struct Holds {
    slab: Vec<Hold>,
    free: Vec<u32>,
    by_id: HashMap<HoldId, u32>,
    by_org: HashMap<OrgId, u64>,
    operations: HashMap<u128, Bound>,
    /// Heads of lists of holds by the second they are due, modulo the wheel.
    wheel: Box<[u32]>,
    /// Every hold due before this second has been returned by `due`.
    swept_secs: u64,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            slab: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            by_org: HashMap::new(),
            operations: HashMap::new(),
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

    /// Open holds of one org.
    #[must_use]
    pub fn of_org(&self, org: OrgId) -> u64 {
        self.by_org.get(&org).copied().unwrap_or_default()
    }

    /// One open hold.
    #[must_use]
    pub fn get(&self, id: HoldId) -> Option<&Hold> {
        self.by_id
            .get(&id)
            .and_then(|at| self.slab.get(*at as usize))
    }

    /// One open hold, to change what is left of it or its claims.
    pub fn get_mut(&mut self, id: HoldId) -> Option<&mut Hold> {
        self.by_id
            .get(&id)
            .and_then(|at| self.slab.get_mut(*at as usize))
    }

    /// Every open hold by id.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Hold> {
        let mut all: Vec<_> = self
            .by_id
            .values()
            .filter_map(|at| self.slab.get(*at as usize))
            .collect();
        all.sort_unstable_by_key(|hold| hold.id);
        all
    }

    /// Was this operation answered on a hold that is still open?
    #[must_use]
    pub fn seen(&self, operation: Operation) -> Option<Seen> {
        let bound = self.operations.get(&operation.key)?;
        if bound.fingerprint != operation.fingerprint {
            return Some(Seen::Different);
        }
        self.slab
            .get(bound.hold as usize)
            .map(|hold| Seen::Same(hold.id))
    }

    /// The operations bound to a hold, newest first.
    pub fn operations_of(&self, hold: &Hold) -> impl Iterator<Item = Operation> {
        let mut next = hold.first_operation;
        std::iter::from_fn(move || {
            let key = next?;
            let bound = self.operations.get(&key)?;
            next = bound.next;
            Some(Operation {
                key,
                fingerprint: bound.fingerprint,
            })
        })
    }

    /// Opens a hold.
    pub fn open(&mut self, new: NewHold) {
        let hold = Hold {
            id: new.id,
            org: new.org,
            workflow: new.workflow,
            key: new.key,
            minted: new.minted,
            left: new.left,
            period_start: new.period_start,
            expires_at: new.expires_at,
            claims: 1,
            first_operation: None,
            due_slot: NONE,
            next_due: NONE,
            previous_due: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.slab.push(hold.clone());
                u32::try_from(self.slab.len() - 1).unwrap_or(NONE)
            }
        };
        assert!(
            at != NONE,
            "four thousand million holds do not fit in memory"
        );
        if let Some(place) = self.slab.get_mut(at as usize) {
            *place = hold;
        }
        let before = self.by_id.insert(new.id, at);
        assert!(before.is_none(), "invariant 8: a hold is opened once");
        *self.by_org.entry(new.org).or_default() += 1;
        self.link(at);
    }

    /// Binds an operation to an open hold, so that the same request finds it again.
    pub fn bind(&mut self, id: HoldId, operation: Operation) {
        let Some(at) = self.by_id.get(&id).copied() else {
            return;
        };
        let Some(hold) = self.slab.get_mut(at as usize) else {
            return;
        };
        if self.operations.contains_key(&operation.key) {
            return;
        }
        let next = hold.first_operation.replace(operation.key);
        let bound = Bound {
            hold: at,
            fingerprint: operation.fingerprint,
            next,
        };
        self.operations.insert(operation.key, bound);
    }

    /// Ends a hold and forgets its operations; `None` if it is not open.
    pub fn end(&mut self, id: HoldId) -> Option<Hold> {
        let at = self.by_id.remove(&id)?;
        self.unlink(at);
        let hold = self.slab.get(at as usize)?.clone();
        if let Some(open) = self.by_org.get_mut(&hold.org) {
            *open -= 1;
        }
        let mut next = hold.first_operation;
        while let Some(key) = next {
            next = self.operations.remove(&key).and_then(|bound| bound.next);
        }
        self.free.push(at);
        Some(hold)
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
        let mut second = self.swept_secs.max(now_secs.saturating_sub(WHEEL as u64));
        while second <= now_secs {
            let mut at = self
                .wheel
                .get(second as usize % WHEEL)
                .copied()
                .unwrap_or(NONE);
            while let Some(hold) = self.slab.get(at as usize).filter(|_| at != NONE) {
                if hold.expires_at <= now {
                    if due.len() == most {
                        self.swept_secs = second;
                        return due;
                    }
                    due.push(hold.id);
                }
                at = hold.next_due;
            }
            second += 1;
        }
        // The current second is swept again: holds due later in it are still to come.
        self.swept_secs = now_secs;
        due
    }

    fn slot(&self, at: u32) -> u32 {
        let secs = self
            .slab
            .get(at as usize)
            .map_or(0, |hold| hold.expires_at.secs());
        // A hold that is already due (after a restart) goes where the next sweep looks.
        (secs.max(self.swept_secs) % WHEEL as u64) as u32
    }

    fn link(&mut self, at: u32) {
        let slot = self.slot(at);
        let Some(head) = self.wheel.get_mut(slot as usize) else {
            return;
        };
        let next = std::mem::replace(head, at);
        if let Some(next) = self.slab.get_mut(next as usize).filter(|_| next != NONE) {
            next.previous_due = at;
        }
        if let Some(hold) = self.slab.get_mut(at as usize) {
            hold.due_slot = slot;
            hold.next_due = next;
            hold.previous_due = NONE;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(hold) = self.slab.get(at as usize) else {
            return;
        };
        let (slot, next, previous) = (hold.due_slot, hold.next_due, hold.previous_due);
        if let Some(next) = self.slab.get_mut(next as usize).filter(|_| next != NONE) {
            next.previous_due = previous;
        }
        if previous != NONE {
            if let Some(previous) = self.slab.get_mut(previous as usize) {
                previous.next_due = next;
            }
        } else if let Some(head) = self.wheel.get_mut(slot as usize) {
            *head = next;
        }
    }
}

/// What a new hold is made of.
#[derive(Debug, Clone, Copy)]
pub struct NewHold {
    /// Id.
    pub id: HoldId,
    /// Whose.
    pub org: OrgId,
    /// The workflow it counts for.
    pub workflow: WorkflowId,
    /// The key it counts for.
    pub key: KeyId,
    /// What it holds.
    pub minted: Nanos,
    /// What is left of that.
    pub left: Nanos,
    /// The period it counts in.
    pub period_start: Millis,
    /// When it ends by itself.
    pub expires_at: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: u128, expires_at: u64) -> NewHold {
        NewHold {
            id: HoldId(id),
            org: OrgId(1),
            workflow: WorkflowId(1),
            key: KeyId(1),
            minted: Nanos(5),
            left: Nanos(5),
            period_start: Millis(0),
            expires_at: Millis(expires_at),
        }
    }

    #[test]
    fn holds_are_due_when_their_time_is_over_and_not_before() {
        let mut holds = Holds::default();
        let start = 1_000_000_000;
        holds.due(Millis(start), 10);
        for (id, expires) in [
            (1, start + 300_000),
            (2, start + 300_500),
            (3, start + 300_000),
            (4, start + 3_600_000),
        ] {
            holds.open(new(id, expires));
        }
        assert_eq!(holds.due(Millis(start + 299_999), 10), []);
        let mut due = holds.due(Millis(start + 300_000), 10);
        due.sort();
        assert_eq!(due, [HoldId(1), HoldId(3)]);
        holds.end(HoldId(3));
        holds.end(HoldId(1));
        assert_eq!(holds.due(Millis(start + 300_499), 10), []);
        assert_eq!(holds.due(Millis(start + 300_500), 10), [HoldId(2)]);
        assert_eq!(holds.end(HoldId(2)).map(|h| h.id), Some(HoldId(2)));
        // A jump of the clock over a whole turn of the wheel.
        assert_eq!(holds.due(Millis(start + 50_000_000), 10), [HoldId(4)]);
    }

    #[test]
    fn a_sweep_with_a_bound_comes_back_for_the_rest() {
        let mut holds = Holds::default();
        for id in 0..10 {
            holds.open(new(id, 1_000 + id as u64));
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
        holds.open(new(1, 5_000_000));
        assert_eq!(holds.due(Millis(9_000_000), 10), [HoldId(1)]);
    }

    #[test]
    fn an_operation_is_remembered_as_long_as_its_hold_is_open() {
        let mut holds = Holds::default();
        holds.open(new(1, 1_000));
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
