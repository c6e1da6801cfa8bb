//! What the integration tests share: the scale, the binary, and a gateway with an account on it.

#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

pub mod routes;

use nullrun_loadtest::Target;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::{Answer, Caller, Connection, SdkKey};
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use nullrun_loadtest::shim::{Mount, Shim};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The gateway under test.
pub const GATEWAY: &str = env!("CARGO_BIN_EXE_nullrun");

/// How long is waited for what must come: longer than any machine needs, however busy. Only what
/// never comes reaches it, so it costs nothing.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How large the tests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Minutes, for CI.
    Quick,
    /// As long as it takes, by hand.
    Long,
}

/// `NULLRUN_TEST_SCALE`; printed, so that no run is taken for more than it was.
pub fn scale() -> Scale {
    let scale = match std::env::var("NULLRUN_TEST_SCALE").as_deref() {
        Ok("long") => Scale::Long,
        Ok("quick") | Err(_) => Scale::Quick,
        Ok(other) => panic!("NULLRUN_TEST_SCALE={other}: use quick or long"),
    };
    println!("test scale: {scale:?} (NULLRUN_TEST_SCALE)");
    scale
}

/// A gateway binary to be started by a scenario.
pub fn target() -> Target {
    Target::binary(GATEWAY)
}

/// Environment of a gateway.
pub type Environment = &'static [(&'static str, &'static str)];

/// How many shards there are and where they run: the promises hold for every layout.
pub const LAYOUTS: [(&str, Environment); 6] = [
    ("1 shard in front", IN_FRONT[0]),
    ("2 shards in front", IN_FRONT[1]),
    ("7 shards in front", IN_FRONT[2]),
    ("1 shard on a thread", ON_THREADS[0]),
    ("2 shards on threads", ON_THREADS[1]),
    ("7 shards on threads", ON_THREADS[2]),
];

const IN_FRONT: [Environment; 3] = [
    &[("NULLRUN_SHARDS", "1"), ("NULLRUN_PLACEMENT", "front")],
    &[("NULLRUN_SHARDS", "2"), ("NULLRUN_PLACEMENT", "front")],
    &[("NULLRUN_SHARDS", "7"), ("NULLRUN_PLACEMENT", "front")],
];

const ON_THREADS: [Environment; 3] = [
    &[
        ("NULLRUN_SHARDS", "1"),
        ("NULLRUN_PLACEMENT", "threads"),
        ("NULLRUN_WORKERS", "2"),
    ],
    &[
        ("NULLRUN_SHARDS", "2"),
        ("NULLRUN_PLACEMENT", "threads"),
        ("NULLRUN_WORKERS", "2"),
    ],
    &[
        ("NULLRUN_SHARDS", "7"),
        ("NULLRUN_PLACEMENT", "threads"),
        ("NULLRUN_WORKERS", "2"),
    ],
];

/// Runs `scenario` with each of `layouts`, and says so.
pub fn with_each(layouts: &[(&str, Environment)], mut scenario: impl FnMut(Environment)) {
    for (name, environment) in layouts {
        let began = Instant::now();
        scenario(environment);
        println!("{name}: {:.1} s", began.elapsed().as_secs_f32());
    }
}

/// A binary to be started by a scenario, in a layout.
pub fn target_in(layout: Environment) -> Target {
    let settings = layout.iter();
    settings.fold(target(), |target, (name, value)| target.env(*name, *value))
}

/// The clock of a gateway, stepped by hand.
pub struct StepClock {
    file: PathBuf,
    _home: TempDir,
}

impl StepClock {
    /// A clock that is `ahead` milliseconds ahead of this machine's.
    pub fn ahead(millis: i64) -> Self {
        let home = TempDir::with_prefix("nullrun-clock-").unwrap();
        let clock = Self {
            file: home.path().join("ahead"),
            _home: home,
        };
        clock.set(millis);
        clock
    }

    /// How far a clock that says `now` is ahead.
    pub fn until(now: &str) -> i64 {
        let now: jiff::Timestamp = now.parse().unwrap();
        now.as_millisecond() - jiff::Timestamp::now().as_millisecond()
    }

    /// For the gateway's `NULLRUN_TEST_NOW`.
    pub fn variable(&self) -> String {
        format!("@{}", self.file.display())
    }

    fn set(&self, ahead: i64) {
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, ahead.to_string()).unwrap();
        std::fs::rename(temporary, &self.file).unwrap();
    }

    /// Steps it, and waits until the gateway has seen it.
    pub fn step(&self, ahead: i64) {
        self.set(ahead);
        let (seen, began) = (self.file.with_added_extension("seen"), Instant::now());
        while std::fs::read_to_string(&seen).ok() != Some(ahead.to_string()) {
            assert!(began.elapsed() < PATIENCE, "no gateway follows this clock");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A running gateway on a directory of its own.
pub struct Stage {
    pub gateway: Gateway,
    pub connection: Connection,
    pub dice: Dice,
    // Removed after the gateway is gone: fields drop in order.
    _data: TempDir,
}

impl Stage {
    /// Starts a gateway with some more environment.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let data = TempDir::with_prefix("nullrun-test-").unwrap();
        let settings = Settings::new(GATEWAY, data.path());
        Self::of(settings, environment, data)
    }

    /// The same on a mount whose disk can be made to hang or to fail.
    pub fn on_mount(environment: &[(&str, &str)]) -> (Self, Mount) {
        let data = TempDir::with_prefix("nullrun-test-").unwrap();
        let mount = Shim::compile().unwrap().mount(data.path(), 1).unwrap();
        let settings = Settings::new(GATEWAY, data.path()).on_shim(mount.clone());
        (Self::of(settings, environment, data), mount)
    }

    fn of(settings: Settings, environment: &[(&str, &str)], data: TempDir) -> Self {
        let set = |settings: Settings, (name, value): &(&str, &str)| settings.env(*name, *value);
        let settings = environment.iter().fold(settings, set);
        let gateway = Gateway::start(settings).unwrap();
        let connection = Connection::new(&gateway.endpoint().unwrap());
        Self {
            gateway,
            connection,
            dice: Dice::from_seed(1),
            _data: data,
        }
    }

    /// Registers an account.
    pub async fn account(&mut self) -> Account {
        Account::register(&mut self.connection, &mut self.dice)
            .await
            .unwrap()
    }

    /// Asks with a key of an account, unsigned.
    pub async fn ask(&mut self, account: &Account, path: &str, body: Value) -> Answer {
        let caller = Caller::Key(&account.key);
        self.connection.post(path, caller, &body).await.unwrap()
    }

    /// Asks `/gate` as a client of protocol 4, which can end its holds.
    pub async fn gate(&mut self, key: &SdkKey, body: &Value) -> Answer {
        let connection = &mut self.connection;
        connection
            .post_signed("/api/v1/gate", key, body)
            .await
            .unwrap()
    }

    /// Reports with a signature.
    pub async fn track(&mut self, key: &SdkKey, body: &Value) -> Answer {
        let connection = &mut self.connection;
        let answer = connection.post_signed("/api/v1/track", key, body).await;
        answer.unwrap().expect(&[200]).unwrap()
    }

    /// A GET of the operator's, under the org.
    pub async fn see(&mut self, account: &Account, rest: &str) -> Value {
        let path = account.path(rest);
        let answer = self.connection.get(&path, account.operator()).await;
        answer.unwrap().expect(&[200]).unwrap().body
    }

    /// A POST of the operator's, under the org.
    pub async fn post(&mut self, account: &Account, rest: &str, body: Value) -> Answer {
        let path = account.path(rest);
        let answer = self.connection.post(&path, account.operator(), &body).await;
        answer.unwrap()
    }

    /// A PATCH of the operator's, under the org.
    pub async fn patch(&mut self, account: &Account, rest: &str, body: Value) -> Answer {
        let path = account.path(rest);
        let answer = self
            .connection
            .patch(&path, account.operator(), &body)
            .await;
        answer.unwrap().expect(&[200]).unwrap()
    }

    /// A further connection.
    pub fn connect(&self) -> Connection {
        Connection::new(&self.gateway.endpoint().unwrap())
    }
}
