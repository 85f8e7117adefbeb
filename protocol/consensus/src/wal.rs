//! What the consensus log holds: the inputs that must survive a crash, each a versioned record of its own.
//!
//! Framing, checksums and the cutting of a torn tail belong to the file layer. A record that arrives here was written whole,
//! so one that does not decode means corruption, and the node stops. A value's record holds the whole block: whoever voted
//! for a block can serve and re-execute it after a crash without asking a peer.

use bincode::{Decode, Encode};
use types::block::{Block, DecidedBlock};
use types::codec::Wire;
use types::ids::Round;
use types::limits::{BLOCK_BYTES_MAX, CONSENSUS_BYTES_MAX};
use types::vote::{SignedProposal, SignedVote};

use crate::machine::TimerKind;

/// One logged input of a height.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Record {
    /// An accepted vote, own or foreign.
    Vote(SignedVote),
    /// An accepted proposal, own or foreign; its block follows in a [`Record::Value`] once it is checked.
    Proposal(SignedProposal),
    /// A timeout that fired.
    Timeout {
        /// Which.
        kind: TimerKind,
        /// Its round.
        round: Round,
    },
    /// A block that was checked, or built here.
    Value {
        /// Round in which it was checked.
        round: Round,
        /// The answer.
        valid: bool,
        /// The block.
        block: Box<Block>,
    },
    /// Prevotes of more than two thirds for one value, in rising key order.
    Polka(Vec<SignedVote>),
    /// A certified block from sync. The core does not ask for it, but its certificate moves rounds: without it, replay could
    /// lead to other votes than the logged ones.
    Synced(Box<DecidedBlock>),
}

impl Wire for Record {
    const NAME: &'static str = "consensus log record";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = BLOCK_BYTES_MAX + CONSENSUS_BYTES_MAX + 4096;
}

#[cfg(test)]
mod tests {
    use types::TypeError;
    use types::ids::{BlockId, GenesisHash, Height};
    use types::keys::SecretKey;
    use types::vote::{Vote, VoteKind};

    use super::*;

    #[test]
    fn records_round_trip_and_strange_ones_are_refused() {
        let key = SecretKey::from_seed([1; 32]);
        let vote = Vote {
            kind: VoteKind::Prevote,
            height: Height(2),
            round: Round(0),
            value: Some(BlockId::new([3; 32])),
            validator: key.public(),
        };
        let signed = vote.sign(&key, &GenesisHash::new([9; 32]));
        for record in [
            Record::Vote(signed.clone()),
            Record::Timeout { kind: TimerKind::Precommit, round: Round(4) },
            Record::Polka(vec![signed; 100]),
        ] {
            assert_eq!(Record::from_bytes(&record.to_bytes()).unwrap(), record);
        }
        let mut bytes = Record::Timeout { kind: TimerKind::Propose, round: Round(0) }.to_bytes();
        bytes.push(0);
        assert!(matches!(Record::from_bytes(&bytes), Err(TypeError::Malformed { .. })));
        bytes[0] = 2;
        assert!(matches!(Record::from_bytes(&bytes), Err(TypeError::UnknownVersion { version: 2, .. })));
    }
}
