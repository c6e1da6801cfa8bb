//! `POST /auth/register`: a person with an org, a first workflow, a key and a session.

use super::{check_new_password, done, email, hashing_is_full, mint_key, new_session, password};
use crate::app::App;
use crate::error::ApiResult;
use crate::openapi::{BodyErrors, BusyError, ConflictError};
use crate::sdk::decision::json_response;
use crate::sign_in::Origin;
use crate::{clock, hash, request};
use axum::extract::{Request, State};
use engine::manage::{Account, Manage, Registration};
use http::StatusCode;
use persist::record::Scopes;
use persist::{OrgId, UserId, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(register))
}

/// A person who wants an account.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    #[schema(format = "email", max_length = 254, example = "ada@example.com")]
    email: String,
    #[schema(min_length = 12, max_length = 256, format = Password)]
    password: String,
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: Option<String>,
    /// "ada's organization" if it is left out.
    #[schema(max_length = 100, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    organization_name: Option<String>,
}

/// An account with what is shown only now: the key and its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct Registered {
    /// The person.
    pub user_id: String,
    /// Their organization; of several, the oldest.
    pub organization_id: Option<String>,
    /// Its first workflow; null for somebody who had an account.
    pub workflow_id: Option<String>,
    /// The first key's id; null for somebody who had an account.
    pub key_id: Option<String>,
    /// Null for somebody who had an account.
    #[schema(example = "nr_live_0123456789abcdefghijklmnopqrstuv")]
    pub api_key: Option<String>,
    /// Signs the key's requests; null for somebody who had an account.
    pub secret_key: Option<String>,
    /// For `Authorization: Bearer`; also set as a cookie.
    pub session_token: String,
    /// When the session ends.
    pub expires_at: String,
}

/// What an account is made of.
#[derive(Debug, Default)]
pub struct NewAccount<'a> {
    /// Their address.
    pub email: &'a str,
    /// Their password; without one they sign in through a provider.
    pub password: Option<String>,
    /// Their name.
    pub name: Option<&'a str>,
    /// Their org's name.
    pub org_name: Option<&'a str>,
    /// The provider's account, which shows that the address is theirs.
    pub identity: Option<Account>,
    /// From where they come.
    pub origin: Option<&'a Origin>,
}

/// Makes an account: person, org, first workflow, first key, session. Used by the routes and by the
/// first start.
pub async fn sign_up(app: &App, wanted: NewAccount<'_>) -> ApiResult<Registered> {
    let email = email(wanted.email)?;
    if let Some(password) = &wanted.password {
        check_new_password("password", password)?;
    }
    let password_hash = match wanted.password {
        Some(password) => crate::password::hash(password)
            .await
            .ok_or_else(hashing_is_full)?,
        None => String::new(),
    };
    let now = clock::now();
    let user = UserId(hash::new_id(now));
    let org = OrgId(hash::new_id(now));
    let workflow = WorkflowId(hash::new_id(now));
    let minted = mint_key(app, "default", Some(workflow), Scopes::ALL);
    let key_id = minted.new.id;
    let (token, session) = new_session(user, now, wanted.origin);
    let expires_at = session.expires_at;
    let owner = email.split('@').next().unwrap_or_default();
    let registration = Registration {
        user,
        name: wanted.name.unwrap_or_default().trim().to_owned(),
        password_hash,
        identity: wanted.identity,
        org,
        org_name: wanted.org_name.map_or_else(
            || format!("{}'s organization", crate::text::cut(owner.to_owned(), 64)),
            |name| name.trim().to_owned(),
        ),
        plan: app.plans.default_name().to_owned(),
        workflow,
        workflow_name: "default".to_owned(),
        key: minted.new,
        session,
        email,
    };
    done(app, Manage::Register(Box::new(registration))).await?;
    Ok(Registered {
        user_id: user.to_string(),
        organization_id: Some(org.to_string()),
        workflow_id: Some(workflow.to_string()),
        key_id: Some(key_id.to_string()),
        api_key: Some(minted.api_key),
        secret_key: Some(minted.secret),
        session_token: token,
        expires_at: clock::rfc3339(expires_at),
    })
}

/// Sign up: a person, an organization of theirs, a workflow, an API key and a session. Key and secret
/// are shown only here. Where mail is set up, a link to verify the address is sent.
#[utoipa::path(
    post,
    path = "/api/v1/auth/register",
    operation_id = "register",
    tag = "auth",
    security(()),
    request_body = Register,
    responses(
        (status = 201, description = "Made; cookies are set", body = Registered),
        BodyErrors, ConflictError, BusyError
    )
)]
async fn register(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Register = received.json()?;
    let made = sign_up(
        &app,
        NewAccount {
            email: &body.email,
            password: Some(body.password),
            name: body.name.as_deref(),
            org_name: body.organization_name.as_deref(),
            identity: None,
            origin: Some(&origin),
        },
    )
    .await?;
    if app.mailer.is_smtp() {
        password::welcome(&app, email(&body.email)?);
    }
    let mut response = json_response(StatusCode::CREATED, &made);
    app.cookies
        .sign_in(&mut response, &app.csrf, &made.session_token);
    Ok(response)
}
