//! The log's thread: takes a frame, writes it, syncs it, says so. In idle time it makes room for what
//! comes next. While there is no space it tries again, five times a second, with the frame in hand.

use super::{Listener, Shared};
use crate::frame::FrameBuf;
use crate::log::Writer;
use crate::room::Room;
use crate::{Error, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between two attempts to make room.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts after the log was told to close.
const LAST_ATTEMPTS: u32 = 10;

pub(super) fn run(shared: &Shared, mut writer: Writer, mut listener: impl Listener) {
    if let Err(error) = serve(shared, &mut writer, &mut listener) {
        shared.state().failure = Some(error.to_string());
        listener.failed(error);
    }
}

fn serve(shared: &Shared, writer: &mut Writer, listener: &mut impl Listener) -> Result<()> {
    let mut tried = Instant::now();
    loop {
        let mut idle = true;
        match next(shared, writer.room()) {
            Next::Frame(mut frame) => {
                wait_for_room(shared, writer, &frame)?;
                let began = Instant::now();
                let last = writer.write(&mut frame)?;
                writer.sync()?;
                shared.syncs.note(began.elapsed());
                shared.durable.store(last.0, Ordering::SeqCst);
                listener.durable(last);
                let mut state = shared.state();
                state.pending.recycle(frame);
                idle = state.pending.is_empty();
            }
            Next::Nothing => {}
            Next::Closed => return Ok(()),
        }
        let due = match writer.room() {
            Room::Plenty => idle || writer.must_prepare(),
            Room::DiskFull | Room::Quota => tried.elapsed() >= RETRY,
        };
        if due {
            tried = Instant::now();
            prepare(writer)?;
        }
        tell(shared, writer);
    }
}

/// One step while space is plenty, so that no frame waits long; all of them while it is short, so
/// that it is known at once when it no longer is.
fn prepare(writer: &mut Writer) -> Result<()> {
    match writer.room() {
        Room::Plenty => {
            writer.prepare()?;
        }
        Room::DiskFull => while writer.prepare()? {},
        Room::Quota => {
            writer.recount()?;
            writer.prepare()?;
        }
    }
    Ok(())
}

/// Returns when the frame can be written. Until then nobody is told that it was, and nothing of it
/// has been.
fn wait_for_room(shared: &Shared, writer: &mut Writer, frame: &FrameBuf) -> Result<()> {
    let mut last_attempts = 0;
    while !writer.make_room(frame)? {
        tell(shared, writer);
        let state = shared.state();
        if state.closing {
            last_attempts += 1;
        }
        if last_attempts > LAST_ATTEMPTS {
            return Err(Error::Full {
                file: "the log".to_owned(),
            });
        }
        let waited = shared.wake.wait_timeout(state, RETRY);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}

fn tell(shared: &Shared, writer: &Writer) {
    shared.room.store(writer.room() as u8, Ordering::Relaxed);
}

enum Next {
    Frame(FrameBuf),
    /// Nothing to write for a while: time to look for room again.
    Nothing,
    /// The log closes and nothing is left.
    Closed,
}

fn next(shared: &Shared, room: Room) -> Next {
    let mut state = shared.state();
    loop {
        if let Some(frame) = state.pending.pop() {
            return Next::Frame(frame);
        }
        if state.closing {
            return Next::Closed;
        }
        state.waiting = true;
        if room.is_plenty() {
            state = shared
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting = false;
            continue;
        }
        let (after, timeout) = shared
            .wake
            .wait_timeout(state, RETRY)
            .unwrap_or_else(PoisonError::into_inner);
        state = after;
        state.waiting = false;
        if timeout.timed_out() && state.pending.is_empty() && !state.closing {
            return Next::Nothing;
        }
    }
}
