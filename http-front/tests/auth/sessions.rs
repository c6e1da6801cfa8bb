//! Sessions, by token and by cookie.

use super::{House, PASSWORD, login, person, register, session};
use crate::tools::Browser;
use serde_json::{Value, json};

#[test]
fn a_session_says_who_is_signed_in_and_a_person_takes_another_name() {
    let house = House::start(&[]);
    let mut ada = person(&house, " Ada@Example.com ");
    let shown = session(&mut ada);
    assert_eq!(shown["user"]["email"], "ada@example.com");
    assert_eq!(shown["user"]["name"], "Ada");
    assert_eq!(shown["user"]["email_verified"], false);
    assert_eq!(shown["user"]["has_password"], true);
    assert_eq!(shown["organizations"][0]["role"], "owner");
    assert_eq!(shown["csrf_token"], Value::Null);
    assert!(shown["expires_at"].as_str().unwrap().ends_with('Z'));
    let name = json!({ "name": "  Countess  " });
    let patched = ada
        .ask("PATCH", "/api/v1/auth/user", Some(&name))
        .expect(200);
    assert_eq!(patched.body["name"], "Countess");
    assert_eq!(session(&mut ada)["user"]["name"], "Countess");
    // A name is one line, wherever it is given: mails say it.
    for name in ["a\u{0}b", "a\nb", &"x".repeat(256)] {
        let wrong = json!({ "name": name });
        ada.ask("PATCH", "/api/v1/auth/user", Some(&wrong))
            .refused(400, "validation_error");
        let wrong = json!({ "email": "eve@example.com", "password": PASSWORD, "name": name });
        let mut eve = house.browser();
        eve.post("/api/v1/auth/register", &wrong)
            .refused(400, "validation_error");
    }
    for path in ["/auth/session", "/auth/sessions"] {
        let path = format!("/api/v1{path}");
        house.browser().get(&path).refused(401, "unauthorized");
    }
}

#[test]
fn the_list_of_sessions_tells_from_where_and_with_what_each_was_opened() {
    let house = House::start(&[]);
    let mut first = person(&house, "ada@example.com");
    let mut phone = house.browser();
    phone.set("User-Agent", &format!("phone\t{}", "x".repeat(400)));
    let phone = login(&mut phone, "ada@example.com", PASSWORD).expect(200);
    let list = first.get("/api/v1/auth/sessions").expect(200).body;
    let list = list["data"].as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(
        (&list[0]["current"], &list[1]["current"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(list[1]["ip"], "127.0.0.1");
    let agent = list[1]["user_agent"].as_str().unwrap();
    assert!(
        agent.starts_with("phone x") && agent.len() == 256,
        "{agent}"
    );
    let shown = list.iter().map(Value::to_string).collect::<String>();
    assert!(!shown.contains(&phone.word("session_token")));
    let page = first.get("/api/v1/auth/sessions?limit=1").expect(200).body;
    let next = page["next_cursor"].as_str().unwrap();
    let page = first.get(&format!("/api/v1/auth/sessions?limit=1&cursor={next}"));
    assert_eq!(page.expect(200).body["data"][0]["id"], list[1]["id"]);
}

#[test]
fn a_session_that_was_ended_is_refused_at_once() {
    let house = House::start(&[]);
    let mut ada = person(&house, "ada@example.com");
    let mut others: Vec<Browser> = (0..3)
        .map(|_| {
            let token = login(&mut house.browser(), "ada@example.com", PASSWORD);
            ada.bearer(&token.expect(200).word("session_token"))
        })
        .collect();
    let one = session(&mut others[0])["session_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/api/v1/auth/sessions/{one}");
    let mut eve = person(&house, "eve@example.com");
    eve.ask("DELETE", &path, None).refused(404, "not_found");
    ada.ask("DELETE", &path, None).expect(204);
    let gone = others[0].get("/api/v1/auth/session");
    gone.refused(401, "session_expired");
    ada.ask("DELETE", &path, None).refused(404, "not_found");
    others[1]
        .ask("POST", "/api/v1/auth/logout", None)
        .expect(204);
    others[1]
        .get("/api/v1/auth/session")
        .refused(401, "session_expired");
    session(&mut others[2]);
    ada.ask("DELETE", "/api/v1/auth/sessions", None).expect(204);
    others[2]
        .get("/api/v1/auth/session")
        .refused(401, "session_expired");
    session(&mut ada);
    session(&mut eve);
}

#[test]
fn sessions_and_their_cookies_outlive_a_crash_and_ended_ones_stay_ended() {
    let mut house = House::start(&[]);
    let mut browser = house.browser();
    register(&mut browser, "ada@example.com");
    let kept = session(&mut browser);
    let ended = login(&mut house.browser(), "ada@example.com", PASSWORD).word("session_token");
    let mut over = browser.bearer(&ended);
    over.ask("POST", "/api/v1/auth/logout", None).expect(204);
    house.crash();
    let cookies = browser.cookies.clone();
    let mut browser = house.browser();
    browser.cookies = cookies;
    assert_eq!(session(&mut browser), kept);
    browser.set("X-CSRF-Token", kept["csrf_token"].as_str().unwrap());
    let name = json!({ "name": "still here" });
    browser
        .ask("PATCH", "/api/v1/auth/user", Some(&name))
        .expect(200);
    let mut over = house.browser().bearer(&ended);
    over.get("/api/v1/auth/session")
        .refused(401, "session_expired");
}

#[test]
fn cookies_are_hidden_from_scripts_and_over_https_bound_to_this_host() {
    let names = ["nullrun_session", "nullrun_csrf"];
    let house = House::start(&[]);
    let made = register(&mut house.browser(), "ada@example.com");
    let [hidden, readable] = names.map(|name| made.set_cookie(name).to_owned());
    assert!(
        hidden.ends_with("; Path=/; Max-Age=604800; SameSite=Lax; HttpOnly"),
        "{hidden}"
    );
    assert!(
        readable.ends_with("; Path=/; Max-Age=604800; SameSite=Lax"),
        "{readable}"
    );
    assert_eq!(made.header("cache-control"), Some("no-store"));

    let house = House::start(&[("NULLRUN_PUBLIC_URL", "https://nullrun.example.com/")]);
    let mut browser = house.browser();
    register(&mut browser, "ada@example.com");
    let made = login(&mut browser, "ada@example.com", PASSWORD).expect(200);
    let [hidden, readable] =
        names.map(|name| made.set_cookie(&format!("__Host-{name}")).to_owned());
    assert!(hidden.ends_with("; Path=/; Max-Age=604800; SameSite=Lax; HttpOnly; Secure"));
    assert!(readable.ends_with("; Path=/; Max-Age=604800; SameSite=Lax; Secure"));
    assert!(session(&mut browser)["csrf_token"].is_string());
    let csrf = browser.cookies["__Host-nullrun_csrf"].clone();
    browser.set("X-CSRF-Token", &csrf);
    let out = browser.ask("POST", "/api/v1/auth/logout", None).expect(204);
    assert!(
        out.set_cookie("__Host-nullrun_session")
            .contains("Max-Age=0")
    );
    assert!(browser.cookies.is_empty());
    // Names of the other kind are not cookies here: another page of the host could have set them.
    let mut plain = house.browser();
    plain
        .cookies
        .insert("nullrun_session".to_owned(), made.word("session_token"));
    plain
        .get("/api/v1/auth/session")
        .refused(401, "unauthorized");

    let production = House::start(&[("NULLRUN_ENV", "production")]);
    let made = register(&mut production.browser(), "ada@example.com");
    assert!(
        made.set_cookie("__Host-nullrun_session")
            .ends_with("Secure")
    );
}

#[test]
fn a_change_by_cookie_needs_this_sessions_csrf_token_in_the_cookie_and_in_the_header() {
    let house = House::start(&[]);
    let mut ada = house.browser();
    let org = register(&mut ada, "ada@example.com").word("organization_id");
    let mut eve = house.browser();
    register(&mut eve, "eve@example.com");
    let right = ada.cookies["nullrun_csrf"].clone();
    assert_eq!(session(&mut ada)["csrf_token"], json!(right));
    let foreign = eve.cookies["nullrun_csrf"].clone();
    let flipped = right.replace(&right[..1], if right.starts_with('0') { "1" } else { "0" });
    let workflows = format!("/api/v1/orgs/{org}/workflows");
    let name = json!({ "name": "w" });
    let changes = [
        ("POST", workflows.as_str(), Some(&name)),
        ("PATCH", "/api/v1/auth/user", Some(&name)),
        ("DELETE", "/api/v1/auth/sessions", None),
    ];
    let (some, none) = (Some(right.as_str()), None);
    let matrix = [
        (some, some, true),
        (none, none, false),
        (some, none, false),
        (none, some, false),
        (some, Some(foreign.as_str()), false),
        (Some(foreign.as_str()), some, false),
        (Some(foreign.as_str()), Some(foreign.as_str()), false),
        (Some(flipped.as_str()), Some(flipped.as_str()), false),
        (Some("x"), Some("x"), false),
    ];
    for (method, path, body) in changes {
        for (cookie, header, good) in matrix {
            let mut browser = ada.clone();
            browser.cookies.remove("nullrun_csrf");
            if let Some(cookie) = cookie {
                browser
                    .cookies
                    .insert("nullrun_csrf".to_owned(), cookie.to_owned());
            }
            if let Some(header) = header {
                browser.set("X-CSRF-Token", header);
            }
            let reply = browser.peek(method, path, body);
            match good {
                true => assert!(
                    (200..300).contains(&reply.status),
                    "{method}: {}",
                    reply.text
                ),
                false => reply.refused(403, "csrf_mismatch"),
            }
        }
        // A token that no browser sends by itself needs no more.
        let mut bearer = house.browser().bearer(&ada.cookies["nullrun_session"]);
        let reply = bearer.ask(method, path, body);
        assert!(
            (200..300).contains(&reply.status),
            "{method}: {}",
            reply.text
        );
    }
    let listed = ada.get(&workflows).expect(200).body;
    assert_eq!(
        listed["data"].as_array().unwrap().len(),
        3,
        "only the good ones"
    );
    // A session that is over is that, whatever came with it.
    let mut stale = ada.clone();
    stale
        .cookies
        .insert("nullrun_session".to_owned(), "ses_none".to_owned());
    stale
        .post(&workflows, &name)
        .refused(401, "session_expired");
}

#[test]
fn an_api_key_is_no_session() {
    let house = House::start(&[]);
    let key = register(&mut house.browser(), "ada@example.com").word("api_key");
    let mut bearer = house.browser().bearer(&key);
    bearer.get("/api/v1/auth/session").refused(403, "forbidden");
    bearer
        .ask("DELETE", "/api/v1/auth/sessions", None)
        .refused(403, "forbidden");
    let mut unknown = house.browser().bearer("nr_live_unknown");
    unknown
        .get("/api/v1/auth/session")
        .refused(401, "api_key_invalid");
    let mut header = house.browser();
    header.set("X-API-Key", &key);
    header
        .ask("POST", "/api/v1/auth/logout", None)
        .refused(403, "forbidden");
}

#[test]
fn after_five_wrong_passwords_even_the_right_one_has_to_wait() {
    let house = House::start(&[]);
    let mut ada = person(&house, "ada@example.com");
    for _ in 0..5 {
        let wrong = login(&mut house.browser(), "ada@example.com", "wrong wrong wrong");
        wrong.refused(401, "invalid_credentials");
    }
    let right = login(&mut house.browser(), "ada@example.com", PASSWORD);
    right.refused(429, "too_many_attempts");
    let wait: u64 = right.header("retry-after").unwrap().parse().unwrap();
    assert!((290..=300).contains(&wait), "{wait}");
    // Guessing goes on nowhere else; who is signed in stays so.
    let body = json!({ "current_password": PASSWORD, "new_password": "another long password" });
    ada.post("/api/v1/auth/password", &body)
        .refused(429, "too_many_attempts");
    session(&mut ada);
}

#[test]
fn another_password_needs_the_one_before_and_ends_the_other_sessions() {
    let house = House::start(&[]);
    let mut ada = person(&house, "ada@example.com");
    let token = login(&mut house.browser(), "ada@example.com", PASSWORD).word("session_token");
    let mut other = house.browser().bearer(&token);
    let path = "/api/v1/auth/password";
    let body =
        |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    ada.post(path, &body("wrong wrong wrong", "another long password"))
        .refused(403, "wrong_password");
    let short = ada.post(path, &body(PASSWORD, "short"));
    short.refused(400, "invalid_field");
    assert_eq!(short.body["details"]["field"], "new_password");
    session(&mut other);
    ada.post(path, &body(PASSWORD, "another long password"))
        .expect(204);
    session(&mut ada);
    other
        .get("/api/v1/auth/session")
        .refused(401, "session_expired");
    login(&mut house.browser(), "ada@example.com", PASSWORD).refused(401, "invalid_credentials");
    login(
        &mut house.browser(),
        "ada@example.com",
        "another long password",
    )
    .expect(200);
}
