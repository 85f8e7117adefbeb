//! Known-answer tests of the kernels on the device in use. Owns what is compared and the note in the cache folder that
//! says which driver has passed; relies on stwo's host backends for the answers. A device that fails must not be used.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stwo::core::fields::FieldExpOps;
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;

use crate::air::wide_fibonacci::WideFibonacci;
use crate::air::{Workload, proof_bytes, prove_on_device, prove_simd, security, twiddles, verify};
use crate::cairo;
use crate::device::{Runtime, field_results};
use crate::error::{Error, Result, guarded};

/// One passed test.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Passed {
    /// Name of the test.
    pub name: String,
    /// Time it took.
    pub time: Duration,
}

/// Sizes (logarithm of rows, columns) of the proofs that are compared. Together they start every kernel of the library.
const SMALL: &[(u32, usize)] = &[(5, 3), (7, 20), (10, 8)];
const LARGE: &[(u32, usize)] = &[(6, 8), (8, 33), (11, 16), (12, 100), (13, 7), (14, 50), (16, 100), (18, 8), (20, 8)];

fn failed(runtime: &Runtime, test: &'static str, reason: String) -> Error {
    Error::SelfTest { test, device: runtime.info().name.clone(), reason }
}

fn secure(words: &[u32]) -> SecureField {
    SecureField::from_m31_array(std::array::from_fn(|k| BaseField::from(words[k] % P)))
}

/// Field functions on edge values, both forms of zero included.
fn field(runtime: &Runtime) -> Result<()> {
    let edges = [0, 1, 2, 0x1234_5678, P / 2, P - 2, P - 1, P];
    let rows: Vec<[u32; 8]> =
        (0..512_usize).map(|i| std::array::from_fn(|k| edges[((i >> (3 * (k % 3))) % 8) ^ (k & 5)])).collect();
    for (row, result) in rows.iter().zip(field_results(&rows)) {
        let (a, b) = (secure(&row[..4]), secure(&row[4..]));
        let inverse = if a == SecureField::default() { a } else { a.inverse() };
        let scale = BaseField::from(row[4] % P);
        for (k, expected) in [a + b, a - b, a * b, inverse, a * scale].into_iter().enumerate() {
            let found = secure(&result[4 * k..4 * k + 4]);
            if found != expected {
                return Err(failed(
                    runtime,
                    "field",
                    format!("operation {k} of {row:?}: {found:?}, expected {expected:?}"),
                ));
            }
        }
    }
    Ok(())
}

/// A proof equals the host's and verifies.
fn proof(runtime: &Runtime, log_rows: u32, columns: usize) -> Result<()> {
    let workload = WideFibonacci { log_rows, columns };
    let config = security(13)?;
    let proof = prove_on_device(&workload, config, &guarded(|| twiddles(&workload, config))?)?;
    verify(&workload, config, &proof)?;
    let expected = prove_simd(&workload, config, &twiddles(&workload, config))?;
    if proof_bytes(&proof)? == proof_bytes(&expected)? {
        return Ok(());
    }
    let name = workload.statement();
    Err(failed(runtime, "proof", format!("the proof of {name:?} is valid, but not the host's")))
}

/// Runs the tests; `large` adds sizes that take minutes without a GPU.
///
/// # Errors
/// The first failure.
pub fn run(runtime: &Runtime, large: bool) -> Result<Vec<Passed>> {
    let mut passed = Vec::new();
    let mut note = |name: String, test: &dyn Fn() -> Result<()>| -> Result<()> {
        let start = Instant::now();
        test()?;
        passed.push(Passed { name, time: start.elapsed() });
        Ok(())
    };
    note("field".to_owned(), &|| guarded(|| field(runtime))?)?;
    for (log_rows, columns) in SMALL.iter().chain(if large { LARGE } else { &[] }) {
        note(format!("proof 2^{log_rows} x {columns}"), &|| proof(runtime, *log_rows, *columns))?;
    }
    if large {
        for component in cairo::check::components(cairo::check::LOG_SIZE_SAMPLE, 1)? {
            let test = || cairo::check::compare(&component, cairo::check::LOG_SIZE_SAMPLE).map(|_| ());
            note(format!("cairo {}", component.name), &test)?;
        }
    }
    Ok(passed)
}

fn note_path(runtime: &Runtime, folder: &Path) -> PathBuf {
    folder.join(format!("{}.passed", runtime.library_key()))
}

/// Runs the short tests unless this library has passed them with this device and driver already; the note about it is in
/// the cache folder. Without a folder they run every time.
///
/// # Errors
/// The first failure.
pub fn ensure(runtime: &Runtime, folder: Option<&Path>) -> Result<bool> {
    if folder.is_some_and(|folder| note_path(runtime, folder).exists()) {
        return Ok(false);
    }
    run(runtime, false)?;
    if let Some(folder) = folder
        && let Err(error) =
            std::fs::create_dir_all(folder).and_then(|()| std::fs::write(note_path(runtime, folder), ""))
    {
        tracing::warn!(%error, "the passed self-test cannot be noted: it will run at every start");
    }
    Ok(true)
}
