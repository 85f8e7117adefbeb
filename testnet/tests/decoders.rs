//! Every decoder under hostile bytes: first the valid ones, then inputs that once did harm, then mutants for some seconds
//! a target. `DECODERS_SECONDS` lengthens the last part (the sum over all targets).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testnet::fuzz::mutate::Mutator;
use testnet::fuzz::{TARGETS, Target};

/// Seconds for all targets together, when nothing else is said.
const SECONDS: u64 = 45;
/// Longest input, bytes: that of the longest message, and room to be over it.
const BYTES_MAX: usize = 8 << 20;

fn harmful(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/harmful").join(target.name)
}

/// Runs one input; one that does harm is kept as a file whose path the message tells.
fn run(target: &Target, input: &[u8], origin: &str) {
    let since = Instant::now();
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("harmful").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(blake3_name(input));
        fs::write(&path, input).unwrap();
        panic!("target {}, {origin}: the decoder broke its word on {}", target.name, path.display());
    }
    let took = since.elapsed();
    assert!(took < Duration::from_secs(20), "target {}, {origin}: {took:?} for {} bytes", target.name, input.len());
}

fn blake3_name(input: &[u8]) -> String {
    types::blob::blob_hash(input).to_string()
}

#[test]
fn valid_bytes_and_inputs_that_once_did_harm() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "target {} has no seed", target.name);
        for (n, seed) in seeds.iter().enumerate() {
            run(target, seed, &format!("seed {n}"));
        }
        for entry in fs::read_dir(harmful(target)).into_iter().flatten() {
            let path = entry.unwrap().path();
            run(target, &fs::read(&path).unwrap(), &path.display().to_string());
        }
    }
}

#[test]
fn mutants_break_no_decoder() {
    let seconds = std::env::var("DECODERS_SECONDS").ok().map_or(SECONDS, |text| text.parse().unwrap());
    let slice = Duration::from_secs(seconds) / u32::try_from(TARGETS.len()).unwrap();
    for target in TARGETS {
        let seeds = (target.seeds)();
        let mut mutator = Mutator::new(blake3_seed(target.name));
        let (since, mut n) = (Instant::now(), 0u64);
        // Some of each, however slow the machine is.
        while since.elapsed() < slice || n < 50 {
            let (seed, other) = (&seeds[mutator.below(seeds.len())], &seeds[mutator.below(seeds.len())]);
            let input = mutator.mutant(seed, other, BYTES_MAX);
            run(target, &input, &format!("mutant {n}"));
            n += 1;
        }
        println!("{:>16}: {n} mutants of {} seeds", target.name, seeds.len());
    }
}

/// A starting point of its own for each target.
fn blake3_seed(name: &str) -> u64 {
    types::blob::blob_hash(name.as_bytes()).as_bytes().iter().take(8).fold(0, |sum, b| (sum << 8) | u64::from(*b))
}
