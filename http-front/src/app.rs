//! What every handler can reach.

use crate::config::Config;
use crate::error::ApiError;
use crate::seal::Sealer;
use crate::shards::{Shards, Unanswered};
use crate::sign_in::{LoginGuard, Secrets, SignatureTable};
use arc_swap::ArcSwap;
use engine::command::{Command, Outcome, Reply};
use engine::directory::Directory;
use engine::manage::Refusal;
use engine::recover::Rebuild;
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The gateway's shared state.
#[derive(Debug)]
pub struct App {
    /// Settings.
    pub config: Config,
    /// The way to the engine.
    pub shards: Shards,
    /// The durable directory.
    pub directory: Arc<ArcSwap<Directory>>,
    /// Seals secrets.
    pub sealer: Sealer,
    /// Opened secrets of keys in use.
    pub secrets: Secrets,
    /// Signatures seen, by path.
    pub signatures: SignatureTable,
    /// Failed logins.
    pub logins: LoginGuard,
    /// For verifying the ledger from the log.
    pub rebuild: Rebuild,
    /// One verification at a time: it reads the whole log.
    pub verifying: Arc<Semaphore>,
    /// Since when counted events are remembered (milliseconds); 0: none was forgotten.
    pub remembered_since: Arc<AtomicU64>,
    /// The gateway is stopping.
    pub stopping: AtomicBool,
}

/// Reads and changes by people wait this long at most.
const PATIENCE: Duration = Duration::from_secs(10);

impl App {
    /// The durable directory at this moment.
    #[must_use]
    pub fn directory(&self) -> arc_swap::Guard<Arc<Directory>> {
        self.directory.load()
    }

    /// Is the gateway stopping?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Asks the engine for a read or a change; anything but a success is an error for the wire.
    pub async fn call(&self, command: Command) -> Result<Reply, ApiError> {
        let answered = match command {
            Command::SetState { .. } | Command::Manage(_) => {
                self.shards.insist(command, PATIENCE).await
            }
            _ => self.shards.ask(command, PATIENCE).await,
        };
        let reply = answered.map_err(unanswered)?;
        match reply.outcome {
            Outcome::Refused(refusal) => Err(refused(refusal)),
            _ => Ok(reply),
        }
    }
}

/// The wire's word for no answer.
#[must_use]
pub fn unanswered(why: Unanswered) -> ApiError {
    match why {
        Unanswered::Overloaded => ApiError::unavailable(
            "overloaded",
            "too many requests wait; try again in a second",
        ),
        Unanswered::TooLate => ApiError::unavailable(
            "deadline_exceeded",
            "no durable answer in time; the change may or may not have been made, look before repeating it",
        ),
        Unanswered::Stopping => ApiError::unavailable(
            "shutting_down",
            "the gateway is stopping; try again in a moment",
        ),
    }
}

/// The wire's word for a refusal.
#[must_use]
pub fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::NotFound(what) => ApiError::not_found(what),
        Refusal::Conflict { code, message } => ApiError::new(StatusCode::CONFLICT, code, message),
        Refusal::Invalid {
            code,
            field,
            message,
        } => ApiError::new(StatusCode::BAD_REQUEST, code, message).with("field", field),
        Refusal::WrongState(message) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", message)
        }
    }
}
