//! Damage in the middle of the log: refused, with words that say what to do. Never a silent
//! difference.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, MemoryDisk};
use persist::log::Options;
use persist::{Error, LogId, segment};
use std::sync::Arc;
use support::{SEGMENT, bytes, frame, open, three_frames, with_segment};

fn refused(disk: &Arc<dyn Disk>, what: &str) -> Error {
    match open(disk, Options::default()) {
        Err(error) => error,
        Ok((_, recovery, numbers)) => panic!("{what}: opened with {numbers:?}, {recovery:?}"),
    }
}

#[test]
fn a_flipped_bit_in_a_frame_that_others_follow_is_refused() {
    let (disk, last_frame, _) = three_frames();
    let whole = bytes(&disk, SEGMENT);
    for at in segment::FIRST_FRAME as usize..last_frame as usize {
        for bit in [0, 3, 7] {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            if padding(&whole, at) {
                continue;
            }
            let error = refused(&with_segment(&bad), &format!("byte {at} bit {bit}"));
            assert!(
                matches!(error, Error::Damaged { .. }),
                "byte {at} bit {bit}: {error}"
            );
            let words = error.to_string();
            assert!(
                words.contains("Restore the data directory from a backup"),
                "{words}"
            );
            assert!(words.contains(SEGMENT), "{words}");
        }
    }
}

/// Zero bytes between frames are read by nobody.
fn padding(whole: &[u8], at: usize) -> bool {
    let next = at.next_multiple_of(8);
    whole[at] == 0 && whole[at..next].iter().all(|b| *b == 0) && whole[next..].starts_with(b"NRF1")
}

#[test]
fn a_frame_in_the_middle_that_is_gone_is_refused() {
    let (disk, last_frame, _) = three_frames();
    let mut bad = bytes(&disk, SEGMENT);
    bad[segment::FIRST_FRAME as usize..last_frame as usize].fill(0);
    let error = refused(&with_segment(&bad), "two frames of zeros");
    assert!(
        error.to_string().contains("a whole frame follows"),
        "{error}"
    );
}

#[test]
fn a_changed_segment_header_is_refused_whatever_the_bit() {
    let (disk, ..) = three_frames();
    let whole = bytes(&disk, SEGMENT);
    for at in 0..44 {
        for bit in 0..8 {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            let error = refused(&with_segment(&bad), &format!("byte {at} bit {bit}"));
            assert!(
                matches!(error, Error::Damaged { .. }),
                "byte {at} bit {bit}: {error}"
            );
        }
    }
}

/// Many segments of a few frames.
fn many_segments() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut writer, ..) = open(
        &shared,
        Options {
            segment_bytes: 4600,
            ..Options::default()
        },
    )
    .unwrap();
    for n in 1..=80 {
        writer.write(&mut frame([n])).unwrap();
        writer.sync().unwrap();
    }
    assert!(disk.list().unwrap().len() > 3);
    disk
}

#[test]
fn a_missing_segment_is_refused_by_name() {
    for missing in 2..=3 {
        let disk = many_segments();
        disk.remove(&segment::name(missing)).unwrap();
        let error = refused(&(Arc::new(disk) as Arc<dyn Disk>), "a gap");
        assert!(
            error.to_string().contains(&segment::name(missing)),
            "{error}"
        );
    }
}

#[test]
fn a_first_segment_that_is_missing_is_refused_when_its_records_are_needed() {
    let disk = many_segments();
    disk.remove(&segment::name(1)).unwrap();
    let error = refused(&(Arc::new(disk) as Arc<dyn Disk>), "no beginning");
    assert!(
        error.to_string().contains("LSN 1 is needed") || error.to_string().contains("1 is needed"),
        "{error}"
    );
}

#[test]
fn a_segment_that_ends_in_a_broken_frame_before_another_is_refused() {
    let disk = many_segments();
    let mut first = bytes(&disk, SEGMENT);
    let last = first.iter().rposition(|b| *b != 0).unwrap();
    first[last] ^= 1;
    disk.open(SEGMENT).unwrap().write_at(0, &first).unwrap();
    let error = refused(
        &(Arc::new(disk) as Arc<dyn Disk>),
        "broken end of segment 1",
    );
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let disk = many_segments();
    let other = MemoryDisk::default();
    let strange = segment::Prepared::make(&other, LogId(1234), 2, 4096).unwrap();
    assert!(strange.show(&other).unwrap());
    let strange = bytes(&other, &segment::name(2));
    disk.remove(&segment::name(2)).unwrap();
    disk.create(&segment::name(2))
        .unwrap()
        .write_at(0, &strange)
        .unwrap();
    let error = refused(&(Arc::new(disk) as Arc<dyn Disk>), "another log");
    assert!(error.to_string().contains("another log"), "{error}");
}

#[test]
fn a_newer_format_is_refused_with_the_version_to_use() {
    let (disk, ..) = three_frames();
    let mut newer = bytes(&disk, SEGMENT);
    newer[8] = 2;
    let crc = crc32fast::hash(&newer[..40]);
    newer[40..44].copy_from_slice(&crc.to_le_bytes());
    let error = refused(&with_segment(&newer), "version 2");
    assert!(
        matches!(
            error,
            Error::Version {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
}
