//! `/orgs/{org_id}/api-keys`: mint, look at, rotate, revoke. A key and its secret are shown once.

use super::auth::mint_key;
use super::caps::PeriodName;
use super::{Admitted, List, Page, admit, cents, done, id, no_content};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::{
    BodyErrors, BusyError, KeyPath, LimitError, OrgErrors, OrgPath, PageQuery, PathError,
    QueryErrors, StateError, WorkflowPath,
};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash, text};
use axum::extract::{Path, Request, State};
use engine::directory::KeyEntry;
use engine::manage::{KeyTexts, Manage, Managed};
use http::StatusCode;
use persist::record::{Role, Scopes};
use persist::{KeyId, Millis, Nanos, WorkflowId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(index, create))
        .routes(routes!(index_of_workflow, create_for_workflow))
        .routes(routes!(get, revoke))
        .routes(routes!(rotate))
}

/// Seconds that a key before a rotation goes on working, and the most.
const OVERLAP_SECS: u64 = 60;
const OVERLAP_SECS_MOST: u64 = 86_400;

/// A key to be minted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyCreate)]
struct Create {
    #[schema(
        max_length = 80,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        default = "New API Key",
        example = "nightly research"
    )]
    name: Option<String>,
    /// The workflow it is bound to; a key without one names a workflow with each call.
    workflow_id: Option<String>,
    /// All four when left out.
    #[schema(min_items = 1)]
    scopes: Option<Vec<ScopeWord>>,
    /// Its own cap in a period; null for none, 0 lets nothing be spent.
    #[schema(minimum = 0, maximum = 900000000000_i64, example = 500)]
    budget_cents: Option<i64>,
    budget_period: Option<PeriodName>,
    /// Calls per minute, beside whatever policies say; null for no limit of its own.
    #[schema(minimum = 1, maximum = 1000000)]
    max_calls_per_minute: Option<u32>,
    /// Until when it works, in RFC 3339; it lies ahead.
    #[schema(format = DateTime, example = "2030-01-31T12:00:00Z")]
    expires_at: Option<String>,
    /// Begins with `nr_test_` instead of `nr_live_`; it is a key like others.
    #[schema(default = false)]
    test_key: Option<bool>,
}

/// What a key may do: `gate`, `execute`, `track`, `verify`, or `*` for all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(as = ApiKeyScope, pattern = "^(gate|execute|track|verify|\\*)$", example = "gate")]
struct ScopeWord(String);

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyRotate)]
struct Rotate {
    /// Seconds that the key and secret before go on working.
    #[schema(default = 60, maximum = 86400, example = 3600)]
    overlap_secs: Option<u64>,
}

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
struct Shown {
    id: String,
    organization_id: String,
    name: String,
    workflow_id: Option<String>,
    /// Its first twelve characters.
    #[schema(example = "nr_live_w3Xa")]
    key_prefix: String,
    /// Its last four.
    #[schema(example = "9fQz")]
    key_suffix: String,
    scopes: Vec<&'static str>,
    /// Grows with each rotation.
    key_version: u32,
    /// Until when the key before the last rotation works too.
    previous_valid_until: Option<String>,
    budget_cents: Option<i64>,
    budget_period: PeriodName,
    max_calls_per_minute: Option<u32>,
    test_key: bool,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    /// When somebody last signed in with it; after a restart up to an hour behind.
    last_used_at: Option<String>,
    status: Status,
    created_at: String,
}

/// Does it work?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ApiKeyStatus)]
enum Status {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// A key with what is shown only once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyMinted)]
struct Minted {
    #[serde(flatten)]
    shown: Shown,
    /// The key itself. It is not stored here and cannot be shown again.
    #[schema(example = "nr_live_w3XaR0t8bq1kLm5ZpUeYc7Dn2Vh49fQz")]
    key: String,
    /// The same again, as some clients read it.
    api_key: String,
    /// Signs requests: 64 hexadecimal digits. `/auth/verify` gives it to whoever has the key.
    secret_key: String,
}

impl Status {
    fn of(key: &KeyEntry) -> Self {
        let expired = key.expires_at.is_some_and(|at| clock::now() > at);
        match (key.revoked_at, expired) {
            (Some(_), _) => Self::Revoked,
            (None, true) => Self::Expired,
            (None, false) => Self::Active,
        }
    }
}

fn scopes(words: Option<Vec<ScopeWord>>) -> ApiResult<Scopes> {
    let Some(words) = words else {
        return Ok(Scopes::ALL);
    };
    let mut scopes = Scopes(0);
    for ScopeWord(word) in &words {
        let scope = if word == "*" {
            Some(Scopes::ALL)
        } else {
            let known = Scopes::NAMED.iter().find(|(_, known)| known == word);
            known.map(|(scope, _)| *scope)
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

const LIVE: &str = "nr_live_";
const TEST: &str = "nr_test_";

/// A new text and secret for a key, and how they are stored.
#[derive(Debug)]
pub struct Texts {
    /// For the engine.
    pub stored: KeyTexts,
    /// `nr_live_…` or `nr_test_…`.
    pub api_key: String,
    /// 64 hexadecimal digits.
    pub secret: String,
}

/// Makes a key's text and secret; nothing is stored yet.
#[must_use]
pub fn texts(app: &App, id: KeyId, test: bool) -> Texts {
    let kind = if test { TEST } else { LIVE };
    let api_key = format!("{kind}{}", hash::random_word(32));
    let secret = hash::hex(&hash::random::<32>());
    Texts {
        stored: KeyTexts {
            key_hash: hash::sha256(api_key.as_bytes()),
            prefix: api_key.chars().take(12).collect(),
            suffix: api_key.chars().skip(api_key.len() - 4).collect(),
            sealed_secret: app.sealer.seal(id, &secret),
        },
        api_key,
        secret,
    }
}

fn show(key: &KeyEntry) -> Shown {
    let scopes = Scopes::NAMED.iter();
    let scopes = scopes.filter(|(scope, _)| key.scopes.has(*scope));
    let previous = key.previous.as_deref();
    let previous = previous.filter(|previous| previous.until >= clock::now());
    Shown {
        id: key.id.to_string(),
        organization_id: key.org.to_string(),
        name: key.name.to_string(),
        workflow_id: key.workflow.map(|id| id.to_string()),
        key_prefix: key.prefix.to_string(),
        key_suffix: key.suffix.to_string(),
        scopes: scopes.map(|(_, name)| *name).collect(),
        key_version: key.key_version,
        previous_valid_until: previous.map(|previous| clock::rfc3339(previous.until)),
        budget_cents: key.budget.map(Nanos::cents_down),
        budget_period: PeriodName::of(key.period),
        max_calls_per_minute: key.calls_per_minute,
        test_key: key.prefix.starts_with(TEST),
        expires_at: key.expires_at.map(clock::rfc3339),
        revoked_at: key.revoked_at.map(clock::rfc3339),
        last_used_at: key.last_used().map(clock::rfc3339),
        status: Status::of(key),
        created_at: clock::rfc3339(key.created_at),
    }
}

/// A key of this org.
fn find(app: &App, admitted: &Admitted, id: KeyId) -> ApiResult<Arc<KeyEntry>> {
    let directory = app.directory();
    let key = directory.key(id).filter(|key| key.org == admitted.org);
    key.cloned().ok_or_else(|| ApiError::not_found("key"))
}

/// Changes a key and returns it as it is then.
async fn changed(app: &App, change: Manage) -> ApiResult<Arc<KeyEntry>> {
    match *done(app, change).await? {
        Managed::Key(key) => Ok(key),
        _ => Err(ApiError::not_found("key")),
    }
}

async fn mint(app: &App, admitted: &Admitted, of: Option<WorkflowId>) -> ApiResult {
    let body: Create = admitted.received.json()?;
    let named = body.workflow_id.as_deref();
    let named = named.map(|text| id(text, "workflow")).transpose()?;
    if of.is_some() && named.is_some() && of != named {
        return Err(ApiError::field(
            "workflow_id",
            "workflow_id is another than the path's; leave it out",
        ));
    }
    let expires_at = body.expires_at.as_deref();
    let expires_at = expires_at.map(|text| {
        clock::parse_rfc3339(text).ok_or_else(|| {
            ApiError::field(
                "expires_at",
                "expires_at must be RFC 3339, such as 2030-01-31T12:00:00Z",
            )
        })
    });
    let name = body.name.as_deref().unwrap_or("New API Key");
    let mut minted = mint_key(app, name, of.or(named), scopes(body.scopes)?);
    if body.test_key == Some(true) {
        let texts = texts(app, minted.new.id, true);
        minted.new.texts = texts.stored;
        (minted.api_key, minted.secret) = (texts.api_key, texts.secret);
    }
    minted.new.budget = cents(body.budget_cents);
    minted.new.period = body
        .budget_period
        .map_or_else(Default::default, PeriodName::kind);
    minted.new.calls_per_minute = body.max_calls_per_minute;
    minted.new.expires_at = expires_at.transpose()?;
    let create = Manage::CreateKey {
        org: admitted.org,
        actor: admitted.actor(),
        key: minted.new,
    };
    let key = changed(app, create).await?;
    let shown = Minted {
        shown: show(&key),
        key: minted.api_key.clone(),
        api_key: minted.api_key,
        secret_key: minted.secret,
    };
    Ok(json_response(StatusCode::CREATED, &shown))
}

/// Mint a key. It and its secret are shown this once.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/api-keys",
    operation_id = "create_api_key",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath),
    request_body = Create,
    responses(
        (status = 201, description = "Minted", body = Minted),
        BodyErrors, OrgErrors, BusyError, LimitError
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    mint(&app, &admitted, None).await
}

/// Mint a key that is bound to a workflow. It and its secret are shown this once.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}/api-keys",
    operation_id = "create_workflow_api_key",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath),
    request_body = Create,
    responses(
        (status = 201, description = "Minted", body = Minted),
        BodyErrors, OrgErrors, BusyError, LimitError
    )
)]
async fn create_for_workflow(
    State(app): State<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let workflow = workflow_of(&app, &admitted, &workflow)?;
    mint(&app, &admitted, Some(workflow)).await
}

fn workflow_of(app: &App, admitted: &Admitted, text: &str) -> ApiResult<WorkflowId> {
    let workflow = id(text, "workflow")?;
    let known = app.directory().workflow(admitted.org, workflow).is_some();
    known
        .then_some(workflow)
        .ok_or_else(|| ApiError::not_found("workflow"))
}

/// What a list of keys is narrowed to.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it only describes")]
struct Filter {
    /// Only those with this status.
    status: Option<Status>,
    /// Only those whose name holds this text, in any case.
    #[param(max_length = 100)]
    search: Option<String>,
}

fn list(app: &App, admitted: &Admitted, query: Option<&str>, of: Option<WorkflowId>) -> ApiResult {
    let page = Page::parse(query, &["status", "search"])?;
    let search = page.search()?;
    let status = page.filter("status").map(|word| {
        serde_json::from_value::<Status>(word.into())
            .map_err(|_| ApiError::field("status", "status is active, expired or revoked"))
    });
    let status = status.transpose()?;
    let directory = app.directory();
    let entry = directory
        .org(admitted.org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let mut behind = entry.keys.iter().copied();
    if let Some(cursor) = page.cursor::<KeyId>()?
        && !behind.any(|id| id == cursor)
    {
        return Err(Page::bad_cursor());
    }
    let found = |key: &&Arc<KeyEntry>| {
        of.is_none_or(|workflow| key.workflow == Some(workflow))
            && status.is_none_or(|status| Status::of(key) == status)
            && search.as_deref().is_none_or(|s| text::holds(&key.name, s))
    };
    let keys = behind.filter_map(|id| directory.key(id)).filter(found);
    let mut keys: Vec<_> = keys.take(page.limit() + 1).collect();
    let more = keys.len() > page.limit();
    keys.truncate(page.limit());
    let next = keys.last().filter(|_| more).map(|key| key.id.to_string());
    let data = keys.into_iter().map(|key| show(key)).collect();
    Ok(json_response(StatusCode::OK, &List::new(data, next)))
}

/// List keys, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/api-keys",
    operation_id = "list_api_keys",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(OrgPath, Filter, PageQuery),
    responses((status = 200, description = "Keys", body = List<Shown>), QueryErrors, OrgErrors)
)]
async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    list(&app, &admitted, query.as_deref(), None)
}

/// List the keys that are bound to a workflow, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/workflows/{workflow_id}/api-keys",
    operation_id = "list_workflow_api_keys",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(WorkflowPath, Filter, PageQuery),
    responses((status = 200, description = "Keys", body = List<Shown>), QueryErrors, OrgErrors)
)]
async fn index_of_workflow(
    State(app): State<Arc<App>>,
    Path((org, workflow)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let workflow = workflow_of(&app, &admitted, &workflow)?;
    list(&app, &admitted, query.as_deref(), Some(workflow))
}

/// Get a key.
#[utoipa::path(
    get,
    path = "/api/v1/orgs/{org_id}/api-keys/{key_id}",
    operation_id = "get_api_key",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(KeyPath),
    responses((status = 200, description = "The key", body = Shown), PathError, OrgErrors)
)]
async fn get(
    State(app): State<Arc<App>>,
    Path((org, key)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Viewer, Keys::Refused).await?;
    let key = find(&app, &admitted, id(&key, "key")?)?;
    Ok(json_response(StatusCode::OK, &show(&key)))
}

/// Revoke a key: it is refused from the answer on.
#[utoipa::path(
    delete,
    path = "/api/v1/orgs/{org_id}/api-keys/{key_id}",
    operation_id = "revoke_api_key",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(KeyPath),
    responses((status = 204, description = "Revoked"), PathError, OrgErrors, BusyError)
)]
async fn revoke(
    State(app): State<Arc<App>>,
    Path((org, key)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let revoke = Manage::RevokeKey {
        org: admitted.org,
        actor: admitted.actor(),
        id: id(&key, "key")?,
    };
    changed(&app, revoke).await?;
    Ok(no_content())
}

/// Give a key a new text and secret. Those before go on working for a while, so that agents can be
/// moved over without one call refused; then they are refused as revoked.
#[utoipa::path(
    post,
    path = "/api/v1/orgs/{org_id}/api-keys/{key_id}/rotate",
    operation_id = "rotate_api_key",
    tag = "keys",
    security(("session" = []), ("cookie" = [])),
    params(KeyPath),
    request_body = Option<Rotate>,
    responses(
        (status = 200, description = "The new key and secret, shown this once", body = Minted),
        BodyErrors, OrgErrors, BusyError, StateError
    )
)]
async fn rotate(
    State(app): State<Arc<App>>,
    Path((org, key)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let before = find(&app, &admitted, id(&key, "key")?)?;
    let body: Rotate = if admitted.received.body.is_empty() {
        Rotate::default()
    } else {
        admitted.received.json()?
    };
    let overlap = body.overlap_secs.unwrap_or(OVERLAP_SECS);
    if overlap > OVERLAP_SECS_MOST {
        return Err(ApiError::field(
            "overlap_secs",
            format!("overlap_secs must be 0 to {OVERLAP_SECS_MOST}"),
        ));
    }
    // A text works through the instant told; without an overlap, not even through this one.
    let until = Millis(clock::now().0.saturating_sub(1)).plus(overlap * 1000);
    let texts = texts(&app, before.id, before.prefix.starts_with(TEST));
    let rotate = Manage::RotateKey {
        org: admitted.org,
        actor: admitted.actor(),
        id: before.id,
        texts: texts.stored,
        previous_until: until,
    };
    let key = changed(&app, rotate).await?;
    let shown = Minted {
        shown: Shown {
            previous_valid_until: Some(clock::rfc3339(until)),
            ..show(&key)
        },
        key: texts.api_key.clone(),
        api_key: texts.api_key,
        secret_key: texts.secret,
    };
    Ok(json_response(StatusCode::OK, &shown))
}
