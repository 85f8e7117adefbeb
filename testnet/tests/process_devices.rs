//! Real nodes that prove on an OpenCL device: PoCL, a driver for the host's processor, pinned because no node would choose
//! it. Chosen by configuration, killed or stopped in the middle, listed twice, missing, installed later. Speed is nobody's business here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use testnet::harness::trial::{MINUTE, network, stop_all};
use testnet::harness::{Cluster, Launch, gpu_binary};
use testnet::rpc::Rpc;

/// Until a driver has compiled all kernels of its library and tested them.
const COMPILED: Duration = Duration::from_secs(400);
/// A proof on the processor, beside whatever else runs.
const JOB: Duration = Duration::from_secs(300);
/// A Cairo proof on a device that is the processor, the compilation of its constraints included.
const DEVICE_JOB: Duration = Duration::from_secs(3000);

/// A network of one node, which validates and proves, with settings by environment.
fn node(name: &str, settings: &[(&str, &str)]) -> Result<Cluster> {
    gpu_binary()?;
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // A turn is not lost while a driver compiles.
    let mut cluster = network(&dir, 1, |options| options.window_ms = Some(3_600_000))?;
    let mut env: Vec<(String, String)> = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    env.push(("PROOFMESH_PROVER__WARM_AT_START".into(), "false".into()));
    cluster.set_launch(0, Launch { env, ..Launch::default() });
    cluster.start(0)?;
    cluster.wait_height(0, 1, MINUTE)?;
    Ok(cluster)
}

/// What pins the node to the first device, PoCL.
const PINNED: [(&str, &str); 2] = [("PROOFMESH_PROVER__BACKEND", "opencl"), ("PROOFMESH_PROVER__DEVICES", "0")];

fn prover(cluster: &Cluster) -> Result<Value> {
    Rpc::at(&cluster.node(0)?.rpc)?.call("prover_status", &json!([]))
}

/// Waits until the node's prover is as `wanted` says.
fn until(cluster: &mut Cluster, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let waited = cluster.wait(what, limit, |c| prover(c).ok().filter(&wanted));
    let last = prover(cluster).unwrap_or_default();
    waited.with_context(|| format!("the prover's last word: {last}"))
}

fn submit(cluster: &Cluster, n: u32) -> Result<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json").display().to_string();
    let (key, args) =
        (cluster.file().user_key.display().to_string(), format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#));
    let prefix = format!("1,1,{n}");
    let words = ["job", "submit", &program, "--args", &args, "--expect-output-prefix", &prefix, "--key", &key];
    let answer = cluster.ask(0, &words)?;
    Ok(answer["job_id"].as_str().context("job_id")?.to_owned())
}

/// Waits for the job's end in the first attempt, and verifies its receipt offline.
fn proved(cluster: &mut Cluster, job: &str, limit: Duration) -> Result<()> {
    let view = cluster.wait_job(0, job, limit)?;
    ensure!(view["status"] == "completed" && view["tasks"][0]["attempt"] == 0, "{view}");
    let receipt = cluster.dir().join("receipt.bin").display().to_string();
    cluster.wait("the receipt", MINUTE, |c| c.ask(0, &["job", "receipt", job, "-o", &receipt]).ok())?;
    let genesis = cluster.dir().join("genesis.json").display().to_string();
    let report = cluster.cli().ok(&["verify", &receipt, "--genesis", &genesis])?;
    ensure!(report["valid"] == true && report["job_id"] == *job, "receipt: {report}");
    Ok(())
}

/// The value of a line of the node's metrics.
fn metric(cluster: &Cluster, line: &str) -> Result<f64> {
    let text = Rpc::at(&cluster.node(0)?.rpc)?.get("/metrics")?;
    let value = text.lines().find_map(|l| l.strip_prefix(line)).with_context(|| format!("{line} in\n{text}"))?;
    Ok(value.trim().parse()?)
}

#[test]
fn a_device_that_is_killed_in_mid_proof_loses_no_job_and_the_node_tells_all_of_it() -> Result<()> {
    let mut cluster = node("device-killed", &PINNED)?;
    let status = until(&mut cluster, "the device is ready", COMPILED, |s| s["backend"] == "opencl")?;
    let device = status["devices"][0].clone();
    ensure!(device["state"] == "ready" && device["worker_pid"].is_u64() && status["capacity"] == 1, "{status}");
    let shown = cluster.ask(0, &["prover", "devices"])?;
    ensure!(shown["node"]["backend"] == "opencl" && shown["devices"][0]["node"]["state"] == "ready", "{shown}");
    ensure!(shown["devices"][0]["name"] == device["name"] && shown["devices"][0]["refusal"] == "", "{shown}");

    let job = submit(&cluster, 2_000)?;
    let status = until(&mut cluster, "the device at work", MINUTE, |s| {
        s["running"][0]["backend"] == "opencl" && s["running"][0]["progress"].is_object()
    })?;
    ensure!(status["running"][0]["job_id"] == *job && status["devices"][0]["state"] == "proving", "{status}");
    let pid = status["worker_pid"].as_i64().context("a worker")?;
    rustix::process::kill_process(Pid::from_raw(i32::try_from(pid)?).context("pid")?, Signal::KILL)?;
    proved(&mut cluster, &job, JOB)?;
    let status = prover(&cluster)?;
    ensure!(status["devices"][0]["failures"] == 1 && status["backend"] == "opencl", "{status}");
    ensure!(metric(&cluster, "proofmesh_prover_fallbacks_total{reason=\"died\"}")? == 1.0, "fallbacks");
    ensure!(metric(&cluster, "proofmesh_prover_proofs_total{backend=\"cpu\"}")? == 1.0, "proofs");
    ensure!(metric(&cluster, "proofmesh_prover_devices{state=\"ready\"}")? >= 1.0, "devices");
    let phase = "proofmesh_prover_phase_seconds_count{backend=\"cpu\",phase=\"fri\"}";
    ensure!(metric(&cluster, phase)? == 1.0, "phases");
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(log.contains("the processor makes the proof"), "the log says so: {log}");
    stop_all(&mut cluster)
}

#[test]
fn whole_cairo_job_on_a_device_and_its_receipt_verifies() -> Result<()> {
    let mut cluster = node("device-proves", &PINNED)?;
    until(&mut cluster, "the device is ready", COMPILED, |s| s["backend"] == "opencl")?;
    let job = submit(&cluster, 500)?;
    proved(&mut cluster, &job, DEVICE_JOB)?;
    let status = prover(&cluster)?;
    ensure!(status["devices"][0]["proofs"] == 1 && status["devices"][0]["failures"] == 0, "{status}");
    ensure!(metric(&cluster, "proofmesh_prover_proofs_total{backend=\"opencl\"}")? == 1.0, "proofs");
    stop_all(&mut cluster)
}

#[test]
fn two_devices_have_a_process_each_and_prove_at_once() -> Result<()> {
    let settings = [("POCL_DEVICES", "pthread pthread"), PINNED[0], ("PROOFMESH_PROVER__DEVICES", "0,1")];
    let mut cluster = node("two-devices", &settings)?;
    let status = until(&mut cluster, "both devices are ready", COMPILED, |s| s["capacity"] == 2)?;
    let pids = [&status["devices"][0]["worker_pid"], &status["devices"][1]["worker_pid"]];
    ensure!(pids[0].is_u64() && pids[1].is_u64() && pids[0] != pids[1], "{status}");
    let jobs = [submit(&cluster, 1_000)?, submit(&cluster, 1_001)?];
    let status = until(&mut cluster, "both devices at work", MINUTE, |s| {
        (0..2).all(|i| s["running"][i]["backend"] == "opencl" && s["running"][i]["worker_pid"].is_u64())
    })?;
    ensure!(status["running"][0]["worker_pid"] != status["running"][1]["worker_pid"], "{status}");
    // Both die; the processor makes one proof after the other.
    for pid in pids.into_iter().filter_map(Value::as_i64) {
        rustix::process::kill_process(Pid::from_raw(i32::try_from(pid)?).context("pid")?, Signal::KILL)?;
    }
    for job in &jobs {
        proved(&mut cluster, job, JOB)?;
    }
    ensure!(metric(&cluster, "proofmesh_prover_fallbacks_total{reason=\"died\"}")? == 2.0, "fallbacks");
    stop_all(&mut cluster)
}

#[test]
fn a_driver_that_comes_later_is_used_and_a_device_that_hangs_holds_a_job_for_a_minute() -> Result<()> {
    let vendors = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("late-vendors");
    if vendors.exists() {
        std::fs::remove_dir_all(&vendors)?;
    }
    std::fs::create_dir_all(&vendors)?;
    let folder = vendors.display().to_string();
    let spare = ("PROOFMESH_PROVER__EXCLUDE", "no such spare");
    let mut cluster = node("late-driver", &[("OCL_ICD_VENDORS", folder.as_str()), PINNED[0], PINNED[1], spare])?;
    // The pin names nothing yet: the processor proves, and every place where one would look says why.
    let status = until(&mut cluster, "the reason", MINUTE, |s| {
        s["backend_reason"].as_str().is_some_and(|reason| reason.contains("no platform"))
    })?;
    ensure!(status["backend"] == "cpu" && status["problems"][0]["field"] == "prover.devices", "{status}");
    ensure!(status["problems"][0]["value"] == "0" && status["problems"][1]["value"] == spare.1, "{status}");
    let unmatched = |setting: &str| format!("proofmesh_prover_settings_unmatched{{setting=\"{setting}\"}}");
    ensure!(metric(&cluster, &unmatched("prover.devices"))? == 1.0, "metrics");
    let health: Value = serde_json::from_str(&Rpc::at(&cluster.node(0)?.rpc)?.get("/health")?)?;
    let components = health["components"].as_array().context("components")?;
    let prover_part = components.iter().find(|c| c["name"] == "prover").context("prover")?;
    ensure!(prover_part["status"] == "degraded", "{health}");
    ensure!(prover_part["message"].as_str().is_some_and(|m| m.contains("prover.devices")), "{health}");

    // A driver is installed, and the node told.
    for file in std::fs::read_dir("/etc/OpenCL/vendors")? {
        let file = file?;
        std::fs::copy(file.path(), vendors.join(file.file_name()))?;
    }
    cluster.signal(0, Signal::HUP)?;
    let status = until(&mut cluster, "the late device", COMPILED, |s| s["backend"] == "opencl")?;
    ensure!(status["devices"][0]["state"] == "ready" && status["problems"][0]["value"] == spare.1, "{status}");
    ensure!(metric(&cluster, &unmatched("prover.devices"))? == 0.0, "metrics");

    // Its process stands still in the middle of a proof.
    let job = submit(&cluster, 2_000)?;
    let status = until(&mut cluster, "the device at work", MINUTE, |s| {
        s["running"][0]["backend"] == "opencl" && s["running"][0]["progress"].is_object()
    })?;
    let pid = status["worker_pid"].as_i64().context("a worker")?;
    rustix::process::kill_process(Pid::from_raw(i32::try_from(pid)?).context("pid")?, Signal::STOP)?;
    let stopped = std::time::Instant::now();
    until(&mut cluster, "the processor at work", MINUTE * 2, |s| s["running"][0]["backend"] == "cpu")?;
    let held = stopped.elapsed();
    ensure!(held < Duration::from_secs(90), "held for {held:?}");
    proved(&mut cluster, &job, JOB)?;
    ensure!(metric(&cluster, "proofmesh_prover_fallbacks_total{reason=\"hung\"}")? == 1.0, "fallbacks");
    ensure!(!PathBuf::from(format!("/proc/{pid}")).exists(), "the process that stood still is gone");

    // And the driver goes.
    std::fs::remove_dir_all(&vendors)?;
    std::fs::create_dir_all(&vendors)?;
    cluster.signal(0, Signal::HUP)?;
    let status = until(&mut cluster, "the device gone", MINUTE, |s| s["devices"][0]["state"] == "vanished")?;
    ensure!(status["backend"] == "cpu" && status["devices"][0]["worker_pid"].is_null(), "{status}");
    stop_all(&mut cluster)
}

#[test]
fn without_a_driver_the_processor_proves_and_the_reason_is_shown() -> Result<()> {
    let vendors = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-vendors");
    std::fs::create_dir_all(&vendors)?;
    let none = vendors.display().to_string();
    let settings = [("OCL_ICD_VENDORS", none.as_str()), ("PROOFMESH_PROVER__BACKEND", "opencl")];
    let mut cluster = node("no-driver", &settings)?;
    let status = until(&mut cluster, "the reason", MINUTE, |s| {
        s["backend_reason"].as_str().is_some_and(|reason| reason.contains("no platform"))
    })?;
    ensure!(status["backend"] == "cpu" && status["capacity"] == 1 && status["devices"] == json!([]), "{status}");
    let log = std::fs::read_to_string(cluster.log(0))?;
    ensure!(log.contains("no OpenCL device: the processor proves"), "{log}");
    let job = submit(&cluster, 1_000)?;
    proved(&mut cluster, &job, JOB)?;
    ensure!(metric(&cluster, "proofmesh_prover_proofs_total{backend=\"cpu\"}")? == 1.0, "proofs");
    stop_all(&mut cluster)?;

    // Nor does it need the binary; a pinned device that is not there is named.
    let device = ("PROOFMESH_PROVER__DEVICES", "no such device");
    for (setting, word) in [(("PROOFMESH_PROVER__GPU_BINARY", "/nonexistent"), "prover.gpu_binary"), (device, device.1)]
    {
        let env = [PINNED[0], setting].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        cluster.set_launch(0, Launch { env, ..Launch::default() });
        cluster.start(0)?;
        until(&mut cluster, word, MINUTE, |s| s["backend_reason"].as_str().is_some_and(|r| r.contains(word)))?;
        stop_all(&mut cluster)?;
    }
    Ok(())
}
