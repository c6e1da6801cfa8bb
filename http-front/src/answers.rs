//! Which answers tests have seen: each route's statuses, appended once to the file of
//! `NULLRUN_TEST_ANSWERS`. `http-front/tests/answers.py` compares them with the description of the API.
//! Not in release builds.

use http::{Method, StatusCode};
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

static SEEN: OnceLock<Mutex<Seen>> = OnceLock::new();

struct Seen {
    file: File,
    answers: HashSet<(String, u16)>,
}

/// Begins to note answers; many gateways may write to one file.
///
/// # Errors
/// When the file cannot be opened.
pub fn note_in(path: &str) -> std::io::Result<()> {
    let file = File::options().append(true).create(true).open(path)?;
    let answers = HashSet::new();
    let _only_once = SEEN.set(Mutex::new(Seen { file, answers }));
    Ok(())
}

/// Notes one.
pub fn note(method: &Method, route: Option<&str>, status: StatusCode) {
    let (Some(seen), Some(route)) = (SEEN.get(), route) else {
        return;
    };
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let operation = format!("{method} {route}");
    if seen.answers.insert((operation.clone(), status.as_u16())) {
        // One write, so that lines of several processes do not mix.
        let line = format!("{operation} {}\n", status.as_u16());
        if let Err(error) = seen.file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "an answer was not noted");
        }
    }
}
