//! A short proof on a device and on the processor beside it, in one run: what a node compares before it chooses. Owns the
//! workload; a built-in one, because no Cairo proof is short.

use serde::Serialize;

use crate::air::Rounds;
use crate::air::wide_fibonacci::WideFibonacci;
use crate::bench::{Plan, on_device, on_host};
use crate::device::Runtime;
use crate::error::{Error, Result};

/// Logarithm of the rows: long enough that a device is not judged by its latency, short enough for a laptop.
const LOG_ROWS: u32 = 16;
/// Columns.
const COLUMNS: usize = 64;
/// Measured runs of each, after one that is not; the median counts.
const RUNS: usize = 3;
/// Security in bits, as in production.
const SECURITY: u32 = 96;

/// Both times.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Median time on the device, in milliseconds.
    pub device_ms: f64,
    /// Median time on the processor, in milliseconds.
    pub cpu_ms: f64,
    /// The workload, in words.
    pub workload: String,
}

/// Measures; both proofs are verified and must be the same.
///
/// # Errors
/// A device failure, or [`Error::SelfTest`] when the proofs differ.
pub fn measure(runtime: &Runtime) -> Result<Measured> {
    let workload = WideFibonacci { log_rows: LOG_ROWS, columns: COLUMNS };
    let plan = Plan {
        air: "wide-fibonacci",
        log_rows: LOG_ROWS,
        columns: COLUMNS,
        security: SECURITY,
        rounds: Rounds::default(),
        runs: RUNS,
        verify: true,
    };
    let host = on_host(&plan, &workload)?;
    let device = on_device(&plan, &workload, runtime)?;
    if device.proof_sha256 != host.proof_sha256 {
        let reason = "its proof of the measured workload is not the processor's".to_owned();
        return Err(Error::SelfTest { test: "measure", device: runtime.info().name.clone(), reason });
    }
    let workload = format!("wide-fibonacci 2^{LOG_ROWS} x {COLUMNS}, {SECURITY} bits");
    Ok(Measured { device_ms: device.total_ms, cpu_ms: host.total_ms, workload })
}
