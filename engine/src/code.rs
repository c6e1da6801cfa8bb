//! Error codes of decisions: the words clients switch on. Published clients raise a typed error for
//! the codes they know and stop on any other, so a new code is safe in a 200 block.

/// What kind of refusal it is; clients phrase their message by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// A rule says no.
    Denied,
    /// Money is short.
    Budget,
    /// A person or a detector stopped the workflow.
    Halt,
    /// The gateway or the request is at fault, not the agent.
    Infra,
}

impl Category {
    /// On the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Budget => "budget",
            Self::Halt => "halt",
            Self::Infra => "infra",
        }
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $category:ident, $status:literal;)*) => {
        /// Why a call was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// On the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its kind.
            #[must_use]
            pub const fn category(self) -> Category {
                match self { $(Self::$name => Category::$category,)* }
            }

            /// The HTTP status it has when the client asks for strict statuses.
            #[must_use]
            pub const fn strict_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Every code, for documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

codes! {
    /// The workflow's or key's cap, or a budget policy.
    BudgetHardBlocked = "BUDGET_HARD_BLOCKED", Budget, 402;
    /// The org's cap.
    BudgetOrgCeilingBlocked = "BUDGET_ORG_CEILING_BLOCKED", Budget, 402;
    /// Too many calls in a minute.
    RateLimitExceeded = "RATE_LIMIT_EXCEEDED", Denied, 429;
    /// The plan's calls of this month are used up.
    ExecutionLimitExceeded = "EXECUTION_LIMIT_EXCEEDED", Denied, 429;
    /// The same tool again and again.
    LoopDetected = "LOOP_DETECTED", Denied, 429;
    /// The chain of calls lasts too long.
    ChainMaxDurationExceeded = "CHAIN_MAX_DURATION_EXCEEDED", Budget, 402;
    /// The chain's id or terms cannot be used.
    ChainIdInvalid = "CHAIN_ID_INVALID", Denied, 422;
    /// A tool rule.
    ToolBlocked = "TOOL_BLOCKED", Denied, 403;
    /// A tool's name that no rule could be asked about.
    ToolNameInvalid = "TOOL_NAME_INVALID", Denied, 422;
    /// Paused by a person.
    WorkflowPaused = "WORKFLOW_PAUSED", Halt, 403;
    /// Killed by a person.
    WorkflowKilled = "WORKFLOW_KILLED", Halt, 403;
    /// Stopped by a detector.
    CircuitBreakerTripped = "CIRCUIT_BREAKER_TRIPPED", Halt, 429;
    /// The operation id was used for another request that is still open.
    IdempotencyKeyMismatch = "IDEMPOTENCY_KEY_MISMATCH", Denied, 409;
    /// `/execute` under strict statuses named a reservation that is not open.
    ExecutionNotFound = "EXECUTION_NOT_FOUND", Denied, 404;
    /// The body names another org than the key's.
    OrgMismatch = "ORG_MISMATCH", Denied, 403;
    /// `X-Workflow-Id` names another workflow than the key's.
    WorkflowIdBodyMismatch = "WORKFLOW_ID_BODY_MISMATCH", Denied, 422;
    /// The key is bound to no workflow and the request names none.
    WorkflowIdRequired = "WORKFLOW_ID_REQUIRED", Denied, 422;
    /// The key lacks the scope of this endpoint.
    MissingScope = "MISSING_SCOPE", Denied, 403;
    /// The key was revoked.
    ApiKeyRevoked = "API_KEY_REVOKED", Denied, 403;
    /// The key's time is over.
    ApiKeyExpired = "API_KEY_EXPIRED", Denied, 403;
    /// The signature is wrong.
    HmacMismatch = "HMAC_MISMATCH", Denied, 403;
    /// The signature is too old or too new.
    HmacTimestampSkew = "HMAC_TIMESTAMP_SKEW", Denied, 403;
    /// The signature was used on another path.
    SignatureReused = "SIGNATURE_REUSED", Denied, 403;
    /// The gateway itself is at fault.
    InternalError = "INTERNAL_ERROR", Infra, 503;
    /// Too many requests wait.
    Overloaded = "OVERLOADED", Infra, 503;
    /// No durable answer in time.
    DeadlineExceeded = "DEADLINE_EXCEEDED", Infra, 503;
    /// The disk has no room for what would have to be remembered.
    StorageFull = "STORAGE_FULL", Infra, 503;
    /// The gateway is stopping.
    ShuttingDown = "SHUTTING_DOWN", Infra, 503;
}
