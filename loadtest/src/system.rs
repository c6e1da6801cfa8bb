//! The system calls that std has no safe wrapper for: the limit on open files (a thousand connections need more than
//! the usual 1,024), and signals other than SIGKILL.

/// Raises the soft limit on open files as far as the hard limit allows and returns the limit now in force.
/// Children inherit it, so the gateway started afterwards can hold as many connections as the harness opens.
#[expect(
    unsafe_code,
    reason = "getrlimit and setrlimit have no safe wrapper in std"
)]
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable rlimit for the duration of the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let raised = libc::rlimit {
        rlim_cur: limit.rlim_max,
        ..limit
    };
    // SAFETY: `raised` is a valid rlimit; the kernel only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    limit.rlim_cur
}

/// Asks process `pid` to end (SIGTERM). Only ever called with the id of a child that was not yet waited for.
pub(crate) fn send_sigterm(pid: u32) -> std::io::Result<()> {
    signal(pid, libc::SIGTERM)
}

/// Interrupts process `pid` (SIGINT), as a terminal would. Same condition as [`send_sigterm`].
pub(crate) fn send_sigint(pid: u32) -> std::io::Result<()> {
    signal(pid, libc::SIGINT)
}

#[expect(unsafe_code, reason = "std can only send SIGKILL")]
fn signal(pid: u32, signal: libc::c_int) -> std::io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(std::io::Error::other)?;
    // SAFETY: kill takes plain integers and touches no memory of ours; `pid` is positive, so no group is meant.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
