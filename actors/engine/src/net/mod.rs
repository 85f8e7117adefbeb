//! The network subtree: the swarm's actor, catching up, and answers to peers.

pub(crate) mod link;
pub(crate) mod serve;
pub(crate) mod sync;
