//! `init`: a home folder with keys, configuration and the genesis document of the chain it belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;
use toml::Value as Toml;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::{Amount, GenesisHash, TimeMs};
use types::params::Params;

use super::Context;
use super::join::{Joined, is_loopback, join};
use super::keys::{make_missing, peer_id};
use super::output::lines;
use crate::config::{layers, template, to_multiaddr};
use crate::failure::{Exit, Failure};
use crate::home::{Home, is_there, read_genesis};
use crate::{files, keys};

/// Credits of the account of a chain of one's own.
const DEV_BALANCE: Amount = Amount(1_000_000_000_000);
/// Voting power of a single validator.
const DEV_POWER: u64 = 100;
/// Stake of a validator in a chain of one's own.
const DEV_STAKE: Amount = Amount(1_000_000);
/// Largest step limit that a prover takes unless told otherwise: the default of `prover.steps_max`.
pub(super) const PROVER_STEPS_MAX: u64 = 16_000_000;

#[derive(Debug, Default, Args)]
pub(crate) struct InitArgs {
    /// Join the chain of this genesis document.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bootstrap", "genesis_hash"])]
    genesis: Option<PathBuf>,
    /// Join the chain of a running node: its RPC address, http://HOST:PORT, or its peer-to-peer address, IP:PORT or multiaddr.
    #[arg(long, value_name = "ADDR", requires = "genesis_hash")]
    bootstrap: Option<String>,
    /// Hash of the chain's genesis document, from a source you trust.
    #[arg(long, value_name = "H", requires = "bootstrap")]
    genesis_hash: Option<String>,
    /// Write this address of JSON-RPC and HTTP, IP:PORT, into the configuration.
    #[arg(long, value_name = "ADDR")]
    rpc: Option<String>,
    /// Write this address of the peer-to-peer network, IP:PORT or multiaddr, into the configuration.
    #[arg(long, value_name = "ADDR")]
    p2p: Option<String>,
}

/// The chain that a home joins and how.
struct Plan {
    genesis: Genesis,
    bootstrap: Vec<String>,
    own_chain: bool,
}

pub(super) fn init(context: &Context, args: &InitArgs) -> Result<(), Failure> {
    let home = &context.home;
    if home.is_initialised()? || is_there(&home.genesis_file())? {
        return Err(Failure::error("exists", format!("{} is a home folder already", home.root().display()))
            .field("home")
            .value(home.root().display())
            .remedy("name another folder by --home, or move this one away"));
    }
    let values = listen_values(args)?;
    // First what may fail by a wrong argument or a node that is away, so that a home is made whole or not at all.
    let joined = join_plan(args)?;
    files::create_private_dir(home.root())?;
    make_missing(home)?;
    let plan = match joined {
        Some(plan) => plan,
        None => Plan { genesis: own_chain(home)?, bootstrap: vec![], own_chain: true },
    };
    let written = write(home, &plan, values)?;
    let peer_id = peer_id(&keys::read(&home.node_key())?)?;
    let hash = plan.genesis.hash().to_string();
    let answer = json!({
        "home": home.root(),
        "chain_id": plan.genesis.chain_id,
        "genesis_hash": hash,
        "own_chain": plan.own_chain,
        "validator": written.validator,
        "prover": written.prover,
        "bootstrap": plan.bootstrap,
        "peer_id": peer_id,
    });
    context.out.answer(&answer, |_| {
        let kind = if plan.own_chain {
            "a new chain of its own with one validator, this node; to join another chain, use --genesis or --bootstrap"
        } else {
            "joins an existing chain"
        };
        lines(&[
            ("home", home.root().display().to_string()),
            ("chain", format!("{} ({hash})", plan.genesis.chain_id)),
            ("kind", kind.to_string()),
            ("validator", written.validator.to_string()),
            ("prover", written.prover.to_string()),
            ("next", format!("proofmesh start --home {}", home.root().display())),
        ])
    })
}

/// The chain to join; `None` for one of its own.
fn join_plan(args: &InitArgs) -> Result<Option<Plan>, Failure> {
    if let Some(path) = &args.genesis {
        return Ok(Some(Plan { genesis: read_genesis(path, Exit::Usage)?, bootstrap: vec![], own_chain: false }));
    }
    let (Some(address), Some(hash)) = (&args.bootstrap, &args.genesis_hash) else { return Ok(None) };
    let hash: GenesisHash = hash.parse().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
    let Joined { genesis, bootstrap } = join(address, hash)?;
    Ok(Some(Plan { genesis, bootstrap, own_chain: false }))
}

/// Listening addresses as keys of the configuration, checked.
fn listen_values(args: &InitArgs) -> Result<BTreeMap<&'static str, Toml>, Failure> {
    let mut values = BTreeMap::new();
    if let Some(rpc) = &args.rpc {
        values.insert("rpc.listen", Toml::String(rpc.clone()));
    }
    if let Some(p2p) = &args.p2p {
        values.insert("p2p.listen", Toml::Array(vec![Toml::String(to_multiaddr(p2p))]));
    }
    let flags = values.iter().map(|(key, value)| (*key, value.clone())).collect();
    layers::resolve(Path::new("the command line"), "", std::iter::empty(), flags).map_err(|mut failure| {
        failure.exit = Exit::Usage;
        failure
    })?;
    Ok(values)
}

/// A chain of one validator, which is also prover and owns all credits.
fn own_chain(home: &Home) -> Result<Genesis, Failure> {
    let consensus = keys::read(&home.consensus_key())?.public();
    let account = keys::read(&home.account_key())?.public();
    let params = Params::standard();
    let deposit = params.assignment.prover_deposit;
    let genesis = Genesis {
        chain_id: format!("local-{}", account.short()),
        time_ms: now_ms()?,
        params,
        validators: vec![GenesisValidator { key: consensus, power: DEV_POWER, account, stake: DEV_STAKE }],
        provers: vec![GenesisProver { account, weight: 1, steps_max: PROVER_STEPS_MAX, deposit }],
        accounts: vec![GenesisAccount { account, balance: DEV_BALANCE }],
    };
    genesis.check().map_err(|e| Failure::of_type(Exit::Error, &e))?;
    Ok(genesis)
}

/// The wall clock.
///
/// # Errors
/// When it is before 1970.
pub(super) fn now_ms() -> Result<TimeMs, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| {
        Failure::error("clock", "the machine's clock is before 1970").remedy("set the clock; see: proofmesh doctor")
    })?;
    Ok(TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// What `write` decided about roles.
pub(super) struct Written {
    pub(super) validator: bool,
    pub(super) prover: bool,
}

/// Writes genesis document and configuration; roles follow from the document and the home's keys.
fn write(home: &Home, plan: &Plan, mut values: BTreeMap<&'static str, Toml>) -> Result<Written, Failure> {
    if !plan.bootstrap.is_empty() {
        values.insert("p2p.bootstrap", Toml::Array(plan.bootstrap.iter().cloned().map(Toml::String).collect()));
        // Who is told to join over loopback is on the machine of a testnet; other networks don't dial such addresses.
        let local = plan.bootstrap.iter().all(|address| is_loopback(address));
        if local {
            values.insert("node.testnet", Toml::Boolean(true));
        }
    }
    write_home(home, &plan.genesis, values)
}

/// Writes genesis document and configuration of a home that has its keys.
///
/// # Errors
/// When a file exists or can't be written.
pub(super) fn write_home(home: &Home, genesis: &Genesis, mut values: BTreeMap<&str, Toml>) -> Result<Written, Failure> {
    let consensus = keys::read(&home.consensus_key())?.public();
    let account = keys::read(&home.account_key())?.public();
    let validator = genesis.validators.iter().any(|v| v.key == consensus);
    let prover = genesis.provers.iter().any(|p| p.account == account);
    values.insert("node.validator", Toml::Boolean(validator));
    values.insert("node.prover", Toml::Boolean(prover));
    let document = serde_json::to_string_pretty(genesis)
        .map_err(|e| Failure::error("internal", format!("the genesis document can't be written as JSON: {e}")))?;
    files::create_new(&home.genesis_file(), format!("{document}\n").as_bytes(), 0o644)?;
    // The template shows defaults; flags and environment of this command are none of the file's business.
    let defaults = layers::resolve(&home.config_file(), "", std::iter::empty(), vec![])?;
    files::create_new(&home.config_file(), template::render(&defaults, &values).as_bytes(), 0o644)?;
    Ok(Written { validator, prover })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_of_ones_own_is_complete_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&folder.path().join("home"))).unwrap();
        let context = Context {
            out: super::super::Output::new(true),
            home: home.clone(),
            crossings: engine::Crossings::default(),
        };
        let args = InitArgs::default();
        init(&context, &args).unwrap();
        let config = layers::resolve(
            &home.config_file(),
            &std::fs::read_to_string(home.config_file()).unwrap(),
            std::iter::empty(),
            vec![],
        )
        .unwrap()
        .config;
        assert!(config.node.validator && config.node.prover);
        let genesis = home.genesis().unwrap();
        let publics: Vec<_> = [home.node_key(), home.consensus_key(), home.account_key()]
            .iter()
            .map(|p| keys::read(p).unwrap().public())
            .collect();
        assert!(publics[0] != publics[1] && publics[1] != publics[2] && publics[0] != publics[2]);
        assert_eq!((genesis.validators[0].key, genesis.accounts[0].account), (publics[1], publics[2]));
        keys::check_dir(&home.keys_dir()).unwrap();
        assert_eq!(init(&context, &args).unwrap_err().code, "exists");

        let second = Home::locate(Some(&folder.path().join("second"))).unwrap();
        let context = Context {
            out: super::super::Output::new(true),
            home: second.clone(),
            crossings: engine::Crossings::default(),
        };
        init(&context, &InitArgs { genesis: Some(home.genesis_file()), ..InitArgs::default() }).unwrap();
        assert_eq!(second.genesis().unwrap().hash(), genesis.hash());
        let text = std::fs::read_to_string(second.config_file()).unwrap();
        let config = layers::resolve(&second.config_file(), &text, std::iter::empty(), vec![]).unwrap().config;
        assert!(!config.node.validator && !config.node.prover);
    }
}
