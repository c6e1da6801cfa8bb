//! A disk that hangs, and one that fails.

use super::support::{Environment, GATEWAY, LAYOUTS, PATIENCE};
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Caller, Connection, Protocol};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use nullrun_loadtest::shim::Shim;
use serde_json::json;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One pump in the front, and seven shards on threads of their own.
const ENDS: [(&str, Environment); 2] = [LAYOUTS[0], LAYOUTS[5]];

fn settings_in(layout: Environment, directory: &std::path::Path) -> Settings {
    let settings = Settings::new(GATEWAY, directory);
    layout.iter().fold(settings, |settings, (name, value)| {
        settings.env(*name, *value)
    })
}

#[tokio::test]
async fn with_a_disk_that_hangs_gates_are_refused_in_time_and_hold_nothing_afterwards() {
    for (name, layout) in ENDS {
        println!("{name}");
        with_a_disk_that_hangs(layout).await;
    }
}

async fn with_a_disk_that_hangs(layout: Environment) {
    let shim = Shim::compile().unwrap();
    let directory = TempDir::new().unwrap();
    let mount = shim.mount(directory.path(), 1).unwrap();
    let settings = settings_in(layout, directory.path())
        .on_shim(mount.clone())
        .env("NULLRUN_ADMISSION_DEADLINE_MS", "1500")
        .env("NULLRUN_QUEUE_DEPTH", "8");
    let gateway = Gateway::start(settings).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(7);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    let signed = |protocol| Caller::Signed(&account.key, protocol);
    let gate = json!({ "model": "gpt-4o-mini", "max_output_tokens": 1000 });

    mount.hang_syncs(true).unwrap();
    let start = Instant::now();
    let late = connection
        .post("/api/v1/gate", signed(Protocol::V3), &gate)
        .await
        .unwrap();
    assert_eq!(
        (late.status, late.error_code()),
        (200, "DEADLINE_EXCEEDED"),
        "{}",
        late.body
    );
    assert!(start.elapsed() >= Duration::from_millis(1500));

    // Fill what may wait, until gates are refused at once.
    let mut waiting = Vec::new();
    let refused = loop {
        for _ in 0..24 {
            let mut connection = Connection::new(&gateway.endpoint().unwrap());
            let (key, gate) = (account.key.clone(), gate.clone());
            waiting.push(tokio::spawn(async move {
                connection
                    .post("/api/v1/gate", Caller::Signed(&key, Protocol::V4), &gate)
                    .await
                    .unwrap()
            }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let asked = connection.post("/api/v1/gate", signed(Protocol::V4), &gate);
        let answer = asked.await.unwrap();
        if answer.error_code() == "OVERLOADED" {
            break answer;
        }
        assert_eq!(answer.error_code(), "DEADLINE_EXCEEDED", "{}", answer.body);
        assert!(start.elapsed() < PATIENCE, "never refused at once");
    };
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.text("decision"), "block");
    assert!(refused.headers.contains_key("retry-after"));
    let refused = connection
        .post("/api/v1/gate", signed(Protocol::V3), &gate)
        .await
        .unwrap();
    assert_eq!((refused.status, refused.error_code()), (200, "OVERLOADED"));
    for answer in waiting {
        assert_ne!(answer.await.unwrap().text("decision"), "allow");
    }

    // A report waits for the disk instead of being shed.
    let track = json!({ "model": "claude-haiku-4-5", "input_tokens": 47, "tokens": 47 });
    let report = {
        let mut connection = Connection::new(&gateway.endpoint().unwrap());
        let key = account.key.clone();
        tokio::spawn(async move {
            connection
                .post("/api/v1/track", Caller::Signed(&key, Protocol::V4), &track)
                .await
                .unwrap()
        })
    };
    // Nor is the switch that stops an agent which runs away.
    let pause = {
        let mut connection = Connection::new(&gateway.endpoint().unwrap());
        let account = account.clone();
        tokio::spawn(async move {
            let pause = account.path(&format!("/workflows/{}/pause", account.workflow));
            connection
                .post(&pause, account.operator(), &json!({}))
                .await
                .unwrap()
        })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    mount.hang_syncs(false).unwrap();
    assert_eq!(report.await.unwrap().status, 200);
    assert_eq!(pause.await.unwrap().text("state"), "Paused");
    let resume = account.path(&format!("/workflows/{}/resume", account.workflow));
    connection
        .post(&resume, account.operator(), &json!({}))
        .await
        .unwrap();
    let began = Instant::now();
    loop {
        let status = connection
            .get(&account.path("/status"), account.operator())
            .await
            .unwrap();
        assert_eq!(status.body["spent_nanos"], 47_000);
        if status.body["held_nanos"] == 0 {
            break;
        }
        let words = "holds of answers that nobody got are still there";
        assert!(began.elapsed() < PATIENCE, "{words}: {}", status.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let allowed = connection
        .post("/api/v1/gate", signed(Protocol::V4), &gate)
        .await
        .unwrap();
    assert!(allowed.is_allow(), "{}", allowed.body);
}

#[tokio::test]
async fn a_failing_sync_ends_the_gateway_without_an_acknowledgement() {
    for (name, layout) in ENDS {
        println!("{name}");
        with_a_failing_sync(layout).await;
    }
}

async fn with_a_failing_sync(layout: Environment) {
    let shim = Shim::compile().unwrap();
    let directory = TempDir::new().unwrap();
    let mount = shim.mount(directory.path(), 1).unwrap();
    let settings = settings_in(layout, directory.path()).on_shim(mount.clone());
    let mut gateway = Gateway::start(settings).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(8);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    mount.fail_syncs(true).unwrap();
    let answer = connection
        .post_signed("/api/v1/gate", &account.key, &json!({}))
        .await;
    assert!(!answer.is_ok_and(|answer| answer.is_allow()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = gateway.ended() {
            break status;
        }
        assert!(
            Instant::now() < deadline,
            "the gateway goes on after a failed sync"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(!status.success());
    assert!(
        gateway.output().contains("the log failed"),
        "{}",
        gateway.output()
    );
    mount.fail_syncs(false).unwrap();
    let gateway = gateway.restart().unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let status = connection
        .get(&account.path("/status"), account.operator())
        .await
        .unwrap();
    assert_eq!(status.status, 200);
}

#[tokio::test]
async fn a_link_for_a_forgotten_password_that_the_disk_keeps_waiting_keeps_nobody_waiting() {
    for (name, layout) in ENDS {
        println!("{name}");
        a_password_is_forgotten(layout).await;
    }
}

async fn a_password_is_forgotten(layout: Environment) {
    let shim = Shim::compile().unwrap();
    let directory = TempDir::new().unwrap();
    let mount = shim.mount(directory.path(), 1).unwrap();
    let settings = settings_in(layout, directory.path()).on_shim(mount.clone());
    let gateway = Gateway::start(settings).unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(9);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    let mut forgot = async |email: &str| {
        let body = json!({ "email": email });
        let path = "/api/v1/auth/password/forgot";
        let asked = connection.post(path, Caller::Anonymous, &body);
        // A request that waited for the disk would be answered after three seconds, with a 503.
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
        answer.unwrap().unwrap()
    };
    mount.hang_syncs(true).unwrap();
    let began = Instant::now();
    // Known, unknown, and known while its first link still waits: all are told the same.
    for email in [&account.email, "nobody@example.com", &account.email] {
        let answer = forgot(email).await;
        assert_eq!(answer.status, 202, "{email}: {}", answer.body);
    }
    println!("three answers in {:?}", began.elapsed());
    let outbox = mount.data_dir().join("outbox");
    let mails = || std::fs::read_dir(&outbox).into_iter().flatten().count();
    assert_eq!(mails(), 0, "a link was mailed that a crash would forget");
    // Whoever asks again once the disk goes on gets one.
    mount.hang_syncs(false).unwrap();
    assert_eq!(forgot(&account.email).await.status, 202);
    let began = Instant::now();
    while mails() == 0 {
        assert!(began.elapsed() < PATIENCE, "no mail");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
