//! `POST /auth/register`, `POST /auth/login`.

use super::unexpected;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::sdk::decision::json_response;
use crate::{clock, hash, password, request};
use axum::extract::{Request, State};
use engine::command::{Command, Outcome};
use engine::limits;
use engine::manage::{Manage, NewKey, Registration};
use http::StatusCode;
use persist::record::{Role, Scopes, Session};
use persist::{KeyId, Millis, OrgId, UserId, WorkflowId};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    email: String,
    password: String,
    name: Option<String>,
    organization_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    password: String,
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
    let api_key = format!("nr_live_{}", hash::random_word(32));
    let secret = hash::hex(&hash::random::<32>());
    let new = NewKey {
        id,
        workflow,
        name: name.to_owned(),
        key_hash: hash::sha256(api_key.as_bytes()),
        prefix: api_key.chars().take(12).collect(),
        suffix: api_key.chars().skip(api_key.len() - 4).collect(),
        sealed_secret: app.sealer.seal(id, &secret),
        scopes,
        budget: None,
        expires_at: None,
    };
    Minted {
        new,
        api_key,
        secret,
    }
}

fn new_session(user: UserId, now: Millis) -> (String, Session) {
    let token = format!("ses_{}", hash::random_word(43));
    let session = Session {
        token_hash: hash::sha256(token.as_bytes()),
        user,
        expires_at: now.plus(limits::SESSION_MILLIS),
    };
    (token, session)
}

fn email(text: &str) -> ApiResult<String> {
    let email = text.trim().to_lowercase();
    let shaped = email
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty());
    let clean = !email.chars().any(|c| c.is_control() || c.is_whitespace());
    if shaped && clean && email.len() <= limits::EMAIL_BYTES {
        return Ok(email);
    }
    Err(ApiError::field(
        "email",
        format!(
            "email must be an address of at most {} bytes",
            limits::EMAIL_BYTES
        ),
    ))
}

/// Makes an account: person, org, first workflow, first key, session. Used by the route and by the
/// first start.
pub async fn sign_up(
    app: &App,
    address: &str,
    secret: String,
    name: Option<&str>,
    org_name: Option<&str>,
) -> ApiResult<Value> {
    let email = email(address)?;
    if !limits::PASSWORD_BYTES.contains(&secret.len()) {
        return Err(ApiError::field(
            "password",
            format!(
                "password takes {} to {} bytes",
                limits::PASSWORD_BYTES.start(),
                limits::PASSWORD_BYTES.end()
            ),
        ));
    }
    let name = name.unwrap_or_default().trim();
    if name.len() > limits::WORKFLOW_NAME_BYTES || crate::text::has_control(name) {
        return Err(ApiError::field(
            "name",
            format!("name may have {} bytes", limits::WORKFLOW_NAME_BYTES),
        ));
    }
    let taken = app.directory().user_by_email(&email).is_some();
    let hashed = password::hash(secret).await.ok_or_else(|| {
        ApiError::unavailable("overloaded", "the password could not be hashed; try again")
    })?;
    if taken {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "email_taken",
            "this address is registered; sign in with POST /api/v1/auth/login",
        ));
    }
    let now = clock::now();
    let user = UserId(hash::new_id(now));
    let org = OrgId(hash::new_id(now));
    let workflow = WorkflowId(hash::new_id(now));
    let minted = mint_key(app, "default", Some(workflow), Scopes::ALL);
    let key_id = minted.new.id;
    let (token, session) = new_session(user, now);
    let expires_at = session.expires_at;
    let owner = email.split('@').next().unwrap_or_default();
    let registration = Registration {
        user,
        name: name.to_owned(),
        password_hash: hashed,
        org,
        org_name: org_name.map_or_else(
            || format!("{owner}'s organization"),
            |name| name.trim().to_owned(),
        ),
        plan: app.config.default_plan.clone(),
        workflow,
        workflow_name: "default".to_owned(),
        key: minted.new,
        session,
        email,
    };
    app.call(Command::Manage(Box::new(Manage::Register(Box::new(
        registration,
    )))))
    .await?;
    Ok(json!({
        "user_id": user.to_string(),
        "organization_id": org.to_string(),
        "workflow_id": workflow.to_string(),
        "key_id": key_id.to_string(),
        "api_key": minted.api_key,
        "secret_key": minted.secret,
        "session_token": token,
        "expires_at": clock::rfc3339(expires_at),
    }))
}

/// `POST /api/v1/auth/register`.
pub async fn register(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    let body: Register = received.json()?;
    let made = sign_up(
        &app,
        &body.email,
        body.password,
        body.name.as_deref(),
        body.organization_name.as_deref(),
    )
    .await?;
    Ok(json_response(StatusCode::CREATED, &made))
}

/// `POST /api/v1/auth/login`.
pub async fn login(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let ip = request
        .extensions()
        .get::<SocketAddr>()
        .map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip);
    let received = request::receive(request).await?;
    let body: Login = received.json()?;
    let email = email(&body.email)?;
    if body.password.len() > *limits::PASSWORD_BYTES.end() {
        return Err(ApiError::field(
            "password",
            format!(
                "password takes at most {} bytes",
                limits::PASSWORD_BYTES.end()
            ),
        ));
    }
    let now = clock::now();
    // Counted before it is known to be wrong: many at once must not all be tried.
    if let Err(wait) = app.logins.admit(&email, ip, now) {
        return Err(ApiError {
            retry_after_ms: Some(wait),
            ..ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "too many wrong passwords; wait before trying again",
            )
        });
    }
    let user = app.directory().user_by_email(&email).cloned();
    let stored = user.as_ref().map(|user| user.password_hash.to_string());
    let Some(good) = password::verify(body.password, stored).await else {
        app.logins.undo(&email, ip);
        return Err(ApiError::unavailable(
            "overloaded",
            "too many sign in at this moment; try again in a second",
        ));
    };
    if good {
        app.logins.forget(&email, ip);
    }
    let Some(user) = user.filter(|_| good) else {
        return Err(ApiError::unauthorized(
            "invalid_credentials",
            "address or password is wrong",
        ));
    };
    let (token, session) = new_session(user.id, now);
    let expires_at = session.expires_at;
    let reply = app
        .call(Command::Manage(Box::new(Manage::OpenSession(session))))
        .await?;
    if !matches!(reply.outcome, Outcome::Managed(_)) {
        return Err(unexpected(&reply));
    }
    let directory = app.directory();
    let organizations: Vec<_> = user
        .orgs
        .iter()
        .filter_map(|id| Some((directory.org(*id)?, directory.role(*id, user.id)?)))
        .map(|(org, role)| json!({ "id": org.id.to_string(), "name": org.name, "role": role_name(role) }))
        .collect();
    let body = json!({
        "session_token": token,
        "expires_at": clock::rfc3339(expires_at),
        "user": { "id": user.id.to_string(), "email": user.email, "name": user.name },
        "organizations": organizations,
    });
    Ok(json_response(StatusCode::OK, &body))
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}
