//! A network that falls apart: two against two, three against one, silent wires and cut ones. The side without two thirds
//! decides nothing, and after healing all have one chain.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use testnet::faults::signed::Signed;
use testnet::harness::customer::{self, Customer};
use testnet::harness::links::{Links, Wire};
use testnet::harness::{Cluster, Launch, trial};

/// How long a split lasts at least.
const SPLIT: Duration = Duration::from_secs(12);
/// What was on its way when the wires fell silent has arrived by then.
const LAST_WORDS: Duration = Duration::from_secs(3);

fn heights(cluster: &Cluster, nodes: &[usize]) -> Vec<Option<u64>> {
    nodes.iter().map(|index| cluster.height(*index)).collect()
}

/// Waits until every node has every other for a peer, by the wires alone.
fn connected(cluster: &mut Cluster, links: &Links) -> Result<()> {
    for index in 0..4 {
        cluster.wait("all peers, by the wires alone", 2 * trial::MINUTE, |c| links.check(c, index).ok())?;
    }
    Ok(())
}

/// A side without two thirds of the power: its heights stand still.
fn stands_still(cluster: &Cluster, side: &[usize]) -> Result<()> {
    std::thread::sleep(LAST_WORDS);
    let before = heights(cluster, side);
    ensure!(before.iter().all(Option::is_some), "a node of {side:?} does not answer: {before:?}");
    std::thread::sleep(SPLIT);
    let after = heights(cluster, side);
    ensure!(before == after, "{side:?} went from {before:?} to {after:?} without two thirds");
    Ok(())
}

#[test]
fn a_split_network_decides_nothing_without_two_thirds_and_agrees_after_healing() -> Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("partition");
    let mut cluster = trial::network(&dir, 4, |_| ())?;
    let links = Links::lay(&cluster)?;
    for index in 0..4 {
        let launch = links.launch(&cluster, index, Launch::default())?;
        cluster.set_launch(index, launch);
    }
    trial::start_all(&mut cluster)?;
    connected(&mut cluster, &links)?;
    // Every node has announced an address at which nobody listens by now: there is no way beside the wires.
    std::thread::sleep(Duration::from_secs(7));
    let shopper = Customer::start(&cluster, trial::wishes(1, 500, &[0, 1, 2]))?;
    trial::progress(&mut cluster, &[0, 1, 2, 3], 5)?;

    links.split(&[&[0, 1], &[2, 3]], Wire::Silent);
    stands_still(&cluster, &[0, 1, 2, 3])?;
    links.heal();
    trial::progress(&mut cluster, &[0, 1], 3)?;
    trial::progress(&mut cluster, &[2, 3], 3)?;
    println!("two against two, silent: healed at heights {:?}", heights(&cluster, &[0, 1, 2, 3]));

    connected(&mut cluster, &links)?;
    links.split(&[&[0, 3], &[1, 2]], Wire::Cut);
    stands_still(&cluster, &[0, 1, 2, 3])?;
    links.heal();
    trial::progress(&mut cluster, &[0, 3], 3)?;
    println!("two against two, cut: healed at heights {:?}", heights(&cluster, &[0, 1, 2, 3]));

    for wire in [Wire::Cut, Wire::Silent] {
        connected(&mut cluster, &links)?;
        links.split(&[&[0, 1, 2], &[3]], wire);
        let job = customer::submit(&cluster, 1, &trial::wishes(1, 700, &[]))?;
        stands_still(&cluster, &[3])?;
        trial::progress(&mut cluster, &[0, 1, 2], 3)?;
        let view = cluster.wait_job(2, &job, trial::SETTLE)?;
        ensure!(view["status"] == "completed", "the job of the larger side: {view}");
        links.heal();
        let goal = trial::highest(&cluster, &[0, 1, 2]);
        cluster.wait_height(3, goal, 2 * trial::MINUTE)?;
        println!("three against one, {wire:?}: healed at heights {:?}", heights(&cluster, &[0, 1, 2, 3]));
    }
    let account = shopper.stop()?;
    trial::conclude(&mut cluster, &account, &mut Signed::default())?;
    Ok(())
}
