//! The places where proofs are made, and who sits on them.
//!
//! A place is the processor or one device, each with a worker of its own and room for one proof. While any device may be
//! used, only devices are handed out; the processor stands in when one of them fails in the middle, and takes everything
//! when none is left. A device is set up in the background: found, measured against the processor if the configuration
//! leaves the choice to us, started and self-tested. Until then the processor is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::driver;
use super::fall::{Fallback, Reason};
use super::health::Health;
use super::list::{self, Listed};
use super::speed::{self, Speed};
use super::{BackendChoice, FleetConfig};
use crate::engine::{ProveRequest, Proven};
use crate::stages::Stage;
use crate::worker::{JobError, Worker, WorkerConfig};

/// Longest start of a device's worker: the first one on a driver compiles all kernels and tests them.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Longest time of a device's worker without progress while a kernel is compiled, which may take minutes on a slow machine, or
/// while the processor does its part. A driver that does not come back has less, see [`FleetConfig::pulses`].
const SILENCE_LIMIT: Duration = Duration::from_secs(600);
/// How often a measurement looks whether the processor is free.
const FREE_LOOK: Duration = Duration::from_millis(200);

/// Where a proof is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The processor.
    Cpu,
    /// A device, by its number in the listing and its name.
    Device {
        /// Number.
        index: usize,
        /// Name.
        name: String,
    },
}

impl Place {
    /// The backend's name in reports and metrics.
    pub const fn backend(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Device { .. } => "opencl",
        }
    }

    /// The device's name.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Cpu => None,
            Self::Device { name, .. } => Some(name),
        }
    }
}

/// How a proof ended.
#[derive(Debug)]
pub struct Attempt {
    /// The proof, or why there is none.
    pub result: Result<Proven, JobError>,
    /// Where it was made, or given up.
    pub place: Place,
    /// Why it was not made on the device on which it was begun.
    pub fallback: Option<Fallback>,
}

/// What became of a device of the listing.
#[derive(Clone, Debug)]
enum Use {
    /// Never used: refused, excluded, not pinned, slower.
    Not(&'static str, String),
    /// Waits to be measured, or is.
    Measuring,
    /// Its worker is being started for the first time.
    Starting,
    /// Used, unless its health forbids it.
    Chosen,
}

struct Device {
    listed: Listed,
    used: Use,
    worker: Option<Worker>,
    speed: Option<Speed>,
    health: Health,
    busy: bool,
    proofs: u64,
    last_proof_ms: Option<u64>,
}

impl Device {
    fn place(&self) -> Place {
        Place::Device { index: self.listed.index, name: self.listed.name.clone() }
    }

    /// Measured time of the workload; a device that was not measured comes last.
    fn time_ms(&self) -> f64 {
        self.speed.as_ref().map_or(f64::INFINITY, |speed| speed.device_ms)
    }

    fn usable(&self, now: Instant) -> bool {
        matches!(self.used, Use::Chosen) && self.worker.is_some() && self.health.usable(now)
    }
}

struct State {
    /// Why proofs are made where they are made.
    reason: String,
    devices: Vec<Device>,
    /// A proof, or a measurement, uses the processor.
    cpu_busy: bool,
    /// Tells changes to [`Fleet::changes`].
    version: u64,
}

struct Inner {
    config: FleetConfig,
    cpu: Worker,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    setup: Mutex<Vec<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *self.setup.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// States of a device: the first two are those in which it proves.
pub const DEVICE_STATES: [&str; 9] =
    ["ready", "proving", "disabled", "starting", "measuring", "slower", "excluded", "not_pinned", "refused"];

/// A device at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Number in the listing.
    pub index: usize,
    /// Name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// One of [`DEVICE_STATES`].
    pub state: String,
    /// Why.
    pub reason: String,
    /// When it is tried again, in milliseconds since the epoch, if it is disabled.
    pub retry_ms: Option<u64>,
    /// Its measured speed.
    pub speed: Option<Speed>,
    /// Proofs that it made.
    pub proofs: u64,
    /// Time of the last one, in milliseconds.
    pub last_proof_ms: Option<u64>,
    /// Failures since the start.
    pub failures: u64,
    /// Its worker's process.
    pub worker_pid: Option<u32>,
}

/// All places at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetStatus {
    /// Backend of the next proof: `opencl` or `cpu`.
    pub backend: &'static str,
    /// Why.
    pub reason: String,
    /// Proofs that can be made at once.
    pub capacity: usize,
    /// The processor's worker.
    pub cpu_pid: Option<u32>,
    /// The devices, in the listing's order.
    pub devices: Vec<DeviceStatus>,
}

/// The places of one node. Cloning gives another handle; with the last one all workers end.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fleet({} devices)", self.0.lock().devices.len())
    }
}

/// A handle on a [`Fleet`] that does not keep it.
#[derive(Clone)]
pub struct WeakFleet(Weak<Inner>);

impl WeakFleet {
    /// The fleet, while somebody else keeps it.
    pub fn upgrade(&self) -> Option<Fleet> {
        self.0.upgrade().map(Fleet)
    }
}

fn epoch_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values behind: every change below is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = change(&mut state);
        state.version = state.version.wrapping_add(1);
        self.changes.send_replace(state.version);
        value
    }

    /// Passes on what a worker says of itself, for as long as both are there.
    fn follow(self: &Arc<Self>, worker: &Worker) {
        let (mut status, inner) = (worker.watch(), Arc::downgrade(self));
        tokio::spawn(async move {
            while status.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                inner.change(|_| ());
            }
        });
    }

    fn device<T>(&self, index: usize, change: impl FnOnce(&mut Device) -> T) -> Option<T> {
        self.change(|state| state.devices.iter_mut().find(|d| d.listed.index == index).map(change))
    }
}

impl Fleet {
    /// Starts the workers and looks for devices in the background. Must be called inside a tokio runtime.
    pub fn new(config: FleetConfig) -> Self {
        let cpu = Worker::new(config.cpu.clone());
        let reason = match config.backend {
            BackendChoice::Cpu => "the configuration asks for the processor",
            BackendChoice::Auto | BackendChoice::Opencl => "devices are being looked for",
        };
        let state = State { reason: reason.into(), devices: Vec::new(), cpu_busy: false, version: 0 };
        let inner = Arc::new(Inner {
            config,
            cpu,
            state: Mutex::new(state),
            changes: watch::channel(0).0,
            setup: Mutex::default(),
        });
        inner.follow(&inner.cpu);
        let fleet = Self(inner);
        if fleet.0.config.backend == BackendChoice::Cpu {
            fleet.warm_cpu();
        } else {
            // Holds no handle while it waits: the last handle's end must be the fleet's.
            let weak = Arc::downgrade(&fleet.0);
            let task = tokio::spawn(async move { set_up(&weak).await });
            fleet.0.setup.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        }
        fleet
    }

    fn warm_cpu(&self) {
        if self.0.config.warm {
            self.0.cpu.warm_up();
        }
    }

    /// A handle that keeps no worker alive.
    pub fn downgrade(&self) -> WeakFleet {
        WeakFleet(Arc::downgrade(&self.0))
    }

    /// Told with every change of the state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// A free place, if there is one: the fastest device, or the processor when no device may be used.
    pub fn take(&self) -> Option<Seat> {
        let now = Instant::now();
        let mut state = self.0.lock();
        let place = if state.devices.iter().any(|device| device.usable(now)) {
            let free = state.devices.iter_mut().filter(|device| device.usable(now) && !device.busy);
            let device = free.min_by(|a, b| a.time_ms().total_cmp(&b.time_ms()))?;
            device.busy = true;
            device.place()
        } else if state.cpu_busy {
            return None;
        } else {
            state.cpu_busy = true;
            Place::Cpu
        };
        drop(state);
        self.0.change(|_| ());
        Some(Seat { inner: Arc::clone(&self.0), place })
    }

    /// All places at a glance.
    pub fn status(&self) -> FleetStatus {
        let now = Instant::now();
        let state = self.0.lock();
        let usable = state.devices.iter().filter(|device| device.usable(now)).count();
        let status = |device: &Device| {
            let disabled = device.health.disabled(now);
            let (name, reason) = match (&device.used, disabled) {
                (Use::Not(name, reason), _) => (*name, reason.clone()),
                (Use::Measuring, _) => ("measuring", "its speed is measured against the processor's".into()),
                (Use::Starting, _) => ("starting", "its worker is started and tested".into()),
                (Use::Chosen, Some(disabled)) => ("disabled", disabled.reason.clone()),
                (Use::Chosen, None) if device.busy => ("proving", String::new()),
                (Use::Chosen, None) => ("ready", String::new()),
            };
            let retry = disabled.map(|d| SystemTime::now() + d.until.saturating_duration_since(now));
            DeviceStatus {
                index: device.listed.index,
                name: device.listed.name.clone(),
                driver: device.listed.driver.clone(),
                state: name.into(),
                reason,
                retry_ms: retry.map(epoch_ms),
                speed: device.speed.clone(),
                proofs: device.proofs,
                last_proof_ms: device.last_proof_ms,
                failures: device.health.total(),
                worker_pid: device.worker.as_ref().and_then(Worker::pid),
            }
        };
        let reason = match state.devices.iter().find_map(|d| Some((d, d.health.disabled(now)?))) {
            Some((device, disabled)) if usable == 0 => {
                format!("{} is disabled for a while: {}", device.listed.name, disabled.reason)
            }
            _ => state.reason.clone(),
        };
        FleetStatus {
            backend: if usable > 0 { "opencl" } else { "cpu" },
            reason,
            capacity: usable.max(1),
            cpu_pid: self.0.cpu.pid(),
            devices: state.devices.iter().map(status).collect(),
        }
    }
}

/// A place held for one proof; dropped, it is free again.
pub struct Seat {
    inner: Arc<Inner>,
    place: Place,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({:?})", self.place)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        match &self.place {
            Place::Cpu => self.inner.change(|state| state.cpu_busy = false),
            Place::Device { index, .. } => {
                self.inner.device(*index, |device| device.busy = false);
            }
        }
    }
}

impl Seat {
    /// The place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Process id of the worker at `place`.
    pub fn pid(&self, place: &Place) -> Option<u32> {
        match place {
            Place::Cpu => self.inner.cpu.pid(),
            Place::Device { index, .. } => {
                let state = self.inner.lock();
                state.devices.iter().find(|d| d.listed.index == *index)?.worker.as_ref()?.pid()
            }
        }
    }

    /// Makes a proof within `limit`; what a device can't do is done by the processor in the time that is left. `on_stage`
    /// is told each stage and where it is. Dropping the future ends the work.
    pub async fn prove(
        &self,
        request: ProveRequest,
        limit: Duration,
        mut on_stage: impl FnMut(Stage, &Place),
    ) -> Attempt {
        let Place::Device { index, name } = &self.place else {
            let result = work(&self.inner.cpu, request, limit, |stage| on_stage(stage, &Place::Cpu)).await;
            return Attempt { result, place: Place::Cpu, fallback: None };
        };
        let started = Instant::now();
        let worker = self.inner.device(*index, |device| device.worker.clone()).flatten();
        let result = match &worker {
            Some(worker) => work(worker, request.clone(), limit, |stage| on_stage(stage, &self.place)).await,
            None => Err(JobError::Start { detail: "it has no worker".into() }),
        };
        let error = match result {
            Ok(proven) => {
                self.inner.device(*index, |device| {
                    device.health.succeeded();
                    device.proofs = device.proofs.saturating_add(1);
                    device.last_proof_ms = Some(in_ms(started.elapsed()));
                });
                return Attempt { result: Ok(proven), place: self.place.clone(), fallback: None };
            }
            Err(error) => error,
        };
        let left = limit.saturating_sub(started.elapsed());
        let Some(reason) = Reason::of(&error).filter(|_| !left.is_zero()) else {
            return Attempt { result: Err(error), place: self.place.clone(), fallback: None };
        };
        let fallback = Fallback { reason, detail: error.to_string(), device: name.clone() };
        tracing::warn!(device = %name, reason = reason.name(), detail = %fallback.detail, "the processor makes the proof");
        let result = work(&self.inner.cpu, request, left, |stage| on_stage(stage, &Place::Cpu)).await;
        if reason.counts(result.is_ok()) {
            let detail = format!("{}: {}", reason.name(), fallback.detail);
            self.inner.device(*index, |device| {
                device.health.failed(Instant::now(), &detail, reason == Reason::Start);
                if device.health.disabled(Instant::now()).is_some() {
                    tracing::warn!(device = %name, %detail, "the device is disabled for a while");
                }
            });
        }
        Attempt { result, place: Place::Cpu, fallback: Some(fallback) }
    }
}

async fn work(
    worker: &Worker,
    request: ProveRequest,
    limit: Duration,
    on_stage: impl FnMut(Stage),
) -> Result<Proven, JobError> {
    worker.prove(request, limit).await?.wait(on_stage).await
}

/// Finds the devices, measures those that need it, and starts the workers of those that are used.
async fn set_up(fleet: &Weak<Inner>) {
    let Some(config) = fleet.upgrade().map(|inner| inner.config.clone()) else { return };
    let found = match driver::make_folders(&config.cache) {
        Ok(()) => list::devices(&config.binary, &config.cache).await.map_err(|e| e.to_string()),
        Err(error) => Err(format!("{} is not writable: {error}", config.cache.display())),
    };
    let Some(inner) = fleet.upgrade() else { return };
    let devices = match found {
        Ok(devices) => devices,
        Err(reason) => return on_processor(&inner, &config, reason),
    };
    if let Some(wanted) = config.devices.iter().find(|w| !devices.iter().any(|d| d.is_meant_by(w))) {
        let names: Vec<String> = devices.iter().map(|d| format!("{} {}", d.index, d.name)).collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        tracing::warn!(device = %wanted, %found, "prover.devices names a device that is not there");
        if !devices.iter().any(|d| config.devices.iter().any(|w| d.is_meant_by(w))) {
            let reason = format!("prover.devices asks for {wanted:?}, found are: {found}");
            return on_processor(&inner, &config, reason);
        }
    }
    let states: Vec<Device> = devices.into_iter().map(|listed| device(&config, listed)).collect();
    inner.change(|state| state.devices = states);
    drop(inner);
    measure_all(fleet, &config).await;
    start_all(fleet, &config).await;
    let Some(inner) = fleet.upgrade() else { return };
    let now = Instant::now();
    let reason = inner.change(|state| {
        let ready: Vec<&str> = state.devices.iter().filter(|d| d.usable(now)).map(|d| d.listed.name.as_str()).collect();
        state.reason =
            if ready.is_empty() { none_left(&state.devices) } else { format!("proving on {}", ready.join(", ")) };
        (!ready.is_empty()).then(|| state.reason.clone()).ok_or_else(|| state.reason.clone())
    });
    match reason {
        Ok(reason) => tracing::info!(%reason, "devices are ready"),
        Err(reason) => on_processor(&inner, &config, reason),
    }
}

/// Proofs are made on the processor, and this is why.
fn on_processor(inner: &Arc<Inner>, config: &FleetConfig, reason: String) {
    match config.backend {
        BackendChoice::Opencl => tracing::warn!(%reason, "no OpenCL device: the processor proves"),
        BackendChoice::Auto | BackendChoice::Cpu => tracing::info!(%reason, "the processor proves"),
    }
    inner.change(|state| state.reason = reason);
    if config.warm {
        inner.cpu.warm_up();
    }
}

/// Why no device of the listing is used.
fn none_left(devices: &[Device]) -> String {
    let why = |device: &Device| match (&device.used, device.health.disabled(Instant::now())) {
        (Use::Not(_, reason), _) => format!("{}: {reason}", device.listed.name),
        (_, Some(disabled)) => format!("{}: {}", device.listed.name, disabled.reason),
        _ => format!("{}: not ready", device.listed.name),
    };
    match devices {
        [] => "no OpenCL platform has a device".into(),
        some => some.iter().map(why).collect::<Vec<_>>().join("; "),
    }
}

/// What the configuration says about a device of the listing.
fn device(config: &FleetConfig, listed: Listed) -> Device {
    let pinned = config.devices.iter().any(|pattern| listed.is_meant_by(pattern));
    let used = if config.exclude.iter().any(|pattern| listed.is_meant_by(pattern)) {
        Use::Not("excluded", "prover.exclude names it".into())
    } else if !config.devices.is_empty() && !pinned {
        Use::Not("not_pinned", "prover.devices names others".into())
    } else if !listed.refusal.is_empty() {
        Use::Not("refused", listed.refusal.clone())
    } else if pinned {
        Use::Starting
    } else if listed.kind == "cpu" {
        let reason =
            "it is the host's processor, which the CPU prover uses without a driver; name it in prover.devices";
        Use::Not("slower", format!("{reason} to use it anyway"))
    } else if config.backend == BackendChoice::Auto {
        Use::Measuring
    } else {
        Use::Starting
    };
    Device {
        listed,
        used,
        worker: None,
        speed: None,
        health: Health::default(),
        busy: false,
        proofs: 0,
        last_proof_ms: None,
    }
}

/// Looks up or measures the speeds of devices: all of those that are used are looked up, those in question measured.
async fn measure_all(fleet: &Weak<Inner>, config: &FleetConfig) {
    let Some(inner) = fleet.upgrade() else { return };
    let open: Vec<(Listed, bool)> = inner
        .lock()
        .devices
        .iter()
        .filter(|device| !matches!(device.used, Use::Not(..)))
        .map(|device| (device.listed.clone(), matches!(device.used, Use::Measuring)))
        .collect();
    drop(inner);
    for (listed, in_question) in open {
        let (binary, cache, threads) = (&config.binary, &config.cache, config.cpu.threads);
        let known = speed::known(binary, cache, &listed, threads).await;
        let measured = match (known, in_question) {
            (Some(speed), _) => Ok(speed),
            (None, false) => continue,
            (None, true) => {
                let Some(_quiet) = quiet(fleet).await else { return };
                tracing::info!(device = %listed.name, "measuring its speed against the processor's");
                speed::measure(binary, cache, &listed, threads).await.map_err(|e| e.to_string())
            }
        };
        let Some(inner) = fleet.upgrade() else { return };
        inner.device(listed.index, |device| {
            match &measured {
                Ok(speed) if in_question && !speed.is_faster() => {
                    let Speed { device_ms, cpu_ms, workload, .. } = speed;
                    let reason = format!("{device_ms:.0} ms for {workload}, the processor takes {cpu_ms:.0} ms");
                    device.used = Use::Not("slower", reason);
                }
                Ok(_) => device.used = Use::Starting,
                Err(reason) => device.used = Use::Not("refused", reason.clone()),
            }
            device.speed = measured.as_ref().ok().cloned();
        });
        match measured {
            Ok(Speed { device_ms, cpu_ms, .. }) => {
                tracing::info!(device = %listed.name, device_ms, cpu_ms, "speed known")
            }
            Err(reason) => tracing::warn!(device = %listed.name, %reason, "the device is not used"),
        }
    }
}

/// Waits until no proof is being made, and keeps it so: a measurement beside a proof would be of something else.
async fn quiet(fleet: &Weak<Inner>) -> Option<Seat> {
    loop {
        if let Some(seat) = Fleet(fleet.upgrade()?).take() {
            return Some(seat);
        }
        tokio::time::sleep(FREE_LOOK).await;
    }
}

/// Starts the workers of all devices that are used; one that does not start is disabled for a while.
async fn start_all(fleet: &Weak<Inner>, config: &FleetConfig) {
    let Some(inner) = fleet.upgrade() else { return };
    let chosen: Vec<Listed> = {
        let state = inner.lock();
        let starting = state.devices.iter().filter(|device| matches!(device.used, Use::Starting));
        starting.map(|device| device.listed.clone()).collect()
    };
    drop(inner);
    for listed in chosen {
        let worker = Worker::new(worker_config(config, &listed));
        let started = worker.start().await;
        let Some(inner) = fleet.upgrade() else { return };
        inner.follow(&worker);
        if config.warm && started.is_ok() {
            worker.warm_up();
        }
        inner.device(listed.index, |device| {
            device.used = Use::Chosen;
            device.worker = Some(worker);
            if let Err(error) = &started {
                tracing::warn!(device = %listed.name, %error, "the device is disabled for a while");
                device.health.failed(Instant::now(), &error.to_string(), true);
            }
        });
    }
}

/// How a device's worker is started.
fn worker_config(config: &FleetConfig, listed: &Listed) -> WorkerConfig {
    let mut worker = config.cpu.clone();
    worker.program = Some(config.binary.clone());
    worker.arguments = vec!["worker".into(), "--device".into(), listed.index.to_string().into()];
    worker.environment = driver::environment(&config.cache);
    worker.start_limit = START_LIMIT;
    worker.silence_limit = SILENCE_LIMIT;
    worker.pulses = Some(config.pulses);
    worker.runs_apart = true;
    worker
}
