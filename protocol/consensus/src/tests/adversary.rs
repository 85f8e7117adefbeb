//! What hostile peers and validators send: refused, bounded, or turned into evidence.

use types::block::transactions_root;
use types::codec::Wire;
use types::gossip::ProposalMessage;
use types::ids::{Height, TimeMs};
use types::transaction::{Action, SenderTx, Transaction};
use types::vote::{CertificateError, VoteKind};

use super::*;
use crate::admission::{Acceptance, Fault, Ignored};
use crate::held;
use crate::machine::Ahead;
use crate::proposer::proposer;

fn evidence_of(outputs: &[Output]) -> Vec<Evidence> {
    outputs.iter().filter_map(|o| if let Output::Evidence(e) = o { Some(e.clone()) } else { None }).collect()
}

fn key_of(keys: &[SecretKey], public: PublicKey) -> &SecretKey {
    keys.iter().find(|k| k.public() == public).unwrap()
}

#[test]
fn equivocation_gives_evidence_in_both_orders_and_after_the_decision() {
    let keys = keys(4);
    let a = vote(&keys[1], VoteKind::Prevote, 1, 0, Some(BlockId::new([1; 32])));
    let b = vote(&keys[1], VoteKind::Prevote, 1, 0, None);
    let mut found = Vec::new();
    for order in [[a.clone(), b.clone()], [b, a]] {
        let (mut machine, _) = started(&keys, Some(&keys[0]));
        let out: Vec<_> = order.into_iter().flat_map(|v| machine.handle(TimeMs(1), vote_message(v)).unwrap()).collect();
        found.push(evidence_of(&out));
    }
    assert_eq!(found[0].len(), 1);
    assert_eq!(found[0], found[1]);
    assert!(found[0][0].verify(&CHAIN));

    // Height 1 is decided and height 2 runs: a second precommit for height 1 still convicts.
    let mut net = Net::new(4, 0, 2);
    net.run(2);
    let decided = net.nodes[0].chain[0].clone();
    let late = vote(&keys[2], VoteKind::Precommit, 1, decided.certificate.round.0, None);
    net.give(0, vote_message(late.clone()));
    assert_eq!(net.nodes[0].evidence.len(), 1);
    net.give(0, vote_message(late));
    assert_eq!(net.nodes[0].evidence.len(), 1, "one offence, one report");
    assert_eq!(net.nodes[0].evidence[0].offender(), keys[2].public());
}

#[test]
fn two_proposals_in_one_round_are_evidence() {
    let keys = keys(4);
    let who = proposer(&set_of(&keys), Height(1), Round(0)).unwrap();
    let key = key_of(&keys, who);
    let other = keys.iter().find(|k| k.public() != who).unwrap();
    let (mut machine, _) = started(&keys, Some(other));
    let message = |salt| {
        let block = block(1, who, None, salt);
        ProposalMessage { proposal: proposal(key, 1, 0, block.id()), block }
    };
    let first = machine.handle(TimeMs(1), Input::Proposal(message(1))).unwrap();
    assert!(first.iter().any(|o| matches!(o, Output::CheckBlock { .. })));
    let second = machine.handle(TimeMs(1), Input::Proposal(message(2))).unwrap();
    assert_eq!(evidence_of(&second).len(), 1);
    let third = machine.handle(TimeMs(1), Input::Proposal(message(3))).unwrap();
    assert!(!third.iter().any(|o| matches!(o, Output::CheckBlock { .. })), "a third one is not even executed");
}

#[test]
fn admission_tells_wrong_from_unneeded() {
    let keys = keys(4);
    let set = set_of(&keys);
    let (machine, _) = started(&keys, Some(&keys[0]));
    let classify = |vote, resend| machine.classify(&ConsensusMessage::Vote { vote, resend });
    let good = vote(&keys[1], VoteKind::Prevote, 1, 0, None);
    assert_eq!(classify(good.clone(), 0), Acceptance::Accept);
    assert_eq!(classify(good.clone(), 8), Acceptance::Accept);
    assert!(matches!(classify(good.clone(), 9), Acceptance::Reject(Fault::Malformed(_))));
    let mut forged = good;
    forged.vote.round = Round(1);
    assert_eq!(classify(forged, 0), Acceptance::Reject(Fault::BadSignature));
    let stranger = SecretKey::from_seed([99; 32]);
    assert_eq!(classify(vote(&stranger, VoteKind::Prevote, 1, 0, None), 0), Acceptance::Reject(Fault::Stranger));
    assert_eq!(classify(vote(&stranger, VoteKind::Prevote, 2, 0, None), 0), Acceptance::Ignore(Ignored::UnknownSigner));
    assert_eq!(classify(vote(&keys[1], VoteKind::Prevote, 1, 11, None), 0), Acceptance::Ignore(Ignored::FarRound));
    assert_eq!(classify(vote(&keys[1], VoteKind::Prevote, 11, 0, None), 0), Acceptance::Accept);
    assert_eq!(classify(vote(&keys[1], VoteKind::Prevote, 12, 0, None), 0), Acceptance::Ignore(Ignored::FarHeight));
    assert_eq!(classify(vote(&keys[1], VoteKind::Prevote, 0, 0, None), 0), Acceptance::Ignore(Ignored::OldHeight));

    let who = proposer(&set, Height(1), Round(0)).unwrap();
    let block = block(1, who, None, 1);
    let message = ProposalMessage { proposal: proposal(key_of(&keys, who), 1, 0, block.id()), block: block.clone() };
    assert_eq!(machine.classify_proposal(&message), Acceptance::Accept);
    let intruder = keys.iter().find(|k| k.public() != who).unwrap();
    let usurped = ProposalMessage { proposal: proposal(intruder, 1, 0, block.id()), block };
    assert_eq!(machine.classify_proposal(&usurped), Acceptance::Reject(Fault::NotProposer));
    let mut other_body = message.clone();
    other_body.block.last_commit = Some(certificate(&keys, &message.block, 0));
    assert!(
        matches!(machine.classify_proposal(&other_body), Acceptance::Reject(Fault::Malformed(_))),
        "a good header, another body"
    );
    let mut newer = message;
    newer.block.header.version = 2;
    assert_eq!(machine.classify_proposal(&newer), Acceptance::Ignore(Ignored::UnknownVersion));
}

#[test]
fn a_block_over_the_size_limit_never_reaches_the_log() {
    let keys = keys(4);
    let who = proposer(&set_of(&keys), Height(1), Round(0)).unwrap();
    let other = keys.iter().find(|k| k.public() != who).unwrap();
    let (mut machine, _) = started(&keys, Some(other));
    // A proposal's frame holds twice as much as a block may have, and a log record not much more than a block.
    let attest = |count: usize| {
        let action = Action::Attest { observer: who, reached: vec![who; count] };
        let content = SenderTx { genesis: CHAIN, sender: who, nonce: 0, expires_ms: TimeMs(9), trace: 0, action };
        Transaction::Signed(content.sign(key_of(&keys, who)))
    };
    let message = |transactions: Vec<Transaction>| {
        let mut block = block(1, who, None, 1);
        block.header.transactions = transactions_root(transactions.iter());
        block.transactions = transactions;
        ProposalMessage { proposal: proposal(key_of(&keys, who), 1, 0, block.id()), block }
    };
    let large = message(vec![attest(2_000); 6]);
    assert!(large.to_bytes().len() < types::limits::GOSSIP_BYTES_MAX);
    assert!(matches!(machine.classify_proposal(&large), Acceptance::Reject(Fault::Malformed(_))));
    assert_eq!(machine.handle(TimeMs(1), Input::Proposal(large)).unwrap(), vec![]);
    assert_eq!(machine.classify_proposal(&message(vec![attest(2_000); 3])), Acceptance::Accept);
}

#[test]
fn certificates_need_more_than_two_thirds_of_members_once_each() {
    let keys = keys(6);
    let (machine, _) = started(&keys, Some(&keys[0]));
    let id = Some(BlockId::new([1; 32]));
    let votes = |keys: &[SecretKey], kind, value| {
        let mut votes: Vec<_> = keys.iter().map(|k| vote(k, kind, 1, 0, value)).collect();
        votes.sort_by_key(|v| v.vote.validator);
        votes
    };
    let polka = |votes| machine.classify(&ConsensusMessage::Polka { votes });
    let round = |votes, enter, precommits| {
        machine.classify(&ConsensusMessage::Round { votes, enter: Round(enter), precommits, resend: 0 })
    };
    let power = |answer| matches!(answer, Acceptance::Reject(Fault::Certificate(CertificateError::Power { .. })));
    assert_eq!(polka(votes(&keys[..5], VoteKind::Prevote, id)), Acceptance::Accept);
    assert!(power(polka(votes(&keys[..4], VoteKind::Prevote, id))), "exactly two thirds");
    assert!(matches!(polka(votes(&keys[..5], VoteKind::Precommit, id)), Acceptance::Reject(Fault::Malformed(_))));
    assert!(matches!(polka(votes(&keys[..5], VoteKind::Prevote, None)), Acceptance::Reject(Fault::Malformed(_))));
    let mut twice = votes(&keys[..5], VoteKind::Prevote, id);
    twice[1] = twice[0].clone();
    assert!(matches!(polka(twice), Acceptance::Reject(Fault::Certificate(CertificateError::Order(_)))));
    let mut with_stranger = keys[..4].to_vec();
    with_stranger.push(SecretKey::from_seed([99; 32]));
    let answer = polka(votes(&with_stranger, VoteKind::Prevote, id));
    assert!(matches!(answer, Acceptance::Reject(Fault::Certificate(CertificateError::Stranger(_)))));
    let mut forged = votes(&keys[..5], VoteKind::Prevote, id);
    forged[2].signature = forged[1].signature;
    assert!(matches!(polka(forged), Acceptance::Reject(Fault::Certificate(CertificateError::Signature(_)))));

    assert_eq!(round(votes(&keys[..5], VoteKind::Precommit, None), 1, true), Acceptance::Accept);
    assert!(power(round(votes(&keys[..4], VoteKind::Precommit, None), 1, true)));
    assert!(matches!(
        round(votes(&keys[..5], VoteKind::Prevote, None), 1, true),
        Acceptance::Reject(Fault::Malformed(_))
    ));
    assert!(matches!(
        round(votes(&keys[..5], VoteKind::Precommit, None), 2, true),
        Acceptance::Reject(Fault::Malformed(_))
    ));
    assert!(power(round(votes(&keys[..2], VoteKind::Prevote, None), 0, false)), "exactly one third");
    assert_eq!(round(votes(&keys[..3], VoteKind::Prevote, None), 0, false), Acceptance::Accept);
}

/// Votes of `signers` for one block at a height, in the order of certificates.
fn votes_at(signers: &[SecretKey], kind: VoteKind, height: u64) -> Vec<SignedVote> {
    let id = Some(BlockId::new([1; 32]));
    let mut votes: Vec<_> = signers.iter().map(|k| vote(k, kind, height, 0, id)).collect();
    votes.sort_by_key(|v| v.vote.validator);
    votes
}

fn forge(votes: &mut [SignedVote], index: usize) {
    votes[index].signature = types::keys::Signature::new([1; 64]);
}

#[test]
fn certificates_of_decided_heights_cost_their_sender_what_they_would_cost_at_their_height() {
    let keys = keys(4);
    let mut net = Net::new(4, 0, 2);
    net.run(3);
    let machine = net.nodes[0].machine.as_mut().unwrap();
    assert!(machine.remembers(Height(1)) && !machine.remembers(Height(0)));
    let precommits = |signers: &[SecretKey]| votes_at(signers, VoteKind::Precommit, 1);
    let round = |votes| ConsensusMessage::Round { votes, enter: Round(1), precommits: true, resend: 0 };
    let polka = |votes| ConsensusMessage::Polka { votes };
    let certificate = |answer, error: fn(&CertificateError) -> bool| matches!(answer, Acceptance::Reject(Fault::Certificate(e)) if error(&e));
    let stranger = |e: &CertificateError| matches!(e, CertificateError::Stranger(_));
    let signature = |e: &CertificateError| matches!(e, CertificateError::Signature(_));
    let power = |e: &CertificateError| matches!(e, CertificateError::Power { .. });

    let mut with_stranger = keys.clone();
    with_stranger.push(SecretKey::from_seed([99; 32]));
    assert!(certificate(machine.classify(&round(precommits(&with_stranger))), stranger));
    let mut all_forged = precommits(&with_stranger);
    (0..5).for_each(|index| forge(&mut all_forged, index));
    assert!(certificate(machine.classify(&round(all_forged)), stranger), "members before signatures");
    let mut forged = precommits(&keys);
    forge(&mut forged, 3);
    assert!(certificate(machine.classify(&round(forged.clone())), signature));
    assert!(certificate(machine.classify(&round(precommits(&keys[..2]))), power));
    let mut forged_polka = votes_at(&keys, VoteKind::Prevote, 1);
    forge(&mut forged_polka, 3);
    assert!(certificate(machine.classify(&polka(forged_polka)), signature));

    // A true one of a decided height is of no use but as evidence, which it is: the honest four decided another block.
    let (answer, out) = machine.judge(TimeMs(9), round(precommits(&keys))).unwrap();
    assert_eq!(answer, Acceptance::Ignore(Ignored::OldHeight));
    assert_eq!(evidence_of(&out).len(), 4);
    // What was reported is not even verified again.
    let (answer, out) = machine.judge(TimeMs(9), round(forged)).unwrap();
    assert_eq!((answer, evidence_of(&out)), (Acceptance::Ignore(Ignored::OldHeight), vec![]));
}

#[test]
fn certificates_of_later_heights_are_taken_apart_after_their_signatures() {
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let polka = |votes| ConsensusMessage::Polka { votes };
    let later = Acceptance::Ignore(Ignored::LaterCertificate);
    let mut forged = votes_at(&keys, VoteKind::Prevote, 3);
    forge(&mut forged, 2);
    assert_eq!(machine.classify(&polka(forged.clone())), Acceptance::Reject(Fault::BadSignature));
    assert_eq!(machine.judge(TimeMs(1), polka(forged.clone())).unwrap().0, Acceptance::Reject(Fault::BadSignature));
    assert_eq!(machine.held_votes(), 0, "nothing of a forged certificate is kept");
    // The set of that height may have members that are strangers now.
    let mut with_stranger = keys.clone();
    with_stranger.push(SecretKey::from_seed([99; 32]));
    let (answer, _) = machine.judge(TimeMs(1), polka(votes_at(&with_stranger, VoteKind::Prevote, 3))).unwrap();
    assert_eq!((answer, machine.held_votes()), (later.clone(), 4));
    // Who has enough kept is not verified any more, and nothing more is kept.
    for round in 1..40 {
        for key in &keys {
            machine.handle(TimeMs(1), vote_message(vote(key, VoteKind::Prevote, 3, round, None))).unwrap();
        }
    }
    let full = machine.held_votes();
    assert_eq!(full, 4 * held::VOTES_PER_HEIGHT);
    forged.iter_mut().for_each(|v| v.vote.round = Round(77));
    assert_eq!(machine.judge(TimeMs(1), polka(forged)).unwrap().0, later);
    assert_eq!(machine.held_votes(), full);
}

#[test]
fn an_answer_with_votes_counts_up_to_its_first_fault_and_no_further_than_a_height_can_have() {
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let good = |n: usize| vote(&keys[n], VoteKind::Prevote, 1, 0, None);
    let known = |machine: &Machine| {
        machine.votes_of(Height(1)).0.iter().filter(|v| v.vote.validator != keys[0].public()).count()
    };
    let mut forged = good(2);
    forged.vote.round = Round(1);
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), vec![good(1), forged, good(3)], vec![]).unwrap();
    assert_eq!((fault, known(&machine)), (Some(Fault::BadSignature), 1), "what came before counts, nothing after");
    let stranger = vote(&SecretKey::from_seed([99; 32]), VoteKind::Prevote, 1, 0, None);
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), vec![stranger, good(3)], vec![]).unwrap();
    assert_eq!((fault, known(&machine)), (Some(Fault::Stranger), 1));
    let other = vote(&keys[3], VoteKind::Prevote, 2, 0, None);
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), vec![other], vec![]).unwrap();
    assert!(matches!(fault, Some(Fault::Malformed(_))));
    // More than four validators can have said: nothing of it is even looked at.
    let many = vec![good(3); 4 * crate::evidence::VOTES_MAX + 1];
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), many, vec![]).unwrap();
    assert!(matches!(fault, Some(Fault::Malformed(_))));
    assert_eq!(known(&machine), 1);
    let who = proposer(&set_of(&keys), Height(1), Round(0)).unwrap();
    let usurper = keys.iter().find(|k| k.public() != who).unwrap();
    let usurped = proposal(usurper, 1, 0, BlockId::new([2; 32]));
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), vec![], vec![usurped]).unwrap();
    assert_eq!(fault, Some(Fault::NotProposer));
    // An answer that comes too late is nobody's fault.
    let late = vote(&keys[3], VoteKind::Prevote, 7, 0, None);
    assert_eq!(machine.take_votes(TimeMs(1), Height(7), vec![late], vec![]).unwrap().0, None);
    let (fault, _) = machine.take_votes(TimeMs(1), Height(1), vec![good(1), good(2), good(3)], vec![]).unwrap();
    assert_eq!((fault, known(&machine)), (None, 3));
}

#[test]
fn exactly_two_thirds_of_the_power_decides_nothing() {
    let keys = keys(3);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let block = block(1, keys[1].public(), None, 1);
    let decided =
        |signers: &[SecretKey]| DecidedBlock { block: block.clone(), certificate: certificate(signers, &block, 0) };
    assert!(machine.check_synced(&decided(&keys[..2])).is_err());
    assert_eq!(machine.handle(TimeMs(1), Input::Synced(decided(&keys[..2]))).unwrap(), vec![]);
    assert!(machine.check_synced(&decided(&keys)).is_ok());
    let mut net = Net::new(3, 0, 4);
    net.nodes[1].machine = None;
    for _ in 0..3000 {
        net.step();
    }
    assert!(net.nodes.iter().all(|n| n.chain.is_empty()));
}

#[test]
fn a_flood_for_later_heights_is_bounded_and_honest_votes_pass() {
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    for value in 0..50u8 {
        for round in 0..20 {
            let v = vote(&keys[1], VoteKind::Prevote, 2, round, Some(BlockId::new([value; 32])));
            assert_eq!(machine.handle(TimeMs(1), vote_message(v)).unwrap(), vec![]);
        }
    }
    assert_eq!(machine.held_votes(), held::VOTES_PER_HEIGHT);
    let more = vote(&keys[1], VoteKind::Prevote, 2, 30, None);
    assert_eq!(machine.classify(&ConsensusMessage::Vote { vote: more, resend: 0 }), Acceptance::Ignore(Ignored::Quota));
    assert_eq!(machine.ahead(), Ahead::Few, "one of four may be faulty, however much it sends");
    machine.handle(TimeMs(1), vote_message(vote(&keys[2], VoteKind::Prevote, 2, 0, None))).unwrap();
    assert_eq!(machine.held_votes(), held::VOTES_PER_HEIGHT + 1);
    let forged =
        SignedVote { signature: types::keys::Signature::new([1; 64]), ..vote(&keys[3], VoteKind::Prevote, 2, 0, None) };
    machine.handle(TimeMs(1), vote_message(forged)).unwrap();
    assert_eq!(machine.held_votes(), held::VOTES_PER_HEIGHT + 1, "signatures are checked before anything is kept");
    assert_eq!(machine.ahead(), Ahead::AnHonestOne);
}

#[test]
fn a_block_invalid_here_but_certified_stops_the_node() {
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let block = block(1, keys[1].public(), None, 1);
    let decided = DecidedBlock { certificate: certificate(&keys, &block, 0), block: block.clone() };
    let out = machine.handle(TimeMs(1), Input::Synced(decided)).unwrap();
    assert!(out.iter().any(|o| matches!(o, Output::CheckBlock { .. })));
    let answer = Input::BlockChecked { height: Height(1), round: Round(0), block: block.id(), valid: false };
    assert!(matches!(machine.handle(TimeMs(2), answer), Err(crate::Fatal::CertifiedInvalid { .. })));
}
