//! A disk for tests that behaves as badly as a real one may: after a crash, of everything written
//! since the last sync each 512-byte sector may be there or not, names made since the last
//! directory sync may be gone, and writes and syncs fail when told to. It can also be full, and die
//! at a named crash point.

use super::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

/// What goes wrong from now on. Counters count down: `Some(0)` fails the next operation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Writes until one fails, having written only a part.
    pub fail_write_in: Option<u32>,
    /// Syncs until one fails.
    pub fail_sync_in: Option<u32>,
}

#[derive(Debug, Default, Clone)]
struct Image {
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct FileState {
    /// What a reader sees now.
    current: Image,
    /// What a crash certainly leaves.
    durable: Image,
    /// Ranges written since the last sync.
    dirty: Vec<(usize, usize)>,
}

#[derive(Debug, Default)]
struct State {
    /// Names a reader sees now.
    names: BTreeMap<String, u64>,
    /// Names a crash certainly leaves.
    durable_names: BTreeMap<String, u64>,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    faults: Faults,
    /// Grows with each crash: handles of an earlier life do nothing.
    life: u64,
    /// No write may make a file longer.
    full: bool,
    /// Where it dies, and how often it has yet to come by there.
    dies_at: Option<(String, u32)>,
    /// Where it died. Nothing works until the crash.
    died_at: Option<&'static str>,
}

impl State {
    fn alive(&self) -> io::Result<()> {
        match self.died_at {
            None => Ok(()),
            Some(point) => Err(io::Error::other(format!("the machine died at {point}"))),
        }
    }
}

/// An in-memory directory with a crash in it; clones share it.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyDisk {
    /// Sets what fails next.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// While full, a write that makes a file longer fails as `ENOSPC` after half of it; writing over
    /// bytes that are there works. A crash changes nothing about it.
    pub fn set_full(&self, full: bool) {
        lock(&self.state).full = full;
    }

    /// The machine dies when `point` is reached for the `nth` time from now (1 is the next time):
    /// that and everything after it fails, until [`FaultyDisk::crash`].
    pub fn die_at(&self, point: &str, nth: u32) {
        lock(&self.state).dies_at = Some((point.to_owned(), nth));
    }

    /// Has it died at its crash point?
    #[must_use]
    pub fn is_dead(&self) -> bool {
        lock(&self.state).died_at.is_some()
    }

    /// Loses power. `coin` decides, for each unsynced sector and name, whether it made it: true
    /// keeps it. Files opened before are dead.
    pub fn crash(&self, mut coin: impl FnMut() -> bool) {
        let mut state = lock(&self.state);
        state.life += 1;
        state.faults = Faults::default();
        state.dies_at = None;
        state.died_at = None;
        let (now, before) = (state.names.clone(), state.durable_names.clone());
        let mut names = before.clone();
        for (name, id) in &now {
            if before.get(name) != Some(id) && coin() {
                names.insert(name.clone(), *id);
            }
        }
        for name in before.keys() {
            if !now.contains_key(name) && coin() {
                names.remove(name);
            }
        }
        for file in state.files.values_mut() {
            let mut survived = file.durable.clone();
            for (from, to) in std::mem::take(&mut file.dirty) {
                let mut at = from;
                while at < to {
                    let end = (at / SECTOR + 1) * SECTOR;
                    let end = end.min(to);
                    if coin() {
                        if survived.bytes.len() < end {
                            survived.bytes.resize(end, 0);
                        }
                        if let (Some(into), Some(bytes)) = (
                            survived.bytes.get_mut(at..end),
                            file.current.bytes.get(at..end),
                        ) {
                            into.copy_from_slice(bytes);
                        }
                    }
                    at = end;
                }
            }
            file.current = survived.clone();
            file.durable = survived;
        }
        state.names.clone_from(&names);
        state.durable_names = names;
    }

    /// Flips one bit of a file, current and durable: damage.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut state = lock(&self.state);
        let Some(id) = state.names.get(name).copied() else {
            return;
        };
        if let Some(file) = state.files.get_mut(&id) {
            for image in [&mut file.current, &mut file.durable] {
                if let Some(place) = image.bytes.get_mut(byte) {
                    *place ^= 1 << (bit & 7);
                }
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = lock(&self.state);
        state.alive()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::default());
        state.names.insert(name.to_owned(), id);
        let life = state.life;
        Ok(Box::new(FaultyFile {
            state: Arc::clone(&self.state),
            id,
            life,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = lock(&self.state);
        state.alive()?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FaultyFile {
            state: Arc::clone(&self.state),
            id,
            life: state.life,
        }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = lock(&self.state);
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.alive()?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.alive()?;
        match state.names.remove(name) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.alive()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn reach(&self, point: &'static str) -> io::Result<()> {
        let mut state = lock(&self.state);
        if let Some((at, left)) = &mut state.dies_at
            && at == point
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.dies_at = None;
                state.died_at = Some(point);
            }
        }
        state.alive()
    }

    fn path_of(&self, name: &str) -> String {
        format!("faulty:{name}")
    }
}

#[derive(Debug)]
struct FaultyFile {
    state: Arc<Mutex<State>>,
    id: u64,
    life: u64,
}

impl FaultyFile {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut FileState, &mut Faults) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = lock(&self.state);
        state.alive()?;
        if state.life != self.life {
            return Err(io::Error::other("this handle did not survive the crash"));
        }
        let State { files, faults, .. } = &mut *state;
        let file = files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        act(file, faults)
    }
}

/// Counts a fault down; true when it strikes now.
fn strikes(counter: &mut Option<u32>) -> bool {
    match counter {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|file, _| Ok(file.current.bytes.len() as u64))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.with(|file, _| {
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let available = file.current.bytes.get(from..).unwrap_or_default();
            let n = available.len().min(into.len());
            if let (Some(into), Some(bytes)) = (into.get_mut(..n), available.get(..n)) {
                into.copy_from_slice(bytes);
            }
            Ok(n)
        })
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let full = lock(&self.state).full;
        self.with(|file, faults| {
            let from = usize::try_from(offset).map_err(io::Error::other)?;
            let full = full && from + bytes.len() > file.current.bytes.len();
            let failed = strikes(&mut faults.fail_write_in);
            let len = if failed || full {
                bytes.len() / 2
            } else {
                bytes.len()
            };
            let end = from + len;
            if file.current.bytes.len() < end {
                file.current.bytes.resize(end, 0);
            }
            if let (Some(place), Some(bytes)) =
                (file.current.bytes.get_mut(from..end), bytes.get(..len))
            {
                place.copy_from_slice(bytes);
            }
            file.dirty.push((from, end));
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if failed {
                return Err(io::Error::other("injected write failure"));
            }
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|file, faults| {
            if strikes(&mut faults.fail_sync_in) {
                return Err(io::Error::other("injected sync failure"));
            }
            let FileState {
                current,
                durable,
                dirty,
            } = file;
            durable.bytes.resize(current.bytes.len(), 0);
            for (from, to) in dirty.drain(..) {
                if let (Some(into), Some(bytes)) =
                    (durable.bytes.get_mut(from..to), current.bytes.get(from..to))
                {
                    into.copy_from_slice(bytes);
                }
            }
            Ok(())
        })
    }
}
