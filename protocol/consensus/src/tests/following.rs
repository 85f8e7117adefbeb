//! Nodes that are behind or do not vote: they decide from certificates, fetch what is missing, and sign nothing.

use types::gossip::ProposalMessage;
use types::ids::{Height, TimeMs};
use types::rpc_sync::Request;
use types::vote::VoteKind;

use super::*;
use crate::admission::Fault;
use crate::machine::CANDIDATES_MAX;
use crate::proposer::proposer;
use crate::sync::{Sync, SyncInput, SyncOutput};

#[test]
fn a_node_without_a_key_follows_and_leaves_no_trace() {
    let mut net = Net::new(4, 1, 9);
    net.run(4);
    let follower = &net.nodes[4];
    assert_eq!(follower.published, 0);
    assert!(follower.disk.wal.is_empty() && follower.disk.guard.is_empty());
    assert!(!follower.machine.as_ref().unwrap().is_signing());
}

#[test]
fn a_key_outside_the_set_only_follows() {
    let keys = keys(4);
    let outsider = SecretKey::from_seed([50; 32]);
    let (mut machine, out) = started(&keys, Some(&outsider));
    assert!(!out.iter().any(|o| matches!(o, Output::BuildBlock { .. })));
    let block = block(1, keys[1].public(), None, 1);
    let decided = DecidedBlock { certificate: certificate(&keys, &block, 0), block: block.clone() };
    machine.handle(TimeMs(1), Input::Synced(decided.clone())).unwrap();
    let answer = Input::BlockChecked { height: Height(1), round: Round(0), block: block.id(), valid: true };
    assert_eq!(machine.handle(TimeMs(2), answer).unwrap().last(), Some(&Output::Decided(decided)));
}

#[test]
fn a_synced_certificate_of_a_later_round_decides_too() {
    let keys = keys(4);
    let (mut machine, _) = started(&keys, Some(&keys[0]));
    let block = block(1, keys[1].public(), None, 1);
    let decided = DecidedBlock { certificate: certificate(&keys[..3], &block, 7), block: block.clone() };
    let out = machine.handle(TimeMs(1), Input::Synced(decided.clone())).unwrap();
    assert!(out.iter().any(|o| matches!(o, Output::CheckBlock { round: Round(7), .. })));
    let answer = Input::BlockChecked { height: Height(1), round: Round(7), block: block.id(), valid: true };
    assert_eq!(machine.handle(TimeMs(2), answer).unwrap().last(), Some(&Output::Decided(decided)));
}

#[test]
fn a_withheld_answer_costs_a_round_and_a_later_one_counts() {
    let keys = keys(4);
    let who = proposer(&set_of(&keys), Height(1), Round(0)).unwrap();
    let key = keys.iter().find(|k| k.public() == who).unwrap();
    let own = keys.iter().find(|k| k.public() != who).unwrap();
    let (mut machine, _) = started(&keys, Some(own));
    let block = block(1, who, None, 1);
    let message = ProposalMessage { proposal: proposal(key, 1, 0, block.id()), block: block.clone() };
    let out = machine.handle(TimeMs(1), Input::Proposal(message)).unwrap();
    assert!(!out.iter().any(|o| matches!(o, Output::Publish(_))), "no vote before the block is checked");
    let timer = TimerId { height: Height(1), round: Round(0), kind: crate::TimerKind::Propose };
    let out = machine.handle(TimeMs(300), Input::Timer(timer)).unwrap();
    let nil =
        |o: &Output| matches!(o, Output::Publish(ConsensusMessage::Vote { vote, .. }) if vote.vote.value.is_none());
    assert!(out.iter().any(nil), "it prevotes nil");
    let others: Vec<_> = keys.iter().filter(|k| k.public() != own.public()).collect();
    for key in &others {
        machine.handle(TimeMs(301), vote_message(vote(key, VoteKind::Prevote, 1, 0, Some(block.id())))).unwrap();
    }
    let answer = Input::BlockChecked { height: Height(1), round: Round(0), block: block.id(), valid: true };
    let out = machine.handle(TimeMs(302), answer).unwrap();
    let commits = |o: &Output| matches!(o, Output::Publish(ConsensusMessage::Vote { vote, .. }) if vote.vote.kind == VoteKind::Precommit && vote.vote.value == Some(block.id()));
    assert!(out.iter().any(commits), "with the polka of the others it precommits");
}

#[test]
fn a_proposal_without_its_block_is_fetched() {
    let keys = keys(4);
    let who = proposer(&set_of(&keys), Height(1), Round(0)).unwrap();
    let key = keys.iter().find(|k| k.public() == who).unwrap();
    let own = keys.iter().find(|k| k.public() != who).unwrap();
    let (mut machine, _) = started(&keys, Some(own));
    let good = block(1, who, None, 1);
    let out = machine.handle(TimeMs(1), Input::ProposalOnly(proposal(key, 1, 0, good.id()))).unwrap();
    assert!(out.contains(&Output::FetchBlock { height: Height(1), block: good.id() }));
    assert_eq!(machine.wanted_blocks(), vec![good.id()]);
    let mut other_body = good.clone();
    other_body.last_commit = Some(certificate(&keys, &good, 0));
    assert_eq!(
        machine.handle(TimeMs(2), Input::BlockFetched { height: Height(1), block: other_body }).unwrap(),
        vec![]
    );
    let out = machine.handle(TimeMs(2), Input::BlockFetched { height: Height(1), block: good.clone() }).unwrap();
    assert!(matches!(out.as_slice(), [Output::CheckBlock { block, .. }] if block.id() == good.id()));
    assert_eq!(machine.votes_of(Height(1)).1.len(), 1);
    assert!(machine.proposed_block(Height(1), good.id()).is_some());
}

/// A machine that has decided a block of round 0 whose body gave way to those of later rounds.
fn decided_without_body(keys: &[SecretKey]) -> (Machine, Block) {
    let set = set_of(keys);
    let of_round = |round| {
        let who = proposer(&set, Height(1), Round(round)).unwrap();
        keys.iter().find(|k| k.public() == who).unwrap()
    };
    let (mut machine, _) = started(keys, None);
    let propose = |machine: &mut Machine, round: u32, salt: u64| {
        let key = of_round(round);
        let block = block(1, key.public(), None, salt);
        let message = ProposalMessage { proposal: proposal(key, 1, round, block.id()), block: block.clone() };
        machine.handle(TimeMs(1), Input::Proposal(message)).unwrap();
        block
    };
    let first = propose(&mut machine, 0, 0);
    let answer = Input::BlockChecked { height: Height(1), round: Round(0), block: first.id(), valid: true };
    machine.handle(TimeMs(1), answer).unwrap();
    for round in 1..=u32::try_from(CANDIDATES_MAX).unwrap() {
        // Votes of more than a third of the power in a later round bring the machine there.
        for key in &keys[..2] {
            machine.handle(TimeMs(1), vote_message(vote(key, VoteKind::Prevote, 1, round, None))).unwrap();
        }
        assert_eq!(machine.round(), Round(round));
        propose(&mut machine, round, u64::from(round));
    }
    assert!(machine.proposed_block(Height(1), first.id()).is_none(), "it gave way");
    let mut asked = false;
    for key in &keys[..3] {
        let precommit = vote(key, VoteKind::Precommit, 1, 0, Some(first.id()));
        let out = machine.handle(TimeMs(1), vote_message(precommit)).unwrap();
        asked |= out.contains(&Output::FetchBlock { height: Height(1), block: first.id() });
    }
    assert!(asked && machine.wanted_blocks().contains(&first.id()), "decided, and its bytes are wanted");
    (machine, first)
}

#[test]
fn a_decision_without_its_bytes_takes_them_from_sync_or_from_a_peer() {
    let keys = keys(4);
    let (mut machine, block) = decided_without_body(&keys);
    let decided = DecidedBlock { certificate: certificate(&keys, &block, 0), block: block.clone() };
    assert!(machine.check_synced(&decided).is_ok());
    let out = machine.handle(TimeMs(2), Input::Synced(decided)).unwrap();
    assert!(matches!(out.last(), Some(Output::Decided(d)) if d.block == block), "{out:?}");
    assert!(machine.wanted_blocks().iter().all(|id| *id != block.id()));

    let (mut machine, block) = decided_without_body(&keys);
    let fetched = Input::BlockFetched { height: Height(1), block: block.clone() };
    let out = machine.handle(TimeMs(2), fetched).unwrap();
    assert!(matches!(out.last(), Some(Output::Decided(d)) if d.block == block), "{out:?}");
}

/// A chain of `n` blocks decided by `keys`.
fn chain(keys: &[SecretKey], n: u64) -> Vec<DecidedBlock> {
    let mut chain: Vec<DecidedBlock> = Vec::new();
    for height in 1..=n {
        let block = block(height, keys[0].public(), chain.last(), 0);
        chain.push(DecidedBlock { certificate: certificate(keys, &block, 0), block });
    }
    chain
}

struct Fetching {
    sync: Sync,
    set: ValidatorSet,
    now: u64,
    height: u64,
    asked: Vec<(u64, Request)>,
    penalised: Vec<(u64, Fault)>,
    up_to_date: usize,
}

impl Fetching {
    fn new(keys: &[SecretKey], peers: u64, claimed: u64) -> Self {
        let set = set_of(keys);
        let mut f =
            Self { sync: Sync::new(CHAIN), set, now: 0, height: 0, asked: vec![], penalised: vec![], up_to_date: 0 };
        f.feed(SyncInput::Local { height: Height(0), set: f.set.clone() });
        for peer in 0..peers {
            f.feed(SyncInput::Joined { peer });
            f.feed(SyncInput::Status { peer, height: Height(claimed), lowest: Height(1) });
        }
        f
    }

    fn feed(&mut self, input: SyncInput) {
        for output in self.sync.handle(TimeMs(self.now), input) {
            match output {
                SyncOutput::Request { request: Request::Status, .. } => {}
                SyncOutput::Request { peer, request } => self.asked.push((peer, request)),
                SyncOutput::Apply(decided) => {
                    assert_eq!(decided.certificate.height.0, self.height + 1, "strictly in order");
                    self.height += 1;
                    let set = self.set.clone();
                    self.feed(SyncInput::Local { height: Height(self.height), set });
                }
                SyncOutput::Penalise { peer, fault } => self.penalised.push((peer, fault)),
                SyncOutput::UpToDate { .. } => self.up_to_date += 1,
            }
        }
    }

    fn answer(
        &mut self,
        chain: &[DecidedBlock],
        mut serve: impl FnMut(u64, Vec<DecidedBlock>) -> Option<Vec<DecidedBlock>>,
    ) {
        for (peer, request) in std::mem::take(&mut self.asked) {
            let Request::Blocks { from, count } = request else { continue };
            let blocks = chain.iter().skip(from.0 as usize - 1).take(usize::from(count)).cloned().collect();
            if let Some(blocks) = serve(peer, blocks) {
                self.feed(SyncInput::Blocks { peer, blocks });
            }
        }
    }
}

#[test]
fn sync_fetches_in_parallel_and_applies_in_order() {
    let keys = keys(4);
    let chain = chain(&keys, 300);
    let mut f = Fetching::new(&keys, 3, 300);
    let peers: BTreeSet<_> = f.asked.iter().map(|(peer, _)| *peer).collect();
    assert_eq!(peers.len(), 3, "several peers at once");
    for _ in 0..20 {
        f.asked.reverse();
        f.answer(&chain, |_, blocks| Some(blocks));
    }
    assert_eq!((f.height, f.up_to_date), (300, 1));
    assert!(f.penalised.is_empty());
}

#[test]
fn sync_survives_liars_and_silence() {
    let keys = keys(4);
    let strangers: Vec<_> = (60..64).map(|n| SecretKey::from_seed([n; 32])).collect();
    let honest = chain(&keys, 100);
    let forged = chain(&strangers, 100);
    let mut f = Fetching::new(&keys, 5, 100);
    for _ in 0..200 {
        let mut asked = std::mem::take(&mut f.asked);
        asked.sort_by_key(|(peer, _)| *peer);
        f.asked = asked;
        f.answer(&honest, |peer, blocks| match peer {
            0 => Some(forged[..blocks.len()].to_vec()),
            1 => None,
            2 => Some(blocks.into_iter().rev().collect()),
            3 => Some(Vec::new()),
            _ => Some(blocks),
        });
        f.now += 500;
        f.feed(SyncInput::Tick);
        for peer in 0..5 {
            f.feed(SyncInput::Status { peer, height: Height(100), lowest: Height(1) });
        }
    }
    assert_eq!(f.height, 100);
    let blamed: BTreeSet<_> = f.penalised.iter().map(|(peer, _)| *peer).collect();
    assert!(blamed.contains(&0) && !blamed.contains(&4), "{:?}", f.penalised);
}

#[test]
fn one_peers_word_does_not_say_how_far_the_network_is() {
    const LIE: u64 = 1_000_000_000_000;
    let keys = keys(4);
    let chain = chain(&keys, 100);
    let mut f = Fetching::new(&keys, 4, 100);
    let lie = |f: &mut Fetching| f.feed(SyncInput::Status { peer: 3, height: Height(LIE), lowest: Height(1) });
    // Nobody is known to be a validator: half of the peers.
    lie(&mut f);
    assert_eq!(f.sync.target(), Some(Height(100)));
    // One validator of four may lie, and one voice is not two because two peers have it.
    for peer in [2, 3] {
        f.feed(SyncInput::Vouched { peer, validator: Some(keys[3].public()) });
        f.feed(SyncInput::Status { peer, height: Height(LIE), lowest: Height(1) });
    }
    assert_eq!(f.sync.target(), Some(Height(100)));
    f.feed(SyncInput::Vouched { peer: 2, validator: Some(keys[2].public()) });
    f.feed(SyncInput::Status { peer: 2, height: Height(90), lowest: Height(1) });
    assert_eq!(f.sync.target(), Some(Height(90)), "two of four: one of them is honest");
    f.feed(SyncInput::Status { peer: 2, height: Height(100), lowest: Height(1) });
    // The chain is fetched, nobody has what is above it, and the node is up to date.
    for _ in 0..40 {
        f.answer(&chain, |_, blocks| Some(blocks));
    }
    assert_eq!((f.height, f.up_to_date, f.sync.target()), (100, 1, Some(Height(100))));
    lie(&mut f);
    assert_eq!(f.sync.target(), Some(Height(100)));
}

#[test]
fn a_certificate_says_how_far_the_network_is_whoever_brings_it() {
    let keys = keys(4);
    let strangers: Vec<_> = (60..64).map(|n| SecretKey::from_seed([n; 32])).collect();
    for (signers, seen) in [(&keys, 64), (&strangers, 5)] {
        let served = chain(signers, 64);
        let mut f = Fetching::new(&keys, 3, 0);
        for (peer, claimed) in [(1, 5), (2, 5), (0, 64)] {
            f.feed(SyncInput::Status { peer, height: Height(claimed), lowest: Height(1) });
        }
        // Only the peer that is alone with its claim answers, and not with the first blocks.
        let later =
            f.asked.iter().find(|(peer, r)| *peer == 0 && matches!(r, Request::Blocks { from, .. } if from.0 > 1));
        let (peer, request) = later.cloned().unwrap();
        let Request::Blocks { from, count } = request else { panic!() };
        let blocks = served.iter().skip(from.0 as usize - 1).take(usize::from(count)).cloned().collect();
        f.feed(SyncInput::Blocks { peer, blocks });
        assert_eq!((f.height, f.sync.target()), (0, Some(Height(seen))));
    }
}

#[test]
fn a_peer_that_serves_nothing_is_asked_ever_more_rarely_and_loses_its_voice() {
    const LIE: u64 = 1_000_000_000_000;
    let keys = keys(4);
    for how in ["busy", "empty", "silent"] {
        let mut f = Fetching::new(&keys, 1, LIE);
        let mut asked = 0;
        while f.now < 120_000 {
            for (peer, _) in std::mem::take(&mut f.asked) {
                asked += 1;
                match how {
                    "busy" => f.feed(SyncInput::Busy { peer, retry_ms: 0 }),
                    "empty" => f.feed(SyncInput::Blocks { peer, blocks: vec![] }),
                    _ => {}
                }
            }
            f.now += 250;
            f.feed(SyncInput::Tick);
            f.feed(SyncInput::Status { peer: 0, height: Height(LIE), lowest: Height(1) });
        }
        assert!((3..=12).contains(&asked), "{how}: asked {asked} times in two minutes");
        assert_eq!(f.sync.target(), Some(Height(0)), "{how}");
        assert!(f.penalised.is_empty(), "{how}: silence proves nothing");
        // An honest one of its kind is believed again when it serves.
        f.asked.clear();
        f.now += 70_000;
        f.feed(SyncInput::Status { peer: 0, height: Height(20), lowest: Height(1) });
        f.feed(SyncInput::Tick);
        if f.asked.is_empty() {
            // Only now the last request had failed.
            f.now += 70_000;
            f.feed(SyncInput::Tick);
        }
        let chain = chain(&keys, 20);
        f.answer(&chain, |_, blocks| Some(blocks.into_iter().take(5).collect()));
        assert_eq!((f.height, f.sync.target()), (5, Some(Height(20))), "{how}");
    }
}
