//! How much an org has of what its plan limits. The checks and what people are shown read it here.

use crate::directory::{Directory, OrgEntry};
use persist::Millis;
use persist::record::PolicyAction;

/// Keys that are not revoked.
#[must_use]
pub fn api_keys(directory: &Directory, org: &OrgEntry) -> usize {
    let keys = org.keys.iter().filter_map(|id| directory.key(*id));
    keys.filter(|key| key.revoked_at.is_none()).count()
}

/// Members and open invitations.
#[must_use]
pub fn seats(directory: &Directory, org: &OrgEntry, now: Millis) -> usize {
    let open = org.invites.iter();
    let open = open.filter_map(|id| directory.invite(org.id, *id));
    let open = open.filter(|invite| now < invite.expires_at).count();
    org.members.len() + open
}

/// Policies that ask a person.
#[must_use]
pub fn approval_rules(org: &OrgEntry) -> usize {
    let all = org.rules.all().iter();
    all.filter(|policy| policy.action == PolicyAction::RequireApproval)
        .count()
}
