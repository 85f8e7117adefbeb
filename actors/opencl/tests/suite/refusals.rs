//! What is missing, broken or in use by another: each is a clear message and a working fallback, or a clean refusal.

use std::path::Path;

use serde_json::Value;

use crate::binary::{SELF_TEST, bench, bench_with, gpu, refusal, stdout};

#[test]
fn without_a_loader_the_binary_says_which_library_is_missing() {
    // The loader's place is taken by a file that is none; a missing one gives the same kind of message.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("libOpenCL.so.1"), "no library").expect("written");
    let path = folder.path().to_str().expect("UTF-8");
    let output = gpu(folder.path(), &["devices"], &[("LD_LIBRARY_PATH", path)]);
    assert_eq!(output.status.code(), Some(127), "the code by which the system says that a program cannot start");
    let message = refusal(&output);
    assert!(message.contains("libOpenCL.so.1"), "{message}");
}

#[test]
fn a_loader_without_a_device_is_a_clean_refusal() {
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
}

#[test]
fn an_unknown_or_excluded_device_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let message = refusal(&gpu(folder.path(), &["self-test", "--device", "no such thing"], &[]));
    assert!(message.contains("no such thing") && message.contains("found are"), "{message}");
    let message = refusal(&bench(folder.path(), "opencl", &["--allow-cpu", "--exclude", "0,1,2,3"]));
    assert!(message.contains("excluded"), "{message}");
}

#[test]
fn too_little_device_memory_is_declined_before_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    // Too little for the self-test already.
    let message = refusal(&bench(folder.path(), "opencl", &["--allow-cpu", "--memory-limit", "100000"]));
    assert!(message.contains("device memory") && message.contains("100000"), "{message}");
    // Enough for the self-test, too little for this proof: both figures are said, and nothing was started.
    let words = ["bench", "air", "--air", "wide-fibonacci", "--log-rows", "20", "--columns", "500", "--security", "13"];
    let words =
        [&words[..], &["--backend", "opencl", "--runs", "1", "--allow-cpu", "--memory-limit", "268435456"]].concat();
    let message = refusal(&gpu(folder.path(), &words, &[]));
    assert!(message.contains("device memory") && message.contains("of 268435456"), "{message}");
    assert!(message.contains("Remedy"), "{message}");
}

#[test]
fn a_driver_that_cannot_build_a_kernel_is_a_clear_message() {
    let folder = tempfile::tempdir().expect("a folder");
    // PoCL appends this to the options of every build; the first breaks all programs, the second those of constraints.
    let all = [("POCL_EXTRA_BUILD_FLAGS", "-Dcm31_mul=1")];
    let message = refusal(&gpu(folder.path(), SELF_TEST, &all));
    assert!(message.contains("cannot build the kernel library"), "{message}");
    let constraints = [("POCL_EXTRA_BUILD_FLAGS", "-Doffset_row=1")];
    // What needs no constraints works; what does falls back to the host, which strict mode forbids in so many words.
    stdout(&gpu(folder.path(), SELF_TEST, &constraints));
    let words = ["self-test", "--allow-cpu", "--only", "small_proofs"];
    let message = refusal(&gpu(folder.path(), &words, &constraints));
    assert!(message.contains("constraints on the host"), "{message}");
    assert!(message.contains("constraints stay on the host"), "the reason is logged: {message}");
    // Without strict mode the proof is made all the same.
    stdout(&gpu(folder.path(), &["self-test", "--allow-cpu", "--only", "a_changed_proof_is_refused"], &constraints));
}

#[test]
fn a_driver_without_the_kernels_of_local_memory_does_without() {
    let folder = tempfile::tempdir().expect("a folder");
    // Breaks the program that needs local memory, and no other.
    let local = [("POCL_EXTRA_BUILD_FLAGS", "-Dfft_forward_tile=1")];
    let words = ["self-test", "--allow-cpu", "--only", "arithmetic,transforms_are,trees,small_proofs"];
    let output = gpu(folder.path(), &words, &local);
    let text = stdout(&output);
    assert!(text.contains("passed  small_proofs_are_the_simd_proofs"), "{text}");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(messages.contains("transforms stay in registers"), "{messages}");
    // The whole first self-test asks for the kernels that there are.
    stdout(&bench_with(folder.path(), "opencl", &["--allow-cpu"], &local));
}

#[test]
fn a_damaged_cache_is_built_again() {
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
}

#[test]
fn an_unwritable_cache_costs_only_time() {
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
