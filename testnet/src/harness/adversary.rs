//! A cheating peer as a process: orders go in, events come out.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::process::die_with_parent;

/// Events that wait for their reader; with more, the adversary waits.
const EVENTS: usize = 1024;

/// A running adversary.
#[derive(Debug)]
pub struct Adversary {
    child: Child,
    orders: ChildStdin,
    events: Receiver<Value>,
    /// Events that came while another one was waited for.
    early: VecDeque<Value>,
}

impl Adversary {
    /// Starts the binary with a role and its settings; what it says on standard error is appended to `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(binary: &Path, arguments: &[&str], log: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        die_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let orders = child.stdin.take().context("standard input")?;
        let out = child.stdout.take().context("standard output")?;
        let (sender, events) = sync_channel(EVENTS);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders, events, early: VecDeque::new() })
    }

    /// Gives an order.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn order(&mut self, order: &impl Serialize) -> Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("giving an order to the adversary")
    }

    /// Waits for the next event that `wanted` takes; others are kept for later. Events named `failed` or `bad_order` that
    /// nobody wants are errors at once.
    ///
    /// # Errors
    /// When it does not come in time, something failed, or the process ends.
    pub fn event(&mut self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(at) = self.early.iter().position(&wanted) {
            return self.early.remove(at).context("an event");
        }
        let deadline = Instant::now() + limit;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(event) if event["event"] == "failed" || event["event"] == "bad_order" => {
                    bail!("waiting for {what}: the adversary says {event}")
                }
                Ok(event) => self.early.push_back(event),
                Err(RecvTimeoutError::Timeout) => bail!("{what}: not within {} s", limit.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("waiting for {what}: the adversary has ended"),
            }
        }
    }

    /// All events so far that `wanted` takes and nobody has waited for.
    pub fn so_far(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.early.extend(self.events.try_iter());
        self.early.iter().filter(|event| wanted(event)).cloned().collect()
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        // One that has ended already has been waited for, or is now.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
