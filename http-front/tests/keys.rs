//! API keys over HTTP: what is minted, how they are found, and that a rotation refuses nobody before
//! its time and everybody after it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Protocol, SdkKey};
use serde_json::{Value, json};
use support::{Stage, StepClock};

fn sdk_key(minted: &Value) -> SdkKey {
    let text = |field: &str| minted[field].as_str().unwrap().to_owned();
    SdkKey::new(text("key"), &text("secret_key"))
}

async fn mint(stage: &mut Stage, account: &Account, body: Value) -> Value {
    let answer = stage.post(account, "/api-keys", body).await;
    answer.expect(&[201]).unwrap().body
}

async fn rotate(stage: &mut Stage, account: &Account, id: &Value, overlap_secs: u64) -> Value {
    let path = format!("/api-keys/{}/rotate", id.as_str().unwrap());
    let body = json!({ "overlap_secs": overlap_secs });
    let answer = stage.post(account, &path, body).await;
    answer.expect(&[200]).unwrap().body
}

async fn gate(stage: &mut Stage, key: &SdkKey, protocol: Protocol) -> Answer {
    let caller = Caller::Signed(key, protocol);
    let connection = &mut stage.connection;
    let answer = connection.post("/api/v1/gate", caller, &json!({})).await;
    answer.unwrap()
}

async fn verified(stage: &mut Stage, key: &SdkKey) -> Value {
    let body = json!({ "api_key": key.api_key() });
    let connection = &mut stage.connection;
    let path = "/api/v1/auth/verify";
    let answer = connection.post(path, Caller::Anonymous, &body).await;
    answer.unwrap().body
}

#[tokio::test]
async fn a_key_is_minted_as_asked_and_found_by_name_status_and_workflow() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let workflow = account.workflow.clone();
    let asked = json!({
        "name": "Nightly", "scopes": ["*"], "budget_cents": 500, "budget_period": "week",
        "max_calls_per_minute": 7, "test_key": true, "expires_at": "2099-01-31T12:00:00Z",
    });
    let of_workflow = format!("/workflows/{workflow}/api-keys");
    let minted = stage.post(&account, &of_workflow, asked).await;
    let minted = minted.expect(&[201]).unwrap().body;
    assert!(minted["key"].as_str().unwrap().starts_with("nr_test_"));
    assert_eq!(minted["workflow_id"], json!(workflow));
    assert_eq!(minted["max_calls_per_minute"], 7);
    assert_eq!(
        minted["scopes"],
        json!(["gate", "execute", "track", "verify"])
    );
    let one = format!("/api-keys/{}", minted["id"].as_str().unwrap());
    let shown = stage.see(&account, &one).await;
    assert_eq!(shown["last_used_at"], Value::Null);
    for secret in ["key", "api_key", "secret_key"] {
        assert!(shown.get(secret).is_none(), "{secret} is shown twice");
    }
    let free = mint(&mut stage, &account, json!({ "name": "anywhere" })).await;

    let names = async |stage: &mut Stage, rest: &str| {
        let listed = stage.see(&account, rest).await;
        let rows = listed["data"].as_array().unwrap().clone();
        let names = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(
        names(&mut stage, "/api-keys?search=nIGHT").await,
        ["Nightly"]
    );
    assert_eq!(
        names(&mut stage, &of_workflow).await,
        ["default", "Nightly"]
    );
    assert_eq!(names(&mut stage, "/api-keys?limit=1").await, ["default"]);
    let key = sdk_key(&minted);
    assert!(gate(&mut stage, &key, Protocol::V4).await.is_allow());
    let used = stage.see(&account, &one).await["last_used_at"].clone();
    assert!(used.is_string(), "{used}");

    let path = account.path(&format!("/api-keys/{}", free["id"].as_str().unwrap()));
    let connection = &mut stage.connection;
    let gone = connection.delete(&path, account.operator()).await.unwrap();
    assert_eq!(gone.status, 204);
    let free = sdk_key(&free).for_workflow(workflow);
    let refused = gate(&mut stage, &free, Protocol::V4).await;
    assert_eq!(
        (refused.status, refused.error_code()),
        (401, "API_KEY_REVOKED")
    );
    assert_eq!(
        names(&mut stage, "/api-keys?status=revoked").await,
        ["anywhere"]
    );
    assert_eq!(
        names(&mut stage, "/api-keys?status=active").await,
        ["default", "Nightly"]
    );

    // What the log knows of its use is told after a restart too.
    stage.gateway = stage.gateway.restart().unwrap();
    stage.connection = stage.connect();
    let told = stage.see(&account, &one).await["last_used_at"].clone();
    assert!(
        told.is_string() && told.as_str() <= used.as_str(),
        "{told} {used}"
    );
}

#[tokio::test]
async fn a_keys_own_rate_is_asked_beside_all_policies() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let asked = json!({ "workflow_id": account.workflow, "max_calls_per_minute": 2 });
    let key = sdk_key(&mint(&mut stage, &account, asked).await);
    for _ in 0..2 {
        assert!(gate(&mut stage, &key, Protocol::V4).await.is_allow());
    }
    let refused = gate(&mut stage, &key, Protocol::V4).await;
    assert_eq!(refused.error_code(), "RATE_LIMIT_EXCEEDED");
    let why = refused.text("explanation");
    assert!(why.contains("max_calls_per_minute"), "{why}");
    assert!(
        gate(&mut stage, &account.key, Protocol::V4)
            .await
            .is_allow()
    );
}

#[tokio::test]
async fn both_texts_and_both_secrets_work_during_the_overlap_and_only_the_new_ones_after_it() {
    // Far fewer seconds than signatures may be old, and more than any restart takes.
    const OVERLAP: u64 = 120;
    let clock = StepClock::ahead(0);
    let mut stage = Stage::start(&[("NULLRUN_TEST_NOW", &clock.variable())]);
    let account = stage.account().await;
    let first = mint(
        &mut stage,
        &account,
        json!({ "workflow_id": account.workflow }),
    )
    .await;
    let old = sdk_key(&first);
    let rotated = rotate(&mut stage, &account, &first["id"], OVERLAP).await;
    let new = sdk_key(&rotated);
    assert_eq!(
        (&first["id"], 2),
        (
            &rotated["id"],
            rotated["key_version"].as_i64().unwrap() as i32
        )
    );
    assert_ne!(old.api_key(), new.api_key());
    assert!(rotated["previous_valid_until"].is_string());
    // A restart in the overlap changes nothing.
    stage.gateway = stage.gateway.restart().unwrap();
    stage.connection = stage.connect();
    for (key, minted, version) in [(&old, &first, 1), (&new, &rotated, 2)] {
        assert!(
            gate(&mut stage, key, Protocol::V4).await.is_allow(),
            "{version}"
        );
        let verified = verified(&mut stage, key).await;
        assert_eq!(verified["key_version"], version);
        assert_eq!(verified["secret_key"], minted["secret_key"]);
    }
    // The one's text with the other's secret is nobody's.
    let mixed = SdkKey::new(old.api_key(), rotated["secret_key"].as_str().unwrap());
    let refused = gate(&mut stage, &mixed, Protocol::V4).await;
    assert_eq!(
        (refused.status, refused.error_code()),
        (401, "HMAC_MISMATCH")
    );

    clock.step(OVERLAP as i64 * 1000);
    let refused = gate(&mut stage, &old, Protocol::V4).await;
    assert_eq!(
        (refused.status, refused.error_code()),
        (401, "API_KEY_REVOKED")
    );
    // A 401 would let these clients go on: they are told with a block.
    for protocol in [Protocol::Absent, Protocol::V3] {
        let refused = gate(&mut stage, &old, protocol).await;
        assert_eq!(
            (refused.status, refused.error_code()),
            (200, "API_KEY_REVOKED")
        );
    }
    let told = verified(&mut stage, &old).await;
    assert_eq!(told["error_code"], "API_KEY_REVOKED");
    assert!(gate(&mut stage, &new, Protocol::V4).await.is_allow());

    // Without an overlap the one before ends with the answer.
    let third = sdk_key(&rotate(&mut stage, &account, &first["id"], 0).await);
    let refused = gate(&mut stage, &new, Protocol::V4).await;
    assert_eq!(refused.error_code(), "API_KEY_REVOKED");
    assert!(gate(&mut stage, &third, Protocol::V4).await.is_allow());

    let path = account.path(&format!("/api-keys/{}", first["id"].as_str().unwrap()));
    let connection = &mut stage.connection;
    connection.delete(&path, account.operator()).await.unwrap();
    let path = format!("{path}/rotate");
    let refused = connection.post(&path, account.operator(), &json!({})).await;
    assert_eq!(refused.unwrap().status, 422, "a revoked key is not revived");
}
