//! The OpenAPI description: made from the router. Here are its frame, how callers prove who they are,
//! and the errors that many operations share.

use crate::sdk::decision::{Body as Decided, Busy as DecidedOrError};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

/// The frame: everything but the paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "NullRun gateway",
        description = "Budgets and policies for AI agents. Agents ask before each step and report \
                       after it; operators set budgets and policies, watch, pause and kill.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "agents", description = "What an SDK calls"),
        (name = "auth", description = "Signing up and in, sessions, passwords"),
        (name = "organizations", description = "Settings, status, members, invitations"),
        (name = "workflows", description = "Budgets and states"),
        (name = "policies", description = "Rules"),
        (name = "keys", description = "API keys"),
        (name = "admin", description = "Prices and plans: for who runs the gateway"),
        (name = "health", description = "For who watches the gateway")
    ),
    components(schemas(ErrorBody, Decided<'static>, DecidedOrError<'static>)),
    modifiers(&Security)
)]
#[derive(Debug)]
pub struct Frame;

struct Security;

impl Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A session token of POST /api/v1/auth/login, or an API key (nr_live_...)",
            ))
            .build();
        let header = |name: &str, text: &str| {
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, text)))
        };
        let cookie = ApiKeyValue::with_description(
            "__Host-nullrun_session",
            "The session of a browser; changes need the CSRF token in X-CSRF-Token",
        );
        let schemes = [
            ("session", SecurityScheme::Http(bearer)),
            ("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(cookie))),
            (
                "api_key",
                header(
                    "X-API-Key",
                    "An API key. Where signatures are required, with X-Signature (hex of \
                     HMAC-SHA256 over \"timestamp:key:sha256 of the body in hex\") and \
                     X-Signature-Timestamp (Unix seconds)",
                ),
            ),
        ];
        let metrics = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The token of NULLRUN_METRICS_TOKEN"))
            .build();
        components.add_security_scheme("metrics", SecurityScheme::Http(metrics));
        for (name, scheme) in schemes {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// Why a request was not done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, as a word in lower case. Contract.
    #[schema(example = "invalid_field")]
    pub error: &'static str,
    /// The same in upper case.
    #[schema(example = "INVALID_FIELD")]
    pub code: String,
    /// The same again, as some clients read it.
    #[schema(example = "INVALID_FIELD")]
    pub error_code: String,
    /// For people: what is wrong, the bound, the remedy.
    #[schema(example = "limit must be 1 to 200")]
    pub message: String,
    /// The same again, as some clients read it.
    #[schema(example = "limit must be 1 to 200")]
    pub error_message: String,
    /// Particulars: `field`, or `resource`, `current` and `limit`, and others.
    #[schema(value_type = Object, example = json!({ "field": "limit", "error_code": "INVALID_FIELD" }))]
    pub details: Map<String, Value>,
    /// When asking again may help, in milliseconds; the header Retry-After says it in seconds.
    pub retry_after_ms: Option<u64>,
    /// The request's id, also in the header X-Request-Id.
    #[schema(example = "0198c5e2-5cd3-7a46-b7a2-4c9d1e2f3a4b")]
    pub request_id: String,
    /// The trace of the request's `traceparent`, also in the header X-Trace-Id; null without one.
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    pub trace_id: Option<String>,
}

/// Errors of a request with a body.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum BodyErrors {
    /// The path cannot be read, or the body, a field of it, or the query is wrong; `details.field` names it.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Slow(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    Large(ErrorBody),
    /// The body is not JSON by its own word.
    #[response(status = 415)]
    Kind(ErrorBody),
}

/// Errors of a query.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum QueryErrors {
    /// The path cannot be read, or a field of the query is wrong; `details.field` names it.
    #[response(status = 400)]
    Invalid(ErrorBody),
}

/// The path cannot be read: it must be UTF-8, percent-encoded. Of routes with a body or a query, it is
/// among the errors of those.
#[derive(Debug, IntoResponses)]
#[response(status = 400)]
#[expect(dead_code, reason = "it only describes")]
pub struct PathError(ErrorBody);

/// Errors of a request about an organization.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum OrgErrors {
    /// Nobody is signed in, or the key is not valid.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The caller's role, or the kind of caller, does not allow it.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// It does not exist, or not for this caller.
    #[response(status = 404)]
    NotFound(ErrorBody),
}

/// Errors of a request by who runs the gateway.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum AdminErrors {
    /// Nobody is signed in.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The caller does not run the gateway.
    #[response(status = 403)]
    Forbidden(ErrorBody),
}

/// Errors of a request about one's own account.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum SessionErrors {
    /// Nobody is signed in, or the session is over.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// An API key asks, a change by cookie lacks its CSRF token, or the current password is wrong.
    #[response(status = 403)]
    Forbidden(ErrorBody),
}

/// Errors of signing in.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum SignInErrors {
    /// Address or password is wrong.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Too many were wrong; wait as long as Retry-After says.
    #[response(status = 429)]
    Attempts(ErrorBody),
    /// The gateway is overloaded or stopping; try again.
    #[response(status = 503)]
    Busy(ErrorBody),
}

/// Why a provider's answer signs nobody in.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum ProviderRefusals {
    /// The provider does not take the code, or its answer does not prove who it is.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The person declined, or the provider does not say that the address is theirs.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// Somebody else is registered under the address.
    #[response(status = 409)]
    Taken(ErrorBody),
}

/// Why a provider cannot be asked.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum ProviderErrors {
    /// No provider is set up (`oauth_not_configured`), or it does not take the gateway's own id and secret
    /// (`oauth_misconfigured`); the message names the settings.
    #[response(status = 501)]
    NotConfigured(ErrorBody),
    /// The provider does not answer, or the gateway is overloaded; try again.
    #[response(status = 503)]
    Busy(ErrorBody),
}

/// The gateway itself is at fault; its log says why.
#[derive(Debug, IntoResponses)]
#[response(status = 500)]
#[expect(dead_code, reason = "it only describes")]
pub struct FaultError(ErrorBody);

/// There is no such thing.
#[derive(Debug, IntoResponses)]
#[response(status = 404)]
#[expect(dead_code, reason = "it only describes")]
pub struct NotFoundError(ErrorBody);

/// Asked too often; wait as long as Retry-After says.
#[derive(Debug, IntoResponses)]
#[response(status = 429)]
#[expect(dead_code, reason = "it only describes")]
pub struct AttemptsError(ErrorBody);

/// The gateway is overloaded or stopping; try again.
#[derive(Debug, IntoResponses)]
#[response(status = 503)]
#[expect(dead_code, reason = "it only describes")]
pub struct BusyError(ErrorBody);

/// The log cannot be read back; the gateway's log says why.
#[derive(Debug, IntoResponses)]
#[response(status = 500)]
#[expect(dead_code, reason = "it only describes")]
pub struct UnreadableError(ErrorBody);

/// It clashes with what is there.
#[derive(Debug, IntoResponses)]
#[response(status = 409)]
#[expect(dead_code, reason = "it only describes")]
pub struct ConflictError(ErrorBody);

/// The thing's state does not allow it.
#[derive(Debug, IntoResponses)]
#[response(status = 422)]
#[expect(dead_code, reason = "it only describes")]
pub struct StateError(ErrorBody);

/// Errors of mailing an invitation.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum InviteErrors {
    /// The plan has no seat for one more (`seats_limit_reached`; `details` has `resource`, `current` and
    /// `limit`), or too many mails were asked for to this address (`too_many_attempts`; wait as long as
    /// Retry-After says).
    #[response(status = 429)]
    Limit(ErrorBody),
}

/// Errors of accepting an invitation.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum AcceptErrors {
    /// Nobody is signed in, and there is no password either.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Who is signed in has another address, an API key asks, or a cookie lacks its CSRF token.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The invitation is unknown, answered, taken back or over.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The address is registered (`email_taken`: sign in to accept), belongs already
    /// (`already_member`), or belongs to as many organizations as one may (`organization_limit_reached`).
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The gateway is overloaded or stopping; try again.
    #[response(status = 503)]
    Busy(ErrorBody),
}

/// There is no key, it is not valid any more, or its signature is missing or wrong. The code tells which:
/// API_KEY_MISSING, API_KEY_INVALID, API_KEY_REVOKED, API_KEY_EXPIRED, HMAC_REQUIRED, HMAC_MISMATCH,
/// HMAC_TIMESTAMP_SKEW, SIGNATURE_REUSED. Where calls are decided, a known key is told with a block before
/// protocol 4.
#[derive(Debug, IntoResponses)]
#[response(status = 401)]
#[expect(dead_code, reason = "it only describes")]
pub struct KeyError(ErrorBody);

/// Errors of a request with an API key.
#[derive(Debug, IntoResponses)]
#[expect(dead_code, reason = "it only describes")]
pub enum KeyErrors {
    /// There is no key, it is not valid any more, or its signature is missing or wrong. The code tells
    /// which: API_KEY_MISSING, API_KEY_INVALID, API_KEY_REVOKED, API_KEY_EXPIRED, HMAC_REQUIRED,
    /// HMAC_MISMATCH, HMAC_TIMESTAMP_SKEW, SIGNATURE_REUSED.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The key lacks the scope (MISSING_SCOPE).
    #[response(status = 403)]
    Forbidden(ErrorBody),
}

/// The generation of the client.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it only describes")]
pub struct ProtocolHeader {
    /// 2 to 4; without it the client is one of the first.
    #[param(
        rename = "X-NULLRUN-PROTOCOL",
        nullable = false,
        minimum = 2,
        maximum = 4,
        example = 4
    )]
    protocol: Option<u8>,
}

/// What proves that the body is the key owner's.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it only describes")]
pub struct SignatureHeaders {
    /// Hex of HMAC-SHA256 with the key's secret over `timestamp:key:sha256 of the body in hex`. Needed
    /// where the gateway requires signatures.
    #[param(rename = "X-Signature", nullable = false)]
    signature: Option<String>,
    /// Unix seconds.
    #[param(
        rename = "X-Signature-Timestamp",
        nullable = false,
        example = "1795721626"
    )]
    timestamp: Option<String>,
}

/// How the answer is to look.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it only describes")]
pub struct StrictHeader {
    /// `true` for 402, 403, 404, 409, 422, 429 and 503 instead of 200 with a block.
    #[param(rename = "X-NullRun-Strict-Status", nullable = false)]
    strict: Option<String>,
}

/// The workflow that a key which is bound to none asks for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it only describes")]
pub struct WorkflowHeader {
    /// Id, external id or name.
    #[param(rename = "X-Workflow-Id", nullable = false)]
    workflow: Option<String>,
}

/// The plan has no room for one more; `details` has `resource`, `current` and `limit`.
#[derive(Debug, IntoResponses)]
#[response(status = 429)]
#[expect(dead_code, reason = "it only describes")]
pub struct LimitError(ErrorBody);

/// An organization in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct OrgPath {
    /// The organization's id.
    org_id: uuid::Uuid,
}

/// A workflow in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct WorkflowPath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The workflow's id.
    workflow_id: uuid::Uuid,
}

/// An API key in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct KeyPath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The key's id.
    key_id: uuid::Uuid,
}

/// A policy in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct PolicyPath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The policy's id.
    policy_id: uuid::Uuid,
}

/// A policy template in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct TemplatePath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The template's id, as the list of templates has it.
    #[param(example = "loop-guard")]
    template_id: String,
}

/// A member in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct MemberPath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The person's id.
    member_id: uuid::Uuid,
}

/// An invitation in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct InvitePath {
    /// The organization's id.
    org_id: uuid::Uuid,
    /// The invitation's id.
    invite_id: uuid::Uuid,
}

/// An invitation's token in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct TokenPath {
    /// From the link in the mail.
    token: String,
}

/// A model in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct ModelPath {
    /// The model's name, percent-encoded: `openai%2Fgpt-4o`.
    model_id: String,
}

/// A session in a path.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it only describes")]
pub struct SessionPath {
    /// The session's id.
    session_id: uuid::Uuid,
}

/// A list's page.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
pub struct PageQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}
