//! The lost-pages shim against small programs: what is in the shadow afterwards is what a power cut would have left.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failed unwrap is a failed test with a line number"
)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nullrun_loadtest::shim::{Mount, Shim};
use tempfile::TempDir;

/// A Python program running in the data directory of a mount, with short names for the system calls.
fn program(mount: &Mount, body: &str) -> Child {
    let prelude = "
import os, sys, errno
from os import *
def make(name, text=b'', flags=O_RDWR | O_CREAT):
    fd = open(name, flags, 0o644)
    write(fd, text)
    return fd
def sync_dir(name='.'):
    fd = open(name, O_RDONLY | O_DIRECTORY)
    fsync(fd)
    close(fd)
def fails_with(code, call, *args):
    try:
        call(*args)
    except OSError as error:
        assert error.errno == code, error
    else:
        sys.exit('did not fail')
";
    Command::new("python3")
        .args(["-c", &format!("{prelude}{body}")])
        .current_dir(mount.data_dir())
        .envs(mount.environment())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed to test the shim")
}

/// Runs a program to its end and returns the mount on what a power cut then leaves.
fn after(mount: Mount, body: &str) -> Mount {
    let status = program(&mount, body).wait().unwrap();
    assert!(status.success(), "{status}");
    mount.after_power_cut().unwrap()
}

fn mount(home: &TempDir) -> Mount {
    Shim::compile().unwrap().mount(home.path(), 0).unwrap()
}

/// Names and contents below a directory, sorted.
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            all.push((format!("{name}/"), Vec::new()));
            all.extend(
                tree(&entry.path())
                    .into_iter()
                    .map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)),
            );
        } else {
            all.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    all.sort();
    all
}

fn expect(mount: &Mount, expected: &[(&str, &[u8])]) {
    let expected: Vec<(String, Vec<u8>)> = expected
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
        .collect();
    assert_eq!(tree(mount.data_dir()), expected);
}

#[test]
fn unsynced_bytes_are_lost_and_synced_ones_are_kept() {
    let home = TempDir::new().unwrap();
    let left = after(
        mount(&home),
        "
fd = make('log', b'one ')
fdatasync(fd)
sync_dir()
write(fd, b'two ')
fdatasync(fd)
write(fd, b'three')
pwrite(fd, b'X', 0)
",
    );
    expect(&left, &[("log", b"one two ")]);
}

#[test]
fn every_way_of_writing_is_covered_by_the_next_sync() {
    let home = TempDir::new().unwrap();
    let left = after(
        mount(&home),
        "
fd = make('log', b'....................')
writev(fd, [b'ab', b'cd'])
pwritev(fd, [b'12', b'34'], 0)
pwrite(dup(fd), b'Z', 4)
other = open('log', O_WRONLY | O_APPEND)
write(other, b'end')
fsync(other)
sync_dir()
",
    );
    expect(&left, &[("log", b"1234Z...............abcdend")]);
}

#[test]
fn a_synced_file_without_a_synced_name_is_lost() {
    let home = TempDir::new().unwrap();
    let left = after(mount(&home), "fsync(make('log', b'bytes'))");
    expect(&left, &[]);
}

#[test]
fn a_synced_name_without_synced_bytes_is_an_empty_file() {
    let home = TempDir::new().unwrap();
    let left = after(mount(&home), "make('log', b'bytes'); sync_dir()");
    expect(&left, &[("log", b"")]);
}

#[test]
fn a_rename_shows_only_after_the_directory_is_synced() {
    let home = TempDir::new().unwrap();
    let start = "
fd = make('old', b'old')
fsync(fd)
sync_dir()
new = make('new', b'new')
fsync(new)
rename('new', 'old')
";
    let left = after(mount(&home), start);
    expect(&left, &[("old", b"old")]);
    let home = TempDir::new().unwrap();
    let left = after(
        mount(&home),
        &format!("{start}sync_dir()\nwrite(new, b'er')\nfsync(new)"),
    );
    expect(&left, &[("old", b"newer")]);
}

#[test]
fn an_unlink_shows_only_after_the_directory_is_synced() {
    let home = TempDir::new().unwrap();
    let start = "
for name in 'ab':
    fsync(make(name, b'x'))
sync_dir()
unlink('a')
";
    let left = after(mount(&home), start);
    expect(&left, &[("a", b"x"), ("b", b"x")]);
    let left = after(left, "unlink('a'); sync_dir()");
    expect(&left, &[("b", b"x")]);
}

#[test]
fn a_new_directory_needs_its_own_sync_and_its_parents() {
    let body = "
mkdir('sub')
fsync(make('sub/log', b'x'))
";
    for (syncs, expected) in [
        ("", &[][..]),
        ("sync_dir('sub')", &[]),
        ("sync_dir()", &[("sub/", &b""[..])]),
        (
            "sync_dir('sub'); sync_dir()",
            &[("sub/", b""), ("sub/log", b"x")],
        ),
        (
            "sync_dir(); sync_dir('sub')",
            &[("sub/", b""), ("sub/log", b"x")],
        ),
    ] {
        let home = TempDir::new().unwrap();
        let left = after(mount(&home), &format!("{body}{syncs}"));
        expect(&left, expected);
    }
}

#[test]
fn truncation_and_preallocation_are_volatile_too() {
    let home = TempDir::new().unwrap();
    let start = "
fd = make('log', b'0123456789')
fsync(fd)
sync_dir()
ftruncate(fd, 4)
posix_fallocate(fd, 0, 8)
";
    let left = after(mount(&home), start);
    expect(&left, &[("log", b"0123456789")]);
    let left = after(left, &format!("{start}fdatasync(fd)"));
    expect(&left, &[("log", b"0123\0\0\0\0")]);
    let left = after(
        left,
        "fd = open('log', O_RDWR | O_TRUNC); write(fd, b'z'); fsync(fd)",
    );
    expect(&left, &[("log", b"z")]);
}

#[test]
fn synchronous_writes_need_no_sync() {
    let home = TempDir::new().unwrap();
    let left = after(
        mount(&home),
        "
fd = make('log', b'kept', O_RDWR | O_CREAT | O_DSYNC)
sync_dir()
other = open('log', O_WRONLY | O_APPEND)
write(other, b' lost')
",
    );
    expect(&left, &[("log", b"kept")]);
}

#[test]
fn what_was_there_before_is_durable_and_a_recreated_file_starts_empty() {
    let home = TempDir::new().unwrap();
    let mount = mount(&home);
    fs::create_dir(mount.data_dir().join("sub")).unwrap();
    fs::write(mount.data_dir().join("sub/old"), "before").unwrap();
    let left = after(
        mount,
        "
unlink('sub/old')
fd = make('sub/old', b'after')
sync_dir('sub')
",
    );
    expect(&left, &[("sub/", b""), ("sub/old", b"")]);
}

#[test]
fn large_scattered_writes_arrive_whole() {
    let home = TempDir::new().unwrap();
    let left = after(
        mount(&home),
        "
fd = make('log')
posix_fallocate(fd, 0, 3 << 20)
for n in range(300):
    pwrite(fd, bytes([n % 251 + 1]) * 5000, n * 10007)
fdatasync(fd)
sync_dir()
",
    );
    let bytes = fs::read(left.data_dir().join("log")).unwrap();
    assert_eq!(bytes.len(), 3 << 20);
    for n in 0..300_usize {
        let start = n * 10_007;
        let value = u8::try_from(n % 251 + 1).unwrap();
        assert!(
            bytes[start..start + 5_000]
                .iter()
                .all(|byte| *byte == value),
            "write {n}"
        );
        assert!(
            bytes[start + 5_000..start + 10_007]
                .iter()
                .all(|byte| *byte == 0),
            "gap {n}"
        );
    }
}

#[test]
fn a_failed_sync_loses_its_bytes_for_good() {
    let home = TempDir::new().unwrap();
    let mount = mount(&home);
    mount.fail_syncs(true).unwrap();
    let switch = mount
        .environment()
        .into_iter()
        .find(|(name, _)| *name == "LOSTPAGES_FAIL_SYNC")
        .unwrap()
        .1;
    let left = after(
        mount,
        &format!(
            "
fd = make('log', b'lost')
fails_with(errno.EIO, fdatasync, fd)
unlink('{}')
fdatasync(fd)
sync_dir()
write(fd, b'kept')
fdatasync(fd)
",
            switch.display()
        ),
    );
    expect(&left, &[("log", b"\0\0\0\0kept")]);
}

#[test]
fn a_full_disk_lets_no_file_grow_or_begin_and_what_is_there_be_written_over() {
    let home = TempDir::new().unwrap();
    let mount = mount(&home);
    assert!(
        program(&mount, "fd = make('log', b'yyyy'); fsync(fd); sync_dir()")
            .wait()
            .unwrap()
            .success()
    );
    mount.fill(true).unwrap();
    let outside = home.path().join("outside");
    let body = format!(
        "
fd = open('log', O_RDWR)
pwrite(fd, b'x', 3)
lseek(fd, 1, 0)
write(fd, b'x')
fails_with(errno.ENOSPC, pwrite, fd, b'xx', 3)
fails_with(errno.ENOSPC, writev, fd, [b'x', b'xx'])
fails_with(errno.ENOSPC, posix_fallocate, fd, 0, 10)
fails_with(errno.ENOSPC, open, 'new', O_RDWR | O_CREAT)
fails_with(errno.ENOSPC, mkdir, 'directory')
fsync(fd)
make('{}', b'elsewhere is fine')
",
        outside.display()
    );
    assert!(program(&mount, &body).wait().unwrap().success());
    mount.fill(false).unwrap();
    let left = after(mount, "fd = make('new', b'z'); fsync(fd); sync_dir()");
    expect(&left, &[("log", b"yxyx"), ("new", b"z")]);
}

#[test]
fn a_hung_sync_returns_when_the_hang_ends_and_covers_nothing_before() {
    let home = TempDir::new().unwrap();
    let mount = mount(&home);
    mount.hang_syncs(true).unwrap();
    let body = "
fd = make('log', b'x')
print('syncing', flush=True)
fdatasync(fd)
sync_dir()
";
    let mut hung = program(&mount, body);
    wait_for_output(&mut hung);
    std::thread::sleep(Duration::from_millis(100));
    assert!(hung.try_wait().unwrap().is_none(), "the sync must hang");
    assert!(tree(&mount.shadow_dir()).is_empty());
    mount.hang_syncs(false).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while hung.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the sync must go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        tree(&mount.shadow_dir()),
        [("log".to_owned(), b"x".to_vec())]
    );
}

fn wait_for_output(child: &mut Child) {
    use std::io::Read;
    let mut first = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
}
