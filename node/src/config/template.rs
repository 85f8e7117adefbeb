//! What each key means, and the commented `config.toml` that `init` writes.

use std::collections::BTreeMap;
use std::fmt::Write;

use toml::Value;

use super::layers::{Origin, Resolved};

/// Every key with its meaning, in the order of the file. A test holds it against the defaults.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("node.validator", "Take part in consensus and vote on proofs; needs keys/consensus.key in the validator set."),
    ("node.prover", "Prove jobs; needs the account of keys/account.key to be a registered prover."),
    (
        "node.testnet",
        "A testnet on one machine: loopback clients have no rate limit, private peer addresses are shared.",
    ),
    (
        "node.uptime_s",
        "Seconds between two statements, paid from keys/account.key, of whom this validator reached; 0 for none.",
    ),
    ("p2p.listen", "Addresses to listen on, as IP:PORT or multiaddr."),
    ("p2p.external", "Addresses under which others reach this node, if they differ from those listened on."),
    ("p2p.bootstrap", "Nodes to dial first; one that is up is enough to join."),
    (
        "rpc.listen",
        "Address of JSON-RPC, WebSocket, blobs, /metrics and /health. Keep it on loopback or behind a proxy with TLS.",
    ),
    ("rpc.connections_max", "Connections at once; a quarter at most for one address from elsewhere."),
    ("rpc.rate_per_s", "Calls a second from one client address."),
    ("rpc.rate_burst", "Calls that a client address may save up while idle."),
    ("rpc.blob_quota_mib", "MiB that one client address may upload within ten minutes."),
    ("prover.threads", "Threads of the prover's worker; 0 takes all cores."),
    (
        "prover.memory_mib",
        "Memory of the prover's worker in MiB; 0 takes what the machine has. Jobs that need more are declined.",
    ),
    ("prover.idle_s", "The worker and its tables (about 0.9 GB) are dropped after so many seconds without a job."),
    (
        "prover.warm_at_start",
        "Whether the worker makes its tables when the node starts: the first job is then faster by seconds.",
    ),
    ("prover.steps_max", "Largest step limit of a job that this prover takes."),
    (
        "prover.backend",
        "auto proves on the OpenCL devices that are measured to be faster than the CPU, cpu touches no driver, opencl takes \
         the devices whatever their speed. The CPU always stands in for a device that is missing or fails.",
    ),
    (
        "prover.devices",
        "OpenCL devices to use whatever their speed, and no others: numbers or parts of names as in proofmesh prover devices.",
    ),
    ("prover.exclude", "OpenCL devices never to use, likewise."),
    (
        "prover.gpu_binary",
        "The binary that drives OpenCL devices; empty for proofmesh-gpu beside the node's own binary.",
    ),
    ("storage.blob_budget_mib", "Disk for programs, arguments and proofs in MiB; nothing of a live job is dropped."),
    (
        "storage.disk_reserve_mib",
        "Free disk in MiB that programs and proofs leave for blocks and votes; with less, new ones are refused.",
    ),
    ("log.format", "text for people, json for collectors."),
    ("log.filter", "Levels by module: error, warn, info, debug, trace; as in info,engine=debug."),
];

/// The meaning of a key.
pub(crate) fn meaning(key: &str) -> &'static str {
    KEYS.iter().find(|(name, _)| *name == key).map_or("", |(_, text)| *text)
}

/// A `config.toml` with a comment on every key; keys at their default are written as comments, those in `values` as set.
pub(crate) fn render(defaults: &Resolved, values: &BTreeMap<&str, Value>) -> String {
    let mut out = String::from(
        "# Configuration of a proofmesh node. A flag goes before an environment variable (PROOFMESH_SECTION__KEY), that\n\
         # before this file, this before the default. A key that is not known is an error.\n",
    );
    let mut section = "";
    for (key, text) in KEYS {
        let Some((head, name)) = key.split_once('.') else { continue };
        if head != section {
            section = head;
            // Writing to a String does not fail.
            writeln!(out, "\n[{head}]").ok();
        }
        let default = defaults.origins.get(*key).map(|(value, _)| value.to_string()).unwrap_or_default();
        writeln!(out, "# {text}").ok();
        match values.get(key) {
            Some(value) => writeln!(out, "{name} = {value}").ok(),
            None => writeln!(out, "#{name} = {default}").ok(),
        };
    }
    out
}

/// The resolved configuration as TOML, each line with its origin when asked for.
pub(crate) fn show(resolved: &Resolved, with_origin: bool) -> String {
    let mut out = String::new();
    let mut section = "";
    for (key, _) in KEYS {
        let (Some((head, name)), Some((value, origin))) = (key.split_once('.'), resolved.origins.get(*key)) else {
            continue;
        };
        if head != section {
            if !section.is_empty() {
                out.push('\n');
            }
            section = head;
            writeln!(out, "[{head}]").ok();
        }
        if with_origin {
            writeln!(out, "{name} = {value}  # {}", describe(origin)).ok();
        } else {
            writeln!(out, "{name} = {value}").ok();
        }
    }
    out
}

fn describe(origin: &Origin) -> String {
    match origin {
        Origin::File(path) => format!("file {path}"),
        other => other.to_string(),
    }
}
