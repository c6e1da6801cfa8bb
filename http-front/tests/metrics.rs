//! Metrics: they tell what happened, in the form Prometheus asks for, to those who may read them, in a
//! number of series that does not depend on how much is stored.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use engine::price::PriceTable;
use engine::recover::Rebuild;
use nullrun_loadtest::client::{Answer, Caller, Connection};
use nullrun_loadtest::gateway::{Gateway, Settings};
use persist::disk::PlainDisk;
use persist::group_commit::Listener;
use persist::log::Options;
use persist::record::{
    Actor, Change, ChargeFlags, Charged, Composition, DirectoryRecord, Event, Org, PeriodKind,
    Record, Workflow,
};
use persist::{Batch, Day, KeyId, Log, LogId, Lsn, Millis, Nanos, OrgId, WorkflowId};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use support::{GATEWAY, Stage};

const PAGE: &str = "/api/v1/metrics/prometheus";

async fn page(connection: &mut Connection) -> String {
    let answer = connection.get(PAGE, Caller::Anonymous).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.in_short());
    String::from_utf8(answer.raw.to_vec()).unwrap()
}

/// Every series and its value.
fn series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    parsed.collect()
}

/// What Prometheus' own tool says of it.
fn promtool(page: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("promtool cannot be run ({error}); on Debian: apt-get install prometheus")
    });
    let mut input = child.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(
        done.status.success() && said.trim().is_empty(),
        "{said}\n{page}"
    );
}

#[tokio::test]
async fn they_tell_what_happened_as_prometheus_asks_for_and_name_nobody() {
    let mut stage = Stage::start(&[("NULLRUN_SNAPSHOT_BYTES", "4096")]);
    let account = stage.account().await;
    let gate = json!({ "model": "claude-haiku-4-5", "max_output_tokens": 1000 });
    for _ in 0..3 {
        assert!(stage.gate(&account.key, &gate).await.is_allow());
    }
    let event = json!({ "model": "claude-haiku-4-5", "input_tokens": 47 });
    stage.track(&account.key, &event).await;
    let none = json!({ "budget_cents": 0 });
    let path = format!("/workflows/{}", account.workflow);
    stage.patch(&account, &path, none).await;
    assert!(!stage.gate(&account.key, &gate).await.is_allow());
    stage
        .connection
        .get("/no/such/route", Caller::Anonymous)
        .await
        .unwrap();

    let text = page(&mut stage.connection).await;
    println!("{text}");
    promtool(&text);
    let series = series(&text);
    let value = |name: &str| {
        let found = series.get(name);
        found.map_or_else(|| panic!("no {name}\n{text}"), |value| value.round() as i64)
    };
    let gate = r#"{route="/api/v1/gate",method="POST""#;
    assert_eq!(
        value(&format!(
            "nullrun_http_requests_total{gate},status=\"2xx\"}}"
        )),
        4
    );
    assert_eq!(
        value(&format!(
            "nullrun_http_request_duration_seconds_count{gate}}}"
        )),
        4
    );
    let missed = r#"nullrun_http_requests_total{route="unmatched",method="GET",status="4xx"}"#;
    assert_eq!(value(missed), 1);
    let decisions = |outcome: &str, reason: &str| {
        value(&format!(
            r#"nullrun_decisions_total{{endpoint="gate",outcome="{outcome}",reason="{reason}"}}"#
        ))
    };
    assert_eq!(decisions("allow", "none"), 3);
    assert_eq!(decisions("block", "BUDGET_HARD_BLOCKED"), 1);
    let status = stage.see(&account, &path).await;
    for (name, field) in [("spent", "spent_nanos"), ("held", "held_nanos")] {
        let shown = status[field].as_i64().unwrap();
        assert_eq!(value(&format!("nullrun_{name}_nanodollars")), shown);
    }
    assert_eq!(value("nullrun_open_holds"), 3);
    assert_eq!(value("nullrun_workflows"), 1);
    let behind = value("nullrun_log_appended_lsn") - value("nullrun_log_durable_lsn");
    assert_eq!(value("nullrun_log_lag_records"), behind);
    assert!(value("nullrun_log_sync_duration_seconds_count") > 0);
    assert!(value("nullrun_log_segments") > 0);
    assert!(value("process_resident_memory_bytes") > 1_000_000);
    for secret in [
        &account.org,
        &account.workflow,
        &account.email,
        &account.session,
        account.key.api_key(),
    ] {
        assert!(!text.contains(secret), "{secret} is in it");
    }
    assert!(!text.contains("claude"), "a model is in it");
    let short = stage.connection.get("/metrics", Caller::Anonymous).await;
    assert_eq!(short.unwrap().status, 200);
}

async fn read(connection: &mut Connection, headers: &[(&str, &str)]) -> Answer {
    let mut prepared = connection
        .prepare(hyper::Method::GET, PAGE, Caller::Anonymous, None)
        .unwrap();
    for (name, value) in headers {
        prepared = prepared.with_header(name, value).unwrap();
    }
    connection.send(prepared).await.unwrap()
}

#[tokio::test]
async fn from_another_machine_only_with_the_token() {
    let passed_on = ("x-forwarded-for", "203.0.113.7");
    let mut stage = Stage::start(&[]);
    assert_eq!(read(&mut stage.connection, &[]).await.status, 200);
    let refused = read(&mut stage.connection, &[passed_on]).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text("message").contains("NULLRUN_METRICS_TOKEN"));

    let mut stage = Stage::start(&[("NULLRUN_METRICS_TOKEN", "a long secret")]);
    let connection = &mut stage.connection;
    assert_eq!(read(connection, &[]).await.status, 200);
    assert_eq!(read(connection, &[passed_on]).await.status, 401);
    for (token, status) in [
        ("Bearer a long secret", 200),
        ("bearer a long secret", 200),
        ("Bearer a long secre", 401),
        ("Bearer ", 401),
        ("Basic a long secret", 401),
    ] {
        let answer = read(connection, &[passed_on, ("authorization", token)]).await;
        assert_eq!(answer.status, status, "{token}");
    }
}

struct Deaf;

impl Listener for Deaf {
    fn durable(&mut self, _lsn: Lsn) {}
    fn failed(&mut self, error: persist::Error) {
        panic!("{error}");
    }
}

const ORG: OrgId = OrgId(7);

/// A data directory with so many workflows, each of which has spent something.
fn prepare(directory: &Path, workflows: u128) {
    let disk = |name: &str| Arc::new(PlainDisk::at(&directory.join(name)).unwrap());
    let prices = Arc::new(PriceTable::built_in().unwrap());
    let settings = engine::Settings::default();
    let rebuild = Rebuild::new(disk("wal"), disk("snapshots"), prices, settings);
    let recovered = rebuild.open(Options::default(), LogId(1)).unwrap();
    let log = Log::start(recovered.writer, Deaf).unwrap();
    let at = Millis(1_781_524_800_000);
    let append = |records: &[Record<'_>]| {
        let mut batch = Batch::default();
        for record in records {
            batch.push(record).unwrap();
        }
        log.append(&batch).unwrap();
    };
    let directory = |changes| {
        let actor = Actor::System;
        Record::Directory(DirectoryRecord { at, actor, changes })
    };
    append(&[directory(vec![Change::OrgAdded(Org {
        id: ORG,
        name: "many",
        plan: "self-hosted",
        contact_email: "",
        budget: None,
        period: PeriodKind::Month,
        composition: Composition::FirstMatch,
        created_at: at,
    })])]);
    let workflow = |id| {
        Change::WorkflowAdded(Workflow {
            id: WorkflowId(id),
            org: ORG,
            name: "one of many",
            external_id: None,
            description: "",
            budget: None,
            period: PeriodKind::Month,
            overdraft: None,
            max_per_call: None,
            chain_cap: None,
            chain_secs: 3600,
            watch: None,
            approvals: true,
            created_at: at,
            updated_at: at,
        })
    };
    let charge = |id| {
        Record::Charged(Charged {
            at,
            org: ORG,
            workflow: WorkflowId(id),
            key: KeyId(id),
            payer: KeyId(id),
            hold: None,
            day: Day::of(at),
            cost: Nanos(3),
            from_hold: Nanos::ZERO,
            flags: ChargeFlags::default(),
            price: 0,
            event_key: None,
            event: Event::default(),
        })
    };
    let ids: Vec<u128> = (1..=workflows).map(|n| n << 64 | n).collect();
    for ids in ids.chunks(1000) {
        let added = directory(ids.iter().map(|id| workflow(*id)).collect());
        let charged = ids.iter().map(|id| charge(*id));
        append(&std::iter::once(added).chain(charged).collect::<Vec<_>>());
    }
    log.close();
}

#[tokio::test]
async fn a_hundred_thousand_workflows_add_no_series() {
    let data = tempfile::TempDir::with_prefix("nullrun-test-").unwrap();
    prepare(data.path(), 100_000);
    let settings = Settings::new(GATEWAY, data.path());
    let gateway = Gateway::start(settings.env("NULLRUN_MASTER_KEY", "ab".repeat(32))).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut fastest = f64::MAX;
    let mut text = String::new();
    for _ in 0..5 {
        let began = Instant::now();
        text = page(&mut connection).await;
        fastest = fastest.min(began.elapsed().as_secs_f64());
    }
    promtool(&text);
    let series = series(&text);
    println!("{} series in {:.1} ms", series.len(), fastest * 1e3);
    assert_eq!(series["nullrun_workflows"].to_string(), "100000");
    assert_eq!(series["nullrun_spent_nanodollars"].to_string(), "300000");
    assert!(series.len() < 5_000, "{} series", series.len());
}
