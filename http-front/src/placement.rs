//! Who runs where: how many shards, pumps and workers there are, decided from the machine's cores.
//!
//! A request that crosses from one thread to another and back costs more than its decision, so with
//! one or two cores everything runs on one thread. With more, each pump has a thread of its own,
//! pinned, and the other cores serve HTTP.

use crate::config::{BadConfig, Config, Count, PlacementName};
use crate::shards::Layout;

/// How the work is divided among threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Shards and pumps.
    pub layout: Layout,
    /// Threads that serve HTTP, the main one included.
    pub workers: u32,
    /// Does each pump have a thread of its own?
    pub threads: bool,
    /// Are these pinned?
    pub pinned: bool,
}

impl Placement {
    /// From the settings and the number of cores this process may use.
    pub fn of(config: &Config, cores: u32) -> Result<Self, BadConfig> {
        let half = (cores / 2).max(1);
        let threads = match config.placement {
            PlacementName::Auto => cores > 2,
            PlacementName::Front => false,
            PlacementName::Threads => true,
        };
        let shards = match config.shards {
            Count::Of(shards) => u32::from(shards),
            Count::Auto if threads => half,
            Count::Auto => 1,
        };
        let pumps = match config.placement {
            _ if !threads => 1,
            PlacementName::Threads => shards,
            _ => shards.min(half),
        };
        let workers = match config.workers {
            Count::Of(1) => 1,
            Count::Of(workers) if threads => u32::from(workers),
            Count::Of(_) => return Err(BadConfig::Workers),
            Count::Auto if threads => cores.saturating_sub(pumps).max(1),
            Count::Auto => 1,
        };
        Ok(Self {
            layout: Layout {
                shards: u16::try_from(shards).unwrap_or(u16::MAX),
                pumps,
            },
            workers,
            threads,
            pinned: threads && cores > pumps,
        })
    }

    /// For the banner.
    #[must_use]
    pub fn describe(&self) -> String {
        let Layout { shards, pumps } = self.layout;
        let plural = |n: u32, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let shards = plural(u32::from(shards), "shard");
        if !self.threads {
            return format!("{shards} on the thread that serves HTTP");
        }
        let (pumps, workers) = (plural(pumps, "thread"), plural(self.workers, "thread"));
        let pinned = if self.pinned { ", pinned" } else { "" };
        format!("{shards} on {pumps}{pinned}; HTTP on {workers}")
    }
}

/// Pins this thread to the `nth` of the cores this process may use, counted from the last; the
/// first ones serve HTTP. Where it cannot be done, the thread runs where the system likes.
#[cfg(target_os = "linux")]
pub fn pin(nth: u32) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let Some(core) = cores.iter().rev().nth(nth as usize % cores.len().max(1)) else {
        return;
    };
    let mut only = CpuSet::new();
    only.set(*core);
    if let Err(error) = sched_setaffinity(None, &only) {
        tracing::debug!(%error, core, "this thread is not pinned");
    }
}

/// Elsewhere threads are not pinned.
#[cfg(not(target_os = "linux"))]
pub const fn pin(_nth: u32) {}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn of(flags: &[&str], cores: u32) -> (u16, u32, u32) {
        let config = Config::parse_from([&["nullrun"], flags].concat());
        let placement = Placement::of(&config, cores).unwrap();
        (
            placement.layout.shards,
            placement.layout.pumps,
            placement.workers,
        )
    }

    #[test]
    fn one_or_two_cores_have_one_thread_and_more_have_pumps_of_their_own() {
        assert_eq!(of(&[], 1), (1, 1, 1));
        assert_eq!(of(&[], 2), (1, 1, 1));
        assert_eq!(of(&[], 4), (2, 2, 2));
        assert_eq!(of(&[], 9), (4, 4, 5));
        assert_eq!(of(&["--shards", "7"], 2), (7, 1, 1));
        assert_eq!(of(&["--shards", "7"], 4), (7, 2, 2));
        assert_eq!(
            of(&["--shards", "7", "--placement", "threads"], 2),
            (7, 7, 1)
        );
        assert_eq!(of(&["--placement", "front"], 64), (1, 1, 1));
        let threads = ["--placement", "threads", "--workers", "3"];
        assert_eq!(of(&threads, 2), (1, 1, 3));
    }

    #[test]
    fn several_workers_need_pumps_on_threads() {
        let config = Config::parse_from(["nullrun", "--workers", "2"]);
        assert!(Placement::of(&config, 2).is_err());
    }
}
