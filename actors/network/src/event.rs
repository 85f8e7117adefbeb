//! What the network tells the node, and the small vocabulary of both directions.

use std::fmt;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use types::gossip::{ConsensusMessage, PresenceMessage, ProposalMessage, Topic, TxMessage};
use types::verdict::SignedProofVote;
use types::{TypeError, Wire, rpc_sync};

/// Identity of a gossip message: the first 20 bytes of BLAKE3 over (domain, topic, data).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 20]);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// The node's word on a gossip message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Valid and of use: forward it.
    Accept,
    /// Not forwarded, nobody's fault: late, unknown height, overloaded, can't be judged.
    Ignore,
    /// Provably invalid on every node for ever: costs the senders score.
    Reject,
}

/// A decoded message of one of the topics that the node judges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GossipMessage {
    /// [`Topic::Consensus`].
    Consensus(Box<ConsensusMessage>),
    /// [`Topic::Block`].
    Proposal(Box<ProposalMessage>),
    /// [`Topic::Tx`].
    Tx(Box<TxMessage>),
    /// [`Topic::Verdict`].
    Verdict(Box<SignedProofVote>),
}

impl GossipMessage {
    /// The topic it travels on.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Consensus(_) => Topic::Consensus,
            Self::Proposal(_) => Topic::Block,
            Self::Tx(_) => Topic::Tx,
            Self::Verdict(_) => Topic::Verdict,
        }
    }

    /// The canonical encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Consensus(m) => m.to_bytes(),
            Self::Proposal(m) => m.to_bytes(),
            Self::Tx(m) => m.to_bytes(),
            Self::Verdict(m) => m.to_bytes(),
        }
    }

    /// Decodes a message of `topic`; `None` for the presence topic, which the network judges itself.
    ///
    /// # Errors
    /// As [`Wire::from_bytes`].
    pub fn decode(topic: Topic, data: &[u8]) -> Result<Option<Self>, TypeError> {
        Ok(Some(match topic {
            Topic::Consensus => Self::Consensus(Box::new(ConsensusMessage::from_bytes(data)?)),
            Topic::Block => Self::Proposal(Box::new(ProposalMessage::from_bytes(data)?)),
            Topic::Tx => Self::Tx(Box::new(TxMessage::from_bytes(data)?)),
            Topic::Verdict => Self::Verdict(Box::new(SignedProofVote::from_bytes(data)?)),
            Topic::Presence => return Ok(None),
        }))
    }
}

/// A gossip message that waits for [`NetworkHandle::report`](crate::NetworkHandle::report); after five seconds without
/// a verdict it counts as ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gossip {
    /// Names the message in the report.
    pub id: MessageId,
    /// The peer that sent it here; not its author.
    pub source: PeerId,
    /// The message, decoded and within its topic's size; nothing else is checked yet.
    pub message: GossipMessage,
}

/// Permission to answer one request. Lapses after the request's time limit.
#[derive(PartialEq, Eq, Debug)]
pub struct ReplyToken(pub(crate) u64);

/// A peer's question, within the peer's quota.
#[derive(PartialEq, Eq, Debug)]
pub struct Request {
    /// Who asks.
    pub peer: PeerId,
    /// The question.
    pub request: rpc_sync::Request,
    /// For [`NetworkHandle::respond`](crate::NetworkHandle::respond).
    pub token: ReplyToken,
}

/// News of peers. A hint: when the lane is full, events are dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// A connection is up.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Its address.
        address: Multiaddr,
        /// Whether this node dialled.
        outbound: bool,
    },
    /// The connection is gone.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A new presence record, its signatures checked; not necessarily of a connected peer.
    Presence {
        /// The peer that the record speaks of.
        peer: PeerId,
        /// The record.
        message: Box<PresenceMessage>,
    },
}

/// Everything the network has to say, in one type for [`Events::next`].
#[derive(PartialEq, Eq, Debug)]
pub enum Event {
    /// A message to judge.
    Gossip(Gossip),
    /// A question to answer.
    Request(Request),
    /// News of a peer.
    Peer(PeerEvent),
}

/// Receiving ends, one lane a class, so that a flood of one class never displaces another. Each may be taken by a task
/// of its own; all are closed when the network stops.
#[derive(Debug)]
pub struct Events {
    /// Messages of [`Topic::Consensus`].
    pub consensus: mpsc::Receiver<Gossip>,
    /// Messages of [`Topic::Block`].
    pub blocks: mpsc::Receiver<Gossip>,
    /// Messages of [`Topic::Verdict`].
    pub verdicts: mpsc::Receiver<Gossip>,
    /// Messages of [`Topic::Tx`].
    pub txs: mpsc::Receiver<Gossip>,
    /// Peers' questions.
    pub requests: mpsc::Receiver<Request>,
    /// News of peers.
    pub peers: mpsc::Receiver<PeerEvent>,
}

/// Sending ends of [`Events`].
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) consensus: mpsc::Sender<Gossip>,
    pub(crate) blocks: mpsc::Sender<Gossip>,
    pub(crate) verdicts: mpsc::Sender<Gossip>,
    pub(crate) txs: mpsc::Sender<Gossip>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) peers: mpsc::Sender<PeerEvent>,
}

impl Events {
    /// Lanes sized so that the worst case stays below 130 MiB: consensus 1024 of at most 64 KiB each (mostly below 1
    /// KiB), blocks 64 of 512 KiB, verdicts 512 of 2 KiB, transactions 512 of 64 KiB, requests 256, peer events 256.
    pub(crate) fn channels() -> (Lanes, Self) {
        let (consensus, consensus_out) = mpsc::channel(1024);
        let (blocks, blocks_out) = mpsc::channel(64);
        let (verdicts, verdicts_out) = mpsc::channel(512);
        let (txs, txs_out) = mpsc::channel(512);
        let (requests, requests_out) = mpsc::channel(256);
        let (peers, peers_out) = mpsc::channel(256);
        let lanes = Lanes { consensus, blocks, verdicts, txs, requests, peers };
        let events = Self {
            consensus: consensus_out,
            blocks: blocks_out,
            verdicts: verdicts_out,
            txs: txs_out,
            requests: requests_out,
            peers: peers_out,
        };
        (lanes, events)
    }

    /// The most urgent event: consensus, blocks, verdicts, requests, peers, transactions. `None` when the network
    /// stopped and everything is delivered. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            Some(m) = self.consensus.recv() => Some(Event::Gossip(m)),
            Some(m) = self.blocks.recv() => Some(Event::Gossip(m)),
            Some(m) = self.verdicts.recv() => Some(Event::Gossip(m)),
            Some(r) = self.requests.recv() => Some(Event::Request(r)),
            Some(p) = self.peers.recv() => Some(Event::Peer(p)),
            Some(m) = self.txs.recv() => Some(Event::Gossip(m)),
            else => None,
        }
    }
}

/// What became of something handed to the network without waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Queued.
    Accepted,
    /// The queue is full; not sent.
    Dropped,
    /// The network has stopped.
    Closed,
}

impl Delivery {
    /// Whether it was queued.
    pub const fn accepted(self) -> bool {
        matches!(self, Self::Accepted)
    }

    pub(crate) fn of<T>(result: Result<(), mpsc::error::TrySendError<T>>) -> Self {
        match result {
            Ok(()) => Self::Accepted,
            Err(mpsc::error::TrySendError::Full(_)) => Self::Dropped,
            Err(mpsc::error::TrySendError::Closed(_)) => Self::Closed,
        }
    }
}
