//! Policies as they were looked at, question by question.

use super::words::{ActionName, Mode, Question, ScopeName, StandingName, scope_id};
use engine::note::Noted;
use engine::rules::{Compiled, Looked, Standing};
use persist::Nanos;
use persist::record::PolicyType;
use serde::Serialize;
use utoipa::ToSchema;

/// Which policy.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyNamed)]
pub struct Named {
    /// Null for one of a draft.
    id: Option<String>,
    /// Its place in the draft, from 0; null for a policy of the organization.
    draft: Option<usize>,
    name: String,
    version: u64,
}

impl Named {
    /// A policy of the organization, or of a draft: there, ids are places.
    pub fn of(policy: &Compiled, is_draft: bool) -> Self {
        let place = usize::try_from(policy.id.0).ok();
        Self {
            id: (!is_draft).then(|| policy.id.to_string()),
            draft: place.filter(|_| is_draft),
            name: policy.name.to_string(),
            version: policy.version,
        }
    }
}

/// What is looked at for one question.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyQuestionLooked)]
pub struct Asked {
    question: Question,
    /// In the order they are asked.
    policies: Vec<Row>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyLooked)]
struct Row {
    policy: Named,
    scope: ScopeName,
    /// The workflow or key of the scope.
    scope_id: Option<String>,
    priority: i32,
    action: ActionName,
    mode: Mode,
    /// Only calls that name such a tool.
    tools: Vec<String>,
    /// Only calls that name such a model.
    models: Vec<String>,
    /// Only calls projected to cost at least this.
    min_cost_cents: Option<i64>,
    standing: StandingName,
    /// The standing in words.
    why: String,
}

/// The questions on the wire.
pub fn show(looked: &[(PolicyType, Vec<Looked>)], is_draft: bool) -> Vec<Asked> {
    let asked = looked.iter().map(|(question, looked)| Asked {
        question: Question::of(*question),
        policies: looked.iter().map(|one| row(one, is_draft)).collect(),
    });
    asked.collect()
}

fn row(looked: &Looked, is_draft: bool) -> Row {
    let policy = &*looked.policy;
    let texts = |globs: &[engine::glob::Glob]| {
        let texts = globs.iter().map(|glob| glob.text().to_owned());
        texts.collect::<Vec<_>>()
    };
    Row {
        policy: Named::of(policy, is_draft),
        scope: ScopeName::of(policy.scope),
        scope_id: scope_id(policy.scope, policy.scope_id),
        priority: policy.priority,
        action: ActionName::of(policy.action),
        mode: Mode::of(policy.shadow),
        tools: texts(&policy.tools),
        models: texts(&policy.models),
        min_cost_cents: policy.min_cost.map(Nanos::cents_down),
        standing: StandingName::of(looked.standing),
        why: why(looked),
    }
}

fn why(looked: &Looked) -> String {
    let of = match looked.policy.scope {
        persist::record::Scope::Org => "every call of the organization",
        persist::record::Scope::Workflow => "the calls of this workflow",
        persist::record::Scope::ApiKey => "the calls of this key",
    };
    let stands = match looked.standing {
        Standing::Answers => "its answer counts",
        Standing::Heard => "it is heard, and another answer is stricter or sets a limit",
        Standing::NotMet => "its conditions are not met",
        Standing::Conditional => "its answer counts where its conditions are met",
        Standing::Behind => "another policy answers before it",
        Standing::Shadow => "it would be asked, and is only noted",
    };
    format!("it is about {of}; {stands}")
}

/// What a policy said that decides nothing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PolicyNote)]
pub struct Note {
    policy: Named,
    question: Question,
    mode: Mode,
    action: ActionName,
    /// In force it would have refused the call.
    would_block: bool,
}

/// Notes on the wire.
pub fn notes(noted: &[Noted], is_draft: bool) -> Vec<Note> {
    let notes = noted.iter().map(|noted| Note {
        policy: Named::of(&noted.policy, is_draft),
        question: Question::of(noted.policy.policy_type),
        mode: Mode::of(noted.policy.shadow),
        action: ActionName::of(noted.policy.action),
        would_block: noted.refuses,
    });
    notes.collect()
}
