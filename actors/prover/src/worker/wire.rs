//! The records between a node and its worker: length, version, body; bounded on both sides.

use std::io::{self, Read, Write};

use bincode::{Decode, Encode};
use types::codec::Wire;
use types::felt::Felt;
use types::job::{HashFunction, ProgramKind};
use types::keys::PublicKey;
use types::statement::Statement;
use types::verdict::FailureReason;

use crate::backend::DeviceMemory;
use crate::engine::{ProveError, ProveRequest, Proven};
use crate::error::{DeviceFault, Fault, ProgramError};
use crate::execute::{ExecuteRequest, Executed};
use crate::inspect::Inspection;
use crate::runner::RunError;
use crate::stages::Stage;
use crate::worker::sandbox::Sandbox;
use crate::{error, limits};

/// Room for everything in a record besides its blobs, in bytes.
const OVERHEAD: usize = 1 << 20;
/// Largest output, in bytes.
const OUTPUT_BYTES: usize = limits::OUTPUT_WORDS_MAX * 32;

/// What a worker is asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Request {
    Prove(Box<ProveBody>),
    Execute { program: Vec<u8>, args: Option<Vec<u8>>, hash_function: HashFunction, max_steps: u64 },
    Inspect { program: Vec<u8>, hash_function: Option<HashFunction> },
    WarmUp,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ProveBody {
    statement: Statement,
    prover: PublicKey,
    program: Vec<u8>,
    args: Option<Vec<u8>>,
    max_steps: u64,
    memory_limit: Option<u64>,
}

impl ProveBody {
    /// What the proof shall say, under whose key, and in how much memory: all but the program.
    pub(crate) fn outline(&self) -> (Statement, PublicKey, Option<u64>) {
        (self.statement.clone(), self.prover, self.memory_limit)
    }
}

impl Request {
    /// Refuses what no child would take, before it is copied into a record.
    ///
    /// # Errors
    /// [`ProgramError::TooLarge`] for the program or the arguments.
    pub(crate) fn check(&self) -> Result<(), ProgramError> {
        let (program, args) = match self {
            Self::Prove(body) => (&body.program, body.args.as_ref()),
            Self::Execute { program, args, .. } => (program, args.as_ref()),
            Self::Inspect { program, .. } => (program, None),
            Self::WarmUp => return Ok(()),
        };
        if program.len() > limits::PROGRAM_BYTES_MAX {
            return Err(ProgramError::too_large("program", limits::PROGRAM_BYTES_MAX, "bytes"));
        }
        if args.is_some_and(|args| args.len() > limits::ARGS_BYTES_MAX) {
            return Err(ProgramError::too_large("args", limits::ARGS_BYTES_MAX, "bytes"));
        }
        Ok(())
    }
}

impl Wire for Request {
    const NAME: &'static str = "worker request";
    // 2: devices. The binary that drives them may be of another build than the node.
    const VERSION: u16 = 2;
    const BYTES_MAX: usize = limits::PROGRAM_BYTES_MAX + limits::ARGS_BYTES_MAX + OVERHEAD;
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Response {
    /// It is up, in this sandbox.
    Ready(Sandbox),
    /// A stage begins.
    Stage(Stage),
    Warm,
    Proven(Box<ProvenBody>),
    /// The run is ready to be proved; what there is to prove follows this record as a stream of its own, see `trace`.
    Traced {
        output: Vec<Felt>,
        steps: u64,
        total_steps: u64,
    },
    Executed {
        program_hash: Felt,
        output: Vec<Felt>,
        steps: u64,
    },
    Inspected(InspectedBody),
    Refused(Refusal),
    /// The child is there, and this is what it does. Only one that drives a device says so.
    Alive(Pulse),
    /// How far a child that drives a device is with the kernels that it compiles ahead; sent unasked.
    Kernels(Kernels),
}

/// Kernels that a device's process compiles before a proof asks for them.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Kernels {
    /// The compiler is at work, or waits for a proof's end.
    Compiling {
        /// Programs that are ready.
        ready: u32,
        /// All that proofs may need.
        all: u32,
    },
    /// All are ready.
    Ready {
        /// How many.
        all: u32,
    },
    /// The driver refuses at least one.
    Refused {
        /// Which, and what the driver says.
        detail: String,
    },
}

/// What a child that drives a device does, told every few seconds while it has a request in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Pulse {
    /// The device's work has gone on since the last pulse.
    Progress,
    /// A compiler makes a kernel.
    Compiling,
    /// The processor's own part of a proof: nobody waits for the device.
    Host,
    /// A call of the driver has not come back since the last pulse. A stage of this proof is expected to take so long.
    Waiting {
        /// Milliseconds; zero when nothing is known.
        expected_ms: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct ProvenBody {
    blob: Vec<u8>,
    output: Vec<Felt>,
    steps: u64,
    total_steps: u64,
    proof_bytes: u64,
    verify_us: u64,
    phases_ms: Vec<(Stage, u64)>,
    estimated_bytes: u64,
    device_memory: Option<DeviceMemory>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct InspectedBody {
    kind: ProgramKind,
    builtins: Vec<String>,
    main: u64,
    words: u64,
    hints: u64,
    hash_function: HashFunction,
    program_hash: Felt,
    pie_output: Option<Vec<Felt>>,
}

/// Why a worker did not do what it was asked. See [`ProveError`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Refusal {
    Input(Box<Fault>),
    Failed { reason: FailureReason, detail: String, steps: u64 },
    Resources { detail: String, steps: u64 },
    Internal { detail: String },
    Memory { needed: u64, limit: u64 },
    Unprovable { detail: String },
    Device(DeviceFault),
}

impl Wire for Response {
    const NAME: &'static str = "worker response";
    // 2: devices, and runs that are proved elsewhere. 3: pulses, kernels, device memory.
    const VERSION: u16 = 3;
    const BYTES_MAX: usize = proof::envelope::COMPRESSED_MAX + OUTPUT_BYTES + OVERHEAD;
}

impl From<&ProveRequest> for Request {
    fn from(request: &ProveRequest) -> Self {
        let ProveRequest { statement, prover, program, args, max_steps, memory_limit } = request.clone();
        Self::Prove(Box::new(ProveBody { statement, prover, program, args, max_steps, memory_limit }))
    }
}

impl From<ProveBody> for ProveRequest {
    fn from(body: ProveBody) -> Self {
        let ProveBody { statement, prover, program, args, max_steps, memory_limit } = body;
        Self { statement, prover, program, args, max_steps, memory_limit }
    }
}

impl From<&ExecuteRequest> for Request {
    fn from(request: &ExecuteRequest) -> Self {
        let ExecuteRequest { program, args, hash_function, max_steps } = request.clone();
        Self::Execute { program, args, hash_function, max_steps }
    }
}

impl From<Proven> for ProvenBody {
    fn from(proven: Proven) -> Self {
        let Proven { blob, output, steps, total_steps, proof_bytes, verify_us, phases_ms, .. } = proven;
        let Proven { estimated_bytes, device_memory, .. } = proven;
        Self { blob, output, steps, total_steps, proof_bytes, verify_us, phases_ms, estimated_bytes, device_memory }
    }
}

impl From<ProvenBody> for Proven {
    fn from(body: ProvenBody) -> Self {
        let ProvenBody { blob, output, steps, total_steps, proof_bytes, verify_us, phases_ms, .. } = body;
        let ProvenBody { estimated_bytes, device_memory, .. } = body;
        Self { blob, output, steps, total_steps, proof_bytes, verify_us, phases_ms, estimated_bytes, device_memory }
    }
}

impl From<Executed> for Response {
    fn from(executed: Executed) -> Self {
        let Executed { program_hash, output, steps } = executed;
        Self::Executed { program_hash, output, steps }
    }
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl From<Inspection> for InspectedBody {
    fn from(inspection: Inspection) -> Self {
        let Inspection { kind, builtins, main, words, hints, hash_function, program_hash, pie_output } = inspection;
        let (main, words, hints) = (to_u64(main), to_u64(words), to_u64(hints));
        Self { kind, builtins, main, words, hints, hash_function, program_hash, pie_output }
    }
}

impl From<InspectedBody> for Inspection {
    fn from(body: InspectedBody) -> Self {
        let InspectedBody { kind, builtins, main, words, hints, hash_function, program_hash, pie_output } = body;
        let (main, words, hints) = (to_usize(main), to_usize(words), to_usize(hints));
        Self { kind, builtins, main, words, hints, hash_function, program_hash, pie_output }
    }
}

impl From<ProveError> for Refusal {
    fn from(error: ProveError) -> Self {
        let short = |text: String| error::shorten(&text);
        match error {
            ProveError::Input(inner) => Self::Input(Box::new(inner.fault())),
            ProveError::Run(RunError::Failed { reason, detail, steps }) => {
                Self::Failed { reason, detail: short(detail), steps }
            }
            ProveError::Run(RunError::Resources { detail, steps }) => Self::Resources { detail: short(detail), steps },
            ProveError::Run(RunError::Internal { detail }) => Self::Internal { detail: short(detail) },
            ProveError::Memory { needed, limit } => Self::Memory { needed, limit },
            ProveError::Unprovable { detail } => Self::Unprovable { detail: short(detail) },
            ProveError::Device(fault) => Self::Device(fault.shortened()),
        }
    }
}

/// A record behind its length.
pub(crate) fn frame<T: Wire>(record: &T) -> io::Result<Vec<u8>> {
    let bytes = record.to_bytes();
    if bytes.len() > T::BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} over {} bytes", T::NAME, T::BYTES_MAX)));
    }
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut out = Vec::with_capacity(bytes.len().saturating_add(4));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes);
    Ok(out)
}

/// The length that a frame announces, held against the record's bound.
pub(crate) fn frame_length<T: Wire>(head: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(head)).map_err(io::Error::other)?;
    if length > T::BYTES_MAX {
        let text = format!("{}: {length} bytes announced, the limit is {}", T::NAME, T::BYTES_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(length)
}

/// Decodes a frame's content.
pub(crate) fn parse<T: Wire>(bytes: &[u8]) -> io::Result<T> {
    T::from_bytes(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads one record; `None` at the end of the stream.
pub(crate) fn read<T: Wire>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut head = [0u8; 4];
    match stream.read_exact(&mut head) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut bytes = vec![0u8; frame_length::<T>(head)?];
    stream.read_exact(&mut bytes)?;
    parse(&bytes).map(Some)
}

/// Reads a worker's answers as the node does, until the end or the first that is none, and writes them again.
pub(super) fn answers_again(mut bytes: &[u8]) -> Vec<u8> {
    let mut again = vec![];
    while let Ok(Some(answer)) = read::<Response>(&mut bytes) {
        // What was read is within its bound.
        again.extend(frame(&answer).unwrap_or_default());
    }
    again
}

/// Writes one record.
pub(crate) fn write<T: Wire>(stream: &mut impl Write, record: &T) -> io::Result<()> {
    stream.write_all(&frame(record)?)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_bounds_hold() {
        let record = Request::Inspect { program: vec![1, 2, 3], hash_function: Some(HashFunction::Blake) };
        let bytes = frame(&record).unwrap();
        assert_eq!(read::<Request>(&mut bytes.as_slice()).unwrap(), Some(record));
        assert_eq!(read::<Request>(&mut [].as_slice()).unwrap(), None);
        assert!(read::<Request>(&mut &bytes[..bytes.len() - 1]).is_err());
        let huge = u32::MAX.to_le_bytes();
        assert!(read::<Response>(&mut huge.as_slice()).is_err());
        let too_long = Request::Inspect { program: vec![0; Request::BYTES_MAX], hash_function: None };
        assert!(frame(&too_long).is_err());
    }
}
