//! The queue of the device: calls of the driver, in order, on blocks of the slabs. Owns the slabs, the kernels and the
//! host copies that uploads still need. The only file besides the listing with calls that the compiler cannot check.

use std::collections::HashMap;

use ocl::core::{self, ArgVal, CommandQueue, Context, Event, Kernel, Mem, MemFlags};

use super::arena::{Arena, Place, SLABS_MAX};
use super::program::CacheReport;
use super::runtime::Launch;
use super::staging::{Parts, STAGING_WORDS, Staging};
use crate::error::{Error, Result};

/// Items of a work-group of our kernels.
const LOCAL_SIZE: usize = 64;
/// Uploads waiting for their copy may hold this many bytes of host memory.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// A kernel and how often it was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) kernel: Kernel,
    pub(super) starts: u64,
}

/// Everything that changes while the device is in use.
#[derive(Debug)]
pub(super) struct State {
    pub(super) context: Context,
    pub(super) queue: CommandQueue,
    pub(super) arena: Arena,
    pub(super) slabs: Vec<Mem>,
    /// Words of the first slab, and of any slab at most.
    pub(super) slab_words: u64,
    pub(super) slab_words_max: u64,
    pub(super) kernels: HashMap<String, Started>,
    /// Host copies that the driver may still read; freed when the queue is known to be done.
    pub(super) pending: Vec<Vec<u32>>,
    pub(super) pending_bytes: usize,
    pub(super) report: CacheReport,
    /// Made for the first columns that are copied to the device.
    pub(super) staging: Option<Staging>,
}

impl State {
    pub(super) fn take(&mut self, words: u64, limit_words: u64) -> Result<Place> {
        let full = |state: &Self| Error::OutOfMemory {
            needed: words * 4,
            free: limit_words.saturating_sub(state.arena.used()) * 4,
            limit: limit_words * 4,
        };
        if self.arena.used() + Arena::rounded(words) > limit_words {
            return Err(full(self));
        }
        if let Some(place) = self.arena.take(words) {
            return Ok(place);
        }
        if self.slabs.len() == SLABS_MAX || Arena::rounded(words) > self.slab_words_max {
            return Err(full(self));
        }
        // Later slabs double, as far as the device allows, so that the four hold what it has.
        let grown = self.slab_words << self.slabs.len();
        let size = grown.max(Arena::rounded(words)).min(self.slab_words_max);
        let length = usize::try_from(size).map_err(|_| full(self))?;
        // SAFETY: no host pointer is given, so the flags ask for nothing of ours.
        #[allow(unsafe_code, reason = "the driver's call is unsafe for host pointers; none is given")]
        let slab = unsafe { core::create_buffer::<_, u32>(&self.context, MemFlags::READ_WRITE, length, None) }
            .map_err(|_| full(self))?;
        self.slabs.push(slab);
        self.arena.add_slab(size);
        self.arena.take(words).ok_or_else(|| full(self))
    }

    fn slab(&self, place: Place) -> Result<&Mem> {
        self.slabs.get(place.slab).ok_or_else(|| Error::Call { call: "slab", reason: "no such slab".to_owned() })
    }

    /// `group` is the size of the work-groups, if it is not the usual one.
    pub(super) fn launch(&mut self, launch: &Launch<'_>, group: Option<usize>) -> Result<()> {
        let unknown = || Error::Call { call: "launch", reason: format!("no kernel {}", launch.kernel) };
        let started = self.kernels.get_mut(launch.kernel).ok_or_else(unknown)?;
        started.starts += 1;
        let kernel = &started.kernel;
        let first = self.slabs.first().ok_or_else(unknown)?;
        let mut index = 0;
        for number in 0..SLABS_MAX {
            let slab = self.slabs.get(number).unwrap_or(first);
            core::set_kernel_arg(kernel, index, ArgVal::mem(slab)).map_err(Error::call("set kernel argument"))?;
            index += 1;
        }
        for value in launch.args {
            core::set_kernel_arg(kernel, index, ArgVal::scalar(value)).map_err(Error::call("set kernel argument"))?;
            index += 1;
        }
        let group = group.unwrap_or(LOCAL_SIZE);
        let global = [launch.items.next_multiple_of(group), launch.rows, 1];
        // SAFETY: the kernels are ours; each bounds its item number by an argument and reaches memory only through the
        // addresses given, whose blocks the caller holds.
        #[allow(unsafe_code, reason = "running a kernel is outside of what the compiler can check")]
        unsafe {
            core::enqueue_kernel(
                &self.queue,
                kernel,
                2,
                None,
                &global,
                Some([group, 1, 1]),
                None::<Event>,
                None::<&mut Event>,
            )
        }
        .map_err(Error::call("start kernel"))
    }

    pub(super) fn write(&mut self, place: Place, offset: usize, words: Vec<u32>) -> Result<()> {
        let at = place.at(offset, words.len())?;
        let slab = self.slab(place)?;
        // SAFETY: `words` moves into `pending` below and stays there until the queue is done; `at` is inside the block.
        #[allow(unsafe_code, reason = "the source must outlive the copy, which the compiler cannot see")]
        unsafe { core::enqueue_write_buffer(&self.queue, slab, false, at, &words, None::<Event>, None::<&mut Event>) }
            .map_err(Error::call("write"))?;
        self.pending_bytes += words.len() * 4;
        self.pending.push(words);
        if self.pending_bytes > PENDING_BYTES_MAX { self.finish() } else { Ok(()) }
    }

    /// Copies columns to a block, in transfers of [`STAGING_WORDS`] at most. Waits for none but those whose buffer it needs.
    pub(super) fn write_columns(&mut self, place: Place, words: usize, parts: &Parts<'_>) -> Result<()> {
        let first = place.at(0, words)?;
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::new(&self.context, &self.queue)?,
        };
        let staging = self.staging.insert(staging);
        let slab = self
            .slabs
            .get(place.slab)
            .ok_or_else(|| Error::Call { call: "slab", reason: "no such slab".to_owned() })?;
        for start in (0..words).step_by(STAGING_WORDS) {
            let len = STAGING_WORDS.min(words - start);
            staging.send(&self.queue, slab, first + start, (start, len), parts)?;
        }
        Ok(())
    }

    pub(super) fn read(&mut self, place: Place, offset: usize, len: usize) -> Result<Vec<u32>> {
        let at = place.at(offset, len)?;
        let mut words = vec![0_u32; len];
        // SAFETY: the call returns only when the copy is complete; `at` is inside the block.
        #[allow(unsafe_code, reason = "the target must outlive the copy; the call blocks")]
        unsafe {
            core::enqueue_read_buffer(
                &self.queue,
                self.slab(place)?,
                true,
                at,
                &mut words,
                None::<Event>,
                None::<&mut Event>,
            )
        }
        .map_err(Error::call("read"))?;
        // In order: whatever was uploaded before has been copied.
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(words)
    }

    pub(super) fn copy(&mut self, source: (Place, usize), target: (Place, usize), len: usize) -> Result<()> {
        let (from, to) = (source.0.at(source.1, len)?, target.0.at(target.1, len)?);
        let (a, b) = (self.slab(source.0)?, self.slab(target.0)?);
        core::enqueue_copy_buffer::<u32, _, _, _>(&self.queue, a, b, from, to, len, None::<Event>, None::<&mut Event>)
            .map_err(Error::call("copy"))
    }

    pub(super) fn zero(&mut self, place: Place, offset: usize, len: usize) -> Result<()> {
        let at = place.at(offset, len)?;
        let slab = self.slab(place)?;
        core::enqueue_fill_buffer(&self.queue, slab, 0_u32, at, len, None::<Event>, None::<&mut Event>, None)
            .map_err(Error::call("fill"))
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        core::finish(&self.queue).map_err(Error::call("finish"))?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }
}

impl Place {
    /// Position in the slab of word `offset` of the block, of which `len` words must exist.
    fn at(self, offset: usize, len: usize) -> Result<usize> {
        let outside =
            || Error::Call { call: "address", reason: format!("{len} words from {offset} of {}", self.words) };
        if offset.checked_add(len).is_none_or(|end| end as u64 > self.words) {
            return Err(outside());
        }
        usize::try_from(self.offset + offset as u64).map_err(|_| outside())
    }
}
