//! What a block does to the state: time first, then its transactions, each all or nothing.

mod begin;
mod evidence;
mod jobs;
mod provers;
mod tasks;
mod validators;
mod verdicts;

pub(crate) use jobs::content_hash;

use types::Wire;
use types::block::Header;
use types::ids::{Amount, BlobHash, BlockId, Digest, GenesisHash, Height, JobId, StateRoot, TimeMs, TxId};
use types::job::JobStatus;
use types::keys::PublicKey;
use types::kv::{KvRead, KvWrites};
use types::limits::{TX_BYTES_MAX, TX_EXPIRY_MS_MAX};
use types::params::Params;
use types::transaction::{Action, DeclineReason, SignedTx, Transaction};
use types::validator::ValidatorSet;
use types::verdict::{Check, VoteSubject};

use crate::error::{LedgerError, StateError, TxCode, TxError};
use crate::known::Known;
use crate::limits::{CERTIFY_PER_BLOCK_MAX, EVIDENCE_PER_BLOCK_MAX};
use crate::state::records::{Account, Head};
use crate::state::{self, Overlay, keys};
use crate::tree;

/// What a block did, for logs, subscriptions and the actors that follow decided blocks. Order within a block is
/// execution order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Credits moved between accounts.
    Transferred {
        /// From.
        from: PublicKey,
        /// To.
        to: PublicKey,
        /// Credits.
        amount: Amount,
    },
    /// A job was accepted.
    JobSubmitted {
        /// The job.
        job: JobId,
        /// Its sender.
        sender: PublicKey,
        /// The transaction.
        tx: TxId,
        /// Trace id.
        trace: u64,
    },
    /// A submission with a known idempotency key and the same content: nothing was charged.
    JobRepeated {
        /// The job of the first submission.
        job: JobId,
        /// The transaction.
        tx: TxId,
    },
    /// An attempt is open; the named prover has the exclusive turn.
    TaskAssigned {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// Rank 0, unless nobody is in the order.
        prover: Option<PublicKey>,
        /// End of its turn; without a prover the time of the block.
        until: TimeMs,
    },
    /// A prover gave its turn away.
    TaskDeclined {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// Who.
        prover: PublicKey,
        /// Why.
        reason: DeclineReason,
    },
    /// An exclusive turn passed without a claim.
    LeaseLapsed {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// Who had it.
        prover: PublicKey,
    },
    /// A claim is up for the vote.
    ClaimCommitted {
        /// What validators vote on.
        subject: VoteSubject,
    },
    /// The validators rejected a claim.
    ClaimRejected {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// Who committed.
        prover: PublicKey,
        /// The check that failed.
        check: Check,
    },
    /// An attempt ended without a verdict; nobody is punished.
    AttemptVoided {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
    },
    /// The validators certified a claim, and it was paid.
    ClaimCertified {
        /// The job.
        job: JobId,
        /// Index of the task.
        task: u32,
        /// The attempt.
        attempt: u32,
        /// Who committed.
        prover: PublicKey,
        /// Price charged.
        price: Amount,
    },
    /// A job reached its terminal state.
    JobEnded {
        /// The job.
        job: JobId,
        /// The status.
        status: JobStatus,
    },
    /// Retention is over: records are dropped, blobs may be.
    JobPruned {
        /// The job.
        job: JobId,
        /// Program, arguments and proof, unless another job uses them too.
        blobs: Vec<BlobHash>,
    },
    /// A prover registered, changed or left.
    ProverChanged {
        /// Who.
        prover: PublicKey,
    },
    /// The validator set changes.
    ValidatorsChanged {
        /// First height of the new set.
        from: Height,
        /// The new set.
        set: ValidatorSet,
    },
    /// Stake was burned for an offence.
    Slashed {
        /// Consensus key.
        validator: PublicKey,
        /// The offence.
        offence: Digest,
        /// Credits burned.
        amount: Amount,
    },
}

/// The result of a valid block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Height of the block.
    pub height: Height,
    /// Its id.
    pub id: BlockId,
    /// State and tree writes, to be applied in one batch.
    pub writes: KvWrites,
    /// State root after it, which the next header names.
    pub state_root: StateRoot,
    /// What it did.
    pub events: Vec<Event>,
    /// Validator set of the next height.
    pub next_validators: ValidatorSet,
    /// Validator set of the height after next: the `next_validators` of the next header.
    pub after_next_validators: ValidatorSet,
    /// Whether it changed anything but the head: then one more block follows at once.
    pub changed: bool,
}

/// What is the same for all transactions of a block.
pub(crate) struct Context {
    pub(crate) genesis: GenesisHash,
    pub(crate) height: Height,
    pub(crate) time: TimeMs,
    /// Account that gets the fees.
    pub(crate) fees_to: PublicKey,
    pub(crate) seed: Digest,
    pub(crate) params: Params,
}

impl Context {
    /// The context of a block at `height` on top of `view`, whose proposer's consensus key is `proposer`.
    pub(crate) fn new(
        view: &dyn KvRead,
        height: Height,
        time: TimeMs,
        proposer: &PublicKey,
        seed: Digest,
    ) -> Result<Self, StateError> {
        // A validator that left the set two heights ago may still propose; its record lives on until its stake returns.
        let fees_to = state::validator(view, proposer)?.map_or(*proposer, |v| v.account);
        Ok(Self { genesis: state::chain(view)?.genesis, height, time, fees_to, seed, params: state::params(view)? })
    }
}

/// A block being executed.
pub(crate) struct Exec<'a> {
    pub(crate) st: Overlay<'a>,
    pub(crate) ctx: &'a Context,
    pub(crate) events: Vec<Event>,
    known: &'a dyn Known,
    certified: usize,
    evidence: usize,
}

impl<'a> Exec<'a> {
    pub(crate) fn new(view: &'a dyn KvRead, ctx: &'a Context, known: &'a dyn Known) -> Self {
        Self { st: Overlay::new(view), ctx, events: Vec::new(), known, certified: 0, evidence: 0 }
    }

    /// Executes one transaction; if it is refused, nothing of it remains.
    pub(crate) fn try_transaction(&mut self, tx: &Transaction) -> Result<(), LedgerError> {
        let (writes, events) = {
            let mut inner = Exec::new(&self.st, self.ctx, self.known);
            (inner.certified, inner.evidence) = (self.certified, self.evidence);
            inner.transaction(tx)?;
            (inner.st.into_writes(), inner.events)
        };
        self.st.absorb(writes);
        self.events.extend(events);
        match tx {
            Transaction::Certify { .. } => self.certified = self.certified.saturating_add(1),
            Transaction::Evidence(_) => self.evidence = self.evidence.saturating_add(1),
            Transaction::Signed(_) | Transaction::Submission { .. } => {}
        }
        Ok(())
    }

    fn transaction(&mut self, tx: &Transaction) -> Result<(), LedgerError> {
        let bytes = tx.to_bytes().len();
        if bytes > TX_BYTES_MAX {
            return Err(TxError::new(
                TxCode::TooLarge,
                "transaction",
                format_args!("{bytes} bytes"),
                TX_BYTES_MAX,
                "shorten it",
            )
            .into());
        }
        let per_block = |field, done: usize, limit: usize| match done < limit {
            true => Ok(()),
            false => Err(TxError::new(
                TxCode::Full,
                field,
                done,
                format_args!("{limit} in a block"),
                "wait for the next block",
            )),
        };
        match tx {
            Transaction::Signed(signed) => {
                self.envelope(signed)?;
                self.take_fee(signed)?;
                self.action(signed)
            }
            Transaction::Submission { tx: signed, availability } => {
                self.envelope(signed)?;
                self.availability(signed, availability)?;
                self.submit(signed)
            }
            Transaction::Certify { certificate, certifier } => {
                per_block("certify", self.certified, CERTIFY_PER_BLOCK_MAX)?;
                self.certify(certificate, certifier)
            }
            Transaction::Evidence(evidence) => {
                per_block("evidence", self.evidence, EVIDENCE_PER_BLOCK_MAX)?;
                self.punish(evidence)
            }
        }
    }

    /// Chain, expiry and nonce, up to `waiting` beyond the next one; the sender's account.
    pub(crate) fn standing(&self, tx: &SignedTx, waiting: u64) -> Result<Account, LedgerError> {
        let content = &tx.content;
        let refuse = |code, field, value: String, limit: String, remedy| {
            Err(TxError::new(code, field, value, limit, remedy).into())
        };
        if content.genesis != self.ctx.genesis {
            let limit = self.ctx.genesis.to_string();
            return refuse(TxCode::WrongChain, "genesis", content.genesis.to_string(), limit, "sign for this chain");
        }
        let (expires, now) = (content.expires_ms, self.ctx.time);
        if expires <= now {
            return refuse(
                TxCode::TxExpired,
                "expires_ms",
                expires.to_string(),
                format!("after {now}"),
                "sign again with a later expiry",
            );
        }
        if expires > now.plus(TX_EXPIRY_MS_MAX) {
            let limit = format!("at most {TX_EXPIRY_MS_MAX} ms after {now}");
            return refuse(
                TxCode::ExpiryTooFar,
                "expires_ms",
                expires.to_string(),
                limit,
                "sign again with an earlier expiry",
            );
        }
        let account = state::account(&self.st, &content.sender)?;
        if content.nonce < account.nonce {
            let limit = format!("next is {}", account.nonce);
            return refuse(
                TxCode::NonceUsed,
                "nonce",
                content.nonce.to_string(),
                limit,
                "sign again with the account's next nonce",
            );
        }
        if content.nonce > account.nonce.saturating_add(waiting) {
            let limit = format!("next is {}", account.nonce.saturating_add(waiting));
            return refuse(
                TxCode::NonceGap,
                "nonce",
                content.nonce.to_string(),
                limit,
                "send the transactions before it first",
            );
        }
        Ok(account)
    }

    /// The sender's signature.
    pub(crate) fn signed(&self, tx: &SignedTx) -> Result<(), LedgerError> {
        let sender = &tx.content.sender;
        if !self.known.verified(tx) && !tx.verify(&self.ctx.genesis) {
            let (limit, remedy) = ("the sender's signature", "sign with the sender's key");
            return Err(TxError::new(TxCode::BadSignature, "signature", sender, limit, remedy).into());
        }
        Ok(())
    }

    /// Chain, signature, expiry and nonce; uses up the nonce.
    pub(crate) fn envelope(&mut self, tx: &SignedTx) -> Result<(), LedgerError> {
        let mut account = self.standing(tx, 0)?;
        self.signed(tx)?;
        account.nonce = account.nonce.saturating_add(1);
        self.st.put(keys::account(&tx.content.sender), &account);
        Ok(())
    }

    fn take_fee(&mut self, tx: &SignedTx) -> Result<(), LedgerError> {
        let fee = self.ctx.params.fees.transaction;
        self.debit("fee", &tx.content.sender, fee)?;
        self.credit(&self.ctx.fees_to, fee)?;
        Ok(())
    }

    fn action(&mut self, tx: &SignedTx) -> Result<(), LedgerError> {
        let sender = &tx.content.sender;
        match &tx.content.action {
            Action::Transfer { to, amount } => self.transfer(sender, to, *amount),
            Action::SubmitJob(_) => {
                let remedy = "collect the validators' signatures that they hold the input";
                Err(TxError::new(TxCode::Availability, "availability", "none", "more than 1/3 of the power", remedy)
                    .into())
            }
            Action::CancelJob { job } => self.cancel(sender, job),
            Action::RegisterProver { weight, steps_max } => self.register_prover(sender, *weight, *steps_max),
            Action::UpdateProver { weight, steps_max } => self.update_prover(sender, *weight, *steps_max),
            Action::ExitProver => self.exit_prover(sender),
            Action::CommitClaim { job, task, attempt, claim } => self.commit_claim(sender, job, *task, *attempt, claim),
            Action::Decline { job, task, attempt, reason } => self.decline(sender, job, *task, *attempt, *reason),
            Action::RegisterValidator { key, power, stake, possession } => {
                self.register_validator(sender, key, *power, *stake, possession)
            }
            Action::UpdateValidator { key, power } => self.update_validator(sender, key, *power),
            Action::ExitValidator { key } => self.exit_validator(sender, key),
            Action::Attest { observer, reached } => self.attest(sender, observer, reached),
        }
    }

    fn transfer(&mut self, from: &PublicKey, to: &PublicKey, amount: Amount) -> Result<(), LedgerError> {
        if amount == Amount::ZERO {
            return Err(TxError::new(TxCode::OutOfBounds, "amount", 0, "at least 1", "send at least one credit").into());
        }
        self.debit("amount", from, amount)?;
        self.credit(to, amount)?;
        self.events.push(Event::Transferred { from: *from, to: *to, amount });
        Ok(())
    }

    /// Takes credits from an account.
    pub(crate) fn debit(&mut self, field: &'static str, who: &PublicKey, amount: Amount) -> Result<(), LedgerError> {
        let account = state::account(&self.st, who)?;
        let balance =
            account.balance.checked_sub(amount).ok_or_else(|| TxError::balance(field, amount, account.balance))?;
        self.st.put(keys::account(who), &Account { balance, ..account });
        Ok(())
    }

    /// Gives credits to an account.
    pub(crate) fn credit(&mut self, who: &PublicKey, amount: Amount) -> Result<(), StateError> {
        if amount == Amount::ZERO {
            return Ok(());
        }
        let account = state::account(&self.st, who)?;
        let sum = account.balance.checked_add(amount);
        let balance = sum.ok_or_else(|| StateError::Credits(format!("balance of {who} past the range")))?;
        self.st.put(keys::account(who), &Account { balance, ..account });
        Ok(())
    }

    /// Closes the block: head record, state tree.
    pub(crate) fn finish(self, view: &dyn KvRead, header: &Header) -> Result<Executed, StateError> {
        let (height, id) = (header.height, header.id());
        let missing = || StateError::Missing { record: "validator set record" };
        let next_validators = state::set_unbounded(&self.st, height.next())?.ok_or_else(missing)?;
        let after_next_validators = state::set_unbounded(&self.st, height.next().next())?.ok_or_else(missing)?;
        let (ctx, events) = (self.ctx, self.events);
        let changes = self.st.into_changes()?;
        let changed = !changes.is_empty();
        let mut last = Overlay::new(view);
        last.absorb(changes);
        begin::keep_time(&mut last, ctx)?;
        last.put(keys::head(), &Head { height, id, time_ms: header.time_ms, seed: header.seed, changed });
        let mut writes = last.into_writes();
        let state_root = tree::update(view, height, &mut writes)?;
        Ok(Executed { height, id, writes, state_root, events, next_validators, after_next_validators, changed })
    }
}
