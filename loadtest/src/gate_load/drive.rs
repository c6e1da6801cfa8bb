//! The asking: connections opened once, driven for one stretch after another.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::Mutex;

use super::{Measured, Subject};
use crate::client::{Brief, Caller, Connection, Endpoint, Protocol, SdkKey};
use crate::error::{Error, Result};
use crate::identity::Dice;
use crate::wire::{Ask, GateTemplate};

/// The route that is measured.
pub const GATE: &str = "/api/v1/gate";
/// The no-op route it is compared with.
pub const FLOOR: &str = "/floor";
/// Output tokens of one gate: a tenth of a cent.
pub(super) const GATE_TOKENS: i64 = 200;

/// Opened connections and who they speak for.
#[derive(Debug)]
pub struct Drive {
    /// Empty while a stretch runs.
    connections: Mutex<Vec<Connection>>,
    key: SdkKey,
    template: GateTemplate,
    rate_per_s: Option<f64>,
}

impl Drive {
    /// Opens `connections` connections.
    pub async fn open(
        endpoint: &Endpoint,
        subject: &Subject,
        connections: usize,
        rate_per_s: Option<f64>,
    ) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..connections.max(1) {
            let mut connection = Connection::new(endpoint);
            connection.open().await?;
            all.push(connection);
        }
        let ask = Ask {
            operation_id: String::new(),
            organization_id: subject.org.clone(),
            max_output_tokens: GATE_TOKENS,
        };
        Ok(Self {
            connections: Mutex::new(all),
            key: subject.key.clone(),
            template: GateTemplate::of(&ask),
            rate_per_s,
        })
    }

    /// Asks `path` for `duration` with the same signed bodies whatever the route.
    pub async fn run(
        &self,
        path: &'static str,
        duration: Duration,
        dice: &mut Dice,
    ) -> Result<Measured> {
        self.run_until(path, Limit::Time(duration), dice).await
    }

    /// Asks `path` exactly `requests` times (rounded up to a multiple of the connections).
    pub async fn run_count(
        &self,
        path: &'static str,
        requests: u64,
        dice: &mut Dice,
    ) -> Result<Measured> {
        self.run_until(path, Limit::Requests(requests), dice).await
    }

    async fn run_until(
        &self,
        path: &'static str,
        limit: Limit,
        dice: &mut Dice,
    ) -> Result<Measured> {
        let mut connections = self.connections.lock().await;
        let count = connections.len();
        let seed = dice.between(0, u64::MAX);
        let started = Instant::now();
        let mut workers = Vec::with_capacity(count);
        for (number, connection) in connections.drain(..).enumerate() {
            let worker = Worker {
                connection,
                key: self.key.clone(),
                template: self.template.clone(),
                path,
                dice: Dice::for_worker(seed, number as u64),
                pace: self
                    .rate_per_s
                    .map(|rate| Pace::new(started, rate, number, count)),
                measured: Measured::default(),
            };
            let share = match limit {
                Limit::Time(duration) => Share::Until(started + duration),
                Limit::Requests(requests) => Share::Requests(requests.div_ceil(count as u64)),
            };
            workers.push(tokio::spawn(worker.work(share)));
        }
        let mut sum = Measured::default();
        for worker in workers {
            let done = worker.await.map_err(|error| {
                Error::Usage(format!("a worker of the harness failed: {error}"))
            })?;
            let (measured, connection) = done?;
            sum.absorb_parallel(measured);
            connections.push(connection);
        }
        sum.took = started.elapsed();
        Ok(sum)
    }
}

#[derive(Clone, Copy)]
enum Limit {
    Time(Duration),
    Requests(u64),
}

enum Share {
    Until(Instant),
    Requests(u64),
}

/// The schedule of one connection in an open loop.
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    fn new(started: Instant, rate_per_s: f64, number: usize, count: usize) -> Self {
        let step = Duration::from_secs_f64(count as f64 / rate_per_s.max(0.001));
        Self {
            next: started + step.mul_f64(number as f64 / count as f64),
            step,
        }
    }

    /// Waits for the next scheduled moment and returns it; a moment already past is returned at once.
    async fn moment(&mut self) -> Instant {
        let moment = self.next;
        self.next += self.step;
        tokio::time::sleep_until(moment.into()).await;
        moment
    }
}

struct Worker {
    connection: Connection,
    key: SdkKey,
    template: GateTemplate,
    path: &'static str,
    dice: Dice,
    pace: Option<Pace>,
    measured: Measured,
}

impl Worker {
    async fn work(mut self, share: Share) -> Result<(Measured, Connection)> {
        let mut asked = 0;
        loop {
            let over = match share {
                Share::Until(end) => Instant::now() >= end,
                Share::Requests(requests) => asked >= requests,
            };
            if over {
                return Ok((self.measured, self.connection));
            }
            let scheduled = match &mut self.pace {
                Some(pace) => Some(pace.moment().await),
                None => None,
            };
            self.ask(scheduled).await?;
            asked += 1;
        }
    }

    async fn ask(&mut self, scheduled: Option<Instant>) -> Result<()> {
        let body = Bytes::from(self.template.body(&self.dice.uuid()));
        let caller = Caller::Signed(&self.key, Protocol::V4);
        let prepared = self
            .connection
            .prepare(Method::POST, self.path, caller, Some(body))?;
        let since = scheduled.unwrap_or_else(Instant::now);
        let outcome = self.connection.exchange(prepared).await;
        let latency = since.elapsed();
        match outcome {
            Ok((200, _, raw)) if self.path == GATE => self.decision(&raw, latency),
            Ok((status, _, _)) if self.path != GATE && (200..300).contains(&status) => {
                self.measured.answer(latency)
            }
            Ok((status, _, raw)) => self.measured.error(|| {
                format!(
                    "{status} {}",
                    String::from_utf8_lossy(&raw)
                        .chars()
                        .take(300)
                        .collect::<String>()
                )
            }),
            Err(error) => self.measured.error(|| error.to_string()),
        }
        Ok(())
    }

    fn decision(&mut self, raw: &[u8], latency: Duration) {
        match serde_json::from_slice::<Brief>(raw) {
            Ok(brief) if brief.decision == "allow" && brief.reservation_id.is_some() => {
                self.measured.answer(latency);
                self.measured.allowed += 1;
            }
            Ok(brief) if brief.decision == "block" => {
                self.measured.answer(latency);
                self.measured.blocked += 1;
            }
            _ => self
                .measured
                .error(|| format!("not a decision: {}", String::from_utf8_lossy(raw))),
        }
    }
}
