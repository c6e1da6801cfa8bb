//! Gates and charges from many tasks across a midnight, with the time of each.

use super::support::{PATIENCE, Stage, StepClock};
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, SdkKey};
use nullrun_loadtest::identity::Dice;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const CENT: i64 = 10_000_000;
/// 2026-12-01T00:00:00Z.
pub const MIDNIGHT_MILLIS: i64 = 1_796_083_200_000;
const MODEL: &str = "claude-haiku-4-5";
/// What a token of output costs.
const TOKEN: i64 = 5_000;
/// Gates without room that are waited for on each side of midnight.
const TRIES: usize = 150;

/// How long before midnight the clock is set.
const BEFORE: Duration = Duration::from_millis(300);

/// The gateway's clock, as far as it can be known from outside: its midnight lies between two
/// instants.
pub struct Clock {
    earliest: Instant,
    latest: Instant,
}

impl Clock {
    /// Steps the clock to a moment before midnight. If the gateway sees it only later, its midnight
    /// is then.
    fn step(stepped: &StepClock) -> Self {
        let before = Instant::now();
        let there = MIDNIGHT_MILLIS - BEFORE.as_millis() as i64;
        stepped.step(there - jiff::Timestamp::now().as_millisecond());
        // Both clocks count whole milliseconds.
        let rounding = Duration::from_millis(2);
        Self {
            earliest: before + BEFORE - rounding,
            latest: Instant::now() + BEFORE + rounding,
        }
    }

    /// Is what was asked and answered at these times December's? `None` if it may be either.
    fn december(&self, (sent, answered): At) -> Option<bool> {
        if answered < self.earliest {
            return Some(false);
        }
        (sent > self.latest).then_some(true)
    }
}

/// When a request was sent, and answered.
type At = (Instant, Instant);

/// How far the load is.
#[derive(Default)]
struct Progress {
    /// Gates under a cap that November has used up, answered so far.
    tries: AtomicUsize,
    ends: AtomicBool,
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::SeqCst)
    }

    /// Waits for so many more tries.
    async fn more(&self, tries: usize) {
        let (from, began) = (self.tries.load(Ordering::SeqCst), Instant::now());
        while self.tries.load(Ordering::SeqCst) < from + tries {
            assert!(began.elapsed() < PATIENCE, "the load stands still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What came of the load.
#[derive(Default)]
struct Seen {
    /// Gates with room.
    gates: usize,
    /// What was acknowledged, and when it was asked for.
    charges: Vec<(At, i64)>,
    /// Gates under a cap that November has used up: whose, when, and whether they were allowed.
    tries: Vec<(&'static str, At, bool)>,
}

pub struct Load {
    /// Keys of workflows with room.
    roomy: Vec<SdkKey>,
    /// Keys that have used up a cap of November's.
    tight: Vec<(&'static str, Vec<SdkKey>)>,
    seen: Seen,
}

pub struct Done {
    pub spent: i64,
    /// The least and the most that may be December's.
    pub december: [i64; 2],
    words: String,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

async fn use_up(connection: &mut Connection, key: &SdkKey, workflow: &str) -> i64 {
    let body = json!({ "workflow_id": workflow, "model": MODEL, "output_tokens": 20_000 });
    let answer = connection
        .post("/api/v1/track", Caller::Key(key), &body)
        .await;
    let answer = answer.unwrap();
    assert_eq!(answer.body["cost_nanos"], 10 * CENT, "{}", answer.body);
    10 * CENT
}

impl Load {
    /// Four workflows with room; a workflow, a key over several, and an org without any.
    pub async fn prepare(stage: &mut Stage, account: &Account) -> Self {
        let other = stage.account().await;
        let connection = &mut stage.connection;
        let (mut roomy, mut workflows) = (Vec::new(), Vec::new());
        let mut spent = 0;
        for n in 0..4 {
            let name = format!("roomy {n}");
            let made = account.create_workflow(connection, &name, Some(10_000));
            let workflow = made.await.unwrap();
            let key = account.create_key(connection, Some(&workflow), None).await;
            roomy.push(key.unwrap().key);
            workflows.push(workflow);
        }
        let made = account.create_workflow(connection, "tight", Some(10));
        let full = made.await.unwrap();
        let bound = account.create_key(connection, Some(&full), None).await;
        let bound = bound.unwrap().key;
        spent += use_up(connection, &bound, &full).await;
        let free = account.create_key(connection, None, Some(10)).await;
        let free = free.unwrap().key;
        spent += use_up(connection, &free, &workflows[0]).await;
        other.set_org_budget(connection, Some(10)).await.unwrap();
        let mut theirs = Vec::new();
        for n in 0..4 {
            let name = format!("of the org {n}");
            let made = other.create_workflow(connection, &name, None);
            theirs.push(made.await.unwrap());
        }
        let anywhere = other.create_key(connection, None, None).await.unwrap().key;
        use_up(connection, &anywhere, &theirs[0]).await;
        let over = |key: &SdkKey, workflows: &[String]| -> Vec<SdkKey> {
            let each = workflows.iter();
            each.map(|workflow| key.clone().for_workflow(workflow))
                .collect()
        };
        let now = Instant::now();
        Self {
            roomy,
            tight: vec![
                ("a workflow", vec![bound]),
                ("a key over workflows", over(&free, &workflows)),
                ("an org", over(&anywhere, &theirs)),
            ],
            seen: Seen {
                charges: vec![((now, now), spent)],
                ..Seen::default()
            },
        }
    }

    /// Asks and reports from many tasks, in November, across midnight and in December, as long as it
    /// takes to have seen enough; at most a few calls are under way across midnight and charged after it.
    pub async fn run(&mut self, stage: &Stage, account: &Account, stepped: &StepClock) -> Clock {
        let progress = Arc::new(Progress::default());
        let mut tasks = Vec::new();
        for worker in 0..12 {
            let key = self.roomy[worker % self.roomy.len()].clone();
            let dice = Dice::for_worker(7, worker as u64);
            let workflow = account.workflow.clone();
            let connection = stage.connect();
            let spending = spend(connection, key, workflow, dice, Arc::clone(&progress));
            tasks.push(tokio::spawn(spending));
        }
        for (name, keys) in &self.tight {
            let (connection, keys) = (stage.connect(), keys.clone());
            let trying = try_again(connection, name, keys, Arc::clone(&progress));
            tasks.push(tokio::spawn(trying));
        }
        progress.more(TRIES).await;
        let clock = Clock::step(stepped);
        tokio::time::sleep_until(clock.latest.into()).await;
        progress.more(TRIES).await;
        progress.ends.store(true, Ordering::SeqCst);
        for task in tasks {
            let seen = task.await.unwrap();
            self.seen.gates += seen.gates;
            self.seen.charges.extend(seen.charges);
            self.seen.tries.extend(seen.tries);
        }
        clock
    }

    /// Nobody with room was refused, and nobody was refused or allowed in the wrong month.
    pub fn judge(&self, clock: &Clock) -> Done {
        let (mut early, mut later) = (0, 0);
        for (name, at, allowed) in &self.seen.tries {
            let Some(december) = clock.december(*at) else {
                continue;
            };
            let since = at.0.saturating_duration_since(clock.latest);
            assert_eq!(*allowed, december, "{name}, {since:?} after midnight");
            *(if december { &mut later } else { &mut early }) += 1;
        }
        assert!(
            early > TRIES / 2 && later > TRIES / 2,
            "{early} tries before midnight, {later} after"
        );
        let (mut spent, mut december, mut doubtful) = (0, 0, 0);
        for (at, cost) in &self.seen.charges {
            spent += cost;
            match clock.december(*at) {
                Some(true) => december += cost,
                Some(false) => {}
                None => doubtful += cost,
            }
        }
        let words = format!(
            "{} gates with room, {} charges; {early} gates without room before midnight refused, {later} \
             after it allowed",
            self.seen.gates,
            self.seen.charges.len()
        );
        Done {
            spent,
            december: [december, december + doubtful],
            words,
        }
    }
}

/// Calls with room: each must be allowed, and is charged at once, or later, or not at all.
async fn spend(
    mut connection: Connection,
    key: SdkKey,
    own: String,
    mut dice: Dice,
    progress: Arc<Progress>,
) -> Seen {
    let caller = Caller::Key(&key);
    let mut seen = Seen::default();
    let mut open: Vec<(At, String)> = Vec::new();
    while progress.goes_on() {
        let body = json!({ "model": MODEL, "max_output_tokens": 100 });
        let (at, answer) = timed(&mut connection, "/api/v1/gate", caller, &body).await;
        assert!(answer.is_allow(), "a phantom refusal: {}", answer.body);
        seen.gates += 1;
        open.push((at, answer.required("reservation_id").unwrap()));
        // About fifty calls are under way at any time, longer than midnight takes.
        while open.len() > 50 {
            let (minted, hold) = open.swap_remove(dice.index(open.len()));
            let tokens = i64::try_from(dice.between(1, 100)).unwrap();
            let body = json!({ "reservation_id": hold, "model": MODEL, "output_tokens": tokens });
            let (_, answer) = timed(&mut connection, "/api/v1/track", caller, &body).await;
            assert_eq!(answer.body["cost_nanos"], tokens * TOKEN, "{}", answer.body);
            // It counts when its call was allowed, not when it was reported.
            seen.charges.push((minted, tokens * TOKEN));
        }
        if dice.chance(30) {
            // Without a hold it counts when it comes; one event of two is known already.
            let tokens = i64::try_from(dice.between(1, 1000)).unwrap();
            let event = json!({ "event_id": dice.uuid(), "workflow_id": own, "model": MODEL, "output_tokens": tokens });
            let body = json!({ "events": [event, event] });
            let (at, answer) = timed(&mut connection, "/api/v1/track/batch", caller, &body).await;
            assert_eq!(answer.body["cost_nanos"], tokens * TOKEN, "{}", answer.body);
            seen.charges.push((at, tokens * TOKEN));
        }
    }
    seen
}

/// Asks again and again under a cap that is used up; gives back what it gets.
async fn try_again(
    mut connection: Connection,
    name: &'static str,
    keys: Vec<SdkKey>,
    progress: Arc<Progress>,
) -> Seen {
    let mut seen = Seen::default();
    for key in keys.iter().cycle() {
        if !progress.goes_on() {
            break;
        }
        let caller = Caller::Key(key);
        let body = json!({ "model": MODEL, "max_output_tokens": 20_000 });
        let (at, answer) = timed(&mut connection, "/api/v1/gate", caller, &body).await;
        seen.tries.push((name, at, answer.is_allow()));
        progress.tries.fetch_add(1, Ordering::SeqCst);
        if answer.is_allow() {
            let hold = json!({ "execution_id": answer.body["reservation_id"] });
            let (_, answer) = timed(&mut connection, "/api/v1/cancel", caller, &hold).await;
            assert_eq!(answer.body["already_canceled"], false, "{}", answer.body);
        }
    }
    seen
}

async fn timed(
    connection: &mut Connection,
    path: &str,
    caller: Caller<'_>,
    body: &Value,
) -> (At, Answer) {
    let sent = Instant::now();
    let answer = connection.post(path, caller, body).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    ((sent, Instant::now()), answer)
}
