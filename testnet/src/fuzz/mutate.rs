//! Bends bytes: what a careless disk, a broken peer or a patient attacker does to a valid record.
//!
//! Knows the shape of our own format (fixed-width little-endian integers, length fields of eight bytes, keys and hashes of
//! 32) and of JSON text; everything follows from the seed, so a failure can be run again.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers at which bounds break: lengths, field moduli, signs, widths.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    100,
    101,
    127,
    128,
    255,
    256,
    1023,
    1 << 12,
    1 << 16,
    (1 << 18) + 1,
    1 << 20,
    (1 << 25) + 1,
    (1 << 31) - 2,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 53,
    (1 << 53) + 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Pieces of JSON that parsers stumble over.
const TOKENS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "0",
    "1e999",
    "1.5",
    "18446744073709551616",
    "-9223372036854775809",
    "\"0x\"",
    "\"0x800000000000011000000000000000000000000000000000000000000000001\"",
    "\"\\ud800\"",
    "\"main\"",
    "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]",
    ",",
    ":",
    "}",
    "]",
    "\"__main__.main\"",
    "\"/etc/passwd\"",
    "\"output\"",
];

/// A source of mutants.
#[derive(Debug)]
pub struct Mutator {
    rng: ChaCha8Rng,
}

impl Mutator {
    /// Everything random follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.rng.random_range(0..bound) }
    }

    /// An edge case, or any number.
    pub fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => self.rng.next_u64(),
            _ => EDGES.get(self.below(EDGES.len())).copied().unwrap_or_default(),
        }
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.rng.fill_bytes(&mut out);
        out
    }

    /// A mutant of `seed`, with pieces of `other` now and then; one to four changes, at most `bytes_max` long.
    pub fn mutant(&mut self, seed: &[u8], other: &[u8], bytes_max: usize) -> Vec<u8> {
        let mut out = seed.to_vec();
        let text = seed.trim_ascii_start().first().is_some_and(|b| matches!(b, b'{' | b'['));
        for _ in 0..=self.below(4) {
            if text && self.below(2) == 0 {
                self.change_text(&mut out);
            } else {
                self.change(&mut out, other);
            }
        }
        out.truncate(bytes_max);
        out
    }

    /// A range of at most `longest` bytes within `length`.
    fn range(&mut self, length: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(length.saturating_add(1));
        let size = self.below(longest.min(length.saturating_sub(start)).saturating_add(1));
        start..start.saturating_add(size)
    }

    fn change(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(out.len());
        match self.below(12) {
            0 => {
                let bit = self.below(8);
                out.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << bit);
            }
            1 => {
                let value = self.bytes::<1>();
                overwrite(out, at, &value);
            }
            2 => {
                let value = self.number().to_le_bytes();
                overwrite(out, at, &value);
            }
            3 => {
                let value = u32::try_from(self.number() & u64::from(u32::MAX)).unwrap_or_default().to_le_bytes();
                overwrite(out, at, &value);
            }
            4 => {
                // One more or one less in a counter.
                let step = if self.below(2) == 0 { 1 } else { 255 };
                out.iter_mut().skip(at).take(1).for_each(|b| *b = b.wrapping_add(step));
            }
            5 => drop(out.drain(self.range(out.len(), 64))),
            6 => {
                let range = self.range(out.len(), 64);
                let piece = out.get(range.clone()).unwrap_or_default().to_vec();
                drop(out.splice(range.end..range.end, piece));
            }
            7 => {
                let random = self.bytes::<32>();
                let size = self.below(33);
                drop(out.splice(at..at, random.into_iter().take(size)));
            }
            8 => out.truncate(at),
            9 => {
                // A field of 32 bytes from elsewhere: one key or hash in the place of another.
                let from = self.below(out.len());
                let piece: Vec<u8> = out.iter().skip(from).take(32).copied().collect();
                overwrite(out, at, &piece);
            }
            10 => {
                let range = self.range(other.len(), 256);
                let piece = other.get(range).unwrap_or_default().to_vec();
                drop(out.splice(at..at, piece));
            }
            _ => {
                let tail: Vec<u8> = other.iter().skip(at).copied().collect();
                out.truncate(at);
                out.extend_from_slice(&tail);
            }
        }
    }

    /// Puts a piece of JSON in the place of one value, or before it.
    fn change_text(&mut self, out: &mut Vec<u8>) {
        let start = self.below(out.len());
        let is_end = |b: &u8| matches!(b, b',' | b'}' | b']' | b':' | b'{' | b'[');
        let Some(start) = out.iter().skip(start).position(is_end).map(|n| start.saturating_add(n).saturating_add(1))
        else {
            return;
        };
        let end = out.iter().skip(start).position(is_end).map_or(out.len(), |n| start.saturating_add(n));
        let end = if self.below(3) == 0 { start } else { end };
        let token = TOKENS.get(self.below(TOKENS.len())).copied().unwrap_or("null");
        drop(out.splice(start.min(end)..end, token.bytes()));
    }
}

fn overwrite(out: &mut [u8], at: usize, bytes: &[u8]) {
    out.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_mutants_and_most_differ_from_their_parent() {
        let parent: Vec<u8> = (0..200).collect();
        let run = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..500).map(|_| mutator.mutant(&parent, b"another record", 400)).collect::<Vec<_>>()
        };
        let mutants = run(1);
        assert_eq!(mutants, run(1));
        assert_ne!(mutants, run(2));
        assert!(mutants.iter().filter(|m| **m != parent).count() > 450);
        assert!(mutants.iter().all(|m| m.len() <= 400));
        assert!(mutants.iter().any(|m| m.len() < parent.len()) && mutants.iter().any(|m| m.len() > parent.len()));
    }

    #[test]
    fn text_stays_mostly_text() {
        let parent = br#"{"data": ["0x1", "0x2"], "identifiers": {"a": 1}}"#;
        let mut mutator = Mutator::new(3);
        let readable = (0..1_000)
            .filter(|_| serde_json::from_slice::<serde_json::Value>(&mutator.mutant(parent, parent, 4_000)).is_ok())
            .count();
        assert!(readable > 50, "only {readable} of 1000 mutants are JSON");
    }
}
