//! `X-NullRun-Strict-Status`: a status for each kind of block, where others get 200.

use super::support::Stage;
use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, SdkKey};
use serde_json::{Value, json};

const ALL: [&str; 3] = ["gate", "execute", "check"];

async fn start() -> (Stage, Account) {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    (stage, account)
}

async fn ask(stage: &mut Stage, key: &SdkKey, route: &str, body: &Value) -> Answer {
    let path = match route {
        // Where the oldest clients look.
        "verify" => "/auth/verify".to_owned(),
        route => format!("/api/v1/{route}"),
    };
    let body = Some(body.to_string().into());
    let connection = &mut stage.connection;
    let prepared = connection.prepare(Method::POST, &path, Caller::Key(key), body);
    let strict = prepared
        .unwrap()
        .with_header("X-NullRun-Strict-Status", "true");
    connection.send(strict.unwrap()).await.unwrap()
}

#[track_caller]
fn is(answer: &Answer, status: u16, code: &str) {
    let seen = (answer.status, answer.error_code());
    assert_eq!(seen, (status, code), "{}", answer.in_short());
}

#[tokio::test]
async fn a_strict_client_gets_a_status_for_each_kind_of_block() {
    let (mut stage, account) = start().await;
    let key = &account.key;
    let call = json!({ "model": "gpt-4o-mini", "max_output_tokens": 1000 });

    let named = json!({ "execution_id": "01a20a99-0000-7000-8000-00000000dead" });
    let lost = ask(&mut stage, key, "execute", &named).await;
    is(&lost, 404, "EXECUTION_NOT_FOUND");

    for route in ["gate", "execute"] {
        let mut first = json!({ "operation_id": route, "model": "gpt-4o-mini" });
        assert!(ask(&mut stage, key, route, &first).await.is_allow());
        first["model"] = json!("gpt-4o");
        let other = ask(&mut stage, key, route, &first).await;
        is(&other, 409, "IDEMPOTENCY_KEY_MISMATCH");
    }

    let connection = &mut stage.connection;
    let unbound = account
        .create_key(connection, None, None)
        .await
        .unwrap()
        .key;
    for route in ALL {
        let nowhere = ask(&mut stage, &unbound, route, &call).await;
        is(&nowhere, 422, "WORKFLOW_ID_REQUIRED");
    }

    let workflow = account.workflow.as_str();
    let connection = &mut stage.connection;
    let nothing = account.set_workflow_budget(connection, workflow, Some(0));
    nothing.await.unwrap();
    for route in ALL {
        let poor = ask(&mut stage, key, route, &call).await;
        is(&poor, 402, "BUDGET_HARD_BLOCKED");
    }

    let connection = &mut stage.connection;
    let paused = account.change_state(connection, workflow, "pause").await;
    paused.unwrap();
    for route in ALL {
        let halted = ask(&mut stage, key, route, &call).await;
        is(&halted, 403, "WORKFLOW_PAUSED");
    }
}

#[tokio::test]
async fn a_strict_client_is_told_of_a_loop_and_of_what_it_tripped() {
    let (mut stage, account) = start().await;
    let watch = json!({ "loop_threshold": 2 });
    let path = format!("/workflows/{}", account.workflow);
    stage.patch(&account, &path, watch).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        let again = json!({ "tool": "search" });
        answers.push(ask(&mut stage, &account.key, "execute", &again).await);
    }
    let first = answers.iter().find(|answer| !answer.is_allow());
    is(first.unwrap(), 429, "LOOP_DETECTED");
    for route in ALL {
        let tripped = ask(&mut stage, &account.key, route, &json!({})).await;
        is(&tripped, 429, "CIRCUIT_BREAKER_TRIPPED");
    }
}

#[tokio::test]
async fn a_strict_client_is_told_that_more_was_spent_than_was_held() {
    let (mut stage, account) = start().await;
    let small =
        json!({ "model": "claude-haiku-4-5", "estimated_tokens": 2, "max_output_tokens": 1 });
    let held = ask(&mut stage, &account.key, "gate", &small).await;
    let event = json!({
        "event_id": "much", "reservation_id": held.text("reservation_id"),
        "model": "claude-haiku-4-5", "output_tokens": 1_000_000,
    });
    let booked = ask(&mut stage, &account.key, "track", &event).await;
    is(&booked, 422, "CONSUME_OVERBUDGET");
    assert_eq!(booked.body["details"]["reservation_recorded"], true);
}

#[tokio::test]
async fn a_key_without_the_scope_is_refused_wherever_it_lacks() {
    let (mut stage, account) = start().await;
    let mut keys = Vec::new();
    for scope in ["gate", "track"] {
        let body = json!({ "workflow_id": account.workflow, "scopes": [scope] });
        let made = stage.post(&account, "/api-keys", body).await;
        let text = |name| made.required(name).unwrap();
        keys.push(SdkKey::new(text("api_key"), &text("secret_key")));
    }
    let id = json!({ "execution_id": "x", "chain_id": "x" });
    let events = json!({ "events": [] });
    for (key, route, body) in [
        (0, "track", &id),
        (0, "track/batch", &events),
        (0, "execute", &id),
        (0, "auth/verify", &json!({})),
        (0, "verify", &json!({})),
        (1, "gate", &id),
        (1, "check", &id),
        (1, "cancel", &id),
        (1, "heartbeat", &id),
    ] {
        let refused = ask(&mut stage, &keys[key], route, body).await;
        is(&refused, 403, "MISSING_SCOPE");
    }
}
