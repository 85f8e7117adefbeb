//! Bookkeeping of device memory: a few large slabs, cut into blocks. Owns which words are in use; knows nothing of
//! OpenCL. Blocks may be handed out again as soon as they are freed, because one in-order queue runs all kernels.

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
    used_words: u64,
    peak_words: u64,
}

impl Arena {
    /// Words of a request, rounded up to whole granules.
    pub(super) fn rounded(words: u64) -> u64 {
        words.max(1).next_multiple_of(GRANULE_WORDS)
    }

    /// Adds an empty slab of `words` words.
    pub(super) fn add_slab(&mut self, words: u64) {
        self.free.push(BTreeMap::from([(0, words)]));
    }

    /// Takes `words` words from the smallest free range that holds them.
    pub(super) fn take(&mut self, words: u64) -> Option<Place> {
        let words = Self::rounded(words);
        let fitting = self.free.iter().enumerate().flat_map(|(slab, ranges)| {
            ranges.iter().filter(|(_, size)| **size >= words).map(move |(offset, size)| (*size, slab, *offset))
        });
        let (size, slab, offset) = fitting.min()?;
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
        arena.add_slab(1024);
        arena.add_slab(64);
        let mut places: Vec<Place> = (1..=20).map(|size| arena.take(size * 3).expect("room")).collect();
        for (index, a) in places.iter().enumerate() {
            assert_eq!(a.offset % GRANULE_WORDS, 0);
            for b in &places[index + 1..] {
                let apart = a.offset + a.words <= b.offset || b.offset + b.words <= a.offset;
                assert!(a.slab != b.slab || apart, "{a:?} and {b:?}");
            }
        }
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
    }
}
