//! What tests of a network have in common: a fresh network in a folder of its own, work for it, and the look at everything
//! that it leaves behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::audit::{Audited, audit};
use super::cluster::{Cluster, Options};
use super::customer::{self, Account, Wishes};
use super::process::{Cli, binary};
use crate::faults::signed::Signed;

/// Until a network that was just started, or has come back, does what it should.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Until all jobs of a customer have ended.
pub const SETTLE: Duration = Duration::from_secs(240);

/// Makes a network of `nodes` in a folder that holds nothing else, with fast blocks; `change` may set other options.
///
/// # Errors
/// When the folder can't be emptied or the binary refuses.
pub fn network(dir: &Path, nodes: u16, change: impl FnOnce(&mut Options)) -> Result<Cluster> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let mut options = Options::on_free_ports(nodes)?;
    (options.block_ms, options.empty_block_ms, options.window_ms) = (Some(100), Some(500), Some(4_000));
    change(&mut options);
    Cluster::create(Cli::new(binary()?), dir, &options)
}

/// Starts all nodes and waits until each has a block.
///
/// # Errors
/// When one does not start.
pub fn start_all(cluster: &mut Cluster) -> Result<()> {
    cluster.start_all()?;
    (0..cluster.file().nodes.len()).try_for_each(|index| cluster.wait_height(index, 1, MINUTE).map(drop))
}

/// Jobs of the example program with about 4 `n` steps, `jobs_at_once` of them, asked of `nodes`.
pub fn wishes(jobs_at_once: usize, n: u32, nodes: &[usize]) -> Wishes {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json");
    Wishes { program, jobs_at_once, n, nodes: nodes.to_vec() }
}

/// The highest block that any of `nodes` has.
pub fn highest(cluster: &Cluster, nodes: &[usize]) -> u64 {
    nodes.iter().filter_map(|index| cluster.height(*index)).max().unwrap_or(0)
}

/// Waits until the chain is `blocks` further on one of `nodes` than on any of them now.
///
/// # Errors
/// When it is not within two minutes, or a node ended by itself.
pub fn progress(cluster: &mut Cluster, nodes: &[usize], blocks: u64) -> Result<u64> {
    let goal = highest(cluster, nodes) + blocks;
    let what = format!("height {goal} on one of {nodes:?}");
    cluster.wait(&what, 2 * MINUTE, |c| Some(highest(c, nodes)).filter(|height| *height >= goal))
}

/// The node that proves a job now, as it says itself, once it has worked on it for a while, and its worker's process id.
///
/// # Errors
/// When there is none within a minute.
pub fn proving(cluster: &mut Cluster, job: &str) -> Result<(usize, i32)> {
    let nodes: Vec<usize> = (0..cluster.file().nodes.len()).filter(|i| cluster.is_running(*i)).collect();
    cluster.wait(&format!("a node in the middle of proving {job}"), MINUTE, |c| {
        nodes.iter().find_map(|index| {
            let view = c.ask(*index, &["job", "status", job]).ok()?;
            let stage = view["tasks"][0]["progress"]["stage"].as_str()?.to_owned();
            let pid = c.ask(*index, &["status"]).ok()?["prover"]["worker_pid"].as_i64()?;
            (stage != "warming").then_some((*index, i32::try_from(pid).ok()?))
        })
    })
}

/// Ends a run: all jobs ended and paid once, all nodes level and stopped, and what they have on disk agrees. `signed` may
/// hold what is known to be signed already.
///
/// # Errors
/// When any of that is not so.
pub fn conclude(cluster: &mut Cluster, account: &Account, signed: &mut Signed) -> Result<Audited> {
    let (jobs, transfers) = customer::settle(cluster, 0, account, SETTLE)?;
    let all: Vec<usize> = (0..cluster.file().nodes.len()).collect();
    let height = highest(cluster, &all);
    for index in &all {
        cluster.wait_height(*index, height, MINUTE)?;
    }
    stop_all(cluster)?;
    let homes: Vec<PathBuf> = cluster.file().nodes.iter().map(|n| n.home.clone()).collect();
    let found = audit(&homes, signed)?;
    ensure!(found.recorded.len() >= jobs, "{jobs} jobs, and blocks with certificates of {}", found.recorded.len());
    for index in all {
        let log = std::fs::read_to_string(cluster.log(index))?;
        for word in ["equivocation seen", "two verdicts by one key"] {
            ensure!(!log.contains(word), "node {index} has seen: {word}; logs: {}", cluster.dir().display());
        }
    }
    println!(
        "{jobs} jobs and {transfers} transfers, all paid once ({} and {} acknowledged, {} wishes failed); height {}; \
         {} slots signed, none twice",
        account.jobs.len(),
        account.transfers,
        account.failed,
        found.height,
        signed.len()
    );
    Ok(found)
}

/// Stops all nodes; each must drain.
///
/// # Errors
/// When one does not.
pub fn stop_all(cluster: &mut Cluster) -> Result<()> {
    for (index, code) in cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}; its log: {}", cluster.log(index).display());
    }
    Ok(())
}

/// Waits until a node has ended by itself; its exit code and what its log says after byte `from`.
///
/// # Errors
/// When it still runs after `limit`.
pub fn wait_end(cluster: &mut Cluster, index: usize, from: u64, limit: Duration) -> Result<(i32, String)> {
    let until = Instant::now() + limit;
    loop {
        if let Some(code) = cluster.ended(index)? {
            cluster.kill(index)?;
            let log = std::fs::read(cluster.log(index))?;
            let new = log.get(usize::try_from(from)?..).context("the log shrank")?;
            return Ok((code, String::from_utf8_lossy(new).into_owned()));
        }
        if Instant::now() >= until {
            bail!("node {index} still runs after {} s; its log: {}", limit.as_secs(), cluster.log(index).display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Length of a node's log, bytes.
///
/// # Errors
/// When there is none.
pub fn log_length(cluster: &Cluster, index: usize) -> Result<u64> {
    Ok(std::fs::metadata(cluster.log(index))?.len())
}
