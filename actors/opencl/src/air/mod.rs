//! Workloads with traces made on the device, and how a proof of one is made with either backend and verified. The
//! statement enters the transcript before the first commitment.

pub mod wide_fibonacci;

use stwo::core::air::Component;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::fri::FriConfig;
use stwo::core::pcs::{CommitmentSchemeVerifier, PcsConfig};
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::vcs_lifted::blake2_merkle::Blake2sMerkleChannel;
use stwo::core::verifier::verify as stwo_verify;
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::{CircleEvaluation, PolyOps};
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::{CommitmentSchemeProver, ComponentProver, prove as stwo_prove};
use stwo_constraint_framework::{FrameworkComponent, FrameworkEval, TraceLocationAllocator};

use crate::backend::OclBackend;
use crate::device::{phase, runtime};
use crate::error::{Error, Result, guarded};
use crate::prove::estimate::{Shape, device_bytes};
use crate::prove::{Proof, Scheme, commit as device_commit, prove};

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

/// The parameter set for a workload: where its constraints are of a higher degree than the blow-up covers, all trees are
/// lifted to the domain of the composition polynomial's halves, because stwo wants trees of one height.
///
/// # Errors
/// As [`security`].
pub fn parameters<W: Workload>(workload: &W, bits: u32) -> Result<PcsConfig> {
    let mut config = security(bits)?;
    let eval = workload.eval();
    let halves = eval.max_constraint_log_degree_bound() - 1;
    if halves > eval.log_size() {
        config.lifting_log_size = Some(halves + config.fri_config.log_blowup_factor);
    }
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

/// The twiddles that a proof of this workload needs; keep them between proofs of one size.
pub fn twiddles<B: PolyOps, W: Workload>(workload: &W, config: PcsConfig) -> TwiddleTree<B> {
    // The composition polynomial is interpolated on a domain of its degree and committed in two halves.
    let bound = workload.eval().max_constraint_log_degree_bound();
    let log_size = bound.max(bound - 1 + config.fri_config.log_blowup_factor);
    B::precompute_twiddles(CanonicCoset::new(log_size).half_coset())
}

/// Makes a proof on the device; the times of its phases are in [`crate::device::phase_times`]. A proof that would not
/// fit is declined before it starts.
///
/// # Errors
/// [`Error::OutOfMemory`], or a device failure.
pub fn prove_on_device<W: Workload>(
    workload: &W,
    config: PcsConfig,
    twiddles: &TwiddleTree<OclBackend>,
) -> Result<Proof> {
    let component = component(workload);
    let columns = component.trace_log_degree_bounds().iter().map(Vec::len).sum();
    let eval = workload.eval();
    let shape = Shape { log_rows: eval.log_size(), columns, log_degree: eval.max_constraint_log_degree_bound() };
    runtime().must_fit(device_bytes(shape, config))?;
    let mut channel = channel(workload, config);
    let scheme = guarded(|| {
        let trace = phase("trace", || workload.device_trace());
        phase("commit", || {
            let mut scheme = Scheme::new(config, twiddles);
            scheme.set_store_polynomials_coefficients();
            device_commit(&mut scheme, Vec::new(), &mut channel);
            let polynomials = OclBackend::interpolate_columns(trace, twiddles);
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
    twiddles_on_device: &TwiddleTree<OclBackend>,
) -> Result<(Proof, Maker)> {
    let on_device = prove_on_device(workload, config, twiddles_on_device)
        .and_then(|proof| verify(workload, config, &proof).map(|()| proof));
    match on_device {
        Ok(proof) => Ok((proof, Maker::Device)),
        Err(reason) => {
            tracing::warn!(%reason, "the device gives no proof: the host makes it");
            let proof = prove_simd(workload, config, &twiddles(workload, config))?;
            verify(workload, config, &proof)?;
            Ok((proof, Maker::Host(reason)))
        }
    }
}

/// Makes the proof with stwo's `SimdBackend` on the host's cores.
///
/// # Errors
/// [`Error::Unverified`] if the constraints do not hold.
pub fn prove_simd<W: Workload>(workload: &W, config: PcsConfig, twiddles: &TwiddleTree<SimdBackend>) -> Result<Proof> {
    let mut channel = channel(workload, config);
    let mut scheme = CommitmentSchemeProver::<SimdBackend, Blake2sMerkleChannel>::new(config, twiddles);
    scheme.set_store_polynomials_coefficients();
    scheme.tree_builder().commit(&mut channel);
    let mut builder = scheme.tree_builder();
    builder.extend_evals(workload.simd_trace());
    builder.commit(&mut channel);
    let component = component(workload);
    stwo_prove(&[&component as &dyn ComponentProver<SimdBackend>], &mut channel, scheme)
        .map_err(|error| Error::Unverified(error.to_string()))
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
