//! The deterministic state machine of the chain: what transactions do, which blocks are valid, who may prove a task.
//!
//! Owns the records in `Space::State`, the state tree over them in `Space::Tree`, and every rule that moves a credit or
//! a job. Relies on `types` for the vocabulary. Has no clock, no randomness, no threads and no I/O: state is read
//! through [`types::kv::KvRead`], all effects come back as [`types::kv::KvWrites`], time is an argument, iteration
//! order is sorted.
//!
//! # How the pieces fit
//!
//! ```text
//! genesis::build(&Genesis) -> GenesisState { writes, root }      write `writes` in one batch: the view of height 0
//! chain::head(view) -> Head { height, id, time_ms, seed, ... }   the last block of a view
//! chain::build_block(view, last_commit, proposer, now, candidates) -> Built { block, dropped, left_over }
//! chain::check_block(view, &block, now)                          -> CheckOutcome::{Valid, Invalid, Withhold}
//! chain::apply_block(view, &block)                               -> Executed; all checks but the clock (sync, replay)
//! chain::has_work(view) -> bool                                  the next block comes at `block_ms`
//! chain::validator_set(view, height) -> Option<ValidatorSet>     any height up to head + 2
//! precheck::check_transaction(view, &tx, now)                    -> TxError with code, field, value, limit
//! precheck::check_submission(view, &signed, now, 0)               the same before availability signatures exist
//! precheck::Outlook                                              the same for many transactions on one view
//! known::Known                                                   signatures verified before; the `*_knowing` calls take it
//! assign::assign(view, &job, task) -> Option<Assignment>         the only way to learn who may prove
//! explain::{job, prover}                                         the same, in words and fields for people
//! query::*                                                       read models for RPC, vote subjects, audit
//! tally::Tally                                                   counting verdicts into certificates and evidence
//! tree::{root, prove, verify_proof}                              state root, proof of one record
//! ```
//!
//! A *view* is a [`types::kv::KvRead`] of exactly one height: after genesis, or after `Executed::writes` of the block
//! at `chain::head(view).height` was applied. `Executed::writes` holds state and tree together and must be applied
//! atomically.
//!
//! # Where credits are
//!
//! Total supply never changes after genesis. Every credit is in exactly one of: an account's balance, a running job's
//! escrow, a validator's stake, a prover's deposit, or the burned sum (slashed stake, which nobody can spend).
//! [`query::audit`] adds them up. What integer division leaves over when a job is paid goes to the prover.
//!
//! # Time
//!
//! All windows, deadlines and expiries are in block time. Time-driven transitions happen at the beginning of a block,
//! before its transactions, in order of their due time, at most [`limits::TIMERS_PER_BLOCK_MAX`] per block; the rest
//! follow in the next.

pub mod assign;
pub mod chain;
pub mod error;
pub mod execute;
pub mod explain;
pub mod genesis;
pub mod known;
pub mod limits;
pub mod money;
pub mod precheck;
pub mod query;
pub mod state;
pub mod tally;
pub mod tree;

pub use assign::{Assignment, Window, assign};
pub use chain::{
    ApplyError, BlockFault, Built, CheckOutcome, Withheld, apply_block, apply_block_knowing, build_block,
    build_block_knowing, check_block, check_block_knowing, has_work, head, validator_set,
};
pub use error::{LedgerError, StateError, TxCode, TxError};
pub use execute::{Event, Executed};
pub use state::records::Head;

#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
