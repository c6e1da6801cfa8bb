//! What the simulator looks for.

/// What can be broken: the list in `docs/architecture.md`, and two of the simulator's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: an allow fits under every cap at its place in the log.
    FitsUnderCaps,
    /// 2: a cap is the sum of what is spent, held and remaining.
    CapIsWholeSum,
    /// 3: what was acknowledged is there, also after a crash.
    AcknowledgedStays,
    /// 4: nothing that starts after a kill's answer is allowed.
    KillIsAFence,
    /// 5: the same effect counts once.
    CountsOnce,
    /// 6: no reported spend is lost or booked elsewhere.
    NoSpendLost,
    /// 8: a hold ends once, for a reason that is true; none is orphaned.
    HoldEndsOnce,
    /// 9: nothing of one org is shown to another.
    OrgsApart,
    /// 10: the log folded twice is the same state, and the log read back is the log written.
    SameLogSameState,
    /// A refusal says what is so.
    NoPhantomRefusal,
    /// An assertion in the engine or the log itself.
    EngineAsserts,
}

/// A broken invariant, in a sentence.
#[derive(Debug, Clone)]
pub struct Violation(pub Invariant, pub String);

pub type Check = Result<(), Violation>;

pub fn ensure(holds: bool, what: Invariant, sentence: impl FnOnce() -> String) -> Check {
    if holds {
        return Ok(());
    }
    Err(broken(what, sentence()))
}

pub const fn broken(what: Invariant, sentence: String) -> Violation {
    Violation(what, sentence)
}
