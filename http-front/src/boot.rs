//! From settings to a running gateway, and back to a clean stop.

use crate::app::App;
use crate::config::{BadConfig, Config, Durability, Environment, Switch};
use crate::mail::Mailer;
use crate::manage::auth::oauth::Providers;
use crate::manage::invites;
use crate::placement::Placement;
use crate::plans::{self, BadPlans};
use crate::pumps::{Durable, Exchange};
use crate::seal::{SealError, Sealer};
use crate::shards::Shards;
use crate::sign_in::{Cookies, Csrf};
use crate::{bootstrap, checkpoint, clock, hash, routes, server, workers};
use engine::dedup::Dedup;
use engine::directory::Directory;
use engine::plan::PlanTable;
use engine::price::PriceTable;
use engine::pump::Pump;
use engine::recover::{Rebuild, Recovered};
use persist::backend::{self, Choice, Unusable};
use persist::disk::{Disk, MemoryDisk, PlainDisk};
use persist::follow::Followers;
use persist::log::Options;
use persist::{Log, LogId, Millis, Nanos};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};

/// Why the gateway did not start, or ended early. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The master key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The data directory.
    #[error("cannot use the data directory {path}: {source}. {}", remedy(source))]
    DataDir {
        /// Which.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// There is no room for a file that every start needs.
    #[error("cannot start: {0}. Free space on the disk of the data directory, then start again.")]
    NoSpace(Box<dyn std::error::Error + Send + Sync>),
    /// The log's backend.
    #[error(
        "NULLRUN_WAL_BACKEND=glommio cannot write the log here: {0} Or set NULLRUN_WAL_BACKEND=plain, \
         or auto, which takes plain by itself where glommio cannot be had."
    )]
    WalBackend(persist::backend::Obstacle),
    /// Another process has it.
    #[error(
        "another gateway uses the data directory {0}. Stop it, or set NULLRUN_DATA_DIR to another directory."
    )]
    InUse(String),
    /// The log or a snapshot.
    #[error(transparent)]
    Recover(#[from] engine::recover::Error),
    /// The log's thread.
    #[error(transparent)]
    Persist(#[from] persist::Error),
    /// The address.
    #[error("cannot listen on {address}: {source}. Set NULLRUN_LISTEN to a free address.")]
    Listen {
        /// Which.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The plans.
    #[error(transparent)]
    Plans(#[from] BadPlans),
    /// The price file in the build.
    #[error(transparent)]
    Prices(#[from] engine::price::BadTable),
    /// A write or sync failed while running.
    #[error(
        "the log failed and nothing more can be made durable: {0}. The gateway has stopped so that \
         no answer is lost; check the disk, then start it again: it recovers from what is there."
    )]
    LogFailed(String),
    /// The clock went back, or the log was written with a clock that was ahead.
    #[error(
        "this machine's clock says {clock}, and the log's last record is from {log}. Set the clock \
         right. If it is right and the log was written with a wrong one, start with \
         NULLRUN_ACCEPT_CLOCK_BEHIND=true: time then stands still until the clock has caught up."
    )]
    ClockBehind {
        /// Now.
        clock: String,
        /// The last record's time.
        log: String,
    },
    /// The process cannot have what it needs.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

fn remedy(source: &std::io::Error) -> &'static str {
    if persist::disk::is_full(source) {
        "Free space on its disk, or set NULLRUN_DATA_DIR to a directory that has some."
    } else {
        "Set NULLRUN_DATA_DIR to a directory this user can write."
    }
}

/// The same error, or what to do for want of space.
fn for_want_of_space(error: engine::recover::Error) -> BootError {
    match error {
        engine::recover::Error::Persist(error) if error.is_full() => {
            BootError::NoSpace(error.into())
        }
        error => error.into(),
    }
}

/// Time that the disk has at the end to confirm what was written.
const CONFIRM: Duration = Duration::from_secs(10);

/// Time for mails that are under way at the end.
const LAST_MAIL: Duration = Duration::from_secs(3);

/// A clock this far behind the log is worth a word, and one this far behind is refused.
const CLOCK_BEHIND_WARN: Duration = Duration::from_secs(60);
const CLOCK_BEHIND_MOST: Duration = Duration::from_secs(24 * 3600);

/// Runs the gateway until it is told to stop.
pub async fn run(config: Config) -> Result<(), BootError> {
    config.check()?;
    crate::request::set_body_timeout(config.body_timeout_secs);
    #[cfg(debug_assertions)]
    {
        config.start_clock();
        config.start_answers()?;
    }
    for name in Config::unknown_variables() {
        tracing::warn!(
            name,
            "this variable means nothing to the gateway; is it misspelt?"
        );
    }
    if config.env == Environment::Production && config.public_url.is_none() {
        tracing::warn!(
            "NULLRUN_PUBLIC_URL is not set: links in mails and sign-in through providers lead to the \
             address listened on; set it to where browsers find the gateway"
        );
    }
    // Before anything is read or written: a wrong setting is told at once, not after the recovery.
    let (mailer, mailing) = Mailer::start(&config)?;
    let providers = Providers::of(&config)?;
    let prices = Arc::new(PriceTable::built_in()?);
    let plans = Arc::new(plans::load(&config)?);
    let in_memory = config.durability == Durability::Memory;
    let lock = if in_memory {
        None
    } else {
        Some(lock(&config.data_dir)?)
    };
    let sealer = match &config.master_key {
        Some(text) => Sealer::from_hex(text)?,
        None if in_memory => Sealer::from_hex(&hash::hex(&hash::random::<32>()))?,
        None => {
            // Secrets in the log were sealed with a key that must not be replaced by a new one.
            let first_start = !config.data_dir.join("wal").is_dir();
            Sealer::from_file(&config.data_dir.join("master.key"), first_start)?
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    let placement = Placement::of(&config, cores)?;
    let wal = wal(&config)?;
    let settings = engine::Settings {
        floor: Nanos::from_cents(i64::from(config.hold_floor_cents)),
        dedup_keys: Dedup::keys_within((config.dedup_memory as usize) << 20),
        shards: placement.layout.shards,
        ..engine::Settings::default()
    };
    let snapshots = disk(&config, "snapshots")?;
    let rebuild = Rebuild::new(wal.disk, snapshots, Arc::clone(&prices), settings);
    let quota_bytes = (config.log_quota_mib > 0).then_some(config.log_quota_mib << 20);
    let options = Options {
        // The last segment cannot go, nor what is ready behind it: a quota must have room for more.
        segment_bytes: quota_bytes.map_or(config.segment_bytes, |quota| {
            config.segment_bytes.min(quota / 4)
        }),
        quota_bytes,
    };
    let new_log = LogId(u128::from_le_bytes(hash::random()));
    let recovered = rebuild.open(options, new_log).map_err(for_want_of_space)?;
    report(&recovered);
    let Recovered {
        mut engine,
        writer,
        recovery,
        snapshot,
        replayed_bytes,
        ..
    } = recovered;
    switch_faults(&config, &mut engine);
    engine = engine.with_plans(Arc::clone(&plans));
    warn_of_lost_plans(&engine, &plans);
    check_clock(&config, engine.now())?;
    let followers = Followers::open(disk(&config, "followers")?, recovery.log)?;

    let depth = config.queue_depth as usize;
    let exchange = Exchange::new(placement.workers, depth);
    let log = Arc::new(Log::start(writer, Durable(Arc::clone(&exchange)))?);
    let dedup = Arc::clone(engine.dedup());
    let (pumps, publisher) = Pump::start(engine, recovery.last_lsn, placement.layout.pumps);
    let (shards, queues) = Shards::new(placement.layout, depth);
    let pumping = workers::start_pumps(&placement, pumps, queues, &log, &exchange, &publisher)?;
    let app = Arc::new(App {
        shards,
        mailer,
        publisher,
        log: Arc::clone(&log),
        dedup,
        secrets: Default::default(),
        signatures: Default::default(),
        logins: Default::default(),
        mails: Default::default(),
        csrf: Csrf::new(&sealer),
        cookies: Cookies {
            secure: config.browsers_use_https(),
        },
        providers,
        plans,
        address: OnceLock::new(),
        sealer,
        rebuild: rebuild.clone(),
        verifying: Arc::new(Semaphore::new(1)),
        metrics: Arc::default(),
        stopping: false.into(),
        config,
    });
    let checkpoints = tokio::spawn(checkpoint::run(
        rebuild,
        followers,
        Arc::clone(&log),
        checkpoint::Begin {
            id: recovery.log,
            newest: snapshot,
            behind: replayed_bytes,
        },
        app.config.snapshot_bytes,
        Arc::clone(&app.metrics),
    ));
    let released = placement
        .threads
        .then(|| workers::start_release(0, &app, &exchange));

    let address = app.config.listen;
    let failed = |source| BootError::Listen {
        address: address.to_string(),
        source,
    };
    let socket = listen(address).map_err(failed)?;
    let address = socket.local_addr()?;
    let _first = app.address.set(address);
    let limits = server::Limits {
        connections: (app.config.max_connections / placement.workers).max(1) as usize,
        head: Duration::from_secs(app.config.head_timeout_secs),
    };
    let lost_mails = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { invites::note_lost_mails(&app).await })
    };
    let (stop, stopped) = watch::channel(false);
    let serving = workers::start_workers(&placement, &app, &socket, limits, &exchange, &stopped)?;
    let listener = TcpListener::from_std(socket)?;
    let notes = [
        ("log writer", format!("{}: {}", wal.name, wal.why)),
        ("engine", placement.describe()),
    ];
    banner(&app, address, &prices, &notes).await?;
    let served = serve(&app, listener, limits, &exchange, &stop).await;
    stop.send_replace(true);

    checkpoints.abort();
    lost_mails.abort();
    drop(app);
    if served.is_ok() {
        let drained = async {
            // No more questions come; what was asked is decided, appended, confirmed, answered.
            exchange.close();
            pumping.ended().await;
            if let Some(released) = released {
                let _released = released.await;
            }
            serving.ended().await;
            let _aborted = checkpoints.await;
            // Waits for the disk, so not on this thread.
            if let Some(log) = Arc::into_inner(log) {
                let _closed = tokio::task::spawn_blocking(move || log.close()).await;
            }
        };
        tokio::select! {
            biased;
            why = exchange.failed.wait() => return Err(BootError::LogFailed(why)),
            drained = tokio::time::timeout(CONFIRM, drained) => drained.map_err(|_| {
                BootError::LogFailed(format!(
                    "the disk did not confirm within {} seconds",
                    CONFIRM.as_secs()
                ))
            })?,
        }
        if tokio::time::timeout(LAST_MAIL, mailing).await.is_err() {
            tracing::warn!("some mails were not sent before the stop");
        }
        tracing::info!("stopped; everything answered is durable");
    }
    // A snapshot may be under way on its thread: the directory is free when the process is gone, and
    // not before.
    std::mem::forget(lock);
    served
}

/// Connections that may wait to be accepted. With fewer, a fleet of agents that starts at once finds
/// the door shut, tries again after seconds, and by then goes on without asking.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

async fn serve(
    app: &Arc<App>,
    listener: TcpListener,
    limits: server::Limits,
    exchange: &Exchange,
    stop: &watch::Sender<bool>,
) -> Result<(), BootError> {
    let stopping = {
        let app = Arc::clone(app);
        async move {
            signalled().await;
            tracing::info!("stopping: no new requests, those in flight finish");
            app.stopping
                .store(true, std::sync::atomic::Ordering::Relaxed);
            stop.send_replace(true);
        }
    };
    let router = routes::router(Arc::clone(app));
    tokio::select! {
        () = server::serve(listener, router, limits, stopping) => Ok(()),
        why = exchange.failed.wait() => Err(BootError::LogFailed(why)),
    }
}

/// Waits for SIGTERM or Ctrl-C.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be caught; use Ctrl-C");
            let _interrupted = interrupt.await;
        }
    }
}

/// Time never goes back in the log: with a clock far behind it, nothing would expire and no period
/// would end until the clock has caught up.
fn check_clock(config: &Config, last: Millis) -> Result<(), BootError> {
    let now = clock::now();
    let ahead = last.since(now);
    if ahead > CLOCK_BEHIND_WARN.as_millis() as u64 {
        tracing::warn!(
            clock = clock::rfc3339(now),
            log = clock::rfc3339(last),
            "the clock is behind the log; time stands still here until it has caught up"
        );
    }
    if ahead > CLOCK_BEHIND_MOST.as_millis() as u64 && !config.accept_clock_behind {
        return Err(BootError::ClockBehind {
            clock: clock::rfc3339(now),
            log: clock::rfc3339(last),
        });
    }
    Ok(())
}

/// Says which orgs have a plan that is not in the table: nothing limits them.
fn warn_of_lost_plans(engine: &engine::Engine, plans: &PlanTable) {
    let orgs = engine.directory().into_iter().flat_map(Directory::orgs);
    let mut lost: BTreeMap<&str, u64> = BTreeMap::new();
    for org in orgs.filter(|org| plans.get(&org.plan).is_none()) {
        *lost.entry(&org.plan).or_default() += 1;
    }
    for (plan, organizations) in lost {
        tracing::warn!(
            plan,
            organizations,
            "this plan is not in the table of plans, and nothing limits who has it; give them another \
             with PATCH /api/v1/admin/orgs/{{org_id}}"
        );
    }
}

/// Takes the data directory for this process alone.
fn lock(directory: &Path) -> Result<File, BootError> {
    let failed = |source| BootError::DataDir {
        path: directory.display().to_string(),
        source,
    };
    PlainDisk::at(directory).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(BootError::InUse(directory.display().to_string()))
        }
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The disk of the log, by the backend that was asked for or is best here.
fn wal(config: &Config) -> Result<Choice, BootError> {
    let chosen = |disk, name, why: &str| Choice {
        disk,
        name,
        why: why.to_owned(),
    };
    if config.durability == Durability::Memory {
        return Ok(chosen(disk(config, "wal")?, "memory", "as set"));
    }
    #[cfg(debug_assertions)]
    if config.has_fault("skip-sync") {
        return Ok(chosen(disk(config, "wal")?, "plain", "without its syncs"));
    }
    let path = config.data_dir.join("wal");
    backend::choose(&path, config.wal_backend.into()).map_err(|error| match error {
        Unusable::Glommio(obstacle) => BootError::WalBackend(obstacle),
        Unusable::Directory(source) => BootError::DataDir {
            path: path.display().to_string(),
            source,
        },
    })
}

fn disk(config: &Config, name: &str) -> Result<Arc<dyn Disk>, BootError> {
    if config.durability == Durability::Memory {
        return Ok(Arc::new(MemoryDisk::default()));
    }
    let path = config.data_dir.join(name);
    let failed = |source| BootError::DataDir {
        path: path.display().to_string(),
        source,
    };
    let disk = PlainDisk::at(&path).map_err(failed)?;
    #[cfg(debug_assertions)]
    if config.has_fault("skip-sync") {
        return Ok(Arc::new(crate::unsynced::UnsyncedDisk(disk)));
    }
    Ok(Arc::new(disk))
}

#[cfg(debug_assertions)]
fn switch_faults(config: &Config, engine: &mut engine::Engine) {
    if config.has_fault("no-kill-fence") {
        engine
            .mutations
            .switch_on(engine::mutation::Mutation::LateKill);
    }
}

#[cfg(not(debug_assertions))]
const fn switch_faults(_config: &Config, _engine: &mut engine::Engine) {}

fn report(recovered: &Recovered) {
    for damage in &recovered.damaged {
        tracing::warn!(
            %damage,
            "a snapshot is damaged; the log was replayed from an older one instead"
        );
    }
    let recovery = &recovered.recovery;
    if recovery.cut_bytes > 0 {
        tracing::warn!(
            bytes = recovery.cut_bytes,
            after_lsn = recovery.last_lsn.0,
            "cut an unfinished write off the log; nothing that was answered was in it"
        );
    }
    tracing::info!(
        lsn = recovery.last_lsn.0,
        snapshot = recovered.snapshot.0,
        replayed = recovery.replayed,
        "recovered"
    );
}

/// Says where the gateway is and how to talk to it.
async fn banner(
    app: &App,
    address: SocketAddr,
    prices: &PriceTable,
    notes: &[(&str, String)],
) -> Result<(), BootError> {
    let config = &app.config;
    let durability = match config.durability {
        Durability::Strict => format!("strict, in {}", config.data_dir.display()),
        Durability::Memory => "memory: everything is lost when this process ends".to_owned(),
    };
    let signed = if config.hmac_required() {
        "required"
    } else {
        "optional"
    };
    let mut out = format!(
        "nullrun {} listening on http://{address}\n  durability  {durability}\n  signatures  {signed}\n  prices      {} models, {}\n",
        env!("CARGO_PKG_VERSION"),
        prices.len(),
        prices.source,
    );
    for (what, note) in notes {
        out.push_str(&format!("  {what:<11} {note}\n"));
    }
    let first_start = app.directory().users() == 0;
    if first_start && config.bootstrap == Switch::On && config.env == Environment::Development {
        match bootstrap::account(app, address).await {
            Ok(text) => out.push_str(&text),
            Err(error) => tracing::error!(error = error.message, "no first account was made"),
        }
    } else if first_start {
        out.push_str("  no account yet: POST /api/v1/auth/register makes one\n");
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
