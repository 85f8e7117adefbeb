//! A hundred thousand mutants of a valid receipt: none that means something else is accepted, none panics, and none takes
//! more than a second or half a gigabyte. `MUTANTS` changes their number, `MUTANTS_SEED` the seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use proof::receipt::{ReceiptFailure, ReceiptReport, verify_receipt_bytes};
use testnet::fuzz::mutants::{Family, Mutant, Mutants, same_meaning};
use testnet::fuzz::samples;

const MUTANTS: u64 = 100_000;
const THREADS: u64 = 2;
/// Longest time for one receipt.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Most memory beyond what the process holds before the first mutant, for all threads together, in KiB.
const MEMORY_MAX_KIB: u64 = 500 << 10;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A figure of this process in KiB.
fn status_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn check(bytes: &[u8]) -> Result<ReceiptReport, ReceiptFailure> {
    verify_receipt_bytes(bytes, &samples::genesis(), None)
}

/// Checks a mutant within its time. A pause of the machine is no fault of the verifier, so a slow one gets a second turn.
fn timed(mutant: &Mutant) -> Result<ReceiptReport, ReceiptFailure> {
    let mut took = TIME_MAX;
    for _ in 0..2 {
        let since = Instant::now();
        let answer = catch_unwind(|| check(&mutant.bytes));
        took = since.elapsed();
        let answer = answer.unwrap_or_else(|_| panic!("a {:?} mutant unwinds: {}", mutant.family, keep(mutant)));
        if took < TIME_MAX {
            return answer;
        }
    }
    panic!("a {:?} mutant takes {took:?}: {}", mutant.family, keep(mutant));
}

fn keep(mutant: &Mutant) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutant.receipt");
    fs::write(&path, &mutant.bytes).unwrap();
    path.display().to_string()
}

/// For each family: how often the answer was what (the failed check, or valid).
type Tally = BTreeMap<(Family, String), u64>;

fn run(seed: u64, n: u64, original: &ReceiptReport) -> Tally {
    let mut mutants = Mutants::new(seed);
    let mut tally = Tally::new();
    for _ in 0..n {
        let mutant = mutants.next_mutant();
        let answer = match timed(&mutant) {
            Err(failure) => failure.check.name().to_string(),
            Ok(report) => {
                assert!(
                    same_meaning(original, &report),
                    "seed {seed}: a {:?} mutant with another meaning is accepted: {}\n{report:?}",
                    mutant.family,
                    keep(&mutant)
                );
                "valid".to_string()
            }
        };
        *tally.entry((mutant.family, answer)).or_default() += 1;
    }
    tally
}

#[test]
fn no_mutant_of_a_receipt_means_something_else() {
    let original = check(Mutants::new(0).original()).unwrap();
    assert_eq!(original.power_signed, 40);
    // The peak of memory counts from here; making the sample proof took more.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmRSS");
    let (seed, n) = (setting("MUTANTS_SEED", 1), setting("MUTANTS", MUTANTS));
    let since = Instant::now();
    let tally = std::thread::scope(|scope| {
        let original = &original;
        let work: Vec<_> =
            (0..THREADS).map(|t| scope.spawn(move || run(seed * THREADS + t, n / THREADS, original))).collect();
        work.into_iter().map(|thread| thread.join().unwrap()).fold(Tally::new(), |mut sum, part| {
            part.into_iter().for_each(|(key, count)| *sum.entry(key).or_default() += count);
            sum
        })
    });
    let peak = status_kib("VmHWM").saturating_sub(before);
    for ((family, answer), count) in &tally {
        println!("{count:>7}  {family:?}: {answer}");
    }
    println!("{n} mutants in {:?}, peak {} MiB above the start", since.elapsed(), peak >> 10);
    assert!(peak < MEMORY_MAX_KIB, "{peak} KiB");
    // The mutants reach every layer, and the harmless ones are recognised as such.
    let seen = |part: &str| tally.keys().any(|(_, answer)| answer == part);
    for layer in ["format", "chain", "certificate", "statement", "bootloader", "program", "binding", "stark", "valid"] {
        assert!(seen(layer), "no mutant ended in '{layer}'");
    }
}
