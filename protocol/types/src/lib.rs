//! The shared vocabulary of the network: identifiers, keys, signed messages, transactions, blocks, jobs, receipts.
//!
//! Owns every record that crosses a wire, a disk or a crate boundary, its byte format ([`codec`]) and the bytes that are
//! signed ([`signing`]). Relies on nothing but hashes, signatures and the codec: no clock, no randomness, no I/O. What the
//! records *do* is decided elsewhere: `consensus`, `ledger` and `proof`.

pub mod blob;
pub mod block;
pub mod codec;
pub mod error;
pub mod evidence;
pub mod felt;
pub mod genesis;
pub mod gossip;
pub mod ids;
pub mod job;
pub mod keys;
pub mod kv;
pub mod limits;
pub mod params;
pub mod receipt;
pub mod rpc_sync;
pub mod signing;
pub mod statement;
pub mod transaction;
pub mod validator;
pub mod verdict;
pub mod vote;

pub use codec::Wire;
pub use error::TypeError;
