//! Calls that belong together: a chain's own cap, its overdraft, its life; and calls that go in a
//! loop. In every layout.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::Answer;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Environment, LAYOUTS, PATIENCE, Stage};

/// A call of so many cents in a chain.
fn call(cents: u64, chain: Option<&str>) -> Value {
    json!({ "model": "claude-haiku-4-5", "max_output_tokens": cents * 2000, "chain_id": chain })
}

async fn set_up(layout: Environment, settings: Value) -> (Stage, Account) {
    let mut stage = Stage::start(layout);
    let account = stage.account().await;
    let workflow = format!("/workflows/{}", account.workflow);
    stage.patch(&account, &workflow, settings).await;
    (stage, account)
}

fn refused(answer: &Answer, code: &str, reason: &str) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.error_code(), code, "{}", answer.body);
    assert_eq!(answer.body["details"]["reason"], reason, "{}", answer.body);
    assert!(
        answer.text("explanation").starts_with(code),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_chain_may_take_what_its_workflow_allows_a_chain_and_another_chain_the_same_again() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = set_up(layout, json!({ "chain_max_cents": 10 })).await;
        for chain in ["one", "two"] {
            for _ in 0..2 {
                assert!(
                    stage
                        .gate(&account.key, &call(5, Some(chain)))
                        .await
                        .is_allow()
                );
            }
            let third = stage.gate(&account.key, &call(1, Some(chain))).await;
            refused(&third, "BUDGET_HARD_BLOCKED", "chain_cap");
        }
        assert!(stage.gate(&account.key, &call(100, None)).await.is_allow());
        // An ended chain begins anew.
        let end = json!({ "chain_id": "one", "chain_op": "end" });
        assert!(stage.gate(&account.key, &end).await.is_allow());
        assert!(
            stage
                .gate(&account.key, &call(10, Some("one")))
                .await
                .is_allow()
        );
        let more = stage.gate(&account.key, &call(1, Some("one"))).await;
        refused(&more, "BUDGET_HARD_BLOCKED", "chain_cap");
    }
}

#[tokio::test]
async fn a_client_may_give_its_chain_less_but_not_more_and_not_change_its_mind() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = set_up(layout, json!({ "chain_max_cents": 10 })).await;
        let ask = |cents, chain, most: Value| {
            let mut body = call(cents, Some(chain));
            body["max_cents"] = most;
            body
        };
        assert!(
            stage
                .gate(&account.key, &ask(5, "less", json!(6)))
                .await
                .is_allow()
        );
        // Later words do not raise it; nor does the chain go beyond the workflow's own bound.
        for most in [json!(6), json!(1000), json!(null)] {
            let answer = stage.gate(&account.key, &ask(2, "less", most)).await;
            refused(&answer, "BUDGET_HARD_BLOCKED", "chain_cap");
        }
        assert!(
            stage
                .gate(&account.key, &ask(1, "less", json!(null)))
                .await
                .is_allow()
        );
        let answer = stage
            .gate(&account.key, &ask(11, "more", json!(1000)))
            .await;
        refused(&answer, "BUDGET_HARD_BLOCKED", "chain_cap");
        let answer = stage.gate(&account.key, &ask(1, "nothing", json!(0))).await;
        refused(&answer, "BUDGET_HARD_BLOCKED", "chain_cap");
    }
}

#[tokio::test]
async fn only_calls_in_a_chain_go_beyond_a_soft_cap_and_no_further_than_the_overdraft() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let soft = json!({ "budget_cents": 10, "enforcement_mode": "Soft", "max_overdraft_cents": 5, "max_overdraft_percent": 80 });
        let (mut stage, account) = set_up(layout, soft).await;
        for chain in [None, Some("c")] {
            assert!(stage.gate(&account.key, &call(5, chain)).await.is_allow());
        }
        let plain = stage.gate(&account.key, &call(1, None)).await;
        refused(&plain, "BUDGET_HARD_BLOCKED", "budget");
        // 5 cents, the smaller of 5 and 80 percent.
        assert!(
            stage
                .gate(&account.key, &call(3, Some("c")))
                .await
                .is_allow()
        );
        assert!(
            stage
                .gate(&account.key, &call(2, Some("d")))
                .await
                .is_allow()
        );
        let beyond = stage.gate(&account.key, &call(1, Some("c"))).await;
        refused(&beyond, "BUDGET_HARD_BLOCKED", "budget");
        let plain = stage.gate(&account.key, &call(1, None)).await;
        refused(&plain, "BUDGET_HARD_BLOCKED", "budget");
        assert_eq!(
            stage.see(&account, "/ledger/verify").await["verified"],
            true
        );
    }
}

/// Says that a chain goes on; does it?
async fn beat(stage: &mut Stage, account: &Account, chain: &str) -> bool {
    let (path, body) = ("/api/v1/heartbeat", json!({ "chain_id": chain }));
    let beat = stage.connection.post_signed(path, &account.key, &body);
    let beat = beat.await.unwrap();
    assert_eq!(beat.status, 200, "{}", beat.body);
    beat.body["active"].as_bool().unwrap()
}

async fn expiries(stage: &mut Stage, account: &Account) -> Vec<(bool, String)> {
    let holds = stage.see(account, "/holds").await;
    let holds = holds["data"].as_array().unwrap();
    let shown = |hold: &Value| {
        let at = hold["expires_at"].as_str().unwrap().to_owned();
        (hold["in_chain"].as_bool().unwrap(), at)
    };
    holds.iter().map(shown).collect()
}

#[tokio::test]
async fn a_heartbeat_renews_the_holds_of_its_chain_and_no_others() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        for chain in [Some("c"), None] {
            assert!(stage.gate(&account.key, &call(5, chain)).await.is_allow());
        }
        let before = expiries(&mut stage, &account).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (chain, alive) in [("c", true), ("unknown", false)] {
            assert_eq!(beat(&mut stage, &account, chain).await, alive, "{chain}");
        }
        let after = expiries(&mut stage, &account).await;
        assert_eq!(before.len(), 2);
        for ((in_chain, was), (_, is)) in before.iter().zip(&after) {
            assert_eq!(is > was, *in_chain, "{was} {is}");
        }
    }
}

#[tokio::test]
async fn a_chain_that_lasts_too_long_is_refused_until_it_is_ended() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = set_up(layout, json!({ "max_chain_duration_seconds": 1 })).await;
        assert!(
            stage
                .gate(&account.key, &call(1, Some("c")))
                .await
                .is_allow()
        );
        let began = Instant::now();
        let late = loop {
            let answer = stage.gate(&account.key, &call(1, Some("c"))).await;
            if !answer.is_allow() {
                break answer;
            }
            assert!(began.elapsed() < PATIENCE, "it goes on for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        refused(&late, "CHAIN_MAX_DURATION_EXCEEDED", "chain_duration");
        // Being alive does not renew its holds any more.
        let before = expiries(&mut stage, &account).await;
        assert!(!beat(&mut stage, &account, "c").await);
        assert_eq!(expiries(&mut stage, &account).await, before);
        assert!(stage.gate(&account.key, &call(1, None)).await.is_allow());
        let end = json!({ "chain_id": "c", "chain_op": "end" });
        assert!(stage.gate(&account.key, &end).await.is_allow());
        assert!(
            stage
                .gate(&account.key, &call(1, Some("c")))
                .await
                .is_allow()
        );
    }
}

async fn loops(layout: Environment, action: &str) -> (Stage, Account) {
    let mut stage = Stage::start(layout);
    let account = stage.account().await;
    let body =
        json!({ "name": "loops", "policy_type": "LoopDetection", "action": action, "config": {} });
    let made = stage.post(&account, "/policies", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        made.body["config"],
        json!({ "loop_threshold": null, "loop_window_secs": null })
    );
    (stage, account)
}

async fn state(stage: &mut Stage, account: &Account) -> String {
    let workflow = stage
        .see(account, &format!("/workflows/{}", account.workflow))
        .await;
    workflow["state"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn six_calls_of_one_tool_within_a_minute_trip_the_workflow_until_somebody_resumes_it() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = loops(layout, "block").await;
        let search = json!({ "tools": ["web.search"] });
        for _ in 0..5 {
            assert!(stage.gate(&account.key, &search).await.is_allow());
        }
        let other = json!({ "tools": ["fs.read"] });
        assert!(stage.gate(&account.key, &other).await.is_allow());
        let sixth = stage.gate(&account.key, &search).await;
        refused(&sixth, "LOOP_DETECTED", "loop");
        assert_eq!(state(&mut stage, &account).await, "Tripped");
        for body in [&search, &other, &json!({})] {
            let later = stage.gate(&account.key, body).await;
            refused(&later, "CIRCUIT_BREAKER_TRIPPED", "workflow_state");
            assert!(
                later.text("explanation").contains("web.search"),
                "{}",
                later.body
            );
        }
        let resume = format!("/workflows/{}/resume", account.workflow);
        let resumed = stage
            .post(&account, &resume, json!({ "reason": "looked at" }))
            .await;
        assert_eq!(resumed.text("state"), "Normal", "{}", resumed.body);
        assert!(stage.gate(&account.key, &other).await.is_allow());
        for _ in 0..5 {
            assert!(stage.gate(&account.key, &search).await.is_allow());
        }
        let again = stage.gate(&account.key, &search).await;
        refused(&again, "LOOP_DETECTED", "loop");
    }
}

#[tokio::test]
async fn the_same_operation_asked_again_is_no_loop() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = loops(layout, "block").await;
        let search = json!({ "operation_id": "one", "tools": ["web.search"] });
        for _ in 0..20 {
            assert!(stage.gate(&account.key, &search).await.is_allow());
        }
        assert_eq!(state(&mut stage, &account).await, "Normal");
    }
}

#[tokio::test]
async fn a_loop_that_is_only_flagged_goes_on_and_its_workflow_is_marked() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let (mut stage, account) = loops(layout, "flag").await;
        let search = json!({ "tools": ["web.search"] });
        for n in 0..10 {
            assert!(stage.gate(&account.key, &search).await.is_allow());
            let expected = if n < 5 { "Normal" } else { "Flagged" };
            assert_eq!(state(&mut stage, &account).await, expected, "{n}");
        }
        let resume = format!("/workflows/{}/resume", account.workflow);
        assert_eq!(
            stage.post(&account, &resume, json!({})).await.text("state"),
            "Normal"
        );
    }
}
