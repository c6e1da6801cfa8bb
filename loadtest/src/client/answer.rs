//! What came back.

use bytes::Bytes;
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// A complete HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Method and path that were asked, for messages.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body parsed as JSON; `Null` when it is empty or no JSON.
    pub body: Value,
    /// The body as it came.
    pub raw: Bytes,
}

impl Answer {
    /// The answer itself if its status is one of `expected`, else an error that quotes the body.
    pub fn expect(self, expected: &[u16]) -> Result<Self> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let expected: Vec<String> = expected.iter().map(u16::to_string).collect();
        Err(Error::Unexpected {
            request: self.request,
            status: self.status,
            expected: expected.join(" or "),
            body: String::from_utf8_lossy(&self.raw)
                .chars()
                .take(600)
                .collect(),
        })
    }

    /// A string field of the body; empty when it is missing.
    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or_default()
    }

    /// A string field that must be there.
    pub fn required(&self, field: &str) -> Result<String> {
        self.body[field]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::Unexpected {
                request: self.request.clone(),
                status: self.status,
                expected: format!("a body with a string `{field}`"),
                body: String::from_utf8_lossy(&self.raw)
                    .chars()
                    .take(600)
                    .collect(),
            })
    }

    /// True for HTTP 200 with `decision: "allow"`.
    pub fn is_allow(&self) -> bool {
        self.status == 200 && self.text("decision") == "allow"
    }

    /// `details.error_code`, else `error_code`, else empty.
    pub fn error_code(&self) -> &str {
        let nested = self.body["details"]["error_code"].as_str();
        nested
            .or_else(|| self.body["error_code"].as_str())
            .unwrap_or_default()
    }

    /// Status, decision and code in a few words, for violation sentences.
    pub fn in_short(&self) -> String {
        let decision = self.text("decision");
        format!("{} {} {}", self.status, decision, self.error_code())
            .trim_end()
            .to_owned()
    }
}

/// The few fields of a decision that load loops read; cheaper than a full [`Answer`].
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Brief {
    /// `allow`, `block`, …; empty when missing.
    #[serde(default)]
    pub decision: String,
    /// The hold, when one was minted.
    #[serde(default)]
    pub reservation_id: Option<String>,
    /// Why not, when refused.
    #[serde(default)]
    pub error_code: Option<String>,
}
