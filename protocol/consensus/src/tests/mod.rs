//! Machines in a small in-memory loop: a network, a disk with unsynced tails, and a clock.

mod adversary;
mod crash;
mod following;

use std::collections::{BTreeMap, BTreeSet};

use types::block::{Block, DecidedBlock, HEADER_VERSION, Header, transactions_root};
use types::evidence::Evidence;
use types::gossip::ConsensusMessage;
use types::ids::{BlockId, Digest, GenesisHash, Height, Round, StateRoot, TimeMs};
use types::keys::{PublicKey, SecretKey};
use types::params::{Params, Timeouts};
use types::validator::{Validator, ValidatorSet};
use types::vote::{CommitCertificate, Proposal, SignedProposal, SignedVote, Vote, VoteKind};

use crate::guard::{Guard, GuardRecord};
use crate::machine::{Input, Machine, Output, TimerId};

pub(super) const CHAIN: GenesisHash = GenesisHash::new([7; 32]);

pub(super) fn timeouts() -> Timeouts {
    Timeouts { propose_ms: 300, prevote_ms: 100, precommit_ms: 100, delta_ms: 50, rebroadcast_ms: 200 }
}

pub(super) fn keys(n: u8) -> Vec<SecretKey> {
    (1..=n).map(|n| SecretKey::from_seed([n; 32])).collect()
}

pub(super) fn set_of(keys: &[SecretKey]) -> ValidatorSet {
    ValidatorSet::new(keys.iter().map(|k| Validator { key: k.public(), power: 10 }).collect()).unwrap()
}

/// A block that obeys the rules on form; `salt` makes it unlike others.
pub(super) fn block(height: u64, proposer: PublicKey, parent: Option<&DecidedBlock>, salt: u64) -> Block {
    let last_commit = parent.map(|p| p.certificate.clone());
    let header = Header {
        version: HEADER_VERSION,
        genesis: CHAIN,
        height: Height(height),
        time_ms: TimeMs(height * 1000 + salt),
        proposer,
        parent: parent.map_or(BlockId::new([0; 32]), |p| p.block.id()),
        last_commit: last_commit.as_ref().map_or(Digest::new([0; 32]), CommitCertificate::digest),
        transactions: transactions_root(std::iter::empty()),
        state_root: StateRoot::new([0; 32]),
        evidence: transactions_root(std::iter::empty()),
        validators: Digest::new([0; 32]),
        next_validators: Digest::new([0; 32]),
        params: Digest::new([0; 32]),
        seed: Digest::new([0; 32]),
    };
    Block { header, last_commit, transactions: Vec::new() }
}

pub(super) fn vote(key: &SecretKey, kind: VoteKind, height: u64, round: u32, value: Option<BlockId>) -> SignedVote {
    Vote { kind, height: Height(height), round: Round(round), value, validator: key.public() }.sign(key, &CHAIN)
}

pub(super) fn vote_message(vote: SignedVote) -> Input {
    Input::Message { from: None, message: ConsensusMessage::Vote { vote, resend: 0 } }
}

pub(super) fn proposal(key: &SecretKey, height: u64, round: u32, value: BlockId) -> SignedProposal {
    Proposal { height: Height(height), round: Round(round), value, pol_round: None, proposer: key.public() }
        .sign(key, &CHAIN)
}

pub(super) fn certificate(keys: &[SecretKey], block: &Block, round: u32) -> CommitCertificate {
    let mut c = CommitCertificate {
        height: block.header.height,
        round: Round(round),
        block: block.id(),
        signatures: Vec::new(),
    };
    c.signatures = keys.iter().map(|k| (k.public(), c.precommit_of(k.public()).sign(k, &CHAIN).signature)).collect();
    c.signatures.sort_by_key(|(key, _)| *key);
    c
}

/// Starts height 1 on a fresh machine.
pub(super) fn started(keys: &[SecretKey], own: Option<&SecretKey>) -> (Machine, Vec<Output>) {
    let mut machine = Machine::new(Guard::new(CHAIN, own.cloned()));
    let start = Input::StartHeight { height: Height(1), set: set_of(keys), timeouts: timeouts(), wal: Vec::new() };
    let out = machine.handle(TimeMs(0), start).unwrap();
    (machine, out)
}

/// A node's disk: what is synced, and what is not yet.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) wal: BTreeMap<Height, Vec<Vec<u8>>>,
    pub(super) guard: Vec<GuardRecord>,
    wal_tail: Vec<(Height, Vec<u8>)>,
    guard_tail: Vec<GuardRecord>,
}

impl Disk {
    fn flush(&mut self) {
        for (height, record) in self.wal_tail.drain(..) {
            self.wal.entry(height).or_default().push(record);
        }
        self.guard.append(&mut self.guard_tail);
    }
}

pub(super) struct Node {
    pub(super) machine: Option<Machine>,
    pub(super) key: Option<SecretKey>,
    pub(super) disk: Disk,
    pub(super) chain: Vec<DecidedBlock>,
    pub(super) evidence: Vec<Evidence>,
    pub(super) published: usize,
    timers: BTreeMap<TimerId, u64>,
    salt: u64,
}

/// A small deterministic random source.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// When a node dies: after so many outputs, with or without its unsynced writes.
#[derive(Clone, Copy)]
pub(super) struct Crash {
    pub(super) node: usize,
    pub(super) after: usize,
    pub(super) keep_tail: bool,
}

pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    pub(super) set: ValidatorSet,
    pub(super) now: u64,
    queue: BTreeMap<(u64, u64), (usize, Input)>,
    sequence: u64,
    dice: Dice,
    pub(super) loss_permille: u64,
    /// Longest way of a message, milliseconds.
    pub(super) delay_ms: u64,
    pub(super) timeouts: Timeouts,
    pub(super) crash: Option<Crash>,
    /// Every vote and proposal that left a node, by slot: (height, round, 0 proposal 1 prevote 2 precommit, signer).
    pub(super) said: BTreeMap<(Height, Round, u8, PublicKey), BTreeSet<Option<BlockId>>>,
    executed: Vec<usize>,
}

impl Net {
    /// `voters` validators and `followers` nodes without a key.
    pub(super) fn new(voters: u8, followers: usize, seed: u64) -> Self {
        let keys = keys(voters);
        let owners = keys.iter().cloned().map(Some).chain(std::iter::repeat_n(None, followers));
        let node = |key| Node {
            machine: None,
            key,
            disk: Disk::default(),
            chain: Vec::new(),
            evidence: Vec::new(),
            published: 0,
            timers: BTreeMap::new(),
            salt: 0,
        };
        let nodes: Vec<_> = owners.map(node).collect();
        let executed = vec![0; nodes.len()];
        let mut net = Self {
            nodes,
            set: set_of(&keys),
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            loss_permille: 0,
            delay_ms: 20,
            timeouts: timeouts(),
            crash: None,
            said: BTreeMap::new(),
            executed,
        };
        for index in 0..net.nodes.len() {
            net.boot(index);
        }
        net
    }

    pub(super) fn boot(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let guard = Guard::restore(CHAIN, node.key.clone(), node.disk.guard.clone()).unwrap();
        node.machine = Some(Machine::new(guard));
        node.timers.clear();
        self.start_next(index);
    }

    fn start_next(&mut self, index: usize) {
        let node = &self.nodes[index];
        let height = Height(node.chain.len() as u64 + 1);
        let wal = node.disk.wal.get(&height).cloned().unwrap_or_default();
        self.give(index, Input::StartHeight { height, set: self.set.clone(), timeouts: self.timeouts.clone(), wal });
    }

    fn post(&mut self, after: u64, to: usize, input: Input) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), (to, input));
    }

    fn broadcast(&mut self, from: usize, input: &Input) {
        for to in 0..self.nodes.len() {
            if to != from && self.dice.roll(1000) >= self.loss_permille {
                let after = 1 + self.dice.roll(self.delay_ms);
                self.post(after, to, input.clone());
            }
        }
    }

    pub(super) fn give(&mut self, index: usize, input: Input) {
        let now = TimeMs(self.now);
        let Some(machine) = self.nodes[index].machine.as_mut() else { return };
        let outputs = machine.handle(now, input).unwrap();
        for output in outputs {
            if self.crash.is_some_and(|c| c.node == index && c.after == self.executed[index]) {
                let crash = self.crash.take().unwrap();
                let disk = &mut self.nodes[index].disk;
                if crash.keep_tail {
                    disk.flush();
                }
                disk.wal_tail.clear();
                disk.guard_tail.clear();
                self.boot(index);
                return;
            }
            self.executed[index] += 1;
            self.execute(index, output);
        }
    }

    fn heard(&mut self, index: usize, slot: (Height, Round, u8, PublicKey), value: Option<BlockId>) {
        self.nodes[index].published += 1;
        let said = self.said.entry(slot).or_default();
        said.insert(value);
        assert_eq!(said.len(), 1, "two contents in slot {slot:?}");
    }

    fn execute(&mut self, index: usize, output: Output) {
        let now = self.now;
        match output {
            Output::AppendWal { height, record } => self.nodes[index].disk.wal_tail.push((height, record)),
            Output::PersistGuard(record) => self.nodes[index].disk.guard_tail.push(record),
            Output::Flush => self.nodes[index].disk.flush(),
            Output::Publish(message) => {
                let disk = &self.nodes[index].disk;
                assert!(disk.wal_tail.is_empty() && disk.guard_tail.is_empty(), "published before it was durable");
                if let ConsensusMessage::Vote { vote: v, .. } = &message {
                    let kind = if v.vote.kind == VoteKind::Prevote { 1 } else { 2 };
                    self.heard(index, (v.vote.height, v.vote.round, kind, v.vote.validator), v.vote.value);
                }
                self.broadcast(index, &Input::Message { from: Some(index as u64), message });
            }
            Output::PublishProposal(message) => {
                let p = message.proposal.proposal.clone();
                self.heard(index, (p.height, p.round, 0, p.proposer), Some(p.value));
                self.broadcast(index, &Input::Proposal(message));
            }
            Output::SetTimer { id, after_ms } => {
                self.nodes[index].timers.insert(id, now + after_ms);
            }
            Output::CancelTimer(id) => {
                self.nodes[index].timers.remove(&id);
            }
            Output::CancelAllTimers => self.nodes[index].timers.clear(),
            Output::BuildBlock { height, round, .. } => {
                let node = &mut self.nodes[index];
                // A rebuilt block is never the one built before a crash.
                node.salt += 1 + now;
                let own = node.key.as_ref().unwrap().public();
                let block = block(height.0, own, node.chain.last(), node.salt);
                self.post(1, index, Input::BlockBuilt { height, round, block });
            }
            Output::CheckBlock { height, round, block, .. } => {
                let after = 1 + self.dice.roll(10);
                self.post(after, index, Input::BlockChecked { height, round, block: block.id(), valid: true });
            }
            Output::FetchBlock { height, block } => {
                let holder = |node: &Node| node.machine.as_ref().and_then(|m| m.proposed_block(height, block));
                if let Some(block) = self.nodes.iter().find_map(holder) {
                    self.post(5, index, Input::BlockFetched { height, block: block.as_ref().clone() });
                }
            }
            Output::Decided(decided) => {
                let node = &mut self.nodes[index];
                assert_eq!(decided.block.header.height.0, node.chain.len() as u64 + 1);
                decided.certificate.verify(&CHAIN, &self.set, decided.block.header.height, decided.block.id()).unwrap();
                node.chain.push(decided);
                self.start_next(index);
            }
            Output::Evidence(evidence) => {
                assert!(evidence.verify(&CHAIN));
                self.nodes[index].evidence.push(evidence);
            }
            Output::EnteredRound { .. } => {
                assert!(self.nodes[index].disk.wal_tail.is_empty(), "a round began before its cause was durable");
            }
        }
    }

    /// The next event in time: a message, an answer or a timer.
    fn step(&mut self) {
        let timer = |(index, node): (usize, &Node)| node.timers.iter().map(|(id, at)| (*at, index, *id)).min();
        let timer = self.nodes.iter().enumerate().filter_map(timer).min();
        let message = self.queue.first_key_value().map(|((at, _), _)| *at);
        match (timer, message) {
            (Some((at, index, id)), message) if message.is_none_or(|m| at < m) => {
                self.now = self.now.max(at);
                self.nodes[index].timers.remove(&id);
                self.give(index, Input::Timer(id));
            }
            (_, Some(_)) => {
                let ((at, _), (to, input)) = self.queue.pop_first().unwrap();
                self.now = self.now.max(at);
                self.give(to, input);
            }
            _ => panic!("nothing left to do at {} ms", self.now),
        }
    }

    /// Nodes behind get what sync would bring them.
    fn catch_up(&mut self) {
        for index in 0..self.nodes.len() {
            let at = self.nodes[index].chain.len();
            let better = self.nodes.iter().find(|n| n.chain.len() > at).map(|n| n.chain[at].clone());
            if let Some(decided) = better {
                self.give(index, Input::Synced(decided));
            }
        }
    }

    /// Runs until every living node has `heights` blocks, then checks that they are the same.
    pub(super) fn run(&mut self, heights: usize) {
        for turn in 0..200_000u64 {
            if self.nodes.iter().all(|n| n.machine.is_none() || n.chain.len() >= heights) {
                return self.check();
            }
            if turn % 64 == 0 {
                self.catch_up();
            }
            self.step();
        }
        let at: Vec<_> = self.nodes.iter().map(|n| n.chain.len()).collect();
        panic!("no progress: heights {at:?} at {} ms", self.now);
    }

    fn check(&self) {
        let longest = self.nodes.iter().max_by_key(|n| n.chain.len()).unwrap();
        for node in &self.nodes {
            for (a, b) in node.chain.iter().zip(&longest.chain) {
                assert_eq!(a.block.id(), b.block.id());
            }
        }
    }
}

#[test]
fn four_machines_decide_the_same_blocks() {
    let mut net = Net::new(4, 0, 1);
    net.run(10);
    let proposers: BTreeSet<_> = net.nodes[0].chain.iter().map(|d| d.block.header.proposer).collect();
    assert_eq!(proposers.len(), 4, "everybody gets a turn");
    assert!(net.nodes.iter().all(|n| n.evidence.is_empty()));
    assert!(net.nodes[0].chain.iter().all(|d| d.certificate.round == Round(0)));
}

#[test]
fn loss_and_reordering_only_cost_time() {
    for seed in 1..=20 {
        let mut net = Net::new(4, 1, seed);
        net.loss_permille = 200;
        net.run(5);
    }
}

#[test]
fn a_dead_proposer_costs_what_proposals_take_not_what_the_parameters_allow() {
    let mut net = Net::new(4, 0, 5);
    net.timeouts = Params::standard().timeouts;
    net.run(10);
    let (began, before) = (net.now, net.nodes[0].chain.len());
    net.nodes[2].machine = None;
    net.run(before + 12);
    let later = &net.nodes[0].chain[before..];
    let lost: u64 = later.iter().map(|d| u64::from(d.certificate.round.0)).sum();
    let each = (net.now - began) / lost.max(1);
    println!("{lost} lost rounds in {} blocks, {each} ms each", later.len());
    assert!(lost >= 2, "a dead proposer's turns come");
    // The parameters alone allow 4,000 ms a lost round: proposal and precommits.
    assert!(each < 2_000, "{each} ms a lost round");
}

#[test]
fn a_network_that_becomes_slow_is_waited_for_again() {
    let mut net = Net::new(4, 0, 6);
    net.timeouts = Params::standard().timeouts;
    net.run(10);
    // Longer than the first wait that follows from what was measured so far.
    net.delay_ms = 700;
    net.run(24);
    let longest = net.nodes.iter().map(|n| &n.chain).max_by_key(|c| c.len()).unwrap();
    let rounds: Vec<_> = longest.iter().map(|d| d.certificate.round.0).collect();
    assert!(rounds[16..].iter().filter(|r| **r == 0).count() >= 6, "most are decided in round 0 again: {rounds:?}");
    assert!(net.nodes.iter().all(|n| n.evidence.is_empty()));
}

#[test]
fn a_dead_validator_costs_rounds_but_not_the_chain() {
    let mut net = Net::new(4, 0, 3);
    net.nodes[2].machine = None;
    net.run(6);
    let longest = net.nodes.iter().max_by_key(|n| n.chain.len()).unwrap();
    assert!(longest.chain.iter().any(|d| d.certificate.round > Round(0)));
}
