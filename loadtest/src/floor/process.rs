//! CPU time of another process, from `/proc`.

use std::time::Duration;

use crate::error::{Error, Result};

/// Length of a clock tick in `/proc/<pid>/stat`: 1/100 s on every Linux (USER_HZ), whatever the kernel's own HZ.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all threads of `pid` since its start, in steps of 10 ms.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(Error::io(format!("reading {path}")))?;
    ticks(&stat)
        .map(|ticks| TICK * ticks)
        .ok_or_else(|| Error::Usage(format!("{path} has no CPU times: {stat}")))
}

/// Sum of utime and stime: fields 14 and 15, counted after the command name, which may hold spaces.
fn ticks(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_found_after_a_command_name_with_spaces() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks(stat), Some(22));
    }

    #[test]
    fn this_process_has_a_cpu_time() {
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
