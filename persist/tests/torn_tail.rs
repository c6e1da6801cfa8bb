//! The last frame, torn in every way a crash can tear it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::log::Options;
use support::{SEGMENT, bytes, frame, open, three_frames, with_segment};

/// Recovers, writes on, recovers again.
fn recovers_and_goes_on(torn: &[u8], what: &str) {
    let disk = with_segment(torn);
    let (mut writer, recovery, numbers) =
        open(&disk, Options::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(numbers, [1, 2, 3, 4], "{what}");
    assert_eq!(recovery.last_lsn.0, 4, "{what}");
    writer.write(&mut frame([7])).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let (_, recovery, numbers) = open(&disk, Options::default()).unwrap();
    assert_eq!(numbers, [1, 2, 3, 4, 7], "{what}");
    assert_eq!(recovery.cut_bytes, 0, "{what}: the cut is not repeated");
}

#[test]
fn a_last_frame_that_ends_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let (disk, start, end) = three_frames();
    let whole = bytes(&disk, SEGMENT);
    // The padding behind the last record is not part of what must be there.
    let last = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
    for cut in start as usize..last {
        let mut torn = whole.clone();
        torn[cut..end as usize].fill(0);
        recovers_and_goes_on(&torn, &format!("zeros from byte {cut}"));
        torn.truncate(cut);
        recovers_and_goes_on(&torn, &format!("file ends at byte {cut}"));
    }
}

#[test]
fn a_last_frame_of_which_only_the_end_arrived_is_cut() {
    let (disk, start, end) = three_frames();
    let whole = bytes(&disk, SEGMENT);
    for missing in start as usize + 1..end as usize - 8 {
        let mut torn = whole.clone();
        torn[start as usize..missing].fill(0);
        recovers_and_goes_on(&torn, &format!("zeros up to byte {missing}"));
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_last_frame_is_cut_and_counted() {
    let (disk, start, _) = three_frames();
    let whole = bytes(&disk, SEGMENT);
    let last = whole.iter().rposition(|b| *b != 0).unwrap();
    for at in start as usize..=last {
        for bit in 0..8 {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            let (_, recovery, numbers) = open(&with_segment(&bad), Options::default()).unwrap();
            assert_eq!(numbers, [1, 2, 3, 4], "byte {at} bit {bit}");
            assert!(
                recovery.cut_bytes > 0,
                "byte {at} bit {bit}: the cut is reported"
            );
        }
    }
}

#[test]
fn a_whole_log_comes_back_whole_across_many_segments() {
    let disk = with_nothing();
    let options = Options {
        segment_bytes: 5000,
        ..Options::default()
    };
    let mut expected = Vec::new();
    for round in 0..40 {
        let (mut writer, recovery, numbers) = open(&disk, options).unwrap();
        assert_eq!(numbers, expected);
        assert_eq!(recovery.cut_bytes, 0);
        for n in round * 10..round * 10 + 10 {
            writer.write(&mut frame([n])).unwrap();
            writer.sync().unwrap();
            expected.push(n);
        }
    }
    assert!(disk.list().unwrap().len() > 10, "{:?}", disk.list());
}

fn with_nothing() -> std::sync::Arc<dyn persist::disk::Disk> {
    std::sync::Arc::new(persist::disk::MemoryDisk::default())
}
