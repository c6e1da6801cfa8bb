//! A disk that does not answer: nothing that it would have to confirm is said to be done, and nobody
//! waits for ever.

use super::bench::ENVIRONMENT;
use super::support::{PATIENCE, Stage};
use super::table::Who;
use super::{Bench, Furnished, Operation, all_at_once, documenting, right, says_when};
use hyper::Method;
use nullrun_loadtest::client::{Caller, Prepared};
use nullrun_loadtest::people::mailed_token;
use serde_json::json;
use std::time::{Duration, Instant};

/// Ask nothing of the disk, or wait for it as long as it takes: what makes these say 503 is tried by
/// name elsewhere (a crowd of large bodies, a provider that is not there).
const OTHERS: [&str; 10] = [
    "verify_key",
    "verify_key_old",
    "track",
    "track_batch",
    "cancel",
    "heartbeat",
    "forgot_password",
    "oauth_register",
    "oauth_start",
    "oauth_callback",
];

/// Tokens of mails, and a session that is not the asker's.
struct Mailed {
    reset: String,
    invite: String,
    session: String,
    email: String,
}

async fn mailed(bench: &mut Bench, about: &Furnished) -> Mailed {
    let data = bench.stage.gateway.settings().data_dir().to_owned();
    let connection = &mut bench.stage.connection;
    let email = about.account.email.clone();
    let forgot = json!({ "email": email });
    let path = "/api/v1/auth/password/forgot";
    let sent = connection.post(path, Caller::Anonymous, &forgot).await;
    sent.unwrap().expect(&[202]).unwrap();
    let reset = mailed_token(&data, &email, None).await.unwrap();
    let guest = "guest-of-the-hung@example.com";
    let invited = about.account.invite(connection, guest, "viewer").await;
    invited.unwrap();
    let invite = mailed_token(&data, guest, None).await.unwrap();
    let mut again = about.account.clone();
    again.login(connection).await.unwrap();
    let path = "/api/v1/auth/sessions";
    let sessions = connection.get(path, again.operator()).await.unwrap();
    let rows = sessions.body["data"].as_array().unwrap();
    let others = rows.iter().find(|row| row["current"] == false).unwrap();
    Mailed {
        reset,
        invite,
        session: others["id"].as_str().unwrap().to_owned(),
        email,
    }
}

/// The request, with what must be there for it to get as far as the disk.
fn request(bench: &mut Bench, of: &Operation, about: &Furnished, mailed: &Mailed) -> Prepared {
    let mut of = of.clone();
    match of.name.as_str() {
        "reset_password" => {
            of.body = Some(json!({ "token": mailed.reset, "password": "long enough by far" }));
        }
        "login" => {
            let password = "correct horse battery staple";
            of.body = Some(json!({ "email": mailed.email, "password": password }));
        }
        "delete_session" => of.path = format!("/api/v1/auth/sessions/{}", mailed.session),
        "get_effective_policies" => {
            of.path += &format!("?workflow_id={}", about.account.workflow);
        }
        _ => of.path = of.path.replace("{token}", &mailed.invite),
    }
    let prepared = right(bench, &of, about);
    prepared
        .with_header("X-NullRun-Strict-Status", "true")
        .unwrap()
}

#[tokio::test]
async fn everybody_whose_answer_a_hung_disk_owes_is_told_to_come_back() {
    let (stage, mount) = Stage::on_mount(&ENVIRONMENT);
    let mut bench = Bench::of(stage);
    let about = bench.furnish().await;
    let alive = bench.furnish().await;
    let mailed = mailed(&mut bench, &about).await;
    mount.hang_syncs(true).unwrap();
    let mut asked = Vec::new();
    for of in documenting(503) {
        if !OTHERS.contains(&of.name.as_str()) {
            // Kills reach gates at once, and these are to be decided.
            let about = match of.who {
                Who::Key => &alive,
                _ => &about,
            };
            let prepared = request(&mut bench, &of, about, &mailed);
            asked.push((of.name.clone(), prepared));
        }
    }
    // Something is written first: what was durable before can be read.
    let mut first = bench.stage.connect();
    let state = about
        .account
        .path(&format!("/workflows/{}/pause", about.account.workflow));
    let prepared = first.prepare(
        Method::POST,
        &state,
        about.account.operator(),
        Some("{}".into()),
    );
    let first = tokio::spawn(async move { first.send(prepared.unwrap()).await });
    let path = about.account.path("/status");
    let waits = async || {
        let mut probe = bench.stage.connect();
        let asked = probe.get(&path, about.account.operator());
        tokio::time::timeout(Duration::from_millis(300), asked)
            .await
            .is_err()
    };
    let began = Instant::now();
    while !waits().await {
        assert!(began.elapsed() < PATIENCE, "the disk does not hang");
    }
    for (name, answer) in all_at_once(&bench, asked).await {
        says_when(&name, &answer);
        assert_eq!(answer.error_code(), "DEADLINE_EXCEEDED", "{name}");
    }
    says_when("pause", &first.await.unwrap().unwrap());
}
