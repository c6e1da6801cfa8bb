//! Folds the log into a snapshot now and then, beside the running engine, from the files alone, and
//! removes segments that nobody needs any more. It works on a thread of its own that yields to all
//! others: nobody waits for a snapshot.

use crate::clock;
use crate::metrics::Metrics;
use engine::recover::{Error, Rebuild};
use persist::follow::Followers;
use persist::{Log, LogId, Lsn, retain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const LOOK: Duration = Duration::from_secs(1);
/// Looks that pass between a snapshot that failed and the next try.
const LOOKS_UNTIL_RETRY: u32 = 60;

/// When the next snapshot is due.
#[derive(Debug)]
struct Pace {
    every_bytes: u64,
    /// Bytes of log, of earlier runs, that no snapshot covers.
    behind: u64,
    /// Bytes appended in this run that one does.
    folded_bytes: u64,
    /// Looks that pass before the next try, whatever is due.
    quiet: u32,
}

impl Pace {
    /// Is one due, with so many bytes appended in this run, and space short or not?
    const fn is_due(&mut self, appended: u64, short: bool) -> bool {
        if self.quiet > 0 {
            self.quiet -= 1;
            return false;
        }
        short || self.behind + appended - self.folded_bytes >= self.every_bytes
    }

    /// One is written that covers so many bytes.
    const fn written(&mut self, appended: u64) {
        self.folded_bytes = appended;
        self.behind = 0;
    }

    const fn failed(&mut self) {
        self.quiet = LOOKS_UNTIL_RETRY - 1;
    }
}

/// Where the log stood at the start.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    /// Its identity.
    pub id: LogId,
    /// The newest snapshot.
    pub newest: Lsn,
    /// Bytes of records behind that.
    pub behind: u64,
}

/// Makes a snapshot whenever `every_bytes` of log have come since the last. The log behind the older of
/// two snapshots, and behind all followers, goes.
pub async fn run(
    rebuild: Rebuild,
    followers: Followers,
    log: Arc<Log>,
    begin: Begin,
    every_bytes: u64,
    metrics: Arc<Metrics>,
) {
    let Begin {
        id,
        mut newest,
        behind,
    } = begin;
    metrics.snapshots.begins_with(newest);
    let mut pace = Pace {
        every_bytes,
        behind,
        folded_bytes: 0,
        quiet: 0,
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let appended = log.appended_bytes();
        // With the disk full, or the quota, a snapshot may be what frees the log.
        let short = !log.room().is_plenty() && log.durable_lsn() > newest;
        if !pace.is_due(appended, short) {
            continue;
        }
        let until = log.durable_lsn();
        let began = Instant::now();
        let (rebuild, followers) = (rebuild.clone(), followers.clone());
        let folded = at_low_priority(move || {
            if short {
                // The log behind the older of two snapshots goes, and while gates are refused perhaps
                // nothing comes that a second one could be made of: so two at once.
                rebuild.checkpoint(id, Lsn(until.0 - 1))?;
            }
            let lsn = rebuild.checkpoint(id, until)?;
            let floor = retain::floor(&rebuild.snapshots, &followers)?;
            let freed = floor.map(|floor| retain::trim(rebuild.wal.as_ref(), floor));
            let freed = freed.transpose()?.unwrap_or(0);
            Ok::<_, Error>((lsn, freed))
        });
        match folded.await {
            Ok(Ok((lsn, freed))) => {
                let at = clock::now().secs();
                metrics.snapshots.wrote(lsn, at, began.elapsed());
                tracing::info!(from = newest.0, to = lsn.0, freed, "wrote a snapshot");
                newest = lsn;
                pace.written(appended);
            }
            Ok(Err(error)) => {
                metrics.snapshots.failed();
                // The log has everything; only the next start takes longer.
                tracing::error!(%error, "no snapshot was written; trying again in a minute");
                pace.failed();
            }
            Err(error) => {
                tracing::error!(%error, "a snapshot was broken off; trying again in a minute");
                pace.failed();
            }
        }
    }
}

/// Does this on a thread that the system runs when no other thread of the gateway wants to.
async fn at_low_priority<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, std::io::Error> {
    let (done, waits) = oneshot::channel();
    let thread = std::thread::Builder::new().name("snapshot".to_owned());
    thread.spawn(move || {
        yield_to_others();
        // Nobody waits any more when the gateway stops.
        let _stopped = done.send(work());
    })?;
    waits
        .await
        .map_err(|_| std::io::Error::other("its thread ended"))
}

/// On Linux, niceness belongs to a thread.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    const NICE: i32 = 10;
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICE) {
        tracing::debug!(%error, "snapshots are made at normal priority");
    }
}

#[cfg(not(target_os = "linux"))]
const fn yield_to_others() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_failed_is_tried_again_after_a_minute_and_not_after_so_much_more_log() {
        let mut pace = Pace {
            every_bytes: 100,
            behind: 30,
            folded_bytes: 0,
            quiet: 0,
        };
        assert!(!pace.is_due(69, false));
        assert!(pace.is_due(70, false));
        pace.failed();
        for look in 1..LOOKS_UNTIL_RETRY {
            assert!(!pace.is_due(70, true), "look {look}");
        }
        assert!(pace.is_due(70, false));
        pace.written(70);
        assert!(!pace.is_due(169, false));
        assert!(pace.is_due(169, true));
        assert!(pace.is_due(170, false));
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn snapshots_yield_to_everything_else_and_a_thread_that_panics_is_told() {
        let nice = || {
            let thread = rustix::thread::gettid();
            rustix::process::getpriority_process(Some(thread)).unwrap()
        };
        let before = nice();
        assert_eq!(at_low_priority(nice).await.unwrap(), before.max(10));
        assert_eq!(nice(), before);
        assert!(
            at_low_priority(move || assert!(before > 100))
                .await
                .is_err()
        );
    }
}
