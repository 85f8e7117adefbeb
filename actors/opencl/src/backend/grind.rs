//! Proof of work: the lowest nonce in the order in which stwo's `SimdBackend` searches, so that proofs are equal.

use stwo::core::channel::Blake2sChannel;
use stwo::core::proof_of_work::GrindOps;
use stwo::core::vcs::blake2_hash::Blake2sHasher;

use super::{OclBackend, Table};
use crate::device::{Launch, runtime};
use crate::error::{Error, raise};
use crate::field::{Word, to_words};

/// Nonces have this many low bits, then count on in their upper word.
const LOW_BITS: u32 = 20;
/// Least and largest number of nonces tried in one start, as powers of two. Between them it is a quarter of what is
/// expected to be needed: each start costs a wait, and the items that come after the one which finds a nonce still look
/// whether to begin.
const BATCH_LOG_MIN: u32 = 12;
const BATCH_LOG_MAX: u32 = 27;
/// Bits at most: the search looks at one word of the hash.
const BITS_MAX: u32 = 32;

impl GrindOps<Blake2sChannel> for OclBackend {
    fn grind(channel: &Blake2sChannel, pow_bits: u32) -> u64 {
        if pow_bits > BITS_MAX {
            raise(Error::Input {
                field: "proof-of-work bits",
                value: pow_bits.to_string(),
                limit: "32 at most".to_owned(),
            });
        }
        let mut hasher = Blake2sHasher::default();
        hasher.update(&Blake2sChannel::POW_PREFIX.to_le_bytes());
        hasher.update(&[0; 12]);
        hasher.update(&channel.digest().0);
        hasher.update(&pow_bits.to_le_bytes());
        let prefix = Table::new(to_words(&[hasher.finalize()]));
        debug_assert_eq!(stwo::core::vcs::blake2_hash::Blake2sHash::WIDTH, 8);

        let mut first: u64 = 0;
        let batch = 1_u32 << pow_bits.saturating_sub(2).clamp(BATCH_LOG_MIN, BATCH_LOG_MAX);
        loop {
            let found = Table::new(vec![u32::MAX]);
            let args = [prefix.address(), found.address(), first as u32, (first >> 32) as u32, pow_bits, batch];
            runtime().launch(&Launch { kernel: "grind", items: batch as usize, rows: 1, args: &args });
            match found.read(1).first() {
                Some(&offset) if offset != u32::MAX => {
                    let number = first + u64::from(offset);
                    return ((number >> LOW_BITS) << 32) | (number & ((1 << LOW_BITS) - 1));
                }
                _ => first += u64::from(batch),
            }
        }
    }
}
