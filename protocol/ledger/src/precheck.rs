//! What the next block would say to a transaction, before it is gossiped: the same rules, the same errors, nothing
//! written.

use types::ids::TimeMs;
use types::keys::PublicKey;
use types::kv::{KvRead, KvWrites};
use types::transaction::{SignedTx, Transaction};

use crate::error::{LedgerError, StateError, TxError};
use crate::execute::{Context, Exec};
use crate::known::{Known, Nothing};
use crate::state;

/// The beginning of the next block on a view, made once for many transactions.
pub struct Outlook {
    context: Context,
    begun: KvWrites,
}

/// What a sender's earlier transactions would write before the next one: one sender's prospect on one view.
#[derive(Clone, Debug, Default)]
pub struct Prospect {
    /// The beginning of the block included; `None` before the first transaction.
    writes: Option<KvWrites>,
}

impl Outlook {
    /// The outlook of a block of time `now` (or just after the view's) on top of `view`.
    ///
    /// # Errors
    /// [`LedgerError::State`].
    pub fn new(view: &dyn KvRead, now: TimeMs) -> Result<Self, LedgerError> {
        let head = state::head(view)?;
        let height = head.height.next();
        let set = state::set_at(view, height)?.ok_or(StateError::Missing { record: "validator set record" })?;
        let proposer = set.validators().first().map_or(PublicKey::new([0; 32]), |v| v.key);
        let context = Context::new(view, height, now.max(head.time_ms.plus(1)), &proposer, head.seed)?;
        let mut exec = Exec::new(view, &context, &Nothing);
        exec.begin()?;
        let begun = exec.st.into_writes();
        Ok(Self { context, begun })
    }

    /// Whether the block could hold `tx` after the transactions that `after` was given before; if so, `after` holds this one,
    /// too. The view must be the outlook's.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] with code, field, value, limit and remedy; [`LedgerError::State`]. `after` is as before then.
    pub fn admit(
        &self,
        view: &dyn KvRead,
        after: &mut Prospect,
        tx: &Transaction,
        known: &dyn Known,
    ) -> Result<(), LedgerError> {
        let mut exec = Exec::new(view, &self.context, known);
        exec.st.absorb(after.writes.take().unwrap_or_else(|| self.begun.clone()));
        let result = exec.try_transaction(tx);
        after.writes = Some(exec.st.into_writes());
        result
    }

    /// Whether the account of the sender could send `tx`, `waiting` other transactions of which may come before it: chain,
    /// expiry, nonce and fee, without signature or execution. What this refuses, [`Outlook::admit`] refuses after those, too.
    ///
    /// # Errors
    /// As [`Outlook::admit`].
    pub fn look(&self, view: &dyn KvRead, tx: &SignedTx, waiting: u64) -> Result<(), LedgerError> {
        let mut exec = Exec::new(view, &self.context, &Nothing);
        exec.st.absorb(self.begun.clone());
        let account = exec.standing(tx, waiting)?;
        let fee = self.context.params.fees.transaction;
        match account.balance.checked_sub(fee) {
            Some(_) => Ok(()),
            None => Err(TxError::balance("fee", fee, account.balance).into()),
        }
    }

    /// As [`check_submission`].
    ///
    /// # Errors
    /// As [`check_submission`].
    fn submission(&self, view: &dyn KvRead, tx: &SignedTx, waiting: u64) -> Result<(), LedgerError> {
        let mut exec = Exec::new(view, &self.context, &Nothing);
        exec.st.absorb(self.begun.clone());
        exec.standing(tx, waiting)?;
        exec.signed(tx)?;
        exec.submit(tx)
    }
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
    let (outlook, mut after) = (Outlook::new(view, now)?, Prospect::default());
    for earlier in pending {
        if let Err(error @ LedgerError::State(_)) = outlook.admit(view, &mut after, earlier, &Nothing) {
            return Err(error);
        }
    }
    outlook.admit(view, &mut after, tx, &Nothing)
}

/// As [`check_transaction`] for a job's submission before any validator has signed that it holds the input: what a
/// validator asks before it signs, and the RPC node before it collects. Up to `waiting` transactions of the sender, which
/// nobody has seen here, may come before it.
///
/// # Errors
/// As [`check_transaction`].
pub fn check_submission(view: &dyn KvRead, tx: &SignedTx, now: TimeMs, waiting: u64) -> Result<(), LedgerError> {
    Outlook::new(view, now)?.submission(view, tx, waiting)
}
