//! Snapshots of several parts: whole or not used, the older one as a fall-back, and no file that
//! nobody lists.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, FaultyDisk};
use persist::snapshot::{Damage, Found, Manifest, Store};
use persist::{Error, LogId, Lsn};
use std::sync::Arc;
use support::LOG;

const DIRECTORY: u8 = 1;
const EVENTS: u8 = 2;

fn store(disk: &FaultyDisk) -> Store {
    Store::open(Arc::new(disk.clone()))
}

fn payload(lsn: u64) -> Vec<u8> {
    (0..lsn * 3).map(|n| (n * lsn % 251) as u8).collect()
}

/// A snapshot of two parts.
fn write(store: &Store, lsn: u64) -> Manifest {
    let mut draft = store.begin(LOG, Lsn(lsn)).unwrap();
    draft.put(DIRECTORY, 0, &payload(lsn)).unwrap();
    draft.put(EVENTS, 77, b"events").unwrap();
    draft.finish().unwrap()
}

/// What a start would make of it: the LSN, after comparing everything that was read.
fn load(store: &Store) -> persist::Result<(Option<u64>, Vec<Damage>)> {
    let loaded = store.load(|found: &Found| {
        let lsn = found.manifest.lsn.0;
        assert_eq!(found.manifest.log, LOG);
        let [directory, events] = &found.manifest.parts[..] else {
            panic!("two parts were written: {:?}", found.manifest);
        };
        assert_eq!((directory.kind, directory.tag), (DIRECTORY, 0));
        assert_eq!((events.kind, events.tag), (EVENTS, 77));
        assert_eq!(
            found.read(directory)?,
            payload(lsn),
            "never a silent difference"
        );
        assert_eq!(found.read(events)?, b"events");
        Ok::<_, Error>(lsn)
    })?;
    Ok((loaded.built.map(|(_, lsn)| lsn), loaded.damaged))
}

#[test]
fn the_newest_comes_back_and_only_two_are_kept() {
    let disk = FaultyDisk::default();
    let store = store(&disk);
    assert_eq!(load(&store).unwrap(), (None, vec![]));
    assert_eq!(store.floor().unwrap(), None);
    write(&store, 3);
    assert_eq!(store.floor().unwrap(), None, "one is no fall-back");
    for lsn in [10, 200, 201] {
        write(&store, lsn);
    }
    assert_eq!(load(&store).unwrap(), (Some(201), vec![]));
    assert_eq!(
        store.newest().unwrap().found.unwrap().manifest.lsn,
        Lsn(201)
    );
    assert_eq!(store.floor().unwrap(), Some(Lsn(200)));
    assert_eq!(disk.list().unwrap().len(), 6, "two manifests, four parts");
}

#[test]
fn a_part_that_did_not_change_is_listed_again_and_lives_as_long_as_it_is_listed() {
    let disk = FaultyDisk::default();
    let store = store(&disk);
    let sealed = write(&store, 5).parts[1];
    for lsn in [6, 7, 8] {
        let mut draft = store.begin(LOG, Lsn(lsn)).unwrap();
        draft.put(DIRECTORY, 0, &payload(lsn)).unwrap();
        assert!(draft.keep(&sealed).unwrap());
        draft.finish().unwrap();
    }
    assert_eq!(load(&store).unwrap(), (Some(8), vec![]));
    write(&store, 9);
    write(&store, 10);
    assert!(!disk.list().unwrap().contains(&sealed.name()));
    let mut draft = store.begin(LOG, Lsn(11)).unwrap();
    assert!(!draft.keep(&sealed).unwrap(), "it has to be put anew");
}

#[test]
fn any_flipped_bit_makes_the_older_snapshot_take_its_place_and_is_told() {
    let disk = FaultyDisk::default();
    write(&store(&disk), 20);
    let newest = write(&store(&disk), 40);
    let mut files: Vec<(String, u64)> = Vec::new();
    for name in disk.list().unwrap() {
        let of_newest = newest.parts.iter().any(|part| part.name() == name);
        if of_newest || name == "manifest.1" {
            let len = disk.open(&name).unwrap().len().unwrap();
            files.push((name, len));
        }
    }
    assert_eq!(files.len(), 3, "{files:?}");
    for (name, len) in files {
        for at in 0..len as usize {
            let bit = (at * 5 % 8) as u8;
            disk.flip(&name, at, bit);
            let store = store(&disk);
            let (lsn, damaged) = load(&store).unwrap();
            assert_eq!(lsn, Some(20), "{name} byte {at}");
            assert_eq!(damaged.len(), 1, "{name} byte {at}: {damaged:?}");
            assert!(damaged[0].file.contains(&name), "{damaged:?}");
            assert_eq!(store.floor().unwrap(), None, "the log stands in for it");
            assert_eq!(store.newest().unwrap().damaged, damaged, "said again");
            disk.flip(&name, at, bit);
        }
    }
    assert_eq!(load(&store(&disk)).unwrap(), (Some(40), vec![]));
}

#[test]
fn a_part_that_is_gone_cut_or_another_is_noticed() {
    for change in 0..3 {
        let disk = FaultyDisk::default();
        let store = store(&disk);
        let old = write(&store, 20);
        let new = write(&store, 40);
        let name = new.parts[0].name();
        match change {
            0 => disk.remove(&name).unwrap(),
            1 => {
                let mut longer = disk.open(&name).unwrap();
                let len = longer.len().unwrap();
                longer.write_at(len, &[0]).unwrap();
            }
            _ => disk.rename(&old.parts[0].name(), &name).unwrap(),
        }
        let (lsn, damaged) = load(&store).unwrap();
        if change == 2 {
            assert_eq!((lsn, damaged.len()), (None, 2), "{damaged:?}");
        } else {
            assert_eq!((lsn, damaged.len()), (Some(20), 1), "{damaged:?}");
        }
    }
}

#[test]
fn the_next_snapshot_replaces_the_damaged_one_and_never_the_good_one() {
    for damaged in 0..2 {
        let disk = FaultyDisk::default();
        let both = [write(&store(&disk), 20), write(&store(&disk), 40)];
        disk.flip(&both[damaged].parts[0].name(), 70, 1);
        let store = store(&disk);
        store.newest().unwrap();
        if damaged == 0 {
            // Nobody has read the older one: it is replaced because it is older.
            assert_eq!(load(&store).unwrap(), (Some(40), vec![]));
        }
        write(&store, 60);
        let good = if damaged == 0 { 40 } else { 20 };
        assert_eq!(store.floor().unwrap(), Some(Lsn(good)));
        assert_eq!(load(&store).unwrap(), (Some(60), vec![]));
    }
}

#[test]
fn with_no_usable_snapshot_that_is_said_and_nothing_is_loaded() {
    let disk = FaultyDisk::default();
    write(&store(&disk), 20);
    write(&store(&disk), 40);
    disk.flip("manifest.0", 33, 0);
    disk.flip("manifest.1", 33, 0);
    let store = store(&disk);
    let (lsn, damaged) = load(&store).unwrap();
    assert_eq!((lsn, damaged.len()), (None, 2));
    assert!(
        damaged[0]
            .to_string()
            .contains("manifest.0 has a wrong checksum")
    );
    write(&store, 60);
    assert_eq!(load(&store).unwrap().0, Some(60), "the next one is fine");
}

#[test]
fn a_snapshot_left_unfinished_is_not_seen_and_its_files_go_with_the_next() {
    let disk = FaultyDisk::default();
    let store = store(&disk);
    write(&store, 20);
    let mut draft = store.begin(LOG, Lsn(30)).unwrap();
    draft.put(DIRECTORY, 0, &[1; 5000]).unwrap();
    drop(draft);
    disk.create("0000000000000009-00000000.part.baking")
        .unwrap();
    assert_eq!(load(&store).unwrap(), (Some(20), vec![]));
    write(&store, 40);
    assert_eq!(disk.list().unwrap().len(), 6, "{:?}", disk.list());
    assert_eq!(load(&store).unwrap(), (Some(40), vec![]));
}

#[test]
fn a_newer_version_is_refused_and_another_logs_snapshot_says_whose_it_is() {
    for file in ["manifest.0", "0000000000000001-00000000.part"] {
        let disk = FaultyDisk::default();
        write(&store(&disk), 20);
        let mut opened = disk.open(file).unwrap();
        let mut bytes = persist::disk::read_all(opened.as_ref()).unwrap();
        bytes[8] = 9;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[8..12]);
        hasher.update(&bytes[16..]);
        let crc = hasher.finalize().to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
        opened.write_at(0, &bytes).unwrap();
        if file.starts_with("manifest") {
            let error = store(&disk).newest().unwrap_err();
            assert!(matches!(error, Error::Version { found: 9, .. }), "{error}");
        } else {
            // Its manifest is of this version and speaks of another checksum: that is damage.
            assert_eq!(load(&store(&disk)).unwrap().1.len(), 1);
        }
    }
    let disk = FaultyDisk::default();
    let draft = store(&disk);
    draft.begin(LogId(5), Lsn(1)).unwrap().finish().unwrap();
    let found = store(&disk).newest().unwrap().found.unwrap();
    assert_eq!(found.manifest.log, LogId(5));
}

#[test]
fn a_full_disk_costs_the_snapshot_and_nothing_else() {
    let disk = FaultyDisk::default();
    let store = store(&disk);
    write(&store, 20);
    write(&store, 40);
    disk.set_full(true);
    let mut draft = store.begin(LOG, Lsn(50)).unwrap();
    let error = draft.put(DIRECTORY, 0, &payload(50)).unwrap_err();
    assert!(error.is_full(), "{error}");
    drop(draft);
    assert_eq!(load(&store).unwrap(), (Some(40), vec![]));
    disk.set_full(false);
    write(&store, 60);
    assert_eq!(load(&store).unwrap(), (Some(60), vec![]));
    assert_eq!(disk.list().unwrap().len(), 6, "{:?}", disk.list());
}
