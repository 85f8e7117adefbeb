//! The inside of a worker that proves on a device: opens the device, tests it, and then answers like any other worker.
//!
//! Programs do not run here, see `trace`. What reaches this process of a stranger's job is the statement and the adapted
//! run, both decoded under bounds; what it may touch is in [`super::sandbox::enter_device`].

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::engine::{Engine, ProveError, Proven};
use crate::error::DeviceFault;
use crate::memory;
use crate::stages::Clock;
use crate::worker::child::{self, Report, Writer, begin, send};
use crate::worker::keep_memory;
use crate::worker::sandbox::{self, Reach};
use crate::worker::trace::{Tracer, TracerConfig};
use crate::worker::wire::{self, Kernels, ProveBody, Pulse, Refusal, Request, Response};

/// How a process that drives a device is set up.
#[derive(Clone, Debug, Default)]
pub struct DeviceProcess {
    /// What its driver needs of the file system.
    pub reach: Reach,
    /// Arguments with which the own binary becomes the child that runs programs; the kind's name is added.
    pub tracer: Vec<OsString>,
    /// Variables for that child's environment, which is empty otherwise.
    pub tracer_environment: Vec<(OsString, OsString)>,
}

/// What the device is doing. Asked from a thread of its own, also while the driver hangs: the answer must wait for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// A number that changes while the device's work goes on.
    pub progress: u64,
    /// Whether a compiler is at work.
    pub compiling: bool,
    /// Whether somebody waits for a call of the driver.
    pub waiting: bool,
}

/// An open device that has passed its self-test.
pub struct Opened<B> {
    /// Makes the proofs.
    pub backend: B,
    /// What it is doing.
    pub activity: Box<dyn Fn() -> Activity + Send>,
    /// Runs once, in a thread of its own, when the node wants the tables made ahead.
    pub compile: Compile,
}

/// Compiles what proofs will need and says how many programs that are. Its error, in words, disables the device.
pub type Compile = Box<dyn FnOnce(&Ahead) -> Result<u32, String> + Send>;

/// What work that nobody waits for goes by.
pub struct Ahead {
    work: Arc<Work>,
    writer: Writer,
}

impl Ahead {
    /// Whether the next piece may be begun: not while a request is in work.
    pub fn may_go(&self) -> bool {
        !self.work.busy.load(Ordering::Relaxed)
    }

    /// Tells the node how many of all programs are ready.
    pub fn tell(&self, ready: u32, all: u32) {
        // Without a node this process ends anyway.
        let _ = send(&self.writer, &Response::Kernels(Kernels::Compiling { ready, all }));
    }

    /// Compiles in a thread of the lowest priority, and tells the node how it ended.
    fn start(self, compile: Compile) -> io::Result<()> {
        let work = move || {
            sandbox::step_back();
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| compile(&self)));
            let kernels = match done {
                Ok(Ok(all)) => Kernels::Ready { all },
                Ok(Err(detail)) => Kernels::Refused { detail: crate::error::shorten(&detail) },
                Err(panic) => {
                    let panic: Box<dyn std::any::Any + Send> = panic;
                    let detail = format!("compiling kernels: {}", crate::runner::panic_text(&panic));
                    Kernels::Refused { detail: crate::error::shorten(&detail) }
                }
            };
            let _ = send(&self.writer, &Response::Kernels(kernels));
        };
        std::thread::Builder::new().name("kernels".into()).spawn(work).map(drop)
    }
}

/// How often the node is told what the device does.
const PULSE: Duration = Duration::from_secs(5);

/// The whole life of a worker that proves on a device. Call it first thing in `main`, before any thread is started. `open`
/// opens the device and tests it; its error, in words, is what the node is told.
pub fn device_main<B: Backend>(setup: &DeviceProcess, open: impl FnOnce() -> Result<Opened<B>, String>) -> ! {
    // A compiler may be at work in another thread: its library's own end must not race with it.
    child::end_at_once(run(setup, open))
}

/// What the request in work is, for the thread that tells the node.
#[derive(Debug, Default)]
struct Work {
    busy: AtomicBool,
    /// What a stage of the proof is expected to take, in milliseconds; zero when nothing is known.
    expected_ms: AtomicU64,
}

/// Tells the node what goes on while there is a request in work: one stage may take minutes, and the node must be able to
/// tell that from a driver that hangs.
fn beat(writer: Writer, work: Arc<Work>, activity: Box<dyn Fn() -> Activity + Send>) -> io::Result<()> {
    let beating = move || {
        let mut last = activity().progress;
        loop {
            std::thread::sleep(PULSE);
            let now = activity();
            let pulse = match now {
                Activity { progress, .. } if progress != last => Pulse::Progress,
                Activity { compiling: true, .. } => Pulse::Compiling,
                Activity { waiting: true, .. } => {
                    Pulse::Waiting { expected_ms: work.expected_ms.load(Ordering::Relaxed) }
                }
                Activity { .. } => Pulse::Host,
            };
            last = now.progress;
            // Nobody reads between two requests.
            if work.busy.load(Ordering::Relaxed) && send(&writer, &Response::Alive(pulse)).is_err() {
                // The node is gone, and this process goes with it.
                return;
            }
        }
    };
    std::thread::Builder::new().name("pulse".into()).spawn(beating).map(drop)
}

/// How fast the device is, as far as it is known: the shared tables are a commitment to a known number of cells, so what they
/// took per cell is what a stage of a proof may take per cell. That is enough to tell seconds from minutes.
#[derive(Debug, Default)]
struct Pace {
    warm_up: Duration,
}

impl Pace {
    /// Makes the shared tables, if they are not there, and measures it.
    fn warm_up<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        make: impl FnOnce(&mut Engine<B>) -> Result<(), ProveError>,
    ) -> Result<(), Refusal> {
        let (since, was_warm) = (Instant::now(), engine.is_warm());
        child::guarded(|| make(engine)).map_err(tables_fault)?;
        if !was_warm {
            self.warm_up = since.elapsed();
        }
        Ok(())
    }

    /// What a stage of a proof over so many cells is expected to take, in milliseconds.
    fn expected_ms(&self, cells: u64) -> u64 {
        let nanoseconds = self.warm_up.as_nanos().saturating_mul(u128::from(cells)) / u128::from(memory::SHARED_CELLS);
        u64::try_from(nanoseconds / 1_000_000).unwrap_or(u64::MAX)
    }
}

fn run<B: Backend>(setup: &DeviceProcess, open: impl FnOnce() -> Result<Opened<B>, String>) -> io::Result<()> {
    let mut begun = begin()?;
    keep_memory();
    let own = sandbox::enter_device(&begun.bounds, &setup.reach)?;
    begun.check_parent()?;
    let writer = begun.writer.clone();
    // Before the driver: what it opens and maps shall not pass through the start of another process.
    let (mut tracer, programs) = Tracer::start(TracerConfig {
        arguments: setup.tracer.clone(),
        environment: setup.tracer_environment.clone(),
        bounds: begun.bounds,
        threads: begun.threads,
    })?;
    begun.start_threads()?;
    tracing::debug!(?own, ?programs, "sandboxes of the device's process and of the programs'");
    let work = Arc::new(Work::default());
    let (mut engine, mut compile) = match open() {
        Ok(Opened { backend, activity, compile }) => {
            beat(writer.clone(), Arc::clone(&work), activity)?;
            (Engine::with(backend), Some(compile))
        }
        Err(detail) => {
            return send(&writer, &Response::Refused(Refusal::Device(DeviceFault::failed(detail).shortened())));
        }
    };
    send(&writer, &Response::Ready(programs))?;
    let mut pace = Pace::default();
    while let Some(request) = wire::read::<Request>(&mut begun.reader)? {
        if matches!(request, Request::WarmUp)
            && let Some(compile) = compile.take()
        {
            Ahead { work: Arc::clone(&work), writer: writer.clone() }.start(compile)?;
        }
        work.busy.store(true, Ordering::Relaxed);
        let response = match request {
            Request::WarmUp => match pace.warm_up(&mut engine, Engine::warm_up) {
                Ok(()) => Response::Warm,
                Err(refusal) => Response::Refused(refusal),
            },
            Request::Prove(body) => match prove(&mut engine, &mut tracer, body, &writer, (&mut pace, &work))? {
                Ok(proven) => Response::Proven(Box::new(proven.into())),
                Err(refusal) => Response::Refused(refusal),
            },
            Request::Execute { .. } | Request::Inspect { .. } => {
                Response::Refused(Refusal::Internal { detail: "this worker only proves".into() })
            }
        };
        work.busy.store(false, Ordering::Relaxed);
        work.expected_ms.store(0, Ordering::Relaxed);
        send(&writer, &response)?;
    }
    Ok(())
}

/// A shortage or a panic in this process says nothing about the job: that is a matter of the device.
fn device_fault(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Resources { detail, .. } => Refusal::Device(DeviceFault::Failed { detail }),
        other => other,
    }
}

/// A device that can't hold the tables of all proofs is good for none, whatever the job.
fn tables_fault(refusal: Refusal) -> Refusal {
    match device_fault(refusal) {
        Refusal::Device(DeviceFault::TooLarge { detail }) => Refusal::Device(DeviceFault::Failed { detail }),
        other => other,
    }
}

fn prove<B: Backend>(
    engine: &mut Engine<B>,
    tracer: &mut Tracer,
    body: Box<ProveBody>,
    writer: &Writer,
    (pace, work): (&mut Pace, &Work),
) -> io::Result<Result<Proven, Refusal>> {
    let (statement, prover, memory_limit) = body.outline();
    let report = Report::new(writer);
    let clock = Clock::new(report.observer());
    let result = pace.warm_up(engine, |engine| engine.make_warm(&clock)).and_then(|()| {
        let traced = tracer.trace(body, memory_limit.unwrap_or(u64::MAX), &clock)?;
        work.expected_ms.store(pace.expected_ms(traced.cells()), Ordering::Relaxed);
        child::guarded(|| engine.prove_traced(&statement, &prover, traced, memory_limit, &clock)).map_err(device_fault)
    });
    report.check()?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_takes_follows_from_what_the_tables_took() {
        let pace = Pace { warm_up: Duration::from_millis(500) };
        assert_eq!(pace.expected_ms(memory::SHARED_CELLS), 500);
        assert_eq!(pace.expected_ms(16 * memory::SHARED_CELLS), 8_000);
        assert_eq!(Pace::default().expected_ms(1 << 40), 0, "nothing is known");
    }
}
