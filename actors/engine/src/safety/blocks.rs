//! Work on blocks off the async threads: building, checking, fetching, and the view after a commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger::{CheckOutcome, Executed, Withheld};
use ractor::{ActorProcessingErr, ActorRef};
use storage::Snapshot;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use types::block::Block;
use types::ids::{BlockId, GenesisHash, Height, JobId, Round, StateRoot, TimeMs};
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
use crate::verified::Verified;
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

/// A withheld block is looked at again after this long at the earliest.
const RECHECK: Duration = Duration::from_millis(200);
/// And at the latest, whatever its time: a clock may be set right.
const RECHECK_MAX: Duration = Duration::from_secs(10);

/// What became of a proposed block.
#[derive(Debug)]
pub(crate) enum Checked {
    /// Valid, with its effects.
    Valid(Executed),
    /// Wrong on every node for ever.
    Invalid(String),
    /// Not to be judged now.
    Withhold {
        /// Why.
        why: String,
        /// When to look again.
        again: Duration,
    },
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
        let known = Arc::clone(&wiring.verified);
        let built = tokio::task::spawn_blocking(move || {
            let (last, known) = (view.certificate.as_ref(), known.as_ref());
            let built = ledger::build_block_knowing(&view.state, last, proposer, wall_clock(), &candidates, known)?;
            let executed = ledger::apply_block_knowing(&view.state, &built.block, known)?;
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
                let known = Arc::clone(&wiring.verified);
                let started = Instant::now();
                let examined = tokio::task::spawn_blocking(move || examine(&view, &body, certified, &known)).await;
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

fn examine(view: &ChainView, block: &Block, certified: bool, known: &Verified) -> Checked {
    if certified {
        return match ledger::apply_block_knowing(&view.state, block, known) {
            Ok(executed) => Checked::Valid(executed),
            Err(ledger::ApplyError::Invalid(why)) => Checked::Invalid(why.to_string()),
            Err(ledger::ApplyError::Withheld(why)) => withhold(&why),
            Err(ledger::ApplyError::State(error)) => Checked::Failed(error.to_string()),
        };
    }
    match ledger::check_block_knowing(&view.state, block, wall_clock(), known) {
        Ok(CheckOutcome::Valid(executed)) => Checked::Valid(*executed),
        Ok(CheckOutcome::Invalid(why)) => Checked::Invalid(why.to_string()),
        Ok(CheckOutcome::Withhold(why)) => withhold(&why),
        Err(error) => Checked::Failed(error.to_string()),
    }
}

fn withhold(why: &Withheld) -> Checked {
    let again = match why {
        // When this clock will be near enough to it.
        Withheld::Clock { time, now, drift_ms } => Duration::from_millis(time.since(now.plus(*drift_ms))),
        Withheld::Height { .. } => RECHECK,
    };
    Checked::Withhold { why: why.to_string(), again: again.clamp(RECHECK, RECHECK_MAX) }
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
                (peer.peer_id, tokio::time::timeout(FETCH_ANSWER, request).await)
            });
        }
        match asked.join_next().await? {
            Ok((peer, Ok(Ok(Response::ProposedBlock(Some(found)))))) => {
                match is_asked_for(&wiring.genesis_hash, height, block, &found) {
                    Ok(()) => return Some(found),
                    Err(fault) => {
                        tracing::warn!(%peer, %height, block = %block.short(), %fault, "a peer sent another block than asked for");
                        wiring.net.penalise(peer, network::Fault::InvalidSync);
                    }
                }
            }
            Ok((peer, Ok(Err(error)))) => {
                tracing::debug!(%peer, %height, block = %block.short(), %error, "proposed block not fetched");
            }
            _ => {}
        }
    }
}

/// Whether a block is the one asked for, header and body: the id alone is the header's.
fn is_asked_for(genesis: &GenesisHash, height: Height, id: BlockId, found: &Block) -> Result<(), consensus::Fault> {
    if found.id() != id {
        return Err(consensus::Fault::Malformed("the block has another id"));
    }
    consensus::check_block(genesis, height, found)
}

/// Tells the rest of the node about an applied block.
pub(crate) fn announce(wiring: &Wiring, view: &Arc<ChainView>, changed_jobs: &[JobId]) {
    use crate::api::views::Event;
    let mail = &wiring.mail;
    // Each actor gets one notice a block, and drops what it has not read when the next is there: none of these may be lost.
    let _closed = mail.mempool.send_owed(MempoolMsg::Head);
    let _closed = mail.availability.send_owed(AvailabilityMsg::Head);
    let _closed = mail.votes.send_owed(VotesMsg::Head(Arc::clone(view)));
    let _closed = mail.fraud.send_owed(FraudMsg::Head(Arc::clone(view)));
    let _closed =
        mail.scheduler.send_owed(SchedulerMsg::Head { view: Arc::clone(view), changed: changed_jobs.to_vec() });
    let _closed = mail.sync.send_owed(SyncMsg::Applied);
    let _full = mail.events.send(Event::Head(crate::reads::head_view(wiring, view)));
}

#[cfg(test)]
mod tests {
    use network::{Event, Network, NetworkConfig, NetworkHandle};
    use types::ids::Amount;
    use types::keys::SecretKey;
    use types::transaction::{Action, Transaction};

    use super::*;
    use crate::testkit::{PATIENCE, TestChain, user, validator};

    async fn swarm(chain: &TestChain, seed: u8, known: Option<&NetworkHandle>) -> (NetworkHandle, network::Events) {
        let mut config = NetworkConfig::new(chain.wiring.genesis_hash, SecretKey::from_seed([seed; 32]));
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.bootstrap = known.into_iter().flat_map(NetworkHandle::addresses).collect();
        config.loopback = true;
        Network::start(config).await.unwrap()
    }

    async fn until(what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_body_under_the_right_header_costs_its_peer_and_the_next_answer_counts() {
        let chain = TestChain::new();
        let view = chain.wiring.view();
        let transfer = Action::Transfer { to: validator(2).public(), amount: Amount(5) };
        let candidates = [Transaction::Signed(chain.sign(&user(), transfer))];
        let (proposer, now) = (validator(1).public(), view.head.time_ms.plus(500));
        let good = ledger::build_block(&view.state, None, proposer, now, &candidates).unwrap().block;
        let other_body = Block { transactions: vec![], ..good.clone() };
        assert_eq!((other_body.id(), other_body == good), (good.id(), false));

        let (own, _events) = swarm(&chain, 50, None).await;
        chain.wiring.net.set(Some(own.clone()));
        let mut peers = Vec::new();
        // The liar is quick, the honest one slow.
        for (seed, block, slow) in [(51, other_body, 0), (52, good.clone(), 700)] {
            let (handle, mut events) = swarm(&chain, seed, Some(&own)).await;
            peers.push(handle.clone());
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    if let Event::Request(request) = event {
                        tokio::time::sleep(Duration::from_millis(slow)).await;
                        let answer = Response::ProposedBlock(Some(Box::new(block.clone())));
                        assert!(handle.respond(request.token, &answer).accepted());
                    }
                }
            });
        }
        until("both peers are connected", || own.peers().len() == 2).await;
        let found = fetch_once(&chain.wiring, Height(1), good.id(), 0).await.unwrap();
        assert_eq!(*found, good);
        // It may have dialled again by now; the count stays.
        until("the liar was cut off", || own.metrics().fault_disconnects_total == 1).await;
        let honest = peers[1].peer_id();
        assert!(own.peers().iter().any(|p| p.peer_id == honest));
        for handle in peers.into_iter().chain([own]) {
            handle.shutdown().await;
        }
    }

    #[test]
    fn a_withheld_block_is_looked_at_again_when_its_time_comes() {
        let again = |ahead: u64| {
            let (now, drift_ms) = (TimeMs(1_000_000), 10_000);
            match withhold(&Withheld::Clock { time: now.plus(drift_ms + ahead), now, drift_ms }) {
                Checked::Withhold { again, .. } => again,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(again(1), RECHECK);
        assert_eq!(again(3_000), Duration::from_secs(3));
        assert_eq!(again(86_400_000), RECHECK_MAX);
    }
}
