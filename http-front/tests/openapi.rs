//! The description of the API: it has every route, names everything it takes and gives, and is the one
//! in the repository. `NULLRUN_WRITE_FIXTURES=1` writes that one anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::client::{Caller, Protocol};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use support::Stage;
use support::routes::routes;

const METHODS: [&str; 5] = ["get", "post", "patch", "put", "delete"];

async fn description(stage: &mut Stage) -> Value {
    let connection = &mut stage.connection;
    let answer = connection
        .get("/api/v1/openapi.json", Caller::Anonymous)
        .await;
    answer.unwrap().expect(&[200]).unwrap().body
}

/// Every operation: method, path, and what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        METHODS
            .iter()
            .filter_map(|method| Some((*method, path.as_str(), item.get(*method)?)))
    });
    operations.collect()
}

#[tokio::test]
async fn the_description_is_the_one_in_the_repository() {
    let mut stage = Stage::start(&[]);
    let served = description(&mut stage).await;
    let served = format!("{}\n", serde_json::to_string_pretty(&served).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("NULLRUN_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &served).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let differs = kept.lines().zip(served.lines()).position(|(a, b)| a != b);
    assert!(
        kept == served,
        "http-front/openapi.json differs from line {:?} on; write it anew with NULLRUN_WRITE_FIXTURES=1 \
         if the change is meant",
        differs.map(|line| line + 1)
    );
}

#[tokio::test]
async fn every_route_is_in_the_description() {
    let mut stage = Stage::start(&[]);
    let document = description(&mut stage).await;
    let described: BTreeSet<(Method, String)> = operations(&document)
        .into_iter()
        .map(|(method, path, _)| {
            let method = method.to_uppercase().parse().unwrap();
            (method, support::routes::holes(path))
        })
        .collect();
    let missing: Vec<_> = routes()
        .into_iter()
        .filter(|(_, path)| path != "/floor")
        .filter(|route| !described.contains(route))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // And those that the source's reader leaves out.
    for path in [
        "/health",
        "/healthz",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/api/v1/health",
        "/metrics",
        "/api/v1/openapi.json",
        "/api/v1/docs",
    ] {
        assert!(
            described.contains(&(Method::GET, path.to_owned())),
            "{path}"
        );
    }
}

/// Is there an example in it, its own or of one of its fields?
fn shows(document: &Value, schema: &Value, depth: u32) -> bool {
    if let Some(name) = schema["$ref"].as_str().filter(|_| depth < 6) {
        let name = name.rsplit('/').next().unwrap();
        return shows(
            document,
            &document["components"]["schemas"][name],
            depth + 1,
        );
    }
    let lists = ["allOf", "oneOf", "anyOf"].map(|list| schema[list].as_array());
    let fields = schema["properties"].as_object();
    let parts = lists.into_iter().flatten().flatten();
    let parts = parts.chain(fields.into_iter().flatten().map(|(_, field)| field));
    let mut parts = parts.chain(schema.get("items"));
    schema.get("example").is_some() || parts.any(|part| shows(document, part, depth))
}

#[tokio::test]
async fn every_body_has_an_example() {
    let mut stage = Stage::start(&[]);
    let document = description(&mut stage).await;
    let mut bare = Vec::new();
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap().iter();
        let bodies = responses.map(|(status, response)| (status.as_str(), response));
        for (what, body) in bodies.chain([("the request", &operation["requestBody"])]) {
            let content = &body["content"]["application/json"];
            // The files of a page are no answers of the API.
            let file = path == "/api/v1/docs/{file}";
            let given = file || content.get("example").is_some();
            if content.is_object() && !given && !shows(&document, &content["schema"], 0) {
                bare.push(format!("{method} {path}: {what}"));
            }
        }
    }
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}

/// Does a schema say what there is? References are followed; what is nested is looked at too.
fn is_told(document: &Value, schema: &Value, depth: u32) -> Result<(), String> {
    if depth > 12 {
        return Ok(());
    }
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let found = &document["components"]["schemas"][name];
        return is_told(document, found, depth + 1).map_err(|why| format!("{name}: {why}"));
    }
    for list in ["allOf", "oneOf", "anyOf"] {
        for part in schema[list].as_array().into_iter().flatten() {
            is_told(document, part, depth + 1)?;
        }
        if schema[list].is_array() {
            return Ok(());
        }
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        return is_told(document, items, depth + 1);
    }
    let kind = &schema["type"];
    let object = *kind == "object"
        || kind
            .as_array()
            .is_some_and(|of| of.contains(&json!("object")));
    if kind.is_null() {
        return Err(format!("it says nothing: {schema}"));
    }
    if !object {
        return Ok(());
    }
    let values = &schema["additionalProperties"];
    if values.is_object() {
        return is_told(document, values, depth + 1);
    }
    match schema["properties"].as_object() {
        Some(properties) => properties.iter().try_for_each(|(name, property)| {
            is_told(document, property, depth + 1).map_err(|why| format!("{name}: {why}"))
        }),
        None if *values == json!(false) => Ok(()),
        None => Err(format!("any object is: {schema}")),
    }
}

#[tokio::test]
async fn every_operation_names_what_it_gives_and_nothing_is_left_open() {
    let mut stage = Stage::start(&[]);
    let document = description(&mut stage).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let operations = operations(&document);
    let ids: BTreeSet<_> = operations
        .iter()
        .map(|(.., of)| of["operationId"].to_string())
        .collect();
    assert_eq!(ids.len(), operations.len(), "an operation id stands twice");
    let mut wrong = Vec::new();
    for (method, path, operation) in operations {
        let mut say = |why: String| wrong.push(format!("{method} {path}: {why}"));
        if operation["security"].is_null() {
            say("who may call it?".to_owned());
        }
        if operation["summary"].is_null() && operation["description"].is_null() {
            say("what does it do?".to_owned());
        }
        let responses = operation["responses"].as_object().unwrap();
        if responses.contains_key("default") {
            say("it has a default response".to_owned());
        }
        let good: Vec<_> = responses
            .iter()
            .filter(|(code, _)| code.starts_with(['2', '3']))
            .collect();
        if good.is_empty() {
            say("what does a success look like?".to_owned());
        }
        for (code, response) in good {
            let contents = response["content"].as_object().into_iter().flatten();
            for (_, content) in contents {
                if let Err(why) = is_told(&document, &content["schema"], 0) {
                    say(format!("{code}: {why}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_page_for_people_needs_nothing_from_elsewhere() {
    let mut stage = Stage::start(&[]);
    let connection = &mut stage.connection;
    let mut get = async |path: &str| {
        let prepared = connection.prepare(Method::GET, path, Caller::Anonymous, None);
        let (status, headers, body) = connection.exchange(prepared.unwrap()).await.unwrap();
        (status, headers, String::from_utf8_lossy(&body).into_owned())
    };
    let (status, headers, page) = get("/api/v1/docs").await;
    assert_eq!(status, 200);
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let policy = headers["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    for quote in ["src=\"http", "href=\"http", "src=\"//", "href=\"//"] {
        assert!(!page.contains(quote), "{page}");
    }
    let mut files = 0;
    for part in page.split("\"./").skip(1) {
        let file = part.split('"').next().unwrap();
        let (status, _, text) = get(&format!("/api/v1/docs/{file}")).await;
        assert_eq!(status, 200, "{file}");
        assert!(!text.is_empty(), "{file}");
        files += 1;
    }
    assert!(files >= 3, "{page}");
    let (_, _, script) = get("/api/v1/docs/swagger-initializer.js").await;
    assert!(script.contains("/api/v1/openapi.json"), "{script}");
    let (status, ..) = get("/api/v1/docs/no-such-file").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn an_answer_has_the_ids_of_its_request_and_of_its_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut stage = Stage::start(&[("NULLRUN_LOG", "nullrun=debug")]);
    let account = stage.account().await;
    let mut ask = async |path: &str, parent: &str| {
        let connection = &mut stage.connection;
        let caller = match path {
            "/api/v1/gate" => Caller::Signed(&account.key, Protocol::V3),
            _ => Caller::Anonymous,
        };
        let method = if path == "/api/v1/gate" {
            Method::POST
        } else {
            Method::GET
        };
        let body = (method == Method::POST).then(|| "{\"organization_id\":\"x\"}".into());
        let prepared = connection.prepare(method, path, caller, body).unwrap();
        let prepared = prepared.with_header("traceparent", parent).unwrap();
        let prepared = prepared.with_header("X-Request-Id", "mine-1").unwrap();
        let (_, headers, body) = connection.exchange(prepared).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(headers["x-request-id"], "mine-1", "{path}");
        let trace = headers
            .get("x-trace-id")
            .map(|id| id.to_str().unwrap().to_owned());
        (trace, body)
    };
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let (trace, error) = ask("/no/such/route", &parent).await;
    assert_eq!(trace.as_deref(), Some(TRACE));
    assert_eq!(
        (&error["request_id"], &error["trace_id"]),
        (&json!("mine-1"), &json!(TRACE))
    );
    let (trace, block) = ask("/api/v1/gate", &parent).await;
    assert_eq!(trace.as_deref(), Some(TRACE));
    assert_eq!(
        (&block["decision"], &block["request_id"]),
        (&json!("block"), &json!("mine-1"))
    );
    let (trace, _) = ask("/health", &parent).await;
    assert_eq!(trace.as_deref(), Some(TRACE));
    for bad in ["", "nonsense", "00-0-0-0", &format!("{parent}-more")] {
        let (trace, error) = ask("/no/such/route", bad).await;
        assert_eq!((trace, &error["trace_id"]), (None, &Value::Null), "{bad}");
    }
    let log = stage.gateway.says("mine-1").unwrap();
    let line = log
        .lines()
        .find(|line| line.contains("mine-1") && line.contains(TRACE));
    assert!(line.is_some(), "{log}");
}
