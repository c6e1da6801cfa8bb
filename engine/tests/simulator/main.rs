//! The simulator: one seeded thread runs the real pumps and engines, one to three of them over one to
//! seven shards, on the real log on a disk that loses what a crash may lose, with clients that retry,
//! repeat themselves and leave; an independent reference ledger checks the invariants of
//! `docs/architecture.md` after every step.
//!
//! ```text
//! cargo test -p nullrun-engine --test simulator                      fresh seeds
//! NULLRUN_SIM_SEED=0x5eed cargo test -p nullrun-engine --test simulator -- --nocapture
//! NULLRUN_TEST_SCALE=long cargo test -p nullrun-engine --test simulator -- --nocapture
//! ```
//! A run depends on its seed and on this code alone. A seed that ever failed goes into `seeds.txt`.

#[cfg(test)]
mod books;
#[cfg(test)]
mod charges;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod compare;
#[cfg(test)]
mod front;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod places;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rng;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod run;
#[cfg(test)]
mod spec;
#[cfg(test)]
mod trace;
#[cfg(test)]
mod views;
#[cfg(test)]
mod violation;
#[cfg(test)]
mod wal;
#[cfg(test)]
mod world;
