//! Caps of every kind and period, how they are composed, and holds of the usual size. In
//! every layout.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::Caller;
use serde_json::{Value, json};
use support::{LAYOUTS, Stage};

const CENT: i64 = 10_000_000;
const PERIODS: [&str; 5] = ["day", "week", "month", "rolling_30_days", "lifetime"];

fn call(cents: u64) -> Value {
    json!({ "model": "claude-haiku-4-5", "max_output_tokens": cents * 2000 })
}

async fn policy(stage: &mut Stage, account: &Account, priority: i32, config: Value) -> Value {
    let body = json!({ "name": format!("p{priority}"), "policy_type": "BudgetLimit", "priority": priority, "config": config });
    let made = stage.post(account, "/policies", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body
}

#[tokio::test]
async fn a_cap_of_any_period_on_org_workflow_key_and_policy_holds_and_says_when_it_ends() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        for period in PERIODS {
            let cap = json!({ "budget_cents": 10, "budget_period": period });
            for place in ["org", "workflow", "key", "policy"] {
                let account = stage.account().await;
                let mut key = account.key.clone();
                let shown = match place {
                    "org" => stage.patch(&account, "", cap.clone()).await.body,
                    "workflow" => {
                        let rest = format!("/workflows/{}", account.workflow);
                        stage.patch(&account, &rest, cap.clone()).await.body
                    }
                    "key" => {
                        let mut body = cap.clone();
                        body["workflow_id"] = json!(account.workflow);
                        let made = stage.post(&account, "/api-keys", body).await;
                        key = nullrun_loadtest::client::SdkKey::new(
                            made.required("api_key").unwrap(),
                            &made.required("secret_key").unwrap(),
                        );
                        made.body
                    }
                    _ => policy(&mut stage, &account, 1, cap.clone()).await["config"].clone(),
                };
                let what = format!("{period} on {place}");
                assert_eq!(shown["budget_period"], period, "{what}: {shown}");
                assert!(stage.gate(&key, &call(10)).await.is_allow(), "{what}");
                let refused = stage.gate(&key, &call(1)).await;
                let code = if place == "org" || place == "policy" {
                    "BUDGET_ORG_CEILING_BLOCKED"
                } else {
                    "BUDGET_HARD_BLOCKED"
                };
                assert_eq!(refused.error_code(), code, "{what}: {}", refused.body);
                let resets = &refused.body["details"]["resets_at"];
                assert_eq!(resets.is_null(), period == "lifetime", "{what}: {resets}");
                if place == "org" {
                    let status = stage.see(&account, "/status").await;
                    assert_eq!(status["period"]["kind"], period, "{what}");
                    assert_eq!(&status["period"]["end"], resets, "{what}");
                }
                assert_eq!(
                    stage.see(&account, "/ledger/verify").await["verified"],
                    true,
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_call_of_unknown_size_holds_what_such_calls_usually_cost_and_no_more_than_is_left() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let unknown = json!({ "model": "claude-haiku-4-5" });
        let held = |hold: &Value| hold["projected_cost_cents"].as_i64().unwrap();
        let first = stage.gate(&account.key, &unknown).await;
        assert_eq!(held(&first.body), 1, "nothing is known yet: {}", first.body);
        for _ in 0..20 {
            let seven = json!({ "model": "claude-haiku-4-5", "output_tokens": 14_000 });
            assert_eq!(
                stage.track(&account.key, &seven).await.body["cost_nanos"],
                7 * CENT
            );
        }
        let usual = stage.gate(&account.key, &unknown).await;
        assert_eq!(held(&usual.body), 7, "{}", usual.body);
        let unseen = stage
            .gate(&account.key, &json!({ "model": "gpt-4o-mini" }))
            .await;
        assert_eq!(held(&unseen.body), 1, "another model: {}", unseen.body);
        let unnamed = stage.gate(&account.key, &json!({})).await;
        assert_eq!(
            held(&unnamed.body),
            7,
            "all models together: {}",
            unnamed.body
        );

        // 140 cents are spent, 16 held; 10 are left.
        let workflow = format!("/workflows/{}", account.workflow);
        stage
            .patch(&account, &workflow, json!({ "budget_cents": 166 }))
            .await;
        let mut taken = Vec::new();
        loop {
            let answer = stage.gate(&account.key, &unknown).await;
            if !answer.is_allow() {
                assert_eq!(
                    answer.error_code(),
                    "BUDGET_HARD_BLOCKED",
                    "{}",
                    answer.body
                );
                break;
            }
            let hold = answer.required("reservation_id").unwrap();
            let holds = stage.see(&account, "/holds").await;
            let hold = holds["data"]
                .as_array()
                .unwrap()
                .iter()
                .find(|h| h["id"] == *hold);
            taken.push(hold.unwrap()["held_nanos"].as_i64().unwrap());
        }
        assert_eq!(taken, [7 * CENT, 3 * CENT]);
        let shown = stage.see(&account, &workflow).await;
        assert_eq!(shown["remaining_nanos"], 0, "{shown}");

        // What was learned is there after a crash.
        stage
            .patch(&account, &workflow, json!({ "budget_cents": null }))
            .await;
        stage.gateway.kill_9().unwrap();
        let gateway = stage.gateway.restart().unwrap();
        let mut connection =
            nullrun_loadtest::client::Connection::new(&gateway.endpoint().unwrap());
        let again = connection
            .post_signed("/api/v1/gate", &account.key, &unknown)
            .await
            .unwrap();
        assert_eq!(held(&again.body), 7, "{}", again.body);
    }
}

#[tokio::test]
async fn the_first_policy_answers_unless_the_most_restrictive_is_asked_for() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        policy(&mut stage, &account, 1, json!({ "budget_cents": 100 })).await;
        let strict = policy(&mut stage, &account, 2, json!({ "budget_cents": 0 })).await;
        assert!(stage.gate(&account.key, &call(1)).await.is_allow());
        let composed = stage
            .patch(&account, "", json!({ "composition": "most_restrictive" }))
            .await;
        assert_eq!(composed.body["composition"], "most_restrictive");
        let refused = stage.gate(&account.key, &call(1)).await;
        assert_eq!(
            refused.error_code(),
            "BUDGET_ORG_CEILING_BLOCKED",
            "{}",
            refused.body
        );
        assert_eq!(refused.body["policy_id"], strict["id"]);
        stage
            .patch(&account, "", json!({ "composition": "first_match" }))
            .await;
        assert!(stage.gate(&account.key, &call(1)).await.is_allow());

        let rate = |priority, calls| json!({ "name": "r", "policy_type": "RateLimit", "priority": priority, "config": { "max_calls_per_minute": calls } });
        for body in [rate(1, 1000), rate(2, 1)] {
            assert_eq!(stage.post(&account, "/policies", body).await.status, 201);
        }
        for _ in 0..3 {
            assert!(stage.gate(&account.key, &call(1)).await.is_allow());
        }
        stage
            .patch(&account, "", json!({ "composition": "most_restrictive" }))
            .await;
        let id = strict["id"].as_str().unwrap();
        stage
            .patch(
                &account,
                &format!("/policies/{id}"),
                json!({ "is_active": false }),
            )
            .await;
        let refused = stage.gate(&account.key, &call(1)).await;
        assert_eq!(
            refused.error_code(),
            "RATE_LIMIT_EXCEEDED",
            "{}",
            refused.body
        );
    }
}

#[tokio::test]
async fn a_bound_key_is_shown_its_workflows_budget_and_a_free_one_its_organizations() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let workflow = format!("/workflows/{}", account.workflow);
        let cap = |cents| json!({ "budget_cents": cents });
        stage.patch(&account, &workflow, cap(20)).await;
        stage.patch(&account, "", cap(100)).await;
        let connection = &mut stage.connection;
        let free = account.create_key(connection, None, None).await.unwrap();
        let other = account.create_workflow(connection, "other", None).await;
        let elsewhere = free.key.clone().for_workflow(other.unwrap());
        let seven = json!({ "model": "claude-haiku-4-5", "output_tokens": 14_000 });
        for key in [&account.key, &elsewhere] {
            stage.track(key, &seven).await;
            assert!(stage.gate(key, &call(3)).await.is_allow());
        }
        for (key, shown) in [(&account.key, [7, 20, 10]), (&free.key, [14, 100, 80])] {
            let path = "/api/v1/budget/approximate";
            let answer = stage.connection.get(path, Caller::Key(key)).await.unwrap();
            let field = |name: &str| answer.body[name].as_i64().unwrap();
            let fields = [
                "current_spend_cents_estimate",
                "budget_cents",
                "remaining_budget_cents",
            ];
            assert_eq!(fields.map(field), shown, "{}", answer.body);
        }
    }
}
