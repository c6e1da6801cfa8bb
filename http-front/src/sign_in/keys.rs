//! API keys and their signatures.

use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::hash;
use engine::code::Code;
use engine::command::Command;
use engine::directory::KeyEntry;
use engine::manage::Manage;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use persist::record::Scopes;
use persist::{KeyId, Millis};
use sha2::Sha256;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use subtle::ConstantTimeEq as _;

type HmacSha256 = Hmac<Sha256>;

/// A signing secret, opened, with its HMAC state prepared.
#[derive(Debug)]
pub struct Secret {
    /// As the client has it.
    pub text: String,
    state: HmacSha256,
}

impl Secret {
    fn new(text: String) -> Option<Self> {
        let state = HmacSha256::new_from_slice(text.as_bytes()).ok()?;
        Some(Self { text, state })
    }

    /// `HMAC-SHA256(secret, "{timestamp}:{api_key}:{sha256 of the body in hex}")`.
    #[must_use]
    pub fn sign(&self, timestamp: &str, api_key: &str, body: &[u8]) -> [u8; 32] {
        let mut mac = self.state.clone();
        for part in [timestamp.as_bytes(), b":", api_key.as_bytes(), b":"] {
            mac.update(part);
        }
        mac.update(hash::hex(&hash::sha256(body)).as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// Opened secrets of a key by version: of the newest, and of the one before while both work.
type Opened = [Option<(u32, Arc<Secret>)>; 2];

/// Secrets of keys in use: opening one costs more than the request.
#[derive(Debug, Default)]
pub struct Secrets(RwLock<HashMap<KeyId, Opened>>);

impl Secrets {
    /// The secret that belongs to the text a caller has shown.
    pub fn of(&self, app: &App, caller: &Caller) -> ApiResult<Arc<Secret>> {
        let (key, version) = (&caller.key, caller.version);
        let cached = {
            let cache = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let opened = cache.get(&key.id).into_iter().flatten().flatten();
            let mut same = opened.filter(|(of, _)| *of == version);
            same.next().map(|(_, secret)| Arc::clone(secret))
        };
        if let Some(secret) = cached {
            return Ok(secret);
        }
        let previous = key.previous.as_deref();
        let previous = previous.filter(|previous| previous.key_version == version);
        let sealed = previous.map_or(&key.sealed_secret, |previous| &previous.sealed_secret);
        let opened = app.sealer.open(key.id, sealed).map_err(|error| {
            tracing::error!(%error, "a signing secret does not open");
            ApiError::new(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "the key's secret cannot be read; the gateway's log says what to do",
            )
        })?;
        let secret = Secret::new(opened).map(Arc::new).ok_or_else(|| {
            ApiError::unauthorized("hmac_mismatch", "this key has no usable secret")
        })?;
        let mut cache = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let places = cache.entry(key.id).or_default();
        // The older of two goes: three never work at a time.
        let oldest = places
            .iter_mut()
            .min_by_key(|place| place.as_ref().map_or(0, |(of, _)| *of));
        if let Some(oldest) = oldest {
            *oldest = Some((version, Arc::clone(&secret)));
        }
        Ok(secret)
    }
}

/// Which path a signature was used on: it may be repeated there, not elsewhere. A fixed table, so
/// only best effort: a newer signature may take an older one's place.
#[derive(Debug)]
pub struct SignatureTable(Box<[AtomicU64]>);

const SIGNATURES: usize = 1 << 20;

impl Default for SignatureTable {
    fn default() -> Self {
        Self((0..SIGNATURES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl SignatureTable {
    /// Notes a valid signature; false if it was used on another path, which then changes nothing.
    #[must_use]
    pub fn admit(&self, signature: &[u8; 32], path: &str) -> bool {
        let word = |at: usize| {
            signature
                .get(at..)
                .and_then(|s| s.first_chunk())
                .map_or(0, |b| u64::from_le_bytes(*b))
        };
        let mut path_hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in path.bytes() {
            path_hash = (path_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // 48 bits of the signature, 16 of the path.
        let entry = word(8) << 16 | path_hash & 0xffff;
        let Some(place) = self.0.get(word(0) as usize % SIGNATURES) else {
            return true;
        };
        let before = place.load(Ordering::Relaxed);
        if before >> 16 == entry >> 16 {
            return before == entry;
        }
        place.store(entry, Ordering::Relaxed);
        true
    }
}

/// An API key that may act.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key.
    pub key: Arc<KeyEntry>,
    /// The version of it whose text was shown: the one before may work for a while.
    pub version: u32,
}

/// Why a key may not act.
#[derive(Debug)]
pub enum Denied {
    /// 401 for everyone: nothing is known about the caller.
    Unknown(ApiError),
    /// The key is known; older clients must be told with a block, since a 401 lets them go on.
    Known(Code, &'static str),
    /// Something else.
    Other(ApiError),
}

impl Denied {
    /// As a plain HTTP error.
    #[must_use]
    pub fn into_error(self) -> ApiError {
        match self {
            Self::Unknown(error) | Self::Other(error) => error,
            Self::Known(Code::MissingScope, why) => ApiError::forbidden("missing_scope", why),
            Self::Known(code, why) => {
                let slug = match code {
                    Code::ApiKeyRevoked => "api_key_revoked",
                    Code::ApiKeyExpired => "api_key_expired",
                    Code::HmacTimestampSkew => "hmac_timestamp_skew",
                    Code::SignatureReused => "signature_reused",
                    _ => "hmac_mismatch",
                };
                ApiError::unauthorized(slug, why)
            }
        }
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|v| !v.is_empty())
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = header(headers, "authorization")?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The API key a request carries: `X-API-Key`, or a Bearer that is one.
pub fn key_text(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let in_header = header(headers, "x-api-key");
    let in_bearer = bearer(headers).filter(|token| token.starts_with("nr_"));
    match (in_header, in_bearer) {
        (Some(a), Some(b)) if a != b => Err(ApiError::unauthorized(
            "api_key_invalid",
            "X-API-Key and Authorization carry different keys; send one",
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// Is a signature asked for on this route?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Yes, where the setting insists.
    Expected,
    /// Not even then, but a signature that is there must be right.
    Optional,
}

/// Finds and checks the key of a request whose body was read.
pub fn key(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    scope: Scopes,
    signing: Signing,
) -> Result<Caller, Denied> {
    let text = key_text(headers).map_err(Denied::Unknown)?;
    let Some(text) = text else {
        return Err(Denied::Unknown(ApiError::unauthorized(
            "api_key_missing",
            "send the API key in X-API-Key",
        )));
    };
    known_key(app, text, headers, path, body, scope, signing)
}

/// Checks a key whose text is known already.
pub fn known_key(
    app: &App,
    text: &str,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    scope: Scopes,
    signing: Signing,
) -> Result<Caller, Denied> {
    let hash = hash::sha256(text.as_bytes());
    let Some(key) = app.directory().key_by_hash(&hash).cloned() else {
        return Err(Denied::Unknown(ApiError::unauthorized(
            "api_key_invalid",
            "this API key is not known here",
        )));
    };
    let now = clock::now();
    let before_rotation = key.before_rotation(&hash);
    let caller = Caller {
        version: before_rotation.map_or(key.key_version, |previous| previous.key_version),
        key: Arc::clone(&key),
    };
    let signature = header(headers, "x-signature");
    if signature.is_none() && signing == Signing::Expected && app.config.hmac_required() {
        return Err(Denied::Unknown(ApiError::unauthorized(
            "hmac_required",
            "requests must be signed here: set NULLRUN_SECRET_KEY in the client, or let it call \
             /api/v1/auth/verify at start",
        )));
    }
    if key.revoked_at.is_some() {
        return Err(Denied::Known(
            Code::ApiKeyRevoked,
            "this API key was revoked; use another",
        ));
    }
    if !key.accepts(&hash, now) {
        return Err(Denied::Known(
            Code::ApiKeyRevoked,
            "this API key was rotated and its overlap is over; use the new one",
        ));
    }
    if key.expires_at.is_some_and(|at| now > at) {
        return Err(Denied::Known(
            Code::ApiKeyExpired,
            "this API key's time is over; use another",
        ));
    }
    if let Some(signature) = signature {
        verify(app, &caller, text, headers, path, body, signature, now)?;
    }
    if !key.scopes.has(scope) {
        return Err(Denied::Known(
            Code::MissingScope,
            "this API key lacks the scope for this endpoint",
        ));
    }
    used(app, &key, now);
    Ok(caller)
}

/// How old the log's word on a key's last use may get.
const USE_TOLD_MILLIS: u64 = 3_600_000;

/// Notes that a key was used, and has the log told now and then. Nobody waits for it, and under load
/// it is left for the next use.
fn used(app: &App, key: &KeyEntry, now: Millis) {
    key.used.note(now);
    let fresh = |at: Millis| now.since(at) < USE_TOLD_MILLIS;
    if key.used_at.is_some_and(fresh) || !key.used.must_tell(now, USE_TOLD_MILLIS) {
        return;
    }
    let told = Command::Manage(Box::new(Manage::KeyUsed { id: key.id }));
    if !app.shards.mention(told) {
        key.used.untold();
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is one part of what is signed"
)]
fn verify(
    app: &App,
    caller: &Caller,
    text: &str,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    signature: &str,
    now: Millis,
) -> Result<(), Denied> {
    let mismatch = Denied::Known(
        Code::HmacMismatch,
        "the signature does not fit key, timestamp and body; check NULLRUN_SECRET_KEY",
    );
    let Some(timestamp) = header(headers, "x-signature-timestamp") else {
        return Err(mismatch);
    };
    let Some(given) = hash::unhex::<32>(signature) else {
        return Err(mismatch);
    };
    let secret = app.secrets.of(app, caller).map_err(Denied::Other)?;
    let right = secret.sign(timestamp, text, body);
    if !bool::from(right.ct_eq(&given)) {
        return Err(mismatch);
    }
    let at: Option<u64> = timestamp.parse().ok();
    let fresh = at.is_some_and(|at| now.secs().abs_diff(at) <= app.config.hmac_max_age_secs);
    if !fresh {
        return Err(Denied::Known(
            Code::HmacTimestampSkew,
            "the signature is too old or too new; check the clock of this machine",
        ));
    }
    if !app.signatures.admit(&given, path) {
        return Err(Denied::Known(
            Code::SignatureReused,
            "this signature was used on another path; sign each request",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_the_published_clients_make() {
        let secret = Secret::new("sk_stub_secret_0000000000000001".to_owned()).unwrap();
        let sign = |body: &[u8]| {
            hash::hex(&secret.sign("1795462753", "nr_live_testkey_0000000000000001", body))
        };
        assert_eq!(
            sign(br#"{"chain_id":"3174a81d-7c59-404b-8d32-2dce271429db"}"#),
            "1cb982c9ffa4c2ccb01d08113006f92f827688ba9ae4e0027bb0b58c9e130b58"
        );
        assert_eq!(
            sign(br#"{"events": []}"#),
            "9870f172af4fd1267ca6eef7280d286c34d943c969ef39aabe5e71bbf0769140"
        );
    }

    #[test]
    fn a_signature_may_be_repeated_on_its_path_and_not_on_another() {
        let table = SignatureTable::default();
        let signature = hash::sha256(b"one");
        assert!(table.admit(&signature, "/api/v1/gate"));
        assert!(table.admit(&signature, "/api/v1/gate"));
        assert!(!table.admit(&signature, "/api/v1/cancel"));
        assert!(!table.admit(&signature, "/api/v1/cancel"), "asked twice");
        assert!(table.admit(&signature, "/api/v1/gate"), "the honest path");
        assert!(table.admit(&hash::sha256(b"two"), "/api/v1/cancel"));
    }
}
