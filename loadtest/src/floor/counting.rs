//! System calls and cross-thread wakes per request, counted by `strace` attached to the server while a fixed number of
//! requests runs. A wake is a `futex` wake that woke somebody, or a write to an `eventfd`.
//!
//! The server is slow under `strace` and batches differently, so these are counts, never times.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::gate_load::Drive;
use crate::identity::Dice;
use crate::system::send_sigint;

/// How long `strace` may take to attach, and to write its table after the interrupt.
const STRACE_WITHIN: Duration = Duration::from_secs(60);

/// Counts per request.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Requests that ran meanwhile.
    pub requests: u64,
    /// System calls of all the server's threads, per request.
    pub syscalls: f64,
    /// Wakes across threads, per request.
    pub wakes: f64,
}

/// What a counting pass led to.
#[derive(Debug, Clone)]
pub enum Counting {
    /// Counts.
    Done(Counted),
    /// Why there are none, and what to do about it.
    NotMeasured(String),
}

/// Runs `requests` twice under `strace`: once for all calls, once for the wakes.
pub(super) async fn count(
    server: u32,
    drive: &Drive,
    path: &'static str,
    requests: u64,
    dice: &mut Dice,
) -> Result<Counting> {
    if requests == 0 {
        return Ok(Counting::NotMeasured(
            "not asked for (0 counted requests)".into(),
        ));
    }
    let home =
        TempDir::with_prefix("nullrun-strace-").map_err(Error::io("a temporary directory"))?;
    let summary = match traced(
        server,
        drive,
        path,
        requests,
        dice,
        &["-c"],
        &home.path().join("summary"),
    )
    .await?
    {
        Ok(traced) => traced,
        Err(why) => return Ok(Counting::NotMeasured(why)),
    };
    let wakes_only = ["-y", "-e", "trace=futex,write"];
    let wakes = match traced(
        server,
        drive,
        path,
        requests,
        dice,
        &wakes_only,
        &home.path().join("wakes"),
    )
    .await?
    {
        Ok(traced) => traced,
        Err(why) => return Ok(Counting::NotMeasured(why)),
    };
    let Some(calls) = total_calls(&summary.output) else {
        return Ok(Counting::NotMeasured(format!(
            "strace's table has no total: {}",
            summary.output
        )));
    };
    Ok(Counting::Done(Counted {
        requests: summary.requests,
        syscalls: calls as f64 / summary.requests.max(1) as f64,
        wakes: count_wakes(&wakes.output) as f64 / wakes.requests.max(1) as f64,
    }))
}

struct Traced {
    requests: u64,
    output: String,
}

async fn traced(
    server: u32,
    drive: &Drive,
    path: &'static str,
    requests: u64,
    dice: &mut Dice,
    arguments: &[&str],
    output: &Path,
) -> Result<std::result::Result<Traced, String>> {
    let messages = output.with_extension("messages");
    let stderr = fs::File::create(&messages)
        .map_err(Error::io(format!("creating {}", messages.display())))?;
    let spawned = Command::new("strace")
        .arg("-f")
        .args(arguments)
        .arg("-o")
        .arg(output)
        .args(["-p", &server.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn();
    let mut strace = match spawned {
        Ok(child) => child,
        Err(error) => {
            return Ok(Err(format!(
                "cannot run strace ({error}); install the package `strace`"
            )));
        }
    };
    if let Err(why) = attached(&mut strace, &messages).await {
        end(&mut strace).await;
        return Ok(Err(why));
    }
    let ran = drive.run_count(path, requests, dice).await;
    end(&mut strace).await;
    let ran = ran?;
    let output =
        fs::read_to_string(output).map_err(Error::io(format!("reading {}", output.display())))?;
    Ok(Ok(Traced {
        requests: ran.answered,
        output,
    }))
}

/// Waits until strace says that it has attached.
async fn attached(strace: &mut Child, messages: &Path) -> std::result::Result<(), String> {
    let deadline = Instant::now() + STRACE_WITHIN;
    loop {
        let said = fs::read_to_string(messages).unwrap_or_default();
        if said.contains("attached") && !said.contains("attach:") {
            return Ok(());
        }
        if strace.try_wait().ok().flatten().is_some() || Instant::now() > deadline {
            return Err(format!(
                "strace cannot attach: {}; allow ptrace (kernel.yama.ptrace_scope=0, or CAP_SYS_PTRACE in a container)",
                said.trim()
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Interrupts strace, which detaches and writes its result, and waits for its end.
async fn end(strace: &mut Child) {
    // If it has ended already there is nobody to interrupt.
    let _gone = send_sigint(strace.id());
    let deadline = Instant::now() + STRACE_WITHIN;
    while strace.try_wait().ok().flatten().is_none() {
        if Instant::now() > deadline {
            let _gone = strace.kill();
            let _reaped = strace.wait();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The calls in the line `100.00 0.123456 3 12345 67 total` of a summary.
fn total_calls(summary: &str) -> Option<u64> {
    let line = summary
        .lines()
        .rev()
        .find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Wakes in a trace. A call interrupted by another thread's line is finished in a `resumed` line, which carries its
/// result but no arguments; the unfinished half has the arguments.
fn count_wakes(trace: &str) -> u64 {
    let mut wakes = 0;
    let mut unfinished_wakes: Vec<&str> = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let call = call.trim_start();
        let is_eventfd_write = call.starts_with("write(") && call.contains("[eventfd]");
        let is_futex_wake = call.starts_with("futex(") && call.contains("FUTEX_WAKE");
        let unfinished = call.ends_with("<unfinished ...>");
        let woke = || {
            call.rsplit_once("= ")
                .is_some_and(|(_, result)| result.trim() != "0" && !result.starts_with('-'))
        };
        if is_eventfd_write {
            wakes += 1;
        } else if is_futex_wake && unfinished {
            unfinished_wakes.push(thread);
        } else if is_futex_wake && woke() {
            wakes += 1;
        } else if call.starts_with("<... futex resumed>")
            && let Some(place) = unfinished_wakes
                .iter()
                .position(|waiting| *waiting == thread)
        {
            unfinished_wakes.swap_remove(place);
            wakes += u64::from(woke());
        }
    }
    wakes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_with_and_without_errors_in_the_table() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        let with = format!("{head}100.00    0.004107           7       567        12 total\n");
        let without = format!("{head}100.00    0.004107           7       567           total\n");
        assert_eq!(
            (total_calls(&with), total_calls(&without)),
            (Some(567), Some(567))
        );
    }

    #[test]
    fn wakes_are_counted_once_also_when_a_line_is_interrupted() {
        let trace = "\
10 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 1
10 futex(0x7f, FUTEX_WAKE_PRIVATE, 1) = 0
11 write(5<anon_inode:[eventfd]>, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8
11 write(9</data/log>, \"abc\", 3) = 3
12 futex(0x7f, FUTEX_WAIT_PRIVATE, 0, NULL <unfinished ...>
10 futex(0x7f, FUTEX_WAKE_PRIVATE, 1 <unfinished ...>
12 <... futex resumed>) = 0
10 <... futex resumed>) = 1
";
        assert_eq!(count_wakes(trace), 3);
    }
}
