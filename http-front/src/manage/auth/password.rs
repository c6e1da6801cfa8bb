//! Passwords and mailed links. Whoever asks for a link learns nothing about the address: the answer
//! and its time are the same whether somebody is registered under it or not.

use super::{
    check_given_password, check_new_password, done, email, hashing_is_full, no_content, too_many,
    too_many_mails,
};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    AttemptsError, BodyErrors, BusyError, ConflictError, SessionErrors, StateError,
};
use crate::sdk::decision::json_response;
use crate::sign_in::{self, Asked, Origin};
use crate::{clock, hash, password, request};
use axum::extract::{Request, State};
use engine::directory::UserEntry;
use engine::limits;
use engine::manage::{Manage, PasswordProof};
use http::StatusCode;
use persist::UserId;
use persist::record::{Token, TokenKind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(change))
        .routes(routes!(forgot))
        .routes(routes!(reset))
        .routes(routes!(send))
        .routes(routes!(verify))
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PasswordChange)]
struct Change {
    #[schema(max_length = 256, format = Password)]
    current_password: String,
    #[schema(min_length = 12, max_length = 256, format = Password)]
    new_password: String,
}

/// Somebody who cannot sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PasswordForgotten)]
struct Forgot {
    #[schema(format = "email", max_length = 254, example = "ada@example.com")]
    email: String,
}

/// Another password, by a mailed token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PasswordReset)]
struct Reset {
    /// From the mail.
    token: String,
    #[schema(min_length = 12, max_length = 256, format = Password)]
    password: String,
}

/// A mailed token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EmailVerification)]
struct Verify {
    /// From the mail.
    token: String,
}

/// It will be done, if it can be.
#[derive(Serialize, ToSchema)]
#[schema(as = MailAccepted)]
struct Accepted {
    #[schema(example = "if the address is registered, a mail is on its way")]
    message: &'static str,
}

/// Change the password. The other sessions end; this one goes on.
#[utoipa::path(
    post,
    path = "/api/v1/auth/password",
    operation_id = "change_password",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    request_body = Change,
    responses(
        (status = 204, description = "Changed; the other sessions are over"),
        BodyErrors, SessionErrors, BusyError, StateError, AttemptsError
    )
)]
async fn change(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let body: Change = received.json()?;
    check_given_password("current_password", &body.current_password)?;
    check_new_password("new_password", &body.new_password)?;
    let user = signed_in.user;
    if user.password_hash.is_empty() {
        return Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_password",
            "this account has no password yet; POST /api/v1/auth/password/forgot mails a link to set one",
        ));
    }
    let admitted = app.logins.admit(&user.email, origin.ip, clock::now());
    admitted
        .map_err(|wait| too_many("too many wrong passwords; wait before trying again", wait))?;
    let verified = user.password_hash.to_string();
    let Some(good) = password::verify(body.current_password, Some(verified.clone())).await else {
        app.logins.undo(&user.email, origin.ip);
        return Err(hashing_is_full());
    };
    if !good {
        return Err(ApiError::forbidden(
            "wrong_password",
            "current_password is not your password",
        ));
    }
    app.logins.forget(&user.email, origin.ip);
    let hashed = password::hash(body.new_password).await;
    let change = Manage::SetPassword {
        user: user.id,
        password_hash: hashed.ok_or_else(hashing_is_full)?,
        proof: PasswordProof::Current {
            verified,
            session: signed_in.session.id,
        },
    };
    done(&app, change).await?;
    Ok(no_content())
}

/// Links being made at once, beyond which there is a 503 for known and unknown addresses alike.
static MAKING: Semaphore = Semaphore::const_new(64);

async fn make_link(app: &App, user: &UserEntry, kind: TokenKind) -> ApiResult<()> {
    let token = hash::random_word(43);
    let life = match kind {
        TokenKind::PasswordReset => limits::RESET_MILLIS,
        TokenKind::VerifyEmail => limits::VERIFY_MILLIS,
    };
    let add = Manage::AddToken(Token {
        token_hash: hash::sha256(token.as_bytes()),
        kind,
        user: user.id,
        expires_at: clock::now().plus(life),
    });
    done(app, add).await?;
    // Behind `#`, it reaches no server and no server's log.
    let url = app.public_url();
    let (subject, text) = match kind {
        TokenKind::PasswordReset => (
            "Set another password",
            format!(
                "Somebody, most likely you, asked to set another password at {url}.\n\n\
                 Do it here within an hour:\n{url}/reset-password#token={token}\n\n\
                 All your sessions end then. If it was not you, do nothing: nothing has changed.\n"
            ),
        ),
        TokenKind::VerifyEmail => (
            "Verify your address",
            format!(
                "This address was given for an account at {url}.\n\n\
                 If you made it, verify the address here within a day:\n{url}/verify-email#token={token}\n\n\
                 You are asked to sign in to it. If it was not you, do nothing.\n"
            ),
        ),
    };
    drop(app.mailer.send(&user.email, subject, text));
    Ok(())
}

/// Makes a link and mails it behind the answer, to whoever is found then.
fn mail_later(
    app: Arc<App>,
    kind: TokenKind,
    find: impl FnOnce(&App) -> Option<Arc<UserEntry>> + Send + 'static,
) -> ApiResult<()> {
    let Ok(permit) = MAKING.try_acquire() else {
        return Err(ApiError::unavailable(
            "overloaded",
            "too many ask for mails at this moment; try again in a second",
        ));
    };
    tokio::spawn(async move {
        if let Some(user) = find(&app)
            && let Err(error) = make_link(&app, &user, kind).await
        {
            tracing::warn!(code = error.slug, "a link was not mailed");
        }
        drop(permit);
    });
    Ok(())
}

/// Mails a link to verify the address of somebody who signs up.
pub(super) fn welcome(app: &Arc<App>, email: String) {
    let find = move |app: &App| app.directory().user_by_email(&email).cloned();
    if let Err(error) = mail_later(Arc::clone(app), TokenKind::VerifyEmail, find) {
        tracing::warn!(code = error.slug, "a link was not mailed");
    }
}

/// Ask for a mail with a link to set another password. The answer is the same whether the address is
/// registered or not; after five for one address from one place in five minutes, or twenty from anywhere
/// in an hour, some time must pass.
#[utoipa::path(
    post,
    path = "/api/v1/auth/password/forgot",
    operation_id = "forgot_password",
    tag = "auth",
    security(()),
    request_body = Forgot,
    responses(
        (status = 202, description = "If the address is registered, a mail is on its way", body = Accepted),
        BodyErrors, AttemptsError, BusyError
    )
)]
async fn forgot(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Forgot = received.json()?;
    let email = email(&body.email)?;
    app.mails
        .admit(Asked::Reset, &email, origin.ip, clock::now())
        .map_err(too_many_mails)?;
    // After the answer, for both: only who has the mailbox may learn which it is.
    let find = move |app: &App| app.directory().user_by_email(&email).cloned();
    mail_later(app, TokenKind::PasswordReset, find)?;
    let body = Accepted {
        message: "if the address is registered, a mail is on its way",
    };
    Ok(json_response(StatusCode::ACCEPTED, &body))
}

/// The person whose mailed token this is to set another password.
fn whose(app: &App, token: &str) -> ApiResult<(UserId, [u8; 32])> {
    let hash = hash::sha256(token.as_bytes());
    let directory = app.directory();
    let known = directory.token(&hash, TokenKind::PasswordReset, clock::now());
    let user = known.map(|token| token.user).ok_or_else(|| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_token",
            "this token is unknown, used or over; ask for another mail",
        )
        .with("field", "token")
    })?;
    Ok((user, hash))
}

/// Set another password with the token of a mail, which works once. All sessions end, and the address
/// counts as verified.
#[utoipa::path(
    post,
    path = "/api/v1/auth/password/reset",
    operation_id = "reset_password",
    tag = "auth",
    security(()),
    request_body = Reset,
    responses(
        (status = 204, description = "Set; sign in with it"),
        BodyErrors, BusyError
    )
)]
async fn reset(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Reset = received.json()?;
    check_new_password("password", &body.password)?;
    let (user, token) = whose(&app, &body.token)?;
    let hashed = password::hash(body.password).await;
    let change = Manage::SetPassword {
        user,
        password_hash: hashed.ok_or_else(hashing_is_full)?,
        proof: PasswordProof::Link(token),
    };
    done(&app, change).await?;
    // Whoever forgot it has most likely tried a few before.
    if let Some(user) = app.directory().user(user) {
        app.logins.forget(&user.email, origin.ip);
    }
    let mut response = no_content();
    app.cookies.sign_out(&mut response);
    Ok(response)
}

/// Ask for a mail with a link to verify my address.
#[utoipa::path(
    post,
    path = "/api/v1/auth/email/send",
    operation_id = "send_verification",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    responses(
        (status = 202, description = "A mail is on its way", body = Accepted),
        SessionErrors, BusyError, ConflictError, AttemptsError
    )
)]
async fn send(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let user = sign_in::person(&app, &received)?.user;
    if user.verified_at.is_some() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "already_verified",
            "this address is verified already",
        ));
    }
    app.mails
        .admit(Asked::Verify, &user.email, origin.ip, clock::now())
        .map_err(too_many_mails)?;
    make_link(&app, &user, TokenKind::VerifyEmail).await?;
    let body = Accepted {
        message: "a mail is on its way",
    };
    Ok(json_response(StatusCode::ACCEPTED, &body))
}

/// Show with the token of a mail that the address is mine, signed in to the account it was sent for:
/// whoever opens a mail about an account that a stranger made must not prove the address for them.
#[utoipa::path(
    post,
    path = "/api/v1/auth/email/verify",
    operation_id = "verify_email",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    request_body = Verify,
    responses(
        (status = 204, description = "The address is verified"),
        BodyErrors, SessionErrors, BusyError
    )
)]
async fn verify(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let user = sign_in::person(&app, &received)?.user.id;
    let body: Verify = received.json()?;
    let token = hash::sha256(body.token.as_bytes());
    done(&app, Manage::VerifyEmail { user, token }).await?;
    Ok(no_content())
}
