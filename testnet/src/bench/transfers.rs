//! Transfers a second, decided and applied on all four nodes, from 100 senders.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::load::{Load, Outcome};
use super::{Entry, Plan, block_on, cluster, report, stop};

/// Senders.
const SENDERS: usize = 100;
/// Least time between blocks, ms. A block holds at most 256 KiB, about 1,240 transfers.
const BLOCK_MS: u64 = 300;
/// Transfers signed per sender for each second: all senders together could fill the blocks half as much again.
const PER_SECOND: u64 = 60;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let time = Duration::from_secs(if plan.quick { 20 } else { 60 });
    let cluster = cluster(plan, BLOCK_MS, 10_000)?;
    let (outcome, tx_bytes) = block_on(async {
        let load = Load::prepare(&cluster, SENDERS, PER_SECOND * time.as_secs()).await?;
        Ok((load.run(&cluster, time, None).await?, load.tx_bytes))
    })?;
    stop(cluster)?;
    let Outcome { applied, blocks, latency, refused, memory } = outcome;
    let params = json!({
        "timed": "transfers in blocks that all four nodes have applied within the time; load from the same machine",
        "nodes": 4,
        "senders": SENDERS,
        "seconds": time.as_secs(),
        "tx_bytes": tx_bytes,
        "block_ms": BLOCK_MS,
        "applied": applied,
        "blocks": blocks,
        "refused_then_resent": refused,
        "file_system": report::file_system(&plan.dir)?,
        "resident_mib_at_most": memory.iter().flatten().map(|m| m.resident >> 20).max(),
    });
    let rate = applied as f64 / time.as_secs_f64();
    Ok(vec![
        Entry {
            n: usize::try_from(applied)?,
            ..Entry::of_value("transfers_applied_on_all", "1/s", rate, params.clone())
        },
        Entry::of_samples("transfer_latency_under_load", "ms", &latency, params),
    ])
}
