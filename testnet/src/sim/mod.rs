//! Deterministic simulation of a network in memory: 4 to 7 nodes, each made of the node's own parts.
//!
//! Real here: the consensus machine with its guard and log codec, the framing of log and guard file, the store's tables and
//! commits, the ledger, the tally of verdicts, the plan of block sync, and the byte format of every message. Replaced: the
//! clock, the disk (it loses what was not synced, down to half a record), the transport (it delays, drops, doubles and
//! splits), and the shell that carries out outputs, which can die after every single effect. Proofs are not made; what a
//! claim is worth is written in its hash, and the validators' keys vote accordingly.
//!
//! One seed gives one run, to the byte: [`Report::fingerprint`] says so. [`Bug`] plants faults in this simulator's shell, and
//! nowhere else, to show that the invariants of `judge` have teeth.

mod actions;
pub(crate) mod dice;
mod duties;
mod judge;
mod node;
pub(crate) mod users;
mod world;

use std::fmt;

pub use judge::Violation;

/// A fault planted in the simulator's shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Messages leave before the records they follow from are synced.
    PublishBeforeSync,
    /// Verdicts are counted as often as they arrive.
    VoteCountedTwice,
    /// A certified job is paid once more beside the ledger.
    JobPaidTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PublishBeforeSync, Self::VoteCountedTwice, Self::JobPaidTwice];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PublishBeforeSync => "publish-before-sync",
            Self::VoteCountedTwice => "vote-counted-twice",
            Self::JobPaidTwice => "job-paid-twice",
        }
    }
}

/// How a node is made to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crashes {
    /// At effects drawn from the seed.
    Drawn,
    /// One node, once, after exactly so many of its effects.
    After {
        /// The node.
        node: usize,
        /// Effects until then.
        effects: u64,
    },
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// How nodes die.
    pub crashes: Crashes,
    /// Whether messages are lost, doubled and held up, and the network splits.
    pub rough: bool,
    /// Virtual time with faults, milliseconds.
    pub rough_ms: u64,
    /// Virtual time without faults after it, in which the network must go on, milliseconds.
    pub calm_ms: u64,
    /// A planted fault.
    pub bug: Option<Bug>,
}

impl Config {
    /// The usual run of a seed: all faults, then calm.
    pub const fn of_seed(seed: u64) -> Self {
        Self { seed, crashes: Crashes::Drawn, rough: true, rough_ms: 6_000, calm_ms: 4_000, bug: None }
    }

    /// The same run with a planted fault.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of nodes.
    pub nodes: usize,
    /// Height that every node reached.
    pub height: u64,
    /// Highest round in which a block was decided.
    pub round_max: u32,
    /// Crashes with restart.
    pub crashes: u64,
    /// Crashes that left half a record.
    pub torn: u64,
    /// Transfers in blocks.
    pub transfers: u64,
    /// Jobs in blocks.
    pub jobs: u64,
    /// Jobs certified and paid.
    pub paid: u64,
    /// Claims rejected by verdicts.
    pub rejected: u64,
    /// Blocks that came by sync.
    pub synced: u64,
    /// Messages lost.
    pub lost: u64,
    /// Effects carried out by all nodes together.
    pub effects: u64,
    /// Hash over everything decided and said, in order.
    pub fingerprint: String,
}

/// A run that broke an invariant; run the seed again to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The planted fault.
    pub bug: Option<Bug>,
    /// Virtual time, milliseconds.
    pub at_ms: u64,
    /// What was broken.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.violation)?;
        let planted = self.bug.map_or(String::new(), |bug| format!(" --planted {}", bug.name()));
        write!(f, "\nagain: proofmesh-sim --first-seed {} --seeds 1{planted}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs one configuration.
///
/// # Errors
/// [`Failure`] at the first broken invariant.
pub fn run(config: Config) -> Result<Report, Box<Failure>> {
    world::World::new(config)
        .and_then(world::World::run)
        .map_err(|(at_ms, violation)| Box::new(Failure { seed: config.seed, bug: config.bug, at_ms, violation }))
}

/// Runs many configurations on `threads` threads; results in the order given.
pub fn run_all(configs: &[Config], threads: usize) -> Vec<Result<Report, Box<Failure>>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(config) = configs.get(index) else { return done };
            done.push((index, run(*config)));
        }
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        // A panic in a run is a failure of the run; it goes on to the caller.
        workers.into_iter().flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
