//! Conversions between the three forms of a Stark field element met here: the network's bytes, the hash crates' element,
//! and the proof's eight little-endian 32-bit words.

use starknet_types_core::felt::Felt as Element;
use types::felt::Felt;

/// Into the hash crates' form.
pub(crate) fn element(felt: &Felt) -> Element {
    Element::from_bytes_be(&felt.to_be_bytes())
}

/// Out of the hash crates' form, which is always reduced.
pub(crate) fn felt(element: &Element) -> Felt {
    Felt::from_be_bytes(element.to_bytes_be()).unwrap_or(Felt::ZERO)
}

/// From a proof's public word; `None` when the number is not below the Stark prime.
pub(crate) fn from_words(words: &[u32; 8]) -> Option<Felt> {
    let mut bytes = [0u8; 32];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words.iter().rev()) {
        chunk.copy_from_slice(&word.to_be_bytes());
    }
    Felt::from_be_bytes(bytes)
}

/// Into a proof's public word.
#[cfg(test)]
pub(crate) fn to_words(felt: Felt) -> [u32; 8] {
    let bytes = felt.to_be_bytes();
    let mut words = [0u32; 8];
    for (word, chunk) in words.iter_mut().rev().zip(bytes.chunks_exact(4)) {
        *word = u32::from_be_bytes(chunk.try_into().unwrap());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_agree() {
        for text in [
            "0x0",
            "0x1",
            "0x80000000ffffffff00000001",
            "0x800000000000011000000000000000000000000000000000000000000000000",
        ] {
            let value: Felt = text.parse().unwrap();
            assert_eq!(felt(&element(&value)), value);
            assert_eq!(from_words(&to_words(value)), Some(value));
            assert_eq!(format!("{:#x}", element(&value)), text);
        }
    }

    #[test]
    fn the_prime_is_refused() {
        let prime = [1, 0, 0, 0, 0, 0, 17, 0x0800_0000];
        assert_eq!(from_words(&prime), None);
        assert!(from_words(&[0, 0, 0, 0, 0, 0, 17, 0x0800_0000]).is_some());
        assert_eq!(from_words(&[u32::MAX; 8]), None);
    }
}
