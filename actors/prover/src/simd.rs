//! The processor's backend: stwo's `SimdBackend`, with our evaluation of the constraints. Owns the tables that all its
//! proofs share and the pool of column buffers.

use std::fmt;
use std::sync::Arc;

use cairo_air::cairo_components::CairoComponents;
use proof::envelope::CairoProof;
use proof::policy;
use stwo::core::channel::Blake2sChannel;
use stwo::core::pcs::PcsConfig;
use stwo::core::poly::circle::CanonicCoset;
use stwo::core::proof::StarkProof;
use stwo::core::proof_of_work::GrindOps;
use stwo::core::utils::MaybeOwned;
use stwo::core::vcs_lifted::blake2_merkle::{Blake2sMerkleChannel, Blake2sMerkleHasher};
use stwo::prover::backend::simd::SimdBackend;
use stwo::prover::mempool::BaseColumnPool;
use stwo::prover::poly::circle::PolyOps;
use stwo::prover::poly::twiddles::TwiddleTree;
use stwo::prover::{CommitmentSchemeProver, CommitmentTreeProver, ComponentProver, prove_ex};
use stwo_cairo_prover::utils::cairo_provers;

use crate::backend::{Backend, Plan, PreProcessedTrace, ProverInput, ProverParameters, parameters, preprocessed};
use crate::engine::ProveError;
use crate::flow::{self, Columns, Scheme};
use crate::memory::Estimate;
use crate::stages::Clock;
use crate::worker;

/// Smallest domain that twiddles are made for, as a power of two: the preprocessed columns need it.
const TWIDDLES_LOG_MIN: u32 = 22;
/// Column buffers kept for the next proof are dropped when a proof that needed more than this has used them, in bytes.
const POOL_BYTES_KEPT: u64 = 4 << 30;
/// Before a proof that is expected to take more than this, memory is handed back that smaller pieces keep in parts: for
/// smaller proofs that costs more time than it is worth.
const TRIM_FROM_BYTES: u64 = 3 << 30;

/// The tables that all proofs share.
pub(crate) struct Warm {
    pub(crate) twiddles: TwiddleTree<SimdBackend>,
    twiddles_log: u32,
    pub(crate) trace: Arc<PreProcessedTrace>,
    pub(crate) tree: CommitmentTreeProver<SimdBackend, Blake2sMerkleChannel>,
    pub(crate) pool: BaseColumnPool<SimdBackend>,
}

fn twiddles(log: u32) -> TwiddleTree<SimdBackend> {
    SimdBackend::precompute_twiddles(CanonicCoset::new(log).circle_domain().half_coset)
}

impl Warm {
    fn new(twiddles_log: u32) -> Self {
        let twiddles = twiddles(twiddles_log);
        let PcsConfig { fri_config, lifting_log_size, .. } = policy::pcs_config();
        let (trace, columns) = preprocessed();
        let polynomials = SimdBackend::interpolate_columns(columns, &twiddles);
        let pool = BaseColumnPool::new();
        let tree = CommitmentTreeProver::new(
            polynomials,
            fri_config.log_blowup_factor,
            &twiddles,
            parameters().store_polynomials_coefficients,
            lifting_log_size,
            &pool,
        );
        Self { twiddles, twiddles_log, trace, tree, pool }
    }
}

/// Proves on the processor.
#[derive(Default)]
pub struct Simd {
    pub(crate) warm: Option<Warm>,
}

impl fmt::Debug for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simd").field("warm", &self.warm.is_some()).finish()
    }
}

impl Simd {
    fn tables(&mut self, domain_log: u32) -> &Warm {
        let warm = self.warm.get_or_insert_with(|| {
            let warm = Warm::new(TWIDDLES_LOG_MIN);
            // A third of what is held now is left over from making the tables.
            worker::give_memory_back();
            warm
        });
        if domain_log > warm.twiddles_log {
            warm.twiddles = twiddles(domain_log);
            warm.twiddles_log = domain_log;
        }
        warm
    }
}

impl Backend for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn is_warm(&self) -> bool {
        self.warm.is_some()
    }

    fn warm_up(&mut self) -> Result<(), ProveError> {
        self.warm = None;
        self.tables(TWIDDLES_LOG_MIN);
        Ok(())
    }

    fn drop_warm(&mut self) {
        self.warm = None;
    }

    fn preprocessed_root(&self) -> Result<[u8; 32], ProveError> {
        let warm = self.warm.as_ref().ok_or_else(|| ProveError::Unprovable { detail: "no warm tables".into() })?;
        Ok(warm.tree.commitment.root().0)
    }

    fn plan(&self, estimate: Estimate, memory_limit: Option<u64>) -> Result<Plan, ProveError> {
        if let Some(limit) = memory_limit.filter(|limit| estimate.bytes_lean > *limit) {
            return Err(ProveError::Memory { needed: estimate.bytes_lean, limit });
        }
        let store_coefficients = memory_limit.is_none_or(|limit| estimate.bytes <= limit);
        let bytes = if store_coefficients { estimate.bytes } else { estimate.bytes_lean };
        Ok(Plan { estimate, bytes, store_coefficients })
    }

    fn prove(&mut self, input: ProverInput, plan: &Plan, clock: &Clock) -> Result<CairoProof, ProveError> {
        if plan.estimate.bytes > TRIM_FROM_BYTES {
            worker::give_memory_back();
        }
        let warm = self.tables(plan.estimate.domain_log);
        let parameters = ProverParameters { store_polynomials_coefficients: plan.store_coefficients, ..parameters() };
        let scheme = SimdScheme::new(warm, parameters);
        let result = flow::prove(scheme, &warm.trace, input, parameters, clock);
        if plan.estimate.bytes > POOL_BYTES_KEPT {
            self.recover();
        }
        result
    }

    fn recover(&mut self) {
        if let Some(warm) = self.warm.as_mut() {
            warm.pool = BaseColumnPool::new();
        }
    }
}

/// The commitments of one proof.
struct SimdScheme<'a> {
    warm: &'a Warm,
    scheme: CommitmentSchemeProver<'a, SimdBackend, Blake2sMerkleChannel>,
    include_all_preprocessed_columns: bool,
}

impl<'a> SimdScheme<'a> {
    fn new(warm: &'a Warm, parameters: ProverParameters) -> Self {
        let mut scheme = CommitmentSchemeProver::with_memory_pool(parameters.pcs_config, &warm.twiddles, &warm.pool);
        if parameters.store_polynomials_coefficients {
            scheme.set_store_polynomials_coefficients();
        }
        Self { warm, scheme, include_all_preprocessed_columns: parameters.include_all_preprocessed_columns }
    }
}

impl Scheme for SimdScheme<'_> {
    fn commit_preprocessed(&mut self, channel: &mut Blake2sChannel) -> Result<(), ProveError> {
        self.scheme.commit_tree(MaybeOwned::Borrowed(&self.warm.tree), channel);
        Ok(())
    }

    fn commit(&mut self, columns: Columns, channel: &mut Blake2sChannel) -> Result<(), ProveError> {
        let mut tree = self.scheme.tree_builder();
        tree.extend_evals(columns);
        tree.commit(channel);
        Ok(())
    }

    fn grind(&self, channel: &Blake2sChannel, bits: u32) -> Result<u64, ProveError> {
        Ok(SimdBackend::grind(channel, bits))
    }

    fn prove(
        self,
        components: &CairoComponents,
        channel: &mut Blake2sChannel,
        clock: &Clock,
    ) -> Result<StarkProof<Blake2sMerkleHasher>, ProveError> {
        let unprovable = |detail: String| ProveError::Unprovable { detail };
        let provers = composition::provers(components, cairo_provers(components)).ok_or_else(|| {
            unprovable("the library's list of components is not the one that this build knows".into())
        })?;
        let provers: Vec<&dyn ComponentProver<SimdBackend>> = provers.iter().map(AsRef::as_ref).collect();
        let Self { scheme, include_all_preprocessed_columns, .. } = self;
        let proof = clock.follow(|| prove_ex(&provers, channel, scheme, include_all_preprocessed_columns));
        Ok(proof.map_err(|e| unprovable(format!("proving: {e}")))?.proof)
    }
}
