//! `init`: a home folder with keys, configuration and the genesis document of the chain it belongs to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use toml::Value as Toml;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::{Amount, GenesisHash, TimeMs};
use types::params::Params;

use super::Context;
use super::keys::make_missing;
use super::output::lines;
use super::tx::Chain;
use crate::client::{Client, block_on};
use crate::config::{layers, template};
use crate::failure::{Exit, Failure};
use crate::home::{Home, read_genesis};
use crate::{files, keys};

/// Credits of the account of a chain of one's own.
const DEV_BALANCE: Amount = Amount(1_000_000_000_000);
/// Voting power of a single validator.
const DEV_POWER: u64 = 100;
/// Stake of a validator in a chain of one's own.
const DEV_STAKE: Amount = Amount(1_000_000);
/// Largest step limit that a prover takes unless told otherwise: the default of `prover.steps_max`.
pub(super) const PROVER_STEPS_MAX: u64 = 16_000_000;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Join the chain of this genesis document.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bootstrap", "genesis_hash"])]
    genesis: Option<PathBuf>,
    /// Join the chain of a running node: its RPC address, http://HOST:PORT.
    #[arg(long, value_name = "ADDR", requires = "genesis_hash")]
    bootstrap: Option<String>,
    /// Hash of the chain's genesis document, from a source you trust.
    #[arg(long, value_name = "H", requires = "bootstrap")]
    genesis_hash: Option<String>,
}

/// The chain that a home joins and how.
struct Plan {
    genesis: Genesis,
    bootstrap: Vec<String>,
    own_chain: bool,
}

pub(super) fn init(context: &Context, args: &InitArgs) -> Result<(), Failure> {
    let home = &context.home;
    if home.is_initialised() || home.genesis_file().exists() {
        return Err(Failure::error("exists", format!("{} is a home folder already", home.root().display()))
            .field("home")
            .value(home.root().display())
            .remedy("name another folder by --home, or move this one away"));
    }
    files::create_private_dir(home.root())?;
    make_missing(home)?;
    let plan = plan(home, args)?;
    let written = write(home, &plan, &[])?;
    let hash = plan.genesis.hash().to_string();
    let answer = json!({
        "home": home.root(),
        "chain_id": plan.genesis.chain_id,
        "genesis_hash": hash,
        "own_chain": plan.own_chain,
        "validator": written.validator,
        "prover": written.prover,
        "bootstrap": plan.bootstrap,
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

fn plan(home: &Home, args: &InitArgs) -> Result<Plan, Failure> {
    if let Some(path) = &args.genesis {
        return Ok(Plan { genesis: read_genesis(path, Exit::Usage)?, bootstrap: vec![], own_chain: false });
    }
    if let (Some(address), Some(hash)) = (&args.bootstrap, &args.genesis_hash) {
        let hash: GenesisHash = hash.parse().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
        return join(address, hash);
    }
    Ok(Plan { genesis: own_chain(home)?, bootstrap: vec![], own_chain: true })
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

/// Fetches the genesis document from a node and holds it against the hash; learns where that node is dialled.
fn join(address: &str, hash: GenesisHash) -> Result<Plan, Failure> {
    if address.starts_with('/') {
        return Err(Failure::usage(format!("bootstrap: '{address}' is a peer-to-peer address"))
            .field("bootstrap")
            .value(address)
            .limit("http://HOST:PORT of a node's RPC")
            .remedy("give the RPC address of any node: from it come the genesis document and the peer-to-peer address"));
    }
    let client = Client::at(address)?;
    let (chain, net): (Chain, Value) =
        block_on(async { Ok((client.call("chain_genesis", json!([])).await?, client.call("net_info", json!([])).await?)) })?;
    let found = chain.genesis.hash();
    if found != hash {
        return Err(Failure::error("chain", format!("the node at {address} is on another chain than asked for"))
            .field("genesis-hash")
            .value(found)
            .limit(hash)
            .remedy("check the hash with its source, or ask a node of the right chain"));
    }
    chain.genesis.check().map_err(|e| Failure::of_type(Exit::Error, &e))?;
    let peer_id = net["peer_id"].as_str().unwrap_or_default();
    let listen: Vec<String> =
        net["listen"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    let bootstrap = dial_addresses(address, &listen, peer_id);
    if bootstrap.is_empty() {
        return Err(Failure::error("bad_answer", "net_info: the node names no address to dial")
            .remedy("ask another node, or use --genesis FILE and write p2p.bootstrap into config.toml"));
    }
    Ok(Plan { genesis: chain.genesis, bootstrap, own_chain: false })
}

/// Addresses under which the node behind the URL can be dialled: those it listens on, with the URL's host in place of
/// addresses that only mean something on its own machine.
fn dial_addresses(url: &str, listen: &[String], peer_id: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
    let seen_as = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("/ip4/{ip}"),
        Ok(IpAddr::V6(ip)) => format!("/ip6/{ip}"),
        Err(_) => format!("/dns/{host}"),
    };
    let mut out: Vec<String> = listen
        .iter()
        .filter_map(|address| {
            let parts: Vec<&str> = address.split('/').collect();
            let ["", "ip4" | "ip6", _, "tcp", port, ..] = parts.as_slice() else { return None };
            let tail = if peer_id.is_empty() { String::new() } else { format!("/p2p/{peer_id}") };
            Some(format!("{seen_as}/tcp/{port}{tail}"))
        })
        .collect();
    out.sort();
    out.dedup();
    out
}

/// What `write` decided about roles.
pub(super) struct Written {
    pub(super) validator: bool,
    pub(super) prover: bool,
}

/// Writes genesis document and configuration; roles follow from the document and the home's keys.
fn write(home: &Home, plan: &Plan, extra: &[(&'static str, Toml)]) -> Result<Written, Failure> {
    let mut values: BTreeMap<&str, Toml> = extra.iter().cloned().collect();
    if !plan.bootstrap.is_empty() {
        values.insert("p2p.bootstrap", Toml::Array(plan.bootstrap.iter().cloned().map(Toml::String).collect()));
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
    fn a_node_is_dialled_where_it_was_asked() {
        let listen = ["/ip4/127.0.0.1/tcp/7600".to_string(), "/ip4/10.1.1.1/tcp/7600".into(), "/ip4/1.2.3.4/udp/1/quic-v1".into()];
        assert_eq!(dial_addresses("http://192.0.2.5:7601", &listen, "12D3"), ["/ip4/192.0.2.5/tcp/7600/p2p/12D3"]);
        assert_eq!(dial_addresses("[::1]:7601", &listen, ""), ["/ip6/::1/tcp/7600"]);
        assert_eq!(dial_addresses("http://node.example:1", &listen[..1], "x"), ["/dns/node.example/tcp/7600/p2p/x"]);
        assert!(dial_addresses("http://192.0.2.5:7601", &[], "x").is_empty());
    }

    #[test]
    fn a_home_of_ones_own_is_complete_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&folder.path().join("home"))).unwrap();
        let context = Context { out: super::super::Output::new(true), home: home.clone() };
        let args = InitArgs { genesis: None, bootstrap: None, genesis_hash: None };
        init(&context, &args).unwrap();
        let config = layers::resolve(&home.config_file(), &std::fs::read_to_string(home.config_file()).unwrap(), std::iter::empty(), vec![]).unwrap().config;
        assert!(config.node.validator && config.node.prover);
        let genesis = home.genesis().unwrap();
        let publics: Vec<_> =
            [home.node_key(), home.consensus_key(), home.account_key()].iter().map(|p| keys::read(p).unwrap().public()).collect();
        assert!(publics[0] != publics[1] && publics[1] != publics[2] && publics[0] != publics[2]);
        assert_eq!((genesis.validators[0].key, genesis.accounts[0].account), (publics[1], publics[2]));
        keys::check_dir(&home.keys_dir()).unwrap();
        assert_eq!(init(&context, &args).unwrap_err().code, "exists");

        let second = Home::locate(Some(&folder.path().join("second"))).unwrap();
        let context = Context { out: super::super::Output::new(true), home: second.clone() };
        init(&context, &InitArgs { genesis: Some(home.genesis_file()), bootstrap: None, genesis_hash: None }).unwrap();
        assert_eq!(second.genesis().unwrap().hash(), genesis.hash());
        let text = std::fs::read_to_string(second.config_file()).unwrap();
        let config = layers::resolve(&second.config_file(), &text, std::iter::empty(), vec![]).unwrap().config;
        assert!(!config.node.validator && !config.node.prover);
    }
}
