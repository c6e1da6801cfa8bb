//! Changes to the directory: what they need, what they refuse, and the record they become.

use crate::directory::{Directory, KeyEntry, OrgEntry, WorkflowEntry};
use crate::limits;
use crate::rules::Compiled;
use persist::record::{
    Actor, Change, Composition, DirectoryRecord, Key, Member, Org, Policy, PolicyAction,
    PolicyType, Role, Scope, Scopes, Session, User, Workflow,
};
use persist::{KeyId, Millis, Nanos, OrgId, PolicyId, UserId, WorkflowId};
use std::sync::Arc;

/// A change somebody asks for. Ids, hashes and times are made at the edge.
#[derive(Debug)]
pub enum Manage {
    /// A person signs up with an org, a first workflow, a key and a session of their own.
    Register(Box<Registration>),
    /// A person signed in.
    OpenSession(Session),
    /// A new workflow.
    CreateWorkflow {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Its id.
        id: WorkflowId,
        /// What it is.
        settings: WorkflowSettings,
    },
    /// Other settings for a workflow.
    PatchWorkflow {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: WorkflowId,
        /// What changes.
        patch: WorkflowPatch,
    },
    /// Other settings for an org.
    PatchOrg {
        /// Which.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// A new name.
        name: Option<String>,
        /// Another cap; `Some(None)` takes it off.
        budget: Option<Option<Nanos>>,
        /// Another composition.
        composition: Option<Composition>,
    },
    /// A new policy.
    CreatePolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Its id.
        id: PolicyId,
        /// What it says.
        draft: PolicyDraft,
    },
    /// A policy says something else now.
    PatchPolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: PolicyId,
        /// What changes.
        patch: PolicyPatch,
    },
    /// A policy goes.
    DeletePolicy {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: PolicyId,
    },
    /// A new key.
    CreateKey {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// What it is.
        key: NewKey,
    },
    /// A key is refused from now on.
    RevokeKey {
        /// Where.
        org: OrgId,
        /// By whom.
        actor: Actor,
        /// Which.
        id: KeyId,
    },
}

/// Everything a sign-up makes.
#[derive(Debug)]
pub struct Registration {
    /// The person.
    pub user: UserId,
    /// Their address, lower case.
    pub email: String,
    /// Their name.
    pub name: String,
    /// Argon2id, PHC form.
    pub password_hash: String,
    /// Their org.
    pub org: OrgId,
    /// Its name.
    pub org_name: String,
    /// Its plan.
    pub plan: String,
    /// Its first workflow.
    pub workflow: WorkflowId,
    /// That workflow's name.
    pub workflow_name: String,
    /// Its first key.
    pub key: NewKey,
    /// The session.
    pub session: Session,
}

/// A key to be made.
#[derive(Debug)]
pub struct NewKey {
    /// Id.
    pub id: KeyId,
    /// The workflow it is bound to.
    pub workflow: Option<WorkflowId>,
    /// Name.
    pub name: String,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// First characters.
    pub prefix: String,
    /// Last characters.
    pub suffix: String,
    /// Signing secret, sealed.
    pub sealed_secret: Vec<u8>,
    /// What it may do.
    pub scopes: Scopes,
    /// Cap.
    pub budget: Option<Nanos>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
}

/// A workflow's settings.
#[derive(Debug, Clone, Default)]
pub struct WorkflowSettings {
    /// Name.
    pub name: String,
    /// The operator's own id.
    pub external_id: Option<String>,
    /// Cap.
    pub budget: Option<Nanos>,
    /// Cap on one call.
    pub max_per_call: Option<Nanos>,
}

/// What changes in a workflow; absent stays.
#[derive(Debug, Clone, Default)]
pub struct WorkflowPatch {
    /// Name.
    pub name: Option<String>,
    /// The operator's own id; `Some(None)` takes it off.
    pub external_id: Option<Option<String>>,
    /// Cap; `Some(None)` takes it off.
    pub budget: Option<Option<Nanos>>,
    /// Cap on one call; `Some(None)` takes it off.
    pub max_per_call: Option<Option<Nanos>>,
}

/// A policy to be made. Patterns are already known to compile.
#[derive(Debug, Clone)]
pub struct PolicyDraft {
    /// Name.
    pub name: String,
    /// What it decides about.
    pub policy_type: PolicyType,
    /// At which level.
    pub scope: Scope,
    /// For which workflow or key.
    pub scope_id: Option<u128>,
    /// Lower answers first.
    pub priority: i32,
    /// What a match does.
    pub action: PolicyAction,
    /// Conditions and figures.
    pub terms: Terms,
    /// Off policies answer nothing.
    pub is_active: bool,
}

/// The part of a policy that `config` and `match` describe.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Tool patterns.
    pub tools: Vec<String>,
    /// Model patterns.
    pub models: Vec<String>,
    /// Matches only calls projected to cost at least this.
    pub min_cost: Option<Nanos>,
    /// The cap.
    pub budget: Option<Nanos>,
    /// Calls per minute.
    pub calls_per_minute: Option<u32>,
}

/// What changes in a policy; absent stays.
#[derive(Debug, Clone, Default)]
pub struct PolicyPatch {
    /// Name.
    pub name: Option<String>,
    /// Must be what it is.
    pub policy_type: Option<PolicyType>,
    /// Priority.
    pub priority: Option<i32>,
    /// Action.
    pub action: Option<PolicyAction>,
    /// Conditions and figures, all of them anew.
    pub terms: Option<Terms>,
    /// On or off.
    pub is_active: Option<bool>,
}

/// What a change made.
#[derive(Debug)]
pub enum Managed {
    /// Nothing to show beyond what the caller knows.
    Done,
    /// An org.
    Org(Arc<OrgEntry>),
    /// A key.
    Key(Arc<KeyEntry>),
    /// A policy.
    Policy(Arc<Compiled>),
    /// A workflow: shown with its money by the caller's next question.
    Workflow(WorkflowId),
}

/// Why a command cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing here.
    NotFound(&'static str),
    /// It clashes with what is there.
    Conflict {
        /// Slug.
        code: &'static str,
        /// Sentence.
        message: String,
    },
    /// A field is wrong.
    Invalid {
        /// Slug.
        code: &'static str,
        /// Which.
        field: &'static str,
        /// Sentence with the bound and the remedy.
        message: String,
    },
    /// The thing's state does not allow it.
    WrongState(String),
}

fn invalid(field: &'static str, message: String) -> Refusal {
    Refusal::Invalid {
        code: "validation_error",
        field,
        message,
    }
}

fn bounded(field: &'static str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(invalid(field, format!("{field} may not be empty")));
    }
    if text.len() > most {
        return Err(invalid(
            field,
            format!("{field} has {} bytes, {most} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(
            field,
            format!("{field} may not hold control characters"),
        ));
    }
    Ok(())
}

fn budget(field: &'static str, amount: Option<Nanos>) -> Result<(), Refusal> {
    let most = Nanos::from_cents(limits::BUDGET_CENTS);
    match amount {
        Some(amount) if amount < Nanos::ZERO || amount > most => Err(invalid(
            field,
            format!(
                "{field} must be between 0 and {}, or null for no cap",
                limits::BUDGET_CENTS
            ),
        )),
        _ => Ok(()),
    }
}

fn external_id(text: Option<&str>) -> Result<(), Refusal> {
    let Some(text) = text else { return Ok(()) };
    let fits = !text.is_empty()
        && text.len() <= limits::EXTERNAL_ID_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits {
        return Ok(());
    }
    Err(invalid(
        "external_id",
        format!(
            "external_id takes 1 to {} letters, digits, _ and -",
            limits::EXTERNAL_ID_BYTES
        ),
    ))
}

/// Decides a change: the closure gets the record that makes it, or the refusal comes back.
pub fn decide<T>(
    directory: &Directory,
    now: Millis,
    manage: &Manage,
    then: impl FnOnce(DirectoryRecord<'_>) -> T,
) -> Result<T, Refusal> {
    let record = |actor, changes| DirectoryRecord {
        at: now,
        actor,
        changes,
    };
    match manage {
        Manage::Register(new) => {
            if directory.user_by_email(&new.email).is_some() {
                return Err(Refusal::Conflict {
                    code: "email_taken",
                    message: "this address is registered; sign in with POST /api/v1/auth/login"
                        .to_owned(),
                });
            }
            bounded("organization_name", &new.org_name, limits::ORG_NAME_BYTES)?;
            Ok(then(record(Actor::User(new.user), registration(now, new))))
        }
        Manage::OpenSession(session) => Ok(then(record(
            Actor::User(session.user),
            vec![Change::SessionAdded(session.clone())],
        ))),
        Manage::CreateWorkflow {
            org,
            actor,
            id,
            settings,
        } => {
            check_workflow(directory, *org, None, settings)?;
            let workflow = workflow_record(*org, *id, settings, now, now);
            Ok(then(record(*actor, vec![Change::WorkflowAdded(workflow)])))
        }
        Manage::PatchWorkflow {
            org,
            actor,
            id,
            patch,
        } => {
            let before = directory
                .workflow(*org, *id)
                .ok_or(Refusal::NotFound("workflow"))?;
            let settings = patched(before, patch);
            check_workflow(directory, *org, Some(*id), &settings)?;
            let workflow = workflow_record(*org, *id, &settings, before.created_at, now);
            Ok(then(record(
                *actor,
                vec![Change::WorkflowChanged(workflow)],
            )))
        }
        Manage::PatchOrg {
            org,
            actor,
            name,
            budget: cap,
            composition,
        } => {
            let before = directory
                .org(*org)
                .ok_or(Refusal::NotFound("organization"))?;
            if let Some(name) = name {
                bounded("name", name, limits::ORG_NAME_BYTES)?;
            }
            budget("budget_cents", cap.flatten())?;
            let after = Org {
                name: name.as_deref().unwrap_or(&before.name),
                budget: cap.unwrap_or(before.budget),
                composition: composition.unwrap_or(before.composition),
                ..before.to_record()
            };
            Ok(then(record(*actor, vec![Change::OrgChanged(after)])))
        }
        Manage::CreatePolicy {
            org,
            actor,
            id,
            draft,
        } => {
            let entry = directory
                .org(*org)
                .ok_or(Refusal::NotFound("organization"))?;
            if entry.rules.all().len() >= limits::POLICIES {
                return Err(Refusal::Conflict {
                    code: "policy_limit_reached",
                    message: format!(
                        "an org may have {} policies; delete one first",
                        limits::POLICIES
                    ),
                });
            }
            check_draft(directory, *org, *id, draft)?;
            Ok(then(record(
                *actor,
                vec![Change::PolicyAdded(policy_record(
                    *org, *id, draft, 1, now, now,
                ))],
            )))
        }
        Manage::PatchPolicy {
            org,
            actor,
            id,
            patch,
        } => {
            let entry = directory.org(*org).ok_or(Refusal::NotFound("policy"))?;
            let before = entry.rules.get(*id).ok_or(Refusal::NotFound("policy"))?;
            if patch
                .policy_type
                .is_some_and(|kind| kind != before.policy_type)
            {
                return Err(Refusal::Invalid {
                    code: "policy_type_immutable",
                    field: "policy_type",
                    message: "a policy keeps its type; delete it and create another".to_owned(),
                });
            }
            let draft = patched_policy(before, patch);
            check_draft(directory, *org, *id, &draft)?;
            let after = policy_record(
                *org,
                *id,
                &draft,
                before.version + 1,
                before.created_at,
                now,
            );
            Ok(then(record(*actor, vec![Change::PolicyChanged(after)])))
        }
        Manage::DeletePolicy { org, actor, id } => {
            let entry = directory.org(*org).ok_or(Refusal::NotFound("policy"))?;
            entry.rules.get(*id).ok_or(Refusal::NotFound("policy"))?;
            Ok(then(record(
                *actor,
                vec![Change::PolicyRemoved {
                    org: *org,
                    policy: *id,
                }],
            )))
        }
        Manage::CreateKey { org, actor, key } => {
            directory
                .org(*org)
                .ok_or(Refusal::NotFound("organization"))?;
            if let Some(workflow) = key.workflow {
                directory
                    .workflow(*org, workflow)
                    .ok_or(Refusal::NotFound("workflow"))?;
            }
            bounded("name", &key.name, limits::POLICY_NAME_BYTES)?;
            budget("budget_cents", key.budget)?;
            if key.expires_at.is_some_and(|at| at <= now) {
                return Err(invalid(
                    "expires_at",
                    "expires_at must lie ahead, or be null".to_owned(),
                ));
            }
            Ok(then(record(
                *actor,
                vec![Change::KeyAdded(key_record(*org, key, now))],
            )))
        }
        Manage::RevokeKey { org, actor, id } => {
            let key = directory.key(*id).filter(|key| key.org == *org);
            key.ok_or(Refusal::NotFound("key"))?;
            Ok(then(record(*actor, vec![Change::KeyRevoked { key: *id }])))
        }
    }
}

/// What to show of a change that was just folded.
#[must_use]
pub fn shown(directory: &Directory, manage: &Manage) -> Managed {
    let policy = |org: &OrgId, id: &PolicyId| {
        directory
            .org(*org)
            .and_then(|org| org.rules.get(*id))
            .map(|p| Managed::Policy(Arc::clone(p)))
    };
    let found = match manage {
        Manage::Register(_) | Manage::OpenSession(_) | Manage::DeletePolicy { .. } => None,
        Manage::CreateWorkflow { id, .. } | Manage::PatchWorkflow { id, .. } => {
            Some(Managed::Workflow(*id))
        }
        Manage::PatchOrg { org, .. } => {
            directory.org(*org).map(|org| Managed::Org(Arc::clone(org)))
        }
        Manage::CreatePolicy { org, id, .. } | Manage::PatchPolicy { org, id, .. } => {
            policy(org, id)
        }
        Manage::CreateKey {
            key: NewKey { id, .. },
            ..
        }
        | Manage::RevokeKey { id, .. } => {
            directory.key(*id).map(|key| Managed::Key(Arc::clone(key)))
        }
    };
    found.unwrap_or(Managed::Done)
}

fn registration(now: Millis, new: &Registration) -> Vec<Change<'_>> {
    vec![
        Change::UserAdded(User {
            id: new.user,
            email: &new.email,
            name: &new.name,
            password_hash: &new.password_hash,
            created_at: now,
        }),
        Change::OrgAdded(Org {
            id: new.org,
            name: &new.org_name,
            plan: &new.plan,
            budget: None,
            composition: Composition::default(),
            created_at: now,
        }),
        Change::MemberAdded(Member {
            org: new.org,
            user: new.user,
            role: Role::Owner,
        }),
        Change::WorkflowAdded(Workflow {
            id: new.workflow,
            org: new.org,
            name: &new.workflow_name,
            external_id: None,
            budget: None,
            max_per_call: None,
            created_at: now,
            updated_at: now,
        }),
        Change::KeyAdded(key_record(new.org, &new.key, now)),
        Change::SessionAdded(new.session.clone()),
    ]
}

fn check_workflow(
    directory: &Directory,
    org: OrgId,
    id: Option<WorkflowId>,
    settings: &WorkflowSettings,
) -> Result<(), Refusal> {
    directory
        .org(org)
        .ok_or(Refusal::NotFound("organization"))?;
    bounded("name", &settings.name, limits::WORKFLOW_NAME_BYTES)?;
    external_id(settings.external_id.as_deref())?;
    budget("budget_cents", settings.budget)?;
    budget("max_per_call_cents", settings.max_per_call)?;
    if let Some(text) = &settings.external_id
        && let Some(other) = directory.resolve(org, text)
        && Some(other) != id
    {
        return Err(Refusal::Conflict {
            code: "external_id_taken",
            message: format!("the workflow {other} is or was known as {text}"),
        });
    }
    Ok(())
}

fn patched(before: &WorkflowEntry, patch: &WorkflowPatch) -> WorkflowSettings {
    WorkflowSettings {
        name: patch
            .name
            .clone()
            .unwrap_or_else(|| before.name.to_string()),
        external_id: patch
            .external_id
            .clone()
            .unwrap_or_else(|| before.external_id.as_deref().map(str::to_owned)),
        budget: patch.budget.unwrap_or(before.budget),
        max_per_call: patch.max_per_call.unwrap_or(before.max_per_call),
    }
}

fn workflow_record(
    org: OrgId,
    id: WorkflowId,
    settings: &WorkflowSettings,
    created_at: Millis,
    updated_at: Millis,
) -> Workflow<'_> {
    Workflow {
        id,
        org,
        name: &settings.name,
        external_id: settings.external_id.as_deref(),
        budget: settings.budget,
        max_per_call: settings.max_per_call,
        created_at,
        updated_at,
    }
}

fn key_record(org: OrgId, key: &NewKey, now: Millis) -> Key<'_> {
    Key {
        id: key.id,
        org,
        workflow: key.workflow,
        name: &key.name,
        key_hash: key.key_hash,
        prefix: &key.prefix,
        suffix: &key.suffix,
        sealed_secret: &key.sealed_secret,
        key_version: 1,
        scopes: key.scopes,
        budget: key.budget,
        expires_at: key.expires_at,
        created_at: now,
    }
}

fn check_draft(
    directory: &Directory,
    org: OrgId,
    id: PolicyId,
    draft: &PolicyDraft,
) -> Result<(), Refusal> {
    bounded("name", &draft.name, limits::POLICY_NAME_BYTES)?;
    check_patterns(directory, org, id, &draft.terms)?;
    match (draft.scope, draft.scope_id) {
        (Scope::Org, None) => {}
        (Scope::Org, Some(_)) => {
            return Err(invalid(
                "scope_id",
                "a policy of the org has no scope_id".to_owned(),
            ));
        }
        (Scope::Workflow | Scope::ApiKey, None) => {
            return Err(invalid(
                "scope_id",
                "scope_id must name the workflow or key".to_owned(),
            ));
        }
        (Scope::Workflow, Some(id)) => {
            directory
                .workflow(org, WorkflowId(id))
                .ok_or(Refusal::NotFound("workflow"))?;
        }
        (Scope::ApiKey, Some(id)) => {
            directory
                .key(KeyId(id))
                .filter(|key| key.org == org)
                .ok_or(Refusal::NotFound("key"))?;
        }
    }
    if draft.action == PolicyAction::RequireApproval {
        return Err(invalid(
            "action",
            "require_approval is not available yet; use block".to_owned(),
        ));
    }
    let terms = &draft.terms;
    budget("config.budget_cents", terms.budget)?;
    let missing = |field, what: &str| Err(invalid(field, what.to_owned()));
    match draft.policy_type {
        PolicyType::ToolBlock if terms.tools.is_empty() => missing(
            "config.tool_pattern",
            "config.tool_pattern must list at least one pattern",
        ),
        PolicyType::BudgetLimit if terms.budget.is_none() => missing(
            "config.budget_cents",
            "config.budget_cents is needed: a number of cents, 0 for none at all",
        ),
        PolicyType::RateLimit => match terms.calls_per_minute {
            Some(1..=limits::CALLS_PER_MINUTE) => Ok(()),
            _ => Err(invalid(
                "config.max_calls_per_minute",
                format!(
                    "config.max_calls_per_minute must be 1 to {}",
                    limits::CALLS_PER_MINUTE
                ),
            )),
        },
        PolicyType::LoopDetection => missing(
            "policy_type",
            "LoopDetection is not available yet; use RateLimit",
        ),
        PolicyType::ToolBlock | PolicyType::BudgetLimit => Ok(()),
    }
}

fn check_patterns(
    directory: &Directory,
    org: OrgId,
    id: PolicyId,
    terms: &Terms,
) -> Result<(), Refusal> {
    let texts = || terms.tools.iter().chain(&terms.models);
    let patterns: usize = texts().map(|text| text.split('|').count()).sum();
    let bytes: usize = texts().map(String::len).sum();
    let too_many = |what: String| Refusal::Invalid {
        code: "invalid_pattern_list",
        field: "config",
        message: what,
    };
    if patterns > limits::PATTERNS || bytes > limits::POLICY_PATTERN_BYTES {
        return Err(too_many(format!(
            "the patterns of a policy may be {} in number, alternatives counted singly, and {} bytes \
             in all; these are {patterns} with {bytes} bytes",
            limits::PATTERNS,
            limits::POLICY_PATTERN_BYTES
        )));
    }
    let others = directory.org(org).map_or(0, |org| {
        let all = org.rules.all().iter().filter(|policy| policy.id != id);
        let globs = all.flat_map(|policy| policy.tools.iter().chain(&policy.models));
        globs.map(crate::glob::Glob::alternatives).sum()
    });
    if others + patterns > limits::ORG_PATTERNS {
        return Err(too_many(format!(
            "all policies of an organization may have {} patterns; there are {others} already",
            limits::ORG_PATTERNS
        )));
    }
    Ok(())
}

fn patched_policy(before: &Compiled, patch: &PolicyPatch) -> PolicyDraft {
    let kept = || Terms {
        tools: before
            .tools
            .iter()
            .map(|glob| glob.text().to_owned())
            .collect(),
        models: before
            .models
            .iter()
            .map(|glob| glob.text().to_owned())
            .collect(),
        min_cost: before.min_cost,
        budget: before.budget,
        calls_per_minute: before.calls_per_minute,
    };
    PolicyDraft {
        name: patch
            .name
            .clone()
            .unwrap_or_else(|| before.name.to_string()),
        policy_type: before.policy_type,
        scope: before.scope,
        scope_id: before.scope_id,
        priority: patch.priority.unwrap_or(before.priority),
        action: patch.action.unwrap_or(before.action),
        terms: patch.terms.clone().unwrap_or_else(kept),
        is_active: patch.is_active.unwrap_or(before.is_active),
    }
}

fn policy_record(
    org: OrgId,
    id: PolicyId,
    draft: &PolicyDraft,
    version: u64,
    created_at: Millis,
    updated_at: Millis,
) -> Policy<'_> {
    Policy {
        id,
        org,
        name: &draft.name,
        policy_type: draft.policy_type,
        scope: draft.scope,
        scope_id: draft.scope_id,
        priority: draft.priority,
        action: draft.action,
        tools: draft.terms.tools.iter().map(String::as_str).collect(),
        models: draft.terms.models.iter().map(String::as_str).collect(),
        min_cost: draft.terms.min_cost,
        budget: draft.terms.budget,
        calls_per_minute: draft.terms.calls_per_minute,
        loop_threshold: None,
        loop_window_secs: None,
        is_active: draft.is_active,
        version,
        created_at,
        updated_at,
    }
}
