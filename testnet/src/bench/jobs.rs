//! What the network adds to a proof: from the acknowledged submission to the certified receipt, minus proving.
//!
//! Proving is the provers' own account of it, from their turn to the proof that passed their own strict check.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::rpc::{Rpc, metric};
use super::stats::Samples;
use super::{Entry, Plan, block_on, cluster, report, stop};
use crate::harness::Cluster;

/// Time for one job, on a machine that also runs all nodes.
const JOB_LIMIT: Duration = Duration::from_secs(240);
/// Time between two looks at the job.
const LOOK: Duration = Duration::from_millis(10);
/// Rounds of the example; about 122,000 steps.
const N: u32 = 20_000;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let jobs = if plan.quick { 3 } else { 20 };
    let cluster = cluster(plan, 500, 10_000)?;
    let (mut overhead, mut total, mut proving) = (Samples::default(), Samples::default(), Samples::default());
    for number in 0..jobs {
        let before = proved(&cluster)?;
        let (job, since) = submit(&cluster, N + number)?;
        block_on(certified(&cluster, &job))?;
        let all = since.elapsed().as_secs_f64();
        let after = proved(&cluster)?;
        ensure!(after.1 >= before.1 + 1.0, "job {job} is certified, but no prover says that it proved");
        // A second prover that started in a later window works at the same time; only the sum is known then.
        let own = (after.0 - before.0) / (after.1 - before.1);
        total.push(all);
        proving.push(own);
        overhead.push(all - own);
    }
    stop(cluster)?;
    let params = |timed: &str| {
        json!({
            "timed": timed,
            "program": "fibonacci",
            "n": N,
            "nodes": 4,
            "block_ms": 500,
            "proof": "72 queries, blow-up 2, 26 bits of work: about 96 bits by query counting, about 61 at the Johnson bound",
            "file_system": report::file_system(&plan.dir).unwrap_or_default(),
        })
    };
    Ok(vec![
        Entry::of_samples("job_total", "s", &total, params("acknowledged submission to certified receipt")),
        Entry::of_samples("job_proving", "s", &proving, params("the prover's turn to its checked proof")),
        Entry::of_samples("job_overhead", "s", &overhead, params("job_total minus job_proving, job by job")),
    ])
}

/// Submits the example to node 0; returns when it is acknowledged.
fn submit(cluster: &Cluster, n: u32) -> Result<(String, Instant)> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/fibonacci/fibonacci.json");
    let key = cluster.file().user_key.display().to_string();
    let args = format!(r#"{{"first": 1, "second": 1, "n": {n}}}"#);
    let prefix = format!("1,1,{n}");
    let answer = cluster
        .ask(0, &["job", "submit", program, "--args", &args, "--expect-output-prefix", &prefix, "--key", &key])?;
    ensure!(answer["status"] == "decided", "not acknowledged: {answer}");
    Ok((answer["job_id"].as_str().context("job_id")?.to_owned(), Instant::now()))
}

/// Waits until node 1, which did not take the job, can hand out its receipt.
async fn certified(cluster: &Cluster, job: &str) -> Result<()> {
    let mut node = Rpc::connect(&cluster.node(1)?.rpc).await?;
    let deadline = Instant::now() + JOB_LIMIT;
    loop {
        let view = node.call("job_status", json!([job])).await?;
        if view["receipt_ready"] == true {
            return Ok(());
        }
        ensure!(view["status"] == "running" || view["status"] == "completed", "job {job} ended as {view}");
        ensure!(Instant::now() < deadline, "job {job} has no receipt after {} s", JOB_LIMIT.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// Seconds of proving and proofs made, all nodes together.
fn proved(cluster: &Cluster) -> Result<(f64, f64)> {
    block_on(async {
        let mut sum = (0.0, 0.0);
        for node in &cluster.file().nodes {
            let text = Rpc::connect(&node.rpc).await?.get("/metrics").await?;
            sum.0 += metric(&text, "job_execution_duration_seconds_sum ")?;
            sum.1 += metric(&text, "job_execution_duration_seconds_count ")?;
        }
        Ok(sum)
    })
}
