//! Two orgs: whatever one of them asks about the other, it learns nothing. Every route of the
//! router is asked with the other's ids, keys and tokens, and the answer is a refusal, or the same
//! bytes as for an id that nobody has.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use hyper::Method;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, Protocol, SdkKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::routes::routes;
use support::{Environment, LAYOUTS, Stage};

const NOBODY: &str = "01a20a99-0000-7000-8000-00000000dead";

/// Everything of an org that somebody else might name.
struct Known {
    account: Account,
    workflow_name: String,
    policy: String,
    key_id: String,
    hold: String,
    /// Another session of the owner.
    session: String,
    /// The owner.
    member: String,
    invite: String,
    invited: String,
}

async fn furnish(stage: &mut Stage, name: &str) -> Known {
    let account = stage.account().await;
    let connection = &mut stage.connection;
    let operator = account.operator();
    let patch = json!({ "name": name, "external_id": format!("{name}-ext") });
    let workflow = account.path(&format!("/workflows/{}", account.workflow));
    connection
        .patch(&workflow, operator, &patch)
        .await
        .unwrap()
        .expect(&[200])
        .unwrap();
    let policy = json!({ "name": "p", "policy_type": "RateLimit", "config": { "max_calls_per_minute": 100_000 } });
    let policy = connection
        .post(&account.path("/policies"), operator, &policy)
        .await
        .unwrap();
    let policy = policy.expect(&[201]).unwrap().required("id").unwrap();
    let key = connection
        .post(
            &account.path("/api-keys"),
            operator,
            &json!({ "name": "k" }),
        )
        .await
        .unwrap();
    let key_id = key.expect(&[201]).unwrap().required("id").unwrap();
    let gate = json!({
        "operation_id": format!("{name}-op"), "model": "gpt-4o-mini", "max_output_tokens": 1000,
        "chain_id": format!("{name}-chain"),
    });
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let hold = connection
        .post("/api/v1/gate", caller, &gate)
        .await
        .unwrap();
    let hold = hold.required("reservation_id").unwrap();
    let mut elsewhere = account.clone();
    elsewhere.login(connection).await.unwrap();
    let session = connection
        .get("/api/v1/auth/session", elsewhere.operator())
        .await
        .unwrap();
    let member = session.body["user"]["id"].as_str().unwrap().to_owned();
    let session = session.required("session_id").unwrap();
    let invited = format!("{name}-invited@example.com");
    let invite = json!({ "email": invited, "role": "viewer" });
    let path = account.path("/invites");
    let invite = connection.post(&path, account.operator(), &invite).await;
    let invite = invite.unwrap().required("id").unwrap();
    // Its mail ends in the outbox behind the answer.
    let sent = async |connection: &mut Connection| {
        let listed = connection.get(&path, account.operator()).await.unwrap();
        listed.body["data"][0]["send_status"] == "sent"
    };
    while !sent(connection).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Known {
        account,
        workflow_name: name.to_owned(),
        policy,
        key_id,
        hold,
        session,
        member,
        invite,
        invited,
    }
}

/// An org as its owner sees it: its ledger, its holds with their times, all it has.
async fn ledger(stage: &mut Stage, known: &Known) -> Value {
    let mut whole = json!({});
    let sessions = stage
        .connection
        .get("/api/v1/auth/sessions", known.account.operator())
        .await
        .unwrap();
    whole["sessions"] = sessions.expect(&[200]).unwrap().body;
    for rest in [
        "",
        "/status",
        "/holds",
        "/workflows",
        "/policies",
        "/api-keys",
        "/members",
        "/invites",
    ] {
        let mut shown = stage.see(&known.account, rest).await;
        for volatile in ["as_of_lsn", "burn_cents_per_hour"] {
            shown.as_object_mut().unwrap().remove(volatile);
        }
        whole[rest] = shown;
    }
    whole
}

/// An answer without what differs between any two answers.
fn blurred(answer: &Answer, ids: &[&str]) -> String {
    let mut text = String::from_utf8_lossy(&answer.raw).into_owned();
    if let Some(id) = answer.body["request_id"].as_str() {
        text = text.replace(id, "REQUEST");
    }
    for id in ids {
        text = text.replace(id, "ID");
    }
    format!("{} {text}", answer.status)
}

/// Routes that take no id and no caller, or make a new account; and those about the caller alone,
/// which name nothing of anybody else. Whoever has an invitation's token was invited.
const OPEN: [&str; 29] = [
    "/api/v1/orgs",
    "/api/v1/invites/{token}",
    "/api/v1/invites/{token}/accept",
    "/api/v1/invites/{token}/decline",
    "/invite",
    "/api/v1/plans",
    // Who runs the gateway sees every org, and the first account does.
    "/api/v1/admin/orgs",
    "/api/v1/capabilities",
    "/api/v1/policies",
    "/api/v1/auth/register",
    "/api/v1/auth/login",
    "/api/v1/auth/logout",
    "/api/v1/auth/session",
    "/api/v1/auth/sessions",
    "/api/v1/auth/user",
    "/api/v1/auth/password",
    "/api/v1/auth/password/forgot",
    "/api/v1/auth/password/reset",
    "/api/v1/auth/email/send",
    "/api/v1/auth/email/verify",
    "/api/v1/auth/oauth/register",
    "/api/v1/auth/oauth/{provider}/start",
    "/api/v1/auth/oauth/{provider}/callback",
    "/reset-password",
    "/verify-email",
    "/health/ready",
    "/health/startup",
    "/floor",
    "/api/v1/budget/approximate",
];

fn body(path: &str, b: &Known) -> Value {
    match path {
        "/api/v1/cancel" => json!({ "execution_id": b.hold }),
        "/api/v1/heartbeat" => json!({ "chain_id": format!("{}-chain", b.workflow_name) }),
        "/api/v1/track" => {
            json!({ "reservation_id": b.hold, "workflow_id": b.account.workflow, "tokens": 0 })
        }
        "/api/v1/track/batch" => json!({ "events": [{
            "type": "span_end", "depth": 0, "execution_id": b.hold, "reservation_id": b.hold, "workflow_id": b.workflow_name,
        }] }),
        "/api/v1/gate" | "/api/v1/execute" | "/api/v1/check" => {
            json!({ "organization_id": b.account.org, "execution_id": b.hold, "operation_id": format!("{}-op", b.workflow_name) })
        }
        "/api/v1/auth/verify" | "/auth/verify" => json!({}),
        path if path.ends_with("/api-keys") => {
            json!({ "name": "x", "workflow_id": b.account.workflow })
        }
        path if path.ends_with("/policies") => json!({
            "name": "x", "policy_type": "ToolBlock", "scope": "Workflow", "scope_id": b.account.workflow,
            "config": { "tool_pattern": ["x"] },
        }),
        path if path.ends_with("/invites") => json!({ "email": "x@example.com", "role": "owner" }),
        path if path.contains("/members/") => json!({ "role": "viewer" }),
        path if path.ends_with("/release") => json!({ "reason": "taken over" }),
        path if path.ends_with("/pause")
            || path.ends_with("/resume")
            || path.ends_with("/kill")
            || path.ends_with("/rotate")
            || path.ends_with("/resend") =>
        {
            json!({})
        }
        _ => json!({ "name": "taken over" }),
    }
}

fn fill(path: &str, org: &str, b: &Known, nobody: bool) -> String {
    let id = if nobody {
        NOBODY
    } else if path.contains("/policies/") {
        &b.policy
    } else if path.contains("/api-keys/") {
        &b.key_id
    } else if path.contains("/holds/") {
        &b.hold
    } else if path.contains("/sessions/") {
        &b.session
    } else if path.contains("/members/") {
        &b.member
    } else if path.contains("/invites/") {
        &b.invite
    } else {
        &b.account.workflow
    };
    path.replace("{org}", org)
        .replace("{id}", id)
        .replace("{workflow}", if nobody { NOBODY } else { &b.workflow_name })
}

#[tokio::test]
async fn one_org_learns_and_changes_nothing_of_another() {
    for (name, layout) in LAYOUTS {
        let began = Instant::now();
        across_the_border(layout).await;
        println!("{name}: {:?}", began.elapsed());
    }
}

async fn across_the_border(layout: Environment) {
    let mut stage = Stage::start(layout);
    let a = furnish(&mut stage, "alpha").await;
    let b = furnish(&mut stage, "bravo").await;
    let before = ledger(&mut stage, &b).await;
    let mut tried = 0;
    for (method, path) in routes() {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        let callers = [
            ("a's session", Caller::Session(&a.account.session)),
            ("a's key", Caller::Signed(&a.account.key, Protocol::V4)),
        ];
        // The other's org by its own id; and the other's things under one's own org.
        let orgs = [b.account.org.as_str(), a.account.org.as_str()];
        for (who, caller) in callers {
            for org in orgs.iter().take(if path.contains("{org}") { 2 } else { 1 }) {
                if *org == a.account.org && !path.contains("{id}") {
                    continue; // One's own list, one's own settings.
                }
                let has_body = method == Method::POST || method == Method::PATCH;
                let payload = body(&path, &b);
                let payload = has_body.then_some(&payload);
                let asked = fill(&path, org, &b, false);
                let answer = stage
                    .connection
                    .request(method.clone(), &asked, caller, payload)
                    .await
                    .unwrap();
                tried += 1;
                let words = format!("{method} {asked} with {who}: {}", answer.in_short());
                let text = String::from_utf8_lossy(&answer.raw);
                let refused = [401, 403, 404].contains(&answer.status);
                let blocked = answer.status == 200 && answer.text("decision") == "block";
                if !refused && !blocked {
                    // Allowed only if nobody's id would have been answered alike.
                    let nobody = Known {
                        account: Account {
                            org: NOBODY.into(),
                            workflow: NOBODY.into(),
                            ..a.account.clone()
                        },
                        workflow_name: NOBODY.into(),
                        policy: NOBODY.into(),
                        key_id: NOBODY.into(),
                        hold: NOBODY.into(),
                        session: NOBODY.into(),
                        member: NOBODY.into(),
                        invite: NOBODY.into(),
                        invited: NOBODY.into(),
                    };
                    let payload = body(&path, &nobody);
                    let alike = stage
                        .connection
                        .request(
                            method.clone(),
                            &fill(&path, org, &b, true),
                            caller,
                            has_body.then_some(&payload),
                        )
                        .await
                        .unwrap();
                    let theirs = [
                        b.account.org.as_str(),
                        &b.account.workflow,
                        &b.workflow_name,
                        &b.hold,
                    ];
                    let (got, other) = (blurred(&answer, &theirs), blurred(&alike, &[NOBODY]));
                    assert_eq!(got, other, "{words} tells more than for an unknown id");
                }
                // What was asked may come back; nothing else of b may.
                let said = format!("{asked} {}", payload.cloned().unwrap_or_default());
                for secret in [
                    &b.policy,
                    &b.key_id,
                    &b.session,
                    &b.member,
                    &b.invite,
                    &b.invited,
                    &b.account.email,
                    &b.hold,
                    &b.account.workflow,
                    &b.workflow_name,
                    &b.account.org,
                ] {
                    let own_words = said.contains(secret.as_str());
                    assert!(
                        own_words || !text.contains(secret.as_str()),
                        "{words} shows {secret}: {text}"
                    );
                }
            }
        }
    }
    println!("{tried} requests across the border");
    assert!(tried > 60, "only {tried} requests were tried");
    assert_eq!(
        ledger(&mut stage, &b).await,
        before,
        "something of b's changed"
    );
    let caller = Caller::Signed(&b.account.key, Protocol::V4);
    let cancel = json!({ "execution_id": b.hold });
    let cancelled = stage
        .connection
        .post("/api/v1/cancel", caller, &cancel)
        .await
        .unwrap();
    assert_eq!(
        cancelled.body["already_canceled"], false,
        "b's hold was ended by a"
    );
}

#[tokio::test]
async fn a_filter_or_a_header_that_names_anothers_workflow_is_as_good_as_an_unknown_one() {
    let mut stage = Stage::start(LAYOUTS[5].1);
    let a = furnish(&mut stage, "alpha").await;
    let b = furnish(&mut stage, "bravo").await;
    let before = ledger(&mut stage, &b).await;
    let theirs = [b.account.workflow.as_str(), &b.workflow_name, "bravo-ext"];
    let listed = format!("/holds?workflow_id={}", b.account.workflow);
    assert_eq!(stage.see(&a.account, &listed).await["data"], json!([]));
    // A cursor is a place in one's own list, whoever's it is: what comes behind it is one's own.
    let listed = format!("/holds?cursor={}", b.hold);
    let listed = stage.see(&a.account, &listed).await.to_string();
    assert!(!listed.contains(&b.hold) && !listed.contains(&b.account.workflow));
    let connection = &mut stage.connection;
    let free = a.account.create_key(connection, None, None).await.unwrap();
    for (path, body) in [
        ("/api/v1/gate", json!({})),
        ("/api/v1/execute", json!({})),
        ("/api/v1/check", json!({})),
        ("/api/v1/heartbeat", json!({ "chain_id": "bravo-chain" })),
        (
            "/api/v1/track",
            json!({ "tokens": 0, "reservation_id": b.hold }),
        ),
    ] {
        for name in theirs {
            let mut answers = Vec::new();
            for name in [name, NOBODY] {
                let key = free.key.clone().for_workflow(name);
                let answer = stage
                    .connection
                    .post_signed(path, &key, &body)
                    .await
                    .unwrap();
                assert!(!answer.is_allow(), "{path} for {name}");
                answers.push(blurred(&answer, &[name, &b.workflow_name]));
            }
            assert_eq!(answers[0], answers[1], "{path} for {name}");
        }
    }
    assert_eq!(ledger(&mut stage, &b).await, before);
}

#[tokio::test]
async fn event_ids_and_operation_ids_of_two_orgs_do_not_meet() {
    let mut stage = Stage::start(&[]);
    let a = stage.account().await;
    let b = stage.account().await;
    let event = json!({ "events": [{ "event_id": "same", "type": "llm_call", "model": "gpt-4o-mini", "input_tokens": 1000 }] });
    let gate = json!({ "operation_id": "same", "model": "gpt-4o-mini", "max_output_tokens": 10 });
    let mut holds = BTreeSet::new();
    for account in [&a, &b] {
        let caller = Caller::Signed(&account.key, Protocol::V4);
        let tracked = stage
            .connection
            .post("/api/v1/track/batch", caller, &event)
            .await
            .unwrap();
        assert_eq!(
            (
                tracked.body["duplicates"].as_i64(),
                tracked.body["cost_nanos"].as_i64()
            ),
            (Some(0), Some(150_000))
        );
        let gate = stage
            .connection
            .post("/api/v1/gate", caller, &gate)
            .await
            .unwrap();
        holds.insert(gate.required("reservation_id").unwrap());
    }
    assert_eq!(holds.len(), 2);
}

#[tokio::test]
async fn every_kind_of_bad_credential_is_told_apart() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let gate = json!({});
    let mut ask = async |caller: Caller<'_>| {
        let answer = stage
            .connection
            .post("/api/v1/gate", caller, &gate)
            .await
            .unwrap();
        (answer.status, answer.error_code().to_owned())
    };
    let unknown = SdkKey::new("nr_live_unknown".to_owned(), "s");
    let wrong = SdkKey::new(account.key.api_key().to_owned(), "wrong");
    assert_eq!(
        ask(Caller::Anonymous).await,
        (401, "API_KEY_MISSING".into())
    );
    assert_eq!(
        ask(Caller::Session(&account.session)).await,
        (401, "API_KEY_MISSING".into())
    );
    assert_eq!(
        ask(Caller::Key(&account.key)).await,
        (401, "HMAC_REQUIRED".into())
    );
    assert_eq!(
        ask(Caller::Signed(&unknown, Protocol::Absent)).await,
        (401, "API_KEY_INVALID".into())
    );
    assert_eq!(
        ask(Caller::Signed(&wrong, Protocol::V4)).await,
        (401, "HMAC_MISMATCH".into())
    );
    // A 401 would let these clients go on: they are told with a block.
    for old in [Protocol::Absent, Protocol::V3] {
        assert_eq!(
            ask(Caller::Signed(&wrong, old)).await,
            (200, "HMAC_MISMATCH".into())
        );
    }
}
