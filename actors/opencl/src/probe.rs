//! Listing devices in a child process: a broken driver may crash or hang while it is asked. Owns the child's time limit
//! and what its failure means in words; the child is this binary with the hidden command `probe`.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::device::Listing;
use crate::error::{Error, Result};

/// The hidden command of the binary that prints a [`Listing`] as JSON.
pub const COMMAND: &str = "probe";
/// Longest time that drivers may take to list their devices.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Longest listing that is read, in bytes.
const LISTING_BYTES_MAX: u64 = 1 << 20;

/// Lists the devices through a child process of `binary`.
///
/// # Errors
/// [`Error::Probe`] or [`Error::NoDevice`] with what the child said or how it ended.
pub fn probe(binary: &std::path::Path) -> Result<Listing> {
    probe_with(Command::new(binary).arg(COMMAND), TIME_LIMIT)
}

fn ended(status: ExitStatus, message: &str) -> Error {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let reason = format!("a driver crashed while it was asked for its devices (signal {signal})");
        return Error::NoDevice(format!("{reason}. Remedy: remove or update it, or leave it out with OCL_ICD_VENDORS"));
    }
    let message = message.lines().last().unwrap_or_default().trim();
    // What the child says is a whole sentence already, behind its name.
    let message = message.strip_prefix("proofmesh-gpu: ").unwrap_or(message);
    Error::Probe(if message.is_empty() { format!("the probe ended with {status}") } else { message.to_owned() })
}

fn probe_with(command: &mut Command, limit: Duration) -> Result<Listing> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Error::NoDevice(format!("the probe cannot {what}: {error}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed("start", &error))?;
    // Both pipes are drained by threads, so that a talkative driver cannot block the child.
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(pipe) = pipe {
                // What is not text is lost, and the listing then is not JSON: an error below.
                let _ = pipe.take(LISTING_BYTES_MAX).read_to_string(&mut text);
            }
            text
        })
    };
    let output = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let messages = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                // It may have ended by itself meanwhile; then there is nothing left to stop.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::NoDevice(format!("a driver did not list its devices within {} s", limit.as_secs())));
            }
            Err(error) => return Err(failed("be waited for", &error)),
        }
    };
    let (output, messages) = (output.join().unwrap_or_default(), messages.join().unwrap_or_default());
    if !status.success() {
        return Err(ended(status, &messages));
    }
    serde_json::from_str(&output).map_err(|error| failed("be understood", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit_ms: u64) -> Result<Listing> {
        probe_with(Command::new("sh").args(["-c", script]), Duration::from_millis(limit_ms))
    }

    #[test]
    fn a_crash_a_hang_and_a_refusal_are_told_apart() {
        let error = shell("kill -SEGV $$", 60_000).expect_err("crash").to_string();
        assert!(error.contains("crashed") && error.contains("signal 11"), "{error}");
        let error = shell("sleep 60", 200).expect_err("hang").to_string();
        assert!(error.contains("did not list its devices"), "{error}");
        let error = shell("echo no loader here >&2; exit 1", 60_000).expect_err("refusal").to_string();
        assert!(error.contains("no loader here"), "{error}");
        let error = shell("echo nonsense", 60_000).expect_err("nonsense").to_string();
        assert!(error.contains("be understood"), "{error}");
        let listing = shell("echo '{\"devices\": []}'", 60_000).expect("a listing");
        assert!(listing.devices.is_empty());
        assert!(probe(std::path::Path::new("/nonexistent")).is_err());
    }
}
