//! The kernels under oclgrind, which interprets them and reports races between work items and accesses outside of a
//! buffer. It is slow, so the sizes are tiny; together the checks start nearly every kernel of the library.

use std::process::Command;

/// Parts of the names of the checks.
const CHECKS: &str = "arithmetic,bit_reversal,columns_are,twiddles,transforms,plural,points,trees,sums,folds,quotients,\
                      proof_of_work,random_constraints,small_proofs,poseidon2_traces";
/// oclgrind follows every word of the memory slabs, so they are kept small; but a device must show more to be used.
const MEMORY_BYTES: &str = "536870912";
const MEMORY_LIMIT: &str = "33554432";

#[test]
fn kernels_have_no_races_and_stay_in_their_buffers() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let output = Command::new("oclgrind")
        .args(["--data-races", "--check-api", "--global-mem-size", MEMORY_BYTES, "--num-threads", "1"])
        // Its interpreter lacks the instruction into which the optimiser turns a reversal of bits.
        .args(["--build-options", "-cl-opt-disable", "--log"])
        .arg(&log)
        .args([env!("CARGO_BIN_EXE_proofmesh-gpu"), "self-test", "--allow-cpu", "--tiny", "--only", CHECKS])
        .args(["--memory-limit", MEMORY_LIMIT])
        .env("PROOFGPU_CACHE", folder.path().join("kernels"))
        .output()
        .expect("oclgrind: scripts/setup.sh --checks installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("device  Oclgrind"), "{text}");
    let found = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(found.trim().is_empty(), "{found}");
}
