//! What a node of the simulation asks of its world, and what the world brings it.

use std::sync::Arc;

use consensus::{Input, TimerId};
use types::block::Block;
use types::codec::Wire;
use types::gossip::{ConsensusMessage, ProposalMessage, TxMessage};
use types::ids::{Height, Round};
use types::rpc_sync::{Request, Response};
use types::transaction::Transaction;
use types::verdict::SignedProofVote;

use super::dice::Dice;
use super::judge::{Judge, Violation};

/// Why a node stopped in the middle of its work.
pub(super) enum Stop {
    /// It died as planned.
    Crash,
    /// It broke an invariant.
    Broken(Violation),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

pub(super) type Step<T = ()> = Result<T, Stop>;

/// A message between nodes, as bytes of its own format.
#[derive(Clone)]
pub(super) enum Packet {
    Consensus(Arc<[u8]>),
    Proposal(Arc<[u8]>),
    Tx(Arc<[u8]>),
    Verdict(Arc<[u8]>),
    Request(Arc<[u8]>),
    Response(Arc<[u8]>),
}

impl Packet {
    pub(super) fn consensus(message: &ConsensusMessage) -> Self {
        Self::Consensus(message.to_bytes().into())
    }

    pub(super) fn proposal(message: &ProposalMessage) -> Self {
        Self::Proposal(message.to_bytes().into())
    }

    pub(super) fn tx(tx: &Transaction) -> Self {
        Self::Tx(TxMessage::Transaction(tx.clone()).to_bytes().into())
    }

    pub(super) fn verdict(vote: &SignedProofVote) -> Self {
        Self::Verdict(vote.to_bytes().into())
    }

    pub(super) fn request(request: &Request) -> Self {
        Self::Request(request.to_bytes().into())
    }

    pub(super) fn response(response: &Response) -> Self {
        Self::Response(response.to_bytes().into())
    }
}

/// What happens at a node at some time.
pub(super) enum Event {
    Packet {
        from: usize,
        packet: Packet,
    },
    Timer {
        id: TimerId,
        generation: u64,
    },
    Feed(Box<Input>),
    Check {
        height: Height,
        round: Round,
        block: Arc<Block>,
        certified: bool,
    },
    Pace {
        generation: u64,
    },
    /// A request was lost, or its answer.
    Unanswered {
        peer: usize,
    },
    Tick,
}

/// What a node asks for.
pub(super) enum Action {
    /// Sends to one node, or to all others.
    Send { to: Option<usize>, packet: Packet },
    /// Comes back to this node after so many milliseconds, unless it has died by then.
    Later { after_ms: u64, event: Event },
}

/// The surroundings of one step of a node.
pub(super) struct Surroundings<'a> {
    /// Virtual milliseconds since the start.
    pub(super) now: u64,
    pub(super) nodes: usize,
    pub(super) dice: &'a mut Dice,
    pub(super) judge: &'a mut Judge,
    pub(super) actions: Vec<Action>,
}

impl Surroundings<'_> {
    pub(super) fn send(&mut self, to: usize, packet: Packet) {
        self.actions.push(Action::Send { to: Some(to), packet });
    }

    pub(super) fn broadcast(&mut self, packet: Packet) {
        self.actions.push(Action::Send { to: None, packet });
    }

    pub(super) fn later(&mut self, after_ms: u64, event: Event) {
        self.actions.push(Action::Later { after_ms, event });
    }

    /// Another node, drawn.
    pub(super) fn peer(&mut self, own: usize) -> usize {
        let other = self.dice.index(self.nodes.saturating_sub(1));
        if other >= own { other + 1 } else { other }
    }
}
