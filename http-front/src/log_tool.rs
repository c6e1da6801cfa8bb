//! `nullrun log inspect | verify | export`: looks at a data directory without changing anything in
//! it; beside a running gateway too.

use clap::Subcommand;
use persist::inspect::{self, Directory};
use persist::{Lsn, segment};
use std::io::{self, Write as _};
use std::path::Path;

/// What to do with the log of a data directory.
#[derive(Debug, Clone, Subcommand)]
pub enum LogTool {
    /// Show segments, snapshots and followers as JSON.
    Inspect,
    /// Read everything and check it; the exit code tells, and the message says what to do.
    Verify,
    /// Write the records as lines of JSON, without secrets.
    Export {
        /// First LSN.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Last LSN; all there are if absent.
        #[arg(long)]
        until: Option<u64>,
    },
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no such directory.
    #[error("there is no log in {0}; name the data directory with --data-dir")]
    NoLog(String),
    /// The log or a snapshot.
    #[error(transparent)]
    Persist(#[from] persist::Error),
    /// The other end of the pipe.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The summary does not become JSON.
    #[error("cannot show it: {0}")]
    Json(#[from] serde_json::Error),
}

/// Does it.
pub fn run(tool: &LogTool, data_dir: &Path) -> Result<(), Failed> {
    let directory = Directory::read_only(data_dir);
    if segment::list(directory.wal.as_ref())?.is_empty() {
        return Err(Failed::NoLog(data_dir.display().to_string()));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    match tool {
        LogTool::Inspect => {
            let summary = inspect::to_json(&inspect::inspect(&directory)?)?;
            serde_json::to_writer_pretty(&mut out, &summary)?;
            writeln!(out)?;
        }
        LogTool::Verify => {
            let verified = inspect::verify(&directory)?;
            for warning in &verified.warnings {
                writeln!(out, "warning: {warning}")?;
            }
            let (first, last) = (verified.first_lsn, verified.last_lsn);
            writeln!(out, "records {first} to {last} are whole")?;
            if verified.torn_bytes > 0 {
                let torn = verified.torn_bytes;
                writeln!(
                    out,
                    "behind them {torn} bytes of an unfinished write, which the next start cuts off"
                )?;
            }
            for lsn in &verified.snapshots {
                writeln!(out, "the snapshot of LSN {lsn} is whole")?;
            }
        }
        LogTool::Export { from, until } => {
            let until = Lsn(until.unwrap_or(u64::MAX));
            inspect::export(directory.wal.as_ref(), Lsn(*from), until, &mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}
