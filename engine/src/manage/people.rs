//! People: signing up and in, sessions, names.

use super::check::{bounded, name_or_none};
use super::{Desk, NewKey, Refusal, keys};
use crate::directory::{Directory, UserEntry};
use crate::limits;
use crate::plan::Feature;
use persist::record::{
    Change, Composition, Identity, Member, Org, PeriodKind, Role, Session, User, Workflow,
};
use persist::{Millis, OrgId, SessionId, UserId, WorkflowId};

/// Everything a sign-up makes.
#[derive(Debug)]
pub struct Registration {
    /// The person.
    pub user: UserId,
    /// Their address, lower case.
    pub email: String,
    /// Their name.
    pub name: String,
    /// Argon2id, PHC form; empty for a person who signs in through a provider only.
    pub password_hash: String,
    /// The provider's account, and its proof of the address.
    pub identity: Option<Account>,
    /// Their org.
    pub org: OrgId,
    /// Its name.
    pub org_name: String,
    /// Its plan.
    pub plan: String,
    /// Its first workflow.
    pub workflow: WorkflowId,
    /// That workflow's name.
    pub workflow_name: String,
    /// Its first key.
    pub key: NewKey,
    /// The session.
    pub session: NewSession,
}

/// An account at a provider.
#[derive(Debug, Clone)]
pub struct Account {
    /// The provider's name in the settings.
    pub provider: String,
    /// The provider's own id of the account.
    pub subject: String,
}

/// A session to be opened.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Id.
    pub id: SessionId,
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// Whose.
    pub user: UserId,
    /// The address it is opened from.
    pub ip: String,
    /// What it is opened with, cut.
    pub user_agent: String,
    /// Until when.
    pub expires_at: Millis,
}

/// What somebody showed who signs in.
#[derive(Debug, Clone)]
pub enum SignInProof {
    /// The password, verified against this hash. That takes a while, in which the password may be
    /// changed: then whoever knew the one before must not get in behind the change.
    Password(String),
    /// An account at a provider that is theirs.
    Provider,
}

pub(super) fn conflict(code: &'static str, message: &str) -> Refusal {
    Refusal::Conflict {
        code,
        message: message.to_owned(),
    }
}

pub(super) fn session(new: &NewSession, now: Millis) -> Session<'_> {
    Session {
        id: new.id,
        token_hash: new.token_hash,
        user: new.user,
        ip: &new.ip,
        user_agent: &new.user_agent,
        created_at: now,
        expires_at: new.expires_at,
    }
}

/// The new session, and the end of the oldest for which there is no more room.
pub(super) fn open_session<'a>(
    directory: &'a Directory,
    now: Millis,
    new: &'a NewSession,
    proof: &SignInProof,
) -> Result<Vec<Change<'a>>, Refusal> {
    let person = user(directory, new.user)?;
    if let SignInProof::Password(verified) = proof
        && *person.password_hash != **verified
    {
        return Err(Refusal::OldPassword);
    }
    let open = || directory.sessions_of(new.user, now);
    let over = (open().count() + 1).saturating_sub(limits::SESSIONS);
    let ended = open().take(over).map(|oldest| Change::SessionEnded {
        user: new.user,
        session: oldest.id,
    });
    let opened = Change::SessionAdded(session(new, now));
    Ok(ended.chain([opened]).collect())
}

pub(super) fn register<'a>(
    desk: Desk<'_>,
    new: &'a Registration,
) -> Result<Vec<Change<'a>>, Refusal> {
    let (directory, now) = (desk.directory, desk.now);
    if directory.user_by_email(&new.email).is_some() {
        return Err(conflict(
            "email_taken",
            "this address is registered; sign in with POST /api/v1/auth/login",
        ));
    }
    name_or_none("name", &new.name)?;
    bounded("organization_name", &new.org_name, limits::ORG_NAME_BYTES)?;
    let mut changes = vec![Change::UserAdded(User {
        id: new.user,
        email: &new.email,
        name: &new.name,
        password_hash: &new.password_hash,
        verified_at: new.identity.as_ref().map(|_| now),
        created_at: now,
    })];
    let org = Founding {
        org: new.org,
        name: &new.org_name,
        plan: &new.plan,
        contact_email: &new.email,
        owner: new.user,
        workflow: new.workflow,
        workflow_name: &new.workflow_name,
    };
    changes.extend(org.changes(desk));
    changes.push(Change::KeyAdded(keys::record(new.org, &new.key, now)));
    changes.push(Change::SessionAdded(session(&new.session, now)));
    if let Some(account) = &new.identity {
        changes.push(identity(directory, new.user, account)?);
    }
    Ok(changes)
}

/// An org as it begins: with an owner, and a workflow that charges without another are booked on.
pub(super) struct Founding<'a> {
    pub org: OrgId,
    pub name: &'a str,
    pub plan: &'a str,
    pub contact_email: &'a str,
    pub owner: UserId,
    pub workflow: WorkflowId,
    pub workflow_name: &'a str,
}

impl<'a> Founding<'a> {
    pub(super) fn changes(self, desk: Desk<'_>) -> [Change<'a>; 3] {
        let now = desk.now;
        let org = Org {
            id: self.org,
            name: self.name,
            plan: self.plan,
            contact_email: self.contact_email,
            budget: None,
            period: PeriodKind::default(),
            composition: Composition::default(),
            created_at: now,
        };
        let member = Member {
            org: self.org,
            user: self.owner,
            role: Role::Owner,
        };
        [
            Change::OrgAdded(org),
            Change::MemberAdded(member),
            Change::WorkflowAdded(Workflow {
                id: self.workflow,
                org: self.org,
                name: self.workflow_name,
                external_id: None,
                description: "",
                budget: None,
                period: PeriodKind::default(),
                overdraft: None,
                max_per_call: None,
                chain_cap: None,
                chain_secs: limits::CHAIN_SECS,
                watch: None,
                // As for any workflow of whose approvals nothing is said.
                approvals: desk.plans.of(self.plan).has(Feature::Approvals),
                created_at: now,
                updated_at: now,
            }),
        ]
    }
}

pub(super) fn identity<'a>(
    directory: &Directory,
    user: UserId,
    account: &'a Account,
) -> Result<Change<'a>, Refusal> {
    if directory
        .user_by_identity(&account.provider, &account.subject)
        .is_some()
    {
        return Err(conflict(
            "identity_taken",
            "this account signs in another person already",
        ));
    }
    Ok(Change::IdentityAdded(Identity {
        user,
        provider: &account.provider,
        subject: &account.subject,
    }))
}

pub(super) fn user(directory: &Directory, id: UserId) -> Result<&UserEntry, Refusal> {
    let user = directory.user(id).ok_or(Refusal::NotFound("user"))?;
    Ok(user)
}

pub(super) fn rename<'a>(before: &'a UserEntry, name: &'a str) -> Result<Change<'a>, Refusal> {
    name_or_none("name", name)?;
    Ok(Change::UserChanged(User {
        name,
        ..before.to_record()
    }))
}
