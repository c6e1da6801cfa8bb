//! The lost-pages shim (`loadtest/shim`): compiled on demand, mounted under a gateway, and its shadow turned into the
//! next data directory. The model and its limits are in `shim/README.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::cc;
use crate::error::{Error, Result};

const SOURCE: &str = include_str!("../shim/lostpages.c");

/// The compiled shim.
#[derive(Debug, Clone)]
pub struct Shim {
    /// Keeps the library's file alive as long as anybody may still start a process on it.
    _dir: Arc<TempDir>,
    library: PathBuf,
}

impl Shim {
    /// Compiles the shim into a temporary directory with `cc`.
    pub fn compile() -> Result<Self> {
        let dir = TempDir::with_prefix("lostpages-").map_err(Error::io("a temporary directory"))?;
        let library = dir.path().join("lostpages.so");
        cc::compile(SOURCE, &["-shared", "-fPIC"], &library)?;
        Ok(Self {
            _dir: Arc::new(dir),
            library,
        })
    }

    /// Places a data directory and its shadow under `parent`; `generation` keeps the directories of restarts apart.
    pub fn mount(&self, parent: &Path, generation: u32) -> Result<Mount> {
        let data_dir = parent.join(format!("data-{generation}"));
        fs::create_dir_all(&data_dir)
            .map_err(Error::io(format!("creating {}", data_dir.display())))?;
        Ok(Mount {
            shim: self.clone(),
            parent: parent.to_owned(),
            data_dir,
            generation,
        })
    }
}

/// A data directory on the shim.
#[derive(Debug, Clone)]
pub struct Mount {
    shim: Shim,
    parent: PathBuf,
    data_dir: PathBuf,
    generation: u32,
}

impl Mount {
    /// The directory the program works on.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What would be there after a power cut now.
    pub fn shadow_dir(&self) -> PathBuf {
        self.parent.join(format!("shadow-{}", self.generation))
    }

    /// The variables a process needs to run on this mount. A gateway's log is written plainly: the shim does not see
    /// what goes through io_uring and would take it for lost.
    pub fn environment(&self) -> [(&'static str, PathBuf); 7] {
        [
            ("LD_PRELOAD", self.shim.library.clone()),
            ("LOSTPAGES_DIR", self.data_dir.clone()),
            ("LOSTPAGES_SHADOW", self.shadow_dir()),
            ("LOSTPAGES_HANG_FILE", self.switch("hang")),
            ("LOSTPAGES_FAIL_SYNC", self.switch("fail-sync")),
            ("LOSTPAGES_FULL", self.switch("full")),
            ("NULLRUN_WAL_BACKEND", PathBuf::from("plain")),
        ]
    }

    /// While on, every sync blocks.
    pub fn hang_syncs(&self, on: bool) -> Result<()> {
        self.turn("hang", on)
    }

    /// While on, every sync fails with `EIO`.
    pub fn fail_syncs(&self, on: bool) -> Result<()> {
        self.turn("fail-sync", on)
    }

    /// While on, the disk is full: nothing is created and no file grows, and that fails with `ENOSPC`. What is there
    /// can be written over.
    pub fn fill(&self, on: bool) -> Result<()> {
        self.turn("full", on)
    }

    /// After the process is gone: a new mount on a copy of what was durable. The old directories are removed.
    pub fn after_power_cut(self) -> Result<Self> {
        let next = self.shim.mount(&self.parent, self.generation + 1)?;
        copy_tree(&self.shadow_dir(), &next.data_dir)?;
        for old in [
            self.data_dir.clone(),
            self.shadow_dir(),
            self.shadow_dir().with_extension("inodes"),
        ] {
            fs::remove_dir_all(&old).map_err(Error::io(format!("removing {}", old.display())))?;
        }
        Ok(next)
    }

    fn switch(&self, name: &str) -> PathBuf {
        self.parent.join(format!("{name}-{}", self.generation))
    }

    fn turn(&self, name: &str, on: bool) -> Result<()> {
        let path = self.switch(name);
        let done = if on {
            fs::write(&path, "")
        } else {
            fs::remove_file(&path)
        };
        done.map_err(Error::io(format!("switch {}", path.display())))
    }
}

/// Copies a directory tree; zeros at the end of files stay holes where the file system's copy keeps them.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| Error::io(format!("copying {}", path.display()));
    fs::create_dir_all(to).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(failed(&source))?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(failed(&source))?;
        }
    }
    Ok(())
}
