//! Nodes that are killed: at random instants and at every fail point, one, two and all four at once, while a customer keeps
//! the network busy. Afterwards every job is paid once, nothing acknowledged is lost, and no slot was signed twice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::Crossing;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use testnet::faults::signed::Signed;
use testnet::faults::{self, End, Order};
use testnet::harness::customer::Customer;
use testnet::harness::{Cluster, Launch, trial};

const NODES: usize = 4;
/// Random instants at which nodes are killed.
const INSTANTS: usize = 50;
/// Time between two looks at who stands at a point.
const LOOK: Duration = Duration::from_millis(5);
/// Attempts to have several nodes at one point together.
const ATTEMPTS: usize = 8;
/// Points that only a job leads to.
const JOB_POINTS: [&str; 4] = ["proving", "proved", "voting", "certifying"];

/// A point at which nodes die.
struct Point {
    name: &'static str,
    /// How many of four can be there at the same time.
    at_once: usize,
    /// How long the first waits there for the others.
    patience: Duration,
}

impl Point {
    fn named(name: &'static str) -> Self {
        // One node proposes in a round, and a round ends by the votes of three: while two proposers stand at their proposal,
        // no third gets a turn.
        let at_once = if name.ends_with("-proposal") { 2 } else { NODES };
        let patience = match name {
            // Others come when it is their turn: after the window of the first, or in a later height.
            "proving" | "proved" | "publishing-proposal" | "published-proposal" => trial::MINUTE,
            "voting" | "certifying" => trial::MINUTE / 3,
            // A disk that takes longer than 15 s stops the node.
            _ => Duration::from_secs(6),
        };
        Self { name, at_once, patience }
    }
}

/// A network whose nodes die where they are told to.
struct Net {
    cluster: Cluster,
    dice: ChaCha8Rng,
    kills: usize,
    /// Of these, at a point.
    at_points: usize,
}

impl Net {
    fn start(name: &str) -> Result<Self> {
        let seed = match std::env::var("CHAOS_SEED") {
            Ok(text) => text.parse()?,
            Err(_) => rand::random(),
        };
        println!("CHAOS_SEED={seed} gives the same instants and victims again");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut cluster = trial::network(&dir, NODES as u16, |_| ())?;
        for index in 0..NODES {
            let file = |kind: &str| dir.join(format!("node{index}.{kind}")).display().to_string();
            let env = vec![
                (faults::ORDERS.to_owned(), file("orders")),
                (faults::NOTES.to_owned(), file("signed")),
                ("PROOFMESH_RPC__RATE_PER_S".to_owned(), "100000".to_owned()),
            ];
            let bin = Some(env!("CARGO_BIN_EXE_proofmesh-chaos").into());
            cluster.set_launch(index, Launch { bin, env, within: vec![] });
        }
        trial::start_all(&mut cluster)?;
        Ok(Self { cluster, dice: ChaCha8Rng::seed_from_u64(seed), kills: 0, at_points: 0 })
    }

    fn victims(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..NODES).collect();
        all.shuffle(&mut self.dice);
        all.truncate(count);
        all
    }

    fn orders(&self, index: usize) -> PathBuf {
        self.cluster.dir().join(format!("node{index}.orders"))
    }

    /// Tells nodes to die by themselves some time after a point, waits until all did, and starts them again.
    fn die_after(&mut self, order: &Order, told: &[usize]) -> Result<()> {
        for index in told {
            std::fs::write(self.orders(*index), order.to_string())?;
        }
        let until = Instant::now() + 2 * trial::MINUTE;
        while self.dead(told)?.len() < told.len() {
            let came = self.dead(told)?;
            ensure!(Instant::now() < until, "'{order}' told to {told:?}: only {came:?} died; {}", self.logs());
            std::thread::sleep(LOOK);
        }
        for index in told {
            std::fs::remove_file(self.orders(*index))?;
        }
        self.kill_all(told)?;
        self.at_points += told.len();
        Ok(())
    }

    /// Has `count` of the nodes that are told stand at a point at the same time, kills these at once, and with them `others` who
    /// are elsewhere, and starts all of them again. Who of the told has not been killed goes on.
    ///
    /// Nodes that stand still may be too many for the rest to come to the point, too: then all go on, and it is tried again.
    fn kill_at(&mut self, point: &Point, passing: u32, told: &[usize], count: usize, others: bool) -> Result<()> {
        let order = Order { point: point.name.into(), passing, end: End::Hold };
        for _ in 0..ATTEMPTS {
            for index in told {
                std::fs::write(self.orders(*index), order.to_string())?;
            }
            let came = self.wait_held(point, told, count)?;
            let met = came.len() >= count;
            let mut victims: Vec<usize> = came.into_iter().take(count).collect();
            if met {
                self.at_points += count;
                if others {
                    victims = (0..NODES).collect();
                }
                for index in &victims {
                    self.cluster.signal(*index, Signal::KILL)?;
                }
            }
            for index in told {
                std::fs::remove_file(self.orders(*index))?;
            }
            if met {
                return self.kill_all(&victims);
            }
            self.progress()?;
        }
        let name = point.name;
        anyhow::bail!("{count} of {told:?} never stood at '{name}' together in {ATTEMPTS} attempts; {}", self.logs())
    }

    /// Waits until `count` nodes stand at a point, or too long for those that came first; who stands there.
    fn wait_held(&mut self, point: &Point, told: &[usize], count: usize) -> Result<Vec<usize>> {
        let (until, mut first) = (Instant::now() + 2 * trial::MINUTE, None);
        loop {
            let here = |index: &&usize| faults::held(&self.orders(**index)).exists();
            let came: Vec<usize> = told.iter().filter(here).copied().collect();
            if !came.is_empty() {
                first.get_or_insert_with(Instant::now);
            }
            let late = first.is_some_and(|first| first.elapsed() > point.patience);
            if came.len() >= count || late {
                return Ok(came);
            }
            ensure!(Instant::now() < until, "nobody of {told:?} came to '{}'; {}", point.name, self.logs());
            ensure!(self.dead(told)?.is_empty(), "one of {told:?} ended at '{}'; {}", point.name, self.logs());
            std::thread::sleep(LOOK);
        }
    }

    /// Kills nodes, dead or not, and starts them again.
    fn kill_all(&mut self, victims: &[usize]) -> Result<()> {
        for index in victims {
            self.cluster.kill(*index)?;
            let mark = faults::held(&self.orders(*index));
            if mark.exists() {
                std::fs::remove_file(mark)?;
            }
        }
        for index in victims {
            self.cluster.start(*index)?;
        }
        self.kills += victims.len();
        Ok(())
    }

    fn dead(&mut self, told: &[usize]) -> Result<Vec<usize>> {
        let mut dead = Vec::new();
        for index in told {
            if self.cluster.ended(*index)?.is_some() {
                dead.push(*index);
            }
        }
        Ok(dead)
    }

    fn logs(&self) -> String {
        format!("logs: {}", self.cluster.dir().display())
    }

    /// Waits until the chain is two blocks further than it is now.
    fn progress(&mut self) -> Result<()> {
        trial::progress(&mut self.cluster, &[0, 1, 2, 3], 2).map(drop)
    }
}

/// Ends the run: what every node ever sent is held against what all have on disk.
fn conclude(mut net: Net, customer: Customer) -> Result<()> {
    net.progress()?;
    let account = customer.stop()?;
    let mut signed = Signed::default();
    for index in 0..NODES {
        signed.add_notes(&net.cluster.dir().join(format!("node{index}.signed")))?;
    }
    let sent = signed.len();
    trial::conclude(&mut net.cluster, &account, &mut signed)?;
    for index in 0..NODES {
        signed.add_notes(&net.cluster.dir().join(format!("node{index}.signed")))?;
    }
    println!("{} kills, {} of them at a point", net.kills, net.at_points);
    ensure!(sent > 0 && !account.jobs.is_empty() && account.transfers > 0, "the run did nothing: {account:?}");
    Ok(())
}

fn customer(net: &Net, jobs_at_once: usize) -> Result<Customer> {
    Customer::start(&net.cluster, trial::wishes(jobs_at_once, 500, &[0, 1, 2, 3]))
}

#[test]
fn fifty_kills_at_random_instants_lose_nothing() -> Result<()> {
    let mut net = Net::start("kills-random")?;
    let customer = customer(&net, 3)?;
    for instant in 0..INSTANTS {
        let count = [1, 1, 1, 2, 1, 1, 2, 4, 1, 2].get(instant % 10).copied().context("a count")?;
        let wait = net.dice.random_range(50..1_200);
        std::thread::sleep(Duration::from_millis(wait));
        let victims = net.victims(count);
        for index in &victims {
            net.cluster.kill(*index)?;
        }
        let pause = net.dice.random_range(0..200);
        std::thread::sleep(Duration::from_millis(pause));
        for index in &victims {
            net.cluster.start(*index)?;
        }
        net.kills += count;
        if count > 1 {
            net.progress()?;
        }
    }
    conclude(net, customer)
}

/// One, two and all four at once die at a point of consensus, after one to three passings.
fn kill_in_consensus(net: &mut Net, point: &Point) -> Result<()> {
    for count in [1, 2] {
        let victims = net.victims(count);
        let passing = net.dice.random_range(1..=3);
        net.kill_at(point, passing, &victims, count, false)?;
        net.progress()?;
    }
    net.kill_at(point, 1, &[0, 1, 2, 3], point.at_once, true)?;
    net.progress()?;
    if point.name == "batch-begins" {
        // Somewhere inside the write of the batch.
        for delay_us in [30, 150, 600] {
            let victims = net.victims(2);
            let order = Order { point: point.name.into(), passing: 1, end: End::Die { delay_us } };
            net.die_after(&order, &victims)?;
            net.progress()?;
        }
    }
    Ok(())
}

/// Whoever comes first to a point of a job dies there, then the first two together, then all four.
fn kill_in_job(net: &mut Net, point: &Point) -> Result<()> {
    for count in [1, 2, point.at_once] {
        net.kill_at(point, 1, &[0, 1, 2, 3], count, count == point.at_once)?;
        net.progress()?;
    }
    Ok(())
}

fn at_points(name: &str, of_jobs: bool, kill: impl Fn(&mut Net, &Point) -> Result<()>) -> Result<()> {
    let mut net = Net::start(name)?;
    let customer = customer(&net, 1)?;
    for name in Crossing::NAMES.into_iter().filter(|name| JOB_POINTS.contains(name) == of_jobs) {
        let started = Instant::now();
        kill(&mut net, &Point::named(name))?;
        println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
    }
    conclude(net, customer)
}

#[test]
fn a_kill_at_every_fail_point_of_consensus_loses_nothing() -> Result<()> {
    at_points("kills-consensus", false, kill_in_consensus)
}

#[test]
fn a_kill_at_every_fail_point_of_a_job_loses_nothing() -> Result<()> {
    at_points("kills-job", true, kill_in_job)
}
