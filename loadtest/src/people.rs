//! People in an account's organization: invited over HTTP, joined by the link in the mail, which a gateway without an
//! SMTP server leaves in its outbox.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::account::{Account, PASSWORD};
use crate::client::{Caller, Connection};
use crate::error::{Error, Result};

/// How long a mail may take to the outbox.
const MAIL_WITHIN: Duration = Duration::from_secs(60);

/// Somebody who joined.
#[derive(Debug, Clone)]
pub struct Member {
    /// Their id.
    pub id: String,
    /// Their address.
    pub email: String,
    /// Their session token.
    pub session: String,
}

impl Account {
    /// Invites somebody; the invitation's id.
    pub async fn invite(
        &self,
        connection: &mut Connection,
        email: &str,
        role: &str,
    ) -> Result<String> {
        let body = json!({"email": email, "role": role});
        let path = self.path("/invites");
        let made = connection.post(&path, self.operator(), &body).await?;
        made.expect(&[201])?.required("id")
    }

    /// Invites somebody new, who joins by the link in the outbox of `data_dir`.
    pub async fn join(
        &self,
        connection: &mut Connection,
        data_dir: &Path,
        email: &str,
        role: &str,
    ) -> Result<Member> {
        self.invite(connection, email, role).await?;
        let token = mailed_token(data_dir, email, None).await?;
        accept(connection, &token, email).await
    }
}

/// Somebody new accepts an invitation.
pub async fn accept(connection: &mut Connection, token: &str, email: &str) -> Result<Member> {
    let path = format!("/api/v1/invites/{token}/accept");
    let body = json!({ "password": PASSWORD });
    let joined = connection.post(&path, Caller::Anonymous, &body).await?;
    let joined = joined.expect(&[201])?;
    Ok(Member {
        id: joined.required("user_id")?,
        email: email.to_owned(),
        session: joined.required("session_token")?,
    })
}

/// Waits for the mail of an invitation in an outbox; the token in the newest one to this address, which is not the
/// `last` one there was.
pub async fn mailed_token(data_dir: &Path, email: &str, last: Option<&str>) -> Result<String> {
    let deadline = Instant::now() + MAIL_WITHIN;
    loop {
        let newest = newest_token(data_dir, |to| to == email)?.map(|(_, token)| token);
        if let Some(token) = newest.filter(|token| Some(token.as_str()) != last) {
            return Ok(token);
        }
        if Instant::now() > deadline {
            return Err(Error::Usage(format!(
                "no mail to {email} in the outbox of {}",
                data_dir.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The newest mail with a link to one of these addresses, as (address, token).
pub fn newest_token(
    data_dir: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Option<(String, String)>> {
    // It is made for the first mail.
    let Ok(entries) = fs::read_dir(data_dir.join("outbox")) else {
        return Ok(None);
    };
    let mut mails: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "eml"))
        .collect();
    // Their names begin with the time they were made.
    mails.sort();
    for path in mails.iter().rev() {
        let failed = Error::io(format!("reading {}", path.display()));
        let mail = fs::read_to_string(path).map_err(failed)?;
        let mail = mail.replace("\r\n", "\n");
        let to = mail.lines().find_map(|line| line.strip_prefix("To: "));
        if let Some(to) = to.filter(|to| wanted(to))
            && let Some(token) = token(&mail)
        {
            return Ok(Some((to.to_owned(), token)));
        }
    }
    Ok(None)
}

/// The token of the link in a mail, which may be in quoted-printable.
fn token(mail: &str) -> Option<String> {
    let mail = mail.replace("=\n", "").replace("=3D", "=");
    let rest = mail.split("#token=").nth(1)?;
    rest.split_whitespace().next().map(str::to_owned)
}
