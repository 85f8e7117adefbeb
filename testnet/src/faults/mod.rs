//! What the binary `proofmesh-chaos` adds to the node it runs: death at a named point, a stop there until it is killed together
//! with others, and a note of every signed message before it leaves. Everything is asked for by environment variables; without them it is the shipped node.
//!
//! Owns the variables' names and the format of the notes; [`signed`] reads them back. Relies on the engine's crossings.

pub mod signed;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use consensus::GuardRecord;
use engine::{Crossing, Crossings};
use network::GossipMessage;
use types::Wire;
use types::gossip::ConsensusMessage;

/// Names the file that says where to die; it is read again at every point, so a running node can be told.
pub const ORDERS: &str = "CHAOS_ORDERS";
/// Names the file to which signed messages are noted.
pub const NOTES: &str = "CHAOS_NOTES";
/// Milliseconds by which the wall clock is wrong.
pub const CLOCK_MS: &str = "CHAOS_CLOCK_MS";

/// Time between two looks of a node that stands at a point.
const LOOK: Duration = Duration::from_millis(2);

/// How a node ends at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, so long after passing the point; 0 is at the point itself.
    Die {
        /// Microseconds.
        delay_us: u64,
    },
    /// It goes no step further and shows the file [`held`], until it is killed. When its orders are taken back it goes on.
    Hold,
}

/// When and where a node is to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Name of the point, one of [`Crossing::NAMES`].
    pub point: String,
    /// At which passing of it, from 1, counted from when the order came.
    pub passing: u32,
    /// How.
    pub end: End,
}

/// The file that is there while a node with these orders stands at its point.
pub fn held(orders: &Path) -> PathBuf {
    orders.with_extension("held")
}

impl Order {
    /// Reads `point passing delay_us` or `point passing hold`.
    ///
    /// # Errors
    /// When it is not of that form or the point is unknown.
    pub fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [point, passing, end] = words.as_slice() else {
            bail!("order '{text}': it must be: point passing delay_us, or: point passing hold");
        };
        ensure!(Crossing::NAMES.contains(point), "order '{text}': points are {}", Crossing::NAMES.join(", "));
        let end = if *end == "hold" { End::Hold } else { End::Die { delay_us: end.parse()? } };
        Ok(Self { point: (*point).to_owned(), passing: passing.parse()?, end })
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.end {
            End::Die { delay_us } => write!(f, "{} {} {delay_us}", self.point, self.passing),
            End::Hold => write!(f, "{} {} hold", self.point, self.passing),
        }
    }
}

/// The orders of the moment, with how often the point was passed since they came.
#[derive(Debug, Default)]
struct Orders {
    text: String,
    order: Option<Order>,
    passed: u32,
}

impl Orders {
    /// Takes in what the file says now, and counts a passing of `point`; the end, if it is to be at this one.
    fn pass(&mut self, text: &str, point: &str) -> Option<End> {
        if text != self.text {
            *self = Self { text: text.to_owned(), order: Order::parse(text).ok(), passed: 0 };
        }
        let order = self.order.as_ref().filter(|order| order.point == point)?;
        self.passed = self.passed.saturating_add(1);
        (self.passed == order.passing).then_some(order.end)
    }
}

/// Ends this process as a power cut would.
fn die() {
    // The signal can't be handled or refused, so there is no error to look at.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
}

/// The observer that the environment asks for.
///
/// # Errors
/// When the file for notes can't be opened.
pub fn from_environment() -> Result<Crossings> {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (orders_file, notes_file) = (path(ORDERS), path(NOTES));
    let notes = notes_file.as_deref().map(open_notes).transpose()?.map(Mutex::new);
    let orders = Mutex::new(Orders::default());
    Ok(Crossings::observed_by(move |crossing| {
        if let (Some(notes), Crossing::Publishing(message)) = (&notes, crossing) {
            note(notes, message);
        }
        let Some(file) = orders_file.as_deref() else { return };
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let end = orders.lock().unwrap_or_else(PoisonError::into_inner).pass(&text, crossing.name());
        match end {
            None => {}
            Some(End::Die { delay_us: 0 }) => die(),
            // The point is passed on; death comes somewhere in what follows it.
            Some(End::Die { delay_us }) => drop(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_micros(delay_us));
                die();
            })),
            Some(End::Hold) => {
                stand(file, &text);
                // The same orders may come again, and are new ones then.
                *orders.lock().unwrap_or_else(PoisonError::into_inner) = Orders::default();
            }
        }
    }))
}

/// Stands still for as long as the orders say so.
fn stand(orders: &Path, text: &str) {
    let mark = held(orders);
    if std::fs::write(&mark, text).is_err() {
        die();
    }
    while std::fs::read_to_string(orders).is_ok_and(|now| now == text) {
        std::thread::sleep(LOOK);
    }
    // Whoever took the orders back may have taken the mark away as well.
    std::fs::remove_file(&mark).ok();
}

fn open_notes(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}

/// Notes what is signed in a message. A message that could not be noted must not leave: the node dies instead.
fn note(notes: &Mutex<File>, message: &GossipMessage) {
    let records: Vec<GuardRecord> = match message {
        GossipMessage::Consensus(message) => match message.as_ref() {
            ConsensusMessage::Vote { vote, .. } => vec![GuardRecord::Vote(vote.clone())],
            ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } => {
                votes.iter().cloned().map(GuardRecord::Vote).collect()
            }
        },
        GossipMessage::Proposal(message) => vec![GuardRecord::Proposal(message.proposal.clone())],
        GossipMessage::Verdict(vote) => vec![GuardRecord::Verdict(vote.as_ref().clone())],
        GossipMessage::Tx(_) => return,
    };
    let lines: String = records.iter().map(|record| format!("{}\n", hex::encode(record.to_bytes()))).collect();
    let written = notes.lock().unwrap_or_else(PoisonError::into_inner).write_all(lines.as_bytes());
    if written.is_err() {
        die();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_counted_from_when_they_came() {
        let order = Order::parse("decided 2 0").unwrap();
        assert_eq!(Order::parse(&order.to_string()).unwrap(), order);
        for bad in ["", "decided", "decided 2", "nowhere 1 0", "decided x 0", "decided 1 0 0"] {
            assert!(Order::parse(bad).is_err(), "{bad}");
        }
        let mut orders = Orders::default();
        assert_eq!(orders.pass("", "decided"), None);
        assert_eq!(orders.pass("decided 2 0", "voting"), None);
        assert_eq!(orders.pass("decided 2 0", "decided"), None);
        assert_eq!(orders.pass("decided 2 0", "decided"), Some(End::Die { delay_us: 0 }));
        assert_eq!(orders.pass("decided 2 0", "decided"), None);
        // Another order starts its own count.
        assert_eq!(orders.pass("decided 1 70", "decided"), Some(End::Die { delay_us: 70 }));
        assert_eq!(orders.pass("decided 1 hold", "decided"), Some(End::Hold));
        let hold = Order::parse("voting 3 hold").unwrap();
        assert_eq!(Order::parse(&hold.to_string()).unwrap(), hold);
    }

    #[test]
    fn a_node_stands_at_its_point_until_its_orders_are_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let orders = folder.path().join("node0.orders");
        std::fs::write(&orders, "decided 1 hold").unwrap();
        let standing = std::thread::spawn({
            let orders = orders.clone();
            move || stand(&orders, "decided 1 hold")
        });
        while !held(&orders).exists() {
            assert!(!standing.is_finished());
            std::thread::sleep(LOOK);
        }
        std::fs::remove_file(&orders).unwrap();
        standing.join().unwrap();
        assert!(!held(&orders).exists());
    }
}
