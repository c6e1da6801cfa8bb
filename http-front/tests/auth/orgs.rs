//! Organizations and their members.

use super::{House, login, register, session};
use crate::PASSWORD;
use crate::tools::{Browser, Reply, mails, token};
use serde_json::{Value, json};

/// Ada with her organization, and others who joined it in these roles, each with a session.
pub struct Team {
    pub house: House,
    pub org: String,
    pub ada: Browser,
    invited: usize,
}

impl Team {
    pub fn start() -> Self {
        Self::at(House::start(&[]))
    }

    pub fn at(house: House) -> Self {
        let mut browser = house.browser();
        let made = register(&mut browser, "ada@example.com");
        Self {
            org: made.word("organization_id"),
            ada: browser.bearer(&made.word("session_token")),
            house,
            invited: 0,
        }
    }

    /// `kill -9`, and up again.
    pub fn crash(&mut self) {
        self.house.crash();
        self.ada = self.ada.moved_to(&self.house.url());
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/orgs/{}{rest}", self.org)
    }

    /// Invites; the token in the mail.
    pub fn invite(&mut self, email: &str, role: &str) -> String {
        let body = json!({ "email": email, "role": role });
        let path = self.path("/invites");
        self.ada.post(&path, &body).expect(201);
        self.invited += 1;
        let mails = mails(&self.house.outbox(), self.invited);
        token(mails.last().unwrap())
    }

    /// Somebody new who joined; their id, and them with a session.
    pub fn join(&mut self, email: &str, role: &str) -> (String, Browser) {
        let token = self.invite(email, role);
        let body = json!({ "password": PASSWORD, "name": role });
        let mut anyone = self.house.browser();
        let joined = anyone.post(&format!("/api/v1/invites/{token}/accept"), &body);
        let joined = joined.expect(201);
        let browser = anyone.bearer(&joined.word("session_token"));
        (joined.word("user_id"), browser)
    }

    fn set_role(&self, by: &mut Browser, member: &str, role: &str) -> Reply {
        let path = self.path(&format!("/members/{member}"));
        by.ask("PATCH", &path, Some(&json!({ "role": role })))
    }

    fn remove(&self, by: &mut Browser, member: &str) -> Reply {
        by.ask("DELETE", &self.path(&format!("/members/{member}")), None)
    }

    fn roles(&mut self) -> Vec<(String, String)> {
        let path = self.path("/members");
        let list = self.ada.get(&path).expect(200).body;
        let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
        let rows = list["data"].as_array().unwrap().iter();
        rows.map(|row| (text(row, "email"), text(row, "role")))
            .collect()
    }
}

fn names(list: &Value) -> Vec<&str> {
    let rows = list["data"].as_array().unwrap().iter();
    rows.map(|row| row["name"].as_str().unwrap()).collect()
}

#[test]
fn a_person_has_several_organizations_with_a_role_in_each() {
    let mut team = Team::start();
    let body = json!({ "name": " Second ", "contact_email": "OPS@example.com" });
    let second = team.ada.post("/api/v1/orgs", &body).expect(201);
    assert_eq!(
        (
            second.word("name"),
            second.word("contact_email"),
            second.word("role")
        ),
        ("Second".into(), "ops@example.com".into(), "owner".into())
    );
    let third = team.ada.post("/api/v1/orgs", &json!({ "name": "Third" }));
    assert_eq!(third.expect(201).word("contact_email"), "ada@example.com");
    let path = format!("/api/v1/orgs/{}", second.word("id"));
    // It works like the first: a workflow, and keys.
    let workflows = team.ada.get(&format!("{path}/workflows")).expect(200).body;
    assert_eq!(names(&workflows), ["default"]);
    let key = team
        .ada
        .post(&format!("{path}/api-keys"), &json!({}))
        .expect(201);
    let verify = json!({ "api_key": key.word("key") });
    let verified = team.house.browser().post("/api/v1/auth/verify", &verify);
    assert_eq!(
        verified.expect(200).word("organization_id"),
        second.word("id")
    );

    let (_, mut bob) = team.join("bob@example.com", "viewer");
    let own = bob
        .post("/api/v1/orgs", &json!({ "name": "Bob's" }))
        .expect(201);
    let mine = bob.get("/api/v1/orgs").expect(200).body;
    let roles: Vec<_> = mine["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["role"])
        .collect();
    assert_eq!(roles, ["viewer", "owner"]);
    let first_page = team.ada.get("/api/v1/orgs?limit=2").expect(200).body;
    let next = first_page["next_cursor"].as_str().unwrap();
    let page = team
        .ada
        .get(&format!("/api/v1/orgs?cursor={next}"))
        .expect(200)
        .body;
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!((names(&first_page).len(), names(&page).len()), (2, 1));
    // Those made in one millisecond stand in any order.
    let mut others = [names(&first_page)[1], names(&page)[0]];
    others.sort_unstable();
    assert_eq!(others, ["Second", "Third"]);
    // Somebody else's is none.
    let foreign = format!("/api/v1/orgs/{}", own.word("id"));
    team.ada.get(&foreign).refused(404, "not_found");
    for wrong in [
        json!({}),
        json!({ "name": " " }),
        json!({ "name": "x", "contact_email": "x" }),
    ] {
        let refused = team.ada.post("/api/v1/orgs", &wrong);
        assert_eq!(refused.status, 400, "{}", refused.text);
    }
}

#[test]
fn settings_change_by_the_field_and_a_patch_must_change_something() {
    let mut team = Team::start();
    let path = team.path("");
    let patch = json!({
        "name": " Engines ", "contact_email": "ops@example.com", "budget_cents": 500,
        "budget_period": "week", "composition": "most_restrictive",
    });
    let changed = team.ada.ask("PATCH", &path, Some(&patch)).expect(200).body;
    for (field, value) in patch.as_object().unwrap() {
        let expected = match field.as_str() {
            "name" => json!("Engines"),
            _ => value.clone(),
        };
        assert_eq!(changed[field], expected, "{field}");
    }
    let patch = json!({ "budget_cents": null, "contact_email": null });
    let changed = team.ada.ask("PATCH", &path, Some(&patch)).expect(200).body;
    assert_eq!(
        (&changed["budget_cents"], &changed["contact_email"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&changed["name"], &changed["budget_period"]),
        (&json!("Engines"), &json!("week"))
    );
    assert_eq!(team.ada.get(&path).expect(200).body, changed);
    let nothing = team.ada.ask("PATCH", &path, Some(&json!({})));
    nothing.refused(400, "nothing_to_change");
    for fixed in ["slug", "id", "plan", "created_at"] {
        let refused = team.ada.ask("PATCH", &path, Some(&json!({ fixed: "x" })));
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.word("message").contains(fixed), "{}", refused.text);
    }
}

#[test]
fn roles_are_changed_by_admins_and_never_above_their_own() {
    let mut team = Team::start();
    let [
        (admin_id, mut admin),
        (viewer_id, mut viewer),
        (owner_id, mut owner),
    ] = ["admin", "viewer", "owner"].map(|role| team.join(&format!("{role}@example.com"), role));
    let ada_id = session(&mut team.ada)["user"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    team.set_role(&mut viewer, &admin_id, "viewer")
        .refused(403, "forbidden");
    team.set_role(&mut admin, &viewer_id, "owner")
        .refused(403, "forbidden");
    team.set_role(&mut admin, &owner_id, "viewer")
        .refused(403, "forbidden");
    team.remove(&mut admin, &owner_id).refused(403, "forbidden");
    team.remove(&mut viewer, &admin_id)
        .refused(403, "forbidden");
    let same = team.set_role(&mut owner, &owner_id, "admin");
    same.refused(409, "cannot_modify_own_role");
    assert_eq!(same.body["error_code"], "CANNOT_MODIFY_OWN_ROLE");

    // A role counts from the answer on, for a session that is open.
    let policies = team.path("/policies");
    let policy =
        json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 5 } });
    viewer.post(&policies, &policy).refused(403, "forbidden");
    let raised = team
        .set_role(&mut admin, &viewer_id, "operator")
        .expect(200);
    assert_eq!(
        (raised.word("id"), raised.word("role")),
        (viewer_id.clone(), "operator".into())
    );
    viewer.post(&policies, &policy).expect(201);
    team.set_role(&mut admin, &viewer_id, "viewer").expect(200);
    viewer.post(&policies, &policy).refused(403, "forbidden");

    team.set_role(&mut owner, &ada_id, "viewer").expect(200);
    let last = team.set_role(&mut owner, &owner_id, "admin");
    last.refused(409, "cannot_demote_last_owner");
    team.remove(&mut owner, &owner_id)
        .refused(409, "cannot_demote_last_owner");
    let roles = team.roles();
    let email = |who: &str| format!("{who}@example.com");
    let expected = [
        ("ada", "viewer"),
        ("admin", "admin"),
        ("viewer", "viewer"),
        ("owner", "owner"),
    ];
    assert_eq!(
        roles,
        expected.map(|(who, role)| (email(who), role.to_owned()))
    );
    for nobody in [&team.org, "x"] {
        let path = team.path(&format!("/members/{nobody}"));
        owner.ask("DELETE", &path, None).refused(404, "not_found");
    }
    let bad = team.set_role(&mut owner, &viewer_id, "king");
    assert_eq!(bad.status, 400, "{}", bad.text);
}

#[test]
fn members_are_listed_in_pages_with_since_when_they_belong() {
    let mut team = Team::start();
    for n in 0..3 {
        team.join(&format!("{n}@example.com"), "viewer");
    }
    let path = team.path("/members");
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let page = team
            .ada
            .get(&format!("{path}?limit=2{cursor}"))
            .expect(200)
            .body;
        for row in page["data"].as_array().unwrap() {
            assert!(row["joined_at"].as_str().unwrap().ends_with('Z'));
            seen.push(row["email"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected = ["ada", "0", "1", "2"].map(|who| format!("{who}@example.com"));
    assert_eq!(seen, expected);
    team.ada
        .get(&format!("{path}?cursor=x"))
        .refused(400, "invalid_field");
}

#[test]
fn a_member_who_is_removed_is_signed_out_with_the_answer_and_after_a_crash() {
    let mut team = Team::start();
    let (bob_id, mut bob) = team.join("bob@example.com", "operator");
    let (_, mut eve) = team.join("eve@example.com", "viewer");
    let phone = login(&mut team.house.browser(), "bob@example.com", PASSWORD);
    let mut phone = bob.bearer(&phone.expect(200).word("session_token"));
    let org = team.path("");
    for browser in [&mut bob, &mut phone] {
        browser.get(&org).expect(200);
    }
    let mut ada = team.ada.clone();
    team.remove(&mut ada, &bob_id).expect(204);
    for browser in [&mut bob, &mut phone] {
        browser.get(&org).refused(401, "session_expired");
        browser
            .get("/api/v1/auth/session")
            .refused(401, "session_expired");
    }
    team.remove(&mut ada, &bob_id).refused(404, "not_found");
    let back = login(&mut team.house.browser(), "bob@example.com", PASSWORD).expect(200);
    assert_eq!(back.body["organizations"], json!([]));
    bob.bearer(&back.word("session_token"))
        .get(&org)
        .refused(404, "not_found");

    // Who leaves stays signed in, and is out.
    let eve_id = session(&mut eve)["user"]["id"].as_str().unwrap().to_owned();
    team.remove(&mut eve, &eve_id).expect(204);
    session(&mut eve);
    eve.get(&org).refused(404, "not_found");

    team.crash();
    let [old, eve] = [&bob, &eve].map(|browser| browser.moved_to(&team.house.url()));
    old.peek("GET", &org, None).refused(401, "session_expired");
    eve.peek("GET", &org, None).refused(404, "not_found");
}

#[test]
fn a_deleted_organization_is_gone_and_its_keys_are_refused_as_revoked() {
    let mut team = Team::at(House::start(&[("NULLRUN_HMAC_REQUIRED", "false")]));
    let (bob_id, mut bob) = team.join("bob@example.com", "admin");
    let key = team.path("/api-keys");
    let key = team.ada.post(&key, &json!({})).expect(201).word("key");
    let pending = team.invite("late@example.com", "viewer");
    let org = team.path("");
    bob.ask("DELETE", &org, None).refused(403, "forbidden");
    let others = team.ada.ask("DELETE", &org, None);
    others.refused(409, "org_has_members");
    assert_eq!(others.body["error_code"], "ORG_HAS_MEMBERS");
    let mut ada = team.ada.clone();
    team.remove(&mut ada, &bob_id).expect(204);
    let mut agent = team.house.browser();
    agent.set("X-API-Key", &key);
    let gate = json!({ "workflow_id": "default" });
    agent.post("/api/v1/gate", &gate).expect(200);
    team.ada.ask("DELETE", &org, None).expect(204);

    for restarted in [false, true] {
        if restarted {
            team.crash();
        }
        let (mut ada, agent) = (team.ada.clone(), agent.moved_to(&team.house.url()));
        // The session is the person's, and goes on.
        assert_eq!(session(&mut ada)["organizations"], json!([]));
        ada.get(&org).refused(404, "not_found");
        ada.ask("DELETE", &org, None).refused(404, "not_found");
        let invite = format!("/api/v1/invites/{pending}");
        ada.get(&invite).refused(404, "not_found");
        // A 401 would let an old client go on with its step.
        let block = agent.peek("POST", "/api/v1/gate", Some(&gate)).expect(200);
        assert_eq!(block.body["decision"], "block");
        assert_eq!(block.body["details"]["error_code"], "API_KEY_REVOKED");
        let mut new = agent;
        new.set("X-NullRun-Protocol", "4");
        let refused = new.peek("POST", "/api/v1/gate", Some(&gate));
        refused.refused(401, "api_key_revoked");
    }
}

#[test]
fn organizations_members_and_roles_outlive_a_crash() {
    let mut team = Team::start();
    let (bob_id, _) = team.join("bob@example.com", "viewer");
    let second = team
        .ada
        .post("/api/v1/orgs", &json!({ "name": "Second" }))
        .expect(201);
    let mut ada = team.ada.clone();
    team.set_role(&mut ada, &bob_id, "operator").expect(200);
    let paths = [
        "/api/v1/orgs".to_owned(),
        team.path(""),
        team.path("/members"),
    ];
    let before = paths
        .clone()
        .map(|path| team.ada.get(&path).expect(200).body);
    team.crash();
    let after = paths.map(|path| team.ada.get(&path).expect(200).body);
    assert_eq!(before, after);
    let path = format!("/api/v1/orgs/{}", second.word("id"));
    team.ada.ask("DELETE", &path, None).expect(204);
    team.crash();
    team.ada.get(&path).refused(404, "not_found");
}
