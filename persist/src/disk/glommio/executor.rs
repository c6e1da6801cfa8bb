//! A glommio executor for each thread that writes, made by its first direct write and gone with the
//! thread.

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use std::cell::RefCell;
use std::io;

/// Operations in the ring at once; the log has one.
const RING_DEPTH: usize = 8;
/// Registered memory for writes, in bytes. A larger one does not fit under a usual memlock limit.
const IO_MEMORY: usize = 1 << 20;

thread_local! {
    static EXECUTOR: RefCell<Option<LocalExecutor>> = const { RefCell::new(None) };
}

/// Runs `future` to its end on this thread. It does not spin: while the disk works the thread sleeps.
///
/// # Errors
/// If the executor cannot be made, or an operation of this thread is running already.
pub(super) fn run<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let on_this_thread = |slot: &RefCell<Option<LocalExecutor>>| {
        let mut slot = slot.try_borrow_mut().map_err(io::Error::other)?;
        let executor = match &mut *slot {
            Some(executor) => executor,
            none => none.insert(make()?),
        };
        Ok(executor.run(future))
    };
    EXECUTOR
        .try_with(on_this_thread)
        .map_err(io::Error::other)?
}

fn make() -> io::Result<LocalExecutor> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY)
        .make()
        .map_err(io::Error::from)
}
