//! Group commit: one thread writes and syncs, one frame in flight, while the next one fills. There
//! is no linger: a frame leaves as soon as the disk is free, so under load each sync pays for all
//! that came during the one before.

use crate::frame::{FrameBuf, MAX_PAYLOAD, MAX_RECORD};
use crate::log::Writer;
use crate::record::Record;
use crate::units::Lsn;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Records of one pump turn, encoded and in order. Reused from turn to turn.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// Encodes a record behind the others.
    ///
    /// # Errors
    /// If it is larger than [`MAX_RECORD`], which means that a bound on some input is missing.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let undecodable = |what: String| Error::Undecodable {
            lsn: Lsn::ZERO,
            what,
        };
        let bytes = postcard::to_extend(record, std::mem::take(&mut self.bytes));
        self.bytes = bytes.map_err(|e| undecodable(e.to_string()))?;
        let len = self.bytes.len() - start - 4;
        if len > MAX_RECORD {
            self.bytes.truncate(start);
            return Err(undecodable(format!("{len} bytes")));
        }
        crate::frame::put(&mut self.bytes, start, &(len as u32).to_le_bytes());
        self.count += 1;
        Ok(())
    }

    /// Records in it.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Nothing in it?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Every encoded record, in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || crate::frame::next_record(&mut rest))
    }
}

/// Frames that wait for the disk, in order.
#[derive(Debug, Default)]
pub struct Pending {
    frames: VecDeque<FrameBuf>,
    spare: Vec<FrameBuf>,
}

impl Pending {
    /// Puts a batch behind what waits, in as few frames as their bound allows.
    pub fn push(&mut self, batch: &Batch) {
        if batch.bytes.len() <= MAX_PAYLOAD {
            self.frame_with_room(batch.bytes.len())
                .push(&batch.bytes, batch.count);
            return;
        }
        for record in batch.records() {
            let frame = self.frame_with_room(record.len() + 4);
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            frame.push(&len.to_le_bytes(), 0);
            frame.push(record, 1);
        }
    }

    fn frame_with_room(&mut self, bytes: usize) -> &mut FrameBuf {
        let fits = self
            .frames
            .back()
            .is_some_and(|last| last.payload_len() + bytes <= MAX_PAYLOAD);
        if !fits {
            let frame = self.spare.pop().unwrap_or_default();
            self.frames.push_back(frame);
        }
        // The branch above has just made sure that there is one.
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// Takes the oldest frame.
    pub fn pop(&mut self) -> Option<FrameBuf> {
        self.frames.pop_front()
    }

    /// Gives a frame's memory back.
    pub fn recycle(&mut self, mut frame: FrameBuf) {
        frame.clear();
        if self.spare.len() < 2 {
            self.spare.push(frame);
        }
    }
}

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
    bytes: AtomicU64,
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
    /// If the system gives no thread.
    pub fn start(writer: Writer, listener: impl Listener) -> Result<Self> {
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
            bytes: AtomicU64::new(0),
        });
        let thread = std::thread::Builder::new()
            .name("nullrun-log".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || run(&shared, writer, listener)
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
        state.next_lsn = first.plus(u64::from(batch.count));
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

    /// The last LSN that survives a crash.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// Bytes of records appended since the start.
    #[must_use]
    pub fn appended_bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Writes and syncs what is pending, then ends the thread.
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

fn run(shared: &Shared, mut writer: Writer, mut listener: impl Listener) {
    loop {
        let Some(mut frame) = next(shared) else {
            return;
        };
        let result = writer
            .write(&mut frame)
            .and_then(|last| writer.sync().map(|()| last));
        match result {
            Ok(last) => {
                shared.durable.store(last.0, Ordering::Release);
                listener.durable(last);
            }
            Err(error) => return fail(shared, error, &mut listener),
        }
        let mut state = shared.state();
        state.pending.recycle(frame);
        let idle = state.pending.frames.is_empty();
        drop(state);
        if idle && let Err(error) = writer.prepare() {
            return fail(shared, error, &mut listener);
        }
    }
}

/// Waits for a frame; `None` when the log closes and nothing is left.
fn next(shared: &Shared) -> Option<FrameBuf> {
    let mut state = shared.state();
    loop {
        if let Some(frame) = state.pending.pop() {
            return Some(frame);
        }
        if state.closing {
            return None;
        }
        state.waiting = true;
        state = shared
            .wake
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting = false;
    }
}

fn fail(shared: &Shared, error: Error, listener: &mut impl Listener) {
    shared.state().failure = Some(error.to_string());
    listener.failed(error);
}
