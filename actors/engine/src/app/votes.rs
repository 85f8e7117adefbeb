//! Verdicts of all validators on committed claims: counts them and records what they decide; conflicts go to the fraud actor.
//!
//! Inbox: 1,024 messages, gossip beyond it is ignored (peers hold the votes and are asked again). Restart: verdicts are kept
//! in the store and read back. Decides nothing itself: [`ledger::tally`] does.

use std::collections::BTreeSet;
use std::sync::Arc;

use ledger::tally::{Added, Tally};
use network::{GossipMessage, MessageId, Verdict as Judgement};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::{Store, StoreRead};
use tokio::sync::oneshot;
use types::ids::{Height, JobId};
use types::rpc_sync::{Request, Response};
use types::transaction::Transaction;
use types::verdict::{Outcome, ProofCertificate, SignedProofVote, VoteSubject};

use crate::app::fraud::FraudMsg;
use crate::app::mempool::MempoolMsg;
use crate::crossings::Crossing;
use crate::mailbox::{Letter, Sent};
use crate::reads;
use crate::wiring::{ChainView, Wiring};

/// Verdicts on claims committed this many blocks ago are forgotten; the store keeps the certificates.
const KEEP_BLOCKS: u64 = 10_000;
/// Verdicts of one validator held on commits of blocks that this node has not applied yet.
const AHEAD_MAX: usize = 64;
/// Peers asked for missing verdicts at once.
const ASK_PEERS: usize = 3;

/// Messages.
#[derive(Debug)]
pub(crate) enum VotesMsg {
    /// A verdict from gossip; to be judged.
    Gossip {
        /// For the judgement.
        id: MessageId,
        /// The verdict.
        vote: Box<SignedProofVote>,
    },
    /// This node's own verdict, signed and guarded: publish and count.
    Own(Box<SignedProofVote>),
    /// Verdicts a peer sent on request.
    Fetched {
        /// The peer.
        peer: network::PeerId,
        /// The verdicts.
        votes: Vec<SignedProofVote>,
    },
    /// A block was applied.
    Head(Arc<ChainView>),
    /// What is known about a job's claims, for a peer.
    OfJob {
        /// The job.
        job: JobId,
        /// Where the verdicts go.
        reply: oneshot::Sender<Vec<SignedProofVote>>,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Votes;

/// Its state.
#[derive(Debug)]
pub(crate) struct VotesState {
    wiring: Wiring,
    tally: Tally,
    recorded: BTreeSet<(Height, JobId, u32)>,
}

impl Actor for Votes {
    type Msg = Letter<VotesMsg>;
    type State = VotesState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<VotesState, ActorProcessingErr> {
        let mut state = VotesState { tally: Tally::new(wiring.genesis_hash), recorded: BTreeSet::new(), wiring };
        let view = state.wiring.view();
        for job in reads::live_jobs(&view)? {
            for vote in state.wiring.store.verdicts(&job)? {
                count(&mut state, &view, vote, false);
            }
        }
        state.wiring.mail.votes.attach(myself);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut VotesState,
    ) -> Result<(), ActorProcessingErr> {
        let view = state.wiring.view();
        match letter.message {
            VotesMsg::Gossip { id, vote } => {
                let judgement = judge(&count(state, &view, *vote, true));
                state.wiring.net.report(id, judgement);
            }
            VotesMsg::Own(vote) => {
                state.wiring.net.publish(&GossipMessage::Verdict(vote.clone()));
                let added = count(state, &view, *vote, true);
                tracing::debug!(?added, "own verdict counted");
            }
            VotesMsg::Fetched { peer, votes } => {
                for vote in votes {
                    if count(state, &view, vote, true) == Added::BadSignature {
                        state.wiring.net.penalise(peer, network::Fault::InvalidSync);
                        break;
                    }
                }
            }
            VotesMsg::Head(view) => on_head(state, &view)?,
            VotesMsg::OfJob { job, reply } => {
                // The asker may have given up.
                reply.send(state.tally.of_job(&job)).ok();
            }
        }
        Ok(())
    }
}

fn judge(added: &Added) -> Judgement {
    match added {
        Added::Counted(_) | Added::Duplicate => Judgement::Accept,
        // A conflict is worth forwarding: it convicts its signer at every node.
        Added::Conflict(_) => Judgement::Accept,
        Added::Stranger | Added::TooOld => Judgement::Ignore,
        Added::BadSignature => Judgement::Reject,
    }
}

fn count(state: &mut VotesState, view: &ChainView, vote: SignedProofVote, keep: bool) -> Added {
    let subject = vote.vote.subject.clone();
    // A verdict may come before the block with its commit is applied here; the set of that height is known two ahead.
    let set = match ledger::validator_set(&view.state, subject.height) {
        Ok(Some(set)) => set,
        Ok(None) => return Added::Stranger,
        Err(error) => {
            tracing::warn!(%error, "validator set can't be read; verdict ignored");
            return Added::TooOld;
        }
    };
    if set.power_of(&vote.vote.validator).is_none() {
        return Added::Stranger;
    }
    if !is_expected(state, view, &vote) {
        if keep && subject.height <= view.head.height {
            let _full = state.wiring.mail.late.send(FraudMsg::LateVerdict(Box::new(vote)));
        }
        return Added::TooOld;
    }
    let added = state.tally.add(vote.clone(), &set);
    match &added {
        Added::Counted(certificate) => {
            if keep
                && subject.height <= view.head.height
                && let Err(error) = state.wiring.store.put_verdict(&vote)
            {
                tracing::warn!(%error, "verdict not stored");
            }
            if let Some(certificate) = certificate {
                record(state, view, certificate);
            }
        }
        Added::Conflict(evidence) => {
            // A full mailbox loses it here; other nodes hold the same verdicts.
            let _full = state.wiring.mail.fraud.send(FraudMsg::Found(evidence.clone()));
        }
        _ => {}
    }
    added
}

/// Whether a verdict is on a claim in voting, on a slot known already, or one of few that may be ahead of this node: a
/// validator must not fill the tally with verdicts on claims that nobody made.
fn is_expected(state: &VotesState, view: &ChainView, vote: &SignedProofVote) -> bool {
    let subject = &vote.vote.subject;
    if subject.height > view.head.height {
        return state.tally.ahead_of(&vote.vote.validator, view.head.height) < AHEAD_MAX;
    }
    state.tally.has_slot(subject) || matches!(reads::open_subject(view, subject), Ok(true))
}

/// Records a decided claim: the receipt is ready now, the block with it follows.
fn record(state: &mut VotesState, view: &ChainView, certificate: &ProofCertificate) {
    let subject = &certificate.subject;
    match reads::open_subject(view, subject) {
        Ok(true) => {}
        // Decided and in a block already, or of a commit that this node has not applied yet: then the block's arrival
        // counts the votes again.
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(%error, "claim can't be read");
            return;
        }
    }
    state.wiring.crossings.at(Crossing::Certifying);
    // Offered at every chance while the claim is in voting: the mempool takes it once, and may have been full before.
    offer(state, Transaction::Certify { certificate: certificate.clone(), certifier: state.wiring.account });
    if !state.recorded.insert((subject.height, subject.job, subject.attempt)) {
        return;
    }
    tracing::info!(job = %subject.job, attempt = subject.attempt, votes = certificate.votes.len(), "claim decided by votes");
    let set = ledger::validator_set(&view.state, subject.height).ok().flatten();
    let certifies = set.is_some_and(|set| state.wiring.outcomes.of(certificate, &set) == Some(Outcome::Certified));
    if certifies && let Err(error) = state.wiring.store.put_certificate(certificate) {
        tracing::warn!(%error, "certificate not stored");
    }
    crate::app::scheduler::announce_job(&state.wiring, view, &subject.job);
}

fn offer(state: &VotesState, tx: Transaction) {
    if state.wiring.mail.mempool.send(MempoolMsg::Own { tx: Box::new(tx) }) != Sent::Accepted {
        tracing::warn!("mempool is full: a certificate waits for another node to record it");
    }
}

fn on_head(state: &mut VotesState, view: &Arc<ChainView>) -> Result<(), ActorProcessingErr> {
    if let Some(below) = view.head.height.0.checked_sub(KEEP_BLOCKS) {
        state.tally.forget_below(Height(below));
        state.recorded = state.recorded.split_off(&(Height(below), JobId::new([0; 32]), 0));
    }
    for subject in reads::voting_subjects(view)? {
        if subject.height == view.head.height {
            // Verdicts that came before the commit was applied here are stored now: a restart must not forget them.
            let early = state.tally.of_job(&subject.job).into_iter().filter(|vote| vote.vote.subject == subject);
            early.into_iter().try_for_each(|vote| state.wiring.store.put_verdict(&vote))?;
        }
        // Votes that came before the commit was applied here.
        let set = ledger::validator_set(&view.state, subject.height)?;
        let certificate = set.as_ref().and_then(|set| state.tally.certificate(&subject, set));
        match certificate {
            Some(certificate) => record(state, view, &certificate),
            None => ask_peers(state, view, &subject),
        }
    }
    Ok(())
}

/// Asks some peers for the verdicts on a claim whose votes are late: gossip may have lost them.
fn ask_peers(state: &VotesState, view: &ChainView, subject: &VoteSubject) {
    let late = view.head.height.0.saturating_sub(subject.height.0) >= 4 && view.head.height.0.is_multiple_of(4);
    let (true, Some(net)) = (late, state.wiring.net.get()) else { return };
    let (job, votes) = (subject.job, state.wiring.mail.votes.clone());
    let peers: Vec<_> = net.peers().into_iter().filter(|p| p.validator.is_some()).take(ASK_PEERS).collect();
    for peer in peers {
        let (net, votes) = (net.clone(), votes.clone());
        tokio::spawn(async move {
            match net.request(peer.peer_id, Request::Verdicts { job }).await {
                Ok(Response::Verdicts(list)) => {
                    let sent = votes.send(VotesMsg::Fetched { peer: peer.peer_id, votes: list });
                    tracing::trace!(?sent, "verdicts fetched");
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "verdicts not fetched"),
            }
        });
    }
}
