//! `/orgs/{org}/api-keys`: mint, list, revoke. A key and its secret are shown once.

use super::auth::mint_key;
use super::{Admitted, Page, admit, cents, id, list};
use crate::app::App;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse as _;
use engine::command::Command;
use engine::directory::KeyEntry;
use engine::manage::Manage;
use http::StatusCode;
use persist::record::{Role, Scopes};
use persist::{KeyId, Nanos, WorkflowId};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: Option<String>,
    workflow_id: Option<String>,
    scopes: Option<Vec<String>>,
    budget_cents: Option<i64>,
    expires_at: Option<String>,
}

fn scopes(names: Option<&[String]>) -> ApiResult<Scopes> {
    let Some(names) = names else {
        return Ok(Scopes::ALL);
    };
    let mut scopes = Scopes(0);
    for name in names {
        let scope = if name == "*" {
            Some(Scopes::ALL)
        } else {
            Scopes::NAMED
                .iter()
                .find(|(_, known)| known == name)
                .map(|(scope, _)| *scope)
        };
        let scope = scope.ok_or_else(|| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_scope",
                "scopes are gate, execute, track, verify, or * for all",
            )
            .with("field", "scopes")
        })?;
        scopes.0 |= scope.0;
    }
    if scopes.0 == 0 {
        return Err(ApiError::field(
            "scopes",
            "scopes may not be empty; leave it out for all",
        ));
    }
    Ok(scopes)
}

fn show(key: &KeyEntry) -> Value {
    let names: Vec<_> = Scopes::NAMED
        .iter()
        .filter(|(scope, _)| key.scopes.has(*scope))
        .map(|(_, name)| *name)
        .collect();
    let expired = key.expires_at.is_some_and(|at| clock::now() > at);
    let status = match (key.revoked_at, expired) {
        (Some(_), _) => "revoked",
        (None, true) => "expired",
        (None, false) => "active",
    };
    json!({
        "id": key.id.to_string(),
        "organization_id": key.org.to_string(),
        "name": key.name,
        "workflow_id": key.workflow.map(|id| id.to_string()),
        "key_prefix": key.prefix,
        "key_suffix": key.suffix,
        "scopes": names,
        "key_version": key.key_version,
        "budget_cents": key.budget.map(Nanos::cents_down),
        "expires_at": key.expires_at.map(clock::rfc3339),
        "revoked_at": key.revoked_at.map(clock::rfc3339),
        "status": status,
        "created_at": clock::rfc3339(key.created_at),
    })
}

/// `POST /orgs/{org}/api-keys`.
pub async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    let workflow: Option<WorkflowId> = body
        .workflow_id
        .as_deref()
        .map(|text| id(text, "workflow"))
        .transpose()?;
    let expires_at = body
        .expires_at
        .as_deref()
        .map(|text| {
            clock::parse_rfc3339(text).ok_or_else(|| {
                ApiError::field(
                    "expires_at",
                    "expires_at must be RFC 3339, such as 2030-01-31T12:00:00Z",
                )
            })
        })
        .transpose()?;
    let name = body.name.as_deref().unwrap_or("New API Key");
    let mut minted = mint_key(&app, name, workflow, scopes(body.scopes.as_deref())?);
    minted.new.budget = cents(body.budget_cents);
    minted.new.expires_at = expires_at;
    let key_id = minted.new.id;
    let actor = admitted.actor();
    let create = Manage::CreateKey {
        org: admitted.org,
        actor,
        key: minted.new,
    };
    app.call(Command::Manage(Box::new(create))).await?;
    let directory = app.directory();
    let key = directory
        .key(key_id)
        .ok_or_else(|| ApiError::not_found("key"))?;
    let mut shown = show(key);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("key".to_owned(), json!(minted.api_key));
        shown.insert("api_key".to_owned(), json!(minted.api_key));
        shown.insert("secret_key".to_owned(), json!(minted.secret));
    }
    Ok(json_response(StatusCode::CREATED, &shown))
}

/// `GET /orgs/{org}/api-keys`.
pub async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let page = Page::parse(query.as_deref())?;
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let (ids, next) = page.of(entry.keys.iter().copied())?;
    let data = ids
        .iter()
        .filter_map(|id| directory.key(*id))
        .map(|key| show(key))
        .collect();
    Ok(json_response(StatusCode::OK, &list(data, next)))
}

/// `DELETE /orgs/{org}/api-keys/{id}`: refused from the 204 on.
pub async fn revoke(
    State(app): State<Arc<App>>,
    Path((org, key)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let id: KeyId = id(&key, "key")?;
    let actor = admitted.actor();
    let revoke = Manage::RevokeKey {
        org: admitted.org,
        actor,
        id,
    };
    app.call(Command::Manage(Box::new(revoke))).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
