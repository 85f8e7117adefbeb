//! Configuration of a node: its shape, its defaults and what each key means.
//!
//! What validators must agree on is not here but in the genesis document. Secrets are not here either: keys are files.
//! Values come from the command line, the environment, the file and the defaults, in this order; see [`layers`].

pub(crate) mod layers;
pub(crate) mod template;

use std::net::SocketAddr;

use prover::fleet::BackendChoice;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Devices named in a list at most.
const DEVICES_MAX: usize = 64;
/// Longest part of a device's name, in bytes.
const DEVICE_NAME_MAX: usize = 128;
/// Where the devices' numbers and names are.
const DEVICES_REMEDY: &str = "see: proofmesh prover devices";

/// The whole configuration. Every key has a default, and `template::KEYS` documents it.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Roles.
    pub(crate) node: Node,
    /// Peer-to-peer network.
    pub(crate) p2p: P2p,
    /// JSON-RPC and HTTP.
    pub(crate) rpc: Rpc,
    /// Proving.
    pub(crate) prover: Prover,
    /// Disk.
    pub(crate) storage: Storage,
    /// Logs.
    pub(crate) log: Log,
}

/// Section `node`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// Whether the node takes part in consensus and votes on proofs.
    pub(crate) validator: bool,
    /// Whether the node proves jobs.
    pub(crate) prover: bool,
    /// Whether this is a testnet on one machine.
    pub(crate) testnet: bool,
    /// Seconds between two uptime statements of a validator, 0 for none.
    pub(crate) uptime_s: u64,
}

/// Section `p2p`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct P2p {
    /// Listening addresses, multiaddr text.
    pub(crate) listen: Vec<String>,
    /// Addresses announced to others, multiaddr text.
    pub(crate) external: Vec<String>,
    /// Peers to dial first, multiaddr text.
    pub(crate) bootstrap: Vec<String>,
}

/// Section `rpc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rpc {
    /// Listening address.
    pub(crate) listen: String,
    /// Connections at once.
    pub(crate) connections_max: u32,
    /// Calls a second and client address.
    pub(crate) rate_per_s: u32,
    /// Calls that a client address may save up.
    pub(crate) rate_burst: u32,
    /// Uploads of one client address within ten minutes, MiB.
    pub(crate) blob_quota_mib: u32,
}

/// Section `prover`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prover {
    /// Threads of the worker, 0 for all cores.
    pub(crate) threads: u32,
    /// Memory of the worker, MiB, 0 for what the machine has free.
    pub(crate) memory_mib: u32,
    /// Seconds without a job after which the worker's tables are dropped.
    pub(crate) idle_s: u64,
    /// Whether the worker makes its tables when the node starts, not with its first job.
    pub(crate) warm_at_start: bool,
    /// Largest step limit taken.
    pub(crate) steps_max: u64,
    /// `auto`, `cpu` or `opencl`.
    pub(crate) backend: String,
    /// OpenCL devices that are used whatever their speed, and no others: numbers or parts of names.
    pub(crate) devices: Vec<String>,
    /// OpenCL devices that are never used, likewise.
    pub(crate) exclude: Vec<String>,
    /// The binary that drives OpenCL devices; empty for the one beside this binary.
    pub(crate) gpu_binary: String,
}

/// Section `storage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    /// Disk for blobs, MiB.
    pub(crate) blob_budget_mib: u64,
    /// Free disk that blobs leave alone, MiB.
    pub(crate) disk_reserve_mib: u64,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    /// `text` or `json`.
    pub(crate) format: String,
    /// Levels by module, as in `info,engine=debug`.
    pub(crate) filter: String,
}

impl Default for Node {
    fn default() -> Self {
        Self { validator: false, prover: false, testnet: false, uptime_s: 600 }
    }
}

impl Default for P2p {
    fn default() -> Self {
        Self { listen: vec!["/ip4/0.0.0.0/tcp/7600".into()], external: vec![], bootstrap: vec![] }
    }
}

impl Default for Rpc {
    fn default() -> Self {
        let listen = "127.0.0.1:7601".into();
        Self { listen, connections_max: 256, rate_per_s: 50, rate_burst: 200, blob_quota_mib: 256 }
    }
}

impl Default for Prover {
    fn default() -> Self {
        Self {
            threads: 0,
            memory_mib: 0,
            idle_s: 600,
            warm_at_start: true,
            steps_max: 16_000_000,
            backend: BackendChoice::Auto.name().into(),
            devices: vec![],
            exclude: vec![],
            gpu_binary: String::new(),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { blob_budget_mib: 20 << 10, disk_reserve_mib: 1 << 10 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: "text".into(),
            // The libraries' own accounts of what goes well, and gossipsub's warnings about messages that came twice.
            filter:
                "info,arc_malachitebft_core_consensus=warn,arc_malachitebft_core_driver=warn,cairo_air=warn,stwo=warn,\
                libp2p_gossipsub=error,libp2p_swarm=warn"
                    .into(),
        }
    }
}

impl Config {
    /// Checks what types alone can't say.
    ///
    /// # Errors
    /// A configuration error naming the key.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.rpc_listen()?;
        if self.p2p.listen.is_empty() {
            return Err(bad("p2p.listen", "[]", "at least one address", "remove the line to listen on the default"));
        }
        let lists = [
            ("p2p.listen", &self.p2p.listen, 8),
            ("p2p.external", &self.p2p.external, 4),
            ("p2p.bootstrap", &self.p2p.bootstrap, 64),
        ];
        for (key, list, most) in lists {
            if list.len() > most {
                return Err(bad(
                    key,
                    &list.len().to_string(),
                    &format!("at most {most} addresses"),
                    "shorten the list",
                ));
            }
            for address in list {
                check_multiaddr(key, address)?;
            }
        }
        let numbers = [
            ("node.uptime_s", self.node.uptime_s, 0, 1 << 32),
            ("rpc.connections_max", u64::from(self.rpc.connections_max), 8, 65_536),
            ("rpc.rate_per_s", u64::from(self.rpc.rate_per_s), 1, 1_000_000),
            ("rpc.rate_burst", u64::from(self.rpc.rate_burst), 1, 1_000_000),
            ("rpc.blob_quota_mib", u64::from(self.rpc.blob_quota_mib), 32, 1 << 20),
            ("prover.threads", u64::from(self.prover.threads), 0, 4096),
            ("prover.memory_mib", u64::from(self.prover.memory_mib), 0, 1 << 24),
            ("prover.idle_s", self.prover.idle_s, 1, 1 << 32),
            ("prover.steps_max", self.prover.steps_max, 1, 1 << 40),
            ("storage.blob_budget_mib", self.storage.blob_budget_mib, 256, 1 << 30),
            ("storage.disk_reserve_mib", self.storage.disk_reserve_mib, 0, 1 << 30),
        ];
        for (key, value, least, most) in numbers {
            if value < least || value > most {
                return Err(bad(
                    key,
                    &value.to_string(),
                    &format!("{least} to {most}"),
                    "choose a number within the limit",
                ));
            }
        }
        self.prover_backend()?;
        for (key, list) in [("prover.devices", &self.prover.devices), ("prover.exclude", &self.prover.exclude)] {
            if list.len() > DEVICES_MAX {
                let limit = format!("at most {DEVICES_MAX} devices");
                return Err(bad(key, &list.len().to_string(), &limit, "shorten the list"));
            }
            if let Some(name) = list.iter().find(|name| name.trim().is_empty() || name.len() > DEVICE_NAME_MAX) {
                let limit = format!("a device's number or a part of its name, at most {DEVICE_NAME_MAX} bytes");
                return Err(bad(key, &format!("{name:?}"), &limit, DEVICES_REMEDY));
            }
        }
        if let Some(both) = self.prover.devices.iter().find(|name| self.prover.exclude.contains(name)) {
            let limit = "in one of prover.devices and prover.exclude";
            return Err(bad("prover.exclude", both, limit, "take it out of one of the two lists"));
        }
        if self.prover.backend == BackendChoice::Cpu.name() && !self.prover.devices.is_empty() {
            let value = self.prover.devices.join(",");
            return Err(bad(
                "prover.devices",
                &value,
                "empty while prover.backend is cpu",
                "set prover.backend to opencl",
            ));
        }
        if !matches!(self.log.format.as_str(), "text" | "json") {
            return Err(bad("log.format", &self.log.format, "text or json", "choose one of the two"));
        }
        tracing_subscriber::EnvFilter::try_new(&self.log.filter).map_err(|_| {
            bad("log.filter", &self.log.filter, "levels by module", "write for example: info,engine=debug")
        })?;
        Ok(())
    }

    /// The prover's backend.
    ///
    /// # Errors
    /// A configuration error when it is none.
    pub(crate) fn prover_backend(&self) -> Result<BackendChoice, Failure> {
        let text = &self.prover.backend;
        BackendChoice::from_name(text)
            .ok_or_else(|| bad("prover.backend", text, "auto, cpu or opencl", "choose one of the three"))
    }

    /// The peer-to-peer listening addresses as socket addresses.
    pub(crate) fn p2p_sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.p2p.listen.iter().filter_map(|text| socket_of(text))
    }

    /// The RPC address as a socket address.
    ///
    /// # Errors
    /// A configuration error when it is none.
    pub(crate) fn rpc_listen(&self) -> Result<SocketAddr, Failure> {
        let text = &self.rpc.listen;
        text.parse().map_err(|_| bad("rpc.listen", text, "IP:PORT", "write for example: 127.0.0.1:7601"))
    }
}

/// The socket address in `/ip4/A/tcp/P` or `/ip6/A/tcp/P`.
fn socket_of(multiaddr: &str) -> Option<SocketAddr> {
    let parts: Vec<&str> = multiaddr.split('/').collect();
    match parts.as_slice() {
        ["", "ip4" | "ip6", address, "tcp", port, ..] => {
            Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
        }
        _ => None,
    }
}

/// Turns `IP:PORT` into multiaddr text; leaves multiaddr text alone.
pub(crate) fn to_multiaddr(text: &str) -> String {
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(address)) => format!("/ip4/{}/tcp/{}", address.ip(), address.port()),
        Ok(SocketAddr::V6(address)) => format!("/ip6/{}/tcp/{}", address.ip(), address.port()),
        Err(_) => text.to_string(),
    }
}

fn bad(key: &str, value: &str, limit: &str, remedy: &str) -> Failure {
    Failure::config(format!("{key}: {value} is not allowed, it must be {limit}"))
        .field(key)
        .value(value)
        .limit(limit)
        .remedy(remedy)
}

fn check_multiaddr(key: &str, text: &str) -> Result<(), Failure> {
    // The network parses the address again; this catches what people mistype.
    let parts: Vec<&str> = text.split('/').collect();
    let shape = match parts.as_slice() {
        ["", host, address, "tcp", port, rest @ ..] => {
            let host_ok = match *host {
                "ip4" => address.parse::<std::net::Ipv4Addr>().is_ok(),
                "ip6" => address.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => false,
            };
            let tail_ok = matches!(rest, [] | ["p2p", _]);
            host_ok && port.parse::<u16>().is_ok() && tail_ok
        }
        _ => false,
    };
    if shape && text.len() <= 256 {
        return Ok(());
    }
    Err(bad(key, text, "a multiaddr /ip4/ADDRESS/tcp/PORT or IP:PORT", "write for example: /ip4/192.0.2.7/tcp/7600"))
}

#[cfg(test)]
mod tests;
