//! `/orgs/{org}/policies`. The body's names follow the documentation and its older spellings:
//! `type` for `policy_type`, `workflow_id` and `api_key_id` for `scope_id`, `org` for `Org`.

use super::{Admitted, Page, admit, id, list, nullable, unexpected};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::sdk::decision::json_response;
use crate::sign_in::Keys;
use crate::{clock, hash};
use axum::extract::{Path, Request, State};
use engine::command::{Command, Outcome};
use engine::glob::{BadPattern, Glob};
use engine::limits;
use engine::manage::{Manage, Managed, PolicyDraft, PolicyPatch, Terms};
use engine::rules::Compiled;
use http::StatusCode;
use persist::record::{PolicyAction, PolicyType, Role, Scope};
use persist::{KeyId, Nanos, PolicyId, WorkflowId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(alias = "type")]
    policy_type: TypeName,
    scope: Option<ScopeName>,
    scope_id: Option<String>,
    workflow_id: Option<String>,
    api_key_id: Option<String>,
    priority: Option<i32>,
    action: Option<ActionName>,
    #[serde(rename = "match")]
    matching: Option<Matching>,
    #[serde(default)]
    config: Map<String, Value>,
    is_active: Option<bool>,
    // Accepted because every published example sends it; only hard limits exist so far.
    enforcement_mode: Option<ModeName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: Option<String>,
    #[serde(alias = "type")]
    policy_type: Option<TypeName>,
    priority: Option<i32>,
    action: Option<ActionName>,
    #[serde(rename = "match", default, deserialize_with = "nullable")]
    matching: Option<Option<Matching>>,
    config: Option<Map<String, Value>>,
    is_active: Option<bool>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields)]
struct Matching {
    #[serde(default)]
    tools: Vec<String>,
    #[serde(default)]
    models: Vec<String>,
    min_cost_cents: Option<i64>,
}

#[derive(Deserialize, Clone, Copy)]
enum TypeName {
    BudgetLimit,
    RateLimit,
    ToolBlock,
    LoopDetection,
}

#[derive(Deserialize, Clone, Copy)]
enum ScopeName {
    #[serde(alias = "org", alias = "organization", alias = "Organization")]
    Org,
    #[serde(alias = "workflow")]
    Workflow,
    #[serde(alias = "api_key", alias = "apikey", alias = "key")]
    ApiKey,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Allow,
    Flag,
    RequireApproval,
    Block,
}

#[derive(Deserialize, Clone, Copy)]
enum ModeName {
    #[serde(alias = "hard")]
    Hard,
    #[serde(alias = "soft")]
    Soft,
}

const TYPES: [(PolicyType, &str); 4] = [
    (PolicyType::BudgetLimit, "BudgetLimit"),
    (PolicyType::RateLimit, "RateLimit"),
    (PolicyType::ToolBlock, "ToolBlock"),
    (PolicyType::LoopDetection, "LoopDetection"),
];

impl TypeName {
    const fn policy_type(self) -> PolicyType {
        match self {
            Self::BudgetLimit => PolicyType::BudgetLimit,
            Self::RateLimit => PolicyType::RateLimit,
            Self::ToolBlock => PolicyType::ToolBlock,
            Self::LoopDetection => PolicyType::LoopDetection,
        }
    }
}

impl ActionName {
    const fn action(self) -> PolicyAction {
        match self {
            Self::Allow => PolicyAction::Allow,
            Self::Flag => PolicyAction::Flag,
            Self::RequireApproval => PolicyAction::RequireApproval,
            Self::Block => PolicyAction::Block,
        }
    }
}

/// Names under which a tool list may stand in `config`.
const TOOL_LISTS: [&str; 3] = ["tool_pattern", "blocked_tools", "tools"];

fn invalid(slug: &'static str, field: &str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, slug, message).with("field", field)
}

/// Checks patterns by name of what is wrong with them.
fn patterns(field: &str, value: &Value) -> ApiResult<Vec<String>> {
    let Value::Array(items) = value else {
        return Err(invalid(
            "bare_string_pattern",
            field,
            format!("{field} must be a list of patterns, such as [\"bash\", \"db.*\"]"),
        ));
    };
    if items.is_empty() || items.len() > limits::PATTERNS {
        return Err(invalid(
            "invalid_pattern_list",
            field,
            format!("{field} takes 1 to {} patterns", limits::PATTERNS),
        ));
    }
    items.iter().map(|item| pattern(field, item)).collect()
}

fn pattern(field: &str, item: &Value) -> ApiResult<String> {
    let text = item.as_str().ok_or_else(|| {
        invalid(
            "invalid_glob",
            field,
            format!("{field} may hold only texts"),
        )
    })?;
    match Glob::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error @ BadPattern::TooLong) => {
            Err(invalid("pattern_too_long", field, error.to_string()))
        }
        Err(error @ BadPattern::Invalid) => Err(invalid("invalid_glob", field, error.to_string())),
    }
}

/// Reads `config` and `match`; keys that mean nothing to the type are refused, not skipped.
fn terms(kind: PolicyType, config: &Map<String, Value>, matching: &Matching) -> ApiResult<Terms> {
    let mut terms = Terms {
        min_cost: matching.min_cost_cents.map(Nanos::from_cents),
        ..Terms::default()
    };
    for tool in &matching.tools {
        terms
            .tools
            .push(pattern("match.tools", &Value::from(tool.as_str()))?);
    }
    for model in &matching.models {
        terms
            .models
            .push(pattern("match.models", &Value::from(model.as_str()))?);
    }
    for (name, value) in config {
        let field = format!("config.{name}");
        match (kind, name.as_str()) {
            (PolicyType::ToolBlock, name) if TOOL_LISTS.contains(&name) => {
                terms.tools.extend(patterns(&field, value)?);
            }
            (PolicyType::BudgetLimit, "budget_cents") => {
                let cents = value.as_i64().ok_or_else(|| {
                    ApiError::field(&field, format!("{field} must be a whole number of cents"))
                })?;
                terms.budget = Some(Nanos::from_cents(cents));
            }
            (PolicyType::RateLimit, "max_calls_per_minute") => {
                let calls = value.as_u64().and_then(|n| u32::try_from(n).ok());
                terms.calls_per_minute = Some(calls.ok_or_else(|| {
                    ApiError::field(
                        &field,
                        format!("{field} must be 1 to {}", limits::CALLS_PER_MINUTE),
                    )
                })?);
            }
            _ => {
                let known = match kind {
                    PolicyType::ToolBlock => "tool_pattern, blocked_tools, tools",
                    PolicyType::BudgetLimit => "budget_cents",
                    PolicyType::RateLimit => "max_calls_per_minute",
                    PolicyType::LoopDetection => "loop_threshold, loop_window_secs",
                };
                return Err(invalid(
                    "unknown_config_key",
                    &field,
                    format!("{field} means nothing to this policy type; it takes {known}"),
                ));
            }
        }
    }
    Ok(terms)
}

fn scope(body: &Create) -> ApiResult<(Scope, Option<u128>)> {
    let given = body.scope.unwrap_or(if body.workflow_id.is_some() {
        ScopeName::Workflow
    } else if body.api_key_id.is_some() {
        ScopeName::ApiKey
    } else {
        ScopeName::Org
    });
    Ok(match given {
        ScopeName::Org => {
            if body.scope_id.is_some() || body.workflow_id.is_some() || body.api_key_id.is_some() {
                return Err(ApiError::field(
                    "scope_id",
                    "a policy of the organization names no workflow or key",
                ));
            }
            (Scope::Org, None)
        }
        ScopeName::Workflow => {
            let text = body.scope_id.as_ref().or(body.workflow_id.as_ref());
            let id = text
                .map(|text| id::<WorkflowId>(text, "workflow"))
                .transpose()?;
            (Scope::Workflow, id.map(|id| id.0))
        }
        ScopeName::ApiKey => {
            let text = body.scope_id.as_ref().or(body.api_key_id.as_ref());
            let id = text.map(|text| id::<KeyId>(text, "key")).transpose()?;
            (Scope::ApiKey, id.map(|id| id.0))
        }
    })
}

fn show(org: persist::OrgId, policy: &Compiled) -> Value {
    let texts = |globs: &[Glob]| {
        globs
            .iter()
            .map(Glob::text)
            .map(Value::from)
            .collect::<Vec<_>>()
    };
    let (scope, scope_id) = match policy.scope {
        Scope::Org => ("Org", None),
        Scope::Workflow => (
            "Workflow",
            policy.scope_id.map(|id| WorkflowId(id).to_string()),
        ),
        Scope::ApiKey => ("ApiKey", policy.scope_id.map(|id| KeyId(id).to_string())),
    };
    let is_tools = policy.policy_type == PolicyType::ToolBlock;
    let config = match policy.policy_type {
        PolicyType::ToolBlock => json!({ "tool_pattern": texts(&policy.tools) }),
        PolicyType::BudgetLimit => json!({ "budget_cents": policy.budget.map(Nanos::cents_down) }),
        PolicyType::RateLimit => json!({ "max_calls_per_minute": policy.calls_per_minute }),
        PolicyType::LoopDetection => {
            json!({ "loop_threshold": policy.loop_threshold, "loop_window_secs": policy.loop_window_secs })
        }
    };
    let action = match policy.action {
        PolicyAction::Allow => "allow",
        PolicyAction::Flag => "flag",
        PolicyAction::RequireApproval => "require_approval",
        PolicyAction::Block => "block",
    };
    json!({
        "id": policy.id.to_string(),
        "organization_id": org.to_string(),
        "name": policy.name,
        "policy_type": TYPES.iter().find(|(kind, _)| *kind == policy.policy_type).map(|(_, name)| name),
        "scope": scope,
        "scope_id": scope_id,
        "workflow_id": scope_id.as_ref().filter(|_| policy.scope == Scope::Workflow),
        "api_key_id": scope_id.as_ref().filter(|_| policy.scope == Scope::ApiKey),
        "priority": policy.priority,
        "action": action,
        "match": {
            "tools": if is_tools { Vec::new() } else { texts(&policy.tools) },
            "models": texts(&policy.models),
            "min_cost_cents": policy.min_cost.map(Nanos::cents_down),
        },
        "config": config,
        "is_active": policy.is_active,
        "version": policy.version,
        "created_at": clock::rfc3339(policy.created_at),
        "updated_at": clock::rfc3339(policy.updated_at),
    })
}

async fn shown(app: &App, org: persist::OrgId, status: StatusCode, manage: Manage) -> ApiResult {
    let reply = app.call(Command::Manage(Box::new(manage))).await?;
    match &reply.outcome {
        Outcome::Managed(managed) => match managed.as_ref() {
            Managed::Policy(policy) => Ok(json_response(status, &show(org, policy))),
            _ => Err(unexpected(&reply)),
        },
        _ => Err(unexpected(&reply)),
    }
}

/// `POST /orgs/{org}/policies`.
pub async fn create(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let body: Create = admitted.received.json()?;
    if matches!(body.enforcement_mode, Some(ModeName::Soft)) {
        return Err(ApiError::field(
            "enforcement_mode",
            "Soft is not available yet; use Hard",
        ));
    }
    let kind = body.policy_type.policy_type();
    let (scope, scope_id) = scope(&body)?;
    let draft = PolicyDraft {
        policy_type: kind,
        scope,
        scope_id,
        priority: body.priority.unwrap_or(100),
        action: body.action.map_or(PolicyAction::Block, ActionName::action),
        terms: terms(kind, &body.config, &body.matching.unwrap_or_default())?,
        is_active: body.is_active.unwrap_or(true),
        name: body.name,
    };
    let id = PolicyId(hash::new_id(clock::now()));
    let actor = admitted.actor();
    let create = Manage::CreatePolicy {
        org: admitted.org,
        actor,
        id,
        draft,
    };
    shown(&app, admitted.org, StatusCode::CREATED, create).await
}

/// `GET /orgs/{org}/policies`, in the order they are asked.
pub async fn index(
    State(app): State<Arc<App>>,
    Path(org): Path<String>,
    request: Request,
) -> ApiResult {
    let query = request.uri().query().map(str::to_owned);
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let page = Page::parse(query.as_deref())?;
    let directory = app.directory();
    let entry = directory
        .org(org)
        .ok_or_else(|| ApiError::not_found("organization"))?;
    let (ids, next) = page.of(entry.rules.all().iter().map(|policy| policy.id))?;
    let data = ids
        .iter()
        .filter_map(|id| entry.rules.get(*id))
        .map(|policy| show(org, policy))
        .collect();
    Ok(json_response(StatusCode::OK, &list(data, next)))
}

/// `GET /orgs/{org}/policies/{id}`.
pub async fn get(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let Admitted { org, .. } = admit(&app, &org, request, Role::Viewer, Keys::MayRead).await?;
    let policy: PolicyId = id(&policy, "policy")?;
    let directory = app.directory();
    let found = directory.org(org).and_then(|org| org.rules.get(policy));
    let found = found.ok_or_else(|| ApiError::not_found("policy"))?;
    Ok(json_response(StatusCode::OK, &show(org, found)))
}

/// `PATCH /orgs/{org}/policies/{id}`. A given `config` or `match` replaces the old one.
pub async fn patch(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let id: PolicyId = id(&policy, "policy")?;
    let body: Patch = admitted.received.json()?;
    let before = {
        let directory = app.directory();
        let found = directory
            .org(admitted.org)
            .and_then(|org| org.rules.get(id))
            .cloned();
        found.ok_or_else(|| ApiError::not_found("policy"))?
    };
    let patch = PolicyPatch {
        name: body.name,
        policy_type: body.policy_type.map(TypeName::policy_type),
        priority: body.priority,
        action: body.action.map(ActionName::action),
        terms: new_terms(&before, body.config.as_ref(), body.matching)?,
        is_active: body.is_active,
    };
    let actor = admitted.actor();
    shown(
        &app,
        admitted.org,
        StatusCode::OK,
        Manage::PatchPolicy {
            org: admitted.org,
            actor,
            id,
            patch,
        },
    )
    .await
}

fn new_terms(
    before: &Compiled,
    config: Option<&Map<String, Value>>,
    matching: Option<Option<Matching>>,
) -> ApiResult<Option<Terms>> {
    if config.is_none() && matching.is_none() {
        return Ok(None);
    }
    let shown = show(persist::OrgId(0), before);
    let kept_config = shown
        .get("config")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let kept_match = Matching {
        tools: match before.policy_type {
            PolicyType::ToolBlock => Vec::new(),
            _ => before
                .tools
                .iter()
                .map(|glob| glob.text().to_owned())
                .collect(),
        },
        models: before
            .models
            .iter()
            .map(|glob| glob.text().to_owned())
            .collect(),
        min_cost_cents: before.min_cost.map(Nanos::cents_down),
    };
    let matching = matching.map_or(kept_match, Option::unwrap_or_default);
    terms(
        before.policy_type,
        config.unwrap_or(&kept_config),
        &matching,
    )
    .map(Some)
}

/// `DELETE /orgs/{org}/policies/{id}`.
pub async fn delete(
    State(app): State<Arc<App>>,
    Path((org, policy)): Path<(String, String)>,
    request: Request,
) -> ApiResult {
    let admitted = admit(&app, &org, request, Role::Operator, Keys::Refused).await?;
    let id: PolicyId = id(&policy, "policy")?;
    let actor = admitted.actor();
    let delete = Manage::DeletePolicy {
        org: admitted.org,
        actor,
        id,
    };
    app.call(Command::Manage(Box::new(delete))).await?;
    Ok(axum::response::IntoResponse::into_response(
        StatusCode::NO_CONTENT,
    ))
}
