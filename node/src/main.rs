//! The shipped binary `proofmesh`: the library, with nobody told about what a node passes.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::main(engine::Crossings::default)
}
