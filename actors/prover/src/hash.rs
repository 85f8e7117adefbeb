//! The program hash function, in the shared vocabulary's and in the runner library's form, and which one to choose.

use cairo_program_runner_lib::hints::types::HashFunc;
use types::job::HashFunction;

use crate::program::Program;

/// The library's name for it.
pub(crate) const fn to_library(function: HashFunction) -> HashFunc {
    match function {
        HashFunction::Pedersen => HashFunc::Pedersen,
        HashFunction::Poseidon => HashFunc::Poseidon,
        HashFunction::Blake => HashFunc::Blake,
    }
}

/// The hash function that makes the proof of a program cheapest.
///
/// Measured: Pedersen has the fewest columns, so the smallest proofs (730 KB where Poseidon makes 840), but is the dearest
/// per word: best for very short programs, and for short ones that use it anyway and have paid for its tables. Hashing by
/// Poseidon costs about 0.35 MB of memory and its share of time per word. Blake costs the tables of 2^20 rows that it drags
/// in, about 0.6 GB and half as much time again, and next to nothing per word, so it is best for long programs; the two meet
/// at about 1,500 words.
pub fn choose_hash(program: &Program) -> HashFunction {
    use cairo_vm::types::builtin_name::BuiltinName::{pedersen, poseidon};
    const BRIEF: usize = 64;
    const SHORT: usize = 512;
    const LONG: usize = 1_500;
    let words = program.words().len();
    if words > LONG {
        HashFunction::Blake
    } else if !program.uses(poseidon) && words <= if program.uses(pedersen) { SHORT } else { BRIEF } {
        HashFunction::Pedersen
    } else {
        HashFunction::Poseidon
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_choice_follows_length_and_builtins() {
        let choice = |words: usize, builtins: &[&str]| {
            let mut all = sample::fibonacci_words(1);
            all.resize(words.max(all.len()), 7.into());
            choose_hash(&Program::load(&sample::cairo0_json(&all, builtins, &[])).unwrap())
        };
        assert_eq!(choice(40, &["output"]), HashFunction::Pedersen);
        assert_eq!(choice(65, &["output"]), HashFunction::Poseidon);
        assert_eq!(choice(40, &["output", "poseidon"]), HashFunction::Poseidon);
        assert_eq!(choice(65, &["output", "pedersen"]), HashFunction::Pedersen);
        assert_eq!(choice(40, &["output", "pedersen", "poseidon"]), HashFunction::Poseidon);
        assert_eq!(choice(1_000, &["output", "pedersen"]), HashFunction::Poseidon);
        assert_eq!(choice(2_000, &["output"]), HashFunction::Blake);
    }
}
