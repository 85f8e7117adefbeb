//! What a user asks for, and the words for how far it has come.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::encode_body;
use crate::error::TypeError;
use crate::felt::Felt;
use crate::ids::{Amount, BlobHash, GenesisHash, JobId};
use crate::keys::PublicKey;
use crate::limits::{ARGS_BYTES_MAX, IDEMPOTENCY_KEY_MAX, OUTPUT_PREFIX_MAX, PROGRAM_BYTES_MAX};
use crate::signing::hash_parts;

/// Proof-system version of this build: cairo-air 1.3.0 proofs under policy 1.
pub const PROOF_SYSTEM_VERSION: u16 = 1;
/// Version of the hint processor that runs programs; part of every job, because hints decide what a run does.
pub const HINT_PROCESSOR_VERSION: u16 = 1;

/// Kind of program file, recognised by content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramKind {
    /// Compiled Cairo 0 program, JSON.
    Cairo0,
    /// Cairo 1 executable, JSON.
    Cairo1,
    /// Cairo PIE: a finished run, zip.
    Pie,
}

/// Function of the program hash inside the bootloader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashFunction {
    /// Pedersen hash chain.
    Pedersen,
    /// Poseidon (Hades permutation).
    Poseidon,
    /// Blake2s to a field element.
    Blake,
}

/// A blob by hash and length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 of the bytes.
    pub hash: BlobHash,
    /// Length in bytes.
    pub bytes: u64,
}

/// What ties a proof's output to an input.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputRule {
    /// The output begins with these words; what they mean is the program author's claim.
    Prefix(Vec<Felt>),
    /// The output is exactly this: the output of a PIE.
    Exact(Vec<Felt>),
    /// Validators re-execute the file on the arguments and compare the whole output.
    Quorum,
}

impl OutputRule {
    /// Index of the first word at which an output is not what the rule fixes; `None` when it is.
    pub fn broken_at(&self, output: &[Felt]) -> Option<usize> {
        let fixed = match self {
            Self::Prefix(words) if !output.starts_with(words) => words,
            Self::Exact(words) if output != words => words,
            Self::Prefix(_) | Self::Exact(_) | Self::Quorum => return None,
        };
        Some(fixed.iter().zip(output).take_while(|(wanted, found)| wanted == found).count())
    }
}

/// One computation to prove, complete: nothing else influences the run.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct JobSpec {
    /// Kind of program file.
    pub kind: ProgramKind,
    /// The whole program file, hints included.
    pub program: BlobRef,
    /// Hash of the program's words as the bootloader computes it.
    pub program_hash: Felt,
    /// Function of `program_hash`.
    pub hash_function: HashFunction,
    /// Arguments file: a JSON object (program input of Cairo 0) or a JSON list of felts (Cairo 1); `None` for a PIE.
    pub args: Option<BlobRef>,
    /// What ties the output to the input.
    pub output_rule: OutputRule,
    /// [`HINT_PROCESSOR_VERSION`] the submitter expects.
    pub hint_processor: u16,
    /// [`PROOF_SYSTEM_VERSION`] the submitter expects.
    pub proof_system: u16,
    /// A run that takes more steps fails.
    pub max_steps: u64,
    /// Most that may be charged; escrowed at submission.
    pub max_fee: Amount,
    /// The job expires this long after its submission, block time.
    pub deadline_ms: u64,
    /// Client's key for exactly-once submission, in the namespace of its account.
    pub idempotency_key: Option<String>,
}

impl JobSpec {
    /// The job's identity, fixed by content, sender and nonce.
    pub fn job_id(&self, genesis: &GenesisHash, sender: &PublicKey, nonce: u64) -> JobId {
        let nonce = nonce.to_le_bytes();
        JobId::new(hash_parts("proofmesh job v1", &[genesis.as_bytes(), &encode_body(self), sender.as_bytes(), &nonce]))
    }

    /// Checks everything that does not need state or blobs.
    ///
    /// # Errors
    /// [`TypeError::OutOfBounds`] naming the field.
    pub fn check(&self) -> Result<(), TypeError> {
        let bad = |field, value: String, limit: String| Err(TypeError::OutOfBounds { field, value, limit });
        if self.program.bytes == 0 || self.program.bytes > PROGRAM_BYTES_MAX {
            return bad("program.bytes", self.program.bytes.to_string(), format!("1 to {PROGRAM_BYTES_MAX}"));
        }
        if let Some(args) = &self.args {
            if self.kind == ProgramKind::Pie {
                return bad("args", "present".into(), "none for a Cairo PIE".into());
            }
            if args.bytes == 0 || args.bytes > ARGS_BYTES_MAX {
                return bad("args.bytes", args.bytes.to_string(), format!("1 to {ARGS_BYTES_MAX}"));
            }
        }
        match (&self.output_rule, self.kind) {
            (OutputRule::Exact(words), ProgramKind::Pie) if words.len() <= OUTPUT_PREFIX_MAX => {}
            (OutputRule::Prefix(words), ProgramKind::Cairo0 | ProgramKind::Cairo1)
                if !words.is_empty() && words.len() <= OUTPUT_PREFIX_MAX => {}
            (OutputRule::Quorum, ProgramKind::Cairo0 | ProgramKind::Cairo1) => {}
            (rule, kind) => {
                let words = match rule {
                    OutputRule::Prefix(w) => format!("prefix of {} words for {kind:?}", w.len()),
                    OutputRule::Exact(w) => format!("exact output of {} words for {kind:?}", w.len()),
                    OutputRule::Quorum => format!("quorum for {kind:?}"),
                };
                return bad(
                    "output_rule",
                    words,
                    format!("exact for a PIE, else quorum or a prefix of 1 to {OUTPUT_PREFIX_MAX} words"),
                );
            }
        }
        if self.proof_system != PROOF_SYSTEM_VERSION {
            return bad("proof_system", self.proof_system.to_string(), PROOF_SYSTEM_VERSION.to_string());
        }
        if self.hint_processor != HINT_PROCESSOR_VERSION {
            return bad("hint_processor", self.hint_processor.to_string(), HINT_PROCESSOR_VERSION.to_string());
        }
        if self.max_steps == 0 {
            return bad("max_steps", "0".into(), "at least 1".into());
        }
        if self.deadline_ms == 0 {
            return bad("deadline_ms", "0".into(), "at least 1".into());
        }
        if let Some(key) = &self.idempotency_key
            && (key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return bad(
                "idempotency_key",
                key.chars().take(80).collect(),
                format!("1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters"),
            );
        }
        Ok(())
    }
}

/// Kind of task. A job of this version has one task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Prove a program's run.
    Prove,
}

/// Stage of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Accepted by the ledger; waiting for the seed of the next block.
    Init,
    /// Being cut into tasks.
    Split,
    /// Tasks are being proved.
    Prove,
    /// Task proofs are being combined.
    Aggregate,
    /// Certified; being paid.
    Settle,
}

/// Status of a job; the last four are terminal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Not terminal.
    Running,
    /// Certified and paid.
    Completed,
    /// The program fails, or every attempt was used up.
    Failed,
    /// The deadline passed.
    Expired,
    /// Withdrawn by its sender.
    Cancelled,
}

impl JobStatus {
    /// Whether nothing can change any more.
    pub const fn is_terminal(self) -> bool {
        !matches!(self, Self::Running)
    }
}
