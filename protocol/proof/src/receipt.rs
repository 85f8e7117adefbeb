//! Offline verification of receipts: from a trust root over validator-set changes to verdicts, statement and proof.
//!
//! The trust root is the genesis document, or a block that the reader names by its hash. Starting from genesis means
//! to trust every validator set since then: more than two thirds of a retired set could still sign a history that leaves
//! its own retirement out. A reader who knows a later block's hash names it and depends on nothing older.

use thiserror::Error;
use types::Wire;
use types::block::HEADER_VERSION;
use types::felt::Felt;
use types::genesis::Genesis;
use types::ids::{BlobHash, BlockId, GenesisHash, Height, JobId};
use types::job::{HashFunction, OutputRule};
use types::keys::PublicKey;
use types::limits::SET_CHANGES_MAX;
use types::receipt::{Receipt, SetChange};
use types::validator::ValidatorSet;
use types::verdict::{Check, Claim};

use crate::policy::PROOF_SYSTEM_VERSION;
use crate::security::Security;
use crate::{Rejection, cairo};

/// The check of a receipt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptCheck {
    /// The bytes are no receipt.
    Format,
    /// The set changes do not lead from the trust root to the height of the verdicts.
    Chain,
    /// The verdicts do not certify.
    Certificate,
    /// Verdicts, statement and proof do not belong together.
    Statement,
    /// A check of the proof.
    Proof(Check),
}

impl ReceiptCheck {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Chain => "chain",
            Self::Certificate => "certificate",
            Self::Statement => "statement",
            Self::Proof(check) => check.name(),
        }
    }
}

/// Why a receipt is not valid.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{}: {reason}", check.name())]
pub struct ReceiptFailure {
    /// The first check that failed.
    pub check: ReceiptCheck,
    /// What it found.
    pub reason: String,
}

impl From<Rejection> for ReceiptFailure {
    fn from(rejection: Rejection) -> Self {
        Self { check: ReceiptCheck::Proof(rejection.check), reason: rejection.reason }
    }
}

/// What the reader trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustRoot {
    /// The genesis document's validators, and every set since.
    Genesis,
    /// The block named by the reader.
    Checkpoint {
        /// Its height.
        height: Height,
        /// Its hash.
        block: BlockId,
    },
}

/// What the receipt says about the program's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputBinding {
    /// The output begins with words that the submitter fixed.
    Prefix,
    /// More than two thirds of the voting power re-executed the file on its arguments.
    Quorum,
    /// There is no input: the statement is the output of a finished run.
    None,
}

impl InputBinding {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Quorum => "quorum",
            Self::None => "none",
        }
    }
}

/// What a valid receipt says.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiptReport {
    /// The job.
    pub job: JobId,
    /// Hash of the program's words.
    pub program_hash: Felt,
    /// Function of that hash.
    pub hash_function: HashFunction,
    /// The program's output.
    pub output: Vec<Felt>,
    /// How the output is tied to an input.
    pub input_binding: InputBinding,
    /// What the proof is worth.
    pub security: Security,
    /// Proof system and policy.
    pub proof_system: u16,
    /// Who proved.
    pub prover: PublicKey,
    /// Height of the block with the commit.
    pub height: Height,
    /// Voting power that said "valid".
    pub power_signed: u64,
    /// Power of the set of that height.
    pub power_total: u64,
    /// What was trusted.
    pub trust_root: TrustRoot,
}

fn fail<T>(check: ReceiptCheck, reason: impl Into<String>) -> Result<T, ReceiptFailure> {
    Err(ReceiptFailure { check, reason: reason.into() })
}

/// [`verify_receipt`] for the bytes of a receipt file.
///
/// # Errors
/// [`ReceiptFailure`] with the first check that failed.
pub fn verify_receipt_bytes(
    bytes: &[u8],
    genesis: &Genesis,
    checkpoint: Option<BlockId>,
) -> Result<ReceiptReport, ReceiptFailure> {
    match Receipt::from_bytes(bytes) {
        Ok(receipt) => verify_receipt(&receipt, genesis, checkpoint),
        Err(e) => fail(ReceiptCheck::Format, e.to_string()),
    }
}

/// Checks a receipt against a genesis document and, when the reader names one, a block to start from: chain,
/// certificate, statement, then every check of the proof.
///
/// # Errors
/// [`ReceiptFailure`] with the first check that failed.
pub fn verify_receipt(
    receipt: &Receipt,
    genesis: &Genesis,
    checkpoint: Option<BlockId>,
) -> Result<ReceiptReport, ReceiptFailure> {
    let chain = genesis.hash();
    if receipt.genesis != chain {
        return fail(
            ReceiptCheck::Chain,
            format!("the receipt is of chain {}, the genesis document of {chain}", receipt.genesis),
        );
    }
    let (set, trust_root) = walk(receipt, genesis, &chain, checkpoint)?;
    let (power_signed, power_total) = certificate(receipt, &chain, &set)?;
    statement(receipt, &chain)?;
    let subject = &receipt.certificate.subject;
    let verified = cairo::verify(&receipt.proof, &receipt.statement, &subject.prover)?;
    Ok(ReceiptReport {
        job: receipt.statement.job,
        program_hash: verified.program_hash,
        hash_function: receipt.statement.hash_function,
        output: verified.output,
        input_binding: match receipt.statement.output_rule {
            OutputRule::Prefix(_) => InputBinding::Prefix,
            OutputRule::Quorum => InputBinding::Quorum,
            OutputRule::Exact(_) => InputBinding::None,
        },
        security: verified.security,
        proof_system: receipt.statement.proof_system,
        prover: subject.prover,
        height: subject.height,
        power_signed,
        power_total,
        trust_root,
    })
}

/// *chain*: follows the set changes from the trust root and returns the set of the verdicts' height.
pub(crate) fn walk(
    receipt: &Receipt,
    genesis: &Genesis,
    chain: &GenesisHash,
    checkpoint: Option<BlockId>,
) -> Result<(ValidatorSet, TrustRoot), ReceiptFailure> {
    let refuse = |reason: String| fail(ReceiptCheck::Chain, reason);
    let target = receipt.certificate.subject.height;
    let changes = receipt.set_changes.as_slice();
    if changes.len() > SET_CHANGES_MAX {
        return refuse(format!("{} set changes, at most {SET_CHANGES_MAX} are allowed", changes.len()));
    }
    let (mut set, mut height, trust_root, rest) = match checkpoint {
        None => {
            let set = match genesis.check().and_then(|()| genesis.validator_set()) {
                Ok(set) => set,
                Err(e) => return refuse(format!("genesis document: {e}")),
            };
            (set, Height(0), TrustRoot::Genesis, changes)
        }
        Some(block) => {
            let Some(at) = changes.iter().position(|c| c.header.id() == block) else {
                return refuse(format!("block {block}, named as checkpoint, is not among the receipt's set changes"));
            };
            let (head, rest) = changes.split_at(at.saturating_add(1));
            let Some(link) = head.last() else { return refuse("no set change".into()) };
            link_content(link, chain)?;
            let height = link.header.height;
            (link.new_set.clone(), height, TrustRoot::Checkpoint { height, block }, rest)
        }
    };
    for link in rest {
        let header = &link.header;
        if header.height <= height {
            return refuse(format!("set change at height {} comes after one at {height}", header.height));
        }
        link_content(link, chain)?;
        if header.validators != set.digest() {
            return refuse(format!(
                "the header at height {} names another validator set than the one before it set",
                header.height
            ));
        }
        if let Err(e) = link.certificate.verify(chain, &set, header.height, header.id()) {
            return refuse(format!("set change at height {}: {e}", header.height));
        }
        set = link.new_set.clone();
        height = header.height;
    }
    if target <= height {
        return refuse(format!("the verdicts are of height {target}, not above {height}, where the last set begins"));
    }
    Ok((set, trust_root))
}

/// What a link must be whoever signed it.
fn link_content(link: &SetChange, chain: &GenesisHash) -> Result<(), ReceiptFailure> {
    let refuse =
        |reason: String| fail(ReceiptCheck::Chain, format!("set change at height {}: {reason}", link.header.height));
    if link.header.version != HEADER_VERSION {
        return refuse(format!("header version {} is unknown, this build knows {HEADER_VERSION}", link.header.version));
    }
    if link.header.genesis != *chain {
        return refuse("the header is of another chain".into());
    }
    if let Err(e) = link.new_set.check() {
        return refuse(format!("the new set: {e}"));
    }
    if link.header.next_validators != link.new_set.digest() {
        return refuse("the header names another next set than the receipt brings".into());
    }
    Ok(())
}

/// *certificate*: more than two thirds of the set's power say "valid". Returns (power saying so, power of the set).
pub(crate) fn certificate(
    receipt: &Receipt,
    chain: &GenesisHash,
    set: &ValidatorSet,
) -> Result<(u64, u64), ReceiptFailure> {
    let refuse = |reason: String| fail(ReceiptCheck::Certificate, reason);
    let certificate = &receipt.certificate;
    if certificate.subject.verifier != PROOF_SYSTEM_VERSION {
        let found = certificate.subject.verifier;
        return refuse(format!(
            "the verdicts are of verifier version {found}, this build knows {PROOF_SYSTEM_VERSION}"
        ));
    }
    match certificate.powers(chain, set) {
        Err(e) => refuse(e.to_string()),
        Ok((valid, _, total)) if set.is_quorum(valid) => Ok((valid, total)),
        Ok((valid, _, total)) => refuse(format!("power {valid} of {total} says valid, more than two thirds is needed")),
    }
}

/// *statement*: the verdicts are about this statement and this proof.
pub(crate) fn statement(receipt: &Receipt, chain: &GenesisHash) -> Result<(), ReceiptFailure> {
    let refuse = |reason: String| fail(ReceiptCheck::Statement, reason);
    let (subject, statement) = (&receipt.certificate.subject, &receipt.statement);
    if statement.genesis != *chain {
        return refuse(format!("the statement is of chain {}, not {chain}", statement.genesis));
    }
    if subject.statement != statement.digest() {
        return refuse(format!(
            "the verdicts are on statement {}, the receipt's is {}",
            subject.statement,
            statement.digest()
        ));
    }
    if subject.job != statement.job || subject.task != statement.task {
        return refuse("the verdicts are on another job or task than the statement".into());
    }
    let Claim::Proof { hash, bytes, .. } = &subject.claim else {
        return refuse("the verdicts confirm a failure report, not a proof".into());
    };
    let found = BlobHash::new(*blake3::hash(&receipt.proof).as_bytes());
    if *hash != found || *bytes != receipt.proof.len() as u64 {
        return refuse(format!(
            "the verdicts are on proof {hash} of {bytes} bytes, the receipt's is {found} of {}",
            receipt.proof.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
