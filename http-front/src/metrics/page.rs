//! `GET /api/v1/metrics/prometheus` and `/metrics`: the page that Prometheus reads. It asks no pump
//! and waits for no disk, so that it can be read when these are what is wrong.

use super::process::Process;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::openapi::ErrorBody;
use crate::{clock, hash};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, header};
use persist::latency::Shown;
use persist::{Day, Lsn, Room, retain, segment};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use std::fmt::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use subtle::ConstantTimeEq as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes here.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(metrics))
        .routes(routes!(metrics_where_prometheus_looks))
}

/// Metrics in the text format of Prometheus. Open to callers on the same machine; others need the
/// token of NULLRUN_METRICS_TOKEN as Bearer.
#[utoipa::path(
    get,
    path = "/api/v1/metrics/prometheus",
    operation_id = "metrics",
    tag = "health",
    security((), ("metrics" = [])),
    responses(
        (status = 200, description = "Metrics", body = String, content_type = "text/plain"),
        (status = 401, description = "The token is wrong, or none was sent", body = ErrorBody),
        (status = 403, description = "No token is set here, and the caller is on another machine", body = ErrorBody)
    )
)]
async fn metrics(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let peer = request.extensions().get::<SocketAddr>().copied();
    admit(&app, request.headers(), peer)?;
    // It reads the sizes of files and looks at every organization: not on this thread.
    let text = tokio::task::spawn_blocking(move || text(&app)).await;
    let text = text.ok().flatten().ok_or_else(|| {
        ApiError::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the metrics could not be written down",
        )
    })?;
    Ok(shown(text))
}

/// The same, where Prometheus looks if it is not told.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics_short",
    tag = "health",
    security((), ("metrics" = [])),
    responses(
        (status = 200, description = "Metrics", body = String, content_type = "text/plain"),
        (status = 401, description = "The token is wrong, or none was sent", body = ErrorBody),
        (status = 403, description = "No token is set here, and the caller is on another machine", body = ErrorBody)
    )
)]
async fn metrics_where_prometheus_looks(app: State<Arc<App>>, request: Request) -> ApiResult {
    metrics(app, request).await
}

fn shown(text: String) -> Response {
    let kind = HeaderValue::from_static(CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// May this caller read? What a proxy on this machine passes on comes from another one.
fn admit(app: &App, headers: &HeaderMap, peer: Option<SocketAddr>) -> ApiResult<()> {
    let passed_on = ["forwarded", "x-forwarded-for", "x-real-ip"];
    let passed_on = passed_on.iter().any(|name| headers.contains_key(*name));
    let near = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    if near && !passed_on {
        return Ok(());
    }
    let Some(token) = &app.config.metrics_token else {
        return Err(ApiError::forbidden(
            "metrics_token_not_set",
            "metrics are open on this machine only; set NULLRUN_METRICS_TOKEN to read them from another",
        ));
    };
    let given = headers.get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' '));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Hashes are of one length, whatever is sent.
    let right = given.is_some_and(|(_, given)| {
        let (given, token) = (
            hash::sha256(given.trim().as_bytes()),
            hash::sha256(token.as_bytes()),
        );
        given.ct_eq(&token).into()
    });
    if right {
        return Ok(());
    }
    Err(ApiError::unauthorized(
        "unauthorized",
        "send the metrics token: Authorization: Bearer <NULLRUN_METRICS_TOKEN>",
    ))
}

fn text(app: &Arc<App>) -> Option<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(Arc::clone(app))));
    let mut text = String::new();
    encode(&mut text, &registry).ok()?;
    Some(text)
}

/// All metrics, read when they are asked for.
#[derive(Debug)]
struct Page(Arc<App>);

/// Writes families one after the other.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        write(self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, |mut metric| {
            metric.encode_gauge(&value)
        })
    }

    /// The name gets `_total`.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, |mut metric| {
            count(&mut metric, value)
        })
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, |mut metric| {
            for (labels, value) in values {
                count(&mut metric.encode_family(&labels)?, value)?;
            }
            Ok(())
        })
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: u64) -> Result<(), Error> {
    let exemplar: Option<&Exemplar<NoLabelSet, f64>> = None;
    metric.encode_counter(&value, exemplar)
}

fn histogram(metric: &mut MetricEncoder<'_>, shown: &Shown) -> Result<(), Error> {
    metric.encode_histogram::<NoLabelSet>(shown.sum_secs, shown.count, &shown.buckets, None)
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let app = &self.0;
        let mut out = Out(encoder);
        build(&mut out)?;
        requests(app, &mut out)?;
        queue(app, &mut out)?;
        log(app, &mut out)?;
        money(app, &mut out)?;
        process(&mut out)
    }
}

fn build(out: &mut Out<'_>) -> Result<(), Error> {
    let help = "The version of the gateway; always 1.";
    out.family(
        "nullrun_build_info",
        help,
        MetricType::Gauge,
        |mut metric| {
            let labels = [("version", env!("CARGO_PKG_VERSION"))];
            metric.encode_family(&labels)?.encode_gauge(&1_i64)
        },
    )
}

fn requests(app: &App, out: &mut Out<'_>) -> Result<(), Error> {
    let routes = || app.metrics.requests.used();
    let counts = routes().flat_map(|place| {
        let used = place.classes().filter(|(_, n)| *n > 0);
        used.filter_map(|(class, n)| {
            let (route, method) = place.name()?;
            Some(([("route", route), ("method", method), ("status", class)], n))
        })
    });
    let name = "nullrun_http_requests";
    out.counters(
        name,
        "HTTP requests by route, method and class of status.",
        counts,
    )?;
    let name = "nullrun_http_request_duration_seconds";
    let help = "Time from a request's head to its answer, by route and method.";
    out.family(name, help, MetricType::Histogram, |mut metric| {
        for place in routes() {
            if let Some((route, method)) = place.name() {
                let labels = [("route", route), ("method", method)];
                histogram(
                    &mut metric.encode_family(&labels)?,
                    &place.latency().shown(),
                )?;
            }
        }
        Ok(())
    })?;
    let decisions = app.metrics.all_decisions();
    let decisions = decisions.map(|(endpoint, outcome, reason, n)| {
        let labels = [
            ("endpoint", endpoint),
            ("outcome", outcome),
            ("reason", reason),
        ];
        (labels, n)
    });
    let help = "Decisions by endpoint, outcome and error code.";
    out.counters("nullrun_decisions", help, decisions)?;
    let notes = app.metrics.all_notes();
    let notes = notes.map(|(question, said, n)| ([("question", question), ("said", said)], n));
    let help = "What policies in the shadow, or that flag, said of decisions, by question.";
    out.counters("nullrun_policy_notes", help, notes)
}

fn queue(app: &App, out: &mut Out<'_>) -> Result<(), Error> {
    let (waiting, room) = app.shards.waiting();
    out.gauge(
        "nullrun_queue_commands",
        "Commands that wait for the engine.",
        waiting as f64,
    )?;
    out.gauge(
        "nullrun_queue_capacity_commands",
        "Commands that may wait; questions are refused from three quarters of it.",
        room as f64,
    )?;
    let refusals = app.shards.refusals();
    let refusals = refusals.map(|(reason, n)| ([("reason", reason)], n));
    let help =
        "Questions that got no answer from the engine: the queue was full, or it took too long.";
    out.counters("nullrun_queue_refusals", help, refusals.into_iter())
}

fn log(app: &App, out: &mut Out<'_>) -> Result<(), Error> {
    let (appended, durable) = (app.log.appended_lsn(), app.log.durable_lsn());
    let lag = appended.0.saturating_sub(durable.0);
    out.gauge(
        "nullrun_log_lag_records",
        "Records appended and not yet durable.",
        lag as f64,
    )?;
    let records = |name, help, lsn: Lsn, out: &mut Out<'_>| out.gauge(name, help, lsn.0 as f64);
    records(
        "nullrun_log_appended_lsn",
        "Number of the last record appended.",
        appended,
        out,
    )?;
    records(
        "nullrun_log_durable_lsn",
        "Number of the last durable record.",
        durable,
        out,
    )?;
    let bytes = app.log.appended_bytes();
    let help = "Bytes of records appended since the start.";
    out.counter("nullrun_log_appended_bytes", help, bytes)?;
    let disk = app.rebuild.wal.as_ref();
    // A segment may go while they are counted: then what could be counted is not told.
    if let Ok(bytes) = retain::disk_bytes(disk) {
        let help = "Bytes of all log segments, with what is zeroed ahead.";
        out.gauge("nullrun_log_disk_bytes", help, bytes as f64)?;
    }
    if let Ok(segments) = segment::list(disk) {
        let segments = segments.len() as f64;
        out.gauge("nullrun_log_segments", "Log segments.", segments)?;
    }
    let short = match app.log.room() {
        Room::Plenty => 0.0,
        Room::DiskFull | Room::Quota => 1.0,
    };
    let help = "1 while the log has no room and gates are refused.";
    out.gauge("nullrun_log_full", help, short)?;
    let name = "nullrun_log_sync_duration_seconds";
    let help = "Time to write and sync one frame of the log.";
    let syncs = app.log.sync_times().shown();
    out.family(name, help, MetricType::Histogram, |mut metric| {
        histogram(&mut metric, &syncs)
    })?;
    let snapshots = &app.metrics.snapshots;
    out.counter(
        "nullrun_snapshots_written",
        "Snapshots written since the start.",
        snapshots.written.load(Relaxed),
    )?;
    out.counter(
        "nullrun_snapshots_failed",
        "Snapshots that could not be written since the start.",
        snapshots.failed.load(Relaxed),
    )?;
    out.gauge(
        "nullrun_snapshot_lsn",
        "The last record in the newest snapshot.",
        snapshots.lsn.load(Relaxed) as f64,
    )?;
    out.gauge(
        "nullrun_snapshot_timestamp_seconds",
        "When the newest snapshot was written by this process; 0 for none.",
        snapshots.secs.load(Relaxed) as f64,
    )?;
    out.gauge(
        "nullrun_snapshot_duration_seconds",
        "How long the newest snapshot took.",
        snapshots.micros.load(Relaxed) as f64 / 1e6,
    )?;
    out.gauge(
        "nullrun_events_remembered_since_timestamp_seconds",
        "Events are counted once if they come again within the time since then; 0 for ever.",
        app.dedup.remembered_since() as f64 / 1e3,
    )
}

fn money(app: &App, out: &mut Out<'_>) -> Result<(), Error> {
    let directory = app.directory();
    let figures = &app.publisher.figures;
    let (mut spent, mut held) = (0_i128, 0_i128);
    for org in directory.orgs() {
        let sums = org.shared.money.since(Day(0));
        spent += i128::from(sums.spent.0);
        held += i128::from(sums.held.0);
    }
    let gauges = [
        (
            "nullrun_spent_nanodollars",
            "Booked in all organizations since ever; a correction of a price may lower it.",
            whole(spent),
        ),
        (
            "nullrun_held_nanodollars",
            "Held for calls in flight in all organizations.",
            whole(held),
        ),
        (
            "nullrun_open_holds",
            "Holds that are open.",
            whole(figures.holds() as i128),
        ),
        (
            "nullrun_open_chains",
            "Chains of calls that are not over.",
            whole(figures.chains() as i128),
        ),
        (
            "nullrun_organizations",
            "Organizations.",
            whole(directory.org_count() as i128),
        ),
        (
            "nullrun_workflows",
            "Workflows of all organizations.",
            whole(directory.workflow_count() as i128),
        ),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help, value)?;
    }
    Ok(())
}

/// As exact as a gauge can be; what passes it stops there.
fn whole(value: i128) -> i64 {
    i64::try_from(value.max(i64::MIN.into())).unwrap_or(i64::MAX)
}

fn process(out: &mut Out<'_>) -> Result<(), Error> {
    let process = Process::now();
    let gauges = [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            process.resident_bytes,
        ),
        (
            "process_open_fds",
            "Number of open file descriptors.",
            process.open_fds,
        ),
        (
            "process_max_fds",
            "Maximum number of open file descriptors.",
            process.max_fds,
        ),
        (
            "nullrun_clock_timestamp_seconds",
            "The gateway's clock.",
            Some(clock::now().secs()),
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            out.gauge(name, help, value as f64)?;
        }
    }
    Ok(())
}
