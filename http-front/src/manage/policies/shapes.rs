//! A policy in requests and answers.

use super::config::{self, Config, ConfigShown, MatchShown, Matching};
use super::words::{ActionName, Mode, ScopeName, TypeName, scope_id};
use crate::app::refused;
use crate::clock;
use crate::error::{ApiError, ApiResult};
use crate::manage::caps::ModeName;
use crate::manage::id;
use crate::manage::nullable;
use crate::manage::once::{Named, fields_once, maybe_fields_once};
use engine::manage::{PRIORITY, PolicyDraft, Terms};
use engine::rules::Compiled;
use persist::record::{PolicyAction, PolicyType, Scope};
use persist::{KeyId, OrgId, WorkflowId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A policy to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyCreate, example = json!({
    "name": "no shell", "policy_type": "ToolBlock", "config": { "tool_pattern": ["bash", "shell.*"] }
}))]
pub struct Create {
    #[schema(min_length = 1, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    name: String,
    /// Some clients say `type`.
    #[serde(alias = "type")]
    policy_type: TypeName,
    /// The organization, unless `workflow_id` or `api_key_id` says otherwise.
    scope: Option<ScopeName>,
    /// The workflow or key of the scope.
    scope_id: Option<String>,
    /// The workflow it is for.
    workflow_id: Option<String>,
    /// The API key it is for.
    api_key_id: Option<String>,
    /// Lower is asked first; of equals, the older.
    #[schema(default = 100)]
    priority: Option<i32>,
    /// Refuses if absent.
    action: Option<ActionName>,
    #[serde(rename = "match")]
    #[schema(value_type = Option<Matching>)]
    matching: Option<Named<Matching>>,
    #[serde(default, deserialize_with = "fields_once")]
    #[schema(value_type = Config)]
    config: Map<String, Value>,
    #[schema(default = true)]
    is_active: Option<bool>,
    /// In force if absent.
    mode: Option<Mode>,
    /// The same as in `config`: published examples send it here.
    enforcement_mode: Option<ModeName>,
}

/// What changes in a policy; absent stays, within `config` and `match` too. A list replaces the list
/// there was, null takes a condition off, and `match: null` all of them. For a ToolBlock, `match.tools`
/// and `config` are one list: what either says is the whole of it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyPatch)]
pub struct Patch {
    #[schema(min_length = 1, max_length = 80, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub name: Option<String>,
    /// Must be what it is.
    #[serde(alias = "type")]
    pub policy_type: Option<TypeName>,
    pub priority: Option<i32>,
    pub action: Option<ActionName>,
    #[serde(rename = "match", default, deserialize_with = "nullable")]
    #[schema(value_type = Option<Matching>)]
    pub matching: Option<Option<Named<Matching>>>,
    #[serde(default, deserialize_with = "maybe_fields_once")]
    #[schema(value_type = Option<Config>)]
    pub config: Option<Map<String, Value>>,
    pub is_active: Option<bool>,
    pub mode: Option<Mode>,
}

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Policy)]
pub struct Shown {
    id: String,
    organization_id: String,
    name: String,
    policy_type: TypeName,
    scope: ScopeName,
    /// The workflow or key of the scope.
    scope_id: Option<String>,
    workflow_id: Option<String>,
    api_key_id: Option<String>,
    /// Lower is asked first; of equals, the older.
    priority: i32,
    action: ActionName,
    mode: Mode,
    #[serde(rename = "match")]
    matching: MatchShown,
    config: ConfigShown,
    is_active: bool,
    /// The template it was enabled from.
    template_id: Option<String>,
    /// Grows with each change.
    version: u64,
    created_at: String,
    updated_at: String,
}

/// A policy on the wire.
pub fn show(org: OrgId, policy: &Compiled) -> Shown {
    let (kind, terms) = (policy.policy_type, Terms::of(policy));
    let place = scope_id(policy.scope, policy.scope_id);
    let of = |scope| place.clone().filter(|_| policy.scope == scope);
    Shown {
        id: policy.id.to_string(),
        organization_id: org.to_string(),
        name: policy.name.to_string(),
        policy_type: TypeName::of(kind),
        scope: ScopeName::of(policy.scope),
        workflow_id: of(Scope::Workflow),
        api_key_id: of(Scope::ApiKey),
        scope_id: place,
        priority: policy.priority,
        action: ActionName::of(policy.action),
        mode: Mode::of(policy.shadow),
        matching: MatchShown::of(kind, &terms),
        config: ConfigShown::of(kind, &terms),
        is_active: policy.is_active,
        template_id: policy.template.as_deref().map(str::to_owned),
        version: policy.version,
        created_at: clock::rfc3339(policy.created_at),
        updated_at: clock::rfc3339(policy.updated_at),
    }
}

impl Create {
    /// For the engine.
    pub fn draft(self) -> ApiResult<PolicyDraft> {
        let kind = self.policy_type.policy_type();
        let mut config = self.config;
        if let Some(mode) = self
            .enforcement_mode
            .filter(|_| kind == PolicyType::BudgetLimit)
        {
            let name = match mode {
                ModeName::Soft => "Soft",
                ModeName::Hard => "Hard",
            };
            config
                .entry("enforcement_mode")
                .or_insert(Value::from(name));
        }
        let place = Place {
            scope: self.scope,
            scope_id: self.scope_id.as_deref(),
            workflow_id: self.workflow_id.as_deref(),
            api_key_id: self.api_key_id.as_deref(),
        };
        let (scope, scope_id) = place.read()?;
        let matching = self.matching.as_ref().map(|Named(matching)| matching);
        Ok(PolicyDraft {
            policy_type: kind,
            scope,
            scope_id,
            priority: self.priority.unwrap_or(PRIORITY),
            action: self.action.map_or(PolicyAction::Block, ActionName::action),
            terms: config::terms(kind, Some(&config), matching)?
                .of(Terms::default())
                .map_err(refused)?,
            is_active: self.is_active.unwrap_or(true),
            shadow: self.mode.is_some_and(Mode::is_shadow),
            template: None,
            name: self.name,
        })
    }
}

/// What a request says of whose calls a policy is about.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub scope: Option<ScopeName>,
    pub scope_id: Option<&'a str>,
    pub workflow_id: Option<&'a str>,
    pub api_key_id: Option<&'a str>,
}

impl Place<'_> {
    /// Is nothing said?
    pub const fn is_empty(&self) -> bool {
        self.scope.is_none()
            && self.scope_id.is_none()
            && self.workflow_id.is_none()
            && self.api_key_id.is_none()
    }

    /// The scope, and the workflow or key of it.
    pub fn read(&self) -> ApiResult<(Scope, Option<u128>)> {
        let scope = self.scope.unwrap_or(if self.workflow_id.is_some() {
            ScopeName::Workflow
        } else if self.api_key_id.is_some() {
            ScopeName::ApiKey
        } else {
            ScopeName::Org
        });
        let (own, other, noun) = match scope {
            ScopeName::Org => (None, self.workflow_id.or(self.api_key_id), "organization"),
            ScopeName::Workflow => (self.workflow_id, self.api_key_id, "workflow"),
            ScopeName::ApiKey => (self.api_key_id, self.workflow_id, "key"),
        };
        let twice = own.is_some() && self.scope_id.is_some_and(|id| own != Some(id));
        if other.is_some() || twice || (scope == ScopeName::Org && self.scope_id.is_some()) {
            return Err(ApiError::field(
                "scope_id",
                format!(
                    "a policy is for one scope: one of the {noun} takes {}",
                    match scope {
                        ScopeName::Org => "no scope_id, workflow_id or api_key_id",
                        ScopeName::Workflow => "only workflow_id, or the same in scope_id",
                        ScopeName::ApiKey => "only api_key_id, or the same in scope_id",
                    }
                ),
            ));
        }
        let given = own.or(self.scope_id);
        Ok(match scope {
            ScopeName::Org => (Scope::Org, None),
            ScopeName::Workflow => {
                let workflow = given.map(|text| id::<WorkflowId>(text, "workflow"));
                (Scope::Workflow, workflow.transpose()?.map(|id| id.0))
            }
            ScopeName::ApiKey => {
                let key = given.map(|text| id::<KeyId>(text, "key"));
                (Scope::ApiKey, key.transpose()?.map(|id| id.0))
            }
        })
    }
}
