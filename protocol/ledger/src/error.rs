//! Errors: a store that fails is this node's trouble; a refused transaction is the sender's, and says what to do.

use std::fmt;

use thiserror::Error;
use types::kv::KvError;
use types::{TypeError, ids::Amount};

/// The state could not be read. Says nothing about a transaction or a block.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum StateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] KvError),
    /// A record does not decode.
    #[error("record {record} in the store is corrupt: {source}")]
    Corrupt {
        /// Name of the record.
        record: &'static str,
        /// What the decoder met.
        source: TypeError,
    },
    /// A record that every state has is missing: genesis was never written, or the store lost it.
    #[error("record {record} is missing from the store")]
    Missing {
        /// Name of the record.
        record: &'static str,
    },
    /// The state tree failed.
    #[error("state tree: {0}")]
    Tree(String),
    /// Credits in the state do not add up.
    #[error("credits do not add up: {0}")]
    Credits(String),
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Stable code of a refusal, as RPC shows it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum TxCode { $($(#[$doc])* $variant,)* }

        impl TxCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

codes! {
    /// Signed for another chain.
    WrongChain = "wrong_chain",
    /// The sender's signature does not verify.
    BadSignature = "bad_signature",
    /// The transaction is larger than the limit.
    TooLarge = "too_large",
    /// The nonce was used before.
    NonceUsed = "nonce_used",
    /// Transactions with smaller nonces are missing.
    NonceGap = "nonce_gap",
    /// The expiry has passed.
    TxExpired = "tx_expired",
    /// The expiry is too far ahead.
    ExpiryTooFar = "expiry_too_far",
    /// The account has too few credits.
    Balance = "insufficient_balance",
    /// A value is outside its bounds.
    OutOfBounds = "out_of_bounds",
    /// The fee limit is below the price of the step limit.
    FeeTooLow = "fee_too_low",
    /// Too many live jobs, provers or validators.
    Full = "full",
    /// Not enough validators hold the input.
    Availability = "availability",
    /// The idempotency key was used with other content.
    IdempotencyConflict = "idempotency_conflict",
    /// No such job.
    UnknownJob = "unknown_job",
    /// No such task.
    UnknownTask = "unknown_task",
    /// The job is terminal.
    JobEnded = "job_ended",
    /// The sender does not own it.
    NotOwner = "not_owner",
    /// A claim is in voting.
    InVoting = "in_voting",
    /// No claim is in voting.
    NotInVoting = "not_in_voting",
    /// The task has another attempt by now.
    WrongAttempt = "wrong_attempt",
    /// It is not the sender's turn.
    NotEligible = "not_eligible",
    /// Registered already.
    Registered = "already_registered",
    /// The deposit is locked after a rejected claim.
    DepositLocked = "deposit_locked",
    /// Not registered.
    NotRegistered = "not_registered",
    /// More than one third of the power would change in one block, or a bound of the set would break.
    SetChange = "set_change",
    /// The stake is too small for the power.
    Stake = "stake_too_small",
    /// The certificate does not verify or decides nothing.
    Certificate = "bad_certificate",
    /// The certificate or the evidence was recorded before.
    Recorded = "already_recorded",
    /// The evidence proves nothing.
    Evidence = "bad_evidence",
    /// The evidence is older than the evidence window.
    EvidenceAge = "evidence_too_old",
    /// Too soon after the last one.
    TooSoon = "too_soon",
}

impl TxCode {
    /// Whether the same transaction may be accepted later, without change: the sender should wait rather than give up.
    pub const fn may_pass_later(self) -> bool {
        matches!(
            self,
            Self::NonceGap
                | Self::ExpiryTooFar
                | Self::Balance
                | Self::Full
                | Self::InVoting
                | Self::NotInVoting
                | Self::NotEligible
                | Self::SetChange
                | Self::TooSoon
                | Self::UnknownJob
        )
    }
}

impl fmt::Display for TxCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a transaction is refused: by the state it was checked against, not for ever unless [`TxCode::may_pass_later`] is
/// false.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{code}: {field} is {value}, the limit is {limit}; {remedy}")]
pub struct TxError {
    code: TxCode,
    field: &'static str,
    value: String,
    limit: String,
    remedy: &'static str,
}

impl TxError {
    /// Builds a refusal.
    pub fn new(
        code: TxCode,
        field: &'static str,
        value: impl fmt::Display,
        limit: impl fmt::Display,
        remedy: &'static str,
    ) -> Self {
        Self { code, field, value: value.to_string(), limit: limit.to_string(), remedy }
    }

    /// Too few credits.
    pub(crate) fn balance(field: &'static str, need: Amount, have: Amount) -> Self {
        Self::new(TxCode::Balance, field, need, format_args!("balance {have}"), "fund the account or ask for less")
    }

    /// Stable code.
    pub const fn code(&self) -> TxCode {
        self.code
    }

    /// Field of the transaction that is at fault.
    pub const fn field(&self) -> &'static str {
        self.field
    }

    /// Value found there.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What would be accepted.
    pub fn limit(&self) -> &str {
        &self.limit
    }

    /// What the sender can do.
    pub const fn remedy(&self) -> &'static str {
        self.remedy
    }
}

impl From<TypeError> for TxError {
    fn from(error: TypeError) -> Self {
        match error {
            TypeError::OutOfBounds { field, value, limit } => {
                Self::new(TxCode::OutOfBounds, field, value, limit, "change the field to a value within the limit")
            }
            other => Self::new(TxCode::OutOfBounds, "transaction", other, "a well-formed record", "correct the record"),
        }
    }
}

/// A transaction was refused, or the state could not be read.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum LedgerError {
    /// The sender's fault.
    #[error(transparent)]
    Refused(#[from] TxError),
    /// This node's trouble.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<KvError> for LedgerError {
    fn from(error: KvError) -> Self {
        Self::State(StateError::Store(error))
    }
}
