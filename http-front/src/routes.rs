//! Every route, and the outermost layer: request ids and the error envelope.

use crate::app::App;
use crate::config::Switch;
use crate::error::ApiError;
use crate::manage::{auth, keys, orgs, policies, workflows};
use crate::sdk::{gate, misc, track, verify};
use crate::{clock, hash};
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;

/// The router.
pub fn router(app: Arc<App>) -> Router {
    let org = "/api/v1/orgs/{org}";
    let at = |rest: &str| format!("{org}{rest}");
    let mut router = Router::new()
        .route("/api/v1/gate", post(gate::gate))
        .route("/api/v1/execute", post(gate::execute))
        .route("/api/v1/check", post(gate::check))
        .route("/api/v1/track", post(track::single))
        .route("/api/v1/track/batch", post(track::batch))
        .route("/api/v1/cancel", post(misc::cancel))
        .route("/api/v1/heartbeat", post(misc::heartbeat))
        .route("/api/v1/status/{workflow}", get(misc::workflow_status))
        .route("/api/v1/budget/approximate", get(misc::approximate_budget))
        .route("/api/v1/capabilities", get(misc::capabilities))
        .route("/api/v1/policies", post(misc::no_policies))
        .route("/api/v1/auth/verify", post(verify::verify))
        .route("/auth/verify", post(verify::verify))
        .route("/api/v1/auth/register", post(auth::register))
        .route("/api/v1/auth/login", post(auth::login))
        .route(org, get(orgs::get).patch(orgs::patch))
        .route(&at("/status"), get(orgs::status))
        .route(&at("/ledger/verify"), get(orgs::verify))
        .route(
            &at("/workflows"),
            get(workflows::index).post(workflows::create),
        )
        .route(
            &at("/workflows/{id}"),
            get(workflows::get).patch(workflows::patch),
        )
        .route(&at("/workflows/{id}/pause"), post(workflows::pause))
        .route(&at("/workflows/{id}/resume"), post(workflows::resume))
        .route(&at("/workflows/{id}/kill"), post(workflows::kill))
        .route(
            &at("/policies"),
            get(policies::index).post(policies::create),
        )
        .route(
            &at("/policies/{id}"),
            get(policies::get)
                .patch(policies::patch)
                .delete(policies::delete),
        )
        .route(&at("/api-keys"), get(keys::index).post(keys::create))
        .route(&at("/api-keys/{id}"), axum::routing::delete(keys::revoke))
        .route("/health/ready", get(misc::ready))
        .route("/health/startup", get(misc::ready));
    for path in ["/health", "/healthz", "/health/live", "/api/v1/health"] {
        router = router.route(path, get(misc::health));
    }
    if app.config.floor_route == Switch::On {
        router = router.route("/floor", post(gate::floor));
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
        .layer(middleware::from_fn(envelope))
}

async fn nothing_here() -> ApiError {
    ApiError::not_found("route")
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route takes another method",
    )
}

const REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// Gives each answer its request's id, and each error its body.
async fn envelope(request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(|b| b.is_ascii_graphic())
    });
    let id = given.cloned().unwrap_or_else(|| {
        let id = persist::UserId(hash::new_id(clock::now())).to_string();
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    });
    let mut response = next.run(request).await;
    let error = response
        .extensions_mut()
        .remove::<ApiError>()
        .or_else(|| beneath(&response));
    if let Some(error) = error {
        let body = error.body(id.to_str().unwrap_or_default()).to_string();
        *response.body_mut() = axum::body::Body::from(body);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if error.status.is_server_error() {
            tracing::warn!(
                status = error.status.as_u16(),
                code = error.slug,
                "answered an error"
            );
        }
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// An error that something beneath the handlers gave in its own words, such as a path that does not
/// decode.
fn beneath(response: &Response) -> Option<ApiError> {
    let status = response.status();
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let foreign = (status.is_client_error() || status.is_server_error()) && !json;
    foreign.then(|| ApiError::new(status, "bad_request", "the request cannot be read"))
}
