//! Resident memory of a node: idle without a worker, and over time under load.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::load::Load;
use super::stats::Samples;
use super::{Entry, Plan, block_on, cluster, resident_bytes, stop};

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
            samples.push(mib(resident_bytes(*pid)?));
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
    let outcome = block_on(async {
        let load = Load::prepare(&cluster, SENDERS, seconds * RATE * 3 / 2 / SENDERS as u64 + 100).await?;
        load.run(&cluster, Duration::from_secs(seconds), Some(RATE)).await
    })?;
    stop(cluster)?;
    let mut growth = Samples::default();
    let mut quarters = vec![];
    for memory in &outcome.memory {
        let part = |from: usize, to: usize| -> Result<f64> {
            let n = memory.len();
            let part = memory.get(n * from / 4..n * to / 4).context("samples of memory")?;
            ensure!(!part.is_empty(), "too few samples of memory: {n}");
            Ok(mib(part.iter().sum::<u64>() / part.len() as u64))
        };
        // Caches and memory tables fill in the first half; what comes after that would be a leak.
        let (second, last) = (part(1, 2)?, part(3, 4)?);
        growth.push(last - second);
        quarters.push(json!([part(0, 1)?, second, part(2, 3)?, last]));
    }
    let params = json!({
        "timed": "growth of resident memory from the second to the last quarter of the time, each of four nodes",
        "seconds": seconds,
        "transfers_per_s": RATE,
        "applied": outcome.applied,
        "mib_by_quarter_and_node": quarters,
    });
    Ok(vec![Entry::of_samples("memory_growth_under_load", "MiB", &growth, params)])
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
