//! Measured speeds: one short proof of a built-in workload on a device and on the processor, in the same run of the same
//! process. Kept in a file, by device, driver and binary, with the time of the measurement; a device or driver that
//! changes is measured again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::driver::environment;
use super::list::{AskError, Listed, ask};

/// Longest measurement of one device, the compilation of its kernels and its self-test included.
const MEASURE_LIMIT: Duration = Duration::from_secs(300);
/// Entries kept; the oldest go first.
const ENTRIES_MAX: usize = 64;
/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Version of the file's form.
const VERSION: u32 = 1;

/// What was measured, in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Median time of the workload on the device, in milliseconds.
    pub device_ms: f64,
    /// Median time of the same on the processor, in milliseconds.
    pub cpu_ms: f64,
    /// The workload, in words.
    pub workload: String,
    /// When, in milliseconds since the epoch.
    #[serde(default)]
    pub measured_ms: u64,
}

impl Speed {
    /// Whether the device is worth it.
    pub fn is_faster(&self) -> bool {
        self.device_ms < self.cpu_ms
    }
}

/// The file of measured speeds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Table {
    version: u32,
    speeds: BTreeMap<String, Speed>,
}

impl Table {
    fn keep(&mut self, key: String, speed: Speed) {
        self.speeds.insert(key, speed);
        while self.speeds.len() > ENTRIES_MAX {
            let oldest = self.speeds.iter().min_by_key(|(_, speed)| speed.measured_ms).map(|(key, _)| key.clone());
            self.speeds.remove(&oldest.unwrap_or_default());
        }
    }
}

fn file(cache: &Path) -> PathBuf {
    cache.join("speed.json")
}

/// Identifies what a measurement holds for.
fn key(binary_hash: &str, device: &Listed, threads: usize) -> String {
    let parts = [
        binary_hash,
        &device.name,
        &device.platform,
        &device.platform_version,
        &device.version,
        &device.driver,
        &threads.to_string(),
    ];
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The table on disk; an empty one if there is none or it is damaged: then devices are measured again.
fn read(cache: &Path) -> Table {
    let path = file(cache);
    let empty = || Table { version: VERSION, speeds: BTreeMap::new() };
    match std::fs::metadata(&path) {
        Err(_) => return empty(),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            tracing::warn!(path = %path.display(), bytes = found.len(), "the measured speeds are no file of ours: measuring again");
            return empty();
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|e| e.to_string());
    match text.and_then(|text| serde_json::from_str::<Table>(&text).map_err(|e| e.to_string())) {
        Ok(table) if table.version == VERSION => table,
        Ok(_) => empty(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the measured speeds can't be read: measuring again");
            empty()
        }
    }
}

/// Writes beside the final name and renames: readers see the old table or the new one.
fn write(cache: &Path, table: &Table) -> io::Result<()> {
    let (path, fresh) = (file(cache), cache.join("speed.json.new"));
    std::fs::create_dir_all(cache)?;
    std::fs::write(&fresh, serde_json::to_string_pretty(table).map_err(io::Error::other)?)?;
    std::fs::rename(fresh, path)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Identifies the binary's content.
fn hash_of(binary: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut std::fs::File::open(binary)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The kept measurement of a device, if there is one for this driver and binary.
pub(super) async fn known(binary: &Path, cache: &Path, device: &Listed, threads: usize) -> Option<Speed> {
    let (binary, cache, device) = (binary.to_owned(), cache.to_owned(), device.clone());
    // Hashing the binary takes a while.
    let look = move || {
        let hash = hash_of(&binary).ok()?;
        read(&cache).speeds.get(&key(&hash, &device, threads)).cloned()
    };
    tokio::task::spawn_blocking(look).await.ok()?
}

/// Measures a device and the processor beside it, and keeps the result.
///
/// # Errors
/// [`AskError`]: the device fails its self-test, or its driver misbehaves.
pub(super) async fn measure(binary: &Path, cache: &Path, device: &Listed, threads: usize) -> Result<Speed, AskError> {
    let mut variables = environment(cache);
    variables.push(("RAYON_NUM_THREADS".into(), threads.to_string().into()));
    let answer = ask(binary, &["measure", "--device", &device.wanted()], &variables, MEASURE_LIMIT).await?;
    let odd = |detail: String| AskError::Odd { detail };
    let mut speed: Speed = serde_json::from_str(&answer).map_err(|e| odd(e.to_string()))?;
    if !(speed.device_ms > 0.0 && speed.cpu_ms > 0.0) {
        return Err(odd(format!("times of {} and {} ms", speed.device_ms, speed.cpu_ms)));
    }
    speed.measured_ms = now_ms();
    let (binary, cache, device, kept) = (binary.to_owned(), cache.to_owned(), device.clone(), speed.clone());
    let keep = move || -> io::Result<()> {
        let mut table = read(&cache);
        table.keep(key(&hash_of(&binary)?, &device, threads), kept);
        write(&cache, &table)
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(keep).await {
        tracing::warn!(%error, "the measured speed can't be kept: it will be measured at every start");
    }
    Ok(speed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(driver: &str) -> Listed {
        Listed { name: "d".into(), driver: driver.into(), ..Listed::default() }
    }

    /// A program that answers as `proofmesh-gpu measure` does.
    fn answering(folder: &Path, answer: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("gpu");
        std::fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn speeds_are_kept_by_driver_and_binary() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let binary = answering(folder.path(), r#"{"device_ms": 2.5, "cpu_ms": 5.0, "workload": "w"}"#);
        assert_eq!(known(&binary, &cache, &device("1"), 2).await, None);
        let speed = measure(&binary, &cache, &device("1"), 2).await.unwrap();
        assert!(speed.is_faster() && speed.measured_ms > 1_600_000_000_000);
        assert_eq!(known(&binary, &cache, &device("1"), 2).await, Some(speed));
        assert_eq!(known(&binary, &cache, &device("2"), 2).await, None, "another driver");
        assert_eq!(known(&binary, &cache, &device("1"), 4).await, None, "another number of threads");
        let binary = answering(folder.path(), r#"{"device_ms": 9.0, "cpu_ms": 5.0, "workload": "w"}"#);
        assert_eq!(known(&binary, &cache, &device("1"), 2).await, None, "another binary");
        assert!(!measure(&binary, &cache, &device("1"), 2).await.unwrap().is_faster());
        // A damaged file costs a measurement.
        std::fs::write(file(&cache), "{").unwrap();
        assert_eq!(known(&binary, &cache, &device("1"), 2).await, None);
        assert!(measure(&binary, &cache, &device("1"), 2).await.is_ok());
        assert!(known(&binary, &cache, &device("1"), 2).await.is_some());
        let binary = answering(folder.path(), r#"{"device_ms": 0.0, "cpu_ms": 5.0, "workload": "w"}"#);
        assert!(matches!(measure(&binary, &cache, &device("1"), 2).await, Err(AskError::Odd { .. })));
    }

    #[test]
    fn the_oldest_entries_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = Table { version: VERSION, speeds: BTreeMap::new() };
        for n in 0..70 {
            table.keep(n.to_string(), Speed { device_ms: 1.0, cpu_ms: 1.0, workload: String::new(), measured_ms: n });
        }
        assert!(table.speeds.len() == ENTRIES_MAX && !table.speeds.contains_key("5") && table.speeds.contains_key("6"));
        write(folder.path(), &table).unwrap();
        assert_eq!(read(folder.path()).speeds, table.speeds);
        write(folder.path(), &Table { version: VERSION + 1, speeds: BTreeMap::new() }).unwrap();
        assert!(read(folder.path()).speeds.is_empty(), "of another version");
    }
}
