//! Bookkeeping of device memory: a few large slabs, cut into blocks. Owns which words are in use; knows nothing of
//! OpenCL. Blocks may be handed out again as soon as they are freed, because one in-order queue runs all kernels.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Blocks begin at multiples of this many words (64 bytes: what a memory transaction moves).
pub(crate) const GRANULE_WORDS: u64 = 16;
/// Slabs at most: a block's address holds the slab's number in two bits.
pub(super) const SLABS_MAX: usize = 4;
/// Words of a slab at most: an address holds the granule in 30 bits.
pub(super) const SLAB_WORDS_MAX: u64 = GRANULE_WORDS << 30;

/// Where a block lies: slab number, first word, words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slab: usize,
    pub(super) offset: u64,
    pub(super) words: u64,
}

/// Free and used words of all slabs.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// Per slab: free ranges, first word to number of words. Neighbours are always joined.
    free: Vec<BTreeMap<u64, u64>>,
    /// Words of each slab; 0 when its memory was given back.
    sizes: Vec<u64>,
    used_words: u64,
    peak_words: u64,
}

impl Arena {
    /// Words of a request, rounded up to whole granules.
    pub(super) fn rounded(words: u64) -> u64 {
        words.max(1).next_multiple_of(GRANULE_WORDS)
    }

    /// Makes slab `slab`, which is new or has no memory, an empty one of `words` words.
    pub(super) fn set_slab(&mut self, slab: usize, words: u64) {
        if self.free.len() <= slab {
            self.free.resize_with(slab + 1, BTreeMap::new);
            self.sizes.resize(slab + 1, 0);
        }
        self.free[slab] = if words == 0 { BTreeMap::new() } else { BTreeMap::from([(0, words)]) };
        self.sizes[slab] = words;
    }

    /// Words of a slab; 0 if it has no memory.
    pub(super) fn slab_words(&self, slab: usize) -> u64 {
        self.sizes.get(slab).copied().unwrap_or(0)
    }

    /// Whether no block lies in a slab.
    pub(super) fn is_unused(&self, slab: usize) -> bool {
        let whole = (0, self.slab_words(slab));
        self.free.get(slab).is_none_or(|ranges| {
            ranges.is_empty() == (whole.1 == 0) && ranges.iter().all(|(at, size)| (*at, *size) == whole)
        })
    }

    /// Words of the largest slab.
    pub(super) fn largest(&self) -> u64 {
        self.sizes.iter().copied().max().unwrap_or(0)
    }

    /// Words of all slabs.
    pub(super) fn total(&self) -> u64 {
        self.sizes.iter().sum()
    }

    /// Takes `words` words from the smallest free range that holds them, of the largest slab that has one: a proof's columns
    /// then lie in one slab, which some kernels read faster.
    pub(super) fn take(&mut self, words: u64) -> Option<Place> {
        let words = Self::rounded(words);
        let sizes = &self.sizes;
        let fitting = self.free.iter().enumerate().flat_map(|(slab, ranges)| {
            let fitting = ranges.iter().filter(|(_, size)| **size >= words);
            fitting.map(move |(offset, size)| (Reverse(sizes[slab]), *size, slab, *offset))
        });
        let (_, size, slab, offset) = fitting.min()?;
        let ranges = self.free.get_mut(slab)?;
        ranges.remove(&offset);
        if size > words {
            ranges.insert(offset + words, size - words);
        }
        self.used_words += words;
        self.peak_words = self.peak_words.max(self.used_words);
        Some(Place { slab, offset, words })
    }

    /// Gives a block back.
    pub(super) fn give_back(&mut self, place: Place) {
        self.used_words = self.used_words.saturating_sub(place.words);
        let Some(ranges) = self.free.get_mut(place.slab) else { return };
        let (mut offset, mut words) = (place.offset, place.words);
        if let Some(next) = ranges.remove(&(offset + words)) {
            words += next;
        }
        if let Some((&before, &size)) = ranges.range(..offset).next_back()
            && before + size == offset
        {
            ranges.remove(&before);
            offset = before;
            words += size;
        }
        ranges.insert(offset, words);
    }

    /// Words in use.
    pub(super) fn used(&self) -> u64 {
        self.used_words
    }

    /// Most words that were in use at once since the start or [`Arena::reset_peak`].
    pub(super) fn peak(&self) -> u64 {
        self.peak_words
    }

    /// Starts the peak again at what is in use.
    pub(super) fn reset_peak(&mut self) {
        self.peak_words = self.used_words;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_come_back_whole() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(1), None, "no slab yet");
        arena.set_slab(0, 1024);
        arena.set_slab(1, 64);
        assert!(arena.is_unused(0) && arena.is_unused(1) && arena.is_unused(2));
        assert_eq!((arena.total(), arena.slab_words(1), arena.slab_words(2)), (1088, 64, 0));
        let mut places: Vec<Place> = (1..=20).map(|size| arena.take(size * 3).expect("room")).collect();
        for (index, a) in places.iter().enumerate() {
            assert_eq!(a.offset % GRANULE_WORDS, 0);
            for b in &places[index + 1..] {
                let apart = a.offset + a.words <= b.offset || b.offset + b.words <= a.offset;
                assert!(a.slab != b.slab || apart, "{a:?} and {b:?}");
            }
        }
        assert!(!arena.is_unused(0));
        let peak = arena.peak();
        assert_eq!(peak, arena.used());
        // In an order that joins on both sides.
        places.rotate_left(7);
        for place in places {
            arena.give_back(place);
        }
        assert_eq!(arena.used(), 0);
        assert_eq!(arena.take(1024).expect("whole again").offset, 0);
        assert_eq!(arena.take(64).expect("whole again").slab, 1);
        assert_eq!(arena.take(1), None);
        arena.reset_peak();
        assert_eq!(arena.peak(), 1088);
        assert!(!arena.is_unused(0), "all of it is one block");
        arena.give_back(Place { slab: 1, offset: 0, words: 64 });
        assert!(arena.is_unused(1));
        arena.set_slab(1, 0);
        assert!(arena.take(16).is_none(), "its memory was given back");
        arena.set_slab(1, 32);
        assert_eq!(arena.take(32).map(|place| (place.slab, place.words)), Some((1, 32)));
    }
}
