//! Mail: through an SMTP server where one is set, into a folder of files otherwise. Nobody waits for
//! it: a mail is queued, tried a few times, and given up with a line in the log that names neither
//! the address nor what was in it.

use crate::config::{BadConfig, Config};
use crate::{clock, hash};
use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::{Address, AsyncTransport as _, Message, Tokio1Executor};
use reqwest::Url;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// Mails that may wait.
const QUEUE: usize = 256;
/// Mails that are being sent, or wait to be tried again.
const AT_ONCE: usize = 8;
/// Time for one try.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between tries.
const AGAIN: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];
/// Files kept in the outbox: the oldest go.
const OUTBOX: usize = 1000;

/// Takes mails to be sent.
#[derive(Debug, Clone)]
pub struct Mailer {
    queue: mpsc::Sender<Mail>,
    smtp: bool,
}

struct Mail {
    to: String,
    subject: String,
    text: String,
    sent: oneshot::Sender<bool>,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mail(..)")
    }
}

impl Mailer {
    /// Starts sending. The task ends, with its queue empty, when the last mailer is gone.
    pub fn start(config: &Config) -> Result<(Self, JoinHandle<()>), BadConfig> {
        let (way, from) = Way::of(config)?;
        let smtp = matches!(way, Way::Smtp(_));
        let (queue, mails) = mpsc::channel(QUEUE);
        let sending = tokio::spawn(run(mails, Arc::new(way), from));
        Ok((Self { queue, smtp }, sending))
    }

    /// Queues a mail, or drops it, with a line in the log, if too many wait. Whoever wants to know waits
    /// for whether it went out.
    pub fn send(
        &self,
        to: &str,
        subject: &str,
        text: String,
    ) -> impl Future<Output = bool> + use<> {
        let (sent, fate) = oneshot::channel();
        let mail = Mail {
            to: to.to_owned(),
            subject: subject.to_owned(),
            text,
            sent,
        };
        if self.queue.try_send(mail).is_err() {
            tracing::error!(waiting = QUEUE, "a mail was dropped: too many wait");
        }
        async move { fate.await.unwrap_or(false) }
    }

    /// Does mail leave this machine?
    #[must_use]
    pub const fn is_smtp(&self) -> bool {
        self.smtp
    }
}

/// How mail goes out.
enum Way {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Outbox(PathBuf),
}

/// Why a mail did not go out. Never with the server's words: they repeat the address.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("the address or the text is none that can be mailed")]
    Unmailable,
    #[error("the server refused it for good (status {0})")]
    Refused(String),
    #[error("the server could not take it now (status {0})")]
    Later(String),
    #[error("no answer from the server in time")]
    Silence,
    #[error("no connection to the server, or none it takes")]
    Unconnected,
    #[error("the outbox cannot be written: {0}")]
    Outbox(std::io::Error),
}

impl Unsent {
    const fn is_final(&self) -> bool {
        matches!(self, Self::Unmailable | Self::Refused(_))
    }
}

impl Way {
    fn of(config: &Config) -> Result<(Self, Mailbox), BadConfig> {
        let from = match &config.mail_from {
            Some(from) => from.parse().map_err(|_| BadConfig::MailFrom)?,
            None if config.smtp_url.is_some() => return Err(BadConfig::MailFrom),
            None => "NullRun <nullrun@localhost>"
                .parse()
                .map_err(|_| BadConfig::MailFrom)?,
        };
        let Some(url) = &config.smtp_url else {
            return Ok((Self::Outbox(config.data_dir.join("outbox")), from));
        };
        let url = with_tls(url).ok_or(BadConfig::SmtpUrl)?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.as_str())
            .map_err(|_| BadConfig::SmtpUrl)?
            .timeout(Some(PATIENCE))
            .build();
        Ok((Self::Smtp(transport), from))
    }

    async fn send(&self, mail: &Mail, from: &Mailbox) -> Result<(), Unsent> {
        let to: Address = mail.to.parse().map_err(|_| Unsent::Unmailable)?;
        let message = Message::builder()
            .from(from.clone())
            .to(to.into())
            .subject(mail.subject.as_str())
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())
            .map_err(|_| Unsent::Unmailable)?;
        match self {
            Self::Smtp(transport) => {
                // The library's own bound is for each step, not for all of them.
                let sent = tokio::time::timeout(PATIENCE * 2, transport.send(message)).await;
                let Ok(sent) = sent else {
                    return Err(Unsent::Silence);
                };
                sent.map(drop).map_err(|error| {
                    let status = || error.status().map(|s| s.to_string()).unwrap_or_default();
                    if error.is_permanent() {
                        Unsent::Refused(status())
                    } else if error.is_transient() {
                        Unsent::Later(status())
                    } else if error.is_timeout() {
                        Unsent::Silence
                    } else {
                        Unsent::Unconnected
                    }
                })
            }
            Self::Outbox(folder) => {
                let (folder, bytes) = (folder.clone(), message.formatted());
                let put = tokio::task::spawn_blocking(move || put(&folder, &bytes)).await;
                put.map_err(std::io::Error::other)
                    .flatten()
                    .map_err(Unsent::Outbox)
            }
        }
    }
}

/// `smtp://` alone would send password and links in the clear: STARTTLS is asked for, and insisted on
/// when there is a password. Not on this machine, where a relay has no certificate.
fn with_tls(url: &str) -> Option<Url> {
    let mut url = Url::parse(url.trim()).ok()?;
    let host = url.host_str()?.to_owned();
    let said = url.query_pairs().any(|(name, _)| name == "tls");
    if url.scheme() == "smtp" && !said && !is_loopback(&host) {
        let tls = match url.password() {
            Some(_) => "required",
            None => "opportunistic",
        };
        let port = url.port().unwrap_or(match url.password() {
            Some(_) => 587,
            None => 25,
        });
        url.set_port(Some(port)).ok()?;
        url.query_pairs_mut().append_pair("tls", tls);
    }
    Some(url)
}

/// Does a URL's host mean this machine?
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

async fn run(mut mails: mpsc::Receiver<Mail>, way: Arc<Way>, from: Mailbox) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(mail) = mails.recv().await {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
            return;
        };
        let (way, from) = (Arc::clone(&way), from.clone());
        tokio::spawn(async move {
            let sent = deliver(&way, &mail, &from).await;
            // Few want to know.
            let _told = mail.sent.send(sent);
            drop(turn);
        });
    }
    // Those under way may still finish, if the process stays that long.
    let _all = turns.acquire_many(AT_ONCE as u32).await;
}

async fn deliver(way: &Way, mail: &Mail, from: &Mailbox) -> bool {
    let mut pauses = AGAIN.into_iter();
    loop {
        let Err(why) = way.send(mail, from).await else {
            return true;
        };
        match pauses.next().filter(|_| !why.is_final()) {
            Some(pause) => {
                tracing::warn!(%why, again_in_secs = pause.as_secs(), "a mail was not sent");
                tokio::time::sleep(pause).await;
            }
            None => {
                tracing::error!(%why, "a mail was given up");
                return false;
            }
        }
    }
}

/// Whole under its name, or not at all: whoever watches the folder reads no half mail.
fn put(folder: &Path, mail: &[u8]) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // Before, so that a disk on which no mail gets whole does not fill with beginnings of mails.
    trim(folder)?;
    let name = persist::UserId(hash::new_id(clock::now())).to_string();
    let path = folder.join(format!("{name}.eml"));
    let unfinished = folder.join(format!(".{name}"));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(mail)?;
    std::fs::rename(&unfinished, &path)?;
    tracing::info!(file = %path.display(), "a mail is in the outbox: no SMTP server is set");
    Ok(())
}

/// Makes room for one more. Mails that were never finished count: a crash leaves them.
fn trim(folder: &Path) -> std::io::Result<()> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".eml") || name.starts_with('.'))
        .collect();
    // Their names begin with the time they were made.
    files.sort_by(|a, b| a.trim_start_matches('.').cmp(b.trim_start_matches('.')));
    for old in files.iter().take((files.len() + 1).saturating_sub(OUTBOX)) {
        match std::fs::remove_file(folder.join(old)) {
            // Another mail made room at the same time, or this one is finished meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_to_another_machine_only_over_tls() {
        let tls = |url: &str| with_tls(url).unwrap().to_string();
        assert!(tls("smtp://u:p@mail.example.com").ends_with(":587?tls=required"));
        assert!(tls("smtp://mail.example.com").ends_with(":25?tls=opportunistic"));
        assert_eq!(tls("smtp://127.0.0.1:1025"), "smtp://127.0.0.1:1025");
        assert_eq!(tls("smtp://u:p@[::1]:25"), "smtp://u:p@[::1]:25");
        let said = "smtp://mail.example.com:2525?tls=required";
        assert_eq!(tls(said), said);
        assert_eq!(tls("smtps://mail.example.com"), "smtps://mail.example.com");
        assert!(with_tls("mail.example.com").is_none());
    }

    #[test]
    fn the_outbox_keeps_the_newest_mails_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("outbox");
        std::fs::create_dir(&folder).unwrap();
        for n in 1..OUTBOX {
            std::fs::write(folder.join(format!("0000-{n:04}.eml")), "old").unwrap();
        }
        let unfinished = folder.join(".0000-0000");
        std::fs::write(&unfinished, "o").unwrap();
        put(&folder, b"new").unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        assert_eq!(names.len(), OUTBOX);
        assert!(!unfinished.exists(), "it is the oldest");
        assert_eq!(names[0].file_name(), "0000-0001.eml");
        let newest = names.last().unwrap();
        assert_eq!(std::fs::read(newest.path()).unwrap(), b"new");
        let mode = newest.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
