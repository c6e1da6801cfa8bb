//! Compiles the C programs in `loadtest/shim` when they are needed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};

/// Compiles `source` with `cc` to the file `target`; the source is put beside it.
pub(crate) fn compile(source: &str, flags: &[&str], target: &Path) -> Result<()> {
    let file = target.with_extension("c");
    fs::write(&file, source).map_err(Error::io(format!("writing {}", file.display())))?;
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Wextra", "-Werror"])
        .args(flags)
        .arg("-o")
        .args([target, &file])
        .output()
        .map_err(|error| Error::Shim(error.to_string()))?;
    if !compiled.status.success() {
        return Err(Error::Shim(
            String::from_utf8_lossy(&compiled.stderr).into_owned(),
        ));
    }
    Ok(())
}
