//! The network's actor: starts the swarm, gives others its handle, and hands each lane's messages to who judges them.
//!
//! Inbox: only its own notices. The lanes themselves are bounded by the network crate; a mailbox that is full answers Ignore,
//! which costs nobody anything. Restart: the swarm of before ends, a new one takes its place; handles are looked up at each
//! use.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use network::{Gossip, GossipMessage, Network, NetworkConfig, NetworkHandle, PeerEvent, PresenceInput, Verdict};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use types::codec::encode_body;
use types::ids::TimeMs;
use types::keys::SecretKey;
use types::signing::Domain;

use crate::app::availability::AvailabilityMsg;
use crate::app::mempool::MempoolMsg;
use crate::app::uptime::UptimeMsg;
use crate::app::votes::VotesMsg;
use crate::crossings::{Crossing, Crossings};
use crate::mailbox::{Mailbox, Sent};
use crate::net::serve::ServeMsg;
use crate::net::sync::SyncMsg;
use crate::safety::consensus::ConsensusMsg;
use crate::wiring::{Wiring, wall_clock};

/// Time between two presence records.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);
/// The first presence record follows this long after the start, when the first connections stand.
const PRESENCE_FIRST: Duration = Duration::from_millis(700);

/// The swarm of the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetSlot {
    handle: Arc<RwLock<Option<NetworkHandle>>>,
    crossings: Crossings,
}

impl NetSlot {
    /// Empty; what is published is told to `crossings`.
    pub(crate) fn new(crossings: Crossings) -> Self {
        Self { handle: Arc::default(), crossings }
    }

    /// The handle, while the network runs.
    pub(crate) fn get(&self) -> Option<NetworkHandle> {
        self.handle.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes a message; a network that is down or busy loses it, and whoever needs it asks again.
    pub(crate) fn publish(&self, message: &GossipMessage) {
        if let Some(net) = self.get() {
            self.crossings.at(Crossing::Publishing(message));
            let delivery = net.publish(message);
            self.crossings.at(Crossing::Published(message));
            if !delivery.accepted() {
                tracing::debug!(topic = message.topic().name(), ?delivery, "message not published");
            }
        }
    }

    /// Reports a verdict on a received message.
    pub(crate) fn report(&self, id: network::MessageId, verdict: Verdict) {
        if let Some(net) = self.get()
            && !net.report(id, verdict).accepted()
        {
            tracing::trace!(%id, "verdict not delivered; it counts as Ignore");
        }
    }

    /// Books a fault of a peer.
    pub(crate) fn penalise(&self, peer: network::PeerId, fault: network::Fault) {
        tracing::info!(%peer, ?fault, "peer penalised");
        if let Some(net) = self.get()
            && !net.penalise(peer, fault).accepted()
        {
            tracing::debug!(%peer, "penalty not delivered");
        }
    }

    fn set(&self, handle: Option<NetworkHandle>) {
        *self.handle.write().unwrap_or_else(PoisonError::into_inner) = handle;
    }
}

/// The actor.
#[derive(Debug)]
pub(crate) struct Link;

/// What it is started with.
#[derive(Debug)]
pub(crate) struct LinkArgs {
    /// Settings of the swarm.
    pub(crate) config: NetworkConfig,
    /// Signs presence records.
    pub(crate) consensus_key: Option<SecretKey>,
    /// Prover key to name in presence records.
    pub(crate) prover: Option<types::keys::PublicKey>,
    /// Where everything is.
    pub(crate) wiring: Wiring,
}

/// Its notices to itself.
#[derive(Debug)]
pub(crate) enum LinkMsg {
    /// A lane closed: the swarm is gone.
    Ended,
    /// Time for a presence record.
    Announce,
}

/// Its state.
#[derive(Debug)]
pub(crate) struct LinkState {
    args: LinkArgs,
    handle: NetworkHandle,
    _pumps: JoinSet<()>,
}

impl Actor for Link {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArgs;

    async fn pre_start(&self, myself: ActorRef<LinkMsg>, args: LinkArgs) -> Result<LinkState, ActorProcessingErr> {
        // An actor that failed leaves its swarm behind, which holds the port and the peers.
        if let Some(old) = args.wiring.net.get() {
            args.wiring.net.set(None);
            old.shutdown().await;
        }
        let (handle, events) = Network::start(args.config.clone()).await?;
        args.wiring.net.set(Some(handle.clone()));
        let mut pumps = JoinSet::new();
        let w = &args.wiring;
        let consensus = w.mail.consensus.clone();
        pump(&mut pumps, &myself, events.consensus, w.clone(), move |gossip| match gossip.message {
            GossipMessage::Consensus(message) => consensus.send(ConsensusMsg::Gossip { id: gossip.id, message }),
            _ => Sent::Full,
        });
        let consensus = w.mail.consensus.clone();
        pump(&mut pumps, &myself, events.blocks, w.clone(), move |gossip| match gossip.message {
            GossipMessage::Proposal(message) => consensus.send(ConsensusMsg::Proposal { id: gossip.id, message }),
            _ => Sent::Full,
        });
        let votes = w.mail.votes.clone();
        pump(&mut pumps, &myself, events.verdicts, w.clone(), move |gossip| match gossip.message {
            GossipMessage::Verdict(vote) => votes.send(VotesMsg::Gossip { id: gossip.id, vote }),
            _ => Sent::Full,
        });
        let (mempool, availability) = (w.mail.mempool.clone(), w.mail.availability.clone());
        pump(&mut pumps, &myself, events.txs, w.clone(), move |gossip| route_tx(gossip, &mempool, &availability));
        let serve = w.mail.serve.clone();
        let mut requests = events.requests;
        pumps.spawn(async move {
            while let Some(request) = requests.recv().await {
                if serve.send(ServeMsg(request)) != Sent::Accepted {
                    tracing::debug!("request dropped: the server is busy");
                }
            }
        });
        let sync = w.mail.sync.clone();
        let mut peers = events.peers;
        pumps.spawn(async move {
            while let Some(event) = peers.recv().await {
                if let PeerEvent::Disconnected { peer } = event {
                    // A lost notice costs one request that times out.
                    let _lost = sync.send(SyncMsg::Gone { peer });
                }
            }
        });
        myself.send_after(PRESENCE_FIRST, || LinkMsg::Announce);
        tracing::info!(peer_id = %handle.peer_id(), addresses = ?handle.addresses(), "network started");
        Ok(LinkState { args, handle, _pumps: pumps })
    }

    async fn handle(
        &self,
        myself: ActorRef<LinkMsg>,
        message: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LinkMsg::Ended => {
                state.args.wiring.net.set(None);
                return Err("the swarm ended".into());
            }
            LinkMsg::Announce => {
                myself.send_after(PRESENCE_EVERY, || LinkMsg::Announce);
                announce(state);
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<LinkMsg>, state: &mut LinkState) -> Result<(), ActorProcessingErr> {
        state.args.wiring.net.set(None);
        state.handle.shutdown().await;
        Ok(())
    }
}

fn announce(state: &LinkState) {
    let view = state.args.wiring.view();
    state.handle.set_validators(view.set.validators().iter().map(|v| v.key));
    let key = state.args.consensus_key.as_ref().filter(|k| view.set.power_of(&k.public()).is_some());
    let input = PresenceInput {
        height: view.head.height,
        time_ms: TimeMs(wall_clock().0),
        prover: state.args.prover,
        validator: key.map(SecretKey::public),
    };
    let presence = state.handle.presence(input);
    let signature = key.map(|k| k.sign(Domain::PeerProof, &state.args.config.genesis, &encode_body(&presence)));
    if state.args.wiring.validator.is_some() {
        let connected = state.handle.peers().into_iter().filter_map(|peer| peer.validator).collect();
        // A look more or less does not matter.
        let _full = state.args.wiring.mail.uptime.send(UptimeMsg::Connected(connected));
    }
    let delivery = state.handle.announce(presence, signature);
    tracing::trace!(?delivery, "presence announced");
}

fn pump(
    pumps: &mut JoinSet<()>,
    link: &ActorRef<LinkMsg>,
    mut lane: mpsc::Receiver<Gossip>,
    wiring: Wiring,
    route: impl Fn(Gossip) -> Sent + Send + 'static,
) {
    let link = link.clone();
    pumps.spawn(async move {
        while let Some(gossip) = lane.recv().await {
            let id = gossip.id;
            if route(gossip) != Sent::Accepted {
                wiring.net.report(id, Verdict::Ignore);
            }
        }
        if link.send_message(LinkMsg::Ended).is_err() {
            tracing::debug!("a lane closed after its actor");
        }
    });
}

fn route_tx(gossip: Gossip, mempool: &Mailbox<MempoolMsg>, availability: &Mailbox<AvailabilityMsg>) -> Sent {
    use types::gossip::TxMessage;
    let Gossip { id, source, message } = gossip;
    let GossipMessage::Tx(message) = message else { return Sent::Full };
    match *message {
        TxMessage::Transaction(tx) => mempool.send(MempoolMsg::Gossip { id, source, txs: vec![tx] }),
        TxMessage::Transactions(txs) => mempool.send(MempoolMsg::Gossip { id, source, txs }),
        TxMessage::Offer(tx) => {
            availability.send(AvailabilityMsg::Offer { id: Some(id), source: Some(source), tx: Box::new(tx) })
        }
        TxMessage::Availability { tx, signature } => {
            availability.send(AvailabilityMsg::Signature { id, tx, signature })
        }
    }
}
