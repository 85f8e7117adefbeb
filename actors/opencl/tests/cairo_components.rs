//! Constraints of every Cairo component: the kernels against stwo's `CpuBackend`, on random columns.
//!
//! A binary of its own: it holds all constraints of Cairo compiled for the host's evaluator, too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed expectation is a failed test")]

use std::path::Path;

use composition::{NAMES, Visitor};
use opencl::OclColumn;
use opencl::backend::Evaluation;
use opencl::cairo::check::{self, Component};
use opencl::cairo::samples;
use opencl::constraints::Side;
use opencl::device::{Choice, Options, Runtime, open};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stwo::core::air::Component as _;
use stwo::core::fields::m31::{BaseField, P};
use stwo::core::fields::qm31::SecureField;
use stwo::core::pcs::TreeVec;
use stwo::core::poly::circle::CanonicCoset;
use stwo::prover::backend::{Column, CpuBackend};
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::CircleEvaluation;
use stwo::prover::{AccumulationOps, ComponentProver, DomainEvaluationAccumulator, EvaluationMode, Poly, Trace};
use stwo_constraint_framework::{EvalAtRow, FrameworkComponent, FrameworkEval, TraceLocationAllocator};

/// Sizes of the tables, as powers of two.
const LOG_SIZES: std::ops::RangeInclusive<u32> = 4..=8;
/// In every run: an opcode, the longest chains of products, a builtin with a claimed segment, the widest table of proofs,
/// tables of lookups, memory.
const SAMPLE: &[&str] = &[
    "add_opcode",
    "generic_opcode",
    "blake_g",
    "cube_252",
    "add_mod_builtin",
    "partial_ec_mul_window_bits_9",
    "range_check_9_9",
    "memory_address_to_id",
    "memory_id_to_big",
];

fn device() -> &'static Runtime {
    let choice = std::env::var("PROOFGPU_DEVICE").map_or_else(|_| Choice::any(), |name| Choice::pinned(&name));
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("opencl-kernels"));
    open(&Options { choice, cache, memory_limit: None }).expect("an OpenCL device: scripts/setup.sh installs PoCL")
}

/// Constraints on tables of another size than their own.
struct Resized<'a, E>(&'a E, u32);

impl<E: FrameworkEval> FrameworkEval for Resized<'_, E> {
    fn log_size(&self) -> u32 {
        self.1
    }

    fn max_constraint_log_degree_bound(&self) -> u32 {
        self.1 + 1
    }

    fn evaluate<V: EvalAtRow>(&self, eval: V) -> V {
        self.0.evaluate(eval)
    }
}

fn random_column(rng: &mut StdRng, len: usize) -> Vec<BaseField> {
    let edges = [0, 1, P - 1];
    let value = |rng: &mut StdRng| {
        let draw = rng.random_range(0..P);
        if draw % 16 == 0 { edges[draw as usize / 16 % 3] } else { draw }
    };
    (0..len).map(|_| BaseField::from_u32_unchecked(value(rng))).collect()
}

/// Compares each component that is wanted with its recorded twin.
struct Compare<'a> {
    recorded: Vec<Component>,
    wanted: &'a dyn Fn(&str) -> bool,
    log_size: u32,
    rng: StdRng,
    compared: usize,
}

impl Compare<'_> {
    fn run<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &FrameworkComponent<E>) {
        if !(self.wanted)(name) {
            return;
        }
        let recorded = &self.recorded.iter().find(|known| known.name == name).expect("recorded").recorded;
        let eval = Resized::<E>(component, self.log_size);
        let resized = FrameworkComponent::new(&mut TraceLocationAllocator::default(), eval, component.claimed_sum());
        let domain = CanonicCoset::new(self.log_size + 1).circle_domain();
        let counts: Vec<usize> = resized.trace_log_degree_bounds().iter().map(Vec::len).collect();
        assert_eq!(counts, recorded.columns(), "{name}");
        assert_eq!(resized.n_constraints(), recorded.constraints(), "{name}");
        let trees: Vec<Vec<Vec<BaseField>>> = counts
            .iter()
            .map(|count| (0..*count).map(|_| random_column(&mut self.rng, domain.size())).collect())
            .collect();

        let random = SecureField::from_m31_array(std::array::from_fn(|_| {
            BaseField::from_u32_unchecked(self.rng.random_range(0..P))
        }));
        let powers = CpuBackend::generate_secure_powers(random, resized.n_constraints());
        let coefficients: Vec<SecureField> = powers.iter().rev().copied().collect();
        let polys: Vec<Vec<Poly<CpuBackend>>> = trees
            .iter()
            .map(|tree| {
                let evaluation = |values: &Vec<BaseField>| {
                    CircleEvaluation::<CpuBackend, BaseField, BitReversedOrder>::new(domain, values.clone())
                };
                tree.iter().map(|values| Poly::new(None, evaluation(values))).collect()
            })
            .collect();
        let trace = Trace { polys: TreeVec(polys.iter().map(|tree| tree.iter().collect()).collect()) };
        let mode = EvaluationMode::SubDomain { log_expansion: 0 };
        let mut accumulator =
            DomainEvaluationAccumulator::<CpuBackend>::new(random, domain.log_size(), resized.n_constraints(), mode);
        resized.evaluate_constraint_quotients_on_domain(&trace, &mut accumulator);
        let [expected] = accumulator.columns([(domain.log_size(), 0)]);

        let uploaded: Vec<Vec<Evaluation>> = trees
            .iter()
            .map(|tree| tree.iter().map(|values| Evaluation::new(domain, OclColumn::from_cpu(values))).collect())
            .collect();
        let columns = TreeVec(uploaded.iter().map(|tree| tree.iter().collect()).collect());
        for side in [Side::Device, Side::Host] {
            let sums = recorded.sums(side, &columns, &coefficients).unwrap_or_else(|error| panic!("{name}: {error}"));
            for (found, expected) in sums.columns.iter().zip(&expected.col.columns) {
                assert!(found.to_cpu() == *expected, "{name}, 2^{} rows, {side:?}", self.log_size);
            }
        }
        self.compared += 1;
    }
}

impl<'a> Visitor<'a> for Compare<'_> {
    fn visit<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>) {
        self.run(name, component);
    }

    fn visit_other<E: FrameworkEval + Sync>(&mut self, name: &'static str, component: &'a FrameworkComponent<E>) {
        self.run(name, component);
    }
}

/// Compares the wanted components at all sizes; how many there are.
fn compare(wanted: &dyn Fn(&str) -> bool) -> usize {
    device();
    let mut compared = 0;
    for log_size in LOG_SIZES {
        let seed = 77 + log_size;
        let recorded = check::components(log_size, seed).expect("the library's claims");
        let rng = StdRng::seed_from_u64(u64::from(seed));
        let mut compare = Compare { recorded, wanted, log_size, rng, compared: 0 };
        composition::visit(&samples::components(log_size, seed).expect("the library's claims"), &mut compare);
        compared = compare.compared;
    }
    compared
}

#[test]
fn components_of_every_kind_are_the_cpus() {
    assert_eq!(compare(&|name| SAMPLE.contains(&name)), SAMPLE.len());
}

#[test]
fn whole_cairo_list_of_components_is_the_cpus() {
    assert_eq!(compare(&|_| true), NAMES.len());
}

#[test]
fn another_claim_needs_no_other_kernel() {
    let keys = |log_size, seed| -> Vec<String> {
        let all = check::components(log_size, seed).expect("the library's claims");
        all.iter().map(|component| component.recorded.key()).collect()
    };
    let first = keys(6, 1);
    assert_eq!(first.len(), NAMES.len());
    // Other segment starts, lookup elements, claimed sums and sizes.
    for (log_size, seed) in [(6, 2), (9, 3), (17, 40_000)] {
        assert_eq!(keys(log_size, seed), first, "2^{log_size}, seed {seed}");
    }
}

#[test]
fn kernels_stay_within_bounds() {
    let since = std::time::Instant::now();
    let components = check::components(6, 1).expect("the library's claims");
    println!("{} components recorded in {:?}", components.len(), since.elapsed());
    for component in components {
        let shape = component.recorded.shape();
        println!("{:<40} {shape:?}", component.name);
        assert!(shape.kernels > 0 && shape.statements_split >= shape.statements, "{}: {shape:?}", component.name);
        // A kernel of several constraints has 160 live words at most; one constraint alone may need more.
        assert!(shape.live_words <= 240, "{}: {shape:?}", component.name);
        assert!(shape.statements_split <= 1500 * shape.kernels, "{}: {shape:?}", component.name);
    }
}
