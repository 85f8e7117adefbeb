//! `bench cairo`: Cairo proofs on the device or on the processor, in one form, so that reports can be held side by side.

use std::path::Path;

use prover::bench::{BenchError, BenchOptions, Case, Subject, cairo, cairo_with};
use prover::{Engine, ProveError};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Cairo;
use crate::device::{CacheReport, Counters, Runtime, phase_times, reset_phases};
use crate::error::{Error, Result};

/// One case's figures on the device.
#[derive(Debug, Clone, Serialize)]
struct OnDevice<'a> {
    device: &'a str,
    driver: &'a str,
    /// Most device memory in use at once.
    peak_device_bytes: u64,
    /// What ran on the device in the last run.
    counters: Counters,
    /// Phases of the device in the last run, in milliseconds.
    device_phases_ms: Map<String, Value>,
    /// Kernels compiled and loaded since the start.
    kernel_cache: CacheReport,
}

/// What to measure: our own program of some lengths, or a program file.
///
/// # Errors
/// [`Error::Input`] when a file can't be read, or there is nothing to measure.
pub fn subjects(steps: &[u64], program: Option<&Path>, args: Option<&Path>) -> Result<Vec<Subject>> {
    let read = |field: &'static str, path: &Path| {
        std::fs::read(path).map_err(|error| Error::Input {
            field,
            value: format!("{}: {error}", path.display()),
            limit: "a readable file".to_owned(),
        })
    };
    if let Some(program) = program {
        let args = args.map(|path| read("args", path)).transpose()?;
        return Ok(vec![Subject { program: read("program", program)?, args }]);
    }
    if let Some(bad) = steps.iter().find(|n| **n < 1000 || **n > prover::limits::STEPS_MAX) {
        let limit = format!("1000 to {}", prover::limits::STEPS_MAX);
        return Err(Error::Input { field: "steps", value: bad.to_string(), limit });
    }
    Ok(steps.iter().map(|steps| Subject::of_steps(*steps)).collect())
}

fn failed(error: BenchError) -> Error {
    match error {
        BenchError::Prove(ProveError::Input(error)) => {
            Error::Input { field: "program", value: error.to_string(), limit: "a program that is accepted".to_owned() }
        }
        other => Error::NoProof(other.to_string()),
    }
}

fn map(pairs: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    pairs.into_iter().collect()
}

/// A case as JSON, with its phases as an object.
fn shown(case: &Case) -> Map<String, Value> {
    let phases = map(case.phases_ms.iter().map(|(stage, ms)| (stage.name().to_owned(), json!(ms))));
    let mut object = json!(case).as_object().cloned().unwrap_or_default();
    object.insert("phases_ms".to_owned(), Value::Object(phases));
    object
}

fn report(runs: usize, cases: Vec<Map<String, Value>>) -> Value {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    json!({ "threads": threads, "runs": runs, "cases": cases })
}

/// Measures on the device, in strict mode.
///
/// # Errors
/// The first proof that fails.
pub fn on_device(subjects: &[Subject], runs: usize, runtime: &'static Runtime) -> Result<Value> {
    let mut cases = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let options = BenchOptions { subjects: vec![subject.clone()], runs, against_stock: false };
        let mut before = runtime.counters();
        runtime.reset_peak();
        runtime.set_strict(true);
        let measured = cairo_with(
            &options,
            || Engine::with(Cairo::new(runtime)),
            |_, _| {
                reset_phases();
                before = runtime.counters();
            },
        );
        runtime.set_strict(false);
        let on_device = OnDevice {
            device: &runtime.info().name,
            driver: &runtime.info().driver,
            peak_device_bytes: runtime.memory().1,
            counters: runtime.counters().since(&before),
            device_phases_ms: map(phase_times()
                .into_iter()
                .map(|(name, time)| (name.to_owned(), json!((time.as_secs_f64() * 1e6).round() / 1e3)))),
            kernel_cache: runtime.cache_report(),
        };
        for case in measured.map_err(failed)? {
            let mut object = shown(&case);
            object.extend(json!(on_device).as_object().cloned().unwrap_or_default());
            cases.push(object);
        }
    }
    Ok(report(runs, cases))
}

/// Measures on the processor.
///
/// # Errors
/// The first proof that fails.
pub fn on_host(subjects: Vec<Subject>, runs: usize) -> Result<Value> {
    let options = BenchOptions { subjects, runs, against_stock: false };
    let cases = cairo(&options, |_, _| ()).map_err(failed)?;
    Ok(report(runs, cases.iter().map(shown).collect()))
}

/// The report for a reader: one block per case.
#[must_use]
pub fn text(report: &Value) -> String {
    let mut lines = Vec::new();
    for case in report["cases"].as_array().into_iter().flatten() {
        let device = case["device"].as_str().unwrap_or("host threads");
        lines.push(format!("{} steps on {} ({device}), {} runs", case["steps"], case["backend"], case["inputs"]));
        for (name, value) in case.as_object().into_iter().flatten() {
            match value {
                Value::Object(parts) => {
                    lines.push(format!("  {name}"));
                    lines.extend(parts.iter().map(|(part, value)| format!("    {part:<26}{value}")));
                }
                _ => lines.push(format!("  {name:<28}{value}")),
            }
        }
    }
    lines.join("\n")
}
