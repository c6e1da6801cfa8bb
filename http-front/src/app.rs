//! What every handler can reach.

use crate::config::Config;
use crate::error::ApiError;
use crate::mail::Mailer;
use crate::manage::auth::oauth::Providers;
use crate::metrics::Metrics;
use crate::seal::Sealer;
use crate::shards::{Shards, Unanswered};
use crate::sign_in::{Cookies, Csrf, LoginGuard, MailGuard, Secrets, SignatureTable};
use engine::command::{Command, KeyView, OrgView, Outcome, Reply, WorkflowView};
use engine::dedup::Dedup;
use engine::directory::Directory;
use engine::manage::Refusal;
use engine::plan::PlanTable;
use engine::pump::Publisher;
use engine::recover::Rebuild;
use http::StatusCode;
use persist::{KeyId, Log, Lsn, OrgId, WorkflowId};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
    pub publisher: Arc<Publisher>,
    /// The log, for its room.
    pub log: Arc<Log>,
    /// Seals secrets.
    pub sealer: Sealer,
    /// Opened secrets of keys in use.
    pub secrets: Secrets,
    /// Signatures seen, by path.
    pub signatures: SignatureTable,
    /// Failed logins.
    pub logins: LoginGuard,
    /// Mails that were asked for.
    pub mails: MailGuard,
    /// CSRF tokens.
    pub csrf: Csrf,
    /// The cookies of browsers.
    pub cookies: Cookies,
    /// Providers to sign in through.
    pub providers: Providers,
    /// What each plan has.
    pub plans: Arc<PlanTable>,
    /// The address listened on, once it is.
    pub address: OnceLock<SocketAddr>,
    /// Sends mail.
    pub mailer: Mailer,
    /// For verifying the ledger from the log.
    pub rebuild: Rebuild,
    /// One verification at a time: it reads the whole log.
    pub verifying: Arc<Semaphore>,
    /// Counted events, for how far back they reach.
    pub dedup: Arc<Dedup>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The gateway is stopping.
    pub stopping: AtomicBool,
}

/// Reads and changes by people wait this long at most.
const PATIENCE: Duration = Duration::from_secs(10);

impl App {
    /// The durable directory at this moment.
    #[must_use]
    pub fn directory(&self) -> arc_swap::Guard<Arc<Directory>> {
        self.publisher.load()
    }

    /// Where browsers find this gateway, without a slash at the end.
    #[must_use]
    pub fn public_url(&self) -> String {
        match &self.config.public_url {
            Some(url) => url.trim().trim_end_matches('/').to_owned(),
            None => {
                let address = self.address.get().unwrap_or(&self.config.listen);
                format!("http://{}", reachable(*address))
            }
        }
    }

    /// Is the gateway stopping?
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// An org's whole ledger, and up to which LSN each pump's part of it goes.
    pub async fn org(&self, org: OrgId) -> Result<(Box<OrgView>, Vec<Lsn>), ApiError> {
        let asked = self.shards.ask_all(|| Command::ReadOrg { org }, PATIENCE);
        let replies = asked.await.map_err(unanswered)?;
        let mut whole: Option<Box<OrgView>> = None;
        let mut as_of = Vec::with_capacity(replies.len());
        for reply in replies {
            as_of.push(reply.as_of);
            match (reply.outcome, &mut whole) {
                (Outcome::Org(part), Some(whole)) => whole.join(*part),
                (Outcome::Org(part), None) => whole = Some(part),
                (Outcome::Refused(refusal), _) => return Err(refused(refusal)),
                _ => return Err(ApiError::not_found("organization")),
            }
        }
        let whole = whole.ok_or_else(|| ApiError::not_found("organization"))?;
        Ok((whole, as_of))
    }

    /// Some workflows of an org, in the order of their ids given.
    pub async fn workflows(
        &self,
        org: OrgId,
        ids: Vec<WorkflowId>,
    ) -> Result<Vec<WorkflowView>, ApiError> {
        let layout = self.shards.layout();
        let mut views = Vec::with_capacity(ids.len());
        for pump in 0..layout.pumps {
            let here = |id: &&WorkflowId| layout.pump_of(id.slot(org)) == pump;
            let ids: Vec<_> = ids.iter().filter(here).copied().collect();
            if ids.is_empty() {
                continue;
            }
            let reply = self.call(Command::ReadWorkflows { org, ids }).await?;
            if let Outcome::Workflows(part) = reply.outcome {
                views.extend(part);
            }
        }
        let place = |id: WorkflowId| ids.iter().position(|one| *one == id);
        views.sort_by_key(|view| place(view.entry.id));
        Ok(views)
    }

    /// Some keys of an org, in the order of their ids given.
    pub async fn keys(&self, org: OrgId, ids: Vec<KeyId>) -> Result<Vec<KeyView>, ApiError> {
        let layout = self.shards.layout();
        let mut views = Vec::with_capacity(ids.len());
        for pump in 0..layout.pumps {
            let directory = self.directory();
            let of = |id: &KeyId| {
                let workflow = directory.key(*id)?.workflow?;
                Some(layout.pump_of(workflow.slot(org)))
            };
            let here = ids.iter().filter(|id| of(id).unwrap_or(0) == pump);
            let here: Vec<_> = here.copied().collect();
            drop(directory);
            if here.is_empty() {
                continue;
            }
            let command = Command::ReadKeys { org, ids: here };
            if let Outcome::Keys(part) = self.call_pump(pump, command).await?.outcome {
                views.extend(part);
            }
        }
        let place = |id: KeyId| ids.iter().position(|one| *one == id);
        views.sort_by_key(|view| place(view.entry.id));
        Ok(views)
    }

    /// Asks the engine for a read or a change; anything but a success is an error for the wire.
    pub async fn call(&self, command: Command) -> Result<Reply, ApiError> {
        self.call_pump(self.shards.pump_of(&command), command).await
    }

    /// The same of one pump, about its part of the whole. What changes something gets through when
    /// questions are refused for load.
    pub async fn call_pump(&self, pump: u32, command: Command) -> Result<Reply, ApiError> {
        let answered = match command {
            Command::SetState { .. }
            | Command::Manage(_)
            | Command::Release { .. }
            | Command::Reprice { .. } => self.shards.insist_at(pump, command, PATIENCE).await,
            _ => self.shards.ask_at(pump, command, PATIENCE).await,
        };
        let reply = answered.map_err(unanswered)?;
        match reply.outcome {
            Outcome::Refused(refusal) => Err(refused(refusal)),
            _ => Ok(reply),
        }
    }
}

/// The address at which this machine itself finds what listens on `address`.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v4.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port()))
        }
        known => known,
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

/// The wire's word for a wrong password, or one that was right a moment ago.
#[must_use]
pub fn wrong_credentials() -> ApiError {
    ApiError::unauthorized("invalid_credentials", "address or password is wrong")
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
        Refusal::Forbidden(message) => ApiError::forbidden("forbidden", message),
        Refusal::OldPassword => wrong_credentials(),
        Refusal::Limit {
            code,
            resource,
            current,
            limit,
        } => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            code,
            format!(
                "the plan allows {limit} {resource} and there are {current}; remove one, or ask for \
                 another plan"
            ),
        )
        .with("resource", resource)
        .with("current", current)
        .with("limit", limit),
        Refusal::Feature {
            feature,
            plan,
            plans,
        } => {
            let others = match plans.as_slice() {
                [] => "no plan here has it".to_owned(),
                plans => format!("it is in {}", plans.join(", ")),
            };
            ApiError::forbidden(
                "plan_feature_missing",
                format!("the plan {plan} does not have {feature}; {others}"),
            )
            .with("feature", feature)
            .with("plan", plan)
            .with("plans", plans)
        }
    }
}
