//! The machine dies at every named point, and of what was not synced any part may be lost: whatever
//! was acknowledged before is there again.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_debug_implementations,
    reason = "a test says what is wrong by failing"
)]

mod support;

use persist::disk::{Disk, FaultyDisk};
use persist::follow::Followers;
use persist::log::Options;
use persist::snapshot::{Found, Store};
use persist::{Error, Lsn, crash_points, retain};
use std::sync::Arc;
use support::LOG;
use support::opaque::{Dice, append, bytes_of, open_behind};

const OPTIONS: Options = Options {
    segment_bytes: 6 << 10,
    quota_bytes: None,
};

/// What somebody was told.
#[derive(Debug, Default, Clone)]
struct Told {
    durable: Lsn,
    snapshot: Lsn,
    cursor: Lsn,
}

/// The folded log up to an LSN, as far as this test is concerned.
fn state(lsn: Lsn) -> Vec<u8> {
    (1..=lsn.0).flat_map(bytes_of).collect()
}

/// Starts everything from the disk, checks it against what was told, works for some rounds.
fn live(
    disk: &Arc<dyn Disk>,
    told: &mut Told,
    dice: &mut Dice,
    rounds: u64,
) -> persist::Result<()> {
    let store = Store::open(Arc::clone(disk));
    let loaded = store.load(|found: &Found| {
        let lsn = found.manifest.lsn;
        assert_eq!(found.read(&found.manifest.parts[0])?, state(lsn));
        assert_eq!(found.read(&found.manifest.parts[1])?, b"sealed");
        Ok::<_, Error>(())
    })?;
    assert_eq!(loaded.damaged, [], "a crash is no damage");
    let kept = loaded.built.map(|(manifest, ())| manifest);
    let from = kept.as_ref().map_or(Lsn::ZERO, |manifest| manifest.lsn);
    assert!(
        from >= told.snapshot,
        "a snapshot that was finished: {told:?}"
    );
    // The fall-back, too, has its log.
    if let Some(older) = store.floor()? {
        let mut from = persist::follow::Reader::new(Arc::clone(disk), older);
        from.read(told.durable, &mut |_, _| Ok(()))?;
    }
    let (mut writer, recovery) = open_behind(disk, OPTIONS, from)?;
    assert!(recovery.last_lsn >= told.durable, "{recovery:?}, {told:?}");
    told.durable = recovery.last_lsn;

    let followers = Followers::open(Arc::clone(disk), LOG)?;
    let follower = followers.register("history", Lsn::ZERO)?;
    assert!(follower.cursor() >= told.cursor, "{told:?}");
    assert!(follower.cursor() <= told.durable, "{told:?}");
    let mut reader = follower.reader(Arc::clone(disk));
    let mut sealed = kept.map(|manifest| manifest.parts[1]);

    for _ in 0..rounds {
        told.durable = append(&mut writer, 1 + dice.below(20))?;
        writer.prepare()?;
        if dice.below(3) == 0 {
            reader.read(told.durable, &mut |lsn, bytes| {
                assert_eq!(bytes, bytes_of(lsn.0));
                Ok(())
            })?;
            follower.save(told.durable)?;
            told.cursor = told.durable;
        }
        if dice.below(4) == 0 {
            let mut draft = store.begin(LOG, told.durable)?;
            draft.put(1, 0, &state(told.durable))?;
            match sealed {
                Some(part) => assert!(draft.keep(&part)?),
                None => sealed = Some(draft.put(2, 0, b"sealed")?),
            }
            draft.finish()?;
            told.snapshot = told.durable;
        }
        if let Some(floor) = retain::floor(&store, &followers)? {
            retain::trim(disk.as_ref(), floor)?;
        }
    }
    Ok(())
}

/// Where a machine must have died before a start can come by `point`.
fn before(point: &str) -> Option<&'static str> {
    match point {
        // A frame of which not every sector arrived; a segment that has a name and no frame.
        crash_points::RECOVERY_CUT => Some(crash_points::SEGMENT_FIRST_FRAME),
        crash_points::RECOVERY_UNUSED_REMOVED => Some(crash_points::SEGMENT_DIR_SYNCED),
        _ => None,
    }
}

fn seeds() -> u64 {
    let long = std::env::var("NULLRUN_TEST_SCALE").is_ok_and(|scale| scale == "long");
    if long { 1000 } else { 24 }
}

#[test]
fn what_was_acknowledged_is_there_after_dying_at_any_point() {
    for &point in crash_points::ALL {
        let mut deaths = 0;
        for seed in 0..seeds() {
            let mut dice = Dice::new(seed * 1009 + point.len() as u64);
            let faulty = FaultyDisk::default();
            let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
            let mut told = Told::default();
            // Twice in a row: the second time on what the first left.
            let deaths_of_seed = match before(point) {
                Some(before) => [(before, 1 + dice.below(4)), (point, 1)],
                None => [(point, 1 + dice.below(4)), (point, 1 + dice.below(2))],
            };
            for (at, nth) in deaths_of_seed {
                faulty.die_at(at, nth as u32);
                let ended = live(&disk, &mut told, &mut dice, 40);
                assert_eq!(
                    ended.is_err(),
                    faulty.is_dead(),
                    "{point}, {seed}: {ended:?}"
                );
                deaths += u32::from(faulty.is_dead() && at == point);
                faulty.crash(dice.coin());
            }
            live(&disk, &mut told, &mut dice, 12)
                .unwrap_or_else(|e| panic!("{point}, {seed}: {e}"));
        }
        let least = if before(point).is_some() { 1 } else { 30 };
        assert!(deaths > least, "{point}: reached {deaths} times");
    }
}

/// The same on a real file system, with a real process that ends without a farewell.
#[test]
#[cfg(debug_assertions)]
fn a_process_that_aborts_at_any_point_leaves_a_directory_that_starts() {
    use persist::disk::PlainDisk;
    const HERE: &str = "NULLRUN_TEST_CRASH_DIRECTORY";
    let name = "a_process_that_aborts_at_any_point_leaves_a_directory_that_starts";
    if let Some(path) = std::env::var_os(HERE) {
        let disk: Arc<dyn Disk> = Arc::new(PlainDisk::at(path.as_ref()).unwrap());
        live(&disk, &mut Told::default(), &mut Dice::new(3), 60).unwrap();
        return;
    }
    for point in crash_points::ALL {
        // A process that ends leaves what it wrote with the kernel: a start finds nothing torn.
        if *point == crash_points::RECOVERY_CUT {
            continue;
        }
        let directory = tempfile::TempDir::new().unwrap();
        let run = |at: &str| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(HERE, directory.path())
                .env("NULLRUN_TEST_CRASH_AT", at)
                .output()
                .unwrap()
        };
        let child = match before(point) {
            Some(before) => {
                assert!(!run(&format!("{before}:2")).status.success());
                run(point)
            }
            None => run(&format!("{point}:2")),
        };
        assert!(!child.status.success(), "{point} was not reached");
        let text = String::from_utf8_lossy(&child.stderr);
        assert!(!text.contains("panicked"), "{point}: {text}");
        let disk: Arc<dyn Disk> = Arc::new(PlainDisk::at(directory.path()).unwrap());
        live(&disk, &mut Told::default(), &mut Dice::new(4), 10).unwrap();
    }
}
