//! Transactions: what changes the ledger.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::{Wire, encode_body};
use crate::evidence::Evidence;
use crate::ids::{Amount, BlobHash, Digest, GenesisHash, JobId, TimeMs, TxId};
use crate::job::JobSpec;
use crate::keys::{PublicKey, SecretKey, Signature};
use crate::limits::TX_BYTES_MAX;
use crate::signing::{Domain, hash_parts};
use crate::verdict::{Claim, ProofCertificate};

/// What the sender asks for.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Action {
    /// Moves credits.
    Transfer {
        /// Receiver.
        to: PublicKey,
        /// Credits.
        amount: Amount,
    },
    /// Submits a job; escrows `spec.max_fee`.
    SubmitJob(Box<JobSpec>),
    /// Withdraws an own job that has no claim in voting.
    CancelJob {
        /// The job.
        job: JobId,
    },
    /// Joins the provers; locks the deposit of the parameters.
    RegisterProver {
        /// Weight in the assignment, 1 to 1,000.
        weight: u32,
        /// Largest step limit it takes.
        steps_max: u64,
    },
    /// Changes what a prover takes.
    UpdateProver {
        /// Weight in the assignment, 1 to 1,000.
        weight: u32,
        /// Largest step limit it takes.
        steps_max: u64,
    },
    /// Leaves the provers; the deposit returns when no lease is open.
    ExitProver,
    /// Puts an own claim for a task up for the vote.
    CommitClaim {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// Attempt the sender is eligible in.
        attempt: u32,
        /// A proof, or a report that the program fails.
        claim: Claim,
    },
    /// Gives the turn away: the next rank starts at once.
    Decline {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// Attempt declined.
        attempt: u32,
        /// Why.
        reason: DeclineReason,
    },
    /// Registers a validator, from the height after next on; locks the stake.
    RegisterValidator {
        /// Consensus key.
        key: PublicKey,
        /// Voting power.
        power: u64,
        /// Stake locked.
        stake: Amount,
        /// Signature of `key` over the sender's key: its owner agrees.
        possession: Signature,
    },
    /// Changes an own validator's voting power.
    UpdateValidator {
        /// Consensus key.
        key: PublicKey,
        /// New voting power.
        power: u64,
    },
    /// Retires an own validator.
    ExitValidator {
        /// Consensus key.
        key: PublicKey,
    },
    /// A validator's statement about whom it reached lately.
    Attest {
        /// Consensus key of the observer, owned by the sender.
        observer: PublicKey,
        /// Validators reached since its last statement, rising order.
        reached: Vec<PublicKey>,
    },
}

/// Why a prover gives its turn away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclineReason {
    /// Estimated memory is above what it has.
    Memory,
    /// It is shutting down or busy.
    Busy,
    /// The program or its arguments can't be had.
    Input,
    /// Its worker crashed, hung or was killed.
    Worker,
    /// The run is correct, but this proof system can't prove it, or its own proof failed its own check.
    Unprovable,
}

/// A transaction's content, as signed by its sender.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SenderTx {
    /// The chain.
    pub genesis: GenesisHash,
    /// Who sends and pays.
    pub sender: PublicKey,
    /// Number of the sender's transaction, from 0, no gaps.
    pub nonce: u64,
    /// Not to be included in a block of this time or later.
    pub expires_ms: TimeMs,
    /// Trace id for logs on all nodes; 0 for none.
    pub trace: u64,
    /// What is asked.
    pub action: Action,
}

/// A sender's transaction with its signature.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SignedTx {
    /// The content.
    pub content: SenderTx,
    /// Signature of `content.sender`.
    pub signature: Signature,
}

/// A validator's signature that it holds a job's blobs and that they are what the specification says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Encode, Decode)]
pub struct AvailabilitySig {
    /// Consensus key.
    pub validator: PublicKey,
    /// Signature over the transaction's id.
    pub signature: Signature,
}

impl AvailabilitySig {
    /// Signs that the input of the job submitted by transaction `tx` is held here.
    pub fn sign(tx: &TxId, key: &SecretKey, genesis: &GenesisHash) -> Self {
        Self { validator: key.public(), signature: key.sign(Domain::Availability, genesis, tx.as_bytes()) }
    }

    /// Whether the named validator signed it.
    pub fn verify(&self, tx: &TxId, genesis: &GenesisHash) -> bool {
        self.validator.verify(Domain::Availability, genesis, tx.as_bytes(), &self.signature)
    }
}

/// An entry of a block.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Transaction {
    /// Any action but a job's submission.
    Signed(SignedTx),
    /// A job's submission with the validators' word that the input is held; rising key order. The id covers the signed
    /// content alone.
    Submission {
        /// The signed `SubmitJob`.
        tx: SignedTx,
        /// Availability signatures of more than one third of the power.
        availability: Vec<AvailabilitySig>,
    },
    /// Records what verdicts decided. Nobody signs it; it counts once per claim.
    Certify {
        /// The verdicts.
        certificate: ProofCertificate,
        /// Account that gets the certifier's share: whoever assembled it.
        certifier: PublicKey,
    },
    /// Records an offence. Nobody signs it; it counts once per offence.
    Evidence(Evidence),
}

impl Wire for SignedTx {
    const NAME: &'static str = "signed transaction";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = TX_BYTES_MAX;
}

impl Wire for Transaction {
    const NAME: &'static str = "transaction";
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = TX_BYTES_MAX;
}

impl SenderTx {
    /// Signs the transaction.
    pub fn sign(self, key: &SecretKey) -> SignedTx {
        let signature = key.sign(Domain::Transaction, &self.genesis, &encode_body(&self));
        SignedTx { content: self, signature }
    }
}

impl SignedTx {
    /// The transaction's identity: hash of the signed content.
    pub fn id(&self) -> TxId {
        TxId::new(hash_parts("proofmesh tx-id v1", &[&encode_body(&self.content)]))
    }

    /// Hash over content and signature: what a verified signature is remembered by. The id will not do, because the same
    /// content under another signature has the same id.
    pub fn sealed(&self) -> Digest {
        Digest::new(hash_parts("proofmesh sealed-tx v1", &[&encode_body(self)]))
    }

    /// Whether the sender signed it, for `genesis`.
    pub fn verify(&self, genesis: &GenesisHash) -> bool {
        let content = &self.content;
        content.genesis == *genesis
            && content.sender.verify(Domain::Transaction, genesis, &encode_body(content), &self.signature)
    }
}

impl Transaction {
    /// The transaction's identity.
    pub fn id(&self) -> TxId {
        match self {
            Self::Signed(tx) | Self::Submission { tx, .. } => tx.id(),
            Self::Certify { certificate, .. } => {
                TxId::new(hash_parts("proofmesh certify-id v1", &[&encode_body(&certificate.subject)]))
            }
            Self::Evidence(evidence) => {
                TxId::new(hash_parts("proofmesh evidence-id v1", &[evidence.offence().as_bytes()]))
            }
        }
    }

    /// The signed part, if a sender signed it.
    pub fn signed(&self) -> Option<&SignedTx> {
        match self {
            Self::Signed(tx) | Self::Submission { tx, .. } => Some(tx),
            Self::Certify { .. } | Self::Evidence(_) => None,
        }
    }

    /// Blobs that must be held while the transaction's job lives.
    pub fn blobs(&self) -> BTreeSet<BlobHash> {
        match self.signed().map(|tx| &tx.content.action) {
            Some(Action::SubmitJob(spec)) => {
                std::iter::once(spec.program.hash).chain(spec.args.map(|a| a.hash)).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}
