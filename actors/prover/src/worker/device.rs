//! The inside of a worker that proves on a device: opens the device, tests it, and then answers like any other worker.
//!
//! Programs do not run here, see `trace`. What reaches this process of a stranger's job is the statement and the adapted
//! run, both decoded under bounds; what it may touch is in [`super::sandbox::enter_device`].

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use crate::backend::Backend;
use crate::engine::{Engine, Proven};
use crate::stages::Clock;
use crate::worker::child::{self, Report, Writer, begin, send};
use crate::worker::keep_memory;
use crate::worker::sandbox::{self, Reach};
use crate::worker::trace::{Tracer, TracerConfig};
use crate::worker::wire::{self, ProveBody, Refusal, Request, Response};

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

/// How often the device's progress is looked at.
const PULSE: Duration = Duration::from_secs(10);

/// The whole life of a worker that proves on a device. Call it first thing in `main`, before any thread is started. `open`
/// opens the device and tests it; its error, in words, is what the node is told. It gives the backend, and a number that
/// changes while the device's work goes on: one stage may take minutes when its kernels are compiled for the first time,
/// and the node must be able to tell that from a driver that hangs.
pub fn device_main<B: Backend, P: Fn() -> u64 + Send + 'static>(
    setup: &DeviceProcess,
    open: impl FnOnce() -> Result<(B, P), String>,
) -> ! {
    child::end(run(setup, open))
}

/// Tells the node now and then that work goes on, as long as it does.
fn beat(writer: Writer, progress: impl Fn() -> u64 + Send + 'static) -> io::Result<()> {
    let beating = move || {
        let mut last = progress();
        loop {
            std::thread::sleep(PULSE);
            let now = progress();
            if now != last && send(&writer, &Response::Alive).is_err() {
                // The node is gone, and this process goes with it.
                return;
            }
            last = now;
        }
    };
    std::thread::Builder::new().name("pulse".into()).spawn(beating).map(drop)
}

fn run<B: Backend, P: Fn() -> u64 + Send + 'static>(
    setup: &DeviceProcess,
    open: impl FnOnce() -> Result<(B, P), String>,
) -> io::Result<()> {
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
    let mut engine = match open() {
        Ok((backend, progress)) => {
            beat(writer.clone(), progress)?;
            Engine::with(backend)
        }
        Err(detail) => {
            return send(&writer, &Response::Refused(Refusal::Device { detail: crate::error::shorten(&detail) }));
        }
    };
    send(&writer, &Response::Ready(programs))?;
    while let Some(request) = wire::read::<Request>(&mut begun.reader)? {
        let response = match request {
            Request::WarmUp => match child::guarded(|| engine.warm_up()) {
                Ok(()) => Response::Warm,
                Err(refusal) => Response::Refused(tables_fault(refusal)),
            },
            Request::Prove(body) => match prove(&mut engine, &mut tracer, body, &writer)? {
                Ok(proven) => Response::Proven(Box::new(proven.into())),
                Err(refusal) => Response::Refused(refusal),
            },
            Request::Execute { .. } | Request::Inspect { .. } => {
                Response::Refused(Refusal::Internal { detail: "this worker only proves".into() })
            }
        };
        send(&writer, &response)?;
    }
    Ok(())
}

/// A shortage or a panic in this process says nothing about the job: that is a matter of the device.
fn device_fault(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Resources { detail, .. } => Refusal::Device { detail },
        other => other,
    }
}

/// A device that can't hold the tables of all proofs is good for none, whatever the job.
fn tables_fault(refusal: Refusal) -> Refusal {
    match device_fault(refusal) {
        Refusal::DeviceMemory { detail } => Refusal::Device { detail },
        other => other,
    }
}

fn prove<B: Backend>(
    engine: &mut Engine<B>,
    tracer: &mut Tracer,
    body: Box<ProveBody>,
    writer: &Writer,
) -> io::Result<Result<Proven, Refusal>> {
    let (statement, prover, memory_limit) = body.outline();
    let report = Report::new(writer);
    let clock = Clock::new(report.observer());
    let result = child::guarded(|| engine.make_warm(&clock)).map_err(tables_fault).and_then(|()| {
        let traced = tracer.trace(body, memory_limit.unwrap_or(u64::MAX), &clock)?;
        child::guarded(|| engine.prove_traced(&statement, &prover, traced, memory_limit, &clock)).map_err(device_fault)
    });
    report.check()?;
    Ok(result)
}
