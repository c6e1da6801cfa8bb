//! How long an event id is remembered: `NULLRUN_DEDUP_MEMORY`, and the window that `/health` shows.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Caller, Connection};
use nullrun_loadtest::gateway::Gateway;
use nullrun_loadtest::ledger::Ledger;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{PATIENCE, Stage};

const NANOS: i64 = 1_000;
const BATCH: usize = 500;
/// A MiB has eight generations of nearly 5,000; this is more than all of them.
const BATCHES: usize = 120;
/// Fewer than six generations: a seventh and what is open come and go.
const REMEMBERED: usize = 55;

async fn report(connection: &mut Connection, account: &Account, batch: usize) {
    let event = |n| json!({ "event_id": format!("{batch}-{n}"), "model": "claude-haiku-4-5", "input_tokens": 1 });
    let body = json!({ "events": (0..BATCH).map(event).collect::<Vec<_>>() });
    let caller = Caller::Key(&account.key);
    let sent = connection.post("/api/v1/track/batch", caller, &body).await;
    let answer = sent.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let known = answer.body["accepted_event_ids"].as_array().unwrap();
    assert_eq!(known.len(), BATCH, "{}", answer.body);
}

/// Waits until there were so many snapshots.
async fn snapshots(gateway: &Gateway, least: usize) {
    let began = Instant::now();
    while gateway.output().matches("wrote a snapshot").count() < least {
        assert!(began.elapsed() < PATIENCE, "{}", gateway.output());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn window(connection: &mut Connection) -> Value {
    let health = connection.get("/health", Caller::Anonymous).await.unwrap();
    health.body["event_dedup"].clone()
}

async fn spent(connection: &mut Connection, account: &Account) -> i64 {
    let ledger = Ledger::read(connection, account).await.unwrap();
    assert!(
        ledger.contradictions().is_empty(),
        "{}",
        ledger.contradictions()
    );
    ledger.status.totals.spent_nanos
}

#[tokio::test]
async fn an_event_counts_once_within_the_window_that_health_shows_before_and_after_a_restart() {
    let began = Instant::now();
    let start = jiff::Timestamp::now();
    let mut stage = Stage::start(&[
        ("NULLRUN_HMAC_REQUIRED", "false"),
        ("NULLRUN_DEDUP_MEMORY", "1"),
        // Two snapshots on the way, so that most generations are only listed again by the last.
        ("NULLRUN_SNAPSHOT_BYTES", "65536"),
        ("NULLRUN_SEGMENT_BYTES", "1048576"),
    ]);
    let account = stage.account().await;
    let connection = &mut stage.connection;
    assert_eq!(
        window(connection).await,
        json!({ "complete": true, "since": null })
    );
    for batch in 0..BATCHES {
        report(connection, &account, batch).await;
        if batch == BATCHES / 2 {
            snapshots(&stage.gateway, 1).await;
        }
    }
    let mut sum = NANOS * (BATCHES * BATCH) as i64;
    assert_eq!(spent(connection, &account).await, sum);
    let shown = window(connection).await;
    assert_eq!(shown["complete"], false, "{shown}");
    let since: jiff::Timestamp = shown["since"].as_str().unwrap().parse().unwrap();
    let now = jiff::Timestamp::now();
    assert!(start < since && since < now, "{start}, {since}, {now}");
    for batch in BATCHES - REMEMBERED..BATCHES {
        report(connection, &account, batch).await;
    }
    assert_eq!(spent(connection, &account).await, sum);

    snapshots(&stage.gateway, 2).await;
    stage.gateway.kill_9().unwrap();
    let gateway = stage.gateway.restart().unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    assert_eq!(window(&mut connection).await, shown);
    for batch in BATCHES - REMEMBERED..BATCHES {
        report(&mut connection, &account, batch).await;
    }
    assert_eq!(spent(&mut connection, &account).await, sum, "counted twice");
    // What is out of the window is new again; nobody was told otherwise.
    report(&mut connection, &account, 0).await;
    sum += NANOS * BATCH as i64;
    assert_eq!(spent(&mut connection, &account).await, sum);
    println!("{:.1} s", began.elapsed().as_secs_f32());
}
