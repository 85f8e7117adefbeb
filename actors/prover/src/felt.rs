//! Field elements in the three shapes that meet here: the shared vocabulary's, the virtual machine's, and JSON's.

use cairo_vm::Felt252;
use serde_json::Value;
use types::felt::{Felt, STARK_PRIME};

/// The virtual machine's form.
pub(crate) fn to_vm(felt: Felt) -> Felt252 {
    Felt252::from_bytes_be(&felt.to_be_bytes())
}

/// The shared form. The virtual machine's elements are always reduced, so nothing is lost.
pub(crate) fn from_vm(felt: &Felt252) -> Felt {
    Felt::from_be_bytes(felt.to_bytes_be()).unwrap_or(Felt::ZERO)
}

/// A JSON integer, or a string with decimal or 0x-hex digits; a leading minus is the negative in the field. `None` for
/// anything else and for amounts that are not below the prime.
pub(crate) fn from_json(value: &Value) -> Option<Felt252> {
    match value {
        Value::Number(number) => from_text(&number.to_string()),
        Value::String(text) => from_text(text),
        _ => None,
    }
}

/// As [`from_json`], from the text alone.
pub(crate) fn from_text(text: &str) -> Option<Felt252> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let bytes = match digits.strip_prefix("0x") {
        Some(hex) => digits_to_bytes(hex, 16)?,
        None => digits_to_bytes(digits, 10)?,
    };
    if bytes >= STARK_PRIME {
        return None;
    }
    let felt = Felt252::from_bytes_be(&bytes);
    Some(if negative { -felt } else { felt })
}

/// The number as 32 big-endian bytes; `None` when there are no digits, a wrong digit, or it needs more than 256 bits.
fn digits_to_bytes(digits: &str, base: u32) -> Option<[u8; 32]> {
    // 2^256 has 78 decimal digits; leading zeros have no use.
    if digits.is_empty() || digits.len() > 78 {
        return None;
    }
    let mut out = [0u8; 32];
    for c in digits.chars() {
        let mut carry = c.to_digit(base)?;
        for byte in out.iter_mut().rev() {
            let sum = u32::from(*byte).checked_mul(base)?.checked_add(carry)?;
            *byte = u8::try_from(sum & 0xff).ok()?;
            carry = sum >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_of_every_form() {
        assert_eq!(from_json(&json!(12)), Some(Felt252::from(12)));
        assert_eq!(from_json(&json!("0xC")), Some(Felt252::from(12)));
        assert_eq!(from_json(&json!("-1")), Some(Felt252::MAX));
        let below = "3618502788666131213697322783095070105623107215331596699973092056135872020480";
        let prime = "3618502788666131213697322783095070105623107215331596699973092056135872020481";
        assert_eq!(from_text(below), Some(Felt252::MAX));
        assert_eq!(
            from_vm(&Felt252::MAX).to_string(),
            "0x800000000000011000000000000000000000000000000000000000000000000"
        );
        assert_eq!(to_vm(from_vm(&Felt252::MAX)), Felt252::MAX);
        for bad in [prime, "", "-", "0x", "1.0", "1e3", "0x0g", "--1", "+1", " 1"] {
            assert_eq!(from_text(bad), None, "{bad}");
        }
        for bad in [json!(1.5), json!(null), json!(true), json!([1]), json!({})] {
            assert_eq!(from_json(&bad), None, "{bad}");
        }
    }
}
