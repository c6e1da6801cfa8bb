//! Refusals that need something out of the ordinary: a proxy, a provider that is not there, another
//! master key, a log that is gone, the last place taken.

use super::support::{GATEWAY, Stage};
use super::{Bench, says_when};
use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, Protocol};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use serde_json::json;

/// Sends with a further header.
async fn with(
    stage: &mut Stage,
    path: &str,
    caller: Caller<'_>,
    (name, value): (&str, &str),
) -> Answer {
    let prepared = stage.connection.prepare(Method::GET, path, caller, None);
    let prepared = prepared.unwrap().with_header(name, value).unwrap();
    stage.connection.send(prepared).await.unwrap()
}

#[track_caller]
fn is(answer: &Answer, status: u16, code: &str) {
    let seen = (answer.status, answer.error_code());
    assert_eq!(seen, (status, code), "{}", answer.in_short());
}

#[tokio::test]
async fn queries_and_headers_that_mean_nothing_are_refused_everywhere() {
    let mut bench = Bench::start();
    let about = bench.furnish().await;
    let account = &about.account;
    let stage = &mut bench.stage;
    for path in ["admin/orgs", "admin/pricing", "auth/sessions"] {
        let path = format!("/api/v1/{path}?limit=0");
        let refused = stage.connection.get(&path, account.operator()).await;
        is(&refused.unwrap(), 400, "INVALID_FIELD");
    }
    let path = "/api/v1/budget/approximate";
    let new = ("X-NULLRUN-PROTOCOL", "5");
    let refused = with(stage, path, Caller::Key(&account.key), new).await;
    is(&refused, 400, "PROTOCOL_TOO_NEW");
    let path = "/api/v1/docs/%ff";
    let refused = stage.connection.get(path, Caller::Anonymous).await.unwrap();
    is(&refused, 400, "BAD_REQUEST");
    let path = "/api/v1/auth/email/verify";
    let body = json!({ "token": "none" });
    for (caller, status) in [(Caller::Anonymous, 401), (Caller::Key(&account.key), 403)] {
        let refused = stage.connection.post(path, caller, &body).await.unwrap();
        assert_eq!(refused.status, status, "{}", refused.in_short());
    }
}

#[tokio::test]
async fn metrics_are_for_this_machine_or_for_who_has_the_token() {
    let far = ("X-Forwarded-For", "192.0.2.1");
    let token = [("NULLRUN_METRICS_TOKEN", "metrics-token")];
    for (environment, status) in [(&[][..], 403), (&token, 401)] {
        let mut stage = Stage::start(environment);
        for path in ["/metrics", "/api/v1/metrics/prometheus"] {
            let refused = with(&mut stage, path, Caller::Anonymous, far).await;
            assert_eq!(refused.status, status, "{}", refused.in_short());
        }
    }
}

#[tokio::test]
async fn what_is_taken_and_what_is_full_is_refused() {
    let mut stage = Stage::start(&[("NULLRUN_DURABILITY", "memory")]);
    let account = stage.account().await;
    let again = json!({ "email": account.email, "password": "long enough by far" });
    let path = "/api/v1/auth/register";
    let taken = stage.connection.post(path, Caller::Anonymous, &again).await;
    is(&taken.unwrap(), 409, "EMAIL_TAKEN");

    let named = |name: &str| json!({ "name": name, "external_id": "one" });
    stage.post(&account, "/workflows", named("first")).await;
    let taken = stage.post(&account, "/workflows", named("second")).await;
    is(&taken, 409, "EXTERNAL_ID_TAKEN");
    let path = account.path(&format!("/workflows/{}", account.workflow));
    let patch = json!({ "external_id": "one" });
    let taken = stage.connection.patch(&path, account.operator(), &patch);
    is(&taken.await.unwrap(), 409, "EXTERNAL_ID_TAKEN");

    let shadow = |mode: &str| {
        let config = json!({ "max_calls_per_minute": 5 });
        json!({ "name": "p", "policy_type": "RateLimit", "config": config, "mode": mode })
    };
    for _ in 0..50 {
        let made = stage.post(&account, "/policies", shadow("shadow")).await;
        made.expect(&[201]).unwrap();
    }
    let full = stage.post(&account, "/policies", shadow("shadow")).await;
    is(&full, 409, "OBSERVER_LIMIT_REACHED");
    let one = stage.post(&account, "/policies", shadow("enforce")).await;
    let path = account.path(&format!("/policies/{}", one.required("id").unwrap()));
    let patch = json!({ "mode": "shadow" });
    let full = stage.connection.patch(&path, account.operator(), &patch);
    is(&full.await.unwrap(), 409, "OBSERVER_LIMIT_REACHED");

    // The first was made at registration.
    let (path, new) = ("/api/v1/orgs", json!({ "name": "one more" }));
    for _ in 1..100 {
        let made = stage.connection.post(path, account.operator(), &new).await;
        made.unwrap().expect(&[201]).unwrap();
    }
    let full = stage.connection.post(path, account.operator(), &new).await;
    let full = full.unwrap();
    is(&full, 409, "ORGANIZATION_LIMIT_REACHED");
}

const PLANS: &str = r#"
default = "one"
[[plan]]
name = "one"
title = "One"
limits = { api_keys = 1, policies = 1, seats = 1 }
"#;

#[tokio::test]
async fn a_plan_without_room_for_one_more_says_so() {
    let plans = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(plans.path(), PLANS).unwrap();
    let plans = plans.path().to_str().unwrap();
    let mut stage = Stage::start(&[("NULLRUN_PLANS_FILE", plans)]);
    let account = stage.account().await;
    let guest = json!({ "email": "guest@example.com", "role": "viewer" });
    let full = stage.post(&account, "/invites", guest).await;
    is(&full, 429, "SEATS_LIMIT_REACHED");
    let path = format!("/workflows/{}/api-keys", account.workflow);
    let full = stage.post(&account, &path, json!({ "name": "k" })).await;
    is(&full, 429, "API_KEY_LIMIT_REACHED");
    let rate =
        json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 5 } });
    let made = stage.post(&account, "/policies", rate).await;
    made.expect(&[201]).unwrap();
    let path = "/policies/templates/loop-guard/enable";
    let full = stage.post(&account, path, json!({})).await;
    is(&full, 429, "POLICY_LIMIT_REACHED");
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_503() {
    // Nothing listens on the port of discard.
    let nobody = "http://127.0.0.1:9";
    let mut stage = Stage::start(&[
        ("NULLRUN_OIDC_ACME_ISSUER", nobody),
        ("NULLRUN_OIDC_ACME_CLIENT_ID", "id"),
        ("NULLRUN_OIDC_ACME_CLIENT_SECRET", "secret"),
        ("NULLRUN_GITHUB_URL", nobody),
        ("NULLRUN_GITHUB_CLIENT_ID", "id"),
        ("NULLRUN_GITHUB_CLIENT_SECRET", "secret"),
    ]);
    let connection = &mut stage.connection;
    let start = |name: &str| format!("/api/v1/auth/oauth/{name}/start");
    let answer = connection.get(&start("acme"), Caller::Anonymous).await;
    says_when("oauth_start", &answer.unwrap());
    let begun = connection.get(&start("github"), Caller::Anonymous).await;
    let begun = begun.unwrap();
    let header = |name: &str| begun.headers[name].to_str().unwrap();
    let cookie = header("set-cookie").split(';').next().unwrap();
    let state = header("location").split("state=").nth(1).unwrap();
    let state = state.split('&').next().unwrap();
    let path = format!("/api/v1/auth/oauth/github/callback?code=c&state={state}");
    let answer = with(&mut stage, &path, Caller::Anonymous, ("Cookie", cookie)).await;
    says_when("oauth_callback", &answer);
}

#[tokio::test]
async fn secrets_that_another_master_key_sealed_are_a_fault_of_the_gateway() {
    let data = tempfile::TempDir::new().unwrap();
    let with_key = |digit: &str| {
        let settings = Settings::new(GATEWAY, data.path());
        settings.env("NULLRUN_MASTER_KEY", digit.repeat(64))
    };
    let gateway = Gateway::start(with_key("1")).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(1);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    drop(gateway);
    let gateway = Gateway::start(with_key("2")).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let status = format!("/api/v1/status/{}", account.workflow);
    for (method, path) in [
        (Method::POST, "/api/v1/track"),
        (Method::POST, "/api/v1/track/batch"),
        (Method::POST, "/api/v1/cancel"),
        (Method::POST, "/api/v1/heartbeat"),
        (Method::POST, "/api/v1/auth/verify"),
        (Method::POST, "/auth/verify"),
        (Method::GET, "/api/v1/budget/approximate"),
        (Method::GET, &status),
    ] {
        let caller = Caller::Signed(&account.key, Protocol::V4);
        let body = (method == Method::POST).then(|| json!({}));
        let fault = connection.request(method, path, caller, body.as_ref());
        is(&fault.await.unwrap(), 500, "INTERNAL_ERROR");
    }
    // No client stops at a 5xx.
    let (path, body) = ("/api/v1/gate", json!({}));
    let gate = connection.post_signed(path, &account.key, &body).await;
    is(&gate.unwrap(), 200, "INTERNAL_ERROR");
}

#[tokio::test]
async fn a_ledger_whose_log_is_gone_cannot_be_verified() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let log = stage.gateway.settings().data_dir().join("wal");
    std::fs::rename(&log, log.with_extension("gone")).unwrap();
    let path = account.path("/ledger/verify");
    let fault = stage.connection.get(&path, account.operator()).await;
    is(&fault.unwrap(), 500, "INTERNAL_ERROR");
}
