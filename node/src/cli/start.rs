//! `start`: configuration and keys checked, home locked, engine and edge up; then waiting for a signal or the engine's end.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use engine::api::EngineHandle;
use engine::{EngineConfig, ExecutorConfig, ProverConfig, StartError, StopReason};
use storage::BlobLimits;
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::Value as Toml;
use tracing::{error, info, warn};
use types::genesis::Genesis;

use super::{Context, gpu};
use crate::config::{Config, layers};
use crate::failure::{Exit, Failure};
use crate::{cpu, http, keys, logs, stored, system, watch};

/// Longest wait for the engine to drain; it ends by itself before.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(12);
/// Memory of a child that inspects or re-executes a program, bytes.
const EXECUTOR_MEMORY: u64 = 4 << 30;
/// Processor time of such a child, seconds.
const EXECUTOR_SECONDS: u64 = 600;
/// Left to the node itself and the system when the prover takes what is free, MiB.
const MEMORY_LEFT_MIB: u64 = 512;

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Address of JSON-RPC and HTTP, IP:PORT.
    #[arg(long, value_name = "ADDR")]
    rpc: Option<String>,
    /// Address of the peer-to-peer network, IP:PORT or multiaddr.
    #[arg(long, value_name = "ADDR")]
    p2p: Option<String>,
    /// What to prove on: auto, cpu or opencl.
    #[arg(long, value_name = "BACKEND")]
    prover_backend: Option<String>,
    /// OpenCL devices to prove on, whatever their speed: numbers or parts of names, separated by commas.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    prover_devices: Vec<String>,
    /// OpenCL devices never to prove on, likewise.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    prover_exclude: Vec<String>,
    /// text or json.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Levels by module, as in info,engine=debug.
    #[arg(long, value_name = "LEVELS")]
    log_filter: Option<String>,
}

impl StartArgs {
    fn flags(&self) -> layers::Flags {
        let text = |value: &String| Toml::String(value.clone());
        let mut flags: layers::Flags = vec![];
        flags.extend(self.rpc.as_ref().map(|v| ("rpc.listen", text(v))));
        flags.extend(self.p2p.as_ref().map(|v| ("p2p.listen", Toml::Array(vec![text(v)]))));
        flags.extend(self.prover_backend.as_ref().map(|v| ("prover.backend", text(v))));
        for (key, list) in [("prover.devices", &self.prover_devices), ("prover.exclude", &self.prover_exclude)] {
            if !list.is_empty() {
                flags.push((key, Toml::Array(list.iter().map(text).collect())));
            }
        }
        flags.extend(self.log_format.as_ref().map(|v| ("log.format", text(v))));
        flags.extend(self.log_filter.as_ref().map(|v| ("log.filter", text(v))));
        flags
    }
}

/// Two arenas for all threads: a node allocates little at a time from many threads, and each arena keeps for itself what
/// the busiest moment of its threads took.
fn few_arenas() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "the C library's allocator is set through its C interface")]
    // SAFETY: mallopt only sets a number of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

pub(super) fn start(context: &Context, args: &StartArgs) -> Result<(), Failure> {
    few_arenas();
    context.home.require()?;
    let config = layers::load(&context.home, args.flags())?.config;
    let genesis = context.home.genesis()?;
    // Before the lock: opening the home narrows its folders' modes, and a key folder that was open must be told.
    keys::check_dir(&context.home.keys_dir())?;
    let engine_config = engine_config(context, &config, genesis)?;
    let lock = storage::Home::open(context.home.root()).map_err(|e| stored::failure(&e))?;
    logs::start(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::error("io", format!("starting the runtime: {e}")))?;
    let result = runtime.block_on(run(&config, engine_config));
    // Blocking work that does not end must not keep the process: everything that matters is on disk by now.
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(lock);
    let code = match result {
        Ok(()) => 0,
        Err(failure) => {
            context.out.failed(&failure);
            i32::from(failure.exit as u8)
        }
    };
    leave(code)
}

/// Ends the process without running exit handlers, whatever it ends for: a read or a background thread that outlived the
/// runtime may still be inside RocksDB, and the destructors of its statics would pull them from under it, so that the process
/// would die by a signal instead of with its code. Everything that matters is on disk, and the home is unlocked.
fn leave(code: i32) -> ! {
    std::io::stdout().flush().ok();
    // SAFETY: `_exit` ends the process at once and reads nothing of its memory.
    #[allow(unsafe_code, reason = "the standard library only offers exits that run C++ destructors")]
    unsafe {
        libc::_exit(code)
    }
}

fn engine_config(context: &Context, config: &Config, genesis: Genesis) -> Result<EngineConfig, Failure> {
    let home = &context.home;
    let node_key_seed = keys::read(&home.node_key())?.to_seed();
    let account = keys::read(&home.account_key())?;
    let consensus_key = if config.node.validator { Some(keys::read(&home.consensus_key())?) } else { None };
    let worker_exe = std::env::current_exe()
        .map_err(|e| Failure::error("io", format!("finding the own binary, which is also the worker: {e}")))?;
    let threads = match config.prover.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        n => usize::try_from(n).unwrap_or(1),
    };
    let memory_bytes = match config.prover.memory_mib {
        0 => system::memory().total_mb.saturating_sub(MEMORY_LEFT_MIB) << 20,
        mib => u64::from(mib) << 20,
    };
    let backend = config.prover_backend()?;
    let prover = config.node.prover.then(|| ProverConfig {
        key: account.clone(),
        backend,
        gpu_exe: gpu::binary(config, &worker_exe),
        devices: config.prover.devices.clone(),
        exclude: config.prover.exclude.clone(),
        worker_exe: worker_exe.clone(),
        threads,
        memory_bytes,
        idle_ms: config.prover.idle_s.saturating_mul(1000),
        warm_at_start: config.prover.warm_at_start,
    });
    Ok(EngineConfig {
        home: home.root().to_path_buf(),
        genesis,
        node_key_seed,
        consensus_key,
        account,
        uptime_ms: config.node.uptime_s.saturating_mul(1000),
        prover,
        executor: ExecutorConfig { worker_exe, memory_bytes: EXECUTOR_MEMORY, seconds_max: EXECUTOR_SECONDS },
        listen: config.p2p.listen.clone(),
        external: config.p2p.external.clone(),
        bootstrap: config.p2p.bootstrap.clone(),
        testnet: config.node.testnet,
        blobs: BlobLimits {
            budget: config.storage.blob_budget_mib << 20,
            disk_reserve: config.storage.disk_reserve_mib << 20,
        },
        crossings: context.crossings.clone(),
    })
}

async fn run(config: &Config, engine_config: EngineConfig) -> Result<(), Failure> {
    // Handlers first: a signal that arrives while the node starts must not kill it half-way.
    let handler = |kind| signal(kind).map_err(|e| Failure::error("io", format!("handling signals: {e}")));
    let mut signals =
        Signals { terminate: handler(SignalKind::terminate())?, interrupt: handler(SignalKind::interrupt())? };
    // Asks for a look at the devices.
    let mut hang_up = handler(SignalKind::hangup())?;
    // With a handler, a write beyond a limit on file sizes fails like any other write, instead of ending the process.
    let _file_size = handler(SignalKind::from_raw(libc::SIGXFSZ))?;
    let address = config.rpc_listen()?;
    let listener = http::listen(address).await?;
    let bound = listener.local_addr().unwrap_or(address);
    check_p2p_ports(config)?;
    let (chain_id, genesis) = (engine_config.genesis.chain_id.clone(), engine_config.genesis.hash());
    let engine = engine::start(engine_config).await.map_err(start_failure)?;
    let server = http::serve(listener, engine.clone(), config)?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        cpu_level = cpu::compiled_level(),
        chain_id,
        genesis = %genesis,
        rpc = %bound,
        validator = config.node.validator,
        prover = config.node.prover,
        "node is up"
    );
    // Ends with the engine's events.
    tokio::spawn(watch::run(engine.clone()));
    let ended = loop {
        tokio::select! {
            reason = engine.stopped() => break reason,
            Some(()) = hang_up.recv() => engine.look_for_devices(),
            name = signals.next() => {
                info!(signal = name, "draining; a second signal ends at once");
                drain(&engine, server, &mut signals).await;
                return Ok(());
            }
        }
    };
    server.shutdown().await;
    match ended {
        StopReason::Shutdown => Ok(()),
        StopReason::Safety(why) => {
            error!(%why, "safety stop");
            let remedy = stored::remedy_by_words(&why)
                .unwrap_or("do not restart it blindly: find the cause first; see the log and: proofmesh db verify");
            Err(Failure::new(Exit::Safety, "safety_stop", format!("the node stopped for safety: {why}")).remedy(remedy))
        }
        StopReason::Corruption(why) => {
            Err(Failure::new(Exit::Corruption, "corruption", format!("stored data is damaged: {why}"))
                .remedy(stored::CORRUPTION_REMEDY))
        }
    }
}

/// Tells a peer-to-peer port that is taken before anything is started.
fn check_p2p_ports(config: &Config) -> Result<(), Failure> {
    for address in config.p2p_sockets() {
        std::net::TcpListener::bind(address).map_err(|e| {
            Failure::error("listen", format!("p2p.listen: can't listen on {address}: {e}"))
                .field("p2p.listen")
                .value(address)
                .limit("a free port on an address of this machine")
                .remedy("stop the process that uses the port, or choose another by --p2p ADDR or p2p.listen")
        })?;
    }
    Ok(())
}

/// Stops intake, then the engine; a second signal cuts it short.
async fn drain(engine: &EngineHandle, server: http::Server, signals: &mut Signals) {
    let work = async {
        server.shutdown().await;
        engine.shutdown().await;
    };
    tokio::select! {
        done = tokio::time::timeout(SHUTDOWN_TIMEOUT, work) => match done {
            Ok(()) => info!("stopped"),
            Err(_) => warn!("draining took too long; what was acknowledged is on disk"),
        },
        name = signals.next() => warn!(signal = name, "second signal: ending at once"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Why the engine did not start.
fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Storage(error) => stored::failure(&error),
        StartError::Config(why) => Failure::config(why).remedy("see: proofmesh config show --origin"),
        StartError::Guard(_) => Failure::new(Exit::Corruption, "corruption", error.to_string())
            .field("guard")
            .value("missing, or in contradiction with itself")
            .limit("what this node signed, all of it")
            .remedy(stored::CORRUPTION_REMEDY),
        StartError::State(_) => Failure::new(Exit::Corruption, "corruption", error.to_string())
            .field("data")
            .value("can't be read, or blocks are missing")
            .limit("what this node wrote, unchanged")
            .remedy(stored::CORRUPTION_REMEDY),
        StartError::Actor(why) => Failure::error("start", why).remedy("see: proofmesh doctor"),
    }
}
