//! The receipt a user takes away: statement, proof, verdicts, and the chain of validator sets that makes the verdicts mean
//! something. How it is checked lives in the crate `proof`.

use bincode::{Decode, Encode};

use crate::block::Header;
use crate::codec::Wire;
use crate::ids::GenesisHash;
use crate::limits::RECEIPT_BYTES_MAX;
use crate::statement::Statement;
use crate::validator::ValidatorSet;
use crate::verdict::ProofCertificate;
use crate::vote::CommitCertificate;

/// One change of the validator set: a decided header whose `next_validators` is `new_set`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SetChange {
    /// Header of the last block of the old set.
    pub header: Header,
    /// The old set's certificate on it.
    pub certificate: CommitCertificate,
    /// The set from the next height on.
    pub new_set: ValidatorSet,
}

/// A certified proof that anyone checks offline against a genesis document.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Receipt {
    /// The chain.
    pub genesis: GenesisHash,
    /// What is proved.
    pub statement: Statement,
    /// The proof blob.
    pub proof: Vec<u8>,
    /// The verdicts; its subject names prover, claim and height.
    pub certificate: ProofCertificate,
    /// Every set change from genesis to the certificate's height, rising.
    pub set_changes: Vec<SetChange>,
}

impl Wire for Receipt {
    const NAME: &'static str = "receipt";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = RECEIPT_BYTES_MAX;
}
