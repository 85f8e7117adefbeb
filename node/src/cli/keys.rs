//! `keys generate` and `keys show`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, json};
use types::keys::SecretKey;

use super::Context;
use super::output::lines;
use crate::failure::Failure;
use crate::home::Home;
use crate::keys::{self, KeyKind};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make the home's missing keys, or one key in a file of its own.
    Generate(GenerateArgs),
    /// Show public keys and the peer id; never the secret.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Write one key to this new file instead of the home folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Show the public key of this file instead of the home's keys.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(super) fn keys(context: &Context, command: &KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Generate(GenerateArgs { out: Some(path) }) => {
            let key = keys::generate()?;
            keys::write(path, &key)?;
            let public = key.public().to_string();
            context.out.answer(&json!({ "file": path, "public_key": public }), |_| {
                lines(&[("file", path.display().to_string()), ("public_key", public.clone())])
            })
        }
        KeysCommand::Generate(GenerateArgs { out: None }) => {
            make_missing(&context.home)?;
            show_home(context)
        }
        KeysCommand::Show(ShowArgs { key: Some(path) }) => {
            let public = keys::read(path)?.public().to_string();
            context
                .out
                .answer(&json!({ "file": path, "public_key": public }), |_| lines(&[("public_key", public.clone())]))
        }
        KeysCommand::Show(ShowArgs { key: None }) => show_home(context),
    }
}

/// The file of a home's key.
pub(super) fn file_of(home: &Home, kind: KeyKind) -> PathBuf {
    match kind {
        KeyKind::Node => home.node_key(),
        KeyKind::Consensus => home.consensus_key(),
        KeyKind::Account => home.account_key(),
    }
}

/// The peer id of a node key.
///
/// # Errors
/// When libp2p refuses the key.
pub(super) fn peer_id(key: &SecretKey) -> Result<String, Failure> {
    let peer =
        network::node_key_peer_id(key).ok_or_else(|| Failure::config("the node key has no peer id").field("key"))?;
    Ok(peer.to_string())
}

/// Makes those of the three keys that the home lacks.
pub(super) fn make_missing(home: &Home) -> Result<(), Failure> {
    for kind in KeyKind::ALL {
        let path = file_of(home, kind);
        if !path.exists() {
            keys::write(&path, &keys::generate()?)?;
        }
    }
    keys::check_dir(&home.keys_dir())
}

fn show_home(context: &Context) -> Result<(), Failure> {
    keys::check_dir(&context.home.keys_dir())?;
    let mut object = Map::new();
    let mut text = vec![];
    for kind in KeyKind::ALL {
        let key = keys::read(&file_of(&context.home, kind))?;
        let public = key.public().to_string();
        object.insert(kind.name().into(), public.clone().into());
        text.push((kind.name(), public));
        if kind == KeyKind::Node {
            let peer = peer_id(&key)?;
            object.insert("peer_id".into(), peer.clone().into());
            text.push(("peer_id", peer));
        }
    }
    context.out.answer(&object, |_| lines(&text))
}
