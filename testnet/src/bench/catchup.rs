//! How fast a node that joins late takes in the chain.
//!
//! The network makes a chain of blocks, some full of transfers, then two of four validators stop, so that it stands still.
//! A node with an empty home joins; timed on its own log from its first applied block to the last. Every block's certificate
//! is verified, every transaction executed, every batch flushed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::load::Load;
use super::{Entry, Plan, block_on, cluster, empty, report, stop};

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let (blocks, seconds) = if plan.quick { (1_000, 2) } else { (3_000, 5) };
    let mut cluster = cluster(plan, 0, 0)?;
    let port = cluster.node(3)?.rpc.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).context("a port")? + 9;
    let outcome = block_on(async {
        let load = Load::prepare(&cluster, 40, seconds * 200).await?;
        load.run(&cluster, Duration::from_secs(seconds), None).await
    })?;
    cluster.wait_height(0, blocks, Duration::from_secs(300))?;
    cluster.stop(2)?;
    cluster.stop(3)?;
    // Blocks on their way settle.
    std::thread::sleep(Duration::from_secs(1));
    let height = cluster.height(0).context("the height of the chain")?;
    let follower = cluster.add_follower(0, port)?;
    cluster.start(follower)?;
    cluster.wait_height(follower, height, Duration::from_secs(300))?;
    let times = empty::applied(&cluster.log(follower))?;
    stop(cluster)?;
    let (Some((low, from)), Some((high, to))) = (times.first(), times.last()) else {
        anyhow::bail!("the late node's log has no applied block");
    };
    ensure!(*low == 1 && *high >= height, "the late node applied blocks {low} to {high} of {height}");
    let time = Duration::from_micros(to.saturating_sub(*from)).as_secs_f64();
    let params = json!({
        "timed": "first to last applied block on a node that joins with an empty home; sources: two nodes",
        "blocks": high,
        "transfers": outcome.applied,
        "seconds": time,
        "file_system": report::file_system(&plan.dir)?,
    });
    let n = usize::try_from(*high)?;
    Ok(vec![Entry { n, ..Entry::of_value("catch_up", "blocks/s", (high - low) as f64 / time, params) }])
}
