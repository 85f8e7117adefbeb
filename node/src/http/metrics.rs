//! What the edge counts, and `/metrics`: the node's and the edge's metrics in one valid text.
//!
//! Labels are bounded: methods are those of the module or `other`, outcomes and statuses are closed lists.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use super::refusal::Refusal;
use super::{Edge, node_metrics, openmetrics};
use crate::system;

/// Completed jobs remembered for the count of the last hour.
const COMPLETED_MAX: usize = 100_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Metrics of the edge.
pub(crate) struct EdgeMetrics {
    registry: Registry,
    /// Calls by method and outcome.
    pub(crate) calls: IntCounterVec,
    /// Time of calls by method.
    pub(crate) call_seconds: HistogramVec,
    /// Open connections.
    pub(crate) connections: IntGauge,
    /// Connections closed because all were in use.
    pub(crate) connections_refused: IntCounter,
    /// Connections closed to give their place to an address that has fewer.
    pub(crate) connections_replaced: IntCounter,
    /// Subscriptions now.
    pub(crate) subscribers: IntGauge,
    /// Subscriptions ended because their reader was too slow.
    pub(crate) subscribers_lagged: IntCounter,
    /// Blobs taken.
    pub(crate) blobs_uploaded: IntCounter,
    /// Their bytes.
    pub(crate) blob_bytes_uploaded: IntCounter,
    /// Time from a submission's arrival to its answer.
    pub(crate) submission_seconds: Histogram,
    /// Jobs that reached an end, by status, as seen since the start.
    pub(crate) jobs: IntCounterVec,
    /// Jobs that failed, as seen since the start.
    pub(crate) jobs_failed: IntCounter,
    unsent: IntGauge,
    buckets: IntGauge,
    memory: IntGauge,
    open_files: IntGauge,
    completed: Mutex<VecDeque<Instant>>,
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

impl EdgeMetrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When two have one name.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let call_seconds = HistogramVec::new(
            HistogramOpts::new("rpc_request_duration_seconds", "Time of JSON-RPC calls by method.")
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0]),
            &["method"],
        )?;
        r.register(Box::new(call_seconds.clone()))?;
        let submission_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "job_submission_duration_seconds",
                "Time from a job submission's arrival to its answer, which is its block when all is well.",
            )
            .buckets(vec![0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]),
        )?;
        r.register(Box::new(submission_seconds.clone()))?;
        Ok(Self {
            calls: counters(r, "rpc_requests_total", "JSON-RPC calls by method and outcome.", &["method", "outcome"])?,
            call_seconds,
            connections: gauge(r, "rpc_connections", "Open connections of the RPC listener.")?,
            connections_refused: counter(
                r,
                "rpc_connections_refused_total",
                "Connections closed because all that their address may have were in use.",
            )?,
            connections_replaced: counter(
                r,
                "rpc_connections_replaced_total",
                "Connections closed to give their place to an address that has fewer.",
            )?,
            unsent: gauge(r, "rpc_unsent_bytes", "Bytes of answers that are being made or wait to be sent.")?,
            subscribers: gauge(r, "websocket_subscribers_total", "Subscriptions now; a gauge despite its name.")?,
            subscribers_lagged: counter(
                r,
                "websocket_subscribers_lagged_total",
                "Subscriptions ended because their reader was too slow.",
            )?,
            blobs_uploaded: counter(r, "rpc_blobs_uploaded_total", "Blobs taken by PUT /v1/blobs.")?,
            blob_bytes_uploaded: counter(r, "rpc_blob_bytes_uploaded_total", "Bytes of blobs taken.")?,
            submission_seconds,
            jobs: counters(r, "jobs_total", "Jobs that reached an end, by status, seen since the start.", &["status"])?,
            jobs_failed: counter(r, "jobs_failed_total", "Jobs that failed, seen since the start.")?,
            buckets: gauge(r, "rate_limiter_active_buckets", "Client addresses that the rate limiter remembers.")?,
            memory: gauge(r, "process_resident_memory_bytes", "Resident memory of the node, children not counted.")?,
            open_files: gauge(r, "process_open_fds", "Open file descriptors.")?,
            completed: Mutex::default(),
            registry,
        })
    }

    /// Notes the end of a job.
    pub(crate) fn job_ended(&self, status: &str) {
        self.jobs.with_label_values(&[status]).inc();
        if status == "failed" {
            self.jobs_failed.inc();
        }
        if status == "completed" {
            let mut completed = self.completed.lock().unwrap_or_else(PoisonError::into_inner);
            if completed.len() >= COMPLETED_MAX {
                completed.pop_front();
            }
            completed.push_back(Instant::now());
        }
    }

    /// Jobs completed within the last hour, as seen since the start.
    pub(crate) fn completed_last_hour(&self) -> usize {
        let mut completed = self.completed.lock().unwrap_or_else(PoisonError::into_inner);
        while completed.front().is_some_and(|at| at.elapsed() > HOUR) {
            completed.pop_front();
        }
        completed.len()
    }

    fn text(&self, edge: &Edge) -> prometheus::Result<String> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.buckets.set(number(u64::try_from(edge.addresses.len()).unwrap_or(u64::MAX)));
        self.unsent.set(number(u64::try_from(edge.unsent.bytes()).unwrap_or(u64::MAX)));
        self.memory.set(number(system::memory().used_mb << 20));
        self.open_files.set(number(system::open_files()));
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        String::from_utf8(out).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(edge): State<Arc<Edge>>) -> Response {
    let own = edge.metrics.text(&edge).map_err(|e| Refusal::new("internal", e.to_string()));
    let node = node_metrics::text(&edge).await.map_err(|e| Refusal::new("internal", e.to_string()));
    let texts = match own.and_then(|own| node.map(|node| own + &node)) {
        Ok(own) => edge.engine.metrics_text().await.map(|texts| (own, texts)).map_err(Refusal::from),
        Err(refusal) => Err(refusal),
    };
    match texts {
        Err(refusal) => refusal.into_response(),
        Ok((own, (engine, network))) => {
            let mut response = Response::new(Body::from(openmetrics::merge(&[&engine, &network, &own])));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
    }
}
