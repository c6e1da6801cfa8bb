//! The operator's dealings with people and further organizations.

use std::path::Path;

use serde_json::json;

use super::stage::Stage;
use crate::client::Connection;
use crate::error::Result;
use crate::identity::Dice;
use crate::people::{accept, mailed_token, newest_token};
use crate::record::Standing;

/// Bounds on what accumulates over the rounds: one page of each list.
const MOST_INVITED: usize = 40;
const MOST_MEMBERS: usize = 40;
const MOST_ORGS: usize = 40;
const ROLES: [&str; 4] = ["viewer", "operator", "admin", "owner"];

pub(super) async fn change(
    connection: &mut Connection,
    stage: &Stage,
    data_dir: &Path,
    dice: &mut Dice,
) -> Result<()> {
    match dice.between(1, 10) {
        1..=3 => invite(connection, stage, dice).await,
        4..=5 => join(connection, stage, data_dir).await,
        6 if dice.chance(50) => uninvite(connection, stage, dice).await,
        6 => resend(connection, stage, data_dir, dice).await,
        7 => set_role(connection, stage, dice).await,
        8 => remove(connection, stage, dice).await,
        9 => found(connection, stage, dice).await,
        _ => rename_or_delete(connection, stage, dice).await,
    }
}

/// A random one of those with this standing, as (address, id).
fn any(stage: &Stage, dice: &mut Dice, standing: Standing) -> Option<(String, String)> {
    let guests = stage.record.lock().guests_at(standing);
    guests.get(dice.index(guests.len())).cloned()
}

fn any_role(dice: &mut Dice) -> &'static str {
    ROLES
        .get(dice.index(ROLES.len()))
        .copied()
        .unwrap_or("viewer")
}

async fn invite(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    if stage.record.lock().guests_at(Standing::Invited).len() >= MOST_INVITED {
        return Ok(());
    }
    let email = format!("guest-{}@example.com", dice.uuid());
    let role = any_role(dice);
    stage.record.lock().invite_sent(&email, role);
    let id = stage.account.invite(connection, &email, role).await?;
    stage.record.lock().standing_acknowledged(&email, &id, None);
    Ok(())
}

/// Whoever was mailed to last joins by the link. Mails do not outlive a power cut.
async fn join(connection: &mut Connection, stage: &Stage, data_dir: &Path) -> Result<()> {
    if stage.record.lock().guests_at(Standing::Member).len() >= MOST_MEMBERS {
        return Ok(());
    }
    let invited = stage.record.lock().guests_at(Standing::Invited);
    let is_invited = |to: &str| invited.iter().any(|(email, _)| email == to);
    let Some((email, token)) = newest_token(data_dir, is_invited)? else {
        return Ok(());
    };
    if stage.record.lock().is_link_over(&email, &token) {
        return Ok(());
    }
    stage.record.lock().standing_sent(&email, Standing::Member);
    let joined = accept(connection, &token, &email).await?;
    let mut record = stage.record.lock();
    record.standing_acknowledged(&email, &joined.id, Some(&joined.session));
    Ok(())
}

async fn uninvite(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((email, id)) = any(stage, dice, Standing::Invited) else {
        return Ok(());
    };
    stage.record.lock().standing_sent(&email, Standing::Gone);
    let path = stage.account.path(&format!("/invites/{id}"));
    let gone = connection.delete(&path, stage.account.operator()).await?;
    gone.expect(&[204])?;
    stage.record.lock().standing_acknowledged(&email, &id, None);
    Ok(())
}

/// Mails another link, with which the one before leads nowhere.
async fn resend(
    connection: &mut Connection,
    stage: &Stage,
    data_dir: &Path,
    dice: &mut Dice,
) -> Result<()> {
    let Some((email, id)) = any(stage, dice, Standing::Invited) else {
        return Ok(());
    };
    // Mails do not outlive a power cut.
    let Some((_, link)) = newest_token(data_dir, |to| to == email)? else {
        return Ok(());
    };
    stage.record.lock().resend_sent(&email, &link);
    let path = stage.account.path(&format!("/invites/{id}/resend"));
    let operator = stage.account.operator();
    let sent = connection.post(&path, operator, &json!({})).await?;
    // An address gets a few mails at a time.
    let sent = sent.expect(&[200, 429])?.status == 200;
    stage.record.lock().resend_answered(&email, sent);
    if sent {
        // Until it is there, the newest mail is the one before.
        let _newest = mailed_token(data_dir, &email, Some(&link)).await;
    }
    Ok(())
}

async fn set_role(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((email, id)) = any(stage, dice, Standing::Member) else {
        return Ok(());
    };
    let role = any_role(dice);
    stage.record.lock().role_sent(&email, role);
    let path = stage.account.path(&format!("/members/{id}"));
    let body = json!({ "role": role });
    let changed = connection.patch(&path, stage.account.operator(), &body);
    changed.await?.expect(&[200])?;
    stage.record.lock().role_acknowledged(&email);
    Ok(())
}

async fn remove(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    let Some((email, id)) = any(stage, dice, Standing::Member) else {
        return Ok(());
    };
    stage.record.lock().standing_sent(&email, Standing::Gone);
    let path = stage.account.path(&format!("/members/{id}"));
    let gone = connection.delete(&path, stage.account.operator()).await?;
    gone.expect(&[204])?;
    stage.record.lock().standing_acknowledged(&email, &id, None);
    Ok(())
}

async fn found(connection: &mut Connection, stage: &Stage, dice: &mut Dice) -> Result<()> {
    if stage.record.lock().orgs.len() >= MOST_ORGS {
        return Ok(());
    }
    let name = format!("org {}", dice.uuid());
    let body = json!({ "name": name });
    let made = connection.post("/api/v1/orgs", stage.account.operator(), &body);
    let id = made.await?.expect(&[201])?.required("id")?;
    stage.record.lock().org_created(&id, &name);
    Ok(())
}

async fn rename_or_delete(
    connection: &mut Connection,
    stage: &Stage,
    dice: &mut Dice,
) -> Result<()> {
    let ids: Vec<String> = {
        let record = stage.record.lock();
        let there = record.orgs.iter().filter(|(_, org)| org.name.is_some());
        there.map(|(id, _)| id.clone()).collect()
    };
    let Some(id) = ids.get(dice.index(ids.len())) else {
        return Ok(());
    };
    let name = dice.chance(50).then(|| format!("renamed {}", dice.uuid()));
    stage.record.lock().org_sent(id, name.as_deref());
    let path = format!("/api/v1/orgs/{id}");
    let operator = stage.account.operator();
    match &name {
        Some(name) => {
            let body = json!({ "name": name });
            let answer = connection.patch(&path, operator, &body).await?;
            answer.expect(&[200])?;
        }
        None => {
            let answer = connection.delete(&path, operator).await?;
            answer.expect(&[204])?;
        }
    }
    stage.record.lock().org_acknowledged(id);
    Ok(())
}
