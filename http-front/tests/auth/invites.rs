//! Invitations: the mail, its link, and who may use it.

use super::orgs::Team;
use super::{House, PASSWORD, login, person, register, session};
use crate::tools::{Browser, Program, mails, token};
use nullrun_loadtest::gateway::Settings;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn link(token: &str, rest: &str) -> String {
    format!("/api/v1/invites/{token}{rest}")
}

fn open(team: &mut Team) -> Vec<Value> {
    let path = team.path("/invites");
    let list = team.ada.get(&path).expect(200).body;
    list["data"].as_array().unwrap().clone()
}

/// Waits until the only invitation's mail has this fate.
fn await_fate(team: &mut Team, fate: &str) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while open(team)[0]["send_status"] != fate {
        assert!(Instant::now() < deadline, "{:?}", open(team));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn somebody_new_joins_by_the_mailed_link_with_a_password_in_one_call() {
    let mut team = Team::start();
    let token = team.invite(" Grace@Example.com ", "operator");
    let mail = &mails(&team.house.outbox(), 1)[0];
    assert!(mail.contains("To: grace@example.com"), "{mail}");
    assert!(
        mail.contains("Ada <ada@example.com> invites you to the organization ada's organization")
    );
    assert!(mail.contains(&format!("{}/invite#token=", team.house.url())));
    await_fate(&mut team, "sent");
    let row = &open(&mut team)[0];
    for (field, value) in [
        ("email", "grace@example.com"),
        ("role", "operator"),
        ("status", "pending"),
        ("invited_by", "ada@example.com"),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    assert!(!row.to_string().contains(&token));
    let mut anyone = team.house.browser();
    let shown = anyone.get(&link(&token, "")).expect(200).body;
    assert_eq!(shown["organization_name"], "ada's organization");
    assert_eq!(
        (&shown["email"], &shown["role"]),
        (&json!("grace@example.com"), &json!("operator"))
    );
    assert_eq!(
        (&shown["invited_by"], &shown["has_account"]),
        (&json!("ada@example.com"), &json!(false))
    );

    let accept = link(&token, "/accept");
    anyone
        .ask("POST", &accept, None)
        .refused(401, "unauthorized");
    let short = anyone.post(&accept, &json!({ "password": "short" }));
    short.refused(400, "invalid_field");
    let no_password = anyone.post(&accept, &json!({ "name": "Grace" }));
    no_password.refused(400, "invalid_field");
    let body = json!({ "password": PASSWORD, "name": "Grace" });
    let joined = anyone.post(&accept, &body).expect(201);
    assert_eq!(joined.body["organization"]["id"], json!(team.org));
    assert_eq!(joined.body["organization"]["role"], "operator");
    // The cookie is set, and the address is shown to be theirs.
    let who = session(&mut anyone);
    assert_eq!(
        (&who["user"]["name"], &who["user"]["email_verified"]),
        (&json!("Grace"), &json!(true))
    );
    assert_eq!(who["organizations"].as_array().unwrap().len(), 1);
    let mut grace = anyone.bearer(&joined.word("session_token"));
    grace.get(&team.path("/workflows")).expect(200);
    login(&mut team.house.browser(), "grace@example.com", PASSWORD).expect(200);
    // It works once.
    for (method, rest) in [("GET", ""), ("POST", "/accept"), ("POST", "/decline")] {
        let again = team.house.browser().ask(method, &link(&token, rest), None);
        again.refused(404, "not_found");
    }
    assert!(open(&mut team).is_empty());
    let again = json!({ "email": "grace@example.com", "role": "viewer" });
    let path = team.path("/invites");
    team.ada.post(&path, &again).refused(409, "already_member");
    let own = json!({ "email": "ada@example.com", "role": "viewer" });
    team.ada.post(&path, &own).refused(409, "already_member");
}

#[test]
fn somebody_who_has_an_account_joins_signed_in_under_the_address_that_was_invited() {
    let mut team = Team::start();
    let mut bob = person(&team.house, "bob@example.com");
    let mut eve = person(&team.house, "eve@example.com");
    let token = team.invite("bob@example.com", "admin");
    let accept = link(&token, "/accept");
    let shown = eve.get(&link(&token, "")).expect(200).body;
    assert_eq!(shown["has_account"], true);
    let body = json!({ "password": PASSWORD });
    let mut anyone = team.house.browser();
    anyone.post(&accept, &body).refused(409, "email_taken");
    eve.ask("POST", &accept, None).refused(403, "forbidden");
    let key = team.path("/api-keys");
    let key = team.ada.post(&key, &json!({})).expect(201).word("key");
    let mut agent = team.house.browser();
    agent.set("X-API-Key", &key);
    agent.ask("POST", &accept, None).refused(403, "forbidden");
    // A page of somebody else's cannot make a browser accept.
    let mut browser = team.house.browser();
    login(&mut browser, "bob@example.com", PASSWORD).expect(200);
    browser
        .ask("POST", &accept, None)
        .refused(403, "csrf_mismatch");
    let csrf = browser.cookies["nullrun_csrf"].clone();
    browser.set("X-CSRF-Token", &csrf);
    let joined = browser.ask("POST", &accept, None).expect(200);
    assert_eq!(joined.body["session_token"], Value::Null);
    assert_eq!(joined.body["organization"]["role"], "admin");
    assert_eq!(
        session(&mut bob)["organizations"].as_array().unwrap().len(),
        2
    );
    assert_eq!(session(&mut bob)["user"]["email_verified"], true);
    bob.get(&team.path("/members")).expect(200);
    bob.ask("POST", &accept, None).refused(404, "not_found");
}

#[test]
fn an_invitation_is_declined_taken_back_or_sent_again_and_old_links_lead_nowhere() {
    let mut team = Team::start();
    let mut anyone = team.house.browser();
    let gone = |token: &str, anyone: &mut Browser| {
        anyone.get(&link(token, "")).refused(404, "not_found");
    };
    let declined = team.invite("a@example.com", "viewer");
    let twice = json!({ "email": "A@example.com", "role": "viewer" });
    let path = team.path("/invites");
    team.ada
        .post(&path, &twice)
        .refused(409, "invite_already_pending");
    anyone
        .ask("POST", &link(&declined, "/decline"), None)
        .expect(204);
    gone(&declined, &mut anyone);

    let revoked = team.invite("b@example.com", "viewer");
    let id = open(&mut team)[0]["id"].as_str().unwrap().to_owned();
    let one = format!("{path}/{id}");
    team.ada.ask("DELETE", &one, None).expect(204);
    team.ada.ask("DELETE", &one, None).refused(404, "not_found");
    gone(&revoked, &mut anyone);

    let first = team.invite("c@example.com", "viewer");
    let before = open(&mut team)[0].clone();
    let resend = format!("{path}/{}/resend", before["id"].as_str().unwrap());
    let again = team.ada.ask("POST", &resend, None).expect(200);
    assert_eq!(again.body["id"], before["id"]);
    assert!(again.word("expires_at").as_str() > before["expires_at"].as_str().unwrap());
    let second = token(mails(&team.house.outbox(), 4).last().unwrap());
    assert_ne!(first, second);
    gone(&first, &mut anyone);
    anyone.get(&link(&second, "")).expect(200);
    gone("nonsense", &mut anyone);
    // Nobody is flooded, whoever asks.
    for _ in 0..3 {
        team.ada.ask("POST", &resend, None).expect(200);
    }
    let sixth = team.ada.ask("POST", &resend, None);
    sixth.refused(429, "too_many_attempts");
    assert!(sixth.header("retry-after").is_some());
}

#[test]
fn an_invitation_can_be_accepted_for_seven_days() {
    let home = TempDir::with_prefix("nullrun-clock-").unwrap();
    let file = home.path().join("ahead");
    let seen = home.path().join("ahead.seen");
    let set = |ahead: u64| {
        std::fs::write(&file, ahead.to_string()).unwrap();
        while std::fs::read_to_string(&seen).ok() != Some(ahead.to_string()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    std::fs::write(&file, "0").unwrap();
    let clock = format!("@{}", file.display());
    let mut team = Team::at(House::start(&[("NULLRUN_TEST_NOW", &clock)]));
    let token = team.invite("a@example.com", "viewer");
    const DAY: u64 = 86_400_000;
    set(7 * DAY - 60_000);
    team.house.browser().get(&link(&token, "")).expect(200);
    set(7 * DAY + 1000);
    let body = json!({ "password": PASSWORD });
    for (method, rest, body) in [
        ("GET", "", None),
        ("POST", "/accept", Some(&body)),
        ("POST", "/decline", None),
    ] {
        let late = team.house.browser().ask(method, &link(&token, rest), body);
        late.refused(404, "not_found");
    }
    // The session is over, too.
    let signed_in = login(&mut team.house.browser(), "ada@example.com", PASSWORD).expect(200);
    team.ada = team.ada.bearer(&signed_in.word("session_token"));
    assert_eq!(open(&mut team)[0]["status"], "expired");
    team.invite("a@example.com", "viewer");
    assert_eq!(open(&mut team).len(), 1);
}

#[test]
fn two_who_accept_one_invitation_at_the_same_time_are_one_member() {
    let mut team = Team::start();
    let token = team.invite("a@example.com", "viewer");
    let tries: Vec<_> = (0..4)
        .map(|n| {
            let (browser, path) = (team.house.browser(), link(&token, "/accept"));
            std::thread::spawn(move || {
                let body = json!({ "password": format!("password number {n}") });
                browser.peek("POST", &path, Some(&body)).status
            })
        })
        .collect();
    let mut statuses: Vec<_> = tries.into_iter().map(|t| t.join().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 404, 404, 404]);
    let path = team.path("/members");
    let list = team.ada.get(&path).expect(200).body;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
}

#[test]
fn invitations_go_through_the_mail_server_and_say_what_became_of_them() {
    let inbox = TempDir::with_prefix("nullrun-inbox-").unwrap();
    let sink = Program::start("smtp.py", &[inbox.path().to_str().unwrap()]);
    let url = format!("smtp://127.0.0.1:{}", sink.port);
    let mut team = Team::at(House::talkative(&[
        ("NULLRUN_SMTP_URL", &url),
        ("NULLRUN_MAIL_FROM", "nullrun@example.com"),
    ]));
    mails(inbox.path(), 1);
    let path = team.path("/invites");
    let invite = |team: &mut Team, email: &str| {
        let body = json!({ "email": email, "role": "viewer" });
        let made = team.ada.post(&path, &body).expect(201);
        assert_eq!(made.body["send_status"], "pending");
        made.word("id")
    };
    let id = invite(&mut team, "bob@example.com");
    let link_token = token(&mails(inbox.path(), 2)[1]);
    await_fate(&mut team, "sent");
    let accept = link(&link_token, "/accept");
    let body = json!({ "password": PASSWORD });
    team.house.browser().post(&accept, &body).expect(201);
    let one = format!("{path}/{id}");
    team.ada.ask("DELETE", &one, None).refused(404, "not_found");
    // The server knows no such mailbox.
    let id = invite(&mut team, "nobody@example.com");
    await_fate(&mut team, "failed");
    let again = team.ada.ask("POST", &format!("{path}/{id}/resend"), None);
    assert_eq!(again.expect(200).body["send_status"], "pending");
    await_fate(&mut team, "failed");
    // Of all that, the log has neither link nor address.
    team.house.keeps(&[
        link_token,
        PASSWORD.to_owned(),
        "nobody@example.com".to_owned(),
    ]);
}

#[test]
fn a_mail_that_was_under_way_at_a_crash_counts_as_failed_and_invitations_stay() {
    // Nobody listens there: it is tried again and again.
    let mut team = Team::at(House::start(&[
        ("NULLRUN_SMTP_URL", "smtp://127.0.0.1:9"),
        ("NULLRUN_MAIL_FROM", "nullrun@example.com"),
    ]));
    let path = team.path("/invites");
    let body = json!({ "email": "bob@example.com", "role": "viewer" });
    let made = team.ada.post(&path, &body).expect(201).body;
    assert_eq!(made["send_status"], "pending");
    team.crash();
    await_fate(&mut team, "failed");
    assert_eq!(open(&mut team)[0]["expires_at"], made["expires_at"]);
}

#[test]
fn a_gateway_whose_mail_is_stuck_stops_in_time() {
    let data = TempDir::with_prefix("nullrun-auth-").unwrap();
    let settings = Settings::new(env!("CARGO_BIN_EXE_nullrun"), data.path())
        .env("NULLRUN_SMTP_URL", "smtp://127.0.0.1:9")
        .env("NULLRUN_MAIL_FROM", "nullrun@example.com");
    let mut gateway = nullrun_loadtest::gateway::Gateway::start(settings).unwrap();
    let mut browser = Browser::at(gateway.base_url());
    let made = register(&mut browser, "ada@example.com");
    let path = format!("/api/v1/orgs/{}/invites", made.word("organization_id"));
    let mut ada = browser.bearer(&made.word("session_token"));
    let body = json!({ "email": "bob@example.com", "role": "viewer" });
    ada.post(&path, &body).expect(201);
    let status = gateway.stop().unwrap();
    assert!(status.success(), "{status}");
    assert!(
        gateway.output().contains("everything answered is durable"),
        "{}",
        gateway.output()
    );
}
