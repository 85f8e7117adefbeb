//! What the prover is doing: stages with their times, the last ones taken from the spans that the proving library opens.
//!
//! A subscriber for the calling thread alone turns span names into [`Stage`]s; the node's own log is not touched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bincode::{Decode, Encode};
use serde::Serialize;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};

/// What a proof goes through, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Tables that all proofs share are being made; only the first time, or after a rest.
    Warming,
    /// The program runs.
    Running,
    /// The run is brought into the prover's form.
    Adapting,
    /// The trace is written.
    Trace,
    /// The trace is committed to.
    TraceCommitment,
    /// The interaction trace is written.
    Interaction,
    /// The interaction trace is committed to.
    InteractionCommitment,
    /// The composition polynomial is computed and committed to.
    Composition,
    /// Columns are evaluated out of their domain.
    Openings,
    /// Quotients for the low-degree test.
    Quotients,
    /// The low-degree test's layers.
    Fri,
    /// Proof of work.
    ProofOfWork,
    /// The proof is checked and packed.
    Verifying,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 13] = [
        Self::Warming,
        Self::Running,
        Self::Adapting,
        Self::Trace,
        Self::TraceCommitment,
        Self::Interaction,
        Self::InteractionCommitment,
        Self::Composition,
        Self::Openings,
        Self::Quotients,
        Self::Fri,
        Self::ProofOfWork,
        Self::Verifying,
    ];

    /// The stage's name in JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warming => "warming",
            Self::Running => "running",
            Self::Adapting => "adapting",
            Self::Trace => "trace",
            Self::TraceCommitment => "trace_commitment",
            Self::Interaction => "interaction",
            Self::InteractionCommitment => "interaction_commitment",
            Self::Composition => "composition",
            Self::Openings => "openings",
            Self::Quotients => "quotients",
            Self::Fri => "fri",
            Self::ProofOfWork => "proof_of_work",
            Self::Verifying => "verifying",
        }
    }

    /// Per cent of a typical warm proof that is done when the stage begins, for a progress bar.
    pub const fn percent_before(self) -> u8 {
        match self {
            Self::Warming | Self::Running => 0,
            Self::Adapting => 1,
            Self::Trace => 2,
            Self::TraceCommitment => 13,
            Self::Interaction => 25,
            Self::InteractionCommitment => 42,
            Self::Composition => 55,
            Self::Openings => 69,
            Self::Quotients => 71,
            Self::Fri => 80,
            Self::ProofOfWork => 82,
            Self::Verifying => 98,
        }
    }

    /// The stage that a span of the libraries stands for.
    fn of_span(name: &str) -> Option<Self> {
        Some(match name {
            "Composition" => Self::Composition,
            "Evaluate columns out of domain" => Self::Openings,
            "Compute FRI quotients" => Self::Quotients,
            "commit" => Self::Fri,
            "Grind" => Self::ProofOfWork,
            _ => return None,
        })
    }
}

/// Milliseconds per stage. A stage lasts until the next one begins, so the sum is the whole time.
pub type PhasesMs = Vec<(Stage, u64)>;

/// Who is told about stages.
pub type Observer = Box<dyn FnMut(Stage) + Send>;

/// Follows one proof. Cloning gives another handle on the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Mutex<Inner>>);

struct Inner {
    observer: Observer,
    current: Option<(Stage, Instant)>,
    spent: PhasesMs,
}

impl Clock {
    /// A clock that reports each stage to `observer` when it begins.
    pub fn new(observer: Observer) -> Self {
        Self(Arc::new(Mutex::new(Inner { observer, current: None, spent: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of an observer leaves nothing half-done here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the current stage and begins another.
    pub fn enter(&self, stage: Stage) {
        let mut inner = self.lock();
        if inner.current.is_some_and(|(current, _)| current == stage) {
            return;
        }
        inner.leave();
        inner.current = Some((stage, Instant::now()));
        (inner.observer)(stage);
    }

    /// Ends the last stage; the times in order of appearance.
    pub fn finish(&self) -> PhasesMs {
        let mut inner = self.lock();
        inner.leave();
        std::mem::take(&mut inner.spent)
    }

    /// Runs `work` while the libraries' spans on this thread move the clock on.
    pub(crate) fn follow<T>(&self, work: impl FnOnce() -> T) -> T {
        let subscriber = SpanNames { clock: self.clone(), next: AtomicU64::new(1), open: Mutex::default() };
        tracing::dispatcher::with_default(&Dispatch::new(subscriber), work)
    }
}

impl Inner {
    fn leave(&mut self) {
        if let Some((stage, since)) = self.current.take() {
            let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            match self.spent.iter_mut().find(|(known, _)| *known == stage) {
                Some((_, total)) => *total = total.saturating_add(ms),
                None => self.spent.push((stage, ms)),
            }
        }
    }
}

/// A subscriber to the few spans that stand for stages.
struct SpanNames {
    clock: Clock,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Stage>>,
}

impl Subscriber for SpanNames {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && Stage::of_span(metadata.name()).is_some()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        // Zero is no id; the counter starts at one and a run opens far fewer spans than there are numbers.
        let id = self.next.fetch_add(1, Ordering::Relaxed).max(1);
        if let Some(stage) = Stage::of_span(span.metadata().name()) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stage);
        }
        Id::from_u64(id)
    }

    fn enter(&self, span: &Id) {
        let stage = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&span.into_u64()).copied();
        if let Some(stage) = stage {
            self.clock.enter(stage);
        }
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn event(&self, _event: &Event<'_>) {}
    fn exit(&self, _span: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_become_stages_in_order() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let clock = Clock::new(Box::new(move |stage| sink.lock().unwrap().push(stage)));
        clock.enter(Stage::Running);
        clock.follow(|| {
            let _outer = tracing::info_span!("prove_ex").entered();
            tracing::info_span!("Composition").in_scope(|| tracing::info_span!("Generation").in_scope(|| ()));
            tracing::info_span!("Compute FRI quotients").in_scope(|| ());
            tracing::info_span!("Grind").in_scope(|| ());
        });
        clock.enter(Stage::Verifying);
        let expected = [Stage::Running, Stage::Composition, Stage::Quotients, Stage::ProofOfWork, Stage::Verifying];
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(clock.finish().iter().map(|(stage, _)| *stage).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn progress_never_goes_back() {
        let all = Stage::ALL.map(Stage::percent_before);
        assert!(all.is_sorted());
    }
}
