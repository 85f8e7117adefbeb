//! What ran: kernels, bytes moved, work done on the host, and the time of each phase of a proof. Owns the counters and
//! the strict mode; relies on nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, raise};

/// Totals since the runtime was opened; take differences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Kernels started.
    pub kernels: u64,
    /// Copies to the device, none of which waits for it.
    pub writes: u64,
    /// Bytes copied to the device.
    pub bytes_to_device: u64,
    /// Bytes copied from the device.
    pub bytes_to_host: u64,
    /// Copies from the device, each of which waits for it.
    pub reads: u64,
    /// Reads of one element of a longer column.
    pub element_reads: u64,
    /// Pieces of work done on the host because there was no kernel for them.
    pub host_fallbacks: u64,
}

impl Counters {
    /// Both together.
    fn plus(&self, other: &Self) -> Self {
        Self {
            kernels: self.kernels + other.kernels,
            writes: self.writes + other.writes,
            bytes_to_device: self.bytes_to_device + other.bytes_to_device,
            bytes_to_host: self.bytes_to_host + other.bytes_to_host,
            reads: self.reads + other.reads,
            element_reads: self.element_reads + other.element_reads,
            host_fallbacks: self.host_fallbacks + other.host_fallbacks,
        }
    }

    /// Half of each: what one of two equal pieces of work did.
    pub(crate) fn halved(&self) -> Self {
        Self {
            kernels: self.kernels / 2,
            writes: self.writes / 2,
            bytes_to_device: self.bytes_to_device / 2,
            bytes_to_host: self.bytes_to_host / 2,
            reads: self.reads / 2,
            element_reads: self.element_reads / 2,
            host_fallbacks: self.host_fallbacks / 2,
        }
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            kernels: self.kernels - earlier.kernels,
            writes: self.writes - earlier.writes,
            bytes_to_device: self.bytes_to_device - earlier.bytes_to_device,
            bytes_to_host: self.bytes_to_host - earlier.bytes_to_host,
            reads: self.reads - earlier.reads,
            element_reads: self.element_reads - earlier.element_reads,
            host_fallbacks: self.host_fallbacks - earlier.host_fallbacks,
        }
    }
}

/// The counters, shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) kernels: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) bytes_to_device: AtomicU64,
    pub(super) bytes_to_host: AtomicU64,
    pub(super) reads: AtomicU64,
    element_reads: AtomicU64,
    host_fallbacks: AtomicU64,
    strict: AtomicBool,
}

impl Tally {
    pub(super) fn snapshot(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            kernels: get(&self.kernels),
            writes: get(&self.writes),
            bytes_to_device: get(&self.bytes_to_device),
            bytes_to_host: get(&self.bytes_to_host),
            reads: get(&self.reads),
            element_reads: get(&self.element_reads),
            host_fallbacks: get(&self.host_fallbacks),
        }
    }

    pub(super) fn set_strict(&self, strict: bool) {
        self.strict.store(strict, Ordering::Relaxed);
    }

    fn forbid(&self, what: impl FnOnce() -> String) {
        if self.strict.load(Ordering::Relaxed) {
            raise(Error::Strict(what()));
        }
    }

    /// Notes work that the host does in the device's place; forbidden in strict mode.
    pub(super) fn host_fallback(&self, what: &str) {
        self.host_fallbacks.fetch_add(1, Ordering::Relaxed);
        self.forbid(|| format!("{what} on the host"));
    }

    /// Notes the read of one element of a column of `len` elements; forbidden in strict mode unless it is the only one.
    pub(super) fn element_read(&self, len: usize) {
        if len > 1 {
            self.element_reads.fetch_add(1, Ordering::Relaxed);
            self.forbid(|| format!("one element read from a column of {len}"));
        }
    }
}

/// Time per phase, by name, in the order of the names.
pub type PhaseTimes = BTreeMap<&'static str, Duration>;

/// What a phase cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseCost {
    /// Time, the wait for the device included.
    pub time: Duration,
    /// What was started and moved, by all threads of the process.
    pub counters: Counters,
}

type PhaseWatcher = Box<dyn Fn(&'static str)>;

thread_local! {
    static PHASES: RefCell<BTreeMap<&'static str, PhaseCost>> = const { RefCell::new(BTreeMap::new()) };
    static WATCHER: RefCell<Option<PhaseWatcher>> = const { RefCell::new(None) };
}

fn note(name: &'static str, start: Instant, counters: Counters) {
    PHASES.with_borrow_mut(|phases| {
        let cost = phases.entry(name).or_default();
        cost.time += start.elapsed();
        cost.counters = cost.counters.plus(&counters);
    });
}

/// Tells this thread's watcher that a phase begins.
fn watched(name: &'static str) {
    WATCHER.with_borrow(|watcher| {
        if let Some(watcher) = watcher {
            watcher(name);
        }
    });
}

static EXACT: AtomicBool = AtomicBool::new(true);

/// Whether phases wait for the device at their end, as they do from the start: without it the device never runs dry between
/// them, but their times are those of the host.
pub fn set_exact_phases(exact: bool) {
    EXACT.store(exact, Ordering::Relaxed);
}

/// Runs `work` as part of the phase `name` of this thread's proof; its time, the wait for the device included (see
/// [`set_exact_phases`]), and what it started are added to that phase. Phases do not nest.
pub fn phase<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    watched(name);
    let runtime = super::runtime();
    let (start, before) = (Instant::now(), runtime.counters());
    let value = work();
    if EXACT.load(Ordering::Relaxed) {
        runtime.finish();
    }
    note(name, start, runtime.counters().since(&before));
    value
}

/// As [`phase`], for work on the host only: the device, which may be lost, is not waited for.
pub fn host_phase<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    watched(name);
    let start = Instant::now();
    let value = work();
    note(name, start, Counters::default());
    value
}

/// Runs `work` while `watcher` is told the name of each of this thread's phases when it begins.
pub(crate) fn watch_phases<T>(watcher: impl Fn(&'static str) + 'static, work: impl FnOnce() -> T) -> T {
    /// Ends the watch, also when `work` panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WATCHER.set(None);
        }
    }
    WATCHER.set(Some(Box::new(watcher)));
    let _end = End;
    work()
}

/// The times since [`reset_phases`] on this thread.
#[must_use]
pub fn phase_times() -> PhaseTimes {
    phase_costs().into_iter().map(|(name, cost)| (name, cost.time)).collect()
}

/// The costs since [`reset_phases`] on this thread.
#[must_use]
pub fn phase_costs() -> BTreeMap<&'static str, PhaseCost> {
    PHASES.with_borrow(Clone::clone)
}

/// Starts this thread's phases again.
pub fn reset_phases() {
    PHASES.with_borrow_mut(BTreeMap::clear);
}
