//! How the host's field elements and hashes are laid out as words on the device. Owns the conversion and the tables of
//! circle points that kernels walk.

use stwo::core::circle::{CirclePoint, Coset};
use stwo::core::fields::m31::BaseField;
use stwo::core::fields::qm31::SecureField;
use stwo::core::poly::circle::CircleDomain;
use stwo::core::vcs::blake2_hash::Blake2sHash;

/// A type with a fixed form in words on the device.
pub trait Word: Copy + std::fmt::Debug + Send + Sync + 'static {
    /// Words of one element.
    const WIDTH: usize;

    /// Appends the element's words.
    fn put(&self, words: &mut Vec<u32>);

    /// The element in the first [`Word::WIDTH`] of `words`.
    fn get(words: &[u32]) -> Self;
}

impl Word for BaseField {
    const WIDTH: usize = 1;

    fn put(&self, words: &mut Vec<u32>) {
        words.push(self.0);
    }

    fn get(words: &[u32]) -> Self {
        Self::from_u32_unchecked(words[0])
    }
}

impl Word for SecureField {
    const WIDTH: usize = 4;

    fn put(&self, words: &mut Vec<u32>) {
        words.extend(secure_words(*self));
    }

    fn get(words: &[u32]) -> Self {
        Self::from_u32_unchecked(words[0], words[1], words[2], words[3])
    }
}

impl Word for Blake2sHash {
    const WIDTH: usize = 8;

    fn put(&self, words: &mut Vec<u32>) {
        words.extend(self.0.chunks_exact(4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
    }

    fn get(words: &[u32]) -> Self {
        let mut bytes = [0; 32];
        for (target, word) in bytes.chunks_exact_mut(4).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        Self(bytes)
    }
}

/// All elements' words.
pub(crate) fn to_words<T: Word>(values: &[T]) -> Vec<u32> {
    let mut words = Vec::with_capacity(values.len() * T::WIDTH);
    for value in values {
        value.put(&mut words);
    }
    words
}

/// The elements in `words`.
pub(crate) fn from_words<T: Word>(words: &[u32]) -> Vec<T> {
    words.chunks_exact(T::WIDTH).map(T::get).collect()
}

/// The four coordinates.
pub(crate) fn secure_words(value: SecureField) -> [u32; 4] {
    value.to_m31_array().map(|coordinate| coordinate.0)
}

fn point_words(point: CirclePoint<BaseField>) -> [u32; 2] {
    [point.x.0, point.y.0]
}

/// What the kernel function `domain_point` reads: the half coset's first point, then its step times 2^(log - 2 - k).
pub(crate) fn domain_table(domain: CircleDomain) -> Vec<u32> {
    let coset = domain.half_coset;
    let mut words = point_words(coset.initial).to_vec();
    for k in (0..coset.log_size).rev() {
        words.extend(point_words(coset.step.repeated_double(k)));
    }
    words
}

/// What the kernel `twiddles` reads: doublings of the coset's first point, then of its step.
pub(crate) fn tower_table(coset: Coset) -> Vec<u32> {
    let doublings = |point: CirclePoint<BaseField>| {
        std::iter::successors(Some(point), |point| Some(point.double()))
            .take(coset.log_size.max(1) as usize)
            .flat_map(point_words)
            .collect::<Vec<_>>()
    };
    [doublings(coset.initial), doublings(coset.step)].concat()
}
