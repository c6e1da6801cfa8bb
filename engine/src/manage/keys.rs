//! API keys: minting, rotation, the end.

use super::check::{bounded, budget, invalid, within};
use super::{Refusal, check};
use crate::directory::{Directory, KeyEntry, OrgEntry};
use crate::limits;
use crate::plan::Plan;
use crate::usage;
use persist::record::{Change, Key, KeyRotation, PeriodKind, Scopes};
use persist::{KeyId, Millis, Nanos, OrgId, WorkflowId};

/// A key to be made.
#[derive(Debug)]
pub struct NewKey {
    /// Id.
    pub id: KeyId,
    /// The workflow it is bound to.
    pub workflow: Option<WorkflowId>,
    /// Name.
    pub name: String,
    /// Its text and secret.
    pub texts: KeyTexts,
    /// What it may do.
    pub scopes: Scopes,
    /// Cap.
    pub budget: Option<Nanos>,
    /// The period of that cap.
    pub period: PeriodKind,
    /// Calls per minute.
    pub calls_per_minute: Option<u32>,
    /// Until when it works.
    pub expires_at: Option<Millis>,
}

/// A key's text and secret, as they are stored.
#[derive(Debug, Default)]
pub struct KeyTexts {
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// First characters.
    pub prefix: String,
    /// Last characters.
    pub suffix: String,
    /// Signing secret, sealed.
    pub sealed_secret: Vec<u8>,
}

/// The record of a new key.
pub(super) fn record(org: OrgId, key: &NewKey, now: Millis) -> Key<'_> {
    Key {
        id: key.id,
        org,
        workflow: key.workflow,
        name: &key.name,
        key_hash: key.texts.key_hash,
        prefix: &key.texts.prefix,
        suffix: &key.texts.suffix,
        sealed_secret: &key.texts.sealed_secret,
        key_version: 1,
        scopes: key.scopes,
        budget: key.budget,
        period: key.period,
        calls_per_minute: key.calls_per_minute,
        expires_at: key.expires_at,
        created_at: now,
    }
}

pub(super) fn create<'a>(
    directory: &Directory,
    now: Millis,
    org: &OrgEntry,
    plan: &Plan,
    key: &'a NewKey,
) -> Result<Change<'a>, Refusal> {
    if let Some(workflow) = key.workflow {
        let found = directory.workflow(org.id, workflow);
        found.ok_or(Refusal::NotFound("workflow"))?;
    }
    bounded("name", &key.name, limits::POLICY_NAME_BYTES)?;
    budget("budget_cents", key.budget)?;
    within(
        "max_calls_per_minute",
        key.calls_per_minute,
        1..=limits::CALLS_PER_MINUTE,
    )?;
    if key.expires_at.is_some_and(|at| at <= now) {
        return Err(invalid(
            "expires_at",
            "expires_at must lie ahead, or be null".to_owned(),
        ));
    }
    check::room(
        "api_key_limit_reached",
        "api_keys",
        usage::api_keys(directory, org),
        plan.limits.api_keys,
    )?;
    Ok(Change::KeyAdded(record(org.id, key, now)))
}

fn find(directory: &Directory, org: OrgId, id: KeyId) -> Result<&KeyEntry, Refusal> {
    let key = directory.key(id).filter(|key| key.org == org);
    key.map(AsRef::as_ref).ok_or(Refusal::NotFound("key"))
}

pub(super) fn rotate<'a>(
    directory: &Directory,
    org: OrgId,
    id: KeyId,
    texts: &'a KeyTexts,
    previous_until: Millis,
) -> Result<Change<'a>, Refusal> {
    let key = find(directory, org, id)?;
    if key.revoked_at.is_some() {
        return Err(Refusal::WrongState(
            "this key was revoked; mint another".to_owned(),
        ));
    }
    Ok(Change::KeyRotated(KeyRotation {
        key: id,
        key_hash: texts.key_hash,
        prefix: &texts.prefix,
        suffix: &texts.suffix,
        sealed_secret: &texts.sealed_secret,
        key_version: key.key_version + 1,
        previous_until,
    }))
}

pub(super) fn revoke(
    directory: &Directory,
    org: OrgId,
    id: KeyId,
) -> Result<Change<'static>, Refusal> {
    find(directory, org, id)?;
    Ok(Change::KeyRevoked { key: id })
}
