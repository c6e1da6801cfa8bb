//! What the integration tests share: the scale, the binary, and a gateway with an account on it.

#![allow(
    dead_code,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

use nullrun_loadtest::Target;
use nullrun_loadtest::account::Account;
use nullrun_loadtest::client::Connection;
use nullrun_loadtest::gateway::{Gateway, Settings};
use nullrun_loadtest::identity::Dice;
use tempfile::TempDir;

/// The gateway under test.
pub const GATEWAY: &str = env!("CARGO_BIN_EXE_nullrun");

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
        let settings = environment.iter().fold(
            Settings::new(GATEWAY, data.path()),
            |settings, (name, value)| settings.env(*name, *value),
        );
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

    /// A further connection.
    pub fn connect(&self) -> Connection {
        Connection::new(&self.gateway.endpoint().unwrap())
    }
}
