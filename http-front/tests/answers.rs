//! Answers that the description of the API promises and other tests do not come by: what everybody is
//! told when a body is too slow, when too many are large and when the disk hangs; each kind of block
//! for strict clients; and rare refusals. The operations are read from the description, so a new one is
//! tried by itself. `answers.py` compares what all tests have seen with the description.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "bad_input/bench.rs"]
mod bench;
#[path = "answers/crowd.rs"]
mod crowd;
#[path = "bad_input/described.rs"]
mod described;
#[path = "answers/hung.rs"]
mod hung;
#[path = "bad_input/probes.rs"]
mod probes;
#[path = "answers/rare.rs"]
mod rare;
#[path = "answers/strict.rs"]
mod strict;
mod support;
#[path = "bad_input/table.rs"]
mod table;

use bench::{Bench, Furnished};
use hyper::Method;
use nullrun_loadtest::client::{Answer, Prepared};
use serde_json::Value;
use support::routes::holes;
use table::{Row, Who, table};

/// One operation of the description, and who may ask for it.
#[derive(Debug, Clone)]
struct Operation {
    name: String,
    method: Method,
    /// With the table's holes.
    path: String,
    who: Who,
    /// A right body, if it takes one.
    body: Option<Value>,
}

/// The operations that document this status.
fn documenting(status: u16) -> Vec<Operation> {
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let rows = table();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["responses"].get(status.to_string()).is_some() {
                found.push(operation_of(method, path, operation, &rows));
            }
        }
    }
    assert!(found.len() > 5, "{status}: {found:?}");
    found
}

fn operation_of(method: &str, path: &str, operation: &Value, rows: &[Row]) -> Operation {
    let method: Method = method.to_uppercase().parse().unwrap();
    let holes = holes(path);
    let mut schemes = operation["security"].as_array().into_iter().flatten();
    let takes = |scheme: &str| schemes.clone().any(|one| one.get(scheme).is_some());
    let who = match () {
        () if path.starts_with("/api/v1/admin/") => Who::Admin,
        () if takes("session") => Who::Person,
        () if takes("api_key") => Who::Key,
        () => Who::Nobody,
    };
    let _all_looked_at = schemes.next();
    let row = rows
        .iter()
        .find(|row| row.method == method && row.path == holes);
    let body = operation.get("requestBody").map(|_| {
        let row = row.unwrap_or_else(|| panic!("{path} has no row in bad_input/table.rs"));
        row.right.clone()
    });
    Operation {
        name: operation["operationId"].as_str().unwrap().to_owned(),
        who: row.map_or(who, |row| row.who),
        path: holes,
        method,
        body,
    }
}

/// Sends all of them at once, each on a connection of its own.
async fn all_at_once(bench: &Bench, asked: Vec<(String, Prepared)>) -> Vec<(String, Answer)> {
    let sent: Vec<_> = asked
        .into_iter()
        .map(|(name, prepared)| {
            let mut connection = bench.stage.connect();
            let answer = tokio::spawn(async move { connection.send(prepared).await });
            (name, answer)
        })
        .collect();
    let mut answers = Vec::new();
    for (name, answer) in sent {
        match answer.await.unwrap() {
            Ok(answer) => answers.push((name, answer)),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    answers
}

/// The right request of an operation about what there is.
fn right(bench: &mut Bench, of: &Operation, about: &Furnished) -> Prepared {
    let body = of.body.as_ref().map(|body| {
        let body = body.to_string().into_bytes();
        bench.addressed(body, &about.account.workflow).into()
    });
    let (method, path) = (of.method.clone(), about.path(&of.path));
    let connection = &bench.stage.connection;
    let prepared = connection.prepare(method, &path, about.caller(of.who), body);
    prepared.unwrap()
}

/// An answer to come back later: in the envelope, with the header that says when.
fn says_when(name: &str, answer: &Answer) {
    let body = &answer.body;
    assert_eq!(answer.status, 503, "{name}: {body}");
    for field in ["error_code", "request_id"] {
        let text = body[field].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{name} has no {field}: {body}");
    }
    let words = ["message", "explanation"].map(|name| body[name].as_str().unwrap_or_default());
    assert!(words.iter().any(|word| !word.is_empty()), "{name}: {body}");
    let after = answer.headers.get("retry-after");
    let after = after.and_then(|after| after.to_str().ok()?.parse::<u64>().ok());
    assert!(after.is_some_and(|secs| secs > 0), "{name}: {after:?}");
    assert!(body["retry_after_ms"].is_u64(), "{name}: {body}");
}
