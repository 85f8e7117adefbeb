//! The inside of a worker: reads requests from the private descriptor, answers on it, and does nothing else.

use std::any::Any;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Engine, ProveError, ProveRequest};
use crate::error::shorten;
use crate::execute::{ExecuteRequest, execute};
use crate::inspect::inspect;
use crate::stages::Stage;
use crate::worker::Kind;
use crate::worker::sandbox::{self, Bounds, Sandbox};
use crate::worker::wire::{self, Refusal, Request, Response};

/// Names of the variables by which the parent passes bounds. Everything else of its environment stays with it.
pub(crate) const ENV_MEMORY: &str = "PROOFMESH_WORKER_MEMORY_BYTES";
pub(crate) const ENV_CPU: &str = "PROOFMESH_WORKER_CPU_S";
pub(crate) const ENV_NICE: &str = "PROOFMESH_WORKER_NICE";
/// Read by the thread pool itself, and by those that the proving library makes.
pub(crate) const ENV_THREADS: &str = "RAYON_NUM_THREADS";
pub(crate) const ENV_PARENT: &str = "PROOFMESH_WORKER_PARENT";

/// Exit code of a worker whose parent closed the descriptor.
const EXIT_DONE: i32 = 0;
/// Exit code of a worker that could not start or lost its parent.
const EXIT_BROKEN: i32 = 70;

/// Runs a worker until its parent closes the private descriptor. Never returns.
pub(crate) fn main(kind: Kind) -> ! {
    match run(kind) {
        Ok(()) => std::process::exit(EXIT_DONE),
        Err(error) => {
            let _ = writeln!(io::stderr(), "worker: {error}");
            std::process::exit(EXIT_BROKEN);
        }
    }
}

fn number<T: std::str::FromStr>(name: &'static str) -> io::Result<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name} is missing: workers are started by the node, not by hand"),
        )
    })
}

/// Closes what the node was started with and handed on: only the three standard descriptors are meant for a child.
fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    #[allow(unsafe_code, reason = "there is no safe interface that closes descriptors that nobody owns")]
    // SAFETY: called first of all, when this process has opened nothing itself, so no descriptor here has an owner. A kernel
    // without the call leaves them open; no program can use them then either, see the sandbox.
    unsafe {
        libc::close_range(FIRST, libc::c_uint::MAX, 0);
    }
}

fn run(kind: Kind) -> io::Result<()> {
    close_inherited();
    let bounds = Bounds { memory: number(ENV_MEMORY)?, cpu_seconds: number(ENV_CPU).ok(), nice: number(ENV_NICE)? };
    let (threads, parent): (usize, i32) = (number(ENV_THREADS)?, number(ENV_PARENT)?);
    // Both handles are made now: afterwards even copying a descriptor is refused.
    let mut reader = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let writer = Arc::new(Mutex::new(reader.try_clone()?));
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(io::stderr(), "{}", shorten(&info.to_string()));
    }));
    if kind == Kind::Prove {
        keep_memory();
    }
    let landlock = sandbox::enter(&bounds)?;
    // The death signal counts from now on; a parent that died before would never send it.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the parent is gone"));
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build_global().map_err(io::Error::other)?;
    // Threads start lazily inside the pool: one round through it makes sure that all of them are there.
    rayon::broadcast(|_| ());
    let seccomp = sandbox::lock_down(kind == Kind::Prove);
    send(&writer, &Response::Ready(Sandbox { landlock, seccomp }))?;
    let mut engine = Engine::new();
    while let Some(request) = wire::read::<Request>(&mut reader)? {
        let response = answer(kind, &mut engine, request, &writer)?;
        send(&writer, &response)?;
    }
    Ok(())
}

/// Keeps all blocks inside the process instead of handing them back after each proof: page faults are a sixth of a small
/// proof's time. No block is mapped by itself: the threshold for that can't be set higher than the trees' layers are long.
/// Huge pages were measured, too: a tenth of the faults, but more time in the kernel, which clears and compacts. All threads
/// share one arena: what one frees another can take, which on two cores saves 3 % of a small proof's memory and 7 % of a
/// large one's.
pub(crate) fn keep_memory() {
    const NEVER: i32 = i32::MAX;
    #[allow(unsafe_code, reason = "the C library's allocator is set through its C interface")]
    // SAFETY: mallopt only sets numbers of the allocator; no other thread exists yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Hands back what is free inside the process after all: between phases that need their memory in other pieces.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the C library's allocator is told through its C interface")]
    // SAFETY: malloc_trim only returns free pages; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

type Writer = Arc<Mutex<File>>;

fn send(writer: &Writer, response: &Response) -> io::Result<()> {
    wire::write(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner), response)
}

fn answer(kind: Kind, engine: &mut Engine, request: Request, writer: &Writer) -> io::Result<Response> {
    Ok(match (kind, request) {
        (Kind::Prove, Request::WarmUp) => match engine.warm_up() {
            Ok(()) => Response::Warm,
            Err(error) => Response::Refused(error.into()),
        },
        (Kind::Prove, Request::Prove(body)) => {
            let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
            let result = engine.prove(ProveRequest::from(*body), report(Arc::clone(writer), Arc::clone(&failed)));
            if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(error);
            }
            match result {
                Ok(proven) => Response::Proven(Box::new(proven.into())),
                Err(error) => Response::Refused(error.into()),
            }
        }
        (_, Request::Execute { program, args, hash_function, max_steps }) => {
            caught(|| execute(&ExecuteRequest { program, args, hash_function, max_steps }).map(Response::from))
        }
        (_, Request::Inspect { program, hash_function }) => caught(|| {
            let inspection = inspect(&program, hash_function).map_err(ProveError::from)?;
            Ok(Response::Inspected(inspection.into()))
        }),
        (Kind::Execute, Request::Prove(_) | Request::WarmUp) => {
            Response::Refused(Refusal::Internal { detail: "this worker does not prove".into() })
        }
    })
}

/// Loading a hostile file may run into a panic of a library: a refusal, not a crash.
fn caught(work: impl FnOnce() -> Result<Response, ProveError>) -> Response {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => Response::Refused(error.into()),
        Err(panic) => {
            let panic: Box<dyn Any + Send> = panic;
            let detail = format!("panicked: {}", crate::runner::panic_text(&panic));
            Response::Refused(Refusal::Resources { detail, steps: 0 })
        }
    }
}

/// An observer that sends stages to the parent and remembers the first error.
fn report(writer: Writer, failed: Arc<Mutex<Option<io::Error>>>) -> Box<dyn FnMut(Stage) + Send> {
    Box::new(move |stage| {
        if let Err(error) = send(&writer, &Response::Stage(stage)) {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    })
}
