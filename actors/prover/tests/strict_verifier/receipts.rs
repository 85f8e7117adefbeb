//! Receipts around a real proof: what a valid one reports, and which check each broken one names.

use proof::envelope;
use proof::policy;
use proof::receipt::{InputBinding, ReceiptCheck, ReceiptFailure, ReceiptReport, TrustRoot, verify_receipt_bytes};
use types::Wire;
use types::block::{HEADER_VERSION, Header};
use types::ids::{BlobHash, BlockId, Digest, Height, Round, StateRoot, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::receipt::{Receipt, SetChange};
use types::validator::{Validator, ValidatorSet};
use types::verdict::{Check, Claim, ProofCertificate, ProofVote, Verdict, VoteSubject};
use types::vote::CommitCertificate;

use crate::fibonacci;
use crate::forge::{PROVER, Tamper, genesis, proof, statement, validators};

fn set(generation: u8) -> ValidatorSet {
    let validator = |key: &SecretKey| Validator { key: key.public(), power: 10 };
    ValidatorSet::new(validators(generation).iter().map(validator).collect()).unwrap()
}

fn change(from: u8, height: u64) -> SetChange {
    let header = Header {
        version: HEADER_VERSION,
        genesis: genesis().hash(),
        height: Height(height),
        time_ms: TimeMs(height),
        proposer: validators(from)[0].public(),
        parent: BlockId::new([1; 32]),
        last_commit: Digest::new([2; 32]),
        transactions: Digest::new([3; 32]),
        state_root: StateRoot::new([4; 32]),
        evidence: Digest::new([5; 32]),
        validators: set(from).digest(),
        next_validators: set(from + 1).digest(),
        params: Digest::new([6; 32]),
        seed: Digest::new([7; 32]),
    };
    let mut certificate =
        CommitCertificate { height: header.height, round: Round(0), block: header.id(), signatures: vec![] };
    let sign =
        |key: &SecretKey| (key.public(), certificate.precommit_of(key.public()).sign(key, &header.genesis).signature);
    certificate.signatures = validators(from).iter().map(sign).collect();
    SetChange { header, certificate, new_set: set(from + 1) }
}

fn votes(blob: &[u8], prover: PublicKey, signers: &[SecretKey]) -> ProofCertificate {
    let statement = statement();
    let subject = VoteSubject {
        job: statement.job,
        task: statement.task,
        attempt: 1,
        height: Height(50),
        prover,
        statement: statement.digest(),
        claim: Claim::Proof {
            hash: BlobHash::new(*blake3::hash(blob).as_bytes()),
            bytes: blob.len() as u64,
            steps: 600,
        },
        verifier: policy::PROOF_SYSTEM_VERSION,
    };
    let vote = |key: &SecretKey| {
        let vote = ProofVote { subject: subject.clone(), verdict: Verdict::Valid, validator: key.public() };
        (key.public(), Verdict::Valid, vote.sign(key, &statement.genesis).signature)
    };
    ProofCertificate { votes: signers.iter().map(vote).collect(), subject }
}

/// A receipt of the third generation, after two changes of the set.
fn receipt(tamper: Tamper, prover: PublicKey) -> Receipt {
    let blob = envelope::encode(&proof(tamper)).unwrap();
    Receipt {
        genesis: genesis().hash(),
        statement: statement(),
        certificate: votes(&blob, prover, &validators(3)),
        proof: blob,
        set_changes: vec![change(1, 20), change(2, 40)],
    }
}

fn check(receipt: &Receipt, checkpoint: Option<BlockId>) -> Result<ReceiptReport, ReceiptFailure> {
    verify_receipt_bytes(&receipt.to_bytes(), &genesis(), checkpoint)
}

#[test]
fn a_valid_receipt() {
    let receipt = receipt(Tamper::None, PROVER);
    let report = check(&receipt, None).unwrap();
    assert_eq!(report.output, [fibonacci()]);
    assert_eq!((report.power_signed, report.power_total), (40, 40));
    assert_eq!((report.prover, report.height), (PROVER, Height(50)));
    assert_eq!(report.program_hash, statement().program_hash);
    assert_eq!(report.input_binding, InputBinding::Quorum);
    assert_eq!(report.trust_root, TrustRoot::Genesis);
    assert_eq!(report.security, policy::figures());

    let block = receipt.set_changes[1].header.id();
    let from_checkpoint = check(&receipt, Some(block)).unwrap();
    assert_eq!(from_checkpoint.trust_root, TrustRoot::Checkpoint { height: Height(40), block });
}

#[test]
fn receipts_that_do_not_hold() {
    let name = |receipt: &Receipt| check(receipt, None).unwrap_err().check.name();
    // Certified by the right set, and yet no proof of the statement: the reader's own verification finds it.
    assert_eq!(name(&receipt(Tamper::SumOfLargeValues, PROVER)), "claims");
    assert_eq!(name(&receipt(Tamper::None, PublicKey::new([8; 32]))), "binding");

    let good = receipt(Tamper::None, PROVER);
    let mut forged = good.clone();
    forged.certificate = votes(&good.proof, PROVER, &validators(1));
    assert_eq!(name(&forged), "certificate");
    let mut forged = good.clone();
    forged.certificate.votes.truncate(2);
    assert_eq!(name(&forged), "certificate");
    let mut forged = good.clone();
    forged.set_changes.remove(1);
    forged.certificate = votes(&good.proof, PROVER, &validators(3));
    assert_eq!(name(&forged), "certificate");
    let mut forged = good.clone();
    forged.set_changes.swap(0, 1);
    assert_eq!(name(&forged), "chain");
    let mut forged = good.clone();
    forged.statement.hint_processor += 1;
    assert_eq!(name(&forged), "statement");
    let mut forged = good.clone();
    forged.proof[100] ^= 1;
    assert_eq!(name(&forged), "statement");
    let mut bytes = good.to_bytes();
    bytes.push(0);
    assert_eq!(verify_receipt_bytes(&bytes, &genesis(), None).unwrap_err().check, ReceiptCheck::Format);
    assert_eq!(ReceiptCheck::Proof(Check::PreprocessedRoot).name(), "preprocessed_root");
}
