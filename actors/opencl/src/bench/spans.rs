//! The phases of stwo's own prove function, taken from the spans that it opens on the calling thread. Owns which span is
//! which phase; the names are those of the device's phases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// Times by phase.
pub(super) type Times = BTreeMap<&'static str, Duration>;

/// The phase of a span.
fn phase_of(span: &str) -> Option<&'static str> {
    Some(match span {
        "Generation" => "constraints",
        "Commitment" | "Interpolation for commitment" => "commit",
        "Evaluate columns out of domain" => "out-of-domain",
        "Compute FRI quotients" => "quotients",
        // The method that commits to FRI's layers is instrumented under its own name.
        "commit" => "fri",
        "Grind" => "proof-of-work",
        _ => return None,
    })
}

#[derive(Default)]
struct State {
    known: BTreeMap<u64, &'static str>,
    /// The spans that are entered, the outermost first: it alone counts.
    entered: Vec<(u64, Instant)>,
    times: Times,
    /// When the proof of work was found: what follows are the openings.
    found: Option<Instant>,
}

#[derive(Clone)]
struct Spans(Arc<(Mutex<State>, AtomicU64)>);

impl Spans {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && phase_of(metadata.name()).is_some()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        // Zero is no id.
        let id = self.0.1.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(phase) = phase_of(span.metadata().name()) {
            self.state().known.insert(id, phase);
        }
        Id::from_u64(id)
    }

    fn enter(&self, span: &Id) {
        self.state().entered.push((span.into_u64(), Instant::now()));
    }

    fn exit(&self, span: &Id) {
        let mut state = self.state();
        let Some((id, since)) = state.entered.pop() else { return };
        if !state.entered.is_empty() || id != span.into_u64() {
            return;
        }
        let Some(phase) = state.known.get(&id).copied() else { return };
        *state.times.entry(phase).or_default() += since.elapsed();
        if phase == "proof-of-work" {
            state.found = Some(Instant::now());
        }
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn event(&self, _event: &Event<'_>) {}
}

/// Runs `work` and gives the times of the phases in it.
pub(super) fn follow<T>(work: impl FnOnce() -> T) -> (T, Times) {
    let spans = Spans(Arc::default());
    let value = tracing::dispatcher::with_default(&Dispatch::new(spans.clone()), work);
    let mut state = spans.state();
    if let Some(found) = state.found {
        state.times.insert("decommit", found.elapsed());
    }
    let times = std::mem::take(&mut state.times);
    drop(state);
    (value, times)
}
