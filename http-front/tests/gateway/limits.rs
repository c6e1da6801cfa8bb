//! Bounds that keep sums exact and patterns cheap, and what limits nothing.

use super::support::Stage;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller};
use serde_json::{Value, json};

async fn policy(stage: &mut Stage, account: &Account, body: Value) -> Answer {
    stage.post(account, "/policies", body).await
}

#[tokio::test]
async fn holds_too_large_to_be_summed_are_refused_and_the_gateway_lives_on() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let mut holds = Vec::new();
    for n in 0..40 {
        let tokens: u64 = if n % 2 == 0 {
            1_000_000_000_000
        } else {
            1_500_000_000
        };
        let body = json!({ "model": "o1-pro", "max_output_tokens": tokens });
        let answer = stage.ask(&account, "/api/v1/gate", body).await;
        if answer.is_allow() {
            holds.push(answer.required("reservation_id").unwrap());
        } else {
            assert_eq!(answer.error_code(), "BUDGET_HARD_BLOCKED");
        }
    }
    assert_eq!(holds.len(), 20);
    for hold in holds {
        stage
            .ask(&account, "/api/v1/cancel", json!({ "execution_id": hold }))
            .await;
    }
    let status = stage
        .connection
        .get(&account.path("/status"), account.operator())
        .await
        .unwrap();
    assert_eq!(status.body["held_nanos"], 0);
}

#[tokio::test]
async fn patterns_that_would_cost_everybody_time_or_burst_a_record_are_refused() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let long = "x".repeat(4000);
    let many = (0..500)
        .map(|n| format!("a{n}*"))
        .collect::<Vec<_>>()
        .join("|");
    for config in [
        json!({ "tool_pattern": vec![long.as_str(); 10] }),
        json!({ "tool_pattern": [many] }),
        json!({ "tool_pattern": vec!["x"; 257] }),
    ] {
        let body = json!({ "name": "p", "policy_type": "ToolBlock", "config": config });
        let answer = policy(&mut stage, &account, body).await;
        assert_eq!(
            (answer.status, answer.error_code()),
            (400, "INVALID_PATTERN_LIST"),
            "{}",
            answer.body
        );
    }
    let matching = json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 5 },
        "match": { "tools": vec![long.as_str(); 10] } });
    assert_eq!(policy(&mut stage, &account, matching).await.status, 400);
    let patterns: Vec<_> = (0..250).map(|n| format!("tool{n}")).collect();
    let body =
        json!({ "name": "p", "policy_type": "ToolBlock", "config": { "tool_pattern": patterns } });
    for n in 0..9 {
        let answer = policy(&mut stage, &account, body.clone()).await;
        assert_eq!(
            answer.status,
            if n < 8 { 201 } else { 400 },
            "{}",
            answer.body
        );
    }
    let tools = json!({ "tools": vec!["same"; 130] });
    let answer = stage.ask(&account, "/api/v1/gate", tools).await;
    assert_eq!(
        (answer.status, answer.error_code()),
        (200, "TOOL_NAME_INVALID")
    );
}

#[tokio::test]
async fn the_end_of_a_chain_lets_nothing_run() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let body =
        json!({ "name": "p", "policy_type": "ToolBlock", "config": { "tool_pattern": ["bash"] } });
    policy(&mut stage, &account, body).await;
    for path in ["/api/v1/gate", "/api/v1/execute"] {
        let body = json!({ "chain_id": "c", "chain_op": "end", "tool": "bash" });
        let answer = stage.ask(&account, path, body).await;
        assert_eq!(answer.error_code(), "TOOL_BLOCKED", "{path}");
    }
    let end = json!({ "chain_id": "c", "chain_op": "end", "execution_id": "0123456789abcdef" });
    let answer = stage.ask(&account, "/api/v1/gate", end).await;
    assert!(
        answer.is_allow() && answer.body["reservation_id"].is_null(),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_policy_that_only_flags_limits_nothing() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    for (kind, config) in [
        ("RateLimit", json!({ "max_calls_per_minute": 1 })),
        ("BudgetLimit", json!({ "budget_cents": 0 })),
    ] {
        let body = json!({ "name": "p", "policy_type": kind, "action": "flag", "config": config });
        assert_eq!(policy(&mut stage, &account, body).await.status, 201);
    }
    for _ in 0..3 {
        assert!(
            stage
                .ask(&account, "/api/v1/gate", json!({}))
                .await
                .is_allow()
        );
    }
}

#[tokio::test]
async fn the_ledger_verifies_while_it_is_written() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        let (mut connection, key) = (stage.connect(), account.key.clone());
        writers.push(tokio::spawn(async move {
            loop {
                let body = json!({ "model": "gpt-4o-mini", "input_tokens": 100, "tokens": 100 });
                connection
                    .post("/api/v1/track", Caller::Key(&key), &body)
                    .await
                    .unwrap();
            }
        }));
    }
    for _ in 0..25 {
        let verify = account.path("/ledger/verify");
        let answer = stage
            .connection
            .get(&verify, account.operator())
            .await
            .unwrap();
        assert_eq!(answer.body["verified"], true, "{}", answer.body);
    }
    for writer in writers {
        writer.abort();
    }
}
