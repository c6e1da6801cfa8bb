//! Clients that send nothing, too much, too slowly or at the wrong moment, and a disk that hangs at
//! the end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::client::Caller;
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::shim::Shim;
use serde_json::json;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Environment, GATEWAY, LAYOUTS, Stage};
use tempfile::TempDir;

fn raw(gateway: &Gateway) -> TcpStream {
    let address = gateway.base_url().trim_start_matches("http://");
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

fn closed_by_the_gateway(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// What comes back until the gateway closes or 20 seconds are over.
fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _closed_or_not = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn connections_that_stay_silent_or_stall_in_their_first_bytes_are_closed() {
    let stage = Stage::start(&[("NULLRUN_HEAD_TIMEOUT_SECS", "1")]);
    for first in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n", "GET /health HT"] {
        let mut stream = raw(&stage.gateway);
        stream.write_all(first.as_bytes()).unwrap();
        let start = Instant::now();
        assert!(
            closed_by_the_gateway(&mut stream),
            "{first:?} keeps a connection open"
        );
        // Far from the 75 seconds that are not set here.
        assert!(start.elapsed() < Duration::from_secs(18), "{first:?}");
    }
}

#[test]
fn silent_connections_do_not_keep_others_out_for_ever() {
    let stage = Stage::start(&[
        ("NULLRUN_HEAD_TIMEOUT_SECS", "1"),
        ("NULLRUN_MAX_CONNECTIONS", "4"),
    ]);
    let _silent: Vec<_> = (0..4).map(|_| raw(&stage.gateway)).collect();
    let mut stream = raw(&stage.gateway);
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_fleet_that_connects_while_the_gateway_is_busy_does_not_find_the_door_shut() {
    let stage = Stage::start(&[]);
    let pid = stage.gateway.pid().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status().unwrap();
    // Nothing is accepted meanwhile.
    assert!(signal("-STOP").success());
    let address = stage.gateway.base_url().trim_start_matches("http://");
    let address = address.parse().unwrap();
    // A client whose first word is dropped says it again after a second.
    let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
    let fleet: Result<Vec<_>, _> = (0..500).map(connect).collect();
    assert!(signal("-CONT").success());
    let mut fleet = fleet.unwrap();
    let last = fleet.last_mut().unwrap();
    last.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(answer(last).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read() {
    let stage = Stage::start(&[]);
    let mut stream = raw(&stage.gateway);
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let answer = answer(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn an_h2_preface_in_two_parts_is_answered_in_h2() {
    let stage = Stage::start(&[]);
    let mut stream = raw(&stage.gateway);
    stream.write_all(b"PRI * HTTP").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream
        .write_all(b"/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "not a SETTINGS frame: {head:?}");
}

fn most_memory_mib(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap();
    kib / 1024
}

#[test]
fn clients_that_hang_up_do_not_get_more_passwords_hashed_at_once() {
    let stage = Stage::start(&[]);
    let before = most_memory_mib(&stage.gateway);
    for n in 0..60 {
        let body = format!(r#"{{"email":"{n}@b.example","password":"long enough and wrong"}}"#);
        let mut stream = raw(&stage.gateway);
        let request = format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut stream = raw(&stage.gateway);
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 200"));
    let more = most_memory_mib(&stage.gateway) - before;
    // Two at once take 38 MiB, and the allocator keeps some for each thread; sixty take 1,100.
    assert!(more < 300, "{more} MiB for clients that are gone");
}

#[tokio::test]
async fn more_logins_than_may_wait_are_told_to_come_back() {
    let stage = Stage::start(&[]);
    let mut waiting = Vec::new();
    for n in 0..200 {
        let mut connection = stage.connect();
        let login =
            json!({ "email": format!("{n}@b.example"), "password": "long enough and wrong" });
        waiting.push(tokio::spawn(async move {
            connection
                .post("/api/v1/auth/login", Caller::Anonymous, &login)
                .await
                .unwrap()
        }));
    }
    let mut overloaded = 0;
    for answer in waiting {
        let answer = answer.await.unwrap();
        if answer.status == 503 {
            assert_eq!(answer.error_code(), "OVERLOADED", "{}", answer.body);
            assert!(answer.headers.contains_key("retry-after"));
            overloaded += 1;
        } else {
            assert_eq!(answer.status, 401, "{}", answer.body);
        }
    }
    assert!(overloaded > 0, "all 200 waited");
}

#[tokio::test]
async fn of_many_wrong_passwords_at_once_five_are_tried() {
    let mut stage = Stage::start(&[]);
    let email = "one@example.com";
    let register = json!({ "email": email, "password": "the right password" });
    let made = stage
        .connection
        .post("/api/v1/auth/register", Caller::Anonymous, &register)
        .await
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.body);
    let long = json!({ "email": email, "password": "x".repeat(257) });
    for _ in 0..10 {
        let refused = stage
            .connection
            .post("/api/v1/auth/login", Caller::Anonymous, &long)
            .await
            .unwrap();
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.body["details"]["field"], "password");
    }
    for _ in 0..10 {
        let signed_in = stage
            .connection
            .post("/api/v1/auth/login", Caller::Anonymous, &register)
            .await
            .unwrap();
        assert_eq!(signed_in.status, 200, "{}", signed_in.body);
    }
    let mut tries = Vec::new();
    for n in 0..50 {
        let mut connection = stage.connect();
        let login = json!({ "email": email, "password": format!("wrong password {n}") });
        tries.push(tokio::spawn(async move {
            let answer = connection
                .post("/api/v1/auth/login", Caller::Anonymous, &login)
                .await
                .unwrap();
            answer.status
        }));
    }
    let mut tried = 0;
    for status in tries {
        match status.await.unwrap() {
            401 => tried += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(tried, 5);
}

#[tokio::test]
async fn only_reports_may_be_large() {
    let mut stage = Stage::start(&[("NULLRUN_HMAC_REQUIRED", "false")]);
    let account = stage.account().await;
    let key = Caller::Key(&account.key);
    let spaces = vec![b' '; (1 << 20) + 1];
    for (path, status) in [
        ("/api/v1/gate", 413),
        ("/api/v1/execute", 413),
        ("/api/v1/auth/login", 413),
        ("/api/v1/auth/verify", 413),
        // Read, and found to be no JSON.
        ("/api/v1/track", 400),
        ("/api/v1/track/batch", 400),
    ] {
        let prepared = stage
            .connection
            .prepare(Method::POST, path, key, Some(spaces.clone().into()))
            .unwrap();
        let answer = stage.connection.send(prepared).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn large_bodies_of_strangers_take_a_bounded_memory_and_gates_go_on() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let head = format!(
        "POST /api/v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        10 << 20
    );
    let nearly_all = vec![b' '; (10 << 20) - 1];
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = raw(&stage.gateway);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&nearly_all).unwrap();
        streams.push(stream);
    }
    let gate = stage
        .connection
        .post_signed("/api/v1/gate", &account.key, &json!({}))
        .await
        .unwrap();
    assert!(gate.is_allow(), "{}", gate.body);
    let mut refused = 0;
    for mut stream in streams {
        stream.write_all(b" ").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        match &head[9..] {
            b"503" => refused += 1,
            status => assert_eq!(status, b"401"),
        }
    }
    assert!((5..20).contains(&refused), "{refused} of 20 were refused");
    // What they took is free again.
    let prepared = stage.connection.prepare(
        Method::POST,
        "/api/v1/track",
        Caller::Anonymous,
        Some(nearly_all.into()),
    );
    let answer = stage.connection.send(prepared.unwrap()).await.unwrap();
    assert_eq!(answer.status, 401, "{}", answer.body);
}

#[test]
fn a_body_that_never_ends_does_not_spoil_the_stop() {
    let mut stage = Stage::start(&[]);
    let mut half = raw(&stage.gateway);
    half.write_all(b"POST /api/v1/gate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    let _silent = raw(&stage.gateway);
    std::thread::sleep(Duration::from_millis(200));
    let status = stage.gateway.terminate(Duration::from_secs(30)).unwrap();
    let words = stage.gateway.output();
    assert!(status.success(), "{status} {words}");
    assert!(!words.contains("the log failed"), "{words}");
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_the_gateway_from_stopping() {
    stops_with_a_disk_that_hangs(LAYOUTS[0].1).await;
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_shards_on_threads_from_stopping() {
    stops_with_a_disk_that_hangs(LAYOUTS[5].1).await;
}

async fn stops_with_a_disk_that_hangs(layout: Environment) {
    let shim = Shim::compile().unwrap();
    let directory = TempDir::new().unwrap();
    let mount = shim.mount(directory.path(), 1).unwrap();
    let settings = Settings::new(GATEWAY, directory.path()).on_shim(mount.clone());
    let set = |settings: Settings, (name, value): &(&str, &str)| settings.env(*name, *value);
    let settings = layout.iter().fold(settings, set);
    let mut gateway = Gateway::start(settings).unwrap();
    mount.hang_syncs(true).unwrap();
    let mut stream = raw(&gateway);
    let body = r#"{"email":"a@b.example","password":"long enough by far"}"#;
    let request = format!(
        "POST /api/v1/auth/register HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = gateway.terminate(Duration::from_secs(40)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", gateway.output());
    assert!(
        gateway.output().contains("the disk did not confirm"),
        "{}",
        gateway.output()
    );
}

#[test]
fn a_variable_that_is_not_utf8_is_no_reason_not_to_start() {
    let output = Command::new(GATEWAY)
        .env_clear()
        .env("SOMEBODY", OsStr::from_bytes(b"\xff\xfe"))
        .env("NULLRUN_DATA_DIR", "/dev/null/nowhere")
        .env("NULLRUN_LISTN", "x")
        .output()
        .unwrap();
    let words = [output.stdout, output.stderr].concat();
    let words = String::from_utf8_lossy(&words);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("NULLRUN_LISTN"), "{words}");
    assert!(words.contains("cannot use the data directory"), "{words}");
}
