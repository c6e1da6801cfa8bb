//! `POST /auth/login` and `/auth/logout`.

use super::{
    Membership, Person, check_given_password, done, email, hashing_is_full, memberships,
    no_content, open_session, too_many,
};
use crate::app::{App, wrong_credentials};
use crate::error::ApiResult;
use crate::openapi::{BodyErrors, BusyError, SessionErrors, SignInErrors};
use crate::sdk::decision::json_response;
use crate::sign_in::{self, Origin};
use crate::{clock, password, request};
use axum::extract::{Request, State};
use engine::manage::{Manage, SignInProof};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(logout))
}

/// A person who has an account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    #[schema(format = "email", max_length = 254, example = "ada@example.com")]
    email: String,
    #[schema(max_length = 256, format = Password)]
    password: String,
}

/// Signed in.
#[derive(Serialize, ToSchema)]
struct LoggedIn {
    /// For `Authorization: Bearer`; also set as a cookie.
    session_token: String,
    expires_at: String,
    user: Person,
    organizations: Vec<Membership>,
}

/// Sign in. After five wrong passwords for an address from one place, a few minutes must pass.
#[utoipa::path(
    post,
    path = "/api/v1/auth/login",
    operation_id = "login",
    tag = "auth",
    security(()),
    request_body = Login,
    responses(
        (status = 200, description = "Signed in; cookies are set", body = LoggedIn),
        BodyErrors, SignInErrors
    )
)]
async fn login(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Login = received.json()?;
    let email = email(&body.email)?;
    check_given_password("password", &body.password)?;
    // Counted before it is known to be wrong: many at once must not all be tried.
    let admitted = app.logins.admit(&email, origin.ip, clock::now());
    admitted
        .map_err(|wait| too_many("too many wrong passwords; wait before trying again", wait))?;
    let user = app.directory().user_by_email(&email).cloned();
    // Who has none takes as long as who does not exist.
    let stored = user.as_ref().map(|user| user.password_hash.to_string());
    let stored = stored.filter(|hash| !hash.is_empty());
    let Some(good) = password::verify(body.password, stored.clone()).await else {
        app.logins.undo(&email, origin.ip);
        return Err(hashing_is_full());
    };
    if good {
        app.logins.forget(&email, origin.ip);
    }
    let Some((user, verified)) = user.zip(stored).filter(|_| good) else {
        return Err(wrong_credentials());
    };
    let proof = SignInProof::Password(verified);
    let (token, expires_at) = open_session(&app, user.id, proof, &origin).await?;
    let body = LoggedIn {
        expires_at: clock::rfc3339(expires_at),
        user: Person::of(&user),
        organizations: memberships(&app.directory(), &user),
        session_token: token,
    };
    let mut response = json_response(StatusCode::OK, &body);
    app.cookies
        .sign_in(&mut response, &app.csrf, &body.session_token);
    Ok(response)
}

/// Sign out: this session ends, and its cookies.
#[utoipa::path(
    post,
    path = "/api/v1/auth/logout",
    operation_id = "logout",
    tag = "auth",
    security(("session" = []), ("cookie" = [])),
    responses((status = 204, description = "The session is over"), SessionErrors, BusyError)
)]
async fn logout(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let signed_in = sign_in::person(&app, &received)?;
    let end = Manage::EndSession {
        user: signed_in.user.id,
        session: signed_in.session.id,
    };
    done(&app, end).await?;
    let mut response = no_content();
    app.cookies.sign_out(&mut response);
    Ok(response)
}
