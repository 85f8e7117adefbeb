//! The allow-list: every hint of a program is compared with it before the program runs.
//!
//! Owns which hints are harmless; `input` owns those that read the program's input. A hint outside the list refuses
//! the program, with its text in the error. Hints run inside the sandboxed child as well: the list is the first of two
//! walls, not the only one.

mod common;
pub(crate) mod input;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use cairo_lang_casm::hints::{CoreHint, CoreHintBase, DeprecatedHint, ExternalHint, Hint, StarknetHint};

use self::input::InputHint;
use crate::error::ProgramError;
use crate::limits;

static COMMON: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| common::COMMON_HINTS.iter().copied().collect());

/// Whether a text is one of the common library's.
pub(crate) fn is_common(code: &str) -> bool {
    COMMON.contains(code)
}

/// Checks the hints of a Cairo 0 program, in any order.
///
/// # Errors
/// [`ProgramError::Hint`] with the first text outside the list; [`ProgramError::TooLarge`] over the bounds.
pub fn check_cairo0<'a>(codes: impl Iterator<Item = &'a str>) -> Result<(), ProgramError> {
    for (index, code) in codes.enumerate() {
        if index >= limits::PROGRAM_HINTS_MAX {
            return Err(ProgramError::too_large("hints", limits::PROGRAM_HINTS_MAX, "hints"));
        }
        if code.len() > limits::HINT_BYTES_MAX {
            return Err(ProgramError::too_large("hints[].code", limits::HINT_BYTES_MAX, "bytes"));
        }
        if !is_common(code) && InputHint::parse(code).is_none() {
            return Err(ProgramError::hint(code));
        }
    }
    Ok(())
}

/// Checks the hints of a Cairo 1 executable.
///
/// # Errors
/// As [`check_cairo0`].
pub fn check_cairo1<'a>(hints: impl Iterator<Item = &'a Hint>) -> Result<(), ProgramError> {
    for (index, hint) in hints.enumerate() {
        if index >= limits::PROGRAM_HINTS_MAX {
            return Err(ProgramError::too_large("program.hints", limits::PROGRAM_HINTS_MAX, "hints"));
        }
        if !cairo1_allowed(hint) {
            return Err(ProgramError::hint(&hint.representing_string()));
        }
    }
    Ok(())
}

/// Every variant is named: a hint that a later compiler adds does not build here until someone has looked at it.
fn cairo1_allowed(hint: &Hint) -> bool {
    match hint {
        Hint::Core(CoreHintBase::Core(core)) => match core {
            CoreHint::AllocSegment { .. }
            | CoreHint::TestLessThan { .. }
            | CoreHint::TestLessThanOrEqual { .. }
            | CoreHint::TestLessThanOrEqualAddress { .. }
            | CoreHint::WideMul128 { .. }
            | CoreHint::DivMod { .. }
            | CoreHint::Uint256DivMod { .. }
            | CoreHint::Uint512DivModByUint256 { .. }
            | CoreHint::SquareRoot { .. }
            | CoreHint::Uint256SquareRoot { .. }
            | CoreHint::LinearSplit { .. }
            | CoreHint::AllocFelt252Dict { .. }
            | CoreHint::Felt252DictEntryInit { .. }
            | CoreHint::Felt252DictEntryUpdate { .. }
            | CoreHint::GetSegmentArenaIndex { .. }
            | CoreHint::InitSquashData { .. }
            | CoreHint::GetCurrentAccessIndex { .. }
            | CoreHint::ShouldSkipSquashLoop { .. }
            | CoreHint::GetCurrentAccessDelta { .. }
            | CoreHint::ShouldContinueSquashLoop { .. }
            | CoreHint::GetNextDictKey { .. }
            | CoreHint::AssertLeFindSmallArcs { .. }
            | CoreHint::AssertLeIsFirstArcExcluded { .. }
            | CoreHint::AssertLeIsSecondArcExcluded { .. }
            | CoreHint::FieldSqrt { .. }
            | CoreHint::AllocConstantSize { .. }
            | CoreHint::U256InvModN { .. }
            | CoreHint::EvalCircuit { .. } => true,
            // Random points make two runs of one program differ; prints write to the node's own output.
            CoreHint::RandomEcPoint { .. } | CoreHint::DebugPrint { .. } => false,
        },
        Hint::Core(CoreHintBase::Deprecated(deprecated)) => match deprecated {
            DeprecatedHint::AssertCurrentAccessIndicesIsEmpty
            | DeprecatedHint::AssertAllAccessesUsed { .. }
            | DeprecatedHint::AssertAllKeysUsed
            | DeprecatedHint::AssertLeAssertThirdArcExcluded
            | DeprecatedHint::AssertLtAssertValidInput { .. }
            | DeprecatedHint::Felt252DictRead { .. }
            | DeprecatedHint::Felt252DictWrite { .. } => true,
        },
        Hint::Starknet(StarknetHint::SystemCall { .. } | StarknetHint::Cheatcode { .. }) => false,
        // The compiler writes these around an executable's main function. Markers and traces do nothing here.
        Hint::External(
            ExternalHint::AddRelocationRule { .. }
            | ExternalHint::WriteRunParam { .. }
            | ExternalHint::AddMarker { .. }
            | ExternalHint::AddTrace { .. },
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use cairo_lang_casm::operand::{CellRef, DerefOrImmediate, Register, ResOperand};

    use super::*;

    #[test]
    fn library_hints_pass_and_dangerous_ones_are_named() {
        let fine = ["memory[ap] = segments.add()", "vm_exit_scope()", "ids.n = program_input['n']"];
        check_cairo0(fine.into_iter()).unwrap();
        for bad in [
            "import os\nos.system('x')",
            "LOAD_PRIVACY_SIMPLE_BOOTLOADER_INPUT",
            "DUMP_PRIVACY_SIMPLE_BOOTLOADER_OUTPUT_PREIMAGE",
            "SIMPLE_BOOTLOADER_SET_CURRENT_TASK",
            "print(ids.x)",
            "output = program_input[\"output\"]",
            "memory[ap] = to_felt_or_relocatable(len(output))",
            "from starkware.cairo.common.cairo_blake2s.blake2s_utils import compute_blake2s_func",
            "vm_exit_scope() ",
        ] {
            match check_cairo0(["vm_exit_scope()", bad].into_iter()) {
                Err(ProgramError::Hint { hint }) => assert!(bad.starts_with(hint.as_str()), "{hint}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn random_points_are_not_in_the_list() {
        use cairo_vm::hint_processor::builtin_hint_processor::hint_code;
        for code in
            [hint_code::RANDOM_EC_POINT, hint_code::CHAINED_EC_OP_RANDOM_EC_POINT, hint_code::EXAMPLE_BLAKE2S_COMPRESS]
        {
            assert!(check_cairo0(std::iter::once(code)).is_err());
        }
    }

    #[test]
    fn cairo1_system_calls_prints_and_randomness_are_refused() {
        let cell = CellRef { register: Register::AP, offset: 0 };
        let operand = ResOperand::Deref(cell);
        let fine = Hint::from(CoreHint::AllocSegment { dst: cell });
        check_cairo1([&fine].into_iter()).unwrap();
        let bad: [Hint; 3] = [
            StarknetHint::SystemCall { system: operand.clone() }.into(),
            CoreHint::RandomEcPoint { x: cell, y: cell }.into(),
            CoreHint::DebugPrint { start: operand.clone(), end: operand }.into(),
        ];
        for hint in &bad {
            assert!(matches!(check_cairo1([hint].into_iter()), Err(ProgramError::Hint { .. })));
        }
        let _ = DerefOrImmediate::Deref(cell);
    }
}
