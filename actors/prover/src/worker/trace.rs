//! The run of a program in a sandbox of its own, for a process that proves it on a device: the process that holds the
//! driver never runs a program, and the one that runs programs holds nothing.
//!
//! Owns both ends: [`serve`] in the child, which loads, checks, runs and adapts, and [`Tracer`] in the process that drives
//! the device. What there is to prove crosses as a stream behind its record, encoded while it is sent and decoded while it
//! arrives; how much of it is read is bounded. Whatever a program does to the child, the other side only sees that the run
//! has ended, and starts another child for the next job.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::PoisonError;

use crate::engine::{self, ProveError, ProveRequest, Traced};
use crate::stages::Clock;
use crate::worker::Kind;
use crate::worker::child::{self, Report, Writer, send};
use crate::worker::sandbox::{Bounds, Sandbox};
use crate::worker::wire::{self, ProveBody, Refusal, Request, Response};

/// Size of the buffers at both ends of the stream, in bytes.
const BUFFER: usize = 1 << 20;
/// Variable of the dynamic loader: the binary that drives devices may have found its loader of drivers by it.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// Runs a request's program and sends what there is to prove.
///
/// # Errors
/// When the other side is gone.
pub(super) fn serve(request: ProveRequest, writer: &Writer) -> io::Result<()> {
    let report = Report::new(writer);
    let clock = Clock::new(report.observer());
    let run = child::guarded(|| {
        let run = engine::opened(request).map_err(ProveError::from)?;
        engine::traced(run, &clock)
    });
    report.check()?;
    match run {
        Ok(Traced { input, output, steps, total_steps }) => {
            send(writer, &Response::Traced { output, steps, total_steps })?;
            let pipe = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut stream = BufWriter::with_capacity(BUFFER, &*pipe);
            bincode1::serialize_into(&mut stream, &input).map_err(io::Error::other)?;
            stream.flush()
        }
        Err(refusal) => send(writer, &Response::Refused(refusal)),
    }
}

/// How the child is started.
#[derive(Clone, Debug)]
pub(super) struct TracerConfig {
    /// Arguments of the own binary before the kind's name.
    pub(super) arguments: Vec<OsString>,
    /// Variables for its environment, which is empty otherwise.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The bounds that this process was given: the child is held to them.
    pub(super) bounds: Bounds,
    /// Threads.
    pub(super) threads: usize,
}

/// The child that runs programs, as the process that drives the device sees it.
pub(super) struct Tracer {
    config: TracerConfig,
    running: Option<Running>,
}

struct Running {
    child: Child,
    socket: File,
    sandbox: Sandbox,
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended takes no signal; waiting for it leaves no dead process behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(config: &TracerConfig) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&config.arguments).arg(Kind::Trace.name()).env_clear().envs(config.environment.iter().cloned());
        if let Some(path) = std::env::var_os(LIBRARY_PATH) {
            command.env(LIBRARY_PATH, path);
        }
        command.env(child::ENV_MEMORY, config.bounds.memory.to_string());
        // Its priority is this process's already.
        command.env(child::ENV_NICE, "0");
        command.env(child::ENV_THREADS, config.threads.to_string());
        command.env(child::ENV_PARENT, std::process::id().to_string());
        // Its last words are this process's.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        let sandbox = Sandbox { landlock: false, seccomp: false };
        let mut running = Self { child, socket: File::from(OwnedFd::from(ours)), sandbox };
        match wire::read::<Response>(&mut running.socket)? {
            Some(Response::Ready(sandbox)) => running.sandbox = sandbox,
            Some(_) => return Err(io::Error::other("its first record is not 'ready'")),
            None => return Err(io::Error::other(running.end())),
        }
        Ok(running)
    }

    fn end(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => format!("the process that ran the program ended ({status})"),
            Err(error) => format!("the process that ran the program can't be waited for: {error}"),
        }
    }

    /// One run. An outer error is the child's end.
    fn run(&mut self, request: &Request, limit: u64, clock: &Clock) -> io::Result<Result<Traced, Refusal>> {
        wire::write(&mut self.socket, request)?;
        loop {
            match wire::read::<Response>(&mut self.socket)? {
                Some(Response::Stage(stage)) => clock.enter(stage),
                Some(Response::Refused(refusal)) => return Ok(Err(refusal)),
                Some(Response::Traced { output, steps, total_steps }) => {
                    // The child sends nothing behind the stream until it is asked again, so no byte is read too far.
                    let mut stream = BufReader::with_capacity(BUFFER, &self.socket).take(limit);
                    let input = bincode1::deserialize_from(&mut stream).map_err(io::Error::other)?;
                    return Ok(Ok(Traced { input, output, steps, total_steps }));
                }
                Some(_) => return Err(io::Error::other("it sent what no such process sends")),
                None => return Err(io::Error::other(self.end())),
            }
        }
    }
}

impl Tracer {
    /// Starts the child; its sandbox is what programs run in.
    pub(super) fn start(config: TracerConfig) -> io::Result<(Self, Sandbox)> {
        let running = Running::start(&config)?;
        let sandbox = running.sandbox;
        Ok((Self { config, running: Some(running) }, sandbox))
    }

    /// Runs a program; at most `limit` bytes of what there is to prove are taken.
    ///
    /// # Errors
    /// What the child refuses; [`Refusal::Resources`] when it dies.
    pub(super) fn trace(&mut self, body: Box<ProveBody>, limit: u64, clock: &Clock) -> Result<Traced, Refusal> {
        let broken =
            |error: io::Error| Refusal::Resources { detail: crate::error::shorten(&error.to_string()), steps: 0 };
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.config).map_err(broken)?,
        };
        let result = running.run(&Request::Prove(body), limit, clock).map_err(broken)?;
        // What a program left behind in a child that could not go on is anybody's guess.
        if !matches!(&result, Err(Refusal::Resources { .. })) {
            self.running = Some(running);
        }
        result
    }
}
