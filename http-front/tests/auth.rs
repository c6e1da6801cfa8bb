//! Accounts, from the outside: signing up and in, sessions and their cookies, passwords and mailed
//! links, providers, organizations and invitations to them. The mail server and the OpenID issuer are real programs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]
#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "the parts share what they use"
)]

#[path = "auth/invites.rs"]
mod invites;
#[path = "auth/links.rs"]
mod links;
#[path = "auth/orgs.rs"]
mod orgs;
#[path = "auth/providers.rs"]
mod providers;
#[path = "support/python.rs"]
mod python;
#[path = "auth/sessions.rs"]
mod sessions;
#[path = "auth/tools.rs"]
mod tools;

use nullrun_loadtest::gateway::{Gateway, Settings};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use tools::{Browser, Reply};

const PASSWORD: &str = "correct horse battery";

/// A gateway of one's own.
struct House {
    gateway: Option<Gateway>,
    data: TempDir,
}

impl House {
    fn start(environment: &[(&str, &str)]) -> Self {
        let data = TempDir::with_prefix("nullrun-auth-").unwrap();
        let settings = Settings::new(env!("CARGO_BIN_EXE_nullrun"), data.path());
        let settings = environment
            .iter()
            .fold(settings, |settings, (name, value)| {
                settings.env(*name, *value)
            });
        Self::of(settings, data)
    }

    /// The same, at its most talkative: all that is logged goes to a file.
    fn talkative(environment: &[(&str, &str)]) -> Self {
        let data = TempDir::with_prefix("nullrun-auth-").unwrap();
        let log = data.path().join("stderr");
        let launcher = ["sh", "-c", &format!("exec \"$0\" 2>>{}", log.display())];
        let settings = Settings::new(env!("CARGO_BIN_EXE_nullrun"), data.path())
            .env("NULLRUN_LOG", "trace")
            .under(launcher.map(Into::into).to_vec());
        let settings = environment
            .iter()
            .fold(settings, |settings, (name, value)| {
                settings.env(*name, *value)
            });
        Self::of(settings, data)
    }

    fn of(settings: Settings, data: TempDir) -> Self {
        Self {
            gateway: Some(Gateway::start(settings).unwrap()),
            data,
        }
    }

    /// What a talkative one has logged.
    fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("stderr")).unwrap()
    }

    /// None of these is in it.
    fn keeps(&self, secrets: &[String]) {
        let log = self.log();
        // Every request has a line at this level; what is finer comes from libraries, not everywhere alike.
        assert!(log.contains("DEBUG nullrun"), "it logs all requests");
        for secret in secrets {
            assert!(secret.len() > 7, "{secret} is no secret");
            let line = log.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{secret} is in the log: {line:?}");
        }
    }

    fn url(&self) -> String {
        self.gateway.as_ref().unwrap().base_url().to_owned()
    }

    fn browser(&self) -> Browser {
        Browser::at(&self.url())
    }

    fn outbox(&self) -> PathBuf {
        self.data.path().join("outbox")
    }

    fn output(&self) -> String {
        self.gateway.as_ref().unwrap().output()
    }

    /// Waits until its output has these words.
    fn says(&self, words: &str) {
        self.gateway.as_ref().unwrap().says(words).unwrap();
    }

    /// `kill -9`, and up again.
    fn crash(&mut self) {
        let mut gateway = self.gateway.take().unwrap();
        gateway.kill_9().unwrap();
        self.gateway = Some(gateway.restart().unwrap());
    }
}

fn register(browser: &mut Browser, email: &str) -> Reply {
    let body = json!({ "email": email, "password": PASSWORD, "name": "Ada" });
    browser.post("/api/v1/auth/register", &body).expect(201)
}

fn login(browser: &mut Browser, email: &str, password: &str) -> Reply {
    let body = json!({ "email": email, "password": password });
    browser.post("/api/v1/auth/login", &body)
}

/// Registers; a caller with the session's token.
fn person(house: &House, email: &str) -> Browser {
    let mut browser = house.browser();
    let token = register(&mut browser, email).word("session_token");
    browser.bearer(&token)
}

fn session(browser: &mut Browser) -> Value {
    browser.get("/api/v1/auth/session").expect(200).body
}
