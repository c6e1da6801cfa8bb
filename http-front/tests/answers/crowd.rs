//! Bodies that come too slowly, and more large ones at once than there is room for.

use super::{Bench, documenting, says_when};
use nullrun_loadtest::client::Caller;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn connect(bench: &Bench) -> TcpStream {
    let address = bench.stage.gateway.base_url().trim_start_matches("http://");
    let stream = TcpStream::connect(address).unwrap();
    let patience = Some(super::support::PATIENCE);
    stream.set_read_timeout(patience).unwrap();
    stream
}

#[tokio::test]
async fn every_route_with_a_body_says_that_it_did_not_arrive_in_time() {
    let stage = super::support::Stage::start(&[("NULLRUN_BODY_TIMEOUT_SECS", "1")]);
    let bench = Bench::of(stage);
    let began = Instant::now();
    let waiting: Vec<_> = documenting(408)
        .into_iter()
        .map(|of| {
            let mut stream = connect(&bench);
            let path = of.path.replace(['{', '}'], "x");
            let head = format!(
                "{} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n",
                of.method
            );
            stream.write_all(head.as_bytes()).unwrap();
            (of, stream)
        })
        .collect();
    for (of, mut stream) in waiting {
        let mut bytes = Vec::new();
        let _reset_or_closed = stream.read_to_end(&mut bytes);
        let answer = String::from_utf8_lossy(&bytes);
        let name = of.name;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{name}: {answer}");
        let why = "the body did not arrive within 1 s";
        assert!(answer.contains("\"request_timeout\""), "{name}: {answer}");
        assert!(answer.contains(why), "{name}: {answer}");
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// Whose bodies leave 320 KiB of the 128 MiB that there are for what is past the first 64 KiB of a body:
/// route, how many, bytes of each.
const CROWD: [(&str, usize, usize); 2] = [("track", 12, 10 << 20), ("gate", 9, 1 << 20)];

#[tokio::test]
async fn every_route_with_a_body_says_when_too_many_large_ones_arrive() {
    let stage = super::support::Stage::start(&[("NULLRUN_BODY_TIMEOUT_SECS", "600")]);
    let bench = Bench::of(stage);
    let mut crowd = Vec::new();
    for (route, many, len) in CROWD {
        let head =
            format!("POST /api/v1/{route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
        // All but the last byte: the room is taken, and nobody is answered.
        let nearly_all = vec![b' '; len - 1];
        for _ in 0..many {
            let mut stream = connect(&bench);
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&nearly_all).unwrap();
            crowd.push(stream);
        }
    }
    let mut connection = bench.stage.connect();
    let large: Vec<u8> = vec![b' '; 1 << 20];
    let mut waits = documenting(408);
    let with_503 = documenting(503);
    waits.retain(|of| with_503.iter().any(|one| one.name == of.name));
    for of in waits {
        let path = of.path.replace(['{', '}'], "x");
        let began = Instant::now();
        // What the last of the crowd has sent may not have been read yet.
        let answer = loop {
            let body = Some(large.clone().into());
            let method = of.method.clone();
            let prepared = connection.prepare(method, &path, Caller::Anonymous, body);
            let answer = connection.send(prepared.unwrap()).await.unwrap();
            let late = began.elapsed() > super::support::PATIENCE;
            if answer.status == 503 || late {
                break answer;
            }
        };
        says_when(&of.name, &answer);
        assert_eq!(answer.error_code(), "OVERLOADED", "{}", of.name);
    }
    drop(crowd);
}
