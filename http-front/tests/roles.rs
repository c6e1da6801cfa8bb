//! Who may do what: every route × who asks × their own or another organization, against the real
//! gateway, as `roles/matrix.txt` says by hand. A route without a row there fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

#[path = "roles/cast.rs"]
mod cast;
#[path = "roles/matrix.rs"]
mod matrix;
mod support;

use cast::Cast;
use hyper::Method;
use matrix::{CALLERS, Row, Whose, matrix};
use nullrun_loadtest::client::{Answer, Caller};
use std::collections::{BTreeMap, BTreeSet};
use support::routes::{holes, routes};

/// The routes of the router's source, and those of the description it serves, with their paths as
/// written there.
async fn known(cast: &mut Cast) -> BTreeMap<(Method, String), String> {
    let in_source = routes().into_iter();
    let mut known: BTreeMap<_, _> = in_source
        .map(|(method, path)| ((method, path.clone()), path))
        .collect();
    let connection = &mut cast.stage.connection;
    let described = connection.get("/api/v1/openapi.json", Caller::Anonymous);
    let described = described.await.unwrap().expect(&[200]).unwrap().body;
    for (path, operations) in described["paths"].as_object().unwrap() {
        for word in operations.as_object().unwrap().keys() {
            let method = word.to_uppercase();
            known.insert((method.parse().unwrap(), holes(path)), path.clone());
        }
    }
    known
}

#[tokio::test]
async fn the_matrix_has_a_row_for_every_route_and_no_route_has_two() {
    let mut cast = Cast::start().await;
    let mut rows = BTreeSet::new();
    for row in matrix() {
        let path = row.path.split('?').next().unwrap();
        let route = (row.method.clone(), holes(path));
        assert!(
            rows.insert(route),
            "{} {} has two rows",
            row.method,
            row.path
        );
    }
    let known = known(&mut cast).await;
    let missing = known.iter().filter(|(route, _)| !rows.contains(*route));
    let missing: Vec<_> = missing
        .map(|((method, _), path)| Row::suggest(method, path))
        .collect();
    assert!(
        missing.is_empty(),
        "these routes have no row in http-front/tests/roles/matrix.txt. Add one for each, in its \
         section, and put in it what should happen (its head explains the columns); with a body in a \
         line below, if it takes one. As a start:\n\n{}\n",
        missing.join("\n")
    );
}

/// What came of a request, as the matrix writes it.
fn outcome(answer: &Answer) -> String {
    if answer.status == 200 && answer.text("decision") == "block" {
        return "block".to_owned();
    }
    answer.status.to_string()
}

#[tokio::test]
async fn every_cell_of_the_matrix_is_what_the_gateway_does() {
    let mut cast = Cast::start().await;
    let (mut cells, mut wrong) = (0, Vec::new());
    for row in matrix() {
        for (whose, expected) in &row.expected {
            let mut seen = Vec::new();
            let mut why = Vec::new();
            for (caller, expected) in CALLERS.into_iter().zip(expected) {
                let answer = cast.ask(&row, caller, *whose).await;
                let came = outcome(&answer);
                if came != *expected {
                    why.push(format!(
                        "    {caller:?} got {came}, not {expected}: {}",
                        answer.body
                    ));
                }
                seen.push(came);
                cells += 1;
            }
            if !why.is_empty() {
                let on = match whose {
                    Whose::Own => "their own",
                    Whose::Other => "another organization's",
                };
                wrong.push(format!(
                    "{} {} on {on}: {}\n{}",
                    row.method,
                    row.path,
                    seen.join(" "),
                    why.join("\n")
                ));
            }
        }
    }
    println!("{cells} cells");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cells > 700, "only {cells} cells");
}
