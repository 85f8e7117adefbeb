//! The binary as its users run it: devices, benchmarks, and what it says when something is missing or broken.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the binary with the host's processor allowed and a cache folder of its own.
pub(crate) fn gpu(cache: &Path, words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proofmesh-gpu"));
    command.args(words).env("PROOFGPU_CACHE", cache).env_remove("PROOFGPU_DEVICE").env_remove("PROOFGPU_EXCLUDE");
    command.envs(env.iter().copied()).output().expect("it starts")
}

pub(crate) fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) const SELF_TEST: &[&str] = &["self-test", "--allow-cpu", "--only", "arithmetic,strict"];
const BENCH: &[&str] = &[
    "bench",
    "air",
    "--air",
    "wide-fibonacci",
    "--log-rows",
    "6",
    "--columns",
    "5",
    "--security",
    "13",
    "--runs",
    "1",
    "--verify",
    "--json",
];

pub(crate) fn bench(cache: &Path, backend: &str, more: &[&str]) -> Output {
    bench_with(cache, backend, more, &[])
}

pub(crate) fn bench_with(cache: &Path, backend: &str, more: &[&str], env: &[(&str, &str)]) -> Output {
    gpu(cache, &[BENCH, &["--backend", backend], more].concat(), env)
}

#[test]
fn rounds_are_chosen_and_bounded_and_security_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let simd =
        |more: &[&str]| serde_json::from_str::<Value>(&stdout(&bench(folder.path(), "simd", more))).expect("JSON");
    let (default, plain) = (simd(&[]), simd(&["--fold-step", "1", "--last-layer", "0"]));
    assert_eq!((&default["fri"], &plain["fri"]), (&serde_json::json!([4, 2]), &serde_json::json!([1, 0])));
    assert_eq!(default["security_bits"], plain["security_bits"]);
    assert_ne!(default["proof_sha256"], plain["proof_sha256"]);
    for phase in ["trace", "commit", "constraints", "out-of-domain", "quotients", "fri", "proof-of-work", "decommit"] {
        assert!(default["phases_ms"][phase].as_f64() > Some(0.0), "{phase}: {default}");
    }
    for (words, field) in [(["--fold-step", "7"], "fold-step: 7"), (["--last-layer", "3"], "last-layer: 3")] {
        let message = refusal(&bench(folder.path(), "simd", &words));
        assert!(message.contains(field) && message.contains("2^6 rows"), "{message}");
    }
}

const POSEIDON2: &[&str] =
    &["bench", "air", "--air", "poseidon2", "--log-rows", "5", "--security", "13", "--runs", "1", "--verify", "--json"];

/// The fields that every report has.
const FIELDS: &[&str] = &[
    "air",
    "backend",
    "device",
    "driver",
    "log_rows",
    "columns",
    "security_bits",
    "total_ms",
    "phases_ms",
    "phases_counters",
    "verify_ms",
    "proofs_per_s",
    "proof_bytes",
    "proof_sha256",
    "verified",
    "peak_host_bytes",
    "peak_device_bytes",
    "counters",
];

#[test]
fn poseidon2_is_measured_in_permutations() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = |words: &[&str]| -> Value {
        serde_json::from_str(&stdout(&gpu(folder.path(), &[POSEIDON2, words].concat(), &[]))).expect("JSON")
    };
    let device = report(&["--backend", "opencl", "--allow-cpu", "--compare"]);
    let simd = report(&["--backend", "simd"]);
    assert_eq!(simd["proof_sha256"], device["proof_sha256"]);
    for report in [&device, &simd] {
        for field in FIELDS {
            assert!(!report[field].is_null(), "{field} of {report}");
        }
        let (rate, total) = (&report["permutations_per_s"], &report["total_ms"]);
        let (rate, total) = (rate.as_f64().expect("a rate"), total.as_f64().expect("a time"));
        assert!((rate * total / 32_000.0 - 1.0).abs() < 0.01, "32 permutations in {total} ms are {rate} per second");
        assert_eq!(report["columns"], 292);
    }
    for phase in ["trace", "commit", "constraints", "quotients", "fri", "proof-of-work", "decommit", "out-of-domain"] {
        assert!(device["phases_ms"][phase].as_f64().is_some(), "{phase} of {device}");
        assert!(device["phases_counters"][phase]["kernels"].as_u64() > Some(0), "{phase} of {device}");
    }
    let total: u64 = device["phases_counters"].as_object().expect("phases").values().map(kernels).sum();
    assert_eq!(total, kernels(&device["counters"]), "every kernel belongs to a phase");
    assert!(device["comparison"]["speed_up"].as_f64() > Some(0.0), "{device}");
    let words = [POSEIDON2, &["--backend", "simd", "--columns", "8"]].concat();
    let message = refusal(&gpu(folder.path(), &words, &[]));
    assert!(message.contains("columns: 8 is not allowed"), "{message}");
}

fn kernels(counters: &Value) -> u64 {
    counters["kernels"].as_u64().expect("a number")
}

#[test]
fn the_stripped_binary_fits_a_carried_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&target).arg(env!("CARGO_BIN_EXE_proofmesh-gpu")).status();
    assert!(strip.expect("strip, of build-essential").success());
    let bytes = std::fs::metadata(&target).expect("written").len();
    assert!(bytes < 64 << 20, "{bytes} bytes");
}

#[test]
fn the_self_test_reports_each_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let report: Value =
        serde_json::from_str(&stdout(&gpu(folder.path(), &[SELF_TEST, &["--json"]].concat(), &[]))).expect("JSON");
    let passed = report["passed"].as_array().expect("a list");
    assert_eq!(passed.len(), 2, "{report}");
    assert!(passed.iter().all(|check| check["milliseconds"].as_f64() > Some(0.0)), "{report}");
    let message = refusal(&gpu(folder.path(), &["self-test", "--allow-cpu", "--only", "no such check"], &[]));
    assert!(message.contains("no such check") && message.contains("trees_are_stwos"), "{message}");
}

#[test]
fn devices_are_listed_and_proofs_are_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let listing: Value = serde_json::from_str(&stdout(&gpu(folder.path(), &["devices", "--json"], &[]))).expect("JSON");
    let devices = listing["devices"].as_array().expect("a list");
    assert!(!devices.is_empty(), "scripts/setup.sh installs PoCL");
    for field in ["index", "name", "driver", "memory_bytes", "compute_units", "kind", "refusal"] {
        assert!(!devices[0][field].is_null(), "{field}");
    }
    let simd: Value = serde_json::from_str(&stdout(&bench(folder.path(), "simd", &[]))).expect("JSON");
    let device: Value = serde_json::from_str(&stdout(&bench(folder.path(), "opencl", &["--allow-cpu"]))).expect("JSON");
    assert_eq!(simd["proof_sha256"], device["proof_sha256"]);
    for (field, report) in [("security_bits", &simd), ("security_bits", &device)] {
        assert_eq!(report[field], 13, "{field}");
    }
    assert_eq!(device["verified"], true);
    assert!(device["peak_device_bytes"].as_u64().expect("bytes") > 0);
    assert!(device["phases_ms"].as_object().expect("phases").len() >= 8, "{device}");
}

#[test]
fn cairo_runs_are_refused_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let cairo = |words: &[&str]| {
        refusal(&gpu(folder.path(), &[&["bench", "cairo", "--backend", "simd", "--runs", "1"], words].concat(), &[]))
    };
    let message = cairo(&["--steps", "5"]);
    assert!(message.contains("steps: 5") && message.contains("1000 to"), "{message}");
    let message = cairo(&["--program", "/nonexistent"]);
    assert!(message.contains("program: /nonexistent"), "{message}");
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").expect("written");
    let message = cairo(&["--program", text.to_str().expect("UTF-8")]);
    assert!(message.contains("program") && message.contains("accepted are"), "{message}");
    let message = cairo(&["--program", "a", "--steps", "5000"]);
    assert!(message.contains("cannot be used with"), "{message}");
}
