//! How much memory a proof will take, before it is started, and how large its domains will be.
//!
//! The model counts the cells of every table that the run will fill (rows rounded up to a power of two, the columns that
//! the proof system gives the table) and prices a cell by measurement; see the constants.

use cairo_air::components::{
    add_ap_opcode, add_mod_builtin, add_opcode, add_opcode_small, assert_eq_opcode, assert_eq_opcode_double_deref,
    assert_eq_opcode_imm, bitwise_builtin, blake_compress_opcode, blake_g, blake_round, blake_round_sigma,
    call_opcode_abs, call_opcode_rel_imm, cube_252, generic_opcode, jnz_opcode_non_taken, jnz_opcode_taken,
    jump_opcode_abs, jump_opcode_double_deref, jump_opcode_rel, jump_opcode_rel_imm, memory_address_to_id,
    memory_id_to_big, memory_id_to_small, mul_mod_builtin, mul_opcode, mul_opcode_small, partial_ec_mul_window_bits_9,
    pedersen_aggregator_window_bits_9, pedersen_points_table_window_bits_9, poseidon_3_partial_rounds_chain,
    poseidon_aggregator, poseidon_full_round_chain, poseidon_round_keys, qm_31_add_mul_opcode, range_check_3_3_3_3_3,
    range_check_3_6_6_3, range_check_4_3, range_check_4_4, range_check_4_4_4_4, range_check_6, range_check_7_2_5,
    range_check_8, range_check_9_9, range_check_11, range_check_12, range_check_18, range_check_20,
    range_check_252_width_27, range_check_builtin, range_check96_builtin, ret_opcode, triple_xor_32,
    verify_bitwise_xor_4, verify_bitwise_xor_7, verify_bitwise_xor_8, verify_bitwise_xor_9, verify_bitwise_xor_12,
    verify_instruction,
};
use stwo_cairo_adapter::ExecutionResources;

/// Memory of a warm prover before a job, and what every proof takes whatever its length, in bytes.
const FIXED_BYTES: u64 = 1_600 << 20;
/// Bytes per table cell at the peak, coefficients stored: the evaluations on a domain of twice the length, the
/// coefficients, and what the composition and the hash trees add.
const BYTES_PER_CELL: u64 = 15;
/// Bytes per table cell that are saved when coefficients are not stored.
const COEFFICIENT_BYTES: u64 = 4;
/// Bytes per step of the virtual machine's own trace and memory.
const BYTES_PER_STEP: u64 = 160;
/// The tables of a Blake hash have 2^20 rows each, whatever is hashed, in bytes.
const BLAKE_BYTES: u64 = 700 << 20;
/// Vectors have 16 lanes, so no table is shorter.
const LOG_ROWS_MIN: u32 = 4;
/// The preprocessed columns are this long, as a power of two.
const LOG_PREPROCESSED: u32 = 20;

/// Cells of the preprocessed columns, which all proofs share.
pub const SHARED_CELLS: u64 = 10_161_776;

/// What a proof will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Peak memory with coefficients stored, which is faster, in bytes.
    pub bytes: u64,
    /// Peak memory without, in bytes.
    pub bytes_lean: u64,
    /// Cells of the tables whose length follows from the run.
    pub cells: u64,
    /// Cells of the tables whose length is always the same.
    pub fixed_cells: u64,
    /// Largest evaluation domain, as a power of two.
    pub domain_log: u32,
}

/// Adds up tables.
#[derive(Default)]
struct Tables {
    cells: u64,
    log_max: u32,
}

impl Tables {
    fn add(&mut self, rows: usize, columns: impl FnOnce(u32) -> usize) {
        if rows == 0 {
            return;
        }
        let log = rows.checked_next_power_of_two().map_or(usize::BITS, usize::trailing_zeros).max(LOG_ROWS_MIN);
        self.log_max = self.log_max.max(log);
        let columns = u64::try_from(columns(log)).unwrap_or(u64::MAX);
        self.cells = self.cells.saturating_add(columns.saturating_mul(1u64.checked_shl(log).unwrap_or(u64::MAX)));
    }
}

/// Columns of a table with a single length; what its claim holds besides does not matter for them.
macro_rules! columns {
    ($component:ident $($other:ident)?) => {
        |log_size| $component::Claim { log_size, $($other: 0)? }.log_sizes().iter().map(Vec::len).sum()
    };
}

/// Adds each `component: rows`.
macro_rules! tables {
    ($tables:ident; $($component:ident $($other:ident)?: $rows:expr,)*) => {
        $($tables.add($rows, columns!($component $($other)?));)*
    };
}

/// Cells of tables of fixed length: those that every proof has, and those of the hash functions used.
fn fixed_cells(blake: bool, pedersen: bool, poseidon: bool) -> u64 {
    macro_rules! cells {
        ($($component:ident)*) => {
            [$(&$component::Claim {}.log_sizes()),*]
                .into_iter()
                .flat_map(|trees| trees.iter().flatten())
                .fold(0u64, |sum, log| sum.saturating_add(1u64.checked_shl(*log).unwrap_or(u64::MAX)))
        };
    }
    let always = cells!(range_check_6 range_check_8 range_check_11 range_check_12 range_check_18 range_check_20
        range_check_4_3 range_check_4_4 range_check_9_9 range_check_7_2_5 range_check_3_6_6_3 range_check_4_4_4_4
        range_check_3_3_3_3_3 verify_bitwise_xor_4 verify_bitwise_xor_7 verify_bitwise_xor_8 verify_bitwise_xor_9);
    let used = [
        (blake, cells!(blake_round_sigma verify_bitwise_xor_12)),
        (pedersen, cells!(pedersen_points_table_window_bits_9)),
        (poseidon, cells!(poseidon_round_keys)),
    ];
    used.into_iter().filter(|(used, _)| *used).fold(always, |sum, (_, cells)| sum.saturating_add(cells))
}

/// The estimate for a run with these resources and this many steps in all.
pub(crate) fn estimate(resources: &ExecutionResources, total_steps: u64) -> Estimate {
    let opcode = |name: &str| resources.opcodes_instance_counter.get(name).copied().unwrap_or(0);
    let builtin = |name: &str| resources.builtin_instance_counter.get(name).copied().unwrap_or(0);
    let (pedersen, poseidon) = (builtin("pedersen_builtin"), builtin("poseidon_builtin"));
    let blake = opcode("blake_compress_opcode");
    let times = usize::saturating_mul;
    let mut tables = Tables { cells: 0, log_max: LOG_PREPROCESSED };
    tables! { tables;
        generic_opcode: opcode("generic_opcode"),
        add_ap_opcode: opcode("add_ap_opcode"),
        add_opcode: opcode("add_opcode"),
        add_opcode_small: opcode("add_opcode_small"),
        assert_eq_opcode: opcode("assert_eq_opcode"),
        assert_eq_opcode_double_deref: opcode("assert_eq_opcode_double_deref"),
        assert_eq_opcode_imm: opcode("assert_eq_opcode_imm"),
        call_opcode_abs: opcode("call_opcode_abs"),
        call_opcode_rel_imm: opcode("call_opcode_rel_imm"),
        jnz_opcode_non_taken: opcode("jnz_opcode_non_taken"),
        jnz_opcode_taken: opcode("jnz_opcode_taken"),
        jump_opcode_rel_imm: opcode("jump_opcode_rel_imm"),
        jump_opcode_rel: opcode("jump_opcode_rel"),
        jump_opcode_double_deref: opcode("jump_opcode_double_deref"),
        jump_opcode_abs: opcode("jump_opcode_abs"),
        mul_opcode_small: opcode("mul_opcode_small"),
        mul_opcode: opcode("mul_opcode"),
        ret_opcode: opcode("ret_opcode"),
        qm_31_add_mul_opcode: opcode("qm_31_add_mul_opcode"),
        blake_compress_opcode: blake,
        blake_round: times(blake, 10),
        blake_g: times(blake, 80),
        triple_xor_32: times(blake, 8),
        range_check_builtin range_check_builtin_segment_start: builtin("range_check_builtin"),
        range_check96_builtin range_check96_builtin_segment_start: builtin("range_check96_builtin"),
        bitwise_builtin bitwise_builtin_segment_start: builtin("bitwise_builtin"),
        add_mod_builtin add_mod_builtin_segment_start: builtin("add_mod_builtin"),
        mul_mod_builtin mul_mod_builtin_segment_start: builtin("mul_mod_builtin"),
        pedersen_aggregator_window_bits_9: pedersen,
        partial_ec_mul_window_bits_9: times(pedersen, 56),
        poseidon_aggregator: poseidon,
        poseidon_full_round_chain: times(poseidon, 8),
        poseidon_3_partial_rounds_chain: times(poseidon, 27),
        cube_252: times(poseidon, 107),
        range_check_252_width_27: times(poseidon, 83),
        verify_instruction: resources.verify_instruction,
        memory_id_to_small: resources.memory_tables_sizes.memory_id_to_small,
    }
    let addresses = resources.memory_tables_sizes.memory_address_to_id;
    tables.add(addresses.div_ceil(memory_address_to_id::MEMORY_ADDRESS_TO_ID_SPLIT), columns!(memory_address_to_id));
    tables.add(resources.memory_tables_sizes.memory_id_to_big, |log_size| {
        memory_id_to_big::Claim { big_log_sizes: vec![log_size] }.log_sizes().iter().map(Vec::len).sum()
    });
    let blake_bytes = if blake > 0 { BLAKE_BYTES } else { 0 };
    let bytes = FIXED_BYTES
        .saturating_add(blake_bytes)
        .saturating_add(tables.cells.saturating_mul(BYTES_PER_CELL))
        .saturating_add(total_steps.saturating_mul(BYTES_PER_STEP));
    Estimate {
        bytes,
        bytes_lean: bytes.saturating_sub(tables.cells.saturating_mul(COEFFICIENT_BYTES)),
        cells: tables.cells,
        fixed_cells: fixed_cells(blake > 0, pedersen > 0, poseidon > 0),
        // Twice the rows for the code's rate, and as much again for constraints of degree two.
        domain_log: tables.log_max.saturating_add(2),
    }
}

/// A coarse figure from the step count alone, for a scheduler that has not run the program: the mean of the programs
/// measured, in bytes.
pub const fn bytes_for_steps(steps: u64) -> u64 {
    FIXED_BYTES.saturating_add(steps.saturating_mul(1_700))
}

/// Memory that this process and its children can still get, in bytes: the machine's and the control group's; `None`
/// where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let number = |name: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    let group = number("memory.max").zip(number("memory.current")).map(|(max, current)| max.saturating_sub(current));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}
