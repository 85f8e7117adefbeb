//! Joins metric texts of two dialects into one valid Prometheus text (format 0.0.4).
//!
//! libp2p's library writes OpenMetrics: counters are declared without the `_total` that their samples carry, there are
//! `# UNIT` and `# EOF` lines, types that the older format does not know, and exemplars behind samples. A scraper that
//! reads the older format takes such a counter for an untyped metric, or refuses the text. The same family may come from
//! two texts; it is declared once, and a sample that was there already is left out.

use std::collections::{BTreeMap, BTreeSet};

/// A metric family.
#[derive(Default)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    samples: Vec<String>,
}

/// One text out of several; families in order of their names.
pub(super) fn merge(texts: &[&str]) -> String {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for text in texts {
        let kinds = declared_kinds(text);
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(comment) = line.strip_prefix('#') {
                declare(&mut families, comment.trim_start(), &kinds);
            } else if !line.is_empty() {
                let line = strip_exemplar(line);
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                // The series is everything but the value.
                let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
                if seen.insert(series.to_string()) {
                    families.entry(family_of(name, &kinds)).or_default().samples.push(line.to_string());
                }
            }
        }
    }
    let mut out = String::new();
    for (name, family) in families.iter().filter(|(_, family)| !family.samples.is_empty()) {
        if let Some(help) = &family.help {
            out.push_str(&format!("# HELP {name} {help}\n"));
        }
        out.push_str(&format!("# TYPE {name} {}\n", family.kind.as_deref().unwrap_or("untyped")));
        for sample in &family.samples {
            out.push_str(sample);
            out.push('\n');
        }
    }
    out
}

/// Family name as declared, with its type.
fn declared_kinds(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.trim().split_once(' '))
        .map(|(name, kind)| (name, kind.trim()))
        .collect()
}

/// The name under which a declared family is written: a counter's has the ending of its samples.
fn written_name(name: &str, kinds: &BTreeMap<&str, &str>) -> String {
    match kinds.get(name) {
        Some(&"counter") if !name.ends_with("_total") => format!("{name}_total"),
        Some(&"info") if !name.ends_with("_info") => format!("{name}_info"),
        _ => name.to_string(),
    }
}

fn declare(families: &mut BTreeMap<String, Family>, comment: &str, kinds: &BTreeMap<&str, &str>) {
    let mut words = comment.splitn(3, ' ');
    let (Some(word), Some(name)) = (words.next(), words.next()) else { return };
    let rest = words.next().unwrap_or_default().trim();
    match word {
        "HELP" => {
            let family = families.entry(written_name(name, kinds)).or_default();
            family.help.get_or_insert_with(|| rest.to_string());
        }
        "TYPE" => {
            let family = families.entry(written_name(name, kinds)).or_default();
            let kind = match rest {
                "counter" | "gauge" | "histogram" | "summary" => rest,
                "info" | "stateset" => "gauge",
                "gaugehistogram" => "histogram",
                _ => "untyped",
            };
            family.kind.get_or_insert_with(|| kind.to_string());
        }
        // UNIT, EOF and free comments have no place in the older format.
        _ => {}
    }
}

/// The family that a sample belongs to.
fn family_of(sample: &str, kinds: &BTreeMap<&str, &str>) -> String {
    if kinds.contains_key(sample) {
        return written_name(sample, kinds);
    }
    for ending in ["_total", "_created", "_bucket", "_count", "_sum", "_info"] {
        if let Some(base) = sample.strip_suffix(ending)
            && let Some(kind) = kinds.get(base)
        {
            return match (ending, *kind) {
                // Creation times are a family of their own in the older format.
                ("_created", _) => sample.to_string(),
                ("_bucket" | "_count" | "_sum", _) => base.to_string(),
                _ => written_name(base, kinds),
            };
        }
    }
    sample.to_string()
}

/// A sample without the exemplar behind it; a `#` inside a label's value stays.
fn strip_exemplar(line: &str) -> &str {
    let from = line.rfind('}').map_or(0, |end| end);
    let Some(mark) = line.find(" # {") else { return line };
    // With an exemplar the last brace is the exemplar's own; the mark must lie outside quotes then.
    let outside = line[..mark].matches('"').count().is_multiple_of(2);
    if outside && from > mark { line[..mark].trim_end() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBP2P: &str = "# HELP libp2p_bandwidth_bytes Bandwidth by direction.\n\
        # TYPE libp2p_bandwidth_bytes counter\n\
        # UNIT libp2p_bandwidth_bytes bytes\n\
        libp2p_bandwidth_bytes_total{direction=\"in\"} 5 # {trace=\"x\"} 1.0\n\
        # HELP libp2p_ping_rtt_seconds Round trips.\n\
        # TYPE libp2p_ping_rtt_seconds histogram\n\
        libp2p_ping_rtt_seconds_sum 0.5\n\
        libp2p_ping_rtt_seconds_count 1\n\
        libp2p_ping_rtt_seconds_bucket{le=\"+Inf\"} 1\n\
        # TYPE libp2p_identify info\n\
        libp2p_identify_info{agent=\"a # {b}\"} 1\n\
        # TYPE odd unknown\n\
        odd 3\n\
        # EOF\n";

    #[test]
    fn both_dialects_become_one() {
        let own = "# HELP block_height Height.\n# TYPE block_height gauge\nblock_height 7\n\
            # HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{status=\"failed\"} 2\n\
            # TYPE unused gauge\n";
        let merged = merge(&[LIBP2P, own, own]);
        let expected = "# HELP block_height Height.\n# TYPE block_height gauge\nblock_height 7\n\
            # HELP jobs_total Jobs.\n# TYPE jobs_total counter\njobs_total{status=\"failed\"} 2\n\
            # HELP libp2p_bandwidth_bytes_total Bandwidth by direction.\n# TYPE libp2p_bandwidth_bytes_total counter\n\
            libp2p_bandwidth_bytes_total{direction=\"in\"} 5\n\
            # TYPE libp2p_identify_info gauge\nlibp2p_identify_info{agent=\"a # {b}\"} 1\n\
            # HELP libp2p_ping_rtt_seconds Round trips.\n# TYPE libp2p_ping_rtt_seconds histogram\n\
            libp2p_ping_rtt_seconds_sum 0.5\nlibp2p_ping_rtt_seconds_count 1\n\
            libp2p_ping_rtt_seconds_bucket{le=\"+Inf\"} 1\n\
            # TYPE odd untyped\nodd 3\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn every_family_is_declared_once_and_before_its_samples() {
        let merged = merge(&[LIBP2P, LIBP2P]);
        let mut declared = BTreeSet::new();
        for line in merged.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().unwrap().to_string()), "{line} twice");
            }
        }
        assert!(!merged.contains("EOF") && !merged.contains("UNIT"));
        assert_eq!(merge(&[&merged]), merged, "a valid text stays as it is");
    }
}
