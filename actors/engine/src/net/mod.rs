//! The network subtree: the swarm's actor, catching up, and answers to peers.

pub mod link;
pub mod serve;
pub mod sync;
