//! A gateway with two accounts: one that is looked at before and after, and one for what is taken.

#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

use super::support::Stage;
use super::table::{Row, Who};
use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// An account with one of everything.
pub struct Furnished {
    pub account: Account,
    pub policy: String,
    pub key: String,
    pub hold: String,
    pub member: String,
    pub invite: String,
    /// The session of whoever registered first.
    first: String,
}

impl Furnished {
    /// The row's path for it.
    pub fn path(&self, pattern: &str) -> String {
        let id = if pattern.contains("/templates/") {
            "loop-guard"
        } else if pattern.contains("/policies/") {
            &self.policy
        } else if pattern.contains("/api-keys/") {
            &self.key
        } else if pattern.contains("/holds/") {
            &self.hold
        } else if pattern.contains("/members/") {
            &self.member
        } else if pattern.contains("/invites/") {
            &self.invite
        } else {
            &self.account.workflow
        };
        pattern
            .replace("{org}", &self.account.org)
            .replace("{id}", id)
            .replace("{token}", "nobodys")
            .replace("{workflow}", &self.account.workflow)
    }

    pub fn caller(&self, who: Who) -> Caller<'_> {
        match who {
            Who::Nobody => Caller::Anonymous,
            Who::Key => Caller::Key(&self.account.key),
            Who::Person => self.account.operator(),
            Who::Admin => Caller::Session(&self.first),
        }
    }
}

/// What the gateway is started with.
pub const ENVIRONMENT: [(&str, &str); 3] = [
    ("NULLRUN_HMAC_REQUIRED", "false"),
    ("NULLRUN_GITHUB_CLIENT_ID", "id"),
    ("NULLRUN_GITHUB_CLIENT_SECRET", "secret"),
];

pub struct Bench {
    pub stage: Stage,
    emails: u32,
    /// The session of whoever registered first.
    first: String,
}

impl Bench {
    pub fn start() -> Self {
        Self::of(Stage::start(&ENVIRONMENT))
    }

    /// Of a gateway that runs already, with [`ENVIRONMENT`] and perhaps more.
    pub fn of(stage: Stage) -> Self {
        Self {
            stage,
            emails: 0,
            first: String::new(),
        }
    }

    pub async fn furnish(&mut self) -> Furnished {
        let account = self.stage.account().await;
        if self.first.is_empty() {
            self.first.clone_from(&account.session);
        }
        let operator = account.operator();
        let connection = &mut self.stage.connection;
        let policy = json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 1_000_000 } });
        let policy = connection
            .post(&account.path("/policies"), operator, &policy)
            .await
            .unwrap();
        let policy = policy.expect(&[201]).unwrap().required("id").unwrap();
        let key = account.create_key(connection, None, None).await.unwrap().id;
        self.emails += 1;
        let email = |what: &str| format!("bad-input-{what}-{}@example.com", self.emails);
        let data = self.stage.gateway.settings().data_dir();
        let (joins, invited) = (email("member"), email("invite"));
        let member = account.join(connection, data, &joins, "viewer");
        let member = member.await.unwrap().id;
        let invite = account.invite(connection, &invited, "viewer");
        let invite = invite.await.unwrap();
        let mut furnished = Furnished {
            account,
            policy,
            key,
            hold: String::new(),
            member,
            invite,
            first: self.first.clone(),
        };
        self.mint(&mut furnished).await;
        self.settle(&furnished).await;
        furnished
    }

    /// Waits until it is known what became of all mails: that is written behind the answers.
    pub async fn settle(&mut self, furnished: &Furnished) {
        let path = furnished.account.path("/invites?limit=200");
        loop {
            let operator = furnished.account.operator();
            let listed = self.stage.connection.get(&path, operator).await.unwrap();
            let rows = listed.body["data"].as_array().unwrap();
            if rows.iter().all(|row| row["send_status"] == "sent") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Gives it another hold.
    pub async fn mint(&mut self, furnished: &mut Furnished) {
        let gate = json!({ "model": "gpt-4o-mini", "max_output_tokens": 1000 });
        let caller = Caller::Key(&furnished.account.key);
        let connection = &mut self.stage.connection;
        let answer = connection
            .post("/api/v1/gate", caller, &gate)
            .await
            .unwrap();
        furnished.hold = answer.required("reservation_id").unwrap();
    }

    /// Everything of an org that anybody can see.
    pub async fn state(&mut self, of: &Furnished) -> Value {
        let mut whole = json!({});
        for rest in [
            "",
            "/status",
            "/workflows?limit=200",
            "/policies?limit=200",
            "/api-keys?limit=200",
            "/holds?limit=200",
            "/members?limit=200",
            "/invites?limit=200",
            "/ledger/verify",
        ] {
            let path = of.account.path(rest);
            let connection = &mut self.stage.connection;
            let answer = connection.get(&path, of.account.operator()).await.unwrap();
            let mut body = answer.expect(&[200]).unwrap().body;
            for moving in [
                "as_of_lsn",
                "burn_cents_per_hour",
                "time_to_exhaustion",
                "time_to_exhaustion_secs",
                "rate_used",
            ] {
                body.as_object_mut().unwrap().remove(moving);
            }
            // Whoever signs in uses a key, whatever comes of the request.
            for row in body["data"].as_array_mut().into_iter().flatten() {
                row.as_object_mut().unwrap().remove("last_used_at");
            }
            whole[rest] = body;
        }
        whole
    }

    /// How far the log goes: without a record nothing has changed.
    pub async fn lsn(&mut self) -> u64 {
        let connection = &mut self.stage.connection;
        let ready = connection
            .get("/health/ready", Caller::Anonymous)
            .await
            .unwrap();
        ready.body["durable_lsn"].as_u64().unwrap()
    }

    pub async fn send(
        &mut self,
        row: &Row,
        to: &Furnished,
        who: Who,
        body: Option<Vec<u8>>,
    ) -> Answer {
        let body = body.map(|body| self.addressed(body, &to.account.workflow));
        let path = to.path(row.path);
        let prepared = self.stage.connection.prepare(
            row.method.clone(),
            &path,
            to.caller(who),
            body.map(Into::into),
        );
        self.stage.connection.send(prepared.unwrap()).await.unwrap()
    }

    /// Each sign-up needs an address of its own, and who asks about a workflow names theirs.
    pub fn addressed(&mut self, body: Vec<u8>, workflow: &str) -> Vec<u8> {
        let has = |word: &str| body.windows(word.len()).any(|part| part == word.as_bytes());
        if has("\"WORKFLOW\"") {
            let text = String::from_utf8(body).unwrap();
            return text.replace("WORKFLOW", workflow).into_bytes();
        }
        if !has("\"EMAIL\"") {
            return body;
        }
        self.emails += 1;
        let text = String::from_utf8(body).unwrap();
        let email = format!("\"bad-input-{}@example.com\"", self.emails);
        text.replace("\"EMAIL\"", &email).into_bytes()
    }

    /// Bytes as they are; the answer's status, headers and body.
    pub fn raw(&self, head: &[u8], body: &[u8]) -> (u16, String, Value) {
        let address = self.stage.gateway.base_url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // It may answer and close before it has read all.
        let _closed = stream.write_all(&[head, body].concat());
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        (
            status.unwrap_or(0),
            head.to_ascii_lowercase(),
            serde_json::from_str(body).unwrap_or(Value::Null),
        )
    }
}

/// An error must be one that a person can work with; says what is amiss.
pub fn envelope(answer: &Answer) -> Result<(), String> {
    let body = &answer.body;
    if !(400..500).contains(&answer.status) {
        return Err(format!("{} {body}", answer.status));
    }
    for field in [
        "error",
        "code",
        "error_code",
        "message",
        "error_message",
        "request_id",
    ] {
        let bytes = body[field].as_str().unwrap_or_default().len();
        if !(1..1000).contains(&bytes) {
            return Err(format!("{field} has {bytes} bytes: {body}"));
        }
    }
    let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
    if header("x-request-id") != body["request_id"].as_str() {
        return Err("the header has another request's id".to_owned());
    }
    match header("content-type") {
        Some("application/json") => Ok(()),
        other => Err(format!("its content type is {other:?}")),
    }
}

pub fn has_body(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PATCH
}
