//! One child process: start, one request at a time, and a name for every way it can end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::shorten;
use crate::stages::Stage;
use crate::worker::error::JobError;
use crate::worker::sandbox::Sandbox;
use crate::worker::wire::{self, Kernels, Pulse, Refusal, Request, Response};
use crate::worker::{Kind, child};

/// Longest wait for the first record of a child of this binary.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a child to be gone after its end of the socket closed.
const REAP_LIMIT: Duration = Duration::from_secs(5);
/// Address space beyond the memory that a proof may use: thread stacks, allocator reserves, the binary itself, in bytes.
const ADDRESS_SLACK: u64 = 2 << 30;
/// Children that wait to be started; over it, starting one is an error.
const STARTS_WAITING_MAX: usize = 64;
/// Bytes of a record's length.
const HEAD: usize = 4;
/// Lines of a child's error output that are logged per child.
const LOG_LINES_MAX: usize = 50;
/// Lines of it that are kept to name its end.
const LOG_LINES_KEPT: usize = 4;
/// Longest line of it; a longer one counts as several.
const LOG_LINE_BYTES_MAX: u64 = 512;

/// How children are started and bounded.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The binary; `None` for the running one.
    pub program: Option<PathBuf>,
    /// Its arguments; the kind's name is added.
    pub arguments: Vec<OsString>,
    /// Variables for its environment, which is empty otherwise.
    pub environment: Vec<(OsString, OsString)>,
    /// An empty folder to run in; made if it is missing.
    pub scratch: PathBuf,
    /// Memory of a child, in bytes: the executor's address space; for the prover what its estimates are held against, its
    /// address space is a fixed amount more.
    pub memory_bytes: u64,
    /// Threads of the prover.
    pub threads: usize,
    /// Niceness added to the node's.
    pub nice: i32,
    /// Longest wait for a new child's first record.
    pub start_limit: Duration,
    /// Longest silence of a working child before it counts as hung.
    pub silence_limit: Duration,
    /// For a child that drives a device, and so tells every few seconds what it does; `None` for any other.
    pub pulses: Option<PulseLimits>,
    /// A proving child that had no job for this long is ended, and its memory with it.
    pub idle_limit: Duration,
    /// An idle child is ended, and none is warmed up, when the machine has less memory than this left, in bytes.
    pub spare_bytes: u64,
    /// Whether the child runs programs in a child of its own, as one that drives a device does: what a program does to the
    /// process that it runs in is then no reason to end this one.
    pub runs_apart: bool,
}

/// How long a child that tells what it does may be without progress. One that waits for a compiler, or for the processor,
/// has the whole of [`WorkerConfig::silence_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PulseLimits {
    /// Longest time between two pulses: over it, the process is stopped, or starved beyond use.
    pub apart: Duration,
    /// Longest wait for one call of the driver, if the proof's stages are expected to be short.
    pub waiting: Duration,
    /// So many times a stage's expected time may one call of the driver take in a proof whose stages are long.
    pub patience: u32,
}

impl PulseLimits {
    /// What nodes use. Work on a device that is a hundredth of its usual speed still comes to its end.
    pub const USUAL: Self = Self { apart: Duration::from_secs(60), waiting: Duration::from_secs(60), patience: 20 };
}

impl WorkerConfig {
    /// Defaults for children of the running binary: a thread per processor, low priority.
    pub fn new(scratch: PathBuf, memory_bytes: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self {
            program: None,
            arguments: vec!["worker".into()],
            environment: Vec::new(),
            scratch,
            memory_bytes,
            threads,
            nice: 10,
            start_limit: START_LIMIT,
            silence_limit: Duration::from_secs(300),
            pulses: None,
            idle_limit: Duration::from_secs(600),
            spare_bytes: 512 << 20,
            runs_apart: false,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn start_error(error: impl std::fmt::Display) -> JobError {
    JobError::Start { detail: shorten(&error.to_string()) }
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    socket: UnixStream,
    silence_limit: Duration,
    pulses: Option<PulseLimits>,
    /// What has arrived of the next record.
    incoming: Vec<u8>,
    /// What it last said of kernels that it compiles ahead.
    pub(crate) kernels: Option<Kernels>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    pub(crate) pid: u32,
    pub(crate) sandbox: Sandbox,
}

/// Starting one child.
type Start = Box<dyn FnOnce() + Send>;

/// A child dies with the **thread** that started it, not with the process; so one thread that never ends starts them all.
fn starter() -> io::Result<&'static SyncSender<Start>> {
    static STARTER: OnceLock<Option<SyncSender<Start>>> = OnceLock::new();
    STARTER
        .get_or_init(|| {
            let (sender, receiver) = std::sync::mpsc::sync_channel::<Start>(STARTS_WAITING_MAX);
            let thread = std::thread::Builder::new().name("worker-starter".into());
            thread.spawn(move || receiver.into_iter().for_each(|work| work())).ok().map(|_| sender)
        })
        .as_ref()
        .ok_or_else(|| io::Error::other("no thread for starting workers"))
}

fn command(config: &WorkerConfig, kind: Kind, cpu_limit: Option<Duration>, socket: OwnedFd) -> io::Result<Command> {
    let program = match &config.program {
        Some(path) => path.clone(),
        None => std::env::current_exe()?,
    };
    match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&config.scratch) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let mut command = Command::new(program);
    command.args(&config.arguments).arg(kind.name()).env_clear().envs(config.environment.iter().cloned());
    let address_space = match kind {
        Kind::Prove => config.memory_bytes.saturating_add(ADDRESS_SLACK),
        Kind::Execute | Kind::Trace => config.memory_bytes,
    };
    command.env(child::ENV_MEMORY, address_space.to_string());
    command.env(child::ENV_NICE, config.nice.to_string());
    command.env(child::ENV_THREADS, config.threads.max(1).to_string());
    command.env(child::ENV_PARENT, std::process::id().to_string());
    if let Some(limit) = cpu_limit {
        command.env(child::ENV_CPU, limit.as_secs().saturating_add(1).to_string());
    }
    command.current_dir(&config.scratch).stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    Ok(command)
}

/// Starts a child that dies with the node, if it asks for its parent's death signal.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let work: Start = Box::new(move || {
        let _inside = runtime.enter();
        // Nobody waiting means nobody owns the child: dropping it kills it.
        let _ = sender.send(command.spawn());
    });
    starter()?.try_send(work).map_err(|_| io::Error::other("too many workers are being started at once"))?;
    receiver.await.map_err(io::Error::other)?
}

impl Process {
    /// Starts a child and waits until it is in its sandbox.
    pub(crate) async fn start(
        config: &WorkerConfig,
        kind: Kind,
        cpu_limit: Option<Duration>,
    ) -> Result<Self, JobError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(start_error)?;
        ours.set_nonblocking(true).map_err(start_error)?;
        let socket = UnixStream::from_std(ours).map_err(start_error)?;
        let command = command(config, kind, cpu_limit, theirs.into()).map_err(start_error)?;
        let mut child = spawn(command).await.map_err(start_error)?;
        let pid = child.id().ok_or_else(|| start_error("it ended at once"))?;
        let last_words = Arc::default();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(stderr, pid, Arc::clone(&last_words)));
        }
        let sandbox = Sandbox { landlock: false, seccomp: false };
        let (silence_limit, pulses) = (config.silence_limit, config.pulses);
        let (incoming, kernels) = (Vec::new(), None);
        let mut process = Self { child, socket, silence_limit, pulses, incoming, kernels, last_words, pid, sandbox };
        match timeout(config.start_limit, process.receive()).await {
            Ok(Ok(Some(Response::Ready(sandbox)))) => {
                process.sandbox = sandbox;
                Ok(process)
            }
            Ok(Ok(Some(Response::Refused(refusal)))) => {
                process.kill().await;
                Err(match refusal {
                    Refusal::Device(fault) => start_error(fault),
                    other => start_error(JobError::from(other)),
                })
            }
            Ok(Ok(Some(_))) => Err(JobError::Protocol { detail: "the first record is not 'ready'".into() }),
            Ok(Ok(None)) => {
                let end = process.end().await;
                Err(start_error(end))
            }
            Ok(Err(e)) => Err(start_error(e)),
            Err(_) => {
                process.kill().await;
                Err(start_error(format!("no sign of life for {} ms", ms(config.start_limit))))
            }
        }
    }

    /// The next record; `None` at the stream's end. What has arrived of one stays when the future is dropped.
    async fn receive(&mut self) -> io::Result<Option<Response>> {
        loop {
            if let Some((head, rest)) = self.incoming.split_first_chunk::<HEAD>() {
                let length = wire::frame_length::<Response>(*head)?;
                if let Some(bytes) = rest.get(..length) {
                    let response = wire::parse(bytes);
                    self.incoming.drain(..length.saturating_add(HEAD));
                    return response.map(Some);
                }
                self.incoming.reserve(length.saturating_sub(rest.len()));
            }
            match self.socket.read_buf(&mut self.incoming).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits for what an idle child says unasked; false when it has ended, or says what no idle child says.
    pub(crate) async fn hear(&mut self) -> bool {
        match self.receive().await {
            Ok(Some(Response::Kernels(kernels))) => {
                self.kernels = Some(kernels);
                true
            }
            // Sent in the moment in which the last request ended.
            Ok(Some(Response::Alive(_))) => true,
            Ok(_) | Err(_) => false,
        }
    }

    /// Sends a request and waits for its answer; `on_stage` is told about progress.
    ///
    /// The child is only fit for another call when the result is `Ok` or an error of its own making; see `JobError::leaves_child_usable`.
    pub(crate) async fn call(
        &mut self,
        request: &Request,
        time_limit: Duration,
        mut on_stage: impl FnMut(Stage),
    ) -> Result<Response, JobError> {
        let deadline = Instant::now().checked_add(time_limit);
        request.check().map_err(|e| JobError::Input(Box::new(e.fault())))?;
        let frame = wire::frame(request).map_err(|e| JobError::Internal { detail: e.to_string() })?;
        let answer = async {
            if self.socket.write_all(&frame).await.is_err() {
                return Err(self.end().await);
            }
            let longest = self.silence_limit;
            let mut moved = Instant::now();
            loop {
                let silence = self.pulses.map_or(longest, |pulses| pulses.apart.min(longest));
                match timeout(silence, self.receive()).await {
                    Ok(Ok(Some(Response::Stage(stage)))) => {
                        moved = Instant::now();
                        on_stage(stage);
                    }
                    Ok(Ok(Some(Response::Alive(pulse)))) => {
                        let limit = limit_of(pulse, self.pulses, longest);
                        if limit.is_none() {
                            moved = Instant::now();
                        } else if limit.is_some_and(|limit| moved.elapsed() >= limit) {
                            return Err(JobError::Hung { silence_ms: ms(moved.elapsed()) });
                        }
                    }
                    Ok(Ok(Some(Response::Kernels(kernels)))) => self.kernels = Some(kernels),
                    Ok(Ok(Some(Response::Refused(refusal)))) => return Err(JobError::from(refusal)),
                    Ok(Ok(Some(response))) => return Ok(response),
                    Ok(Ok(None)) => return Err(self.end().await),
                    Ok(Err(e)) => return Err(JobError::Protocol { detail: shorten(&e.to_string()) }),
                    Err(_) => return Err(JobError::Hung { silence_ms: ms(silence) }),
                }
            }
        };
        match deadline {
            Some(deadline) => {
                timeout_at(deadline, answer).await.unwrap_or(Err(JobError::TimedOut { limit_ms: ms(time_limit) }))
            }
            None => answer.await,
        }
    }

    /// Kills the child and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        let _ = timeout(REAP_LIMIT, self.child.kill()).await;
    }

    /// Whether the child has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Memory that the child holds, in bytes; zero when unknown.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kilobytes.unwrap_or(0).saturating_mul(1024)
    }

    /// Names the end of a child whose socket has closed.
    async fn end(&mut self) -> JobError {
        match timeout(REAP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) => {
                // The listener may be a moment behind the child's last words.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone();
                name_of_end(status, &Vec::from(words))
            }
            Ok(Err(e)) => JobError::Crashed { status: "unknown".into(), detail: format!(": {e}") },
            Err(_) => {
                self.kill().await;
                JobError::Crashed { status: "it closed its descriptor".into(), detail: String::new() }
            }
        }
    }
}

/// How long a child may go on saying this without progress; `None` for progress itself.
fn limit_of(pulse: Pulse, limits: Option<PulseLimits>, longest: Duration) -> Option<Duration> {
    match (pulse, limits) {
        (Pulse::Progress, _) => None,
        (Pulse::Compiling | Pulse::Host, _) | (Pulse::Waiting { .. }, None) => Some(longest),
        (Pulse::Waiting { expected_ms }, Some(limits)) => {
            let expected = Duration::from_millis(expected_ms).saturating_mul(limits.patience);
            Some(expected.max(limits.waiting).min(longest))
        }
    }
}

fn name_of_end(status: ExitStatus, words: &[String]) -> JobError {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    let detail = if words.is_empty() { String::new() } else { shorten(&format!(": {}", words.join(" | "))) };
    let out_of_memory = words.iter().any(|line| line.contains("memory allocation of"));
    let text = status.to_string();
    match status.signal() {
        Some(SIGXCPU) => JobError::CpuLimit,
        Some(SIGKILL) => JobError::OutOfMemory { status: text, detail },
        Some(SIGABRT) if out_of_memory => JobError::OutOfMemory { status: text, detail },
        _ => JobError::Crashed { status: text, detail },
    }
}

/// Logs a child's error output, a bounded number of bounded lines; what is over is read and thrown away, so that the
/// child never blocks on it.
async fn listen(stderr: ChildStderr, pid: u32, last_words: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(stderr);
    let mut lines = 0usize;
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(LOG_LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        lines = lines.saturating_add(1);
        if lines <= LOG_LINES_MAX {
            tracing::debug!(pid, line = %text, "worker");
        }
        let mut kept = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= LOG_LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_a_proof_is_expected_to_take() {
        let (limits, longest) = (Some(PulseLimits::USUAL), Duration::from_secs(600));
        let waiting = |expected_ms| limit_of(Pulse::Waiting { expected_ms }, limits, longest).map(|l| l.as_secs());
        assert_eq!([0, 2_999, 5_000, 60_000, u64::MAX].map(waiting), [60, 60, 100, 600, 600].map(Some));
        assert_eq!(limit_of(Pulse::Progress, limits, longest), None);
        for pulse in [Pulse::Compiling, Pulse::Host] {
            assert_eq!(limit_of(pulse, limits, longest), Some(longest));
        }
    }
}
