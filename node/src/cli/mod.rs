//! The command line: what can be asked, and who answers it.

mod account;
mod bench;
mod config;
mod db;
mod doctor;
mod gpu;
mod init;
mod job;
mod join;
mod keys;
mod output;
mod prove;
mod provers;
mod receipt;
mod start;
mod status;
mod submit;
mod testnet;
mod tx;
mod validators;
mod verify;
mod wait;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use engine::Crossings;

pub(crate) use output::Output;
pub(crate) use validators::JOIN_COMMAND;

use crate::failure::Failure;
use crate::home::Home;

/// A peer-to-peer network that proves computations: node and command line in one binary.
#[derive(Debug, Parser)]
#[command(name = "proofmesh", version, propagate_version = false, max_term_width = 100)]
pub(crate) struct Cli {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Home folder of the node [default: ~/.proofmesh].
    #[arg(long, global = true, env = "PROOFMESH_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a home folder: keys, configuration, genesis document. Without options: a new chain of one validator.
    Init(init::InitArgs),
    /// Run the node.
    Start(start::StartArgs),
    /// How the node is doing.
    Status(ClientArgs),
    /// The node's peers.
    Peers(ClientArgs),
    /// Check ports, clock, disk, memory and CPU, each with its remedy.
    Doctor,
    /// Make and show keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Show and check the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look after the stored data of a stopped node.
    #[command(subcommand)]
    Db(db::DbCommand),
    /// Version of the binary and of what it speaks.
    Version,
    /// Submit and follow jobs.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Sign and send transactions.
    #[command(subcommand)]
    Tx(tx::TxCommand),
    /// Show accounts.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Join and leave the provers.
    #[command(subcommand)]
    Prover(provers::ProverCommand),
    /// Join and leave the validators.
    #[command(subcommand)]
    Validator(validators::ValidatorCommand),
    /// Check a receipt offline: exit 0 valid, 1 invalid, 2 usage.
    Verify(verify::VerifyArgs),
    /// Prove a program locally, without a network.
    Prove(prove::ProveArgs),
    /// Take parts out of a receipt.
    #[command(subcommand)]
    Receipt(receipt::ReceiptCommand),
    /// Measure this machine.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Make the home folders of a testnet on one machine.
    TestnetInit(testnet::TestnetArgs),
    /// Run as a node's child process; started by the node itself.
    #[command(subcommand, hide = true)]
    Worker(WorkerCommand),
}

/// Which of a node's child processes to be.
#[derive(Debug, Subcommand)]
enum WorkerCommand {
    /// Proves.
    Prove,
    /// Executes programs.
    Execute,
}

/// Which node to ask.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClientArgs {
    /// The node's RPC address [default: rpc.listen of the home's configuration].
    #[arg(long, value_name = "URL")]
    pub(crate) rpc: Option<String>,
}

/// What every command gets.
pub(crate) struct Context {
    /// Where and how to print.
    pub(crate) out: Output,
    /// The home folder, not necessarily existing.
    pub(crate) home: Home,
    /// Told about the points that a node passes.
    pub(crate) crossings: Crossings,
}

/// Runs the command and returns its exit code: 0, but for `verify` and `doctor`, whose answer it is.
pub(crate) fn run(cli: Cli, crossings: Crossings) -> Result<u8, Failure> {
    let out = Output::new(cli.json);
    // Some commands have nothing to do with a home, and must work where there is none.
    let command = match cli.command {
        Command::Worker(WorkerCommand::Prove) => prover::worker::main(prover::worker::Kind::Prove),
        Command::Worker(WorkerCommand::Execute) => prover::worker::main(prover::worker::Kind::Execute),
        Command::Verify(args) => return verify::verify(out, &args),
        Command::Version => return status::version(out).map(|()| 0),
        Command::Prove(args) => return prove::prove(out, &args).map(|()| 0),
        Command::Receipt(command) => return receipt::receipt(out, &command).map(|()| 0),
        Command::Bench(command) => return bench::bench(out, cli.home.as_deref(), &command).map(|()| 0),
        other => other,
    };
    let context = &Context { out, home: Home::locate(cli.home.as_deref())?, crossings };
    match command {
        Command::Doctor => return doctor::doctor(context),
        Command::Init(args) => init::init(context, &args),
        Command::Start(args) => start::start(context, &args),
        Command::Status(args) => status::status(context, &args),
        Command::Peers(args) => status::peers(context, &args),
        Command::Keys(command) => keys::keys(context, &command),
        Command::Config(command) => config::config(context, &command),
        Command::Db(command) => db::db(context, &command),
        Command::Job(command) => job::job(context, &command),
        Command::Tx(command) => tx::tx(context, &command),
        Command::Account(command) => account::account(context, &command),
        Command::Prover(command) => provers::prover(context, &command),
        Command::Validator(command) => validators::validator(context, &command),
        Command::TestnetInit(args) => testnet::testnet(context, &args),
        // Answered above.
        Command::Worker(_)
        | Command::Verify(_)
        | Command::Version
        | Command::Prove(_)
        | Command::Receipt(_)
        | Command::Bench(_) => Ok(()),
    }
    .map(|()| 0)
}
