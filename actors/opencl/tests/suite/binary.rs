//! The binary as its users run it: devices, benchmarks, and what it says when something is missing or broken.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the binary with the host's processor allowed and a cache folder of its own.
fn gpu(cache: &Path, words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proofmesh-gpu"));
    command.args(words).env("PROOFGPU_CACHE", cache).env_remove("PROOFGPU_DEVICE").env_remove("PROOFGPU_EXCLUDE");
    command.envs(env.iter().copied()).output().expect("it starts")
}

fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SELF_TEST: &[&str] = &["self-test", "--allow-cpu"];
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

fn bench(cache: &Path, backend: &str, more: &[&str]) -> Output {
    gpu(cache, &[BENCH, &["--backend", backend], more].concat(), &[])
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
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("vendors");
    std::fs::create_dir(&empty).expect("made");
    let vendors = [("OCL_ICD_VENDORS", empty.to_str().expect("UTF-8"))];
    for words in [&["devices"][..], SELF_TEST] {
        let message = refusal(&gpu(folder.path(), words, &vendors));
        assert!(message.contains("no platform") && message.contains("Remedy"), "{message}");
    }
    // A driver that is registered but broken is no platform either.
    std::fs::write(empty.join("broken.icd"), "/nonexistent/libbroken.so\n").expect("written");
    let message = refusal(&gpu(folder.path(), &["devices"], &vendors));
    assert!(message.contains("no platform"), "{message}");

    let message = refusal(&gpu(folder.path(), &["self-test", "--device", "no such thing"], &[]));
    assert!(message.contains("no such thing") && message.contains("found are"), "{message}");
    let message = refusal(&bench(folder.path(), "opencl", &["--allow-cpu", "--memory-limit", "100000"]));
    assert!(message.contains("device memory") && message.contains("100000"), "{message}");
    let message = refusal(&bench(folder.path(), "opencl", &["--allow-cpu", "--exclude", "0,1,2,3"]));
    assert!(message.contains("excluded"), "{message}");
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

#[test]
fn a_damaged_or_unwritable_cache_costs_only_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = stdout(&gpu(folder.path(), SELF_TEST, &[]));
    assert!(text.contains("0 loaded") && text.contains("0 damaged"), "{text}");
    let text = stdout(&gpu(folder.path(), SELF_TEST, &[]));
    assert!(text.contains(" 0 compiled") && !text.contains("kernels 0 loaded"), "{text}");
    let cached: Vec<_> =
        std::fs::read_dir(folder.path()).expect("read").map(|entry| entry.expect("entry").path()).collect();
    assert!(!cached.is_empty());
    for path in &cached {
        let bytes = std::fs::read(path).expect("read");
        std::fs::write(path, &bytes[..bytes.len() / 2]).expect("cut");
    }
    let text = stdout(&gpu(folder.path(), SELF_TEST, &[]));
    assert!(text.contains(&format!("{} damaged", cached.len())), "{text}");
    let text = stdout(&gpu(folder.path(), SELF_TEST, &[]));
    assert!(text.contains(" 0 compiled"), "mended: {text}");

    let output = gpu(Path::new("/proc/none"), SELF_TEST, &[]);
    let text = stdout(&output);
    assert!(text.contains("0 loaded") && !text.contains(" 0 not cached"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be cached"));
}

#[test]
fn two_processes_share_a_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let path = folder.path().to_owned();
            std::thread::spawn(move || stdout(&bench(&path, "opencl", &["--allow-cpu"])))
        })
        .collect();
    let hashes: Vec<Value> = runs
        .into_iter()
        .map(|run| serde_json::from_str::<Value>(&run.join().expect("no panic")).expect("JSON")["proof_sha256"].clone())
        .collect();
    assert_eq!(hashes[0], hashes[1]);
}
