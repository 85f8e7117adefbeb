//! The Poseidon2 permutation (eprint 2023/323) over the field of 2^31 - 1: width 16, S-box x^5, 8 full and 14 partial
//! rounds, for 128 bits of security. Owns the constants, which the paper's generator makes here from the parameters
//! alone, and the rounds, written once for field elements and for the expressions of constraints.
//!
//! The linear layers are those of Plonky3's instance for this field, with which a test compares whole permutations: the
//! external one is circ(2 M, M, M, M) with the 4 x 4 matrix M = circ(2, 3, 1, 1), the internal one is 1 + diag(V) with V
//! of small powers of two, so that products are shifts.

use std::ops::{Add, AddAssign, Mul, Sub};
use std::sync::OnceLock;

use stwo::core::fields::m31::{BaseField, P};

/// Elements of the state.
pub const WIDTH: usize = 16;
/// Full rounds before the partial ones, and as many after them.
pub const HALF_FULL_ROUNDS: usize = 4;
/// Partial rounds: only the first element passes the S-box.
pub const PARTIAL_ROUNDS: usize = 14;
/// S-boxes of a permutation.
pub const SBOXES: usize = 2 * HALF_FULL_ROUNDS * WIDTH + PARTIAL_ROUNDS;
/// Shifts of the internal layer's diagonal from the second element on; the first is -2.
const DIAGONAL_SHIFTS: [u32; WIDTH - 1] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 15, 16];

/// Bits of a field element.
const FIELD_BITS: u32 = 31;

/// The generator of the constants: an 80-bit linear feedback shift register in self-shrinking mode, started from the
/// parameters (section 3.2 of eprint 2023/323, appendix E of eprint 2019/458).
struct Grain {
    /// Bit i of the register is bit i here.
    state: u128,
}

impl Grain {
    const BITS: u32 = 80;
    const TAPS: [u32; 6] = [62, 51, 38, 23, 13, 0];

    fn new() -> Self {
        // Field kind 1 (prime), S-box kind 0 (a power), then the sizes, each with its most significant bit first.
        let full = 2 * HALF_FULL_ROUNDS as u128;
        let parts: [(u128, u32); 7] = [
            (1, 2),
            (0, 4),
            (u128::from(FIELD_BITS), 12),
            (WIDTH as u128, 12),
            (full, 10),
            (PARTIAL_ROUNDS as u128, 10),
            ((1 << 30) - 1, 30),
        ];
        let mut state = 0;
        let mut at = 0;
        for (value, bits) in parts {
            for bit in (0..bits).rev() {
                state |= ((value >> bit) & 1) << at;
                at += 1;
            }
        }
        let mut grain = Self { state };
        for _ in 0..2 * Self::BITS {
            grain.step();
        }
        grain
    }

    fn step(&mut self) -> u32 {
        let bit = Self::TAPS.iter().fold(0, |sum, tap| sum ^ ((self.state >> tap) & 1));
        self.state = (self.state >> 1) | (bit << (Self::BITS - 1));
        bit as u32
    }

    fn bit(&mut self) -> u32 {
        loop {
            let (wanted, bit) = (self.step(), self.step());
            if wanted == 1 {
                return bit;
            }
        }
    }

    fn element(&mut self) -> BaseField {
        loop {
            let value = (0..FIELD_BITS).fold(0, |value, _| (value << 1) | self.bit());
            if value < P {
                return BaseField::from_u32_unchecked(value);
            }
        }
    }
}

/// The round constants.
#[derive(Debug)]
pub struct Constants {
    /// Of the first full rounds.
    pub first: [[BaseField; WIDTH]; HALF_FULL_ROUNDS],
    /// Of the partial rounds.
    pub partial: [BaseField; PARTIAL_ROUNDS],
    /// Of the last full rounds.
    pub last: [[BaseField; WIDTH]; HALF_FULL_ROUNDS],
}

impl Constants {
    fn generate() -> Self {
        let mut grain = Grain::new();
        let full = |grain: &mut Grain| std::array::from_fn(|_| std::array::from_fn(|_| grain.element()));
        let first = full(&mut grain);
        let partial = std::array::from_fn(|_| grain.element());
        Self { first, partial, last: full(&mut grain) }
    }

    /// The constants of this instance.
    #[must_use]
    pub fn get() -> &'static Self {
        static CONSTANTS: OnceLock<Constants> = OnceLock::new();
        CONSTANTS.get_or_init(Self::generate)
    }

    /// In the order in which the rounds use them, as words.
    pub(super) fn words(&self) -> Vec<u32> {
        let full = |rounds: &[[BaseField; WIDTH]]| rounds.concat();
        let all = [full(&self.first), self.partial.to_vec(), full(&self.last)].concat();
        all.iter().map(|value| value.0).collect()
    }
}

/// What the rounds need of a value: field elements and expressions over them have it.
pub trait Value:
    Clone + Add<Output = Self> + Sub<Output = Self> + Mul<BaseField, Output = Self> + AddAssign<BaseField>
{
}

impl<T: Clone + Add<Output = T> + Sub<Output = T> + Mul<BaseField, Output = T> + AddAssign<BaseField>> Value for T {}

fn external_layer<V: Value>(state: &mut [V; WIDTH]) {
    for four in state.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = four.clone();
        let sum = a.clone() + b.clone() + c.clone() + d.clone();
        let double = |value: &V| value.clone() + value.clone();
        *four = [
            sum.clone() + a.clone() + double(&b),
            sum.clone() + b + double(&c),
            sum.clone() + c + double(&d),
            sum + d + double(&a),
        ];
    }
    let sums: [V; 4] =
        std::array::from_fn(|k| state[k].clone() + state[k + 4].clone() + state[k + 8].clone() + state[k + 12].clone());
    for (value, sum) in state.iter_mut().zip(sums.iter().cycle()) {
        *value = value.clone() + sum.clone();
    }
}

fn internal_layer<V: Value>(state: &mut [V; WIDTH]) {
    let mut sum = state[0].clone();
    for value in &state[1..] {
        sum = sum + value.clone();
    }
    let first = state[0].clone();
    state[0] = sum.clone() - (first.clone() + first);
    for (value, shift) in state[1..].iter_mut().zip(DIAGONAL_SHIFTS) {
        *value = sum.clone() + value.clone() * BaseField::from_u32_unchecked(1 << shift);
    }
}

fn full_round<V: Value>(state: &mut [V; WIDTH], constants: &[BaseField; WIDTH], sbox: &mut impl FnMut(V) -> V) {
    for (value, constant) in state.iter_mut().zip(constants) {
        *value += *constant;
        *value = sbox(value.clone());
    }
    external_layer(state);
}

/// Runs the permutation; `sbox` is asked for the fifth power of each value that passes an S-box, in order.
pub fn permute_with<V: Value>(state: &mut [V; WIDTH], mut sbox: impl FnMut(V) -> V) {
    let constants = Constants::get();
    external_layer(state);
    for round in &constants.first {
        full_round(state, round, &mut sbox);
    }
    for constant in constants.partial {
        state[0] += constant;
        state[0] = sbox(state[0].clone());
        internal_layer(state);
    }
    for round in &constants.last {
        full_round(state, round, &mut sbox);
    }
}

/// The permutation of field elements.
pub fn permute(state: &mut [BaseField; WIDTH]) {
    permute_with(state, |x| {
        let square = x * x;
        square * square * x
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_starts_with_the_published_constants() {
        // As published with Plonky3's instance, which uses the paper's script.
        let constants = Constants::get();
        assert_eq!(
            constants.first[0][..3].iter().map(|c| c.0).collect::<Vec<_>>(),
            [0x768b_ab52, 0x70e0_ab7d, 0x3d26_6c8a]
        );
        assert_eq!(constants.partial[0].0, 0x7f7e_c4bf);
        assert_eq!(constants.last[0][0].0, 0x5709_0613);
        assert_eq!(constants.last[3][15].0, 0x4996_6a59);
        assert_eq!(constants.words().len(), SBOXES);
    }

    #[test]
    fn the_number_of_sboxes_is_the_number_of_calls() {
        let mut calls = 0;
        permute_with(&mut [BaseField::from_u32_unchecked(3); WIDTH], |x| {
            calls += 1;
            x
        });
        assert_eq!(calls, SBOXES);
    }
}
