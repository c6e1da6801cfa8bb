//! Open holds as an operator sees them: listed in pages, freed with a reason, and booked all the same
//! when their call reports later.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what is wrong by failing"
)]

mod support;

use nullrun_loadtest::client::{Caller, Protocol};
use persist::Lsn;
use persist::inspect;
use persist::record::ChargeFlags;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use support::{LAYOUTS, Stage};

/// Five cents of output.
const FIVE_CENTS: u64 = 10_000;
const CENT: i64 = 10_000_000;

fn gate() -> Value {
    json!({ "model": "claude-haiku-4-5", "max_output_tokens": FIVE_CENTS })
}

#[tokio::test]
async fn holds_are_listed_oldest_first_in_pages_whatever_shard_they_are_in() {
    for (name, layout) in LAYOUTS {
        let mut stage = Stage::start(layout);
        let account = stage.account().await;
        let connection = &mut stage.connection;
        let key = account
            .create_key(connection, None, None)
            .await
            .unwrap()
            .key;
        let mut workflows = Vec::new();
        for n in 0..5 {
            let name = format!("w{n}");
            let made = account.create_workflow(connection, &name, None);
            workflows.push(made.await.unwrap());
        }
        let mut minted = Vec::new();
        for n in 0..25 {
            let key = key.clone().for_workflow(&workflows[n % 5]);
            let answer = stage.gate(&key, &gate()).await;
            minted.push(answer.required("reservation_id").unwrap());
        }
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = stage
                .see(&account, &format!("/holds?limit=4{cursor}"))
                .await;
            let data = page["data"].as_array().unwrap();
            assert!((1..=4).contains(&data.len()), "{name}");
            seen.extend(data.clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let ids: Vec<_> = seen
            .iter()
            .map(|hold| hold["id"].as_str().unwrap())
            .collect();
        assert!(ids.is_sorted(), "{name}: {ids:?}");
        let (ids, all): (BTreeSet<_>, BTreeSet<_>) = (
            ids.into_iter().collect(),
            minted.iter().map(String::as_str).collect(),
        );
        assert_eq!((ids.len(), &ids), (25, &all), "{name}");
        assert!(
            seen.iter().all(|hold| hold["held_nanos"] == 5 * CENT),
            "{name}"
        );
        let status = stage.see(&account, "/status").await;
        assert_eq!(status["held_nanos"], 25 * 5 * CENT, "{name}");
        let of_one = format!("/holds?workflow_id={}", workflows[3]);
        let of_one = stage.see(&account, &of_one).await;
        let of_one = of_one["data"].as_array().unwrap();
        assert_eq!(of_one.len(), 5, "{name}");
        assert!(
            of_one
                .iter()
                .all(|hold| hold["workflow_id"] == *workflows[3])
        );
        println!("{name}: ok");
    }
}

#[tokio::test]
async fn a_hold_is_released_with_a_reason_by_its_own_org_only_and_later_spend_is_booked_and_flagged()
 {
    let mut stage = Stage::start(LAYOUTS[5].1);
    let account = stage.account().await;
    let other = stage.account().await;
    let hold = stage.gate(&account.key, &gate()).await;
    let hold = hold.required("reservation_id").unwrap();
    let rest = format!("/holds/{hold}/release");
    for reason in [
        json!({}),
        json!({ "reason": "" }),
        json!({ "reason": " \t" }),
        json!({ "reason": null }),
    ] {
        let answer = stage.post(&account, &rest, reason.clone()).await;
        assert_eq!(answer.status, 400, "{reason}");
        assert!(answer.text("message").contains("reason"), "{}", answer.body);
    }
    let why = json!({ "reason": "its agent is gone" });
    // Keys are for agents, and for agents' own holds there is /cancel.
    let signed = Caller::Signed(&account.key, Protocol::V4);
    let path = account.path(&rest);
    let refused = stage.connection.post(&path, signed, &why).await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.body);
    let under = [other.path(&rest), account.path(&rest)];
    for path in under {
        let refused = stage
            .connection
            .post(&path, other.operator(), &why)
            .await
            .unwrap();
        assert_eq!(refused.status, 404, "{}", refused.body);
    }
    let open = stage.see(&account, "/holds").await;
    assert_eq!(open["data"].as_array().unwrap().len(), 1, "{open}");

    let released = stage.post(&account, &rest, why.clone()).await;
    assert_eq!(released.status, 200, "{}", released.body);
    assert_eq!(released.body["released_nanos"], 5 * CENT);
    assert_eq!(stage.post(&account, &rest, why).await.status, 404);
    let open = stage.see(&account, "/holds").await;
    assert_eq!(open["data"], json!([]));
    let status = stage.see(&account, "/status").await;
    assert_eq!(
        (&status["held_nanos"], &status["spent_nanos"]),
        (&json!(0), &json!(0))
    );

    let late =
        json!({ "reservation_id": hold, "model": "claude-haiku-4-5", "output_tokens": FIVE_CENTS });
    let late = stage.track(&account.key, &late).await;
    assert_eq!(late.body["cost_nanos"], 5 * CENT);
    assert_eq!(late.body["workflow_id"], *account.workflow);
    let status = stage.see(&account, "/status").await;
    assert_eq!(
        (&status["held_nanos"], &status["spent_nanos"]),
        (&json!(0), &json!(5 * CENT))
    );
    assert_eq!(
        stage.see(&account, "/ledger/verify").await["verified"],
        true
    );

    stage.gateway.stop().unwrap();
    let directory = inspect::Directory::read_only(stage.gateway.settings().data_dir());
    let mut lines = Vec::new();
    inspect::export(directory.wal.as_ref(), Lsn(1), Lsn(u64::MAX), &mut lines).unwrap();
    let lines = String::from_utf8(lines).unwrap();
    let of = |kind: &str| -> Value {
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.rev().find(|line| line["type"] == kind).unwrap()["record"].clone()
    };
    assert_eq!(of("HoldEnded")["note"], "its agent is gone");
    let flags = of("Charged")["flags"].as_u64().unwrap();
    assert_ne!(flags & u64::from(ChargeFlags::NO_HOLD.0), 0, "{flags}");
}
