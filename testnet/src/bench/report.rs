//! The figures: one record each, a file of all, a table for people.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::stats::Samples;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// What was measured.
    pub name: String,
    /// Unit of `p50`, `p99` and `value`.
    pub unit: String,
    /// Samples.
    pub n: usize,
    /// Median, when there are samples.
    pub p50: Option<f64>,
    /// 99th percentile, when there are samples.
    pub p99: Option<f64>,
    /// The figure: the median of samples, or the one number.
    pub value: f64,
    /// What was timed, and under which parameters.
    pub params: Value,
    /// Machine.
    pub hardware: String,
    /// Commit of the measured binary.
    pub commit: String,
}

impl Entry {
    /// A figure from samples.
    pub(super) fn of_samples(name: &str, unit: &str, samples: &Samples, params: Value) -> Self {
        let (p50, p99) = (Some(rounded(samples.p50())), Some(rounded(samples.p99())));
        Self { p50, p99, n: samples.len(), ..Self::of_value(name, unit, samples.p50(), params) }
    }

    /// A single number.
    pub(super) fn of_value(name: &str, unit: &str, value: f64, params: Value) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
            n: 1,
            p50: None,
            p99: None,
            value: rounded(value),
            params,
            hardware: String::new(),
            commit: String::new(),
        }
    }
}

/// Three digits behind the point are more than any of these figures is good for.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    hardware: String,
    commit: String,
    entries: Vec<Entry>,
}

impl Report {
    pub(super) fn new(commit: &str) -> Self {
        Self { hardware: hardware(), commit: commit.into(), entries: vec![] }
    }

    pub(super) fn add(&mut self, entry: Entry) -> &Entry {
        let entry = Entry { hardware: self.hardware.clone(), commit: self.commit.clone(), ..entry };
        self.entries.push(entry);
        let last = self.entries.len().saturating_sub(1);
        &self.entries[last]
    }

    /// Writes the figures as a JSON list; a file of an earlier run is replaced as a whole.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, serde_json::to_string_pretty(&self.entries)? + "\n")
            .and_then(|()| std::fs::rename(&aside, path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The figures as a table.
    pub fn table(&self) -> String {
        let mut out = format!("commit {}, {}\n", self.commit, self.hardware);
        let head = ["name", "unit", "n", "p50", "p99", "value"].map(str::to_owned);
        let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| v.to_string());
        let rows = self.entries.iter().map(|e| {
            [e.name.clone(), e.unit.clone(), e.n.to_string(), shown(e.p50), shown(e.p99), shown(Some(e.value))]
        });
        let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
                // Writing to a String does not fail.
                write!(out, "{cell:width$}  ").ok();
            }
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
        }
        out
    }
}

/// CPU, cores, memory and kernel of this machine.
fn hardware() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model = field(&cpu, "model name");
    let family = format!("family {} model {}", field(&cpu, "cpu family"), field(&cpu, "model\t"));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let kib: u64 = field(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model} ({family}), {cores} cores, {} GiB, Linux {}", kib >> 20, kernel.trim())
}

/// Kind of the file system that a folder lies on, by the mount table.
pub(super) fn file_system(dir: &Path) -> Result<String> {
    let dir = dir.canonicalize().with_context(|| format!("locating {}", dir.display()))?;
    let table = std::fs::read_to_string("/proc/self/mounts").context("reading the mount table")?;
    let mounts = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    // Of mounts on the same place the last one is seen.
    let over = mounts.filter(|(place, _)| dir.starts_with(place)).max_by_key(|(place, _)| place.len());
    Ok(over.map(|(_, kind)| kind.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_a_list_with_all_fields_and_a_table() {
        let mut report = Report::new("abc");
        let samples: Samples = [1.0, 2.0, 3.0].into_iter().collect();
        report.add(Entry::of_samples("a", "ms", &samples, json!({ "k": 1 })));
        report.add(Entry::of_value("longer", "1/s", 1234.5678, json!({})));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench/latest.json");
        report.write(&path).unwrap();
        let read: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let keys: Vec<&str> = read[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "unit", "n", "p50", "p99", "value", "params", "hardware", "commit"]);
        assert_eq!(
            (&read[0]["p50"], &read[1]["p50"], &read[1]["value"]),
            (&json!(2.0), &Value::Null, &json!(1234.568))
        );
        assert!(report.table().contains("longer  1/s   1"), "{}", report.table());
    }

    #[test]
    fn memory_is_told_from_disk() {
        assert_eq!(file_system(Path::new("/proc/self")).unwrap(), "proc");
        assert!(file_system(Path::new("/no such folder")).is_err());
    }
}
