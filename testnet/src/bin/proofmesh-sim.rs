//! Runs the deterministic simulation over a range of seeds and prints what it did, or the seed that broke an invariant.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use testnet::sim::{Bug, Config, run_all};

#[derive(Parser)]
#[command(name = "proofmesh-sim", about = "Deterministic simulation of a network in memory")]
struct Arguments {
    /// Number of seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads; each runs one seed at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Plants a fault in the simulator's shell: publish-before-sync, vote-counted-twice or job-paid-twice.
    #[arg(long)]
    planted: Option<String>,
    /// Prints a line for every seed.
    #[arg(long)]
    verbose: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let bug = match &arguments.planted {
        None => None,
        Some(name) => match Bug::ALL.into_iter().find(|bug| bug.name() == name) {
            Some(bug) => Some(bug),
            None => bail!("--planted is '{name}'; known are {}", Bug::ALL.map(Bug::name).join(", ")),
        },
    };
    let last = arguments.first_seed.saturating_add(arguments.seeds);
    let configs: Vec<_> = (arguments.first_seed..last).map(|seed| Config { bug, ..Config::of_seed(seed) }).collect();
    let started = Instant::now();
    let results = run_all(&configs, arguments.threads);
    let (mut failed, mut blocks, mut crashes, mut torn, mut paid, mut synced, mut lost, mut effects) =
        (0u64, 0, 0, 0, 0, 0, 0, 0);
    for (config, result) in configs.iter().zip(&results) {
        match result {
            Ok(r) => {
                if arguments.verbose {
                    println!("seed {}: {r:?}", config.seed);
                }
                (blocks, crashes, torn, paid) = (blocks + r.height, crashes + r.crashes, torn + r.torn, paid + r.paid);
                (synced, lost, effects) = (synced + r.synced, lost + r.lost, effects + r.effects);
            }
            Err(failure) => {
                failed += 1;
                println!("FAILED {failure}");
            }
        }
    }
    println!(
        "{} seeds from {}: {failed} failed; {blocks} blocks, {effects} effects, {crashes} crashes ({torn} torn logs), {lost} messages lost, \
         {synced} blocks synced, {paid} jobs paid; {:.1} s",
        configs.len(),
        arguments.first_seed,
        started.elapsed().as_secs_f64()
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
