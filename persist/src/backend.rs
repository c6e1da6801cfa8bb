//! Which of the two file-system disks writes the log: [`PlainDisk`], which runs everywhere, or
//! `GlommioDisk`, which needs io_uring. `Wanted::Auto` takes glommio only where a probe passes and a
//! short measurement in the data directory finds it clearly faster.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod probe;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::probe;
#[cfg(target_os = "linux")]
pub use probe::probe;

use crate::disk::{Disk, PlainDisk};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Whichever is faster here.
    Auto,
    /// `write` and `fdatasync`.
    Plain,
    /// `O_DIRECT` through io_uring, or no start at all.
    Glommio,
}

/// What the log is written with.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// `plain` or `glommio`.
    pub name: &'static str,
    /// Why this one, for people.
    pub why: String,
}

/// Why glommio cannot write in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is missing, with the system's own words.
    pub reason: String,
    /// What would help.
    pub remedy: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.reason, self.remedy)
    }
}

impl std::error::Error for Obstacle {}

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The directory cannot be made or synced.
    #[error(transparent)]
    Directory(#[from] io::Error),
    /// Glommio was asked for by name.
    #[error(transparent)]
    Glommio(Obstacle),
}

/// Makes the directory `root` if it is not there and decides what writes in it. Takes a tenth of a
/// second at most, and nothing with [`Wanted::Plain`].
///
/// # Errors
/// If the directory cannot be used, or [`Wanted::Glommio`] cannot be had.
pub fn choose(root: &Path, wanted: Wanted) -> Result<Choice, Unusable> {
    let plain = PlainDisk::at(root)?;
    if wanted == Wanted::Plain {
        return Ok(Choice {
            disk: Arc::new(plain),
            name: "plain",
            why: "as set".to_owned(),
        });
    }
    match (attempt(root), wanted) {
        (Ok(found), Wanted::Glommio) => Ok(found.glommio(format!("as set; {}", found.figures))),
        (Ok(found), _) if found.clearly_faster => {
            Ok(found.glommio(format!("faster here: {}", found.figures)))
        }
        (Ok(found), _) => Ok(Choice {
            disk: Arc::new(plain),
            name: "plain",
            why: found.figures,
        }),
        (Err(obstacle), Wanted::Glommio) => Err(Unusable::Glommio(obstacle)),
        (Err(obstacle), _) => Ok(Choice {
            disk: Arc::new(plain),
            name: "plain",
            why: format!("glommio cannot be used: {}", obstacle.reason),
        }),
    }
}

/// A glommio disk that worked, and how it did.
struct Attempt {
    disk: Arc<dyn Disk>,
    clearly_faster: bool,
    figures: String,
}

impl Attempt {
    fn glommio(&self, why: String) -> Choice {
        Choice {
            disk: Arc::clone(&self.disk),
            name: "glommio",
            why,
        }
    }
}

#[cfg(target_os = "linux")]
fn attempt(root: &Path) -> Result<Attempt, Obstacle> {
    probe(root)?;
    let failed = |error: io::Error| Obstacle {
        reason: format!("a trial in {} failed: {error}", root.display()),
        remedy: "Check the disk and its free space.".to_owned(),
    };
    let disk = crate::disk::GlommioDisk::at(root).map_err(failed)?;
    let measured = measure::compare(root).map_err(failed)?;
    Ok(Attempt {
        disk: Arc::new(disk),
        clearly_faster: measured.clearly_faster(),
        figures: measured.to_string(),
    })
}

#[cfg(not(target_os = "linux"))]
fn attempt(root: &Path) -> Result<Attempt, Obstacle> {
    probe(root)?;
    Err(elsewhere::not_linux())
}
