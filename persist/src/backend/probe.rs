//! Can glommio write in a directory? Glommio panics, prints or ends the process where it cannot, so
//! everything it takes for granted is looked at here first, with calls that answer.

use super::Obstacle;
use io_uring::{IoUring, opcode};
use rustix::fs::OFlags;
use rustix::process::{Resource, getrlimit};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Locked memory glommio insists on, in bytes, whatever the process may do otherwise: it looks at
/// the limit, not at `CAP_IPC_LOCK`.
const MEMLOCK: u64 = 512 << 10;

/// Blocks the log writes directly.
const BLOCK: usize = 4096;

/// The name of the file that is written and removed again. A log that opens removes what ends so.
const TRIAL: &str = "backend-probe.baking";

const ALLOW: &str = "Allow io_uring_setup, io_uring_enter and io_uring_register in the container's \
     seccomp profile (deploy/seccomp-io-uring.json does) and set sysctl kernel.io_uring_disabled=0.";
const NEWER_KERNEL: &str = "Use Linux 5.8 or newer.";

/// Finds out whether glommio can write in `root`, which exists.
///
/// # Errors
/// The first thing in its way.
pub fn probe(root: &Path) -> Result<(), Obstacle> {
    memlock(getrlimit(Resource::Memlock).current)?;
    ring()?;
    device(root)?;
    direct_io(root)
}

fn memlock(limit: Option<u64>) -> Result<(), Obstacle> {
    match limit {
        Some(limit) if limit < MEMLOCK => Err(Obstacle {
            reason: format!(
                "the limit on locked memory is {} KiB, glommio needs {} KiB",
                limit >> 10,
                MEMLOCK >> 10
            ),
            remedy: "Raise it: `ulimit -l 8192`, LimitMEMLOCK=8M in the systemd unit, or \
                     `--ulimit memlock=8388608` for a container."
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Sets up, asks and enters a ring, and sets up one that polls: glommio does all of that.
fn ring() -> Result<(), Obstacle> {
    let failed = |call| move |error| refused(call, &error);
    let ring = IoUring::new(8).map_err(failed("io_uring_setup"))?;
    let mut known = io_uring::Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(failed("io_uring_register"))?;
    for (name, code) in OPERATIONS {
        if !known.is_supported(code) {
            return Err(Obstacle {
                reason: format!("this kernel's io_uring does not know {name}"),
                remedy: NEWER_KERNEL.to_owned(),
            });
        }
    }
    // With nothing to submit: it does nothing, but it is the call.
    ring.submit().map_err(failed("io_uring_enter"))?;
    let polling: io::Result<IoUring> = IoUring::builder().setup_iopoll().build(8);
    polling
        .map(drop)
        .map_err(failed("io_uring_setup with IOPOLL"))
}

fn refused(call: &str, error: &io::Error) -> Obstacle {
    let (reason, remedy) = match error.kind() {
        ErrorKind::PermissionDenied => ("io_uring is forbidden", ALLOW),
        ErrorKind::Unsupported => ("the kernel has no io_uring", NEWER_KERNEL),
        ErrorKind::OutOfMemory => (
            "there is no memory for io_uring",
            "Raise the limit on locked memory (`ulimit -l 8192`) or the container's memory limit.",
        ),
        _ => ("io_uring does not work", ALLOW),
    };
    Obstacle {
        reason: format!("{reason} ({call}: {error})"),
        remedy: remedy.to_owned(),
    }
}

/// Glommio ends the process if one of these is missing, used or not.
const OPERATIONS: [(&str, u8); 23] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
];

/// Glommio reads the queue of the disk behind `root` from sysfs, as `MAJOR:0`, and panics over a file
/// it does not find or understand. No such device at all is fine with it.
fn device(root: &Path) -> Result<(), Obstacle> {
    let unreadable = |what: String| Obstacle {
        reason: format!("what glommio must know of the disk is not in sysfs: {what}"),
        remedy: "Mount sysfs readable, or put the data directory on a disk of its own.".to_owned(),
    };
    let number = root
        .metadata()
        .map_err(|error| unreadable(format!("{}: {error}", root.display())))?
        .dev();
    let link = format!("/sys/dev/block/{}:0", rustix::fs::major(number));
    let device = match Path::new(&link).canonicalize() {
        Ok(device) => device,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(format!("{link}: {error}"))),
    };
    let read = |name: &str| {
        let path = device.join("queue").join(name);
        std::fs::read_to_string(&path)
            .map(|text| text.trim_matches('\n').to_owned())
            .map_err(|error| unreadable(format!("{}: {error}", path.display())))
    };
    for name in [
        "rotational",
        "minimum_io_size",
        "optimal_io_size",
        "physical_block_size",
        "max_sectors_kb",
        "max_segment_size",
    ] {
        let text = read(name)?;
        if text.parse::<isize>().is_err() {
            return Err(unreadable(format!("{name} is {text:?}")));
        }
    }
    let logical = read("logical_block_size")?;
    if !logical
        .parse()
        .is_ok_and(|size: usize| size > 0 && BLOCK.is_multiple_of(size))
    {
        return Err(unreadable(format!(
            "logical_block_size is {logical:?}, no part of {BLOCK}"
        )));
    }
    let cache = read("write_cache")?;
    if !["write back", "write through"].contains(&cache.as_str()) {
        return Err(unreadable(format!("write_cache is {cache:?}")));
    }
    let slaves = device.join("slaves");
    std::fs::read_dir(&slaves)
        .and_then(|mut entries| entries.try_for_each(|entry| entry.map(drop)))
        .map_err(|error| unreadable(format!("{}: {error}", slaves.display())))
}

/// Memory where direct writes may begin.
#[repr(align(4096))]
struct Aligned([u8; BLOCK]);

/// Writes one block past the page cache, opened as the backend opens files.
fn direct_io(root: &Path) -> Result<(), Obstacle> {
    let path = root.join(TRIAL);
    let write = || {
        let plain = File::create(&path)?;
        let mut direct = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", plain.as_raw_fd()))?;
        direct.write_all(&Aligned([0; BLOCK]).0)
    };
    let written = write();
    // Not there if it could not be made; and whatever stays behind, the log removes when it opens.
    let _removed = std::fs::remove_file(&path);
    written.map_err(|error| Obstacle {
        reason: format!("{} takes no O_DIRECT writes: {error}", root.display()),
        remedy: "Put the data directory on a local file system such as ext4 or xfs, with /proc \
                 mounted."
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_locked_memory_is_512_kib() {
        assert!(memlock(None).is_ok());
        assert!(memlock(Some(524_288)).is_ok());
        let obstacle = memlock(Some(65_536)).unwrap_err();
        assert!(obstacle.reason.contains("64 KiB"), "{obstacle}");
        assert!(obstacle.remedy.contains("ulimit -l"), "{obstacle}");
    }

    #[test]
    fn a_forbidden_call_names_the_seccomp_profile_and_a_missing_one_the_kernel() {
        let refused = |code| refused("io_uring_setup", &io::Error::from_raw_os_error(code));
        let forbidden = refused(1);
        assert!(forbidden.reason.contains("forbidden"), "{forbidden}");
        assert!(forbidden.remedy.contains("seccomp"), "{forbidden}");
        let missing = refused(38);
        assert!(missing.reason.contains("no io_uring"), "{missing}");
        assert!(missing.remedy.contains("Linux 5.8"), "{missing}");
    }

    #[test]
    fn a_file_system_without_direct_writes_is_named() {
        // Nothing can be made in /proc.
        let obstacle = direct_io(Path::new("/proc/self")).unwrap_err();
        assert!(obstacle.reason.contains("/proc/self"), "{obstacle}");
    }
}
