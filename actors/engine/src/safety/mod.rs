//! The safety subtree: what must not be lost, and what stops the node when it fails.

pub mod blocks;
pub mod consensus;
pub mod disk;
pub mod pacing;
pub mod thread;
pub mod writer;
