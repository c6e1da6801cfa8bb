//! Every answer that is not a success, in one envelope. The body is a superset that all published
//! clients understand; `message` is for people and says what to do, `code` is contract.

use crate::openapi::ErrorBody;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

/// An error on its way out. The outermost layer turns it into a body, with the request's id.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// Slug in lower case; `error_code` is the same in upper case.
    pub slug: &'static str,
    /// For people: what is wrong, the bound, the remedy.
    pub message: String,
    /// Machine-readable particulars.
    pub details: Map<String, Value>,
    /// When asking again may help.
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error without particulars.
    #[must_use]
    pub fn new(status: StatusCode, slug: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            slug,
            message: message.into(),
            details: Map::new(),
            retry_after_ms: None,
        }
    }

    /// 400: a field is missing or wrong.
    #[must_use]
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_field", message).with("field", field)
    }

    /// 404.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no such {what}"),
        )
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(slug: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, slug, message)
    }

    /// 403.
    #[must_use]
    pub fn forbidden(slug: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, slug, message)
    }

    /// 503: come back.
    #[must_use]
    pub fn unavailable(slug: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry_after_ms: Some(1000),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, slug, message)
        }
    }

    /// Adds a particular.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The envelope, as the OpenAPI document describes it.
    #[must_use]
    pub fn body(&self, request_id: &str, trace_id: Option<&str>) -> ErrorBody {
        let code = self.slug.to_ascii_uppercase();
        let mut details = self.details.clone();
        details.insert("error_code".to_owned(), Value::from(code.as_str()));
        ErrorBody {
            error: self.slug,
            code: code.clone(),
            error_code: code,
            message: self.message.clone(),
            error_message: self.message.clone(),
            details,
            retry_after_ms: self.retry_after_ms,
            request_id: request_id.to_owned(),
            trace_id: trace_id.map(str::to_owned),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(after) = self.retry_after_ms {
            retry_after(&mut response, after);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Sets `Retry-After`, in whole seconds.
pub fn retry_after(response: &mut Response, millis: u64) {
    let secs = HeaderValue::from(millis.div_ceil(1000).max(1));
    response.headers_mut().insert(header::RETRY_AFTER, secs);
}

/// The result of a handler.
pub type ApiResult<T = Response> = Result<T, ApiError>;
