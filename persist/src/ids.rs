//! Identifiers: 128-bit UUIDs behind a type per noun, so that a key's id is never taken for an
//! org's. They are shown and read in the usual hyphenated lower-case form.
//!
//! Ids that must find their shard again (`HoldId`, later approvals) carry the shard's slot, ten
//! bits, inside a UUIDv7.

use crate::units::Millis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Slots that workflows hash into; shards own ranges of slots.
pub const SLOTS: u16 = 1024;

/// One of [`SLOTS`] places a workflow hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct NotAnId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                // Only the hyphenated form: two spellings of one id would be two cache keys.
                if text.len() != 36 {
                    return Err(NotAnId);
                }
                uuid::Uuid::try_parse(text).map(|id| Self(id.as_u128())).map_err(|_| NotAnId)
            }
        }
    };
}

id!(
    /// A tenant: every other thing belongs to one.
    OrgId
);
id!(
    /// An agent, or a group of runs that share a budget and a state.
    WorkflowId
);
id!(
    /// An API key.
    KeyId
);
id!(
    /// A person who signs in.
    UserId
);
id!(
    /// A session of a person.
    SessionId
);
id!(
    /// An invitation to an org.
    InviteId
);
id!(
    /// A policy.
    PolicyId
);
id!(
    /// Money held for a call that was allowed; `reservation_id` on the wire.
    HoldId
);
id!(
    /// One log's identity: minted once per data directory.
    LogId
);

/// Builds a UUIDv7 from a time and 74 random bits.
#[must_use]
pub const fn uuid_v7(at: Millis, random: u128) -> u128 {
    let time = (at.0 as u128 & 0xffff_ffff_ffff) << 80;
    let rand_a = (random >> 64 & 0xfff) << 64;
    let rand_b = random & 0x3fff_ffff_ffff_ffff;
    time | (0x7 << 76) | rand_a | (0b10 << 62) | rand_b
}

/// The UUIDv7 that is `step` greater than `last`: the bits that are not fixed count as one number,
/// the time on top (RFC 9562, 6.2, method 2).
#[must_use]
pub const fn uuid_v7_after(last: u128, step: u32) -> u128 {
    let (time, rand_a, rand_b) = (last >> 80, last >> 64 & 0xfff, last & 0x3fff_ffff_ffff_ffff);
    let next = (time << 74 | rand_a << 62 | rand_b) + step as u128;
    let random = (next >> 62 & 0xfff) << 64 | (next & 0x3fff_ffff_ffff_ffff);
    uuid_v7(Millis((next >> 74) as u64), random)
}

impl HoldId {
    /// A new id: time, the slot of the hold's workflow, and 64 random bits.
    #[must_use]
    pub const fn mint(at: Millis, slot: Slot, random: u64) -> Self {
        let spare = (random >> 62) as u128;
        let rand_a = (spare << 10) | slot.0 as u128;
        Self(uuid_v7(at, (rand_a << 64) | random as u128))
    }

    /// The slot this id carries. An id that was not minted here yields some slot, where it will
    /// not be found.
    #[must_use]
    pub const fn slot(self) -> Slot {
        Slot((self.0 >> 64 & 0x3ff) as u16)
    }
}

impl WorkflowId {
    /// The slot of a workflow: a fixed mix of its id and its org's, independent of this build's
    /// hash functions, since it is written into ids and files.
    #[must_use]
    pub const fn slot(self, org: OrgId) -> Slot {
        let mut mixed = (self.0 as u64) ^ ((self.0 >> 64) as u64).rotate_left(32);
        mixed ^= (org.0 as u64).rotate_left(17) ^ ((org.0 >> 64) as u64).rotate_left(49);
        // SplitMix64's finaliser.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Slot(((mixed ^ (mixed >> 31)) % SLOTS as u64) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_uuid_v7_is_greater_by_a_step_also_where_that_carries() {
        let last = uuid_v7(Millis(7), 5);
        assert_eq!(uuid_v7_after(last, 3), uuid_v7(Millis(7), 8));
        let low = 0x3fff_ffff_ffff_ffff;
        let carried = uuid_v7(Millis(7), 1 << 64 | 2);
        assert_eq!(uuid_v7_after(uuid_v7(Millis(7), low), 3), carried);
        let last = uuid_v7(Millis(7), u128::MAX);
        assert_eq!(uuid_v7_after(last, 1), uuid_v7(Millis(8), 0));
    }

    #[test]
    fn a_hold_id_is_a_uuid_v7_that_carries_its_slot() {
        let id = HoldId::mint(Millis(1_795_462_753_000), Slot(1023), u64::MAX);
        let uuid = uuid::Uuid::from_u128(id.0);
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.slot(), Slot(1023));
        assert_eq!(HoldId::mint(Millis(1), Slot(0), 7).slot(), Slot(0));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn only_the_hyphenated_form_of_an_id_is_read() {
        assert_eq!(
            "00000000000000000000000000000001".parse::<OrgId>(),
            Err(NotAnId)
        );
        assert_eq!("00000000-0000-0000-0000-000000000001".parse(), Ok(OrgId(1)));
        assert_eq!("".parse::<OrgId>(), Err(NotAnId));
    }

    #[test]
    fn the_slot_of_a_workflow_is_fixed_for_ever() {
        assert_eq!(WorkflowId(1).slot(OrgId(2)), WorkflowId(1).slot(OrgId(2)));
        // Written into reservation ids: a change here would orphan open holds.
        assert_eq!(WorkflowId(0x1234).slot(OrgId(0x5678)), Slot(SLOT_FIXTURE));
    }
    const SLOT_FIXTURE: u16 = 643;
}
