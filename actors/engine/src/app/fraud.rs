//! Equivocation: remembers what validators signed, builds evidence of two conflicting messages, and sees it into a block.
//!
//! Remembered in the store, so that a restart forgets nothing: votes and proposals of the last [`KEEP_HEIGHTS`] decided heights;
//! the deciding precommits of every height, in the blocks' certificates; verdicts of jobs as long as the ledger keeps the job,
//! and those in certificates for ever; and evidence until it is in a block or too old for one. Conflicts at the running height
//! and the few below it are found by the consensus machine, conflicts of verdicts on open claims by the tally, and handed over;
//! a message that comes later than that, or after a restart, is compared here. A late message alone is not kept.
//!
//! Nothing here decides who is punished: the ledger checks evidence again. Offering it is idempotent, by offence: the mempool
//! takes it once, the ledger records it once, whatever pair of messages shows it, and whichever node does.
//!
//! Inbox: 256 messages from this node's other actors, and apart from them 64 late ones from peers, paid for by their senders'
//! credit; one more is dropped, for other nodes hear the same. Each late message costs one look at the store. Waiting evidence: [`PENDING_MAX`], one
//! more is dropped likewise. Restart: reads waiting evidence back.

mod late;

use std::collections::BTreeMap;
use std::sync::Arc;

use ledger::{LedgerError, TxCode};
use network::{Fault, PeerId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use storage::{RocksStore, SignedMessages, Store, StoreRead};
use types::evidence::Evidence;
use types::gossip::ConsensusMessage;
use types::ids::{Digest, GenesisHash, Height};
use types::transaction::Transaction;
use types::verdict::SignedProofVote;
use types::vote::SignedProposal;

use self::late::{Compared, LateError};
use crate::app::mempool::MempoolMsg;
use crate::mailbox::{Letter, Sent};
use crate::wiring::{ChainView, Wiring};

/// Heights whose votes and proposals are kept: 17 MB with four validators, 420 MB with a hundred.
const KEEP_HEIGHTS: u64 = 10_000;
/// Blocks between two sweeps of older ones.
const SWEEP_BLOCKS: u64 = 64;
/// Heights dropped by one sweep at most.
const SWEEP_MAX: usize = 1_024;
/// Offences that wait for a block.
const PENDING_MAX: usize = 256;

/// Messages.
#[derive(Debug)]
pub(crate) enum FraudMsg {
    /// What was seen, verified, of a height that is decided now.
    Decided {
        /// The height.
        height: Height,
        /// The messages.
        messages: SignedMessages,
    },
    /// Evidence that another part of this node built.
    Found(Box<Evidence>),
    /// A consensus message of a height that was decided longer ago than the machine remembers; not verified yet.
    Late {
        /// The peer that sent it here.
        from: PeerId,
        /// The message.
        message: Box<ConsensusMessage>,
    },
    /// A proposal of such a height; not verified yet.
    LateProposal {
        /// The peer that sent it here.
        from: PeerId,
        /// The proposal.
        proposal: Box<SignedProposal>,
    },
    /// A verdict on a claim that is not in voting any more; not verified yet.
    LateVerdict(Box<SignedProofVote>),
    /// A block was applied.
    Head(Arc<ChainView>),
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Fraud;

/// Its state.
#[derive(Debug)]
pub(crate) struct FraudState {
    wiring: Wiring,
    /// Evidence that is in no block yet, by offence; the same as in the store.
    pending: BTreeMap<Digest, Evidence>,
}

impl Actor for Fraud {
    type Msg = Letter<FraudMsg>;
    type State = FraudState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<FraudState, ActorProcessingErr> {
        let waiting = wiring.store.pending_evidence(PENDING_MAX)?;
        let pending: BTreeMap<_, _> = waiting.into_iter().map(|evidence| (evidence.offence(), evidence)).collect();
        wiring.mail.fraud.attach(myself.clone());
        wiring.mail.late.attach(myself);
        let mut state = FraudState { wiring, pending };
        let view = state.wiring.view();
        offer_all(&mut state, &view)?;
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut FraudState,
    ) -> Result<(), ActorProcessingErr> {
        let view = state.wiring.view();
        match letter.message {
            FraudMsg::Decided { height, messages } => state.wiring.store.put_signed(height, &messages)?,
            FraudMsg::Found(evidence) => found(state, &view, *evidence)?,
            FraudMsg::Late { from, message } => {
                let votes = match *message {
                    ConsensusMessage::Vote { vote, .. } => vec![vote],
                    ConsensusMessage::Polka { votes } | ConsensusMessage::Round { votes, .. } => votes,
                };
                let compared =
                    compare(state, &view, move |store, view, genesis| late::votes(store, view, genesis, &votes));
                let compared = compared.await?;
                settle(state, &view, Some(from), compared)?;
            }
            FraudMsg::LateProposal { from, proposal } => {
                let compared =
                    compare(state, &view, move |store, view, genesis| late::proposal(store, view, genesis, &proposal));
                let compared = compared.await?;
                settle(state, &view, Some(from), compared)?;
            }
            FraudMsg::LateVerdict(vote) => {
                let compared =
                    compare(state, &view, move |store, view, genesis| late::verdict(store, view, genesis, &vote));
                let compared = compared.await?;
                settle(state, &view, None, compared)?;
            }
            FraudMsg::Head(view) => {
                offer_all(state, &view)?;
                if view.head.height.0.is_multiple_of(SWEEP_BLOCKS) {
                    let below = Height(view.head.height.0.saturating_sub(KEEP_HEIGHTS));
                    state.wiring.store.prune_signed(below, SWEEP_MAX)?;
                }
            }
        }
        Ok(())
    }
}

/// Takes evidence up, unless it proves nothing or the offence is known.
fn found(state: &mut FraudState, view: &ChainView, evidence: Evidence) -> Result<(), ActorProcessingErr> {
    let (evidence, offence) = {
        let evidence = evidence.canonical();
        let offence = evidence.offence();
        (evidence, offence)
    };
    if state.pending.contains_key(&offence) {
        return Ok(());
    }
    let set = ledger::validator_set(&view.state, evidence.height())?;
    let member = set.is_some_and(|set| set.power_of(&evidence.offender()).is_some());
    if !member || !evidence.verify(&state.wiring.genesis_hash) {
        return Ok(());
    }
    if is_recorded(view, &evidence) {
        return Ok(());
    }
    let (offender, height) = (evidence.offender(), evidence.height());
    if state.pending.len() >= PENDING_MAX {
        tracing::warn!(%offender, %height, limit = PENDING_MAX, "too much evidence waits for a block; this is dropped");
        return Ok(());
    }
    tracing::warn!(%offender, %height, %offence, kind = kind_of(&evidence), "equivocation: a validator signed two messages for one slot");
    state.wiring.metrics.evidence.with_label_values(&[kind_of(&evidence)]).inc();
    state.wiring.store.put_evidence(&evidence)?;
    state.pending.insert(offence, evidence);
    offer_all(state, view)
}

fn kind_of(evidence: &Evidence) -> &'static str {
    match evidence {
        Evidence::Votes(..) => "votes",
        Evidence::Proposals(..) => "proposals",
        Evidence::Verdicts(..) => "verdicts",
    }
}

fn is_recorded(view: &ChainView, evidence: &Evidence) -> bool {
    let tx = Transaction::Evidence(evidence.clone());
    match ledger::precheck::check_transaction(&view.state, &tx, view.head.time_ms) {
        Err(LedgerError::Refused(refusal)) => refusal.code() == TxCode::Recorded,
        _ => false,
    }
}

/// Offers all waiting evidence to the mempool, and drops what is in a block or can be in none.
fn offer_all(state: &mut FraudState, view: &ChainView) -> Result<(), ActorProcessingErr> {
    let mut over = Vec::new();
    for (offence, evidence) in &state.pending {
        // The ledger wants the height decided first.
        if evidence.height() > view.head.height {
            continue;
        }
        let tx = Transaction::Evidence(evidence.clone());
        match ledger::precheck::check_transaction(&view.state, &tx, view.head.time_ms) {
            Ok(()) => {
                if state.wiring.mail.mempool.send(MempoolMsg::Own { tx: Box::new(tx) }) != Sent::Accepted {
                    tracing::debug!(%offence, "evidence waits: the mempool is busy");
                }
            }
            Err(LedgerError::Refused(refusal)) if refusal.code().may_pass_later() => {}
            Err(LedgerError::Refused(refusal)) => {
                if refusal.code() == TxCode::Recorded {
                    tracing::info!(offender = %evidence.offender(), %offence, "evidence is in a block");
                } else {
                    tracing::warn!(offender = %evidence.offender(), %offence, %refusal, "evidence can be in no block any more");
                }
                over.push(*offence);
            }
            Err(LedgerError::State(error)) => return Err(error.into()),
        }
    }
    for offence in over {
        state.wiring.store.drop_evidence(&offence)?;
        state.pending.remove(&offence);
    }
    Ok(())
}

/// Compares a late message with the store, off the async threads.
async fn compare(
    state: &FraudState,
    view: &Arc<ChainView>,
    work: impl FnOnce(&RocksStore, &ChainView, &GenesisHash) -> Result<Compared, LateError> + Send + 'static,
) -> Result<Compared, ActorProcessingErr> {
    let (store, view, genesis) = (Arc::clone(&state.wiring.store), Arc::clone(view), state.wiring.genesis_hash);
    Ok(tokio::task::spawn_blocking(move || work(&store, &view, &genesis)).await??)
}

/// Takes conflicts up; whoever handed on what is provably wrong pays for it.
fn settle(
    state: &mut FraudState,
    view: &ChainView,
    from: Option<PeerId>,
    compared: Compared,
) -> Result<(), ActorProcessingErr> {
    match (compared, from) {
        (Compared::Conflicts(conflicts), _) => {
            conflicts.into_iter().try_for_each(|evidence| found(state, view, evidence))
        }
        (Compared::Wrong(why), Some(peer)) => {
            tracing::debug!(%peer, why, "a late message is provably wrong");
            state.wiring.net.penalise(peer, Fault::InvalidGossip);
            Ok(())
        }
        (Compared::Wrong(_), None) | (Compared::Nothing, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::Receiver;
    use types::ids::{BlockId, Round};
    use types::verdict::{Check, ProofVote, Verdict};
    use types::vote::{Proposal, SignedVote, Vote, VoteKind};

    use super::*;
    use crate::testkit::{TestChain, listen, next, silent, validator};

    fn vote(chain: &TestChain, kind: VoteKind, height: u64, value: u8) -> SignedVote {
        let value = Some(BlockId::new([value; 32]));
        Vote { kind, height: Height(height), round: Round(0), value, validator: validator(2).public() }
            .sign(&validator(2), &chain.wiring.genesis_hash)
    }

    fn send(chain: &TestChain, message: FraudMsg) {
        assert_eq!(chain.wiring.mail.fraud.send(message), Sent::Accepted);
    }

    fn late(chain: &TestChain, vote: SignedVote) {
        let message = Box::new(ConsensusMessage::Vote { vote, resend: 0 });
        let late = FraudMsg::Late { from: PeerId::random(), message };
        assert_eq!(chain.wiring.mail.late.send(late), Sent::Accepted);
    }

    async fn offered(mempool: &mut Receiver<MempoolMsg>) -> Evidence {
        match next(mempool).await {
            MempoolMsg::Own { tx } => match *tx {
                Transaction::Evidence(evidence) => evidence,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_late_conflict_is_offered_until_a_block_has_it_and_once_only() {
        let chain = TestChain::new();
        chain.block(&[]);
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        let (actor, ended) = Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        let messages = SignedMessages { votes: vec![vote(&chain, VoteKind::Prevote, 1, 1)], proposals: vec![] };
        send(&chain, FraudMsg::Decided { height: Height(1), messages });
        late(&chain, vote(&chain, VoteKind::Prevote, 1, 1));
        let mut forged = vote(&chain, VoteKind::Prevote, 1, 2);
        forged.vote.value = None;
        late(&chain, forged);
        silent(&mut mempool).await;
        late(&chain, vote(&chain, VoteKind::Prevote, 1, 2));
        let evidence = offered(&mut mempool).await;
        assert_eq!((evidence.offender(), evidence.height()), (validator(2).public(), Height(1)));

        // The mempool lost it, and the node restarts: it is offered again.
        actor.kill();
        ended.await.unwrap();
        let (actor, ended) = Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        assert_eq!(offered(&mut mempool).await, evidence);
        let view = chain.block(&[]);
        send(&chain, FraudMsg::Head(view));
        assert_eq!(offered(&mut mempool).await, evidence);

        // In a block: nothing is offered any more, neither for another pair of the same slot nor after a restart.
        let view = chain.block(&[Transaction::Evidence(evidence)]);
        send(&chain, FraudMsg::Head(view));
        late(&chain, vote(&chain, VoteKind::Prevote, 1, 3));
        silent(&mut mempool).await;
        actor.kill();
        ended.await.unwrap();
        Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        late(&chain, vote(&chain, VoteKind::Prevote, 1, 3));
        silent(&mut mempool).await;
    }

    #[tokio::test]
    async fn certificates_of_blocks_and_proposals_convict_too() {
        let chain = TestChain::new();
        chain.block(&[]);
        chain.block(&[]);
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        // Nothing was kept of height 2 but its block.
        late(&chain, vote(&chain, VoteKind::Precommit, 2, 9));
        assert!(matches!(offered(&mut mempool).await, Evidence::Votes(..)));

        let genesis = chain.wiring.genesis_hash;
        let proposal = |value: u8| {
            let value = BlockId::new([value; 32]);
            let proposer = validator(3).public();
            Proposal { height: Height(1), round: Round(0), value, pol_round: None, proposer }
                .sign(&validator(3), &genesis)
        };
        let messages = SignedMessages { votes: vec![], proposals: vec![proposal(1)] };
        send(&chain, FraudMsg::Decided { height: Height(1), messages });
        send(&chain, FraudMsg::LateProposal { from: PeerId::random(), proposal: Box::new(proposal(2)) });
        // Also the one that waits already is offered again, in order of offences.
        let both = [offered(&mut mempool).await, offered(&mut mempool).await];
        assert!(both.iter().any(|e| matches!(e, Evidence::Proposals(..))), "{both:?}");
    }

    #[tokio::test]
    async fn evidence_on_the_running_height_waits_for_its_decision() {
        let chain = TestChain::new();
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        let pair = Evidence::Votes(vote(&chain, VoteKind::Prevote, 1, 1), vote(&chain, VoteKind::Prevote, 1, 2));
        send(&chain, FraudMsg::Found(Box::new(pair.clone())));
        silent(&mut mempool).await;
        let view = chain.block(&[]);
        send(&chain, FraudMsg::Head(view));
        assert_eq!(offered(&mut mempool).await, pair.canonical());
    }

    #[tokio::test]
    async fn a_second_verdict_convicts_also_when_only_the_store_knows_the_first() {
        let chain = TestChain::new();
        let (job, _) = chain.claim_in_voting();
        let view = chain.wiring.view();
        let subject = ledger::query::vote_subject(&view.state, &job, 0).unwrap().unwrap();
        let verdict = |verdict| {
            ProofVote { subject: subject.clone(), verdict, validator: validator(4).public() }
                .sign(&validator(4), &chain.wiring.genesis_hash)
        };
        chain.wiring.store.put_verdict(&verdict(Verdict::Valid)).unwrap();
        let mut mempool = listen(&chain.wiring.mail.mempool).await;
        Actor::spawn(None, Fraud, chain.wiring.clone()).await.unwrap();
        send(&chain, FraudMsg::LateVerdict(Box::new(verdict(Verdict::Invalid(Check::Stark)))));
        assert!(matches!(offered(&mut mempool).await, Evidence::Verdicts(..)));
    }
}
