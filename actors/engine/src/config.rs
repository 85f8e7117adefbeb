//! What an engine is started with. The caller has read files, checked keys and locked the home already.

use std::path::PathBuf;

use prover::fleet::BackendChoice;
use storage::BlobLimits;
use types::genesis::Genesis;
use types::keys::SecretKey;

use crate::crossings::Crossings;

/// Configuration of one node's engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Home folder, locked by the caller.
    pub home: PathBuf,
    /// The genesis document, checked.
    pub genesis: Genesis,
    /// Seed of the libp2p identity.
    pub node_key_seed: [u8; 32],
    /// Consensus key; none for a node that only follows.
    pub consensus_key: Option<SecretKey>,
    /// Key of the account that is paid for recording certificates, and that signs uptime statements.
    pub account: SecretKey,
    /// Block time between two uptime statements of this validator, ms; 0 for none.
    pub uptime_ms: u64,
    /// Prover role.
    pub prover: Option<ProverConfig>,
    /// Child that inspects and re-executes programs.
    pub executor: ExecutorConfig,
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Multiaddresses others can dial, if they differ.
    pub external: Vec<String>,
    /// Multiaddresses of nodes to join through.
    pub bootstrap: Vec<String>,
    /// Network of one machine: no limits per address.
    pub testnet: bool,
    /// What blobs may take of the disk.
    pub blobs: BlobLimits,
    /// Told about the points a node passes; nobody outside tests.
    pub crossings: Crossings,
}

/// Configuration of the prover role.
#[derive(Clone, Debug)]
pub struct ProverConfig {
    /// Key that proves, signs claims and is paid.
    pub key: SecretKey,
    /// Binary whose hidden subcommand is the worker.
    pub worker_exe: PathBuf,
    /// Threads of the worker.
    pub threads: usize,
    /// Memory the worker may use, bytes.
    pub memory_bytes: u64,
    /// Warm data is dropped after this long without a job, ms.
    pub idle_ms: u64,
    /// Whether the worker makes its tables when the node starts, not with its first job.
    pub warm_at_start: bool,
    /// Which backend is asked for.
    pub backend: BackendChoice,
    /// The binary that drives OpenCL devices.
    pub gpu_exe: PathBuf,
    /// Devices that are used whatever their speed, and no others: numbers or parts of names; none for all.
    pub devices: Vec<String>,
    /// Devices that are never used.
    pub exclude: Vec<String>,
}

/// Configuration of the executor child.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Binary whose hidden subcommand is the executor.
    pub worker_exe: PathBuf,
    /// Memory it may use, bytes.
    pub memory_bytes: u64,
    /// CPU seconds it may use.
    pub seconds_max: u64,
}
