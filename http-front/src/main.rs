//! The NullRun gateway. `nullrun --help` lists the settings; `README.md` says how to use it.

#[cfg(debug_assertions)]
mod answers;
mod app;
mod boot;
mod bootstrap;
mod checkpoint;
mod clock;
mod config;
mod description;
mod error;
mod hash;
mod log_tool;
mod mail;
mod manage;
mod metrics;
mod openapi;
mod password;
mod placement;
mod plans;
mod pumps;
mod request;
mod routes;
mod sdk;
mod seal;
mod server;
mod shards;
mod sign_in;
mod text;
mod trace;
#[cfg(debug_assertions)]
mod unsynced;
mod workers;

use clap::Parser as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = config::Config::parse();
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // A broken invariant must not go on serving: whatever thread it is found in, the process ends.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        std::process::abort();
    }));
    if let Some(config::Tool::Log { tool }) = &config.tool {
        return match log_tool::run(tool, &config.data_dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the event loop");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(boot::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            // Blocking threads may wait for a disk that never answers.
            runtime.shutdown_background();
            ExitCode::FAILURE
        }
    }
}
