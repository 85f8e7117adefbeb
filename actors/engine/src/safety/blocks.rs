//! Work on blocks off the async threads: building, checking, fetching, and the view after a commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::{CheckOutcome, Executed};
use ractor::{ActorProcessingErr, ActorRef};
use storage::Snapshot;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use types::block::Block;
use types::ids::{BlockId, Height, JobId, Round, StateRoot, TimeMs};
use types::rpc_sync::{Request, Response};
use types::vote::CommitCertificate;

use super::consensus::ConsensusMsg;
use crate::app::availability::AvailabilityMsg;
use crate::app::fraud::FraudMsg;
use crate::app::mempool::MempoolMsg;
use crate::app::scheduler::SchedulerMsg;
use crate::app::votes::VotesMsg;
use crate::mailbox::{Letter, Sent};
use crate::net::sync::SyncMsg;
use crate::task::Task;
use crate::wiring::{ChainView, Wiring, wall_clock};

/// Longest wait for the mempool's offer; a block without transactions is better than none.
const OFFER_LIMIT: Duration = Duration::from_millis(300);
/// Peers asked for a proposed block in one go; the next go begins with others.
const FETCH_PEERS: usize = 8;
/// Of these, peers asked at the same time: a silent one must not keep the others waiting.
const FETCH_PARALLEL: usize = 3;
/// Longest wait for one peer's answer.
const FETCH_ANSWER: Duration = Duration::from_secs(3);
/// Wait before all peers are asked again; doubles up to [`FETCH_AGAIN_MAX`].
const FETCH_AGAIN: Duration = Duration::from_millis(250);
/// Longest such wait.
const FETCH_AGAIN_MAX: Duration = Duration::from_secs(5);

/// What became of a proposed block.
#[derive(Debug)]
pub(crate) enum Checked {
    /// Valid, with its effects.
    Valid(Executed),
    /// Wrong on every node for ever.
    Invalid(String),
    /// Not to be judged now.
    Withhold(String),
    /// This node's store or code failed.
    Failed(String),
}

/// The view of a state.
///
/// # Errors
/// When the state can't be read.
pub(crate) fn view(
    state: Snapshot,
    certificate: Option<CommitCertificate>,
    root: StateRoot,
    applied_ms: TimeMs,
) -> Result<ChainView, ActorProcessingErr> {
    let head = ledger::head(&state)?;
    let set = ledger::validator_set(&state, head.height.next())?.ok_or("the next height has no validator set")?;
    let params = ledger::state::params(&state)?;
    let work = ledger::has_work(&state)?;
    Ok(ChainView { head, certificate, state, root, params, set, work, applied_ms })
}

/// Builds a block for a round; the answer comes as a message, or never when the height is over.
pub(crate) fn build(wiring: &Wiring, consensus: &ActorRef<Letter<ConsensusMsg>>, height: Height, round: Round) {
    let (wiring, consensus) = (wiring.clone(), consensus.clone());
    tokio::spawn(async move {
        let view = wiring.view();
        let Some(proposer) = wiring.validator.filter(|_| view.head.height.next() == height) else { return };
        let (reply, offer) = oneshot::channel();
        let candidates = match wiring.mail.mempool.send_owed(MempoolMsg::Offer { reply }) {
            Sent::Accepted => {
                tokio::time::timeout(OFFER_LIMIT, offer).await.ok().and_then(Result::ok).unwrap_or_default()
            }
            Sent::Full | Sent::Closed => Vec::new(),
        };
        let built = tokio::task::spawn_blocking(move || {
            let built =
                ledger::build_block(&view.state, view.certificate.as_ref(), proposer, wall_clock(), &candidates)?;
            let executed = ledger::apply_block(&view.state, &built.block)?;
            Ok::<_, ledger::ApplyError>((built, executed))
        });
        match built.await {
            Ok(Ok((built, executed))) => {
                for (id, why) in &built.dropped {
                    tracing::debug!(tx = %id, %why, "candidate dropped");
                }
                let message = ConsensusMsg::Built { height, round, built: Box::new((built.block, executed)) };
                let _closed = wiring.mail.consensus.send_owed(message);
            }
            Ok(Err(error)) => tracing::error!(%height, %error, "block not built"),
            Err(error) => consensus.stop(Some(format!("building a block failed: {error}"))),
        }
    });
}

/// A block to check.
#[derive(Debug)]
pub(crate) struct CheckJob {
    /// Its height.
    pub(crate) height: Height,
    /// Round of its proposal or certificate.
    pub(crate) round: Round,
    /// The block.
    pub(crate) block: Arc<Block>,
    /// More than two thirds committed to it: then this machine's clock has no say.
    pub(crate) certified: bool,
    /// Its effects, if it was executed here before.
    pub(crate) known: Option<Executed>,
    /// Wait before the check.
    pub(crate) after: Duration,
}

/// Checks a block against the applied chain; the answer comes as a message.
pub(crate) fn check(wiring: &Wiring, consensus: &ActorRef<Letter<ConsensusMsg>>, job: CheckJob) {
    let (wiring, consensus) = (wiring.clone(), consensus.clone());
    tokio::spawn(async move {
        let CheckJob { height, round, block, certified, known, after } = job;
        tokio::time::sleep(after).await;
        let outcome = match known {
            Some(executed) => Ok(Checked::Valid(executed)),
            None => {
                let (view, body) = (wiring.view(), Arc::clone(&block));
                if view.head.height.next() != height {
                    return;
                }
                let started = Instant::now();
                let examined = tokio::task::spawn_blocking(move || examine(&view, &body, certified)).await;
                wiring.metrics.validation_seconds.observe(started.elapsed().as_secs_f64());
                examined
            }
        };
        match outcome {
            Ok(outcome) => {
                let message = ConsensusMsg::Checked { height, round, block, outcome: Box::new(outcome) };
                let _closed = wiring.mail.consensus.send_owed(message);
            }
            Err(error) => consensus.stop(Some(format!("checking a block failed: {error}"))),
        }
    });
}

fn examine(view: &ChainView, block: &Block, certified: bool) -> Checked {
    if certified {
        return match ledger::apply_block(&view.state, block) {
            Ok(executed) => Checked::Valid(executed),
            Err(ledger::ApplyError::Invalid(why)) => Checked::Invalid(why.to_string()),
            Err(ledger::ApplyError::Withheld(why)) => Checked::Withhold(why.to_string()),
            Err(ledger::ApplyError::State(error)) => Checked::Failed(error.to_string()),
        };
    }
    match ledger::check_block(&view.state, block, wall_clock()) {
        Ok(CheckOutcome::Valid(executed)) => Checked::Valid(*executed),
        Ok(CheckOutcome::Invalid(why)) => Checked::Invalid(why.to_string()),
        Ok(CheckOutcome::Withhold(why)) => Checked::Withhold(why.to_string()),
        Err(error) => Checked::Failed(error.to_string()),
    }
}

/// Executes a decided block that was not executed before.
///
/// # Errors
/// When it can't be: the node stops.
pub(crate) async fn apply(view: &Arc<ChainView>, block: Block) -> Result<Executed, ActorProcessingErr> {
    let view = Arc::clone(view);
    Ok(tokio::task::spawn_blocking(move || ledger::apply_block(&view.state, &block)).await??)
}

/// Asks peers for the bytes of a proposed block, again and again with back-off, until they come or the height is over. The
/// task may be ended at any time.
pub(crate) fn fetch(wiring: &Wiring, height: Height, block: BlockId) -> Task {
    let wiring = wiring.clone();
    Task::spawn(async move {
        let (mut wait, mut go) = (FETCH_AGAIN, 0usize);
        while wiring.view().head.height < height {
            if let Some(found) = fetch_once(&wiring, height, block, go).await {
                let _closed = wiring.mail.consensus.send_owed(ConsensusMsg::Fetched { height, block: found });
                return;
            }
            tracing::debug!(%height, block = %block.short(), go, "no peer had the proposed block; asking again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(FETCH_AGAIN_MAX);
            go = go.wrapping_add(1);
        }
    })
}

/// One go over some peers, validators first; which come first changes from go to go.
async fn fetch_once(wiring: &Wiring, height: Height, block: BlockId, go: usize) -> Option<Box<Block>> {
    let net = wiring.net.get()?;
    let mut peers = net.peers();
    let turn = go.checked_rem(peers.len()).unwrap_or(0);
    peers.rotate_left(turn);
    peers.sort_by_key(|p| p.validator.is_none());
    let mut waiting = peers.into_iter().take(FETCH_PEERS);
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < FETCH_PARALLEL
            && let Some(peer) = waiting.next()
        {
            let net = net.clone();
            asked.spawn(async move {
                let request = net.request(peer.peer_id, Request::ProposedBlock { height, block });
                tokio::time::timeout(FETCH_ANSWER, request).await
            });
        }
        match asked.join_next().await? {
            Ok(Ok(Ok(Response::ProposedBlock(Some(found))))) if found.id() == block => return Some(found),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%height, block = %block.short(), %error, "proposed block not fetched")
            }
            _ => {}
        }
    }
}

/// Tells the rest of the node about an applied block.
pub(crate) fn announce(wiring: &Wiring, view: &Arc<ChainView>, changed_jobs: &[JobId]) {
    use crate::api::views::Event;
    let mail = &wiring.mail;
    // Each actor gets one notice a block, and drops what it has not read when the next is there: none of these may be lost.
    let _closed = mail.mempool.send_owed(MempoolMsg::Head(Arc::clone(view)));
    let _closed = mail.availability.send_owed(AvailabilityMsg::Head);
    let _closed = mail.votes.send_owed(VotesMsg::Head(Arc::clone(view)));
    let _closed = mail.fraud.send_owed(FraudMsg::Head(Arc::clone(view)));
    let _closed =
        mail.scheduler.send_owed(SchedulerMsg::Head { view: Arc::clone(view), changed: changed_jobs.to_vec() });
    let _closed = mail.sync.send_owed(SyncMsg::Applied);
    let _full = mail.events.send(Event::Head(crate::reads::head_view(wiring, view)));
}
