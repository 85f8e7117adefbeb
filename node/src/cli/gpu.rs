//! Commands that need an OpenCL loader are those of the binary `proofmesh-gpu`, which lies beside this one: `prover
//! devices`, `bench air` and `bench cairo --backend opencl` hand their arguments on to it, so that the node itself starts on machines without a loader.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::Output;
use crate::failure::Failure;

/// Name of the binary beside this one.
const BINARY: &str = "proofmesh-gpu";

/// Arguments that are handed on as they are.
#[derive(Debug, Args)]
pub(crate) struct GpuArgs {
    /// Options of the command; `--help` lists them.
    #[arg(value_name = "OPTIONS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Where the binary must be, given the path of this one.
fn beside(own: &Path) -> PathBuf {
    own.with_file_name(BINARY)
}

/// Runs `proofmesh-gpu` with `command`, the arguments and, if it is wanted, `--json`; its output is the answer.
pub(super) fn run(out: Output, command: &[&str], args: &GpuArgs) -> Result<(), Failure> {
    run_with(out, command, &args.rest)
}

/// As [`run`], with arguments that were put together here.
pub(super) fn run_with(out: Output, command: &[&str], args: &[OsString]) -> Result<(), Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::error("gpu", format!("own path: {error}")))?;
    let binary = beside(&own);
    let json = (out.json() && !args.iter().any(|word| word == "--json")).then_some("--json");
    let status = Command::new(&binary).args(command).args(args).args(json).status().map_err(|error| {
        Failure::error("gpu_binary", format!("{} cannot be started: {error}", binary.display()))
            .remedy(format!("build it with `cargo build --release --workspace` and keep it beside {}", own.display()))
    })?;
    if status.success() { Ok(()) } else { Err(Failure::error("gpu", format!("{BINARY} ended with {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_lies_beside_the_node() {
        assert_eq!(beside(Path::new("/opt/bin/proofmesh")), Path::new("/opt/bin/proofmesh-gpu"));
    }
}
