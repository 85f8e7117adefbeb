//! The measurements of `scripts/bench.sh`: runs them, prints a table, writes the figures as JSON.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use testnet::bench::{Plan, run};
use testnet::harness::binary;

#[derive(Parser)]
#[command(name = "proofmesh-bench", about = "Measures a network of real nodes on this machine")]
struct Arguments {
    /// The node binary; the one beside this program if none is named.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Folder for the nodes' homes, on a file system on a disk.
    #[arg(long)]
    dir: PathBuf,
    /// File for the figures.
    #[arg(long)]
    out: PathBuf,
    /// Shorter runs: all figures within five minutes.
    #[arg(long)]
    quick: bool,
    /// Only these measurements, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Keep the nodes' homes and logs of the last measurement.
    #[arg(long)]
    keep: bool,
    /// Commit that the binary was built from, for the record.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> Result<()> {
    let Arguments { bin, dir, out, quick, only, keep, commit } = Arguments::parse();
    let bin = bin.map_or_else(binary, Ok)?;
    let report = run(&Plan { bin, dir, quick, only, keep, commit }, |entry| {
        println!("{}: {} {} {}", entry.name, entry.value, entry.unit, entry.params);
    })?;
    report.write(&out)?;
    println!("\n{}\nwritten to {}", report.table(), out.display());
    Ok(())
}
