//! Signing in through a provider, by authorization code with PKCE. A client may do the browser's part
//! itself and post the code; or a browser is led through by redirects, with the flow's secrets sealed
//! in a cookie of ten minutes.

mod flow;
mod provider;
mod settings;

pub use provider::Providers;
pub use settings::is_setting;

use super::{NewAccount, Registered, email, open_session, sign_up};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{BodyErrors, ProviderErrors, ProviderRefusals};
use crate::request;
use crate::sdk::decision::json_response;
use crate::sign_in::Origin;
use axum::extract::{Request, State};
use axum::response::Response;
use engine::directory::UserEntry;
use engine::manage::{Account, Manage, SignInProof};
use http::StatusCode;
use provider::{Answer, Claims, Provider};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .merge(flow::routes())
}

/// What came of the browser's visit to a provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OauthRegister)]
struct Register {
    /// `github`, `google`, or the name of an OpenID issuer in the settings.
    #[schema(example = "github")]
    provider: String,
    /// As the provider gave it to `redirect_uri`.
    #[schema(min_length = 1, max_length = 4096, pattern = "^[!-~]+$")]
    code: String,
    /// Whose S256 challenge was sent to the provider.
    #[schema(min_length = 43, max_length = 128)]
    code_verifier: String,
    /// As it was sent to the provider.
    redirect_uri: String,
    /// As it came back; the client has compared it with what it sent.
    state: String,
    /// As it was sent to the provider; needed if one was.
    nonce: Option<String>,
}

const CODE_BYTES: usize = 4096;
const URL_BYTES: usize = 2048;
const STATE_BYTES: usize = 1024;

fn bounded(field: &str, text: &str, least: usize, most: usize) -> ApiResult<()> {
    if (least..=most).contains(&text.len()) && !crate::text::has_control(text) {
        return Ok(());
    }
    Err(ApiError::field(
        field,
        format!("{field} takes {least} to {most} bytes and no control characters"),
    ))
}

fn check(body: &Register) -> ApiResult<()> {
    bounded("provider", &body.provider, 1, 64)?;
    bounded("code", &body.code, 1, CODE_BYTES)?;
    bounded("code_verifier", &body.code_verifier, 43, 128)?;
    bounded("state", &body.state, 1, STATE_BYTES)?;
    bounded("redirect_uri", &body.redirect_uri, 1, URL_BYTES)?;
    if let Some(nonce) = &body.nonce {
        bounded("nonce", nonce, 1, STATE_BYTES)?;
    }
    match reqwest::Url::parse(&body.redirect_uri) {
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::field(
            "redirect_uri",
            "redirect_uri must be the address that was sent to the provider",
        )),
    }
}

fn not_configured() -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "oauth_not_configured",
        "no provider is set up: set NULLRUN_GITHUB_CLIENT_ID and NULLRUN_GITHUB_CLIENT_SECRET, or \
         NULLRUN_GOOGLE_CLIENT_ID and NULLRUN_GOOGLE_CLIENT_SECRET, or NULLRUN_OIDC_<NAME>_ISSUER, \
         NULLRUN_OIDC_<NAME>_CLIENT_ID and NULLRUN_OIDC_<NAME>_CLIENT_SECRET",
    )
}

/// A provider by its name in the settings.
fn provider<'a>(app: &'a App, name: &str) -> ApiResult<Option<&'a Provider>> {
    if app.providers.is_empty() {
        return Err(not_configured());
    }
    Ok(app.providers.get(name))
}

/// The person of a provider's account: known, or known by a proven address, or new.
async fn admit(
    app: &App,
    provider: &str,
    claims: Claims,
    origin: &Origin,
) -> ApiResult<(StatusCode, Registered)> {
    let account = Account {
        provider: provider.to_owned(),
        subject: claims.subject,
    };
    let known = app
        .directory()
        .user_by_identity(&account.provider, &account.subject)
        .cloned();
    if let Some(user) = known {
        return Ok((StatusCode::OK, open(app, &user, origin).await?));
    }
    let address = claims.email.ok_or_else(|| {
        ApiError::forbidden(
            "email_missing",
            "the provider does not tell an address; allow it to, or give the account one there",
        )
    })?;
    let address = email(&address)?;
    let known = app.directory().user_by_email(&address).cloned();
    match (known, claims.email_verified) {
        (Some(user), true) => {
            // What the address's owner shows ends a stranger's password: the engine sees to that.
            let user_id = user.id;
            let link = Manage::AddIdentity {
                user: user_id,
                account,
            };
            super::done(app, link).await?;
            Ok((StatusCode::OK, open(app, &user, origin).await?))
        }
        (Some(_), false) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "email_taken",
            "this address is registered, and the provider does not say that it is yours; sign in \
             with POST /api/v1/auth/login",
        )),
        (None, false) => Err(ApiError::forbidden(
            "email_unverified",
            "the provider does not say that the address is yours; verify it there first",
        )),
        (None, true) => {
            let name = claims.name.map(|name| clean(&name));
            let wanted = NewAccount {
                email: &address,
                name: name.as_deref(),
                identity: Some(account),
                origin: Some(origin),
                ..NewAccount::default()
            };
            Ok((StatusCode::CREATED, sign_up(app, wanted).await?))
        }
    }
}

/// A provider's name for a person, within the bounds of one given here.
fn clean(name: &str) -> String {
    let name = name.replace(char::is_control, " ");
    crate::text::cut(name, engine::limits::PERSON_NAME_BYTES)
}

async fn open(app: &App, user: &UserEntry, origin: &Origin) -> ApiResult<Registered> {
    let (session_token, expires_at) =
        open_session(app, user.id, SignInProof::Provider, origin).await?;
    Ok(Registered {
        user_id: user.id.to_string(),
        organization_id: user.orgs.front().map(ToString::to_string),
        workflow_id: None,
        key_id: None,
        api_key: None,
        secret_key: None,
        session_token,
        expires_at: clock::rfc3339(expires_at),
    })
}

fn signed_in(app: &App, status: StatusCode, made: &Registered) -> Response {
    let mut response = json_response(status, made);
    app.cookies
        .sign_in(&mut response, &app.csrf, &made.session_token);
    response
}

/// Sign up or in with the code of a provider: the client has led the browser there with a PKCE
/// challenge and compared the state.
#[utoipa::path(
    post,
    path = "/api/v1/auth/oauth/register",
    operation_id = "oauth_register",
    tag = "auth",
    security(()),
    request_body = Register,
    responses(
        (status = 200, description = "Signed in to the account there was", body = Registered),
        (status = 201, description = "A new account", body = Registered),
        BodyErrors, ProviderRefusals, ProviderErrors
    )
)]
async fn register(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let origin = Origin::of(&request);
    let received = request::receive(request).await?;
    let body: Register = received.json()?;
    check(&body)?;
    let provider = provider(&app, &body.provider)?.ok_or_else(|| {
        ApiError::field(
            "provider",
            format!("provider must be one of {}", app.providers.names()),
        )
    })?;
    let answer = Answer {
        code: body.code,
        code_verifier: body.code_verifier,
        redirect_uri: body.redirect_uri,
        nonce: body.nonce,
    };
    let claims = app.providers.claims(provider, answer).await?;
    let (status, made) = admit(&app, &body.provider, claims, &origin).await?;
    Ok(signed_in(&app, status, &made))
}
