//! Catching up: drives the pure plan [`consensus::sync`] with peers, and asks for missing votes when a height stalls.
//!
//! Inbox: 512 messages; a lost answer counts as a failed request by its time limit. Restart: peers and their heights are
//! learned again within two seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consensus::sync::Peer;
use consensus::{Sync, SyncInput, SyncOutput};
use network::{Fault, PeerId, RequestError};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use types::ids::{Height, TimeMs};
use types::keys::PublicKey;
use types::rpc_sync::{Request, Response};

use crate::mailbox::{Letter, Sent};
use crate::safety::consensus::ConsensusMsg;
use crate::task::Task;
use crate::wiring::{Wiring, wall_clock};

/// Time between looks at peers and time limits.
const TICK: Duration = Duration::from_millis(250);
/// A height that is not decided for this long, plus the pace, makes the node ask peers for their votes.
const STALL_MS: u64 = 1_500;

/// Messages.
#[derive(Debug)]
pub(crate) enum SyncMsg {
    /// Time passes.
    Tick,
    /// A block was applied here.
    Applied,
    /// A peer is gone.
    Gone {
        /// The peer.
        peer: PeerId,
    },
    /// A peer answered, or failed to.
    Answer {
        /// The peer.
        peer: Peer,
        /// What it was asked.
        request: Request,
        /// The answer.
        result: Box<Result<Response, RequestError>>,
    },
}

/// The actor.
#[derive(Debug)]
pub(crate) struct SyncActor;

/// Its state.
pub(crate) struct SyncState {
    wiring: Wiring,
    plan: Sync,
    numbers: BTreeMap<PeerId, Peer>,
    peers: BTreeMap<Peer, PeerId>,
    heights: BTreeMap<Peer, Height>,
    /// Validators that vouch for peers, as the plan knows them.
    validators: BTreeMap<Peer, PublicKey>,
    next: Peer,
    votes_asked: TimeMs,
    _tick: Task,
}

impl Actor for SyncActor {
    type Msg = Letter<SyncMsg>;
    type State = SyncState;
    type Arguments = Wiring;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, wiring: Wiring) -> Result<SyncState, ActorProcessingErr> {
        wiring.mail.sync.attach(myself);
        let mut state = SyncState {
            plan: Sync::new(wiring.genesis_hash),
            _tick: tick(&wiring),
            wiring,
            numbers: BTreeMap::new(),
            peers: BTreeMap::new(),
            heights: BTreeMap::new(),
            validators: BTreeMap::new(),
            next: 0,
            votes_asked: TimeMs(0),
        };
        local(&mut state);
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        letter: Self::Msg,
        state: &mut SyncState,
    ) -> Result<(), ActorProcessingErr> {
        match letter.message {
            SyncMsg::Tick => {
                state._tick = tick(&state.wiring);
                look_at_peers(state);
                step(state, SyncInput::Tick);
                ask_for_votes(state);
            }
            SyncMsg::Applied => local(state),
            SyncMsg::Gone { peer } => forget(state, &peer),
            SyncMsg::Answer { peer, request, result } => answer(state, peer, &request, *result),
        }
        Ok(())
    }
}

/// The next tick: one waits at most, and none outlives the actor.
fn tick(wiring: &Wiring) -> Task {
    let ticks = wiring.mail.sync.clone();
    Task::spawn(async move {
        tokio::time::sleep(TICK).await;
        let _closed = ticks.send_owed(SyncMsg::Tick);
    })
}

fn local(state: &mut SyncState) {
    let view = state.wiring.view();
    step(state, SyncInput::Local { height: view.head.height, set: view.set.clone() });
}

fn look_at_peers(state: &mut SyncState) {
    let Some(net) = state.wiring.net.get() else { return };
    let connected: BTreeMap<PeerId, Option<PublicKey>> =
        net.peers().into_iter().map(|p| (p.peer_id, p.validator)).collect();
    let gone: Vec<PeerId> = state.numbers.keys().filter(|p| !connected.contains_key(p)).copied().collect();
    for peer in gone {
        forget(state, &peer);
    }
    for (peer, validator) in connected {
        if !state.numbers.contains_key(&peer) {
            state.next = state.next.wrapping_add(1);
            state.numbers.insert(peer, state.next);
            state.peers.insert(state.next, peer);
            let joined = SyncInput::Joined { peer: state.next };
            step(state, joined);
        }
        let Some(number) = state.numbers.get(&peer).copied() else { continue };
        if state.validators.get(&number) != validator.as_ref() {
            match validator {
                Some(key) => state.validators.insert(number, key),
                None => state.validators.remove(&number),
            };
            step(state, SyncInput::Vouched { peer: number, validator });
        }
    }
}

fn forget(state: &mut SyncState, peer: &PeerId) {
    if let Some(number) = state.numbers.remove(peer) {
        state.peers.remove(&number);
        state.heights.remove(&number);
        state.validators.remove(&number);
        step(state, SyncInput::Gone { peer: number });
    }
}

fn answer(state: &mut SyncState, peer: Peer, request: &Request, result: Result<Response, RequestError>) {
    let input = match result {
        Ok(Response::Status { height, lowest }) => {
            state.heights.insert(peer, height);
            SyncInput::Status { peer, height, lowest }
        }
        Ok(Response::Blocks(blocks)) => SyncInput::Blocks { peer, blocks },
        Ok(Response::Votes { votes, proposals }) => {
            if let (Request::Votes { height }, Some(id)) = (request, state.peers.get(&peer)) {
                let message = ConsensusMsg::PeerVotes { peer: *id, height: *height, votes, proposals };
                // Asked for again while the height stalls.
                let _full = state.wiring.mail.consensus.send(message);
            }
            return;
        }
        // The plan keeps count of requests for blocks alone; the others are made again by the clock.
        Ok(_) | Err(_) if !matches!(request, Request::Blocks { .. }) => return,
        Ok(Response::Busy { retry_ms }) | Err(RequestError::Busy { retry_ms, .. }) => {
            SyncInput::Busy { peer, retry_ms }
        }
        Ok(_) => return,
        Err(error) => {
            tracing::debug!(%error, "sync request failed");
            SyncInput::Failed { peer }
        }
    };
    step(state, input);
}

fn step(state: &mut SyncState, input: SyncInput) {
    for output in state.plan.handle(wall_clock(), input) {
        match output {
            SyncOutput::Request { peer, request } => ask(state, peer, request),
            SyncOutput::Apply(decided) => {
                if state.wiring.mail.consensus.send(ConsensusMsg::Synced(decided)) != Sent::Accepted {
                    tracing::debug!("consensus is busy; the plan hands the block out again");
                }
            }
            SyncOutput::Penalise { peer, fault } => {
                if let Some(id) = state.peers.get(&peer) {
                    tracing::warn!(peer = %id, %fault, "peer sent what is provably wrong");
                    state.wiring.net.penalise(*id, Fault::InvalidSync);
                }
            }
            SyncOutput::UpToDate { height } => tracing::debug!(%height, "up to date with known peers"),
        }
    }
    let target = state.plan.target().map_or(0, |h| h.0);
    state.wiring.metrics.sync_target.set(i64::try_from(target).unwrap_or(i64::MAX));
}

fn ask(state: &SyncState, peer: Peer, request: Request) {
    let (Some(net), Some(id)) = (state.wiring.net.get(), state.peers.get(&peer).copied()) else { return };
    let sync = state.wiring.mail.sync.clone();
    tokio::spawn(async move {
        let result = Box::new(net.request(id, request.clone()).await);
        // A full mailbox loses the answer; the plan's own time limit asks again.
        let _full = sync.send(SyncMsg::Answer { peer, request, result });
    });
}

/// Asks the peers at this node's height for their votes when the height stalls: gossip may have lost some.
fn ask_for_votes(state: &mut SyncState) {
    let view: Arc<_> = state.wiring.view();
    let (now, pace) = (wall_clock(), if view.work { view.params.block_ms } else { view.params.empty_block_ms });
    let stalled = now.since(view.applied_ms) > pace.saturating_add(STALL_MS) && now.since(state.votes_asked) > STALL_MS;
    if !stalled {
        return;
    }
    state.votes_asked = now;
    let height = view.head.height.next();
    let same: Vec<Peer> = state.heights.iter().filter(|(_, h)| **h == view.head.height).map(|(p, _)| *p).collect();
    for peer in same.into_iter().take(4) {
        ask(state, peer, Request::Votes { height });
    }
}
