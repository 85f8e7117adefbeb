//! The testnet of `scripts/testnet.sh`: starts real nodes, submits a Cairo program, shows how it gets on, and with `--once`
//! takes the receipt from a node that did not accept the job and verifies it offline.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use testnet::harness::{Cli, Cluster, Options, TestnetFile};

/// Nodes of a new testnet.
const NODES: u16 = 4;
/// First port of a new testnet.
const BASE_PORT: u16 = 27_600;
/// Time for the nodes to answer and to agree on their first block.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Time for the example job.
const JOB_LIMIT: Duration = Duration::from_secs(300);
/// The example: the 20,000th Fibonacci number, some 122,000 steps.
const EXAMPLE_ARGS: &str = r#"{"first": 1, "second": 1, "n": 20000}"#;
/// What its output begins with: its input.
const EXAMPLE_PREFIX: &str = "1,1,20000";

#[derive(Parser)]
#[command(name = "proofmesh-testnet", about = "Several real nodes on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts nodes, submits an example job, and stops on Ctrl-C.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The node binary.
    #[arg(long)]
    bin: PathBuf,
    /// Folder of the testnet; one that is there is resumed.
    #[arg(long)]
    dir: PathBuf,
    /// The example program.
    #[arg(long)]
    program: PathBuf,
    /// Number of nodes [default: 4, or as the testnet in the folder has].
    #[arg(long)]
    nodes: Option<u16>,
    /// First port [default: 27600, or as the testnet in the folder has].
    #[arg(long)]
    base_port: Option<u16>,
    /// Stop the accepting node after the acknowledgement, take the receipt from another, verify it, stop everything.
    #[arg(long)]
    once: bool,
    /// Remove what is in the folder first.
    #[arg(long)]
    fresh: bool,
    /// Least time between blocks while there is work, ms.
    #[arg(long)]
    block_ms: Option<u64>,
    /// Time between blocks while there is none, ms.
    #[arg(long)]
    empty_block_ms: Option<u64>,
}

fn main() {
    let Command::Run(run) = Arguments::parse().command;
    let stop = Arc::new(AtomicBool::new(false));
    if let Err(error) = watch_signals(Arc::clone(&stop)).and_then(|()| testnet(&run, &stop)) {
        eprintln!("testnet: {error:#}");
        std::process::exit(1);
    }
}

/// Sets the flag on the first Ctrl-C or SIGTERM. The nodes are children of the main thread, which outlives this one.
fn watch_signals(stop: Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.store(true, Ordering::SeqCst);
        });
    })?;
    Ok(())
}

fn testnet(run: &Run, stop: &AtomicBool) -> Result<()> {
    // Before anything is made or started.
    std::fs::File::open(&run.program)
        .and_then(|file| file.metadata())
        .with_context(|| format!("--program: {} can't be read; name a compiled program", run.program.display()))?
        .is_file()
        .then_some(())
        .with_context(|| format!("--program: {} is no file; name a compiled program", run.program.display()))?;
    let mut cluster = make(run)?;
    let result = with_nodes(run, &mut cluster, stop);
    let ended = cluster.stop_all()?;
    for (index, code) in &ended {
        println!("node {index} stopped ({code})");
        if *code != 0 && result.is_ok() {
            bail!("node {index} ended with {code} instead of draining; its log: {}", cluster.log(*index).display());
        }
    }
    if run.once && result.is_ok() {
        println!("all of it worked");
    }
    result
}

fn make(run: &Run) -> Result<Cluster> {
    let cli = Cli::new(&run.bin);
    let known = run.dir.join("testnet.json").exists();
    if known && !run.fresh {
        println!("resuming the testnet in {} (--fresh starts anew)", run.dir.display());
        let cluster = Cluster::open(cli, &run.dir)?;
        check_resumed(run.nodes, run.base_port, cluster.file())?;
        return Ok(cluster);
    }
    if run.dir.exists() && run.fresh {
        if !known && std::fs::read_dir(&run.dir)?.next().is_some() {
            bail!(
                "--dir: {} holds something that is no testnet; nothing was removed; name another folder",
                run.dir.display()
            );
        }
        std::fs::remove_dir_all(&run.dir).with_context(|| format!("removing {}", run.dir.display()))?;
    }
    let options = Options {
        nodes: run.nodes.unwrap_or(NODES),
        base_port: run.base_port.unwrap_or(BASE_PORT),
        block_ms: run.block_ms,
        empty_block_ms: run.empty_block_ms,
        window_ms: None,
    };
    Cluster::create(cli, &run.dir, &options)
}

/// A testnet that is there keeps its nodes and ports; asking for others would be ignored.
fn check_resumed(nodes: Option<u16>, base_port: Option<u16>, file: &TestnetFile) -> Result<()> {
    let first = file.nodes.first().context("the testnet in the folder has no nodes")?;
    let port = first.p2p.rsplit('/').next().and_then(|port| port.parse::<u16>().ok());
    let remedy = "leave the option out to resume it, or give --fresh or another --dir to make a new one";
    if let Some(nodes) = nodes.filter(|nodes| usize::from(*nodes) != file.nodes.len()) {
        bail!("--nodes: {nodes} is not what the testnet in the folder has, {}; {remedy}", file.nodes.len());
    }
    if let Some(wanted) = base_port.filter(|wanted| Some(*wanted) != port) {
        bail!("--base-port: {wanted} is not that of the testnet in the folder, {}; {remedy}", first.p2p);
    }
    Ok(())
}

fn with_nodes(run: &Run, cluster: &mut Cluster, stop: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    cluster.check_ports()?;
    cluster.start_all()?;
    let nodes = cluster.file().nodes.len();
    println!("{nodes} nodes started; logs: {}/node*.log", run.dir.display());
    for index in 0..nodes {
        let height = cluster.wait_height(index, 1, START_LIMIT)?;
        println!("  node {index}: height {height}, rpc {}", cluster.node(index)?.rpc);
    }
    println!("all nodes agree on blocks after {:.1} s", started.elapsed().as_secs_f64());
    let job = submit(run, cluster)?;
    if run.once {
        return once(run, cluster, &job);
    }
    follow(cluster, 0, &job, stop)?;
    println!("the nodes keep running; Ctrl-C stops them");
    while !stop.load(Ordering::SeqCst) {
        for index in 0..nodes {
            if let Some(code) = cluster.ended(index)? {
                bail!("node {index} ended by itself with {code}; its log: {}", cluster.log(index).display());
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn submit(run: &Run, cluster: &mut Cluster) -> Result<String> {
    let key = cluster.file().user_key.display().to_string();
    let program = run.program.display().to_string();
    println!("submitting {program} with {EXAMPLE_ARGS} to node 0");
    let command =
        ["job", "submit", &program, "--args", EXAMPLE_ARGS, "--expect-output-prefix", EXAMPLE_PREFIX, "--key", &key];
    let answer = cluster.ask(0, &command)?;
    let job = answer["job_id"].as_str().context("job_submit: no job_id in the answer")?.to_owned();
    if answer["status"] != "decided" {
        bail!("job {job} was not acknowledged: {answer}");
    }
    println!("job {job} acknowledged in block {}", answer["height"]);
    cluster.set_job(&job)?;
    Ok(job)
}

/// Prints each change of a job until it ends.
fn follow(cluster: &mut Cluster, index: usize, job: &str, stop: &AtomicBool) -> Result<()> {
    let (started, mut last) = (Instant::now(), String::new());
    let view = cluster.wait(&format!("the end of job {job}"), JOB_LIMIT, |c| {
        let view = c.ask(index, &["job", "status", job]).ok()?;
        let task = &view["tasks"][0];
        let text = |v: &serde_json::Value| v.as_str().unwrap_or("-").chars().take(12).collect::<String>();
        let line = format!(
            "{} | stage {} | task {} | attempt {} | prover {} | {}",
            text(&view["status"]),
            text(&view["stage"]),
            text(&task["state"]),
            task["attempt"],
            text(&task["prover"]),
            text(&task["progress"]["stage"]),
        );
        if line != last {
            println!("  {:6.2} s  {line}", started.elapsed().as_secs_f64());
            last = line;
        }
        let over = view["status"] != "running" || stop.load(Ordering::SeqCst);
        over.then_some(view)
    })?;
    if view["status"] != "completed" && !stop.load(Ordering::SeqCst) {
        bail!("job {job} ended as {}: {}", view["status"], view["error"]);
    }
    println!("job {job}: {} after {:.1} s, charged {}", view["status"], started.elapsed().as_secs_f64(), view["fee"]);
    Ok(())
}

fn once(run: &Run, cluster: &mut Cluster, job: &str) -> Result<()> {
    cluster.stop(0)?;
    println!("node 0, which accepted the job, is stopped");
    let never = AtomicBool::new(false);
    follow(cluster, 1, job, &never)?;
    let receipt = run.dir.join("receipt.bin");
    let receipt_text = receipt.display().to_string();
    cluster.wait("the receipt from node 1", Duration::from_secs(30), |c| {
        c.ask(1, &["job", "receipt", job, "-o", &receipt_text]).ok()
    })?;
    let genesis = run.dir.join("genesis.json").display().to_string();
    println!("receipt from node 1: {receipt_text}");
    let (code, answer, errors) = cluster.cli().run(&["verify", &receipt_text, "--genesis", &genesis])?;
    if code != 0 || answer["valid"] != true {
        bail!("the receipt does not verify ({code}): {answer} {}", errors.trim());
    }
    println!("verified offline: {answer}");
    println!("check it yourself: {} verify {receipt_text} --genesis {genesis}", run.bin.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_testnet_keeps_its_nodes_and_ports() {
        let node = |name: &str, port: u16| {
            serde_json::json!({"name": name, "home": "/x", "pid": null, "rpc": format!("http://127.0.0.1:{}", port + 1),
                "p2p": format!("/ip4/127.0.0.1/tcp/{port}"), "peer_id": "p", "validator": true, "prover": true})
        };
        let file: TestnetFile = serde_json::from_value(serde_json::json!({
            "chain_id": "testnet", "genesis_hash": "ab", "user_key": "/x/user.key", "job_id": null,
            "nodes": [node("node0", 27_600), node("node1", 27_610)],
        }))
        .unwrap();
        for (nodes, port) in [(None, None), (Some(2), None), (None, Some(27_600)), (Some(2), Some(27_600))] {
            check_resumed(nodes, port, &file).unwrap();
        }
        let said = |nodes, port| check_resumed(nodes, port, &file).unwrap_err().to_string();
        assert!(said(Some(4), None).contains("--nodes: 4"));
        assert!(said(None, Some(28_000)).contains("--base-port: 28000"));
    }
}
