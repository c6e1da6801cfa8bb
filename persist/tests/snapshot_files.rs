//! Snapshot files: whole or not seen.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

use persist::disk::{Disk, MemoryDisk};
use persist::snapshot::{HEADER_LEN, newest, write};
use persist::{Error, LogId, Lsn};

const LOG: LogId = LogId(5);

fn flip(disk: &MemoryDisk, name: &str, at: u64) {
    let mut file = disk.open(name).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    byte[0] ^= 4;
    file.write_at(at, &byte).unwrap();
}

#[test]
fn the_newest_snapshot_comes_back_and_older_ones_go() {
    let disk = MemoryDisk::default();
    assert!(newest(&disk).unwrap().0.is_none());
    for lsn in [3, 10, 200] {
        write(&disk, LOG, Lsn(lsn), format!("state {lsn}").as_bytes()).unwrap();
    }
    let (found, damaged) = newest(&disk).unwrap();
    let found = found.unwrap();
    assert_eq!(
        (found.lsn, found.log, found.payload()),
        (Lsn(200), LOG, &b"state 200"[..])
    );
    assert!(damaged.is_empty());
    assert_eq!(disk.list().unwrap().len(), 2);
}

#[test]
fn a_damaged_snapshot_is_named_and_the_one_before_it_is_used_whatever_byte_is_wrong() {
    let name = "00000000000000c8.snap";
    for at in 0..HEADER_LEN as u64 + 9 {
        let disk = MemoryDisk::default();
        write(&disk, LOG, Lsn(10), b"state 10").unwrap();
        write(&disk, LOG, Lsn(200), b"state 200").unwrap();
        flip(&disk, name, at);
        let (found, damaged) = newest(&disk).unwrap();
        assert_eq!(found.unwrap().lsn, Lsn(10), "byte {at}");
        assert!(damaged[0].contains(name), "byte {at}: {damaged:?}");
    }
}

#[test]
fn a_snapshot_that_was_being_written_is_not_seen_and_written_again() {
    let disk = MemoryDisk::default();
    disk.create("000000000000000a.snap.baking")
        .unwrap()
        .write_at(0, b"half")
        .unwrap();
    assert!(newest(&disk).unwrap().0.is_none());
    write(&disk, LOG, Lsn(10), b"whole").unwrap();
    assert_eq!(newest(&disk).unwrap().0.unwrap().payload(), b"whole");
}

#[test]
fn a_snapshot_of_a_newer_version_is_refused_with_the_version_to_use() {
    let disk = MemoryDisk::default();
    write(&disk, LOG, Lsn(10), b"state").unwrap();
    let mut file = disk.open("000000000000000a.snap").unwrap();
    let mut bytes = persist::disk::read_all(file.as_ref()).unwrap();
    bytes[8] = 9;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[8..12]);
    hasher.update(&bytes[16..]);
    bytes[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    file.write_at(0, &bytes).unwrap();
    assert!(matches!(
        newest(&disk),
        Err(Error::Version {
            found: 9,
            known: 1,
            ..
        })
    ));
}
