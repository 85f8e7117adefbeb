//! Recognises a program by its content and loads it under bounds, hints checked.
//!
//! Owns what a program is to the rest of the crate: its kind, its words, and the form in which the bootloader takes it.
//! Nothing is run here, and nothing is read but the bytes given.

mod cairo0;
mod cairo1;
mod pie;

use std::panic::catch_unwind;

use cairo_lang_casm::hints::Hint;
use cairo_lang_utils::unordered_hash_map::UnorderedHashMap;
use cairo_program_runner_lib::hints::compute_program_hash_chain;
use cairo_vm::types::builtin_name::BuiltinName;
use cairo_vm::types::program::Program as VmProgram;
use cairo_vm::types::relocatable::MaybeRelocatable;
use cairo_vm::vm::runners::cairo_pie::{CairoPie, StrippedProgram};
use serde::Deserialize;
use serde::de::IgnoredAny;
use types::felt::Felt;
use types::job::{HashFunction, ProgramKind};

use crate::error::ProgramError;
use crate::runner::panic_text;
use crate::{felt, hash, limits};

/// The version of the bootloader that enters every program hash.
pub const BOOTLOADER_VERSION: usize = 0;

/// The bootloader's builtins, in the order in which a program must declare those it uses.
const BUILTIN_ORDER: [BuiltinName; 11] = [
    BuiltinName::output,
    BuiltinName::pedersen,
    BuiltinName::range_check,
    BuiltinName::ecdsa,
    BuiltinName::bitwise,
    BuiltinName::ec_op,
    BuiltinName::keccak,
    BuiltinName::poseidon,
    BuiltinName::range_check96,
    BuiltinName::add_mod,
    BuiltinName::mul_mod,
];

/// The form in which a program runs.
#[derive(Clone, Debug)]
pub(crate) enum Loaded {
    Cairo0(VmProgram),
    Cairo1 { program: VmProgram, hints: UnorderedHashMap<String, Hint> },
    Pie(Box<CairoPie>),
}

/// A loaded program whose hints are all in the allow-list.
#[derive(Clone, Debug)]
pub struct Program {
    kind: ProgramKind,
    stripped: StrippedProgram,
    words: Vec<Felt>,
    n_hints: usize,
    loaded: Loaded,
}

/// The keys that tell JSON programs apart.
#[derive(Deserialize)]
struct Shape {
    data: Option<IgnoredAny>,
    identifiers: Option<IgnoredAny>,
    program: Option<IgnoredAny>,
    entrypoints: Option<IgnoredAny>,
    sierra_program: Option<IgnoredAny>,
    bytecode: Option<IgnoredAny>,
}

impl Program {
    /// Loads a program file.
    ///
    /// The libraries' loaders panic on some malformed files (cairo-vm on a word of one letter, for one); such a
    /// file is malformed like any other.
    ///
    /// # Errors
    /// [`ProgramError`] naming the part that is wrong or over its bound.
    pub fn load(bytes: &[u8]) -> Result<Self, ProgramError> {
        catch_unwind(|| Self::recognise(bytes)).unwrap_or_else(|panic| {
            let detail = format!("its loader fails: {}", panic_text(&panic));
            Err(ProgramError::malformed("program", detail))
        })
    }

    fn recognise(bytes: &[u8]) -> Result<Self, ProgramError> {
        if bytes.len() > limits::PROGRAM_BYTES_MAX {
            return Err(ProgramError::too_large("program", limits::PROGRAM_BYTES_MAX, "bytes"));
        }
        if bytes.starts_with(b"PK\x03\x04") {
            return pie::load(bytes);
        }
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            let detail = if bytes.is_empty() { "the file is empty" } else { "neither a JSON object nor a zip archive" };
            return Err(ProgramError::UnknownKind { detail: detail.into() });
        }
        let shape: Shape =
            serde_json::from_slice(bytes).map_err(|e| ProgramError::malformed("program", format!("JSON: {e}")))?;
        if shape.program.is_some() && shape.entrypoints.is_some() {
            return cairo1::load(bytes);
        }
        if shape.data.is_some() && shape.identifiers.is_some() {
            return cairo0::load(bytes);
        }
        let detail = if shape.sierra_program.is_some() || shape.bytecode.is_some() {
            "a contract class is no program: build an #[executable] target"
        } else {
            "a JSON object without data and identifiers (Cairo 0) or program and entrypoints (Cairo 1)"
        };
        Err(ProgramError::UnknownKind { detail: detail.into() })
    }

    /// Checks what all kinds have in common.
    fn new(kind: ProgramKind, stripped: StrippedProgram, n_hints: usize, loaded: Loaded) -> Result<Self, ProgramError> {
        if stripped.data.is_empty() {
            return Err(ProgramError::malformed("data", "the program has no words"));
        }
        if stripped.data.len() > limits::PROGRAM_WORDS_MAX {
            return Err(ProgramError::too_large("data", limits::PROGRAM_WORDS_MAX, "words"));
        }
        if stripped.main >= stripped.data.len() {
            let detail = format!("main is at {}, the program has {} words", stripped.main, stripped.data.len());
            return Err(ProgramError::malformed("main", detail));
        }
        let mut next = 0;
        for builtin in &stripped.builtins {
            let place = BUILTIN_ORDER
                .iter()
                .position(|known| known == builtin)
                .ok_or_else(|| ProgramError::malformed("builtins", format!("{} is not available", builtin.to_str())))?;
            if place < next {
                let detail = format!("{} is twice in the list or out of order", builtin.to_str());
                return Err(ProgramError::malformed("builtins", detail));
            }
            next = place.saturating_add(1);
        }
        let words = stripped
            .data
            .iter()
            .map(|word| match word {
                MaybeRelocatable::Int(word) => Ok(felt::from_vm(word)),
                MaybeRelocatable::RelocatableValue(_) => Err(ProgramError::malformed("data", "a word is an address")),
            })
            .collect::<Result<Vec<Felt>, _>>()?;
        Ok(Self { kind, stripped, words, n_hints, loaded })
    }

    /// What kind of file it was.
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// Names of the builtins, in the program's order.
    pub fn builtins(&self) -> Vec<&'static str> {
        self.stripped.builtins.iter().map(|builtin| builtin.to_str()).collect()
    }

    /// Whether the program declares the builtin.
    pub(crate) fn uses(&self, builtin: BuiltinName) -> bool {
        self.stripped.builtins.contains(&builtin)
    }

    /// Offset of the entry point, in words.
    pub fn main(&self) -> usize {
        self.stripped.main
    }

    /// The program's words, as they are hashed.
    pub fn words(&self) -> &[Felt] {
        &self.words
    }

    /// How many hints it has.
    pub fn n_hints(&self) -> usize {
        self.n_hints
    }

    /// The program's hash as the bootloader outputs it.
    ///
    /// # Errors
    /// [`ProgramError::Malformed`] where the library can't hash it; no loaded program is known to do that.
    pub fn hash(&self, function: HashFunction) -> Result<Felt, ProgramError> {
        let hash = compute_program_hash_chain(&self.stripped, BOOTLOADER_VERSION, hash::to_library(function))
            .map_err(|e| ProgramError::malformed("program", format!("hash: {e}")))?;
        Ok(felt::from_vm(&hash))
    }

    /// The output that a PIE's own memory holds; `None` for the other kinds.
    ///
    /// # Errors
    /// [`ProgramError::Malformed`] when the PIE's output has a hole or an address in it.
    pub fn pie_output(&self) -> Result<Option<Vec<Felt>>, ProgramError> {
        match &self.loaded {
            Loaded::Pie(pie) => pie::output(pie).map(Some),
            Loaded::Cairo0(_) | Loaded::Cairo1 { .. } => Ok(None),
        }
    }

    pub(crate) fn into_loaded(self) -> Loaded {
        self.loaded
    }
}

#[cfg(test)]
mod tests;
