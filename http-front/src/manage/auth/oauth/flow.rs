//! The redirect flow: `start` sends the browser to the provider, `callback` takes it back. State, nonce
//! and code verifier stay in a sealed cookie of that browser: whoever brings another's code has another
//! state.

use super::super::no_content;
use super::provider::{Answer, Sent};
use super::{CODE_BYTES, STATE_BYTES, admit, bounded, provider, signed_in};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{NotFoundError, ProviderErrors, ProviderRefusals, QueryErrors};
use crate::sign_in::{FLOW, Origin};
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use persist::Millis;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(callback))
}

const PURPOSE: &[u8] = b"nullrun sign-in flow 1";
const FLOW_SECS: u64 = 600;

/// A sign-in that is under way.
#[derive(Serialize, Deserialize)]
struct Flow {
    provider: String,
    state: String,
    nonce: String,
    code_verifier: String,
    return_to: Option<String>,
    until: u64,
}

/// A provider in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
struct ProviderPath {
    /// `github`, `google`, or the name of an OpenID issuer in the settings.
    provider: String,
}

/// Where to go afterwards.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Start {
    /// A path on this gateway's public address to go to when signed in; without it the answer is JSON.
    #[param(
        max_length = 512,
        pattern = r"^/([!-.0-\[\]-~][!-\[\]-~]*)?$",
        example = "/dashboard"
    )]
    return_to: Option<String>,
}

/// What the provider says; more than this is ignored.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Callback {
    code: Option<String>,
    state: Option<String>,
    /// Instead of a code.
    error: Option<String>,
}

fn query<T: DeserializeOwned>(request: &Request) -> ApiResult<T> {
    let query = request.uri().query().unwrap_or_default();
    serde_urlencoded::from_str(query).map_err(|error| {
        let why = crate::text::cut(error.to_string(), 200);
        ApiError::field("query", format!("the query is wrong: {why}"))
    })
}

/// A path here and nothing that a browser takes for another host.
fn is_local(path: &str) -> bool {
    let mut bytes = path.bytes();
    let rooted = bytes.next() == Some(b'/');
    let next = bytes.next();
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    rooted && next != Some(b'/') && plain && path.len() <= 512
}

fn to(location: &str) -> ApiResult<Response> {
    let mut response = no_content();
    *response.status_mut() = StatusCode::FOUND;
    let location = HeaderValue::from_str(location)
        .map_err(|_| ApiError::field("return_to", "return_to must be a path"))?;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::LOCATION, location);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

fn redirect_uri(app: &App, provider: &str) -> String {
    let url = app.public_url();
    format!("{url}/api/v1/auth/oauth/{provider}/callback")
}

/// Begin to sign in through a provider: send a browser here.
#[utoipa::path(
    get,
    path = "/api/v1/auth/oauth/{provider}/start",
    operation_id = "oauth_start",
    tag = "auth",
    security(()),
    params(ProviderPath, Start),
    responses(
        (status = 302, description = "On to the provider; a cookie keeps the flow's state"),
        QueryErrors, NotFoundError, ProviderErrors
    )
)]
async fn start(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> ApiResult {
    let provider = provider(&app, &name)?.ok_or_else(|| ApiError::not_found("provider"))?;
    let Start { return_to } = query(&request)?;
    if return_to.as_deref().is_some_and(|path| !is_local(path)) {
        return Err(ApiError::field(
            "return_to",
            "return_to must be a path on this gateway, such as /dashboard",
        ));
    }
    let flow = Flow {
        state: hash::random_word(43),
        nonce: hash::random_word(43),
        code_verifier: hash::random_word(64),
        until: clock::now().plus(FLOW_SECS * 1000).0,
        provider: name,
        return_to,
    };
    let sent = Sent {
        redirect_uri: &redirect_uri(&app, &flow.provider),
        state: &flow.state,
        nonce: &flow.nonce,
        code_verifier: &flow.code_verifier,
    };
    let url = app.providers.authorize(provider, sent).await?;
    let mut response = to(url.as_str())?;
    let text = serde_json::to_string(&flow).unwrap_or_default();
    let sealed = app.sealer.seal_text(PURPOSE, &text);
    app.cookies.keep_flow(&mut response, &sealed, FLOW_SECS);
    Ok(response)
}

/// The flow this browser began, if it is the one the provider answers.
fn flow(app: &App, request: &Request, provider: &str, state: Option<&str>) -> ApiResult<Flow> {
    let sealed = app.cookies.get(request.headers(), FLOW);
    let flow = sealed.and_then(|sealed| app.sealer.open_text(PURPOSE, sealed));
    let flow: Option<Flow> = flow.and_then(|text| serde_json::from_str(&text).ok());
    let state = state.unwrap_or_default();
    let right = flow.filter(|flow| {
        flow.provider == provider
            && clock::now() < Millis(flow.until)
            && bool::from(flow.state.as_bytes().ct_eq(state.as_bytes()))
    });
    right.ok_or_else(|| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "oauth_state_mismatch",
            "this browser did not begin this sign-in, or more than ten minutes ago; begin again",
        )
    })
}

/// The provider sends the browser back here.
#[utoipa::path(
    get,
    path = "/api/v1/auth/oauth/{provider}/callback",
    operation_id = "oauth_callback",
    tag = "auth",
    security(()),
    params(ProviderPath, Callback),
    responses(
        (status = 200, description = "Signed in; cookies are set", body = super::Registered),
        (status = 201, description = "A new account; cookies are set", body = super::Registered),
        (status = 302, description = "Signed in; on to `return_to`"),
        QueryErrors, NotFoundError, ProviderRefusals, ProviderErrors
    )
)]
async fn callback(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    request: Request,
) -> ApiResult {
    let provider = provider(&app, &name)?.ok_or_else(|| ApiError::not_found("provider"))?;
    let asked: Callback = query(&request)?;
    let origin = Origin::of(&request);
    let flow = flow(&app, &request, &name, asked.state.as_deref())?;
    bounded("state", &flow.state, 1, STATE_BYTES)?;
    if asked.error.is_some() {
        return Err(ApiError::forbidden(
            "oauth_denied",
            "the provider did not let this sign-in through, or the person declined",
        ));
    }
    let code = asked.code.unwrap_or_default();
    bounded("code", &code, 1, CODE_BYTES)?;
    let answer = Answer {
        code,
        code_verifier: flow.code_verifier,
        redirect_uri: redirect_uri(&app, &name),
        nonce: Some(flow.nonce),
    };
    let claims = app.providers.claims(provider, answer).await?;
    let (status, made) = admit(&app, &name, claims, &origin).await?;
    let mut response = match &flow.return_to {
        Some(path) => {
            let mut response = to(&format!("{}{path}", app.public_url()))?;
            app.cookies
                .sign_in(&mut response, &app.csrf, &made.session_token);
            response
        }
        None => signed_in(&app, status, &made),
    };
    app.cookies.keep_flow(&mut response, "", 0);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn nobody_is_sent_to_another_host() {
        assert!(is_local("/") && is_local("/dashboard?a=b#c"));
        for path in [
            "",
            "x",
            "//evil",
            "/\\evil",
            "https://evil",
            "/\tevil",
            "/a\nb",
        ] {
            assert!(!is_local(path), "{path:?}");
        }
    }
}
