//! The SDK's request signature: `hex(HMAC-SHA256(secret, "<ts>:<api_key>:<hex(sha256(body))>"))`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// An API key with its secret, ready to sign.
#[derive(Clone)]
pub struct SdkKey {
    api_key: String,
    /// The MAC with the secret already absorbed: the key schedule is done once, not per request.
    keyed: Hmac<Sha256>,
    /// Sent as `X-Workflow-Id` when set: selects the workflow for keys that are bound to none.
    workflow_header: Option<String>,
}

impl SdkKey {
    /// A key pair as registration or key creation returned it.
    pub fn new(api_key: impl Into<String>, secret_key: &str) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let keyed = Hmac::<Sha256>::new_from_slice(secret_key.as_bytes()).expect("any key length");
        Self {
            api_key: api_key.into(),
            keyed,
            workflow_header: None,
        }
    }

    /// The same key, calling for `workflow_id` through the `X-Workflow-Id` header.
    #[must_use]
    pub fn for_workflow(mut self, workflow_id: impl Into<String>) -> Self {
        self.workflow_header = Some(workflow_id.into());
        self
    }

    /// The public half, as `X-API-Key` carries it.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The workflow selected by header, if any.
    pub fn workflow_header(&self) -> Option<&str> {
        self.workflow_header.as_deref()
    }

    /// Signature of `body` at `unix_secs`, in lower-case hex.
    pub fn sign(&self, body: &[u8], unix_secs: u64) -> String {
        let mut mac = self.keyed.clone();
        mac.update(format!("{unix_secs}:{}:", self.api_key).as_bytes());
        mac.update(hex(&Sha256::digest(body)).as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

impl fmt::Debug for SdkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SdkKey")
            .field("api_key", &self.api_key)
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 0xf)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published_key() -> SdkKey {
        SdkKey::new(
            "nr_live_testkey_0000000000000001",
            "sk_stub_secret_0000000000000001",
        )
    }

    #[test]
    fn signs_a_compact_body_as_captured_clients_do() {
        let body = br#"{"chain_id":"3174a81d-7c59-404b-8d32-2dce271429db"}"#;
        assert_eq!(
            published_key().sign(body, 1_795_462_753),
            "1cb982c9ffa4c2ccb01d08113006f92f827688ba9ae4e0027bb0b58c9e130b58"
        );
    }

    #[test]
    fn signs_the_raw_bytes_so_a_space_in_the_json_matters() {
        assert_eq!(
            published_key().sign(br#"{"events": []}"#, 1_795_462_753),
            "9870f172af4fd1267ca6eef7280d286c34d943c969ef39aabe5e71bbf0769140"
        );
    }

    #[test]
    fn signs_a_captured_track_request() {
        let body = br#"{"reservation_id":"bb0a7e44-2c9f-4344-a1d2-9d1093e4ebee","workflow_id":"22222222-2222-4222-8222-222222222222","tokens":10,"cost_source":"provisional","input_tokens":7,"output_tokens":3,"model":"gpt-4o-mini","trace_id":"e6fe3f1c-0457-4085-be69-bb6a451081de","span_id":"0ff037dc-d2c7-4af1-885f-0869c8b3c8b9","parent_trace_id":"e6fe3f1c-0457-4085-be69-bb6a451081de","is_retry":false,"idempotency_key":"3f983b39-8559-45af-a804-487542e94b1c:0ff037dc-d2c7-4a"}"#;
        assert_eq!(body.len(), 454);
        assert_eq!(
            published_key().sign(body, 1_795_462_753),
            "3f180550e17404ea81d89464abc630a78d0eb93d34c8640573b3df137e2450c0"
        );
    }

    #[test]
    fn debug_output_does_not_show_the_secret() {
        assert!(!format!("{:?}", published_key()).contains("sk_stub"));
    }
}
