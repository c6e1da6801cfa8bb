//! Paths, queries, headers and sizes of every wrong kind, for every route: refused with a 4xx, never
//! a 5xx, never silence, and nothing has changed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "bad_input/bench.rs"]
mod bench;
#[path = "bad_input/described.rs"]
mod described;
#[path = "bad_input/probes.rs"]
mod probes;
mod support;
#[path = "bad_input/table.rs"]
mod table;

use bench::{Bench, envelope};
use hyper::Method;
use serde_json::json;
use support::routes::routes;
use table::{Who, table, with};

/// Ids that name nothing.
fn bad_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "x",
        "%00",
        "a%00b",
        "%ff",
        "%ed%a0%80",
        "%2e%2e",
        "%2F",
        "%",
        "-1",
        "9223372036854775808",
        "NaN",
        "null",
        "01a20a99-0000-7000-8000-00000000dead",
        "01a20a9900007000800000000000dead",
        "%7B%7D",
        "%F0%9F%94%A5",
    ]
    .map(str::to_owned)
    .into();
    ids.push("x".repeat(4000));
    ids
}

#[tokio::test]
async fn ids_in_paths_that_name_nothing_are_refused_and_change_nothing() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let before = bench.state(&watched).await;
    let lsn = bench.lsn().await;
    let rows = table();
    let (mut tried, mut found) = (0, Vec::new());
    for (method, pattern) in routes() {
        let row = rows
            .iter()
            .find(|row| row.method == method && row.path == pattern);
        let body = row.map(|row| row.right.to_string());
        for hole in ["{org}", "{id}", "{workflow}", "{token}"] {
            // Any text is a model that may get a price.
            let named = method == Method::PATCH && pattern.contains("/pricing/");
            if !pattern.contains(hole) || named {
                continue;
            }
            for id in bad_ids() {
                let path = watched.path(&pattern.replace(hole, &id));
                let who = if hole == "{workflow}" {
                    Who::Key
                } else {
                    Who::Person
                };
                let connection = &mut bench.stage.connection;
                let body = body.clone().map(Into::into);
                let prepared = connection.prepare(method.clone(), &path, watched.caller(who), body);
                let answer = connection.send(prepared.unwrap()).await.unwrap();
                tried += 1;
                // Whoever asks for the state of a workflow learns nothing about others.
                let like_any = hole == "{workflow}" && answer.status == 200;
                let fine = like_any && answer.body["version"] == 0;
                if let Err(why) = envelope(&answer).or_else(|why| fine.then_some(()).ok_or(why)) {
                    found.push(format!("{method} {pattern} with {hole} {id}: {why}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{tried} paths");
    assert!(tried > 400, "{tried}");
    assert_eq!(
        (bench.lsn().await, bench.state(&watched).await),
        (lsn, before)
    );
}

#[tokio::test]
async fn queries_that_mean_nothing_are_refused() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let mut queries: Vec<String> = [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=",
        "limit",
        "limit=abc",
        "limit=1.5",
        "limit=1e3",
        "limit=NaN",
        "limit=5&nonsense=1",
        "limit=%36%31%31",
        "limit=%00",
        "limit=9223372036854775808",
        "limit=5&limit=x",
        "cursor=x",
        "cursor=%00",
        "cursor=%ff",
        "cursor=",
        "cursor=null",
    ]
    .map(str::to_owned)
    .into();
    queries.push(format!("cursor={}", "x".repeat(8000)));
    let lists: Vec<_> = routes()
        .into_iter()
        .filter(|(method, path)| {
            let creates = [Method::POST, Method::GET];
            let both = creates.map(|m| routes().contains(&(m, path.clone())));
            let of_an_org = path.starts_with("/api/v1/orgs");
            of_an_org
                && *method == Method::GET
                && (both == [true, true] || path.ends_with("/holds") || path.ends_with("/members"))
        })
        .map(|(_, path)| path)
        .collect();
    assert_eq!(lists.len(), 8, "{lists:?}");
    let mut found = Vec::new();
    for list in &lists {
        let mut queries = queries.clone();
        if list.ends_with("/holds") {
            queries.extend(bad_ids().iter().map(|id| format!("workflow_id={id}")));
        }
        for query in queries {
            let path = format!("{}?{query}", watched.path(list));
            let caller = watched.caller(Who::Person);
            let answer = bench.stage.connection.get(&path, caller).await.unwrap();
            // A workflow that is not there has no holds.
            let none = answer.status == 200 && answer.body["data"] == json!([]);
            let none = none && query.starts_with("workflow_id=01a");
            if let Err(why) = envelope(&answer).or_else(|why| none.then_some(()).ok_or(why)) {
                found.push(format!("{path}: {why}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn bodies_of_11_mib_are_refused_by_every_route_and_gates_go_on() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let before = bench.state(&watched).await;
    let spaces = vec![b' '; 11 << 20];
    for row in table() {
        let answer = bench
            .send(&row, &watched, row.who, Some(spaces.clone()))
            .await;
        let what = format!("{} {}", row.method, row.path);
        envelope(&answer).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(answer.status, 413, "{what}");
        let limit = answer.body["details"]["limit_bytes"].to_string();
        assert!(
            answer.text("message").contains(&limit),
            "{what}: {}",
            answer.body
        );
    }
    assert_eq!(bench.state(&watched).await, before);
}

#[tokio::test]
async fn a_report_of_more_events_than_fit_is_refused_whole() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let before = bench.state(&watched).await;
    let event =
        |n| json!({ "event_id": format!("e{n}"), "model": "gpt-4o-mini", "input_tokens": 1000 });
    let report = |count| json!({ "events": (0..count).map(event).collect::<Vec<_>>() });
    let caller = watched.caller(Who::Key);
    let connection = &mut bench.stage.connection;
    let path = "/api/v1/track/batch";
    let refused = connection.post(path, caller, &report(10_001)).await;
    let refused = refused.unwrap();
    envelope(&refused).unwrap();
    assert_eq!(refused.status, 400, "{}", refused.body);
    let message = refused.text("message");
    assert!(message.contains("10000 at most"), "{message}");
    assert_eq!(bench.state(&watched).await, before);
    let connection = &mut bench.stage.connection;
    let taken = connection.post(path, caller, &report(10_000)).await;
    assert_eq!(taken.unwrap().body["accepted"], 10_000);
}

#[tokio::test]
async fn another_content_type_is_refused_by_every_route_that_reads_a_body() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let before = bench.state(&watched).await;
    for row in table() {
        let body = with(&row.right, "no_such", Some("1"));
        let credentials = match row.who {
            Who::Nobody => String::new(),
            Who::Key => format!("X-API-Key: {}\r\n", watched.account.key.api_key()),
            Who::Person | Who::Admin => {
                format!("Authorization: Bearer {}\r\n", watched.account.session)
            }
        };
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
        ] {
            let head = format!(
                "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{credentials}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                row.method,
                watched.path(row.path),
                body.len()
            );
            let (status, _, answer) = bench.raw(head.as_bytes(), body.as_bytes());
            assert_eq!(status, 415, "{} with {kind}: {answer}", row.path);
            assert_eq!(answer["error_code"], "UNSUPPORTED_MEDIA_TYPE");
        }
    }
    assert_eq!(bench.state(&watched).await, before);
}

#[tokio::test]
async fn headers_of_every_wrong_kind_are_refused_and_the_gateway_lives_on() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let before = bench.state(&watched).await;
    let key = watched.account.key.api_key().to_owned();
    let session = watched.account.session.clone();
    let ask = |path: &str, headers: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        );
        let head = [head.as_bytes(), headers, b"\r\n\r\n"].concat();
        bench.raw(&head, b"{}")
    };
    let mut cases: Vec<(Vec<u8>, u16)> = Vec::new();
    for value in [
        &b"\xff\xfe"[..],
        b"",
        b" ",
        b"nr_live_\x80",
        b"nr_live_unknown",
        session.as_bytes(),
    ] {
        cases.push(([b"X-API-Key: ", value].concat(), 401));
    }
    for value in [
        &b"Bearer"[..],
        b"Bearer ",
        b"Basic eDp5",
        b"\xff\xfe",
        b"Bearer nr_live_x",
        session.as_bytes(),
    ] {
        cases.push(([b"Authorization: ", value].concat(), 401));
    }
    let with_key = |more: &[u8]| [b"X-API-Key: ", key.as_bytes(), b"\r\n", more].concat();
    cases.push((with_key(b"Authorization: Bearer nr_live_another"), 401));
    for number in [
        "",
        "1",
        "0",
        "-1",
        "5",
        "99",
        "4.0",
        "four",
        "99999999999999999999",
        "NaN",
        "4 4",
    ] {
        cases.push((
            with_key(format!("X-NULLRUN-PROTOCOL: {number}").as_bytes()),
            400,
        ));
    }
    cases.push((with_key(b"X-NULLRUN-PROTOCOL: \xff"), 400));
    let four = b"X-NULLRUN-PROTOCOL: 4\r\n";
    for signature in ["", "00", "zz", &"0".repeat(64), &"f".repeat(100_000)] {
        for at in ["", "0", "-1", "NaN", "99999999999999999999", "1e9"] {
            let signed = format!("X-Signature: {signature}\r\nX-Signature-Timestamp: {at}");
            // An empty signature is none, and none is needed here.
            let status = if signature.is_empty() { 200 } else { 401 };
            cases.push((with_key(&[&four[..], signed.as_bytes()].concat()), status));
        }
    }
    let mut found = Vec::new();
    for (headers, expected) in &cases {
        let shown = String::from_utf8_lossy(headers)
            .chars()
            .take(120)
            .collect::<String>();
        let (status, _, body) = ask("/api/v1/check", headers);
        let told = status == 200 || body["request_id"].is_string() && body["message"].is_string();
        if status != *expected || !told {
            found.push(format!("{shown:?}: {status} {body}"));
        }
    }
    // A session must be one, whatever the route.
    let path = watched.account.path("/status");
    for value in [
        &b"Bearer ses_x"[..],
        b"Bearer \xff",
        b"Bearer",
        b"Basic eDp5",
        b"ses_x",
        b"",
    ] {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: ");
        let (status, _, body) = bench.raw(&[head.as_bytes(), value, b"\r\n\r\n"].concat(), b"");
        if status != 401 || !body["request_id"].is_string() {
            found.push(format!("{value:?}: {status} {body}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{} headers", cases.len());
    assert_eq!(bench.state(&watched).await, before);
}

/// These never become a request: the HTTP library answers them in its own way, without a body.
#[tokio::test]
async fn what_is_no_request_is_answered_with_a_4xx() {
    let bench = Bench::start();
    let huge = "x".repeat(1 << 20);
    let many: String = (0..200).map(|n| format!("H{n}: 1\r\n")).collect();
    for head in [
        format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Huge: {huge}\r\n\r\n"),
        format!("GET /api/v1/status/{huge} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
        "GET /health HTTP/1.1\r\nHost: x\r\nX-Nul: a\0b\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "POST /api/v1/gate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /api/v1/gate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
            .to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let (status, ..) = bench.raw(head.as_bytes(), b"");
        let shown: String = head.chars().take(60).collect();
        // Who still sends when the gateway hangs up may miss the answer.
        let missed = head.len() > 1 << 20 && status == 0;
        assert!(
            missed || (400..500).contains(&status),
            "{shown:?}: {status}"
        );
    }
    let (status, ..) = bench.raw(
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"",
    );
    assert_eq!(status, 200);
}
