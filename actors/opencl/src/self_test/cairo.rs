//! The constraints of every Cairo component, whose kernels take a driver minutes to compile, and a whole Cairo proof against
//! the processor's. The constraints are compared with the host's evaluation of the same recorded graph; that this is the
//! library's is shown by the test suite, whose binary holds all components compiled for `CpuBackend`.

use prover::{Engine, ProveRequest, local_statement, sample};
use types::job::HashFunction;
use types::keys::PublicKey;

use super::Context;
use crate::cairo::Cairo;
use crate::cairo::check::{compare, components};

/// Sizes of the tables, as powers of two.
const LOG_SIZES: std::ops::RangeInclusive<u32> = 4..=8;

pub(super) fn cairo_constraints_have_the_hosts_values(_: &Context) {
    for log_size in LOG_SIZES {
        for component in components(log_size, 1).expect("the components") {
            if let Err(error) = compare(&component, log_size) {
                panic!("{}: {error}", component.name);
            }
        }
    }
}

pub(super) fn a_whole_cairo_proof_is_the_hosts(on: &Context) {
    let key = PublicKey::new([7; 32]);
    let program = sample::fibonacci(977);
    let request = ProveRequest {
        statement: local_statement(&program, None, Some(HashFunction::Poseidon)).expect("a program"),
        prover: key,
        program,
        args: None,
        max_steps: 1 << 20,
        memory_limit: None,
    };
    let expected = Engine::new().prove(request.clone(), Box::new(|_| ())).expect("a proof of the processor");
    on.runtime.set_strict(true);
    let proven = Engine::with(Cairo::new(on.runtime)).prove(request.clone(), Box::new(|_| ())).expect("a proof");
    on.runtime.set_strict(false);
    assert!(proven.blob == expected.blob, "the proofs differ");
    proof::cairo::verify(&proven.blob, &request.statement, &key).expect("accepted");
}
