//! What travels by gossip: one closed enum a topic. Bulk never does.

use bincode::{Decode, Encode};

use crate::block::Block;
use crate::codec::{Wire, encode_body};
use crate::ids::{GenesisHash, Height, TimeMs, TxId};
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::limits::{CONSENSUS_BYTES_MAX, GOSSIP_BYTES_MAX, PRESENCE_BYTES_MAX, TX_BYTES_MAX, VERDICT_BYTES_MAX};
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

/// A presence record with the validator's signature, if it names one.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct PresenceMessage {
    /// The record.
    pub presence: Presence,
    /// Signature of `presence.validator` over the record.
    pub signature: Option<Signature>,
}

impl Wire for PresenceMessage {
    const NAME: &'static str = "presence";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = PRESENCE_BYTES_MAX;
}

impl Presence {
    /// Completes the record, signed if it names a validator key.
    pub fn sign(self, key: Option<&SecretKey>, genesis: &GenesisHash) -> PresenceMessage {
        let signature = key.map(|k| k.sign(Domain::PeerProof, genesis, &encode_body(&self)));
        PresenceMessage { presence: self, signature }
    }
}

impl PresenceMessage {
    /// Whether a named validator key signed the record, and the record is within its bounds.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        let p = &self.presence;
        let bounded = p.peer.len() <= 64 && p.addresses.len() <= 4 && p.addresses.iter().all(|a| a.len() <= 128);
        bounded
            && match (&p.validator, &self.signature) {
                (Some(key), Some(signature)) => key.verify(Domain::PeerProof, genesis, &encode_body(p), signature),
                (None, None) => true,
                _ => false,
            }
    }
}
