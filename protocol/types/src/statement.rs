//! What a proof must say, and the digest that ties a proof to job, task and prover.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::{Wire, encode_body};
use crate::felt::Felt;
use crate::ids::{BlobHash, Digest, GenesisHash, JobId, StatementDigest};
use crate::job::{HashFunction, JobSpec, OutputRule, ProgramKind};
use crate::keys::PublicKey;
use crate::signing::hash_parts;

/// Everything a verifier compares a proof with. A function of the job alone, the same for every prover and attempt.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
pub struct Statement {
    /// The chain.
    pub genesis: GenesisHash,
    /// The job.
    pub job: JobId,
    /// Index of the task within the job.
    pub task: u32,
    /// Kind of program file.
    pub kind: ProgramKind,
    /// BLAKE3 of the whole program file, hints included.
    pub program_file: BlobHash,
    /// Hash of the program's words.
    pub program_hash: Felt,
    /// Function of `program_hash`.
    pub hash_function: HashFunction,
    /// BLAKE3 of the arguments file.
    pub args: Option<BlobHash>,
    /// What ties the output to the input.
    pub output_rule: OutputRule,
    /// Version of the hint processor that runs the program.
    pub hint_processor: u16,
    /// Version of the proof system and its policy.
    pub proof_system: u16,
}

impl Wire for Statement {
    const NAME: &'static str = "statement";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 32 << 10;
}

impl Statement {
    /// The statement of a job's task.
    pub fn of_job(genesis: GenesisHash, job: JobId, task: u32, spec: &JobSpec) -> Self {
        Self {
            genesis,
            job,
            task,
            kind: spec.kind,
            program_file: spec.program.hash,
            program_hash: spec.program_hash,
            hash_function: spec.hash_function,
            args: spec.args.map(|a| a.hash),
            output_rule: spec.output_rule.clone(),
            hint_processor: spec.hint_processor,
            proof_system: spec.proof_system,
        }
    }

    /// Digest that votes name.
    pub fn digest(&self) -> StatementDigest {
        StatementDigest::new(hash_parts("proofmesh statement v1", &[&encode_body(self)]))
    }

    /// The binding digest that the proof's first task outputs: it covers the chain, the job, the task, the statement and
    /// the prover's key, so that a stolen proof is worthless under another name.
    pub fn binding(&self, prover: &PublicKey) -> Digest {
        Digest::new(hash_parts(
            "proofmesh proof binding v1",
            &[self.genesis.as_bytes(), self.digest().as_bytes(), prover.as_bytes()],
        ))
    }

    /// The binding digest as the two field elements that the binding task outputs: first the high, then the low 128 bits of the
    /// digest read as a big-endian number.
    pub fn binding_words(&self, prover: &PublicKey) -> [Felt; 2] {
        let value = self.binding(prover);
        let (high, low) = value.as_bytes().split_at(16);
        [high, low].map(|half| half.try_into().map(u128::from_be_bytes).map_or(Felt::ZERO, Felt::from_u128))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            genesis: GenesisHash::new([1; 32]),
            job: JobId::new([2; 32]),
            task: 0,
            kind: ProgramKind::Cairo0,
            program_file: BlobHash::new([3; 32]),
            program_hash: Felt::from_u128(4),
            hash_function: HashFunction::Poseidon,
            args: None,
            output_rule: OutputRule::Quorum,
            hint_processor: 1,
            proof_system: 1,
        }
    }

    #[test]
    fn every_field_is_in_the_digest_and_the_prover_in_the_binding() {
        let base = statement();
        let prover = PublicKey::new([5; 32]);
        let mut others = vec![];
        for change in 0..10 {
            let mut s = base.clone();
            match change {
                0 => s.genesis = GenesisHash::new([9; 32]),
                1 => s.job = JobId::new([9; 32]),
                2 => s.task = 1,
                3 => s.kind = ProgramKind::Cairo1,
                4 => s.program_file = BlobHash::new([9; 32]),
                5 => s.program_hash = Felt::from_u128(5),
                6 => s.hash_function = HashFunction::Blake,
                7 => s.args = Some(BlobHash::new([0; 32])),
                8 => s.output_rule = OutputRule::Prefix(vec![Felt::ZERO]),
                _ => s.hint_processor = 2,
            }
            others.push(s.digest());
        }
        others.push(base.digest());
        others.sort();
        others.dedup();
        assert_eq!(others.len(), 11);
        assert_ne!(base.binding_words(&prover), base.binding_words(&PublicKey::new([6; 32])));
        let [high, low] = base.binding_words(&prover);
        let mut joined = high.to_be_bytes()[16..].to_vec();
        joined.extend_from_slice(&low.to_be_bytes()[16..]);
        assert_eq!(joined, base.binding(&prover).as_bytes());
    }
}
