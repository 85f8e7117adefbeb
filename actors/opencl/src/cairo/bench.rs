//! `bench cairo`: Cairo proofs on the device or on the processor, in one form, so that reports can be held side by side.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use prover::bench::{BenchError, BenchOptions, Case, Subject, cairo, cairo_with};
use prover::{Engine, ProveError, ProveRequest, Stage, local_statement};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use types::keys::PublicKey;

use super::Cairo;
use crate::device::{CacheReport, Counters, Runtime, phase_times, reset_phases};
use crate::error::{Error, Result};

/// One case's figures on the device.
#[derive(Debug, Clone, Serialize)]
struct OnDevice<'a> {
    device: &'a str,
    driver: &'a str,
    log_rows: u32,
    columns: usize,
    /// Most device memory in use at once.
    peak_device_bytes: u64,
    /// What ran on the device in the last run.
    counters: Counters,
    /// Median time of each phase of the device, in milliseconds.
    device_phases_ms: BTreeMap<String, f64>,
    /// Kernels compiled and loaded since the start.
    kernel_cache: CacheReport,
    /// The processor's side, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

/// The same proofs on the processor, in turn with the device's.
#[derive(Debug, Clone, Serialize)]
struct Comparison {
    device: String,
    total_ms: f64,
    /// Median time of each stage.
    phases_ms: BTreeMap<String, f64>,
    /// Stages that are the device's, without the proof of work: the processor's time over the device's.
    device_stages_ms: [f64; 2],
    speed_up_of_device_stages: f64,
    /// The whole proof, proof of work included.
    speed_up: f64,
}

/// Stages that the device works on, but for the proof of work, whose time is chance.
const DEVICE_STAGES: [Stage; 6] = [
    Stage::TraceCommitment,
    Stage::InteractionCommitment,
    Stage::Composition,
    Stage::Openings,
    Stage::Quotients,
    Stage::Fri,
];

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Medians by name, rounded to microseconds.
fn medians(runs: &[BTreeMap<String, f64>]) -> BTreeMap<String, f64> {
    let names: std::collections::BTreeSet<&String> = runs.iter().flat_map(BTreeMap::keys).collect();
    let of = |name: &String| {
        let mut values: Vec<f64> = runs.iter().map(|run| run.get(name).copied().unwrap_or_default()).collect();
        (median(&mut values) * 1e3).round() / 1e3
    };
    names.into_iter().map(|name| (name.clone(), of(name))).collect()
}

/// Times of the device's phases since they were last asked for.
fn taken_phases() -> BTreeMap<String, f64> {
    let times = phase_times().into_iter().map(|(name, time)| (name.to_owned(), time.as_secs_f64() * 1e3)).collect();
    reset_phases();
    times
}

/// The processor in turn with the device.
struct Host {
    engine: Engine,
    subject: Subject,
    totals: Vec<f64>,
    phases: Vec<BTreeMap<String, f64>>,
    last: Vec<u8>,
}

impl Host {
    fn new(subject: &Subject) -> std::result::Result<Self, ProveError> {
        let mut engine = Engine::new();
        engine.warm_up()?;
        let subject = subject.clone();
        let mut host = Self { engine, subject, totals: Vec::new(), phases: Vec::new(), last: Vec::new() };
        host.prove(0)?;
        (host.totals, host.phases) = (Vec::new(), Vec::new());
        Ok(host)
    }

    /// The proof that the device makes in the run of this number.
    fn prove(&mut self, number: usize) -> std::result::Result<(), ProveError> {
        let since = Instant::now();
        let proven = self.engine.prove(request(&self.subject, number)?, Box::new(|_| ()))?;
        self.totals.push(since.elapsed().as_secs_f64() * 1e3);
        self.phases.push(proven.phases_ms.iter().map(|(stage, ms)| (stage.name().to_owned(), *ms as f64)).collect());
        self.last = proven.blob;
        Ok(())
    }

    fn comparison(mut self, case: &Case) -> Result<Comparison> {
        let sha: String = Sha256::digest(&self.last).iter().map(|byte| format!("{byte:02x}")).collect();
        if sha != case.proof_sha256 {
            return Err(Error::Unverified("the device's proof differs from the processor's".to_owned()));
        }
        let phases_ms = medians(&self.phases);
        let of = |known: &dyn Fn(Stage) -> f64| DEVICE_STAGES.into_iter().map(known).sum::<f64>();
        let host = of(&|stage: Stage| phases_ms.get(stage.name()).copied().unwrap_or_default());
        let found =
            |stage: Stage| case.phases_ms.iter().find(|(known, _)| *known == stage).map_or(0.0, |(_, ms)| *ms as f64);
        let device = of(&found);
        let total_ms = median(&mut self.totals);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Comparison {
            device: format!("{threads} host threads"),
            total_ms,
            phases_ms,
            device_stages_ms: [host, device],
            speed_up_of_device_stages: host / device.max(1.0),
            speed_up: total_ms / case.total_ms,
        })
    }
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

/// A case as JSON, with its phases as an object and the fields that `bench air` has.
fn shown(case: &Case) -> Map<String, Value> {
    let phases = map(case.phases_ms.iter().map(|(stage, ms)| (stage.name().to_owned(), json!(ms))));
    let mut object = json!(case).as_object().cloned().unwrap_or_default();
    object.insert("phases_ms".to_owned(), Value::Object(phases));
    object.insert("air".to_owned(), json!("cairo"));
    object.insert("proofs_per_s".to_owned(), json!(1e3 / case.total_ms));
    object.insert("peak_host_bytes".to_owned(), json!(case.peak_rss_bytes));
    object
}

fn report(runs: usize, cases: Vec<Map<String, Value>>) -> Value {
    json!({ "threads": threads(), "runs": runs, "cases": cases })
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// What the measurements of `prover` prove in the run of this number.
fn request(subject: &Subject, number: usize) -> std::result::Result<ProveRequest, ProveError> {
    let mut key = [1; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Ok(ProveRequest {
        statement: local_statement(&subject.program, subject.args.as_deref(), None)?,
        prover: PublicKey::new(key),
        program: subject.program.clone(),
        args: subject.args.clone(),
        max_steps: prover::limits::STEPS_MAX,
        memory_limit: None,
    })
}

/// Measures on the device, in strict mode, with `against_host` in turn with the processor.
///
/// # Errors
/// The first proof that fails, or that is not the processor's.
pub fn on_device(subjects: &[Subject], runs: usize, runtime: &'static Runtime, against_host: bool) -> Result<Value> {
    let mut cases = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let options = BenchOptions { subjects: vec![subject.clone()], runs, against_stock: false };
        let refused = |error: ProveError| failed(BenchError::Prove(error));
        let mut host = against_host.then(|| Host::new(subject)).transpose().map_err(refused)?;
        let mut on_host = Ok(());
        let mut shape = Arc::default();
        let mut before = runtime.counters();
        let mut phases = Vec::new();
        runtime.reset_peak();
        runtime.set_strict(true);
        let measured = cairo_with(
            &options,
            || {
                let backend = Cairo::new(runtime);
                shape = backend.shape();
                Engine::with(backend)
            },
            |_, run| {
                let taken = taken_phases();
                if run > 0 {
                    phases.push(taken);
                }
                if let Some(host) = &mut host
                    && on_host.is_ok()
                {
                    on_host = host.prove(run + 1);
                    reset_phases();
                }
                before = runtime.counters();
            },
        );
        runtime.set_strict(false);
        phases.push(taken_phases());
        on_host.map_err(refused)?;
        let counters = runtime.counters().since(&before);
        let shape = *shape.lock().unwrap_or_else(PoisonError::into_inner);
        for case in measured.map_err(failed)? {
            let on_device = OnDevice {
                device: &runtime.info().name,
                driver: &runtime.info().driver,
                log_rows: shape.log_rows,
                columns: shape.columns,
                peak_device_bytes: runtime.memory().1,
                counters,
                device_phases_ms: medians(&phases),
                kernel_cache: runtime.cache_report(),
                comparison: host.take().map(|host| host.comparison(&case)).transpose()?,
            };
            let mut object = shown(&case);
            object.extend(json!(on_device).as_object().cloned().unwrap_or_default());
            cases.push(object);
        }
    }
    Ok(report(runs, cases))
}

/// Measures on the processor. The shape of the tables is known on the device only.
///
/// # Errors
/// The first proof that fails.
pub fn on_host(subjects: Vec<Subject>, runs: usize) -> Result<Value> {
    let options = BenchOptions { subjects, runs, against_stock: false };
    let cases = cairo(&options, |_, _| ()).map_err(failed)?;
    let case = |case: &Case| {
        let mut object = shown(case);
        object.insert("device".to_owned(), json!(format!("{} host threads", threads())));
        object.insert("driver".to_owned(), json!(""));
        object.insert("peak_device_bytes".to_owned(), json!(0));
        object
    };
    Ok(report(runs, cases.iter().map(case).collect()))
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
