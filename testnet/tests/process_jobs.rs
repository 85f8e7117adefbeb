//! Jobs on real nodes: four processes over real sockets, killed at bad moments, and a late follower that serves the receipt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testnet::harness::{Cli, Cluster, Options, binary};

const MINUTE: Duration = Duration::from_secs(60);
/// A proof on a machine that is shared with the other nodes' work, with one lapsed turn before it.
const JOB: Duration = Duration::from_secs(240);

fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name).display().to_string()
}

/// A cluster in a folder of its own below the target folder; the folder stays when the test fails.
fn cluster(name: &str) -> Result<Cluster> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    let mut options = Options::on_free_ports(4)?;
    options.window_ms = Some(6_000);
    let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
    cluster.start_all()?;
    for index in 0..4 {
        cluster.wait_height(index, 1, MINUTE)?;
    }
    Ok(cluster)
}

fn submit(cluster: &Cluster, index: usize, n: u32) -> Result<String> {
    let key = cluster.file().user_key.display().to_string();
    let args = format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#);
    let prefix = format!("1,1,{n}");
    let fibonacci = program("fibonacci/fibonacci.json");
    let answer = cluster.ask(
        index,
        &["job", "submit", &fibonacci, "--args", &args, "--expect-output-prefix", &prefix, "--key", &key],
    )?;
    ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
    Ok(answer["job_id"].as_str().context("job_id")?.to_owned())
}

/// The node that proves a job now, as it says itself, once it is in the middle of the proof.
fn proving_node(cluster: &mut Cluster, job: &str) -> Result<usize> {
    let what = format!("a node in the middle of proving {job}");
    cluster.wait(&what, MINUTE, |c| {
        (0..4).filter(|i| c.is_running(*i)).find(|i| {
            let Ok(view) = c.ask(*i, &["job", "status", job]) else { return false };
            let stage = view["tasks"][0]["progress"]["stage"].as_str();
            stage.is_some_and(|s| !["warming", "running"].contains(&s))
        })
    })
}

fn verified_receipt(cluster: &mut Cluster, index: usize, job: &str) -> Result<Value> {
    let receipt = cluster.dir().join(format!("receipt-{index}.bin")).display().to_string();
    let what = format!("the receipt from node {index}");
    cluster.wait(&what, MINUTE, |c| c.ask(index, &["job", "receipt", job, "-o", &receipt]).ok())?;
    let genesis = cluster.dir().join("genesis.json").display().to_string();
    let report = cluster.cli().ok(&["verify", &receipt, "--genesis", &genesis])?;
    ensure!(report["valid"] == true && report["job_id"] == job, "receipt: {report}");
    Ok(report)
}

#[test]
fn the_accepting_node_is_killed_in_mid_proof_and_a_late_follower_serves_the_receipt() -> Result<()> {
    let mut cluster = cluster("accepting-node-killed")?;
    let job = submit(&cluster, 0, 20_000)?;
    proving_node(&mut cluster, &job)?;
    cluster.kill(0)?;
    let view = cluster.wait_job(1, &job, JOB)?;
    ensure!(view["status"] == "completed", "{view}");
    let report = verified_receipt(&mut cluster, 1, &job)?;
    ensure!(report["input_binding"] == "prefix", "{report}");
    ensure!(report["security"]["query_bits"].as_f64().is_some_and(|bits| bits >= 96.0), "{report}");

    // A node without any role joins with one address, catches up, and is enough to get the receipt from.
    let port = Options::on_free_ports(1)?.base_port;
    let late = cluster.add_follower(1, port)?;
    cluster.start(late)?;
    let height = cluster.height(1).context("height of node 1")?;
    cluster.wait_height(late, height, MINUTE)?;
    cluster.wait("the follower to hold the proof", MINUTE, |c| {
        (c.ask(late, &["job", "status", &job]).ok()?["receipt_ready"] == true).then_some(())
    })?;
    for index in 1..4 {
        let code = cluster.stop(index)?;
        ensure!(code == 0, "node {index} drained with {code}");
    }
    verified_receipt(&mut cluster, late, &job)?;
    ensure!(cluster.stop(late)? == 0, "the follower did not drain");
    Ok(())
}

#[test]
fn the_prover_is_killed_and_the_next_rank_finishes() -> Result<()> {
    let mut cluster = cluster("prover-killed")?;
    let job = submit(&cluster, 0, 20_000)?;
    let prover = proving_node(&mut cluster, &job)?;
    let before = cluster.ask(prover, &["job", "status", &job])?["tasks"][0]["prover"].clone();
    cluster.kill(prover)?;
    let other = (prover + 1) % 4;
    let view = cluster.wait_job(other, &job, JOB)?;
    ensure!(view["status"] == "completed", "{view}");
    ensure!(view["tasks"][0]["prover"] != before, "another prover: {view}");
    verified_receipt(&mut cluster, other, &job)?;

    // The killed node comes back, catches up, and serves the receipt too.
    cluster.start(prover)?;
    let height = cluster.height(other).context("height")?;
    cluster.wait_height(prover, height, MINUTE)?;
    verified_receipt(&mut cluster, prover, &job)?;
    for (index, code) in cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}");
    }
    Ok(())
}
