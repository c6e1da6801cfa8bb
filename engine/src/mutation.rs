//! Seeded defects, for testing the tests: the simulator and the crash driver must find each of
//! them. A release build cannot switch them on, and they cost it nothing.

#[cfg(not(debug_assertions))]
mod none;
#[cfg(debug_assertions)]
mod seeded;

#[cfg(not(debug_assertions))]
pub use none::Mutations;
#[cfg(debug_assertions)]
pub use seeded::Mutations;

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A release is visible to other calls before it is in the log.
    ReleaseBeforeAppend,
    /// A hold stays in place when it ends, so that it can end again.
    EndTwice,
    /// A kill is acknowledged before decisions see it.
    LateKill,
}
