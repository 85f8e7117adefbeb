//! The places where proofs are made, and who sits on them.
//!
//! A place is the processor or one device, each with a worker of its own and room for one proof. While any device may be
//! used, only devices are handed out; the processor stands in when one of them fails in the middle, and takes everything
//! when none is left. Devices are found and set up in the background, see `look`; until then the processor is there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::device::{Device, DeviceStatus};
use super::list::Unmatched;
use super::look::keep_looking;
use super::place::{Place, Seat};
use super::{BackendChoice, FleetConfig};
use crate::worker::{Kernels, Worker};

pub(super) struct State {
    /// Why proofs are made where they are made.
    pub(super) reason: String,
    /// Those of the last listing, in its order, and behind them those that have vanished since.
    pub(super) devices: Vec<Device>,
    /// The id of the next device that is found.
    pub(super) next_id: u64,
    /// Settings that name no device.
    pub(super) problems: Vec<Unmatched>,
    /// A proof uses the processor.
    pub(super) cpu_busy: bool,
    /// A measurement uses the processor and a device: no place is handed out.
    pub(super) measuring: bool,
    /// Tells changes to [`Fleet::changes`].
    version: u64,
}

pub(super) struct Inner {
    pub(super) config: FleetConfig,
    pub(super) cpu: Worker,
    /// Told when devices shall be looked for now.
    pub(super) wake: Arc<Notify>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    looking: Mutex<Option<AbortHandle>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.looking.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// All places at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetStatus {
    /// Backend of the next proof: `opencl` or `cpu`.
    pub backend: &'static str,
    /// Why.
    pub reason: String,
    /// Settings that name no device of this machine.
    pub problems: Vec<Unmatched>,
    /// Proofs that can be made at once.
    pub capacity: usize,
    /// The processor's worker.
    pub cpu_pid: Option<u32>,
    /// The devices, in the listing's order; those that have vanished come last.
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

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves whole values behind: every change below is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let value = change(&mut state);
        state.version = state.version.wrapping_add(1);
        self.changes.send_replace(state.version);
        value
    }

    /// Passes on what a worker says of itself, for as long as both are there; `device` is whose worker it is.
    pub(super) fn follow(self: &Arc<Self>, worker: &Worker, device: Option<u64>) {
        let (mut status, inner) = (worker.watch(), Arc::downgrade(self));
        tokio::spawn(async move {
            while status.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                let seen = status.borrow_and_update().clone();
                match (device, seen.kernels) {
                    (Some(id), Some(Kernels::Refused { detail })) => inner.kernels_refused(id, seen.starts, &detail),
                    _ => inner.change(|_| ()),
                }
            }
        });
    }

    /// A device whose driver refuses kernels that proofs need is not used for a while; counted once per start.
    fn kernels_refused(&self, id: u64, start: u64, detail: &str) {
        self.device(id, |device| {
            if device.kernels_refused < start {
                device.kernels_refused = start;
                tracing::warn!(device = %device.listed.name, %detail, "the device is disabled for a while");
                device.health.failed(Instant::now(), detail, true);
            }
        });
    }

    pub(super) fn device<T>(&self, id: u64, change: impl FnOnce(&mut Device) -> T) -> Option<T> {
        self.change(|state| state.devices.iter_mut().find(|device| device.id == id).map(change))
    }

    /// Process id of the worker at a place.
    pub(super) fn pid(&self, place: &Place) -> Option<u32> {
        match place {
            Place::Cpu => self.cpu.pid(),
            Place::Device { id, .. } => {
                self.lock().devices.iter().find(|device| device.id == *id)?.worker.as_ref()?.pid()
            }
        }
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
        let state = State {
            reason: reason.into(),
            devices: Vec::new(),
            next_id: 0,
            problems: Vec::new(),
            cpu_busy: false,
            measuring: false,
            version: 0,
        };
        let inner = Arc::new(Inner {
            config,
            cpu,
            wake: Arc::default(),
            state: Mutex::new(state),
            changes: watch::channel(0).0,
            looking: Mutex::default(),
        });
        inner.follow(&inner.cpu, None);
        let fleet = Self(inner);
        if fleet.0.config.backend == BackendChoice::Cpu {
            if fleet.0.config.warm {
                fleet.0.cpu.warm_up();
            }
        } else {
            // Holds no handle while it waits: the last handle's end must be the fleet's.
            let task = tokio::spawn(keep_looking(Arc::downgrade(&fleet.0)));
            *fleet.0.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        }
        fleet
    }

    /// Looks for devices that have come or gone, now. False if the configuration asks for the processor alone.
    pub fn look_now(&self) -> bool {
        self.0.wake.notify_one();
        self.0.config.backend != BackendChoice::Cpu
    }

    /// A handle that keeps no worker alive.
    pub fn downgrade(&self) -> WeakFleet {
        WeakFleet(Arc::downgrade(&self.0))
    }

    /// Told with every change of the state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Process id of the worker at `place`.
    pub fn pid(&self, place: &Place) -> Option<u32> {
        self.0.pid(place)
    }

    /// A free place, if there is one: the fastest device, or the processor when no device may be used.
    pub fn take(&self) -> Option<Seat> {
        let now = Instant::now();
        let mut state = self.0.lock();
        if state.measuring {
            return None;
        }
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
        Some(Seat::new(Arc::clone(&self.0), place))
    }

    /// All places at a glance.
    pub fn status(&self) -> FleetStatus {
        let now = Instant::now();
        let state = self.0.lock();
        let names = state.devices.iter().filter(|device| device.usable(now)).map(|device| device.listed.name.as_str());
        let ready: Vec<&str> = names.collect();
        let usable = ready.len();
        let reason = match state.devices.iter().find_map(|d| Some((d, d.health.disabled(now)?))) {
            Some((device, disabled)) if usable == 0 => {
                format!("{} is disabled for a while: {}", device.listed.name, disabled.reason)
            }
            _ if usable > 0 => format!("proving on {}", ready.join(", ")),
            _ => state.reason.clone(),
        };
        FleetStatus {
            backend: if usable > 0 { "opencl" } else { "cpu" },
            reason,
            problems: state.problems.clone(),
            capacity: usable.max(1),
            cpu_pid: self.0.cpu.pid(),
            devices: state.devices.iter().map(|device| device.status(now)).collect(),
        }
    }
}
