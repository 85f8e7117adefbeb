//! The edge subtree: what readers see.

pub mod events;
