//! A short race between the two disks in the very directory: 4 KiB and a sync, into zeros written
//! ahead, in turns.

use crate::disk::{Disk, DiskFile, GlommioDisk, PlainDisk};
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Everything, files included, takes about this long at most.
const BUDGET: Duration = Duration::from_millis(80);
/// Turns, if the budget allows.
const TURNS: usize = 64;
/// Fewer turns tell nothing; after so many a backend that is behind has lost.
const FEWEST_TURNS: usize = 8;
/// Bytes of one write.
const WRITE: usize = 4096;

/// The medians of one write and sync.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    plain: Duration,
    glommio: Duration,
    turns: usize,
}

impl Measured {
    /// Is glommio faster by a tenth or more, in turns enough to tell?
    pub(super) fn clearly_faster(&self) -> bool {
        self.turns >= FEWEST_TURNS && self.glommio * 10 <= self.plain * 9
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "write + sync of 4 KiB takes {} us plain, {} us glommio ({} turns)",
            self.plain.as_micros(),
            self.glommio.as_micros(),
            self.turns
        )
    }
}

/// Races them in `root`. The probe must have passed.
///
/// # Errors
/// If one cannot write.
pub(super) fn compare(root: &Path) -> io::Result<Measured> {
    // On a thread of its own, which takes glommio's executor with it when it ends.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("nullrun-log-race".to_owned())
            .spawn_scoped(scope, || race(root))?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the measurement panicked")))
    })
}

fn race(root: &Path) -> io::Result<Measured> {
    let began = Instant::now();
    let plain_disk = PlainDisk::at(root)?;
    let glommio_disk = GlommioDisk::at(root)?;
    let mut plain = Lane::new(&plain_disk, "backend-plain.baking")?;
    let mut glommio = Lane::new(&glommio_disk, "backend-glommio.baking")?;
    while plain.times.len() < TURNS && began.elapsed() < BUDGET {
        plain.turn()?;
        glommio.turn()?;
        let turns = plain.times.len();
        if turns >= FEWEST_TURNS && turns.is_multiple_of(4) && plain.median() < glommio.median() {
            break;
        }
    }
    Ok(Measured {
        plain: plain.median(),
        glommio: glommio.median(),
        turns: plain.times.len(),
    })
}

/// A file and the times of its writes.
struct Lane<'a> {
    disk: &'a dyn Disk,
    name: &'static str,
    file: Box<dyn DiskFile>,
    next: u64,
    times: Vec<Duration>,
}

impl<'a> Lane<'a> {
    fn new(disk: &'a dyn Disk, name: &'static str) -> io::Result<Self> {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut lane = Self {
            disk,
            name,
            file: disk.create(name)?,
            next: 0,
            times: Vec::with_capacity(TURNS),
        };
        lane.file.write_at(0, &[0; (TURNS + 1) * WRITE])?;
        lane.file.sync()?;
        // The first write also opens and registers things: not a turn.
        lane.write()?;
        Ok(lane)
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_at(self.next, &[0x5a; WRITE])?;
        self.next += WRITE as u64;
        self.file.sync()
    }

    fn turn(&mut self) -> io::Result<()> {
        let began = Instant::now();
        self.write()?;
        self.times.push(began.elapsed());
        Ok(())
    }

    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        // What stays behind is removed by the next log that opens here.
        let _removed = self.disk.remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glommio_must_win_by_a_tenth_in_turns_enough() {
        let measured = |plain, glommio, turns| Measured {
            plain: Duration::from_micros(plain),
            glommio: Duration::from_micros(glommio),
            turns,
        };
        assert!(measured(100, 90, 8).clearly_faster());
        assert!(!measured(100, 91, 64).clearly_faster());
        assert!(!measured(100, 50, 7).clearly_faster());
    }
}
