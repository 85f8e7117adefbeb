//! Measurements of the whole: real node processes on this machine, and what they do in how much time.
//!
//! Every figure comes from a run of this program and names what was timed, under which parameters, on which hardware and
//! from which commit. The load generator runs on the same machine as the nodes and so costs them part of it. Nodes keep
//! their homes on a real file system, where a flush reaches a disk; a folder in memory is refused.

mod blob;
mod cairo;
mod catchup;
mod empty;
mod jobs;
mod ledger;
mod load;
mod memory;
mod report;
mod rpc;
mod stats;
mod transfers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::harness::{Cli, Cluster, Options};
pub use blob::{Fetch, fetch};
pub use report::{Entry, Report};

/// Time for nodes to start and agree on a first block.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Names of the measurements, in the order in which they run.
pub const NAMES: &[&str] = &["empty", "transfers", "ledger", "catchup", "blob", "idle", "jobs", "cairo", "soak"];

/// What to measure and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node binary.
    pub bin: PathBuf,
    /// Folder for the nodes' homes; emptied before each measurement.
    pub dir: PathBuf,
    /// Shorter runs, for a look at all figures within five minutes.
    pub quick: bool,
    /// Measurements to run; empty for all.
    pub only: Vec<String>,
    /// Length of the load under which memory is watched, seconds; an hour, or twenty seconds in a quick run, if none is named.
    pub soak_s: Option<u64>,
    /// Leave the folder as it is after the last measurement.
    pub keep: bool,
    /// Commit the binary was built from.
    pub commit: String,
}

/// Runs the measurements of a plan; `done` is told each finished entry.
///
/// # Errors
/// At the first measurement that can't be made.
pub fn run(plan: &Plan, mut done: impl FnMut(&Entry)) -> Result<Report> {
    if let Some(unknown) = plan.only.iter().find(|name| !NAMES.contains(&name.as_str())) {
        bail!("--only is '{unknown}'; known are {}", NAMES.join(", "));
    }
    let mut report = Report::new(&plan.commit);
    for name in NAMES.iter().filter(|name| plan.only.is_empty() || plan.only.iter().any(|only| only == *name)) {
        fresh_folder(&plan.dir)?;
        let entries = match *name {
            "empty" => empty::measure(plan)?,
            "transfers" => transfers::measure(plan)?,
            "ledger" => ledger::measure(plan)?,
            "catchup" => catchup::measure(plan)?,
            "blob" => blob::measure(plan)?,
            "idle" => memory::idle(plan)?,
            "jobs" => jobs::measure(plan)?,
            "cairo" => cairo::measure(plan)?,
            "soak" => memory::soak(plan)?,
            other => bail!("the measurement '{other}' has no code"),
        };
        for entry in entries {
            done(report.add(entry));
        }
    }
    if !plan.keep {
        std::fs::remove_dir_all(&plan.dir).with_context(|| format!("removing {}", plan.dir.display()))?;
    }
    Ok(report)
}

/// Empties the folder; one on a file system in memory is refused, because a flush costs nothing there.
fn fresh_folder(dir: &Path) -> Result<()> {
    const MARK: &str = ".proofmesh-bench";
    let foreign = dir.is_dir() && !dir.join(MARK).exists() && std::fs::read_dir(dir)?.next().is_some();
    if foreign {
        bail!(
            "--dir: {} holds something that is no bench run; nothing was removed; name another folder",
            dir.display()
        );
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    std::fs::write(dir.join(MARK), b"")?;
    let kind = report::file_system(dir)?;
    if ["tmpfs", "ramfs"].contains(&kind.as_str()) {
        bail!("--dir: {} is on {kind}, where a flush reaches no disk; name a folder on a disk", dir.display());
    }
    Ok(())
}

/// Starts four nodes and waits until each has a block.
fn cluster(plan: &Plan, block_ms: u64, empty_block_ms: u64) -> Result<Cluster> {
    nodes(plan, 4, block_ms, empty_block_ms)
}

/// Starts so many nodes and waits until each has a block.
fn nodes(plan: &Plan, count: u16, block_ms: u64, empty_block_ms: u64) -> Result<Cluster> {
    let mut options = Options::on_free_ports(count)?;
    options.block_ms = Some(block_ms);
    options.empty_block_ms = Some(empty_block_ms);
    let mut cluster = Cluster::create(Cli::new(&plan.bin), &plan.dir.join("net"), &options)?;
    cluster.start_all()?;
    for index in 0..cluster.file().nodes.len() {
        cluster.wait_height(index, 1, START_LIMIT)?;
    }
    Ok(cluster)
}

/// Stops the nodes; one that does not drain is an error.
fn stop(mut cluster: Cluster) -> Result<()> {
    for (index, code) in cluster.stop_all()? {
        if code != 0 {
            bail!("node {index} ended with {code}; its log: {}", cluster.log(index).display());
        }
    }
    Ok(())
}

/// Runs async work of a measurement on one thread, so that the load generator takes no more than one core.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Memory of a process at one moment, bytes.
#[derive(Clone, Copy)]
struct Memory {
    /// All resident pages.
    resident: u64,
    /// Those that no file backs: heap and stacks. The others are pages of the binary, which come as code is first run
    /// and which the kernel may drop at any time.
    anonymous: u64,
}

/// What a process of ours holds now.
fn memory_of(pid: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a process with memory")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| name.to_owned())?;
        Ok(kib << 10)
    };
    Ok(Memory { resident: bytes("VmRSS:")?, anonymous: bytes("RssAnon:")? })
}
