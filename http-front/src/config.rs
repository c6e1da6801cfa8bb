//! Settings: flags and environment, checked at start.

use crate::clock;
use crate::log_tool::LogTool;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The NullRun gateway: budgets, policies and a kill switch for AI agents.
#[derive(Debug, Clone, Parser)]
#[command(name = "nullrun", version, about)]
pub struct Config {
    /// Something else than serving.
    #[command(subcommand)]
    pub tool: Option<Tool>,
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "NULLRUN_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Directory for the log, the snapshots and the key file.
    #[arg(
        long,
        env = "NULLRUN_DATA_DIR",
        global = true,
        default_value = "./nullrun-data"
    )]
    pub data_dir: PathBuf,
    /// Shards that workflows are divided into: 1 to 1024, or `auto` by the number of cores. Another
    /// number may be set at any start.
    #[arg(long, env = "NULLRUN_SHARDS", default_value = "auto")]
    pub shards: Count,
    /// Threads that serve HTTP: a number, or `auto`. More than one needs shards on threads.
    #[arg(long, env = "NULLRUN_WORKERS", default_value = "auto")]
    pub workers: Count,
    /// Where shards run: `front`, on the thread that serves HTTP; `threads`, on their own; `auto` by
    /// the number of cores.
    #[arg(long, env = "NULLRUN_PLACEMENT", value_enum, default_value_t = PlacementName::Auto)]
    pub placement: PlacementName,
    /// When a change counts as done: `strict` after fdatasync; `memory` keeps nothing (tests, benches).
    #[arg(long, env = "NULLRUN_DURABILITY", value_enum, default_value_t = Durability::Strict)]
    pub durability: Durability,
    /// What writes the log: `auto` measures and takes the faster.
    #[arg(long, env = "NULLRUN_WAL_BACKEND", value_enum, default_value_t = WalBackend::Auto)]
    pub wal_backend: WalBackend,
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
    /// A file of plans (TOML, see deploy/plans.toml): how much organizations may have. Without one,
    /// nobody is limited.
    #[arg(long, env = "NULLRUN_PLANS_FILE")]
    pub plans_file: Option<PathBuf>,
    /// Plan of new orgs, instead of the file's default.
    #[arg(long, env = "NULLRUN_DEFAULT_PLAN")]
    pub default_plan: Option<String>,
    /// Addresses of people who run the gateway beside the first account, separated by commas. Each
    /// counts once its owner has shown that it is theirs.
    #[arg(long, env = "NULLRUN_PLATFORM_ADMINS", value_delimiter = ',')]
    pub platform_admins: Vec<String>,
    /// At the first start in development, make an account and print it once.
    #[arg(long, env = "NULLRUN_BOOTSTRAP", value_enum, default_value_t = Switch::On)]
    pub bootstrap: Switch,
    /// Lets Prometheus on another machine read the metrics, sent as Bearer. On this machine they are
    /// open.
    #[arg(long, env = "NULLRUN_METRICS_TOKEN", hide_env_values = true)]
    pub metrics_token: Option<String>,
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
    /// Seconds that a request's body may take to arrive.
    #[arg(long, env = "NULLRUN_BODY_TIMEOUT_SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub body_timeout_secs: u64,
    /// Cents that a call of unknown size must find free, and holds.
    #[arg(long, env = "NULLRUN_HOLD_FLOOR_CENTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub hold_floor_cents: u32,
    /// MiB for remembering which events were counted: about 24 bytes for each.
    #[arg(long, env = "NULLRUN_DEDUP_MEMORY", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub dedup_memory: u32,
    /// Bytes of one log segment.
    #[arg(long, env = "NULLRUN_SEGMENT_BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(65_536..=1 << 30))]
    pub segment_bytes: u64,
    /// MiB that the log may take on disk before gates are refused (reports are still taken); 0 for
    /// as much as there is.
    #[arg(long, env = "NULLRUN_LOG_QUOTA_MIB", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1 << 30))]
    pub log_quota_mib: u64,
    /// Bytes of new log after which a snapshot is folded.
    #[arg(long, env = "NULLRUN_SNAPSHOT_BYTES", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    pub snapshot_bytes: u64,
    /// Start although the clock is more than a day behind the log; time then stands still until it has
    /// caught up.
    #[arg(long, env = "NULLRUN_ACCEPT_CLOCK_BEHIND", default_value_t = false, action = clap::ArgAction::Set)]
    pub accept_clock_behind: bool,
    /// Serve `POST /floor`, which does nothing, for measuring.
    #[arg(long, env = "NULLRUN_FLOOR_ROUTE", value_enum, default_value_t = Switch::Off)]
    pub floor_route: Switch,
    /// 32 bytes in hex that seal signing secrets at rest; default: a file in the data directory.
    #[arg(long, env = "NULLRUN_MASTER_KEY", hide_env_values = true)]
    pub master_key: Option<String>,
    /// Where browsers and mail find this gateway: links in mails and sign-in through providers go
    /// there, and cookies are for HTTPS only if it begins with `https`. Default: the address listened on.
    #[arg(long, env = "NULLRUN_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// The SMTP server mail goes through: `smtp://user:password@host:port`, or `smtps://`. Without
    /// one, mails are files in `outbox` in the data directory.
    #[arg(long, env = "NULLRUN_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<String>,
    /// The sender of mails, such as `NullRun <nullrun@example.com>`.
    #[arg(long, env = "NULLRUN_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// Sign-in through GitHub: the app's id; its callback is `/api/v1/auth/oauth/github/callback`.
    #[arg(long, env = "NULLRUN_GITHUB_CLIENT_ID")]
    pub github_client_id: Option<String>,
    /// The app's secret.
    #[arg(long, env = "NULLRUN_GITHUB_CLIENT_SECRET", hide_env_values = true)]
    pub github_client_secret: Option<String>,
    /// GitHub, or a GitHub Enterprise Server.
    #[arg(long, env = "NULLRUN_GITHUB_URL", default_value = "https://github.com")]
    pub github_url: String,
    /// Sign-in through Google: the client's id. Other OpenID issuers: `NULLRUN_OIDC_<NAME>_ISSUER`,
    /// `NULLRUN_OIDC_<NAME>_CLIENT_ID` and `NULLRUN_OIDC_<NAME>_CLIENT_SECRET` in the environment.
    #[arg(long, env = "NULLRUN_GOOGLE_CLIENT_ID")]
    pub google_client_id: Option<String>,
    /// The client's secret.
    #[arg(long, env = "NULLRUN_GOOGLE_CLIENT_SECRET", hide_env_values = true)]
    pub google_client_secret: Option<String>,
    /// Defects for testing the tests; refused by release builds.
    #[arg(long, env = "NULLRUN_TEST_FAULT", hide = true)]
    pub test_fault: Option<String>,
    /// Where the clock starts, in RFC 3339, for testing midnights; or `@` and a file that says how many
    /// milliseconds it is ahead, for testing steps. Refused by release builds.
    #[arg(long, env = "NULLRUN_TEST_NOW", hide = true)]
    pub test_now: Option<String>,
    /// The file to which each route's statuses are appended, for comparing them with the API's
    /// description. Refused by release builds.
    #[arg(long, env = "NULLRUN_TEST_ANSWERS", hide = true)]
    pub test_answers: Option<String>,
}

/// What else this program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Tool {
    /// Look at the log of a data directory.
    Log {
        /// How.
        #[command(subcommand)]
        tool: LogTool,
    },
}

/// A number, or whatever suits the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// What suits.
    Auto,
    /// So many.
    Of(u16),
}

impl std::str::FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().ok().filter(|n| (1..=1024).contains(n));
        number
            .map(Self::Of)
            .ok_or_else(|| "use a number from 1 to 1024, or auto".to_owned())
    }
}

/// Where shards run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlacementName {
    /// By the number of cores.
    Auto,
    /// On the thread that serves HTTP.
    Front,
    /// On threads of their own.
    Threads,
}

/// When a change counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// After fdatasync.
    Strict,
    /// Never written.
    Memory,
}

/// What writes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WalBackend {
    /// Whichever is faster in the data directory.
    Auto,
    /// `write` and `fdatasync`: runs everywhere.
    Plain,
    /// `O_DIRECT` through io_uring, or no start.
    Glommio,
}

impl From<WalBackend> for persist::Wanted {
    fn from(backend: WalBackend) -> Self {
        match backend {
            WalBackend::Auto => Self::Auto,
            WalBackend::Plain => Self::Plain,
            WalBackend::Glommio => Self::Glommio,
        }
    }
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
    /// A public address that is none.
    #[error("NULLRUN_PUBLIC_URL must be an address such as https://nullrun.example.com")]
    PublicUrl,
    /// A mail server that is none.
    #[error(
        "NULLRUN_SMTP_URL must be smtp://user:password@host:port or smtps://user:password@host:port, \
         with @ : / and % in user and password written as %40 %3A %2F and %25; ?tls= takes required \
         or opportunistic"
    )]
    SmtpUrl,
    /// A provider that cannot be used.
    #[error("sign-in through a provider: {0}")]
    Provider(String),
    /// No sender.
    #[error(
        "NULLRUN_MAIL_FROM must be an address such as `NullRun <nullrun@example.com>`; with \
         NULLRUN_SMTP_URL it must be set"
    )]
    MailFrom,
    /// Workers without threads for the shards.
    #[error(
        "NULLRUN_WORKERS above 1 needs shards on threads of their own: set NULLRUN_PLACEMENT=threads, \
         or leave NULLRUN_WORKERS out"
    )]
    Workers,
    /// Faults in a release build, or unknown ones.
    #[error("NULLRUN_TEST_FAULT={0} is not available: {1}")]
    TestFault(String, &'static str),
    /// Another time in a release build, or none at all.
    #[error("NULLRUN_TEST_NOW={0} is not available: {1}")]
    TestNow(String, &'static str),
    /// Answers noted by a release build, or where no file can be.
    #[error("NULLRUN_TEST_ANSWERS={0} is not available: {1}")]
    TestAnswers(String, String),
}

impl Config {
    /// The file that says how far the clock is ahead, for tests that step it.
    fn clock_file(&self) -> Option<&str> {
        self.test_now.as_deref()?.strip_prefix('@')
    }

    /// Must SDK requests be signed?
    #[must_use]
    pub fn hmac_required(&self) -> bool {
        self.hmac_required
            .unwrap_or(self.env == Environment::Production)
    }

    /// Do browsers come over HTTPS? In production they must, whatever the gateway itself listens on.
    #[must_use]
    pub fn browsers_use_https(&self) -> bool {
        match &self.public_url {
            Some(url) => {
                let url = reqwest::Url::parse(url.trim());
                url.is_ok_and(|url| url.scheme() == "https")
            }
            None => self.env == Environment::Production,
        }
    }

    /// Checks what one flag alone cannot tell.
    pub fn check(&self) -> Result<(), BadConfig> {
        if let Some(url) = &self.public_url {
            let url = reqwest::Url::parse(url.trim()).ok();
            let right = url.filter(|url| ["http", "https"].contains(&url.scheme()));
            right
                .filter(reqwest::Url::has_host)
                .ok_or(BadConfig::PublicUrl)?;
        }
        let production = self.env == Environment::Production;
        if production && !self.hmac_required() && !self.skip_hmac_prod_check {
            return Err(BadConfig::UnsignedProduction);
        }
        if let Some(now) = &self.test_now {
            if !cfg!(debug_assertions) {
                return Err(BadConfig::TestNow(now.clone(), "this is a release build"));
            }
            if clock::parse_rfc3339(now).is_none() && self.clock_file().is_none() {
                return Err(BadConfig::TestNow(
                    now.clone(),
                    "use 2026-11-30T23:59:55Z, or @ and the path of a file of milliseconds",
                ));
            }
        }
        if let Some(file) = self
            .test_answers
            .as_ref()
            .filter(|_| !cfg!(debug_assertions))
        {
            let why = "this is a release build".to_owned();
            return Err(BadConfig::TestAnswers(file.clone(), why));
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

    /// Sets the clock, if a test says so.
    #[cfg(debug_assertions)]
    pub fn start_clock(&self) {
        if let Some(at) = self.test_now.as_deref().and_then(clock::parse_rfc3339) {
            clock::start_at(at);
        }
        if let Some(file) = self.clock_file() {
            clock::follow(file.into());
        }
    }

    /// Begins to note the statuses of answers, if a test says so.
    #[cfg(debug_assertions)]
    pub fn start_answers(&self) -> Result<(), BadConfig> {
        let Some(file) = &self.test_answers else {
            return Ok(());
        };
        crate::answers::note_in(file)
            .map_err(|error| BadConfig::TestAnswers(file.clone(), error.to_string()))
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
            .filter(|name| !crate::manage::auth::oauth::is_setting(name))
            // Settings of the SDK and of the tests may stand in the same environment.
            .filter(|name| !OTHERS.contains(&name.as_str()))
            .collect()
    }
}

const OTHERS: [&str; 10] = [
    "NULLRUN_TEST_CRASH_AT",
    "NULLRUN_WRITE_FIXTURES",
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
        assert!(config(&["--test-now", "noon"]).check().is_err());
    }
}
