//! Hashes of programs, as the bootloader computes them inside the proof.
//!
//! The bootloader hashes (its version, entry point, number of builtins, builtin names, words of the program) with one of
//! three functions; a job's statement names the function and the result. Hints are not part of it: two files with the same
//! words and other hints have one program hash.

use starknet_crypto::{pedersen_hash, poseidon_hash_many};
use starknet_types_core::felt::Felt as Element;
use starknet_types_core::hash::Blake2Felt252;
use types::felt::Felt;
use types::job::HashFunction;

use crate::felts::{element, felt};

/// Version of the bootloader's program header; the pinned bootloader asserts it.
const BOOTLOADER_VERSION: u64 = 0;

/// What a program hash covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramHeader {
    /// Offset of the entry point in the program's words.
    pub main: u64,
    /// Names of the builtins in the order of the entry point's arguments, each name's ASCII bytes as a big-endian number.
    pub builtins: Vec<Felt>,
    /// The program's words.
    pub data: Vec<Felt>,
}

/// A builtin's name as a field element; `None` for names of more than 31 bytes.
pub fn builtin_felt(name: &str) -> Option<Felt> {
    let bytes = name.as_bytes();
    let start = 32usize.checked_sub(bytes.len()).filter(|start| *start >= 1)?;
    let mut out = [0u8; 32];
    out.get_mut(start..)?.copy_from_slice(bytes);
    Felt::from_be_bytes(out)
}

impl ProgramHeader {
    /// The program hash by one of the bootloader's three functions.
    pub fn hash(&self, function: HashFunction) -> Felt {
        let head = [Element::from(BOOTLOADER_VERSION), Element::from(self.main), Element::from(self.builtins.len())];
        let words: Vec<Element> = head.into_iter().chain(self.builtins.iter().chain(&self.data).map(element)).collect();
        let digest = match function {
            HashFunction::Pedersen => pedersen_chain(&words),
            HashFunction::Poseidon => poseidon_hash_many(&words),
            HashFunction::Blake => Blake2Felt252::encode_felt252_data_and_calc_blake_hash(&words),
        };
        felt(&digest)
    }
}

/// h(n, h(w1, h(w2, ... h(wn-1, wn)))) over n words, at least three of them: the length is the outermost argument.
fn pedersen_chain(words: &[Element]) -> Element {
    let inner = words.iter().copied().rev().reduce(|tail, word| pedersen_hash(&word, &tail)).unwrap_or(Element::ZERO);
    pedersen_hash(&Element::from(words.len()), &inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ProgramHeader {
        ProgramHeader {
            main: 3,
            builtins: vec![builtin_felt("output").unwrap(), builtin_felt("range_check96").unwrap()],
            data: (0..9).map(|i| Felt::from_u128(i * i + 1)).collect(),
        }
    }

    #[test]
    fn every_part_changes_every_hash() {
        for function in [HashFunction::Pedersen, HashFunction::Poseidon, HashFunction::Blake] {
            let base = sample().hash(function);
            let mut main = sample();
            main.main = 4;
            let mut builtins = sample();
            builtins.builtins.reverse();
            let mut data = sample();
            data.data[8] = Felt::ZERO;
            let mut moved = sample();
            moved.data.insert(0, moved.builtins.pop().unwrap());
            for other in [main, builtins, data, moved] {
                assert_ne!(other.hash(function), base, "{function:?}");
            }
        }
    }

    #[test]
    fn builtin_names() {
        assert_eq!(builtin_felt("output").unwrap().to_string(), "0x6f7574707574");
        assert!(builtin_felt(&"a".repeat(31)).is_some());
        assert!(builtin_felt(&"a".repeat(32)).is_none());
    }
}
