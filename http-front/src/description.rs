//! `/api/v1/openapi.json` and, for people, `/api/v1/docs`: Swagger UI from inside the binary, so that
//! neither it nor its reader needs the internet.

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{NotFoundError, PathError};
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::Config;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(document))
        .routes(routes!(page))
        .routes(routes!(file))
}

/// The description as it is served, once the router is made.
static TEXT: OnceLock<Bytes> = OnceLock::new();

/// Keeps the description for the life of the process. Each worker makes the same.
pub fn publish(mut openapi: utoipa::openapi::OpenApi) {
    openapi.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let operations = openapi.paths.paths.values_mut().flat_map(|item| {
        let methods = [
            &mut item.post,
            &mut item.patch,
            &mut item.put,
            &mut item.delete,
        ];
        methods.into_iter().flatten()
    });
    for operation in operations {
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            optional_is_not_null(body);
        }
    }
    let text = || {
        let mut document = serde_json::to_value(&openapi).unwrap_or_default();
        let schemas = document.pointer_mut("/components/schemas");
        let schemas = schemas.and_then(Value::as_object_mut);
        schemas
            .into_iter()
            .flatten()
            .for_each(|(_, schema)| usual_examples(schema));
        Bytes::from(serde_json::to_vec_pretty(&document).unwrap_or_default())
    };
    TEXT.get_or_init(text);
}

/// What fields whose names end like this look like, unless their own description says it.
const USUAL: [(&str, &str); 12] = [
    ("id", "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b"),
    ("tool_name", "send_mail"),
    ("_at", "2026-11-26T12:00:00Z"),
    ("name", "nightly research"),
    ("token", "tBXa9cQ5uS3vYpK1eD7hJ2mN8rL4wF6z"),
    ("password", "correct horse battery"),
    ("description", "reads papers at night"),
    ("reason", "spends too fast"),
    ("explanation", "allowed"),
    ("plan", "growth"),
    ("_nanos", "1500000000"),
    ("_cents", "150"),
];

/// Gives the fields of a schema that have no example the usual one of their name, if it fits their type.
fn usual_examples(schema: &mut Value) {
    if let Some(items) = schema.get_mut("items") {
        usual_examples(items);
    }
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, field) in fields.into_iter().flatten() {
        usual_examples(field);
        let has = |word| field.get(word).is_some();
        let secret = field["format"] == "password";
        let told = has("example") || has("enum") || has("pattern");
        let kind = field["type"].as_str().or_else(|| field["type"][0].as_str());
        let usual = USUAL.iter().find(|(end, _)| name.ends_with(end));
        let Some((_, text)) = usual.filter(|_| !told) else {
            continue;
        };
        let example = match kind {
            Some("string") if secret || !has("format") => Some(Value::from(*text)),
            Some("integer") => text.parse::<u64>().ok().map(Value::from),
            _ => None,
        };
        if let Some(example) = example {
            field["example"] = example;
        }
    }
}

/// A body that may be left out is described as one that may also be `null`, which none may.
fn optional_is_not_null(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        if let Some(RefOr::T(Schema::OneOf(either))) = &content.schema {
            let mut named = either
                .items
                .iter()
                .filter(|one| matches!(one, RefOr::Ref(_)));
            if let (Some(only), None) = (named.next().cloned(), named.next()) {
                content.schema = Some(only);
            }
        }
    }
}

/// This document: OpenAPI 3.1.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenApiDocument)]
struct Document {
    #[schema(pattern = "^3\\.1\\.")]
    openapi: String,
    info: Info,
    /// By path.
    paths: BTreeMap<String, Operations>,
    tags: Vec<Tag>,
}

/// What is described.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenApiInfo)]
struct Info {
    title: String,
    version: String,
}

/// A chapter.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenApiTag)]
struct Tag {
    name: String,
    description: String,
}

/// The operations of a path.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenApiOperations)]
struct Operations {
    get: Option<Operation>,
    post: Option<Operation>,
    patch: Option<Operation>,
    put: Option<Operation>,
    delete: Option<Operation>,
}

/// An operation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenApiOperation)]
#[serde(rename_all = "camelCase")]
struct Operation {
    operation_id: String,
    tags: Vec<String>,
}

/// Get the description of every route, made from the router itself.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    operation_id = "openapi",
    tag = "health",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Document))
)]
async fn document() -> Response {
    let kind = HeaderValue::from_static("application/json");
    let text = TEXT.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Read the description as a page, and try calls from it.
#[utoipa::path(
    get,
    path = "/api/v1/docs",
    operation_id = "docs",
    tag = "health",
    security(()),
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
async fn page() -> ApiResult {
    served("index.html")
}

/// What the page is made of.
#[derive(Debug, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
struct FilePath {
    /// The file's name.
    #[param(example = "swagger-ui.css")]
    file: String,
}

/// Get a file that the page loads.
#[utoipa::path(
    get,
    path = "/api/v1/docs/{file}",
    operation_id = "docs_file",
    tag = "health",
    security(()),
    params(FilePath),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/css"), (String = "text/javascript"), (String = "text/html"),
            (String = "image/png"), (String = "application/json")
        )),
        PathError, NotFoundError
    )
)]
async fn file(State(_): State<Arc<App>>, Path(file): Path<String>) -> ApiResult {
    served(&file)
}

/// Scripts and styles are the binary's own; pages of others may not frame it.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self' data:; connect-src 'self'; \
                           base-uri 'self'; form-action 'none'; frame-ancestors 'none'";

fn served(name: &str) -> ApiResult {
    let config = Config::from("/api/v1/openapi.json");
    let found = utoipa_swagger_ui::serve(name, Arc::new(config)).map_err(|error| {
        tracing::error!(%error, name, "a file of the docs page cannot be served");
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "this file cannot be served",
        )
    })?;
    let found = found.ok_or_else(|| ApiError::not_found("file"))?;
    let kind = HeaderValue::from_str(&found.content_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, kind),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(PAGE_POLICY),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    if name == "index.html" {
        // It is read without a slash at the end, and names its files as beside it.
        let html = String::from_utf8_lossy(&found.bytes);
        let html = html.replacen("<head>", "<head><base href=\"/api/v1/docs/\">", 1);
        return Ok((headers, html).into_response());
    }
    let bytes = match found.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    Ok((headers, bytes).into_response())
}
