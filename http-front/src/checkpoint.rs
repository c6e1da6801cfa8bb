//! Folds the log into a snapshot now and then, beside the running engine, from the files alone.

use engine::recover::Rebuild;
use persist::{Log, LogId, Lsn};
use std::sync::Arc;
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(1);

/// Makes a snapshot whenever `every_bytes` of log have come since the last; `behind` of them came in
/// earlier runs.
pub async fn run(
    rebuild: Rebuild,
    log: Arc<Log>,
    id: LogId,
    mut newest: Lsn,
    mut behind: u64,
    every_bytes: u64,
) {
    let mut folded_bytes = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let appended = log.appended_bytes();
        if behind + appended - folded_bytes < every_bytes {
            continue;
        }
        let until = log.durable_lsn();
        let rebuild = rebuild.clone();
        let folded = tokio::task::spawn_blocking(move || rebuild.checkpoint(id, until)).await;
        match folded {
            Ok(Ok(lsn)) => {
                tracing::info!(from = newest.0, to = lsn.0, "wrote a snapshot");
                newest = lsn;
                folded_bytes = appended;
                behind = 0;
            }
            Ok(Err(error)) => {
                // The log has everything; only the next start takes longer.
                tracing::error!(%error, "no snapshot was written; trying again later");
                folded_bytes = appended;
                behind = 0;
            }
            Err(_) => return,
        }
    }
}
