//! `doctor`: what could keep a node from working on this machine, each finding with its remedy.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Context;
use super::validators::{JOIN_COMMAND, own_validator};

use crate::client::{Client, block_on};
use crate::config::{Config, layers};
use crate::failure::Failure;
use crate::{cpu, keys, system};

/// A prover below this can't prove the smallest job, MiB.
const MEMORY_PROVER_MIB: u64 = 2_500;
/// A node below this has no room for its caches, MiB.
const MEMORY_NODE_MIB: u64 = 512;
/// Free disk below which a node can't be recommended, MiB.
const DISK_MIB: u64 = 2_048;
/// Clock error at which proposals begin to be refused is ten seconds; a fifth of that is a warning, ms.
const CLOCK_MS: u64 = 2_000;
/// Start of 2026 in seconds: a clock before it is wrong.
const CLOCK_FLOOR_S: u64 = 1_767_225_600;

/// A finding.
struct Finding {
    name: &'static str,
    /// `ok`, `warning` or `error`.
    status: &'static str,
    message: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, status: "ok", message: message.into(), remedy: None }
    }

    fn bad(name: &'static str, status: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status, message: message.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints all findings; exit code 1 if one is an error.
pub(super) fn doctor(context: &Context) -> Result<u8, Failure> {
    let mut findings = vec![check_cpu()];
    let config = match layers::load(&context.home, vec![]) {
        Ok(resolved) => {
            findings.push(Finding::ok("config", "configuration is valid"));
            resolved.config
        }
        Err(failure) => {
            let remedy = failure.remedy.clone().unwrap_or_else(|| "correct config.toml".into());
            findings.push(Finding::bad("config", "error", failure.message.clone(), remedy));
            Config::default()
        }
    };
    findings.push(check_home(context));
    let head = running_head(context);
    findings.extend(check_ports(&config, head.is_some()));
    findings.push(check_clock(head.as_ref()));
    findings.extend(check_validator(context, &config));
    findings.push(check_disk(context.home.root()));
    findings.push(check_memory(&config));
    let failed = findings.iter().any(|f| f.status == "error");
    let list: Vec<Value> = findings
        .iter()
        .map(|f| json!({ "check": f.name, "status": f.status, "message": f.message, "remedy": f.remedy }))
        .collect();
    context.out.answer(&json!({ "ok": !failed, "checks": list }), |_| {
        let line = |f: &Finding| {
            let remedy = f.remedy.as_ref().map(|r| format!("\n         remedy: {r}")).unwrap_or_default();
            format!("{:<8} {}: {}{remedy}\n", f.status, f.name, f.message)
        };
        findings.iter().map(line).collect()
    })?;
    Ok(u8::from(failed))
}

fn check_cpu() -> Finding {
    let (compiled, machine) = (cpu::compiled_level(), cpu::machine_level());
    let message = format!("binary for {compiled}, machine has {machine}");
    if machine == "x86-64" {
        return Finding::bad("cpu", "error", message, "proving needs AVX2 (x86-64-v3): use a CPU from 2013 or later");
    }
    if compiled != machine {
        let remedy = "a binary for this machine's level proves faster: build it here by scripts/setup.sh";
        return Finding::bad("cpu", "warning", message, remedy);
    }
    Finding::ok("cpu", message)
}

fn check_home(context: &Context) -> Finding {
    let home = &context.home;
    let is_initialised = match home.is_initialised() {
        Ok(known) => known,
        Err(failure) => {
            let remedy = failure.remedy.clone().unwrap_or_default();
            return Finding::bad("home", "error", failure.message.clone(), remedy);
        }
    };
    if !is_initialised {
        let message = format!("{} is no home folder yet", home.root().display());
        return Finding::bad("home", "warning", message, "run: proofmesh init");
    }
    let read = home.genesis().and_then(|genesis| {
        keys::check_dir(&home.keys_dir())?;
        for path in [home.node_key(), home.consensus_key(), home.account_key()] {
            keys::read(&path)?;
        }
        Ok(genesis)
    });
    match read {
        Ok(genesis) => Finding::ok("home", format!("chain {}, keys are private", genesis.chain_id)),
        Err(failure) => {
            let remedy = failure.remedy.clone().unwrap_or_else(|| "see: proofmesh config check".into());
            Finding::bad("home", "error", failure.message.clone(), remedy)
        }
    }
}

/// The head of the node that runs here, if one does.
fn running_head(context: &Context) -> Option<Value> {
    let client = Client::of(&context.home, &super::ClientArgs::default()).ok()?;
    block_on(client.call("chain_head", json!([]))).ok()
}

/// Whether a node that runs here as a validator is one; nothing is known of one that does not run.
fn check_validator(context: &Context, config: &Config) -> Option<Finding> {
    if !config.node.validator {
        return None;
    }
    let client = Client::of(&context.home, &super::ClientArgs::default()).ok()?;
    let net: Value = block_on(client.call("net_info", json!([]))).ok()?;
    let said = own_validator(&net)?;
    if net["validator_power"] != 0 {
        return Some(Finding::ok("validator", said));
    }
    let home = context.home.root().display();
    let remedy = format!("{}, or set node.validator to false", JOIN_COMMAND.replace("DIR", &home.to_string()));
    Some(Finding::bad("validator", "warning", said, remedy))
}

fn check_ports(config: &Config, node_runs: bool) -> Vec<Finding> {
    let mut addresses: Vec<(&'static str, SocketAddr)> = vec![];
    if let Ok(rpc) = config.rpc_listen() {
        addresses.push(("port rpc", rpc));
    }
    let p2p = config.p2p_sockets();
    addresses.extend(p2p.map(|address| ("port p2p", address)));
    addresses
        .into_iter()
        .map(|(name, address)| match TcpListener::bind(address) {
            Ok(_) => Finding::ok(name, format!("{address} is free")),
            Err(_) if node_runs => Finding::ok(name, format!("{address} is in use, and a node answers")),
            Err(e) => {
                let remedy = "stop the process that uses it (ss -ltnp shows it), or set another address in config.toml";
                Finding::bad(name, "error", format!("{address}: {e}"), remedy)
            }
        })
        .collect()
}

fn check_clock(head: Option<&Value>) -> Finding {
    let remedy = "set the clock and keep it right: timedatectl set-ntp true, or install chrony";
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return Finding::bad("clock", "error", "the clock is before 1970", remedy);
    };
    if now.as_secs() < CLOCK_FLOOR_S {
        return Finding::bad(
            "clock",
            "error",
            format!("the clock says {} s after 1970, in the past", now.as_secs()),
            remedy,
        );
    }
    // Proposers' clocks are in the chain: a head from the future means that this clock is behind theirs.
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let ahead = head.and_then(|h| h["time_ms"].as_u64()).map(|time| time.saturating_sub(now_ms));
    match (ahead, kernel_says_synced()) {
        (Some(ms), _) if ms > CLOCK_MS => {
            Finding::bad("clock", "error", format!("{ms} ms behind the time of the last block"), remedy)
        }
        (_, Some(false)) => {
            Finding::bad("clock", "warning", "the kernel says that no time service keeps the clock", remedy)
        }
        (Some(_), _) => Finding::ok("clock", "agrees with the last block"),
        (None, Some(true)) => Finding::ok("clock", "kept by a time service"),
        (None, None) => Finding::ok("clock", "plausible"),
    }
}

/// Whether the kernel believes that its clock is kept in step; `None` when it does not say.
fn kernel_says_synced() -> Option<bool> {
    // The clock's state as `adjtimex` reports it, read only; 5 is TIME_ERROR, "not synchronised".
    #[allow(unsafe_code, reason = "the system call has no safe wrapper among our dependencies")]
    // SAFETY: a zeroed `timex` with `modes` 0 asks for a report only, and the kernel writes within the structure.
    let state = unsafe {
        let mut report: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut report)
    };
    match state {
        5 => Some(false),
        0..=4 => Some(true),
        _ => None,
    }
}

fn check_disk(home: &Path) -> Finding {
    let mut folder = home;
    while !folder.exists() {
        match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => folder = parent,
            _ => folder = Path::new("."),
        }
    }
    match storage::space::disk_space(folder) {
        Ok(found) => {
            let free = found.free >> 20;
            let message = format!("{free} MiB free for {}", home.display());
            if free < DISK_MIB {
                let remedy = "free space, move the home by --home, or lower storage.blob_budget_mib";
                return Finding::bad("disk", "error", message, remedy);
            }
            Finding::ok("disk", message)
        }
        Err(e) => Finding::bad("disk", "warning", format!("can't be measured: {e}"), "check the home's file system"),
    }
}

fn check_memory(config: &Config) -> Finding {
    let memory = system::memory();
    let message = format!("{} MiB free of {} MiB", memory.available_mb, memory.total_mb);
    if memory.available_mb < MEMORY_NODE_MIB {
        return Finding::bad("memory", "error", message, "a node needs 512 MiB: stop other programs");
    }
    if config.node.prover && memory.available_mb < MEMORY_PROVER_MIB {
        let remedy = "a proof takes 2 to 4 GiB: stop other programs, or set node.prover = false";
        return Finding::bad("memory", "warning", message, remedy);
    }
    Finding::ok("memory", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut config = Config::default();
        config.rpc.listen = address.to_string();
        config.p2p.listen = vec![format!("/ip4/127.0.0.1/tcp/{}", address.port())];
        let findings = check_ports(&config, false);
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|f| f.status == "error" && f.remedy.is_some()));
        assert!(check_ports(&config, true).iter().all(|f| f.status == "ok"));
    }

    #[test]
    fn a_clock_behind_the_chain_is_found() {
        let far = json!({ "time_ms": u64::MAX });
        assert_eq!(check_clock(Some(&far)).status, "error");
        let past = json!({ "time_ms": 1 });
        assert_ne!(check_clock(Some(&past)).status, "error");
        assert_eq!(check_cpu().name, "cpu");
        assert_ne!(check_disk(Path::new("/no/such/folder")).message, "");
    }
}
