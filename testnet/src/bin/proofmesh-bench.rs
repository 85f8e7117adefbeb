//! The measurements of `scripts/bench.sh`: runs them, prints a table, writes the figures as JSON.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use testnet::bench::{Fetch, Plan, fetch, run};
use testnet::harness::binary;

#[derive(Parser)]
#[command(name = "proofmesh-bench", about = "Measures a network of real nodes on this machine")]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Subcommand)]
enum Part {
    /// The fetching side of the blob measurement, which starts it as a process of its own.
    #[command(hide = true)]
    BlobFetch(Fetch),
}

#[derive(Args)]
struct Measure {
    /// The node binary; the one beside this program if none is named.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Folder for the nodes' homes, on a file system on a disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// File for the figures.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Shorter runs: all figures within five minutes.
    #[arg(long)]
    quick: bool,
    /// Only these measurements, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of the load under which memory is watched [default: 3600, quick: 20].
    #[arg(long, value_parser = clap::value_parser!(u64).range(8..=86_400))]
    soak_s: Option<u64>,
    /// Keep the nodes' homes and logs of the last measurement.
    #[arg(long)]
    keep: bool,
    /// Commit that the binary was built from, for the record.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> Result<()> {
    let Arguments { part, measure } = Arguments::parse();
    if let Some(Part::BlobFetch(part)) = part {
        return fetch(&part);
    }
    let Measure { bin, dir, out, quick, only, soak_s, keep, commit } = measure;
    let bin = bin.map_or_else(binary, Ok)?;
    let (dir, out) = (dir.context("--dir is needed")?, out.context("--out is needed")?);
    let report = run(&Plan { bin, dir, quick, only, soak_s, keep, commit }, |entry| {
        println!("{}: {} {} {}", entry.name, entry.value, entry.unit, entry.params);
    })?;
    report.write(&out)?;
    println!("\n{}\nwritten to {}", report.table(), out.display());
    Ok(())
}
