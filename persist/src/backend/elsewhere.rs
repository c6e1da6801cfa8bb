//! Systems without io_uring.

use super::Obstacle;
use std::path::Path;

/// What stands in glommio's way where there is no Linux.
pub(super) fn not_linux() -> Obstacle {
    Obstacle {
        reason: "io_uring is a part of Linux, and this is another system".to_owned(),
        remedy: "Run the gateway on Linux 5.8 or newer.".to_owned(),
    }
}

/// Always an obstacle.
///
/// # Errors
/// Always.
pub fn probe(_root: &Path) -> Result<(), Obstacle> {
    Err(not_linux())
}
