//! Nodes that are killed: at random instants and at every fail point, one, two and all four at once, while a customer keeps
//! the network busy. Afterwards every job is paid once, nothing acknowledged is lost, and no slot was signed twice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use engine::Crossing;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use testnet::faults::signed::Signed;
use testnet::faults::{self, Order};
use testnet::harness::customer::Customer;
use testnet::harness::{Cluster, Launch, trial};

const NODES: usize = 4;
/// Random instants at which nodes are killed.
const INSTANTS: usize = 50;
/// Those that are to die with others at a point get this long to come there.
const MOMENT: Duration = Duration::from_millis(500);
/// From the end of the orders to the last death by them.
const LAST_DEATHS: Duration = Duration::from_millis(100);
/// Points that only a job leads to.
const JOB_POINTS: [&str; 4] = ["proving", "proved", "voting", "certifying"];

/// A network whose nodes die where they are told to.
struct Net {
    cluster: Cluster,
    dice: ChaCha8Rng,
    kills: usize,
    /// Of these, by the node itself at a point.
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

    /// Tells nodes where to die and waits until `deaths` of them did. Of those still alive a moment later (the others may
    /// have been too few to lead them to the point) all are killed if `all`. Every dead one is started again.
    fn kill_at(&mut self, order: &Order, told: &[usize], deaths: usize, all: bool) -> Result<()> {
        for index in told {
            std::fs::write(self.orders(*index), order.to_string())?;
        }
        let until = Instant::now() + 2 * trial::MINUTE;
        while self.dead(told)?.len() < deaths {
            ensure!(
                Instant::now() < until,
                "'{order}' told to {told:?}: only {:?} came there; {}",
                self.dead(told)?,
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        if all {
            std::thread::sleep(MOMENT);
        }
        for index in told {
            std::fs::remove_file(self.orders(*index))?;
        }
        // One that has read its orders before may be dying still.
        std::thread::sleep(LAST_DEATHS);
        let came = self.dead(told)?;
        let restarted = if all { told.to_vec() } else { came.clone() };
        for index in &restarted {
            self.cluster.kill(*index)?;
        }
        for index in &restarted {
            self.cluster.start(*index)?;
        }
        self.kills += restarted.len();
        self.at_points += came.len();
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
    println!("{} kills, {} of them by the node itself at a point", net.kills, net.at_points);
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
fn kill_in_consensus(net: &mut Net, point: &str) -> Result<()> {
    let order = |passing, delay_us| Order { point: point.into(), passing, delay_us };
    for count in [1, 2, NODES] {
        let victims = net.victims(count);
        let passing = net.dice.random_range(1..=3);
        net.kill_at(&order(passing, 0), &victims, count.min(2), count == NODES)?;
        net.progress()?;
    }
    if point == "batch-begins" {
        // Somewhere inside the write of the batch.
        for delay_us in [30, 150, 600] {
            let victims = net.victims(2);
            net.kill_at(&order(1, delay_us), &victims, 2, false)?;
            net.progress()?;
        }
    }
    Ok(())
}

/// Whoever comes first to a point of a job dies there; then, where every validator comes, all at once.
fn kill_in_job(net: &mut Net, point: &str) -> Result<()> {
    let (order, everyone) = (Order { point: point.into(), passing: 1, delay_us: 0 }, [0, 1, 2, 3]);
    net.kill_at(&order, &everyone, 1, false)?;
    net.progress()?;
    if ["voting", "certifying"].contains(&point) {
        net.kill_at(&order, &everyone, 2, true)?;
        net.progress()?;
    }
    Ok(())
}

fn at_points(name: &str, of_jobs: bool, kill: impl Fn(&mut Net, &str) -> Result<()>) -> Result<()> {
    let mut net = Net::start(name)?;
    let customer = customer(&net, 1)?;
    for point in Crossing::NAMES.into_iter().filter(|point| JOB_POINTS.contains(point) == of_jobs) {
        let started = Instant::now();
        kill(&mut net, point)?;
        println!("{point}: {:.1} s", started.elapsed().as_secs_f64());
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
