//! Looking at a data directory: everything is shown, nothing is changed, no secret leaves it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, MemoryDisk, PlainDisk};
use persist::follow::Followers;
use persist::frame::FrameBuf;
use persist::inspect::{self, Directory, export, to_json, verify};
use persist::log::Options;
use persist::record::Record;
use persist::snapshot::Store;
use persist::{Error, LogId, Lsn, retain, segment};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use support::{LOG, frame, open};

/// A data directory in memory, with records 1 to 60 in several segments.
fn directory() -> Directory {
    let memory = || -> Arc<dyn Disk> { Arc::new(MemoryDisk::default()) };
    let directory = Directory {
        wal: memory(),
        snapshots: memory(),
        followers: memory(),
    };
    let options = Options {
        segment_bytes: 4400,
        ..Options::default()
    };
    let (mut writer, ..) = open(&directory.wal, options).unwrap();
    for n in 0..20 {
        writer.write(&mut frame(n * 3 + 1..n * 3 + 4)).unwrap();
        writer.sync().unwrap();
    }
    let store = Store::open(Arc::clone(&directory.snapshots));
    for lsn in [30, 45] {
        let mut draft = store.begin(LOG, Lsn(lsn)).unwrap();
        draft.put(1, 9, b"state").unwrap();
        draft.finish().unwrap();
    }
    let followers = Followers::open(Arc::clone(&directory.followers), LOG).unwrap();
    followers.register("history", Lsn(20)).unwrap();
    directory
}

fn contents(disk: &Arc<dyn Disk>) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let bytes = persist::disk::read_all(disk.open(&name).unwrap().as_ref()).unwrap();
        (name, bytes)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

fn lines(directory: &Directory, from: u64, until: u64) -> persist::Result<Vec<Value>> {
    let mut out = Vec::new();
    let count = export(directory.wal.as_ref(), Lsn(from), Lsn(until), &mut out)?;
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len() as u64, count);
    Ok(lines)
}

#[test]
fn everything_is_shown_and_nothing_is_changed() {
    let directory = directory();
    // What a running gateway is making at the moment.
    directory.wal.create("00000000000000ff.seg.baking").unwrap();
    directory
        .snapshots
        .create("0000000000000009-00000000.part.baking")
        .unwrap();
    let before = [&directory.wal, &directory.snapshots, &directory.followers].map(contents);

    let summary = inspect::inspect(&directory).unwrap();
    assert_eq!(summary.log, Some(LOG));
    assert!(summary.segments.len() > 3);
    assert_eq!(summary.segments.iter().map(|s| s.records).sum::<u64>(), 60);
    let mut next = 1;
    for segment in &summary.segments {
        assert_eq!(segment.first_lsn, Some(Lsn(next)));
        next = segment.last_lsn.unwrap().0 + 1;
        assert_eq!((segment.torn_bytes, &segment.problem), (0, &None));
        assert!(segment.bytes > segment::FIRST_FRAME);
    }
    let snapshots: Vec<u64> = summary.snapshots.iter().map(|s| s.lsn.0).collect();
    assert_eq!(snapshots, [45, 30]);
    assert_eq!(
        (
            summary.snapshots[0].parts[0].tag,
            summary.snapshots[0].parts[0].bytes
        ),
        (9, 5)
    );
    assert_eq!(summary.followers[0].name, "history");
    assert_eq!(summary.problems, [""; 0]);
    serde_json::to_string(&summary.segments).unwrap();

    let verified = verify(&directory).unwrap();
    assert_eq!((verified.first_lsn, verified.last_lsn), (Lsn(1), Lsn(60)));
    assert_eq!(verified.snapshots, [Lsn(45), Lsn(30)]);
    assert_eq!(verified.warnings, [""; 0]);

    let lines = lines(&directory, 1, u64::MAX).unwrap();
    assert_eq!(lines.len(), 60);
    assert_eq!(lines[6]["lsn"], 7);
    assert_eq!(lines[6]["type"], "HoldEnded");
    assert_eq!(lines[6]["record"]["at"], 7);
    assert_eq!(
        lines[6]["record"]["hold"],
        "00000000-0000-0000-0000-000000000007"
    );
    assert_eq!(lines[6]["record"]["reason"], "Expired");

    let after = [&directory.wal, &directory.snapshots, &directory.followers].map(contents);
    assert!(before == after);
}

#[test]
fn an_export_has_exactly_the_records_asked_for() {
    let directory = directory();
    for (from, until) in [(1, 1), (5, 17), (0, 3), (60, 60), (59, 1000), (30, 29)] {
        let lsns: Vec<u64> = lines(&directory, from, until)
            .unwrap()
            .iter()
            .map(|line| line["lsn"].as_u64().unwrap())
            .collect();
        assert_eq!(lsns, (from.max(1)..=until.min(60)).collect::<Vec<_>>());
    }
    retain::trim(directory.wal.as_ref(), Lsn(30)).unwrap();
    let error = lines(&directory, 1, 60).unwrap_err();
    assert!(error.to_string().contains("begin at LSN"), "{error}");
}

#[test]
fn damage_is_named_with_its_place_and_what_to_do() {
    let directory = directory();
    let name = segment::name(2);
    let at = segment::FIRST_FRAME + 50;
    let mut file = directory.wal.open(&name).unwrap();
    file.write_at(at, &[0xff]).unwrap();
    let summary = inspect::inspect(&directory).unwrap();
    let problem = summary.segments[1].problem.clone().unwrap();
    assert!(
        problem.contains(&name) && problem.contains("byte 4096"),
        "{problem}"
    );
    let error = verify(&directory).unwrap_err().to_string();
    assert!(
        error.contains(&name) && error.contains("byte 4096"),
        "{error}"
    );
    assert!(error.contains("Restore the data directory"), "{error}");
}

#[test]
fn a_damaged_snapshot_or_cursor_is_a_warning_while_the_log_can_stand_in() {
    let directory = directory();
    let part = Store::open(Arc::clone(&directory.snapshots))
        .newest()
        .unwrap();
    let name = part.found.unwrap().manifest.parts[0].name();
    directory
        .snapshots
        .open(&name)
        .unwrap()
        .write_at(65, b"X")
        .unwrap();
    directory
        .followers
        .open("history.cursor")
        .unwrap()
        .write_at(33, b"X")
        .unwrap();
    let verified = verify(&directory).unwrap();
    assert_eq!(verified.snapshots, [Lsn(30)]);
    assert_eq!(verified.warnings.len(), 2, "{:?}", verified.warnings);

    // Both gone, and the log does not reach back: it would not start.
    directory.snapshots.remove("manifest.0").unwrap();
    retain::trim(directory.wal.as_ref(), Lsn(30)).unwrap();
    let error = verify(&directory).unwrap_err();
    assert!(
        matches!(error, Error::Gone { needed: Lsn(1), .. }),
        "{error}"
    );
}

#[test]
fn nothing_needs_to_be_there() {
    let directory = Directory::read_only(std::path::Path::new("/nowhere/at/all"));
    let summary = inspect::inspect(&directory).unwrap();
    assert!(summary.segments.is_empty() && summary.problems.is_empty());
    assert_eq!(verify(&directory).unwrap().last_lsn, Lsn::ZERO);
    let disk = PlainDisk::read_only(std::path::Path::new("/nowhere/at/all"));
    assert!(disk.create("x").is_err() && disk.sync_dir().is_err());
}

#[test]
fn no_secret_leaves_in_an_export() {
    #[derive(Serialize)]
    struct Nested<'a> {
        key_hash: [u8; 4],
        sealed_secret: &'a [u8],
        prefix: &'a str,
        cap: Option<u128>,
    }
    #[derive(Serialize)]
    enum Any<'a> {
        Some {
            password_hash: &'a str,
            token: &'a str,
            tokens: u64,
            log: LogId,
            keys: Vec<Nested<'a>>,
        },
    }
    let any = Any::Some {
        password_hash: "argon",
        token: "abc",
        tokens: 12,
        log: LogId(0xab),
        keys: vec![Nested {
            key_hash: [1; 4],
            sealed_secret: &[2; 9],
            prefix: "nr_",
            cap: Some(u128::MAX),
        }],
    };
    let expected = json!({ "Some": {
        "password_hash": "[redacted]",
        "token": "[redacted]",
        "tokens": 12,
        "log": "00000000-0000-0000-0000-0000000000ab",
        "keys": [{
            "key_hash": "[redacted]",
            "sealed_secret": "[redacted]",
            "prefix": "nr_",
            "cap": "ffffffffffffffffffffffffffffffff",
        }],
    }});
    assert_eq!(to_json(&any).unwrap(), expected);
}

/// Every record that there is, from the bytes in the repository.
#[test]
fn every_record_exports_as_json_without_its_secrets() {
    let directory = directory();
    directory
        .wal
        .list()
        .unwrap()
        .iter()
        .for_each(|name| directory.wal.remove(name).unwrap());
    let mut frame = FrameBuf::default();
    let mut types = Vec::new();
    for line in include_str!("golden/records-v1.txt").lines() {
        let hex = line.split_whitespace().last().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let debug = format!("{:?}", postcard::from_bytes::<Record<'_>>(&bytes).unwrap());
        types.push(debug.split('(').next().unwrap().to_owned());
        frame.push(&(bytes.len() as u32).to_le_bytes(), 0);
        frame.push(&bytes, 1);
    }
    let (mut writer, ..) = open(&directory.wal, Options::default()).unwrap();
    writer.write(&mut frame).unwrap();
    let lines = lines(&directory, 1, u64::MAX).unwrap();
    let exported: Vec<_> = lines.iter().map(|l| l["type"].as_str().unwrap()).collect();
    assert_eq!(exported, types);
    let text = serde_json::to_string(&lines).unwrap();
    assert!(text.contains(r#""password_hash":"[redacted]""#), "{text}");
    assert!(text.contains(r#""key_hash":"[redacted]""#), "{text}");
    assert!(text.contains(r#""token_hash":"[redacted]""#), "{text}");
    assert!(text.contains(r#""sealed_secret":"[redacted]""#), "{text}");
    assert!(!text.contains("argon2"), "{text}");
}
