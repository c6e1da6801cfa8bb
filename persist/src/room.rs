//! Whether there is space for more: read by the front before it lets anybody ask for more, written
//! by the log's thread.

/// How much the log can still take. Whatever the answer, what is appended is written: this is for
/// refusing in good time what may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Room {
    /// Nothing is short.
    #[default]
    Plenty = 0,
    /// The disk (or its user's share) is full: what was zeroed ahead is being used up.
    DiskFull = 1,
    /// The segments together have reached [`crate::log::Options::quota_bytes`].
    Quota = 2,
}

impl Room {
    /// May more be asked for?
    #[must_use]
    pub const fn is_plenty(self) -> bool {
        matches!(self, Self::Plenty)
    }

    pub(crate) const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Plenty,
            2 => Self::Quota,
            _ => Self::DiskFull,
        }
    }
}
