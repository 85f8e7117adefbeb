//! `testnet-init`: the home folders of a testnet on one machine, its genesis document and a user with credits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use toml::Value as Toml;
use types::genesis::{Genesis, GenesisAccount, GenesisProver, GenesisValidator};
use types::ids::Amount;
use types::keys::{PublicKey, SecretKey};
use types::params::Params;

use super::Context;
use super::init::{PROVER_STEPS_MAX, now_ms, write_home};
use super::keys::make_missing;
use super::output::table;
use crate::failure::{Exit, Failure};
use crate::home::Home;
use crate::{files, keys};

/// Credits of the user.
const USER_BALANCE: Amount = Amount(1_000_000_000_000);
/// Credits of each node's account.
const NODE_BALANCE: Amount = Amount(1_000_000);
/// Stake of each validator.
const STAKE: Amount = Amount(1_000_000);
/// Voting power of each validator.
const POWER: u64 = 100;

#[derive(Debug, Args)]
pub(crate) struct TestnetArgs {
    /// Folder to write to; must not hold a testnet yet.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Number of nodes, each validator and prover.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// Node i listens on this port plus 10 i (peer-to-peer) and one more (RPC).
    #[arg(long, value_name = "P", default_value_t = 27_600, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    base_port: u16,
    /// Least time between blocks while there is work, ms.
    #[arg(long, value_name = "MS")]
    block_ms: Option<u64>,
    /// Time between blocks while there is none, ms.
    #[arg(long, value_name = "MS")]
    empty_block_ms: Option<u64>,
    /// Length of a prover's exclusive window, ms.
    #[arg(long, value_name = "MS")]
    window_ms: Option<u64>,
    /// Name of the chain.
    #[arg(long, value_name = "ID", default_value = "testnet")]
    chain_id: String,
}

/// A node to be.
struct Node {
    name: String,
    home: Home,
    p2p: String,
    rpc: String,
    peer_id: String,
}

pub(super) fn testnet(context: &Context, args: &TestnetArgs) -> Result<(), Failure> {
    let dir = std::path::absolute(&args.dir).map_err(|e| Failure::io(&args.dir, "locating", &e).field("dir"))?;
    let genesis_file = dir.join("genesis.json");
    check_empty(&dir)?;
    let last = u32::from(args.base_port) + 10 * u32::from(args.nodes);
    if last > u32::from(u16::MAX) {
        return Err(Failure::usage("base-port: the ports of the last nodes are above 65535")
            .field("base-port")
            .value(args.base_port)
            .limit(65_535 - 10 * u32::from(args.nodes))
            .remedy("choose a lower --base-port"));
    }
    // With keys that nobody has: whatever no chain could start from is told before anything is written.
    let trial = |of: u8, index: u16| {
        let [high, low] = index.to_be_bytes();
        let mut seed = [of; 32];
        (seed[0], seed[1]) = (high, low);
        SecretKey::from_seed(seed).public()
    };
    let owners: Vec<_> = (0..args.nodes).map(|i| Owner { consensus: trial(1, i), account: trial(2, i) }).collect();
    genesis(args, &owners, trial(3, 0))?;
    files::create_private_dir(&dir)?;
    let user_key = dir.join("user.key");
    let user = keys::generate()?;
    keys::write(&user_key, &user)?;
    let nodes = (0..args.nodes).map(|i| make_node(args, &dir, i)).collect::<Result<Vec<_>, _>>()?;
    let owners = nodes.iter().map(Owner::of).collect::<Result<Vec<_>, _>>()?;
    let genesis = genesis(args, &owners, user.public())?;
    for (i, node) in nodes.iter().enumerate() {
        // One address is enough to join; the first node takes the second's, to find back after a restart.
        let bootstrap = match i {
            0 => nodes.get(1),
            _ => nodes.first(),
        };
        let bootstrap = bootstrap.map(|peer| Toml::String(format!("{}/p2p/{}", peer.p2p, peer.peer_id)));
        let values = BTreeMap::from([
            ("node.testnet", Toml::Boolean(true)),
            ("p2p.listen", Toml::Array(vec![Toml::String(node.p2p.clone())])),
            ("p2p.bootstrap", Toml::Array(bootstrap.into_iter().collect())),
            ("rpc.listen", Toml::String(node.rpc.clone())),
            ("log.format", Toml::String("json".into())),
        ]);
        write_home(&node.home, &genesis, values)?;
    }
    let document = serde_json::to_string_pretty(&genesis)
        .map_err(|e| Failure::error("internal", format!("the genesis document can't be written as JSON: {e}")))?;
    files::create_new(&genesis_file, format!("{document}\n").as_bytes(), 0o644)?;
    answer(context, &genesis, &genesis_file, &user_key, &nodes)
}

/// The public keys of a node.
struct Owner {
    consensus: PublicKey,
    account: PublicKey,
}

impl Owner {
    fn of(node: &Node) -> Result<Self, Failure> {
        let consensus = keys::read(&node.home.consensus_key())?.public();
        Ok(Self { consensus, account: keys::read(&node.home.account_key())?.public() })
    }
}

/// Refuses a folder that holds anything: a testnet, or what is none of our business.
fn check_empty(dir: &Path) -> Result<(), Failure> {
    let entry = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Failure::io(dir, "looking into", &e).field("dir")),
    };
    let Some(entry) = entry else { return Ok(()) };
    let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
    let what = if dir.join("genesis.json").exists() { "a testnet already" } else { "something already" };
    Err(Failure::error("exists", format!("{} holds {what}", dir.display()))
        .field("dir")
        .value(format!("{} with {name}", dir.display()))
        .limit("an empty folder, or one that is not there yet")
        .remedy("name another folder by --dir; nothing was written"))
}

fn make_node(args: &TestnetArgs, dir: &Path, index: u16) -> Result<Node, Failure> {
    let name = format!("node{index}");
    let home = Home::locate(Some(&dir.join(&name)))?;
    make_missing(&home)?;
    let port = args.base_port.saturating_add(index.saturating_mul(10));
    let peer_id = super::keys::peer_id(&keys::read(&home.node_key())?)?;
    Ok(Node {
        name,
        home,
        p2p: format!("/ip4/127.0.0.1/tcp/{port}"),
        rpc: format!("127.0.0.1:{}", port.saturating_add(1)),
        peer_id,
    })
}

fn genesis(args: &TestnetArgs, owners: &[Owner], user: PublicKey) -> Result<Genesis, Failure> {
    let mut params = Params::standard();
    params.block_ms = args.block_ms.unwrap_or(params.block_ms);
    params.empty_block_ms = args.empty_block_ms.unwrap_or(params.empty_block_ms).max(params.block_ms);
    params.assignment.window_ms = args.window_ms.unwrap_or(params.assignment.window_ms);
    let deposit = params.assignment.prover_deposit;
    let mut validators = vec![];
    let mut provers = vec![];
    let mut accounts = vec![GenesisAccount { account: user, balance: USER_BALANCE }];
    for &Owner { consensus: key, account } in owners {
        validators.push(GenesisValidator { key, power: POWER, account, stake: STAKE });
        provers.push(GenesisProver { account, weight: 1, steps_max: PROVER_STEPS_MAX, deposit });
        accounts.push(GenesisAccount { account, balance: NODE_BALANCE });
    }
    let genesis =
        Genesis { chain_id: args.chain_id.clone(), time_ms: now_ms()?, params, validators, provers, accounts };
    genesis.check().map_err(|e| Failure::of_type(Exit::Usage, &e))?;
    Ok(genesis)
}

fn answer(context: &Context, genesis: &Genesis, file: &Path, user_key: &Path, nodes: &[Node]) -> Result<(), Failure> {
    let list: Vec<Value> = nodes
        .iter()
        .map(|node| {
            json!({
                "name": node.name,
                "home": node.home.root(),
                "rpc": format!("http://{}", node.rpc),
                "p2p": node.p2p,
                "peer_id": node.peer_id,
                "validator": true,
                "prover": true,
            })
        })
        .collect();
    let answer = json!({
        "chain_id": genesis.chain_id,
        "genesis_hash": genesis.hash(),
        "genesis": file,
        "user_key": user_key,
        "nodes": list,
    });
    context.out.answer(&answer, |_| {
        let rows: Vec<Vec<String>> = nodes
            .iter()
            .map(|n| vec![n.name.clone(), format!("http://{}", n.rpc), n.p2p.clone(), n.peer_id.clone()])
            .collect();
        format!("chain {} ({})\n{}", genesis.chain_id, genesis.hash(), table(&["name", "rpc", "p2p", "peer_id"], &rows))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TestnetArgs,
    }

    fn init(dir: &Path, more: &[&str]) -> Result<(), Failure> {
        let dir = dir.to_str().unwrap();
        let line = Line::try_parse_from(["testnet-init", "--dir", dir].iter().chain(more)).unwrap();
        let home = Home::locate(Some(Path::new("."))).unwrap();
        let out = crate::cli::Output::new(true);
        testnet(&Context { out, home, crossings: engine::Crossings::default() }, &line.args)
    }

    #[test]
    fn nothing_is_written_for_what_no_chain_could_start_from() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("net");
        for wrong in [&["--chain-id", ""][..], &["--block-ms", "70000"]] {
            let failure = init(&dir, wrong).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{wrong:?}: {failure}");
            assert!(!dir.exists(), "{wrong:?} left something behind");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "x").unwrap();
        let failure = init(folder.path(), &[]).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.field.as_deref()), ("exists", Some("dir")), "{failure}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let empty = tempfile::tempdir().unwrap();
        init(empty.path(), &["--nodes", "2"]).unwrap();
        assert!(init(empty.path(), &["--nodes", "2"]).unwrap_err().message.contains("a testnet already"));
    }
}
