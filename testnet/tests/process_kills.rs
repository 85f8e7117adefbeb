//! Nodes that are killed: at random instants and at every fail point, one, two and all four at once, while a customer keeps
//! the network busy. Afterwards every job is paid once, nothing acknowledged is lost, and no slot was signed twice.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::Crossing;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use testnet::faults::signed::Signed;
use testnet::faults::{self, Order};
use testnet::harness::audit::audit;
use testnet::harness::customer::{self, Customer, Wishes};
use testnet::harness::{Cli, Cluster, Launch, Options, binary};

const NODES: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// Random instants at which nodes are killed.
const INSTANTS: usize = 50;
/// Until all jobs have ended after the last kill.
const SETTLE: Duration = Duration::from_secs(240);
/// Points that only a job leads to.
const JOB_POINTS: [&str; 4] = ["proving", "proved", "voting", "certifying"];

/// A network whose nodes die where they are told to.
struct Net {
    cluster: Cluster,
    dice: ChaCha8Rng,
    kills: usize,
}

impl Net {
    fn start(name: &str) -> Result<Self> {
        let seed = match std::env::var("CHAOS_SEED") {
            Ok(text) => text.parse()?,
            Err(_) => rand::random(),
        };
        println!("CHAOS_SEED={seed} gives the same instants and victims again");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        let mut options = Options::on_free_ports(NODES as u16)?;
        (options.block_ms, options.empty_block_ms, options.window_ms) = (Some(100), Some(500), Some(4_000));
        let mut cluster = Cluster::create(Cli::new(binary()?), &dir, &options)?;
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
        cluster.start_all()?;
        for index in 0..NODES {
            cluster.wait_height(index, 1, MINUTE)?;
        }
        Ok(Self { cluster, dice: ChaCha8Rng::seed_from_u64(seed), kills: 0 })
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

    /// Tells nodes where to die, waits until `deaths` of them did, and starts those again.
    fn kill_at(&mut self, order: &Order, told: &[usize], deaths: usize) -> Result<()> {
        for index in told {
            std::fs::write(self.orders(*index), order.to_string())?;
        }
        let until = Instant::now() + 2 * MINUTE;
        let mut dead = Vec::new();
        while dead.len() < deaths {
            for index in told {
                if !dead.contains(index) && self.cluster.ended(*index)?.is_some() {
                    dead.push(*index);
                }
            }
            ensure!(Instant::now() < until, "'{order}' told to {told:?}: only {dead:?} came there; {}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
        for index in told {
            std::fs::remove_file(self.orders(*index))?;
        }
        // One that was told may have died after it was looked at, too.
        for index in told {
            if self.cluster.ended(*index)?.is_some() {
                self.cluster.kill(*index)?;
                self.cluster.start(*index)?;
                self.kills += 1;
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        format!("logs: {}", self.cluster.dir().display())
    }

    fn highest(&self) -> u64 {
        (0..NODES).filter_map(|i| self.cluster.height(i)).max().unwrap_or(0)
    }

    /// Waits until the chain is two blocks further than it is now.
    fn progress(&mut self) -> Result<()> {
        let from = self.highest();
        let until = Instant::now() + 2 * MINUTE;
        while self.highest() < from + 2 {
            for index in 0..NODES {
                // A node that was told to die and lived a little longer is started again.
                ensure!(self.cluster.ended(index)?.is_none(), "node {index} ended by itself; {}", self.logs());
            }
            ensure!(Instant::now() < until, "no progress after height {from}; {}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Ends the run: all jobs paid once, all nodes stopped, everything they have on disk and ever sent without contradiction.
fn conclude(mut net: Net, customer: Customer) -> Result<()> {
    net.progress()?;
    let account = customer.stop()?;
    let (jobs, transfers) = customer::settle(&mut net.cluster, 0, &account, SETTLE)?;
    let height = net.highest();
    for index in 0..NODES {
        net.cluster.wait_height(index, height, MINUTE)?;
    }
    for (index, code) in net.cluster.stop_all()? {
        ensure!(code == 0, "node {index} drained with {code}");
    }
    let mut signed = Signed::default();
    let homes: Vec<PathBuf> = net.cluster.file().nodes.iter().map(|n| n.home.clone()).collect();
    let found = audit(&homes, &mut signed)?;
    for index in 0..NODES {
        signed.add_notes(&net.cluster.dir().join(format!("node{index}.signed")))?;
        let log = std::fs::read_to_string(net.cluster.log(index))?;
        for word in ["equivocation seen", "two verdicts by one key"] {
            ensure!(!log.contains(word), "node {index} has seen: {word}; {}", net.logs());
        }
    }
    ensure!(found.recorded.values().filter(|times| **times > 0).count() >= jobs, "a job without a record: {found:?}");
    println!(
        "{} kills; {jobs} jobs and {transfers} transfers, all paid once ({} and {} acknowledged, {} wishes failed); \
         height {}; {} slots signed, none twice",
        net.kills,
        account.jobs.len(),
        account.transfers,
        account.failed,
        found.height,
        signed.len()
    );
    ensure!(!signed.is_empty() && jobs > 0 && transfers > 0, "the run did nothing");
    Ok(())
}

fn customer(net: &Net) -> Result<Customer> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/fibonacci/fibonacci.json");
    Customer::start(&net.cluster, Wishes { program, jobs_at_once: 1, n: 500, nodes: (0..NODES).collect() })
}

#[test]
fn fifty_kills_at_random_instants_lose_nothing() -> Result<()> {
    let mut net = Net::start("kills-random")?;
    let customer = customer(&net)?;
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

#[test]
fn a_kill_at_every_fail_point_loses_nothing() -> Result<()> {
    let mut net = Net::start("kills-points")?;
    let customer = customer(&net)?;
    let everyone: Vec<usize> = (0..NODES).collect();
    for point in Crossing::NAMES {
        let started = Instant::now();
        if JOB_POINTS.contains(&point) {
            // Whoever comes there first; then, where all come, all.
            net.kill_at(&Order { point: point.into(), passing: 1, delay_us: 0 }, &everyone, 1)?;
            net.progress()?;
            if ["voting", "certifying"].contains(&point) {
                net.kill_at(&Order { point: point.into(), passing: 1, delay_us: 0 }, &everyone, NODES)?;
            }
        } else {
            for count in [1, 2, NODES] {
                let victims = net.victims(count);
                let passing = net.dice.random_range(1..=3);
                net.kill_at(&Order { point: point.into(), passing, delay_us: 0 }, &victims, count)?;
                net.progress()?;
            }
        }
        if point == "batch-begins" {
            // Somewhere inside the write of the batch.
            for delay_us in [20, 60, 150, 400, 1_000] {
                let victims = net.victims(2);
                net.kill_at(&Order { point: point.into(), passing: 1, delay_us }, &victims, 2)?;
            }
        }
        net.progress()?;
        println!("{point}: {:.1} s", started.elapsed().as_secs_f64());
    }
    conclude(net, customer)
}
