//! `config` and `match`: what they may say for each type of policy, and the names of what is wrong
//! with them. Keys that mean nothing are refused, not skipped.

use crate::error::{ApiError, ApiResult};
use crate::manage::caps::{ModeName, PeriodName};
use crate::manage::{cents, nullable};
use engine::glob::{BadPattern, Glob};
use engine::limits;
use engine::manage::{Terms, TermsPatch};
use http::StatusCode;
use persist::Nanos;
use persist::record::PolicyType;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What a policy's type lets it say; other fields than those of its type are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyConfigGiven)]
#[expect(dead_code, reason = "it only describes")]
pub struct Config {
    /// ToolBlock: patterns of tool names; `*` stands for anything, `|` between alternatives.
    #[schema(min_items = 1, max_items = 256, example = json!(["bash", "db.*"]))]
    tool_pattern: Option<Vec<String>>,
    /// ToolBlock: the same, by another name.
    #[schema(min_items = 1, max_items = 256)]
    blocked_tools: Option<Vec<String>>,
    /// ToolBlock: the same, by another name.
    #[schema(min_items = 1, max_items = 256)]
    tools: Option<Vec<String>>,
    /// BudgetLimit: the cap; 0 lets nothing be spent.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    budget_cents: Option<i64>,
    /// BudgetLimit: a month if absent.
    budget_period: Option<PeriodName>,
    /// BudgetLimit: hard if absent.
    enforcement_mode: Option<ModeName>,
    /// BudgetLimit, soft: how far calls in a chain may go beyond the cap.
    #[schema(minimum = 0, maximum = 900000000000_i64)]
    max_overdraft_cents: Option<i64>,
    /// BudgetLimit, soft: the same in percent of the cap; the lesser of the two holds.
    #[schema(maximum = 1000)]
    max_overdraft_percent: Option<u32>,
    /// RateLimit.
    #[schema(minimum = 1, maximum = 1000000)]
    max_calls_per_minute: Option<u32>,
    /// LoopDetection: calls of one tool; 6 if absent.
    #[schema(minimum = 2, maximum = 1000)]
    loop_threshold: Option<u32>,
    /// LoopDetection: within so many seconds; 60 if absent.
    #[schema(minimum = 1, maximum = 3600)]
    loop_window_secs: Option<u32>,
}

/// What a policy says, by its type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = PolicyConfig)]
pub enum ConfigShown {
    Tools(Tools),
    Budget(Budget),
    Rate(Rate),
    Loop(Loop),
}

/// Of a ToolBlock.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ToolBlockConfig)]
pub struct Tools {
    /// Patterns of tool names.
    tool_pattern: Vec<String>,
}

/// Of a BudgetLimit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BudgetLimitConfig)]
pub struct Budget {
    /// The cap.
    budget_cents: Option<i64>,
    budget_period: PeriodName,
    enforcement_mode: ModeName,
    /// How far calls in a chain may go beyond it.
    max_overdraft_cents: Option<i64>,
    /// The same in percent.
    max_overdraft_percent: Option<u32>,
}

/// Of a RateLimit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RateLimitConfig)]
pub struct Rate {
    max_calls_per_minute: u32,
}

/// Of a LoopDetection.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LoopDetectionConfig)]
pub struct Loop {
    /// Calls of one tool; 6 if null.
    loop_threshold: Option<u32>,
    /// Within so many seconds; 60 if null.
    loop_window_secs: Option<u32>,
}

impl ConfigShown {
    /// The config of these terms.
    pub fn of(kind: PolicyType, terms: &Terms) -> Self {
        match kind {
            PolicyType::ToolBlock => Self::Tools(Tools {
                tool_pattern: terms.tools.clone(),
            }),
            PolicyType::BudgetLimit => Self::Budget(Budget {
                budget_cents: terms.budget.map(Nanos::cents_down),
                budget_period: PeriodName::of(terms.period),
                enforcement_mode: ModeName::of(terms.overdraft),
                max_overdraft_cents: terms
                    .overdraft
                    .and_then(|overdraft| overdraft.amount)
                    .map(Nanos::cents_down),
                max_overdraft_percent: terms.overdraft.and_then(|overdraft| overdraft.percent),
            }),
            PolicyType::RateLimit => Self::Rate(Rate {
                max_calls_per_minute: terms.calls_per_minute.unwrap_or_default(),
            }),
            PolicyType::LoopDetection => Self::Loop(Loop {
                loop_threshold: terms.loop_threshold,
                loop_window_secs: terms.loop_window_secs,
            }),
        }
    }
}

/// Which calls a policy is about.
#[derive(Debug, Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PolicyMatchGiven)]
pub struct Matching {
    /// Calls that name such a tool.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Vec<String>, max_items = 256, example = json!(["mail.*"]))]
    tools: Option<Value>,
    /// Calls that name such a model.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Vec<String>, max_items = 256, example = json!(["gpt-*"]))]
    models: Option<Value>,
    /// Calls projected to cost at least this; null for any.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 900000000000_i64)]
    min_cost_cents: Option<Option<i64>>,
}

impl Matching {
    /// No conditions.
    pub fn none() -> Self {
        let none = || Some(Value::Array(Vec::new()));
        Self {
            tools: none(),
            models: none(),
            min_cost_cents: Some(None),
        }
    }
}

/// Which calls a policy is about; all, where nothing is said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyMatch)]
pub struct MatchShown {
    tools: Vec<String>,
    models: Vec<String>,
    min_cost_cents: Option<i64>,
}

impl MatchShown {
    /// The conditions of these terms.
    pub fn of(kind: PolicyType, terms: &Terms) -> Self {
        Self {
            // Those of a ToolBlock are its config.
            tools: match kind {
                PolicyType::ToolBlock => Vec::new(),
                _ => terms.tools.clone(),
            },
            models: terms.models.clone(),
            min_cost_cents: terms.min_cost.map(Nanos::cents_down),
        }
    }
}

/// Null is something too: what is wrong with it is said by name.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Names under which a tool list may stand in `config`.
const TOOL_LISTS: [&str; 3] = ["tool_pattern", "blocked_tools", "tools"];

fn invalid(slug: &'static str, field: &str, message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, slug, message).with("field", field)
}

/// Checks a list of patterns by name of what is wrong with it.
fn patterns(field: &str, value: &Value, least: usize) -> ApiResult<Vec<String>> {
    let Value::Array(items) = value else {
        return Err(invalid(
            "bare_string_pattern",
            field,
            format!("{field} must be a list of patterns, such as [\"bash\", \"db.*\"]"),
        ));
    };
    if items.len() < least || items.len() > limits::PATTERNS {
        return Err(invalid(
            "invalid_pattern_list",
            field,
            format!("{field} takes {least} to {} patterns", limits::PATTERNS),
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
        Err(error @ BadPattern::TooLong) => Err(invalid(
            "pattern_too_long",
            field,
            format!("{field}: {error}"),
        )),
        Err(error @ BadPattern::Invalid) => {
            Err(invalid("invalid_glob", field, format!("{field}: {error}")))
        }
    }
}

/// What a request says of a policy's terms.
pub fn terms(
    kind: PolicyType,
    config: Option<&Map<String, Value>>,
    matching: Option<&Matching>,
) -> ApiResult<TermsPatch> {
    let mut terms = match config {
        Some(config) => configured(kind, config)?,
        None => TermsPatch::default(),
    };
    let Some(matching) = matching else {
        return Ok(terms);
    };
    let list = |name: &str, value: &Option<Value>| {
        let list = value.as_ref().map(|value| patterns(name, value, 0));
        list.transpose()
    };
    let tools = list("match.tools", &matching.tools)?;
    // The patterns of a ToolBlock are shown in its config, beside an empty list here: that says nothing.
    let tools = tools.filter(|tools| kind != PolicyType::ToolBlock || !tools.is_empty());
    if let Some(tools) = tools {
        terms.tools.get_or_insert_default().extend(tools);
    }
    terms.models = list("match.models", &matching.models)?;
    terms.min_cost = matching
        .min_cost_cents
        .map(|cents| cents.map(Nanos::from_cents));
    Ok(terms)
}

fn configured(kind: PolicyType, config: &Map<String, Value>) -> ApiResult<TermsPatch> {
    let mut terms = TermsPatch::default();
    for (name, value) in config {
        let field = format!("config.{name}");
        match (kind, name.as_str()) {
            (PolicyType::ToolBlock, name) if TOOL_LISTS.contains(&name) => {
                let more = patterns(&field, value, 1)?;
                terms.tools.get_or_insert_default().extend(more);
            }
            (PolicyType::BudgetLimit, "budget_cents") => {
                let cents = value.as_i64().ok_or_else(|| {
                    ApiError::field(&field, format!("{field} must be a whole number of cents"))
                })?;
                terms.budget = Some(Nanos::from_cents(cents));
            }
            (PolicyType::BudgetLimit, "budget_period") => {
                terms.period = Some(read::<PeriodName>(&field, value)?.kind());
            }
            (PolicyType::BudgetLimit, "enforcement_mode") => {
                terms.overdraft.soft = Some(read::<ModeName>(&field, value)? == ModeName::Soft);
            }
            (PolicyType::BudgetLimit, "max_overdraft_cents") => {
                terms.overdraft.amount = Some(cents(read(&field, value)?));
            }
            (PolicyType::BudgetLimit, "max_overdraft_percent") => {
                terms.overdraft.percent = Some(read(&field, value)?);
            }
            (PolicyType::LoopDetection, "loop_threshold") => {
                terms.loop_threshold = Some(read(&field, value)?);
            }
            (PolicyType::LoopDetection, "loop_window_secs") => {
                terms.loop_window_secs = Some(read(&field, value)?);
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
                return Err(invalid(
                    "unknown_config_key",
                    &field,
                    format!(
                        "{field} means nothing to this policy type; it takes {}",
                        known(kind)
                    ),
                ));
            }
        }
    }
    Ok(terms)
}

const fn known(kind: PolicyType) -> &'static str {
    match kind {
        PolicyType::ToolBlock => "tool_pattern, blocked_tools, tools",
        PolicyType::BudgetLimit => {
            "budget_cents, budget_period, enforcement_mode, max_overdraft_cents, \
             max_overdraft_percent"
        }
        PolicyType::RateLimit => "max_calls_per_minute",
        PolicyType::LoopDetection => "loop_threshold, loop_window_secs",
    }
}

fn read<T: serde::de::DeserializeOwned>(field: &str, value: &Value) -> ApiResult<T> {
    serde_json::from_value(value.clone()).map_err(|error| {
        let why = crate::request::kind_only(&error.to_string());
        ApiError::field(field, format!("{field}: {why}"))
    })
}
