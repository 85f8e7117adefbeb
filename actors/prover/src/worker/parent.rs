//! The node's side: a prover that outlives its child, and single runs.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::engine::{ProveRequest, Proven};
use crate::execute::{ExecuteRequest, Executed};
use crate::inspect::Inspection;
use crate::memory;
use crate::stages::Stage;
use crate::worker::Kind;
use crate::worker::error::JobError;
use crate::worker::process::{Process, WorkerConfig};
use crate::worker::sandbox::Sandbox;
use crate::worker::wire::{Kernels, Request, Response};

/// Events of a job that wait for their reader. A reader that is slower misses stages, never the end.
const EVENTS_WAITING_MAX: usize = 32;
/// Longest time to make the shared tables.
const WARM_UP_LIMIT: Duration = Duration::from_secs(120);
/// Left to the rest of the machine when memory for a proof is measured, in bytes.
const MEMORY_RESERVE: u64 = 256 << 20;
/// What the shared tables take, in bytes.
const WARM_BYTES: u64 = 1 << 30;
/// How often an idle child's memory is weighed against the machine's.
const MEMORY_LOOK: Duration = Duration::from_secs(5);

/// What a prover is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// No child; the next job starts one.
    Resting,
    /// A child waits for a job.
    Idle,
    /// A job is being proved.
    Busy,
    /// The worker was dropped or shut down.
    Stopped,
}

/// A prover at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is doing.
    pub state: WorkerState,
    /// Its child.
    pub pid: Option<u32>,
    /// The child's sandbox.
    pub sandbox: Option<Sandbox>,
    /// Children started so far.
    pub starts: u64,
    /// What the child, or the last one, says of kernels that it compiles ahead.
    pub kernels: Option<Kernels>,
}

/// What a job reports.
#[derive(Debug)]
pub enum Event {
    /// A stage begins.
    Stage(Stage),
    /// The job is over; nothing follows.
    Done(Box<Result<Proven, JobError>>),
}

enum Command {
    Prove { request: Box<ProveRequest>, time_limit: Duration, events: mpsc::Sender<Event>, cancel: watch::Receiver<()> },
    WarmUp,
    Start { done: oneshot::Sender<Result<(), JobError>> },
}

/// A job under way. Dropping it cancels the job: the child is killed.
pub struct Job {
    events: mpsc::Receiver<Event>,
    _cancel: watch::Sender<()>,
}

impl Job {
    /// The next event; `None` after [`Event::Done`].
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Waits for the end; `on_stage` is told about progress.
    ///
    /// # Errors
    /// [`JobError`].
    pub async fn wait(mut self, mut on_stage: impl FnMut(Stage)) -> Result<Proven, JobError> {
        while let Some(event) = self.next().await {
            match event {
                Event::Stage(stage) => on_stage(stage),
                Event::Done(result) => return *result,
            }
        }
        Err(JobError::Cancelled)
    }
}

/// A prover: one job at a time, in a child that stays warm between jobs.
///
/// Cloning gives another handle. When the last handle is dropped, the child is killed.
#[derive(Clone)]
pub struct Worker {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

impl Worker {
    /// Makes a prover. Its child is started by the first job or [`Worker::warm_up`]. Must be called inside a tokio runtime.
    pub fn new(config: WorkerConfig) -> Self {
        let (commands, receiver) = mpsc::channel(1);
        let resting = Status { state: WorkerState::Resting, pid: None, sandbox: None, starts: 0, kernels: None };
        let (sender, status) = watch::channel(resting);
        tokio::spawn(Keeper { config, process: None, status: sender }.run(receiver));
        Self { commands, status }
    }

    /// Starts a proof. Waits while another one is under way and one more is waiting.
    ///
    /// # Errors
    /// [`JobError::Cancelled`] when the worker has stopped.
    pub async fn prove(&self, request: ProveRequest, time_limit: Duration) -> Result<Job, JobError> {
        let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let (cancel_sender, cancel) = watch::channel(());
        let command = Command::Prove { request: Box::new(request), time_limit, events: sender, cancel };
        self.commands.send(command).await.map_err(|_| JobError::Cancelled)?;
        Ok(Job { events, _cancel: cancel_sender })
    }

    /// Starts the child and its shared tables in the background, if there is nothing else to do and memory to spare.
    pub fn warm_up(&self) {
        // A queue that is full has a job in it, which warms up by itself.
        let _ = self.commands.try_send(Command::WarmUp);
    }

    /// Starts the child now, if there is none, and waits until it can take jobs.
    ///
    /// # Errors
    /// Why it can't: [`JobError::Start`], or [`JobError::Cancelled`] when the worker has stopped.
    pub async fn start(&self) -> Result<(), JobError> {
        let (done, outcome) = oneshot::channel();
        self.commands.send(Command::Start { done }).await.map_err(|_| JobError::Cancelled)?;
        outcome.await.map_err(|_| JobError::Cancelled)?
    }

    /// What it is doing now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A receiver that is told every change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The child's process id.
    pub fn pid(&self) -> Option<u32> {
        self.status().pid
    }
}

/// Owns the child.
struct Keeper {
    config: WorkerConfig,
    process: Option<Process>,
    status: watch::Sender<Status>,
}

impl Keeper {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut idle_since = Instant::now();
        loop {
            let next = tokio::select! {
                next = timeout(self.config.idle_limit.min(MEMORY_LOOK), commands.recv()) => next,
                is_there = heard(&mut self.process) => {
                    self.show_kernels().await;
                    if !is_there {
                        tracing::info!("an idle worker has ended: the next job starts another");
                        self.rest().await;
                    }
                    continue;
                }
            };
            let command = match next {
                Ok(Some(command)) => command,
                Ok(None) => break,
                Err(_) => {
                    if idle_since.elapsed() >= self.config.idle_limit || !self.memory_to_spare(0) {
                        self.rest().await;
                    }
                    continue;
                }
            };
            match command {
                Command::Prove { request, time_limit, events, cancel } => {
                    let result = self.prove(*request, time_limit, &events, cancel).await;
                    if let Err(error) = &result
                        && !error.leaves_child_usable(self.config.runs_apart)
                    {
                        self.rest().await;
                    }
                    self.show_kernels().await;
                    self.settle();
                    // The reader may have gone; then nobody asks.
                    let _ = events.send(Event::Done(Box::new(result))).await;
                }
                Command::Start { done } => {
                    let result = self.process().await.map(drop);
                    self.settle();
                    // Nobody may wait any more.
                    let _ = done.send(result);
                }
                Command::WarmUp => {
                    if self.warm_up().await.is_err() {
                        self.rest().await;
                    }
                    self.show_kernels().await;
                    self.settle();
                }
            }
            idle_since = Instant::now();
        }
        self.rest().await;
        self.status.send_modify(|status| status.state = WorkerState::Stopped);
    }

    fn settle(&self) {
        let state = if self.process.is_some() { WorkerState::Idle } else { WorkerState::Resting };
        self.status.send_modify(|status| status.state = state);
    }

    /// Shows what the child last said of its kernels; one whose driver refuses some is of no use.
    async fn show_kernels(&mut self) {
        let Some(kernels) = self.process.as_ref().map(|process| process.kernels.clone()) else { return };
        let is_refused = matches!(kernels, Some(Kernels::Refused { .. }));
        self.status.send_if_modified(|status| {
            let differs = status.kernels != kernels;
            status.kernels = kernels;
            differs
        });
        if is_refused {
            self.rest().await;
        }
    }

    /// Ends the child, and its memory with it.
    async fn rest(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.kill().await;
        self.status.send_modify(|status| {
            status.pid = None;
            status.sandbox = None;
            // Why there is none stays.
            status.kernels.take_if(|kernels| !matches!(kernels, Kernels::Refused { .. }));
            status.state = WorkerState::Resting;
        });
    }

    /// The child, started if there is none or it has died meanwhile.
    async fn process(&mut self) -> Result<&mut Process, JobError> {
        if let Some(process) = &mut self.process
            && process.has_ended()
        {
            self.process = None;
        }
        if self.process.is_none() {
            let process = Process::start(&self.config, Kind::Prove, None).await?;
            let (pid, sandbox) = (process.pid, process.sandbox);
            self.status.send_modify(|status| {
                status.pid = Some(pid);
                status.sandbox = Some(sandbox);
                status.kernels = None;
                status.starts = status.starts.saturating_add(1);
            });
            self.process = Some(process);
        }
        self.process.as_mut().ok_or_else(|| JobError::Start { detail: "no child".into() })
    }

    /// Whether the machine has `bytes` and what the configuration keeps free; true where the system does not say.
    fn memory_to_spare(&self, bytes: u64) -> bool {
        memory::available_bytes().is_none_or(|free| free >= bytes.saturating_add(self.config.spare_bytes))
    }

    async fn warm_up(&mut self) -> Result<(), JobError> {
        if self.process.is_none() && !self.memory_to_spare(WARM_BYTES) {
            tracing::info!("memory is short: the prover's tables are made with the first job");
            return Ok(());
        }
        let process = self.process().await?;
        process.call(&Request::WarmUp, WARM_UP_LIMIT, |_| ()).await.map(|_| ())
    }

    async fn prove(
        &mut self,
        mut request: ProveRequest,
        time_limit: Duration,
        events: &mpsc::Sender<Event>,
        mut cancel: watch::Receiver<()>,
    ) -> Result<Proven, JobError> {
        let configured = self.config.memory_bytes;
        self.status.send_modify(|status| status.state = WorkerState::Busy);
        let process = self.process().await?;
        // What the child holds already is part of what it may use.
        let free = memory::available_bytes()
            .map(|bytes| bytes.saturating_add(process.resident_bytes()).saturating_sub(MEMORY_RESERVE));
        let limit = free.map_or(configured, |free| free.min(configured));
        request.memory_limit = Some(request.memory_limit.map_or(limit, |asked| asked.min(limit)));
        let wire_request = Request::from(&request);
        drop(request);
        let call = process.call(&wire_request, time_limit, |stage| {
            // A slow reader misses this stage and sees the next.
            let _ = events.try_send(Event::Stage(stage));
        });
        let response = tokio::select! {
            response = call => response?,
            // Only dropping the sender ends this wait: nothing is ever sent.
            _ = cancel.changed() => return Err(JobError::Cancelled),
        };
        match response {
            Response::Proven(body) => Ok((*body).into()),
            _ => Err(JobError::Protocol { detail: "the answer to a proof is none".into() }),
        }
    }
}

/// Waits for what an idle child says, if there is one: whether it is still there.
async fn heard(process: &mut Option<Process>) -> bool {
    match process {
        Some(process) => process.hear().await,
        None => std::future::pending().await,
    }
}

/// Runs one request in a child of its own.
async fn single(config: &WorkerConfig, request: &Request, time_limit: Duration) -> Result<Response, JobError> {
    let mut process = Process::start(config, Kind::Execute, Some(time_limit)).await?;
    let result = process.call(request, time_limit, |_| ()).await;
    process.kill().await;
    result
}

/// Runs a program in a child of its own. Dropping the future kills the child.
///
/// # Errors
/// [`JobError`].
pub async fn execute(
    config: &WorkerConfig,
    request: &ExecuteRequest,
    time_limit: Duration,
) -> Result<Executed, JobError> {
    match single(config, &Request::from(request), time_limit).await? {
        Response::Executed { program_hash, output, steps } => Ok(Executed { program_hash, output, steps }),
        _ => Err(JobError::Protocol { detail: "the answer to a run is none".into() }),
    }
}

/// Describes a program file in a child of its own: even parsing a stranger's file is done out there.
///
/// # Errors
/// [`JobError`].
pub async fn inspect(
    config: &WorkerConfig,
    program: Vec<u8>,
    hash_function: Option<types::job::HashFunction>,
    time_limit: Duration,
) -> Result<Inspection, JobError> {
    match single(config, &Request::Inspect { program, hash_function }, time_limit).await? {
        Response::Inspected(body) => Ok(body.into()),
        _ => Err(JobError::Protocol { detail: "the answer to an inspection is none".into() }),
    }
}
