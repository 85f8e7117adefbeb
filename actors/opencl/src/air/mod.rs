//! Workloads with traces made on the device, and how a proof of one is made with either backend and verified. The
//! statement enters the transcript before the first commitment.

pub mod poseidon2;
pub mod wide_fibonacci;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use stwo::core::air::Component;
use stwo::core::channel::MerkleChannel;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::fri::FriConfig;
use stwo::core::pcs::{CommitmentSchemeVerifier, PcsConfig};
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs::blake2_hash::Blake2sHash;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::core::verifier::verify as stwo_verify;
use stwo::prover::backend::BackendForChannel;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::{CircleEvaluation, PolyOps};
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::{CommitmentSchemeProver, CommitmentTreeProver, ComponentProver, prove as stwo_prove};
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval, TraceLocationAllocator};

use crate::backend::OclBackend;
use crate::device::{host_phase, phase, runtime};
use crate::error::{Error, Result, guarded};
use crate::prove::estimate::{Shape, device_bytes};
use crate::prove::{Proof, Scheme, commit as device_commit, prove};

/// A workload whose transcript begins with a number besides its statement: the same proof but for its randomness.
#[derive(Debug, Clone, Copy)]
pub struct Numbered<'a, W> {
    /// What is proven.
    pub workload: &'a W,
    /// The number.
    pub number: u32,
}

impl<W: Workload> Workload for Numbered<'_, W> {
    type Eval = W::Eval;

    fn eval(&self) -> W::Eval {
        self.workload.eval()
    }

    fn statement(&self) -> Vec<u32> {
        [self.workload.statement(), vec![self.number]].concat()
    }

    fn permutations(&self) -> Option<u64> {
        self.workload.permutations()
    }

    fn device_fixed(&self) -> TraceColumns<OclBackend> {
        self.workload.device_fixed()
    }

    fn simd_fixed(&self) -> TraceColumns<SimdBackend> {
        self.workload.simd_fixed()
    }

    fn device_trace(&self) -> TraceColumns<OclBackend> {
        self.workload.device_trace()
    }

    fn simd_trace(&self) -> TraceColumns<SimdBackend> {
        self.workload.simd_trace()
    }
}

/// Columns of a trace on the canonic domain of its rows.
pub type TraceColumns<B> = Vec<CircleEvaluation<B, BaseField, BitReversedOrder>>;

/// A provable workload of one component without lookups.
pub trait Workload {
    /// Its constraints.
    type Eval: FrameworkEval + Sync;

    /// The constraints.
    fn eval(&self) -> Self::Eval;

    /// What is proven, in words that enter the transcript first.
    fn statement(&self) -> Vec<u32>;

    /// Permutations that a proof is about, if it is about any: what its speed is counted in.
    fn permutations(&self) -> Option<u64> {
        None
    }

    /// Columns that depend on nothing but the number of rows, made on the device. The verifier knows their commitment.
    fn device_fixed(&self) -> TraceColumns<OclBackend> {
        Vec::new()
    }

    /// The same columns, made on the host.
    fn simd_fixed(&self) -> TraceColumns<SimdBackend> {
        Vec::new()
    }

    /// The trace, made on the device.
    fn device_trace(&self) -> TraceColumns<OclBackend>;

    /// The same trace, made on the host.
    fn simd_trace(&self) -> TraceColumns<SimdBackend>;
}

/// A parameter set of the commitment scheme by its conjectured security in bits: 13 is stwo's default, for comparison
/// with published benchmarks only; 96 is what production uses.
///
/// # Errors
/// [`Error::Input`] for any other figure.
pub fn security(bits: u32) -> Result<PcsConfig> {
    let (pow_bits, n_queries) = match bits {
        13 => (10, 3),
        96 => (26, 70),
        _ => {
            return Err(Error::Input { field: "security", value: bits.to_string(), limit: "13 or 96".to_owned() });
        }
    };
    Ok(PcsConfig { pow_bits, fri_config: FriConfig::new(0, 1, n_queries, 1), lifting_log_size: None })
}

/// How FRI is cut into rounds; `None` is [`parameters`]' own choice. Neither changes the conjectured security, which is the
/// bits of the proof of work and one per query and doubling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Folds per committed layer, 1 to 4 in one kernel start.
    pub fold_step: Option<u32>,
    /// Logarithm of the degree bound of the last layer, which the proof holds as it is.
    pub last_layer: Option<u32>,
}

/// Folds per committed layer: as many as one kernel start makes. Each committed layer costs a tree and a wait for its root.
const FOLD_STEP: u32 = 4;
/// Least logarithm of the last layer: below, another round costs more than its 128 bytes in the proof.
const LAST_LAYER: u32 = 3;

/// The parameter set for a workload: where its constraints are of a higher degree than the blow-up covers, all trees are
/// lifted to the domain of the composition polynomial's halves, because stwo wants trees of one height. FRI has as few
/// rounds as pay.
///
/// # Errors
/// As [`security`].
pub fn parameters<W: Workload>(workload: &W, bits: u32) -> Result<PcsConfig> {
    parameters_with(workload, bits, Rounds::default())
}

/// As [`parameters`], with these rounds.
///
/// # Errors
/// As [`security`], and [`Error::Input`] for rounds that the smallest line of the proof does not allow.
pub fn parameters_with<W: Workload>(workload: &W, bits: u32, rounds: Rounds) -> Result<PcsConfig> {
    let mut config = security(bits)?;
    let blowup = config.fri_config.log_blowup_factor;
    let eval = workload.eval();
    let halves = eval.max_constraint_log_degree_bound() - 1;
    if halves > eval.log_size() {
        config.lifting_log_size = Some(halves + blowup);
    }
    // Folds from the committed domain to the last layer's.
    let folds = halves.max(eval.log_size());
    let refuse =
        |field: &'static str, value: u32, limit: String| Err(Error::Input { field, value: value.to_string(), limit });
    let fold_step = rounds.fold_step.unwrap_or(FOLD_STEP.min(folds));
    if !(1..=folds).contains(&fold_step) {
        return refuse("fold-step", fold_step, format!("1 to {folds} for 2^{} rows", eval.log_size()));
    }
    let most = folds - fold_step;
    // So that the last round is a whole one, if there is room.
    let whole =
        (LAST_LAYER..LAST_LAYER + fold_step).find(|last| most >= *last && (most - last).is_multiple_of(fold_step));
    let last_layer = rounds.last_layer.unwrap_or(whole.unwrap_or_else(|| most.min(LAST_LAYER)));
    if last_layer > most {
        return refuse("last-layer", last_layer, format!("{most} at most for 2^{} rows", eval.log_size()));
    }
    config.fri_config = FriConfig::new(last_layer, blowup, config.fri_config.n_queries, fold_step);
    Ok(config)
}

fn component<W: Workload>(workload: &W) -> FrameworkComponent<W::Eval> {
    FrameworkComponent::new(&mut TraceLocationAllocator::default(), workload.eval(), SecureField::default())
}

fn channel<W: Workload>(workload: &W, config: PcsConfig) -> Blake2sChannel {
    let mut channel = Blake2sChannel::default();
    channel.mix_u32s(&workload.statement());
    config.mix_into(&mut channel);
    channel
}

/// A backend that can make a workload's fixed columns.
pub trait FixedColumns: BackendForChannel<Blake2sMerkleChannel> {
    /// The columns.
    fn fixed<W: Workload>(workload: &W) -> TraceColumns<Self>;
}

impl FixedColumns for OclBackend {
    fn fixed<W: Workload>(workload: &W) -> TraceColumns<Self> {
        workload.device_fixed()
    }
}

impl FixedColumns for SimdBackend {
    fn fixed<W: Workload>(workload: &W) -> TraceColumns<Self> {
        workload.simd_fixed()
    }
}

/// What proofs of one workload and size share: the twiddles and the commitment to the fixed columns. Keep it between
/// them.
pub struct Prepared<B: BackendForChannel<Blake2sMerkleChannel>> {
    twiddles: TwiddleTree<B>,
    fixed: CommitmentTreeProver<B, Blake2sMerkleChannel>,
    /// Its root, read once.
    root: Blake2sHash,
}

impl<B: FixedColumns> Prepared<B> {
    /// Computes it.
    pub fn new<W: Workload>(workload: &W, config: PcsConfig) -> Self {
        // The composition polynomial is interpolated on a domain of its degree and committed in two halves.
        let bound = workload.eval().max_constraint_log_degree_bound();
        let blowup = config.fri_config.log_blowup_factor;
        let log_size = bound.max(bound - 1 + blowup);
        let twiddles = B::precompute_twiddles(CanonicCoset::new(log_size).half_coset());
        let columns = B::interpolate_columns(B::fixed(workload), &twiddles);
        let pool = BaseColumnPool::new();
        let fixed = CommitmentTreeProver::new(columns, blowup, &twiddles, true, config.lifting_log_size, &pool);
        let root = fixed.commitment.root();
        Self { twiddles, fixed, root }
    }

    /// A scheme that holds the fixed columns' tree; its root is mixed into the transcript.
    fn scheme(
        &self,
        config: PcsConfig,
        channel: &mut Blake2sChannel,
    ) -> CommitmentSchemeProver<'_, B, Blake2sMerkleChannel> {
        let mut scheme = CommitmentSchemeProver::new(config, &self.twiddles);
        scheme.set_store_polynomials_coefficients();
        Blake2sMerkleChannel::mix_root(channel, self.root);
        scheme.trees.push(MaybeOwned::Borrowed(&self.fixed));
        scheme
    }

    /// Bytes of the fixed columns' hashes.
    fn tree_bytes(&self) -> u64 {
        if self.fixed.polynomials.is_empty() { 0 } else { HASH_BYTES << self.fixed.commitment.layers.len() }
    }
}

/// Bytes of a hash.
const HASH_BYTES: u64 = 32;

/// The root of the tree over a workload's fixed columns, which a verifier computes once per size and parameters.
///
/// # Errors
/// [`Error::Panic`] if stwo cannot commit to them.
pub fn fixed_root<W: Workload>(workload: &W, config: PcsConfig) -> Result<Blake2sHash> {
    type Key = (&'static str, u32, u32, Option<u32>);
    static ROOTS: Mutex<Option<HashMap<Key, Blake2sHash>>> = Mutex::new(None);
    let blowup = config.fri_config.log_blowup_factor;
    let key = (std::any::type_name::<W>(), workload.eval().log_size(), blowup, config.lifting_log_size);
    let known = |roots: &mut Option<HashMap<Key, Blake2sHash>>| roots.get_or_insert_default().get(&key).copied();
    if let Some(root) = known(&mut ROOTS.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(root);
    }
    let root = guarded(|| Prepared::<SimdBackend>::new(workload, config).root)?;
    ROOTS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(key, root);
    Ok(root)
}

/// Bytes of device memory that a proof has in use at once at most, `prepared` included.
pub fn needed_bytes<W: Workload>(workload: &W, config: PcsConfig, prepared: &Prepared<OclBackend>) -> u64 {
    let columns = component(workload).trace_log_degree_bounds().iter().map(Vec::len).sum();
    let eval = workload.eval();
    let shape = Shape { log_rows: eval.log_size(), columns, log_degree: eval.max_constraint_log_degree_bound() };
    device_bytes(shape, config) + prepared.tree_bytes()
}

/// Makes a proof on the device; the times of its phases are in [`crate::device::phase_times`]. A proof that would not
/// fit is declined before it starts.
///
/// # Errors
/// [`Error::OutOfMemory`], or a device failure.
pub fn prove_on_device<W: Workload>(workload: &W, config: PcsConfig, prepared: &Prepared<OclBackend>) -> Result<Proof> {
    let component = component(workload);
    runtime().must_fit(needed_bytes(workload, config, prepared))?;
    let mut channel = channel(workload, config);
    let scheme = guarded(|| {
        let trace = phase("trace", || workload.device_trace());
        phase("commit", || {
            let mut scheme: Scheme<'_> = prepared.scheme(config, &mut channel);
            let polynomials = OclBackend::interpolate_columns(trace, &prepared.twiddles);
            device_commit(&mut scheme, polynomials, &mut channel);
            scheme
        })
    })?;
    prove(&[&component as &dyn ComponentProver<OclBackend>], &mut channel, scheme)
}

/// Who made a proof.
#[derive(Debug, Clone)]
pub enum Maker {
    /// The device.
    Device,
    /// The host, because of a failure of the device.
    Host(Error),
}

/// Makes a proof on the device, or on the host if the device fails or declines, and verifies it: what leaves a process
/// has always been accepted by stwo's verifier.
///
/// # Errors
/// [`Error::Unverified`] if no proof verifies, which then is the statement's fault.
pub fn prove_checked<W: Workload>(
    workload: &W,
    config: PcsConfig,
    prepared: &Prepared<OclBackend>,
) -> Result<(Proof, Maker)> {
    let on_device =
        prove_on_device(workload, config, prepared).and_then(|proof| verify(workload, config, &proof).map(|()| proof));
    match on_device {
        Ok(proof) => Ok((proof, Maker::Device)),
        Err(reason) => {
            tracing::warn!(%reason, "the device gives no proof: the host makes it");
            let proof = prove_simd(workload, config, &Prepared::new(workload, config))?;
            verify(workload, config, &proof)?;
            Ok((proof, Maker::Host(reason)))
        }
    }
}

/// Makes the proof with stwo's `SimdBackend` on the host's cores. Its phases are trace, commit and prove: stwo does the
/// rest in one call.
///
/// # Errors
/// [`Error::Unverified`] if the constraints do not hold.
pub fn prove_simd<W: Workload>(workload: &W, config: PcsConfig, prepared: &Prepared<SimdBackend>) -> Result<Proof> {
    let mut channel = channel(workload, config);
    let mut scheme = prepared.scheme(config, &mut channel);
    let trace = host_phase("trace", || workload.simd_trace());
    host_phase("commit", || {
        let mut builder = scheme.tree_builder();
        builder.extend_evals(trace);
        builder.commit(&mut channel);
    });
    let component = component(workload);
    host_phase("prove", || {
        stwo_prove(&[&component as &dyn ComponentProver<SimdBackend>], &mut channel, scheme)
            .map_err(|error| Error::Unverified(error.to_string()))
    })
}

/// Checks a proof with stwo's own verifier.
///
/// # Errors
/// [`Error::Unverified`] with the verifier's reason.
pub fn verify<W: Workload>(workload: &W, config: PcsConfig, proof: &Proof) -> Result<()> {
    let refused = |reason: String| Error::Unverified(reason);
    if proof.config != config {
        return Err(refused("its parameters are not the wanted ones".to_owned()));
    }
    // stwo's verifier takes whatever was committed for the fixed columns.
    if proof.commitments.first() != Some(&fixed_root(workload, config)?) {
        return Err(refused("its fixed columns are not the workload's".to_owned()));
    }
    let mut channel = channel(workload, config);
    let component = component(workload);
    let mut scheme = CommitmentSchemeVerifier::<Blake2sMerkleChannel>::new(config);
    for (commitment, sizes) in proof.commitments.iter().zip(component.trace_log_degree_bounds().iter()).take(2) {
        scheme.commit(*commitment, sizes, &mut channel);
    }
    let outcome = guarded(|| stwo_verify(&[&component as &dyn Component], &mut channel, &mut scheme, proof.clone()))?;
    outcome.map_err(|error| refused(error.to_string()))
}

/// The bytes of a proof: what is compared, hashed and counted.
///
/// # Errors
/// [`Error::Input`] if it cannot be serialised.
pub fn proof_bytes(proof: &Proof) -> Result<Vec<u8>> {
    bincode1::serialize(proof).map_err(|error| Error::Input {
        field: "proof",
        value: error.to_string(),
        limit: "serialisable".to_owned(),
    })
}
