//! Reading a request: path, headers, the body within its bounds, JSON with errors that name the
//! field.

use crate::error::{ApiError, ApiResult};
use crate::text;
use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use engine::command::Protocol;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of a body, unless it reports.
///
/// Some clients send a tool's raw arguments along with the question.
pub const BODY_BYTES: usize = 1 << 20;
/// Bytes of a body of reports.
pub const REPORT_BYTES: usize = 10 << 20;
/// Bytes of a body past its bound that are still read, and dropped: a client that sends its whole
/// body before it looks for an answer then finds one.
const DISCARD_BYTES: usize = 16 << 20;

/// Seconds that a request's body may take to arrive. One for the process: to hand it along with each request
/// would cost each of them an allocation.
static BODY_SECS: AtomicU64 = AtomicU64::new(30);

/// Sets how many seconds a request's body may take to arrive.
pub fn set_body_timeout(secs: u64) {
    BODY_SECS.store(secs, Ordering::Relaxed);
}

/// A request whose body has arrived.
#[derive(Debug)]
pub struct Received {
    /// Method.
    pub method: Method,
    /// Headers.
    pub headers: HeaderMap,
    /// Path without query.
    pub path: String,
    /// The raw bytes, as signed.
    pub body: Bytes,
}

/// Waits for the body.
pub async fn receive(request: Request) -> ApiResult<Received> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let headers = parts.headers;
    let body = read(body, limit(&path)).await?;
    Ok(Received {
        method: parts.method,
        headers,
        path,
        body,
    })
}

fn limit(path: &str) -> usize {
    match path {
        "/api/v1/track" | "/api/v1/track/batch" => REPORT_BYTES,
        _ => BODY_BYTES,
    }
}

async fn read(mut body: Body, limit: usize) -> ApiResult<Bytes> {
    let secs = BODY_SECS.load(Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(secs);
    match tokio::time::timeout_at(deadline, collect(&mut body, limit)).await {
        Ok(Ok(body)) => Ok(Bytes::from_owner(body)),
        Ok(Err(why)) => {
            if why != Unread::Broken {
                let _in_time = tokio::time::timeout_at(deadline, discard(&mut body)).await;
            }
            Err(why.into_error(limit))
        }
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            format!("the body did not arrive within {secs} s; send it in one go"),
        )),
    }
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    TooLarge,
    NoRoom,
    Broken,
}

impl Unread {
    fn into_error(self, limit: usize) -> ApiError {
        match self {
            Self::TooLarge => {
                let remedy = match limit {
                    REPORT_BYTES => "; send smaller batches",
                    _ => "",
                };
                ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "payload_too_large",
                    format!("a body may have {limit} bytes here{remedy}"),
                )
                .with("limit_bytes", limit)
            }
            Self::NoRoom => ApiError::unavailable(
                "overloaded",
                "too many large requests arrive at this moment; try again in a second",
            ),
            Self::Broken => ApiError::new(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "the body did not arrive whole",
            ),
        }
    }
}

async fn collect(body: &mut Body, limit: usize) -> Result<Buffer, Unread> {
    let declared = body.size_hint().lower();
    if declared > limit as u64 {
        return Err(Unread::TooLarge);
    }
    let mut buffer = Buffer::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        if let Ok(data) = frame.into_data() {
            buffer.push(&data, limit)?;
        }
    }
    Ok(buffer)
}

async fn discard(body: &mut Body) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let len = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(len) else {
            return;
        };
        left = rest;
    }
}

/// KiB that bodies may take together: whoever sends them is not known yet. What is past the first
/// [`SMALL_KIB`] of a body has its own, so that large ones do not keep questions out.
static SMALL: Semaphore = Semaphore::const_new(128 << 10);
static LARGE: Semaphore = Semaphore::const_new(128 << 10);
const SMALL_KIB: usize = 64;

/// A body's bytes, with the room they take of all bodies' until they are dropped.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    small: Option<SemaphorePermit<'static>>,
    large: Option<SemaphorePermit<'static>>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buffer {
    fn push(&mut self, data: &[u8], limit: usize) -> Result<(), Unread> {
        let len = self.bytes.len() + data.len();
        if len > limit {
            return Err(Unread::TooLarge);
        }
        if len > self.bytes.capacity() {
            let room = (self.bytes.capacity() * 2).clamp(len, limit);
            let kib = room.div_ceil(1024);
            take(&SMALL, &mut self.small, kib.min(SMALL_KIB))?;
            take(&LARGE, &mut self.large, kib.saturating_sub(SMALL_KIB))?;
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

fn take(
    from: &'static Semaphore,
    held: &mut Option<SemaphorePermit<'static>>,
    kib: usize,
) -> Result<(), Unread> {
    let has = held.as_ref().map_or(0, SemaphorePermit::num_permits);
    let more = u32::try_from(kib.saturating_sub(has)).map_err(|_| Unread::NoRoom)?;
    if more == 0 {
        return Ok(());
    }
    let more = from.try_acquire_many(more).map_err(|_| Unread::NoRoom)?;
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    Ok(())
}

impl Received {
    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    }

    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> ApiResult<T> {
        self.check_content_type()?;
        parse(&self.body)
    }

    /// The same; without a body, nothing is said.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> ApiResult<T> {
        if self.body.is_empty() {
            return Ok(T::default());
        }
        self.json()
    }

    /// A body that is not JSON by its own word is refused.
    pub fn check_content_type(&self) -> ApiResult<()> {
        let Some(kind) = self.header(header::CONTENT_TYPE.as_str()) else {
            return Ok(());
        };
        let kind = kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if kind.is_empty() || kind == "application/json" || kind.ends_with("+json") {
            return Ok(());
        }
        Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send Content-Type: application/json",
        ))
    }

    /// The client's generation, from `X-NULLRUN-PROTOCOL`.
    pub fn protocol(&self) -> ApiResult<Protocol> {
        let Some(value) = self.headers.get("x-nullrun-protocol") else {
            return Ok(Protocol::Seed);
        };
        let number: Option<i64> = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let refuse = |slug, message: &str| {
            Err(ApiError::new(StatusCode::BAD_REQUEST, slug, message)
                .with("min_protocol_version", 2)
                .with("max_protocol_version", 4))
        };
        match number {
            Some(2 | 3) => Ok(Protocol::V3),
            Some(4) => Ok(Protocol::V4),
            Some(..=1) => refuse(
                "protocol_too_old",
                "this client is too old: protocol 2 to 4 is spoken here",
            ),
            Some(5..) => refuse(
                "protocol_too_new",
                "this client is too new: protocol 2 to 4 is spoken here",
            ),
            None => refuse(
                "protocol_header_invalid",
                "X-NULLRUN-PROTOCOL must be a number from 2 to 4",
            ),
        }
    }

    /// Does the client ask for the status codes of the documentation instead of 200 blocks?
    #[must_use]
    pub fn strict_status(&self) -> bool {
        self.header("x-nullrun-strict-status")
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// Parses a JSON object; an error names the field and the place, and never repeats the contents.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    check_object(body)?;
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        // Again, slower, for the name of the field.
        Err(_) => Err(why_not::<T>(body)),
    }
}

/// Only an object has fields with names; a list of their values in the right order is none.
pub fn check_object(body: &[u8]) -> ApiResult<()> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        Some(_) => Err(invalid_json("the body must be a JSON object")),
        None => Err(invalid_json("a body is needed here: send a JSON object")),
    }
}

fn invalid_json(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

fn why_not<T: DeserializeOwned>(body: &[u8]) -> ApiError {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return invalid_json("there is more after the JSON value");
    };
    let field = text::cut(error.path().to_string(), NAMED_BYTES);
    let inner = error.inner();
    if inner.is_data() && field != "." {
        return ApiError::field(
            &field,
            format!("{field}: {}", kind_only(&inner.to_string())),
        );
    }
    let words = inner.to_string();
    if words.starts_with("number out of range") {
        return ApiError::field(&field, format!("{field}: the number is too large"));
    }
    if words.starts_with("recursion limit exceeded") {
        return invalid_json("the body is nested too deeply: 127 levels are read");
    }
    if inner.is_data() {
        return ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_field",
            kind_only(&inner.to_string()),
        );
    }
    invalid_json(format!(
        "the body is not valid JSON (line {}, column {})",
        inner.line(),
        inner.column()
    ))
}

/// Bytes of a sentence about a field: the name of an unknown one is the caller's.
const NAMED_BYTES: usize = 600;

/// Drops the offending value from serde's words: bodies may hold secrets.
pub fn kind_only(message: &str) -> String {
    let whole = || text::cut(message.to_owned(), NAMED_BYTES);
    let Some((before, rest)) = message.split_once(": ") else {
        return whole();
    };
    if before != "invalid type" && before != "invalid value" {
        return whole();
    }
    match rest.split_once(", expected ") {
        Some((_, expected)) => {
            let expected = expected.split(" at line").next().unwrap_or(expected);
            format!("{before}, expected {expected}")
        }
        None => before.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Body {
        #[serde(rename = "count")]
        _count: u64,
    }

    #[test]
    fn an_error_names_the_field_and_not_the_value() {
        let error = parse::<Body>(br#"{"count":"s3cret"}"#).unwrap_err();
        assert_eq!(error.details["field"], "count");
        assert!(!error.message.contains("s3cret"), "{}", error.message);
        assert_eq!(parse::<Body>(b"{}").unwrap_err().slug, "invalid_field");
        assert_eq!(
            parse::<Body>(b"{\"count\":1").unwrap_err().slug,
            "invalid_json"
        );
        assert_eq!(
            parse::<Body>(b"{\"count\":1} x").unwrap_err().slug,
            "invalid_json"
        );
        assert_eq!(parse::<Body>(b"\xff").unwrap_err().slug, "invalid_json");
        assert_eq!(
            parse::<Body>("[".repeat(1000).as_bytes())
                .unwrap_err()
                .status,
            400
        );
    }
}
