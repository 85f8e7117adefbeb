//! `config show` and `config check`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Context;
use crate::config::{layers, template};
use crate::failure::Failure;
use crate::home::read_genesis;
use crate::{failure::Exit, keys};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every key with the value in force.
    Show(ShowArgs),
    /// Check configuration, genesis document and keys without starting anything.
    Check,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Say where each value comes from.
    #[arg(long)]
    origin: bool,
}

pub(super) fn config(context: &Context, command: &ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(args) => show(context, args.origin),
        ConfigCommand::Check => check(context),
    }
}

fn show(context: &Context, origin: bool) -> Result<(), Failure> {
    context.home.require_named()?;
    let resolved = layers::load(&context.home, vec![])?;
    let mut object = Map::new();
    for (key, (value, from)) in &resolved.origins {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        let meaning = template::meaning(key);
        let entry =
            if origin { json!({ "value": value, "origin": from.to_string(), "meaning": meaning }) } else { value };
        object.insert(key.clone(), entry);
    }
    context.out.answer(&object, |_| template::show(&resolved, origin))
}

fn check(context: &Context) -> Result<(), Failure> {
    let home = &context.home;
    home.require()?;
    let config = layers::load(home, vec![])?.config;
    let genesis = read_genesis(&home.genesis_file(), Exit::Config)?;
    keys::check_dir(&home.keys_dir())?;
    keys::read(&home.node_key())?;
    if config.node.validator {
        keys::read(&home.consensus_key())?;
    }
    if config.node.prover {
        keys::read(&home.account_key())?;
    }
    let hash = genesis.hash().to_string();
    let answer = json!({ "ok": true, "chain_id": genesis.chain_id, "genesis_hash": hash, "home": home.root() });
    context.out.answer(&answer, |_| format!("ok: chain {} ({hash}), home {}", genesis.chain_id, home.root().display()))
}
