//! Crashes after every single output: nothing is said twice differently, and the chain goes on.

use proptest::prelude::*;
use types::codec::Wire;
use types::ids::{Height, TimeMs};
use types::vote::VoteKind;

use super::*;
use crate::machine::Fatal;
use crate::wal::Record;

#[test]
fn a_crash_after_any_output_never_signs_a_slot_twice() {
    let mut outputs = 0;
    for after in 0..140 {
        for keep_tail in [false, true] {
            for node in [0, 3] {
                let mut net = Net::new(4, 0, 11);
                net.crash = Some(Crash { node, after, keep_tail });
                net.run(3);
                outputs = outputs.max(net.executed[node]);
                assert!(
                    net.nodes.iter().all(|n| n.machine.as_ref().is_some_and(Machine::is_signing)),
                    "no guard ever had to refuse"
                );
            }
        }
    }
    assert!(outputs > 60, "the crash points lie within the run ({outputs} outputs)");
}

#[test]
fn a_crash_of_everybody_leaves_the_chain_alive() {
    for seed in 1..=12 {
        let mut net = Net::new(4, 0, seed);
        net.loss_permille = 100;
        for _ in 0..(seed * 7) {
            net.step();
        }
        for index in 0..4 {
            let disk = &mut net.nodes[index].disk;
            disk.wal_tail.clear();
            disk.guard_tail.clear();
            net.boot(index);
        }
        net.run(3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn crashes_with_loss_keep_agreement(seed in 1u64..1_000_000, node in 0usize..4, after in 0usize..200, keep_tail: bool, loss in 0u64..300) {
        let mut net = Net::new(4, 0, seed);
        net.loss_permille = loss;
        net.crash = Some(Crash { node, after, keep_tail });
        net.run(4);
    }
}

#[test]
fn replay_takes_the_logged_signature_and_the_guard_learns_it() {
    let keys = keys(4);
    let own = &keys[0];
    let mut net = Net::new(4, 0, 5);
    net.run(1);
    let wal = net.nodes[0].disk.wal.get(&Height(1)).cloned().unwrap();
    let logged = wal.iter().map(|r| Record::from_bytes(r).unwrap());
    let own_votes: Vec<_> = logged
        .filter_map(|r| if let Record::Vote(v) = r { (v.vote.validator == own.public()).then_some(v) } else { None })
        .collect();
    assert_eq!(own_votes.len(), 2);
    // The guard file is lost; the log is not.
    let mut machine = Machine::new(Guard::new(CHAIN, Some(own.clone())));
    let start = Input::StartHeight { height: Height(1), set: set_of(&keys), timeouts: timeouts(), wal };
    let out = machine.handle(TimeMs(0), start).unwrap();
    assert!(!out.iter().any(|o| matches!(o, Output::AppendWal { .. })), "what is logged is not logged again");
    assert!(matches!(out.last(), Some(Output::Decided(d)) if d.block.id() == net.nodes[0].chain[0].block.id()));
    let persisted = out.iter().filter(|o| matches!(o, Output::PersistGuard(GuardRecord::Vote(_)))).count();
    assert_eq!(persisted, 2);
    let published: Vec<_> = out
        .iter()
        .filter_map(|o| {
            if let Output::Publish(ConsensusMessage::Vote { vote, .. }) = o { Some(vote.clone()) } else { None }
        })
        .collect();
    assert!(!published.is_empty() && published.iter().all(|v| own_votes.contains(v)));
}

#[test]
fn a_guard_that_knows_better_makes_an_observer() {
    let keys = keys(4);
    let own = &keys[0];
    // The guard remembers a prevote for another block than the one that will be proposed.
    let strange = vote(own, VoteKind::Prevote, 1, 0, Some(BlockId::new([9; 32])));
    let guard = Guard::restore(CHAIN, Some(own.clone()), [GuardRecord::Vote(strange)]).unwrap();
    let mut net = Net::new(4, 0, 8);
    net.nodes[0].machine = Some(Machine::new(guard));
    net.nodes[0].published = 0;
    net.start_next(0);
    net.run(1);
    assert_eq!(net.nodes[0].chain.len(), 1, "it follows");
    let slot = (Height(1), Round(0), 2, own.public());
    assert!(!net.said.contains_key(&slot), "and signs nothing more at that height");
    net.run(3);
    assert!(
        net.said.keys().any(|(h, _, _, who)| *h == Height(2) && *who == own.public()),
        "at the next height it votes again"
    );
}

#[test]
fn corrupt_logs_stop_the_node() {
    let keys = keys(4);
    let start = |wal| Input::StartHeight { height: Height(1), set: set_of(&keys), timeouts: timeouts(), wal };
    let fresh = || Machine::new(Guard::new(CHAIN, Some(keys[0].clone())));
    assert!(matches!(fresh().handle(TimeMs(0), start(vec![vec![1, 0, 77]])), Err(Fatal::WalRecord { index: 0, .. })));
    let other_height = Record::Vote(vote(&keys[1], VoteKind::Prevote, 2, 0, None)).to_bytes();
    assert!(matches!(
        fresh().handle(TimeMs(0), start(vec![other_height])),
        Err(Fatal::WalHeight { found: Height(2), .. })
    ));
    assert!(matches!(
        fresh().handle(TimeMs(0), start(vec![Record::Polka(vec![]).to_bytes()])),
        Err(Fatal::WalRecord { .. })
    ));
    let mut machine = fresh();
    machine.handle(TimeMs(0), start(vec![])).unwrap();
    assert!(matches!(machine.handle(TimeMs(0), start(vec![])), Err(Fatal::HeightOrder { .. })));
    // A log that says this node prevoted a block nobody proposed can't be re-derived.
    let propose_timeout = Record::Timeout { kind: crate::TimerKind::Propose, round: Round(0) }.to_bytes();
    let own = Record::Vote(vote(&keys[0], VoteKind::Prevote, 1, 0, Some(BlockId::new([4; 32])))).to_bytes();
    assert!(matches!(fresh().handle(TimeMs(0), start(vec![propose_timeout, own])), Err(Fatal::ReplayDiverged { .. })));
}

#[test]
fn a_synced_certificate_is_replayed_where_it_came() {
    let keys = keys(4);
    let own = keys.iter().find(|k| crate::proposer(&set_of(&keys), Height(1), Round(0)) != Some(k.public())).unwrap();
    let (mut machine, _) = started(&keys, Some(own));
    let block = block(1, keys[1].public(), None, 1);
    let decided = DecidedBlock { certificate: certificate(&keys[..3], &block, 5), block: block.clone() };
    let mut outputs = machine.handle(TimeMs(1), Input::Synced(decided.clone())).unwrap();
    assert_eq!(machine.round(), Round(5), "the certificate leads into its round");
    let timer = TimerId { height: Height(1), round: Round(5), kind: crate::TimerKind::Propose };
    outputs.extend(machine.handle(TimeMs(900), Input::Timer(timer)).unwrap());
    let wal: Vec<_> = outputs
        .iter()
        .filter_map(|o| if let Output::AppendWal { record, .. } = o { Some(record.clone()) } else { None })
        .collect();
    let mut again = Machine::new(Guard::new(CHAIN, Some(own.clone())));
    let start = Input::StartHeight { height: Height(1), set: set_of(&keys), timeouts: timeouts(), wal };
    let out = again.handle(TimeMs(2), start).unwrap();
    assert_eq!(again.round(), Round(5));
    assert!(out.iter().any(|o| matches!(o, Output::CheckBlock { round: Round(5), .. })), "the ledger is asked again");
    let answer = Input::BlockChecked { height: Height(1), round: Round(5), block: block.id(), valid: true };
    assert_eq!(again.handle(TimeMs(3), answer).unwrap().last(), Some(&Output::Decided(decided)));
}

#[test]
fn a_verdict_is_durable_before_it_leaves_and_given_once() {
    use types::ids::{BlobHash, JobId, StatementDigest};
    use types::verdict::{Check, Claim, ProofVote, Verdict, VoteSubject};
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let vote = |verdict| ProofVote {
        subject: VoteSubject {
            job: JobId::new([1; 32]),
            task: 0,
            attempt: 0,
            height: Height(1),
            prover: PublicKey::new([2; 32]),
            statement: StatementDigest::new([3; 32]),
            claim: Claim::Proof { hash: BlobHash::new([4; 32]), bytes: 5, steps: 6 },
            verifier: 1,
        },
        verdict,
        validator: keys[0].public(),
    };
    let (signed, outputs) = machine.sign_proof_vote(vote(Verdict::Valid)).unwrap();
    assert_eq!(outputs, vec![Output::PersistGuard(GuardRecord::Verdict(signed.clone())), Output::Flush]);
    assert_eq!(machine.sign_proof_vote(vote(Verdict::Valid)).unwrap(), (signed, vec![]));
    assert!(machine.sign_proof_vote(vote(Verdict::Invalid(Check::Stark))).is_err());
    machine.guard_forget(Height(1), Height(2));
    assert!(machine.sign_proof_vote(vote(Verdict::Valid)).is_err());
}
