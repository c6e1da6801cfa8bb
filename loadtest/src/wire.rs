//! Request bodies as published clients send them, and what they cost. Prices are the gateway's documented ones for
//! `claude-haiku-4-5`, written down a second time on purpose: the harness must be able to disagree.

use serde_json::{Value, json};

/// The model every scenario asks for.
pub const MODEL: &str = "claude-haiku-4-5";
/// Price of one input token of [`MODEL`], in nano-dollars ($1 per million tokens).
pub const INPUT_NANOS_PER_TOKEN: i64 = 1_000;
/// Price of one output token of [`MODEL`], in nano-dollars ($5 per million tokens).
pub const OUTPUT_NANOS_PER_TOKEN: i64 = 5_000;
/// Nano-dollars in one cent.
pub const NANOS_PER_CENT: i64 = 10_000_000;
/// How long a hold lives unless something ends it, in seconds.
pub const HOLD_LIFETIME_SECS: u64 = 300;

/// Digest that clients send when a call has no typed business impact.
const NO_IMPACT_DIGEST: &str = "0049d93a36f0710269a6deb733ca78d57a770ef640a2698d0fddaa9653b7c3de";

/// One `/gate` question: everything that its fingerprint is made of, so that it can be asked again identically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Id of the logical operation; equal ids mean the same operation.
    pub operation_id: String,
    /// The organization as `/auth/verify` or registration named it.
    pub organization_id: String,
    /// Declared upper bound of output tokens: the hold is this times the output price.
    pub max_output_tokens: i64,
}

impl Ask {
    /// The exact size of the hold in nano-dollars.
    pub fn hold_nanos(&self) -> i64 {
        self.max_output_tokens * OUTPUT_NANOS_PER_TOKEN
    }

    /// The body that a 0.22 client sends, with the model and the bound declared.
    pub fn gate_body(&self) -> Value {
        json!({
            "organization_id": self.organization_id,
            "execution_id": self.operation_id,
            "trace_id": self.operation_id,
            "tool": null,
            "input": null,
            "mode": "auto",
            "check_type": "llm",
            "model": MODEL,
            "max_output_tokens": self.max_output_tokens,
            "estimated_tokens": 1,
            "operation_id": self.operation_id,
            "tools": ["harness_agent"],
            "idempotency_key": self.operation_id,
            "stream": false,
            "action_digest": NO_IMPACT_DIGEST,
        })
    }

    /// The same operation on `/execute`, with `execution_id` naming a hold or nothing the gateway knows.
    pub fn execute_body(&self, execution_id: &str) -> Value {
        json!({
            "organization_id": self.organization_id,
            "execution_id": execution_id,
            "trace_id": self.operation_id,
            "tool": "harness_agent",
            "input": {"args": [], "kwargs": {}},
            "mode": "strict",
            "operation_id": self.operation_id,
            "model": MODEL,
            "max_output_tokens": self.max_output_tokens,
            "action_digest": NO_IMPACT_DIGEST,
            "tools": ["harness_agent"],
        })
    }
}

/// Gate bodies that differ in their operation id only, made without building JSON anew: the asker's own CPU must not
/// become what is measured.
#[derive(Debug, Clone)]
pub struct GateTemplate {
    /// The body around each place where the operation id stands.
    pieces: Vec<String>,
}

impl GateTemplate {
    /// Bodies like that of `ask`, whatever its operation id.
    pub fn of(ask: &Ask) -> Self {
        const PLACE: &str = "00000000-operation-id";
        let marked = Ask {
            operation_id: PLACE.into(),
            ..ask.clone()
        };
        let body = marked.gate_body().to_string();
        Self {
            pieces: body.split(PLACE).map(str::to_owned).collect(),
        }
    }

    /// The body for one operation.
    pub fn body(&self, operation_id: &str) -> String {
        self.pieces.join(operation_id)
    }
}

/// Tokens of one call of [`MODEL`] and what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens.
    pub input: i64,
    /// Output tokens.
    pub output: i64,
}

impl Usage {
    /// Exact cost in nano-dollars.
    pub fn nanos(self) -> i64 {
        self.input * INPUT_NANOS_PER_TOKEN + self.output * OUTPUT_NANOS_PER_TOKEN
    }

    /// Body of `POST /track`; without an event id every send is a charge of its own.
    pub fn track_body(self, reservation_id: Option<&str>, event_id: Option<&str>) -> Value {
        let mut body = self.tokens();
        if let Some(id) = reservation_id {
            body["reservation_id"] = json!(id);
        }
        if let Some(id) = event_id {
            body["event_id"] = json!(id);
        }
        body
    }

    /// One event of a `POST /track/batch`.
    pub fn batch_event(self, event_id: &str) -> Value {
        let mut body = self.tokens();
        body["type"] = json!("llm_call");
        body["event_id"] = json!(event_id);
        body
    }

    fn tokens(self) -> Value {
        json!({
            "model": MODEL,
            "provider": "anthropic",
            "input_tokens": self.input,
            "output_tokens": self.output,
            "tokens": self.input + self.output,
            "cost_source": "provisional",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_seven_input_tokens_cost_47_microdollars() {
        assert_eq!(
            Usage {
                input: 47,
                output: 0
            }
            .nanos(),
            47_000
        );
    }

    #[test]
    fn a_template_makes_the_same_body_as_the_ask_itself() {
        let ask = Ask {
            operation_id: "5d6e".into(),
            organization_id: "g".into(),
            max_output_tokens: 7,
        };
        assert_eq!(
            GateTemplate::of(&ask).body("5d6e"),
            ask.gate_body().to_string()
        );
    }

    #[test]
    fn twenty_thousand_declared_output_tokens_hold_ten_cents() {
        let ask = Ask {
            operation_id: "o".into(),
            organization_id: "g".into(),
            max_output_tokens: 20_000,
        };
        assert_eq!(ask.hold_nanos(), 10 * NANOS_PER_CENT);
    }
}
