//! What an applied block means in the engine's metrics.

use ledger::Event;
use ledger::state::records::JobRecord;
use types::ids::JobId;
use types::validator::ValidatorSet;

use crate::metrics::Metrics;
use crate::reads;
use crate::wiring::ChainView;

/// Counts what a block did. A record that can't be read costs a sample, nothing else.
pub(crate) fn applied(metrics: &Metrics, before: &ChainView, after: &ChainView, events: &[Event]) {
    metrics.validators.set(i64::try_from(after.set.validators().len()).unwrap_or(i64::MAX));
    metrics.validators_registered.inc_by(missing(&before.set, &after.set));
    metrics.validators_removed.inc_by(missing(&after.set, &before.set));
    for event in events {
        match event {
            Event::ClaimCertified { .. } => metrics.claims.with_label_values(&["approved"]).inc(),
            Event::ClaimRejected { .. } => metrics.claims.with_label_values(&["rejected"]).inc(),
            Event::AttemptVoided { .. } => metrics.claims.with_label_values(&["timeout"]).inc(),
            Event::TaskDeclined { reason, .. } => {
                metrics.declines.with_label_values(&[&format!("{reason:?}").to_lowercase()]).inc();
            }
            Event::TaskAssigned { job, attempt: 0, .. } => {
                if let Some(record) = record(after, job) {
                    let waited = after.head.time_ms.since(record.submitted_ms);
                    metrics.job_queue_seconds.observe(waited as f64 / 1000.0);
                }
            }
            Event::JobEnded { job, .. } => {
                if let Some(record) = record(after, job)
                    && let Some(ended) = record.ended
                {
                    metrics.job_seconds.observe(ended.since(record.submitted_ms) as f64 / 1000.0);
                }
            }
            _ => {}
        }
    }
}

fn record(view: &ChainView, job: &JobId) -> Option<JobRecord> {
    reads::job(view, job).ok().flatten()
}

/// Number of validators of `of` that `among` lacks.
fn missing(among: &ValidatorSet, of: &ValidatorSet) -> u64 {
    of.validators().iter().filter(|v| among.power_of(&v.key).is_none()).count() as u64
}
