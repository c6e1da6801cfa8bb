//! Who is asking: API keys with their signatures, and sessions. The two are not interchangeable.

use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::hash;
use engine::code::Code;
use engine::directory::{KeyEntry, UserEntry};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use persist::record::{Role, Scopes};
use persist::{KeyId, Millis, OrgId};
use sha2::Sha256;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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

/// Secrets of keys in use: opening one costs more than the request.
#[derive(Debug, Default)]
pub struct Secrets(RwLock<HashMap<KeyId, (u32, Arc<Secret>)>>);

impl Secrets {
    /// The secret of a key.
    pub fn of(&self, app: &App, key: &KeyEntry) -> ApiResult<Arc<Secret>> {
        let cached = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key.id)
            .cloned();
        if let Some((version, secret)) = cached
            && version == key.key_version
        {
            return Ok(secret);
        }
        let opened = app
            .sealer
            .open(key.id, &key.sealed_secret)
            .map_err(|error| {
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
        cache.insert(key.id, (key.key_version, Arc::clone(&secret)));
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

/// Wrong logins by address and origin: five, then a wait. A table of fixed size, in sets of a few
/// places: in a full set, whoever has the fewest and oldest tries is forgotten.
#[derive(Debug)]
pub struct LoginGuard {
    sets: Mutex<Box<[[Tries; LOGIN_WAYS]]>>,
    // Keyed at random: nobody can aim at a set.
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    who: u64,
    wrong: u32,
    last: Millis,
}

const LOGIN_TRIES: u32 = 5;
const LOGIN_WAIT_MS: u64 = 300_000;
const LOGIN_SETS: usize = 1 << 14;
const LOGIN_WAYS: usize = 4;

impl Default for LoginGuard {
    fn default() -> Self {
        Self {
            sets: Mutex::new(vec![Default::default(); LOGIN_SETS].into_boxed_slice()),
            hasher: RandomState::new(),
        }
    }
}

impl LoginGuard {
    fn with<T>(
        &self,
        email: &str,
        ip: IpAddr,
        then: impl FnOnce(u64, &mut [Tries; LOGIN_WAYS]) -> T,
    ) -> Option<T> {
        let who = self.hasher.hash_one((email, ip));
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let set = sets.get_mut((who >> 32) as usize % LOGIN_SETS)?;
        Some(then(who, set))
    }

    /// Counts a try, as a wrong one until [`LoginGuard::forget`]; or milliseconds to wait, if too
    /// many were wrong or are being looked at.
    pub fn admit(&self, email: &str, ip: IpAddr, now: Millis) -> Result<(), u64> {
        let admitted = self.with(email, ip, |who, set| {
            for tries in set.iter_mut() {
                if now.since(tries.last) >= LOGIN_WAIT_MS {
                    *tries = Tries::default();
                }
            }
            let known = set
                .iter()
                .position(|tries| tries.who == who && tries.wrong > 0);
            // Free places have no tries and come first.
            let place = match known {
                Some(at) => set.get_mut(at),
                None => set.iter_mut().min_by_key(|tries| (tries.wrong, tries.last)),
            };
            let Some(place) = place else {
                return Ok(());
            };
            if known.is_none() {
                *place = Tries {
                    who,
                    ..Tries::default()
                };
            } else if place.wrong >= LOGIN_TRIES {
                return Err(LOGIN_WAIT_MS - now.since(place.last));
            }
            place.wrong += 1;
            place.last = now;
            Ok(())
        });
        admitted.unwrap_or(Ok(()))
    }

    /// A try that was not looked at does not count.
    pub fn undo(&self, email: &str, ip: IpAddr) {
        self.change(email, ip, |tries| {
            tries.wrong = tries.wrong.saturating_sub(1)
        });
    }

    /// The password was right: the wrong ones before are forgotten.
    pub fn forget(&self, email: &str, ip: IpAddr) {
        self.change(email, ip, |tries| *tries = Tries::default());
    }

    fn change(&self, email: &str, ip: IpAddr, change: impl FnOnce(&mut Tries)) {
        let _changed = self.with(email, ip, |who, set| {
            set.iter_mut().find(|tries| tries.who == who).map(change)
        });
    }
}

/// An API key that may act.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key.
    pub key: Arc<KeyEntry>,
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

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|v| !v.is_empty())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
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
    if key.expires_at.is_some_and(|at| now > at) {
        return Err(Denied::Known(
            Code::ApiKeyExpired,
            "this API key's time is over; use another",
        ));
    }
    if let Some(signature) = signature {
        verify(app, &key, text, headers, path, body, signature, now)?;
    }
    if !key.scopes.has(scope) {
        return Err(Denied::Known(
            Code::MissingScope,
            "this API key lacks the scope for this endpoint",
        ));
    }
    Ok(Caller { key })
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is one part of what is signed"
)]
fn verify(
    app: &App,
    key: &KeyEntry,
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
    let secret = app.secrets.of(app, key).map_err(Denied::Other)?;
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

/// Somebody who may look at or change an org.
#[derive(Debug, Clone)]
pub enum Principal {
    /// A member.
    Member(Arc<UserEntry>),
    /// One of the org's keys (reads only).
    Key(Arc<KeyEntry>),
}

/// May keys use this route?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Yes: it reads what an SDK may know.
    MayRead,
    /// No.
    Refused,
}

/// The signed-in person.
pub fn session(app: &App, headers: &HeaderMap) -> ApiResult<Arc<UserEntry>> {
    let missing = || {
        ApiError::unauthorized(
            "unauthorized",
            "send a session token: Authorization: Bearer <token> from POST /api/v1/auth/login",
        )
    };
    let token = bearer(headers).ok_or_else(missing)?;
    let directory = app.directory();
    let session = directory.session(&hash::sha256(token.as_bytes()), clock::now());
    let session = session.ok_or_else(|| {
        ApiError::unauthorized(
            "session_expired",
            "this session is unknown or over; sign in again",
        )
    })?;
    directory.user(session.user).cloned().ok_or_else(missing)
}

/// Who may do something in `org`. An org one does not belong to does not exist.
pub fn org(
    app: &App,
    headers: &HeaderMap,
    path: &str,
    body: &[u8],
    org: OrgId,
    least: Role,
    keys: Keys,
) -> ApiResult<Principal> {
    if key_text(headers)?.is_some() {
        let caller = key(app, headers, path, body, Scopes(0), Signing::Optional)
            .map_err(Denied::into_error)?;
        if keys == Keys::Refused {
            return Err(ApiError::forbidden(
                "forbidden",
                "API keys may not do this; sign in",
            ));
        }
        // The same words whether the org exists or not.
        if caller.key.org != org {
            return Err(ApiError::forbidden(
                "org_mismatch",
                "this API key belongs to another organization",
            ));
        }
        return Ok(Principal::Key(caller.key));
    }
    let user = session(app, headers)?;
    let role = app.directory().role(org, user.id);
    let role = role.ok_or_else(|| ApiError::not_found("organization"))?;
    if role < least {
        return Err(ApiError::forbidden(
            "forbidden",
            "your role does not allow this",
        ));
    }
    Ok(Principal::Member(user))
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

    #[test]
    fn after_five_wrong_logins_one_has_to_wait() {
        let guard = LoginGuard::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for n in 1..=5 {
            assert_eq!(guard.admit("a@b", ip, Millis(n)), Ok(()));
        }
        assert_eq!(guard.admit("a@b", ip, Millis(6)), Err(LOGIN_WAIT_MS - 1));
        assert_eq!(guard.admit("c@d", ip, Millis(6)), Ok(()));
        assert_eq!(guard.admit("a@b", ip, Millis(5 + LOGIN_WAIT_MS)), Ok(()));
        for n in 0..100 {
            let now = Millis(6 + LOGIN_WAIT_MS + n);
            assert_eq!(guard.admit("a@b", ip, now), Ok(()));
            guard.forget("a@b", ip);
            assert_eq!(guard.admit("a@b", ip, now), Ok(()));
            guard.undo("a@b", ip);
        }
    }

    #[test]
    fn a_crowd_of_addresses_takes_no_memory_and_does_not_free_whoever_waits() {
        let guard = LoginGuard::default();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for n in 1..=5 {
            assert_eq!(guard.admit("a@b", ip, Millis(n)), Ok(()));
        }
        let places = LOGIN_SETS * LOGIN_WAYS;
        for n in 0..places * 4 {
            assert_eq!(guard.admit(&format!("{n}@crowd"), ip, Millis(10)), Ok(()));
        }
        assert!(guard.admit("a@b", ip, Millis(11)).is_err());
        assert_eq!(guard.sets.lock().unwrap().len() * LOGIN_WAYS, places);
    }
}
