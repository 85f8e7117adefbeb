//! The edge subtree: what readers see.

pub(crate) mod events;
