//! People and their accounts: signing up and in, sessions, passwords, mailed links, and signing in
//! through a provider. What is allowed is the engine's to say; here texts become tokens and hashes.

mod login;
pub mod oauth;
mod pages;
mod password;
mod register;
mod sessions;

pub use register::{NewAccount, Registered, sign_up};

use super::keys;
pub(super) use super::{done, no_content};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::sign_in::Origin;
use crate::{clock, hash};
use engine::directory::{Directory, UserEntry};
use engine::limits;
use engine::manage::{Manage, NewKey, NewSession, SignInProof};
use http::StatusCode;
use lettre::Address;
use persist::record::{Role, Scopes};
use persist::{KeyId, Millis, SessionId, UserId, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(register::routes())
        .merge(login::routes())
        .merge(sessions::routes())
        .merge(password::routes())
        .merge(oauth::routes())
        .merge(pages::routes())
}

/// A key that was just made, with what is shown only once.
#[derive(Debug)]
pub struct Minted {
    /// For the engine.
    pub new: NewKey,
    /// `nr_live_...`.
    pub api_key: String,
    /// 64 hexadecimal digits.
    pub secret: String,
}

/// Makes a key's texts; nothing is stored yet.
#[must_use]
pub fn mint_key(app: &App, name: &str, workflow: Option<WorkflowId>, scopes: Scopes) -> Minted {
    let id = KeyId(hash::new_id(clock::now()));
    let texts = keys::texts(app, id, false);
    let new = NewKey {
        id,
        workflow,
        name: name.to_owned(),
        texts: texts.stored,
        scopes,
        budget: None,
        period: persist::record::PeriodKind::default(),
        calls_per_minute: None,
        expires_at: None,
    };
    Minted {
        new,
        api_key: texts.api_key,
        secret: texts.secret,
    }
}

/// What a person is in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Role)]
pub enum RoleName {
    /// Looks.
    Viewer,
    /// Pauses, kills, sets budgets and policies.
    Operator,
    /// Invites and removes people, too.
    Admin,
    /// Everything.
    Owner,
}

impl RoleName {
    /// On the wire.
    #[must_use]
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
            Role::Owner => Self::Owner,
        }
    }

    /// What it names.
    #[must_use]
    pub const fn kind(self) -> Role {
        match self {
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Admin => Role::Admin,
            Self::Owner => Role::Owner,
        }
    }

    /// For people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        engine::manage::role_word(self.kind())
    }
}

/// A person, as they see themselves.
#[derive(Debug, Serialize, ToSchema)]
pub struct Person {
    id: String,
    #[schema(example = "ada@example.com")]
    email: String,
    name: String,
    /// Was it shown that the address is theirs?
    email_verified: bool,
    /// False for a person who signs in through a provider only.
    has_password: bool,
    /// Providers whose accounts sign this person in.
    providers: Vec<String>,
    created_at: String,
}

impl Person {
    fn of(user: &UserEntry) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.to_string(),
            name: user.name.to_string(),
            email_verified: user.verified_at.is_some(),
            has_password: !user.password_hash.is_empty(),
            providers: user.identities.iter().map(|(p, _)| p.to_string()).collect(),
            created_at: clock::rfc3339(user.created_at),
        }
    }
}

/// An organization a person belongs to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Membership {
    id: String,
    name: String,
    role: RoleName,
}

fn memberships(directory: &Directory, user: &UserEntry) -> Vec<Membership> {
    let orgs = user.orgs.iter();
    orgs.filter_map(|id| Some((directory.org(*id)?, directory.role(*id, user.id)?)))
        .map(|(org, role)| Membership {
            id: org.id.to_string(),
            name: org.name.to_string(),
            role: RoleName::of(role),
        })
        .collect()
}

pub(super) fn new_session(
    user: UserId,
    now: Millis,
    origin: Option<&Origin>,
) -> (String, NewSession) {
    let token = format!("ses_{}", hash::random_word(43));
    let session = NewSession {
        id: SessionId(hash::new_id(now)),
        ip: origin
            .map(|origin| origin.ip.to_string())
            .unwrap_or_default(),
        user_agent: origin.map(|o| o.user_agent.clone()).unwrap_or_default(),
        token_hash: hash::sha256(token.as_bytes()),
        user,
        expires_at: now.plus(limits::SESSION_MILLIS),
    };
    (token, session)
}

/// Opens a session; its token and its end.
async fn open_session(
    app: &App,
    user: UserId,
    proof: SignInProof,
    origin: &Origin,
) -> ApiResult<(String, Millis)> {
    let (token, session) = new_session(user, clock::now(), Some(origin));
    let expires_at = session.expires_at;
    done(app, Manage::OpenSession { session, proof }).await?;
    Ok((token, expires_at))
}

/// Too many of something for one address.
pub(super) fn too_many(message: &str, wait_ms: u64) -> ApiError {
    ApiError {
        retry_after_ms: Some(wait_ms),
        ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", message)
    }
}

/// Too many mails to one address.
pub(super) fn too_many_mails(wait_ms: u64) -> ApiError {
    too_many(
        "too many mails to this address were asked for; wait as long as Retry-After says",
        wait_ms,
    )
}

fn email(text: &str) -> ApiResult<String> {
    address("email", text)
}

/// An address, in lower case, from the field of this name.
pub(super) fn address(field: &str, text: &str) -> ApiResult<String> {
    let email = text.trim().to_lowercase();
    // What sends the mails says what can be mailed to.
    if email.len() <= limits::EMAIL_BYTES && email.parse::<Address>().is_ok() {
        return Ok(email);
    }
    Err(ApiError::field(
        field,
        format!(
            "{field} must be an address such as ada@example.com, of at most {} bytes",
            limits::EMAIL_BYTES
        ),
    ))
}

/// A password somebody wants to have.
pub(super) fn check_new_password(field: &str, password: &str) -> ApiResult<()> {
    if limits::PASSWORD_BYTES.contains(&password.len()) {
        return Ok(());
    }
    let (least, most) = (limits::PASSWORD_BYTES.start(), limits::PASSWORD_BYTES.end());
    Err(ApiError::field(
        field,
        format!("{field} takes {least} to {most} bytes"),
    ))
}

/// A password somebody says they have: a short one is only wrong.
fn check_given_password(field: &str, password: &str) -> ApiResult<()> {
    let most = limits::PASSWORD_BYTES.end();
    if password.len() > *most {
        return Err(ApiError::field(
            field,
            format!("{field} takes at most {most} bytes"),
        ));
    }
    Ok(())
}

pub(super) fn hashing_is_full() -> ApiError {
    ApiError::unavailable(
        "overloaded",
        "too many passwords are being looked at; try again in a second",
    )
}
