//! What happens to machines and processes: a full disk, a home that can't be written, a wrong clock, processes and workers
//! that stand still or run out of memory, restarts, and a source of a blob that dies. One network and one name for each.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use testnet::faults::{self, signed::Signed};
use testnet::harness::customer::{self, Account, Customer};
use testnet::harness::disk::{SmallDisk, read_only};
use testnet::harness::links::Links;
use testnet::harness::trial::{self, MINUTE};
use testnet::harness::{Cluster, Launch, Options};

/// How long a process stands still.
const STANDSTILL: Duration = Duration::from_secs(20);
/// Blocks that pass while a node is away.
const BLOCKS_AWAY: u64 = 1_000;
/// Within this time it must have caught up.
const CATCH_UP: Duration = Duration::from_secs(30);
/// Length of a program file that takes a while on a slow wire, bytes.
const LONG_PROGRAM: u64 = 8 << 20;
/// What a worker may still take when its limit is lowered, bytes.
const MEMORY_LEFT: u64 = 128 << 20;
/// Disk that programs and proofs must leave alone on the small disk, MiB.
const RESERVE_MIB: u64 = 24;
/// The slow wire, bytes a second.
const SLOW: u64 = 1_000_000;

fn network(name: &str, change: impl FnOnce(&mut Options)) -> Result<Cluster> {
    trial::network(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name), 4, change)
}

fn running(name: &str) -> Result<Cluster> {
    let mut cluster = network(name, |_| ())?;
    trial::start_all(&mut cluster)?;
    Ok(cluster)
}

fn conclude(cluster: &mut Cluster, account: &Account) -> Result<()> {
    trial::conclude(cluster, account, &mut Signed::default()).map(drop)
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_full_disk_stops_the_node_in_words_and_nothing_is_lost() -> Result<()> {
    let mut cluster = network("disk-full", |_| ())?;
    let home = cluster.node(3)?.home.clone();
    let disk = SmallDisk::over(&home, 96)?;
    let env = vec![("PROOFMESH_STORAGE__DISK_RESERVE_MIB".to_owned(), RESERVE_MIB.to_string())];
    cluster.set_launch(3, Launch { within: disk.within(), env, ..Launch::default() });
    trial::start_all(&mut cluster)?;
    let shopper = Customer::start(&cluster, trial::wishes(1, 500, &[0, 1, 2]))?;
    trial::progress(&mut cluster, &[3], 5)?;

    // Nearly full: it takes no more programs and says so, and goes on with the chain.
    disk.fill(RESERVE_MIB << 20)?;
    let refusal = customer::submit(&cluster, 3, &trial::wishes(1, 600, &[])).err().context("a program was taken")?;
    let refusal = refusal.to_string();
    println!("nearly full: {refusal}");
    for words in ["disk_reserve", "storage.disk_reserve_mib", "free space"] {
        ensure!(refusal.contains(words), "'{words}' is not in: {refusal}");
    }
    let goal = trial::progress(&mut cluster, &[0, 1, 2], 5)?;
    cluster.wait_height(3, goal, MINUTE)?;

    let filled = disk.fill(0)?;
    let (code, log) = trial::wait_end(&mut cluster, 3, 0, MINUTE)?;
    println!("full after {filled} bytes; exit code {code}; last words: {}", log.lines().last().unwrap_or_default());
    ensure!(code == 6, "a full disk is a safety stop, exit code 6, not {code}");
    ensure!(log.contains("No space left on device"), "the log does not say why");
    ensure!(log.contains("remedy: free space"), "the log does not say what to do");

    // Started again too early, it says so and changes nothing.
    let from = trial::log_length(&cluster, 3)?;
    cluster.start(3)?;
    let (code, log) = trial::wait_end(&mut cluster, 3, from, MINUTE)?;
    ensure!(code != 0 && code != 5, "a full disk is no corruption: exit code {code}");
    ensure!(log.contains("No space left on device"), "started on a full disk, it ended with {code}: {log}");
    ensure!(log.contains("remedy: free space"), "the log does not say what to do: {log}");
    trial::progress(&mut cluster, &[0, 1, 2], 5)?;

    disk.free()?;
    cluster.start(3)?;
    let goal = trial::highest(&cluster, &[0, 1, 2]);
    cluster.wait_height(3, goal, MINUTE)?;
    let account = shopper.stop()?;
    // The audit reads the home where its node saw it.
    let mut signed = Signed::default();
    customer::settle(&mut cluster, 3, &account, trial::SETTLE)?;
    trial::stop_all(&mut cluster)?;
    let mut homes: Vec<PathBuf> = cluster.file().nodes.iter().take(3).map(|n| n.home.clone()).collect();
    homes.push(disk.home());
    let found = testnet::harness::audit::audit(&homes, &mut signed)?;
    ensure!(found.shortest >= goal, "{found:?}");
    Ok(())
}

#[test]
fn a_home_that_cannot_be_written_is_refused_in_words() -> Result<()> {
    let mut cluster = network("read-only", |_| ())?;
    let home = cluster.node(0)?.home.clone();
    cluster.set_launch(0, Launch { within: read_only(&home), ..Launch::default() });
    // Before its first start, and when it has been running before.
    for again in [false, true] {
        let from = if again { trial::log_length(&cluster, 0)? } else { 0 };
        cluster.start(0)?;
        let (code, log) = trial::wait_end(&mut cluster, 0, from, MINUTE)?;
        println!("exit code {code}: {}", log.trim());
        ensure!(code == 1, "exit code {code}: {log}");
        ensure!(log.contains("Read-only file system"), "it does not say what is wrong: {log}");
        ensure!(log.contains("that can be written"), "it does not say what to do: {log}");
        ensure!(log.contains(&home.display().to_string()), "it does not say where: {log}");
        if !again {
            cluster.set_launch(0, Launch::default());
            trial::start_all(&mut cluster)?;
            trial::stop_all(&mut cluster)?;
            cluster.set_launch(0, Launch { within: read_only(&home), ..Launch::default() });
        }
    }
    cluster.set_launch(0, Launch::default());
    trial::start_all(&mut cluster)?;
    trial::stop_all(&mut cluster)
}

#[test]
fn a_clock_thirty_seconds_off_stops_neither_the_chain_nor_its_node() -> Result<()> {
    let mut cluster = running("clock")?;
    let shopper = Customer::start(&cluster, trial::wishes(1, 500, &[0, 1, 2]))?;
    for shift in [30_000i64, -30_000] {
        ensure!(cluster.stop(3)? == 0, "node 3 did not drain");
        let bin = Some(env!("CARGO_BIN_EXE_proofmesh-chaos").into());
        let env = vec![(faults::CLOCK_MS.to_owned(), shift.to_string())];
        cluster.set_launch(3, Launch { bin, env, within: vec![] });
        cluster.start(3)?;
        let started = Instant::now();
        let goal = trial::progress(&mut cluster, &[0, 1, 2], 25)?;
        cluster.wait_height(3, goal, MINUTE)?;
        let job = customer::submit(&cluster, 1, &trial::wishes(1, 600, &[]))?;
        let view = cluster.wait_job(3, &job, trial::SETTLE)?;
        ensure!(view["status"] == "completed", "{view}");
        println!("clock {shift} ms off: 25 blocks and a job in {:.1} s", started.elapsed().as_secs_f64());
    }
    ensure!(cluster.stop(3)? == 0, "node 3 did not drain");
    cluster.set_launch(3, Launch::default());
    cluster.start(3)?;
    let account = shopper.stop()?;
    conclude(&mut cluster, &account)
}

#[test]
fn processes_that_stand_still_for_twenty_seconds_go_on() -> Result<()> {
    let mut cluster = running("standstill")?;
    let shopper = Customer::start(&cluster, trial::wishes(1, 500, &[0, 1]))?;
    trial::progress(&mut cluster, &[0, 1, 2, 3], 5)?;
    // One of four: the others go on. Two of four: nobody does, until they are back.
    for stopped in [vec![3usize], vec![2, 3]] {
        for index in &stopped {
            cluster.signal(*index, Signal::STOP)?;
        }
        let before = trial::highest(&cluster, &[0, 1]);
        std::thread::sleep(STANDSTILL);
        let during = trial::highest(&cluster, &[0, 1]);
        for index in &stopped {
            cluster.signal(*index, Signal::CONT)?;
        }
        println!("{stopped:?} stood still: the others went from {before} to {during}");
        match stopped.len() {
            1 => ensure!(during > before + 3, "three of four did not go on: {before} to {during}"),
            // What was on its way may still have been decided.
            _ => ensure!(during <= before + 1, "two of four decided: {before} to {during}"),
        }
        let goal = trial::progress(&mut cluster, &[0, 1], 5)?;
        for index in &stopped {
            cluster.wait_height(*index, goal, MINUTE)?;
        }
    }
    let account = shopper.stop()?;
    conclude(&mut cluster, &account)
}

#[test]
fn a_worker_that_hangs_costs_one_attempt() -> Result<()> {
    let mut cluster = running("worker-hangs")?;
    let job = customer::submit(&cluster, 0, &trial::wishes(1, 20_000, &[]))?;
    let (prover, worker) = trial::proving(&mut cluster, &job)?;
    let pid = Pid::from_raw(worker).context("worker's process id")?;
    rustix::process::kill_process(pid, Signal::STOP)?;
    let key = cluster.ask(prover, &["job", "status", &job])?["tasks"][0]["prover"].clone();
    let view = cluster.wait_job((prover + 1) % 4, &job, trial::SETTLE)?;
    ensure!(view["status"] == "completed", "{view}");
    ensure!(view["tasks"][0]["prover"] != key, "the prover whose worker hangs has proved it: {view}");
    // The job is over: whoever works on it for nothing is ended, and its node takes the next one.
    cluster.wait("the end of the worker that hangs", MINUTE, |_| (!exists(worker)).then_some(()))?;
    let account = Account { jobs: vec![job], ..Account::default() };
    conclude(&mut cluster, &account)
}

#[test]
fn a_worker_killed_by_the_memory_limit_costs_one_attempt() -> Result<()> {
    let mut cluster = running("worker-memory")?;
    let job = customer::submit(&cluster, 0, &trial::wishes(1, 20_000, &[]))?;
    let (prover, worker) = trial::proving(&mut cluster, &job)?;
    let pid = Pid::from_raw(worker).context("worker's process id")?;
    // From here on it gets little more than it has: room for its stacks, far too little for a proof.
    let pages: u64 = std::fs::read_to_string(format!("/proc/{worker}/statm"))?
        .split_whitespace()
        .next()
        .context("statm")?
        .parse()?;
    let limit = Some(pages * 4096 + MEMORY_LEFT);
    rustix::process::prlimit(Some(pid), Resource::As, Rlimit { current: limit, maximum: limit })?;
    let key = cluster.ask(prover, &["job", "status", &job])?["tasks"][0]["prover"].clone();
    let view = cluster.wait_job((prover + 1) % 4, &job, trial::SETTLE)?;
    ensure!(view["status"] == "completed", "{view}");
    ensure!(view["tasks"][0]["prover"] != key, "the prover without memory has proved it: {view}");
    let log = std::fs::read_to_string(cluster.log(prover))?;
    let words = log.lines().find(|line| line.contains("declined")).context("the node did not decline")?;
    println!("declined: {words}");
    ensure!(words.contains("memory"), "it does not name the memory: {words}");
    ensure!(!exists(worker), "the worker still runs");
    let account = Account { jobs: vec![job], ..Account::default() };
    conclude(&mut cluster, &account)
}

#[test]
fn a_node_that_restarts_at_once_is_the_same_peer_to_all() -> Result<()> {
    let mut cluster = running("fast-restart")?;
    let id = cluster.node(2)?.peer_id.clone();
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        cluster.kill(2)?;
        cluster.start(2)?;
        let started = Instant::now();
        for index in 0..4 {
            cluster.wait(&format!("all peers of node {index}"), MINUTE, |c| {
                let peers = c.ask(index, &["peers"]).ok()?;
                let peers = peers.as_array()?;
                let there = index == 2 || peers.iter().any(|p| p["peer_id"] == id.as_str());
                (there && peers.len() == 3).then_some(())
            })?;
        }
        slowest = slowest.max(started.elapsed());
        let goal = trial::progress(&mut cluster, &[0, 1, 3], 2)?;
        cluster.wait_height(2, goal, MINUTE)?;
    }
    println!("connected to all again within {:.1} s each time", slowest.as_secs_f64());
    conclude(&mut cluster, &Account::default())
}

#[test]
fn a_source_killed_in_mid_transfer_is_replaced_and_nothing_is_sent_again() -> Result<()> {
    let mut cluster = network("blob-source", |options| options.window_ms = Some(1_000))?;
    let links = Links::lay(&cluster)?;
    for index in 0..4 {
        let mut launch = links.launch(&cluster, index, Launch::default())?;
        // Node 3 alone proves, so that no job ends before it has the program.
        launch.env.push(("PROOFMESH_NODE__PROVER".into(), (index == 3).to_string()));
        cluster.set_launch(index, launch);
    }
    trial::start_all(&mut cluster)?;
    for index in 0..4 {
        cluster.wait("all peers, by the wires alone", MINUTE, |c| links.check(c, index).ok())?;
    }
    // White space after a program is nothing to the program, and much to a slow wire.
    let mut wishes = trial::wishes(1, 500, &[0, 1, 2]);
    let mut program = std::fs::read(&wishes.program)?;
    program.resize(usize::try_from(LONG_PROGRAM)?, b'\n');
    wishes.program = cluster.dir().join("long.json");
    std::fs::write(&wishes.program, program)?;
    links.slow(3, Some(SLOW));
    let before: Vec<u64> = (0..3).map(|from| links.received(3, from)).collect();
    let so_far = |from: usize| links.received(3, from).saturating_sub(before.get(from).copied().unwrap_or(0));
    let shopper = Customer::start(&cluster, wishes)?;
    let until = Instant::now() + MINUTE;
    while (0..3).map(so_far).sum::<u64>() < LONG_PROGRAM / 4 {
        ensure!(Instant::now() < until, "node 3 does not fetch the program; logs: {}", cluster.dir().display());
        std::thread::sleep(Duration::from_millis(5));
    }
    let source = (0..3).max_by_key(|from| so_far(*from)).context("a source")?;
    let sent: Vec<u64> = (0..3).map(so_far).collect();
    cluster.kill(source)?;
    println!("node {source} killed when node 3 had {sent:?} bytes of {LONG_PROGRAM} from nodes 0, 1 and 2");
    cluster.wait("the end of the job on node 3", trial::SETTLE, |c| {
        let jobs = c.ask(3, &["job", "list"]).ok()?;
        let jobs = jobs["jobs"].as_array()?;
        jobs.iter().any(|job| job["status"] == "completed").then_some(())
    })?;
    let received: u64 = (0..3).map(so_far).sum();
    println!("node 3 received {received} bytes in all, consensus and everything else included");
    // Chunks under way from the dead source are asked for again; a second transfer would be all of it.
    ensure!(received < LONG_PROGRAM * 3 / 2, "{received} bytes received for a program of {LONG_PROGRAM}");
    links.slow(3, None);
    cluster.start(source)?;
    let account = shopper.stop()?;
    conclude(&mut cluster, &account)
}

/// Starts a node that was away and takes the time until it has what the others have now.
fn catch_up(cluster: &mut Cluster, away: usize, left: u64, what: &str) -> Result<()> {
    let goal = trial::highest(cluster, &[0]);
    let back = Instant::now();
    cluster.start(away)?;
    cluster.wait_height(away, goal, 4 * CATCH_UP)?;
    let took = back.elapsed();
    let rate = (goal - left) as f64 / took.as_secs_f64();
    println!(
        "{what}: {} blocks caught up in {:.1} s from the start of the process: {rate:.0} a second",
        goal - left,
        took.as_secs_f64()
    );
    ensure!(took <= CATCH_UP, "{what}: {:.1} s to catch up", took.as_secs_f64());
    Ok(())
}

#[test]
fn nodes_away_for_a_thousand_blocks_catch_up_in_thirty_seconds() -> Result<()> {
    let mut cluster = network("away", |options| {
        (options.block_ms, options.empty_block_ms) = (Some(0), Some(0));
    })?;
    trial::start_all(&mut cluster)?;
    let follower = cluster.add_follower(0, Options::on_free_ports(1)?.base_port)?;
    cluster.start(follower)?;
    cluster.wait_height(follower, 5, MINUTE)?;
    // A follower that was stopped in order, and a validator in the middle of its work that was not.
    let validator = 3;
    ensure!(cluster.stop(follower)? == 0, "the follower did not drain");
    cluster.kill(validator)?;
    let (left, started) = (trial::highest(&cluster, &[0]), Instant::now());
    let shopper = Customer::start(&cluster, trial::wishes(1, 500, &[0, 1, 2]))?;
    let what = format!("{BLOCKS_AWAY} blocks");
    cluster.wait(&what, Duration::from_secs(420), |c| Some(c.height(0)?).filter(|h| *h >= left + BLOCKS_AWAY))?;
    let account = shopper.stop()?;
    ensure!(!account.jobs.is_empty() && account.transfers > 0, "nothing happened meanwhile: {account:?}");
    println!(
        "{BLOCKS_AWAY} blocks with {} jobs and {} transfers in {:.1} s",
        account.jobs.len(),
        account.transfers,
        started.elapsed().as_secs_f64()
    );
    catch_up(&mut cluster, validator, left, "a validator ended by kill -9")?;
    catch_up(&mut cluster, follower, left, "a follower that was stopped")?;
    // The validator is one again: with it and any two others the chain goes on.
    ensure!(cluster.stop(2)? == 0, "node 2 did not drain");
    let goal = trial::progress(&mut cluster, &[0, 1], 5)?;
    cluster.wait_height(validator, goal, MINUTE)?;
    cluster.start(2)?;
    conclude(&mut cluster, &account)
}
