//! The binary `proofmesh-gpu`: everything that needs an OpenCL loader, in a process of its own. Owns its command line;
//! what the commands do is in the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use opencl::air::Workload;
use opencl::air::wide_fibonacci::WideFibonacci;
use opencl::bench::{Plan, Report, on_device, on_host, text};
use opencl::device::{Choice, DeviceInfo, Listing, Options, Runtime, list, open};
use opencl::error::{Error, Result};
use opencl::{cairo, probe, self_test};

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
    /// Compares the kernels with the host's answers.
    SelfTest {
        #[command(flatten)]
        device: DeviceArgs,
        /// Also the sizes that take minutes without a GPU.
        #[arg(long)]
        large: bool,
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
    /// Measured runs of each case, each with another input.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    Simd,
    Opencl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Air {
    WideFibonacci,
}

#[derive(Debug, Args)]
struct BenchAir {
    /// The workload.
    #[arg(long, value_enum)]
    air: Air,
    /// Logarithm of the number of rows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..=26))]
    log_rows: u32,
    /// Number of columns.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(3..=4096))]
    columns: u32,
    /// Where to prove.
    #[arg(long, value_enum)]
    backend: Backend,
    /// Conjectured security in bits: 13 (stwo's default, for comparison only) or 96.
    #[arg(long, default_value_t = 96)]
    security: u32,
    /// Verify the proof with stwo's verifier.
    #[arg(long)]
    verify: bool,
    /// Measured runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
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
        Command::SelfTest { device, large } => {
            let runtime = open(&device.options())?;
            let passed = self_test::run(runtime, large)?;
            let line = |test: &self_test::Passed| {
                format!("passed  {:<22} {:>9.1} ms", test.name, test.time.as_secs_f64() * 1e3)
            };
            let mut lines: Vec<String> = passed.iter().map(line).collect();
            let (info, cache) = (runtime.info(), runtime.cache_report());
            lines.push(format!("device  {} ({}, driver {})", info.name, info.version, info.driver));
            lines.push(format!(
                "kernels {} loaded, {} compiled, {} damaged in the cache, {} not cached",
                cache.loaded, cache.compiled, cache.broken, cache.unwritten
            ));
            Ok(lines.join("\n"))
        }
        Command::Bench { what: Bench::Air(options) } => {
            let report = bench(&options)?;
            if options.json { json(&report) } else { Ok(text(&report)) }
        }
        Command::Bench { what: Bench::Cairo(options) } => {
            let subjects = cairo::bench::subjects(&options.steps, options.program.as_deref(), options.args.as_deref())?;
            let runs = options.runs as usize;
            let report = match options.backend {
                Backend::Simd => cairo::bench::on_host(subjects, runs)?,
                Backend::Opencl => {
                    // Before the driver starts its threads.
                    prover::bench::prepare();
                    cairo::bench::on_device(&subjects, runs, options.device.open()?)?
                }
            };
            if options.json { json(&report) } else { Ok(cairo::bench::text(&report)) }
        }
    }
}

fn bench(options: &BenchAir) -> Result<Report> {
    let columns = options.columns as usize;
    match options.air {
        Air::WideFibonacci => {
            measure(options, "wide-fibonacci", &WideFibonacci { log_rows: options.log_rows, columns })
        }
    }
}

fn measure<W: Workload>(options: &BenchAir, air: &'static str, workload: &W) -> Result<Report> {
    let plan = Plan {
        air,
        log_rows: options.log_rows,
        columns: options.columns as usize,
        security: options.security,
        runs: options.runs as usize,
        verify: options.verify,
    };
    match options.backend {
        Backend::Simd => on_host(&plan, workload),
        Backend::Opencl => on_device(&plan, workload, options.device.open()?),
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
