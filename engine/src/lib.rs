//! The rules of NullRun: budgets and holds, policies, rates, workflow states, the directory.
//!
//! The core is synchronous and deterministic. [`decide`] is the only place with rules, `fold` the
//! only way to change state; live traffic, recovery, snapshots and the simulator all run the same
//! `fold`. Clocks, sockets, files and randomness stay outside: time and ids come in with the
//! command, records come out, and [`pump`] lets no answer leave before the log has it.

pub mod account;
pub mod buckets;
pub mod budget;
pub mod cell;
pub mod chain;
pub mod charge;
pub mod code;
pub mod command;
pub mod decide;
pub mod dedup;
pub mod directory;
pub mod engine;
pub mod evaluate;
pub mod glob;
pub mod hold;
pub mod learned;
pub mod limits;
pub mod manage;
pub mod meter;
pub mod money;
pub mod mutation;
pub mod note;
pub mod pace;
pub mod payer;
pub mod pending;
pub mod period;
pub mod plan;
pub mod price;
pub mod price_book;
pub mod pump;
pub mod ratings;
pub mod recover;
mod reprice;
pub mod rows;
pub mod rules;
pub mod shard;
pub mod shared;
pub mod snapshot;
pub mod usage;
mod view;

pub use engine::{Engine, Settings};
pub use pump::Pump;
