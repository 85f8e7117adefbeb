//! The checks that come before the stock verifier, one function each, in the order of [`types::verdict::Check`].

use cairo_air::air::{PublicSegmentRanges, SegmentRange};

pub(crate) mod claims;
pub(crate) mod config;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod format;
pub(crate) mod public;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;

/// Every builtin segment by name.
pub(crate) fn segments(ranges: &PublicSegmentRanges) -> [(&'static str, Option<SegmentRange>); 11] {
    // Exhaustive on purpose: a segment that a later version adds must be looked at.
    let PublicSegmentRanges {
        output,
        pedersen,
        range_check_128,
        ecdsa,
        bitwise,
        ec_op,
        keccak,
        poseidon,
        range_check_96,
        add_mod,
        mul_mod,
    } = *ranges;
    [
        ("output", Some(output)),
        ("pedersen", pedersen),
        ("range_check", range_check_128),
        ("ecdsa", ecdsa),
        ("bitwise", bitwise),
        ("ec_op", ec_op),
        ("keccak", keccak),
        ("poseidon", poseidon),
        ("range_check96", range_check_96),
        ("add_mod", add_mod),
        ("mul_mod", mul_mod),
    ]
}
