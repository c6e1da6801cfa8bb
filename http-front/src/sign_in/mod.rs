//! Who is asking: API keys with their signatures, and sessions. The two are not interchangeable. A
//! session comes as a Bearer token or, from a browser, as a cookie; what a cookie changes needs the
//! session's CSRF token too.

mod guard;
mod keys;
mod sessions;

pub use guard::{Asked, LoginGuard, MailGuard};
pub use keys::{Caller, Denied, Secrets, SignatureTable, Signing, key, key_text, known_key};
pub use sessions::{Cookies, Csrf, FLOW, Origin, SignedIn, session};

use crate::app::{App, refused};
use crate::error::{ApiError, ApiResult};
use crate::request::Received;
use engine::directory::{KeyEntry, UserEntry};
use engine::manage::role_too_low;
use persist::OrgId;
use persist::record::{Role, Scopes};
use std::sync::Arc;

/// Somebody who may look at or change an org.
#[derive(Debug, Clone)]
pub enum Principal {
    /// A member.
    Member(Arc<UserEntry>),
    /// One of the org's keys (reads only).
    Key(Arc<KeyEntry>),
}

/// May keys use this route?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Yes: it reads what an SDK may know.
    MayRead,
    /// No.
    Refused,
}

/// The key that asks, where people are meant to; `None` if the request carries none.
fn key_of(app: &App, received: &Received) -> ApiResult<Option<Caller>> {
    let Received {
        headers,
        path,
        body,
        ..
    } = received;
    if key_text(headers)?.is_none() {
        return Ok(None);
    }
    let caller = key(app, headers, path, body, Scopes(0), Signing::Optional);
    caller.map(Some).map_err(Denied::into_error)
}

/// Keys may not do this.
#[must_use]
pub fn not_for_keys() -> ApiError {
    ApiError::forbidden("forbidden", "API keys may not do this; sign in")
}

/// The person who asks about their own account.
pub fn person(app: &App, received: &Received) -> ApiResult<SignedIn> {
    match key_of(app, received)? {
        Some(_) => Err(not_for_keys()),
        None => session(app, received),
    }
}

/// Who may do something in `org`. An org one does not belong to does not exist.
pub fn org(
    app: &App,
    received: &Received,
    org: OrgId,
    least: Role,
    keys: Keys,
) -> ApiResult<Principal> {
    if let Some(caller) = key_of(app, received)? {
        if keys == Keys::Refused {
            return Err(not_for_keys());
        }
        // The same words whether the org exists or not.
        if caller.key.org != org {
            return Err(ApiError::forbidden(
                "org_mismatch",
                "this API key belongs to another organization",
            ));
        }
        return Ok(Principal::Key(caller.key));
    }
    let user = session(app, received)?.user;
    let role = app.directory().role(org, user.id);
    let role = role.ok_or_else(|| ApiError::not_found("organization"))?;
    if role < least {
        return Err(refused(role_too_low(role, least)));
    }
    Ok(Principal::Member(user))
}
