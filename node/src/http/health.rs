//! `/health`, `/health/ready`, `/health/live`: what probes and people ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use types::job::JobStatus;

use super::Edge;
use super::refusal::json_response;
use crate::system;

/// Jobs counted at most for `pending_jobs`.
const PENDING_COUNT_MAX: u32 = 100;
/// Longest wait for the node's own answer about itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Everything about the node's health: 503 only when unhealthy.
pub(super) async fn health(State(edge): State<Arc<Edge>>) -> Response {
    let now = unix_ms();
    let view = tokio::time::timeout(ANSWER_TIMEOUT, edge.engine.health()).await;
    let (status, components) = match view {
        Ok(view) => {
            let components: Vec<Value> = view
                .components
                .iter()
                .map(|c| {
                    json!({
                        "name": c.name,
                        "status": c.status,
                        "message": c.message,
                        "response_time_ms": c.response_time_ms,
                        "last_check": now,
                    })
                })
                .collect();
            (view.status, components)
        }
        Err(_) => ("unhealthy".to_string(), vec![]),
    };
    let memory = system::memory();
    let worker = tokio::time::timeout(ANSWER_TIMEOUT, edge.engine.prover_status()).await;
    let active_workers = matches!(worker, Ok(Ok(status)) if status.worker_pid.is_some());
    let running = edge.engine.jobs(None, Some(JobStatus::Running), None, PENDING_COUNT_MAX);
    let pending = tokio::time::timeout(ANSWER_TIMEOUT, running).await;
    let pending = match pending {
        Ok(Ok((jobs, _))) => Value::from(jobs.len()),
        _ => Value::Null,
    };
    let body = json!({
        "status": status,
        "timestamp": now,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": edge.started.elapsed().as_secs(),
        "components": components,
        "metrics": {
            "memory_used_mb": memory.used_mb,
            "memory_total_mb": memory.total_mb,
            "memory_usage_percent": memory.percent(),
            "active_workers": u32::from(active_workers),
            "pending_jobs": pending,
            "completed_jobs_1h": edge.metrics.completed_last_hour(),
        },
    });
    json_response(if status == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, &body)
}

/// Whether the node follows consensus and can serve.
pub(super) async fn ready(State(edge): State<Arc<Edge>>) -> Response {
    let reason = match tokio::time::timeout(ANSWER_TIMEOUT, edge.engine.health()).await {
        Ok(view) => view.not_ready,
        Err(_) => Some(format!("the node did not answer within {} s", ANSWER_TIMEOUT.as_secs())),
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_response(status, &json!({ "ready": reason.is_none(), "reason": reason }))
}

/// Whether the process answers at all.
pub(super) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "alive": true }))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
