//! The safety subtree: what must not be lost, and what stops the node when it fails.

pub(crate) mod blocks;
pub(crate) mod consensus;
pub(crate) mod counting;
pub(crate) mod credit;
pub(crate) mod disk;
pub(crate) mod pacing;
pub(crate) mod patience;
pub(crate) mod thread;
pub(crate) mod writer;
