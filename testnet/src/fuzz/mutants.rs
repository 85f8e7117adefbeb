//! Mutants of a valid receipt: bytes bent, fields exchanged, and forgeries by validators who sign what they should not.
//!
//! A mutant that verifies must say what the original says. Only what a reader is told about the support may differ: which
//! of the validators' verdicts are enclosed.

use proof::envelope;
use proof::receipt::ReceiptReport;
use types::Wire;
use types::felt::Felt;
use types::ids::{BlobHash, Height, JobId, Round};
use types::job::{HashFunction, OutputRule, ProgramKind};
use types::keys::PublicKey;
use types::receipt::{Receipt, SetChange};
use types::verdict::{Check, Claim, FailureReason, ProofCertificate, Verdict};

use super::mutate::Mutator;
use super::samples;

/// What was done to the receipt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// Bytes of the file outside of the proof.
    Bytes,
    /// Bytes of the proof blob.
    Proof,
    /// Fields, one or two, without a new signature.
    Fields,
    /// Fields of statement or prover; the validators sign the result.
    Signed,
    /// Words inside the proof, packed again; the validators sign the result.
    SignedProof,
}

/// One mutant.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// How it came about.
    pub family: Family,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Makes mutants of the sample receipt.
#[derive(Debug)]
pub struct Mutants {
    mutator: Mutator,
    receipt: Receipt,
    bytes: Vec<u8>,
    /// The sample proof, unpacked.
    inside: Vec<u8>,
    /// Where the proof blob lies in the file.
    blob: std::ops::Range<usize>,
}

impl Mutants {
    /// Everything random follows from `seed`.
    ///
    /// # Panics
    /// When the sample receipt can't be made.
    pub fn new(seed: u64) -> Self {
        let receipt = samples::receipt();
        let bytes = receipt.to_bytes();
        let length = receipt.proof.len();
        let start = bytes.windows(8).position(|w| *w == (length as u64).to_le_bytes()).map_or(0, |at| at + 8);
        assert!(bytes.get(start..start + length).is_some_and(|blob| blob == receipt.proof), "the proof is elsewhere");
        let inside = envelope::unpack(&receipt.proof).unwrap_or_else(|e| panic!("unpacking the sample proof: {e}"));
        Self { mutator: Mutator::new(seed), receipt, bytes, inside, blob: start..start + length }
    }

    /// The valid receipt.
    pub fn original(&self) -> &[u8] {
        &self.bytes
    }

    /// The next mutant; most are cheap to refuse, one in twenty goes as deep as the proof's own checks.
    pub fn next_mutant(&mut self) -> Mutant {
        let (family, bytes) = match self.mutator.below(40) {
            0..16 => (Family::Bytes, self.bend_around_the_proof()),
            16..18 => (Family::Proof, self.bend_the_blob()),
            18..38 => (Family::Fields, self.change_fields()),
            38 => (Family::Signed, self.sign_another_statement()),
            _ => (Family::SignedProof, self.sign_another_proof()),
        };
        Mutant { family, bytes }
    }

    fn bend_around_the_proof(&mut self) -> Vec<u8> {
        let (head, rest) = self.bytes.split_at(self.blob.start);
        let (blob, tail) = rest.split_at(self.blob.len());
        let (head, tail, whole) = (head.to_vec(), tail.to_vec(), self.bytes.len() + 512);
        let (head, tail) = if self.mutator.below(3) == 0 {
            (self.mutator.mutant(&head, &tail, whole), tail)
        } else {
            let bent = self.mutator.mutant(&tail, &head, whole);
            (head, bent)
        };
        [head.as_slice(), blob, &tail].concat()
    }

    fn bend_the_blob(&mut self) -> Vec<u8> {
        let blob = self.mutator.mutant(&self.receipt.proof, &self.bytes, self.receipt.proof.len() + 512);
        if self.mutator.below(2) == 0 {
            Receipt { proof: blob, ..self.receipt.clone() }.to_bytes()
        } else {
            // The length field of the original stays.
            let (head, rest) = self.bytes.split_at(self.blob.start);
            [head, &blob, rest.get(self.blob.len()..).unwrap_or_default()].concat()
        }
    }

    fn change_fields(&mut self) -> Vec<u8> {
        let mut receipt = self.receipt.clone();
        for _ in 0..=self.mutator.below(2) {
            match self.mutator.below(3) {
                0 => self.change_statement(&mut receipt),
                1 => self.change_certificate(&mut receipt.certificate),
                _ => self.change_sets(&mut receipt.set_changes),
            }
        }
        if self.mutator.below(40) == 0 {
            receipt.genesis = types::ids::GenesisHash::new(self.mutator.bytes());
        }
        receipt.to_bytes()
    }

    fn change_statement(&mut self, receipt: &mut Receipt) {
        let m = &mut self.mutator;
        let statement = &mut receipt.statement;
        match m.below(10) {
            0 => statement.job = JobId::new(m.bytes()),
            1 => statement.task = low32(m.number()),
            2 => statement.kind = [ProgramKind::Cairo1, ProgramKind::Pie][m.below(2)],
            3 => statement.program_file = BlobHash::new(m.bytes()),
            4 => statement.program_hash = Felt::from_u128(u128::from(m.number())),
            5 => statement.hash_function = [HashFunction::Pedersen, HashFunction::Blake][m.below(2)],
            6 => statement.args = Some(BlobHash::new(m.bytes())),
            7 => {
                let words = vec![Felt::from_u128(u128::from(m.number())); m.below(4)];
                statement.output_rule =
                    if m.below(2) == 0 { OutputRule::Prefix(words) } else { OutputRule::Exact(words) };
            }
            8 => statement.hint_processor = low16(m.number()),
            _ => statement.genesis = types::ids::GenesisHash::new(m.bytes()),
        }
    }

    fn change_certificate(&mut self, certificate: &mut ProofCertificate) {
        let m = &mut self.mutator;
        let votes = certificate.votes.len();
        let (a, b) = (m.below(votes), m.below(votes));
        match m.below(14) {
            0 => certificate.subject.height = Height(m.number()),
            1 => certificate.subject.attempt = low32(m.number()),
            2 => certificate.subject.prover = PublicKey::new(m.bytes()),
            3 => certificate.subject.verifier = low16(m.number()),
            4 => {
                if let Claim::Proof { steps, .. } = &mut certificate.subject.claim {
                    *steps = m.number();
                }
            }
            5 => certificate.subject.claim = Claim::Failure { reason: FailureReason::Hint, steps: m.number() },
            6 => drop(certificate.votes.drain(a.min(b)..a.max(b))),
            7 if votes > 1 => certificate.votes.swap(a, b),
            7 => {}
            8 => {
                let twice = certificate.votes.get(a).copied();
                certificate.votes.extend(twice);
                certificate.votes.sort_by_key(|vote| vote.0);
            }
            9 => certificate.votes.iter_mut().skip(a).take(1).for_each(|vote| vote.1 = Verdict::Invalid(Check::Stark)),
            10 => certificate.votes.iter_mut().skip(a).take(1).for_each(|vote| vote.0 = PublicKey::new(m.bytes())),
            11 => {
                // Another validator's signature in the place of the own one.
                let other = certificate.votes.get(b).map(|vote| vote.2);
                certificate.votes.iter_mut().skip(a).take(1).for_each(|vote| vote.2 = other.unwrap_or(vote.2));
            }
            12 => certificate.votes = samples::verdicts(&certificate.subject, &samples::validators(m.below(2))).votes,
            _ => certificate.votes.truncate(a),
        }
    }

    fn change_sets(&mut self, changes: &mut Vec<SetChange>) {
        let m = &mut self.mutator;
        let n = m.below(changes.len());
        match m.below(8) {
            0 => changes.truncate(n),
            1 => drop(changes.drain(..n)),
            2 => changes.reverse(),
            3 => changes.extend(changes.get(n).cloned()),
            4 => {
                let other = changes.get(m.below(2)).map(|change| change.new_set.clone());
                changes.iter_mut().skip(n).take(1).zip(other).for_each(|(change, set)| change.new_set = set);
            }
            5 => changes.iter_mut().skip(n).take(1).for_each(|change| change.header.height = Height(m.number())),
            6 => changes.iter_mut().skip(n).take(1).for_each(|change| {
                change.certificate.round = Round(low32(m.number()));
                change.certificate.signatures.truncate(m.below(5));
            }),
            _ => changes.iter_mut().skip(n).take(1).for_each(|change| {
                let keep = m.below(4);
                let strangers = samples::validators(3 + m.below(2));
                let certificate = &mut change.certificate;
                certificate.signatures.truncate(keep);
                let genesis = change.header.genesis;
                for key in strangers {
                    let signature = certificate.precommit_of(key.public()).sign(&key, &genesis).signature;
                    certificate.signatures.push((key.public(), signature));
                }
                certificate.signatures.sort_by_key(|entry| entry.0);
            }),
        }
    }

    /// Every validator signs for another statement, or another prover, around the same proof.
    fn sign_another_statement(&mut self) -> Vec<u8> {
        let mut receipt = self.receipt.clone();
        let mut prover = receipt.certificate.subject.prover;
        if self.mutator.below(4) == 0 {
            prover = PublicKey::new(self.mutator.bytes());
        } else {
            self.change_statement(&mut receipt);
        }
        self.signed(receipt, prover)
    }

    /// Every validator signs for a proof with other words inside.
    fn sign_another_proof(&mut self) -> Vec<u8> {
        // Half of the changes hit the claim at the beginning, which is what the named checks read.
        let within = if self.mutator.below(2) == 0 { self.inside.len().min(16 << 10) } else { self.inside.len() };
        let (head, tail) = self.inside.split_at(within);
        let mut inside = self.mutator.mutant(head, &self.bytes, head.len() + 512);
        inside.extend_from_slice(tail);
        let Ok(proof) = envelope::encode_bytes(&inside) else { return self.bytes.clone() };
        let prover = self.receipt.certificate.subject.prover;
        self.signed(Receipt { proof, ..self.receipt.clone() }, prover)
    }

    fn signed(&self, mut receipt: Receipt, prover: PublicKey) -> Vec<u8> {
        let mut subject = samples::subject(samples::claim_of(&receipt.proof));
        subject.prover = prover;
        subject.job = receipt.statement.job;
        subject.task = receipt.statement.task;
        subject.statement = receipt.statement.digest();
        receipt.certificate = samples::verdicts(&subject, &samples::validators(2));
        receipt.to_bytes()
    }
}

fn low32(number: u64) -> u32 {
    (number & u64::from(u32::MAX)) as u32
}

fn low16(number: u64) -> u16 {
    (number & u64::from(u16::MAX)) as u16
}

/// Whether two reports say the same about job, program, output, prover and trust.
pub fn same_meaning(a: &ReceiptReport, b: &ReceiptReport) -> bool {
    // The enclosed verdicts may be fewer, as long as they are a quorum.
    let enough = b.power_signed * 3 > b.power_total * 2;
    enough && ReceiptReport { power_signed: a.power_signed, ..b.clone() } == *a
}
