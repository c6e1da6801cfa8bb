//! The words of policies on the wire: types, scopes, actions, modes.

use engine::rules::Standing;
use persist::record::{Composition, PolicyAction, PolicyType, Scope};
use persist::{KeyId, WorkflowId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a policy decides about. It keeps its type.
#[derive(Debug, Deserialize, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = PolicyType)]
pub enum TypeName {
    /// A cap on spending.
    BudgetLimit,
    /// Calls per minute.
    RateLimit,
    /// Tools that may not run.
    ToolBlock,
    /// The same tool again and again.
    LoopDetection,
}

/// Whose calls a policy is about.
#[derive(Debug, Deserialize, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = PolicyScope)]
pub enum ScopeName {
    /// All of the organization.
    #[serde(alias = "org", alias = "organization", alias = "Organization")]
    Org,
    /// Those of one workflow.
    #[serde(alias = "workflow")]
    Workflow,
    /// Those of one API key.
    #[serde(alias = "api_key", alias = "apikey", alias = "key")]
    ApiKey,
}

/// What a policy does where it applies.
#[derive(Debug, Deserialize, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyAction)]
pub enum ActionName {
    /// The call may go on; with first match, policies behind it are not asked.
    Allow,
    /// The call may go on, and the answer and the record say that it was flagged.
    Flag,
    /// Not available yet.
    RequireApproval,
    /// The call is refused.
    Block,
}

/// Is a policy in force?
#[derive(Debug, Deserialize, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyMode)]
pub enum Mode {
    /// It decides.
    Enforce,
    /// It is asked like others, and what it would have done is only noted.
    Shadow,
}

/// How policies of one question and scope combine.
#[derive(Debug, Serialize, Deserialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyComposition)]
pub enum CompositionName {
    /// The first that matches answers.
    FirstMatch,
    /// All that match are heard, and the strictest answers.
    MostRestrictive,
}

/// What is asked about a call, in this order.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyQuestion)]
pub enum Question {
    /// May its tools run?
    Tool,
    /// Is a tool called again and again?
    Loop,
    /// Are there too many calls?
    Rate,
    /// Is there money for it?
    Budget,
}

/// How a policy stands to a call, or to calls in general.
#[derive(Debug, Serialize, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PolicyStanding)]
pub enum StandingName {
    /// Its answer counts.
    Wins,
    /// It is heard, and another is stricter.
    Heard,
    /// Its conditions are not met.
    NotMet,
    /// Its answer counts for calls that meet its conditions.
    WhenMet,
    /// Another answers before it.
    Behind,
    /// It would be asked, and is only noted.
    Shadow,
}

impl TypeName {
    /// What it names.
    pub const fn policy_type(self) -> PolicyType {
        match self {
            Self::BudgetLimit => PolicyType::BudgetLimit,
            Self::RateLimit => PolicyType::RateLimit,
            Self::ToolBlock => PolicyType::ToolBlock,
            Self::LoopDetection => PolicyType::LoopDetection,
        }
    }

    /// The name of a type.
    pub const fn of(kind: PolicyType) -> Self {
        match kind {
            PolicyType::BudgetLimit => Self::BudgetLimit,
            PolicyType::RateLimit => Self::RateLimit,
            PolicyType::ToolBlock => Self::ToolBlock,
            PolicyType::LoopDetection => Self::LoopDetection,
        }
    }
}

impl ScopeName {
    /// The name of a scope.
    pub const fn of(scope: Scope) -> Self {
        match scope {
            Scope::Org => Self::Org,
            Scope::Workflow => Self::Workflow,
            Scope::ApiKey => Self::ApiKey,
        }
    }
}

/// The workflow or key of a scope, as it is written.
pub fn scope_id(scope: Scope, id: Option<u128>) -> Option<String> {
    match scope {
        Scope::Org => None,
        Scope::Workflow => id.map(|id| WorkflowId(id).to_string()),
        Scope::ApiKey => id.map(|id| KeyId(id).to_string()),
    }
}

impl ActionName {
    /// What it names.
    pub const fn action(self) -> PolicyAction {
        match self {
            Self::Allow => PolicyAction::Allow,
            Self::Flag => PolicyAction::Flag,
            Self::RequireApproval => PolicyAction::RequireApproval,
            Self::Block => PolicyAction::Block,
        }
    }

    /// The name of an action.
    pub const fn of(action: PolicyAction) -> Self {
        match action {
            PolicyAction::Allow => Self::Allow,
            PolicyAction::Flag => Self::Flag,
            PolicyAction::RequireApproval => Self::RequireApproval,
            PolicyAction::Block => Self::Block,
        }
    }
}

impl Mode {
    /// Does it stand in the shadow?
    pub fn is_shadow(self) -> bool {
        self == Self::Shadow
    }

    /// The mode of a policy.
    pub const fn of(shadow: bool) -> Self {
        if shadow { Self::Shadow } else { Self::Enforce }
    }
}

impl CompositionName {
    /// The name of a composition.
    pub const fn of(composition: Composition) -> Self {
        match composition {
            Composition::FirstMatch => Self::FirstMatch,
            Composition::MostRestrictive => Self::MostRestrictive,
        }
    }

    /// The composition of that name.
    pub const fn kind(self) -> Composition {
        match self {
            Self::FirstMatch => Composition::FirstMatch,
            Self::MostRestrictive => Composition::MostRestrictive,
        }
    }
}

impl Question {
    /// The question that policies of a type answer.
    pub const fn of(kind: PolicyType) -> Self {
        match kind {
            PolicyType::ToolBlock => Self::Tool,
            PolicyType::LoopDetection => Self::Loop,
            PolicyType::RateLimit => Self::Rate,
            PolicyType::BudgetLimit => Self::Budget,
        }
    }
}

impl StandingName {
    /// The name of a standing.
    pub const fn of(standing: Standing) -> Self {
        match standing {
            Standing::Answers => Self::Wins,
            Standing::Heard => Self::Heard,
            Standing::NotMet => Self::NotMet,
            Standing::Conditional => Self::WhenMet,
            Standing::Behind => Self::Behind,
            Standing::Shadow => Self::Shadow,
        }
    }
}
