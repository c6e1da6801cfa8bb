//! From settings to a running gateway, and back to a clean stop.

use crate::app::App;
use crate::config::{BadConfig, Config, Durability, Environment, Switch};
use crate::seal::{SealError, Sealer};
use crate::shards::{self, Durable, Failure, Shards};
use crate::{bootstrap, checkpoint, hash, routes, server};
use engine::price::PriceTable;
use engine::pump::Pump;
use engine::recover::{Rebuild, Recovered};
use persist::disk::{Disk, MemoryDisk, PlainDisk};
use persist::log::Options;
use persist::{Log, LogId, Nanos};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

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
    #[error(
        "cannot use the data directory {path}: {source}. Set NULLRUN_DATA_DIR to a directory this user can write."
    )]
    DataDir {
        /// Which.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
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
    /// The price file in the build.
    #[error(transparent)]
    Prices(#[from] engine::price::BadTable),
    /// A write or sync failed while running.
    #[error(
        "the log failed and nothing more can be made durable: {0}. The gateway has stopped so that \
         no answer is lost; check the disk, then start it again: it recovers from what is there."
    )]
    LogFailed(String),
    /// The process cannot have what it needs.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Time that the disk has at the end to confirm what was written.
const CONFIRM: Duration = Duration::from_secs(10);

/// Bytes one remembered event takes in memory, about.
const DEDUP_KEY_BYTES: usize = 22;

/// Runs the gateway until it is told to stop.
pub async fn run(config: Config) -> Result<(), BootError> {
    config.check()?;
    for name in Config::unknown_variables() {
        tracing::warn!(
            name,
            "this variable means nothing to the gateway; is it misspelt?"
        );
    }
    let prices = Arc::new(PriceTable::built_in()?);
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
    let rebuild = Rebuild {
        wal: disk(&config, "wal")?,
        snapshots: disk(&config, "snapshots")?,
        prices: Arc::clone(&prices),
        settings: engine::Settings {
            floor: Nanos::from_cents(i64::from(config.hold_floor_cents)),
            dedup_keys: ((config.dedup_memory as usize) << 20) / DEDUP_KEY_BYTES,
            ..engine::Settings::default()
        },
    };
    let options = Options {
        segment_bytes: config.segment_bytes,
    };
    let new_log = LogId(u128::from_le_bytes(hash::random()));
    let recovered = rebuild.open(options, new_log)?;
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

    let bell = Arc::new(Notify::new());
    let failed = Arc::new(Failure::default());
    let listener = Durable {
        bell: Arc::clone(&bell),
        failed: Arc::clone(&failed),
    };
    let log = Arc::new(Log::start(writer, listener)?);
    let pump = Pump::new(engine, recovery.last_lsn);
    let (shards, queue) = Shards::new(config.queue_depth as usize);
    let app = Arc::new(App {
        shards,
        directory: pump.published(),
        remembered_since: pump.remembered_since(),
        sealer,
        secrets: Default::default(),
        signatures: Default::default(),
        logins: Default::default(),
        rebuild: rebuild.clone(),
        verifying: Arc::new(Semaphore::new(1)),
        stopping: false.into(),
        config,
    });
    let pump = tokio::spawn(shards::run(
        pump,
        Arc::clone(&log),
        queue,
        bell,
        Arc::clone(&failed),
    ));
    let checkpoints = tokio::spawn(checkpoint::run(
        rebuild,
        Arc::clone(&log),
        recovery.log,
        snapshot,
        replayed_bytes,
        app.config.snapshot_bytes,
    ));

    let address = app.config.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| BootError::Listen {
            address: address.to_string(),
            source,
        })?;
    let address = listener.local_addr()?;
    banner(&app, address, &prices).await?;
    let served = serve(&app, listener, &failed).await;

    // Every `Shards` must go for the pump to end.
    checkpoints.abort();
    drop(app);
    if served.is_ok() {
        let drained = async {
            let _ended = pump.await;
            let _aborted = checkpoints.await;
            // Waits for the disk, so not on this thread.
            if let Some(log) = Arc::into_inner(log) {
                let _closed = tokio::task::spawn_blocking(move || log.close()).await;
            }
        };
        tokio::select! {
            biased;
            why = failed.wait() => return Err(BootError::LogFailed(why)),
            drained = tokio::time::timeout(CONFIRM, drained) => drained.map_err(|_| {
                BootError::LogFailed(format!(
                    "the disk did not confirm within {} seconds",
                    CONFIRM.as_secs()
                ))
            })?,
        }
        tracing::info!("stopped; everything answered is durable");
    }
    drop(lock);
    served
}

async fn serve(app: &Arc<App>, listener: TcpListener, failed: &Failure) -> Result<(), BootError> {
    let stop = {
        let app = Arc::clone(app);
        async move {
            signalled().await;
            tracing::info!("stopping: no new requests, those in flight finish");
            app.stopping
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let limits = server::Limits {
        connections: app.config.max_connections as usize,
        head: Duration::from_secs(app.config.head_timeout_secs),
    };
    let router = routes::router(Arc::clone(app));
    tokio::select! {
        () = server::serve(listener, router, limits, stop) => Ok(()),
        why = failed.wait() => Err(BootError::LogFailed(why)),
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
    for file in &recovered.damaged_snapshots {
        tracing::warn!(
            file,
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
    address: std::net::SocketAddr,
    prices: &PriceTable,
) -> Result<(), BootError> {
    let config = &app.config;
    let durability = match config.durability {
        Durability::Strict => format!(
            "strict (write + fdatasync in {})",
            config.data_dir.display()
        ),
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
