//! Group commit: one thread writes and syncs, one frame in flight, while the next one fills. There
//! is no linger: a frame leaves as soon as the disk is free, so under load each sync pays for all
//! that came during the one before.

mod batch;
mod thread;

pub use batch::{Batch, Pending};

use crate::latency::Latency;
use crate::log::Writer;
use crate::room::Room;
use crate::units::Lsn;
use crate::{Error, Result};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

#[derive(Debug)]
struct State {
    pending: Pending,
    next_lsn: Lsn,
    waiting: bool,
    closing: bool,
    failure: Option<String>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    durable: AtomicU64,
    appended: AtomicU64,
    bytes: AtomicU64,
    room: AtomicU8,
    syncs: Latency,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running log.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the log tells the process.
pub trait Listener: Send + 'static {
    /// Everything up to `lsn` is durable.
    fn durable(&mut self, lsn: Lsn);
    /// A write or sync failed. Nothing is durable from here on; the process must end.
    fn failed(&mut self, error: Error);
}

impl Log {
    /// Starts the writer's thread.
    ///
    /// # Errors
    /// If the system gives no thread, or the disk fails.
    pub fn start(mut writer: Writer, listener: impl Listener) -> Result<Self> {
        // Whether space is short is known before anybody asks.
        writer.prepare()?;
        let next_lsn = writer.next_lsn();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                pending: Pending::default(),
                next_lsn,
                waiting: false,
                closing: false,
                failure: None,
            }),
            wake: Condvar::new(),
            durable: AtomicU64::new(next_lsn.0 - 1),
            appended: AtomicU64::new(next_lsn.0 - 1),
            bytes: AtomicU64::new(0),
            room: AtomicU8::new(writer.room() as u8),
            syncs: Latency::default(),
        });
        let thread = std::thread::Builder::new()
            .name("nullrun-log".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || thread::run(&shared, writer, listener)
            })
            .map_err(|e| Error::io("start the thread of", "the log", e))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Appends the records of one turn; returns the LSN of the first. They are durable when
    /// [`Log::durable_lsn`] has reached the last.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a failure.
    pub fn append(&self, batch: &Batch) -> Result<Lsn> {
        let mut state = self.shared.state();
        if let Some(failure) = &state.failure {
            return Err(Error::Poisoned(failure.clone()));
        }
        let first = state.next_lsn;
        state.pending.push(batch);
        state.next_lsn = first.plus(u64::from(batch.count()));
        let last = state.next_lsn.0 - 1;
        self.shared.appended.store(last, Ordering::Release);
        let wake = state.waiting;
        drop(state);
        self.shared
            .bytes
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(first)
    }

    /// The last LSN given out.
    #[must_use]
    pub fn appended_lsn(&self) -> Lsn {
        Lsn(self.shared.appended.load(Ordering::Acquire))
    }

    /// The last LSN that survives a crash.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        // With what waits for it in one order: see where the log rings.
        Lsn(self.shared.durable.load(Ordering::SeqCst))
    }

    /// Bytes of records appended since the start.
    #[must_use]
    pub fn appended_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How long frames took to be written and synced.
    #[must_use]
    pub fn sync_times(&self) -> &Latency {
        &self.shared.syncs
    }

    /// Is there space for more? One atomic load. Whoever may refuse, does so when there is not; what
    /// is appended nevertheless is written, if need be as soon as space is freed.
    #[must_use]
    pub fn room(&self) -> Room {
        Room::from_u8(self.shared.room.load(Ordering::Relaxed))
    }

    /// Writes and syncs what is pending, then ends the thread. If the disk is full and stays so, it
    /// gives up after two seconds: nobody was told that what is lost then was there.
    pub fn close(mut self) {
        self.tell_the_thread();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has ended the process through its hook already.
            let _ended = thread.join();
        }
    }

    fn tell_the_thread(&self) {
        self.shared.state().closing = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for Log {
    /// The thread ends by itself after what is pending, unless the disk hangs: whoever gives up on
    /// the disk must not hang with it. [`Log::close`] waits.
    fn drop(&mut self) {
        self.tell_the_thread();
    }
}
