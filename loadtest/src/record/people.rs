//! People and further organizations in the record: who was invited, who joined and as what, who is gone; and the
//! comparison with what a gateway shows of them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Record, SharedRecord};
use crate::account::Account;
use crate::client::{Caller, Connection};
use crate::error::Result;
use crate::report::Violations;

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is an open invitation.
    Invited,
    /// They belong to the organization.
    Member,
    /// Neither.
    Gone,
}

/// Somebody who was invited, by address.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The last acknowledged standing.
    pub standing: Standing,
    /// One that was asked for without an answer.
    pub in_doubt: Option<Standing>,
    /// The last acknowledged role.
    pub role: String,
    /// One that was asked for without an answer.
    pub role_in_doubt: Option<String>,
    /// The id of the invitation, or of the person.
    pub id: String,
    /// A session of theirs: it must work as long as they belong, and never afterwards.
    pub session: Option<String>,
    /// The links that were mailed before the last one: they lead nowhere.
    pub links_over: Vec<String>,
    /// One that may be over: another was asked for without an answer.
    pub link_in_doubt: Option<String>,
    /// Still to be checked after the next crash.
    pub fresh: bool,
}

/// A further organization, by id.
#[derive(Debug, Clone)]
pub struct OrgRecord {
    /// The last acknowledged name; none when it was acknowledged as deleted.
    pub name: Option<String>,
    /// What was asked for without an answer.
    pub in_doubt: Option<Option<String>>,
}

impl Record {
    /// An invitation is about to be sent.
    pub fn invite_sent(&mut self, email: &str, role: &str) {
        let guest = Guest {
            standing: Standing::Gone,
            in_doubt: Some(Standing::Invited),
            role: role.to_owned(),
            role_in_doubt: None,
            id: String::new(),
            session: None,
            links_over: Vec::new(),
            link_in_doubt: None,
            fresh: true,
        };
        self.guests.insert(email.to_owned(), guest);
    }

    /// Another standing is about to be asked for.
    pub fn standing_sent(&mut self, email: &str, standing: Standing) {
        if let Some(guest) = self.guests.get_mut(email) {
            guest.in_doubt = Some(standing);
            guest.fresh = true;
        }
    }

    /// The standing that was asked for was acknowledged.
    pub fn standing_acknowledged(&mut self, email: &str, id: &str, session: Option<&str>) {
        let Some(guest) = self.guests.get_mut(email) else {
            return;
        };
        if let Some(standing) = guest.in_doubt.take() {
            guest.standing = standing;
        }
        id.clone_into(&mut guest.id);
        if let Some(session) = session {
            guest.session = Some(session.to_owned());
            self.counts.joined += 1;
        }
        self.counts.people += 1;
    }

    /// Another link is about to be asked for.
    pub fn resend_sent(&mut self, email: &str, link: &str) {
        if let Some(guest) = self.guests.get_mut(email) {
            guest.link_in_doubt = Some(link.to_owned());
            guest.fresh = true;
        }
    }

    /// It was acknowledged, and the one before is over; or it was refused, and that one works on.
    pub fn resend_answered(&mut self, email: &str, sent: bool) {
        if let Some(guest) = self.guests.get_mut(email) {
            let before = guest.link_in_doubt.take();
            guest.links_over.extend(before.filter(|_| sent));
            self.counts.people += u64::from(sent);
        }
    }

    /// Is this link over, or may it be?
    pub fn is_link_over(&self, email: &str, link: &str) -> bool {
        self.guests.get(email).is_some_and(|guest| {
            let mut over = guest.links_over.iter().chain(&guest.link_in_doubt);
            over.any(|known| known == link)
        })
    }

    /// Another role is about to be asked for.
    pub fn role_sent(&mut self, email: &str, role: &str) {
        if let Some(guest) = self.guests.get_mut(email) {
            guest.role_in_doubt = Some(role.to_owned());
            guest.fresh = true;
        }
    }

    /// That role was acknowledged.
    pub fn role_acknowledged(&mut self, email: &str) {
        if let Some(guest) = self.guests.get_mut(email)
            && let Some(role) = guest.role_in_doubt.take()
        {
            guest.role = role;
            self.counts.people += 1;
        }
    }

    /// An organization was acknowledged as made.
    pub fn org_created(&mut self, id: &str, name: &str) {
        let org = OrgRecord {
            name: Some(name.to_owned()),
            in_doubt: None,
        };
        self.orgs.insert(id.to_owned(), org);
        self.counts.people += 1;
    }

    /// Another name, or none: its end, is about to be asked for.
    pub fn org_sent(&mut self, id: &str, name: Option<&str>) {
        if let Some(org) = self.orgs.get_mut(id) {
            org.in_doubt = Some(name.map(str::to_owned));
        }
    }

    /// What was asked for an organization was acknowledged.
    pub fn org_acknowledged(&mut self, id: &str) {
        if let Some(org) = self.orgs.get_mut(id)
            && let Some(name) = org.in_doubt.take()
        {
            org.name = name;
            self.counts.people += 1;
        }
    }

    /// Those with a standing that nobody has asked to change, as (address, id).
    pub fn guests_at(&self, standing: Standing) -> Vec<(String, String)> {
        let settled = self.guests.iter().filter(|(_, guest)| {
            guest.standing == standing && guest.in_doubt.is_none() && guest.role_in_doubt.is_none()
        });
        settled
            .map(|(email, guest)| (email.clone(), guest.id.clone()))
            .collect()
    }
}

/// A row of a list, by one of its fields.
async fn listed(
    connection: &mut Connection,
    account: &Account,
    path: &str,
    by: &str,
) -> Result<BTreeMap<String, Value>> {
    let answer = connection.get(path, account.operator()).await?;
    let mut body = answer.expect(&[200])?.body;
    let rows = body["data"].as_array_mut().map(std::mem::take);
    let rows = rows.unwrap_or_default().into_iter();
    Ok(rows
        .map(|row| (row[by].as_str().unwrap_or_default().to_owned(), row))
        .collect())
}

pub(super) async fn check(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    check_guests(connection, account, record, violations).await?;
    check_sessions(connection, account, record, violations).await?;
    check_orgs(connection, account, record, violations).await
}

/// Everybody stands where they were acknowledged to be, or where it is in doubt; never in two places.
async fn check_guests(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let path = account.path("/members?limit=200");
    let members = listed(connection, account, &path, "email").await?;
    let path = account.path("/invites?limit=200");
    let invites = listed(connection, account, &path, "email").await?;
    let mut record = record.lock();
    for email in members.keys().chain(invites.keys()) {
        let known = record.guests.contains_key(email) || *email == account.email;
        violations.require(known, || format!("nobody has invited {email}"));
    }
    for (email, guest) in &mut record.guests {
        let (member, invite) = (members.get(email), invites.get(email));
        violations.require(member.is_none() || invite.is_none(), || {
            format!("{email} has joined and is still invited")
        });
        let standing = match (member, invite) {
            (Some(_), _) => Standing::Member,
            (None, Some(_)) => Standing::Invited,
            (None, None) => Standing::Gone,
        };
        let fits = standing == guest.standing || Some(standing) == guest.in_doubt;
        violations.require(fits, || {
            format!(
                "{email} is {standing:?}, acknowledged was {:?}, in doubt {:?}",
                guest.standing, guest.in_doubt
            )
        });
        guest.standing = standing;
        guest.in_doubt = None;
        let Some(row) = member.or(invite) else {
            continue;
        };
        let role = row["role"].as_str().unwrap_or_default();
        let fits = role == guest.role || Some(role) == guest.role_in_doubt.as_deref();
        violations.require(fits, || {
            format!(
                "{email} is {role}, acknowledged was {}, in doubt {:?}",
                guest.role, guest.role_in_doubt
            )
        });
        role.clone_into(&mut guest.role);
        guest.role_in_doubt = None;
        row["id"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut guest.id);
    }
    Ok(())
}

/// The session of who belongs works; that of who was removed does not, nor do links before the last one.
async fn check_sessions(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let fresh: Vec<(String, Guest)> = {
        let mut record = record.lock();
        let fresh = record.guests.iter_mut().filter(|(_, guest)| guest.fresh);
        let fresh = fresh.map(|(email, guest)| {
            guest.fresh = false;
            (email.clone(), guest.clone())
        });
        fresh.collect()
    };
    for (email, guest) in fresh {
        for link in &guest.links_over {
            let path = format!("/api/v1/invites/{link}");
            let answer = connection.get(&path, Caller::Anonymous).await?;
            violations.require(answer.status == 404, || {
                let what = answer.in_short();
                format!("a link that was mailed to {email} before the last one is answered {what}")
            });
        }
        let (standing, session) = (guest.standing, guest.session);
        if let Some(session) = session {
            let path = account.path("");
            let answer = connection.get(&path, Caller::Session(&session)).await?;
            let expected = match standing {
                Standing::Member => 200,
                Standing::Invited | Standing::Gone => 401,
            };
            violations.require(answer.status == expected, || {
                let what = answer.in_short();
                format!("the session of {email}, who is {standing:?}, is answered {what}")
            });
        }
        if standing == Standing::Gone {
            record.lock().guests.remove(&email);
        }
    }
    Ok(())
}

async fn check_orgs(
    connection: &mut Connection,
    account: &Account,
    record: &SharedRecord,
    violations: &mut Violations,
) -> Result<()> {
    let path = "/api/v1/orgs?limit=200";
    let shown = listed(connection, account, path, "id").await?;
    let mut record = record.lock();
    record.orgs.retain(|id, org| {
        let name = shown.get(id).and_then(|row| row["name"].as_str());
        let name = name.map(str::to_owned);
        let fits = name == org.name || Some(&name) == org.in_doubt.as_ref();
        violations.require(fits, || {
            format!(
                "organization {id} is {name:?}, acknowledged was {:?}, in doubt {:?}",
                org.name, org.in_doubt
            )
        });
        org.in_doubt = None;
        org.name = name;
        org.name.is_some()
    });
    Ok(())
}
