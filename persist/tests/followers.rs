//! Followers: the same records as recovery reads, each once, whatever happens around them; and
//! nothing is trimmed that one of them needs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, FaultyDisk, MemoryDisk};
use persist::follow::{Followers, Reader};
use persist::log::Options;
use persist::snapshot::Store;
use persist::{Error, LogId, Lsn, reader, retain, segment};
use std::sync::Arc;
use support::LOG;
use support::opaque::{Dice, append, bytes_of, open_behind};

fn options(segment_bytes: u64) -> Options {
    Options {
        segment_bytes,
        quota_bytes: None,
    }
}

fn memory() -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::default())
}

/// Everything recovery reads up to `until`.
fn recovered(disk: &Arc<dyn Disk>, until: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let mut records = Vec::new();
    reader::read(disk.as_ref(), Lsn::ZERO, until, &mut |lsn, bytes| {
        records.push((lsn, bytes.to_vec()));
        Ok(())
    })
    .unwrap();
    records
}

#[test]
fn a_follower_reads_what_recovery_reads_however_it_is_interleaved() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let disk = memory();
        let options = options([5 << 10, 9 << 10, 40 << 10, 2 << 20][(seed % 4) as usize]);
        let (mut writer, _) = open_behind(&disk, options, Lsn::ZERO).unwrap();
        let mut durable = Lsn::ZERO;
        let mut followed = Vec::new();
        let mut follower = Reader::new(Arc::clone(&disk), Lsn::ZERO);
        for _ in 0..150 {
            match dice.below(4) {
                0 | 1 => durable = append(&mut writer, 1 + dice.below(40)).unwrap(),
                2 => drop(writer.prepare().unwrap()),
                _ => {
                    // Often in the middle of a frame, sometimes nothing new.
                    let until = Lsn(dice.below(durable.0 + 1));
                    let before = followed.len() as u64;
                    let count = follower
                        .read(until, &mut |lsn, bytes| {
                            followed.push((lsn, bytes.to_vec()));
                            Ok(())
                        })
                        .unwrap();
                    assert_eq!(followed.len() as u64, before + count, "{seed}");
                    assert_eq!(
                        followed.len() as u64,
                        before.max(until.0),
                        "{seed}: exactly"
                    );
                    assert_eq!(follower.next_lsn().0, followed.len() as u64 + 1);
                    if dice.below(8) == 0 {
                        // A restart of the follower.
                        let after = Lsn(followed.len() as u64);
                        follower = Reader::new(Arc::clone(&disk), after);
                    }
                }
            }
        }
        let mut rest = Vec::new();
        follower
            .read(durable, &mut |lsn, bytes| {
                rest.push((lsn, bytes.to_vec()));
                Ok(())
            })
            .unwrap();
        followed.append(&mut rest);
        assert!(followed == recovered(&disk, durable), "seed {seed}");
    }
}

#[test]
fn a_record_whose_visit_fails_is_visited_again() {
    let disk = memory();
    let (mut writer, _) = open_behind(&disk, options(1 << 20), Lsn::ZERO).unwrap();
    append(&mut writer, 10).unwrap();
    let mut follower = Reader::new(Arc::clone(&disk), Lsn::ZERO);
    let refused = follower.read(Lsn(10), &mut |lsn, _| match lsn {
        Lsn(4) => Err(Error::Poisoned("not now".to_owned())),
        _ => Ok(()),
    });
    assert!(refused.is_err());
    assert_eq!(follower.next_lsn(), Lsn(4));
    let mut seen = Vec::new();
    let visit = &mut |lsn: Lsn, _: &[u8]| {
        seen.push(lsn.0);
        Ok(())
    };
    assert_eq!(follower.read(Lsn(10), visit).unwrap(), 7);
    assert_eq!(seen, (4..=10).collect::<Vec<_>>());
}

/// A log of many segments with ten records in each frame.
fn many_segments() -> (Arc<dyn Disk>, Lsn) {
    let disk = memory();
    let (mut writer, _) = open_behind(&disk, options(5 << 10), Lsn::ZERO).unwrap();
    let mut last = Lsn::ZERO;
    for _ in 0..30 {
        last = append(&mut writer, 10).unwrap();
    }
    assert!(segment::list(disk.as_ref()).unwrap().len() > 8);
    (disk, last)
}

#[test]
fn segments_may_go_behind_a_follower_and_one_that_comes_too_late_is_told_where_to_begin() {
    let (disk, last) = many_segments();
    let mut follower = Reader::new(Arc::clone(&disk), Lsn::ZERO);
    follower.read(Lsn(105), &mut |_, _| Ok(())).unwrap();
    let mut late = Reader::new(Arc::clone(&disk), Lsn::ZERO);
    late.read(Lsn(25), &mut |_, _| Ok(())).unwrap();

    assert!(retain::trim(disk.as_ref(), Lsn(105)).unwrap() > 0);
    let mut seen = 105;
    let visit = &mut |lsn: Lsn, bytes: &[u8]| {
        seen += 1;
        assert_eq!((lsn, bytes), (Lsn(seen), &bytes_of(seen)[..]));
        Ok(())
    };
    follower.read(last, visit).unwrap();
    assert_eq!(seen, last.0);

    let number = segment::list(disk.as_ref()).unwrap()[0];
    let begins = segment::first_lsn(disk.as_ref(), number).unwrap().unwrap();
    for mut late in [late, Reader::new(Arc::clone(&disk), Lsn(3))] {
        let error = late.read(last, &mut |_, _| Ok(())).unwrap_err();
        let Error::FellBehind { begins: from, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(from, begins);
        assert!(
            error.to_string().contains("register it again at LSN"),
            "{error}"
        );
    }
}

#[test]
fn trimming_takes_only_what_lies_at_or_before_the_floor_and_never_the_last_segment() {
    for floor in (0..=300).step_by(7).chain([10_000]) {
        let (disk, last) = many_segments();
        let before = retain::disk_bytes(disk.as_ref()).unwrap();
        let freed = retain::trim(disk.as_ref(), Lsn(floor)).unwrap();
        assert_eq!(retain::disk_bytes(disk.as_ref()).unwrap(), before - freed);
        let numbers = segment::list(disk.as_ref()).unwrap();
        let begins = segment::first_lsn(disk.as_ref(), numbers[0])
            .unwrap()
            .unwrap();
        assert!(begins.0 <= floor + 1, "floor {floor}: begins at {begins}");
        if let Some(second) = numbers.get(1) {
            let second = segment::first_lsn(disk.as_ref(), *second).unwrap().unwrap();
            assert!(second.0 > floor + 1, "floor {floor}: one more could go");
        }
        let from = Lsn(floor.min(last.0));
        open_behind(&disk, options(5 << 10), from).unwrap();
        if begins > Lsn(1) {
            let error = open_behind(&disk, options(5 << 10), Lsn::ZERO).unwrap_err();
            assert!(matches!(error, Error::Gone { .. }), "{error}");
            assert!(error.to_string().contains("Restore the data directory"));
        }
    }
}

#[test]
fn nothing_is_trimmed_that_the_slowest_follower_or_the_older_snapshot_needs() {
    let (wal, _) = many_segments();
    let store = Store::open(memory());
    let followers = Followers::open(memory(), LOG).unwrap();
    let floor = || retain::floor(&store, &followers).unwrap();
    assert_eq!(floor(), None);
    store.begin(LOG, Lsn(100)).unwrap().finish().unwrap();
    assert_eq!(floor(), None, "one snapshot is not enough");
    store.begin(LOG, Lsn(200)).unwrap().finish().unwrap();
    assert_eq!(floor(), Some(Lsn(100)));
    let fast = followers.register("fast", Lsn(290)).unwrap();
    assert_eq!(floor(), Some(Lsn(100)));
    let slow = followers.register("slow", Lsn::ZERO).unwrap();
    assert_eq!(floor(), Some(Lsn::ZERO));
    slow.save(Lsn(40)).unwrap();
    assert_eq!(
        (floor(), followers.low_water()),
        (Some(Lsn(40)), Some(Lsn(40)))
    );
    retain::trim(wal.as_ref(), floor().unwrap()).unwrap();
    let mut reader = slow.reader(Arc::clone(&wal));
    assert_eq!(reader.read(Lsn(300), &mut |_, _| Ok(())).unwrap(), 260);
    assert!(followers.unregister("slow").unwrap());
    assert!(!followers.unregister("slow").unwrap());
    assert_eq!(floor(), Some(Lsn(100)));
    slow.save(Lsn(50)).unwrap();
    assert_eq!(slow.cursor(), Lsn::ZERO, "it does not come back by itself");
    drop(fast);
    assert_eq!(
        followers.low_water(),
        Some(Lsn(290)),
        "a name holds, not a handle"
    );
}

#[test]
fn cursors_survive_and_never_go_back() {
    let disk = FaultyDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let followers = Followers::open(Arc::clone(&shared), LOG).unwrap();
    let follower = followers.register("history", Lsn(3)).unwrap();
    follower.save(Lsn(9)).unwrap();
    follower.save(Lsn(4)).unwrap();
    disk.crash(|| false);
    let followers = Followers::open(Arc::clone(&shared), LOG).unwrap();
    assert_eq!(followers.low_water(), Some(Lsn(9)));
    let again = followers.register("history", Lsn::ZERO).unwrap();
    assert_eq!((again.cursor(), again.name()), (Lsn(9), "history"));
    for name in ["", "../x", "History", "a.b", &"x".repeat(65)] {
        let error = followers.register(name, Lsn::ZERO).unwrap_err();
        assert!(matches!(error, Error::FollowerName { .. }), "{error}");
    }
    let error = Followers::open(shared, LogId(9)).unwrap_err();
    assert!(error.to_string().contains("another log"), "{error}");
}

#[test]
fn a_flipped_bit_anywhere_in_a_cursor_is_refused() {
    let disk = FaultyDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let followers = Followers::open(Arc::clone(&shared), LOG).unwrap();
    followers.register("history", Lsn(3)).unwrap();
    for at in 0..40 {
        disk.flip("history.cursor", at, 2);
        let error = Followers::open(Arc::clone(&shared), LOG).unwrap_err();
        assert!(
            error.to_string().contains("Remove the file"),
            "{at}: {error}"
        );
        disk.flip("history.cursor", at, 2);
    }
    Followers::open(shared, LOG).unwrap();
}

#[test]
fn a_durable_record_that_cannot_be_read_is_damage_and_not_the_end() {
    let (disk, last) = many_segments();
    let name = segment::name(3);
    let mut file = disk.open(&name).unwrap();
    file.write_at(segment::FIRST_FRAME + 40, &[0xee]).unwrap();
    let mut follower = Reader::new(Arc::clone(&disk), Lsn::ZERO);
    let error = follower.read(last, &mut |_, _| Ok(())).unwrap_err();
    assert!(
        matches!(&error, Error::Damaged { file, .. } if file.contains(&name)),
        "{error}"
    );
}
