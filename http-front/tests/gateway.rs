//! The gateway as a process: start, stop, refusals to start, the first account, limits of HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, Protocol};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::shim::Shim;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Environment, GATEWAY, LAYOUTS, Stage};
use tempfile::TempDir;

/// Runs the gateway until it ends by itself; its exit code and words.
fn ends(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(GATEWAY)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let words = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&words).into_owned(),
    )
}

#[test]
fn production_without_signatures_refuses_to_start_and_says_what_to_do() {
    let (code, words) = ends(&[
        ("NULLRUN_ENV", "production"),
        ("NULLRUN_HMAC_REQUIRED", "false"),
    ]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("NULLRUN_SKIP_HMAC_PROD_CHECK"), "{words}");
}

#[test]
fn a_bad_setting_is_named() {
    let (code, words) = ends(&[("NULLRUN_QUEUE_DEPTH", "many")]);
    assert_ne!(code, Some(0));
    assert!(words.contains("--queue-depth"), "{words}");
    let data = TempDir::new().unwrap();
    let file = data.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("data");
    let (code, words) = ends(&[("NULLRUN_DATA_DIR", inside.to_str().unwrap())]);
    assert_eq!(code, Some(1));
    assert!(words.contains("NULLRUN_DATA_DIR"), "{words}");
}

#[test]
fn a_second_gateway_on_the_same_directory_is_refused() {
    let stage = Stage::start(&[]);
    let directory = stage
        .gateway
        .settings()
        .data_dir()
        .to_str()
        .unwrap()
        .to_owned();
    let (code, words) = ends(&[
        ("NULLRUN_DATA_DIR", &directory),
        ("NULLRUN_LISTEN", "127.0.0.1:0"),
    ]);
    assert_eq!(code, Some(1));
    assert!(
        words.contains("another gateway uses the data directory"),
        "{words}"
    );
}

#[test]
fn a_misspelt_variable_is_warned_about() {
    let stage = Stage::start(&[("NULLRUN_LISTN", "x")]);
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        stage.gateway.output().contains("NULLRUN_LISTN"),
        "{}",
        stage.gateway.output()
    );
}

#[test]
fn the_printed_curl_line_is_allowed_when_pasted_and_the_account_is_shown_only_once() {
    let data = TempDir::new().unwrap();
    let settings = Settings::new(GATEWAY, data.path())
        .env("NULLRUN_BOOTSTRAP", "on")
        .env("NULLRUN_HMAC_REQUIRED", "false");
    let mut gateway = Gateway::start(settings).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let words = gateway.output();
    let line = words
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("curl "))
        .unwrap()
        .to_owned();
    let answer = Command::new("sh").args(["-c", &line]).output().unwrap();
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["decision"], "allow", "{answer}");
    let status = gateway.terminate(Duration::from_secs(20)).unwrap();
    assert!(status.success());
    let gateway = gateway.restart().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(
        !gateway.output().contains("nr_live_"),
        "{}",
        gateway.output()
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(data.path().join("master.key"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn no_secret_is_stored_in_the_clear() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let body = json!({ "event_id": "e", "tokens": 1 });
    let verify = json!({ "api_key": account.key.api_key() });
    let caller = Caller::Signed(&account.key, Protocol::V4);
    stage
        .connection
        .post("/api/v1/track", caller, &body)
        .await
        .unwrap();
    let verified = stage
        .connection
        .post("/api/v1/auth/verify", Caller::Anonymous, &verify)
        .await
        .unwrap();
    let secret = verified.required("secret_key").unwrap();
    stage.gateway.terminate(Duration::from_secs(20)).unwrap();
    let words = stage.gateway.output();
    let mut files = 0;
    for entry in std::fs::read_dir(stage.gateway.settings().data_dir().join("wal")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        for text in [secret.as_str(), account.key.api_key(), &account.session] {
            let there = bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes());
            assert!(!there, "a secret stands in the log");
            assert!(!words.contains(text), "a secret was printed");
        }
    }
    assert!(files > 0);
}

#[tokio::test]
async fn a_stopping_gateway_answers_what_it_took_and_forgets_nothing() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let gate = json!({ "operation_id": "one", "model": "gpt-4o-mini", "max_output_tokens": 1000 });
    let hold = stage
        .connection
        .post("/api/v1/gate", caller, &gate)
        .await
        .unwrap();
    let status = stage.gateway.terminate(Duration::from_secs(20)).unwrap();
    assert!(status.success(), "{}", stage.gateway.output());
    let gateway = stage.gateway.restart().unwrap();
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let again = connection
        .post("/api/v1/gate", caller, &gate)
        .await
        .unwrap();
    assert_eq!(again.body["reservation_id"], hold.body["reservation_id"]);
    assert_eq!(again.body["idempotent_replay"], true);
}

#[tokio::test]
async fn errors_have_one_envelope_with_the_requests_id_in_body_and_header() {
    let mut stage = Stage::start(&[]);
    let connection = &mut stage.connection;
    for (method, path, status) in [
        (Method::GET, "/nothing/here", 404),
        (Method::PUT, "/api/v1/gate", 405),
        (Method::POST, "/api/v1/gate", 401),
        (Method::GET, "/api/v1/orgs/x", 401),
        (Method::GET, "/api/v1/status/%ff", 400),
    ] {
        let answer = connection
            .request(method, path, Caller::Anonymous, None)
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{path}");
        for field in [
            "error",
            "error_code",
            "message",
            "error_message",
            "details",
            "request_id",
        ] {
            assert!(
                !answer.body[field].is_null(),
                "{path} lacks {field}: {}",
                answer.body
            );
        }
        assert_eq!(
            answer.headers["x-request-id"],
            answer.body["request_id"].as_str().unwrap()
        );
        assert_eq!(answer.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_4xx_and_change_nothing() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let key = Caller::Key(&account.key);
    let deep = "[".repeat(1000);
    let cases: [(&str, Vec<u8>, u16); 11] = [
        ("/api/v1/gate", b"{".to_vec(), 400),
        ("/api/v1/gate", b"\xff\xfe".to_vec(), 400),
        ("/api/v1/gate", deep.clone().into_bytes(), 400),
        (
            "/api/v1/gate",
            br#"{"estimated_tokens":"many"}"#.to_vec(),
            400,
        ),
        ("/api/v1/gate", br#"{"estimated_tokens":-1}"#.to_vec(), 400),
        (
            "/api/v1/gate",
            br#"{"max_output_tokens":1e300}"#.to_vec(),
            400,
        ),
        ("/api/v1/track", b"[]".to_vec(), 400),
        ("/api/v1/track", br#"{"tokens":-3}"#.to_vec(), 400),
        ("/api/v1/track/batch", br#"{"events":3}"#.to_vec(), 400),
        ("/api/v1/cancel", b"{}".to_vec(), 400),
        ("/api/v1/gate", vec![b' '; (10 << 20) + 1], 413),
    ];
    for (path, body, status) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let prepared = stage
            .connection
            .prepare(Method::POST, path, key, Some(body.into()))
            .unwrap();
        let answer = stage.connection.send(prepared).await.unwrap();
        assert_eq!(answer.status, status, "{path} {shown}: {}", answer.body);
        assert!(!answer.text("message").is_empty(), "{path} {shown}");
    }
    let status = stage
        .connection
        .get(&account.path("/status"), account.operator())
        .await
        .unwrap();
    assert_eq!(
        (&status.body["spent_nanos"], &status.body["held_nanos"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_batch_stores_what_can_be_read_and_names_the_rest() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let body = r#"{"events":[
        {"event_id":"a","type":"llm_call","model":"claude-haiku-4-5","input_tokens":47,"latency_ms":NaN},
        {"event_id":"b","tokens":-4}, 17, {"type":"whatever","metadata":{"x":Infinity}},
        {"event_id":"a","type":"llm_call","model":"claude-haiku-4-5","input_tokens":47}]}"#;
    let key = Caller::Key(&account.key);
    let prepared =
        stage
            .connection
            .prepare(Method::POST, "/api/v1/track/batch", key, Some(body.into()));
    let answer = stage.connection.send(prepared.unwrap()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["accepted"], 3);
    assert_eq!(answer.body["duplicates"], 1);
    assert_eq!(answer.body["cost_nanos"], 47_000);
    assert_eq!(answer.body["accepted_event_ids"], json!(["a", "a"]));
    let reasons = answer.body["rejection_details"].as_array().unwrap();
    assert_eq!(reasons.len(), 2);
    assert_eq!(reasons[0]["event_id"], "b");
}

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
    let mut dice = nullrun_loadtest::identity::Dice::from_seed(7);
    let account = nullrun_loadtest::account::Account::register(&mut connection, &mut dice)
        .await
        .unwrap();
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
    for n in 0..96 {
        if n % 24 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut connection = Connection::new(&gateway.endpoint().unwrap());
        let (key, gate) = (account.key.clone(), gate.clone());
        waiting.push(tokio::spawn(async move {
            connection
                .post("/api/v1/gate", Caller::Signed(&key, Protocol::V4), &gate)
                .await
                .unwrap()
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = connection
        .post("/api/v1/gate", signed(Protocol::V4), &gate)
        .await
        .unwrap();
    assert_eq!(
        (refused.status, refused.error_code()),
        (503, "OVERLOADED"),
        "{}",
        refused.body
    );
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
    let mut held = json!(null);
    for _ in 0..100 {
        let status = connection
            .get(&account.path("/status"), account.operator())
            .await
            .unwrap();
        held = status.body["held_nanos"].clone();
        assert_eq!(status.body["spent_nanos"], 47_000);
        if held == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(held, 0, "holds of answers that nobody got are still there");
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
    let mut dice = nullrun_loadtest::identity::Dice::from_seed(8);
    let account = nullrun_loadtest::account::Account::register(&mut connection, &mut dice)
        .await
        .unwrap();
    mount.fail_syncs(true).unwrap();
    let answer = connection
        .post_signed("/api/v1/gate", &account.key, &json!({}))
        .await;
    assert!(!answer.is_ok_and(|answer| answer.is_allow()));
    let deadline = Instant::now() + Duration::from_secs(10);
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

/// Asks with a key of an account, unsigned.
async fn ask(stage: &mut Stage, account: &Account, path: &str, body: Value) -> Answer {
    stage
        .connection
        .post(path, Caller::Key(&account.key), &body)
        .await
        .unwrap()
}

async fn policy(stage: &mut Stage, account: &Account, body: Value) -> Answer {
    stage
        .connection
        .post(&account.path("/policies"), account.operator(), &body)
        .await
        .unwrap()
}

#[tokio::test]
async fn holds_too_large_to_be_summed_are_refused_and_the_gateway_lives_on() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let mut holds = Vec::new();
    for n in 0..40 {
        let tokens: u64 = if n % 2 == 0 {
            1_000_000_000_000
        } else {
            1_500_000_000
        };
        let body = json!({ "model": "o1-pro", "max_output_tokens": tokens });
        let answer = ask(&mut stage, &account, "/api/v1/gate", body).await;
        if answer.is_allow() {
            holds.push(answer.required("reservation_id").unwrap());
        } else {
            assert_eq!(answer.error_code(), "BUDGET_HARD_BLOCKED");
        }
    }
    assert_eq!(holds.len(), 20);
    for hold in holds {
        ask(
            &mut stage,
            &account,
            "/api/v1/cancel",
            json!({ "execution_id": hold }),
        )
        .await;
    }
    let status = stage
        .connection
        .get(&account.path("/status"), account.operator())
        .await
        .unwrap();
    assert_eq!(status.body["held_nanos"], 0);
}

#[tokio::test]
async fn patterns_that_would_cost_everybody_time_or_burst_a_record_are_refused() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let long = "x".repeat(4000);
    let many = (0..500)
        .map(|n| format!("a{n}*"))
        .collect::<Vec<_>>()
        .join("|");
    for config in [
        json!({ "tool_pattern": vec![long.as_str(); 10] }),
        json!({ "tool_pattern": [many] }),
        json!({ "tool_pattern": vec!["x"; 257] }),
    ] {
        let body = json!({ "name": "p", "policy_type": "ToolBlock", "config": config });
        let answer = policy(&mut stage, &account, body).await;
        assert_eq!(
            (answer.status, answer.error_code()),
            (400, "INVALID_PATTERN_LIST"),
            "{}",
            answer.body
        );
    }
    let matching = json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 5 },
        "match": { "tools": vec![long.as_str(); 10] } });
    assert_eq!(policy(&mut stage, &account, matching).await.status, 400);
    let patterns: Vec<_> = (0..250).map(|n| format!("tool{n}")).collect();
    let body =
        json!({ "name": "p", "policy_type": "ToolBlock", "config": { "tool_pattern": patterns } });
    for n in 0..9 {
        let answer = policy(&mut stage, &account, body.clone()).await;
        assert_eq!(
            answer.status,
            if n < 8 { 201 } else { 400 },
            "{}",
            answer.body
        );
    }
    let tools = json!({ "tools": vec!["same"; 130] });
    let answer = ask(&mut stage, &account, "/api/v1/gate", tools).await;
    assert_eq!(
        (answer.status, answer.error_code()),
        (200, "TOOL_NAME_INVALID")
    );
}

#[tokio::test]
async fn spend_is_booked_whatever_its_descriptions_look_like() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    for odd in [
        "agent_id",
        "latency_ms",
        "trace_id",
        "depth",
        "provider",
        "tool_name",
        "error",
        "type",
    ] {
        for value in [
            json!(7),
            json!(-3),
            json!(["a", { "b": 1 }]),
            json!({}),
            json!(true),
            json!("x".repeat(9999)),
        ] {
            let mut body = json!({ "model": "claude-haiku-4-5", "input_tokens": 47, "tokens": 47 });
            body[odd] = value.clone();
            let answer = ask(&mut stage, &account, "/api/v1/track", body).await;
            let booked = (answer.status, &answer.body["cost_nanos"]);
            assert_eq!(
                booked,
                (200, &json!(47_000)),
                "{odd}: {value}: {}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn long_words_on_a_gate_are_decided_and_not_turned_away() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let long = "x".repeat(5000);
    for field in [
        "operation_id",
        "execution_id",
        "trace_id",
        "model",
        "action_digest",
    ] {
        let mut body = json!({});
        body[field] = json!(long);
        let answer = ask(&mut stage, &account, "/api/v1/gate", body.clone()).await;
        assert!(answer.is_allow(), "{field}: {}", answer.body);
        let again = ask(&mut stage, &account, "/api/v1/gate", body).await;
        let same = again.body["reservation_id"] == answer.body["reservation_id"];
        assert_eq!(same, field == "operation_id", "{field}");
    }
}

#[tokio::test]
async fn the_end_of_a_chain_lets_nothing_run() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let body =
        json!({ "name": "p", "policy_type": "ToolBlock", "config": { "tool_pattern": ["bash"] } });
    policy(&mut stage, &account, body).await;
    for path in ["/api/v1/gate", "/api/v1/execute"] {
        let body = json!({ "chain_id": "c", "chain_op": "end", "tool": "bash" });
        let answer = ask(&mut stage, &account, path, body).await;
        assert_eq!(answer.error_code(), "TOOL_BLOCKED", "{path}");
    }
    let end = json!({ "chain_id": "c", "chain_op": "end", "execution_id": "0123456789abcdef" });
    let answer = ask(&mut stage, &account, "/api/v1/gate", end).await;
    assert!(
        answer.is_allow() && answer.body["reservation_id"].is_null(),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_policy_that_only_flags_limits_nothing() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    for (kind, config) in [
        ("RateLimit", json!({ "max_calls_per_minute": 1 })),
        ("BudgetLimit", json!({ "budget_cents": 0 })),
    ] {
        let body = json!({ "name": "p", "policy_type": kind, "action": "flag", "config": config });
        assert_eq!(policy(&mut stage, &account, body).await.status, 201);
    }
    for _ in 0..3 {
        assert!(
            ask(&mut stage, &account, "/api/v1/gate", json!({}))
                .await
                .is_allow()
        );
    }
}

#[tokio::test]
async fn the_ledger_verifies_while_it_is_written() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        let (mut connection, key) = (stage.connect(), account.key.clone());
        writers.push(tokio::spawn(async move {
            loop {
                let body = json!({ "model": "gpt-4o-mini", "input_tokens": 100, "tokens": 100 });
                connection
                    .post("/api/v1/track", Caller::Key(&key), &body)
                    .await
                    .unwrap();
            }
        }));
    }
    for _ in 0..25 {
        let verify = account.path("/ledger/verify");
        let answer = stage
            .connection
            .get(&verify, account.operator())
            .await
            .unwrap();
        assert_eq!(answer.body["verified"], true, "{}", answer.body);
    }
    for writer in writers {
        writer.abort();
    }
}

#[tokio::test]
async fn a_gateway_whose_master_key_is_lost_refuses_to_start() {
    let mut stage = Stage::start(&[]);
    stage.account().await;
    stage.gateway.terminate(Duration::from_secs(20)).unwrap();
    let directory = stage.gateway.settings().data_dir().to_owned();
    std::fs::remove_file(directory.join("master.key")).unwrap();
    let directory = directory.to_str().unwrap();
    let (code, words) = ends(&[
        ("NULLRUN_DATA_DIR", directory),
        ("NULLRUN_LISTEN", "127.0.0.1:0"),
    ]);
    assert_eq!(code, Some(1));
    assert!(
        words.contains("master.key") && words.contains("NULLRUN_MASTER_KEY"),
        "{words}"
    );
}
