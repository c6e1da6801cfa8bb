//! A file opened for direct writes, in the form that may move between threads.

use super::blocks::{BLOCK, Patch};
use super::executor;
use glommio::io::{DmaFile, OpenOptions, OwnedDmaFile};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Most bytes of one write: fits into the executor's registered memory.
const PIECE: u64 = 256 << 10;

/// An open file without an executor; each operation lends it to the thread's own.
#[derive(Debug)]
pub(super) struct DirectFile {
    /// Empty only while an operation runs.
    file: Option<OwnedDmaFile>,
}

impl DirectFile {
    /// Opens the file behind `plain` once more. Through its descriptor, not its name: that stays the
    /// same file when it is renamed or removed.
    pub(super) fn open(plain: &File) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", plain.as_raw_fd());
        let file = executor::run(async move {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .dma_open(path)
                .await?;
            if !BLOCK.is_multiple_of(file.alignment()) {
                let alignment = file.alignment();
                file.close().await?;
                return Err(io::Error::other(format!(
                    "this disk writes in blocks of {alignment} bytes, more than the log's {BLOCK}: \
                     use the plain backend"
                )));
            }
            Ok(OwnedDmaFile::from(file))
        })??;
        Ok(Self { file: Some(file) })
    }

    /// Writes the blocks of `patch`, in order.
    pub(super) fn write(&mut self, patch: &Patch<'_>) -> io::Result<()> {
        self.lend(async |file| {
            let span = patch.span();
            let mut at = span.start;
            while at < span.end {
                let piece = (span.end - at).min(PIECE);
                let mut buffer = file.alloc_dma_buffer(piece as usize);
                let bytes = buffer.as_bytes_mut();
                bytes.fill(0);
                patch.fill(at, bytes);
                let written = file.write_at(buffer, at).await? as u64;
                // A short write goes on at the last whole block; the next one says why it was short.
                let blocks = written - written % BLOCK;
                if blocks == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += blocks;
            }
            Ok(())
        })
    }

    fn lend<T>(&mut self, act: impl AsyncFnOnce(&DmaFile) -> io::Result<T>) -> io::Result<T> {
        let Some(owned) = self.file.take() else {
            return Err(io::Error::other("an earlier operation did not end"));
        };
        let (owned, result) = executor::run(async move {
            let file = DmaFile::from(owned);
            let result = act(&file).await;
            (OwnedDmaFile::from(file), result)
        })?;
        self.file = Some(owned);
        result
    }
}

impl Drop for DirectFile {
    /// Closes through the executor: dropped as it is, an [`OwnedDmaFile`] panics when closing fails.
    fn drop(&mut self) {
        if let Some(owned) = self.file.take() {
            // Everything that had to be durable was synced, so nothing hangs on the answer.
            let _closed = executor::run(async move { DmaFile::from(owned).close().await });
        }
    }
}
