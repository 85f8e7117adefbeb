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
/// Poseidon proves fastest for every size measured (1,000 to 100,000 words); Blake drags in tables of 2^20 rows, and
/// Pedersen costs a third more time for a proof that is a tenth smaller. A program that uses Pedersen and not Poseidon
/// has paid for Pedersen's tables already, so a short one is hashed with what is there.
pub fn choose_hash(program: &Program) -> HashFunction {
    use cairo_vm::types::builtin_name::BuiltinName::{pedersen, poseidon};
    const SHORT: usize = 512;
    if program.uses(pedersen) && !program.uses(poseidon) && program.words().len() <= SHORT {
        HashFunction::Pedersen
    } else {
        HashFunction::Poseidon
    }
}
