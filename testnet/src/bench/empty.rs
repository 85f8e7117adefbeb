//! Time to decide and apply an empty block, four validators, no pause between heights.
//!
//! Timed on each node from "block applied" to "block applied" in its own log: with a pace of zero the next height starts
//! when the block is applied, so this is proposal, two rounds of votes, every flush of log and guard, and the synced batch.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stats::Samples;
use super::{Entry, Plan, cluster, report, stop};

/// Heights before the first one that is timed: connections and meshes form, caches fill.
const WARM: u64 = 40;

pub(super) fn measure(plan: &Plan) -> Result<Vec<Entry>> {
    let heights: u64 = if plan.quick { 300 } else { 1000 };
    let mut cluster = cluster(plan, 0, 0)?;
    let last = WARM + heights;
    cluster.wait_height(0, last + 1, Duration::from_secs(300))?;
    let logs: Vec<_> = (0..4).map(|index| cluster.log(index)).collect();
    stop(cluster)?;
    let mut samples = Samples::default();
    for log in &logs {
        let times = applied(log)?;
        let known = |height: u64| times.iter().find(|(h, _)| *h == height).map(|(_, at)| *at);
        for height in WARM..last {
            let (Some(from), Some(to)) = (known(height), known(height + 1)) else { continue };
            samples.push(Duration::from_micros(to.saturating_sub(from)).as_secs_f64() * 1000.0);
        }
    }
    ensure!(samples.len() >= 300, "only {} heights are in the logs", samples.len());
    let params = json!({
        "timed": "applied block to applied block on each node: proposal, votes, flushes of log and guard, synced batch",
        "nodes": 4,
        "block_ms": 0,
        "heights": heights,
        "file_system": report::file_system(&plan.dir)?,
        "max_ms": samples.quantile(1000),
    });
    Ok(vec![Entry::of_samples("empty_block_decided", "ms", &samples, params)])
}

/// Heights and the microsecond of the day at which a node's log says they were applied.
pub(super) fn applied(log: &Path) -> Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let lines = text.lines().filter(|line| line.contains("block applied"));
    let read = |line: &str| -> Option<(u64, u64)> {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            // The log for people: time, level, place, message, fields.
            let height = line.split_once(" height=")?.1.split(' ').next()?;
            return Some((height.parse().ok()?, micros(line.split(' ').next()?)?));
        };
        Some((record["height"].as_str()?.parse().ok()?, micros(record["timestamp"].as_str()?)?))
    };
    lines.map(|line| read(line).with_context(|| format!("a log line that is not understood: {line}"))).collect()
}

/// Microseconds of a time of RFC 3339 in UTC, counted from the first day of its month.
fn micros(time: &str) -> Option<u64> {
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    let (whole, part) = clock.split_once('.')?;
    let mut total: u64 = date.rsplit('-').next()?.parse().ok()?;
    for (digits, base) in whole.split(':').zip([24u64, 60, 60]) {
        total = total * base + digits.parse::<u64>().ok()?;
    }
    let part = format!("{part:0<6}");
    Some(total * 1_000_000 + part.get(..6)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_log_are_read() {
        let (a, b) = (micros("2026-11-20T09:59:59.999000Z").unwrap(), micros("2026-11-20T10:00:00.001500Z").unwrap());
        assert_eq!(b - a, 2_500);
        assert_eq!(
            micros("2026-11-21T00:00:00.5Z").unwrap() - micros("2026-11-20T23:59:59.500000Z").unwrap(),
            1_000_000
        );
        assert_eq!(micros("yesterday"), None);
    }

    #[test]
    fn both_forms_of_the_log_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let lines = [
            r#"{"timestamp":"2026-11-20T00:00:01.000000Z","level":"INFO","message":"block applied","height":"7","txs":0}"#,
            "2026-11-20T00:00:02.000000Z  INFO engine::safety::consensus: block applied height=8 block=ab txs=0 ms=3",
            "2026-11-20T00:00:03.000000Z  INFO engine::net: network started",
        ];
        std::fs::write(&log, lines.join("\n")).unwrap();
        let read = applied(&log).unwrap();
        assert_eq!((read[0].0, read[1].0, read.len(), read[1].1 - read[0].1), (7, 8, 2, 1_000_000));
        std::fs::write(&log, "block applied, but when?").unwrap();
        assert!(applied(&log).is_err());
    }
}
