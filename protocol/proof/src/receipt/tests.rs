//! A chain with two changes of the validator set, and everything that may be wrong with a receipt of its last height.

use types::block::Header;
use types::felt::Felt;
use types::genesis::{Genesis, GenesisValidator};
use types::ids::{Amount, Digest, Height, Round, StateRoot, TimeMs};
use types::job::ProgramKind;
use types::keys::SecretKey;
use types::params::Params;
use types::statement::Statement;
use types::validator::Validator;
use types::verdict::{ProofCertificate, ProofVote, Verdict, VoteSubject};
use types::vote::CommitCertificate;

use super::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// Three generations of validators: four, then four of which one stayed, then five new ones.
fn generation(n: usize) -> Vec<SecretKey> {
    let seeds: [&[u8]; 3] = [&[1, 2, 3, 4], &[4, 5, 6, 7], &[10, 11, 12, 13, 14]];
    let mut keys: Vec<_> = seeds[n].iter().copied().map(key).collect();
    keys.sort_by_key(SecretKey::public);
    keys
}

fn set(n: usize) -> ValidatorSet {
    ValidatorSet::new(generation(n).iter().map(|k| Validator { key: k.public(), power: 10 }).collect()).unwrap()
}

fn genesis() -> Genesis {
    let validator =
        |k: &SecretKey| GenesisValidator { key: k.public(), power: 10, account: k.public(), stake: Amount(1) };
    Genesis {
        chain_id: "receipts".into(),
        time_ms: TimeMs(1),
        params: Params::standard(),
        validators: generation(0).iter().map(validator).collect(),
        provers: vec![],
        accounts: vec![],
    }
}

fn header(height: u64, validators: &ValidatorSet, next: &ValidatorSet) -> Header {
    Header {
        version: HEADER_VERSION,
        genesis: genesis().hash(),
        height: Height(height),
        time_ms: TimeMs(height * 500),
        proposer: validators.validators()[0].key,
        parent: BlockId::new([1; 32]),
        last_commit: Digest::new([2; 32]),
        transactions: Digest::new([3; 32]),
        state_root: StateRoot::new([4; 32]),
        evidence: Digest::new([5; 32]),
        validators: validators.digest(),
        next_validators: next.digest(),
        params: Digest::new([6; 32]),
        seed: Digest::new([7; 32]),
    }
}

fn commit(header: &Header, signers: &[SecretKey]) -> CommitCertificate {
    let mut c = CommitCertificate { height: header.height, round: Round(0), block: header.id(), signatures: vec![] };
    c.signatures =
        signers.iter().map(|k| (k.public(), c.precommit_of(k.public()).sign(k, &header.genesis).signature)).collect();
    c
}

/// The change from generation `n` to the next, at this height.
fn change(n: usize, height: u64) -> SetChange {
    let header = header(height, &set(n), &set(n + 1));
    let certificate = commit(&header, &generation(n));
    SetChange { header, certificate, new_set: set(n + 1) }
}

const PROOF: &[u8] = b"no proof at all";

fn statement_of(chain: GenesisHash) -> Statement {
    Statement {
        genesis: chain,
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

fn subject() -> VoteSubject {
    let statement = statement_of(genesis().hash());
    VoteSubject {
        job: statement.job,
        task: 0,
        attempt: 1,
        height: Height(60),
        prover: key(9).public(),
        statement: statement.digest(),
        claim: Claim::Proof {
            hash: BlobHash::new(*blake3::hash(PROOF).as_bytes()),
            bytes: PROOF.len() as u64,
            steps: 1,
        },
        verifier: PROOF_SYSTEM_VERSION,
    }
}

fn votes(subject: VoteSubject, signers: &[SecretKey], chain: &GenesisHash) -> ProofCertificate {
    let vote = |k: &SecretKey| {
        let vote = ProofVote { subject: subject.clone(), verdict: Verdict::Valid, validator: k.public() };
        (k.public(), Verdict::Valid, vote.sign(k, chain).signature)
    };
    ProofCertificate { votes: signers.iter().map(vote).collect(), subject }
}

fn receipt() -> Receipt {
    let chain = genesis().hash();
    Receipt {
        genesis: chain,
        statement: statement_of(chain),
        proof: PROOF.to_vec(),
        certificate: votes(subject(), &generation(2), &chain),
        set_changes: vec![change(0, 20), change(1, 40)],
    }
}

fn refused(receipt: &Receipt, checkpoint: Option<BlockId>, check: ReceiptCheck, part: &str) {
    let failure = verify_receipt(receipt, &genesis(), checkpoint).unwrap_err();
    assert_eq!(failure.check, check, "{failure}");
    assert!(failure.reason.contains(part), "{failure} does not mention '{part}'");
}

#[test]
fn two_set_changes_lead_to_the_proof_checks() {
    // Everything before the proof holds, so that the first thing refused is the proof blob.
    refused(&receipt(), None, ReceiptCheck::Proof(Check::Format), "magic");
    let (last, root) = walk(&receipt(), &genesis(), &genesis().hash(), None).unwrap();
    assert_eq!((last, root), (set(2), TrustRoot::Genesis));
    let bytes = receipt().to_bytes();
    let failure = verify_receipt_bytes(&bytes, &genesis(), None).unwrap_err();
    assert_eq!(failure.check, ReceiptCheck::Proof(Check::Format));
    let failure = verify_receipt_bytes(&bytes[1..], &genesis(), None).unwrap_err();
    assert_eq!(failure.check, ReceiptCheck::Format);
}

#[test]
fn a_checkpoint_is_a_trust_root() {
    let r = receipt();
    let named = r.set_changes[1].header.id();
    refused(&r, Some(named), ReceiptCheck::Proof(Check::Format), "magic");
    let (last, root) = walk(&r, &genesis(), &r.genesis, Some(named)).unwrap();
    assert_eq!((last, root), (set(2), TrustRoot::Checkpoint { height: Height(40), block: named }));
    // Nothing before it matters, and everything after it does.
    let mut without_start = r.clone();
    without_start.set_changes.remove(0);
    refused(&without_start, Some(named), ReceiptCheck::Proof(Check::Format), "magic");
    refused(&without_start, None, ReceiptCheck::Chain, "another validator set");
    let first = r.set_changes[0].header.id();
    let mut unsigned = r.clone();
    unsigned.set_changes[1].certificate.signatures.truncate(2);
    refused(&unsigned, Some(first), ReceiptCheck::Chain, "height 40");
    refused(&r, Some(BlockId::new([9; 32])), ReceiptCheck::Chain, "named as checkpoint");
}

#[test]
fn forgeries_by_a_retired_set() {
    let chain = genesis().hash();
    // The first set votes although two changes followed.
    let mut forged = receipt();
    forged.certificate = votes(subject(), &generation(0), &chain);
    refused(&forged, None, ReceiptCheck::Certificate, "not in the validator set");
    // It signs the second change in place of the set that followed it.
    let mut forged = receipt();
    forged.set_changes[1].certificate = commit(&forged.set_changes[1].header, &generation(0));
    refused(&forged, None, ReceiptCheck::Chain, "not in the validator set");
    // It leaves the changes out altogether. Genesis alone cannot know better; a checkpoint does.
    let mut forged = receipt();
    forged.set_changes.clear();
    forged.certificate = votes(subject(), &generation(0), &chain);
    refused(&forged, None, ReceiptCheck::Proof(Check::Format), "magic");
    refused(&forged, Some(receipt().set_changes[1].header.id()), ReceiptCheck::Chain, "named as checkpoint");
    // It builds another successor of its own: the reader's checkpoint is not in that chain.
    let mut forged = receipt();
    let own = header(20, &set(0), &set(0));
    forged.set_changes = vec![SetChange { certificate: commit(&own, &generation(0)), header: own, new_set: set(0) }];
    forged.certificate = votes(subject(), &generation(0), &chain);
    refused(&forged, Some(receipt().set_changes[0].header.id()), ReceiptCheck::Chain, "named as checkpoint");
}

#[test]
fn broken_links() {
    let broken = |part: &str, change: &dyn Fn(&mut Receipt)| {
        let mut r = receipt();
        change(&mut r);
        refused(&r, None, ReceiptCheck::Chain, part);
    };
    broken("of chain", &|r| r.genesis = GenesisHash::new([0; 32]));
    broken("another validator set", &|r| drop(r.set_changes.remove(0)));
    broken("another validator set", &|r| r.set_changes.swap(0, 1));
    broken("comes after one at 40", &|r| r.set_changes.push(change(1, 40)));
    broken("another next set", &|r| r.set_changes[1].new_set = set(1));
    broken("another validator set", &|r| {
        let header = header(40, &set(0), &set(2));
        r.set_changes[1] = SetChange { certificate: commit(&header, &generation(1)), header, new_set: set(2) };
    });
    broken("header version 2", &|r| r.set_changes[0].header.version = 2);
    broken("of another chain", &|r| r.set_changes[0].header.genesis = GenesisHash::new([0; 32]));
    broken("is for block", &|r| r.set_changes[0].header.time_ms = TimeMs(9));
    broken("is for height", &|r| r.set_changes[0].certificate.height = Height(19));
    // Two of four are exactly half; three of four are more than two thirds.
    broken("power 20 of 40", &|r| r.set_changes[0].certificate.signatures.truncate(2));
    broken("there twice", &|r| {
        let signatures = &mut r.set_changes[0].certificate.signatures;
        signatures[1] = signatures[0];
    });
    broken("not above 40", &|r| {
        let subject = VoteSubject { height: Height(40), ..subject() };
        r.certificate = votes(subject, &generation(2), &r.genesis);
    });
    let many = change(0, 20);
    broken("at most", &|r| r.set_changes = vec![many.clone(); SET_CHANGES_MAX + 1]);
}

#[test]
fn certificates_that_do_not_certify() {
    let chain = genesis().hash();
    let broken = |part: &str, change: &dyn Fn(&mut Receipt)| {
        let mut r = receipt();
        change(&mut r);
        refused(&r, None, ReceiptCheck::Certificate, part);
    };
    broken("power 30 of 50", &|r| r.certificate.votes.truncate(3));
    broken("there twice", &|r| r.certificate.votes[1] = r.certificate.votes[0]);
    broken("does not verify", &|r| r.certificate.subject.attempt = 2);
    broken("does not verify", &|r| r.certificate.subject.height = Height(61));
    broken("does not verify", &|r| r.certificate.votes[0].1 = Verdict::Invalid(Check::Stark));
    broken("does not verify", &|r| r.certificate = votes(subject(), &generation(2), &GenesisHash::new([0; 32])));
    broken("not in the validator set", &|r| {
        let mut signers = generation(2);
        signers[4] = key(99);
        signers.sort_by_key(SecretKey::public);
        r.certificate = votes(subject(), &signers, &chain);
    });
    broken("verifier version 2", &|r| {
        r.certificate = votes(VoteSubject { verifier: 2, ..subject() }, &generation(2), &chain)
    });
    // "Invalid" and "abstain" are verdicts of the set, but no power for "valid".
    broken("power 30 of 50", &|r| {
        for (at, verdict) in [(0, Verdict::Abstain), (1, Verdict::Invalid(Check::Input))] {
            let signer = &generation(2)[at];
            let vote = ProofVote { subject: subject(), verdict, validator: signer.public() };
            r.certificate.votes[at] = (signer.public(), verdict, vote.sign(signer, &chain).signature);
        }
    });
}

#[test]
fn exactly_two_thirds_do_not_certify() {
    let keys = &generation(2)[..3];
    let three = ValidatorSet::new(keys.iter().map(|k| Validator { key: k.public(), power: 7 }).collect()).unwrap();
    let mut r = receipt();
    r.certificate = votes(subject(), &keys[..2], &r.genesis);
    assert_eq!(certificate(&r, &r.genesis, &three).unwrap_err().check, ReceiptCheck::Certificate);
    r.certificate = votes(subject(), keys, &r.genesis);
    assert_eq!(certificate(&r, &r.genesis, &three).unwrap(), (21, 21));
}

#[test]
fn verdicts_on_something_else() {
    let chain = genesis().hash();
    let broken = |part: &str, subject: VoteSubject, change: &dyn Fn(&mut Receipt)| {
        let mut r = receipt();
        r.certificate = votes(subject, &generation(2), &chain);
        change(&mut r);
        refused(&r, None, ReceiptCheck::Statement, part);
    };
    broken("on statement", subject(), &|r| r.statement.program_hash = Felt::from_u128(5));
    broken("of chain", subject(), &|r| r.statement.genesis = GenesisHash::new([0; 32]));
    broken("another job", VoteSubject { job: JobId::new([7; 32]), ..subject() }, &|_| ());
    broken("another job or task", VoteSubject { task: 1, ..subject() }, &|_| ());
    broken("on proof", subject(), &|r| r.proof[0] ^= 1);
    let claim = Claim::Proof { hash: BlobHash::new(*blake3::hash(PROOF).as_bytes()), bytes: 4, steps: 1 };
    broken("of 4 bytes", VoteSubject { claim, ..subject() }, &|_| ());
    let claim = Claim::Failure { reason: types::verdict::FailureReason::Execution, steps: 1 };
    broken("failure report", VoteSubject { claim, ..subject() }, &|_| ());
}
