//! The file system, with the log's appends written by glommio: whole blocks, `O_DIRECT`, io_uring.
//! Everything else (reading, names, and a file until it was synced for the first time) is
//! [`PlainDisk`]. `crate::backend` decides whether a machine gets this one; nobody may make a
//! `GlommioDisk` where its probe has not passed, because glommio panics without io_uring.
//!
//! **The bridge.** [`DiskFile`] is synchronous and moves between threads, glommio is neither. So an
//! executor lives on each thread that writes (`executor`), one operation is run on it to its end,
//! and between operations the file is held in the form that may move (`direct`).
//!
//! **A file is plain until its first sync.** A segment is made, zeroed and synced before it gets its
//! name, and an existing one is synced before anything is appended to it. Written through the page
//! cache this is faster, and the thread that only opens the log needs no executor.
//!
//! **Why mixing `O_DIRECT` writes with buffered reads is right here.** Before a direct write the
//! kernel writes back and drops the cached pages of its range, and drops them again after it: so a
//! buffered read that begins after a direct write has returned sees what was written. A read that
//! runs at the same time may see either; nobody asks for bytes that are not durable yet. What this
//! does not cover is a second writer of the same range through the cache or a mapping: there is one
//! writer per file, and none maps it. While a file is plain, all its writes are synced before the
//! first direct one.
//!
//! **Blocks.** A direct write covers whole blocks, so the bytes around `bytes` in its first and last
//! block are written again as they are. A crash may tear such a block between sectors, but each
//! sector holds old bytes that are equal in both versions, or bytes nobody has acknowledged.

mod blocks;
mod direct;
mod executor;

use super::plain::PlainFile;
use super::{Disk, DiskFile, PlainDisk};
use blocks::{Block, Known, Patch};
use direct::DirectFile;
use std::io;
use std::path::Path;

/// One directory of the file system, its files appended to through glommio.
#[derive(Debug, Clone)]
pub struct GlommioDisk {
    plain: PlainDisk,
}

impl GlommioDisk {
    /// Uses `root`, making it and its parents if they are not there.
    pub fn at(root: &Path) -> io::Result<Self> {
        Ok(Self {
            plain: PlainDisk::at(root)?,
        })
    }
}

impl Disk for GlommioDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GlommioFile::new(self.plain.create_file(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GlommioFile::new(self.plain.open_file(name)?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.plain.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plain.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.plain.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.plain.sync_dir()
    }

    fn path_of(&self, name: &str) -> String {
        self.plain.path_of(name)
    }

    fn reach(&self, point: &'static str) -> io::Result<()> {
        self.plain.reach(point)
    }
}

#[derive(Debug)]
struct GlommioFile {
    plain: PlainFile,
    /// Was it synced once? From then on it is written directly.
    synced: bool,
    /// Opened by the first direct write.
    direct: Option<DirectFile>,
    /// What stands on disk, as far as it need not be read.
    known: Known,
}

impl GlommioFile {
    fn new(plain: PlainFile) -> Self {
        Self {
            plain,
            synced: false,
            direct: None,
            known: Known::default(),
        }
    }

    /// The block at `at`: what is on disk there, zeros behind the end of the file.
    fn block(&self, at: u64) -> io::Result<Box<Block>> {
        if let Some(block) = self.known.block(at) {
            return Ok(block);
        }
        let mut block = blocks::zeros();
        self.plain.read_at(at, block.as_mut_slice())?;
        Ok(block)
    }

    fn write_direct(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut patch = Patch::new(offset, bytes);
        for at in patch.edges() {
            let block = self.block(at)?;
            patch.keep(at, block);
        }
        let direct = match &mut self.direct {
            Some(direct) => direct,
            none => none.insert(DirectFile::open(&self.plain.0)?),
        };
        let len = self.plain.len()?.max(patch.end());
        // Whatever the next lines write, nothing is known of it until they have succeeded.
        let known = std::mem::take(&mut self.known);
        direct.write(&patch)?;
        if patch.span().end > len {
            // The last block reaches behind the end: the file must not.
            self.plain.0.set_len(len)?;
        }
        self.known = known.after(&patch);
        Ok(())
    }
}

impl DiskFile for GlommioFile {
    fn len(&self) -> io::Result<u64> {
        self.plain.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.plain.read_at(offset, into)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.synced {
            self.write_direct(offset, bytes)
        } else {
            self.plain.write_at(offset, bytes)
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        // The system call, also behind direct writes: it covers the file, not the descriptor. Through
        // the ring a kernel thread would do the same later, while this one waits.
        self.plain.sync()?;
        self.synced = true;
        Ok(())
    }
}
