//! Input of every wrong kind for every route: refused with a 4xx that says what is wrong, never a
//! 5xx, never silence, and nothing has changed. The routes are read from the router's source, so a
//! new one must be described in `bad_input/table.rs`; the fields are read from the API's description.

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

use bench::{Bench, Furnished, envelope, has_body};
use hyper::Method;
use nullrun_loadtest::client::{Answer, Caller};
use probes::{Kind, Outcome, deep};
use serde_json::json;
use std::collections::BTreeSet;
use support::routes::routes;
use table::{Field, NO_BODY, Row, Who, event, table, with};

/// What it is, the bytes, what must come of it, and the field it is about.
type Trial = (String, Option<Vec<u8>>, Outcome, Option<&'static str>);

/// What is tried on a row.
fn trials(row: &Row) -> Vec<Trial> {
    let mut trials = Vec::new();
    let needs = row.fields.iter().any(|field| field.needed);
    let if_optional = |optional: bool| match optional {
        true => Outcome::Taken,
        false => Outcome::Refused,
    };
    let right = row.right.to_string();
    let first = row.fields[0].path;
    let name = first.split('.').next_back().unwrap();
    trials.push((
        "no body".to_owned(),
        None,
        if_optional(row.may_be_empty),
        None,
    ));
    let mut whole = |what: &str, body: Vec<u8>, outcome| {
        trials.push((what.to_owned(), Some(body), outcome, None));
    };
    whole(
        "right",
        right.clone().into(),
        match row.path {
            "/api/v1/auth/login"
            | "/api/v1/auth/password/reset"
            | "/api/v1/auth/email/verify"
            | "/api/v1/auth/oauth/register"
            | "/api/v1/invites/{token}/accept" => Outcome::Refused,
            _ => Outcome::Taken,
        },
    );
    whole("{}", b"{}".to_vec(), if_optional(!needs));
    for text in [
        "[]", "[null]", "\"x\"", "7", "null", "true", " ", "{", "{\"", "nonsense",
    ] {
        let outcome = if_optional(row.may_be_empty && text.is_empty());
        whole(text, text.into(), outcome);
    }
    whole(
        "cut short",
        right[..right.len() - 1].into(),
        Outcome::Refused,
    );
    whole("more behind", format!("{right} x").into(), Outcome::Refused);
    whole("twice", format!("{right}{right}").into(), Outcome::Refused);
    whole("deep", deep().into(), Outcome::Refused);
    whole("never closed", "[".repeat(1000).into(), Outcome::Refused);
    whole(
        "never closed",
        "{\"a\":".repeat(1000).into(),
        Outcome::Refused,
    );
    let bad_utf8 = [b"{\"", name.as_bytes(), b"\":\"\xff\xfe\"}"].concat();
    whole("bad UTF-8", bad_utf8, Outcome::Refused);
    whole(
        "bad UTF-8 in a name",
        b"{\"\xff\":1}".to_vec(),
        Outcome::Refused,
    );
    let unknown = with(&row.right, "no_such_field", Some("1"));
    whole(
        "an unknown field",
        unknown.into(),
        match row.who {
            Who::Key => Outcome::Taken,
            _ => Outcome::Refused,
        },
    );
    for Field {
        path,
        kind,
        needed,
        not_null,
    } in &row.fields
    {
        let mut put = |what: &str, raw: Option<&str>, outcome| {
            let body = with(&row.right, path, raw).into_bytes();
            trials.push((format!("{path}: {what}"), Some(body), outcome, Some(*path)));
        };
        if *needed {
            put("missing", None, Outcome::Refused);
        }
        put("null", Some("null"), if_optional(!*not_null));
        if !matches!(kind, Kind::Any) {
            let name = path.split('.').next_back().unwrap();
            let twice = format!("null,\"{name}\":null");
            put("twice", Some(&twice), Outcome::Refused);
        }
        for (raw, outcome) in kind.probes() {
            let shown: String = raw.chars().take(40).collect();
            put(&shown, Some(&raw), outcome);
        }
    }
    trials
}

/// A refusal for a field must name it, or the place in the text.
fn names(answer: &Answer, field: &str) -> Result<(), String> {
    let name = field.split('.').next_back().unwrap();
    let message = answer.text("message");
    let place = message.contains("column") || message.contains("nested");
    let place = place || message.contains("the patterns of a policy");
    // Of an id that is well formed or not, and unknown, the thing is said.
    let of_the_thing = match name {
        "api_key" => (401, "header and body carry different keys"),
        "workflow_id" => (404, "there is no such workflow"),
        "api_key_id" => (404, "there is no such key"),
        "nonce" => (400, "provider must be one of github"),
        "password" | "name" => (
            404,
            "this invitation is unknown, answered, taken back or over; ask for another one",
        ),
        _ => (0, ""),
    };
    if message.contains(name) || place || (answer.status, message) == of_the_thing {
        return Ok(());
    }
    Err(format!("{name} is not named: {}", answer.body))
}

fn judge(answer: &Answer, outcome: Outcome, field: Option<&str>) -> Result<(), String> {
    let fine = match outcome {
        Outcome::Taken => (200..300).contains(&answer.status),
        Outcome::Blocked => {
            answer.status == 200
                && answer.text("decision") == "block"
                && !answer.text("explanation").is_empty()
        }
        Outcome::Refused => {
            envelope(answer)?;
            field.map_or(Ok(()), |field| names(answer, field))?;
            true
        }
    };
    if fine {
        return Ok(());
    }
    Err(format!(
        "{} {}, not {outcome:?}",
        answer.status, answer.body
    ))
}

async fn try_row(
    bench: &mut Bench,
    row: &Row,
    watched: &Furnished,
    found: &mut Vec<String>,
) -> usize {
    let mut scratch = bench.furnish().await;
    let before = bench.state(watched).await;
    let trials = trials(row);
    let tried = trials.len();
    let mut lsn = bench.lsn().await;
    for (what, body, outcome, field) in trials {
        let what = format!("{} {} with {what}", row.method, row.path);
        let taken = outcome == Outcome::Taken;
        let to = if taken { &scratch } else { watched };
        let answer = bench.send(row, to, row.who, body).await;
        if let Err(why) = judge(&answer, outcome, field) {
            found.push(format!("{what}: {why}"));
        }
        // Nobody signs in with it, but it is as a sign-in should be: it must get that far.
        let login = row.path == "/api/v1/auth/login" && what.ends_with(" with right");
        if answer.status == 429 || (login && answer.status != 401) {
            found.push(format!("{what}: {} {}", answer.status, answer.body));
        }
        if taken && row.path.contains("/holds/") {
            bench.mint(&mut scratch).await;
        }
        if taken && row.path.ends_with("/invites") {
            bench.settle(&scratch).await;
        }
        let now = bench.lsn().await;
        if outcome == Outcome::Refused && now != lsn {
            found.push(format!("{what} wrote something: {}", answer.body));
        }
        lsn = now;
    }
    if bench.state(watched).await != before {
        found.push(format!("{} {} changed something", row.method, row.path));
    }
    tried
}

#[test]
fn the_table_has_every_route_with_a_body() {
    let described: BTreeSet<_> = table()
        .iter()
        .map(|row| (row.method.clone(), row.path.to_owned()))
        .collect();
    for (method, path) in routes() {
        let known =
            described.contains(&(method.clone(), path.clone())) || NO_BODY.contains(&path.as_str());
        assert!(
            known || !has_body(&method),
            "{method} {path} has no row in bad_input/table.rs"
        );
    }
}

#[tokio::test]
async fn bodies_of_every_wrong_kind_are_refused_in_words_and_change_nothing() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let mut tried = 0;
    let mut found = Vec::new();
    for row in table() {
        tried += try_row(&mut bench, &row, &watched, &mut found).await;
    }
    println!("{tried} bodies");
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(tried > 1500, "only {tried} bodies were tried");
}

#[tokio::test]
async fn a_bad_event_in_a_batch_is_named_and_the_others_are_stored() {
    let mut bench = Bench::start();
    let watched = bench.furnish().await;
    let right = json!({ "model": "claude-haiku-4-5", "input_tokens": 47 });
    let path = "/api/v1/track/batch";
    let (mut stored, mut found) = (0, Vec::new());
    for field in event() {
        for (raw, outcome) in field.kind.probes() {
            let odd = with(&right, field.path, Some(&raw));
            let body = format!("{{\"events\":[{right},{odd},{right}]}}");
            let caller = Caller::Key(&watched.account.key);
            let prepared =
                bench
                    .stage
                    .connection
                    .prepare(Method::POST, path, caller, Some(body.into()));
            let answer = bench
                .stage
                .connection
                .send(prepared.unwrap())
                .await
                .unwrap();
            let taken = u64::from(outcome == Outcome::Taken);
            let rejected = answer.body["rejection_details"].as_array().map(Vec::len);
            let seen = (answer.status, answer.body["accepted"].as_u64(), rejected);
            let index = &answer.body["rejection_details"][0]["index"];
            let named = taken == 1 || *index == 1;
            if seen != (200, Some(2 + taken), Some(1 - taken as usize)) || !named {
                let raw: String = raw.chars().take(40).collect();
                found.push(format!(
                    "{}: {raw}: {} {}",
                    field.path, answer.status, answer.body
                ));
            }
            stored += 1;
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    println!("{stored} batches");
}
