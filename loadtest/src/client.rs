//! A small HTTP/1.1 keep-alive client: one [`Connection`] per worker, requests signed exactly as published SDKs sign
//! them. It does not retry and does not interpret: a request without a complete answer is the caller's to account for.

mod answer;
mod connection;
mod in_flight;
mod sign;

pub use answer::{Answer, Brief};
pub use connection::{Connection, Endpoint, Prepared};
pub use in_flight::InFlight;
pub use sign::SdkKey;

/// Which generation of the SDK protocol a request claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// No `X-NULLRUN-PROTOCOL` header, as 0.4.0 sends.
    Absent,
    /// `3`, as 0.13 and 0.14 send.
    V3,
    /// `4`, as 0.22 sends.
    #[default]
    V4,
}

impl Protocol {
    /// The header's value, if the header is sent.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::V3 => Some("3"),
            Self::V4 => Some("4"),
        }
    }
}

/// Who a request comes from.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// Nobody.
    Anonymous,
    /// An operator with a session token.
    Session(&'a str),
    /// An SDK key, unsigned (as SDKs send their GETs).
    Key(&'a SdkKey),
    /// An SDK key with a signature over the body (as SDKs send their POSTs).
    Signed(&'a SdkKey, Protocol),
}
