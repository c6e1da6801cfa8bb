//! Mailed links: forgotten passwords and addresses to be verified; the outbox and a real mail server.

use super::{House, PASSWORD, login, person, register, session};
use crate::tools::{Program, mails, token};
use nullrun_loadtest::gateway::Settings;
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FORGOT: &str = "/api/v1/auth/password/forgot";
const RESET: &str = "/api/v1/auth/password/reset";

#[test]
fn a_forgotten_password_is_set_by_a_mailed_link_that_works_once_and_ends_all_sessions() {
    let house = House::start(&[]);
    let mut ada = person(&house, "ada@example.com");
    let mut eve = person(&house, "eve@example.com");
    let mut anyone = house.browser();
    for _ in 0..2 {
        anyone
            .post(FORGOT, &json!({ "email": "Ada@example.com" }))
            .expect(202);
    }
    let found = mails(&house.outbox(), 2);
    assert!(found[0].contains("To: ada@example.com"), "{}", found[0]);
    assert!(found[0].contains(&format!("{}/reset-password#token=", house.url())));
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&house.outbox()), 0o700);
    for entry in std::fs::read_dir(house.outbox()).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let body = |token: &str| json!({ "token": token, "password": "another long password" });
    let (first, second) = (token(&found[0]), token(&found[1]));
    let short = json!({ "token": first, "password": "short" });
    anyone.post(RESET, &short).refused(400, "invalid_field");
    let verify = json!({ "token": first });
    ada.post("/api/v1/auth/email/verify", &verify)
        .refused(400, "invalid_token");
    // Five tries too many, as of somebody who has forgotten it.
    for _ in 0..5 {
        login(&mut anyone, "ada@example.com", "wrong wrong wrong")
            .refused(401, "invalid_credentials");
    }
    login(&mut anyone, "ada@example.com", PASSWORD).refused(429, "too_many_attempts");
    anyone.post(RESET, &body(&first)).expect(204);
    anyone
        .post(RESET, &body(&first))
        .refused(400, "invalid_token");
    // The one in the other mail would be as good to whoever finds it.
    anyone
        .post(RESET, &body(&second))
        .refused(400, "invalid_token");
    anyone
        .post(RESET, &body("nonsense"))
        .refused(400, "invalid_token");
    ada.get("/api/v1/auth/session")
        .refused(401, "session_expired");
    session(&mut eve);
    login(&mut anyone, "ada@example.com", PASSWORD).refused(401, "invalid_credentials");
    login(&mut anyone, "ada@example.com", "another long password").expect(200);
    assert_eq!(session(&mut anyone)["user"]["email_verified"], true);
}

#[test]
fn two_who_use_one_link_at_the_same_time_set_one_password() {
    let house = House::start(&[]);
    person(&house, "ada@example.com");
    house
        .browser()
        .post(FORGOT, &json!({ "email": "ada@example.com" }))
        .expect(202);
    let link = token(&mails(&house.outbox(), 1)[0]);
    let tries: Vec<_> = (0..4)
        .map(|n| {
            let (browser, link) = (house.browser(), link.clone());
            std::thread::spawn(move || {
                let body = json!({ "token": link, "password": format!("password number {n}") });
                browser.peek("POST", RESET, Some(&body)).status
            })
        })
        .collect();
    let mut statuses: Vec<_> = tries.into_iter().map(|t| t.join().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 400, 400, 400]);
}

#[test]
fn a_link_outlives_a_crash_and_a_used_one_stays_used() {
    let mut house = House::start(&[]);
    person(&house, "ada@example.com");
    house
        .browser()
        .post(FORGOT, &json!({ "email": "ada@example.com" }))
        .expect(202);
    let link = token(&mails(&house.outbox(), 1)[0]);
    house.crash();
    let body = json!({ "token": link, "password": "another long password" });
    house.browser().post(RESET, &body).expect(204);
    house.crash();
    house
        .browser()
        .post(RESET, &body)
        .refused(400, "invalid_token");
}

#[test]
fn who_asks_for_a_link_does_not_learn_whether_the_address_is_registered() {
    let house = House::start(&[]);
    let emails = |who: &str| {
        (0..6)
            .map(|n| format!("{who}-{n}@example.com"))
            .collect::<Vec<_>>()
    };
    let (known, unknown) = (emails("known"), emails("unknown"));
    for email in &known {
        person(&house, email);
    }
    let mut anyone = house.browser();
    let mut times = [Vec::new(), Vec::new()];
    let mut bodies = Vec::new();
    for (known, unknown) in known.iter().zip(&unknown) {
        for (email, times) in [known, unknown].into_iter().zip(&mut times) {
            let began = Instant::now();
            let reply = anyone.post(FORGOT, &json!({ "email": email })).expect(202);
            times.push(began.elapsed());
            bodies.push(reply.text);
            // What goes on behind the answer must not weigh on the next one.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    // The fastest: what a busy machine adds to some says nothing.
    let [known_time, unknown_time] = times.map(|times| times.into_iter().min().unwrap());
    println!("known {known_time:?}, unknown {unknown_time:?}");
    assert!(known_time < unknown_time * 3 + Duration::from_millis(5));
    mails(&house.outbox(), known.len());
    // The bound is the same, too.
    for email in [&known[0], &unknown[0]] {
        for _ in 0..4 {
            anyone.post(FORGOT, &json!({ "email": email })).expect(202);
        }
        let refused = anyone.post(FORGOT, &json!({ "email": email }));
        refused.refused(429, "too_many_attempts");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((200..=300).contains(&wait), "{wait}");
    }
    mails(&house.outbox(), known.len() + 4);
}

#[test]
fn an_address_is_verified_by_a_mailed_link() {
    let house = House::start(&[]);
    let mut ada = person(&house, "ada@example.com");
    let sent = ada.ask("POST", "/api/v1/auth/email/send", None);
    sent.expect(202);
    let link = token(&mails(&house.outbox(), 1)[0]);
    let body = json!({ "token": link });
    let reset = json!({ "token": link, "password": "another long password" });
    let mut anyone = house.browser();
    anyone.post(RESET, &reset).refused(400, "invalid_token");
    // Whoever opens the mail shows that the mailbox is theirs, not that the account is.
    anyone
        .post("/api/v1/auth/email/verify", &body)
        .refused(401, "unauthorized");
    person(&house, "eve@example.com")
        .post("/api/v1/auth/email/verify", &body)
        .refused(400, "invalid_token");
    assert_eq!(session(&mut ada)["user"]["email_verified"], false);
    ada.post("/api/v1/auth/email/verify", &body).expect(204);
    ada.post("/api/v1/auth/email/verify", &body)
        .refused(400, "invalid_token");
    assert_eq!(session(&mut ada)["user"]["email_verified"], true);
    let again = ada.ask("POST", "/api/v1/auth/email/send", None);
    again.refused(409, "already_verified");
    let nobody = anyone.ask("POST", "/api/v1/auth/email/send", None);
    nobody.refused(401, "unauthorized");
    let mut bob = person(&house, "bob@example.com");
    for _ in 0..5 {
        bob.ask("POST", "/api/v1/auth/email/send", None).expect(202);
    }
    let sixth = bob.ask("POST", "/api/v1/auth/email/send", None);
    sixth.refused(429, "too_many_attempts");
    mails(&house.outbox(), 6);
}

#[test]
fn a_stranger_who_registered_an_address_first_loses_the_account_to_its_owner() {
    let house = House::start(&[]);
    let mut eve = person(&house, "ada@example.com");
    eve.ask("POST", "/api/v1/auth/email/send", None).expect(202);
    let link = token(&mails(&house.outbox(), 1)[0]);
    let verify = json!({ "token": link });
    let mut ada = house.browser();
    ada.post("/api/v1/auth/email/verify", &verify)
        .refused(401, "unauthorized");
    ada.post(FORGOT, &json!({ "email": "ada@example.com" }))
        .expect(202);
    let link = token(&mails(&house.outbox(), 2)[1]);
    let reset = json!({ "token": link, "password": "another long password" });
    ada.post(RESET, &reset).expect(204);
    eve.get("/api/v1/auth/session")
        .refused(401, "session_expired");
    login(&mut ada, "ada@example.com", PASSWORD).refused(401, "invalid_credentials");
    login(&mut ada, "ada@example.com", "another long password").expect(200);
    assert_eq!(session(&mut ada)["user"]["email_verified"], true);
}

#[test]
fn an_address_is_what_can_be_mailed_to() {
    let house = House::start(&[]);
    let long = format!("a@{}.com", "x".repeat(300));
    for email in [
        "ada",
        "@example.com",
        "ada@",
        "ada@exa mple.com",
        "Ada <ada@example.com>",
        "ada@example.com,eve@example.com",
        &long,
    ] {
        let body = json!({ "email": email, "password": PASSWORD });
        let reply = house.browser().post("/api/v1/auth/register", &body);
        assert_eq!(reply.status, 400, "{email}: {}", reply.text);
        reply.refused(400, "invalid_field");
        assert_eq!(reply.body["details"]["field"], "email");
    }
}

#[test]
fn the_pages_that_links_lead_to_are_there_and_load_nothing_from_elsewhere() {
    let house = House::start(&[]);
    for path in ["/reset-password", "/verify-email", "/invite"] {
        let page = house.browser().get(path).expect(200);
        assert!(
            page.header("content-type")
                .unwrap()
                .starts_with("text/html")
        );
        assert!(
            page.header("content-security-policy")
                .unwrap()
                .contains("default-src 'none'")
        );
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert!(!page.text.contains("http"), "{}", page.text);
    }
}

#[test]
fn mail_goes_through_the_server_that_is_set_and_is_tried_again_when_that_is_busy() {
    let inbox = TempDir::with_prefix("nullrun-inbox-").unwrap();
    let sink = Program::start("smtp.py", &[inbox.path().to_str().unwrap(), "1"]);
    let url = format!("smtp://127.0.0.1:{}", sink.port);
    let house = House::start(&[
        ("NULLRUN_SMTP_URL", &url),
        ("NULLRUN_MAIL_FROM", "NullRun <nullrun@example.com>"),
        ("NULLRUN_PUBLIC_URL", "https://nullrun.example.com"),
    ]);
    let mut browser = house.browser();
    let made = register(&mut browser, "ada@example.com");
    // Signing up asks to verify the address, where mail leaves the machine.
    let welcome = mails(inbox.path(), 1);
    assert!(
        welcome[0].contains("From: NullRun <nullrun@example.com>")
            || welcome[0].contains("From: \"NullRun\" <nullrun@example.com>"),
        "{}",
        welcome[0]
    );
    assert!(welcome[0].contains("https://nullrun.example.com/verify-email#token="));
    house.says("a mail was not sent");
    let body = json!({ "token": token(&welcome[0]) });
    let mut ada = browser.bearer(&made.word("session_token"));
    ada.post("/api/v1/auth/email/verify", &body).expect(204);
    browser
        .post(FORGOT, &json!({ "email": "ada@example.com" }))
        .expect(202);
    let both = mails(inbox.path(), 2);
    let reset = json!({ "token": token(&both[1]), "password": "another long password" });
    browser.post(RESET, &reset).expect(204);
    assert!(!house.outbox().exists());
}

#[test]
fn a_mail_that_cannot_be_sent_is_logged_without_its_address_and_its_link() {
    let inbox = TempDir::with_prefix("nullrun-inbox-").unwrap();
    let sink = Program::start("smtp.py", &[inbox.path().to_str().unwrap()]);
    let url = format!("smtp://127.0.0.1:{}", sink.port);
    let house = House::talkative(&[
        ("NULLRUN_SMTP_URL", &url),
        ("NULLRUN_MAIL_FROM", "nullrun@example.com"),
    ]);
    let mut browser = house.browser();
    let mut secrets = vec![PASSWORD.to_owned(), "another long password".to_owned()];
    let made = register(&mut browser, "nobody@example.com");
    for field in ["api_key", "secret_key", "session_token"] {
        secrets.push(made.word(field));
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    while !house.log().contains("a mail was given up") {
        assert!(Instant::now() < deadline, "it was not given up");
        std::thread::sleep(Duration::from_millis(50));
    }
    register(&mut browser, "ada@example.com");
    browser
        .post(FORGOT, &json!({ "email": "ada@example.com" }))
        .expect(202);
    for mail in mails(inbox.path(), 2) {
        secrets.push(token(&mail));
        let reset = json!({ "token": token(&mail), "password": "another long password" });
        let _one_of_two = browser.post(RESET, &reset);
    }
    let made = login(&mut browser, "ada@example.com", "another long password").expect(200);
    secrets.push(made.word("session_token"));
    secrets.extend(browser.cookies.values().cloned());
    secrets.extend(["nobody@example.com", "ada@example.com"].map(str::to_owned));
    house.keeps(&secrets);
}

#[test]
fn a_mail_server_without_a_sender_or_an_address_that_is_none_is_refused_at_the_start() {
    for environment in [
        vec![("NULLRUN_SMTP_URL", "smtp://127.0.0.1:1")],
        vec![
            ("NULLRUN_SMTP_URL", "mail.example.com"),
            ("NULLRUN_MAIL_FROM", "a@example.com"),
        ],
        vec![("NULLRUN_PUBLIC_URL", "nullrun.example.com")],
        vec![
            ("NULLRUN_SMTP_URL", "smtp://127.0.0.1:1?tls=perhaps"),
            ("NULLRUN_MAIL_FROM", "a@example.com"),
        ],
        vec![("NULLRUN_GITHUB_CLIENT_ID", "half")],
        vec![
            ("NULLRUN_GITHUB_CLIENT_ID", "whole"),
            ("NULLRUN_GITHUB_CLIENT_SECRET", " "),
        ],
        vec![("NULLRUN_OIDC_ACME_ISSUER", "http://login.example.com")],
    ] {
        let data = TempDir::with_prefix("nullrun-auth-").unwrap();
        let settings = Settings::new(env!("CARGO_BIN_EXE_nullrun"), data.path());
        let settings = environment
            .iter()
            .fold(settings, |settings, (name, value)| {
                settings.env(*name, *value)
            });
        let why = nullrun_loadtest::gateway::Gateway::start(settings)
            .unwrap_err()
            .to_string();
        let named = [
            "NULLRUN_MAIL_FROM",
            "NULLRUN_SMTP_URL",
            "NULLRUN_PUBLIC_URL",
            "NULLRUN_GITHUB_CLIENT_SECRET",
            "NULLRUN_OIDC_ACME",
        ];
        assert!(named.iter().any(|name| why.contains(name)), "{why}");
        // Nothing was begun yet.
        assert!(!data.path().join("wal").exists());
    }
}
