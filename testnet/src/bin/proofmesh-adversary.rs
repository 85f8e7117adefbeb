//! A peer that cheats, for tests: told what to do by JSON lines on standard input. See [`testnet::adversary`].

use anyhow::Result;
use clap::{Parser, Subcommand};
use testnet::adversary::{prover, validator_control};

#[derive(Parser)]
#[command(name = "proofmesh-adversary", about = "A peer that breaks the rules on purpose, for tests")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// A registered prover that commits what it should not.
    Prover(prover::ProverArgs),
    /// Validators that sign and propose what they should not.
    Validators(validator_control::Setup),
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match Arguments::parse().role {
        Role::Prover(args) => runtime.block_on(prover::run(args)),
        Role::Validators(setup) => runtime.block_on(validator_control::run(&setup)),
    }
}
