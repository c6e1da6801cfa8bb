//! `/invites/{token}`: what whoever has an invitation's link may do with it. The token is the proof; to
//! join, one also has to be who was invited: signed in under that address, or new.

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::manage::auth::{
    RoleName, check_new_password, done, hashing_is_full, new_session, no_content,
};
use crate::manage::orgs;
use crate::openapi::{AcceptErrors, BodyErrors, BusyError, NotFoundError, PathError, TokenPath};
use crate::request::Received;
use crate::sdk::decision::json_response;
use crate::sign_in::{self, Origin};
use crate::{clock, hash, password, request};
use axum::extract::{Path, Request, State};
use engine::directory::InviteEntry;
use engine::manage::{Answer, Manage, Newcomer};
use http::StatusCode;
use persist::UserId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(accept))
        .routes(routes!(decline))
}

/// An invitation, as who was invited sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InviteReceived)]
struct Shown {
    #[schema(example = "Analytical Engines")]
    organization_name: String,
    /// The address that was invited.
    #[schema(example = "grace@example.com")]
    email: String,
    role: RoleName,
    /// The address of who invited; null if they have no account any more.
    #[schema(example = "ada@example.com")]
    invited_by: Option<String>,
    /// Is somebody registered under the address? Then sign in to accept; otherwise send a password.
    has_account: bool,
    expires_at: String,
}

/// Somebody new who joins. Nothing of this for who is signed in.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InviteAccept)]
struct Accept {
    #[schema(min_length = 12, max_length = 256, format = Password)]
    password: Option<String>,
    #[schema(
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "Grace"
    )]
    name: Option<String>,
}

/// Somebody who has joined.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InviteAccepted)]
struct Accepted {
    user_id: String,
    organization: orgs::Shown,
    /// For `Authorization: Bearer`, also set as a cookie; null for who was signed in.
    session_token: Option<String>,
    /// When that session ends.
    expires_at: Option<String>,
}

/// The invitation a token belongs to.
fn find(app: &App, token: &str) -> ApiResult<(Arc<InviteEntry>, [u8; 32])> {
    let hash = hash::sha256(token.as_bytes());
    let directory = app.directory();
    let invite = directory.invite_by_hash(&hash, clock::now()).cloned();
    let invite = invite.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "this invitation is unknown, answered, taken back or over; ask for another one",
        )
    })?;
    Ok((invite, hash))
}

/// Look at an invitation by its token.
#[utoipa::path(
    get,
    path = "/api/v1/invites/{token}",
    operation_id = "get_invite",
    tag = "organizations",
    security(()),
    params(TokenPath),
    responses((status = 200, description = "The invitation", body = Shown), PathError, NotFoundError)
)]
async fn get(State(app): State<Arc<App>>, Path(token): Path<String>) -> ApiResult {
    let (invite, _) = find(&app, &token)?;
    let directory = app.directory();
    let org = directory.org(invite.org);
    let org = org.ok_or_else(|| ApiError::not_found("organization"))?;
    let inviter = directory.user(invite.invited_by);
    let shown = Shown {
        organization_name: org.name.to_string(),
        email: invite.email.to_string(),
        role: RoleName::of(invite.role),
        invited_by: inviter.map(|user| user.email.to_string()),
        has_account: directory.user_by_email(&invite.email).is_some(),
        expires_at: clock::rfc3339(invite.expires_at),
    };
    Ok(json_response(StatusCode::OK, &shown))
}

/// Accept an invitation: signed in under the address that was invited, or, if nobody is registered under
/// it, with a password, which makes an account. It works once. The address counts as verified.
#[utoipa::path(
    post,
    path = "/api/v1/invites/{token}/accept",
    operation_id = "accept_invite",
    tag = "organizations",
    security((), ("session" = []), ("cookie" = [])),
    params(TokenPath),
    request_body = Option<Accept>,
    responses(
        (status = 200, description = "Who is signed in has joined", body = Accepted),
        (status = 201, description = "Somebody new has joined; cookies are set", body = Accepted),
        BodyErrors, AcceptErrors
    )
)]
async fn accept(
    State(app): State<Arc<App>>,
    Path(token): Path<String>,
    request: Request,
) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Accept = received.json_or_default()?;
    if let Some(password) = &body.password {
        check_new_password("password", password)?;
    } else if body.name.is_some() {
        return Err(ApiError::field(
            "name",
            "name goes with password; who is signed in has one already",
        ));
    }
    let name = body.name.unwrap_or_default().trim().to_owned();
    let (invite, token_hash) = find(&app, &token)?;
    match body.password {
        Some(password) => register(&app, &invite, token_hash, (password, name), &origin).await,
        None => join(&app, &invite, token_hash, &received).await,
    }
}

async fn join(
    app: &App,
    invite: &InviteEntry,
    token_hash: [u8; 32],
    received: &Received,
) -> ApiResult {
    let user = sign_in::person(app, received)?.user.id;
    let answer = Answer::Accept(user);
    done(app, Manage::AnswerInvite { token_hash, answer }).await?;
    let shown = Accepted {
        user_id: user.to_string(),
        organization: joined(app, invite, user)?,
        session_token: None,
        expires_at: None,
    };
    Ok(json_response(StatusCode::OK, &shown))
}

async fn register(
    app: &App,
    invite: &InviteEntry,
    token_hash: [u8; 32],
    (password, name): (String, String),
    origin: &Origin,
) -> ApiResult {
    let hashed = password::hash(password).await;
    let now = clock::now();
    let user = UserId(hash::new_id(now));
    let (token, session) = new_session(user, now, Some(origin));
    let expires_at = session.expires_at;
    let newcomer = Newcomer {
        user,
        name,
        password_hash: hashed.ok_or_else(hashing_is_full)?,
        session,
    };
    let answer = Answer::Register(Box::new(newcomer));
    done(app, Manage::AnswerInvite { token_hash, answer }).await?;
    let shown = Accepted {
        user_id: user.to_string(),
        organization: joined(app, invite, user)?,
        session_token: Some(token.clone()),
        expires_at: Some(clock::rfc3339(expires_at)),
    };
    let mut response = json_response(StatusCode::CREATED, &shown);
    app.cookies.sign_in(&mut response, &app.csrf, &token);
    Ok(response)
}

fn joined(app: &App, invite: &InviteEntry, user: UserId) -> ApiResult<orgs::Shown> {
    let shown = orgs::Shown::of(&app.directory(), invite.org, user);
    shown.ok_or_else(|| ApiError::not_found("organization"))
}

/// Decline an invitation: its token is used up.
#[utoipa::path(
    post,
    path = "/api/v1/invites/{token}/decline",
    operation_id = "decline_invite",
    tag = "organizations",
    security(()),
    params(TokenPath),
    responses(
        (status = 204, description = "Declined"),
        PathError, NotFoundError, BusyError
    )
)]
async fn decline(State(app): State<Arc<App>>, Path(token): Path<String>) -> ApiResult {
    let (_, token_hash) = find(&app, &token)?;
    let answer = Answer::Decline;
    done(&app, Manage::AnswerInvite { token_hash, answer }).await?;
    Ok(no_content())
}
