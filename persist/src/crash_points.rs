//! The named places where a machine may die. Code reaches them through [`crate::disk::Disk::reach`];
//! tests go through [`ALL`], die at each, and look at what is left.
//!
//! A name is passed just *after* the step it names. Other crates may add points of their own: a
//! point is only a name.

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*

        /// Every point of this crate.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

points! {
    /// The next segment's file exists under its temporary name, empty.
    SEGMENT_CREATED = "segment-created";
    /// Its header and first zeros are written, not synced.
    SEGMENT_WRITTEN = "segment-written";
    /// It is whole and durable under its temporary name.
    SEGMENT_SYNCED = "segment-synced";
    /// It has its name; the directory is not synced.
    SEGMENT_RENAMED = "segment-renamed";
    /// Its name is durable; there is no frame in it.
    SEGMENT_DIR_SYNCED = "segment-dir-synced";
    /// Its first frame is written, not synced.
    SEGMENT_FIRST_FRAME = "segment-first-frame";
    /// An old segment is unlinked; the directory is not synced.
    SEGMENT_REMOVED = "segment-removed";
    /// The unlinking is durable.
    SEGMENT_REMOVAL_SYNCED = "segment-removal-synced";
    /// A part of a snapshot is written, not synced.
    PART_WRITTEN = "snapshot-part-written";
    /// It is durable under its temporary name.
    PART_SYNCED = "snapshot-part-synced";
    /// It has its name; the directory is not synced.
    PART_RENAMED = "snapshot-part-renamed";
    /// The names of all parts are durable; no manifest lists them.
    PARTS_DIR_SYNCED = "snapshot-parts-dir-synced";
    /// The manifest is written, not synced.
    MANIFEST_WRITTEN = "snapshot-manifest-written";
    /// It is durable under its temporary name.
    MANIFEST_SYNCED = "snapshot-manifest-synced";
    /// It has taken its slot; the directory is not synced.
    MANIFEST_RENAMED = "snapshot-manifest-renamed";
    /// It is durable; files of the snapshot it replaced are still there.
    MANIFEST_DIR_SYNCED = "snapshot-manifest-dir-synced";
    /// A file that no manifest lists is unlinked.
    OLD_PART_REMOVED = "snapshot-old-part-removed";
    /// A follower's cursor is written, not synced.
    CURSOR_WRITTEN = "cursor-written";
    /// It is durable under its temporary name.
    CURSOR_SYNCED = "cursor-synced";
    /// It has its name; the directory is not synced.
    CURSOR_RENAMED = "cursor-renamed";
    /// It is durable.
    CURSOR_DIR_SYNCED = "cursor-dir-synced";
    /// A start has zeroed a torn frame; that is not synced.
    RECOVERY_CUT = "recovery-cut";
    /// A start has unlinked a segment without a frame; the directory is not synced.
    RECOVERY_UNUSED_REMOVED = "recovery-unused-removed";
}

/// Those that only a start passes which follows upon a death.
pub const IN_RECOVERY: &[&str] = &[RECOVERY_CUT, RECOVERY_UNUSED_REMOVED];
