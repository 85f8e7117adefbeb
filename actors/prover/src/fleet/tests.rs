//! Places with real workers: processes of this test binary, started through a script that stands where `proofmesh-gpu`
//! would be. Its "devices" prove with the processor's backend, so a proof is a proof and no driver is needed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::fleet::{BackendChoice, Fleet, FleetConfig, FleetStatus, Place, Reason};
use crate::stages::Stage;
use crate::worker::PulseLimits;
use crate::worker::tests::{ENTRY, LONG, ROLE, config, kill, proof, signal};

/// Two devices, one that its driver refuses, and the host's processor.
const LISTING: &str = r#"{"devices": [
    {"index": 0, "name": "First", "platform": "p", "platform_version": "1", "kind": "gpu", "version": "3", "driver": "1",
     "memory_bytes": 1, "refusal": ""},
    {"index": 1, "name": "Second", "platform": "p", "platform_version": "1", "kind": "gpu", "version": "3", "driver": "1",
     "memory_bytes": 1, "refusal": ""},
    {"index": 2, "name": "Third", "platform": "p", "platform_version": "1", "kind": "gpu", "version": "3", "driver": "1",
     "memory_bytes": 1, "refusal": "no compiler"},
    {"index": 3, "name": "Host", "platform": "p", "platform_version": "1", "kind": "cpu", "version": "3", "driver": "1",
     "memory_bytes": 1, "refusal": ""}]}"#;

struct Folder {
    dir: tempfile::TempDir,
    _scratch: tempfile::TempDir,
    config: FleetConfig,
}

/// A script that answers as `proofmesh-gpu` does; `worker` and `measure` are what it does for these commands.
fn folder(backend: BackendChoice, worker: &str, measure: &str) -> Folder {
    let dir = tempfile::tempdir().unwrap();
    let (scratch, cpu) = config("worker", 16 << 30);
    let own = std::env::current_exe().unwrap().display().to_string();
    let worker = worker.replace("DEVICE", &format!("export {ROLE}=device; exec {own} {} prove", ENTRY.join(" ")));
    let binary = dir.path().join("gpu");
    let listing = dir.path().join("listing.json");
    std::fs::write(&listing, LISTING).unwrap();
    let script = format!(
        "#!/bin/sh\ncase $1 in\ndevices) cat {} ;;\nmeasure) {measure} ;;\nworker) {worker} ;;\n*) exit 2 ;;\nesac\n",
        listing.display()
    );
    std::fs::write(&binary, script).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
    let cache = dir.path().join("cache");
    let pulses = PulseLimits { apart: Duration::from_secs(15), ..PulseLimits::USUAL };
    let (devices, exclude) = (vec![], vec![]);
    let look_every = Duration::from_secs(3600);
    let config = FleetConfig { cpu, backend, binary, devices, exclude, cache, pulses, look_every, warm: false };
    Folder { dir, _scratch: scratch, config }
}

async fn until(fleet: &Fleet, what: &str, mut done: impl FnMut(&FleetStatus) -> bool) -> FleetStatus {
    let mut changes = fleet.changes();
    let wait = async {
        loop {
            let status = fleet.status();
            if done(&status) {
                return status;
            }
            // A pause ends without a change.
            let _ = tokio::time::timeout(Duration::from_millis(200), changes.changed()).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", fleet.status()))
}

fn states(status: &FleetStatus) -> Vec<&str> {
    status.devices.iter().map(|device| device.state.as_str()).collect()
}

#[tokio::test]
async fn a_device_that_dies_in_mid_proof_loses_no_job() {
    let mut folder = folder(BackendChoice::Opencl, "DEVICE", "exit 1");
    folder.config.exclude = vec!["second".into()];
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "a device", |status| status.backend == "opencl").await;
    assert_eq!(states(&status), ["ready", "excluded", "refused", "slower"]);
    assert!(status.capacity == 1 && status.reason.contains("First"), "{status:?}");

    let seat = fleet.take().unwrap();
    assert_eq!(seat.place(), &Place::Device { id: 0, index: 0, name: "First".into() });
    assert!(fleet.take().is_none(), "the processor is no second place beside a device");
    let mut killed = false;
    let mut places = Vec::new();
    let request = proof(200);
    let attempt = seat
        .prove(request.clone(), LONG, |stage, place| {
            places.push(place.clone());
            if stage == Stage::Trace && !killed {
                kill(seat.pid(place).unwrap());
                killed = true;
            }
        })
        .await;
    let proven = attempt.result.unwrap();
    proof::cairo::verify(&proven.blob, &request.statement, &request.prover).unwrap();
    assert!(killed && attempt.place == Place::Cpu && places.first() != places.last());
    let fallback = attempt.fallback.unwrap();
    assert_eq!((fallback.reason, fallback.device.as_str()), (Reason::Died, "First"));
    let status = fleet.status();
    assert_eq!((status.devices[0].failures, status.devices[0].state.as_str()), (1, "proving"));
    drop(seat);
    assert_eq!(fleet.status().devices[0].state, "ready", "one failure is forgiven");

    let seat = fleet.take().unwrap();
    let attempt = seat.prove(request, LONG, |_, _| ()).await;
    assert!(attempt.result.is_ok() && attempt.fallback.is_none() && attempt.place.backend() == "opencl");
    assert_eq!(fleet.status().devices[0].proofs, 1);
    drop(folder.dir);
}

#[tokio::test]
async fn a_device_whose_process_stands_still_holds_a_job_for_no_longer_than_its_limit() {
    let mut folder = folder(BackendChoice::Opencl, "DEVICE", "exit 1");
    folder.config.exclude = vec!["second".into()];
    let fleet = Fleet::new(folder.config.clone());
    until(&fleet, "a device", |status| status.backend == "opencl").await;
    let seat = fleet.take().unwrap();
    let (mut stopped, mut taken_over) = (None, None);
    let request = proof(200);
    let attempt = seat
        .prove(request.clone(), LONG, |stage, place| {
            let now = std::time::Instant::now();
            match (place, stopped) {
                (Place::Device { .. }, None) if stage == Stage::Trace => {
                    let pid = seat.pid(place).unwrap();
                    signal(pid, rustix::process::Signal::STOP);
                    stopped = Some((pid, now));
                }
                (Place::Cpu, Some((_, since))) => taken_over = taken_over.or(Some(now.duration_since(since))),
                _ => {}
            }
        })
        .await;
    let proven = attempt.result.unwrap();
    proof::cairo::verify(&proven.blob, &request.statement, &request.prover).unwrap();
    let fallback = attempt.fallback.unwrap();
    assert_eq!((attempt.place, fallback.reason), (Place::Cpu, Reason::Hung), "{}", fallback.detail);
    let held = taken_over.unwrap();
    assert!(held >= folder.config.pulses.apart && held < folder.config.pulses.apart * 2, "{held:?}");
    let (pid, _) = stopped.unwrap();
    assert!(!crate::worker::tests::alive(pid), "a process that does not answer is ended");
    assert_eq!(fleet.status().devices[0].failures, 1);
    drop(folder.dir);
}

#[tokio::test]
async fn a_device_that_does_not_start_is_disabled_with_its_reason_and_the_processor_proves() {
    let folder = folder(BackendChoice::Opencl, "echo self-test failed >&2; exit 1", "exit 1");
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "both disabled", |status| states(status).starts_with(&["disabled", "disabled"])).await;
    assert!(status.devices[0].reason.contains("self-test failed"), "{status:?}");
    assert!(status.devices[0].retry_ms.is_some() && status.backend == "cpu" && status.capacity == 1);
    let status = until(&fleet, "the reason", |status| status.reason.contains("self-test failed")).await;
    assert!(status.reason.contains("First"), "{status:?}");
    assert_eq!(fleet.take().unwrap().place(), &Place::Cpu);
}

#[tokio::test]
async fn the_choice_is_by_measured_speed() {
    let answer = |ms: &str| format!(r#"echo '{{"device_ms": '{ms}', "cpu_ms": 5, "workload": "w"}}'"#);
    // `measure --device N`: the first is slower than the processor, the second faster.
    let script = format!("if [ $3 = 0 ]; then {}; else {}; fi", answer("9"), answer("2"));
    let folder = folder(BackendChoice::Auto, "DEVICE", &script);
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "a device", |status| status.backend == "opencl").await;
    assert_eq!(states(&status), ["slower", "ready", "refused", "slower"]);
    assert!(status.devices[0].reason.contains("9 ms") && status.devices[0].reason.contains("5 ms"), "{status:?}");
    assert!(status.devices[1].speed.as_ref().is_some_and(|speed| speed.is_faster()));
    assert_eq!(fleet.take().unwrap().place().device(), Some("Second"));
    drop(fleet);
    // The next start knows what was measured.
    let mut again = folder.config.clone();
    again.devices = vec!["first".into(), "host".into()];
    let fleet = Fleet::new(again);
    let status = until(&fleet, "pinned devices", |status| status.capacity == 2).await;
    assert_eq!(states(&status), ["ready", "not_pinned", "not_pinned", "ready"]);
    assert!(status.devices[0].speed.is_some() && status.devices[3].speed.is_none(), "looked up, not measured");
    let (first, second) = (fleet.take().unwrap(), fleet.take().unwrap());
    assert_eq!([first.place().device(), second.place().device()], [Some("First"), Some("Host")]);
    assert!(fleet.take().is_none());
    drop(first);
    assert_eq!(fleet.take().unwrap().place().device(), Some("First"));
}

/// A listing of graphics processors of these numbers and names.
fn listing(devices: &[(usize, &str)]) -> String {
    let device = |(index, name): &(usize, &str)| {
        serde_json::json!({"index": index, "name": name, "platform": "p", "platform_version": "1", "kind": "gpu",
            "version": "3", "driver": "1", "memory_bytes": 1, "refusal": ""})
    };
    serde_json::json!({"devices": devices.iter().map(device).collect::<Vec<_>>()}).to_string()
}

#[tokio::test]
async fn devices_that_come_later_prove_and_those_that_go_do_not() {
    let mut folder = folder(BackendChoice::Opencl, "DEVICE", "exit 1");
    let file = folder.dir.path().join("listing.json");
    let list = |devices: &[(usize, &str)]| std::fs::write(&file, listing(devices)).unwrap();
    list(&[]);
    folder.config.exclude = vec!["spare".into()];
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "none", |status| status.reason.contains("no OpenCL platform")).await;
    assert!(status.backend == "cpu" && status.problems.len() == 1, "{status:?}");

    // Asked for: the setting is fine, too, once its device is there.
    list(&[(0, "Spare"), (1, "Late")]);
    assert!(fleet.look_now());
    let status = until(&fleet, "the late device", |status| status.backend == "opencl").await;
    assert!(states(&status) == ["excluded", "ready"] && status.problems.is_empty(), "{status:?}");
    let pid = status.devices[1].worker_pid.unwrap();
    let seat = fleet.take().unwrap();
    let (_, kept) = (assert_eq!(seat.place().device(), Some("Late")), seat.place().clone());
    let attempt = seat.prove(proof(200), LONG, |_, _| ()).await;
    assert!(attempt.result.is_ok() && attempt.place == kept && attempt.fallback.is_none(), "{attempt:?}");

    // Another driver comes, and the device is one number up. While a proof is made there, nothing is done about it.
    list(&[(0, "Spare"), (1, "Early"), (2, "Late")]);
    fleet.look_now();
    let status = until(&fleet, "the early device", |status| status.capacity == 2).await;
    assert!(status.devices.iter().any(|d| d.name == "Late" && d.index == 1 && d.worker_pid == Some(pid)), "{status:?}");
    drop(seat);
    fleet.look_now();
    let moved = |status: &FleetStatus| {
        status
            .devices
            .iter()
            .any(|d| d.name == "Late" && d.index == 2 && d.state == "ready" && d.worker_pid != Some(pid))
    };
    let status = until(&fleet, "its new number", moved).await;
    assert_eq!(status.devices.iter().find(|d| d.name == "Late").unwrap().proofs, 1, "still the same device");

    // One goes. A driver that crashes says nothing about the others.
    list(&[(0, "Early")]);
    fleet.look_now();
    let one_left = |status: &FleetStatus| states(status) == ["ready", "vanished", "vanished"];
    let status = until(&fleet, "one left", one_left).await;
    assert!(status.devices.iter().all(|d| d.name == "Early" || !d.reason.is_empty() && d.worker_pid.is_none()));
    assert_eq!(fleet.take().unwrap().place().device(), Some("Early"));
    std::fs::write(&file, "no listing").unwrap();
    fleet.look_now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fleet.status().capacity, 1);
    // And it comes back, by itself.
    drop(fleet);
    folder.config.look_every = Duration::from_millis(300);
    let fleet = Fleet::new(folder.config.clone());
    until(&fleet, "the look", |status| status.reason.contains("not understood")).await;
    list(&[(0, "Late")]);
    until(&fleet, "found without being asked", |status| status.backend == "opencl").await;
    drop(folder.dir);
}

#[tokio::test]
async fn kernels_are_compiled_ahead_and_refused_ones_disable_the_device() {
    let mut folder = folder(BackendChoice::Opencl, "DEVICE", "exit 1");
    folder.config.exclude = vec!["second".into()];
    folder.config.warm = true;
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "told", |status| {
        status.devices.first().is_some_and(|d| d.state == "ready" && d.reason.contains("of 3 are ready"))
    });
    let status = status.await;
    assert_eq!(status.backend, "opencl", "proofs are made meanwhile");
    let seat = fleet.take().unwrap();
    let attempt = seat.prove(proof(200), LONG, |_, _| ()).await;
    assert!(attempt.result.is_ok() && attempt.place.backend() == "opencl", "{attempt:?}");
    drop(seat);
    until(&fleet, "all ready", |status| status.devices[0].state == "ready" && status.devices[0].reason.is_empty())
        .await;
    drop(fleet);

    let worker = folder.config.binary.clone();
    let script = std::fs::read_to_string(&worker).unwrap().replace("ROLE=device;", "ROLE='device with bad kernels';");
    std::fs::write(&worker, script).unwrap();
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "disabled", |status| states(status).first() == Some(&"disabled")).await;
    let device = &status.devices[0];
    assert!(
        device.reason.contains("kernel add_opcode") && device.retry_ms.is_some() && device.failures == 1,
        "{status:?}"
    );
    assert!(status.backend == "cpu" && status.reason.contains("add_opcode"), "{status:?}");
    drop(folder.dir);
}

#[tokio::test]
async fn without_a_binary_or_a_loader_or_the_pinned_device_the_processor_proves_and_says_why() {
    let mut folder = folder(BackendChoice::Opencl, "DEVICE", "exit 1");
    let reason = async |config: &FleetConfig, word: &str| {
        let fleet = Fleet::new(config.clone());
        let status = until(&fleet, word, |status| status.reason.contains(word)).await;
        assert_eq!((status.backend, status.capacity), ("cpu", 1));
        assert_eq!(fleet.take().unwrap().place(), &Place::Cpu);
    };
    folder.config.devices = vec!["fourth".into()];
    folder.config.exclude = vec!["9".into()];
    reason(&folder.config, "\"fourth\"").await;
    let fleet = Fleet::new(folder.config.clone());
    let status = until(&fleet, "the problems", |status| !status.problems.is_empty()).await;
    let named: Vec<(&str, &str)> = status.problems.iter().map(|p| (p.field.as_str(), p.value.as_str())).collect();
    assert_eq!(named, [("prover.devices", "fourth"), ("prover.exclude", "9")]);
    assert_eq!(status.problems[0].found, ["0 First", "1 Second", "2 Third", "3 Host"]);
    drop(fleet);
    (folder.config.devices, folder.config.exclude) = (vec![], vec![]);
    let binary = std::mem::replace(&mut folder.config.binary, PathBuf::from("/nonexistent/proofmesh-gpu"));
    reason(&folder.config, "prover.gpu_binary").await;
    let words = "gpu: error while loading shared libraries: libOpenCL.so.1: cannot open shared object file";
    std::fs::write(&binary, format!("#!/bin/sh\necho '{words}' >&2\nexit 127\n")).unwrap();
    folder.config.binary = binary;
    reason(&folder.config, "libOpenCL.so.1").await;
    folder.config.backend = BackendChoice::Cpu;
    reason(&folder.config, "the configuration asks").await;
}
