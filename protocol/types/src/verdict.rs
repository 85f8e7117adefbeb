//! Verdicts on committed proofs and failure reports: names of checks, votes, certificates.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{Wire, encode_body};
use crate::error::TypeError;
use crate::ids::{BlobHash, Digest, GenesisHash, Height, JobId, StatementDigest};
use crate::job::PROOF_SYSTEM_VERSION;
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::limits::{CONSENSUS_BYTES_MAX, VERDICT_BYTES_MAX};
use crate::signing::{Domain, hash_parts};
use crate::validator::ValidatorSet;
use crate::vote::{CertificateError, signed_power};

macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The checks of a proof, in the order they are made. Verdicts, receipts and `verify --json` use these names.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
        pub enum Check { $($(#[$doc])* $variant,)* }

        impl Check {
            /// All checks.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

checks! {
    /// Decoded under limits, encoded again equal, every number in range.
    Format = "format",
    /// The proof's own configuration equals the policy's.
    Config = "config",
    /// The first commitment is the pinned root of the preprocessed tables.
    PreprocessedRoot = "preprocessed_root",
    /// Claims and interaction claims agree component by component.
    Claims = "claims",
    /// The program section is the pinned bootloader.
    Bootloader = "bootloader",
    /// The output is bound to the output segment and laid out as tasks.
    Output = "output",
    /// The proven program is the statement's.
    Program = "program",
    /// The first task outputs the binding digest.
    Binding = "binding",
    /// The output is the one of this input: prefix, exact output, or re-execution.
    Input = "input",
    /// The STARK itself.
    Stark = "stark",
    /// A failure report that re-execution does not confirm.
    Failure = "failure",
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Check {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        let bad = || TypeError::BadText {
            field: "check",
            value: text.chars().take(80).collect(),
            expected: "name of a check",
        };
        Self::ALL.iter().copied().find(|c| c.name() == text).ok_or_else(bad)
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Check {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a prover claims for a task, and validators vote on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// This blob proves the statement.
    Proof {
        /// BLAKE3 of the proof blob.
        hash: BlobHash,
        /// Its length in bytes.
        bytes: u64,
        /// Steps of the user's program, which the price follows; re-execution or the proof's public data bounds it.
        steps: u64,
    },
    /// The program fails.
    Failure {
        /// Why.
        reason: FailureReason,
        /// Steps executed until then.
        steps: u64,
    },
}

impl Claim {
    /// Digest in votes.
    pub fn digest(&self) -> Digest {
        Digest::new(hash_parts("proofmesh claim v1", &[&encode_body(self)]))
    }
}

/// Why a program fails, in words that every node finds alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The declared step limit was reached.
    StepLimit,
    /// An instruction, assertion or memory rule of the virtual machine failed.
    Execution,
    /// A hint failed, or the arguments lack what it reads.
    Hint,
    /// It ended, and its output is not what the job fixes of it.
    Output,
}

/// A validator's answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The claim holds.
    Valid,
    /// This check failed.
    Invalid(Check),
    /// No answer: the reason lies with this node (a resource limit, bytes not to be had).
    Abstain,
}

/// What all votes of one certificate share: the slot and its content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct VoteSubject {
    /// The job.
    pub job: JobId,
    /// Index of the task.
    pub task: u32,
    /// Attempt the claim belongs to.
    pub attempt: u32,
    /// Height of the block with the commit; the validator set of that height counts.
    pub height: Height,
    /// Who committed.
    pub prover: PublicKey,
    /// The statement.
    pub statement: StatementDigest,
    /// What was committed.
    pub claim: Claim,
    /// Version of the verifier.
    pub verifier: u16,
}

impl VoteSubject {
    /// Bytes that identify the slot in which a validator gives at most one verdict.
    pub fn slot(&self) -> (JobId, u32, u32, Height) {
        (self.job, self.task, self.attempt, self.height)
    }
}

/// A validator's verdict, as signed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct ProofVote {
    /// What is voted on.
    pub subject: VoteSubject,
    /// The answer.
    pub verdict: Verdict,
    /// Who votes.
    pub validator: PublicKey,
}

/// A verdict with its signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct SignedProofVote {
    /// The content.
    pub vote: ProofVote,
    /// Signature of `vote.validator`.
    pub signature: Signature,
}

impl Wire for SignedProofVote {
    const NAME: &'static str = "proof vote";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = VERDICT_BYTES_MAX;
}

impl ProofVote {
    /// Signs the verdict.
    pub fn sign(self, key: &SecretKey, genesis: &GenesisHash) -> SignedProofVote {
        let signature = key.sign(Domain::ProofVote, genesis, &encode_body(&self));
        SignedProofVote { vote: self, signature }
    }
}

impl SignedProofVote {
    /// Whether the named validator signed it for this chain.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        self.vote.validator.verify(Domain::ProofVote, genesis, &encode_body(&self.vote), &self.signature)
    }
}

/// What a set of verdicts decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// More than two thirds of the power say valid.
    Certified,
    /// More than one third of the power say invalid.
    Rejected,
}

/// Verdicts on one subject, enough of them to decide it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ProofCertificate {
    /// What was voted on.
    pub subject: VoteSubject,
    /// (validator, verdict, signature) in rising key order, each validator once.
    pub votes: Vec<(PublicKey, Verdict, Signature)>,
}

impl Wire for ProofCertificate {
    const NAME: &'static str = "proof certificate";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = CONSENSUS_BYTES_MAX;
}

impl ProofCertificate {
    /// Checks every vote against `set`, the validator set of `subject.height`; returns (power saying valid, power saying
    /// invalid, total power).
    ///
    /// # Errors
    /// The first [`CertificateError`] met.
    pub fn powers(&self, genesis: &GenesisHash, set: &ValidatorSet) -> Result<(u64, u64, u64), CertificateError> {
        let vote_of = |(validator, verdict, signature): &(PublicKey, Verdict, Signature)| SignedProofVote {
            vote: ProofVote { subject: self.subject.clone(), verdict: *verdict, validator: *validator },
            signature: *signature,
        };
        signed_power(set, &self.votes, |(key, _, _)| *key, |entry| vote_of(entry).verify(genesis))?;
        let power = |of: fn(&Verdict) -> bool| {
            let keys = self.votes.iter().filter(|(_, verdict, _)| of(verdict)).map(|(key, _, _)| key);
            keys.filter_map(|key| set.power_of(key)).fold(0, u64::saturating_add)
        };
        Ok((power(|v| *v == Verdict::Valid), power(|v| matches!(v, Verdict::Invalid(_))), set.power_total()))
    }

    /// What the votes decide under `set`, or `None` while neither threshold is met.
    ///
    /// # Errors
    /// The first [`CertificateError`] met.
    pub fn outcome(&self, genesis: &GenesisHash, set: &ValidatorSet) -> Result<Option<Outcome>, CertificateError> {
        let (valid, invalid, _) = self.powers(genesis, set)?;
        Ok(if self.subject.verifier != PROOF_SYSTEM_VERSION {
            None
        } else if set.is_quorum(valid) {
            Some(Outcome::Certified)
        } else if set.is_honest(invalid) {
            Some(Outcome::Rejected)
        } else {
            None
        })
    }

    /// The check most power named as failed, ties to the earlier check.
    pub fn failed_check(&self, set: &ValidatorSet) -> Option<Check> {
        let power_for = |check: &Check| -> u64 {
            let votes = self.votes.iter().filter(|(_, verdict, _)| *verdict == Verdict::Invalid(*check));
            votes.filter_map(|(key, _, _)| set.power_of(key)).fold(0, u64::saturating_add)
        };
        let mut best: Option<(u64, Check)> = None;
        for check in Check::ALL {
            let power = power_for(check);
            if power > 0 && best.is_none_or(|(most, _)| power > most) {
                best = Some((power, *check));
            }
        }
        best.map(|(_, check)| check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validator::Validator;

    fn subject() -> VoteSubject {
        VoteSubject {
            job: JobId::new([1; 32]),
            task: 0,
            attempt: 1,
            height: Height(9),
            prover: PublicKey::new([2; 32]),
            statement: StatementDigest::new([3; 32]),
            claim: Claim::Proof { hash: BlobHash::new([4; 32]), bytes: 5, steps: 6 },
            verifier: PROOF_SYSTEM_VERSION,
        }
    }

    fn certificate(keys: &[SecretKey], verdicts: &[Verdict], chain: &GenesisHash) -> ProofCertificate {
        let subject = subject();
        let mut votes: Vec<_> = keys
            .iter()
            .zip(verdicts)
            .map(|(key, verdict)| {
                let vote = ProofVote { subject: subject.clone(), verdict: *verdict, validator: key.public() };
                (key.public(), *verdict, vote.sign(key, chain).signature)
            })
            .collect();
        votes.sort_by_key(|v| v.0);
        ProofCertificate { subject, votes }
    }

    #[test]
    fn thresholds_and_refusals() {
        use Verdict::{Abstain, Invalid, Valid};
        let keys: Vec<_> = (1..=6u8).map(|n| SecretKey::from_seed([n; 32])).collect();
        let set = ValidatorSet::new(keys.iter().map(|k| Validator { key: k.public(), power: 1 }).collect()).unwrap();
        let chain = GenesisHash::new([7; 32]);
        let bad = Invalid(Check::Stark);
        let outcome = |verdicts: &[Verdict]| certificate(&keys, verdicts, &chain).outcome(&chain, &set).unwrap();
        assert_eq!(outcome(&[Valid; 5]), Some(Outcome::Certified));
        assert_eq!(outcome(&[Valid; 4]), None);
        assert_eq!(outcome(&[bad, bad]), None);
        assert_eq!(outcome(&[bad, bad, bad, Abstain]), Some(Outcome::Rejected));
        assert_eq!(outcome(&[Abstain; 6]), None);
        assert_eq!(
            certificate(&keys, &[bad, Invalid(Check::Input), bad], &chain).failed_check(&set),
            Some(Check::Stark)
        );
        let mut flipped = certificate(&keys, &[Valid; 5], &chain);
        flipped.votes[0].1 = bad;
        assert!(matches!(flipped.outcome(&chain, &set), Err(CertificateError::Signature(_))));
        let mut twice = certificate(&keys, &[Valid; 5], &chain);
        twice.votes[1] = twice.votes[0];
        assert!(matches!(twice.outcome(&chain, &set), Err(CertificateError::Order(_))));
        let mut other = certificate(&keys, &[Valid; 5], &chain);
        other.subject.attempt = 2;
        assert!(matches!(other.outcome(&chain, &set), Err(CertificateError::Signature(_))));
    }

    #[test]
    fn check_names_are_unique_and_parse() {
        let mut names: Vec<_> = Check::ALL.iter().map(|c| c.name()).collect();
        for check in Check::ALL {
            assert_eq!(check.name().parse::<Check>().unwrap(), *check);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Check::ALL.len());
    }
}
