//! The binary `proofmesh-gpu`: everything that needs an OpenCL loader, in a process of its own. Owns its command line;
//! what the commands do is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use opencl::air::poseidon2::{self, Poseidon2};
use opencl::air::wide_fibonacci::WideFibonacci;
use opencl::air::{Rounds, Workload};
use opencl::bench::{Plan, Report, default_runs, on_device_with, on_host_with, text};
use opencl::device::{CacheReport, Choice, DeviceInfo, Listing, Options, Runtime, list, open};
use opencl::error::{Error, Result};
use opencl::self_test::{Passed, Selection, Size};
use opencl::{cairo, measure, probe, self_test, worker};
use prover::worker::Kind;
use stwo::core::fields::m31::BaseField;

/// Proves on OpenCL devices.
#[derive(Debug, Parser)]
#[command(name = "proofmesh-gpu", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists all OpenCL devices and says which ones can be used.
    Devices {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures whole proofs.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Runs the correctness suite: kernels and proofs against the host's answers.
    SelfTest {
        #[command(flatten)]
        device: DeviceArgs,
        /// Also the sizes that take minutes without a GPU.
        #[arg(long)]
        large: bool,
        /// Only sizes that a tool which interprets kernels can take.
        #[arg(long, conflicts_with = "large")]
        tiny: bool,
        /// Only the checks whose names contain one of these, separated by commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Times a short proof on the device and on the processor, as JSON; run by a node that has to choose.
    #[command(hide = true)]
    Measure {
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Proves for a node; started by the node itself.
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        device: DeviceArgs,
        /// Which of a node's workers to be.
        #[arg(value_parser = worker_kind)]
        kind: Kind,
    },
    /// Prints the devices as JSON; run in a child process by `devices`.
    #[command(name = probe::COMMAND, hide = true)]
    Probe,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// A built-in workload.
    Air(BenchAir),
    /// Cairo programs, with the settings of the network.
    Cairo(BenchCairo),
}

#[derive(Debug, Args)]
struct BenchCairo {
    /// Steps of each case, of our own program.
    #[arg(long, value_name = "N", num_args = 1..=16, default_values_t = [122_000_u64, 1_200_000])]
    steps: Vec<u64>,
    /// A program file to prove instead.
    #[arg(long, conflicts_with = "steps")]
    program: Option<PathBuf>,
    /// Its arguments file.
    #[arg(long, requires = "program")]
    args: Option<PathBuf>,
    /// Where to prove.
    #[arg(long, value_enum, default_value_t = Backend::Opencl)]
    backend: Backend,
    /// Prove the same on the processor in turn, and say how many times longer it takes.
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What all measurements take.
#[derive(Debug, Args)]
struct RunArgs {
    /// Measured runs of each case, each with another input; by default 20 at 96 bits, where the proof of work varies most,
    /// else 7.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Debug, Args)]
struct DeviceArgs {
    /// Number or part of the name of the device; by default the best GPU.
    #[arg(long, env = "PROOFGPU_DEVICE")]
    device: Option<String>,
    /// Numbers or parts of names of devices that must not be used, separated by commas.
    #[arg(long, env = "PROOFGPU_EXCLUDE", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Folder for compiled kernels; by default ~/.cache/proofmesh/kernels.
    #[arg(long, env = "PROOFGPU_CACHE")]
    cache: Option<PathBuf>,
    /// Bytes of device memory to use at most; by default nine tenths of it.
    #[arg(long)]
    memory_limit: Option<u64>,
    /// Take the host's processor if there is no GPU: for tests, slower than the CPU prover.
    #[arg(long)]
    allow_cpu: bool,
    /// Keep transforms in registers, as on devices with little local memory.
    #[arg(long)]
    no_tiles: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Simd,
    Opencl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Air {
    WideFibonacci,
    Poseidon2,
}

impl Air {
    fn name(self) -> &'static str {
        match self {
            Self::WideFibonacci => "wide-fibonacci",
            Self::Poseidon2 => "poseidon2",
        }
    }
}

/// Columns of wide Fibonacci unless the command line says otherwise.
const WIDE_COLUMNS: u32 = 100;
/// The seed of benchmarks of Poseidon2: eight words of no meaning.
const SEED: [u32; poseidon2::WORDS] =
    [0x0102_0304, 0x1112_1314, 0x2122_2324, 0x3132_3334, 0x4142_4344, 0x5152_5354, 0x6162_6364, 0x7172_7374];

#[derive(Debug, Args)]
struct BenchAir {
    /// The workload.
    #[arg(long, value_enum)]
    air: Air,
    /// Logarithm of the number of rows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=26))]
    log_rows: u32,
    /// Number of columns of wide Fibonacci, 100 by default; Poseidon2 has a fixed number.
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=4096))]
    columns: Option<u32>,
    /// Where to prove.
    #[arg(long, value_enum)]
    backend: Backend,
    /// Conjectured security in bits: 13 (stwo's default, for comparison only) or 96.
    #[arg(long, default_value_t = 96)]
    security: u32,
    /// Verify the proof with stwo's verifier.
    #[arg(long)]
    verify: bool,
    /// Measure `SimdBackend` in the same run, and say how many times longer it takes.
    #[arg(long)]
    compare: bool,
    /// Folds of FRI per committed layer; the stated security does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16))]
    fold_step: Option<u32>,
    /// Logarithm of the degree bound of FRI's last layer; the stated security does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=10))]
    last_layer: Option<u32>,
    #[command(flatten)]
    run: RunArgs,
}

impl RunArgs {
    /// How many runs, at this security.
    fn runs(&self, security: u32) -> usize {
        self.runs.map_or_else(|| default_runs(security), |runs| runs as usize)
    }
}

fn worker_kind(name: &str) -> std::result::Result<Kind, String> {
    let known = Kind::from_name(name).filter(|kind| *kind != Kind::Execute);
    known.ok_or_else(|| format!("{name:?} is no worker of this binary: prove or trace"))
}

impl DeviceArgs {
    fn options(&self) -> Options {
        let choice = Choice { device: self.device.clone(), exclude: self.exclude.clone(), allow_cpu: self.allow_cpu };
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let cache = self.cache.clone().or_else(|| Some(home?.join(".cache/proofmesh/kernels")));
        Options { choice, cache, memory_limit: self.memory_limit }
    }

    /// Opens the device and makes sure that it computes right.
    fn open(&self) -> Result<&'static Runtime> {
        let options = self.options();
        let runtime = open(&options)?;
        self_test::ensure(runtime, options.cache.as_deref())?;
        runtime.set_tiles(!self.no_tiles);
        Ok(runtime)
    }
}

fn main() -> ExitCode {
    // Warnings only, on stderr: stdout holds the answer.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    match run(Cli::parse().command) {
        Ok(output) => {
            println!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("proofmesh-gpu: {error}");
            ExitCode::FAILURE
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    let wrong =
        |error: serde_json::Error| Error::Input { field: "output", value: error.to_string(), limit: "JSON".to_owned() };
    serde_json::to_string_pretty(value).map_err(wrong)
}

fn run(command: Command) -> Result<String> {
    match command {
        Command::Devices { json: as_json } => {
            let binary = std::env::current_exe().map_err(|error| Error::NoDevice(error.to_string()))?;
            let listing = probe::probe(&binary)?;
            if as_json { json(&listing) } else { Ok(table(&listing)) }
        }
        Command::Probe => json(&list()?),
        Command::Measure { device } => {
            // Nobody reads the answer once the node is gone.
            if let Err(error) = prover::worker::die_with_parent() {
                tracing::warn!(%error, "this process outlives the node");
            }
            json(&measure::measure(device.open()?)?)
        }
        Command::Worker { device, kind } => worker::run(kind, &device.options()),
        Command::SelfTest { device, large, tiny, only, json: as_json } => {
            let runtime = open(&device.options())?;
            let size = match (tiny, large) {
                (true, _) => Size::Tiny,
                (false, true) => Size::Large,
                (false, false) => Size::Small,
            };
            let passed = self_test::run(runtime, &Selection { only, size })?;
            if as_json { json(&SelfTestReport::new(runtime, passed)) } else { Ok(self_test_text(runtime, &passed)) }
        }
        Command::Bench { what: Bench::Air(options) } => {
            let report = bench(&options)?;
            if options.run.json { json(&report) } else { Ok(text(&report)) }
        }
        Command::Bench { what: Bench::Cairo(options) } => {
            let subjects = cairo::bench::subjects(&options.steps, options.program.as_deref(), options.args.as_deref())?;
            let runs = options.run.runs(96);
            let report = match options.backend {
                Backend::Simd => cairo::bench::on_host(subjects, runs)?,
                Backend::Opencl => {
                    // Before the driver starts its threads.
                    prover::bench::prepare();
                    cairo::bench::on_device(&subjects, runs, options.run.device.open()?, options.compare)?
                }
            };
            if options.run.json { json(&report) } else { Ok(cairo::bench::text(&report)) }
        }
    }
}

/// The outcome of a self-test, as printed with `--json`.
#[derive(serde::Serialize)]
struct SelfTestReport {
    device: DeviceInfo,
    cache: CacheReport,
    passed: Vec<Passed>,
}

impl SelfTestReport {
    fn new(runtime: &Runtime, passed: Vec<Passed>) -> Self {
        Self { device: runtime.info().clone(), cache: runtime.cache_report(), passed }
    }
}

fn self_test_text(runtime: &Runtime, passed: &[Passed]) -> String {
    let line = |check: &Passed| format!("passed  {:<50} {:>10.1} ms", check.name, check.milliseconds);
    let mut lines: Vec<String> = passed.iter().map(line).collect();
    let (info, cache) = (runtime.info(), runtime.cache_report());
    lines.push(format!("device  {} ({}, driver {})", info.name, info.version, info.driver));
    lines.push(format!(
        "kernels {} loaded, {} compiled, {} damaged in the cache, {} not cached",
        cache.loaded, cache.compiled, cache.broken, cache.unwritten
    ));
    lines.join("\n")
}

fn bench(options: &BenchAir) -> Result<Report> {
    let log_rows = options.log_rows;
    match options.air {
        Air::WideFibonacci => {
            let columns = options.columns.unwrap_or(WIDE_COLUMNS) as usize;
            let make = || Ok(WideFibonacci { log_rows, columns });
            measure(options, columns, make, make)
        }
        Air::Poseidon2 => {
            if let Some(columns) = options.columns {
                return Err(Error::Input {
                    field: "columns",
                    value: columns.to_string(),
                    limit: format!("poseidon2 always has {}: leave the option out", poseidon2::COLUMNS),
                });
            }
            let seed = SEED.map(BaseField::from_u32_unchecked);
            let on_device = || Poseidon2::on_device(log_rows, seed);
            let on_host = || Ok(Poseidon2::on_host(log_rows, seed));
            measure(options, poseidon2::COLUMNS, on_device, on_host)
        }
    }
}

fn measure<W: Workload>(
    options: &BenchAir,
    columns: usize,
    make_on_device: impl Fn() -> Result<W>,
    make_on_host: impl Fn() -> Result<W>,
) -> Result<Report> {
    let plan = Plan {
        air: options.air.name(),
        log_rows: options.log_rows,
        columns,
        security: options.security,
        rounds: Rounds { fold_step: options.fold_step, last_layer: options.last_layer },
        runs: options.run.runs(options.security),
        verify: options.verify,
    };
    match options.backend {
        Backend::Simd => on_host_with(&plan, make_on_host),
        Backend::Opencl => {
            let against_host = options.compare.then_some(&make_on_host as &dyn Fn() -> Result<W>);
            on_device_with(&plan, make_on_device, against_host, options.run.device.open()?)
        }
    }
}

fn table(listing: &Listing) -> String {
    if listing.devices.is_empty() {
        return "no OpenCL device: the platforms that are registered have none".to_owned();
    }
    let line = |info: &DeviceInfo| {
        let state = if info.refusal.is_empty() { "usable".to_owned() } else { format!("not usable: {}", info.refusal) };
        format!(
            "{} {} ({:?}, {} units, {} MiB) {state}\n    {}, {}, driver {}",
            info.index,
            info.name,
            info.kind,
            info.compute_units,
            info.memory_bytes >> 20,
            info.platform,
            info.version,
            info.driver
        )
    };
    listing.devices.iter().map(line).collect::<Vec<_>>().join("\n")
}
