//! `POST /api/v1/auth/verify` (and `/auth/verify`): who a key is, and its signing secret. Clients
//! call it unsigned before they know that secret; the key stands in the body or the header.

use super::decision::json_response;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::request;
use crate::sign_in::{self, Denied, Signing};
use axum::extract::{Request, State};
use http::StatusCode;
use persist::record::Scopes;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

#[derive(Deserialize)]
struct Body {
    api_key: Option<String>,
}

/// The handler.
pub async fn verify(State(app): State<Arc<App>>, request: Request) -> ApiResult {
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
        &app,
        text,
        &received.headers,
        &received.path,
        &received.body,
        Scopes::VERIFY,
        Signing::Optional,
    )
    .map_err(Denied::into_error)?;
    let key = caller.key;
    let secret = app.secrets.of(&app, &key)?;
    let directory = app.directory();
    let org = directory
        .org(key.org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    // Self-hosted: nothing is limited (-1). Features say what this version has.
    let body = json!({
        "valid": true,
        "organization_id": org.id.to_string(),
        "organization_name": org.name,
        "plan": org.plan,
        "role": null,
        "workflow_id": key.workflow.map(|id| id.to_string()),
        "key_version": key.key_version,
        "secret_key": secret.text,
        "features": {
            "alerts": false, "approvals": false, "audit_log": false, "custom_policies": true,
            "history_days": -1, "rbac": false, "replay": false, "sso": false, "team": false,
        },
        "limits": {
            "api_keys": -1, "approval_rules": -1, "max_executions_per_month": -1, "max_rps": -1,
            "max_tokens_per_hour": -1, "policies": -1, "seats": -1, "workflows": -1,
        },
    });
    Ok(json_response(StatusCode::OK, &body))
}
