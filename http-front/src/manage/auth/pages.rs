//! The pages that mailed links lead to: each takes the token from behind `#`, where no server sees it,
//! and posts it. A mail program that fetches links ahead uses nothing up.

use crate::app::App;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(reset_password))
        .routes(routes!(verify_email))
        .routes(routes!(invite))
}

/// The page that a mailed link to set another password leads to.
#[utoipa::path(
    get,
    path = "/reset-password",
    operation_id = "reset_password_page",
    tag = "auth",
    security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
async fn reset_password() -> Response {
    page(RESET)
}

/// The page that a mailed link to prove an address leads to.
#[utoipa::path(
    get,
    path = "/verify-email",
    operation_id = "verify_email_page",
    tag = "auth",
    security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
async fn verify_email() -> Response {
    page(VERIFY)
}

/// The page that the link in an invitation leads to.
#[utoipa::path(
    get,
    path = "/invite",
    operation_id = "invite_page",
    tag = "auth",
    security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
async fn invite() -> Response {
    page(INVITE)
}

const RESET: &str = include_str!("pages/reset-password.html");
const VERIFY: &str = include_str!("pages/verify-email.html");
const INVITE: &str = include_str!("pages/invite.html");

fn page(html: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (headers, html).into_response()
}
