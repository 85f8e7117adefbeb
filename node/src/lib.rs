//! The program `proofmesh`: node and command line. Owns configuration, keys, the command line, JSON-RPC and HTTP; what a
//! node does is in the crate `engine`. The shipped binary is [`main`] and nothing else.

mod cli;
mod client;
mod config;
mod cpu;
pub mod decoders;
mod failure;
mod files;
mod home;
mod http;
mod keys;
mod local;
mod logs;
mod rpc;
mod stored;
mod system;
mod unique;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use engine::Crossings;

use crate::failure::{Exit, Failure};

/// The whole program, from the command line to the exit code. `crossings` is told about the points that a node passes.
pub fn main(crossings: impl FnOnce() -> Crossings) -> ExitCode {
    // Nothing else may happen before: the rest of the program may use instructions that this CPU lacks.
    if let Some(feature) = cpu::missing_feature() {
        return refuse_cpu(feature);
    }
    run(crossings())
}

#[inline(never)]
fn refuse_cpu(feature: &str) -> ExitCode {
    eprintln!(
        "error: this binary was built for {} CPUs, and this machine has no {feature} (it is {})",
        cpu::compiled_level(),
        cpu::machine_level(),
    );
    eprintln!("remedy: build it on this machine by scripts/setup.sh and scripts/testnet.sh, which choose the level");
    Exit::Error.into()
}

#[inline(never)]
fn run(crossings: Crossings) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    let result = match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli, crossings),
        Err(error) => match usage(&error) {
            None => {
                // Help and version go to standard output; a closed pipe is no failure.
                error.print().ok();
                return ExitCode::SUCCESS;
            }
            Some(failure) if json => Err(failure),
            Some(failure) => {
                error.print().ok();
                return failure.exit.into();
            }
        },
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            cli::Output::new(json).failed(&failure);
            failure.exit.into()
        }
    }
}

/// The failure that a refused command line is; `None` where clap was asked for help or the version.
fn usage(error: &clap::Error) -> Option<Failure> {
    if !error.use_stderr() {
        return None;
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let message = words.join(" ").trim_start_matches("error: ").to_string();
    let mut failure = Failure::usage(message).remedy("see: proofmesh help, or proofmesh COMMAND --help");
    if let Some(clap::error::ContextValue::String(argument)) = error.get(clap::error::ContextKind::InvalidArg) {
        failure = failure.field(argument.clone());
    }
    if let Some(clap::error::ContextValue::String(value)) = error.get(clap::error::ContextKind::InvalidValue) {
        failure = failure.value(value);
    }
    Some(failure)
}
