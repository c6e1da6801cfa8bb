//! The harness of the NullRun gateway: it drives a real gateway over HTTP, remembers every acknowledged answer, and
//! afterwards compares the gateway's ledger with what it remembers.
//!
//! It knows the wire and nothing else: it must not depend on the engine, so that it can disagree with it.
//! Every scenario takes a [`Target`] (a binary to start, or the address of a running gateway) and a parameter struct
//! with `quick()` and `long()` constructors, and returns a typed report whose `violations` are sentences.

pub mod account;
pub mod burst;
mod cc;
pub mod client;
mod clock;
pub mod crash;
mod error;
pub mod events;
pub mod floor;
pub mod gate_load;
pub mod gateway;
pub mod identity;
pub mod kill_fence;
pub mod ledger;
pub mod people;
pub mod record;
pub mod report;
pub mod restrict;
pub mod shim;
mod system;
mod target;
pub mod wire;

pub use error::{Error, Result};
pub use report::Violations;
pub use target::{Running, Target};
