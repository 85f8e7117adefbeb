//! Building and checking blocks. Whether a block is valid depends on chain bytes alone: the view of its parent and the
//! block.

use thiserror::Error;
use types::Wire;
use types::block::{Block, HEADER_VERSION, Header, next_seed, transactions_root};
use types::ids::{BlockId, Digest, Height, StateRoot, TimeMs, TxId};
use types::keys::PublicKey;
use types::kv::KvRead;
use types::limits::{BLOCK_BYTES_MAX, BLOCK_TXS_MAX};
use types::transaction::Transaction;
use types::validator::ValidatorSet;
use types::vote::{CertificateError, CommitCertificate};

use crate::error::{LedgerError, StateError, TxError};
use crate::execute::{Context, Exec, Executed};
use crate::known::{Known, Nothing};
use crate::state;
use crate::state::records::Head;
use crate::tree;

/// A block that was built, and what became of the candidates that are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The block.
    pub block: Block,
    /// Candidates that this state refuses. Those with [`crate::TxCode::may_pass_later`] are worth keeping.
    pub dropped: Vec<(TxId, TxError)>,
    /// Candidates that did not fit.
    pub left_over: Vec<TxId>,
}

/// What is wrong with a block, on every node and for ever.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BlockFault {
    /// A header field differs from what the parent's state gives.
    #[error("header.{field}: {found}, expected {expected}")]
    Header {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: String,
        /// Value expected.
        expected: String,
    },
    /// The block is too large.
    #[error("{what}: {found}, the limit is {limit}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// Value found.
        found: usize,
        /// Largest value.
        limit: usize,
    },
    /// The certificate of the parent proves nothing.
    #[error("last_commit: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate of the parent is missing, or there is one at height 1.
    #[error("last_commit: {0}")]
    CertificatePresence(&'static str),
    /// A transaction is refused.
    #[error("transaction {index}: {error}")]
    Transaction {
        /// Its place in the block.
        index: usize,
        /// Why.
        error: TxError,
    },
}

/// Why a block is neither accepted nor refused: this node can't tell yet.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// The block is not for the height after this view's head.
    #[error("block is for height {found}, this state takes {expected}")]
    Height {
        /// Height of the block.
        found: Height,
        /// Height this view can check.
        expected: Height,
    },
    /// The block's time is further ahead of this node's clock than the parameters allow.
    #[error("block time {time} is more than {drift_ms} ms ahead of this node's clock {now}")]
    Clock {
        /// Time of the block.
        time: TimeMs,
        /// This node's clock.
        now: TimeMs,
        /// The parameter.
        drift_ms: u64,
    },
}

/// What a node makes of a proposed block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Valid, with its effects.
    Valid(Box<Executed>),
    /// Invalid on every node, for ever.
    Invalid(BlockFault),
    /// Not to be voted on by this node now.
    Withhold(Withheld),
}

/// Why a block was not applied.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ApplyError {
    /// Invalid on every node.
    #[error(transparent)]
    Invalid(#[from] BlockFault),
    /// Not the next block of this view.
    #[error(transparent)]
    Withheld(#[from] Withheld),
    /// This node's trouble.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The last block of the view.
///
/// # Errors
/// [`StateError`].
pub fn head(view: &dyn KvRead) -> Result<Head, StateError> {
    state::head(view)
}

/// The state root of the view: what the next header names.
///
/// # Errors
/// [`StateError`].
pub fn state_root(view: &dyn KvRead) -> Result<StateRoot, StateError> {
    tree::root(view, state::head(view)?.height)
}

/// The validator set in force at `height`, from 1 up to two past the head.
///
/// # Errors
/// [`StateError`].
pub fn validator_set(view: &dyn KvRead, height: Height) -> Result<Option<ValidatorSet>, StateError> {
    state::set_at(view, height)
}

/// Whether the next block should come at `block_ms`: a job is not terminal, or the last block changed something.
///
/// # Errors
/// [`StateError`].
pub fn has_work(view: &dyn KvRead) -> Result<bool, StateError> {
    Ok(state::head(view)?.changed || state::counters(view)?.live_jobs > 0)
}

/// What the header of the next block must say whatever its transactions are.
struct Frame {
    header: Header,
    set: ValidatorSet,
}

fn frame(view: &dyn KvRead, last_commit: Option<&CommitCertificate>) -> Result<Frame, StateError> {
    let head = state::head(view)?;
    let missing = || StateError::Missing { record: "validator set record" };
    let height = head.height.next();
    let set = state::set_at(view, height)?.ok_or_else(missing)?;
    let next = state::set_at(view, height.next())?.ok_or_else(missing)?;
    let commit = last_commit.map_or(Digest::new([0; 32]), CommitCertificate::digest);
    let empty = transactions_root(std::iter::empty());
    let header = Header {
        version: HEADER_VERSION,
        genesis: state::chain(view)?.genesis,
        height,
        time_ms: head.time_ms.plus(1),
        proposer: PublicKey::new([0; 32]),
        parent: head.id,
        last_commit: commit,
        transactions: empty,
        state_root: tree::root(view, head.height)?,
        evidence: empty,
        validators: set.digest(),
        next_validators: next.digest(),
        params: state::params(view)?.digest(),
        seed: next_seed(&head.seed, &head.id, &commit),
    };
    Ok(Frame { header, set })
}

fn evidence_root(transactions: &[Transaction]) -> Digest {
    transactions_root(transactions.iter().filter(|t| matches!(t, Transaction::Evidence(_))))
}

/// Builds the next block from candidates in their order; put evidence and certificates first. `last_commit` is the
/// certificate of the view's head, absent exactly at height 0. The block's time is `now`, or just after the parent's.
///
/// # Errors
/// [`StateError`].
pub fn build_block(
    view: &dyn KvRead,
    last_commit: Option<&CommitCertificate>,
    proposer: PublicKey,
    now: TimeMs,
    candidates: &[Transaction],
) -> Result<Built, StateError> {
    build_block_knowing(view, last_commit, proposer, now, candidates, &Nothing)
}

/// As [`build_block`], without checking again the signatures that `known` remembers.
///
/// # Errors
/// As [`build_block`].
pub fn build_block_knowing(
    view: &dyn KvRead,
    last_commit: Option<&CommitCertificate>,
    proposer: PublicKey,
    now: TimeMs,
    candidates: &[Transaction],
    known: &dyn Known,
) -> Result<Built, StateError> {
    let Frame { header, .. } = frame(view, last_commit)?;
    let header = Header { time_ms: now.max(header.time_ms), proposer, ..header };
    let mut block = Block { header, last_commit: last_commit.cloned(), transactions: Vec::new() };
    let mut room = BLOCK_BYTES_MAX.saturating_sub(block.to_bytes().len());
    let context = Context::new(view, block.header.height, block.header.time_ms, &proposer, block.header.seed)?;
    let mut exec = Exec::new(view, &context, known);
    exec.begin()?;
    let (mut dropped, mut left_over) = (Vec::new(), Vec::new());
    for tx in candidates {
        // The body's encoding has no version of its own, so this is two bytes more than it takes.
        let bytes = tx.to_bytes().len();
        if bytes > room || block.transactions.len() >= BLOCK_TXS_MAX {
            left_over.push(tx.id());
            continue;
        }
        match exec.try_transaction(tx) {
            Ok(()) => {
                room = room.saturating_sub(bytes);
                block.transactions.push(tx.clone());
            }
            Err(LedgerError::Refused(error)) => dropped.push((tx.id(), error)),
            Err(LedgerError::State(error)) => return Err(error),
        }
    }
    block.header.transactions = transactions_root(block.transactions.iter());
    block.header.evidence = evidence_root(&block.transactions);
    Ok(Built { block, dropped, left_over })
}

/// Checks a proposed block against the view of its parent and this node's clock. A block whose time is too far ahead is not
/// executed: what its header says is held against the state, and the rest when the clock allows.
///
/// # Errors
/// [`StateError`] alone: everything about the block is in the outcome.
pub fn check_block(view: &dyn KvRead, block: &Block, now: TimeMs) -> Result<CheckOutcome, StateError> {
    check_block_knowing(view, block, now, &Nothing)
}

/// As [`check_block`], without checking again the signatures that `known` remembers.
///
/// # Errors
/// As [`check_block`].
pub fn check_block_knowing(
    view: &dyn KvRead,
    block: &Block,
    now: TimeMs,
    known: &dyn Known,
) -> Result<CheckOutcome, StateError> {
    let (drift_ms, time) = (state::params(view)?.clock_drift_ms, block.header.time_ms);
    let applied = match check_frame(view, block) {
        Ok(()) if time > now.plus(drift_ms) => {
            return Ok(CheckOutcome::Withhold(Withheld::Clock { time, now, drift_ms }));
        }
        Ok(()) => execute(view, block, known),
        Err(error) => Err(error),
    };
    match applied {
        Ok(executed) => Ok(CheckOutcome::Valid(Box::new(executed))),
        Err(ApplyError::Invalid(fault)) => Ok(CheckOutcome::Invalid(fault)),
        Err(ApplyError::Withheld(why)) => Ok(CheckOutcome::Withhold(why)),
        Err(ApplyError::State(error)) => Err(error),
    }
}

fn check_header(found: &Header, frame: &Frame, block: &Block) -> Result<(), BlockFault> {
    let e = &frame.header;
    let differs = |field, found: &dyn ToString, expected: &dyn ToString| {
        Err(BlockFault::Header { field, found: found.to_string(), expected: expected.to_string() })
    };
    if found.version != e.version {
        return differs("version", &found.version, &e.version);
    }
    if found.genesis != e.genesis {
        return differs("genesis", &found.genesis, &e.genesis);
    }
    if found.parent != e.parent {
        return differs("parent", &found.parent, &e.parent);
    }
    if found.time_ms < e.time_ms {
        return differs("time_ms", &found.time_ms, &format!("at least {}", e.time_ms));
    }
    if frame.set.power_of(&found.proposer).is_none() {
        return differs("proposer", &found.proposer, &"a validator of this height");
    }
    let transactions = transactions_root(block.transactions.iter());
    let evidence = evidence_root(&block.transactions);
    for (field, found, expected) in [
        ("last_commit", &found.last_commit, &e.last_commit),
        ("transactions", &found.transactions, &transactions),
        ("evidence", &found.evidence, &evidence),
        ("validators", &found.validators, &e.validators),
        ("next_validators", &found.next_validators, &e.next_validators),
        ("params", &found.params, &e.params),
        ("seed", &found.seed, &e.seed),
    ] {
        if found != expected {
            return differs(field, found, expected);
        }
    }
    if found.state_root != e.state_root {
        return differs("state_root", &found.state_root, &e.state_root);
    }
    Ok(())
}

fn check_last_commit(view: &dyn KvRead, head: &Head, block: &Block) -> Result<(), ApplyError> {
    match (&block.last_commit, head.height.0) {
        (None, 0) => Ok(()),
        (Some(_), 0) => Err(BlockFault::CertificatePresence("present at height 1").into()),
        (None, _) => Err(BlockFault::CertificatePresence("missing").into()),
        (Some(certificate), _) => {
            let missing = StateError::Missing { record: "validator set record" };
            let set = state::set_at(view, head.height)?.ok_or(missing)?;
            let genesis = state::chain(view)?.genesis;
            certificate.verify(&genesis, &set, head.height, head.id).map_err(BlockFault::from)?;
            Ok(())
        }
    }
}

/// Executes a block on the view of its parent, with every check but the one of the clock: for blocks with a commit
/// certificate (sync, replay), whose time others have judged. The block's own certificate is the caller's to check.
///
/// # Errors
/// [`ApplyError`].
pub fn apply_block(view: &dyn KvRead, block: &Block) -> Result<Executed, ApplyError> {
    apply_block_knowing(view, block, &Nothing)
}

/// As [`apply_block`], without checking again the signatures that `known` remembers.
///
/// # Errors
/// As [`apply_block`].
pub fn apply_block_knowing(view: &dyn KvRead, block: &Block, known: &dyn Known) -> Result<Executed, ApplyError> {
    check_frame(view, block)?;
    execute(view, block, known)
}

/// Everything about a block but what its transactions do.
fn check_frame(view: &dyn KvRead, block: &Block) -> Result<(), ApplyError> {
    let head = state::head(view)?;
    let expected = head.height.next();
    if block.header.height != expected {
        return Err(Withheld::Height { found: block.header.height, expected }.into());
    }
    let bytes = block.to_bytes().len();
    if bytes > BLOCK_BYTES_MAX {
        return Err(BlockFault::TooLarge { what: "block bytes", found: bytes, limit: BLOCK_BYTES_MAX }.into());
    }
    let count = block.transactions.len();
    if count > BLOCK_TXS_MAX {
        return Err(BlockFault::TooLarge { what: "transactions", found: count, limit: BLOCK_TXS_MAX }.into());
    }
    check_header(&block.header, &frame(view, block.last_commit.as_ref())?, block)?;
    check_last_commit(view, &head, block)
}

/// What the transactions of a block do; its frame is checked.
fn execute(view: &dyn KvRead, block: &Block, known: &dyn Known) -> Result<Executed, ApplyError> {
    let header = &block.header;
    let context = Context::new(view, header.height, header.time_ms, &header.proposer, header.seed)?;
    let mut exec = Exec::new(view, &context, known);
    exec.begin()?;
    for (index, tx) in block.transactions.iter().enumerate() {
        exec.try_transaction(tx).map_err(|error| match error {
            LedgerError::Refused(error) => ApplyError::Invalid(BlockFault::Transaction { index, error }),
            LedgerError::State(error) => ApplyError::State(error),
        })?;
    }
    Ok(exec.finish(view, header)?)
}

/// The block id that a header of height 1 names as its parent.
///
/// # Errors
/// [`StateError`].
pub fn genesis_block_id(view: &dyn KvRead) -> Result<BlockId, StateError> {
    Ok(BlockId::new(*state::chain(view)?.genesis.as_bytes()))
}
