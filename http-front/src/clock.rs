//! The wall clock, read here and nowhere else.

use persist::Millis;

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
#[must_use]
pub fn now() -> Millis {
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
