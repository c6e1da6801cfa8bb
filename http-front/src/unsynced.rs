//! A disk whose syncs do nothing: the defect that the crash tests must find. Not in release builds.

use persist::disk::{Disk, DiskFile, PlainDisk};
use std::io;

/// The file system, without its syncs.
#[derive(Debug)]
pub struct UnsyncedDisk(pub PlainDisk);

impl Disk for UnsyncedDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile {
            inner: self.0.create(name)?,
            made: true,
        }))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(UnsyncedFile {
            inner: self.0.open(name)?,
            made: false,
        }))
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn path_of(&self, name: &str) -> String {
        self.0.path_of(name)
    }
    fn reach(&self, point: &'static str) -> io::Result<()> {
        self.0.reach(point)
    }
}

#[derive(Debug)]
struct UnsyncedFile {
    inner: Box<dyn DiskFile>,
    /// The first sync of a new file is real: the defect is about what is appended to it.
    made: bool,
}

impl DiskFile for UnsyncedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, into)
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.made) {
            self.inner.sync()
        } else {
            Ok(())
        }
    }
}
