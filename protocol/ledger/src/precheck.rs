//! What the next block would say to a transaction, before it is gossiped: the same rules, the same errors, nothing
//! written.

use types::ids::TimeMs;
use types::keys::PublicKey;
use types::kv::KvRead;
use types::transaction::{SignedTx, Transaction};

use crate::error::{LedgerError, StateError};
use crate::execute::{Context, Exec};
use crate::state;

fn context(view: &dyn KvRead, now: TimeMs) -> Result<Context, StateError> {
    let head = state::head(view)?;
    let height = head.height.next();
    let set = state::set_at(view, height)?.ok_or(StateError::Missing { record: "validator set record" })?;
    let proposer = set.validators().first().map_or(PublicKey::new([0; 32]), |v| v.key);
    Context::new(view, height, now.max(head.time_ms.plus(1)), &proposer, head.seed)
}

/// Whether a block of time `now` on top of the view could hold the transaction.
///
/// # Errors
/// [`LedgerError::Refused`] with code, field, value, limit and remedy; [`LedgerError::State`].
pub fn check_transaction(view: &dyn KvRead, tx: &Transaction, now: TimeMs) -> Result<(), LedgerError> {
    check_after(view, &[], tx, now)
}

/// As [`check_transaction`], after the `pending` transactions of the same sender that are not in a block yet.
///
/// # Errors
/// As [`check_transaction`]; pending transactions that are refused are passed over.
pub fn check_after(
    view: &dyn KvRead,
    pending: &[Transaction],
    tx: &Transaction,
    now: TimeMs,
) -> Result<(), LedgerError> {
    let context = context(view, now)?;
    let mut exec = Exec::new(view, &context);
    exec.begin()?;
    for earlier in pending {
        if let Err(LedgerError::State(error)) = exec.try_transaction(earlier) {
            return Err(error.into());
        }
    }
    exec.try_transaction(tx)
}

/// As [`check_transaction`] for a job's submission before any validator has signed that it holds the input: what a
/// validator asks before it signs, and the RPC node before it collects.
///
/// # Errors
/// As [`check_transaction`].
pub fn check_submission(view: &dyn KvRead, tx: &SignedTx, now: TimeMs) -> Result<(), LedgerError> {
    let context = context(view, now)?;
    let mut exec = Exec::new(view, &context);
    exec.begin()?;
    exec.envelope(tx)?;
    exec.submit(tx)
}
