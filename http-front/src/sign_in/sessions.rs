//! Sessions: as a Bearer token, or in the cookies of a browser. A browser sends its cookies along with
//! whatever page asks it to; so a change also needs the token that only pages of this origin can read.

use super::keys::{bearer, header};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::request::Received;
use crate::seal::Sealer;
use crate::{clock, hash, text};
use axum::extract::Request;
use axum::response::Response;
use engine::directory::{SessionEntry, UserEntry};
use engine::limits;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, Method, header};
use sha2::Sha256;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Bytes kept of what a session was opened with.
const USER_AGENT_BYTES: usize = 256;

/// From where and with what a request comes.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The address of the other side.
    pub ip: IpAddr,
    /// What it calls itself, cut.
    pub user_agent: String,
}

impl Origin {
    /// Of a request.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<SocketAddr>();
        let agent = request.headers().get(header::USER_AGENT);
        let agent = agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
        let agent = agent.unwrap_or_default().replace(char::is_control, " ");
        Self {
            ip: peer.map_or(IpAddr::from([0, 0, 0, 0]), SocketAddr::ip),
            user_agent: text::cut(agent, USER_AGENT_BYTES),
        }
    }
}

/// Somebody who is signed in.
#[derive(Debug, Clone)]
pub struct SignedIn {
    /// Who.
    pub user: Arc<UserEntry>,
    /// Their session.
    pub session: Arc<SessionEntry>,
    /// What changes need in `X-CSRF-Token`, if the session came in a cookie.
    pub csrf: Option<String>,
}

/// Makes the CSRF tokens of sessions: nothing is stored, and they survive a restart as sessions do.
#[derive(Debug)]
pub struct Csrf([u8; 32]);

impl Csrf {
    /// With a key that only this gateway has.
    #[must_use]
    pub fn new(sealer: &Sealer) -> Self {
        Self(sealer.derive(b"nullrun csrf 1"))
    }

    /// The token of the session whose token has this hash.
    #[must_use]
    pub fn token(&self, session_hash: &[u8; 32]) -> String {
        // A key of 32 bytes is always taken.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            return String::new();
        };
        mac.update(session_hash);
        hash::hex(&mac.finalize().into_bytes())
    }
}

/// The cookies of browsers, named by whether they are for HTTPS only.
#[derive(Debug, Clone, Copy)]
pub struct Cookies {
    /// Browsers keep `__Host-` cookies from other hosts, ports aside, and from plain HTTP.
    pub secure: bool,
}

const SESSION: &str = "nullrun_session";
const CSRF: &str = "nullrun_csrf";
/// The cookie of a sign-in through a provider that is under way.
pub const FLOW: &str = "nullrun_flow";

/// Can a script of the page read it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Readable {
    Yes,
    No,
}

impl Cookies {
    fn name(self, name: &str) -> String {
        match self.secure {
            true => format!("__Host-{name}"),
            false => name.to_owned(),
        }
    }

    /// A cookie's value.
    #[must_use]
    pub fn get<'a>(self, headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        let name = self.name(name);
        let lines = headers.get_all(header::COOKIE).iter();
        let pairs = lines.filter_map(|line| line.to_str().ok());
        pairs
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(known, value)| *known == name && !value.is_empty())
            .map(|(_, value)| value)
    }

    fn put(self, response: &mut Response, name: &str, value: &str, secs: u64, readable: Readable) {
        let name = self.name(name);
        let secure = if self.secure { "; Secure" } else { "" };
        let hidden = match readable {
            Readable::Yes => "",
            Readable::No => "; HttpOnly",
        };
        let line = format!("{name}={value}; Path=/; Max-Age={secs}; SameSite=Lax{hidden}{secure}");
        // All of it is ASCII made here.
        if let Ok(line) = HeaderValue::from_str(&line) {
            response.headers_mut().append(header::SET_COOKIE, line);
        }
    }

    /// Signs a browser in.
    pub fn sign_in(self, response: &mut Response, csrf: &Csrf, token: &str) {
        let secs = limits::SESSION_MILLIS / 1000;
        let csrf = csrf.token(&hash::sha256(token.as_bytes()));
        self.put(response, SESSION, token, secs, Readable::No);
        self.put(response, CSRF, &csrf, secs, Readable::Yes);
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, no_store);
    }

    /// Signs a browser out.
    pub fn sign_out(self, response: &mut Response) {
        self.put(response, SESSION, "", 0, Readable::No);
        self.put(response, CSRF, "", 0, Readable::Yes);
    }

    /// Keeps the state of a sign-in through a provider; an empty one ends it.
    pub fn keep_flow(self, response: &mut Response, sealed: &str, secs: u64) {
        self.put(response, FLOW, sealed, secs, Readable::No);
    }
}

/// Does a request of this method change nothing?
fn only_reads(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(method)
}

/// Was the CSRF token sent twice, as the cookie and in the header, and is it this session's?
fn check_csrf(app: &App, headers: &HeaderMap, right: &str) -> ApiResult<()> {
    let sent = header(headers, "x-csrf-token").unwrap_or_default();
    let kept = app.cookies.get(headers, CSRF).unwrap_or_default();
    let same = |given: &str| bool::from(given.as_bytes().ct_eq(right.as_bytes()));
    if same(sent) && same(kept) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "csrf_mismatch",
        "a change by cookie needs the header X-CSRF-Token with the value of the CSRF cookie; \
         GET /api/v1/auth/session shows it",
    ))
}

/// The signed-in person.
pub fn session(app: &App, received: &Received) -> ApiResult<SignedIn> {
    let missing = || {
        ApiError::unauthorized(
            "unauthorized",
            "send a session token: Authorization: Bearer <token> from POST /api/v1/auth/login",
        )
    };
    let headers = &received.headers;
    let in_header = bearer(headers);
    let by_cookie = in_header.is_none();
    let token = in_header.or_else(|| app.cookies.get(headers, SESSION));
    let hash = hash::sha256(token.ok_or_else(missing)?.as_bytes());
    let directory = app.directory();
    let session = directory.session(&hash, clock::now());
    let session = session.cloned().ok_or_else(|| {
        ApiError::unauthorized(
            "session_expired",
            "this session is unknown or over; sign in again",
        )
    })?;
    let csrf = by_cookie.then(|| app.csrf.token(&hash));
    if let Some(csrf) = &csrf
        && !only_reads(&received.method)
    {
        check_csrf(app, headers, csrf)?;
    }
    let user = directory.user(session.user).cloned().ok_or_else(missing)?;
    Ok(SignedIn {
        user,
        session,
        csrf,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csrf_token_is_of_one_session_and_one_gateway() {
        let of = |master: &str, token: &[u8]| {
            let sealer = Sealer::from_hex(&master.repeat(32)).unwrap();
            Csrf::new(&sealer).token(&hash::sha256(token))
        };
        assert_eq!(of("ab", b"one"), of("ab", b"one"));
        assert_ne!(of("ab", b"one"), of("ab", b"two"));
        assert_ne!(of("ab", b"one"), of("cd", b"one"));
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_among_others() {
        let mut headers = HeaderMap::new();
        let line = HeaderValue::from_static("a=1; nullrun_session=x; __Host-nullrun_session=y");
        headers.append(header::COOKIE, line);
        let get = |secure| Cookies { secure }.get(&headers, SESSION);
        assert_eq!(get(false), Some("x"));
        assert_eq!(get(true), Some("y"));
        assert_eq!(Cookies { secure: true }.get(&headers, CSRF), None);
    }
}
