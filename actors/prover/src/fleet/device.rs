//! One device as the node sees it: what it is used for, and why not.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::list::Listed;
use super::place::Place;
use super::speed::Speed;
use super::{BackendChoice, FleetConfig, driver};
use crate::worker::{Kernels, Worker, WorkerConfig};

/// Longest start of a device's worker: the first one on a driver compiles all kernels and tests them.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Longest time of a device's worker without progress while a kernel is compiled, which may take minutes on a slow machine, or
/// while the processor does its part. A driver that does not come back has less, see [`FleetConfig::pulses`].
const SILENCE_LIMIT: Duration = Duration::from_secs(600);

/// The state of a device that was listed once and is not any more.
const VANISHED: &str = "vanished";

/// States of a device: the first two are those in which it proves.
pub const DEVICE_STATES: [&str; 10] =
    ["ready", "proving", "disabled", "starting", "measuring", "slower", "excluded", "not_pinned", "refused", VANISHED];

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

/// What became of a device of the listing.
#[derive(Clone, Debug)]
pub(super) enum Use {
    /// Never used: refused, excluded, not pinned, slower, vanished.
    Not(&'static str, String),
    /// Waits to be measured, or is.
    Measuring,
    /// Its worker is being started for the first time.
    Starting,
    /// Used, unless its health forbids it.
    Chosen,
}

/// By what a device is known again in a later listing, where it may have another number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    platform: String,
    name: String,
    /// Another driver is another device: it must be tested and measured anew.
    driver: String,
    /// Which of those that are the same in all else.
    nth: usize,
}

/// The identities of a listing's devices, in its order.
pub(super) fn identities(listing: &[Listed]) -> Vec<Identity> {
    let same = |a: &Listed, b: &Listed| (&a.platform, &a.name, &a.driver) == (&b.platform, &b.name, &b.driver);
    let identity = |(at, listed): (usize, &Listed)| Identity {
        platform: listed.platform.clone(),
        name: listed.name.clone(),
        driver: listed.driver.clone(),
        nth: listing.iter().take(at).filter(|other| same(other, listed)).count(),
    };
    listing.iter().enumerate().map(identity).collect()
}

pub(super) struct Device {
    /// Never given to another device.
    pub(super) id: u64,
    pub(super) identity: Identity,
    pub(super) listed: Listed,
    pub(super) used: Use,
    pub(super) worker: Option<Worker>,
    pub(super) speed: Option<Speed>,
    pub(super) health: Health,
    pub(super) busy: bool,
    pub(super) proofs: u64,
    pub(super) last_proof_ms: Option<u64>,
    /// The start of its worker whose refused kernels have been counted.
    pub(super) kernels_refused: u64,
}

fn epoch_ms(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl Device {
    pub(super) fn new(id: u64, identity: Identity, listed: Listed, used: Use) -> Self {
        Self {
            id,
            identity,
            listed,
            used,
            worker: None,
            speed: None,
            health: Health::default(),
            busy: false,
            proofs: 0,
            last_proof_ms: None,
            kernels_refused: 0,
        }
    }

    pub(super) fn place(&self) -> Place {
        Place::Device { id: self.id, index: self.listed.index, name: self.listed.name.clone() }
    }

    /// Measured time of the workload; a device that was not measured comes last.
    pub(super) fn time_ms(&self) -> f64 {
        self.speed.as_ref().map_or(f64::INFINITY, |speed| speed.device_ms)
    }

    pub(super) fn usable(&self, now: Instant) -> bool {
        matches!(self.used, Use::Chosen) && self.worker.is_some() && self.health.usable(now)
    }

    /// Whether a later listing was without it.
    pub(super) fn has_vanished(&self) -> bool {
        matches!(self.used, Use::Not(VANISHED, _))
    }

    /// Not in the listing any more. A proof that is being made on it goes on, for as long as the device does.
    pub(super) fn vanish(&mut self) {
        let reason = "no driver lists it any more; when one does, the next look finds it".to_owned();
        (self.used, self.worker) = (Use::Not(VANISHED, reason), None);
    }

    pub(super) fn status(&self, now: Instant) -> DeviceStatus {
        let disabled = self.health.disabled(now);
        let (name, reason) = match (&self.used, disabled) {
            (Use::Not(name, reason), _) => (*name, reason.clone()),
            (Use::Measuring, _) => ("measuring", "its speed is measured against the processor's".into()),
            (Use::Starting, _) => ("starting", "its worker is started and tested".into()),
            (Use::Chosen, Some(disabled)) => ("disabled", disabled.reason.clone()),
            (Use::Chosen, None) if self.busy => ("proving", self.compiling()),
            (Use::Chosen, None) => ("ready", self.compiling()),
        };
        let retry = disabled.map(|d| SystemTime::now() + d.until.saturating_duration_since(now));
        DeviceStatus {
            index: self.listed.index,
            name: self.listed.name.clone(),
            driver: self.listed.driver.clone(),
            state: name.into(),
            reason,
            retry_ms: retry.map(epoch_ms),
            speed: self.speed.clone(),
            proofs: self.proofs,
            last_proof_ms: self.last_proof_ms,
            failures: self.health.total(),
            worker_pid: self.worker.as_ref().and_then(Worker::pid),
        }
    }

    /// What a proof would wait for, in words; nothing when all kernels are ready.
    fn compiling(&self) -> String {
        match self.worker.as_ref().and_then(|worker| worker.status().kernels) {
            Some(Kernels::Compiling { ready, all }) => {
                format!("its kernels are being compiled, {ready} of {all} are ready; a proof waits for those it needs")
            }
            Some(Kernels::Ready { .. } | Kernels::Refused { .. }) | None => String::new(),
        }
    }
}

/// What the configuration says about a device of the listing.
pub(super) fn use_of(config: &FleetConfig, listed: &Listed) -> Use {
    let pinned = config.devices.iter().any(|pattern| listed.is_meant_by(pattern));
    if config.exclude.iter().any(|pattern| listed.is_meant_by(pattern)) {
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
    }
}

/// Why no device of the listing is used.
pub(super) fn none_left(devices: &[Device], now: Instant) -> String {
    let why = |device: &Device| match (&device.used, device.health.disabled(now)) {
        (Use::Not(_, reason), _) => format!("{}: {reason}", device.listed.name),
        (_, Some(disabled)) => format!("{}: {}", device.listed.name, disabled.reason),
        _ => format!("{}: not ready", device.listed.name),
    };
    match devices {
        [] => "no OpenCL platform has a device".into(),
        some => some.iter().map(why).collect::<Vec<_>>().join("; "),
    }
}

/// How a device's worker is started.
pub(super) fn worker_config(config: &FleetConfig, listed: &Listed) -> WorkerConfig {
    let mut worker = config.cpu.clone();
    worker.program = Some(config.binary.clone());
    worker.arguments = vec!["worker".into(), "--device".into(), listed.wanted().into()];
    worker.environment = driver::environment(&config.cache);
    worker.start_limit = START_LIMIT;
    worker.silence_limit = SILENCE_LIMIT;
    worker.pulses = Some(config.pulses);
    worker.runs_apart = true;
    worker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_again_under_another_number() {
        let device = |index, name: &str, driver: &str| Listed {
            index,
            name: name.into(),
            driver: driver.into(),
            ..Listed::default()
        };
        let before = identities(&[device(0, "A", "1"), device(1, "A", "1"), device(2, "B", "1")]);
        let after = identities(&[device(0, "C", "1"), device(1, "A", "1"), device(2, "A", "1"), device(3, "B", "2")]);
        assert_eq!(before[..2], after[1..3]);
        assert_ne!(before[0], before[1], "two of a kind are two");
        assert_ne!(before[2], after[3], "another driver");
    }
}
