//! Start and stop: what is refused and warned about, the first account, what is stored.

use super::ends;
use super::support::{GATEWAY, Stage};
use nullrun_loadtest::client::{Caller, Connection, Protocol};
use nullrun_loadtest::gateway::{Gateway, Settings};
use serde_json::{Value, json};
use std::process::Command;
use tempfile::TempDir;

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
    stage.gateway.says("NULLRUN_LISTN").unwrap();
}

#[test]
fn the_printed_curl_line_is_allowed_when_pasted_and_the_account_is_shown_only_once() {
    let data = TempDir::new().unwrap();
    let settings = Settings::new(GATEWAY, data.path())
        .env("NULLRUN_BOOTSTRAP", "on")
        .env("NULLRUN_HMAC_REQUIRED", "false");
    let mut gateway = Gateway::start(settings).unwrap();
    let words = gateway.says("curl ").unwrap();
    let line = words
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("curl "))
        .unwrap()
        .to_owned();
    let answer = Command::new("sh").args(["-c", &line]).output().unwrap();
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answer["decision"], "allow", "{answer}");
    let status = gateway.stop().unwrap();
    assert!(status.success());
    let mut gateway = gateway.restart().unwrap();
    gateway.stop().unwrap();
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
    stage.gateway.stop().unwrap();
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
    let status = stage.gateway.stop().unwrap();
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
async fn a_gateway_whose_master_key_is_lost_refuses_to_start() {
    let mut stage = Stage::start(&[]);
    stage.account().await;
    stage.gateway.stop().unwrap();
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
