//! A clock that is wrong: at a start, days or hours before or after the log; and stepped while the
//! gateway serves. Time in the log never goes back, nothing expires before its time, every charge
//! counts in one period, and signatures are judged by the clock as it is.

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
use persist::{Lsn, inspect};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use support::{LAYOUTS, PATIENCE, Stage, StepClock};

const CENT: i64 = 10_000_000;
const DAY: i64 = 86_400_000;

/// Asks for a call that costs at most 4 cents, by its operation.
async fn gate(connection: &mut Connection, account: &Account, operation: &str) -> Answer {
    let body = json!({ "operation_id": operation, "model": "claude-haiku-4-5", "max_output_tokens": 8000 });
    let caller = Caller::Key(&account.key);
    let asked = connection.post("/api/v1/gate", caller, &body);
    let answer = asked.await.unwrap();
    assert!(answer.is_allow(), "{}", answer.body);
    answer
}

/// Reports one event of a cent.
async fn cent(connection: &mut Connection, account: &Account) -> Answer {
    let body = json!({ "model": "claude-haiku-4-5", "output_tokens": 2000 });
    let caller = Caller::Key(&account.key);
    connection
        .post("/api/v1/track", caller, &body)
        .await
        .unwrap()
}

async fn workflow(connection: &mut Connection, account: &Account) -> Value {
    let path = account.path(&format!("/workflows/{}", account.workflow));
    let answer = connection.get(&path, account.operator()).await.unwrap();
    answer.expect(&[200]).unwrap().body
}

async fn open_holds(connection: &mut Connection, account: &Account) -> usize {
    let path = account.path("/holds");
    let answer = connection.get(&path, account.operator()).await.unwrap();
    answer.body["data"].as_array().unwrap().len()
}

/// Starts again with the clock at `now` and one more variable.
fn at(mut gateway: Gateway, now: &str, more: (&str, &str)) -> Result<Gateway, (Settings, String)> {
    gateway.stop().unwrap();
    let settings = gateway.settings().clone();
    drop(gateway);
    let settings = settings.env("NULLRUN_TEST_NOW", now).env(more.0, more.1);
    Gateway::start(settings.clone()).map_err(|error| (settings, error.to_string()))
}

#[tokio::test]
async fn a_clock_far_behind_the_log_is_refused_with_the_remedy_and_one_ahead_begins_new_periods() {
    let accept = |on| ("NULLRUN_ACCEPT_CLOCK_BEHIND", on);
    let environment = [
        ("NULLRUN_TEST_NOW", "2026-11-10T12:00:00Z"),
        ("NULLRUN_HMAC_REQUIRED", "false"),
    ];
    let mut stage = Stage::start(&environment);
    let mut account = stage.account().await;
    let hold = gate(&mut stage.connection, &account, "o").await;
    let hold = hold.required("reservation_id").unwrap();
    assert_eq!(cent(&mut stage.connection, &account).await.status, 200);

    // Two days back.
    let two_days = "2026-11-08T12:00:00Z";
    let (settings, words) = at(stage.gateway, two_days, accept("false")).unwrap_err();
    for part in [
        "exit status: 1",
        "2026-11-08T12:00",
        "2026-11-10T12:00",
        "Set the clock right",
        "NULLRUN_ACCEPT_CLOCK_BEHIND=true",
    ] {
        assert!(words.contains(part), "{part} is missing: {words}");
    }
    // The same, accepted: time stands still, and what was held is held.
    let settings = settings.env("NULLRUN_ACCEPT_CLOCK_BEHIND", "true");
    let gateway = Gateway::start(settings).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let again = gate(&mut connection, &account, "o").await;
    assert_eq!(again.text("reservation_id"), hold);
    assert_eq!(again.body["idempotent_replay"], true);
    assert_eq!(cent(&mut connection, &account).await.status, 200);
    let shown = workflow(&mut connection, &account).await;
    assert_eq!(shown["spent_nanos"], 2 * CENT);
    assert_eq!(shown["held_nanos"], 4 * CENT);

    // Two hours back: worth a word, and no more.
    let gateway = at(gateway, "2026-11-10T10:00:00Z", accept("false")).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let again = gate(&mut connection, &account, "o").await;
    assert_eq!(again.text("reservation_id"), hold);
    gateway.says("the clock is behind the log").unwrap();

    // Forty days on: another month, and the hold's time is over.
    let gateway = at(gateway, "2026-12-20T12:00:00Z", accept("false")).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    account.login(&mut connection).await.unwrap();
    assert!(!gateway.output().contains("the clock is behind the log"));
    let shown = workflow(&mut connection, &account).await;
    assert_eq!(shown["period"]["start"], "2026-12-01T00:00:00.000Z");
    let seen = ["spent_nanos", "held_nanos", "lifetime_spent_nanos"].map(|name| &shown[name]);
    assert_eq!(seen, [0, 0, 2 * CENT]);
    assert_eq!(open_holds(&mut connection, &account).await, 0);
    let again = gate(&mut connection, &account, "o").await;
    assert_ne!(again.text("reservation_id"), hold, "that one has expired");
}

/// What the log's charges sum up to, by day.
fn by_day(data: &Path, org: &str) -> BTreeMap<i64, i64> {
    let wal = inspect::Directory::read_only(data).wal;
    let mut lines = Vec::new();
    inspect::export(wal.as_ref(), Lsn(1), Lsn(u64::MAX), &mut lines).unwrap();
    let (mut days, mut last) = (BTreeMap::new(), 0);
    for line in String::from_utf8(lines).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let record = &line["record"];
        if line["type"] == "Charged" && record["org"] == org {
            let at = record["at"].as_i64().unwrap();
            assert!(at >= last, "time went back in the log");
            last = at;
            let day = record["day"].as_i64().unwrap();
            *days.entry(day).or_default() += record["cost"].as_i64().unwrap();
        }
    }
    days
}

async fn stepped(layout: support::Environment) {
    // Noon of this day, so that no midnight comes by itself.
    let now = jiff::Timestamp::now().as_millisecond();
    let (today, base) = (now.div_euclid(DAY), DAY / 2 - now.rem_euclid(DAY));
    let clock = StepClock::ahead(base);
    let file = clock.variable();
    let mut environment = layout.to_vec();
    environment.extend([
        ("NULLRUN_TEST_NOW", file.as_str()),
        ("NULLRUN_HMAC_REQUIRED", "false"),
    ]);
    let mut stage = Stage::start(&environment);
    let account = stage.account().await;
    let daily = json!({ "budget_cents": 1_000_000, "budget_period": "day" });
    let rest = format!("/workflows/{}", account.workflow);
    stage.patch(&account, &rest, daily).await;

    // A light load throughout.
    let (ends, cents) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicI64::new(0)),
    );
    let mut load = Vec::new();
    for _ in 0..3 {
        let (mut connection, account) = (stage.connect(), account.clone());
        let (ends, cents) = (Arc::clone(&ends), Arc::clone(&cents));
        load.push(tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                let answer = cent(&mut connection, &account).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                cents.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }));
    }
    let connection = &mut stage.connection;
    let hold = gate(connection, &account, "o").await;
    let hold = hold.required("reservation_id").unwrap();
    // Each step is under load, before and after.
    let goes_on = async || {
        let (from, began) = (cents.load(Ordering::SeqCst), Instant::now());
        while cents.load(Ordering::SeqCst) < from + 20 {
            assert!(began.elapsed() < PATIENCE, "the load stands still");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let step = async |ahead| {
        clock.step(ahead);
        goes_on().await;
    };
    // Four minutes on, an hour back: a hold of five minutes is there.
    for minutes in [4, -60, 4] {
        step(base + minutes * 60_000).await;
        assert_eq!(open_holds(connection, &account).await, 1, "{minutes} min");
        let again = gate(connection, &account, "o").await;
        assert_eq!(again.text("reservation_id"), hold, "{minutes} min");
    }
    step(base + 6 * 60_000).await;
    assert_eq!(
        open_holds(connection, &account).await,
        0,
        "its time is over"
    );

    // A signature is as old as the clock says that stands now, whatever time the log is at.
    let signed = |n: u32| json!({ "operation_id": format!("signed-{n}"), "model": "claude-haiku-4-5", "max_output_tokens": 8000 });
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let seen = |answer: &Answer| (answer.is_allow(), answer.error_code().to_owned());
    step(base + DAY).await;
    let spent_before = workflow(connection, &account).await["spent_nanos"].clone();
    let answer = connection
        .post("/api/v1/gate", caller, &signed(1))
        .await
        .unwrap();
    assert_eq!(
        seen(&answer),
        (false, "HMAC_TIMESTAMP_SKEW".to_owned()),
        "{}",
        answer.body
    );
    step(0).await;
    let answer = connection
        .post("/api/v1/gate", caller, &signed(2))
        .await
        .unwrap();
    assert!(answer.is_allow(), "{}", answer.body);
    // The day that has begun goes on although the clock went back.
    let shown = workflow(connection, &account).await;
    assert!(
        shown["spent_nanos"].as_i64() > spent_before.as_i64(),
        "{shown}"
    );
    step(-3 * DAY).await;
    step(base).await;

    ends.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    let all = cents.load(Ordering::SeqCst) * CENT;
    let shown = workflow(connection, &account).await;
    assert_eq!(shown["lifetime_spent_nanos"], all, "{shown}");
    let second = shown["spent_nanos"].as_i64().unwrap();
    let verify = stage.see(&account, "/ledger/verify").await;
    assert_eq!(verify["verified"], true, "{verify}");
    stage.gateway.stop().unwrap();
    let days = by_day(stage.gateway.settings().data_dir(), &account.org);
    let expected = BTreeMap::from([(today, all - second), (today + 1, second)]);
    assert_eq!(days, expected);
    assert!(
        second > 0 && second < all,
        "no load on one side of the step"
    );
    println!("{} charges, {second} nanos after the step", all / CENT);
}

#[tokio::test]
async fn a_clock_stepped_under_load_ends_nothing_early_and_counts_all_once_with_one_shard() {
    stepped(LAYOUTS[0].1).await;
}

#[tokio::test]
async fn a_clock_stepped_under_load_ends_nothing_early_and_counts_all_once_with_seven_shards() {
    stepped(LAYOUTS[5].1).await;
}
