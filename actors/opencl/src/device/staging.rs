//! Host memory that the device copies from at full speed: two pinned buffers that all threads fill in turn, so that one is
//! filled while the other travels. Owns the buffers; relies on the queue being in order.

use std::num::NonZero;

use ocl::core::{self, CommandQueue, Context, Event, MapFlags, Mem, MemFlags, MemMap};
use stwo::core::fields::m31::BaseField;

use super::release::Quiet;
use crate::error::{Error, Result};

/// Words of a buffer, and so of a transfer at most.
pub(super) const STAGING_WORDS: usize = 16 << 20;
/// Below this many words one thread fills a buffer: starting others takes longer.
const PARALLEL_FROM_WORDS: usize = 1 << 18;

/// Columns that lie in one block: the first word of each in the block, ascending, and its values.
pub(crate) type Parts<'a> = [(usize, &'a [BaseField])];

/// The two buffers.
#[derive(Debug)]
pub(super) struct Staging {
    halves: [Half; 2],
    next: usize,
}

/// Pinned host memory, mapped for as long as it lives.
#[derive(Debug)]
pub(super) struct Pinned {
    /// Keeps the memory alive that `map` points into.
    _memory: Quiet<Mem>,
    map: MemMap<u32>,
    len: usize,
}

#[derive(Debug)]
struct Half {
    memory: Pinned,
    /// The copy that still reads from here.
    busy: Option<Quiet<Event>>,
}

impl Pinned {
    /// `len` words of undefined content.
    pub(super) fn new(context: &Context, queue: &CommandQueue, len: usize) -> Result<Self> {
        let flags = MemFlags::READ_WRITE | MemFlags::ALLOC_HOST_PTR;
        // SAFETY: no host pointer is given, so the flags ask for nothing of ours.
        #[allow(unsafe_code, reason = "the driver's call is unsafe for host pointers; none is given")]
        let memory = unsafe { core::create_buffer::<_, u32>(context, flags, len, None) }
            .map_err(Error::call("create pinned buffer"))?;
        let memory = Quiet::new(memory);
        // SAFETY: the call returns when the map is complete; the memory lives as long as the map, in the same value, and no
        // kernel is given this buffer.
        #[allow(unsafe_code, reason = "the map must not outlive the memory, which the compiler cannot see")]
        let map = unsafe {
            core::enqueue_map_buffer::<u32, _, _, _>(
                queue,
                &*memory,
                true,
                MapFlags::READ | MapFlags::WRITE,
                0,
                len,
                None::<Event>,
                None::<&mut Event>,
            )
        }
        .map_err(Error::call("map pinned buffer"))?;
        Ok(Self { _memory: memory, map, len })
    }

    /// The words. Whoever has enqueued a copy from some of them leaves these alone until it is done.
    pub(super) fn words(&mut self) -> &mut [u32] {
        // SAFETY: the map is `len` words long and lives as long as `self`, which is borrowed.
        #[allow(unsafe_code, reason = "the length of a map is not part of its type")]
        unsafe {
            self.map.as_slice_mut(self.len)
        }
    }
}

impl Half {
    fn new(context: &Context, queue: &CommandQueue) -> Result<Self> {
        Ok(Self { memory: Pinned::new(context, queue, STAGING_WORDS)?, busy: None })
    }
}

impl Staging {
    pub(super) fn new(context: &Context, queue: &CommandQueue) -> Result<Self> {
        Ok(Self { halves: [Half::new(context, queue)?, Half::new(context, queue)?], next: 0 })
    }

    /// Starts to copy words `start` to `start + len` of a block of columns to word `at` of a slab.
    pub(super) fn send(
        &mut self,
        queue: &CommandQueue,
        slab: &Mem,
        at: usize,
        (start, len): (usize, usize),
        parts: &Parts<'_>,
    ) -> Result<()> {
        let half = &mut self.halves[self.next];
        self.next = 1 - self.next;
        if let Some(event) = half.busy.take() {
            core::wait_for_event(&*event).map_err(Error::call("wait for copy"))?;
        }
        // Nothing reads these words now.
        let words = &mut half.memory.words()[..len.min(STAGING_WORDS)];
        fill(parts, start, words);
        let mut event = Quiet::new(Event::null());
        // SAFETY: the buffer is not touched before `event` has been waited for; the place was checked by the caller.
        #[allow(unsafe_code, reason = "the source must stay as it is until the copy is done")]
        unsafe { core::enqueue_write_buffer(queue, slab, false, at, &*words, None::<Event>, Some(&mut *event)) }
            .map_err(Error::call("write"))?;
        half.busy = Some(event);
        core::flush(queue).map_err(Error::call("flush"))
    }
}

/// Writes the words from `start` on, on all threads where that is worth it.
fn fill(parts: &Parts<'_>, start: usize, words: &mut [u32]) {
    if words.len() < PARALLEL_FROM_WORDS {
        return fill_part(parts, start, words);
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let share = words.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for (number, words) in words.chunks_mut(share).enumerate() {
            scope.spawn(move || fill_part(parts, start + number * share, words));
        }
    });
}

/// As [`fill`], on this thread. Words between columns are zero.
fn fill_part(parts: &Parts<'_>, start: usize, mut words: &mut [u32]) {
    let mut at = start;
    let first = parts.partition_point(|(offset, values)| offset + values.len() <= start);
    for (offset, values) in &parts[first..] {
        if words.is_empty() {
            return;
        }
        let gap = offset.saturating_sub(at).min(words.len());
        let (zeros, rest) = words.split_at_mut(gap);
        zeros.fill(0);
        at += gap;
        let values = &values[at.saturating_sub(*offset).min(values.len())..];
        let (target, rest) = rest.split_at_mut(values.len().min(rest.len()));
        for (word, value) in target.iter_mut().zip(values) {
            *word = value.0;
        }
        at += target.len();
        words = rest;
    }
    words.fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_block_is_filled_right() {
        let column = |first: u32, len: u32| (first..first + len).map(BaseField::from_u32_unchecked).collect::<Vec<_>>();
        let (a, b, c) = (column(100, 5), column(200, 16), column(300, 3));
        let parts: [(usize, &[BaseField]); 3] = [(0, &a), (16, &b), (32, &c)];
        let mut whole = [0; 48];
        for (offset, values) in &parts {
            for (word, value) in whole[*offset..].iter_mut().zip(*values) {
                *word = value.0;
            }
        }
        for start in 0..48 {
            for end in start..=48 {
                let mut words = vec![u32::MAX; end - start];
                fill_part(&parts, start, &mut words);
                assert_eq!(words, whole[start..end], "{start} to {end}");
            }
        }
        let long: Vec<BaseField> = column(0, PARALLEL_FROM_WORDS as u32 + 7);
        let mut words = vec![0; long.len()];
        fill(&[(0, &long)], 0, &mut words);
        assert!(words.iter().zip(&long).all(|(word, value)| *word == value.0));
    }
}
