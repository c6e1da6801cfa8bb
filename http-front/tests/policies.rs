//! Policies as a resource: switched, enabled from templates, in the shadow, shown in effect, tried on
//! described calls, and refused by name.

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
use support::{LAYOUTS, Stage};

async fn make(stage: &mut Stage, account: &Account, body: Value) -> Value {
    let made = stage.post(account, "/policies", body).await;
    made.expect(&[201]).unwrap().body
}

fn rule(kind: &str, config: Value) -> Value {
    json!({ "name": kind, "policy_type": kind, "config": config })
}

fn with(mut body: Value, more: Value) -> Value {
    let fields = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

async fn delete(stage: &mut Stage, account: &Account, rest: &str) -> u16 {
    let path = account.path(rest);
    let connection = &mut stage.connection;
    let gone = connection.delete(&path, account.operator()).await;
    gone.unwrap().status
}

async fn bare_post(stage: &mut Stage, account: &Account, rest: &str) -> Answer {
    let path = account.path(rest);
    let caller = account.operator();
    let connection = &mut stage.connection;
    let prepared = connection.prepare(hyper::Method::POST, &path, caller, None);
    connection.send(prepared.unwrap()).await.unwrap()
}

async fn evaluate(stage: &mut Stage, account: &Account, body: Value) -> Value {
    let answer = stage.post(account, "/policies/evaluate", body).await;
    answer.expect(&[200]).unwrap().body
}

#[tokio::test]
async fn a_policy_is_switched_on_and_off_and_its_version_grows_only_with_a_change() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let body = rule("ToolBlock", json!({ "tool_pattern": ["bash"] }));
    let made = make(&mut stage, &account, body).await;
    let one = format!("/policies/{}", made["id"].as_str().unwrap());
    let toggle = format!("{one}/toggle");
    let seen = |shown: &Value| (shown["is_active"].clone(), shown["version"].clone());
    assert_eq!(seen(&made), (json!(true), json!(1)));
    for (asked, is_active, version) in [(true, true, 1), (false, false, 2), (false, false, 2)] {
        let body = json!({ "is_active": asked });
        let shown = stage.post(&account, &toggle, body).await.body;
        assert_eq!(seen(&shown), (json!(is_active), json!(version)));
    }
    let gate = json!({ "tool": "bash" });
    assert!(stage.gate(&account.key, &gate).await.is_allow());
    let flipped = bare_post(&mut stage, &account, &toggle).await;
    assert_eq!(seen(&flipped.body), (json!(true), json!(3)));
    let refused = stage.gate(&account.key, &gate).await;
    assert_eq!(refused.error_code(), "TOOL_BLOCKED");
    // What changes nothing leaves the version too.
    let patch = json!({ "name": "ToolBlock", "config": { "tools": ["bash"] }, "mode": "enforce" });
    let same = stage.patch(&account, &one, patch).await.body;
    assert_eq!(same["version"], 3);
    stage.gateway = stage.gateway.restart().unwrap();
    stage.connection = stage.connect();
    assert_eq!(stage.see(&account, &one).await, flipped.body);
}

#[tokio::test]
async fn a_template_becomes_one_policy_however_often_it_is_enabled_and_goes_when_disabled() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let offered = stage.see(&account, "/policies/templates").await["data"].clone();
    let offered = offered.as_array().unwrap();
    assert!(offered.len() >= 6, "{offered:?}");
    for template in offered {
        let id = template["id"].as_str().unwrap();
        assert_eq!(
            (&template["enabled"], &template["policy_id"]),
            (&json!(false), &Value::Null)
        );
        let enable = format!("/policies/templates/{id}/enable");
        let needs = template["needs_workflow"] == true;
        let body = if needs {
            let refused = bare_post(&mut stage, &account, &enable).await;
            assert_eq!(
                (refused.status, &refused.body["details"]["field"]),
                (400, &json!("workflow_id"))
            );
            json!({ "workflow_id": account.workflow })
        } else {
            json!({ "mode": "shadow" })
        };
        let first = stage.post(&account, &enable, body.clone()).await;
        assert_eq!(first.status, 201, "{}", first.body);
        let row = &first.body;
        assert_eq!(
            (&row["template_id"], &row["config"]),
            (&template["id"], &template["config"])
        );
        let mode = if needs { "enforce" } else { "shadow" };
        assert_eq!(
            (&row["mode"], &row["policy_type"]),
            (&json!(mode), &template["policy_type"])
        );
        for again in [body, json!({})] {
            let again = stage.post(&account, &enable, again).await;
            assert_eq!((again.status, &again.body), (200, row), "the same row");
        }
        let other = if needs { "shadow" } else { "enforce" };
        let other = stage
            .post(&account, &enable, json!({ "mode": other }))
            .await;
        assert_eq!(
            (other.status, other.error_code()),
            (409, "TEMPLATE_ALREADY_ENABLED")
        );
        let listed = stage.see(&account, "/policies/templates").await;
        let enabled = listed["data"].as_array().unwrap();
        let enabled = enabled
            .iter()
            .find(|one| one["id"] == template["id"])
            .unwrap();
        assert_eq!(
            (&enabled["enabled"], &enabled["policy_id"]),
            (&json!(true), &row["id"])
        );
    }
    let policies = stage.see(&account, "/policies").await;
    assert_eq!(policies["data"].as_array().unwrap().len(), offered.len());
    for template in offered {
        let one = format!("/policies/templates/{}", template["id"].as_str().unwrap());
        for _ in 0..2 {
            assert_eq!(delete(&mut stage, &account, &one).await, 204);
        }
    }
    assert_eq!(stage.see(&account, "/policies").await["data"], json!([]));
    let unknown = stage
        .post(&account, "/policies/templates/none/enable", json!({}))
        .await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        delete(&mut stage, &account, "/policies/templates/none").await,
        404
    );
}

#[tokio::test]
async fn what_a_policy_in_the_shadow_would_have_done_is_in_the_answer_and_in_the_metrics() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let shadow = json!({ "mode": "shadow" });
        let tool = rule("ToolBlock", json!({ "tool_pattern": ["mail.*"] }));
        let tool = make(&mut stage, &account, with(tool, shadow.clone())).await;
        let rate = rule("RateLimit", json!({ "max_calls_per_minute": 2 }));
        make(&mut stage, &account, with(rate, shadow.clone())).await;
        let flag = with(
            rule("BudgetLimit", json!({ "budget_cents": 0 })),
            json!({ "action": "flag" }),
        );
        make(&mut stage, &account, flag).await;
        let mut noted = Vec::new();
        for tools in [["bash"], ["mail.send"], ["bash"]] {
            let answer = stage.gate(&account.key, &json!({ "tools": tools })).await;
            assert!(answer.is_allow(), "{}", answer.body);
            let notes = answer.body["policy_notes"].as_array().unwrap().clone();
            let notes = notes.iter().map(|note| {
                let mode = note["mode"].as_str().unwrap().to_owned();
                (
                    note["question"].as_str().unwrap().to_owned(),
                    mode,
                    note["would_block"] == true,
                )
            });
            noted.push(notes.collect::<Vec<_>>());
        }
        let of =
            |question: &str, mode: &str, blocks| (question.to_owned(), mode.to_owned(), blocks);
        let (flagged, within) = (of("budget", "enforce", false), of("rate", "shadow", false));
        assert_eq!(noted[0], [within.clone(), flagged.clone()]);
        assert_eq!(
            noted[1],
            [of("tool", "shadow", true), within, flagged.clone()]
        );
        assert_eq!(noted[2], [of("rate", "shadow", true), flagged]);
        let page = stage
            .connection
            .get("/metrics", Caller::Anonymous)
            .await
            .unwrap();
        let page = String::from_utf8(page.raw.to_vec()).unwrap();
        for (question, said, n) in [
            ("tool", "would_block", 1),
            ("tool", "would_allow", 0),
            ("rate", "would_block", 1),
            ("rate", "would_allow", 2),
            ("budget", "flagged", 3),
        ] {
            let line = format!(
                "nullrun_policy_notes_total{{question=\"{question}\",said=\"{said}\"}} {n}"
            );
            assert!(
                page.lines().any(|one| one == line),
                "{line} is not in\n{page}"
            );
        }
        // In force it blocks, and is no note any more.
        let one = format!("/policies/{}", tool["id"].as_str().unwrap());
        let now = stage
            .patch(&account, &one, json!({ "mode": "enforce" }))
            .await;
        assert_eq!(
            (&now.body["mode"], &now.body["version"]),
            (&json!("enforce"), &json!(2))
        );
        let refused = stage
            .gate(&account.key, &json!({ "tools": ["mail.send"] }))
            .await;
        assert_eq!(refused.error_code(), "TOOL_BLOCKED");
        assert_eq!(refused.body["policy_id"], tool["id"]);
        let verified = stage.see(&account, "/ledger/verify").await;
        assert_eq!(verified["verified"], true, "{verified}");
    }
}

#[tokio::test]
async fn what_holds_for_a_workflow_and_key_is_shown_in_order_with_who_wins_and_the_figures() {
    let mut stage = Stage::start(LAYOUTS[5].1);
    let account = stage.account().await;
    stage
        .patch(&account, "", json!({ "budget_cents": 900 }))
        .await;
    let workflow = format!("/workflows/{}", account.workflow);
    let settings = json!({ "budget_cents": 70, "max_per_call_cents": 9, "loop_threshold": 5 });
    stage.patch(&account, &workflow, settings).await;
    let key = json!({ "name": "k", "workflow_id": account.workflow, "budget_cents": 50, "max_calls_per_minute": 8 });
    let key = stage.post(&account, "/api-keys", key).await.body;
    let key = key["id"].as_str().unwrap();
    let rate = |calls: u32, more| {
        with(
            rule("RateLimit", json!({ "max_calls_per_minute": calls })),
            more,
        )
    };
    let narrow = rate(
        1,
        json!({ "priority": 1, "match": { "models": ["gpt-*"] } }),
    );
    let narrow = make(&mut stage, &account, narrow).await;
    let wins = make(&mut stage, &account, rate(60, json!({ "priority": 2 }))).await;
    let behind = make(&mut stage, &account, rate(30, json!({ "priority": 3 }))).await;
    let shadow = rate(
        5,
        json!({ "mode": "shadow", "workflow_id": account.workflow }),
    );
    let shadow = make(&mut stage, &account, shadow).await;
    let off = rate(2, json!({ "is_active": false }));
    make(&mut stage, &account, off).await;
    let elsewhere = stage
        .post(&account, "/workflows", json!({ "name": "w" }))
        .await
        .body;
    let elsewhere = elsewhere["id"].as_str().unwrap();
    make(
        &mut stage,
        &account,
        rate(3, json!({ "workflow_id": elsewhere })),
    )
    .await;

    let query = format!(
        "/policies/effective?workflow_id={}&api_key_id={key}",
        account.workflow
    );
    let shown = stage.see(&account, &query).await;
    let questions = shown["questions"].as_array().unwrap();
    let names: Vec<_> = questions
        .iter()
        .map(|q| q["question"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["tool", "loop", "rate", "budget"]);
    let rates = questions[2]["policies"].as_array().unwrap().iter();
    let rates: Vec<_> = rates
        .map(|row| {
            (
                row["policy"]["id"].clone(),
                row["standing"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let must = |policy: &Value, standing: &str| (policy["id"].clone(), standing.to_owned());
    assert_eq!(
        rates,
        [
            must(&narrow, "when_met"),
            must(&wins, "wins"),
            must(&behind, "behind"),
            must(&shadow, "shadow")
        ]
    );
    let limits = &shown["limits"];
    let of = |rows: &Value, field: &str| {
        let rows = rows.as_array().unwrap().iter();
        let rows = rows.map(|row| {
            (
                row["scope"].as_str().unwrap().to_owned(),
                row[field].as_i64().unwrap(),
            )
        });
        rows.collect::<Vec<_>>()
    };
    let scoped = |rows: &[(&str, i64)]| {
        let rows = rows.iter().map(|(scope, n)| ((*scope).to_owned(), *n));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(
        of(&limits["rates"], "max_calls_per_minute"),
        scoped(&[("Org", 60), ("ApiKey", 8)])
    );
    assert_eq!(
        of(&limits["loops"], "loop_threshold"),
        scoped(&[("Workflow", 5)])
    );
    let budgets = scoped(&[("Org", 900), ("Workflow", 70), ("ApiKey", 50)]);
    assert_eq!(of(&limits["budgets"], "budget_cents"), budgets);
    assert_eq!(limits["max_per_call_cents"], 9);

    // What is held shows in it, and with most restrictive the lowest wins.
    assert!(stage.gate(&account.key, &json!({})).await.is_allow());
    stage
        .patch(&account, "", json!({ "composition": "most_restrictive" }))
        .await;
    let shown = stage.see(&account, &query).await;
    assert_eq!(shown["composition"], "most_restrictive");
    let lowest = &shown["limits"]["rates"][0];
    assert_eq!(
        (&lowest["max_calls_per_minute"], &lowest["policy"]["id"]),
        (&json!(30), &behind["id"])
    );
    assert_eq!(lowest["used"], 1);
    assert_eq!(
        of(&shown["limits"]["budgets"], "held_cents")[..2],
        scoped(&[("Org", 1), ("Workflow", 1)])
    );

    // A key may look, and is told what it cannot mean.
    let caller = Caller::Signed(&account.key, Protocol::V4);
    let path = account.path(&format!(
        "/policies/effective?workflow_id={}",
        account.workflow
    ));
    let seen = stage.connection.get(&path, caller).await.unwrap();
    assert_eq!((seen.status, &seen.body["api_key_id"]), (200, &Value::Null));
    for (query, status) in [
        (String::new(), 400),
        (format!("?api_key_id={key}&workflow_id={elsewhere}"), 400),
        ("?workflow_id=none".to_owned(), 404),
        (format!("?workflow={elsewhere}"), 400),
    ] {
        let path = account.path(&format!("/policies/effective{query}"));
        let answer = stage
            .connection
            .get(&path, account.operator())
            .await
            .unwrap();
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
    }
    let stranger = stage.account().await;
    let path = stranger.path(&format!("/policies/effective?workflow_id={elsewhere}"));
    let theirs = stage
        .connection
        .get(&path, stranger.operator())
        .await
        .unwrap();
    assert_eq!(theirs.status, 404);
}

#[tokio::test]
async fn a_call_that_is_tried_ends_as_the_gate_would_end_it_and_leaves_no_trace() {
    for (name, layout) in LAYOUTS {
        println!("{name}");
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let rate = make(
            &mut stage,
            &account,
            rule("RateLimit", json!({ "max_calls_per_minute": 1 })),
        )
        .await;
        let call = json!({ "workflow_id": account.workflow, "tools": ["bash"], "model": "gpt-4o-mini", "max_output_tokens": 1000 });
        let lsn =
            async |stage: &mut Stage| stage.see(&account, "/status").await["as_of_lsn"].clone();
        let before = lsn(&mut stage).await;
        for _ in 0..3 {
            let tried = evaluate(&mut stage, &account, call.clone()).await;
            assert_eq!(tried["decision"], "allow", "{tried}");
        }
        assert_eq!(lsn(&mut stage).await, before, "nothing was written");
        let real = json!({ "tools": ["bash"], "model": "gpt-4o-mini", "max_output_tokens": 1000 });
        assert!(stage.gate(&account.key, &real).await.is_allow());
        let tried = evaluate(&mut stage, &account, call.clone()).await;
        let refused = stage.gate(&account.key, &real).await;
        assert_eq!(tried["error_code"], refused.body["error_code"]);
        assert_eq!(
            tried["explanation"].as_str().unwrap()[..40],
            refused.text("explanation")[..40]
        );
        assert_eq!(
            (&tried["policy"]["id"], &tried["decision"]),
            (&rate["id"], &json!("block"))
        );
        assert_eq!(tried["questions"].as_array().unwrap().len(), 3);

        // A draft instead of the policies there are.
        let policies = json!([
            rule("RateLimit", json!({ "max_calls_per_minute": 5 })),
            with(
                rule("ToolBlock", json!({ "tool_pattern": ["bash"] })),
                json!({ "mode": "shadow" })
            ),
            rule("BudgetLimit", json!({ "budget_cents": 20 })),
        ]);
        let figures = |more: Value| with(with(call.clone(), json!({ "policies": policies })), more);
        let tried = evaluate(&mut stage, &account, figures(json!({ "calls_before": 4 }))).await;
        assert_eq!(tried["decision"], "allow");
        let note = &tried["policy_notes"][0];
        assert_eq!(
            (&note["policy"]["draft"], &note["would_block"]),
            (&json!(1), &json!(true))
        );
        let tried = evaluate(&mut stage, &account, figures(json!({ "calls_before": 5 }))).await;
        assert_eq!(tried["error_code"], "RATE_LIMIT_EXCEEDED");
        assert_eq!(tried["policy"]["draft"], 0);
        let dear = json!({ "projected_cost_cents": 21 });
        let tried = evaluate(&mut stage, &account, figures(dear)).await;
        assert_eq!(tried["error_code"], "BUDGET_ORG_CEILING_BLOCKED");
        assert_eq!(
            (
                &tried["budget"]["budget_cents"],
                &tried["projected_cost_cents"]
            ),
            (&json!(20), &json!(21))
        );

        // As the gate would: a workflow that is stopped runs nothing, whatever policies say.
        let pause = format!("/workflows/{}/pause", account.workflow);
        stage.post(&account, &pause, json!({})).await;
        let tried = evaluate(&mut stage, &account, figures(json!({}))).await;
        assert_eq!(
            (&tried["error_code"], &tried["questions"]),
            (&json!("WORKFLOW_PAUSED"), &json!([]))
        );
    }
}

#[tokio::test]
async fn a_patch_changes_what_it_says_and_nothing_else() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let cap = with(
        rule("BudgetLimit", json!({ "budget_cents": 500 })),
        json!({ "match": { "models": ["gpt-*"], "min_cost_cents": 2 } }),
    );
    let cap = make(&mut stage, &account, cap).await;
    let one = format!("/policies/{}", cap["id"].as_str().unwrap());
    for patch in [
        json!({ "config": { "budget_period": "day" } }),
        json!({ "config": { "enforcement_mode": "Soft", "max_overdraft_cents": 7 } }),
        json!({ "match": { "tools": ["mail"] } }),
        json!({ "config": { "budget_cents": 900 }, "match": { "min_cost_cents": null } }),
    ] {
        let caller = account.operator();
        let path = account.path(&one);
        let answer = stage.connection.patch(&path, caller, &patch).await;
        answer.unwrap().expect(&[200]).unwrap();
    }
    let now = stage.see(&account, &one).await;
    assert_eq!(
        now["config"],
        json!({ "budget_cents": 900, "budget_period": "day", "enforcement_mode": "Soft",
                "max_overdraft_cents": 7, "max_overdraft_percent": null })
    );
    assert_eq!(
        now["match"],
        json!({ "tools": ["mail"], "models": ["gpt-*"], "min_cost_cents": null })
    );
    let none = stage.patch(&account, &one, json!({ "match": null })).await;
    assert_eq!(
        none.body["match"],
        json!({ "tools": [], "models": [], "min_cost_cents": null })
    );
    assert_eq!(none.body["config"], now["config"]);

    // The patterns of a ToolBlock are one list, wherever they are said; what is shown may be sent back.
    let tools = with(
        rule("ToolBlock", json!({ "tool_pattern": ["a"] })),
        json!({ "match": { "tools": ["b"] } }),
    );
    let tools = make(&mut stage, &account, tools).await;
    assert_eq!(tools["config"]["tool_pattern"], json!(["a", "b"]));
    let one = format!("/policies/{}", tools["id"].as_str().unwrap());
    for (patch, patterns) in [
        (json!({ "match": { "tools": ["c"] } }), json!(["c"])),
        (json!({ "match": { "models": ["gpt-*"] } }), json!(["c"])),
        (json!({ "config": { "tools": ["d"] } }), json!(["d"])),
        (
            json!({ "config": { "tools": ["e"] }, "match": { "tools": [], "models": [] } }),
            json!(["e"]),
        ),
    ] {
        let now = stage.patch(&account, &one, patch).await.body;
        assert_eq!(now["config"]["tool_pattern"], patterns);
    }
}

#[tokio::test]
async fn of_many_who_patch_different_parts_at_once_every_one_is_heard() {
    let mut stage = Stage::start(LAYOUTS[5].1);
    let account = stage.account().await;
    let cap = make(
        &mut stage,
        &account,
        rule("BudgetLimit", json!({ "budget_cents": 1 })),
    )
    .await;
    let one = format!("/policies/{}", cap["id"].as_str().unwrap());
    let workflow = format!("/workflows/{}", account.workflow);
    let soft = json!({ "enforcement_mode": "Soft", "loop_threshold": 5 });
    stage.patch(&account, &workflow, soft).await;
    for round in 2..12_u32 {
        let patches = [
            (&one, json!({ "config": { "budget_cents": round } })),
            (
                &one,
                json!({ "config": { "budget_period": if round % 2 == 0 { "day" } else { "week" } } }),
            ),
            (
                &one,
                json!({ "match": { "models": [format!("m{round}")] } }),
            ),
            (&one, json!({ "match": { "min_cost_cents": round } })),
            (&workflow, json!({ "max_overdraft_cents": round })),
            (&workflow, json!({ "max_overdraft_percent": round })),
            (&workflow, json!({ "loop_threshold": round })),
            (&workflow, json!({ "loop_window_secs": round })),
        ];
        let asked = patches.map(|(path, patch)| {
            let (mut connection, account) = (stage.connect(), account.clone());
            let path = account.path(path);
            tokio::spawn(async move {
                let caller = account.operator();
                let answer = connection.patch(&path, caller, &patch).await;
                answer.unwrap().expect(&[200]).unwrap();
            })
        });
        for one in asked {
            one.await.unwrap();
        }
        let now = stage.see(&account, &one).await;
        let (config, matching) = (&now["config"], &now["match"]);
        let period = if round % 2 == 0 { "day" } else { "week" };
        assert_eq!(
            (&config["budget_cents"], &config["budget_period"]),
            (&json!(round), &json!(period))
        );
        assert_eq!(
            (&matching["models"][0], &matching["min_cost_cents"]),
            (&json!(format!("m{round}")), &json!(round))
        );
        let now = stage.see(&account, &workflow).await;
        for field in [
            "max_overdraft_cents",
            "max_overdraft_percent",
            "loop_threshold",
            "loop_window_secs",
        ] {
            assert_eq!(now[field], round, "{field}");
        }
    }
}

#[tokio::test]
async fn a_tried_call_is_shown_with_what_it_was_held_against_and_what_a_draft_would_change() {
    let mut stage = Stage::start(LAYOUTS[5].1);
    let account = stage.account().await;
    stage
        .patch(&account, "", json!({ "budget_cents": 900 }))
        .await;
    let workflow = format!("/workflows/{}", account.workflow);
    let own = json!({ "loop_threshold": 5, "max_per_call_cents": 50 });
    stage.patch(&account, &workflow, own).await;
    let narrow = with(
        rule("RateLimit", json!({ "max_calls_per_minute": 3 })),
        json!({ "match": { "models": ["gpt-*"] } }),
    );
    let narrow = make(&mut stage, &account, narrow).await;
    let call =
        json!({ "workflow_id": account.workflow, "tools": ["bash"], "model": "gpt-4o-mini" });
    let tried = evaluate(
        &mut stage,
        &account,
        with(call.clone(), json!({ "calls_before": 2 })),
    )
    .await;
    let limits = &tried["limits"];
    let rate = &limits["rates"][0];
    assert_eq!(
        (&rate["policy"]["id"], &rate["used"]),
        (&narrow["id"], &json!(2))
    );
    assert_eq!(limits["loops"][0]["loop_threshold"], 5);
    assert_eq!(limits["budgets"][0]["budget_cents"], 900);
    assert_eq!(limits["max_per_call_cents"], 50);
    assert_eq!(tried["impact"], Value::Null);

    let block = rule("ToolBlock", json!({ "tool_pattern": ["bash"] }));
    for (policies, calls, change, now) in [
        (json!([block]), 0, "blocks", "allow"),
        (json!([block]), 3, "other_reason", "block"),
        (json!([]), 3, "allows", "block"),
        (json!([]), 0, "none", "allow"),
    ] {
        let more = json!({ "policies": policies, "calls_before": calls });
        let tried = evaluate(&mut stage, &account, with(call.clone(), more)).await;
        let impact = &tried["impact"];
        assert_eq!(
            (&impact["change"], &impact["decision"]),
            (&json!(change), &json!(now)),
            "{tried}"
        );
        let by = if now == "block" {
            &narrow["id"]
        } else {
            &Value::Null
        };
        assert_eq!(&impact["policy"]["id"], by);
    }
}

#[tokio::test]
async fn a_draft_that_is_wrong_is_refused_with_its_place() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let right = rule("RateLimit", json!({ "max_calls_per_minute": 5 }));
    for (wrong, code, field) in [
        (
            rule("ToolBlock", json!({ "tool_pattern": "bash" })),
            "BARE_STRING_PATTERN",
            "config.tool_pattern",
        ),
        (
            rule("RateLimit", json!({ "max_calls_per_minute": 1_000_001 })),
            "VALIDATION_ERROR",
            "config.max_calls_per_minute",
        ),
    ] {
        let body = json!({ "workflow_id": account.workflow, "policies": [right, wrong] });
        let refused = stage.post(&account, "/policies/evaluate", body).await;
        assert_eq!((refused.status, refused.error_code()), (400, code));
        assert_eq!(
            refused.body["details"]["field"],
            format!("policies[1].{field}")
        );
        assert!(
            refused.text("message").starts_with("policies[1]: "),
            "{}",
            refused.body
        );
    }
    let stranger = stage.account().await;
    let body = json!({ "workflow_id": account.workflow, "policies": [] });
    let refused = stage.post(&stranger, "/policies/evaluate", body).await;
    assert_eq!(refused.status, 404);
    let body = json!({ "workflow_id": stranger.workflow, "policies": [with(right, json!({ "workflow_id": account.workflow }))] });
    let refused = stage.post(&stranger, "/policies/evaluate", body).await;
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn what_is_wrong_with_a_policy_is_said_by_name() {
    let mut stage = Stage::start(&[]);
    let account = stage.account().await;
    let long = "x".repeat(4097);
    let tools = |value: Value| rule("ToolBlock", json!({ "tool_pattern": value }));
    let rate = |value: Value| rule("RateLimit", json!({ "max_calls_per_minute": value }));
    let named = |name: &str| with(rate(json!(5)), json!({ "name": name }));
    let made = make(&mut stage, &account, named(&"x".repeat(80))).await;
    make(&mut stage, &account, rate(json!(1_000_000))).await;
    make(
        &mut stage,
        &account,
        with(rate(json!(5)), json!({ "priority": -7 })),
    )
    .await;
    for (body, code, field) in [
        (
            tools(json!("bash")),
            "BARE_STRING_PATTERN",
            "config.tool_pattern",
        ),
        (
            tools(json!([])),
            "INVALID_PATTERN_LIST",
            "config.tool_pattern",
        ),
        (tools(json!([""])), "INVALID_GLOB", "config.tool_pattern"),
        (
            tools(json!(["a\u{7}b"])),
            "INVALID_GLOB",
            "config.tool_pattern",
        ),
        (tools(json!([7])), "INVALID_GLOB", "config.tool_pattern"),
        (
            tools(json!([long])),
            "PATTERN_TOO_LONG",
            "config.tool_pattern",
        ),
        (
            rule("ToolBlock", json!({})),
            "VALIDATION_ERROR",
            "config.tool_pattern",
        ),
        (
            rule("ToolBlock", json!({ "tool_patterns": ["x"] })),
            "UNKNOWN_CONFIG_KEY",
            "config.tool_patterns",
        ),
        (
            rule("RateLimit", json!({ "tool_pattern": ["x"] })),
            "UNKNOWN_CONFIG_KEY",
            "config.tool_pattern",
        ),
        (
            rate(json!(0)),
            "VALIDATION_ERROR",
            "config.max_calls_per_minute",
        ),
        (
            rate(json!(1_000_001)),
            "VALIDATION_ERROR",
            "config.max_calls_per_minute",
        ),
        (
            rate(json!("5")),
            "INVALID_FIELD",
            "config.max_calls_per_minute",
        ),
        (
            with(rate(json!(5)), json!({ "match": { "tools": "x" } })),
            "BARE_STRING_PATTERN",
            "match.tools",
        ),
        (
            with(rate(json!(5)), json!({ "match": { "models": [long] } })),
            "PATTERN_TOO_LONG",
            "match.models",
        ),
        (
            with(rate(json!(5)), json!({ "match": { "tool": ["x"] } })),
            "INVALID_FIELD",
            "match.tool",
        ),
        (
            with(rate(json!(5)), json!({ "priority": 2_147_483_648_u32 })),
            "INVALID_FIELD",
            "priority",
        ),
        (
            with(rate(json!(5)), json!({ "mode": "loud" })),
            "INVALID_FIELD",
            "mode",
        ),
        (
            with(
                rate(json!(5)),
                json!({ "workflow_id": account.workflow, "api_key_id": account.workflow }),
            ),
            "INVALID_FIELD",
            "scope_id",
        ),
        (
            with(
                rate(json!(5)),
                json!({ "scope": "Org", "workflow_id": account.workflow }),
            ),
            "INVALID_FIELD",
            "scope_id",
        ),
        (named(""), "VALIDATION_ERROR", "name"),
        (named(&"x".repeat(81)), "VALIDATION_ERROR", "name"),
        (
            json!({ "policy_type": "RateLimit", "name": "p", "config": {}, "tool_patterns": [] }),
            "INVALID_FIELD",
            "",
        ),
    ] {
        let shown: String = body.to_string().chars().take(200).collect();
        let refused = stage.post(&account, "/policies", body).await;
        assert_eq!(
            (refused.status, refused.error_code()),
            (400, code),
            "{shown}: {}",
            refused.body
        );
        let about = refused.body["details"]["field"]
            .as_str()
            .unwrap_or_default();
        assert!(about.starts_with(field), "{shown}: {}", refused.body);
    }
    let one = account.path(&format!("/policies/{}", made["id"].as_str().unwrap()));
    let patch = json!({ "policy_type": "BudgetLimit" });
    let refused = stage
        .connection
        .patch(&one, account.operator(), &patch)
        .await
        .unwrap();
    assert_eq!(
        (refused.status, refused.error_code()),
        (400, "POLICY_TYPE_IMMUTABLE")
    );
}
