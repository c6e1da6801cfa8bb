//! One bit flipped anywhere in a whole data directory: what a start makes of it is exactly what was
//! written, or less by the very last frame and that is said, or it is refused with words.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, FaultyDisk};
use persist::log::Options;
use persist::snapshot::{Found, Store};
use persist::{Error, Lsn};
use std::sync::Arc;
use support::LOG;
use support::opaque::{append, bytes_of};

const OPTIONS: Options = Options {
    segment_bytes: 6 << 10,
    quota_bytes: None,
};

#[derive(Debug, PartialEq)]
enum Outcome {
    /// All that was written, without a word.
    Same,
    /// All that was written, from the older snapshot or the whole log.
    OlderSnapshot,
    /// All but the last frame.
    Cut,
    Refused,
}

fn folded(until: u64) -> Vec<u8> {
    (1..=until).flat_map(bytes_of).collect()
}

/// Starts, and compares every byte with what was written.
fn start(disk: &FaultyDisk, last: u64, before_last: u64, what: &str) -> Outcome {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = Store::open(Arc::clone(&shared));
    let loaded = store.load(|found: &Found| {
        let mut state = Vec::new();
        for part in &found.manifest.parts {
            found.read_pieces(part, &mut |piece| state.extend_from_slice(piece))?;
        }
        Ok::<_, Error>((found.manifest.lsn, state))
    });
    let told = |error: Error| {
        let text = error.to_string();
        assert!(
            text.contains("Restore") || text.contains("Start the version"),
            "{what}: {text}"
        );
        Outcome::Refused
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return told(error),
    };
    let (from, mut state) = loaded
        .built
        .map_or((Lsn::ZERO, Vec::new()), |(_, built)| built);
    let opened = persist::log::Writer::open(shared, OPTIONS, LOG, from, &mut |_, bytes| {
        state.extend_from_slice(bytes);
        Ok(())
    });
    let recovery = match opened {
        Ok((_, recovery)) => recovery,
        Err(error) => return told(error),
    };
    assert_eq!(recovery.log, LOG, "{what}");
    if recovery.cut_bytes > 0 {
        assert_eq!(recovery.last_lsn.0, before_last, "{what}");
        assert!(state == folded(before_last), "{what}: a silent difference");
        return Outcome::Cut;
    }
    assert_eq!(recovery.last_lsn.0, last, "{what}");
    assert!(state == folded(last), "{what}: a silent difference");
    if loaded.damaged.is_empty() {
        Outcome::Same
    } else {
        Outcome::OlderSnapshot
    }
}

/// A directory of several segments and two snapshots; the last LSN, and that of the frame before.
fn directory(trimmed: bool) -> (FaultyDisk, u64, u64) {
    let disk = FaultyDisk::default();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut writer, _) = support::opaque::open_behind(&shared, OPTIONS, Lsn::ZERO).unwrap();
    let store = Store::open(Arc::clone(&shared));
    let mut last = Lsn::ZERO;
    let mut before_last = Lsn::ZERO;
    for round in 0..14 {
        before_last = last;
        last = append(&mut writer, 12).unwrap();
        if round == 6 || round == 9 {
            let mut draft = store.begin(LOG, last).unwrap();
            let state = folded(last.0);
            let (one, two) = state.split_at(state.len() / 3);
            draft.put(1, 1, one).unwrap();
            draft.put(1, 2, two).unwrap();
            draft.finish().unwrap();
        }
    }
    if trimmed {
        let floor = store.floor().unwrap().unwrap();
        assert!(persist::retain::trim(&disk, floor).unwrap() > 0);
    }
    (disk, last.0, before_last.0)
}

#[test]
fn a_flipped_bit_is_cut_or_costs_a_snapshot_or_is_refused_and_never_passes_silently() {
    for trimmed in [false, true] {
        let (disk, last, before_last) = directory(trimmed);
        assert_eq!(start(&disk, last, before_last, "whole"), Outcome::Same);
        let found = Store::open(Arc::new(disk.clone()))
            .newest()
            .unwrap()
            .found
            .unwrap();
        let parts = found
            .manifest
            .parts
            .iter()
            .map(persist::snapshot::PartRef::name);
        let newest: Vec<String> = parts.chain(["manifest.1".to_owned()]).collect();
        let (mut same, mut older, mut cut, mut refused) = (0, 0, 0, 0);
        for name in disk.list().unwrap() {
            let bytes = persist::disk::read_all(disk.open(&name).unwrap().as_ref()).unwrap();
            let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
            for at in 0..used {
                // Every header, and a sample of the rest.
                let of_frame = (0..32).any(|n| at >= n && bytes[at - n..].starts_with(b"NRF1"));
                let sampled = at < 64 || of_frame || at % 7 == 0;
                let zeros = name.ends_with("seg") && (44..4096).contains(&at);
                if !sampled || zeros {
                    continue;
                }
                let bit = (at * 3 % 8) as u8;
                let what = format!("{name} byte {at} bit {bit}");
                // A fresh copy: a start that cuts changes files.
                let copy = copy_of(&disk);
                copy.flip(&name, at, bit);
                let outcome = start(&copy, last, before_last, &what);
                let segment = name.ends_with(".seg");
                match outcome {
                    // Padding, a frame that a snapshot stands in for, a part of the older snapshot:
                    // nobody reads them.
                    Outcome::Same => {
                        assert!(!newest.contains(&name), "{what}");
                        same += 1;
                    }
                    Outcome::OlderSnapshot => {
                        assert!(!segment, "{what}");
                        older += 1;
                    }
                    Outcome::Cut => {
                        assert!(segment, "{what}");
                        cut += 1;
                    }
                    Outcome::Refused => {
                        assert!(segment, "{what}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(
            same > 0 && older > 100 && cut > 20 && refused > 100,
            "{same} {older} {cut} {refused}"
        );
    }
}

fn copy_of(disk: &FaultyDisk) -> FaultyDisk {
    let copy = FaultyDisk::default();
    for name in disk.list().unwrap() {
        let bytes = persist::disk::read_all(disk.open(&name).unwrap().as_ref()).unwrap();
        let mut file = copy.create(&name).unwrap();
        file.write_at(0, &bytes).unwrap();
        file.sync().unwrap();
    }
    copy.sync_dir().unwrap();
    copy
}
