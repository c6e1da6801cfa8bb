//! Every route, and the outermost layer: request ids and the error envelope.

use crate::app::App;
use crate::config::Switch;
use crate::error::ApiError;
use crate::manage::{
    admin, auth, holds, invites, keys, ledger, members, orgs, plans, policies, status, workflows,
};
use crate::openapi::Frame;
use crate::sdk::{gate, health, misc, track, verify};
use crate::trace::TraceId;
use crate::{clock, description, hash, metrics};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::post;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::time::Instant;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;

/// The router.
pub fn router(app: Arc<App>) -> Router {
    let (router, openapi) = OpenApiRouter::with_openapi(Frame::openapi())
        .merge(gate::routes())
        .merge(track::routes())
        .merge(misc::routes())
        .merge(health::routes())
        .merge(verify::routes())
        .merge(auth::routes())
        .merge(orgs::routes())
        .merge(members::routes())
        .merge(invites::routes())
        .merge(status::routes())
        .merge(ledger::routes())
        .merge(plans::routes())
        .merge(workflows::routes())
        .merge(policies::routes())
        .merge(holds::routes())
        .merge(keys::routes())
        .merge(admin::routes())
        .merge(metrics::page_routes())
        .merge(description::routes())
        .split_for_parts();
    description::publish(openapi);
    let mut router = router;
    if app.config.floor_route == Switch::On {
        router = router.route("/floor", post(gate::floor));
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(&app))
        .layer(middleware::from_fn_with_state(app, envelope))
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
const TRACE_ID: http::HeaderName = http::HeaderName::from_static("x-trace-id");

/// Counts each request, and gives each answer its request's ids, and each error its body.
async fn envelope(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let ids = Ids::of(&mut request);
    let response = answer(request, next, &ids).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    let (status, took) = (response.status(), began.elapsed());
    tracing::debug!(
        request_id = ids.request(),
        trace_id = ids.trace(),
        %method,
        route,
        status = status.as_u16(),
        micros = took.as_micros(),
        "answered"
    );
    app.metrics.requests.note(route, &method, status, took);
    #[cfg(debug_assertions)]
    crate::answers::note(&method, route, status);
    response
}

/// What a request is known by: here, and in its caller's trace.
struct Ids {
    request: HeaderValue,
    trace: Option<TraceId>,
}

impl Ids {
    /// Those of a request, which has its id in its header from then on.
    fn of(request: &mut Request) -> Self {
        let given = request.headers().get(&REQUEST_ID).filter(|id| {
            let bytes = id.as_bytes();
            !bytes.is_empty() && bytes.len() <= 128 && bytes.iter().all(|b| b.is_ascii_graphic())
        });
        let id = given.cloned().unwrap_or_else(|| {
            let id = persist::UserId(hash::unordered_id(clock::now())).to_string();
            let id = HeaderValue::from_str(&id);
            let id = id.unwrap_or_else(|_| HeaderValue::from_static("unknown"));
            request.headers_mut().insert(REQUEST_ID, id.clone());
            id
        });
        Self {
            request: id,
            trace: TraceId::of(request.headers()),
        }
    }

    fn request(&self) -> &str {
        self.request.to_str().unwrap_or_default()
    }

    fn trace(&self) -> Option<&str> {
        self.trace.as_ref().map(TraceId::as_str)
    }
}

async fn answer(request: Request, next: Next, ids: &Ids) -> Response {
    let mut response = next.run(request).await;
    let error = response
        .extensions_mut()
        .remove::<ApiError>()
        .or_else(|| beneath(&response));
    if let Some(error) = error {
        let body = error.body(ids.request(), ids.trace());
        let body = serde_json::to_vec(&body).unwrap_or_default();
        *response.body_mut() = axum::body::Body::from(body);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if error.status.is_server_error() {
            tracing::warn!(
                request_id = ids.request(),
                trace_id = ids.trace(),
                status = error.status.as_u16(),
                code = error.slug,
                "answered an error"
            );
        }
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, ids.request.clone());
    if let Some(trace) = &ids.trace {
        headers.insert(TRACE_ID, trace.header());
    }
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
    foreign.then(|| {
        let why = "the path cannot be read: it must be UTF-8, percent-encoded";
        ApiError::new(status, "bad_request", why)
    })
}
