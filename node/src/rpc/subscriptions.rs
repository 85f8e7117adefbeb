//! Subscriptions, fed by the engine's events. A reader that is too slow is told how much it missed and let go: it asks for
//! the present state and subscribes again, instead of being given an ever older past.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use engine::api::views::{Event, EventView};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{PendingSubscriptionSink, RpcModule, SubscriptionMessage, SubscriptionSink};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use types::ids::JobId;

use super::RegisterError;
use super::params::Arguments;
use crate::http::Edge;

/// Longest wait for a place in a connection's queue before its reader counts as too slow.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Ended jobs remembered, so that none is counted twice.
const ENDED_REMEMBERED: usize = 256;

/// Registers `chain_subscribeHeads` and `job_subscribe`.
///
/// # Errors
/// When two have one name.
pub(super) fn register(module: &mut RpcModule<Edge>) -> Result<(), RegisterError> {
    module.register_subscription(
        "chain_subscribeHeads",
        "chain_head",
        "chain_unsubscribeHeads",
        |params, pending, edge, _| async move {
            match Arguments::read(params.as_str(), &[]) {
                Ok(_) => feed(pending, edge, head_of).await,
                Err(refusal) => pending.reject(ErrorObjectOwned::from(refusal)).await,
            }
        },
    )?;
    module.register_subscription(
        "job_subscribe",
        "job_event",
        "job_unsubscribe",
        |params, pending, edge, _| async move {
            let job = Arguments::read(params.as_str(), &["job_id"])
                .and_then(|mut arguments| arguments.optional::<JobId>("job_id", "64 lower-case hex digits"));
            match job {
                Ok(job) => feed(pending, edge, move |event| job_of(event, job)).await,
                Err(refusal) => pending.reject(ErrorObjectOwned::from(refusal)).await,
            }
        },
    )?;
    Ok(())
}

fn head_of(event: &EventView) -> Option<Value> {
    match &event.event {
        Event::Head(head) => serde_json::to_value(head).ok(),
        Event::Job(_) | Event::Verdict { .. } => None,
    }
}

fn job_of(event: &EventView, wanted: Option<JobId>) -> Option<Value> {
    let job = match &event.event {
        Event::Head(_) => return None,
        Event::Job(job) => job.job_id,
        Event::Verdict { job_id, .. } => *job_id,
    };
    if wanted.is_some_and(|wanted| wanted != job) {
        return None;
    }
    serde_json::to_value(event).ok()
}

/// Sends what `pick` takes from the events until reader or node end.
async fn feed(pending: PendingSubscriptionSink, edge: Arc<Edge>, pick: impl Fn(&EventView) -> Option<Value> + Send) {
    let events = edge.engine.subscribe();
    let Ok(sink) = pending.accept().await else { return };
    edge.metrics.subscribers.inc();
    if let Some(missed) = run(&sink, events, pick).await {
        edge.metrics.subscribers_lagged.inc();
        // The last word, if there is room for it: the reader may be gone or still too slow.
        notify(&sink, &json!({ "type": "lagged", "missed": missed })).await;
    }
    edge.metrics.subscribers.dec();
}

/// Ends with the number of events missed when the reader is too slow, else with nothing.
async fn run(
    sink: &SubscriptionSink,
    mut events: Receiver<EventView>,
    pick: impl Fn(&EventView) -> Option<Value>,
) -> Option<u64> {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = sink.closed() => return None,
        };
        match event {
            Ok(event) => {
                if let Some(value) = pick(&event)
                    && !notify(sink, &value).await
                {
                    return Some(u64::try_from(events.len()).unwrap_or(u64::MAX));
                }
            }
            Err(RecvError::Lagged(missed)) => return Some(missed),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// Queues a notification; false when there was no room for too long, or the reader is gone.
async fn notify(sink: &SubscriptionSink, value: &Value) -> bool {
    let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), value);
    match message {
        Ok(message) => sink.send_timeout(message, SEND_TIMEOUT).await.is_ok(),
        Err(_) => false,
    }
}

/// Keeps the count of ended jobs from the node's events until they end.
pub(crate) async fn count_jobs(edge: Arc<Edge>) {
    let mut events = edge.engine.subscribe();
    // A job is told again when its receipt becomes ready; it ended once.
    let mut counted: VecDeque<JobId> = VecDeque::new();
    loop {
        match events.recv().await {
            Ok(EventView { event: Event::Job(job), .. })
                if job.status.is_terminal() && !counted.contains(&job.job_id) =>
            {
                if counted.len() >= ENDED_REMEMBERED {
                    counted.pop_front();
                }
                counted.push_back(job.job_id);
                let name = serde_json::to_value(job.status).unwrap_or_default();
                edge.metrics.job_ended(name.as_str().unwrap_or("unknown"));
            }
            // Counts are of what was seen; the ledger has the truth.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
