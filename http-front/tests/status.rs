//! `/status` and `/quota` show the figures that calls are decided with: to the nano-dollar the amount
//! at which a call is refused, whatever the number of shards.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, SdkKey};
use serde_json::{Value, json};
use support::{Environment, LAYOUTS, Stage, with_each};

/// A model of which a token costs one nano-dollar.
const UNIT: &str = "one-nano";

struct Desk {
    stage: Stage,
    account: Account,
}

impl Desk {
    async fn start(layout: Environment) -> Self {
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let price = json!({ "models": [{
            "model_id": UNIT, "input_nanos_per_mtok": 1_000_000, "output_nanos_per_mtok": 0,
        }] });
        let connection = &mut stage.connection;
        let set = connection
            .patch("/api/v1/admin/pricing", account.operator(), &price)
            .await;
        set.unwrap().expect(&[200]).unwrap();
        Self { stage, account }
    }

    async fn ask(&mut self, key: &SdkKey, nanos: i64) -> Answer {
        let body = json!({ "model": UNIT, "estimated_tokens": nanos });
        self.stage.gate(key, &body).await
    }

    async fn see(&mut self, rest: &str) -> Value {
        let account = self.account.clone();
        self.stage.see(&account, rest).await
    }

    /// A call of one nano-dollar more than `left` is refused with these figures, and one of exactly
    /// `left` fits: it is held, and freed again.
    async fn refuses_beyond(&mut self, key: &SdkKey, scope: &str, figures: [i64; 3], left: i64) {
        let refused = self.ask(key, left + 1).await;
        assert_eq!(refused.text("decision"), "block", "{}", refused.in_short());
        let budget = &refused.body["details"]["budget"];
        assert_eq!(budget["scope"], scope);
        let said =
            ["cap_nanos", "spent_nanos", "held_nanos"].map(|name| budget[name].as_i64().unwrap());
        assert_eq!(said, figures, "{scope}");
        let fits = self.ask(key, left).await;
        assert!(fits.is_allow(), "{}", fits.in_short());
        let hold = fits.required("reservation_id").unwrap();
        let connection = &mut self.stage.connection;
        let body = json!({ "execution_id": hold });
        let freed = connection.post_signed("/api/v1/cancel", key, &body).await;
        freed.unwrap().expect(&[200]).unwrap();
    }
}

fn nanos(shown: &Value, name: &str) -> i64 {
    shown[name]
        .as_i64()
        .unwrap_or_else(|| panic!("{name}: {shown}"))
}

fn figures(shown: &Value, cap_cents: i64) -> ([i64; 3], i64) {
    let (spent, held) = (nanos(shown, "spent_nanos"), nanos(shown, "held_nanos"));
    let left = nanos(shown, "remaining_nanos");
    let cap = cap_cents * 10_000_000;
    assert_eq!(spent + held + left, cap, "{shown}");
    ([cap, spent, held], left)
}

async fn to_the_nano(layout: Environment) {
    let mut desk = Desk::start(layout).await;
    let account = desk.account.clone();
    let connection = &mut desk.stage.connection;
    account.set_org_budget(connection, Some(100)).await.unwrap();
    let free = json!({ "name": "free", "budget_cents": 40 });
    let free = desk
        .stage
        .post(&account, "/api-keys", free)
        .await
        .expect(&[201])
        .unwrap();
    let bound = json!({ "name": "bound", "budget_cents": 30, "workflow_id": account.workflow });
    let bound = desk
        .stage
        .post(&account, "/api-keys", bound)
        .await
        .expect(&[201])
        .unwrap();
    let key = |minted: &Answer| SdkKey::new(minted.text("key"), minted.text("secret_key"));
    let (free, bound) = (key(&free), key(&bound));
    let mut keys = vec![bound.clone()];
    for name in ["b", "c", "d", "e"] {
        let made = desk
            .stage
            .post(&account, "/workflows", json!({ "name": name }))
            .await;
        let id = made.expect(&[201]).unwrap().required("id").unwrap();
        keys.push(free.clone().for_workflow(id));
    }
    // Spent, held, partly charged, and beyond a hold, in workflows of several shards.
    for (n, key) in keys.iter().enumerate() {
        let n = n as i64;
        let held = desk.ask(key, 30_000_001 + n).await;
        assert!(held.is_allow(), "{}", held.in_short());
        let tokens = [1_234_567, 0, 31_000_003][(n % 3) as usize] + n;
        let event = json!({
            "reservation_id": held.text("reservation_id"), "model": UNIT, "provider": "openai",
            "input_tokens": tokens,
        });
        desk.stage.track(key, &event).await;
    }
    let status = desk.see("/status").await;
    assert_eq!(status["budget_cents"], 100);
    let (org, left) = figures(&status, 100);
    assert!(org[1] > 0 && org[2] > 0, "{status}");
    // The workflows' own figures add up to it.
    let rows = status["workflows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    let sum = |name: &str| rows.iter().map(|row| nanos(row, name)).sum::<i64>();
    assert_eq!([sum("spent_nanos"), sum("held_nanos")], org[1..]);
    assert_eq!(status["lifetime_spent_nanos"], org[1]);
    desk.refuses_beyond(&account.key, "org", org, left).await;

    let quota = desk.see("/quota").await;
    assert_eq!(quota["budget"]["remaining_nanos"], left);
    assert_eq!(quota["keys"]["data"].as_array().unwrap().len(), 3);
    for (name, key, cap) in [("free", &keys[1], 40), ("bound", &bound, 30)] {
        let rows = quota["keys"]["data"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row["budget_cents"], cap);
        let (figures, left) = figures(row, cap);
        assert!(figures[1] > 0, "{row}");
        desk.refuses_beyond(key, "api_key", figures, left).await;
    }
    assert_eq!(
        desk.see("/quota").await["budget"],
        desk.see("/usage").await["budget"]
    );
    // A policy with less room is what is shown, for it is what refuses.
    let policy =
        json!({ "name": "tight", "policy_type": "BudgetLimit", "config": { "budget_cents": 60 } });
    let policy = desk
        .stage
        .post(&account, "/policies", policy)
        .await
        .expect(&[201])
        .unwrap();
    let status = desk.see("/status").await;
    assert_eq!(status["budget_cents"], 60);
    assert_eq!(status["budget_policy_id"], policy.body["id"]);
    let (org, left) = figures(&status, 60);
    desk.refuses_beyond(&account.key, "org", org, left).await;
    // The same after a kill.
    desk.stage.gateway.kill_9().unwrap();
    desk.stage.gateway = desk.stage.gateway.restart().unwrap();
    desk.stage.connection = desk.stage.connect();
    let again = desk.see("/status").await;
    for name in ["spent_nanos", "held_nanos", "remaining_nanos", "workflows"] {
        assert_eq!(again[name], status[name], "{name}");
    }
}

#[test]
fn what_is_shown_is_what_calls_are_decided_with_to_the_nano_dollar() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    with_each(&LAYOUTS, |layout| runtime.block_on(to_the_nano(layout)));
}

#[tokio::test]
async fn a_status_is_read_by_a_key_unsigned_and_comes_in_pages() {
    let mut desk = Desk::start(LAYOUTS[5].1).await;
    let account = desk.account.clone();
    for n in 0..5 {
        let made = desk
            .stage
            .post(&account, "/workflows", json!({ "name": format!("w{n}") }))
            .await;
        made.expect(&[201]).unwrap();
    }
    let rate = json!({ "name": "r", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 60 } });
    desk.stage
        .post(&account, "/policies", rate)
        .await
        .expect(&[201])
        .unwrap();
    for _ in 0..3 {
        assert!(desk.ask(&account.key, 5).await.is_allow());
    }
    let path = account.path(&format!("/workflows/{}/pause", account.workflow));
    let connection = &mut desk.stage.connection;
    let paused = connection
        .post(&path, account.operator(), &json!({ "reason": "lunch" }))
        .await;
    paused.unwrap().expect(&[200]).unwrap();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = account.path(&format!("/status?limit=2{cursor}"));
        let page = connection.get(&path, Caller::Key(&account.key)).await;
        let page = page.unwrap().expect(&[200]).unwrap().body;
        assert_eq!(
            (&page["rate_used"], &page["rate_limit_per_min"]),
            (&json!(3), &json!(60))
        );
        assert_eq!(
            page["plan_caps"]["workflows"],
            json!({ "used": 6, "limit": null, "percent": null })
        );
        assert_eq!(page["plan_caps"]["executions"]["used"], 3);
        seen.extend(page["workflows"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 6);
    let first = &seen[0];
    assert_eq!(first["workflow_id"], json!(account.workflow));
    let state = (&first["state"], &first["version"], &first["reason"]);
    assert_eq!(state, (&json!("Paused"), &json!(1), &json!("lunch")));
    assert!(first["updated_at"].as_u64().unwrap() > 1_000_000_000);
    let elsewhere = "/api/v1/orgs/01a20a99-0000-7000-8000-00000000dead/status";
    let other = connection
        .request(Method::GET, elsewhere, Caller::Key(&account.key), None)
        .await;
    assert_eq!(other.unwrap().status, 403);
}

#[tokio::test]
async fn the_time_until_a_budget_is_used_up_is_what_is_left_at_the_rate_of_the_last_minutes() {
    let mut desk = Desk::start(&[]).await;
    let account = desk.account.clone();
    let none = desk.see("/status").await;
    assert_eq!(none["time_to_exhaustion_secs"], Value::Null);
    let connection = &mut desk.stage.connection;
    account
        .set_org_budget(connection, Some(1000))
        .await
        .unwrap();
    assert_eq!(
        desk.see("/status").await["time_to_exhaustion_secs"],
        Value::Null
    );
    // A first charge counts as spent over ten seconds: 100 of the 1000 cents.
    let event = json!({ "model": UNIT, "provider": "openai", "input_tokens": 1_000_000_000 });
    desk.stage.track(&account.key, &event).await;
    let status = desk.see("/status").await;
    let secs = status["time_to_exhaustion_secs"].as_u64().unwrap();
    assert!((85..=120).contains(&secs), "{status}");
    assert_eq!(status["time_to_exhaustion"], secs);
}
