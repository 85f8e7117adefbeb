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
use crate::stages::Observer;
use crate::worker::sandbox::{self, Bounds, Sandbox};
use crate::worker::wire::{self, Refusal, Request, Response};
use crate::worker::{Kind, trace};

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
    end(run(kind))
}

/// Ends the process as its life ended.
pub(super) fn end(result: io::Result<()>) -> ! {
    match result {
        Ok(()) => std::process::exit(EXIT_DONE),
        Err(error) => {
            let _ = writeln!(io::stderr(), "worker: {error}");
            std::process::exit(EXIT_BROKEN);
        }
    }
}

/// As [`end`], at once: without what libraries want to do at the end of a process, while threads of theirs are at work.
pub(super) fn end_at_once(result: io::Result<()>) -> ! {
    let code = match result {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "worker: {error}");
            EXIT_BROKEN
        }
    };
    #[allow(unsafe_code, reason = "the standard library has no end of a process that runs no handlers")]
    // SAFETY: ends the process; nothing runs after it.
    unsafe {
        libc::_exit(code)
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

/// What a child knows when it starts, before it is in its sandbox.
pub(super) struct Begun {
    pub(super) bounds: Bounds,
    pub(super) threads: usize,
    pub(super) reader: File,
    pub(super) writer: Writer,
    parent: i32,
}

/// First of all: no descriptor of the node's but the private one, bounds, and panics in one line on standard error.
pub(super) fn begin() -> io::Result<Begun> {
    close_inherited();
    let bounds = Bounds { memory: number(ENV_MEMORY)?, cpu_seconds: number(ENV_CPU).ok(), nice: number(ENV_NICE)? };
    let (threads, parent): (usize, i32) = (number(ENV_THREADS)?, number(ENV_PARENT)?);
    // Both handles are made now: afterwards even copying a descriptor is refused.
    let reader = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let writer = Arc::new(Mutex::new(reader.try_clone()?));
    std::panic::set_hook(Box::new(|info| {
        let _ = writeln!(io::stderr(), "{}", shorten(&info.to_string()));
    }));
    Ok(Begun { bounds, threads: threads.max(1), reader, writer, parent })
}

impl Begun {
    /// The death signal counts once it is set; a parent that died before would never send it.
    pub(super) fn check_parent(&self) -> io::Result<()> {
        match rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) == Some(self.parent) {
            true => Ok(()),
            false => Err(io::Error::other("the parent is gone")),
        }
    }

    /// Starts the threads that all work is spread over.
    pub(super) fn start_threads(&self) -> io::Result<()> {
        rayon::ThreadPoolBuilder::new().num_threads(self.threads).build_global().map_err(io::Error::other)?;
        // Threads start lazily inside the pool: one round through it makes sure that all of them are there.
        rayon::broadcast(|_| ());
        Ok(())
    }
}

fn run(kind: Kind) -> io::Result<()> {
    let mut begun = begin()?;
    if kind != Kind::Execute {
        keep_memory();
    }
    let landlock = sandbox::enter(&begun.bounds)?;
    begun.check_parent()?;
    begun.start_threads()?;
    let seccomp = sandbox::lock_down(kind != Kind::Execute);
    let writer = begun.writer;
    send(&writer, &Response::Ready(Sandbox { landlock, seccomp }))?;
    let mut engine = Engine::new();
    while let Some(request) = wire::read::<Request>(&mut begun.reader)? {
        match (kind, request) {
            (Kind::Trace, Request::Prove(body)) => trace::serve((*body).into(), &writer)?,
            (kind, request) => {
                let response = answer(kind, &mut engine, request, &writer)?;
                send(&writer, &response)?;
            }
        }
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

/// The private descriptor's sending side; stages are reported from the threads that enter them.
pub(super) type Writer = Arc<Mutex<File>>;

pub(super) fn send(writer: &Writer, response: &Response) -> io::Result<()> {
    wire::write(&mut *writer.lock().unwrap_or_else(PoisonError::into_inner), response)
}

fn answer(kind: Kind, engine: &mut Engine, request: Request, writer: &Writer) -> io::Result<Response> {
    Ok(match (kind, request) {
        (Kind::Prove, Request::WarmUp) => match engine.warm_up() {
            Ok(()) => Response::Warm,
            Err(error) => Response::Refused(error.into()),
        },
        (Kind::Prove, Request::Prove(body)) => {
            let report = Report::new(writer);
            let result = engine.prove(ProveRequest::from(*body), report.observer());
            report.check()?;
            match result {
                Ok(proven) => Response::Proven(Box::new(proven.into())),
                Err(error) => Response::Refused(error.into()),
            }
        }
        (Kind::Prove | Kind::Execute, Request::Execute { program, args, hash_function, max_steps }) => {
            caught(|| execute(&ExecuteRequest { program, args, hash_function, max_steps }).map(Response::from))
        }
        (Kind::Prove | Kind::Execute, Request::Inspect { program, hash_function }) => caught(|| {
            let inspection = inspect(&program, hash_function).map_err(ProveError::from)?;
            Ok(Response::Inspected(inspection.into()))
        }),
        (Kind::Execute | Kind::Trace, _) => {
            Response::Refused(Refusal::Internal { detail: "this worker does something else".into() })
        }
    })
}

/// Loading a hostile file may run into a panic of a library: a refusal, not a crash.
fn caught(work: impl FnOnce() -> Result<Response, ProveError>) -> Response {
    guarded(work).unwrap_or_else(Response::Refused)
}

/// As [`caught`], for work with another result.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, ProveError>) -> Result<T, Refusal> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Refusal::from),
        Err(panic) => {
            let panic: Box<dyn Any + Send> = panic;
            let detail = format!("panicked: {}", crate::runner::panic_text(&panic));
            Err(Refusal::Resources { detail, steps: 0 })
        }
    }
}

/// Sends stages to the parent and remembers the first error.
pub(super) struct Report {
    writer: Writer,
    failed: Arc<Mutex<Option<io::Error>>>,
}

impl Report {
    pub(super) fn new(writer: &Writer) -> Self {
        Self { writer: Arc::clone(writer), failed: Arc::default() }
    }

    /// Who is told about stages.
    pub(super) fn observer(&self) -> Observer {
        let (writer, failed) = (Arc::clone(&self.writer), Arc::clone(&self.failed));
        Box::new(move |stage| {
            if let Err(error) = send(&writer, &Response::Stage(stage)) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        })
    }

    /// The first error of sending: the parent is gone.
    pub(super) fn check(&self) -> io::Result<()> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}
