//! What cheats: peers that hold real keys of a network and break its rules on purpose. Runs as the binary
//! `proofmesh-adversary`, in a process of its own against real nodes; the shipped binary has none of it.
//!
//! It speaks the network's own protocols through the crate `network` and makes real proofs through the crate `prover`. It is
//! told what to do by JSON lines on standard input and tells what it did by JSON lines on standard output.

pub mod identity;
pub mod prover;
mod prover_peer;
mod prover_proofs;
mod validator;
mod validator_chain;
pub mod validator_control;
mod validator_forge;
mod validator_peer;
