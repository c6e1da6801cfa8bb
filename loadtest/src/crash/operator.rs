//! The operator of the crash driver: one connection of management changes, one after another, until a request stays
//! without an answer.

use std::path::PathBuf;

use serde_json::json;

use super::people;
use super::stage::{Kind, Stage};
use crate::client::Connection;
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::record::{Revocation, TEMPLATE, WorkflowRecord};

/// Bounds on what accumulates over the rounds: far below the gateway's own limits, and small enough that the status
/// page of late rounds costs about what it costs in early ones.
const MOST_WORKFLOWS: usize = 400;
const MOST_LIVE_KEYS: usize = 200;
const MOST_POLICIES: usize = 100;

pub(super) async fn work(
    mut connection: Connection,
    stage: Stage,
    data_dir: PathBuf,
    mut dice: Dice,
) {
    loop {
        let done = match dice.between(1, 100) {
            1..=28 => switch(&mut connection, &stage).await,
            29..=38 => move_cap(&mut connection, &stage, &mut dice).await,
            39..=49 => create_workflow(&mut connection, &stage, &mut dice).await,
            50..=56 => kill_one(&mut connection, &stage, &mut dice).await,
            57..=63 => mint_key(&mut connection, &stage, &mut dice).await,
            64..=67 => create_policy(&mut connection, &stage, &mut dice).await,
            68..=69 => toggle_policy(&mut connection, &stage, &mut dice).await,
            70..=71 => remove_policy(&mut connection, &stage, &mut dice).await,
            72..=73 => switch_template(&mut connection, &stage).await,
            74..=94 => people::change(&mut connection, &stage, &data_dir, &mut dice).await,
            _ => revoke_key(&mut connection, &stage, &mut dice).await,
        };
        match done {
            Ok(()) => {}
            Err(Error::NoAnswer { .. }) => return,
            Err(error) => return stage.complain(error.to_string()),
        }
    }
}

/// Pauses what runs, resumes what is paused.
async fn switch(connection: &mut Connection, stage: &Stage) -> Result<()> {
    let Some(place) = stage.place(Kind::Switched) else {
        return Ok(());
    };
    let is_paused = stage
        .record
        .lock()
        .workflows
        .get(&place.workflow)
        .is_some_and(|known| known.state == "Paused");
    let (verb, state) = if is_paused {
        ("resume", "Normal")
    } else {
        ("pause", "Paused")
    };
    change_state(connection, stage, &place.workflow, verb, state).await
}

async fn change_state(
    connection: &mut Connection,
    stage: &Stage,
    workflow: &str,
    verb: &str,
    state: &str,
) -> Result<()> {
    stage.record.lock().state_sent(workflow, state);
    let view = stage
        .account
        .change_state(connection, workflow, verb)
        .await?;
    if view.state != state {
        stage.complain(format!(
            "{verb} of workflow {workflow} answered state {}",
            view.state
        ));
    }
    let complaint = stage
        .record
        .lock()
        .state_seen(workflow, &view.state, view.version);
    complaint
        .into_iter()
        .for_each(|complaint| stage.complain(complaint));
    Ok(())
}

async fn move_cap(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some(place) = stage.place(Kind::Patched) else {
        return Ok(());
    };
    let cents = i64::try_from(dice.between(50, 400)).ok();
    stage.record.lock().budget_sent(&place.workflow, cents);
    stage
        .account
        .set_workflow_budget(connection, &place.workflow, cents)
        .await?;
    stage.record.lock().budget_seen(&place.workflow, cents);
    Ok(())
}

async fn create_workflow(
    connection: &mut Connection,
    stage: &Stage,
    dice: &mut Dice,
) -> Result<()> {
    if stage.record.lock().workflows.len() >= MOST_WORKFLOWS {
        return Ok(());
    }
    let cents = if dice.chance(50) {
        i64::try_from(dice.between(0, 1_000)).ok()
    } else {
        None
    };
    let id = stage
        .account
        .create_workflow(connection, &format!("made {}", dice.uuid()), cents)
        .await?;
    stage
        .record
        .lock()
        .workflow_created(&id, WorkflowRecord::created(cents, None));
    Ok(())
}

/// Kills one of the workflows made earlier; none of them has callers.
async fn kill_one(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let alive: Vec<String> = {
        let record = stage.record.lock();
        let made = record
            .workflows
            .iter()
            .filter(|(_, known)| known.key.is_none() && known.state == "Normal");
        made.map(|(id, _)| id.clone()).collect()
    };
    match alive.get(dice.index(alive.len())) {
        Some(id) => change_state(connection, stage, id, "kill", "Killed").await,
        None => Ok(()),
    }
}

async fn mint_key(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    if live_keys(stage).len() >= MOST_LIVE_KEYS {
        return Ok(());
    }
    let Some(place) = stage.any_place(dice, |kind| kind == Kind::Open) else {
        return Ok(());
    };
    let minted = stage
        .account
        .create_key(connection, Some(&place.workflow), None)
        .await?;
    stage.record.lock().key_minted(&minted.id, minted.key);
    Ok(())
}

async fn revoke_key(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let live = live_keys(stage);
    let Some(id) = live.get(dice.index(live.len())) else {
        return Ok(());
    };
    stage.record.lock().revocation_sent(id);
    let path = stage.account.path(&format!("/api-keys/{id}"));
    let answer = connection.delete(&path, stage.account.operator()).await?;
    if answer.status == 204 {
        stage.record.lock().revocation_acknowledged(id);
    } else {
        stage.complain(format!(
            "revoking a key answered {}: {}",
            answer.in_short(),
            json!(answer.body)
        ));
    }
    Ok(())
}

/// Keys whose revocation nobody asked for.
fn live_keys(stage: &Stage) -> Vec<String> {
    let record = stage.record.lock();
    let keys = record
        .keys
        .iter()
        .filter(|(_, key)| key.revocation == Revocation::None);
    keys.map(|(id, _)| id.clone()).collect()
}

/// Policies whose removal nobody asked for.
fn policies_there(stage: &Stage) -> Vec<String> {
    let record = stage.record.lock();
    let policies = record
        .policies
        .iter()
        .filter(|(_, policy)| policy.removal == Revocation::None);
    policies.map(|(id, _)| id.clone()).collect()
}

/// A workflow that has no callers: rules about it change nothing else.
fn quiet_workflow(stage: &Stage) -> Option<String> {
    let record = stage.record.lock();
    let mut workflows = record.workflows.iter();
    let made = workflows.find(|(_, known)| known.key.is_none());
    made.map(|(id, _)| id.clone())
}

/// A tool rule of a workflow that has no callers, so that it changes nothing else.
async fn create_policy(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    if policies_there(stage).len() >= MOST_POLICIES {
        return Ok(());
    }
    let Some(workflow) = quiet_workflow(stage) else {
        return Ok(());
    };
    let body = json!({
        "name": format!("rule {}", dice.uuid()),
        "policy_type": "ToolBlock",
        "scope": "Workflow",
        "scope_id": workflow,
        "action": "block",
        "config": {"tool_pattern": ["db.*"]},
        "is_active": true,
    });
    let path = stage.account.path("/policies");
    let made = connection
        .post(&path, stage.account.operator(), &body)
        .await?
        .expect(&[201])?;
    stage.record.lock().policy_created(&made.required("id")?);
    Ok(())
}

async fn toggle_policy(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let there = policies_there(stage);
    let Some(id) = there.get(dice.index(there.len())) else {
        return Ok(());
    };
    let active = dice.chance(50);
    stage.record.lock().toggle_sent(id, active);
    let path = stage.account.path(&format!("/policies/{id}/toggle"));
    let body = json!({ "is_active": active });
    let toggled = connection.post(&path, stage.account.operator(), &body);
    toggled.await?.expect(&[200])?;
    stage.record.lock().toggle_acknowledged(id);
    Ok(())
}

/// Enables the template if it is not, and disables it if it is.
async fn switch_template(connection: &mut Connection, stage: &Stage) -> Result<()> {
    let Some(workflow) = quiet_workflow(stage) else {
        return Ok(());
    };
    let enabled = !stage.record.lock().template.acknowledged;
    stage.record.lock().template.in_doubt = Some(enabled);
    let path = format!("/policies/templates/{TEMPLATE}");
    let operator = stage.account.operator();
    if enabled {
        let path = stage.account.path(&format!("{path}/enable"));
        let body = json!({ "workflow_id": workflow });
        let answer = connection.post(&path, operator, &body).await?;
        answer.expect(&[200, 201])?;
    } else {
        let path = stage.account.path(&path);
        let answer = connection.delete(&path, operator).await?;
        answer.expect(&[204])?;
    }
    stage.record.lock().template_acknowledged();
    Ok(())
}

async fn remove_policy(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let there = policies_there(stage);
    let Some(id) = there.get(dice.index(there.len())) else {
        return Ok(());
    };
    stage.record.lock().removal_sent(id);
    let path = stage.account.path(&format!("/policies/{id}"));
    connection
        .delete(&path, stage.account.operator())
        .await?
        .expect(&[200, 204])?;
    stage.record.lock().removal_acknowledged(id);
    Ok(())
}
