//! The file system: positioned writes and `fdatasync`. The reference backend.

use super::{Disk, DiskFile};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// One directory of the file system.
#[derive(Debug, Clone)]
pub struct PlainDisk {
    root: PathBuf,
    read_only: bool,
    /// Nobody but their owner may read the files made here.
    private: bool,
}

impl PlainDisk {
    /// Uses `root`, making it and its parents if they are not there. Their names are made durable at
    /// every start: an earlier one may have been cut off before it could.
    pub fn at(root: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> = root.ancestors().take_while(|path| !path.is_dir()).collect();
        std::fs::create_dir_all(root)?;
        for made in missing {
            File::open(parent(made))?.sync_all()?;
        }
        match File::open(parent(root)) {
            Ok(parent) => parent.sync_all()?,
            // A parent that this user may pass but not read: whoever made `root` answers for it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        Ok(Self {
            root: root.to_owned(),
            read_only: false,
            private: false,
        })
    }

    /// The same directory, for files that hold secrets: whoever makes them is the only one to read
    /// them (mode 0600).
    #[must_use]
    pub fn private(self) -> Self {
        Self {
            private: true,
            ..self
        }
    }

    /// Looks at `root` without changing anything in it, whether it is there or not: needs only the
    /// right to read, and may be used beside a running gateway.
    #[must_use]
    pub fn read_only(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            read_only: true,
            private: false,
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

impl PlainDisk {
    /// [`Disk::create`], for another disk that keeps its files here.
    pub(super) fn create_file(&self, name: &str) -> io::Result<PlainFile> {
        self.writable()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(if self.private { 0o600 } else { 0o666 })
            .open(self.root.join(name))?;
        Ok(PlainFile(file))
    }

    /// [`Disk::open`], likewise.
    pub(super) fn open_file(&self, name: &str) -> io::Result<PlainFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .open(self.root.join(name))?;
        Ok(PlainFile(file))
    }
}

impl Disk for PlainDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.create_file(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.open_file(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if self.read_only && error.kind() == io::ErrorKind::NotFound => {
                return Ok(names);
            }
            entries => entries?,
        };
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::remove_file(self.root.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.writable()?;
        File::open(&self.root)?.sync_all()
    }

    fn path_of(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    #[cfg(debug_assertions)]
    fn reach(&self, point: &'static str) -> io::Result<()> {
        abort_if_asked(point);
        Ok(())
    }
}

/// `NULLRUN_TEST_CRASH_AT=point` ends the process, without any farewell, when it first reaches
/// `point`; `point:3` when it does so for the third time. Not in release builds.
#[cfg(debug_assertions)]
fn abort_if_asked(point: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ASKED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("NULLRUN_TEST_CRASH_AT").ok()?;
        let (name, nth) = match text.split_once(':') {
            Some((name, nth)) => (name.to_owned(), nth.parse().ok()?),
            None => (text, 1),
        };
        Some((name, nth))
    });
    if let Some((name, nth)) = asked
        && name == point
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    {
        std::process::abort();
    }
}

/// An open file; the system's own, for whoever builds on it.
#[derive(Debug)]
pub(super) struct PlainFile(pub(super) File);

impl DiskFile for PlainFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
