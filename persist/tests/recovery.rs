//! Recovery across segments and from snapshots, on disks that lose what a crash may lose: what comes
//! back is what was written, short of an unsynced frame at most, and never short of a snapshot.

#[cfg(test)]
mod recovery {
    use persist::disk::{Disk as _, Faults, FaultyDisk, MemoryDisk, read_all};
    use persist::frame::{FrameBuf, HEADER_LEN};
    use persist::group_commit::{Batch, Pending};
    use persist::log::{Options, Recovery, Writer};
    use persist::record::{Actor, EndReason, HoldEnded, Record};
    use persist::segment::{self, FIRST_FRAME};
    use persist::{Error, HoldId, KeyId, LogId, Lsn, Millis, Nanos, OrgId, Result, WorkflowId};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const LOG: LogId = LogId(0x10a);
    /// Room for two frames of 60 records, or three of 40.
    const OPTIONS: Options = Options {
        segment_bytes: 8 << 10,
        quota_bytes: None,
    };

    /// Name and contents of every file.
    type Files = BTreeMap<String, Vec<u8>>;
    /// What recovery gave back, in order.
    type Records = Vec<(Lsn, Vec<u8>)>;

    /// A frame of the records `from..to`, no two alike.
    fn frame(from: u64, to: u64) -> FrameBuf {
        let mut batch = Batch::default();
        for n in from..to {
            let record = Record::HoldEnded(HoldEnded {
                at: Millis(1_795_000_000_000 + n),
                org: OrgId(1),
                workflow: WorkflowId(2),
                key: KeyId(3),
                hold: HoldId(u128::from(n) << 64 | 0xff),
                day: persist::Day(0),
                note: None,
                released: Nanos(-1),
                reason: EndReason::Cancelled,
                actor: Actor::Key(KeyId(3)),
            });
            batch.push(&record).unwrap();
        }
        let mut pending = Pending::default();
        pending.push(&batch);
        pending.pop().unwrap()
    }

    fn open(disk: &(impl persist::disk::Disk + Clone + 'static), from: Lsn) -> Opened {
        let mut records = Records::new();
        let disk = Arc::new(disk.clone());
        let (writer, recovery) = Writer::open(disk, OPTIONS, LOG, from, &mut |lsn, bytes| {
            records.push((lsn, bytes.to_vec()));
            Ok(())
        })?;
        Ok((writer, recovery, records))
    }
    type Opened = Result<(Writer, Recovery, Records)>;

    /// A log of frames with these numbers of records: its files, its records, and where each frame
    /// begins.
    fn log(frames: &[u64]) -> (Files, Records, Vec<(String, usize)>) {
        let disk = MemoryDisk::default();
        let (mut writer, ..) = open(&disk, Lsn::ZERO).unwrap();
        let mut begins = Vec::new();
        let mut end = (segment::name(1), FIRST_FRAME as usize);
        let mut next = 1;
        for count in frames {
            writer.write(&mut frame(next, next + count)).unwrap();
            writer.sync().unwrap();
            next += count;
            let tail = persist::reader::read(&disk, Lsn::ZERO, Lsn(u64::MAX), &mut |_, _| Ok(()));
            let tail = tail.unwrap().unwrap();
            let name = segment::name(tail.segment);
            let in_the_same = end.0 == name;
            begins.push(if in_the_same {
                end
            } else {
                (name.clone(), FIRST_FRAME as usize)
            });
            end = (name, tail.offset as usize);
        }
        let (_, _, records) = open(&disk, Lsn::ZERO).unwrap();
        assert_eq!(records.len() as u64, next - 1);
        (files(&disk), records, begins)
    }

    fn files(disk: &MemoryDisk) -> Files {
        let names = disk.list().unwrap();
        let contents = names.into_iter().map(|name| {
            let bytes = read_all(disk.open(&name).unwrap().as_ref()).unwrap();
            (name, bytes)
        });
        contents.collect()
    }

    fn disk_of(files: &Files) -> MemoryDisk {
        let disk = MemoryDisk::default();
        for (name, bytes) in files {
            disk.create(name).unwrap().write_at(0, bytes).unwrap();
        }
        disk
    }

    /// Must be refused as damage, in words that say what to do, with every file as it was.
    fn refused(files: &Files, from: u64, what: &str) {
        let disk = disk_of(files);
        let error = open(&disk, Lsn(from)).map(|(_, recovery, _)| recovery);
        let error = error.expect_err(what);
        assert!(
            matches!(error, Error::Damaged { .. } | Error::Gone { .. }),
            "{what}: {error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("Restore the data directory"),
            "{what}: {text}"
        );
        assert!(
            self::files(&disk) == *files,
            "{what}: a refusal changes nothing"
        );
    }

    /// Must come back as exactly these records, and take more.
    fn recovers(files: &Files, records: &[(Lsn, Vec<u8>)], what: &str) {
        let disk = disk_of(files);
        let (mut writer, recovery, found) = open(&disk, Lsn::ZERO).unwrap();
        assert!(
            found == records,
            "{what}: {} of {}",
            found.len(),
            records.len()
        );
        assert_eq!(recovery.last_lsn.0, records.len() as u64, "{what}");
        writer.write(&mut frame(700, 703)).unwrap();
        writer.sync().unwrap();
        let (_, recovery, found) = open(&disk, Lsn::ZERO).unwrap();
        assert!(found.starts_with(records), "{what}: after writing on");
        assert_eq!(found.len(), records.len() + 3, "{what}: after writing on");
        assert_eq!(recovery.cut_bytes, 0, "{what}: the cut is not repeated");
    }

    #[test]
    fn a_torn_frame_at_the_beginning_of_a_segment_hides_nothing_before_it() {
        let (files, records, begins) = log(&[60; 5]);
        let (name, begin) = begins[4].clone();
        assert!(
            begin == FIRST_FRAME as usize && name == segment::name(3),
            "{begins:?}"
        );
        for keep in (0..HEADER_LEN + 2).chain([500, 1500]) {
            let mut torn = files.clone();
            torn.get_mut(&name).unwrap()[begin + keep..].fill(0);
            recovers(&torn, &records[..240], &format!("{keep} bytes kept"));
            // Also when a snapshot has everything before it.
            let (_, recovery, found) = open(&disk_of(&torn), Lsn(240)).unwrap();
            assert_eq!(
                (recovery.last_lsn, found.len()),
                (Lsn(240), 0),
                "{keep} bytes kept"
            );
        }
    }

    #[test]
    fn a_segment_that_was_begun_and_not_used_is_begun_again() {
        let (mut files, records, begins) = log(&[60; 3]);
        let (name, begin) = begins[2].clone();
        assert_eq!(name, segment::name(2), "{begins:?}");
        files.get_mut(&name).unwrap()[begin..].fill(0);
        recovers(&files, &records[..120], "an unused segment");
    }

    #[test]
    fn a_broken_frame_before_a_segment_that_was_begun_is_refused() {
        let (mut files, _, begins) = log(&[60; 3]);
        let (name, begin) = begins[2].clone();
        files.get_mut(&name).unwrap()[begin..].fill(0);
        let (name, begin) = begins[1].clone();
        files.get_mut(&name).unwrap()[begin + 100] ^= 1;
        refused(&files, 0, "the end of segment 1 flipped, segment 2 unused");
    }

    /// Every way to start, with a snapshot or without.
    #[test]
    fn no_flipped_bit_makes_a_silent_difference_from_any_snapshot() {
        let (files, records, begins) = log(&[40, 40, 40, 40, 40, 40, 20]);
        assert_eq!(begins[6].0, segment::name(3), "{begins:?}");
        let snapshots = [
            0, 1, 39, 40, 41, 80, 119, 120, 121, 200, 239, 240, 241, 259, 260,
        ];
        for (name, begin) in &begins {
            // The header and the first bytes behind it.
            for at in *begin..begin + HEADER_LEN + 6 {
                let mut bad = files.clone();
                bad.get_mut(name).unwrap()[at] ^= 1 << (at * 5 % 8);
                for from in snapshots {
                    let what = format!("{name} byte {at}, snapshot at {from}");
                    match open(&disk_of(&bad), Lsn(from)) {
                        Err(Error::Damaged { .. }) => {}
                        Err(error) => panic!("{what}: {error}"),
                        Ok((_, recovery, read)) => {
                            // The last frame may be taken for a torn one, and that is said.
                            let last = if recovery.cut_bytes > 0 { 240 } else { 260 };
                            assert!(from <= last, "{what}: the snapshot has more");
                            let due = &records[from as usize..last as usize];
                            assert!(read == due, "{what}: {} of {}", read.len(), due.len());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_log_that_ends_before_its_snapshot_is_refused() {
        let (files, _, begins) = log(&[60, 60, 60, 5]);
        let (_, recovery, read) = open(&disk_of(&files), Lsn(185)).unwrap();
        assert_eq!((recovery.last_lsn, read.len()), (Lsn(185), 0));
        refused(&files, 186, "one record short");

        // The last frame is not whole any more, and the snapshot was made with it.
        let (name, begin) = begins[3].clone();
        let mut torn = files;
        torn.get_mut(&name).unwrap()[begin + HEADER_LEN..].fill(0);
        refused(
            &torn,
            181,
            "the last frame torn, a part of it in the snapshot",
        );
        refused(&torn, 185, "the last frame torn, all of it in the snapshot");
        assert!(open(&disk_of(&torn), Lsn(180)).is_ok());

        refused(&Files::new(), 7, "no log at all");
        refused(&log(&[]).0, 7, "an empty log");
    }

    #[test]
    fn a_segment_in_anothers_place_is_refused() {
        let (files, ..) = log(&[60; 8]);
        for (from, to) in [(1, 2), (2, 1), (3, 2), (2, 4), (4, 5)] {
            let mut moved = files.clone();
            moved.insert(segment::name(to), files[&segment::name(from)].clone());
            refused(&moved, 0, &format!("segment {from} as {to}"));
        }
    }

    #[test]
    fn a_segment_with_a_frame_missing_at_its_end_is_refused() {
        let (files, _, begins) = log(&[60; 8]);
        for (index, (name, begin)) in begins.iter().enumerate().take(7) {
            let end = match &begins[index + 1] {
                (next, end) if next == name => *end,
                _ => files[name].len(),
            };
            let mut zeroed = files.clone();
            zeroed.get_mut(name).unwrap()[*begin..end].fill(0);
            refused(&zeroed, 0, &format!("frame {index} zeroed"));
        }
    }

    #[test]
    fn an_old_segment_may_go_when_a_snapshot_has_it() {
        let (mut files, records, _) = log(&[60; 8]);
        files.remove(&segment::name(1));
        refused(&files, 0, "needed");
        refused(&files, 119, "the last record of it needed");
        for from in [120, 121, 300, 480] {
            let (_, recovery, read) = open(&disk_of(&files), Lsn(from)).unwrap();
            assert!(read == records[from as usize..], "{from}");
            assert_eq!(recovery.last_lsn, Lsn(480));
        }
    }

    #[test]
    fn a_reader_leaves_the_writers_half_made_segment_alone() {
        let (files, records, _) = log(&[2, 3]);
        let disk = disk_of(&files);
        let half = format!("{}.baking", segment::name(2));
        disk.create(&half).unwrap();
        let mut read = 0;
        let visit = &mut |_: Lsn, _: &[u8]| {
            read += 1;
            Ok(())
        };
        persist::reader::read(&disk, Lsn::ZERO, Lsn(u64::MAX), visit).unwrap();
        assert_eq!(read, records.len());
        assert!(self::files(&disk).contains_key(&half));
        // The writer, when it starts, sweeps it away.
        open(&disk, Lsn::ZERO).unwrap();
        assert!(!self::files(&disk).contains_key(&half));
    }

    /// A coin that depends on its seed alone.
    fn coin(seed: u64) -> impl FnMut() -> bool {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            // Every tenth loses little: whole frames survive, too.
            state >> 63 == 0 || (seed.is_multiple_of(10) && state >> 58 & 15 != 0)
        }
    }

    /// Any set of sectors may be lost, and the power may go again while the tail is being cut.
    #[test]
    fn lost_sectors_of_an_unsynced_frame_lose_that_frame_or_nothing() {
        let (mut kept, mut lost, mut again) = (0, 0, 0);
        for seed in 1..=400_u64 {
            let mut coin = coin(seed);
            let disk = FaultyDisk::default();
            let (mut writer, ..) = open(&disk, Lsn::ZERO).unwrap();
            writer.write(&mut frame(1, 4)).unwrap();
            writer.sync().unwrap();
            writer.write(&mut frame(4, 60)).unwrap();
            disk.crash(&mut coin);
            disk.set_faults(Faults {
                fail_write_in: (seed % 3 == 0).then_some(0),
                fail_sync_in: (seed % 3 == 1).then_some(0),
            });
            again += u32::from(open(&disk, Lsn::ZERO).is_err());
            disk.crash(&mut coin);
            let (mut writer, recovery, found) = open(&disk, Lsn::ZERO).unwrap();
            match recovery.last_lsn {
                Lsn(3) => lost += 1,
                Lsn(59) => kept += 1,
                other => panic!("seed {seed}: the log ends at {other}"),
            }
            writer.write(&mut frame(90, 91)).unwrap();
            writer.sync().unwrap();
            disk.crash(|| false);
            let (_, _, after) = open(&disk, Lsn::ZERO).unwrap();
            assert!(after.starts_with(&found), "seed {seed}");
            assert_eq!(after.len(), found.len() + 1, "seed {seed}");
        }
        assert!(
            kept > 5 && lost > 100 && again > 50,
            "{kept}, {lost}, {again}"
        );
    }
}
