//! A month ends under load: every charge counts in exactly one month, and nobody is refused for the
//! month before.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "month_end/calendar.rs"]
mod calendar;
#[path = "month_end/load.rs"]
mod load;
mod support;

use calendar::{by_month, restarted_at};
use load::{CENT, Load, MIDNIGHT_MILLIS};
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Caller, Connection};
use nullrun_loadtest::ledger::Ledger;
use serde_json::{Value, json};
use std::time::Instant;
use support::{Environment, LAYOUTS, Stage, StepClock};

/// When the stage is set, however long that takes: less than a hold lives before midnight.
const START: &str = "2026-11-30T23:56:00Z";

async fn gate(stage: &mut Stage, account: &Account, cents: u64) -> Value {
    let body = json!({ "model": "claude-haiku-4-5", "max_output_tokens": cents * 2000 });
    stage.ask(account, "/api/v1/gate", body).await.body
}

async fn track(stage: &mut Stage, account: &Account, hold: &Value, cents: u64) {
    let body = json!({ "reservation_id": hold, "model": "claude-haiku-4-5", "output_tokens": cents * 2000 });
    let answer = stage.ask(account, "/api/v1/track", body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn workflow(stage: &mut Stage, account: &Account) -> Value {
    stage
        .see(account, &format!("/workflows/{}", account.workflow))
        .await
}

async fn month_ends(layout: Environment) {
    let began = Instant::now();
    let stepped = StepClock::ahead(StepClock::until(START));
    let now = stepped.variable();
    let mut environment = layout.to_vec();
    environment.extend([
        ("NULLRUN_TEST_NOW", now.as_str()),
        ("NULLRUN_HMAC_REQUIRED", "false"),
    ]);
    let mut stage = Stage::start(&environment);
    // One that is idle, one whose call is under way at midnight, and one with the load.
    let idle = stage.account().await;
    let late = stage.account().await;
    let busy = stage.account().await;
    for account in [&idle, &late] {
        let connection = &mut stage.connection;
        let set = account.set_workflow_budget(connection, &account.workflow, Some(10));
        set.await.unwrap();
    }
    let spent = gate(&mut stage, &idle, 10).await["reservation_id"].clone();
    track(&mut stage, &idle, &spent, 10).await;
    assert_eq!(
        gate(&mut stage, &idle, 1).await["error_code"],
        "BUDGET_HARD_BLOCKED"
    );
    let open = gate(&mut stage, &late, 9).await["reservation_id"].clone();
    let mut load = Load::prepare(&mut stage, &busy).await;
    let clock = load.run(&stage, &busy, &stepped).await;

    let shown = workflow(&mut stage, &idle).await;
    let seen = |name: &str| shown[name].as_i64();
    assert_eq!(shown["period"]["start"], "2026-12-01T00:00:00.000Z");
    assert_eq!(
        (seen("spent_nanos"), seen("lifetime_spent_nanos")),
        (Some(0), Some(10 * CENT))
    );
    assert_eq!(gate(&mut stage, &idle, 10).await["decision"], "allow");
    // What was held in November is spent in November, and takes nothing from December.
    let before = workflow(&mut stage, &late).await;
    assert_eq!(before["remaining_nanos"], 10 * CENT, "{before}");
    track(&mut stage, &late, &open, 9).await;
    let shown = workflow(&mut stage, &late).await;
    let seen = |name: &str| shown[name].as_i64();
    assert_eq!(
        (seen("spent_nanos"), seen("lifetime_spent_nanos")),
        (Some(0), Some(9 * CENT))
    );
    assert_eq!(gate(&mut stage, &late, 10).await["decision"], "allow");

    let done = load.judge(&clock);
    let ledger = Ledger::read(&mut stage.connection, &busy).await.unwrap();
    assert!(
        ledger.contradictions().is_empty(),
        "{}",
        ledger.contradictions()
    );
    let status = stage.see(&busy, "/status").await;
    let december = status["spent_nanos"].as_i64().unwrap();
    let all = status["lifetime_spent_nanos"].as_i64().unwrap();
    assert_eq!(
        all, done.spent,
        "November and December are not what was acknowledged"
    );
    let [least, most] = done.december;
    assert!(
        (least..=most).contains(&december),
        "December has {december}, not {least} to {most}"
    );
    assert!(least > 0 && most < all, "no load on one side of midnight");
    stage.gateway.stop().unwrap();
    let months = by_month(stage.gateway.settings().data_dir(), &busy.org);
    assert_eq!(months, [all - december, december], "the log's own sums");
    println!("{done}, in all {:.1} s", began.elapsed().as_secs_f32());
}

async fn with(layouts: &[(&str, Environment)]) {
    for (name, layout) in layouts {
        println!("{name}");
        month_ends(layout).await;
    }
}

#[tokio::test]
async fn a_month_ends_under_load_with_shards_in_front() {
    with(&LAYOUTS[..3]).await;
}

#[tokio::test]
async fn a_month_ends_under_load_with_shards_on_threads() {
    with(&LAYOUTS[3..]).await;
}

#[tokio::test]
async fn caps_of_every_period_begin_anew_when_their_period_does_and_not_before() {
    const PERIODS: [&str; 5] = ["day", "week", "month", "rolling_30_days", "lifetime"];
    let environment = [
        ("NULLRUN_TEST_NOW", "2026-11-24T12:00:00Z"),
        ("NULLRUN_HMAC_REQUIRED", "false"),
    ];
    let mut stage = Stage::start(&environment);
    let account = stage.account().await;
    let key = account
        .create_key(&mut stage.connection, None, None)
        .await
        .unwrap()
        .key;
    let mut workflows = Vec::new();
    for period in PERIODS {
        let body = json!({ "name": period, "budget_cents": 10, "budget_period": period });
        let made = stage.post(&account, "/workflows", body).await;
        workflows.push(made.required("id").unwrap());
    }
    for workflow in &workflows {
        let body = json!({ "workflow_id": workflow, "model": "claude-haiku-4-5", "output_tokens": 20_000 });
        let caller = Caller::Key(&key);
        let answer = stage
            .connection
            .post("/api/v1/track", caller, &body)
            .await
            .unwrap();
        assert_eq!(answer.body["workflow_id"], **workflow, "{}", answer.body);
    }
    let mut gateway = stage.gateway;
    // A Tuesday; the next Monday is the 30th.
    for (now, free) in [
        ("2026-11-24T23:58:00Z", 0),
        ("2026-11-25T00:00:00Z", 1),
        ("2026-11-29T23:58:00Z", 1),
        ("2026-11-30T00:00:00Z", 2),
        ("2026-11-30T23:58:00Z", 2),
        ("2026-12-01T00:00:00Z", 3),
        ("2026-12-23T23:58:00Z", 3),
        ("2026-12-24T00:00:00Z", 4),
        ("2036-01-01T00:00:00Z", 4),
    ] {
        gateway = restarted_at(gateway, now);
        let mut connection = Connection::new(&gateway.endpoint().unwrap());
        // Its session is over after a week.
        let mut account = account.clone();
        account.login(&mut connection).await.unwrap();
        let listed = connection
            .get(&account.path("/workflows"), account.operator())
            .await
            .unwrap();
        for (n, workflow) in workflows.iter().enumerate() {
            let rows = listed.body["data"].as_array().unwrap();
            let row = rows.iter().find(|row| row["id"] == **workflow).unwrap();
            let expected = if n < free { 0 } else { 10 * CENT };
            assert_eq!(row["spent_nanos"], expected, "{} at {now}", PERIODS[n]);
            assert_eq!(
                row["lifetime_spent_nanos"],
                10 * CENT,
                "{} at {now}",
                PERIODS[n]
            );
        }
        let verify = account.path("/ledger/verify");
        let verify = connection.get(&verify, account.operator()).await.unwrap();
        assert_eq!(verify.body["verified"], true, "{now}: {}", verify.body);
    }
}
