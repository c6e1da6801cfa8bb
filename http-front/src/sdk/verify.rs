//! `POST /api/v1/auth/verify` (and `/auth/verify`): who a key is, and its signing secret. Clients
//! call it unsigned before they know that secret; the key stands in the body or the header.

use super::decision::json_response;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, FaultError, KeyErrors, ProtocolHeader, SignatureHeaders,
};
use crate::request;
use crate::sign_in::{self, Caller, Denied, Signing};
use axum::extract::{Request, State};
use engine::plan::Plan;
use http::StatusCode;
use persist::record::Scopes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(verify))
        .routes(routes!(verify_old))
}

/// A key that asks who it is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KeyVerify)]
struct Body {
    #[schema(example = "nr_live_w3XaR0t8bq1kLm5ZpUeYc7Dn2Vh49fQz")]
    api_key: Option<String>,
}

/// Who a key is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyVerified)]
struct Verified {
    valid: bool,
    organization_id: String,
    organization_name: String,
    /// Its plan.
    #[schema(example = "growth")]
    plan: String,
    /// Always null: keys have no role.
    role: Option<String>,
    /// Null for a key that names a workflow with each call.
    workflow_id: Option<String>,
    /// Grows with each rotation.
    key_version: u32,
    /// Signs requests: 64 hexadecimal digits.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    secret_key: String,
    features: Features,
    limits: Limits,
}

/// What the plan has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyFeatures)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a feature of its own"
)]
struct Features {
    alerts: bool,
    approvals: bool,
    audit_log: bool,
    custom_policies: bool,
    /// Days; -1 for all.
    history_days: i64,
    rbac: bool,
    replay: bool,
    sso: bool,
    team: bool,
}

impl Features {
    fn of(plan: &Plan) -> Self {
        let features = &plan.features;
        Self {
            alerts: features.alerts,
            approvals: features.approvals,
            audit_log: features.audit_log,
            custom_policies: features.custom_policies,
            history_days: or_unlimited(plan.limits.history_days),
            rbac: features.rbac,
            replay: features.replay,
            sso: features.sso,
            team: features.team,
        }
    }
}

/// How much the plan allows; -1 for no limit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyLimits)]
struct Limits {
    api_keys: i64,
    approval_rules: i64,
    max_executions_per_month: i64,
    max_rps: i64,
    max_tokens_per_hour: i64,
    policies: i64,
    seats: i64,
    workflows: i64,
}

impl Limits {
    fn of(plan: &Plan) -> Self {
        let limits = &plan.limits;
        Self {
            api_keys: or_unlimited(limits.api_keys),
            approval_rules: or_unlimited(limits.approval_rules),
            max_executions_per_month: or_unlimited(limits.executions_per_month),
            max_rps: or_unlimited(limits.requests_per_second),
            max_tokens_per_hour: or_unlimited(limits.tokens_per_hour),
            policies: or_unlimited(limits.policies),
            seats: or_unlimited(limits.seats),
            workflows: or_unlimited(limits.workflows),
        }
    }
}

/// The clients' word for no limit is -1.
fn or_unlimited(limit: Option<impl Into<u64>>) -> i64 {
    limit.map_or(-1, |limit| i64::try_from(limit.into()).unwrap_or(i64::MAX))
}

/// Say who a key is, and give its signing secret. Clients ask this unsigned, before they know the secret;
/// a signature that is there must be right. The key stands in the body or the header.
#[utoipa::path(
    post,
    path = "/api/v1/auth/verify",
    operation_id = "verify_key",
    tag = "agents",
    security((), ("api_key" = [])),
    params(ProtocolHeader, SignatureHeaders),
    request_body(content = Option<Body>, description = "May be left out if the header has the key"),
    responses(
        (status = 200, description = "The key is valid", body = Verified),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn verify(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    verified(&app, request).await
}

/// The same as `POST /api/v1/auth/verify`, where the oldest clients look for it.
#[utoipa::path(
    post,
    path = "/auth/verify",
    operation_id = "verify_key_old",
    tag = "agents",
    security((), ("api_key" = [])),
    params(ProtocolHeader, SignatureHeaders),
    request_body(content = Option<Body>, description = "May be left out if the header has the key"),
    responses(
        (status = 200, description = "The key is valid", body = Verified),
        BodyErrors, KeyErrors, FaultError, BusyError
    )
)]
async fn verify_old(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    verified(&app, request).await
}

async fn verified(app: &App, request: Request) -> ApiResult {
    let received = request::receive(request).await?;
    received.protocol()?;
    received.check_content_type()?;
    let body = if received.body.is_empty() {
        Body { api_key: None }
    } else {
        received.json()?
    };
    let in_header = sign_in::key_text(&received.headers)?;
    let text = match (in_header, body.api_key.as_deref()) {
        (Some(a), Some(b)) if a != b => {
            return Err(ApiError::unauthorized(
                "api_key_invalid",
                "header and body carry different keys",
            ));
        }
        (a, b) => a.or(b),
    };
    let Some(text) = text else {
        return Err(ApiError::unauthorized(
            "api_key_missing",
            "send {\"api_key\": \"nr_...\"}",
        ));
    };
    let caller = sign_in::known_key(
        app,
        text,
        &received.headers,
        &received.path,
        &received.body,
        Scopes::VERIFY,
        Signing::Optional,
    )
    .map_err(Denied::into_error)?;
    let secret = app.secrets.of(app, &caller)?;
    let Caller { key, version } = caller;
    let directory = app.directory();
    let org = directory
        .org(key.org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let plan = app.plans.of(&org.plan);
    let body = Verified {
        valid: true,
        organization_id: org.id.to_string(),
        organization_name: org.name.to_string(),
        plan: org.plan.to_string(),
        role: None,
        workflow_id: key.workflow.map(|id| id.to_string()),
        key_version: version,
        secret_key: secret.text.clone(),
        features: Features::of(plan),
        limits: Limits::of(plan),
    };
    Ok(json_response(StatusCode::OK, &body))
}
