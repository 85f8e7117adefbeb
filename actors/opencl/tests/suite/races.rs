//! The kernels under oclgrind, which interprets them and reports races between work items and accesses outside of a
//! buffer. It is slow, so the sizes are tiny; together the checks start nearly every kernel of the library.

use std::process::Command;

/// Parts of the names of the checks.
const CHECKS: &str = "arithmetic,bit_reversal,columns_are,twiddles,transforms,plural,points,trees,sums,folds,quotients,\
                      proof_of_work,random_constraints,small_proofs,poseidon2_traces";
/// oclgrind follows every word of the memory slabs, so they are kept small; but a device must show more to be used.
const MEMORY_BYTES: &str = "536870912";
const MEMORY_LIMIT: &str = "33554432";

/// Runs checks under oclgrind with more options for its compiler; whether they pass, what they say, and what oclgrind says.
fn interpreted(checks: &str, options: &str) -> (bool, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    // Its interpreter lacks the instruction into which the optimiser turns a reversal of bits.
    let options = format!("-cl-opt-disable {options}");
    let output = Command::new("oclgrind")
        .args(["--data-races", "--check-api", "--global-mem-size", MEMORY_BYTES, "--num-threads", "1"])
        .args(["--build-options", &options, "--log"])
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_proofmesh-gpu"), "self-test", "--allow-cpu", "--tiny", "--only", checks])
        .args(["--memory-limit", MEMORY_LIMIT])
        .env("PROOFGPU_CACHE", folder.path().join("kernels"))
        .output()
        .expect("oclgrind: scripts/setup.sh --checks installs it");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text, std::fs::read_to_string(&log).unwrap_or_default())
}

#[test]
fn kernels_have_no_races_and_stay_in_their_buffers() {
    let (passed, text, found) = interpreted(CHECKS, "");
    assert!(passed && text.contains("device  Oclgrind"), "{text}");
    assert!(found.trim().is_empty(), "{found}");
}

#[test]
fn without_their_barriers_the_kernels_race() {
    let (passed, text, found) = interpreted("trees", "-Dbarrier(x)=");
    assert!(!passed, "{text}");
    assert!(found.contains("data race at local memory"), "{found}");
}
