//! The pipe's records for tests of other crates: a worker's answers, which the node decodes though it does not trust the child
//! that sent them.

use types::felt::Felt;
use types::job::{HashFunction, ProgramKind};
use types::verdict::FailureReason;

use super::sandbox::Sandbox;
use super::wire::{self, Kernels, Pulse, Refusal, Response};
use crate::backend::DeviceMemory;
use crate::engine::Proven;
use crate::error::Fault;
use crate::execute::Executed;
use crate::inspect::Inspection;
use crate::stages::Stage;

/// One valid answer of each kind, in its frame.
pub fn answers() -> Vec<Vec<u8>> {
    let felts = || vec![Felt::from_u128(1), Felt::from_u128(u128::MAX)];
    let fault = Fault {
        field: "args".into(),
        value: Some("5".into()),
        limit: None,
        remedy: "send a list".into(),
        detail: "args: 5 is no list; send a list".into(),
    };
    let proven = Proven {
        blob: vec![7; 300],
        output: felts(),
        steps: 9_000,
        total_steps: 122_000,
        proof_bytes: 400,
        verify_us: 9_000,
        phases_ms: vec![(Stage::Running, 5), (Stage::Trace, 7)],
        estimated_bytes: 1 << 30,
        device_memory: Some(DeviceMemory { estimated_bytes: 1 << 30, peak_bytes: 1 << 29 }),
    };
    let inspection = Inspection {
        kind: ProgramKind::Cairo0,
        builtins: vec!["output".into(), "range_check".into()],
        main: 3,
        words: 40,
        hints: 2,
        hash_function: HashFunction::Poseidon,
        program_hash: Felt::from_u128(5),
        pie_output: Some(felts()),
    };
    let answers = [
        Response::Ready(Sandbox { landlock: true, seccomp: false }),
        Response::Stage(Stage::Running),
        Response::Warm,
        Response::Proven(Box::new(proven.into())),
        Response::Traced { output: felts(), steps: 9_000, total_steps: 122_000 },
        Response::from(Executed { program_hash: Felt::from_u128(5), output: felts(), steps: 9 }),
        Response::Inspected(inspection.into()),
        Response::Refused(Refusal::Input(Box::new(fault))),
        Response::Refused(Refusal::Failed { reason: FailureReason::Execution, detail: "a hint".into(), steps: 3 }),
        Response::Refused(Refusal::Memory { needed: 5, limit: 4 }),
        Response::Refused(Refusal::Unprovable { detail: "a check".into() }),
        Response::Alive(Pulse::Host),
        Response::Alive(Pulse::Waiting { expected_ms: 5 }),
        Response::Kernels(Kernels::Compiling { ready: 1, all: 9 }),
        Response::Kernels(Kernels::Refused { detail: "a kernel".into() }),
    ];
    let mut frames: Vec<_> = answers.iter().filter_map(|answer| wire::frame(answer).ok()).collect();
    // And all of them in one stream.
    frames.push(frames.concat());
    frames
}

/// Reads answers as the node does, until the end or the first that is none, and writes what it read again.
pub fn read_and_write(bytes: &[u8]) -> Vec<u8> {
    wire::answers_again(bytes)
}
