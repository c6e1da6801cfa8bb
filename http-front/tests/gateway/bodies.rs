//! Errors have one shape; what cannot be read is refused, and what is only odd is not.

use super::support::Stage;
use hyper::Method;
use nullrun_loadtest::client::Caller;
use serde_json::json;

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
            let answer = stage.ask(&account, "/api/v1/track", body).await;
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
        let answer = stage.ask(&account, "/api/v1/gate", body.clone()).await;
        assert!(answer.is_allow(), "{field}: {}", answer.body);
        let again = stage.ask(&account, "/api/v1/gate", body).await;
        let same = again.body["reservation_id"] == answer.body["reservation_id"];
        assert_eq!(same, field == "operation_id", "{field}");
    }
}
