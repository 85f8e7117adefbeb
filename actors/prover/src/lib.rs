//! The Cairo prover: recognises programs, runs them under watch, proves them, and does all of it in child processes.
//!
//! | module | gives |
//! |---|---|
//! | [`program`], [`mod@inspect`] | a program file recognised by content, under bounds, its hints checked |
//! | [`args`] | arguments files |
//! | [`hints`] | the allow-list; `HINTS.md` says it in words |
//! | [`engine`] | [`engine::Engine::prove`]: statement in, checked proof out |
//! | [`backend`], [`flow`], [`simd`] | the proving step as a trait, the protocol over it, and the processor's |
//! | [`mod@execute`] | the same run without a proof |
//! | [`local`] | statements that belong to no chain |
//! | [`memory`] | what a proof will take |
//! | [`fleet`] | where a node's proofs are made: devices that are worth it, and the processor |
//! | [`worker`] | the above in sandboxed child processes: [`worker::main`] inside the child, [`worker::Worker`] outside |
//! | [`mod@bench`] | measurements |
//! | [`export`] | proofs for upstream tools |
//!
//! A program is hostile code. In a node only [`worker`] may run one; the other modules run in its children and in tests.
//! Relies on `types` for the vocabulary and on `proof` for the verdict on its own proofs.

pub mod args;
mod assets;
pub mod backend;
pub mod bench;
pub mod engine;
pub mod error;
pub mod execute;
pub mod export;
mod felt;
#[cfg(test)]
mod fixtures;
pub mod fleet;
pub mod flow;
mod hash;
pub mod hints;
pub mod inspect;
pub mod limits;
pub mod local;
pub mod memory;
pub mod program;
mod runner;
pub mod sample;
pub mod simd;
pub mod stages;
pub mod worker;

pub use backend::{Backend, Plan};
pub use engine::{BoundRun, Engine, ProveError, ProveRequest, Proven, Unchecked};
pub use error::{DeviceFault, Fault, ProgramError};
pub use execute::{ExecuteRequest, Executed, execute};
pub use hash::choose_hash;
pub use inspect::{Inspection, inspect};
pub use local::local_statement;
pub use runner::RunError;
pub use simd::Simd;
pub use stages::{Clock, Stage};
