//! Bounds on everything that comes from a job, in one place. A bound that is reached is an error that names it.
//!
//! What nodes must agree on is in `types::limits`; the rest follows from what this engine keeps ready.

/// Bytes of a program file.
pub const PROGRAM_BYTES_MAX: usize = types::limits::PROGRAM_BYTES_MAX as usize;
/// Bytes of the arguments' JSON text.
pub const ARGS_BYTES_MAX: usize = types::limits::ARGS_BYTES_MAX as usize;
/// Field elements of a Cairo 1 program's arguments.
pub const USER_ARGS_MAX: usize = 1 << 16;
/// Words of a program.
pub const PROGRAM_WORDS_MAX: usize = 1 << 18;
/// Hints of a program.
pub const PROGRAM_HINTS_MAX: usize = 1 << 16;
/// Longest hint text, in bytes.
pub const HINT_BYTES_MAX: usize = 1 << 14;
/// Files inside a Cairo PIE.
pub const PIE_ENTRIES_MAX: usize = 16;
/// Bytes of a Cairo PIE's JSON parts, each, unzipped.
pub const PIE_JSON_BYTES_MAX: usize = 32 << 20;
/// Bytes of a Cairo PIE's memory, unzipped.
pub const PIE_MEMORY_BYTES_MAX: usize = 256 << 20;
/// Cells that the segments of a Cairo PIE may span together, holes included.
pub const PIE_CELLS_MAX: usize = 1 << 23;
/// Segments of a Cairo PIE.
pub const PIE_SEGMENTS_MAX: usize = 1 << 12;
/// Numbers that input hints may write from lists in one run.
pub const INPUT_NUMBERS_MAX: usize = 1 << 20;
/// Lists inside lists of a program's input.
pub const INPUT_LIST_DEPTH_MAX: usize = 8;
/// Words of a task's output.
pub const OUTPUT_WORDS_MAX: usize = types::limits::OUTPUT_WORDS_MAX;
/// Steps that the bootloader may take before it enters the program: hashing the longest program by Pedersen.
pub const BOOTLOADER_STEPS_MAX: u64 = 16 << 20;
/// Steps of a program that this engine takes at all; the trace of more does not fit the tables it keeps ready.
pub const STEPS_MAX: u64 = 1 << 24;
/// Characters kept of an error that a hostile program can shape.
pub const REASON_CHARS_MAX: usize = types::limits::REASON_MAX;
