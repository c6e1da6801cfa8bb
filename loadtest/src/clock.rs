//! The one place that reads the wall clock. Signatures need it; everything else uses monotonic instants.

/// Seconds since 1970 UTC; 0 on a clock set before that.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge of the harness: signatures carry the wall clock"
)]
pub(crate) fn unix_secs() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
