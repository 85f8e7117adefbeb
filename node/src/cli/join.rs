//! Learns a chain's genesis document from one of its nodes, by RPC or by the peer-to-peer network; its hash, which the
//! reader brings along, says whether it is the right one.

use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use network::{Multiaddr, Network, NetworkConfig, parse_address};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use types::genesis::Genesis;
use types::ids::GenesisHash;
use types::rpc_sync::{Request, Response};

use super::tx::Chain;
use crate::client::{Client, block_on};
use crate::failure::{Exit, Failure};
use crate::keys;

/// Longest wait for a peer that answers.
const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks for one.
const PEER_POLL: Duration = Duration::from_millis(250);

/// A chain that can be joined.
#[derive(Debug)]
pub(super) struct Joined {
    /// Its genesis document, of the hash asked for.
    pub(super) genesis: Genesis,
    /// Peer-to-peer addresses to dial first.
    pub(super) bootstrap: Vec<String>,
}

/// Asks the node at `address`: `http://HOST:PORT` is its RPC, `IP:PORT` or a multiaddr its peer-to-peer address.
///
/// # Errors
/// When nobody answers there, or its chain is another one.
pub(super) fn join(address: &str, hash: GenesisHash) -> Result<Joined, Failure> {
    let joined = if address.contains("://") { by_rpc(address) } else { by_network(address, hash) }?;
    let found = joined.genesis.hash();
    if found != hash {
        return Err(Failure::error("chain", format!("the node at {address} is on another chain than asked for"))
            .field("genesis-hash")
            .value(found)
            .limit(hash)
            .remedy("check the hash with its source, or ask a node of the right chain"));
    }
    joined.genesis.check().map_err(|e| Failure::of_type(Exit::Error, &e))?;
    Ok(joined)
}

fn by_rpc(address: &str) -> Result<Joined, Failure> {
    let client = Client::at(address)?;
    let (chain, net): (Chain, Value) = block_on(async {
        Ok((client.call("chain_genesis", json!([])).await?, client.call("net_info", json!([])).await?))
    })?;
    let peer_id = net["peer_id"].as_str().unwrap_or_default();
    let listen: Vec<String> =
        net["listen"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect();
    let bootstrap = dial_addresses(host_of(address)?, &listen, peer_id);
    if bootstrap.is_empty() {
        return Err(Failure::error("bad_answer", "net_info: the node names no address to dial")
            .remedy("give its peer-to-peer address instead: --bootstrap IP:PORT"));
    }
    Ok(Joined { genesis: chain.genesis, bootstrap })
}

/// Peers of another chain don't even speak the same protocol names, so the hash decides who can answer at all.
fn by_network(address: &str, hash: GenesisHash) -> Result<Joined, Failure> {
    let target = parse_address(address).map_err(|e| {
        Failure::usage(format!("bootstrap: {e}"))
            .field("bootstrap")
            .value(address)
            .limit("http://HOST:PORT, IP:PORT or multiaddr")
    })?;
    block_on(async {
        // A key for this one question; the home's own stays unseen until the node starts.
        let mut config = NetworkConfig::new(hash, keys::generate()?);
        config.loopback = is_loopback(&target.to_string());
        if config.loopback {
            config.listen = vec![parse_address("127.0.0.1:0").map_err(|e| Failure::error("internal", e.to_string()))?];
        }
        config.bootstrap = vec![target.clone()];
        let (handle, events) = Network::start(config).await.map_err(|e| Failure::error("network", e.to_string()))?;
        let asked = ask(&handle, &target).await;
        handle.shutdown().await;
        drop(events);
        asked.map(|genesis| Joined { genesis, bootstrap: vec![target.to_string()] })
    })
}

async fn ask(handle: &network::NetworkHandle, target: &Multiaddr) -> Result<Genesis, Failure> {
    let until = Instant::now() + PEER_TIMEOUT;
    while Instant::now() < until {
        for peer in handle.peers() {
            if let Ok(Response::Genesis(Some(genesis))) = handle.request(peer.peer_id, Request::Genesis).await {
                return Ok(*genesis);
            }
        }
        sleep(PEER_POLL).await;
    }
    let message = format!("no node of this chain answered at {target} within {} s", PEER_TIMEOUT.as_secs());
    Err(Failure::error("unreachable", message)
        .field("bootstrap")
        .value(target)
        .remedy("check address and genesis hash; or give the RPC address of a node, http://HOST:PORT"))
}

/// Whether an address means this machine.
pub(super) fn is_loopback(multiaddr: &str) -> bool {
    multiaddr.starts_with("/ip4/127.") || multiaddr.starts_with("/ip6/::1/")
}

/// The IP address behind a URL's host; peer-to-peer addresses carry no names.
fn host_of(url: &str) -> Result<IpAddr, Failure> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    let resolved = rest.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    resolved.map(|address| address.ip()).ok_or_else(|| {
        Failure::error("unreachable", format!("bootstrap: the host of {url} has no IP address"))
            .field("bootstrap")
            .value(url)
    })
}

/// Addresses under which the node at `host` can be dialled: those it listens on, with `host` in place of addresses that
/// only mean something on its own machine.
fn dial_addresses(host: IpAddr, listen: &[String], peer_id: &str) -> Vec<String> {
    let seen_as = match host {
        IpAddr::V4(ip) => format!("/ip4/{ip}"),
        IpAddr::V6(ip) => format!("/ip6/{ip}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_dialled_where_it_was_asked() {
        let listen = [
            "/ip4/127.0.0.1/tcp/7600".to_string(),
            "/ip4/10.1.1.1/tcp/7600".into(),
            "/ip4/1.2.3.4/udp/1/quic-v1".into(),
        ];
        let host = host_of("http://192.0.2.5:7601/").unwrap();
        assert_eq!(dial_addresses(host, &listen, "12D3"), ["/ip4/192.0.2.5/tcp/7600/p2p/12D3"]);
        assert_eq!(dial_addresses(host_of("http://[::1]:7601").unwrap(), &listen, ""), ["/ip6/::1/tcp/7600"]);
        assert!(dial_addresses(host, &[], "x").is_empty());
        assert!(
            is_loopback("/ip4/127.0.0.1/tcp/1") && is_loopback("/ip6/::1/tcp/1") && !is_loopback("/ip4/12.0.0.1/tcp/1")
        );
    }

    #[test]
    fn an_address_that_is_none_is_a_usage_error() {
        let hash = GenesisHash::new([1; 32]);
        for address in ["nonsense", "/ip4/1.2.3.4", "https://1.2.3.4:5"] {
            assert_eq!(join(address, hash).unwrap_err().exit, Exit::Usage, "{address}");
        }
    }
}
