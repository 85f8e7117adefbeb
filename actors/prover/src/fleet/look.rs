//! Looking for devices: at the start, then now and then and when asked, so that a device or driver that comes later is used
//! without a restart of the node, and one that went is not.
//!
//! Owns what a look does: ask for the listing, compare it with what is known, measure what is in question, start the
//! workers of what is used. Runs in a task of its own that holds the fleet only while it changes it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::device::{Device, Use, identities, none_left, use_of, worker_config};
use super::list::{self, AskError, Listed, unmatched};
use super::seats::{Inner, State};
use super::speed::{self, Speed};
use super::{BackendChoice, FleetConfig, driver};
use crate::worker::Worker;

/// How often a measurement looks whether all places are free.
const FREE_LOOK: Duration = Duration::from_millis(200);
/// Pause before a look that could not change a device because a proof was being made on it.
const AGAIN: Duration = Duration::from_secs(20);

/// Looks for devices for as long as the fleet is there.
pub(super) async fn keep_looking(fleet: Weak<Inner>) {
    let mut first = true;
    loop {
        let Some((config, wake)) = fleet.upgrade().map(|inner| (inner.config.clone(), Arc::clone(&inner.wake))) else {
            return;
        };
        let again = look(&fleet, &config, first).await;
        first = false;
        let pause = if again { config.look_every.min(AGAIN) } else { config.look_every };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wake.notified() => tracing::info!("looking for devices, as asked"),
        }
    }
}

/// One look. Whether the next should follow soon.
async fn look(fleet: &Weak<Inner>, config: &FleetConfig, first: bool) -> bool {
    let found = match driver::make_folders(&config.cache) {
        Ok(()) => list::devices(&config.binary, &config.cache).await,
        Err(error) => Err(AskError::Folder { path: config.cache.clone(), detail: error.to_string() }),
    };
    let (listing, why) = match found {
        Ok(listing) => (listing, None),
        // These say that there is no device. Whatever else goes wrong says nothing about those that are known.
        Err(error @ (AskError::Refused { .. } | AskError::NoLoader { .. })) => (Vec::new(), Some(error.to_string())),
        Err(error) if first => (Vec::new(), Some(error.to_string())),
        Err(error) => {
            tracing::warn!(%error, "devices can't be listed: those that are known stay");
            return false;
        }
    };
    let Some(inner) = fleet.upgrade() else { return false };
    let again = inner.change(|state| {
        let problems = unmatched(&config.devices, &config.exclude, &listing);
        for problem in problems.iter().filter(|problem| !state.problems.contains(problem)) {
            tracing::warn!(%problem, "a setting names no device");
        }
        state.problems = problems;
        compare(state, config, listing)
    });
    drop(inner);
    measure_all(fleet, config).await;
    start_all(fleet, config).await;
    if let Some(inner) = fleet.upgrade() {
        conclude(&inner, config, first, why);
    }
    again
}

/// Brings what is known in line with a listing. Whether a device must wait for its proof's end.
fn compare(state: &mut State, config: &FleetConfig, listing: Vec<Listed>) -> bool {
    let identities = identities(&listing);
    let mut again = false;
    for device in state.devices.iter_mut().filter(|d| !d.has_vanished() && !identities.contains(&d.identity)) {
        tracing::warn!(device = %device.listed.name, "no driver lists the device any more: it is not used");
        device.vanish();
    }
    for (listed, identity) in listing.into_iter().zip(identities) {
        let used = use_of(config, &listed);
        match state.devices.iter_mut().find(|d| d.identity == identity && !d.has_vanished()) {
            Some(known) if known.listed == listed => {}
            Some(known) if known.busy => again = true,
            // Under another number, or refused for another reason: its worker opens devices by number.
            Some(known) => (known.listed, known.used, known.worker) = (listed, used, None),
            None => {
                state.devices.retain(|device| device.identity != identity || device.busy);
                tracing::info!(device = %listed.name, index = listed.index, driver = %listed.driver, "a device is there");
                let id = state.next_id;
                state.next_id = id.wrapping_add(1);
                state.devices.push(Device::new(id, identity, listed, used));
            }
        }
    }
    state.devices.sort_by_key(|device| (device.has_vanished(), device.listed.index));
    if state.devices.iter().any(|device| matches!(device.used, Use::Measuring | Use::Starting)) {
        state.reason = "devices are being measured, started and tested".into();
    }
    again
}

/// Says where proofs are made from now on, and why.
fn conclude(inner: &Arc<Inner>, config: &FleetConfig, first: bool, why: Option<String>) {
    let now = Instant::now();
    let (ready, before, reason) = inner.change(|state| {
        let ready: Vec<&str> = state.devices.iter().filter(|d| d.usable(now)).map(|d| d.listed.name.as_str()).collect();
        let pinned = |device: &Device| config.devices.iter().any(|wanted| device.listed.is_meant_by(wanted));
        let is_ready = !ready.is_empty();
        let reason = if is_ready {
            format!("proving on {}", ready.join(", "))
        } else if let Some(why) = why {
            why
        } else if let Some(problem) = state.problems.first()
            && !config.devices.is_empty()
            && !state.devices.iter().any(|device| pinned(device) && !device.has_vanished())
        {
            problem.to_string()
        } else {
            none_left(&state.devices, now)
        };
        (is_ready, std::mem::replace(&mut state.reason, reason.clone()), reason)
    });
    if !first && before == reason {
        return;
    }
    match (ready, config.backend) {
        (true, _) => tracing::info!(%reason, "devices are ready"),
        (false, BackendChoice::Opencl) => tracing::warn!(%reason, "no OpenCL device: the processor proves"),
        (false, BackendChoice::Auto | BackendChoice::Cpu) => tracing::info!(%reason, "the processor proves"),
    }
    if !ready && config.warm {
        inner.cpu.warm_up();
    }
}

/// Looks up or measures the speeds of devices: all of those that are to be started are looked up, those in question
/// measured.
async fn measure_all(fleet: &Weak<Inner>, config: &FleetConfig) {
    let Some(inner) = fleet.upgrade() else { return };
    let open: Vec<(u64, Listed, bool)> = inner
        .lock()
        .devices
        .iter()
        .filter(|device| matches!(device.used, Use::Measuring | Use::Starting))
        .map(|device| (device.id, device.listed.clone(), matches!(device.used, Use::Measuring)))
        .collect();
    drop(inner);
    for (id, listed, in_question) in open {
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
        inner.device(id, |device| {
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

/// While it lives, no place is handed out.
struct Quiet(Weak<Inner>);

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.change(|state| state.measuring = false);
        }
    }
}

/// Waits until no proof is being made, and keeps it so: a measurement beside a proof would be of something else.
async fn quiet(fleet: &Weak<Inner>) -> Option<Quiet> {
    loop {
        let inner = fleet.upgrade()?;
        let is_quiet = inner.change(|state| {
            state.measuring = !state.cpu_busy && !state.devices.iter().any(|device| device.busy);
            state.measuring
        });
        drop(inner);
        if is_quiet {
            return Some(Quiet(Weak::clone(fleet)));
        }
        tokio::time::sleep(FREE_LOOK).await;
    }
}

/// Starts the workers of all devices that are to be used; one that does not start is disabled for a while.
async fn start_all(fleet: &Weak<Inner>, config: &FleetConfig) {
    let Some(inner) = fleet.upgrade() else { return };
    let chosen: Vec<(u64, Listed)> = {
        let state = inner.lock();
        let starting = state.devices.iter().filter(|device| matches!(device.used, Use::Starting));
        starting.map(|device| (device.id, device.listed.clone())).collect()
    };
    drop(inner);
    for (id, listed) in chosen {
        let worker = Worker::new(worker_config(config, &listed));
        let started = worker.start().await;
        let Some(inner) = fleet.upgrade() else { return };
        inner.follow(&worker, Some(id));
        if config.warm && started.is_ok() {
            worker.warm_up();
        }
        inner.device(id, |device| {
            device.used = Use::Chosen;
            device.worker = Some(worker);
            if let Err(error) = &started {
                tracing::warn!(device = %listed.name, %error, "the device is disabled for a while");
                device.health.failed(Instant::now(), &error.to_string(), true);
            }
        });
    }
}
