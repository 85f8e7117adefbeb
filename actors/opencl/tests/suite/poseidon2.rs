//! Our permutation is the published one: round constants and whole permutations against Plonky3's instance.

use opencl::air::poseidon2::permutation::{Constants, WIDTH, permute};
use p3_field::PrimeField32;
use p3_mersenne_31::{
    MERSENNE31_POSEIDON2_RC_16_EXTERNAL_FINAL, MERSENNE31_POSEIDON2_RC_16_EXTERNAL_INITIAL,
    MERSENNE31_POSEIDON2_RC_16_INTERNAL, Mersenne31, default_mersenne31_poseidon2_16,
};
use p3_symmetric::Permutation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stwo::core::fields::m31::{BaseField, P};

fn numbers(values: &[Mersenne31]) -> Vec<u32> {
    values.iter().map(PrimeField32::as_canonical_u32).collect()
}

#[test]
fn the_generated_constants_are_the_published_ones() {
    let constants = Constants::get();
    let words = |values: &[BaseField]| values.iter().map(|value| value.0).collect::<Vec<_>>();
    assert_eq!(words(&constants.first.concat()), numbers(&MERSENNE31_POSEIDON2_RC_16_EXTERNAL_INITIAL.concat()));
    assert_eq!(words(&constants.partial), numbers(&MERSENNE31_POSEIDON2_RC_16_INTERNAL));
    assert_eq!(words(&constants.last.concat()), numbers(&MERSENNE31_POSEIDON2_RC_16_EXTERNAL_FINAL.concat()));
}

#[test]
fn permutations_are_the_published_ones() {
    let published = default_mersenne31_poseidon2_16();
    let mut rng = StdRng::seed_from_u64(60);
    let mut inputs: Vec<[u32; WIDTH]> = vec![[0; WIDTH], [1; WIDTH], [P - 1; WIDTH]];
    inputs.push(std::array::from_fn(|k| k as u32));
    inputs.extend((0..100).map(|_| std::array::from_fn(|_| rng.random_range(0..P))));
    for input in inputs {
        let mut ours = input.map(BaseField::from_u32_unchecked);
        permute(&mut ours);
        let theirs = published.permute(input.map(Mersenne31::new));
        assert_eq!(ours.map(|value| value.0).to_vec(), numbers(&theirs), "{input:?}");
    }
}
