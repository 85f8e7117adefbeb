//! A peer under somebody's control: the keys of a home folder whose node does not run, a connection to the network, and the
//! lines that go in and out of the process.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use network::{Events, Network, NetworkConfig, NetworkHandle, PresenceInput, parse_address};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use types::genesis::Genesis;
use types::ids::{GenesisHash, Height, TimeMs, parse_hex32};
use types::keys::{PublicKey, SecretKey};

/// Time between two presence records.
const PRESENCE_EVERY: Duration = Duration::from_secs(2);
/// Orders that may wait.
const ORDERS: usize = 64;

/// Who the adversary is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The chain's document.
    pub genesis: Genesis,
    /// Its hash.
    pub chain: GenesisHash,
    /// Identity in the network.
    pub node: SecretKey,
    /// Votes on blocks and proofs.
    pub consensus: SecretKey,
    /// Owns credits, signs transactions and proofs.
    pub account: SecretKey,
}

/// Reads a key file.
///
/// # Errors
/// When it can't be read or is no key.
pub fn read_key(path: &Path) -> Result<SecretKey> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(SecretKey::from_seed(parse_hex32("key", text.trim_end())?))
}

impl Identity {
    /// The identity that a node's home folder holds.
    ///
    /// # Errors
    /// When a file of it is missing or damaged.
    pub fn of_home(home: &Path) -> Result<Self> {
        let path = home.join("genesis.json");
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let genesis: Genesis = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        let key = |name: &str| read_key(&home.join("keys").join(name));
        let (node, consensus, account) = (key("node.key")?, key("consensus.key")?, key("account.key")?);
        Ok(Self { chain: genesis.hash(), genesis, node, consensus, account })
    }

    /// Joins the network at a free loopback port.
    ///
    /// # Errors
    /// When an address is none or the network does not start.
    pub async fn join(&self, bootstrap: &[String]) -> Result<(NetworkHandle, Events)> {
        let mut config = NetworkConfig::new(self.chain, self.node.clone());
        config.listen = vec![parse_address("127.0.0.1:0")?];
        config.bootstrap = bootstrap.iter().map(|text| parse_address(text)).collect::<Result<_, _>>()?;
        config.loopback = true;
        config.expected_validators = self.genesis.validators.len();
        Ok(Network::start(config).await?)
    }
}

/// The wall clock.
pub fn wall_clock() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Tells the network about this peer for as long as the process lives, as an honest node would.
pub async fn announce(
    net: NetworkHandle,
    chain: GenesisHash,
    prover: Option<PublicKey>,
    validator: Option<SecretKey>,
    height: impl Fn() -> Height,
) {
    loop {
        let key = validator.as_ref().map(SecretKey::public);
        let record = net.presence(PresenceInput { height: height(), time_ms: wall_clock(), prover, validator: key });
        let signature = validator.as_ref().map(|key| record.validator_signature(key, &chain));
        net.announce(record, signature);
        tokio::time::sleep(PRESENCE_EVERY).await;
    }
}

/// Orders from standard input, one JSON value a line. The process ends with its input: whoever gave the orders is gone.
pub fn orders<T: DeserializeOwned + Send + 'static>() -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(ORDERS);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if sender.blocking_send(order).is_err() {
                        break;
                    }
                }
                Err(error) => report(&serde_json::json!({ "event": "bad_order", "why": error.to_string() })),
            }
        }
        std::process::exit(0);
    });
    receiver
}

/// Writes one event to standard output.
pub fn report(event: &Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{event}").and_then(|()| out.flush()).is_err() {
        // Nobody reads any more.
        std::process::exit(0);
    }
}
