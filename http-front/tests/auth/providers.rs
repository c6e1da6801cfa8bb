//! Signing in through providers: a real OpenID issuer, and what GitHub has instead.

use super::{House, PASSWORD, login, person, session};
use crate::tools::{Browser, Program, Reply};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const REGISTER: &str = "/api/v1/auth/oauth/register";
/// A PKCE verifier and its challenge (RFC 7636, appendix B).
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const BACK: &str = "http://127.0.0.1:9/back";

struct Street {
    house: House,
    issuer: Program,
}

impl Street {
    fn start() -> Self {
        Self::with(House::start)
    }

    fn with(start: impl FnOnce(&[(&str, &str)]) -> House) -> Self {
        let issuer = Program::start("issuer.py", &[]);
        let url = issuer.url();
        let house = start(&[
            ("NULLRUN_OIDC_ACME_ISSUER", &url),
            ("NULLRUN_OIDC_ACME_CLIENT_ID", "acme-id"),
            ("NULLRUN_OIDC_ACME_CLIENT_SECRET", "acme-s3cret"),
            ("NULLRUN_GITHUB_URL", &url),
            ("NULLRUN_GITHUB_CLIENT_ID", "hub"),
            ("NULLRUN_GITHUB_CLIENT_SECRET", "hub-s3cret"),
        ]);
        Self { house, issuer }
    }

    /// Gives somebody an account at the issuer.
    fn at_issuer(&self, sub: &str, claims: &Value) {
        let issuer = Browser::at(&self.issuer.url());
        issuer
            .peek("PUT", &format!("/users/{sub}"), Some(claims))
            .expect(204);
    }

    /// Says yes at a provider's page; where it sends the browser.
    fn consent(&self, url: &str, sub: &str) -> String {
        let path = url.strip_prefix(&self.issuer.url());
        let path = path.unwrap_or_else(|| panic!("{url} is not the provider's"));
        let issuer = Browser::at(&self.issuer.url());
        let form = "application/x-www-form-urlencoded";
        let reply = issuer.raw("POST", path, form, Some(&format!("sub={sub}")));
        reply.expect(302).header("location").unwrap().to_owned()
    }

    /// Begins a sign-in; where the browser is sent.
    fn begin(&self, browser: &mut Browser, provider: &str, query: &str) -> String {
        let path = format!("/api/v1/auth/oauth/{provider}/start{query}");
        let reply = browser.get(&path).expect(302);
        reply.header("location").unwrap().to_owned()
    }

    /// The whole way through the redirects.
    fn sign_in(&self, browser: &mut Browser, provider: &str, sub: &str, query: &str) -> Reply {
        let there = self.begin(browser, provider, query);
        let back = self.consent(&there, sub);
        browser.get(back.strip_prefix(&self.house.url()).unwrap())
    }

    /// A code that a client got by itself, with a challenge of its own.
    fn code(&self, sub: &str, nonce: Option<&str>) -> String {
        let nonce = nonce
            .map(|nonce| format!("&nonce={nonce}"))
            .unwrap_or_default();
        let url = format!(
            "{}/oauth2/authorize?client_id=acme-id&response_type=code&scope=openid%20email%20profile&state=s\
             &redirect_uri={BACK}&code_challenge={CHALLENGE}&code_challenge_method=S256{nonce}",
            self.issuer.url()
        );
        query_of(&self.consent(&url, sub), "code")
    }
}

fn query_of(url: &str, name: &str) -> String {
    let url = url.split_once('?').unwrap().1;
    let mut pairs = url.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(known, _)| *known == name)
        .unwrap()
        .1
        .to_owned()
}

fn by_code(code: &str) -> Value {
    json!({ "provider": "acme", "code": code, "code_verifier": VERIFIER, "redirect_uri": BACK, "state": "s" })
}

#[test]
fn without_a_provider_the_answer_names_the_settings() {
    let house = House::start(&[]);
    let mut browser = house.browser();
    for reply in [
        browser.post(REGISTER, &by_code("c")),
        browser.get("/api/v1/auth/oauth/github/start"),
        browser.get("/api/v1/auth/oauth/github/callback?code=c&state=s"),
    ] {
        reply.refused(501, "oauth_not_configured");
        assert!(reply.word("message").contains("NULLRUN_GITHUB_CLIENT_ID"));
    }
}

#[test]
fn a_browser_is_led_through_the_issuer_to_a_new_account_and_later_back_to_it() {
    let street = Street::start();
    street.at_issuer(
        "ada",
        &json!({ "email": "Ada@example.com", "email_verified": true, "name": "Ada\tL" }),
    );
    let mut browser = street.house.browser();
    let there = street.begin(&mut browser, "acme", "");
    for part in [
        "code_challenge_method=S256",
        "nonce=",
        "state=",
        "scope=openid+email+profile",
    ] {
        assert!(there.contains(part), "{there} lacks {part}");
    }
    let flow = browser.cookies["nullrun_flow"].clone();
    assert!(
        !flow.contains(&query_of(&there, "state")),
        "the cookie is sealed"
    );
    let back = street.consent(&there, "ada");
    let made = browser
        .get(back.strip_prefix(&street.house.url()).unwrap())
        .expect(201);
    assert!(made.word("api_key").starts_with("nr_live_"));
    assert!(made.set_cookie("nullrun_session").contains("HttpOnly"));
    assert!(!browser.cookies.contains_key("nullrun_flow"));
    let shown = session(&mut browser);
    assert_eq!(shown["user"]["email"], "ada@example.com");
    assert_eq!(shown["user"]["name"], "Ada L");
    assert_eq!(shown["user"]["email_verified"], true);
    assert_eq!(shown["user"]["has_password"], false);
    assert_eq!(shown["user"]["providers"], json!(["acme"]));
    let mut again = street.house.browser();
    let known = street.sign_in(&mut again, "acme", "ada", "").expect(200);
    assert_eq!(known.word("user_id"), made.word("user_id"));
    assert_eq!(known.word("organization_id"), made.word("organization_id"));
    assert_eq!(known.body["secret_key"], Value::Null);
    // The account is found by the issuer's id, whatever address is there now.
    street.at_issuer(
        "ada",
        &json!({ "email": "other@example.com", "email_verified": false }),
    );
    let known = street.sign_in(&mut again, "acme", "ada", "").expect(200);
    assert_eq!(known.word("user_id"), made.word("user_id"));
    // Nobody signs in to it with a password.
    for password in ["", "x", PASSWORD] {
        login(&mut street.house.browser(), "ada@example.com", password)
            .refused(401, "invalid_credentials");
    }
    let body = json!({ "current_password": "", "new_password": "another long password" });
    let csrf = again.cookies["nullrun_csrf"].clone();
    again.set("X-CSRF-Token", &csrf);
    again
        .post("/api/v1/auth/password", &body)
        .refused(422, "no_password");
}

#[test]
fn afterwards_the_browser_goes_on_to_a_path_of_this_gateway_and_nowhere_else() {
    let street = Street::start();
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "email_verified": true }),
    );
    let mut browser = street.house.browser();
    let reply = street
        .sign_in(&mut browser, "acme", "ada", "?return_to=/dashboard%3Fa=b")
        .expect(302);
    let right = format!("{}/dashboard?a=b", street.house.url());
    assert_eq!(reply.header("location"), Some(right.as_str()));
    session(&mut browser);
    for path in [
        "//evil.example",
        "https://evil.example",
        "/%5Cevil.example",
        "x",
    ] {
        let path = format!("/api/v1/auth/oauth/acme/start?return_to={path}");
        browser.get(&path).refused(400, "invalid_field");
    }
    for unknown in ["none/start", "none/callback?code=c&state=s"] {
        let path = format!("/api/v1/auth/oauth/{unknown}");
        browser.get(&path).refused(404, "not_found");
    }
}

#[test]
fn only_the_browser_that_began_a_sign_in_can_end_it() {
    let street = Street::start();
    street.at_issuer(
        "eve",
        &json!({ "email": "eve@example.com", "email_verified": true }),
    );
    let mut eve = street.house.browser();
    let there = street.begin(&mut eve, "acme", "");
    let back = street.consent(&there, "eve");
    let back = back.strip_prefix(&street.house.url()).unwrap();
    // Eve sends her own link to others, to have them in her account.
    let mut victim = street.house.browser();
    victim.get(back).refused(400, "oauth_state_mismatch");
    street.begin(&mut victim, "acme", "");
    victim.get(back).refused(400, "oauth_state_mismatch");
    assert!(!victim.cookies.contains_key("nullrun_session"));
    let other = back.replace("/acme/", "/github/");
    eve.get(&other).refused(400, "oauth_state_mismatch");
    let mut forged = eve.clone();
    let flow = forged.cookies["nullrun_flow"].clone();
    forged
        .cookies
        .insert("nullrun_flow".to_owned(), flow[2..].to_owned());
    forged.get(back).refused(400, "oauth_state_mismatch");
    let denied = format!(
        "/api/v1/auth/oauth/acme/callback?error=access_denied&state={}",
        query_of(&there, "state")
    );
    eve.clone().get(&denied).refused(403, "oauth_denied");
    eve.clone().get(back).expect(201);
    eve.get(back).refused(401, "oauth_code_invalid");
}

#[test]
fn a_client_that_led_the_browser_itself_posts_the_code() {
    let street = Street::start();
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "email_verified": true }),
    );
    let mut client = street.house.browser();
    let made = client
        .post(REGISTER, &by_code(&street.code("ada", None)))
        .expect(201);
    assert!(made.word("secret_key").len() == 64);
    let mut bearer = client.bearer(&made.word("session_token"));
    assert_eq!(session(&mut bearer)["user"]["email"], "ada@example.com");
    let known = client
        .post(REGISTER, &by_code(&street.code("ada", None)))
        .expect(200);
    assert_eq!(known.word("user_id"), made.word("user_id"));
    // With a nonce, it must come along.
    let mut with_nonce = by_code(&street.code("ada", Some("n1")));
    with_nonce["nonce"] = json!("n1");
    client.post(REGISTER, &with_nonce).expect(200);
    let bad: [(&str, Value, u16, &str); 5] = [
        ("code", json!("nonsense"), 401, "oauth_code_invalid"),
        (
            "code_verifier",
            json!("x".repeat(43)),
            401,
            "oauth_code_invalid",
        ),
        (
            "redirect_uri",
            json!("http://127.0.0.1:9/else"),
            401,
            "oauth_code_invalid",
        ),
        ("nonce", json!("another"), 401, "oauth_token_invalid"),
        ("provider", json!("none"), 400, "invalid_field"),
    ];
    for (field, value, status, code) in bad {
        let mut body = by_code(&street.code("ada", Some("n2")));
        body["nonce"] = json!("n2");
        body[field] = value;
        client.post(REGISTER, &body).refused(status, code);
    }
    let silent = by_code(&street.code("ada", Some("n3")));
    client
        .post(REGISTER, &silent)
        .refused(401, "oauth_token_invalid");
    let once = by_code(&street.code("ada", None));
    client.post(REGISTER, &once).expect(200);
    client
        .post(REGISTER, &once)
        .refused(401, "oauth_code_invalid");
}

#[test]
fn a_token_that_is_forged_or_meant_for_another_signs_nobody_in() {
    let street = Street::start();
    let forged = [
        ("aud", json!("another-client")),
        ("iss", json!("https://evil.example")),
        ("nonce", json!("another")),
        ("exp", json!(1_000_000_000)),
        ("_tampered", json!(true)),
    ];
    for (claim, value) in forged {
        let mut claims = json!({ "email": "ada@example.com", "email_verified": true });
        claims[claim] = value;
        street.at_issuer("ada", &claims);
        let mut browser = street.house.browser();
        let reply = street.sign_in(&mut browser, "acme", "ada", "");
        assert_eq!(reply.status, 401, "{claim}: {}", reply.text);
        reply.refused(401, "oauth_token_invalid");
        assert!(!browser.cookies.contains_key("nullrun_session"));
    }
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "email_verified": true }),
    );
    street
        .sign_in(&mut street.house.browser(), "acme", "ada", "")
        .expect(201);
}

#[test]
fn an_issuer_that_has_other_keys_now_is_believed_as_before() {
    let mut street = Street::start();
    let claims = json!({ "email": "ada@example.com", "email_verified": true });
    street.at_issuer("ada", &claims);
    let mut browser = street.house.browser();
    street.sign_in(&mut browser, "acme", "ada", "").expect(201);
    let port = street.issuer.port.to_string();
    street.issuer.end();
    street.issuer = Program::start("issuer.py", &[&port]);
    street.at_issuer("ada", &claims);
    street.sign_in(&mut browser, "acme", "ada", "").expect(200);
}

#[test]
fn an_account_with_a_password_is_linked_only_if_the_provider_vouches_for_the_address() {
    let street = Street::start();
    let mut ada = person(&street.house, "ada@example.com");
    let id = session(&mut ada)["user"]["id"].clone();
    street.at_issuer("ada", &json!({ "email": "ada@example.com" }));
    let mut browser = street.house.browser();
    street
        .sign_in(&mut browser, "acme", "ada", "")
        .refused(409, "email_taken");
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "email_verified": false }),
    );
    street
        .sign_in(&mut browser, "acme", "ada", "")
        .refused(409, "email_taken");
    let code = by_code(&street.code("ada", None));
    browser.post(REGISTER, &code).refused(409, "email_taken");
    street.at_issuer(
        "bob",
        &json!({ "email": "bob@example.com", "email_verified": false }),
    );
    street
        .sign_in(&mut browser, "acme", "bob", "")
        .refused(403, "email_unverified");
    let code = by_code(&street.code("bob", None));
    browser
        .post(REGISTER, &code)
        .refused(403, "email_unverified");
    street.at_issuer("bob", &json!({ "name": "Bob" }));
    street
        .sign_in(&mut browser, "acme", "bob", "")
        .refused(403, "email_missing");
    session(&mut ada);

    street.at_issuer(
        "ada",
        &json!({ "email": "ADA@example.com", "email_verified": true }),
    );
    let linked = street.sign_in(&mut browser, "acme", "ada", "").expect(200);
    assert_eq!(linked.body["user_id"], id);
    // The password was set by somebody who never showed that the address is theirs.
    ada.get("/api/v1/auth/session")
        .refused(401, "session_expired");
    login(&mut street.house.browser(), "ada@example.com", PASSWORD)
        .refused(401, "invalid_credentials");
    let mut crashed = street;
    crashed.house.crash();
    let mut browser = crashed.house.browser();
    let known = crashed.sign_in(&mut browser, "acme", "ada", "").expect(200);
    assert_eq!(known.body["user_id"], id);
}

#[test]
fn a_verified_account_keeps_its_password_and_sessions_when_a_provider_is_added() {
    let street = Street::start();
    let mut ada = person(&street.house, "ada@example.com");
    ada.ask("POST", "/api/v1/auth/email/send", None).expect(202);
    let link = crate::tools::token(&crate::tools::mails(&street.house.outbox(), 1)[0]);
    ada.post("/api/v1/auth/email/verify", &json!({ "token": link }))
        .expect(204);
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "email_verified": true }),
    );
    street
        .sign_in(&mut street.house.browser(), "acme", "ada", "")
        .expect(200);
    assert_eq!(session(&mut ada)["user"]["providers"], json!(["acme"]));
    login(&mut street.house.browser(), "ada@example.com", PASSWORD).expect(200);
}

#[test]
fn github_signs_in_by_its_own_words() {
    let street = Street::start();
    let mut browser = street.house.browser();
    let there = street.begin(&mut browser, "github", "");
    assert!(there.contains("scope=read%3Auser+user%3Aemail"), "{there}");
    let made = street
        .sign_in(&mut browser, "github", "octo", "")
        .expect(201);
    let shown = session(&mut browser);
    assert_eq!(
        shown["user"]["email"], "octo@example.com",
        "the primary one"
    );
    assert_eq!(shown["user"]["name"], "octo");
    let known = street
        .sign_in(&mut street.house.browser(), "github", "octo", "")
        .expect(200);
    assert_eq!(known.word("user_id"), made.word("user_id"));
    let state = query_of(&street.begin(&mut browser, "github", ""), "state");
    let bad = format!("/api/v1/auth/oauth/github/callback?code=nonsense&state={state}");
    browser.get(&bad).refused(401, "oauth_code_invalid");
}

#[test]
fn a_provider_that_does_not_answer_is_said_to_be_so_in_time() {
    // Takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let house = House::start(&[
        ("NULLRUN_OIDC_GONE_ISSUER", "http://127.0.0.1:9"),
        ("NULLRUN_OIDC_GONE_CLIENT_ID", "id"),
        ("NULLRUN_OIDC_GONE_CLIENT_SECRET", "s3cret"),
        ("NULLRUN_GITHUB_URL", &silent),
        ("NULLRUN_GITHUB_CLIENT_ID", "hub"),
        ("NULLRUN_GITHUB_CLIENT_SECRET", "hub-s3cret"),
    ]);
    let mut body = by_code("c");
    for (provider, most) in [("gone", 10), ("github", 30)] {
        body["provider"] = json!(provider);
        let began = Instant::now();
        let reply = house.browser().post(REGISTER, &body);
        reply.refused(503, "oauth_unavailable");
        assert!(reply.header("retry-after").is_some());
        assert!(
            began.elapsed() < Duration::from_secs(most),
            "{provider}: {:?}",
            began.elapsed()
        );
    }
    assert!(!house.output().contains("s3cret"));
}

#[test]
fn a_provider_that_does_not_take_the_secret_is_told_with_the_settings_and_without_the_secret() {
    let issuer = Program::start("issuer.py", &[]);
    let url = issuer.url();
    let house = House::talkative(&[
        ("NULLRUN_OIDC_ACME_ISSUER", &url),
        ("NULLRUN_OIDC_ACME_CLIENT_ID", "acme-id"),
        ("NULLRUN_OIDC_ACME_CLIENT_SECRET", "acme-wr0ng"),
        ("NULLRUN_GITHUB_URL", &url),
        ("NULLRUN_GITHUB_CLIENT_ID", "hub"),
        ("NULLRUN_GITHUB_CLIENT_SECRET", "hub-wr0ng"),
    ]);
    let settings = [
        ("acme", "NULLRUN_OIDC_ACME_CLIENT_SECRET"),
        ("github", "NULLRUN_GITHUB_CLIENT_SECRET"),
    ];
    for (provider, setting) in settings {
        let mut body = by_code("a code of theirs");
        body["provider"] = json!(provider);
        let reply = house.browser().post(REGISTER, &body);
        reply.refused(501, "oauth_misconfigured");
        assert!(reply.word("message").contains(setting), "{}", reply.text);
        assert!(house.log().contains(setting), "{setting} is not in the log");
        assert!(!reply.text.contains("wr0ng"), "{}", reply.text);
    }
    house.keeps(&["acme-wr0ng", "hub-wr0ng", "a code of theirs"].map(str::to_owned));
}

#[test]
fn nothing_of_a_sign_in_through_a_provider_is_logged() {
    let street = Street::with(House::talkative);
    let claims =
        json!({ "email": "ada@example.com", "email_verified": true, "name": "Ada Lovelace" });
    street.at_issuer("ada", &claims);
    let mut browser = street.house.browser();
    let mut secrets = vec!["acme-s3cret".to_owned(), "hub-s3cret".to_owned()];
    secrets.extend([VERIFIER, "ada@example.com", "Ada Lovelace"].map(str::to_owned));
    for provider in ["acme", "github"] {
        let there = street.begin(&mut browser, provider, "");
        secrets.push(query_of(&there, "state"));
        secrets.push(browser.cookies["nullrun_flow"].clone());
        let back = street.consent(&there, "ada");
        secrets.push(query_of(&back, "code"));
        let reply = browser.get(back.strip_prefix(&street.house.url()).unwrap());
        secrets.push(reply.word("session_token"));
        secrets.extend(browser.cookies.values().cloned());
    }
    let code = street.code("ada", None);
    browser.post(REGISTER, &by_code(&code)).expect(200);
    browser
        .post(REGISTER, &by_code(&code))
        .refused(401, "oauth_code_invalid");
    secrets.push(code);
    street.at_issuer(
        "ada",
        &json!({ "email": "ada@example.com", "aud": "another-client" }),
    );
    browser
        .post(REGISTER, &by_code(&street.code("ada", None)))
        .refused(401, "oauth_token_invalid");
    street.house.keeps(&secrets);
    assert!(street.house.log().contains("it is for another client"));
}
