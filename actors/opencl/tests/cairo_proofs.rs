//! Whole Cairo proofs with the device's backend: byte for byte the processor's, accepted by the strict verifier, within the
//! estimated memory, and without new kernels for a second program.
//!
//! The smallest Cairo proof has tables of 2^20 rows: minutes without a GPU.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed expectation is a failed test")]

use std::path::Path;
use std::process::Command;

use opencl::cairo::Cairo;
use opencl::device::{Choice, Options, Runtime, open};
use prover::{Engine, ProveRequest, Stage, local_statement, sample};
use serde_json::Value;
use types::job::HashFunction;
use types::keys::PublicKey;

const KEY: PublicKey = PublicKey::new([7; 32]);

fn device() -> &'static Runtime {
    let choice = std::env::var("PROOFGPU_DEVICE").map_or_else(|_| Choice::any(), |name| Choice::pinned(&name));
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencl-kernels"));
    open(&Options { choice, cache, memory_limit: None }).expect("an OpenCL device: scripts/setup.sh installs PoCL")
}

fn request(rounds: u64, function: HashFunction) -> ProveRequest {
    let program = sample::fibonacci(rounds);
    ProveRequest {
        statement: local_statement(&program, None, Some(function)).expect("a program"),
        prover: KEY,
        program,
        args: None,
        max_steps: 1 << 20,
        memory_limit: None,
    }
}

#[test]
fn whole_cairo_proofs_are_the_cpus() {
    let runtime = device();
    let mut cpu = Engine::new();
    let mut gpu = Engine::with(Cairo::new(runtime));
    assert_eq!(gpu.preprocessed_root().expect("a root"), proof::policy::PREPROCESSED_ROOT, "preprocessed root");
    runtime.set_strict(true);
    let mut compiled = None;
    for rounds in [40, 977] {
        let request = request(rounds, HashFunction::Poseidon);
        let expected = cpu.prove(request.clone(), Box::new(|_| ())).expect("a proof of the processor");
        cpu.drop_warm();
        let before = runtime.counters();
        runtime.reset_peak();
        let since = std::time::Instant::now();
        let proven = gpu.prove(request.clone(), Box::new(|_| ())).expect("a proof of the device");
        let counters = runtime.counters().since(&before);
        println!("{rounds} rounds: {:?}, {:?}, peak {:?}", since.elapsed(), proven.phases_ms, runtime.memory());
        println!("{counters:?} {:?}", runtime.cache_report());
        assert!(proven.blob == expected.blob, "{rounds} rounds: the proofs differ");
        assert_eq!(proven.output, expected.output);
        proof::cairo::verify(&proven.blob, &request.statement, &KEY).expect("accepted");
        let memory = proven.device_memory.expect("a device's");
        let (peak, estimated) = (memory.peak_bytes, memory.estimated_bytes);
        println!("{rounds} rounds: {peak} bytes of device memory, {estimated} estimated");
        assert!(peak <= estimated, "{rounds} rounds: {peak} bytes in use, {estimated} estimated");
        assert!(estimated <= peak / 2 * 3, "{rounds} rounds: {peak} bytes in use, {estimated} estimated");
        assert_eq!(counters.element_reads + counters.host_fallbacks, 0);
        let stages: Vec<Stage> = proven.phases_ms.iter().map(|(stage, _)| *stage).collect();
        for stage in [Stage::Trace, Stage::TraceCommitment, Stage::Composition, Stage::Openings, Stage::Fri] {
            assert!(stages.contains(&stage), "{stage:?} is not among {stages:?}");
        }
        // The first program compiles, the second does not.
        let report = runtime.cache_report().compiled;
        assert_eq!(*compiled.get_or_insert(report), report, "a second program needs no new kernel");
    }
    runtime.set_strict(false);
}

/// Runs `bench cairo` and gives its output, its messages, and whether it succeeded.
fn bench(backend: &str, more: &[&str]) -> (String, String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_proofmesh-gpu"))
        .args(["bench", "cairo", "--steps", "5000", "--runs", "1", "--json", "--allow-cpu", "--backend", backend])
        .args(more)
        .env("PROOFGPU_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencl-kernels"))
        .output()
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

/// The number before `words` in a message.
fn number_before(message: &str, words: &str) -> Option<u64> {
    message.split(words).next()?.split_whitespace().next_back()?.parse().ok()
}

#[test]
fn whole_cairo_proofs_fit_a_small_device_without_coefficients() {
    let (_, message, done) = bench("opencl", &["--memory-limit", "700000000"]);
    assert!(!done && message.contains("device memory"), "{message}");
    let needed = number_before(&message, " bytes are needed").expect("a number");
    assert!((700_000_000..4_000_000_000).contains(&needed), "{message}");
    let (report, message, done) = bench("opencl", &["--memory-limit", &needed.to_string()]);
    assert!(done, "with just what it asked for: {message}");
    let device: Value = serde_json::from_str(&report).expect("JSON");
    let (report, message, done) = bench("simd", &[]);
    assert!(done, "{message}");
    let simd: Value = serde_json::from_str(&report).expect("JSON");
    let (device, simd) = (&device["cases"][0], &simd["cases"][0]);
    assert_eq!(device["proof_sha256"], simd["proof_sha256"], "the same proof");
    assert!(device["peak_device_bytes"].as_u64().expect("bytes") <= needed);
    for field in ["steps", "total_ms", "phases_ms", "proof_bytes", "verify_ms", "verified", "peak_rss_bytes"] {
        assert!(!device[field].is_null() && !simd[field].is_null(), "{field}");
    }
    for field in ["device", "driver", "counters", "device_phases_ms"] {
        assert!(!device[field].is_null(), "{field}");
    }
    assert!(device["counters"]["kernels"].as_u64().expect("kernels") > 100);
    assert_eq!((&device["backend"], &simd["backend"]), (&Value::from("opencl"), &Value::from("simd")));
}

#[test]
fn whole_cairo_proofs_do_not_depend_on_the_threads() {
    let request = request(40, HashFunction::Poseidon);
    let with_threads = |count: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool");
        pool.install(|| Engine::new().prove(request.clone(), Box::new(|_| ())).expect("a proof").blob)
    };
    assert!(with_threads(1) == with_threads(2), "the threads show");
}
