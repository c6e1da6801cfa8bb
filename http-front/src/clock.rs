//! The wall clock, read here and nowhere else.

use persist::Millis;

/// Milliseconds that the clock is set ahead (or back) for a test.
#[cfg(debug_assertions)]
static AHEAD: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(0);

/// Sets the clock, from where it goes on: for tests that cross a midnight.
#[cfg(debug_assertions)]
pub fn start_at(at: Millis) {
    let ahead = at.0.cast_signed() - wall().0.cast_signed();
    AHEAD.store(ahead, std::sync::atomic::Ordering::SeqCst);
}

/// Sets the clock ahead by as many milliseconds as the file says, or back, now and whenever that
/// changes: for tests of clocks that are stepped while the gateway runs. What it has read stands in a
/// file beside it, whose name ends in `.seen`.
#[cfg(debug_assertions)]
pub fn follow(file: std::path::PathBuf) {
    let seen = file.with_added_extension("seen");
    let mut last = None;
    let mut read = move || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let ahead = text.trim().parse().ok();
        if let Some(ahead) = ahead.filter(|_| ahead != last) {
            AHEAD.store(ahead, std::sync::atomic::Ordering::SeqCst);
            // A test that waits for it in vain says so.
            let _noted = std::fs::write(&seen, ahead.to_string());
        }
        last = ahead.or(last);
    };
    read();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(5));
            read();
        }
    });
}

/// Now.
#[cfg(debug_assertions)]
#[must_use]
pub fn now() -> Millis {
    let ahead = AHEAD.load(std::sync::atomic::Ordering::Relaxed);
    Millis(wall().0.saturating_add_signed(ahead))
}

/// Now.
#[cfg(not(debug_assertions))]
#[must_use]
pub fn now() -> Millis {
    wall()
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
fn wall() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Millis(
        since
            .ok()
            .and_then(|d| u64::try_from(d.as_millis()).ok())
            .unwrap_or(0),
    )
}

/// RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|at| format!("{at:.3}"))
        .unwrap_or_default()
}

/// Reads RFC 3339.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Millis> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(Millis)
}
