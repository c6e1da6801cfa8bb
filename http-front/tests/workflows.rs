//! Workflows as a resource: lists in pages, by state and by search, what a state allows, and who
//! changed it and why.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::Answer;
use serde_json::{Value, json};
use support::{LAYOUTS, Stage};

async fn make(stage: &mut Stage, account: &Account, body: Value) -> String {
    let made = stage.post(account, "/workflows", body).await;
    made.expect(&[201]).unwrap().required("id").unwrap()
}

async fn order(stage: &mut Stage, account: &Account, id: &str, what: &str, body: Value) -> Answer {
    stage
        .post(account, &format!("/workflows/{id}/{what}"), body)
        .await
}

/// The names on every page of a list, and how many pages there were.
async fn names(stage: &mut Stage, account: &Account, query: &str) -> (Vec<String>, usize) {
    let (mut names, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let listed = stage
            .see(account, &format!("/workflows?{query}{cursor}"))
            .await;
        pages += 1;
        let rows = listed["data"].as_array().unwrap().iter();
        names.extend(rows.map(|row| row["name"].as_str().unwrap().to_owned()));
        match listed["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (names, pages),
        }
    }
}

#[tokio::test]
async fn a_list_comes_in_pages_by_state_and_by_search_whole_and_in_order() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let first = account.workflow.clone();
        stage
            .patch(
                &account,
                &format!("/workflows/{first}"),
                json!({ "name": "w00" }),
            )
            .await;
        let mut ids = vec![first];
        for n in 1..13 {
            let body = json!({ "name": format!("w{n:02}"), "external_id": format!("Ext-{n}") });
            ids.push(make(&mut stage, &account, body).await);
        }
        let all: Vec<_> = (0..13).map(|n| format!("w{n:02}")).collect();
        for (limit, most) in [(5, 3), (13, 1), (200, 1)] {
            let (found, pages) = names(&mut stage, &account, &format!("limit={limit}")).await;
            assert_eq!(found, all);
            assert_eq!(pages, most, "limit {limit}");
        }
        for (id, what) in [(&ids[3], "pause"), (&ids[7], "pause"), (&ids[8], "kill")] {
            order(&mut stage, &account, id, what, json!({}))
                .await
                .expect(&[200])
                .unwrap();
        }
        for (query, must) in [
            ("state=Paused", vec!["w03", "w07"]),
            ("state=Paused&limit=1", vec!["w03", "w07"]),
            ("state=Killed", vec!["w08"]),
            ("state=Tripped", vec![]),
            ("search=W1", vec!["w10", "w11", "w12"]),
            ("search=ext-12", vec!["w12"]),
            ("search=w0&state=Killed", vec!["w08"]),
            ("search=nothing", vec![]),
        ] {
            let (found, _) = names(&mut stage, &account, query).await;
            assert_eq!(found, must, "{query}");
        }
        let (found, _) = names(&mut stage, &account, &format!("search={}", ids[5])).await;
        assert_eq!(found, ["w05"]);
        for query in [
            "state=paused",
            "state=",
            "limit=0",
            "limit=201",
            "cursor=none",
            "name=w01",
        ] {
            let path = account.path(&format!("/workflows?{query}"));
            let refused = stage
                .connection
                .get(&path, account.operator())
                .await
                .unwrap();
            assert_eq!(refused.status, 400, "{query}: {}", refused.body);
        }
    }
}

#[tokio::test]
async fn a_killed_workflow_stays_killed_and_every_other_order_is_taken_once() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let id = make(&mut stage, &account, json!({ "name": "w" })).await;
    let mut version = 0;
    for (what, state, grows) in [
        ("resume", "Normal", 0),
        ("pause", "Paused", 1),
        ("pause", "Paused", 0),
        ("resume", "Normal", 1),
        ("pause", "Paused", 1),
        ("kill", "Killed", 1),
        ("kill", "Killed", 0),
    ] {
        version += grows;
        let now = order(&mut stage, &account, &id, what, json!({})).await;
        let now = now.expect(&[200]).unwrap().body;
        assert_eq!(
            (&now["state"], &now["version"]),
            (&json!(state), &json!(version)),
            "{what}"
        );
    }
    for what in ["pause", "resume"] {
        let refused = order(
            &mut stage,
            &account,
            &id,
            what,
            json!({ "reason": "again" }),
        )
        .await;
        assert_eq!(
            (refused.status, refused.error_code()),
            (422, "UNPROCESSABLE"),
            "{what}"
        );
        assert!(
            refused.text("message").contains("killed"),
            "{}",
            refused.body
        );
    }
    // Its settings may be looked at and changed all the same.
    let renamed = stage
        .patch(
            &account,
            &format!("/workflows/{id}"),
            json!({ "name": "late" }),
        )
        .await;
    assert_eq!(
        (&renamed.body["name"], &renamed.body["version"]),
        (&json!("late"), &json!(version))
    );
}

#[tokio::test]
async fn who_changed_a_state_when_and_why_is_shown_and_survives() {
    let mut stage = Stage::start(&[("NULLRUN_SNAPSHOT_BYTES", "4096")]);
    let account = stage.account().await;
    let me = stage
        .connection
        .get("/api/v1/auth/session", account.operator())
        .await
        .unwrap();
    let me = me.body["user"]["id"].as_str().unwrap().to_owned();
    let one = format!("/workflows/{}", account.workflow);
    let new = stage.see(&account, &one).await;
    for field in ["state_since", "state_changed_by", "reason"] {
        assert_eq!(new[field], Value::Null, "{field}");
    }
    // As long as a reason may be, and not longer.
    let long = "x".repeat(500);
    let paused = order(
        &mut stage,
        &account,
        &account.workflow,
        "pause",
        json!({ "reason": long }),
    )
    .await;
    let paused = paused.expect(&[200]).unwrap().body;
    assert_eq!(paused["reason"], json!(long));
    assert_eq!(
        paused["state_changed_by"],
        json!({ "type": "user", "id": me })
    );
    assert!(paused["state_since"].is_string());
    for reason in ["x".repeat(501), "a\u{7}b".to_owned()] {
        let refused = order(
            &mut stage,
            &account,
            &account.workflow,
            "kill",
            json!({ "reason": reason }),
        )
        .await;
        assert_eq!(
            (refused.status, &refused.body["details"]["field"]),
            (400, &json!("reason"))
        );
    }
    assert_eq!(
        stage.see(&account, &one).await,
        paused,
        "nothing has changed"
    );

    // A detector: the gateway itself, and the rule in its words.
    order(&mut stage, &account, &account.workflow, "resume", json!({})).await;
    stage
        .patch(&account, &one, json!({ "loop_threshold": 2 }))
        .await;
    let gate = json!({ "tool": "mail" });
    assert!(stage.gate(&account.key, &gate).await.is_allow());
    let refused = stage.gate(&account.key, &gate).await;
    assert_eq!(refused.error_code(), "LOOP_DETECTED");
    let tripped = stage.see(&account, &one).await;
    assert_eq!(tripped["state"], "Tripped");
    assert_eq!(
        tripped["state_changed_by"],
        json!({ "type": "system", "id": null })
    );
    assert!(
        tripped["reason"].as_str().unwrap().contains("mail"),
        "{tripped}"
    );
    let killed = order(
        &mut stage,
        &account,
        &account.workflow,
        "kill",
        json!({ "reason": "enough" }),
    )
    .await;
    let killed = killed.expect(&[200]).unwrap().body;
    assert_eq!(
        (&killed["reason"], &killed["state_changed_by"]["id"]),
        (&json!("enough"), &json!(me))
    );
    stage.gateway = stage.gateway.restart().unwrap();
    stage.connection = stage.connect();
    assert_eq!(stage.see(&account, &one).await, killed);
}
