//! Cairo proofs with the device: the witness is written by the library on the processor, columns go up in a few large
//! transfers, and everything from there on (commitments, constraints, openings, quotients, FRI, proof of work) is the
//! device's. The proof is, byte for byte, that of the processor's backend. Owns the tables that all proofs share; relies on
//! `prover` for the protocol and all that is around it.

pub mod bench;
pub mod check;
mod components;
pub mod estimate;
pub mod samples;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cairo_air::cairo_components::CairoComponents;
use proof::envelope::CairoProof;
use proof::policy;
use prover::backend::{DeviceMemory, PreProcessedTrace, ProverInput, ProverParameters, parameters, preprocessed};
use prover::flow::{self, Columns};
use prover::memory::Estimate;
use prover::{Backend, Clock, DeviceFault, Plan, ProveError, Stage};
use stwo::core::channel::{Blake2sChannel, MerkleChannel};
use stwo::core::proof_of_work::GrindOps;
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::circle::{CircleCoefficients, CircleEvaluation, PolyOps};
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::{CommitmentTreeProver, ComponentProver};

use crate::backend::{OclBackend, upload};
use crate::device::{DeviceKind, Runtime, host_phase, phase, watch_phases};
use crate::error::{Error, Result, guarded};
use crate::prove::{Proof, Scheme, commit, prove, tree_over};

pub use components::provers;

/// Smallest domain that twiddles are made for, as a power of two: the preprocessed columns need it.
const TWIDDLES_LOG_MIN: u32 = 22;

/// The tables that all proofs share, in device memory.
struct Warm {
    twiddles: TwiddleTree<OclBackend>,
    twiddles_log: u32,
    trace: Arc<PreProcessedTrace>,
    tree: CommitmentTreeProver<OclBackend, Blake2sMerkleChannel>,
    /// Its root, read once.
    root: Blake2sHash,
}

fn twiddles(log: u32) -> TwiddleTree<OclBackend> {
    OclBackend::precompute_twiddles(stwo::core::poly::circle::CanonicCoset::new(log).circle_domain().half_coset)
}

/// Brings columns to the device and interpolates them there.
fn interpolated(columns: Columns, twiddles: &TwiddleTree<OclBackend>) -> Vec<CircleCoefficients<OclBackend>> {
    let uploaded = phase("upload", || {
        let values: Vec<_> = columns.iter().map(|column| column.values.as_slice()).collect();
        upload(&values)
    });
    let domains: Vec<_> = columns.iter().map(|column| column.domain).collect();
    drop(columns);
    let evaluations = domains.into_iter().zip(uploaded).map(|(domain, values)| CircleEvaluation::new(domain, values));
    OclBackend::interpolate_columns(evaluations.collect(), twiddles)
}

impl Warm {
    fn new() -> Self {
        let (trace, columns) = preprocessed();
        let twiddles = twiddles(TWIDDLES_LOG_MIN);
        let polynomials = interpolated(columns, &twiddles);
        let keep = parameters().store_polynomials_coefficients;
        let tree = tree_over(polynomials, &policy::pcs_config(), &twiddles, keep, &BaseColumnPool::new());
        let root = tree.commitment.root();
        Self { twiddles, twiddles_log: TWIDDLES_LOG_MIN, trace, tree, root }
    }
}

/// Proves Cairo runs on the device of this process.
pub struct Cairo {
    runtime: &'static Runtime,
    warm: Option<Warm>,
    memory: DeviceMemory,
    /// Told the shape of each proof.
    shape: Arc<Mutex<Shape>>,
}

/// Tables of a proof: logarithm of the rows of the largest, and columns of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Logarithm of the rows of the largest table.
    pub log_rows: u32,
    /// Columns of all tables, preprocessed ones included.
    pub columns: usize,
}

impl fmt::Debug for Cairo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cairo").field("device", &self.runtime.info().name).field("warm", &self.warm.is_some()).finish()
    }
}

/// What a failure of the device says about the job: nothing.
fn device(error: Error) -> ProveError {
    let detail = error.to_string();
    ProveError::Device(if error.is_memory() {
        DeviceFault::TooLarge { detail }
    } else {
        DeviceFault::Failed { detail }
    })
}

impl Cairo {
    /// A backend on the open device, without tables.
    pub fn new(runtime: &'static Runtime) -> Self {
        let memory = DeviceMemory { estimated_bytes: 0, peak_bytes: 0 };
        Self { runtime, warm: None, memory, shape: Arc::default() }
    }

    /// The device.
    pub fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    /// Where the shape of the last proof is noted.
    pub fn shape(&self) -> Arc<Mutex<Shape>> {
        Arc::clone(&self.shape)
    }

    fn tables(&mut self, domain_log: u32) -> Result<&Warm> {
        if self.warm.is_none() {
            self.warm = Some(guarded(Warm::new)?);
        }
        let warm = self.warm.as_mut().ok_or_else(|| Error::NoDevice("no tables".to_owned()))?;
        if domain_log > warm.twiddles_log {
            warm.twiddles = guarded(|| twiddles(domain_log))?;
            warm.twiddles_log = domain_log;
        }
        Ok(warm)
    }
}

impl Backend for Cairo {
    fn name(&self) -> &'static str {
        "opencl"
    }

    fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    fn warm_up(&mut self) -> std::result::Result<(), ProveError> {
        self.warm = None;
        self.tables(TWIDDLES_LOG_MIN).map(|_| ()).map_err(device)
    }

    fn drop_warm(&mut self) {
        self.warm = None;
    }

    fn preprocessed_root(&self) -> std::result::Result<[u8; 32], ProveError> {
        let warm = self.warm.as_ref().ok_or_else(|| ProveError::Device(DeviceFault::failed("no tables")))?;
        Ok(warm.root.0)
    }

    fn plan(&self, estimate: Estimate, memory_limit: Option<u64>) -> std::result::Result<Plan, ProveError> {
        let limit = self.runtime.memory_limit();
        let full = estimate::device_bytes(&estimate, true);
        let store_coefficients = full <= limit;
        let needed = if store_coefficients { full } else { estimate::device_bytes(&estimate, false) };
        self.runtime.must_fit(needed).map_err(device)?;
        // The witness takes less than a whole proof on the processor does; how much less depends on the program.
        let shared = if self.runtime.info().kind == DeviceKind::Cpu { needed } else { 0 };
        let bytes = estimate.bytes_lean.saturating_add(shared);
        match memory_limit.filter(|limit| bytes > *limit) {
            Some(limit) => Err(ProveError::Memory { needed: bytes, limit }),
            None => Ok(Plan { estimate, bytes, store_coefficients }),
        }
    }

    fn prove(&mut self, input: ProverInput, plan: &Plan, clock: &Clock) -> std::result::Result<CairoProof, ProveError> {
        let estimated_bytes = estimate::device_bytes(&plan.estimate, plan.store_coefficients);
        let runtime = self.runtime;
        runtime.reset_peak();
        let shape = Arc::clone(&self.shape);
        let log_rows = plan.estimate.domain_log.saturating_sub(1);
        *shape.lock().unwrap_or_else(PoisonError::into_inner) = Shape { log_rows, columns: 0 };
        let warm = self.tables(plan.estimate.domain_log).map_err(device)?;
        let parameters = ProverParameters { store_polynomials_coefficients: plan.store_coefficients, ..parameters() };
        let mut scheme = Scheme::new(parameters.pcs_config, &warm.twiddles);
        if parameters.store_polynomials_coefficients {
            scheme.set_store_polynomials_coefficients();
        }
        let proof = flow::prove(OnDevice { scheme, warm, shape }, &warm.trace, input, parameters, clock);
        self.memory = DeviceMemory { estimated_bytes, peak_bytes: runtime.memory().1 };
        proof
    }

    fn device_memory(&self) -> Option<DeviceMemory> {
        Some(self.memory)
    }

    fn failed(detail: String) -> ProveError {
        ProveError::Device(DeviceFault::Failed { detail })
    }
}

/// The commitments of one proof, in device memory.
struct OnDevice<'a> {
    scheme: Scheme<'a>,
    warm: &'a Warm,
    shape: Arc<Mutex<Shape>>,
}

impl flow::Scheme for OnDevice<'_> {
    fn commit_preprocessed(&mut self, channel: &mut Blake2sChannel) -> std::result::Result<(), ProveError> {
        // As the scheme's own method does, without reading the root once more.
        Blake2sMerkleChannel::mix_root(channel, self.warm.root);
        self.scheme.trees.push(MaybeOwned::Borrowed(&self.warm.tree));
        Ok(())
    }

    fn commit(&mut self, columns: Columns, channel: &mut Blake2sChannel) -> std::result::Result<(), ProveError> {
        guarded(|| {
            let polynomials = interpolated(columns, self.scheme.twiddles);
            phase("commit", || commit(&mut self.scheme, polynomials, channel));
        })
        .map_err(device)
    }

    fn grind(&self, channel: &Blake2sChannel, bits: u32) -> std::result::Result<u64, ProveError> {
        guarded(|| phase("interaction-proof-of-work", || OclBackend::grind(channel, bits))).map_err(device)
    }

    fn prove(
        self,
        components: &CairoComponents,
        channel: &mut Blake2sChannel,
        clock: &Clock,
    ) -> std::result::Result<Proof, ProveError> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner).columns =
            self.scheme.trees.iter().map(|tree| tree.polynomials.len()).sum();
        let provers = host_phase("record", || provers(components)).map_err(device)?;
        let provers: Vec<&dyn ComponentProver<OclBackend>> = provers.iter().map(|prover| &**prover as _).collect();
        let clock = clock.clone();
        let stages = move |name: &'static str| {
            if let Some(stage) = stage_of(name) {
                clock.enter(stage);
            }
        };
        watch_phases(stages, || prove(&provers, channel, self.scheme)).map_err(device)
    }
}

/// The stage that a phase of the device's prove function belongs to. Openings of the trees count as proof of work, as
/// they do on the processor, where no span separates them.
fn stage_of(phase: &str) -> Option<Stage> {
    Some(match phase {
        "constraints" => Stage::Composition,
        "out-of-domain" => Stage::Openings,
        "quotients" => Stage::Quotients,
        "fri" => Stage::Fri,
        "proof-of-work" => Stage::ProofOfWork,
        _ => return None,
    })
}
