//! Resident memory of a node: idle without a worker, and over time under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::load::Load;
use super::rpc::{Rpc, metric};
use super::stats::Samples;
use super::{Entry, Plan, block_on, cluster, memory_of, stop};
use crate::harness::Cluster;

/// Senders of the load over time.
const SENDERS: usize = 20;
/// Their transfers a second, all together.
const RATE: u64 = 100;

pub(super) fn idle(plan: &Plan) -> Result<Vec<Entry>> {
    let seconds = if plan.quick { 10 } else { 60 };
    let cluster = cluster(plan, 500, 2_000)?;
    let pids: Vec<u32> = cluster.file().nodes.iter().filter_map(|n| n.pid).collect();
    let mut samples = Samples::default();
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        for pid in &pids {
            samples.push(mib(memory_of(*pid)?.resident));
        }
    }
    stop(cluster)?;
    let params = json!({
        "timed": "resident memory of each of four nodes, validator and prover without a running worker, every second",
        "seconds": seconds,
        "most": samples.quantile(1000),
    });
    Ok(vec![Entry::of_samples("idle_node_memory", "MiB", &samples, params)])
}

pub(super) fn soak(plan: &Plan) -> Result<Vec<Entry>> {
    let seconds = plan.soak_s.unwrap_or(if plan.quick { 20 } else { 3_600 });
    let cluster = cluster(plan, 500, 10_000)?;
    let time = Duration::from_secs(seconds);
    let (outcome, store) = block_on(async {
        let load = Load::prepare(&cluster, SENDERS, seconds * RATE * 3 / 2 / SENDERS as u64 + 100).await?;
        tokio::try_join!(load.run(&cluster, time, Some(RATE)), watch_store(&cluster, time))
    })?;
    stop(cluster)?;
    let mut growth = Samples::default();
    let (mut resident, mut anonymous, mut database) = (vec![], vec![], vec![]);
    for (memory, store) in outcome.memory.iter().zip(&store) {
        resident.push(by_quarter(memory.iter().map(|m| m.resident))?);
        let (own, store) = (by_quarter(memory.iter().map(|m| m.anonymous))?, by_quarter(store.iter().copied())?);
        // The database's cache and memory tables are bounded and fill over hours; what grows beside them would be a leak.
        growth.push((own[3] - store[3]) - (own[1] - store[1]));
        anonymous.push(own);
        database.push(store);
    }
    let params = json!({
        "timed": "growth of anonymous resident memory less the database's cache and memory tables, from the second to the \
                  last quarter of the time, each of four nodes",
        "seconds": seconds,
        "transfers_per_s": RATE,
        "applied": outcome.applied,
        "resident_mib_by_node_and_quarter": resident,
        "of_these_anonymous": anonymous,
        "of_these_cache_and_tables": database,
    });
    Ok(vec![Entry::of_samples("memory_growth_under_load", "MiB", &growth, params)])
}

/// Bytes of the database's cache and memory tables on each node, forty times in `time`.
async fn watch_store(cluster: &Cluster, time: Duration) -> Result<Vec<Vec<u64>>> {
    let (start, nodes) = (Instant::now(), &cluster.file().nodes);
    let mut samples = vec![vec![]; nodes.len()];
    while start.elapsed() < time {
        for (node, samples) in nodes.iter().zip(&mut samples) {
            let text = Rpc::connect(&node.rpc).await?.get("/metrics").await?;
            let part = |part: &str| metric(&text, &format!("proofmesh_store_bytes{{part=\"{part}\"}} "));
            samples.push((part("cache")? + part("memory_tables")?) as u64);
        }
        tokio::time::sleep(time / 40).await;
    }
    Ok(samples)
}

/// Means over the four quarters of the samples, MiB.
fn by_quarter(samples: impl ExactSizeIterator<Item = u64> + Clone) -> Result<[f64; 4]> {
    let (mut means, n) = ([0.0; 4], samples.len());
    for (quarter, mean) in means.iter_mut().enumerate() {
        let (from, to) = (n * quarter / 4, n * (quarter + 1) / 4);
        ensure!(from < to, "too few samples of memory: {n}");
        *mean = mib(samples.clone().skip(from).take(to - from).sum::<u64>() / (to - from) as u64);
    }
    Ok(means)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
