//! Which constraint kernels are compiled. Owns the states (compiling, ready, refused) per structure; a proof that finds
//! none ready evaluates on the host and says so.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::component::known_answer;
use super::emit::{Source, emit};
use super::graph::Graph;
use super::hash::Bytes;
use crate::device::runtime;
use crate::error::Error;

/// What to do when a structure is seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compile {
    /// Wait for the compiler: benchmarks, tests, warming up.
    Wait,
    /// Compile in a thread of its own and evaluate on the host meanwhile.
    Background,
}

#[derive(Debug, Clone)]
enum Status {
    Compiling,
    Ready,
    Refused(String),
}

/// Hash of everything about a graph that its kernels depend on: its nodes and which of them are constraints.
type Structure = [u8; blake3::OUT_LEN];

fn structure(graph: &Graph) -> Structure {
    let mut bytes = Bytes::default();
    (&graph.nodes, &graph.constraints).hash(&mut bytes);
    *blake3::hash(&bytes.0).as_bytes()
}

static SOURCES: Mutex<Option<HashMap<Structure, Arc<Source>>>> = Mutex::new(None);
static BACKGROUND: AtomicBool = AtomicBool::new(false);
static STATUS: Mutex<Option<HashMap<String, Status>>> = Mutex::new(None);

/// Chooses what proofs from now on do with new structures; [`Compile::Wait`] at the start.
pub fn set_compile_mode(mode: Compile) {
    BACKGROUND.store(mode == Compile::Background, Ordering::Relaxed);
}

/// The present choice.
#[must_use]
pub fn compile_mode() -> Compile {
    if BACKGROUND.load(Ordering::Relaxed) { Compile::Background } else { Compile::Wait }
}

fn status() -> MutexGuard<'static, Option<HashMap<String, Status>>> {
    STATUS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(key: &str, value: Status) {
    status().get_or_insert_default().insert(key.to_owned(), value);
}

/// Builds the kernels and compares what they compute with the host, from the same graph.
fn compile(source: &Source, graph: &Graph) -> Status {
    let names: Vec<&str> = source.kernels.iter().map(String::as_str).collect();
    let built = runtime().add_program("constraints", &source.text, &names);
    match built.and_then(|()| known_answer(source, graph)) {
        Ok(()) => Status::Ready,
        Err(error) => {
            tracing::error!(%error, key = source.key, "constraints stay on the host");
            Status::Refused(error.to_string())
        }
    }
}

/// The kernels' text for a graph: written once per structure, since every proof asks for all of them.
pub(super) fn source_of(graph: &Graph) -> Arc<Source> {
    let structure = structure(graph);
    let known = || SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(source) = known().get_or_insert_default().get(&structure) {
        return Arc::clone(source);
    }
    let source = Arc::new(emit(graph));
    known().get_or_insert_default().insert(structure, Arc::clone(&source));
    source
}

/// Proofs that wait for the compiler.
static AWAITED: AtomicUsize = AtomicUsize::new(0);

/// Whether a proof waits for the compiler at this moment: those that it will ask for next are then worth compiling beside it.
#[must_use]
pub fn are_awaited() -> bool {
    AWAITED.load(Ordering::Relaxed) > 0
}

/// As [`ready`], for nobody who waits. A proof that asks for the same meanwhile compiles it itself: this thread may be of so
/// low a priority that it never comes to its end.
pub(super) fn ready_ahead(source: &Source, graph: &Graph) -> Result<(), Error> {
    match status().get_or_insert_default().get(&source.key) {
        Some(Status::Ready) => return Ok(()),
        Some(Status::Refused(reason)) => return Err(not_ready(source, reason)),
        Some(Status::Compiling) | None => {}
    }
    settled(source, graph)
}

fn not_ready(source: &Source, log: &str) -> Error {
    Error::Build {
        device: runtime().info().name.clone(),
        what: format!("constraints {}", source.key),
        log: log.to_owned(),
    }
}

/// Compiles and notes how that ended.
fn settled(source: &Source, graph: &Graph) -> Result<(), Error> {
    let result = compile(source, graph);
    set(&source.key, result.clone());
    match result {
        Status::Refused(reason) => Err(not_ready(source, &reason)),
        Status::Ready | Status::Compiling => Ok(()),
    }
}

/// Makes the kernels of `source` callable.
///
/// # Errors
/// [`Error::Build`] with the reason why they are not: the compiler is at work, or it refused them.
pub(super) fn ready(source: &Source, graph: &Arc<Graph>) -> Result<(), Error> {
    let not_yet = |log: &str| not_ready(source, log);
    let known = status().get_or_insert_default().get(&source.key).cloned();
    match known {
        Some(Status::Ready) => return Ok(()),
        Some(Status::Compiling) => return Err(not_yet("the compiler is at work")),
        Some(Status::Refused(reason)) => return Err(not_yet(&reason)),
        None => {}
    }
    if compile_mode() == Compile::Background {
        set(&source.key, Status::Compiling);
        let (source, graph) = (source.clone(), Arc::clone(graph));
        let name = "compile constraints".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || set(&source.key, compile(&source, &graph)));
        return Err(not_yet(if thread.is_ok() { "the compiler is at work" } else { "no thread for the compiler" }));
    }
    AWAITED.fetch_add(1, Ordering::Relaxed);
    let result = settled(source, graph);
    AWAITED.fetch_sub(1, Ordering::Relaxed);
    result
}
