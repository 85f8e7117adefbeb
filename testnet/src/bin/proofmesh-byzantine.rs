//! A hostile member of the network as a process of its own, driven by commands on standard input; see
//! `testnet::adversary`. For tests alone: it never leaves this crate.

use std::path::PathBuf;

use clap::Parser;
use testnet::adversary::validator_control::{Setup, run};

#[derive(Debug, Parser)]
#[command(about = "A hostile validator for tests", version)]
struct Arguments {
    /// The genesis document.
    #[arg(long)]
    genesis: PathBuf,
    /// Home folder whose keys it holds; may be repeated.
    #[arg(long = "home", required = true)]
    homes: Vec<PathBuf>,
    /// Address of a node, multiaddr; may be repeated.
    #[arg(long = "peer", required = true)]
    peers: Vec<String>,
}

fn main() {
    let Arguments { genesis, homes, peers } = Arguments::parse();
    let setup = Setup { genesis, homes, peers };
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&setup)));
    if let Err(error) = ended {
        eprintln!("byzantine: {error:#}");
        std::process::exit(1);
    }
    // The thread that reads standard input may still wait for a line.
    std::process::exit(0);
}
