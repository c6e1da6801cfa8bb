//! Plans over HTTP: what there is, who gets which, and that each limit is reached exactly one beyond
//! the last, however many ask at once, in every layout.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Protocol};
use serde_json::{Value, json};
use std::process::Command;
use support::{Environment, GATEWAY, LAYOUTS, Stage, with_each};
use tempfile::NamedTempFile;

/// Small enough to be filled.
const PLANS: &str = r#"
default = "small"
[[plan]]
name = "small"
title = "Small"
limits = { workflows = 3, api_keys = 3, policies = 2, seats = 2, executions_per_month = 20 }
features = { custom_policies = false, approvals = false }
[[plan]]
name = "big"
title = "Big"
"#;

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// A gateway with these plans, in a layout.
async fn start(plans: &NamedTempFile, layout: Environment) -> (Stage, Account) {
    let mut environment = layout.to_vec();
    environment.push(("NULLRUN_PLANS_FILE", plans.path().to_str().unwrap()));
    let mut stage = Stage::start(&environment);
    let account = stage.account().await;
    (stage, account)
}

fn missing(answer: &Answer, feature: &str) {
    assert_eq!(
        (answer.status, answer.error_code()),
        (403, "PLAN_FEATURE_MISSING"),
        "{}",
        answer.in_short()
    );
    let details = &answer.body["details"];
    assert_eq!(details["feature"], feature);
    assert_eq!(details["plans"], json!(["Big"]));
    let message = answer.text("message");
    assert!(message.contains("Big"), "{message}");
}

fn reached(answer: &Answer, slug: &str, resource: &str, limit: u64) {
    assert_eq!(
        (answer.status, answer.text("error")),
        (429, slug),
        "{}",
        answer.in_short()
    );
    let details = &answer.body["details"];
    let said = (&details["resource"], &details["current"], &details["limit"]);
    assert_eq!(said, (&json!(resource), &json!(limit), &json!(limit)));
}

async fn change_plan(stage: &mut Stage, who: &Account, org: &str, plan: &str) -> Answer {
    let path = format!("/api/v1/admin/orgs/{org}");
    let body = json!({ "plan": plan });
    let connection = &mut stage.connection;
    let answer = connection.patch(&path, who.operator(), &body).await;
    answer.unwrap()
}

#[test]
fn a_file_of_plans_that_is_wrong_stops_the_start_with_file_field_and_remedy() {
    let data = tempfile::tempdir().unwrap();
    let wrong =
        file("default = \"a\"\n[[plan]]\nname = \"a\"\ntitle = \"A\"\nlimits = { seats = -1 }");
    let path = wrong.path().to_str().unwrap();
    let right = file(PLANS);
    for (name, value, words) in [
        (
            "NULLRUN_PLANS_FILE",
            path,
            vec![path, "plan[0].limits.seats", "line 5"],
        ),
        (
            "NULLRUN_PLANS_FILE",
            "/no/such.toml",
            vec!["/no/such.toml", "leave the variable out"],
        ),
        ("NULLRUN_DEFAULT_PLAN", "huge", vec!["huge", "small, big"]),
    ] {
        let mut command = Command::new(GATEWAY);
        command
            .env("NULLRUN_PLANS_FILE", right.path())
            .env("NULLRUN_DATA_DIR", data.path())
            .env(name, value);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[tokio::test]
async fn plans_are_shown_to_everybody_and_given_by_who_runs_the_gateway() {
    let plans = file(PLANS);
    let (mut stage, admin) = start(&plans, &[]).await;
    let other = stage.account().await;
    let connection = &mut stage.connection;
    let all = connection.get("/api/v1/plans", Caller::Anonymous).await;
    let all = all.unwrap().expect(&[200]).unwrap().body;
    let rows = all["data"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["small", "big"]);
    assert_eq!(rows[0]["is_default"], true);
    assert_eq!(rows[0]["limits"]["workflows"], 3);
    assert_eq!(rows[0]["features"]["custom_policies"], false);
    assert_eq!(rows[1]["limits"]["workflows"], Value::Null);

    for (who, plan, status) in [
        (&other, "big", 403),
        (&admin, "huge", 400),
        (&admin, "big", 200),
    ] {
        let answer = change_plan(&mut stage, who, &other.org, plan).await;
        assert_eq!(answer.status, status, "{}", answer.in_short());
    }
    let unknown = change_plan(&mut stage, &admin, &other.workflow, "big").await;
    assert_eq!(unknown.status, 404);
    let connection = &mut stage.connection;
    let listed = connection
        .get("/api/v1/admin/orgs?plan=big", admin.operator())
        .await;
    let listed = listed.unwrap().expect(&[200]).unwrap().body;
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{listed}");
    assert_eq!(rows[0]["id"], json!(other.org));
    let body = json!({ "api_key": other.key.api_key() });
    let verified = connection
        .post("/api/v1/auth/verify", Caller::Anonymous, &body)
        .await;
    let verified = verified.unwrap().expect(&[200]).unwrap().body;
    assert_eq!(verified["plan"], "big");
    assert_eq!(verified["limits"]["workflows"], -1);
    assert_eq!(verified["features"]["custom_policies"], true);
    // It is still so after a restart.
    stage.gateway = stage.gateway.restart().unwrap();
    stage.connection = stage.connect();
    let status = stage.see(&other, "/status").await;
    assert_eq!(status["plan"], "big");
}

/// Asks for the same from many connections at once; returns the answers.
async fn at_once(stage: &Stage, account: &Account, path: &str, bodies: Vec<Value>) -> Vec<Answer> {
    let asked = bodies.into_iter().map(|body| {
        let (mut connection, account) = (stage.connect(), account.clone());
        let path = account.path(path);
        tokio::spawn(async move {
            let operator = account.operator();
            connection.post(&path, operator, &body).await.unwrap()
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn a_limit_is_reached_one_beyond_the_last_and_of_many_at_once_as_many_win_as_fit() {
    let plans = file(PLANS);
    let (mut stage, account) = start(&plans, LAYOUTS[5].1).await;
    let policy = |n: usize| {
        json!({ "name": format!("p{n}"), "policy_type": "RateLimit",
                "config": { "max_calls_per_minute": 1000 } })
    };
    let named = |n: usize| json!({ "name": format!("n{n}") });
    type Body<'a> = &'a dyn Fn(usize) -> Value;
    let invited = |n: usize| json!({ "email": format!("p{n}@example.com"), "role": "viewer" });
    let cases: [(&str, &str, &str, u64, usize, Body<'_>); 4] = [
        // The owner has the first of two.
        ("/invites", "seats_limit_reached", "seats", 2, 1, &invited),
        (
            "/workflows",
            "workflow_limit_reached",
            "workflows",
            3,
            2,
            &named,
        ),
        (
            "/api-keys",
            "api_key_limit_reached",
            "api_keys",
            3,
            2,
            &named,
        ),
        (
            "/policies",
            "policy_limit_reached",
            "policies",
            2,
            2,
            &policy,
        ),
    ];
    for (path, slug, resource, limit, room, body) in cases {
        let bodies = (0..8).map(body).collect();
        let answers = at_once(&stage, &account, path, bodies).await;
        let (made, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status == 201);
        assert_eq!(made.len(), room, "{path}");
        for answer in &refused {
            reached(answer, slug, resource, limit);
        }
        let quota = stage.see(&account, "/quota").await;
        let cap = &quota["caps"][resource];
        assert_eq!(
            cap,
            &json!({ "used": limit, "limit": limit, "percent": 100 })
        );
    }
    // An invitation that is taken back gives its seat back.
    let open = stage.see(&account, "/invites").await;
    let open = open["data"][0]["id"].as_str().unwrap().to_owned();
    let path = account.path(&format!("/invites/{open}"));
    let gone = stage.connection.delete(&path, account.operator()).await;
    assert_eq!(gone.unwrap().status, 204);
    let again = stage.post(&account, "/invites", invited(9)).await;
    assert_eq!(again.status, 201, "{}", again.in_short());
    // A key that is revoked makes room; another plan makes all there is.
    let keys = stage.see(&account, "/api-keys").await;
    let last = keys["data"][2]["id"].as_str().unwrap().to_owned();
    let path = account.path(&format!("/api-keys/{last}"));
    let gone = stage.connection.delete(&path, account.operator()).await;
    assert_eq!(gone.unwrap().status, 204);
    let again = stage
        .post(&account, "/api-keys", json!({ "name": "again" }))
        .await;
    assert_eq!(again.status, 201);
    change_plan(&mut stage, &account, &account.org, "big")
        .await
        .expect(&[200])
        .unwrap();
    for path in ["/workflows", "/api-keys"] {
        let made = stage.post(&account, path, json!({ "name": "more" })).await;
        assert_eq!(made.status, 201, "{}", made.in_short());
    }
    let made = stage.post(&account, "/invites", invited(10)).await;
    assert_eq!(made.status, 201, "{}", made.in_short());
}

#[tokio::test]
async fn a_rule_the_plan_does_not_have_cannot_be_put_in_force_by_another_way() {
    let plans = file(PLANS);
    let (mut stage, account) = start(&plans, &[]).await;
    let to = async |stage: &mut Stage, plan| {
        let moved = change_plan(stage, &account, &account.org, plan).await;
        moved.expect(&[200]).unwrap();
    };
    to(&mut stage, "big").await;
    let shadow = json!({ "name": "b", "policy_type": "ToolBlock", "mode": "shadow",
                         "config": { "tool_pattern": ["mail*"] } });
    let made = stage.post(&account, "/policies", shadow).await;
    let made: String = made.expect(&[201]).unwrap().required("id").unwrap();
    to(&mut stage, "small").await;
    let one = format!("/policies/{made}");
    let toggle = format!("{one}/toggle");
    let path = account.path(&one);
    let enforce = json!({ "mode": "enforce" });
    let caller = account.operator();
    let patched = stage.connection.patch(&path, caller, &enforce).await;
    missing(&patched.unwrap(), "custom_policies");
    let template = "/policies/templates/block-payments/enable";
    missing(
        &stage.post(&account, template, json!({})).await,
        "custom_policies",
    );
    // It may be switched off, and then not on again.
    let off = stage
        .post(&account, &toggle, json!({ "is_active": false }))
        .await;
    assert_eq!(off.status, 200, "{}", off.in_short());
    let on = stage
        .post(&account, &toggle, json!({ "is_active": true }))
        .await;
    missing(&on, "custom_policies");
    // One that is wrong is told so first.
    let wrong = json!({ "name": "b", "policy_type": "ToolBlock", "config": {} });
    let wrong = stage.post(&account, "/policies", wrong).await;
    assert_eq!(
        (wrong.status, &wrong.body["details"]["field"]),
        (400, &json!("config.tool_pattern"))
    );
}

#[tokio::test]
async fn what_the_plan_does_not_have_is_refused_with_the_plans_that_have_it() {
    let plans = file(PLANS);
    let (mut stage, account) = start(&plans, &[]).await;
    let block = json!({ "name": "b", "policy_type": "ToolBlock",
                        "config": { "tool_pattern": ["mail*"] } });
    missing(
        &stage.post(&account, "/policies", block.clone()).await,
        "custom_policies",
    );
    let approved = json!({ "name": "w", "human_approvals_enabled": true });
    missing(
        &stage.post(&account, "/workflows", approved.clone()).await,
        "approvals",
    );
    let made = stage
        .post(&account, "/workflows", json!({ "name": "w" }))
        .await;
    assert_eq!(
        made.expect(&[201]).unwrap().body["human_approvals_enabled"],
        false
    );
    change_plan(&mut stage, &account, &account.org, "big")
        .await
        .expect(&[200])
        .unwrap();
    for (path, body) in [("/policies", block), ("/workflows", approved)] {
        let made = stage.post(&account, path, body).await;
        assert_eq!(made.status, 201, "{}", made.in_short());
    }
}

/// Calls of several workflows at once: exactly as many are allowed as the plan has executions.
async fn executions(layout: Environment) {
    const MOST: usize = 20;
    let plans = file(PLANS);
    let (mut stage, account) = start(&plans, layout).await;
    let free = stage
        .post(&account, "/api-keys", json!({ "name": "free" }))
        .await;
    let free = free.expect(&[201]).unwrap().body;
    let mut workflows = vec![account.workflow.clone()];
    for name in ["b", "c"] {
        let made = stage
            .post(&account, "/workflows", json!({ "name": name }))
            .await;
        workflows.push(made.expect(&[201]).unwrap().required("id").unwrap());
    }
    let text = |field: &str| free[field].as_str().unwrap().to_owned();
    let key = nullrun_loadtest::client::SdkKey::new(text("key"), &text("secret_key"));
    let asked: Vec<_> = (0..12)
        .map(|n| {
            let mut connection = stage.connect();
            let key = key.clone().for_workflow(workflows[n % 3].clone());
            tokio::spawn(async move {
                let mut allowed = 0;
                for call in 0..5 {
                    // A gate and its execute are one execution. Records keep 128 bytes of an id.
                    let id = format!("{}-{n}-{call}", "x".repeat(140));
                    let body = json!({ "operation_id": id });
                    // The same bytes may not be signed for two routes.
                    let tool = json!({ "operation_id": id, "tool": "search" });
                    let caller = Caller::Signed(&key, Protocol::V4);
                    let gate = connection
                        .post("/api/v1/gate", caller, &body)
                        .await
                        .unwrap();
                    let execute = connection
                        .post("/api/v1/execute", caller, &tool)
                        .await
                        .unwrap();
                    for answer in [&gate, &execute] {
                        assert_eq!(answer.status, 200, "{}", answer.in_short());
                        if !answer.is_allow() {
                            assert_eq!(answer.error_code(), "EXECUTION_LIMIT_EXCEEDED");
                            let details = &answer.body["details"];
                            assert_eq!(details["resource"], "executions");
                            assert_eq!(details["limit"], MOST);
                        }
                    }
                    assert!(
                        !execute.is_allow() || gate.is_allow(),
                        "{}",
                        gate.in_short()
                    );
                    allowed += usize::from(gate.is_allow());
                    assert_eq!(gate.is_allow(), execute.is_allow());
                }
                allowed
            })
        })
        .collect();
    let mut allowed = 0;
    for one in asked {
        allowed += one.await.unwrap();
    }
    assert_eq!(allowed, MOST);
    for _ in 0..2 {
        let refused = stage.gate(&account.key, &json!({})).await;
        assert_eq!(refused.error_code(), "EXECUTION_LIMIT_EXCEEDED");
        let quota = stage.see(&account, "/quota").await;
        let used = json!({ "used": MOST, "limit": MOST, "percent": 100 });
        assert_eq!(quota["caps"]["executions"], used);
        assert_eq!(quota["at_risk"], true);
        assert_eq!(quota["projected_hit_in_days"], 0);
        let rows = quota["keys"]["data"].as_array().unwrap().clone();
        let counted: Vec<_> = rows.iter().map(|row| row["executions"].clone()).collect();
        assert_eq!(counted, [json!(0), json!(MOST)]);
        // It is counted in the log: a kill forgets nothing of it.
        stage.gateway.kill_9().unwrap();
        stage.gateway = stage.gateway.restart().unwrap();
        stage.connection = stage.connect();
    }
    let (post, caller) = (
        hyper::Method::POST,
        Caller::Signed(&account.key, Protocol::V4),
    );
    let strict = stage
        .connection
        .prepare(post, "/api/v1/gate", caller, Some("{}".into()));
    let strict = strict
        .unwrap()
        .with_header("X-NullRun-Strict-Status", "true");
    let strict = stage.connection.send(strict.unwrap()).await.unwrap();
    assert_eq!(strict.status, 429, "{}", strict.in_short());
}

#[test]
fn the_executions_of_a_plan_are_allowed_to_the_last_and_not_one_more() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    with_each(&LAYOUTS, |layout| runtime.block_on(executions(layout)));
}
