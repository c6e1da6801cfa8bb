//! Prices over HTTP: a model without a price is charged provisionally, gets one, and its charges are
//! booked anew exactly once, whatever the number of shards; a wrong price is rolled back the same way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller};
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Environment, GATEWAY, LAYOUTS, Stage};

const PRICING: &str = "/api/v1/admin/pricing";
const MISSING: &str = "/api/v1/admin/pricing/missing";

struct Admin {
    stage: Stage,
    account: Account,
}

impl Admin {
    async fn start(environment: Environment) -> Self {
        let mut stage = Stage::start(environment);
        let account = stage.account().await;
        Self { stage, account }
    }

    async fn missing(&mut self, body: Value) -> Value {
        let connection = &mut self.stage.connection;
        let operator = self.account.operator();
        let answer = connection.post(MISSING, operator, &body).await;
        answer.unwrap().expect(&[200]).unwrap().body
    }

    async fn patch(&mut self, path: &str, body: Value) -> Answer {
        let connection = &mut self.stage.connection;
        let operator = self.account.operator();
        connection.patch(path, operator, &body).await.unwrap()
    }

    async fn get(&mut self, path: &str) -> Answer {
        let connection = &mut self.stage.connection;
        connection.get(path, self.account.operator()).await.unwrap()
    }

    /// The org's ledger agrees with the log, and this is what was spent in it.
    async fn spent(&mut self) -> i64 {
        let account = self.account.clone();
        let ledger = self.stage.see(&account, "/ledger/verify").await;
        assert_eq!(ledger["verified"], true, "{ledger}");
        let shown = self.stage.see(&account, "/status").await;
        let rows = shown["workflows"].as_array().unwrap().clone();
        let spent = rows.iter().map(|row| row["spent_nanos"].as_i64().unwrap());
        spent.sum()
    }

    async fn restart(mut self) -> Self {
        self.stage.gateway = self.stage.gateway.restart().unwrap();
        self.stage.connection = self.stage.connect();
        self
    }
}

fn price(model: &str, input: i64) -> Value {
    json!({ "models": [{
        "model_id": model, "input_nanos_per_mtok": input, "output_nanos_per_mtok": 0,
    }] })
}

async fn charged_once_and_rolled_back(layout: Environment) {
    let mut admin = Admin::start(layout).await;
    let account = admin.account.clone();
    let mut tokens = 0;
    for n in 1..=9 {
        let name = json!({ "name": format!("workflow {n}") });
        let made = admin.stage.post(&account, "/workflows", name).await;
        let workflow = made.required("id").unwrap();
        let connection = &mut admin.stage.connection;
        let key = account.create_key(connection, Some(&workflow), None).await;
        let event = json!({ "model": "Acme/Mystery-1", "input_tokens": n * 333 });
        let tracked = admin.stage.track(&key.unwrap().key, &event).await;
        assert!(
            tracked.body.to_string().contains("provisional"),
            "{}",
            tracked.body
        );
        tokens += n * 333;
    }
    let provisional = admin.spent().await;
    let seen = admin.missing(json!({})).await;
    let row = &seen["data"][0];
    assert_eq!(row["model_id"], "acme/mystery-1");
    assert_eq!(
        (row["charges"].as_i64(), row["tokens"].as_i64()),
        (Some(9), Some(tokens))
    );
    assert_eq!(row["provisional_cost_nanos"], provisional);
    assert_eq!(
        (
            row["organizations"].as_i64(),
            row["first_day"] == row["last_day"]
        ),
        (Some(1), true)
    );
    assert_eq!(seen["corrected"], json!([]));

    // 1.5 nano-dollars a token: each workflow's sum is rounded once, half up.
    let right: i64 = (1..=9).map(|n| (n * 333 * 3 + 1) / 2).sum();
    let answer = admin.missing(price("Mystery-1", 1_500_000)).await;
    let corrected = &answer["corrected"][0];
    assert_eq!(corrected["entries"], 9, "{answer}");
    assert_eq!(
        (&corrected["before_nanos"], &corrected["after_nanos"]),
        (&json!(provisional), &json!(right))
    );
    assert_eq!(answer["data"], json!([]));
    assert_eq!(admin.spent().await, right);

    let again = admin.missing(price("Mystery-1", 1_500_000)).await;
    assert_eq!(again["corrected"][0]["entries"], 0, "{again}");
    assert_eq!(again["corrected"][0]["version"], corrected["version"]);
    // Nor after a crash.
    let mut admin = admin.restart().await;
    let again = admin.missing(price("Mystery-1", 1_500_000)).await;
    assert_eq!(again["corrected"][0]["entries"], 0, "{again}");
    assert_eq!(admin.spent().await, right);

    // A wrong price, then the right one again, then none.
    let wrong = admin.missing(price("mystery-1", 9_000_000_000)).await;
    assert_eq!(wrong["corrected"][0]["entries"], 9);
    assert_eq!(admin.spent().await, tokens * 9_000);
    let back = admin.missing(price("mystery-1", 1_500_000)).await;
    assert_eq!(back["corrected"][0]["after_nanos"], right);
    assert_eq!(admin.spent().await, right);
    let none = json!({ "models": [{
        "model_id": "mystery-1", "input_nanos_per_mtok": null, "output_nanos_per_mtok": null,
    }] });
    let none = admin.missing(none).await;
    assert_eq!(none["data"][0]["charges"], 9);
    assert_eq!(admin.spent().await, provisional);
}

#[tokio::test]
async fn a_model_without_a_price_gets_one_and_each_charge_is_corrected_once() {
    for (name, layout) in LAYOUTS {
        let began = Instant::now();
        charged_once_and_rolled_back(layout).await;
        println!("{name}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn prices_are_listed_set_from_a_time_on_and_taken_away_with_their_history() {
    let mut admin = Admin::start(&[]).await;
    let listed = format!("{PRICING}?search=GPT-4O-mini&limit=2");
    let first = admin.get(&listed).await;
    assert_eq!(first.body["data"][0]["model_id"], "ft:gpt-4o-mini");
    let next = first.required("next_cursor").unwrap();
    let second = admin.get(&format!("{listed}&cursor={next}")).await;
    let row = second.body["data"][0].clone();
    assert_eq!(row["model_id"], "gpt-4o-mini");
    assert_eq!(
        (&row["source"], &row["version"]),
        (&json!("built_in"), &json!(0))
    );
    assert_eq!(row["input_nanos_per_mtok"], 150_000_000);

    // Half of it in the patch, the rest as it was.
    let one = format!("{PRICING}/gpt-4o-mini");
    let patched = admin
        .patch(&one, json!({ "input_nanos_per_mtok": 7 }))
        .await;
    let now = &patched.body["price"];
    assert_eq!(
        (&now["input_nanos_per_mtok"], &now["output_nanos_per_mtok"]),
        (&json!(7), &json!(600_000_000))
    );
    assert_eq!(
        (&now["source"], &now["version"]),
        (&json!("set"), &json!(1))
    );
    let event = json!({ "model": "gpt-4o-mini-2024-07-18", "input_tokens": 1_000_000 });
    let key = admin.account.key.clone();
    admin.stage.track(&key, &event).await;
    assert_eq!(admin.spent().await, 7);

    // One that lies ahead does not hold yet.
    let later = json!({ "input_nanos_per_mtok": 9, "effective_at": "2100-01-01T00:00:00Z" });
    let patched = admin.patch(&one, later).await;
    assert_eq!(patched.body["price"]["version"], 1);
    assert_eq!(patched.body["history"].as_array().unwrap().len(), 2);

    // A slash in a name is percent-encoded.
    let body = json!({ "models": [
        { "model_id": "acme/One", "input_nanos_per_mtok": 1, "output_nanos_per_mtok": 2 },
        { "model_id": "two", "input_nanos_per_mtok": 3, "output_nanos_per_mtok": 4, "reasoning_nanos_per_mtok": 5 },
    ] });
    let set = admin.patch(PRICING, body).await.expect(&[200]).unwrap();
    assert_eq!(set.body["data"].as_array().unwrap().len(), 2);
    let shown = admin.get(&format!("{PRICING}/acme%2FONE")).await;
    assert_eq!(
        shown.body["price"]["cache_read_nanos_per_mtok"], 1,
        "as input"
    );
    assert_eq!(
        admin.get(&format!("{PRICING}/nobody-knows")).await.status,
        404
    );
    let refused = admin
        .patch(
            &format!("{PRICING}/nobody-knows"),
            json!({ "input_nanos_per_mtok": 1 }),
        )
        .await;
    assert_eq!(
        (refused.status, refused.body["details"]["field"].as_str()),
        (400, Some("output_nanos_per_mtok"))
    );

    let none = json!({ "input_nanos_per_mtok": null, "output_nanos_per_mtok": null });
    let gone = admin.patch(&one, none).await;
    assert_eq!(gone.body["price"]["source"], "built_in");
    assert_eq!(gone.body["history"][2]["rates"], Value::Null);
}

#[tokio::test]
async fn prices_are_for_who_runs_the_gateway() {
    let mut admin = Admin::start(&[]).await;
    let other = admin.stage.account().await;
    let key = Caller::Key(&admin.account.key);
    for (who, caller) in [("an owner", other.operator()), ("a key", key)] {
        let connection = &mut admin.stage.connection;
        for path in [PRICING, &format!("{PRICING}/gpt-4o")] {
            let answer = connection.get(path, caller).await.unwrap();
            assert_eq!(answer.status, 403, "{who}: GET {path}");
            let body = json!({ "models": [] });
            let answer = connection.patch(path, caller, &body).await.unwrap();
            assert_eq!(answer.status, 403, "{who}: PATCH {path}");
        }
        let answer = connection.post(MISSING, caller, &json!({})).await.unwrap();
        assert_eq!(answer.status, 403, "{who}: POST {MISSING}");
    }
}

/// Correcting entries in the log of a gateway that has stopped.
fn corrections(stage: &Stage) -> usize {
    let export = Command::new(GATEWAY)
        .args(["log", "export", "--data-dir"])
        .arg(stage.gateway.settings().data_dir())
        .output()
        .unwrap();
    assert!(export.status.success(), "{export:?}");
    let lines = String::from_utf8(export.stdout).unwrap();
    lines
        .lines()
        .filter(|line| line.contains("Rerated"))
        .count()
}

#[tokio::test]
async fn a_gateway_that_dies_while_it_corrects_finishes_when_it_is_asked_again() {
    const WORKFLOWS: i64 = 150;
    for wait in [0, 1, 2, 4, 8] {
        let mut admin = Admin::start(LAYOUTS[4].1).await;
        let account = admin.account.clone();
        let connection = &mut admin.stage.connection;
        let key = account
            .create_key(connection, None, None)
            .await
            .unwrap()
            .key;
        for n in 0..WORKFLOWS {
            let name = json!({ "name": format!("w{n}") });
            admin.stage.post(&account, "/workflows", name).await;
            let event =
                json!({ "model": "mystery", "input_tokens": 333, "workflow_id": format!("w{n}") });
            admin.stage.track(&key, &event).await;
        }
        let mut asking = admin.stage.connect();
        let session = account.session.clone();
        let cut_short = tokio::spawn(async move {
            let body = price("mystery", 1_500_000);
            let _lost = asking.post(MISSING, Caller::Session(&session), &body).await;
        });
        tokio::time::sleep(Duration::from_millis(wait)).await;
        admin.stage.gateway.kill_9().unwrap();
        cut_short.await.unwrap();
        let before = corrections(&admin.stage);
        let mut admin = admin.restart().await;
        let rest = admin.missing(price("mystery", 1_500_000)).await;
        let rest = rest["corrected"][0]["entries"].as_i64().unwrap();
        println!("{before} corrected before it died after {wait} ms, {rest} after");
        assert_eq!(before as i64 + rest, WORKFLOWS);
        assert_eq!(admin.spent().await, WORKFLOWS * 500);
        admin.stage.gateway.kill_9().unwrap();
        assert_eq!(corrections(&admin.stage) as i64, WORKFLOWS);
    }
}
