//! What the process takes of the machine, as the kernel says.

/// Figures of this process; absent where the kernel does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Memory in use, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// How many it may have.
    pub max_fds: Option<u64>,
}

impl Process {
    /// At this moment.
    #[must_use]
    pub fn now() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        let status = read("status").unwrap_or_default();
        let kib = number(&status, "VmRSS:", 0);
        let limits = read("limits").unwrap_or_default();
        let fds = std::fs::read_dir("/proc/self/fd").ok();
        Self {
            resident_bytes: kib.map(|kib| kib * 1024),
            // The directory itself is open while it is read.
            open_fds: fds.map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: number(&limits, "Max open files", 0),
        }
    }
}

/// The `nth` word behind a name at the beginning of a line.
fn number(text: &str, name: &str, nth: usize) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().nth(nth)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_takes() {
        let process = Process::now();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(process.open_fds.is_some_and(|fds| fds > 2));
        assert!(process.max_fds >= process.open_fds);
    }
}
