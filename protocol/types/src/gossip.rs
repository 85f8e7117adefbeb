//! What travels by gossip: one closed enum a topic. Bulk never does.

use bincode::{Decode, Encode};

use crate::block::Block;
use crate::codec::{Wire, encode_body};
use crate::ids::{GenesisHash, Height, TimeMs, TxId};
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::limits::{
    CONSENSUS_BYTES_MAX, GOSSIP_BYTES_MAX, PRESENCE_BYTES_MAX, PRESENCE_LIST_MAX, TX_BYTES_MAX, VERDICT_BYTES_MAX,
};
use crate::signing::Domain;
use crate::transaction::{AvailabilitySig, SignedTx, Transaction};
use crate::vote::{SignedProposal, SignedVote};

/// The topics, each with its own size limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// [`ConsensusMessage`].
    Consensus,
    /// [`ProposalMessage`].
    Block,
    /// [`TxMessage`].
    Tx,
    /// [`SignedProofVote`](crate::verdict::SignedProofVote).
    Verdict,
    /// [`PresenceMessage`].
    Presence,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 5] = [Self::Consensus, Self::Block, Self::Tx, Self::Verdict, Self::Presence];

    /// Name within the chain's namespace.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Block => "block",
            Self::Tx => "tx",
            Self::Verdict => "verdict",
            Self::Presence => "presence",
        }
    }

    /// Largest message, bytes.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Consensus => CONSENSUS_BYTES_MAX,
            Self::Block => GOSSIP_BYTES_MAX,
            Self::Tx => TX_BYTES_MAX + 64,
            Self::Verdict => VERDICT_BYTES_MAX,
            Self::Presence => PRESENCE_BYTES_MAX,
        }
    }

    /// The gossipsub topic string of a chain; the version is that of the topic's messages.
    pub fn on_chain(self, genesis: &GenesisHash) -> String {
        format!("/proofmesh/{}/{}/1", genesis, self.name())
    }
}

/// Votes, and what helps a peer that lags behind within a height.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ConsensusMessage {
    /// A prevote or precommit. `resend` tells repeated sendings apart, because gossip drops equal messages; at most 8.
    Vote {
        /// The vote.
        vote: SignedVote,
        /// 0 for the first sending.
        resend: u8,
    },
    /// More than two thirds prevoted a value in a round.
    Polka {
        /// Prevotes in rising key order.
        votes: Vec<SignedVote>,
    },
    /// Why a round may be left: precommits of it, or messages of later rounds (Tendermint's skip rule).
    Round {
        /// Votes in rising key order.
        votes: Vec<SignedVote>,
        /// The round the votes lead to.
        enter: crate::ids::Round,
        /// Whether more than two thirds precommitted (else: more than one third are ahead).
        precommits: bool,
        /// 0 for the first sending.
        resend: u8,
    },
}

impl Wire for ConsensusMessage {
    const NAME: &'static str = "consensus message";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = CONSENSUS_BYTES_MAX;
}

/// A proposal with the block it proposes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ProposalMessage {
    /// The signed proposal.
    pub proposal: SignedProposal,
    /// Its block.
    pub block: Block,
}

impl Wire for ProposalMessage {
    const NAME: &'static str = "proposal message";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = GOSSIP_BYTES_MAX;
}

/// Transactions on their way into a block.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum TxMessage {
    /// Ready for a block.
    Transaction(Transaction),
    /// A job's submission that looks for availability signatures: validators fetch the blobs, check them, and answer.
    Offer(SignedTx),
    /// "I hold the input of the job submitted by `tx`."
    Availability {
        /// Id of the submission.
        tx: TxId,
        /// The signature.
        signature: AvailabilitySig,
    },
    /// Several ready for a block, in an order that the ledger can follow: a message costs each node on its way far more than
    /// a transfer's bytes.
    Transactions(Vec<Transaction>),
}

impl Wire for TxMessage {
    const NAME: &'static str = "tx message";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = TX_BYTES_MAX + 64;
}

/// A node's short word about itself, sent every few seconds; binds a validator key to a peer id.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Presence {
    /// libp2p peer id, bytes.
    pub peer: Vec<u8>,
    /// Addresses at which it can be dialled, multiaddr text; at most 4 of at most 128 bytes.
    pub addresses: Vec<String>,
    /// Last decided height.
    pub height: Height,
    /// Wall clock of the sender; old records are ignored, not punished.
    pub time_ms: TimeMs,
    /// Whether it proves.
    pub prover: Option<PublicKey>,
    /// Validator key that vouches for `peer`.
    pub validator: Option<PublicKey>,
}

/// A presence record, signed by the node itself and by the validator it names.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PresenceMessage {
    /// The record.
    pub presence: Presence,
    /// Signature of `presence.validator` over the record; there exactly when the record names a validator.
    pub signature: Option<Signature>,
    /// Signature of the node key behind `presence.peer`, so that nobody speaks for another node.
    pub node_signature: Signature,
}

impl Wire for PresenceMessage {
    const NAME: &'static str = "presence";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = PRESENCE_BYTES_MAX;
}

/// Presence records a node hands to a peer that asks whom else it may dial.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PresenceList {
    /// At most [`PRESENCE_LIST_MAX`] records.
    pub records: Vec<PresenceMessage>,
}

impl Wire for PresenceList {
    const NAME: &'static str = "presence list";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = PRESENCE_LIST_MAX * PRESENCE_BYTES_MAX;
}

/// Bytes before the key in the peer id of an ed25519 node key: an identity multihash of the key's protobuf form.
const ED25519_PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl Presence {
    /// The node key that a peer id spells out; `None` for a peer id of another kind of key.
    pub fn node_key(&self) -> Option<PublicKey> {
        let key = self.peer.strip_prefix(&ED25519_PEER_PREFIX)?;
        Some(PublicKey::new(key.try_into().ok()?))
    }

    /// The named validator's signature over the record.
    pub fn validator_signature(&self, key: &SecretKey, genesis: &GenesisHash) -> Signature {
        key.sign(Domain::PeerProof, genesis, &encode_body(self))
    }

    /// Completes the record with the node's signature, and the validator's if the record names one.
    pub fn sign(self, node: &SecretKey, validator: Option<Signature>, genesis: &GenesisHash) -> PresenceMessage {
        let node_signature = node.sign(Domain::Presence, genesis, &encode_body(&self));
        PresenceMessage { presence: self, signature: validator, node_signature }
    }
}

impl PresenceMessage {
    /// Whether the node and a named validator signed the record, and the record is within its bounds.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        let p = &self.presence;
        let bounded = p.peer.len() <= 64 && p.addresses.len() <= 4 && p.addresses.iter().all(|a| a.len() <= 128);
        let Some(node) = p.node_key().filter(|_| bounded) else { return false };
        let body = encode_body(p);
        node.verify(Domain::Presence, genesis, &body, &self.node_signature)
            && match (&p.validator, &self.signature) {
                (Some(key), Some(signature)) => key.verify(Domain::PeerProof, genesis, &body, signature),
                (None, None) => true,
                _ => false,
            }
    }
}
