//! `bench cairo`: what this machine proves in what time, with the settings of the network.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use prover::bench::{BenchOptions, Subject, cairo};
use serde_json::{Value, json};

use super::gpu::GpuArgs;
use super::output::{object_of_pairs, plain, table};
use super::{Output, gpu};
use crate::cpu;
use crate::failure::Failure;

/// Steps measured when none are named: the two sizes that are reported.
const STEPS: [u64; 2] = [122_000, 1_200_000];

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Prove Cairo programs of given lengths.
    Cairo(CairoArgs),
    /// Prove a built-in workload on an OpenCL device, or on the CPU for comparison.
    Air(GpuArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CairoArgs {
    /// Steps of each case [default: 122000 1200000].
    #[arg(long, value_name = "N", num_args = 1..=16)]
    steps: Vec<u64>,
    /// Runs of each case, each with another input; the median and the 99th percentile are reported.
    #[arg(long, value_name = "R", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// A program file to prove instead of our own program of these steps.
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    program: Option<PathBuf>,
    /// The arguments file of that program.
    #[arg(long, value_name = "FILE", requires = "program")]
    args: Option<PathBuf>,
    /// Where to prove; `opencl` hands on to `proofmesh-gpu`.
    #[arg(long, value_enum, default_value_t = BenchBackend::Simd)]
    backend: BenchBackend,
    /// Alternate with the plain library calls under the same settings, and report them, too. On the CPU only.
    #[arg(long, conflicts_with = "program")]
    against_stock: bool,
    /// With `--backend opencl`: options for the device, such as `-- --device 0`.
    #[arg(last = true, value_name = "DEVICE OPTIONS")]
    device: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BenchBackend {
    /// This machine's CPU.
    Simd,
    /// An OpenCL device.
    Opencl,
}

impl CairoArgs {
    /// The arguments of `proofmesh-gpu bench cairo`.
    fn for_gpu(&self, steps: &[u64]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--backend".into(), "opencl".into(), "--runs".into()];
        words.push(self.runs.to_string().into());
        if let Some(program) = &self.program {
            words.extend(["--program".into(), program.into()]);
            words.extend(self.args.iter().flat_map(|path| [OsString::from("--args"), path.into()]));
        } else {
            words.push("--steps".into());
            words.extend(steps.iter().map(|n| OsString::from(n.to_string())));
        }
        words.extend(self.device.iter().cloned());
        words
    }

    /// What to measure on the CPU.
    fn subjects(&self, steps: &[u64]) -> Result<Vec<Subject>, Failure> {
        let read = |field: &'static str, path: &Path| {
            std::fs::read(path).map_err(|error| {
                Failure::usage(format!("{field}: {error}"))
                    .field(field)
                    .value(path.display())
                    .remedy("name a readable file")
            })
        };
        match &self.program {
            Some(program) => {
                let args = self.args.as_deref().map(|path| read("args", path)).transpose()?;
                Ok(vec![Subject { program: read("program", program)?, args }])
            }
            None => Ok(steps.iter().map(|n| Subject::of_steps(*n)).collect()),
        }
    }
}

pub(super) fn bench(out: Output, home: Option<&Path>, command: &BenchCommand) -> Result<(), Failure> {
    let args = match command {
        BenchCommand::Cairo(args) => args,
        BenchCommand::Air(args) => return gpu::run(out, home, &["bench", "air"], args),
    };
    let steps = if args.steps.is_empty() { STEPS.to_vec() } else { args.steps.clone() };
    if let Some(bad) = steps.iter().find(|n| **n < 1000 || **n > prover::limits::STEPS_MAX) {
        return Err(Failure::usage("steps: outside what this engine proves")
            .field("steps")
            .value(bad)
            .limit(format!("1000 to {}", prover::limits::STEPS_MAX)));
    }
    if args.backend == BenchBackend::Opencl {
        if args.against_stock {
            return Err(Failure::usage("against-stock: the plain library calls run on the CPU")
                .field("against-stock")
                .remedy("leave it out, or use --backend simd"));
        }
        return gpu::run_with(out, home, &["bench", "cairo"], &args.for_gpu(&steps));
    }
    let subjects = args.subjects(&steps)?;
    let options = BenchOptions { subjects, runs: usize::from(args.runs), against_stock: args.against_stock };
    let cases = cairo(&options, |case, run| {
        let of = args.program.as_ref().map_or_else(
            || format!("{} steps", steps.get(case).copied().unwrap_or(0)),
            |path| path.display().to_string(),
        );
        out.note(&format!("{of}: run {} of {}", run.saturating_add(1), args.runs));
    })
    .map_err(|e| Failure::error("bench", e.to_string()))?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut cases = json!(cases);
    for case in cases.as_array_mut().into_iter().flatten() {
        let phases = object_of_pairs(&case["phases_ms"]);
        case["phases_ms"] = phases;
    }
    let answer = json!({ "cpu_level": cpu::compiled_level(), "threads": threads, "runs": args.runs, "cases": cases });
    out.answer(&answer, |answer| {
        let columns =
            ["steps", "total_ms", "p99_ms", "stock_ms", "verify_ms", "proof_bytes_zstd", "peak_rss_bytes", "verified"];
        let rows: Vec<Vec<String>> = answer["cases"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|case| columns.iter().map(|column| shown(&case[*column])).collect())
            .collect();
        table(&columns, &rows)
    })
}

/// Milliseconds with one digit behind the point, everything else as it is.
fn shown(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.1}"),
        _ => plain(value),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: BenchCommand,
    }

    fn cairo(words: &[&str]) -> CairoArgs {
        let line = ["bench", "cairo"].iter().chain(words);
        match Line::try_parse_from(line).unwrap().command {
            BenchCommand::Cairo(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_device_is_given_what_it_needs() {
        let args = cairo(&["--backend", "opencl", "--runs", "3", "--", "--device", "0"]);
        let expected = ["--backend", "opencl", "--runs", "3", "--steps", "5000", "9000", "--device", "0"];
        assert_eq!(args.for_gpu(&[5000, 9000]), expected.map(OsString::from));
        let args = cairo(&["--backend", "opencl", "--program", "p.json", "--args", "a.json"]);
        let expected = ["--backend", "opencl", "--runs", "20", "--program", "p.json", "--args", "a.json"];
        assert_eq!(args.for_gpu(&[5000]), expected.map(OsString::from));
        assert!(args.subjects(&[5000]).is_err(), "no such file");
        let args = cairo(&["--steps", "5000"]);
        assert_eq!(
            (args.backend, args.subjects(&[5000]).unwrap()),
            (BenchBackend::Simd, vec![Subject::of_steps(5000)])
        );
    }
}
