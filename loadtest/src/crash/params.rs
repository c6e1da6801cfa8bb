//! How often, how hard and where to crash.

use crate::record::CheckOptions;

/// How to crash.
#[derive(Debug, Clone)]
pub struct Params {
    /// Rounds of load, `kill -9`, restart, check.
    pub rounds: u32,
    /// Connections of SDK load; one more belongs to the operator.
    pub connections: usize,
    /// Shortest time of load before the kill, in milliseconds.
    pub shortest_load_ms: u64,
    /// Longest time of load before the kill, in milliseconds.
    pub longest_load_ms: u64,
    /// However long that takes, the load of a round goes on until so many charges were acknowledged in it.
    pub least_charges: u64,
    /// Replays the plan of an earlier run; `None` draws a seed.
    pub seed: Option<u64>,
    /// Restart from what completed syncs covered instead of from the page cache.
    pub power_cut: bool,
    /// Extra environment of the gateway.
    pub environment: Vec<(String, String)>,
    /// Further environment, another one at each start, in turn: numbers of shards, for example.
    pub layouts: Vec<Vec<(String, String)>>,
    /// Named places in the gateway where it is to die by itself, one for each round (`NULLRUN_TEST_CRASH_AT`); then
    /// the load goes on until it has.
    pub crash_points: Vec<String>,
    /// What is asked again in each check.
    pub check: CheckOptions,
}

impl Params {
    /// 20 rounds.
    pub fn quick() -> Self {
        Self {
            rounds: 20,
            connections: 16,
            shortest_load_ms: 50,
            longest_load_ms: 600,
            least_charges: 400,
            seed: None,
            power_cut: false,
            environment: Vec::new(),
            layouts: Vec::new(),
            crash_points: Vec::new(),
            check: CheckOptions {
                holds: 100,
                charges: 100,
            },
        }
    }

    /// 200 rounds.
    pub fn long() -> Self {
        Self {
            rounds: 200,
            ..Self::quick()
        }
    }

    /// The same, restarting from what completed syncs covered.
    #[must_use]
    pub fn with_power_cut(mut self) -> Self {
        self.power_cut = true;
        self
    }

    /// The same with tiny segments and frequent snapshots, and load that lasts until after the gateway's next look
    /// (once a second) at whether a snapshot is due: kills then fall before, into and after snapshots.
    #[must_use]
    pub fn with_snapshots(self) -> Self {
        let small = self
            .env("NULLRUN_SEGMENT_BYTES", "65536")
            .env("NULLRUN_SNAPSHOT_BYTES", "65536");
        Self {
            shortest_load_ms: 900,
            longest_load_ms: 2_100,
            // Ten rounds seal a generation of events in the smallest memory there is.
            least_charges: 1_000,
            ..small
        }
    }

    /// The same, with one more variable in the gateway's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Params {
    /// The same, with another of these environments at each start.
    #[must_use]
    pub fn with_layouts<'a>(
        mut self,
        layouts: impl IntoIterator<Item = &'a [(&'a str, &'a str)]>,
    ) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let layouts = layouts.into_iter();
        self.layouts = layouts
            .map(|layout| layout.iter().map(owned).collect())
            .collect();
        self
    }

    /// One round for each of these places, in which the gateway dies there by itself under load.
    #[must_use]
    pub fn at_points<'a>(self, points: impl IntoIterator<Item = &'a str>) -> Self {
        let crash_points: Vec<_> = points.into_iter().map(str::to_owned).collect();
        Self {
            rounds: u32::try_from(crash_points.len()).unwrap_or(u32::MAX),
            crash_points,
            ..self
        }
    }

    /// Where the gateway is to die by itself in `round`, counted from 1.
    pub(super) fn point(&self, round: u32) -> Option<&str> {
        let index = usize::try_from(round).ok()?.checked_sub(1)?;
        self.crash_points.get(index).map(String::as_str)
    }
}
