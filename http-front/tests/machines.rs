//! The gateway on poorer machines: without io_uring, with little locked memory, with one processor, on
//! a directory it may not write; and with its log written through io_uring, where that can be had.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, Protocol};
use nullrun_loadtest::crash;
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use nullrun_loadtest::restrict::Restrict;
use serde_json::json;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{GATEWAY, PATIENCE};
use tempfile::TempDir;

/// Starts a gateway on `data` that must serve; its banner is printed.
fn serve(settings: Settings) -> Gateway {
    let began = Instant::now();
    let gateway = Gateway::start(settings).unwrap();
    println!("ready after {:?}", began.elapsed());
    gateway
}

/// The line of the banner that says what writes the log.
fn log_writer(gateway: &Gateway) -> String {
    let output = gateway.says("log writer").unwrap();
    let mut lines = output.lines().filter(|line| line.contains("log writer"));
    let line = lines.next().unwrap().trim().to_owned();
    println!("{line}");
    line
}

/// Starts a gateway that must refuse to; its words.
fn refused(settings: Settings) -> String {
    match Gateway::start(settings) {
        Ok(gateway) => panic!("it started:\n{}", gateway.output()),
        Err(error) => {
            let words = error.to_string();
            assert!(words.contains("exit status: 1"), "{words}");
            words
        }
    }
}

/// Asks for one call of the operation `name`.
async fn gate(connection: &mut Connection, account: &Account, name: &str) -> Answer {
    let body = json!({ "operation_id": name, "model": "gpt-4o-mini", "max_output_tokens": 1000 });
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let answer = connection
        .post("/api/v1/gate", caller, &body)
        .await
        .unwrap();
    assert!(answer.is_allow(), "{}", answer.body);
    answer
}

/// An account, and calls that are allowed.
async fn works(gateway: &Gateway) {
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(1);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    for n in 0..5 {
        gate(&mut connection, &account, &n.to_string()).await;
    }
}

#[tokio::test]
async fn without_io_uring_the_log_is_written_plainly_and_the_banner_says_why() {
    let (data, restrict) = (TempDir::new().unwrap(), Restrict::compile().unwrap());
    let settings = Settings::new(GATEWAY, data.path()).under(restrict.with(&["--no-io-uring"]));
    let gateway = serve(settings);
    let line = log_writer(&gateway);
    assert!(line.contains("plain: glommio cannot be used"), "{line}");
    // Where all tests run with little locked memory, that comes first.
    assert!(
        line.contains("io_uring is forbidden") || line.contains("locked memory"),
        "{line}"
    );
    works(&gateway).await;
}

#[tokio::test]
async fn with_64_kib_of_locked_memory_the_log_is_written_plainly_and_the_banner_says_why() {
    let (data, restrict) = (TempDir::new().unwrap(), Restrict::compile().unwrap());
    let launcher = restrict.with(&["--memlock", "65536"]);
    let gateway = serve(Settings::new(GATEWAY, data.path()).under(launcher));
    let line = log_writer(&gateway);
    assert!(line.contains("locked memory is 64 KiB"), "{line}");
    works(&gateway).await;
}

#[tokio::test]
async fn one_processor_is_enough() {
    let (data, restrict) = (TempDir::new().unwrap(), Restrict::compile().unwrap());
    let launcher = restrict.with(&["--cpus", "1"]);
    let gateway = serve(Settings::new(GATEWAY, data.path()).under(launcher));
    log_writer(&gateway);
    works(&gateway).await;
}

#[test]
fn glommio_asked_for_where_it_cannot_be_had_is_refused_with_the_remedy() {
    let restrict = Restrict::compile().unwrap();
    for (flags, forbidden) in [
        (&["--no-io-uring"][..], true),
        (&["--memlock", "65536"], false),
    ] {
        let data = TempDir::new().unwrap();
        let settings = Settings::new(GATEWAY, data.path())
            .env("NULLRUN_WAL_BACKEND", "glommio")
            .under(restrict.with(flags));
        let words = refused(settings);
        let [reason, remedy] = if forbidden && !words.contains("locked memory") {
            [
                "(io_uring_setup: Operation not permitted",
                "seccomp profile",
            ]
        } else {
            ["the limit on locked memory is", "ulimit -l"]
        };
        for part in [reason, remedy, "NULLRUN_WAL_BACKEND=plain"] {
            assert!(words.contains(part), "{part} is missing: {words}");
        }
    }
}

#[test]
fn a_data_directory_that_may_not_be_written_is_named() {
    let restrict = Restrict::compile().unwrap();
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let allow = |directory: &Path, mode| {
        std::fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
    };
    // As root, too: the launcher makes it obey the modes.
    let settings = || Settings::new(GATEWAY, &data).under(restrict.with(&["--obey-modes"]));
    let names_the_directory = |words: &str| {
        for part in [data.to_str().unwrap(), "NULLRUN_DATA_DIR"] {
            assert!(words.contains(part), "{part} is missing: {words}");
        }
    };
    allow(&data, 0o555);
    names_the_directory(&refused(settings()));
    allow(&data, 0o755);
    drop(serve(settings()));

    // Only the log's part of it, as after a restore by somebody else.
    let wal = data.join("wal");
    allow(&wal, 0o555);
    let segment = std::fs::read_dir(&wal).unwrap().next().unwrap().unwrap();
    allow(&segment.path(), 0o444);
    let words = refused(settings());
    assert!(words.contains(wal.to_str().unwrap()), "{words}");
    allow(&wal, 0o755);
}

/// Settings for a gateway that writes through glommio; where it cannot be had, the gateway must say
/// what the probe says.
fn on_glommio(data: &Path) -> Option<Settings> {
    let settings = Settings::new(GATEWAY, data).env("NULLRUN_WAL_BACKEND", "glommio");
    match persist::backend::probe(data) {
        Ok(()) => Some(settings),
        Err(obstacle) => {
            let required = std::env::var("NULLRUN_TEST_GLOMMIO").is_ok_and(|how| how == "required");
            assert!(!required, "NULLRUN_TEST_GLOMMIO=required: {obstacle}");
            println!("without glommio: {obstacle}");
            let words = refused(settings);
            assert!(words.contains(&obstacle.to_string()), "{words}");
            None
        }
    }
}

#[tokio::test]
async fn holds_written_through_glommio_are_there_after_kill_9() {
    let data = TempDir::new().unwrap();
    let Some(settings) = on_glommio(data.path()) else {
        return;
    };
    let mut gateway = serve(settings);
    assert!(log_writer(&gateway).contains("glommio: as set"));
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(1);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    let mut holds = Vec::new();
    for n in 0..100 {
        let answer = gate(&mut connection, &account, &n.to_string()).await;
        holds.push(answer.required("reservation_id").unwrap());
    }
    gateway.kill_9().unwrap();

    // And what one backend wrote, the other goes on with.
    for backend in ["plain", "glommio"] {
        let settings = gateway
            .settings()
            .clone()
            .env("NULLRUN_WAL_BACKEND", backend);
        drop(gateway);
        gateway = serve(settings);
        let mut connection = Connection::new(&gateway.endpoint().unwrap());
        for (n, hold) in holds.iter().enumerate() {
            let again = gate(&mut connection, &account, &n.to_string()).await;
            assert_eq!(again.text("reservation_id"), hold, "{backend}");
            assert_eq!(again.body["idempotent_replay"], true, "{backend}");
        }
        gate(&mut connection, &account, backend).await;
        gateway.kill_9().unwrap();
    }
}

#[test]
fn nothing_acknowledged_through_glommio_is_missing_after_kill_9_under_load() {
    let data = TempDir::new().unwrap();
    if on_glommio(data.path()).is_none() {
        return;
    }
    let params = crash::Params {
        rounds: 3,
        ..crash::Params::quick()
    };
    let params = params
        .env("NULLRUN_WAL_BACKEND", "glommio")
        // Small segments: it rolls on the way.
        .env("NULLRUN_SEGMENT_BYTES", "262144");
    let report = crash::run(GATEWAY.as_ref(), &params).unwrap();
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
}

/// Flips a bit of a file.
fn damage(file: &Path, byte: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_log_damaged_before_its_end_is_refused_with_its_name_and_what_to_do() {
    let data = TempDir::new().unwrap();
    let mut gateway = serve(Settings::new(GATEWAY, data.path()));
    works(&gateway).await;
    gateway.kill_9().unwrap();
    // In the first frame; others follow it.
    let segment = data.path().join("wal/0000000000000001.seg");
    damage(&segment, 4096 + 40);
    let words = refused(gateway.settings().clone());
    for part in [
        segment.to_str().unwrap(),
        "is damaged at byte 4096",
        "Restore the data directory from a backup",
    ] {
        assert!(words.contains(part), "{part} is missing: {words}");
    }
}

#[tokio::test]
async fn snapshots_damaged_when_the_log_behind_them_is_gone_are_refused_with_what_to_do() {
    let data = TempDir::new().unwrap();
    let settings = Settings::new(GATEWAY, data.path())
        .env("NULLRUN_SEGMENT_BYTES", "65536")
        .env("NULLRUN_SNAPSHOT_BYTES", "4096");
    let mut gateway = serve(settings.clone());
    let mut connection = Connection::new(&gateway.endpoint().unwrap());
    let mut dice = Dice::from_seed(1);
    let account = Account::register(&mut connection, &mut dice).await.unwrap();
    let events =
        json!({ "events": vec![json!({ "type": "tool_call", "agent_id": "y".repeat(80) }); 500] });
    let (first, began) = (data.path().join("wal/0000000000000001.seg"), Instant::now());
    while first.exists() {
        let caller = Caller::Signed(&account.key, Protocol::V4);
        let sent = connection.post("/api/v1/track/batch", caller, &events);
        assert_eq!(sent.await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(began.elapsed() < PATIENCE, "never trimmed");
    }
    gateway.kill_9().unwrap();
    for entry in std::fs::read_dir(data.path().join("snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "part") {
            damage(&path, 64);
        }
    }
    let words = refused(settings);
    for part in [
        "no usable snapshot",
        "Restore the data directory, snapshots and log together, from a backup",
    ] {
        assert!(words.contains(part), "{part} is missing: {words}");
    }
}
