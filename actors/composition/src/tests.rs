//! The library's own evaluator is the yardstick: on any columns, random ones included, both must give the same numbers.

use cairo_air::components::{
    add_mod_builtin, add_opcode_small, blake_g, cube_252, memory_address_to_id, memory_id_to_big, range_check_9_9,
    range_check_20,
};
use cairo_air::relations::CommonLookupElements;
use stwo::core::channel::{Blake2sChannel, Channel};
use stwo::core::fields::m31::BaseField;
use stwo::prover::Poly;
use stwo::prover::backend::simd::column::BaseColumn;
use stwo::prover::poly::BitReversedOrder;
use stwo::prover::poly::circle::CircleEvaluation;
use stwo_constraint_framework::TraceLocationAllocator;

use super::*;

type Evaluation = CircleEvaluation<SimdBackend, BaseField, BitReversedOrder>;

/// Numbers that look random, the field's edges among them.
fn column(log: u32, seed: &mut u64) -> Poly<SimdBackend> {
    let values: BaseColumn = (0..1u32 << log)
        .map(|i| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match i % 61 {
                0 => BaseField::from_u32_unchecked(0),
                1 => BaseField::from_u32_unchecked((1 << 31) - 2),
                _ => BaseField::reduce(*seed >> 2),
            }
        })
        .collect();
    Poly::new(None, Evaluation::new(CanonicCoset::new(log).circle_domain(), values))
}

fn check<E: FrameworkEval + Sync>(eval: impl Fn(CommonLookupElements) -> E) {
    let channel = &mut Blake2sChannel::default();
    channel.mix_u64(7);
    let elements = CommonLookupElements::draw(channel);
    let [claimed_sum, random] = channel.draw_secure_felts(2).try_into().unwrap();
    let component = FrameworkComponent::new(&mut TraceLocationAllocator::default(), eval(elements), claimed_sum);
    let domain_log = component.max_constraint_log_degree_bound();
    let mut seed = 1;
    let polys: Vec<Vec<_>> = component
        .trace_log_degree_bounds()
        .iter()
        .map(|tree| tree.iter().map(|_| column(domain_log, &mut seed)).collect())
        .collect();
    let trace = Trace { polys: TreeVec::new(polys.iter().map(|tree| tree.iter().collect()).collect()) };
    let sums = |prover: &dyn ComponentProver<SimdBackend>| {
        let mode = EvaluationMode::SubDomain { log_expansion: 0 };
        // Two spare powers: a component must take its own from the end and leave the others.
        let powers = component.n_constraints() + 2;
        let mut accumulator = DomainEvaluationAccumulator::new(random, domain_log, powers, mode);
        prover.evaluate_constraint_quotients_on_domain(&trace, &mut accumulator);
        let [left] = accumulator.columns([(domain_log, 2)]);
        (left.random_coeff_powers, left.col.to_cpu().columns)
    };
    let ours = sums(&Fast { component: &component, stock: &component });
    let stock = sums(&component);
    assert_eq!(ours.0, stock.0);
    assert!(ours.1 == stock.1, "the values differ");
    assert!(ours.1[0].iter().any(|value| value.0 != 0));
}

#[test]
fn an_opcode() {
    for log_size in [5, 6, 7, 11] {
        let claim = add_opcode_small::Claim { log_size };
        check(|common_lookup_elements| add_opcode_small::Eval { claim, common_lookup_elements });
    }
}

#[test]
fn builtins_and_deep_arithmetic() {
    let claim = add_mod_builtin::Claim { log_size: 6, add_mod_builtin_segment_start: 5 };
    check(|common_lookup_elements| add_mod_builtin::Eval { claim, common_lookup_elements });
    let claim = cube_252::Claim { log_size: 8 };
    check(|common_lookup_elements| cube_252::Eval { claim, common_lookup_elements });
    let claim = blake_g::Claim { log_size: 7 };
    check(|common_lookup_elements| blake_g::Eval { claim, common_lookup_elements });
}

#[test]
fn memory_and_tables_with_preprocessed_columns() {
    let claim = memory_address_to_id::Claim { log_size: 9 };
    check(|common_lookup_elements| memory_address_to_id::Eval { claim, common_lookup_elements });
    check(|elements| memory_id_to_big::BigEval::new(9, 1 << 9, elements));
    check(|common_lookup_elements| range_check_9_9::Eval { claim: range_check_9_9::Claim {}, common_lookup_elements });
    check(|common_lookup_elements| range_check_20::Eval { claim: range_check_20::Claim {}, common_lookup_elements });
}
