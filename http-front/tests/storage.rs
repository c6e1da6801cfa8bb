//! The log's room, and the number of shards: what an operator changes on a data directory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, Protocol};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use nullrun_loadtest::ledger::Ledger;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::{GATEWAY, LAYOUTS, PATIENCE, Stage};
use tempfile::TempDir;

/// Reports 500 events that take about 60 KiB in the log.
async fn report(stage: &mut Stage, account: &Account) {
    let event =
        json!({ "type": "tool_call", "tool_name": "x".repeat(40), "agent_id": "y".repeat(40) });
    let events = json!({ "events": vec![event; 500] });
    let caller = Caller::Key(&account.key);
    let connection = &mut stage.connection;
    let answer = connection
        .post("/api/v1/track/batch", caller, &events)
        .await;
    assert_eq!(answer.unwrap().body["accepted"], 500);
}

async fn ready(stage: &mut Stage) -> Answer {
    let connection = &mut stage.connection;
    connection
        .get("/health/ready", Caller::Anonymous)
        .await
        .unwrap()
}

/// Whatever `NULLRUN_SEGMENT_BYTES` is, a quota that is reached must be left again.
async fn full_and_free_again(segment: &str) {
    let mut stage = Stage::start(&[
        ("NULLRUN_HMAC_REQUIRED", "false"),
        ("NULLRUN_LOG_QUOTA_MIB", "1"),
        ("NULLRUN_SEGMENT_BYTES", segment),
        // Only the quota makes snapshots here.
        ("NULLRUN_SNAPSHOT_BYTES", "1073741824"),
    ]);
    let account = stage.account().await;
    let gate = json!({ "model": "claude-haiku-4-5", "max_output_tokens": 1 });
    let operation =
        json!({ "operation_id": "o", "model": "claude-haiku-4-5", "max_output_tokens": 1 });
    assert!(stage.gate(&account.key, &gate).await.is_allow());
    assert_eq!(ready(&mut stage).await.status, 200);

    // A snapshot may free it at any moment, and then it fills up again: until each has said so.
    let began = Instant::now();
    let ways = ["/api/v1/gate", "/api/v1/execute", "/api/v1/check"];
    let mut full = BTreeSet::new();
    while full.len() < 4 {
        report(&mut stage, &account).await;
        for path in ways {
            let answer = stage.ask(&account, path, operation.clone()).await;
            if answer.is_allow() {
                continue;
            }
            let seen = (answer.status, answer.error_code());
            assert_eq!(seen, (200, "STORAGE_FULL"), "{path}: {}", answer.body);
            let said = answer.text("explanation");
            assert!(said.contains("NULLRUN_LOG_QUOTA_MIB"), "{path}: {said}");
            full.insert(path);
        }
        let answer = ready(&mut stage).await;
        if answer.status != 200 {
            let seen = (answer.status, answer.error_code());
            assert_eq!(seen, (503, "STORAGE_FULL"), "{}", answer.body);
            full.insert("/health/ready");
        }
        assert!(began.elapsed() < PATIENCE, "only {full:?}");
    }
    let spent = json!({ "model": "claude-haiku-4-5", "input_tokens": 47 });
    assert_eq!(
        stage.track(&account.key, &spent).await.body["cost_nanos"],
        47_000
    );

    // Two snapshots, and what is behind the older one goes; although nothing more comes meanwhile.
    let filled = Instant::now();
    while !stage.gate(&account.key, &gate).await.is_allow() {
        let words = stage.gateway.output();
        assert!(filled.elapsed() < PATIENCE, "never free: {words}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(ready(&mut stage).await.status, 200);
    stage.gateway.says("wrote a snapshot").unwrap();
    println!(
        "segments of {segment}: full and free again in {:?}",
        began.elapsed()
    );
    let status = stage.see(&account, "/status").await;
    assert_eq!(status["spent_nanos"], 47_000);
    stage.gateway.kill_9().unwrap();
    let gateway = stage.gateway.restart().unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let ledger = Ledger::read(&mut connection, &account).await.unwrap();
    assert!(
        ledger.contradictions().is_empty(),
        "{}",
        ledger.contradictions()
    );
    assert_eq!(ledger.status.totals.spent_nanos, 47_000);
}

#[tokio::test]
async fn at_the_logs_quota_gates_are_refused_and_reports_taken_until_a_snapshot_frees_the_log() {
    full_and_free_again("65536").await;
}

#[tokio::test]
async fn segments_larger_than_the_quota_do_not_keep_gates_out_for_ever() {
    full_and_free_again("1048576").await;
}

#[tokio::test]
async fn a_directory_is_served_with_another_number_of_shards_at_each_start() {
    let data = TempDir::with_prefix("nullrun-test-").unwrap();
    let on = |layout: &[(&str, &str)]| {
        let settings = Settings::new(GATEWAY, data.path()).env("NULLRUN_SEGMENT_BYTES", "65536");
        let settings = settings.env("NULLRUN_SNAPSHOT_BYTES", "4096");
        let set = |settings: Settings, (name, value): &(&str, &str)| settings.env(*name, *value);
        Gateway::start(layout.iter().fold(settings, set)).unwrap()
    };
    let mut gateway = on(LAYOUTS[0].1);
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let account = Account::register(&mut connection, &mut Dice::from_seed(3))
        .await
        .unwrap();
    account
        .set_org_budget(&mut connection, Some(10_000))
        .await
        .unwrap();
    let key = account
        .create_key(&mut connection, None, Some(5_000))
        .await
        .unwrap()
        .key;
    let mut workflows = Vec::new();
    for n in 0..20 {
        let name = format!("w{n}");
        let made = account.create_workflow(&mut connection, &name, Some(100));
        workflows.push(made.await.unwrap());
    }
    let many: &[(&str, &str)] = &[("NULLRUN_SHARDS", "1024"), ("NULLRUN_PLACEMENT", "front")];
    let nine: &[(&str, &str)] = &[("NULLRUN_SHARDS", "9"), ("NULLRUN_PLACEMENT", "threads")];
    let order = [1, 2, 5, 3, 4, 0].map(|n: usize| LAYOUTS[n].1);
    let order = [&order[..3], &[many, nine], &order[3..]].concat();
    let mut holds: Vec<(usize, Value, String)> = Vec::new();
    let mut spent = 0;
    for (round, layout) in order.into_iter().enumerate() {
        for (n, workflow) in workflows.iter().enumerate() {
            let key = key.clone().for_workflow(workflow);
            let ask = json!({ "operation_id": format!("{round}-{n}"), "model": "claude-haiku-4-5", "max_output_tokens": 2000, "chain_id": "c" });
            let answer = connection
                .post_signed("/api/v1/gate", &key, &ask)
                .await
                .unwrap();
            holds.push((n, ask, answer.required("reservation_id").unwrap()));
            let report = json!({ "model": "claude-haiku-4-5", "input_tokens": 47 });
            connection
                .post_signed("/api/v1/track", &key, &report)
                .await
                .unwrap()
                .expect(&[200])
                .unwrap();
            spent += 47_000;
        }
        if round % 2 == 0 {
            gateway.kill_9().unwrap();
        } else {
            assert!(gateway.stop().unwrap().success());
        }
        drop(gateway);
        gateway = on(layout);
        connection = Connection::new(&gateway.endpoint().unwrap());
        let ledger = Ledger::read(&mut connection, &account).await.unwrap();
        assert!(
            ledger.contradictions().is_empty(),
            "{layout:?}: {}",
            ledger.contradictions()
        );
        let totals = ledger.status.totals;
        let held = i64::try_from(holds.len()).unwrap() * 10_000_000;
        assert_eq!(
            (totals.spent_nanos, totals.held_nanos),
            (spent, held),
            "{layout:?}"
        );
        for (n, ask, hold) in &holds {
            let key = key.clone().for_workflow(&workflows[*n]);
            let caller = Caller::Signed(&key, Protocol::V4);
            let again = connection.post("/api/v1/gate", caller, ask).await.unwrap();
            assert_eq!(again.text("reservation_id"), hold, "{layout:?}");
        }
        println!("{layout:?}: {} holds there", holds.len());
    }
}
