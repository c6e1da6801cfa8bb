//! A whole data directory as the first version wrote it, byte by byte in the repository: every later
//! version must read it. `NULLRUN_WRITE_FIXTURES=1` writes it anew, before a release only.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, PlainDisk};
use persist::follow::{Followers, Reader};
use persist::inspect::{self, Directory};
use persist::log::Options;
use persist::snapshot::{Manifest, Store};
use persist::{Lsn, reader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use support::LOG;
use support::opaque::{append, bytes_of, open_behind};

/// Room for two frames.
const OPTIONS: Options = Options {
    segment_bytes: 4096 + 1200,
    quota_bytes: None,
};

fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/directory-v1");
        if std::env::var_os("NULLRUN_WRITE_FIXTURES").is_some() {
            write(&root);
        }
        root
    })
}

fn write(root: &Path) {
    drop(std::fs::remove_dir_all(root));
    let part = |name| -> Arc<dyn Disk> { Arc::new(PlainDisk::at(&root.join(name)).unwrap()) };
    let wal = part("wal");
    let (mut writer, _) = open_behind(&wal, OPTIONS, Lsn::ZERO).unwrap();
    let store = Store::open(part("snapshots"));
    let followers = Followers::open(part("followers"), LOG).unwrap();
    let history = followers.register("history", Lsn::ZERO).unwrap();
    for count in [10, 12, 20, 1] {
        append(&mut writer, count).unwrap();
    }
    let mut draft = store.begin(LOG, Lsn(10)).unwrap();
    let sealed = draft.put(4, 0, b"sealed events").unwrap();
    draft.put(1, 0, b"old directory").unwrap();
    draft.finish().unwrap();
    let mut draft = store.begin(LOG, Lsn(22)).unwrap();
    draft.put(1, 0, b"directory").unwrap();
    draft.put(2, 0x0000_03ff, b"").unwrap();
    assert!(draft.keep(&sealed).unwrap());
    draft.finish().unwrap();
    history.save(Lsn(15)).unwrap();
}

#[test]
fn a_data_directory_of_version_1_reads_as_it_was_written() {
    let directory = Directory::read_only(root());

    let mut next = 1;
    let tail = reader::read(
        directory.wal.as_ref(),
        Lsn::ZERO,
        Lsn(u64::MAX),
        &mut |lsn, bytes| {
            assert_eq!((lsn, bytes), (Lsn(next), &bytes_of(next)[..]));
            next += 1;
            Ok(())
        },
    );
    let tail = tail.unwrap().unwrap();
    assert_eq!((tail.log, tail.segment, tail.next_lsn), (LOG, 2, Lsn(44)));
    assert_eq!(tail.torn_bytes, 0);

    let store = Store::open(Arc::clone(&directory.snapshots));
    let found = store.newest().unwrap();
    assert_eq!(found.damaged, []);
    let found = found.found.unwrap();
    let Manifest {
        log,
        sequence,
        lsn,
        parts,
    } = &found.manifest;
    assert_eq!((*log, *sequence, *lsn), (LOG, 2, Lsn(22)));
    let parts: Vec<_> = parts
        .iter()
        .map(|part| (part.kind, part.tag, part.lsn.0, found.read(part).unwrap()))
        .collect();
    let expected = [
        (1, 0, 22, b"directory".to_vec()),
        (2, 0x3ff, 22, Vec::new()),
        (4, 0, 10, b"sealed events".to_vec()),
    ];
    assert_eq!(parts, expected);
    assert_eq!(store.floor().unwrap(), Some(Lsn(10)));

    let cursors = persist::follow::saved(directory.followers.as_ref()).unwrap();
    let cursor = cursors.into_iter().next().unwrap().unwrap();
    assert_eq!(
        (&cursor.name[..], cursor.log, cursor.lsn),
        ("history", LOG, Lsn(15))
    );
    let mut reader = Reader::new(Arc::clone(&directory.wal), cursor.lsn);
    assert_eq!(reader.read(Lsn(43), &mut |_, _| Ok(())).unwrap(), 28);

    let summary = inspect::inspect(&directory).unwrap();
    let segments: Vec<_> = summary
        .segments
        .iter()
        .map(|s| (s.frames, s.records, s.first_lsn, s.last_lsn, s.torn_bytes))
        .collect();
    let expected = [
        (2, 22, Some(Lsn(1)), Some(Lsn(22)), 0),
        (2, 21, Some(Lsn(23)), Some(Lsn(43)), 0),
    ];
    assert_eq!(segments, expected);
    assert_eq!(summary.problems, [""; 0]);
    assert_eq!(summary.snapshots.len(), 2);
}

/// What is written today is what was written then, to the byte (how many zeros are written ahead may
/// change).
#[test]
fn a_data_directory_is_still_written_in_the_same_bytes() {
    let today = tempfile::TempDir::new().unwrap();
    write(today.path());
    for part in ["wal", "snapshots", "followers"] {
        let files = |root: &Path| -> Vec<(String, Vec<u8>)> {
            let disk = PlainDisk::read_only(&root.join(part));
            let read = |name: String| {
                let file = disk.open(&name).unwrap();
                let mut bytes = persist::disk::read_all(file.as_ref()).unwrap();
                let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
                bytes.truncate(if part == "wal" { used } else { bytes.len() });
                (name, bytes)
            };
            disk.list().unwrap().into_iter().map(read).collect()
        };
        assert!(files(today.path()) == files(root()), "{part} differs");
        assert!(!files(root()).is_empty());
    }
}
