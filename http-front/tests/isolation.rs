//! Two orgs: whatever one of them asks about the other, it learns nothing. Every route of the
//! router is asked with the other's ids, keys and tokens, and the answer is a refusal, or the same
//! bytes as for an id that nobody has.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Protocol, SdkKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::Stage;

const NOBODY: &str = "01a20a99-0000-7000-8000-00000000dead";

/// Everything of an org that somebody else might name.
struct Known {
    account: Account,
    workflow_name: String,
    policy: String,
    key_id: String,
    hold: String,
}

async fn furnish(stage: &mut Stage, name: &str) -> Known {
    let account = stage.account().await;
    let connection = &mut stage.connection;
    let operator = account.operator();
    let patch = json!({ "name": name, "external_id": format!("{name}-ext") });
    let workflow = account.path(&format!("/workflows/{}", account.workflow));
    connection
        .patch(&workflow, operator, &patch)
        .await
        .unwrap()
        .expect(&[200])
        .unwrap();
    let policy = json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 100_000 } });
    let policy = connection
        .post(&account.path("/policies"), operator, &policy)
        .await
        .unwrap();
    let policy = policy.expect(&[201]).unwrap().required("id").unwrap();
    let key = connection
        .post(
            &account.path("/api-keys"),
            operator,
            &json!({ "name": "k" }),
        )
        .await
        .unwrap();
    let key_id = key.expect(&[201]).unwrap().required("id").unwrap();
    let gate = json!({ "operation_id": format!("{name}-op"), "model": "gpt-4o-mini", "max_output_tokens": 1000 });
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let hold = connection
        .post("/api/v1/gate", caller, &gate)
        .await
        .unwrap();
    let hold = hold.required("reservation_id").unwrap();
    Known {
        account,
        workflow_name: name.to_owned(),
        policy,
        key_id,
        hold,
    }
}

/// The ledger of an org, as its owner sees it.
async fn ledger(stage: &mut Stage, known: &Known) -> Value {
    let status = known.account.path("/status");
    let mut answer = stage
        .connection
        .get(&status, known.account.operator())
        .await
        .unwrap()
        .body;
    for volatile in ["as_of_lsn", "burn_cents_per_hour"] {
        answer.as_object_mut().unwrap().remove(volatile);
    }
    answer
}

/// An answer without what differs between any two answers.
fn blurred(answer: &Answer, ids: &[&str]) -> String {
    let mut text = String::from_utf8_lossy(&answer.raw).into_owned();
    if let Some(id) = answer.body["request_id"].as_str() {
        text = text.replace(id, "REQUEST");
    }
    for id in ids {
        text = text.replace(id, "ID");
    }
    format!("{} {text}", answer.status)
}

/// Methods and path patterns of the router, read from its source: a new route must be tried here.
fn routes() -> BTreeSet<(Method, String)> {
    let source = include_str!("../src/routes.rs");
    let mut routes = BTreeSet::new();
    for rest in source.split(".route(").skip(1).map(str::trim_start) {
        let path = if rest.starts_with("org,") {
            "/api/v1/orgs/{org}".to_owned()
        } else if let Some(rest) = rest.strip_prefix("&at(\"") {
            format!("/api/v1/orgs/{{org}}{}", rest.split('"').next().unwrap())
        } else if let Some(rest) = rest.strip_prefix('"') {
            rest.split('"').next().unwrap().to_owned()
        } else {
            continue; // Health and its aliases: no ids, no callers.
        };
        for (word, method) in [
            ("get(", Method::GET),
            ("post(", Method::POST),
            ("patch(", Method::PATCH),
            ("delete(", Method::DELETE),
        ] {
            if rest.contains(word) {
                routes.insert((method, path.clone()));
            }
        }
    }
    assert!(
        routes.len() > 25,
        "the router's source no longer looks as this test reads it"
    );
    routes
}

/// Routes that take no id and no caller, or make a new account.
const OPEN: [&str; 8] = [
    "/api/v1/capabilities",
    "/api/v1/policies",
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/health/ready",
    "/health/startup",
    "/floor",
    "/api/v1/budget/approximate",
];

fn body(path: &str, b: &Known) -> Value {
    match path {
        "/api/v1/cancel" => json!({ "execution_id": b.hold }),
        "/api/v1/heartbeat" => json!({ "chain_id": b.hold }),
        "/api/v1/track" => {
            json!({ "reservation_id": b.hold, "workflow_id": b.account.workflow, "tokens": 0 })
        }
        "/api/v1/track/batch" => json!({ "events": [{
            "type": "span_end", "depth": 0, "execution_id": b.hold, "reservation_id": b.hold, "workflow_id": b.workflow_name,
        }] }),
        "/api/v1/gate" | "/api/v1/execute" | "/api/v1/check" => {
            json!({ "organization_id": b.account.org, "execution_id": b.hold, "operation_id": format!("{}-op", b.workflow_name) })
        }
        "/api/v1/auth/verify" | "/auth/verify" => json!({}),
        path if path.ends_with("/api-keys") => {
            json!({ "name": "x", "workflow_id": b.account.workflow })
        }
        path if path.ends_with("/policies") => json!({
            "name": "x", "policy_type": "ToolBlock", "scope": "Workflow", "scope_id": b.account.workflow,
            "config": { "tool_pattern": ["x"] },
        }),
        path if path.ends_with("/pause")
            || path.ends_with("/resume")
            || path.ends_with("/kill") =>
        {
            json!({})
        }
        _ => json!({ "name": "taken over" }),
    }
}

fn fill(path: &str, org: &str, b: &Known, nobody: bool) -> String {
    let id = if nobody {
        NOBODY
    } else if path.contains("/policies/") {
        &b.policy
    } else if path.contains("/api-keys/") {
        &b.key_id
    } else {
        &b.account.workflow
    };
    path.replace("{org}", org)
        .replace("{id}", id)
        .replace("{workflow}", if nobody { NOBODY } else { &b.workflow_name })
}

#[tokio::test]
async fn one_org_learns_and_changes_nothing_of_another() {
    let mut stage = Stage::start(&[]);
    let a = furnish(&mut stage, "alpha").await;
    let b = furnish(&mut stage, "bravo").await;
    let before = ledger(&mut stage, &b).await;
    let mut tried = 0;
    for (method, path) in routes() {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        let callers = [
            ("a's session", Caller::Session(&a.account.session)),
            ("a's key", Caller::Signed(&a.account.key, Protocol::V4)),
        ];
        // The other's org by its own id; and the other's things under one's own org.
        let orgs = [b.account.org.as_str(), a.account.org.as_str()];
        for (who, caller) in callers {
            for org in orgs.iter().take(if path.contains("{org}") { 2 } else { 1 }) {
                if *org == a.account.org && !path.contains("{id}") {
                    continue; // One's own list, one's own settings.
                }
                let has_body = method == Method::POST || method == Method::PATCH;
                let payload = body(&path, &b);
                let payload = has_body.then_some(&payload);
                let asked = fill(&path, org, &b, false);
                let answer = stage
                    .connection
                    .request(method.clone(), &asked, caller, payload)
                    .await
                    .unwrap();
                tried += 1;
                let words = format!("{method} {asked} with {who}: {}", answer.in_short());
                let text = String::from_utf8_lossy(&answer.raw);
                let refused = [401, 403, 404].contains(&answer.status);
                let blocked = answer.status == 200 && answer.text("decision") == "block";
                if !refused && !blocked {
                    // Allowed only if nobody's id would have been answered alike.
                    let nobody = Known {
                        account: Account {
                            org: NOBODY.into(),
                            workflow: NOBODY.into(),
                            ..a.account.clone()
                        },
                        workflow_name: NOBODY.into(),
                        policy: NOBODY.into(),
                        key_id: NOBODY.into(),
                        hold: NOBODY.into(),
                    };
                    let payload = body(&path, &nobody);
                    let alike = stage
                        .connection
                        .request(
                            method.clone(),
                            &fill(&path, org, &b, true),
                            caller,
                            has_body.then_some(&payload),
                        )
                        .await
                        .unwrap();
                    let theirs = [
                        b.account.org.as_str(),
                        &b.account.workflow,
                        &b.workflow_name,
                        &b.hold,
                    ];
                    let (got, other) = (blurred(&answer, &theirs), blurred(&alike, &[NOBODY]));
                    assert_eq!(got, other, "{words} tells more than for an unknown id");
                }
                for secret in [&b.policy, &b.key_id, &b.account.email] {
                    let own_words = asked.contains(secret.as_str());
                    assert!(
                        own_words || !text.contains(secret.as_str()),
                        "{words} shows {secret}"
                    );
                }
            }
        }
    }
    println!("{tried} requests across the border");
    assert!(tried > 60, "only {tried} requests were tried");
    assert_eq!(
        ledger(&mut stage, &b).await,
        before,
        "something of b's changed"
    );
    let caller = Caller::Signed(&b.account.key, Protocol::V4);
    let cancel = json!({ "execution_id": b.hold });
    let cancelled = stage
        .connection
        .post("/api/v1/cancel", caller, &cancel)
        .await
        .unwrap();
    assert_eq!(
        cancelled.body["already_canceled"], false,
        "b's hold was ended by a"
    );
}

#[tokio::test]
async fn event_ids_and_operation_ids_of_two_orgs_do_not_meet() {
    let mut stage = Stage::start(&[]);
    let a = stage.account().await;
    let b = stage.account().await;
    let event = json!({ "events": [{ "event_id": "same", "type": "llm_call", "model": "gpt-4o-mini", "input_tokens": 1000 }] });
    let gate = json!({ "operation_id": "same", "model": "gpt-4o-mini", "max_output_tokens": 10 });
    let mut holds = BTreeSet::new();
    for account in [&a, &b] {
        let caller = Caller::Signed(&account.key, Protocol::V4);
        let tracked = stage
            .connection
            .post("/api/v1/track/batch", caller, &event)
            .await
            .unwrap();
        assert_eq!(
            (
                tracked.body["duplicates"].as_i64(),
                tracked.body["cost_nanos"].as_i64()
            ),
            (Some(0), Some(150_000))
        );
        let gate = stage
            .connection
            .post("/api/v1/gate", caller, &gate)
            .await
            .unwrap();
        holds.insert(gate.required("reservation_id").unwrap());
    }
    assert_eq!(holds.len(), 2);
}

#[tokio::test]
async fn every_kind_of_bad_credential_is_told_apart() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let gate = json!({});
    let mut ask = async |caller: Caller<'_>| {
        let answer = stage
            .connection
            .post("/api/v1/gate", caller, &gate)
            .await
            .unwrap();
        (answer.status, answer.error_code().to_owned())
    };
    let unknown = SdkKey::new("nr_live_unknown".to_owned(), "s");
    let wrong = SdkKey::new(account.key.api_key().to_owned(), "wrong");
    assert_eq!(
        ask(Caller::Anonymous).await,
        (401, "API_KEY_MISSING".into())
    );
    assert_eq!(
        ask(Caller::Session(&account.session)).await,
        (401, "API_KEY_MISSING".into())
    );
    assert_eq!(
        ask(Caller::Key(&account.key)).await,
        (401, "HMAC_REQUIRED".into())
    );
    assert_eq!(
        ask(Caller::Signed(&unknown, Protocol::Absent)).await,
        (401, "API_KEY_INVALID".into())
    );
    assert_eq!(
        ask(Caller::Signed(&wrong, Protocol::V4)).await,
        (401, "HMAC_MISMATCH".into())
    );
    // A 401 would let these clients go on: they are told with a block.
    for old in [Protocol::Absent, Protocol::V3] {
        assert_eq!(
            ask(Caller::Signed(&wrong, old)).await,
            (200, "HMAC_MISMATCH".into())
        );
    }
}
