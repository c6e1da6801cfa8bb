//! Who asks, and what they ask about. Each request gets things of its own: many are gone afterwards.

#![allow(
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

use super::matrix::{Row, Who, Whose};
use super::support::Stage;
use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Protocol};
use nullrun_loadtest::people::{mailed_token, newest_token};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery staple";

/// Somebody with a session.
struct Person {
    email: String,
    session: String,
}

/// Three organizations: the callers', another one, and that of who runs the gateway.
pub struct Cast {
    pub stage: Stage,
    platform: Account,
    own: Account,
    other: Account,
    /// Viewer, operator, admin and owner of `own`, and who runs the gateway.
    people: Vec<Person>,
    serial: u32,
}

impl Cast {
    pub async fn start() -> Self {
        let mut stage = Stage::start(&[]);
        // Whoever is first runs the gateway.
        let platform = stage.account().await;
        let own = stage.account().await;
        let other = stage.account().await;
        let mut people = Vec::new();
        for role in ["viewer", "operator", "admin"] {
            let email = format!("{role}@example.com");
            let data = stage.gateway.settings().data_dir();
            let member = own.join(&mut stage.connection, data, &email, role).await;
            people.push(Person {
                email,
                session: member.unwrap().session,
            });
        }
        people.extend([&own, &platform].map(|account| Person {
            email: account.email.clone(),
            session: account.session.clone(),
        }));
        Self {
            stage,
            platform,
            own,
            other,
            people,
            serial: 0,
        }
    }

    fn person(&self, who: Who) -> Option<usize> {
        let roles = [
            Who::Viewer,
            Who::Operator,
            Who::Admin,
            Who::Owner,
            Who::Platform,
        ];
        roles.iter().position(|role| *role == who)
    }

    /// Asks; what came.
    pub async fn ask(&mut self, row: &Row, who: Who, whose: Whose) -> Answer {
        self.serial += 1;
        let account = match (whose, who) {
            (Whose::Own, Who::Platform) => &self.platform,
            (Whose::Own, _) => &self.own,
            (Whose::Other, _) => &self.other,
        };
        let mut account = account.clone();
        if row.method == Method::DELETE && row.path == "/api/v1/orgs/{org_id}" {
            account.org = self.org_to_delete(&account, who, whose).await;
        }
        let path = self.fill(&row.path, &account, who, whose).await;
        let body = match &row.body {
            Some(body) => Some(self.fill(&body.to_string(), &account, who, whose).await),
            None => None,
        };
        let body: Option<Value> = body.map(|text| serde_json::from_str(&text).unwrap());
        // A signature over no body is the same on each path within a second, which is refused; so each
        // request has a key of its own.
        let connection = &mut self.stage.connection;
        let workflow = Some(self.own.workflow.as_str());
        let key = self.own.create_key(connection, workflow, None).await;
        let key = key.unwrap().key;
        let caller = match (who, self.person(who)) {
            (_, Some(person)) => Caller::Session(&self.people[person].session),
            (Who::Key, _) => Caller::Signed(&key, Protocol::V4),
            _ => Caller::Anonymous,
        };
        let connection = &mut self.stage.connection;
        let method = row.method.clone();
        let answer = connection.request(method, &path, caller, body.as_ref());
        let answer = answer.await.unwrap();
        if row.path.starts_with("/api/v1/auth/") {
            self.sign_in_again(who).await;
        }
        answer
    }

    /// What was asked may have ended the session.
    async fn sign_in_again(&mut self, who: Who) {
        let Some(person) = self.person(who) else {
            return;
        };
        let caller = Caller::Session(&self.people[person].session);
        let connection = &mut self.stage.connection;
        let session = connection
            .get("/api/v1/auth/session", caller)
            .await
            .unwrap();
        if session.status == 200 {
            return;
        }
        let email = self.people[person].email.clone();
        let session = self.login(&email).await.required("session_token").unwrap();
        self.people[person].session.clone_from(&session);
        match who {
            Who::Owner => self.own.session = session,
            Who::Platform => self.platform.session = session,
            _ => {}
        }
    }

    async fn login(&mut self, email: &str) -> Answer {
        let body = json!({ "email": email, "password": PASSWORD });
        let connection = &mut self.stage.connection;
        let path = "/api/v1/auth/login";
        let answer = connection.post(path, Caller::Anonymous, &body).await;
        answer.unwrap().expect(&[200]).unwrap()
    }

    /// A text with everything it names made. A word that is not known here wants a line here.
    async fn fill(&mut self, text: &str, account: &Account, who: Who, whose: Whose) -> String {
        let mut filled = text.to_owned();
        for name in names(text) {
            let value = self.make(&name, account, who, whose).await;
            filled = filled.replace(&format!("{{{name}}}"), &value);
            filled = filled.replace(&format!("${name}"), &value);
        }
        filled
    }

    /// A fresh one of something, in the account's organization.
    async fn make(&mut self, name: &str, account: &Account, who: Who, whose: Whose) -> String {
        let unique = format!("{name}-{}", self.serial);
        match name {
            "org_id" | "org" => account.org.clone(),
            "workflow_id" | "workflow" => {
                let body = json!({ "name": unique });
                self.create(account, "/workflows", body).await
            }
            "key_id" | "key" => self.create(account, "/api-keys", json!({})).await,
            "policy_id" | "policy" => {
                let config = json!({ "max_calls_per_minute": 100_000 });
                let body = json!({ "name": unique, "policy_type": "RateLimit", "config": config });
                self.create(account, "/policies", body).await
            }
            "hold_id" | "hold" => {
                let gate = json!({ "model": "gpt-4o-mini", "max_output_tokens": 10 });
                let gate = self.stage.gate(&account.key, &gate).await;
                gate.required("reservation_id").unwrap()
            }
            "member_id" | "member" => {
                let data = self.stage.gateway.settings().data_dir();
                let connection = &mut self.stage.connection;
                let email = format!("{unique}@example.com");
                let joined = account.join(connection, data, &email, "viewer").await;
                joined.unwrap().id
            }
            "invite_id" | "invite" => {
                let body = json!({ "email": format!("{unique}@example.com"), "role": "viewer" });
                self.create(account, "/invites", body).await
            }
            "token" => self.invitation(who).await,
            "session_id" => {
                let email = match (whose, self.person(who)) {
                    (Whose::Own, Some(person)) => self.people[person].email.clone(),
                    _ => account.email.clone(),
                };
                let session = self.login(&email).await.required("session_token").unwrap();
                let connection = &mut self.stage.connection;
                let path = "/api/v1/auth/session";
                let shown = connection.get(path, Caller::Session(&session)).await;
                shown.unwrap().required("session_id").unwrap()
            }
            "template_id" => "loop-guard".to_owned(),
            "model_id" => "gpt-4o-mini".to_owned(),
            "file" => "swagger-ui.css".to_owned(),
            "provider" => "github".to_owned(),
            "new" => unique,
            "new_email" => format!("{unique}@example.com"),
            "email" => account.email.clone(),
            "password" => PASSWORD.to_owned(),
            other => panic!("what is {other}? Add it to `make` in roles/cast.rs"),
        }
    }

    async fn create(&mut self, account: &Account, rest: &str, body: Value) -> String {
        let made = self.stage.post(account, rest, body).await;
        made.expect(&[201]).unwrap().required("id").unwrap()
    }

    /// The token of an invitation to an organization the caller does not belong to: theirs, if they have
    /// an address.
    async fn invitation(&mut self, who: Who) -> String {
        let other = self.other.clone();
        let fresh = self.further_org(&other).await;
        let email = match self.person(who) {
            Some(person) => self.people[person].email.clone(),
            None => format!("token-{}@example.com", self.serial),
        };
        self.invite(&fresh, &email, "viewer").await
    }

    /// An organization of this owner's that may go, in which the caller is what they are.
    async fn org_to_delete(&mut self, owner: &Account, who: Who, whose: Whose) -> String {
        let fresh = self.further_org(owner).await;
        let role = match who {
            Who::Viewer => "viewer",
            Who::Operator => "operator",
            Who::Admin => "admin",
            _ => return fresh.org,
        };
        if let (Whose::Own, Some(person)) = (whose, self.person(who)) {
            let email = self.people[person].email.clone();
            let token = self.invite(&fresh, &email, role).await;
            let path = format!("/api/v1/invites/{token}/accept");
            let caller = Caller::Session(&self.people[person].session);
            let connection = &mut self.stage.connection;
            let joined = connection.request(Method::POST, &path, caller, None).await;
            joined.unwrap().expect(&[200]).unwrap();
        }
        fresh.org
    }

    async fn further_org(&mut self, owner: &Account) -> Account {
        let body = json!({ "name": format!("org-{}", self.serial) });
        let connection = &mut self.stage.connection;
        let made = connection.post("/api/v1/orgs", owner.operator(), &body);
        let made = made.await.unwrap().expect(&[201]).unwrap();
        Account {
            org: made.required("id").unwrap(),
            ..owner.clone()
        }
    }

    async fn invite(&mut self, to: &Account, email: &str, role: &str) -> String {
        let data = self.stage.gateway.settings().data_dir();
        let last = newest_token(data, |to| to == email).unwrap();
        let last = last.map(|(_, token)| token);
        let connection = &mut self.stage.connection;
        to.invite(connection, email, role).await.unwrap();
        mailed_token(data, email, last.as_deref()).await.unwrap()
    }
}

/// Words in braces or behind a dollar sign.
fn names(text: &str) -> Vec<String> {
    let word = |rest: &str| {
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_lowercase());
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    let in_braces = text.split('{').skip(1).filter(|rest| {
        let name = word(rest);
        rest[name.len()..].starts_with('}')
    });
    let found = in_braces.chain(text.split('$').skip(1)).map(word);
    let mut names: Vec<_> = found.filter(|name| !name.is_empty()).collect();
    // The longer first: one may begin another.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.dedup();
    names
}
