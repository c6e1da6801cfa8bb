//! Settings: flags and environment, checked at start.

use clap::{CommandFactory as _, Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The NullRun gateway: budgets, policies and a kill switch for AI agents.
#[derive(Debug, Clone, Parser)]
#[command(name = "nullrun", version, about)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "NULLRUN_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Directory for the log, the snapshots and the key file.
    #[arg(long, env = "NULLRUN_DATA_DIR", default_value = "./nullrun-data")]
    pub data_dir: PathBuf,
    /// Shards of the engine. This version runs one.
    #[arg(long, env = "NULLRUN_SHARDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1))]
    pub shards: u16,
    /// When a change counts as done: `strict` after fdatasync; `memory` keeps nothing (tests, benches).
    #[arg(long, env = "NULLRUN_DURABILITY", value_enum, default_value_t = Durability::Strict)]
    pub durability: Durability,
    /// `production` insists on signed requests and makes no account at the first start.
    #[arg(long, env = "NULLRUN_ENV", value_enum, default_value_t = Environment::Development)]
    pub env: Environment,
    /// Refuse unsigned SDK requests. Default: true in production, false in development.
    #[arg(long, env = "NULLRUN_HMAC_REQUIRED")]
    pub hmac_required: Option<bool>,
    /// Start in production although unsigned requests are accepted.
    #[arg(long, env = "NULLRUN_SKIP_HMAC_PROD_CHECK", default_value_t = false, action = clap::ArgAction::Set)]
    pub skip_hmac_prod_check: bool,
    /// Seconds a signature may be old, or ahead.
    #[arg(long, env = "NULLRUN_HMAC_MAX_AGE_SECS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub hmac_max_age_secs: u64,
    /// Plan of new orgs. Self-hosted plans have no limits.
    #[arg(long, env = "NULLRUN_DEFAULT_PLAN", default_value = "self-hosted", value_parser = ["self-hosted"])]
    pub default_plan: String,
    /// At the first start in development, make an account and print it once.
    #[arg(long, env = "NULLRUN_BOOTSTRAP", value_enum, default_value_t = Switch::On)]
    pub bootstrap: Switch,
    /// Log level, or a filter such as `info,nullrun=debug`.
    #[arg(long, env = "NULLRUN_LOG", default_value = "info")]
    pub log: String,
    /// Requests that may wait for the engine. Gates are refused from three quarters of it.
    #[arg(long, env = "NULLRUN_QUEUE_DEPTH", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub queue_depth: u32,
    /// Milliseconds after which a gate without a durable answer is refused. Clients give up at 5000.
    #[arg(long, env = "NULLRUN_ADMISSION_DEADLINE_MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub admission_deadline_ms: u64,
    /// Connections open at once.
    #[arg(long, env = "NULLRUN_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Seconds after which a connection that sends no whole request head is closed. Longer than the
    /// pools of common clients keep an idle connection, so that none is closed under a request.
    #[arg(long, env = "NULLRUN_HEAD_TIMEOUT_SECS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub head_timeout_secs: u64,
    /// Cents that a call of unknown size must find free, and holds.
    #[arg(long, env = "NULLRUN_HOLD_FLOOR_CENTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub hold_floor_cents: u32,
    /// MiB for remembering which events were counted.
    #[arg(long, env = "NULLRUN_DEDUP_MEMORY", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub dedup_memory: u32,
    /// Bytes of one log segment.
    #[arg(long, env = "NULLRUN_SEGMENT_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..=1 << 30))]
    pub segment_bytes: u64,
    /// Bytes of new log after which a snapshot is folded.
    #[arg(long, env = "NULLRUN_SNAPSHOT_BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    pub snapshot_bytes: u64,
    /// Serve `POST /floor`, which does nothing, for measuring.
    #[arg(long, env = "NULLRUN_FLOOR_ROUTE", value_enum, default_value_t = Switch::Off)]
    pub floor_route: Switch,
    /// 32 bytes in hex that seal signing secrets at rest; default: a file in the data directory.
    #[arg(long, env = "NULLRUN_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<String>,
    /// Defects for testing the tests; refused by release builds.
    #[arg(long, env = "NULLRUN_TEST_FAULT", hide = true)]
    pub test_fault: Option<String>,
}

/// When a change counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// After fdatasync.
    Strict,
    /// Never written.
    Memory,
}

/// What the gateway is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Environment {
    /// Trying out.
    Development,
    /// For real.
    Production,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfig {
    /// Production without signatures.
    #[error(
        "NULLRUN_ENV=production with NULLRUN_HMAC_REQUIRED=false would accept unsigned requests. \
         Remove NULLRUN_HMAC_REQUIRED, or set NULLRUN_SKIP_HMAC_PROD_CHECK=true if a proxy in front \
         authenticates the clients."
    )]
    UnsignedProduction,
    /// A master key that is not 32 bytes.
    #[error(
        "NULLRUN_MASTER_KEY must be 64 hexadecimal digits; make one with `openssl rand -hex 32`"
    )]
    MasterKey,
    /// Faults in a release build, or unknown ones.
    #[error("NULLRUN_TEST_FAULT={0} is not available: {1}")]
    TestFault(String, &'static str),
}

impl Config {
    /// Must SDK requests be signed?
    #[must_use]
    pub fn hmac_required(&self) -> bool {
        self.hmac_required
            .unwrap_or(self.env == Environment::Production)
    }

    /// Checks what one flag alone cannot tell.
    pub fn check(&self) -> Result<(), BadConfig> {
        let production = self.env == Environment::Production;
        if production && !self.hmac_required() && !self.skip_hmac_prod_check {
            return Err(BadConfig::UnsignedProduction);
        }
        if let Some(fault) = &self.test_fault {
            if !cfg!(debug_assertions) {
                return Err(BadConfig::TestFault(
                    fault.clone(),
                    "this is a release build",
                ));
            }
            if !fault
                .split(',')
                .all(|one| ["skip-sync", "no-kill-fence"].contains(&one))
            {
                return Err(BadConfig::TestFault(
                    fault.clone(),
                    "use skip-sync or no-kill-fence",
                ));
            }
        }
        Ok(())
    }

    /// Is this test fault on?
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn has_fault(&self, name: &str) -> bool {
        self.test_fault
            .as_deref()
            .is_some_and(|on| on.split(',').any(|one| one == name))
    }

    /// `NULLRUN_*` variables that mean nothing here: most likely misspelt.
    #[must_use]
    pub fn unknown_variables() -> Vec<String> {
        let command = Self::command();
        let known: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_env().and_then(|env| env.to_str()))
            .collect();
        // What is not UTF-8 is somebody else's, and no reason not to start.
        std::env::vars_os()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("NULLRUN_") && !known.contains(&name.as_str()))
            // Settings of the SDK and of the tests may stand in the same environment.
            .filter(|name| !OTHERS.contains(&name.as_str()))
            .collect()
    }
}

const OTHERS: [&str; 8] = [
    "NULLRUN_API_KEY",
    "NULLRUN_API_URL",
    "NULLRUN_SECRET_KEY",
    "NULLRUN_TRANSPORT",
    "NULLRUN_WAL_PATH",
    "NULLRUN_FLUSH_INTERVAL_MS",
    "NULLRUN_TEST_SCALE",
    "NULLRUN_SIM_SEED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_lists_every_setting_with_its_default() {
        let readme = include_str!("../../README.md");
        for arg in Config::command()
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
        {
            let Some(env) = arg.get_env().and_then(|env| env.to_str()) else {
                continue;
            };
            let row = readme
                .lines()
                .find(|line| line.starts_with(&format!("| `{env}` |")));
            let row = row.unwrap_or_else(|| panic!("README.md has no row for {env}"));
            for default in arg.get_default_values() {
                let default = default.to_string_lossy();
                assert!(
                    row.contains(&format!("| `{default}` |")),
                    "{env}: the default is {default}: {row}"
                );
            }
        }
    }

    #[test]
    fn production_insists_on_signatures_unless_told_otherwise() {
        let config = |flags: &[&str]| Config::parse_from([&["nullrun"], flags].concat());
        assert!(!config(&[]).hmac_required());
        assert!(config(&["--env", "production"]).hmac_required());
        assert!(
            config(&["--env", "production", "--hmac-required", "false"])
                .check()
                .is_err()
        );
        let skipped = [
            "--env",
            "production",
            "--hmac-required",
            "false",
            "--skip-hmac-prod-check",
            "true",
        ];
        assert!(config(&skipped).check().is_ok());
        assert!(config(&["--test-fault", "no-such"]).check().is_err());
    }
}
