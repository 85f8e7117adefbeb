//! Validators: set changes two heights later, stake, evidence, attestations.

use types::evidence::Evidence;
use types::ids::{Amount, BlockId, Height, Round, TimeMs};
use types::keys::SecretKey;
use types::signing::Domain;
use types::transaction::{Action, Transaction};
use types::verdict::{Check, ProofVote, Verdict};
use types::vote::{Proposal, Vote, VoteKind};

use crate::execute::Event;
use crate::limits::POWER_PAUSE_MS;
use crate::testkit::*;
use crate::{TxCode, query, state, validator_set};

fn registration(c: &Chain, owner: &SecretKey, key: &SecretKey, power: u64, stake: u128) -> Transaction {
    let possession = key.sign(Domain::KeyPossession, &c.genesis, owner.public().as_bytes());
    c.tx(owner, Action::RegisterValidator { key: key.public(), power, stake: Amount(stake), possession })
}

#[test]
fn a_new_validator_counts_from_the_height_after_next() {
    let mut c = Chain::new();
    let (alice, fifth) = (user(1), validator(5));
    let poor = registration(&c, &alice, &fifth, 10, 999);
    assert_eq!(c.refused(&poor), TxCode::Stake);
    let strong = registration(&c, &alice, &fifth, 14, 1_400);
    assert_eq!(c.refused(&strong), TxCode::SetChange);
    let mut unproven = registration(&c, &alice, &fifth, 10, 1_000);
    if let Transaction::Signed(tx) = &mut unproven
        && let Action::RegisterValidator { possession, .. } = &mut tx.content.action
    {
        *possession = validator(6).sign(Domain::KeyPossession, &c.genesis, alice.public().as_bytes());
        *tx = tx.content.clone().sign(&alice);
    }
    assert_eq!(c.refused(&unproven), TxCode::BadSignature);

    let good = registration(&c, &alice, &fifth, 10, 1_000);
    let (executed, built) = c.advance(500, &[good]);
    assert_eq!(built.dropped, []);
    let at = executed.height;
    assert_eq!(executed.next_validators.validators().len(), 4);
    assert_eq!(executed.after_next_validators.validators().len(), 5);
    assert_eq!(c.balance(&alice), 100_000 - 1_000 - 1);
    // The next header names it, the one after has it in force.
    let next = c.build(&[]).block;
    assert_eq!(next.header.next_validators, executed.after_next_validators.digest());
    assert_eq!(next.header.validators, executed.next_validators.digest());
    c.block(&[]);
    let then = c.build(&[]).block;
    assert_eq!(then.header.height, Height(at.0 + 2));
    assert_eq!(then.header.validators, executed.after_next_validators.digest());
    assert_eq!(validator_set(&c.kv, at).unwrap().unwrap().validators().len(), 4);
    assert_eq!(validator_set(&c.kv, Height(at.0 + 2)).unwrap().unwrap().validators().len(), 5);
    c.block(&[]);
    c.block(&[]);

    // Leaving: out of the set two heights later, stake back after the evidence window.
    let foreign = c.tx(&user(2), Action::ExitValidator { key: fifth.public() });
    assert_eq!(c.refused(&foreign), TxCode::NotOwner);
    let exit = c.tx(&alice, Action::ExitValidator { key: fifth.public() });
    c.block(&[exit]);
    c.block(&[]);
    c.block(&[]);
    let height = state::head(&c.kv).unwrap().height;
    assert_eq!(validator_set(&c.kv, height).unwrap().unwrap().validators().len(), 4);
    let back = registration(&c, &alice, &fifth, 10, 1_000);
    assert_eq!(c.refused(&back), TxCode::Registered);
    let before = c.balance(&alice);
    c.advance(7 * 24 * 3_600_000, &[]);
    assert_eq!(c.balance(&alice), before + 1_000);
    assert_eq!(state::validator(&c.kv, &fifth.public()).unwrap(), None);
    let back = registration(&c, &alice, &fifth, 10, 1_000);
    c.block(&[back]);
}

#[test]
fn at_most_a_third_of_the_power_changes_in_a_block() {
    let mut c = Chain::new();
    let exit = |c: &Chain, n: u8| c.tx(&owner(n), Action::ExitValidator { key: validator(n).public() });
    let both = [exit(&c, 1), exit(&c, 2)];
    let (_, built) = c.advance(500, &both);
    assert_eq!(built.block.transactions.len(), 1);
    assert_eq!(built.dropped[0].1.code(), TxCode::SetChange);
    c.block(&[]);
    c.block(&[]);
    // Of three equal ones a third may go; of two no one.
    let second = exit(&c, 2);
    c.block(&[second]);
    let third = exit(&c, 3);
    assert_eq!(c.refused(&third), TxCode::SetChange);
    assert_eq!(c.refused(&third), TxCode::SetChange);
    let lower = c.tx(&owner(3), Action::UpdateValidator { key: validator(3).public(), power: 5 });
    c.block(&[lower]);
    let raise = c.tx(&owner(3), Action::UpdateValidator { key: validator(3).public(), power: 11 });
    assert_eq!(c.refused(&raise), TxCode::Stake);
}

#[test]
fn a_validators_power_changes_once_an_hour() {
    let mut c = Chain::new();
    let power = |c: &Chain, power| c.tx(&owner(1), Action::UpdateValidator { key: validator(1).public(), power });
    let first = power(&c, 9);
    c.block(&[first]);
    let again = power(&c, 8);
    assert_eq!(c.refused(&again), TxCode::TooSoon);
    c.advance(POWER_PAUSE_MS - 2_000, &[]);
    let again = power(&c, 8);
    assert_eq!(c.refused(&again), TxCode::TooSoon);
    // Nobody else waits for it, and leaving is always possible.
    let other = c.tx(&owner(2), Action::UpdateValidator { key: validator(2).public(), power: 9 });
    c.block(&[other]);
    c.advance(2_000, &[]);
    let again = power(&c, 8);
    c.block(&[again]);
    let exit = c.tx(&owner(1), Action::ExitValidator { key: validator(1).public() });
    c.block(&[exit]);
}

#[test]
fn a_change_taken_back_within_a_block_is_no_change() {
    let mut c = Chain::new();
    let power = |c: &Chain, nonce, power| {
        Transaction::Signed(c.sign_with(
            &owner(1),
            nonce,
            Action::UpdateValidator { key: validator(1).public(), power },
        ))
    };
    let both = [power(&c, 0, 9), power(&c, 1, 10)];
    c.block(&both);
    assert_eq!(state::counters(&c.kv).unwrap().eras, 1);
}

#[test]
fn equivocation_burns_stake_once_per_offence() {
    let mut c = Chain::new();
    c.block(&[]);
    c.block(&[]);
    let genesis = c.genesis;
    let vote = |key: &SecretKey, height: u64, round: u32, value: u8| {
        let value = Some(BlockId::new([value; 32]));
        Vote { kind: VoteKind::Precommit, height: Height(height), round: Round(round), value, validator: key.public() }
            .sign(key, &genesis)
    };
    let evidence = |key: &SecretKey, height, round, a, b| {
        Transaction::Evidence(Evidence::Votes(vote(key, height, round, a), vote(key, height, round, b)).canonical())
    };
    let cheat = validator(2);
    let unborn = evidence(&cheat, 9, 0, 1, 2);
    assert_eq!(c.refused(&unborn), TxCode::Evidence);
    let same = Transaction::Evidence(Evidence::Votes(vote(&cheat, 1, 0, 1), vote(&cheat, 1, 0, 1)));
    assert_eq!(c.refused(&same), TxCode::Evidence);
    let stranger = evidence(&key(88), 1, 0, 1, 2);
    assert_eq!(c.refused(&stranger), TxCode::Evidence);
    let real = evidence(&cheat, 1, 0, 1, 2);
    let events = c.block(std::slice::from_ref(&real));
    assert!(matches!(events[..], [Event::Slashed { amount: Amount(50), .. }]));
    assert_eq!(c.refused(&real), TxCode::Recorded);
    let other_pair = evidence(&cheat, 1, 0, 2, 3);
    assert_eq!(c.refused(&other_pair), TxCode::Recorded);
    let next_round = evidence(&cheat, 1, 1, 1, 2);
    c.block(&[next_round]);
    let record = state::validator(&c.kv, &cheat.public()).unwrap().unwrap();
    assert_eq!(record.stake, Amount(1_000 - 50 - 47));
    assert_eq!(query::audit(&c.kv).unwrap().burned, Amount(97));
    assert_eq!(query::offences(&c.kv, None, 1).unwrap().items.len(), 1);
    let page = query::offences(&c.kv, query::offences(&c.kv, None, 1).unwrap().cursor.as_deref(), 9).unwrap();
    assert_eq!((page.items.len(), page.cursor), (1, None));

    let proposal = |value: u8| {
        let p = Proposal {
            height: Height(1),
            round: Round(0),
            value: BlockId::new([value; 32]),
            pol_round: None,
            proposer: cheat.public(),
        };
        p.sign(&cheat, &genesis)
    };
    let proposals = Transaction::Evidence(Evidence::Proposals(proposal(1), proposal(2)).canonical());
    let old = evidence(&cheat, 2, 0, 1, 2);
    c.block(&[proposals]);
    c.advance(8 * 24 * 3_600_000, &[]);
    assert_eq!(c.refused(&old), TxCode::EvidenceAge);
}

#[test]
fn an_equivocator_leaves_a_set_that_can_spare_it() {
    let mut c = Chain::new();
    let joins = registration(&c, &user(1), &validator(5), 10, 1_000);
    c.block(&[joins]);
    c.block(&[]);
    c.block(&[]);
    let genesis = c.genesis;
    let pair = |n: u8, height: u64| {
        let vote = |value: u8| {
            let (kind, round, value) = (VoteKind::Prevote, Round(0), Some(BlockId::new([value; 32])));
            Vote { kind, height: Height(height), round, value, validator: validator(n).public() }
                .sign(&validator(n), &genesis)
        };
        Transaction::Evidence(Evidence::Votes(vote(1), vote(2)).canonical())
    };
    let set_after = |c: &Chain| {
        let height = state::head(&c.kv).unwrap().height;
        validator_set(&c.kv, height.next().next()).unwrap().unwrap()
    };
    let events = c.block(&[pair(2, 1)]);
    assert!(matches!(events[..], [Event::ValidatorsChanged { .. }, Event::Slashed { amount: Amount(50), .. }]));
    // Next height as before, the one after without it; its stake stays for the evidence window.
    let height = state::head(&c.kv).unwrap().height;
    assert_eq!(validator_set(&c.kv, height.next()).unwrap().unwrap().validators().len(), 5);
    assert_eq!(set_after(&c).power_of(&validator(2).public()), None);
    let record = state::validator(&c.kv, &validator(2).public()).unwrap().unwrap();
    assert_eq!((record.power, record.stake), (0, Amount(950)));
    assert!(record.unbonds.is_some());
    c.block(&[]);
    c.block(&[]);

    // Four are left: three equal ones would halt with the next that fails, so a second liar is slashed and stays.
    let events = c.block(&[pair(3, 2)]);
    assert!(matches!(events[..], [Event::Slashed { .. }]));
    assert_eq!(set_after(&c).validators().len(), 4);
    // A later offence of the first is still slashed; leaving twice is not possible.
    let events = c.block(&[pair(2, 2)]);
    assert!(matches!(events[..], [Event::Slashed { .. }]));
    let exit = c.tx(&owner(2), Action::ExitValidator { key: validator(2).public() });
    assert_eq!(c.refused(&exit), TxCode::NotRegistered);
    let before = c.balance(&owner(2));
    c.advance(7 * 24 * 3_600_000, &[]);
    let stake = record.stake.0 - 950 * 50 / 1_000;
    assert_eq!(c.balance(&owner(2)), before + stake);
    assert_eq!(state::validator(&c.kv, &validator(2).public()).unwrap(), None);
}

#[test]
fn two_verdicts_in_one_slot_are_an_offence() {
    let mut c = Chain::new();
    let (job, order) = c.running_job(&user(1));
    let commit = c.commit_tx(&order[0], job, 0, proof_claim(5));
    c.block(&[commit]);
    let subject = c.subject(&job);
    let vote = |verdict| {
        ProofVote { subject: subject.clone(), verdict, validator: validator(3).public() }
            .sign(&validator(3), &c.genesis)
    };
    let pair =
        Evidence::Verdicts(Box::new(vote(Verdict::Valid)), Box::new(vote(Verdict::Invalid(Check::Stark)))).canonical();
    let events = c.block(&[Transaction::Evidence(pair)]);
    assert!(matches!(events[..], [Event::Slashed { .. }]));
}

#[test]
fn old_block_times_are_forgotten() {
    let mut c = Chain::new();
    for _ in 0..(crate::limits::TIME_GROUP * 4) {
        c.advance(3 * 3_600_000, &[]);
    }
    // 64 blocks of 3 hours are 8 days, longer than the window of 7.
    assert_eq!(state::time_of(&c.kv, Height(1)).unwrap(), None);
    assert_eq!(state::time_of(&c.kv, Height(70)).unwrap(), None);
    let last = state::head(&c.kv).unwrap().height;
    assert!(state::time_of(&c.kv, last).unwrap().is_some_and(|t| t > TimeMs(START_MS)));
}

#[test]
fn attestations_are_kept_and_bounded() {
    let mut c = Chain::new();
    let attest = |c: &Chain, from: u8, reached: &[u8]| {
        let mut keys: Vec<_> = reached.iter().map(|n| validator(*n).public()).collect();
        keys.sort();
        c.tx(&owner(from), Action::Attest { observer: validator(from).public(), reached: keys })
    };
    let own = attest(&c, 1, &[1]);
    assert_eq!(c.refused(&own), TxCode::OutOfBounds);
    let stranger = attest(&c, 1, &[2, 9]);
    assert_eq!(c.refused(&stranger), TxCode::OutOfBounds);
    let good = attest(&c, 1, &[2, 3]);
    c.block(&[good]);
    let soon = attest(&c, 1, &[2]);
    assert_eq!(c.refused(&soon), TxCode::TooSoon);
    let foreign = c.tx(&owner(2), Action::Attest { observer: validator(1).public(), reached: vec![] });
    assert_eq!(c.refused(&foreign), TxCode::NotOwner);
    let all = query::validators(&c.kv).unwrap();
    let of = |n: u8| all.iter().find(|v| v.key == validator(n).public()).unwrap();
    assert!(of(1).attested_ms > TimeMs(0) && of(2).reached_ms > TimeMs(0) && of(4).reached_ms == TimeMs(0));
}
