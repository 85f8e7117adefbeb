//! What cheats: peers that hold real keys of a network and break its rules on purpose. Runs in a process of its own against
//! real nodes; the shipped binary has none of it.
//!
//! It speaks the network's own protocols through the crate `network`. It is told what to do by JSON lines on standard input
//! and tells what it did by JSON lines on standard output.

mod validator;
mod validator_chain;
pub mod validator_control;
mod validator_forge;
mod validator_peer;
