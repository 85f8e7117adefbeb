//! What a node keeps on disk: the chain's database, the consensus log, the signer's guard, blobs, and the home folder's lock.
//!
//! Owns the order in which bytes become durable and the rule for telling an interrupted write from damage. Knows the records
//! of `types` but none of the ledger's rules: state is keys and values here. No async runtime and no clock: time is an
//! argument, and every call that touches the disk blocks its caller.

pub mod blobs;
pub mod disk;
pub mod error;
pub mod guard_file;
pub mod home;
pub mod log;
pub mod memory;
pub mod meta;
pub mod records;
pub mod rocks;
pub mod space;
pub mod store;
pub mod table;
pub mod virtual_disk;
pub mod wal;

#[cfg(test)]
mod test_chain;

pub use blobs::{BlobLimits, BlobStatus, BlobStore, BlobWriter};
pub use error::{ErrorClass, Result, StorageError};
pub use home::{Home, Layout};
pub use memory::MemoryStore;
pub use records::{BlockCommit, Head, SignedMessages, TxLocation};
pub use rocks::{RocksStore, StoreUsage};
pub use store::{Snapshot, Store, StoreRead};
pub use table::{Batch, Durability, Table};
