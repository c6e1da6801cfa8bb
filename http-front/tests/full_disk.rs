//! The real gateway on a disk that fills up and is freed again: gates are refused in words, reports
//! are taken and then wait, a kill in between loses nothing that was answered; and a start that has no
//! room says what to do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use nullrun_loadtest::ledger::Ledger;
use nullrun_loadtest::shim::Shim;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Environment, GATEWAY, LAYOUTS, PATIENCE};
use tempfile::TempDir;

/// What an event of a batch costs.
const NANOS: i64 = 47_000;
/// Events of a batch, and about 60 KiB of log.
const EVENTS: usize = 300;

/// Events with ids of their own.
fn events(batch: usize) -> Value {
    let event = |n| json!({ "event_id": format!("{batch}-{n}"), "model": "claude-haiku-4-5", "input_tokens": 47, "agent_id": "y".repeat(80) });
    json!({ "events": (0..EVENTS).map(event).collect::<Vec<_>>() })
}

async fn report(connection: &mut Connection, account: &Account, batch: usize) -> Answer {
    let caller = Caller::Key(&account.key);
    let body = events(batch);
    let sent = connection.post("/api/v1/track/batch", caller, &body);
    sent.await.unwrap()
}

/// Asks for a call, in each of the three ways.
async fn ask(connection: &mut Connection, account: &Account) -> Vec<Answer> {
    let mut answers = Vec::new();
    for path in ["/api/v1/gate", "/api/v1/execute", "/api/v1/check"] {
        let body = json!({ "model": "claude-haiku-4-5", "max_output_tokens": 1 });
        let caller = Caller::Key(&account.key);
        answers.push(connection.post(path, caller, &body).await.unwrap());
    }
    answers
}

async fn ready(connection: &mut Connection) -> Answer {
    connection
        .get("/health/ready", Caller::Anonymous)
        .await
        .unwrap()
}

async fn is_full(connection: &mut Connection, account: &Account) {
    for answer in ask(connection, account).await {
        let seen = (answer.status, answer.error_code());
        assert_eq!(seen, (200, "STORAGE_FULL"), "{}", answer.body);
        assert_eq!(answer.text("decision"), "block");
    }
    let answer = ready(connection).await;
    let seen = (answer.status, answer.error_code());
    assert_eq!(seen, (503, "STORAGE_FULL"), "{}", answer.body);
}

async fn is_well(connection: &mut Connection, account: &Account) {
    let began = Instant::now();
    while ready(connection).await.status != 200 {
        assert!(began.elapsed() < PATIENCE, "still full");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for answer in ask(connection, account).await {
        assert!(answer.is_allow(), "{}", answer.body);
    }
}

async fn spent(connection: &mut Connection, account: &Account) -> i64 {
    let ledger = Ledger::read(connection, account).await.unwrap();
    let contradictions = ledger.contradictions();
    assert!(contradictions.is_empty(), "{contradictions}");
    ledger.status.totals.spent_nanos
}

async fn fills_up_and_is_freed(layout: Environment) {
    let began = Instant::now();
    let home = TempDir::with_prefix("nullrun-full-").unwrap();
    let mount = Shim::compile().unwrap().mount(home.path(), 0).unwrap();
    let settings = Settings::new(GATEWAY, home.path()).env("NULLRUN_HMAC_REQUIRED", "false");
    let set = |settings: Settings, (name, value): &(&str, &str)| settings.env(*name, *value);
    let settings = layout.iter().fold(settings, set).on_shim(mount.clone());
    let mut gateway = Gateway::start(settings.clone()).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(1);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    is_well(&mut connection, &account).await;

    mount.fill(true).unwrap();
    let mut batches = 0;
    while ready(&mut connection).await.status == 200 {
        let answer = report(&mut connection, &account, batches).await;
        assert_eq!(answer.body["accepted"], EVENTS, "{}", answer.body);
        batches += 1;
        assert!(batches < 100, "never full");
    }
    is_full(&mut connection, &account).await;
    // Reports are taken as long as there are zeros to write over, and then wait.
    let waiting = loop {
        let (mut further, account) = (
            Connection::new(&gateway.endpoint().unwrap()),
            account.clone(),
        );
        let mut sent = tokio::spawn(async move {
            let caller = Caller::Key(&account.key);
            let body = events(batches);
            further.post("/api/v1/track/batch", caller, &body).await
        });
        match tokio::time::timeout(Duration::from_millis(700), &mut sent).await {
            Ok(answer) => assert_eq!(answer.unwrap().unwrap().status, 200),
            Err(_) => break sent,
        }
        batches += 1;
        assert!(batches < 100, "no report ever waits");
    };
    // With room again it is taken, and everything is as before.
    mount.fill(false).unwrap();
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.body["accepted"], EVENTS, "{}", answer.body);
    batches += 1;
    is_well(&mut connection, &account).await;
    let sum = |batches: usize| NANOS * (batches * EVENTS) as i64;
    assert_eq!(spent(&mut connection, &account).await, sum(batches));

    // Full once more, and killed. On a disk that is still full a gateway with a log starts; what was
    // answered is there.
    mount.fill(true).unwrap();
    while ready(&mut connection).await.status == 200 {
        report(&mut connection, &account, batches).await;
        batches += 1;
    }
    gateway.kill_9().unwrap();
    drop(gateway);
    let gateway = Gateway::start(settings).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    is_full(&mut connection, &account).await;
    let path = account.path("/status");
    let shown = connection.get(&path, account.operator()).await.unwrap();
    assert_eq!(shown.body["spent_nanos"], sum(batches), "{}", shown.body);
    mount.fill(false).unwrap();
    is_well(&mut connection, &account).await;
    // Sent again they count nothing.
    for batch in 0..batches {
        report(&mut connection, &account, batch).await;
    }
    assert_eq!(spent(&mut connection, &account).await, sum(batches));
    println!("{batches} batches, {:.1} s", began.elapsed().as_secs_f32());
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_gates_lets_reports_wait_and_goes_on_with_one_shard() {
    fills_up_and_is_freed(LAYOUTS[0].1).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_gates_lets_reports_wait_and_goes_on_with_two_shards() {
    fills_up_and_is_freed(LAYOUTS[1].1).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_refuses_gates_lets_reports_wait_and_goes_on_with_seven_shards() {
    fills_up_and_is_freed(LAYOUTS[5].1).await;
}

#[test]
fn a_first_start_on_a_full_disk_says_that_space_is_to_be_freed_and_the_next_one_serves() {
    let home = TempDir::with_prefix("nullrun-full-").unwrap();
    let mount = Shim::compile().unwrap().mount(home.path(), 0).unwrap();
    let settings = Settings::new(GATEWAY, home.path()).on_shim(mount.clone());
    let refused = || {
        mount.fill(true).unwrap();
        let words = Gateway::start(settings.clone()).unwrap_err().to_string();
        for part in ["exit status: 1", "No space left", "Free space on"] {
            assert!(words.contains(part), "{part} is missing: {words}");
        }
        mount.fill(false).unwrap();
    };
    refused();
    Gateway::start(settings.clone()).unwrap();
    // The disk fills up while the key is made, and while the log is.
    for lost in ["master.key", "wal/0000000000000001.seg"] {
        std::fs::remove_file(mount.data_dir().join(lost)).unwrap();
        if lost == "master.key" {
            std::fs::rename(mount.data_dir().join("wal"), home.path().join("aside")).unwrap();
        }
        refused();
        if lost == "master.key" {
            std::fs::rename(home.path().join("aside"), mount.data_dir().join("wal")).unwrap();
            let key = "ab".repeat(32);
            std::fs::write(mount.data_dir().join(lost), key).unwrap();
        }
    }
    Gateway::start(settings).unwrap();
}
