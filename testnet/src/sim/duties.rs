//! What a node does beside consensus: keeps transactions, proves, votes on claims, serves peers, catches up.

use std::collections::BTreeMap;

use consensus::{Acceptance, Input, SyncInput, SyncOutput};
use ledger::tally::{Added, Tally};
use storage::StoreRead;
use types::codec::Wire;
use types::gossip::{ConsensusMessage, ProposalMessage, TxMessage};
use types::ids::{BlobHash, BlockId, GenesisHash, Height, TimeMs};
use types::job::JobStatus;
use types::keys::PublicKey;
use types::limits::{SYNC_BLOCKS_MAX, SYNC_BYTES_MAX};
use types::rpc_sync::{Request, Response};
use types::transaction::{Action, DeclineReason, Transaction};
use types::validator::ValidatorSet;
use types::verdict::{Check, Claim, ProofCertificate, ProofVote, SignedProofVote, Verdict, VoteSubject};

use super::actions::{Event, Packet, Step, Surroundings};
use super::dice::Dice;
use super::node::{SimNode, broken};
use super::users;

/// Time between two rounds of duties, milliseconds.
const TICK_MS: u64 = 150;
/// A height that lasts longer makes a node ask for votes, milliseconds.
const STALL_MS: u64 = 900;
/// First byte of a claim that the validators find wrong.
const WRONG: u8 = 0xbb;

type Slot = (types::ids::JobId, u32, u32, Height);

/// Where verdicts are counted.
pub(super) struct Desk {
    tally: Tally,
    /// The planted fault: votes as they came, each counted.
    naive: Option<BTreeMap<Slot, Vec<SignedProofVote>>>,
}

impl Desk {
    pub(super) fn new(genesis: GenesisHash, count_all: bool) -> Self {
        Self { tally: Tally::new(genesis), naive: count_all.then(BTreeMap::new) }
    }

    /// Takes a verdict; the certificate once there are enough.
    fn add(
        &mut self,
        vote: SignedProofVote,
        set: &ValidatorSet,
    ) -> Result<Option<ProofCertificate>, Box<types::evidence::Evidence>> {
        if let Some(naive) = &mut self.naive {
            let subject = vote.vote.subject.clone();
            let votes = naive.entry(subject.slot()).or_default();
            votes.push(vote.clone());
            let valid = votes.iter().filter(|v| v.vote.verdict == Verdict::Valid);
            let power = valid.filter_map(|v| set.power_of(&v.vote.validator)).fold(0, u64::saturating_add);
            if set.is_quorum(power) {
                let mut entries: Vec<_> =
                    votes.iter().map(|v| (v.vote.validator, v.vote.verdict, v.signature)).collect();
                entries.sort();
                entries.dedup();
                return Ok(Some(ProofCertificate { subject, votes: entries }));
            }
            return Ok(None);
        }
        match self.tally.add(vote, set) {
            Added::Counted(certificate) => Ok(certificate.map(|c| *c)),
            Added::Conflict(evidence) => Err(evidence),
            _ => Ok(None),
        }
    }

    pub(super) fn forget_below(&mut self, height: Height) {
        self.tally.forget_below(height);
    }
}

/// A claim's truth is written in its hash.
fn verdict_on(subject: &VoteSubject) -> Verdict {
    match &subject.claim {
        Claim::Proof { hash, .. } if hash.as_bytes().first() == Some(&WRONG) => Verdict::Invalid(Check::Stark),
        Claim::Proof { .. } => Verdict::Valid,
        Claim::Failure { .. } => Verdict::Abstain,
    }
}

fn claim(dice: &mut Dice) -> Claim {
    let mut hash = dice.bytes();
    let wrong = dice.chance(200);
    if let Some(first) = hash.first_mut() {
        *first = if wrong { WRONG } else { 0 };
    }
    Claim::Proof { hash: BlobHash::new(hash), bytes: 700_000, steps: 90_000 }
}

impl SimNode {
    pub(super) fn tick(&mut self, around: &mut Surroundings<'_>) -> Step {
        around.later(TICK_MS, Event::Tick);
        let now = self.clock(around);
        let plan = self.live()?.sync.handle(now, SyncInput::Tick);
        self.carry_out_sync(around, plan)?;
        let live = self.live()?;
        let height = live.machine.height();
        if around.now.saturating_sub(live.committed_ms) > STALL_MS {
            let wanted = live.machine.wanted_blocks();
            for _ in 0..2 {
                let peer = around.peer(self.index);
                around.send(peer, Packet::request(&Request::Votes { height }));
                for block in &wanted {
                    around.send(peer, Packet::request(&Request::ProposedBlock { height, block: *block }));
                }
            }
        }
        let again: Vec<Packet> = self.live()?.mempool.values().take(4).map(Packet::tx).collect();
        for packet in again {
            let peer = around.peer(self.index);
            around.send(peer, packet);
        }
        self.vote_on_claims(around)?;
        self.prove(around, now)
    }

    pub(super) fn carry_out_sync(&mut self, around: &mut Surroundings<'_>, plan: Vec<SyncOutput>) -> Step {
        for output in plan {
            match output {
                SyncOutput::Request { peer, request } => {
                    around.send(usize::try_from(peer).unwrap_or(usize::MAX), Packet::request(&request));
                }
                SyncOutput::Apply(decided) => self.apply_synced(around, *decided)?,
                SyncOutput::Penalise { peer, fault } => {
                    return Err(broken(format!("honest node {peer} was blamed: {fault}")));
                }
                SyncOutput::UpToDate { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn fetch(&self, around: &mut Surroundings<'_>, height: Height, block: BlockId) {
        for _ in 0..2 {
            let peer = around.peer(self.index);
            around.send(peer, Packet::request(&Request::ProposedBlock { height, block }));
        }
    }

    /// Signs verdicts on all claims in voting, through the guard, and says them (again).
    pub(super) fn vote_on_claims(&mut self, around: &mut Surroundings<'_>) -> Step {
        let view = self.view();
        let own = self.key.public();
        for subject in ledger::query::in_voting(&view).map_err(broken)? {
            let set = ledger::validator_set(&view, subject.height).map_err(broken)?;
            if set.as_ref().is_none_or(|set| set.power_of(&own).is_none()) {
                continue;
            }
            let vote = ProofVote { verdict: verdict_on(&subject), subject, validator: own };
            match self.live()?.machine.sign_proof_vote(vote) {
                Ok((signed, outputs)) => {
                    self.carry_out(around, outputs)?;
                    around.judge.verdict(&signed)?;
                    around.broadcast(Packet::verdict(&signed));
                    self.take_verdict(around, signed)?;
                }
                Err(refusal) => return Err(broken(format!("verdict not signed: {refusal}"))),
            }
        }
        Ok(())
    }

    fn take_verdict(&mut self, around: &mut Surroundings<'_>, vote: SignedProofVote) -> Step {
        let view = self.view();
        let Some(set) = ledger::validator_set(&view, vote.vote.subject.height).map_err(broken)? else { return Ok(()) };
        let certifier = users::owner(self.index).public();
        let certificate =
            self.live()?.desk.add(vote, &set).map_err(|evidence| super::judge::Judge::evidence(&evidence))?;
        if let Some(certificate) = certificate {
            around.judge.certificate(&certificate, &set)?;
            self.take_tx(Transaction::Certify { certificate, certifier })?;
        }
        Ok(())
    }

    /// Adds a transaction that the present state does not refuse for good.
    pub(super) fn take_tx(&mut self, tx: Transaction) -> Step {
        if self.live()?.mempool.contains_key(&tx.id()) {
            return Ok(());
        }
        let view = self.view();
        let now = TimeMs(ledger::head(&view).map_err(broken)?.time_ms.0);
        let keep = match ledger::precheck::check_transaction(&view, &tx, now) {
            Ok(()) => true,
            Err(ledger::LedgerError::Refused(error)) => error.code().may_pass_later(),
            Err(ledger::LedgerError::State(error)) => return Err(broken(error)),
        };
        if keep {
            self.live()?.mempool.insert(tx.id(), tx);
        }
        Ok(())
    }

    /// The next nonce of an account, if nothing of it waits here.
    pub(super) fn free_nonce(&mut self, account: &PublicKey) -> Step<Option<u64>> {
        let nonce = ledger::query::account(&self.view(), account).map_err(broken)?.nonce;
        let waits =
            |tx: &Transaction| tx.signed().is_some_and(|s| s.content.sender == *account && s.content.nonce >= nonce);
        Ok((!self.live()?.mempool.values().any(waits)).then_some(nonce))
    }

    /// This node's prover commits a claim, or declines, when it is its turn.
    fn prove(&mut self, around: &mut Surroundings<'_>, now: TimeMs) -> Step {
        let view = self.view();
        let own = self.prover.public();
        let Some(nonce) = self.free_nonce(&own)? else { return Ok(()) };
        for job in ledger::query::live_jobs(&view).map_err(broken)? {
            let running =
                ledger::query::job(&view, &job).map_err(broken)?.is_some_and(|j| j.status == JobStatus::Running);
            let Some(assignment) = ledger::assign(&view, &job, 0).map_err(broken)?.filter(|_| running) else {
                continue;
            };
            // Block time runs behind the wall clock; a claim that comes too early waits in the pool.
            if !assignment.may_prove(&own, now) || !around.dice.chance(600) {
                continue;
            }
            let attempt = assignment.attempt;
            let action = if around.dice.chance(60) {
                Action::Decline { job, task: 0, attempt, reason: DeclineReason::Busy }
            } else {
                Action::CommitClaim { job, task: 0, attempt, claim: claim(around.dice) }
            };
            let tx = Transaction::Signed(users::sign(self.genesis, &self.prover, nonce, now, action));
            around.broadcast(Packet::tx(&tx));
            return self.take_tx(tx);
        }
        Ok(())
    }

    pub(super) fn on_packet(&mut self, around: &mut Surroundings<'_>, from: usize, packet: Packet) -> Step {
        match packet {
            Packet::Consensus(bytes) => {
                let message = ConsensusMessage::from_bytes(&bytes).map_err(broken)?;
                self.blame(&self.classified(|m| m.classify(&message)))?;
                self.feed(around, Input::Message { from: Some(from as u64), message })
            }
            Packet::Proposal(bytes) => {
                let message = ProposalMessage::from_bytes(&bytes).map_err(broken)?;
                self.blame(&self.classified(|m| m.classify_proposal(&message)))?;
                self.feed(around, Input::Proposal(message))
            }
            Packet::Tx(bytes) => match TxMessage::from_bytes(&bytes).map_err(broken)? {
                TxMessage::Transaction(tx) => self.take_tx(tx),
                TxMessage::Transactions(txs) => txs.into_iter().try_for_each(|tx| self.take_tx(tx)),
                TxMessage::Offer(_) | TxMessage::Availability { .. } => Ok(()),
            },
            Packet::Verdict(bytes) => {
                let vote = SignedProofVote::from_bytes(&bytes).map_err(broken)?;
                self.take_verdict(around, vote)
            }
            Packet::Request(bytes) => {
                let request = Request::from_bytes(&bytes).map_err(broken)?;
                if let Some(response) = self.serve(request)? {
                    around.send(from, Packet::response(&response));
                }
                Ok(())
            }
            Packet::Response(bytes) => {
                let response = Response::from_bytes(&bytes).map_err(broken)?;
                self.on_response(around, from, response)
            }
        }
    }

    fn classified(&self, classify: impl FnOnce(&consensus::Machine) -> Acceptance) -> Option<Acceptance> {
        self.live.as_ref().map(|live| classify(&live.machine))
    }

    /// Everybody is honest, so nothing that arrives may cost its sender.
    fn blame(&self, acceptance: &Option<Acceptance>) -> Step {
        match acceptance {
            Some(Acceptance::Reject(fault)) => {
                Err(broken(format!("node {} rejects an honest message: {fault}", self.index)))
            }
            _ => Ok(()),
        }
    }

    fn serve(&mut self, request: Request) -> Step<Option<Response>> {
        Ok(match request {
            Request::Status => Some(Response::Status { height: self.height()?, lowest: Height(1) }),
            Request::Blocks { from, count } => {
                let count = usize::from(count).min(SYNC_BLOCKS_MAX);
                Some(Response::Blocks(self.store.blocks(from, count, SYNC_BYTES_MAX / 2).map_err(broken)?))
            }
            Request::ProposedBlock { height, block } => {
                let block = self.live()?.machine.proposed_block(height, block).map(|b| Box::new(b.as_ref().clone()));
                Some(Response::ProposedBlock(block))
            }
            Request::Votes { height } => {
                let (votes, proposals) = self.live()?.machine.votes_of(height);
                Some(Response::Votes { votes, proposals })
            }
            Request::Verdicts { job } => Some(Response::Verdicts(self.live()?.desk.tally.of_job(&job))),
            Request::BlobManifest { .. } | Request::BlobChunk { .. } | Request::Genesis => None,
        })
    }

    fn on_response(&mut self, around: &mut Surroundings<'_>, from: usize, response: Response) -> Step {
        let now = self.clock(around);
        let peer = from as u64;
        let input = match response {
            Response::Status { height, lowest } => SyncInput::Status { peer, height, lowest },
            Response::Blocks(blocks) => SyncInput::Blocks { peer, blocks },
            Response::Busy { retry_ms } => SyncInput::Busy { peer, retry_ms },
            Response::ProposedBlock(block) => {
                let Some(block) = block else { return Ok(()) };
                let height = block.header.height;
                return self.feed(around, Input::BlockFetched { height, block: *block });
            }
            Response::Votes { votes, proposals } => {
                for proposal in proposals {
                    self.feed(around, Input::ProposalOnly(proposal))?;
                }
                for vote in votes {
                    self.feed(
                        around,
                        Input::Message { from: Some(peer), message: ConsensusMessage::Vote { vote, resend: 0 } },
                    )?;
                }
                return Ok(());
            }
            Response::Verdicts(votes) => {
                return votes.into_iter().try_for_each(|vote| self.take_verdict(around, vote));
            }
            Response::BlobManifest(_) | Response::BlobChunk(_) | Response::Genesis(_) => return Ok(()),
        };
        let plan = self.live()?.sync.handle(now, input);
        self.carry_out_sync(around, plan)
    }
}
