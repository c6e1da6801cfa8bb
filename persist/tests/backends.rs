//! The two file-system disks against each other: what one writes, the other would have written byte
//! for byte. Where glommio cannot be had, the tests say why and check that asking for it is refused
//! with the same words.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

use persist::backend::{Unusable, Wanted, choose, probe};
use persist::disk::{Disk, DiskFile, read_all};
use persist::frame::FrameBuf;
use persist::log::{Options, Writer};
use persist::{LogId, Lsn};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A seeded dice (splitmix64): the same run every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// A glommio disk in `root`; none where the machine has none, after checking that it says so.
fn glommio(root: &Path) -> Option<Arc<dyn Disk>> {
    match (probe(root), choose(root, Wanted::Glommio)) {
        (Ok(()), Ok(choice)) => {
            assert_eq!(choice.name, "glommio");
            Some(choice.disk)
        }
        (Err(obstacle), Err(Unusable::Glommio(refusal))) => {
            let required = std::env::var("NULLRUN_TEST_GLOMMIO").is_ok_and(|how| how == "required");
            assert!(!required, "NULLRUN_TEST_GLOMMIO=required: {obstacle}");
            println!("without glommio: {obstacle}");
            assert_eq!(refusal, obstacle);
            assert!(!obstacle.remedy.is_empty());
            let auto = choose(root, Wanted::Auto).unwrap();
            assert_eq!(auto.name, "plain");
            assert!(auto.why.contains(&obstacle.reason), "{}", auto.why);
            None
        }
        (probed, chosen) => panic!("the probe says {probed:?}, the choice {chosen:?}"),
    }
}

fn plain(root: &Path) -> Arc<dyn Disk> {
    choose(root, Wanted::Plain).unwrap().disk
}

const LOG: LogId = LogId(5);
/// Small enough to roll.
const OPTIONS: Options = Options {
    segment_bytes: 1 << 20,
    quota_bytes: None,
};

/// Opens the log and gives back its records.
fn open(disk: &Arc<dyn Disk>) -> (Writer, Vec<Vec<u8>>) {
    let mut records = Vec::new();
    let visit = &mut |_, record: &[u8]| {
        records.push(record.to_vec());
        Ok(())
    };
    let (writer, _) = Writer::open(Arc::clone(disk), OPTIONS, LOG, Lsn::ZERO, visit).unwrap();
    (writer, records)
}

/// Writes each record as a frame of its own, synced; sometimes zeros are written ahead.
fn append(writer: &mut Writer, records: &[Vec<u8>]) {
    for (n, record) in records.iter().enumerate() {
        let mut frame = FrameBuf::default();
        frame.push(&(record.len() as u32).to_le_bytes(), 0);
        frame.push(record, 1);
        writer.write(&mut frame).unwrap();
        writer.sync().unwrap();
        if n % 3 == 0 {
            writer.prepare().unwrap();
        }
    }
}

/// Every file with its contents, read past both disks.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let name_and_bytes = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    };
    std::fs::read_dir(root)
        .unwrap()
        .map(name_and_bytes)
        .collect()
}

fn same_files(one: &TempDir, other: &TempDir, when: &str) {
    let (one, other) = (files(one.path()), files(other.path()));
    let lengths = |files: &BTreeMap<String, Vec<u8>>| {
        files
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(&one), lengths(&other), "{when}");
    for (name, bytes) in &one {
        let differs = bytes.iter().zip(&other[name]).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{when}: {name} differs");
    }
}

/// Records of every size: within a block, over block borders, larger than one direct write.
fn records(dice: &mut Dice, n: u64) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for _ in 0..n {
        let bound =
            [40, 400, 4096, 9000, 70_000, 600_000][dice.below(6).min(dice.below(6)) as usize];
        let len = 1 + dice.below(bound);
        all.push(dice.bytes(len));
    }
    all.push(dice.bytes(600_000));
    all
}

/// Damages the end of the last segment as a crash may: some of the last frame's bytes never arrived.
fn tear(root: &Path, keep: usize) {
    let (name, mut bytes) = files(root).pop_last().unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last + 1 - keep..=last].fill(0);
    std::fs::write(root.join(name), bytes).unwrap();
}

#[test]
fn the_same_frames_make_the_same_segments_and_come_back() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let Some(glommio) = glommio(other.path()) else {
        return;
    };
    let by_plain = plain(one.path());
    let mut dice = Dice(1);
    let mut expected = Vec::<Vec<u8>>::new();
    for life in 0..6 {
        let written = records(&mut dice, 40);
        for disk in [&by_plain, &glommio] {
            let (mut writer, found) = open(disk);
            assert!(found == expected, "life {life}: other records came back");
            append(&mut writer, &written);
        }
        expected.extend(written);
        same_files(&one, &other, &format!("life {life}"));
        // The last frame did not arrive whole: it is cut, and written over.
        if life % 2 == 1 {
            let lost = 1 + dice.below(500) as usize;
            tear(one.path(), lost);
            tear(other.path(), lost);
            expected.pop();
        }
    }
    assert!(files(one.path()).len() > 3, "it has rolled");
    // Each reads what the other wrote.
    assert!(open(&plain(other.path())).1 == expected);
}

#[test]
fn the_log_moves_to_another_thread_after_it_was_opened() {
    let root = TempDir::new().unwrap();
    let Some(disk) = glommio(root.path()) else {
        return;
    };
    let mut dice = Dice(2);
    let all = records(&mut dice, 30);
    let (first, rest) = all.split_at(10);
    let (mut writer, _) = open(&disk);
    append(&mut writer, first);
    std::thread::scope(|scope| {
        scope.spawn(|| append(&mut writer, rest));
    });
    drop(writer);
    assert!(open(&disk).1 == all);
}

/// Writes at random places, with syncs in between, against bytes in memory.
fn agrees_with_memory(disk: &dyn Disk, seed: u64) {
    let mut dice = Dice(seed);
    let mut file = disk.create("file").unwrap();
    let mut model = Vec::<u8>::new();
    let check = |file: &dyn DiskFile, model: &[u8], step: u64| {
        assert_eq!(
            file.len().unwrap(),
            model.len() as u64,
            "seed {seed}, step {step}"
        );
        assert!(read_all(file).unwrap() == model, "seed {seed}, step {step}");
    };
    for step in 0..150 {
        let offset = match dice.below(3) {
            0 => model.len() as u64,
            1 => dice.below(model.len() as u64 + 1),
            _ => dice.below(model.len() as u64 + 10_000) / 4096 * 4096,
        };
        let len = 1 + match dice.below(4) {
            0 => dice.below(100),
            1 => 4095,
            _ => dice.below(20_000),
        };
        let bytes = match dice.below(3) {
            0 => vec![0; len as usize],
            _ => dice.bytes(len),
        };
        file.write_at(offset, &bytes).unwrap();
        let (offset, end) = (offset as usize, (offset + len) as usize);
        model.resize(model.len().max(end), 0);
        model[offset..end].copy_from_slice(&bytes);
        if dice.below(4) == 0 {
            file.sync().unwrap();
        }
        if dice.below(3) == 0 {
            check(file.as_ref(), &model, step);
            let mut part = [0; 100];
            let at = dice.below(model.len() as u64);
            let read = file.read_at(at, &mut part).unwrap();
            assert_eq!(part[..read], model[at as usize..][..read]);
        }
        if dice.below(25) == 0 {
            drop(file);
            disk.rename("file", "renamed").unwrap();
            file = disk.open("renamed").unwrap();
            file.sync().unwrap();
            // What an open file is called does not matter.
            disk.rename("renamed", "file").unwrap();
        }
    }
    check(file.as_ref(), &model, u64::MAX);
    drop(file);
    assert!(read_all(disk.open("file").unwrap().as_ref()).unwrap() == model);
    disk.remove("file").unwrap();
}

#[test]
fn writes_at_any_place_leave_what_they_would_leave_in_memory() {
    let root = TempDir::new().unwrap();
    let disks = [Some(plain(root.path())), glommio(root.path())];
    for disk in disks.into_iter().flatten() {
        for seed in 0..12 {
            agrees_with_memory(disk.as_ref(), seed);
        }
    }
}

#[test]
fn threads_that_come_and_go_leave_nothing_running() {
    let root = TempDir::new().unwrap();
    let Some(disk) = glommio(root.path()) else {
        return;
    };
    for n in 0..20 {
        let name = format!("file-{n}");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = disk.create(&name).unwrap();
                file.sync().unwrap();
                file.write_at(10, b"direct").unwrap();
                file.sync().unwrap();
            });
        });
        let mut expected = vec![0; 10];
        expected.extend(b"direct");
        assert_eq!(std::fs::read(root.path().join(name)).unwrap(), expected);
    }
    // The executor's helper thread ends soon after the thread it served.
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    for _ in 0..6000 {
        if threads() < 20 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} threads are still there", threads());
}

#[test]
fn the_choice_is_explained_and_leaves_no_file_behind() {
    let root = TempDir::new().unwrap();
    for wanted in [Wanted::Plain, Wanted::Auto, Wanted::Glommio] {
        match choose(root.path(), wanted) {
            Ok(choice) => println!("{wanted:?}: {}: {}", choice.name, choice.why),
            Err(error) => println!("{wanted:?}: {error}"),
        }
        assert_eq!(files(root.path()).len(), 0, "{wanted:?}");
    }
}
