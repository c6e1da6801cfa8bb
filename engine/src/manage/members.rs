//! Organizations and who belongs to them: founding, members and their roles, invitations, the end.
//! Whoever asks is looked at here again: their role may have changed since the request came in.

use super::check::{self, bound, bounded, name_or_none, text};
use super::people::{self, Founding, conflict};
use super::{Desk, NewSession, Refusal};
use crate::directory::{Directory, OrgEntry, UserEntry};
use crate::limits;
use crate::plan::Feature;
use crate::usage;
use persist::record::{Change, Invite, InviteEnd, Member, Role, User};
use persist::{InviteId, Millis, OrgId, UserId, WorkflowId};

/// A further org.
#[derive(Debug)]
pub struct NewOrg {
    /// Id.
    pub org: OrgId,
    /// Whose.
    pub by: UserId,
    /// Name.
    pub name: String,
    /// Where to write to about it; to its owner if absent.
    pub contact_email: Option<String>,
    /// Its first workflow.
    pub workflow: WorkflowId,
    /// That workflow's name.
    pub workflow_name: String,
}

/// An invitation to be sent.
#[derive(Debug, Clone)]
pub struct NewInvite {
    /// Id.
    pub id: InviteId,
    /// To whom, lower case.
    pub email: String,
    /// As what.
    pub role: Role,
    /// SHA-256 of the token in the link.
    pub token_hash: [u8; 32],
    /// Until when.
    pub expires_at: Millis,
}

/// Somebody who registers by an invitation: under its address, without an org of their own.
#[derive(Debug)]
pub struct Newcomer {
    /// The person.
    pub user: UserId,
    /// Their name.
    pub name: String,
    /// Argon2id, PHC form.
    pub password_hash: String,
    /// Their session.
    pub session: NewSession,
}

/// What happens to an invitation whose link somebody has.
#[derive(Debug)]
pub enum Answer {
    /// This person joins.
    Accept(UserId),
    /// This person registers and joins.
    Register(Box<Newcomer>),
    /// Nobody does.
    Decline,
}

pub(super) fn found<'a>(desk: Desk<'a>, new: &'a NewOrg) -> Result<Vec<Change<'a>>, Refusal> {
    let owner = people::user(desk.directory, new.by)?;
    one_more_org(owner)?;
    bounded("name", &new.name, limits::ORG_NAME_BYTES)?;
    let contact_email = new.contact_email.as_deref().unwrap_or(&owner.email);
    text("contact_email", contact_email, limits::EMAIL_BYTES)?;
    let org = Founding {
        org: new.org,
        name: &new.name,
        plan: desk.plans.default_name(),
        contact_email,
        owner: new.by,
        workflow: new.workflow,
        workflow_name: &new.workflow_name,
    };
    Ok(org.changes(desk).into())
}

/// May this person belong to one more org?
fn one_more_org(person: &UserEntry) -> Result<(), Refusal> {
    let most = limits::ORGS_PER_PERSON;
    let sentence =
        format!("a person may belong to {most} organizations; leave or delete one first");
    bound(
        "organization_limit_reached",
        person.orgs.len(),
        most,
        &sentence,
    )
}

/// What a role is called.
#[must_use]
pub const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

/// A role that does not suffice.
#[must_use]
pub fn role_too_low(own: Role, least: Role) -> Refusal {
    Refusal::Forbidden(format!(
        "this takes the role {} and yours is {}; ask somebody who has it",
        role_word(least),
        role_word(own)
    ))
}

/// The role of who asks, which must be at least this.
fn role_of(org: &OrgEntry, by: UserId, least: Role) -> Result<Role, Refusal> {
    let role = org.role(by).ok_or(Refusal::NotFound("organization"))?;
    if role < least {
        return Err(role_too_low(role, least));
    }
    Ok(role)
}

/// Nobody makes, changes or removes what is above them.
fn not_above(own: Role, role: Role) -> Result<(), Refusal> {
    if role <= own {
        return Ok(());
    }
    let why = "only an owner makes, changes or removes owners";
    Err(Refusal::Forbidden(why.to_owned()))
}

/// Is this person an owner, and no one else?
fn is_last_owner(org: &OrgEntry, user: UserId) -> bool {
    let mut others = org.members.iter().filter(|member| member.user != user);
    org.role(user) == Some(Role::Owner) && others.all(|member| member.role < Role::Owner)
}

fn last_owner() -> Refusal {
    conflict(
        "cannot_demote_last_owner",
        "an organization keeps at least one owner; make another member owner first",
    )
}

pub(super) fn set_role(
    org: &OrgEntry,
    by: UserId,
    user: UserId,
    role: Role,
) -> Result<Change<'static>, Refusal> {
    let own = role_of(org, by, Role::Admin)?;
    let before = org.role(user).ok_or(Refusal::NotFound("member"))?;
    if is_last_owner(org, user) && role < Role::Owner {
        return Err(last_owner());
    }
    if by == user {
        return Err(conflict(
            "cannot_modify_own_role",
            "nobody changes their own role; ask another owner or admin",
        ));
    }
    not_above(own, before.max(role))?;
    Ok(Change::MemberChanged(Member {
        org: org.id,
        user,
        role,
    }))
}

/// Removes somebody, whose sessions end; or somebody leaves, and stays signed in.
pub(super) fn remove_member(
    org: &OrgEntry,
    by: UserId,
    user: UserId,
) -> Result<Vec<Change<'static>>, Refusal> {
    let leaves = by == user;
    let least = if leaves { Role::Viewer } else { Role::Admin };
    let own = role_of(org, by, least)?;
    let role = org.role(user).ok_or(Refusal::NotFound("member"))?;
    if is_last_owner(org, user) {
        return Err(last_owner());
    }
    not_above(own, role)?;
    let mut changes = vec![Change::MemberRemoved { org: org.id, user }];
    if !leaves {
        changes.push(Change::SessionsEnded { user, but: None });
    }
    Ok(changes)
}

/// Are there seats for one more?
fn seats(desk: Desk<'_>, org: &OrgEntry) -> Result<(), Refusal> {
    desk.needs(org, Feature::Team)?;
    check::room(
        "seats_limit_reached",
        "seats",
        usage::seats(desk.directory, org, desk.now),
        desk.plans.of(&org.plan).limits.seats,
    )
}

pub(super) fn invite<'a>(
    desk: Desk<'_>,
    org: &OrgEntry,
    by: UserId,
    new: &'a NewInvite,
) -> Result<Vec<Change<'a>>, Refusal> {
    let (directory, now) = (desk.directory, desk.now);
    not_above(role_of(org, by, Role::Admin)?, new.role)?;
    let person = directory.user_by_email(&new.email);
    if person.is_some_and(|user| org.role(user.id).is_some()) {
        return Err(conflict(
            "already_member",
            "this person is a member of the organization already",
        ));
    }
    let open = org.invites.iter();
    let mut open = open.filter_map(|id| directory.invite(org.id, *id));
    let same = open.find(|invite| *invite.email == *new.email);
    let mut changes = Vec::new();
    if let Some(same) = same {
        if now < same.expires_at {
            return Err(conflict(
                "invite_already_pending",
                "this address has an open invitation; send it again or take it back",
            ));
        }
        changes.push(Change::InviteEnded {
            org: org.id,
            invite: same.id,
            end: InviteEnd::Revoked,
        });
    }
    seats(desk, org)?;
    if changes.is_empty() {
        changes.extend(one_more_invite(desk, org)?);
    }
    changes.push(Change::InviteAdded(Invite {
        id: new.id,
        org: org.id,
        email: &new.email,
        role: new.role,
        token_hash: new.token_hash,
        invited_by: by,
        created_at: now,
        expires_at: new.expires_at,
    }));
    Ok(changes)
}

/// Is there room for one more invitation? One whose time has been over longest makes it, where none is
/// left otherwise.
fn one_more_invite(desk: Desk<'_>, org: &OrgEntry) -> Result<Option<Change<'static>>, Refusal> {
    let (there, most) = (org.invites.len(), limits::INVITES);
    let all = org.invites.iter().filter(|_| there >= most);
    let all = all.filter_map(|id| desk.directory.invite(org.id, *id));
    let over = all.filter(|invite| invite.expires_at <= desk.now);
    if let Some(oldest) = over.min_by_key(|invite| (invite.expires_at, invite.id)) {
        return Ok(Some(Change::InviteEnded {
            org: org.id,
            invite: oldest.id,
            end: InviteEnd::Revoked,
        }));
    }
    let sentence = format!("an organization may have {most} open invitations; take one back first");
    bound("invite_limit_reached", there, most, &sentence).map(|()| None)
}

/// Another link for an invitation.
#[derive(Clone, Copy)]
pub(super) struct NewLink {
    pub token_hash: [u8; 32],
    pub expires_at: Millis,
}

/// The link before does not work any more.
pub(super) fn resend<'a>(
    desk: Desk<'a>,
    org: &OrgEntry,
    by: UserId,
    id: InviteId,
    link: NewLink,
) -> Result<Change<'a>, Refusal> {
    let own = role_of(org, by, Role::Admin)?;
    let before = desk
        .directory
        .invite(org.id, id)
        .ok_or(Refusal::NotFound("invitation"))?;
    not_above(own, before.role)?;
    // One whose time is over has given its seat back.
    if before.expires_at <= desk.now {
        seats(desk, org)?;
    }
    Ok(Change::InviteChanged(Invite {
        token_hash: link.token_hash,
        expires_at: link.expires_at,
        ..before.to_record()
    }))
}

pub(super) fn revoke(
    directory: &Directory,
    org: &OrgEntry,
    by: UserId,
    invite: InviteId,
) -> Result<Change<'static>, Refusal> {
    role_of(org, by, Role::Admin)?;
    let found = directory.invite(org.id, invite);
    found.ok_or(Refusal::NotFound("invitation"))?;
    Ok(Change::InviteEnded {
        org: org.id,
        invite,
        end: InviteEnd::Revoked,
    })
}

/// Whoever has the link has the mailbox it was sent to: the address counts as shown to be theirs.
pub(super) fn answer<'a>(
    directory: &'a Directory,
    now: Millis,
    token_hash: &[u8; 32],
    answer: &'a Answer,
) -> Result<Vec<Change<'a>>, Refusal> {
    let invite = directory
        .invite_by_hash(token_hash, now)
        .ok_or(Refusal::NotFound("invitation"))?;
    let ended = |end| Change::InviteEnded {
        org: invite.org,
        invite: invite.id,
        end,
    };
    let joins = |user| {
        Change::MemberAdded(Member {
            org: invite.org,
            user,
            role: invite.role,
        })
    };
    match answer {
        Answer::Decline => Ok(vec![ended(InviteEnd::Declined)]),
        Answer::Accept(user) => {
            let person = people::user(directory, *user)?;
            if *person.email != *invite.email {
                return Err(Refusal::Forbidden(
                    "this invitation is for another address; sign in with that".to_owned(),
                ));
            }
            if directory.role(invite.org, *user).is_some() {
                return Err(conflict(
                    "already_member",
                    "you are a member of the organization already",
                ));
            }
            one_more_org(person)?;
            let mut changes = vec![joins(*user), ended(InviteEnd::Accepted)];
            if person.verified_at.is_none() {
                changes.push(Change::UserChanged(User {
                    verified_at: Some(now),
                    ..person.to_record()
                }));
            }
            Ok(changes)
        }
        Answer::Register(new) => {
            if directory.user_by_email(&invite.email).is_some() {
                return Err(conflict(
                    "email_taken",
                    "this address is registered; sign in and accept without a password",
                ));
            }
            name_or_none("name", &new.name)?;
            Ok(vec![
                Change::UserAdded(User {
                    id: new.user,
                    email: &invite.email,
                    name: &new.name,
                    password_hash: &new.password_hash,
                    verified_at: Some(now),
                    created_at: now,
                }),
                joins(new.user),
                ended(InviteEnd::Accepted),
                Change::SessionAdded(people::session(&new.session, now)),
            ])
        }
    }
}

/// An org goes when its last member goes with it.
pub(super) fn remove_org(org: &OrgEntry, by: UserId) -> Result<Change<'static>, Refusal> {
    role_of(org, by, Role::Owner)?;
    if org.members.iter().any(|member| member.user != by) {
        return Err(conflict(
            "org_has_members",
            "other people are members of the organization; remove them first",
        ));
    }
    Ok(Change::OrgRemoved { org: org.id })
}
