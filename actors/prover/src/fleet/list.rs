//! Asking `proofmesh-gpu` which devices there are. Always in a child process with a time limit; whatever goes wrong there
//! is a sentence here. Knows nothing of OpenCL.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::driver::environment;
use crate::error::shorten;
use crate::worker::spawn;

/// Longest wait for the listing: the binary itself gives its drivers 30 s.
const LIST_LIMIT: Duration = Duration::from_secs(40);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What the dynamic loader says when a library is missing; the program itself never ran.
const NO_LIBRARY: &str = "error while loading shared libraries";

/// A device as `proofmesh-gpu devices --json` describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Position in the listing, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its platform's name.
    pub platform: String,
    /// Its platform's version.
    pub platform_version: String,
    /// `gpu`, `cpu` or `other`.
    pub kind: String,
    /// OpenCL version.
    pub version: String,
    /// Driver version.
    pub driver: String,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Tells it from another device that gets its number; empty where the listing does not say it.
    #[serde(default)]
    pub identity: String,
    /// Why it cannot be used; empty if it can.
    pub refusal: String,
}

impl Listed {
    /// What `proofmesh-gpu --device` is told so that it opens this device or none.
    pub(super) fn wanted(&self) -> String {
        if self.identity.is_empty() { self.index.to_string() } else { format!("{}@{}", self.index, self.identity) }
    }

    /// Whether a pin or an exclusion of the configuration means this device: its number, or a part of its name.
    pub fn is_meant_by(&self, pattern: &str) -> bool {
        let pattern = pattern.trim();
        match pattern.parse::<usize>() {
            Ok(index) => index == self.index,
            Err(_) => !pattern.is_empty() && self.name.to_lowercase().contains(&pattern.to_lowercase()),
        }
    }
}

/// A setting that names no device of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmatched {
    /// The setting: `prover.devices` or `prover.exclude`.
    pub field: String,
    /// What it says.
    pub value: String,
    /// What there is: number and name of each device.
    pub found: Vec<String>,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for Unmatched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, value, found, remedy } = self;
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        write!(f, "{field} names {value:?}, which no device of this machine is; there are: {found}. Remedy: {remedy}")
    }
}

/// Names in the settings that fit no device.
pub fn unmatched(devices: &[String], exclude: &[String], listing: &[Listed]) -> Vec<Unmatched> {
    let found: Vec<String> = listing.iter().map(|device| format!("{} {}", device.index, device.name)).collect();
    let settings = [
        (
            "prover.devices",
            devices,
            "plug the device in, or name one that is there by its number or a part of its name",
        ),
        ("prover.exclude", exclude, "name the device by its number or a part of its name, or take the entry out"),
    ];
    let mut all = Vec::new();
    for (field, values, remedy) in settings {
        for value in values.iter().filter(|value| !listing.iter().any(|device| device.is_meant_by(value))) {
            let (field, value, remedy) = (field.into(), value.clone(), remedy.into());
            all.push(Unmatched { field, value, found: found.clone(), remedy });
        }
    }
    all
}

#[derive(Deserialize)]
struct Listing {
    devices: Vec<Listed>,
}

/// Why `proofmesh-gpu` gave no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// The binary is not there.
    #[error("{path} is not there. Remedy: keep the binary beside the node's own, or name it by prover.gpu_binary")]
    NoBinary {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// What drivers write has no place.
    #[error("{path} is not writable: {detail}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The system could not start it.
    #[error("{path} cannot be started: {detail}")]
    Start {
        /// The binary.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The OpenCL loader, or another library, is missing.
    #[error("no OpenCL loader: {detail}. Remedy: install it (Debian: ocl-icd-libopencl1) and a driver")]
    NoLoader {
        /// What the dynamic loader said.
        detail: String,
    },
    /// It ended without an answer, in its own words.
    #[error("{detail}")]
    Refused {
        /// Its last line.
        detail: String,
    },
    /// It crashed.
    #[error("a driver crashed (signal {signal}). Remedy: update or remove it, or set prover.backend to cpu")]
    Crashed {
        /// The signal.
        signal: i32,
    },
    /// It took too long.
    #[error("no answer within {seconds} s: a driver hangs. Remedy: update or remove it, or set prover.backend to cpu")]
    TooSlow {
        /// The limit, in seconds.
        seconds: u64,
    },
    /// Its answer is not understood.
    #[error("its answer is not understood: {detail}. Remedy: use the binary of the same version as the node")]
    Odd {
        /// What was met.
        detail: String,
    },
}

/// All that a child writes to a pipe, as text, as far as it is read.
async fn drained(mut pipe: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is all that there is.
    let _ = (&mut pipe).take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `binary` with `arguments` and returns what it prints.
///
/// # Errors
/// [`AskError`].
pub(super) async fn ask<S: AsRef<OsStr>>(
    binary: &Path,
    arguments: &[S],
    environment: &[(OsString, OsString)],
    limit: Duration,
) -> Result<String, AskError> {
    if !binary.is_file() {
        return Err(AskError::NoBinary { path: binary.to_owned() });
    }
    let start = |error: &dyn std::fmt::Display| AskError::Start { path: binary.to_owned(), detail: error.to_string() };
    let mut command = Command::new(binary);
    command.args(arguments).env_clear().envs(environment.iter().cloned()).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = spawn(command).await.map_err(|e| start(&e))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(start(&"it has no pipes"));
    };
    let work = async {
        let (answer, words) = tokio::join!(drained(stdout), drained(stderr));
        (answer, words, child.wait().await)
    };
    let Ok((answer, words, status)) = timeout(limit, work).await else {
        return Err(AskError::TooSlow { seconds: limit.as_secs() });
    };
    let status = status.map_err(|e| start(&e))?;
    if status.success() {
        return Ok(answer);
    }
    let last = words.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let detail = shorten(last.strip_prefix("proofmesh-gpu: ").unwrap_or(last));
    if last.contains(NO_LIBRARY) {
        return Err(AskError::NoLoader { detail });
    }
    match status.signal() {
        Some(signal) => Err(AskError::Crashed { signal }),
        None if detail.is_empty() => {
            Err(AskError::Refused { detail: format!("{} ended with {status}", binary.display()) })
        }
        None => Err(AskError::Refused { detail }),
    }
}

/// All devices of this machine, as JSON; `variables` are the whole environment that drivers get.
///
/// # Errors
/// [`AskError`], in words that name the remedy.
pub async fn listing(binary: &Path, variables: &[(OsString, OsString)]) -> Result<String, AskError> {
    ask(binary, &["devices", "--json"], variables, LIST_LIMIT).await
}

/// All devices of this machine.
pub(super) async fn devices(binary: &Path, cache: &Path) -> Result<Vec<Listed>, AskError> {
    parse(&listing(binary, &environment(cache)).await?)
}

/// The devices of an answer of [`listing`].
///
/// # Errors
/// [`AskError::Odd`].
pub fn parse(answer: &str) -> Result<Vec<Listed>, AskError> {
    let listing: Listing = serde_json::from_str(answer).map_err(|e| AskError::Odd { detail: e.to_string() })?;
    Ok(listing.devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit_ms: u64) -> Result<String, AskError> {
        ask(Path::new("/bin/sh"), &["-c", script], &[], Duration::from_millis(limit_ms)).await
    }

    #[tokio::test]
    async fn every_way_to_get_no_answer_has_words() {
        assert_eq!(shell("echo fine", 60_000).await.unwrap(), "fine\n");
        let missing = ask(Path::new("/nonexistent/x"), &["devices"], &[], LIST_LIMIT).await.unwrap_err();
        assert!(missing.to_string().contains("prover.gpu_binary"), "{missing}");
        assert_eq!(shell("kill -SEGV $$", 60_000).await.unwrap_err(), AskError::Crashed { signal: 11 });
        assert!(matches!(shell("exec sleep 60", 100).await.unwrap_err(), AskError::TooSlow { .. }));
        let refused = shell("echo other >&2; echo proofmesh-gpu: no platform >&2; exit 1", 60_000).await.unwrap_err();
        assert_eq!(refused.to_string(), "no platform");
        let words = "sh: error while loading shared libraries: libOpenCL.so.1: cannot open shared object file";
        let loader = shell(&format!("echo '{words}' >&2; exit 127"), 60_000).await.unwrap_err();
        assert!(loader.to_string().contains("libOpenCL.so.1") && loader.to_string().contains("Remedy"), "{loader}");
    }

    #[test]
    fn settings_that_name_nothing_are_told_with_what_there_is() {
        let listing = [Listed { index: 0, name: "Big GPU".into(), ..Listed::default() }];
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(unmatched(&text(&["0", "gpu"]), &text(&["big"]), &listing), []);
        let problems = unmatched(&text(&["0", "small"]), &text(&["7"]), &listing);
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let [device, exclude] = shown.as_slice() else { panic!("{shown:?}") };
        assert!(device.contains("prover.devices") && device.contains("\"small\"") && device.contains("0 Big GPU"));
        assert!(exclude.contains("prover.exclude") && exclude.contains("\"7\"") && exclude.contains("Remedy"));
        assert!(unmatched(&text(&["x"]), &[], &[])[0].to_string().contains("there are: none"));
    }

    #[test]
    fn pins_are_numbers_or_parts_of_names() {
        let device = Listed { index: 1, name: "Big GPU 7".into(), ..Listed::default() };
        assert!(device.is_meant_by("1") && device.is_meant_by(" gpu ") && device.is_meant_by("Big"));
        assert!(!device.is_meant_by("7") && !device.is_meant_by("") && !device.is_meant_by("small"));
    }
}
