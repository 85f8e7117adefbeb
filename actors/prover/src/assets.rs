//! The two programs that every proof runs besides the user's: the bootloader and the binding task.
//!
//! They are embedded compressed; `build.rs` has compared their digests.

use std::sync::OnceLock;

use cairo_vm::types::program::Program as VmProgram;
use thiserror::Error;

static BOOTLOADER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/simple_bootloader.json.zst"));
static SIMPLE_OUTPUT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/simple_output.json.zst"));

/// Label of the instruction that calls a task.
const CALL_TASK: &str = "starkware.cairo.bootloaders.simple_bootloader.execute_task.execute_task.call_task";

/// This build's own files are damaged.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("embedded program {name}: {detail}")]
pub(crate) struct AssetError {
    name: &'static str,
    detail: String,
}

/// The programs, parsed once.
pub(crate) struct Assets {
    /// The simple bootloader.
    pub(crate) bootloader: VmProgram,
    /// The binding task's program.
    pub(crate) simple_output: VmProgram,
    /// Offset of the instruction that calls a task, in the bootloader.
    pub(crate) call_task: usize,
}

/// The embedded programs.
///
/// # Errors
/// [`AssetError`] if they do not parse, the same at every call.
pub(crate) fn assets() -> Result<&'static Assets, AssetError> {
    static PARSED: OnceLock<Result<Assets, AssetError>> = OnceLock::new();
    PARSED.get_or_init(parse).as_ref().map_err(Clone::clone)
}

fn parse() -> Result<Assets, AssetError> {
    let bootloader = program("simple_bootloader", BOOTLOADER)?;
    let call_task = bootloader
        .get_identifier(CALL_TASK)
        .and_then(|label| label.pc)
        .ok_or_else(|| AssetError { name: "simple_bootloader", detail: format!("no label {CALL_TASK}") })?;
    Ok(Assets { bootloader, simple_output: program("simple_output", SIMPLE_OUTPUT)?, call_task })
}

fn program(name: &'static str, packed: &[u8]) -> Result<VmProgram, AssetError> {
    let json = zstd::decode_all(packed).map_err(|e| AssetError { name, detail: e.to_string() })?;
    VmProgram::from_bytes(&json, Some("main")).map_err(|e| AssetError { name, detail: e.to_string() })
}
