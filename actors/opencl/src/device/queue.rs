//! The queue of the device: calls of the driver, in order, on blocks of the slabs. Owns the slabs, the kernels and the
//! host copies that uploads still need. The only file besides the listing with calls that the compiler cannot check.

use std::collections::HashMap;

use ocl::core::{self, ArgVal, CommandQueue, Context, Event, Kernel, Mem, MemFlags, Status};

use super::arena::{Arena, GRANULE_WORDS, Place, SLABS_MAX};
use super::program::CacheReport;
use super::release::Quiet;
use super::runtime::Launch;
use super::staging::{Parts, Pinned, STAGING_WORDS, Staging};
use crate::error::{Error, Result};

/// Items of a work-group of our kernels.
const LOCAL_SIZE: usize = 64;
/// Uploads waiting for their copy may hold this many bytes of host memory.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Words of the pinned memory for tables: those of many proofs between two waits, most are a few hundred words.
const TABLES_WORDS: usize = 1 << 20;
/// Words of a table at most; what is longer is copied from where it is.
const TABLE_WORDS_MAX: usize = TABLES_WORDS / 4;

/// A kernel and how often it was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) kernel: Quiet<Kernel>,
    pub(super) starts: u64,
}

/// Everything that changes while the device is in use.
#[derive(Debug)]
pub(super) struct State {
    pub(super) context: Context,
    pub(super) queue: CommandQueue,
    pub(super) arena: Arena,
    pub(super) slabs: [Option<Quiet<Mem>>; SLABS_MAX],
    /// Words that may be in use at once.
    pub(super) limit_words: u64,
    /// Words of the first slab at least, and of any slab at most.
    pub(super) slab_words: u64,
    pub(super) slab_words_max: u64,
    pub(super) kernels: HashMap<String, Started>,
    /// Host copies that the driver may still read; freed when the queue is known to be done.
    pub(super) pending: Vec<Vec<u32>>,
    pub(super) pending_bytes: usize,
    pub(super) report: CacheReport,
    /// Made for the first columns that are copied to the device.
    pub(super) staging: Option<Staging>,
    /// Made for the first table that is copied to the device.
    pub(super) tables: Option<Tables>,
}

/// Pinned memory that tables go through: filled from the front, and again from the front once the queue is done.
#[derive(Debug)]
pub(super) struct Tables {
    memory: Pinned,
    /// Words that a copy may still read.
    used: usize,
}

impl State {
    /// Words that blocks can take in all: the limit, or what four slabs hold if that is less. Where they have to lie in
    /// several slabs, a sixteenth is left for the cut.
    pub(super) fn capacity_words(&self) -> u64 {
        let kept =
            |slab: usize| if self.arena.is_unused(slab) { self.slab_words_max } else { self.arena.slab_words(slab) };
        let most: u64 = (0..SLABS_MAX).map(kept).sum();
        if self.limit_words <= self.slab_words_max {
            return self.limit_words.min(most);
        }
        self.limit_words.min(most - most / 16)
    }

    fn full(&self, words: u64) -> Error {
        let limit = self.limit_words;
        Error::OutOfMemory { needed: words * 4, free: limit.saturating_sub(self.arena.used()) * 4, limit: limit * 4 }
    }

    pub(super) fn take(&mut self, words: u64) -> Result<Place> {
        let rounded = Arena::rounded(words);
        if self.arena.used() + rounded > self.limit_words {
            return Err(self.full(words));
        }
        if let Some(place) = self.arena.take(words) {
            return Ok(place);
        }
        self.grow(rounded)?;
        self.arena.take(words).ok_or_else(|| self.full(words))
    }

    /// Makes one slab that holds a proof of `words` words, or else as much as there is less than that in all slabs.
    pub(super) fn reserve(&mut self, words: u64) -> Result<()> {
        let words = Arena::rounded(words);
        if self.arena.largest() >= words {
            return Ok(());
        }
        if words <= self.slab_words_max && self.arena.total() + words <= self.limit_words + self.limit_words / 8 {
            return self.grow(words);
        }
        let missing = words.saturating_sub(self.arena.total());
        if missing == 0 { Ok(()) } else { self.grow(Arena::rounded(missing.min(self.slab_words_max))) }
    }

    /// Adds a slab with room for `words` words. Slabs take an eighth more than the limit at most: blocks in use never
    /// exceed it, but leave gaps.
    fn grow(&mut self, words: u64) -> Result<()> {
        let cap = self.limit_words + self.limit_words / 8;
        let left = |state: &Self| cap.saturating_sub(state.arena.total()) / GRANULE_WORDS * GRANULE_WORDS;
        let place = |state: &Self| (0..SLABS_MAX).find(|slab| state.arena.slab_words(*slab) == 0);
        if words > self.slab_words_max {
            return Err(self.full(words));
        }
        if place(self).is_none() || left(self) < words {
            self.drop_unused()?;
        }
        let (Some(slab), true) = (place(self), left(self) >= words) else { return Err(self.full(words)) };
        // As much again as there is, so that four slabs are enough.
        let wanted = words.max(self.slab_words).max(self.arena.total());
        let size = wanted.min(self.slab_words_max).min(left(self)).max(words);
        let length = usize::try_from(size).map_err(|_| self.full(words))?;
        // SAFETY: no host pointer is given, so the flags ask for nothing of ours.
        #[allow(unsafe_code, reason = "the driver's call is unsafe for host pointers; none is given")]
        let memory = unsafe { core::create_buffer::<_, u32>(&self.context, MemFlags::READ_WRITE, length, None) }
            .map_err(|error| match error.api_status() {
                Some(Status::CL_INVALID_BUFFER_SIZE) => self.full(words),
                _ => Error::call("create buffer")(error),
            })?;
        self.slabs[slab] = Some(Quiet::new(memory));
        self.arena.set_slab(slab, size);
        Ok(())
    }

    /// Gives the memory of slabs without blocks back to the driver.
    fn drop_unused(&mut self) -> Result<()> {
        // Kernels that were given such a slab may still run.
        self.finish()?;
        for slab in 0..SLABS_MAX {
            if self.arena.is_unused(slab) {
                self.slabs[slab] = None;
                self.arena.set_slab(slab, 0);
            }
        }
        Ok(())
    }

    fn slab(&self, place: Place) -> Result<&Mem> {
        let slab = self.slabs.get(place.slab).and_then(Option::as_ref);
        slab.map(|slab| &**slab).ok_or_else(|| Error::Call { call: "slab", reason: "no such slab".to_owned() })
    }

    /// The outcome of a call. Drivers that commit memory late say there is none when a command is enqueued, and the device
    /// goes on working; a lost device says the same, but does not go on.
    fn checked<T>(&self, call: &'static str, outcome: ocl::core::Result<T>) -> Result<T> {
        outcome.map_err(|error| match Error::call(call)(error) {
            Error::DriverMemory { call, reason } if core::finish(&self.queue).is_err() => Error::Call { call, reason },
            error => error,
        })
    }

    /// `group` is the size of the work-groups, if it is not the usual one.
    pub(super) fn launch(&mut self, launch: &Launch<'_>, group: Option<usize>) -> Result<()> {
        let unknown = || Error::Call { call: "launch", reason: format!("no kernel {}", launch.kernel) };
        let started = self.kernels.get_mut(launch.kernel).ok_or_else(unknown)?;
        started.starts += 1;
        let kernel: &Kernel = &started.kernel;
        let first = self.slabs.iter().flatten().next().ok_or_else(unknown)?;
        let mut index = 0;
        for number in 0..SLABS_MAX {
            let slab: &Mem = self.slabs[number].as_ref().unwrap_or(first);
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
        let outcome = unsafe {
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
        };
        self.checked("start kernel", outcome)
    }

    pub(super) fn write(&mut self, place: Place, offset: usize, words: Vec<u32>) -> Result<()> {
        let at = place.at(offset, words.len())?;
        if words.len() <= TABLE_WORDS_MAX {
            return self.write_table(place, at, &words);
        }
        // SAFETY: `words` moves into `pending` below and stays there until the queue is done; `at` is inside the block.
        #[allow(unsafe_code, reason = "the source must outlive the copy, which the compiler cannot see")]
        let outcome = unsafe {
            core::enqueue_write_buffer(
                &self.queue,
                self.slab(place)?,
                false,
                at,
                &words,
                None::<Event>,
                None::<&mut Event>,
            )
        };
        self.checked("write", outcome)?;
        self.pending_bytes += words.len() * 4;
        self.pending.push(words);
        if self.pending_bytes > PENDING_BYTES_MAX { self.finish() } else { Ok(()) }
    }

    /// Copies a table by way of pinned memory, which the driver reads without a copy of its own.
    fn write_table(&mut self, place: Place, at: usize, words: &[u32]) -> Result<()> {
        if self.tables.as_ref().is_some_and(|tables| tables.used + words.len() > TABLES_WORDS) {
            self.finish()?;
        }
        let mut tables = match self.tables.take() {
            Some(tables) => tables,
            None => Tables { memory: Pinned::new(&self.context, &self.queue, TABLES_WORDS)?, used: 0 },
        };
        let target = &mut tables.memory.words()[tables.used..tables.used + words.len()];
        target.copy_from_slice(words);
        let slab = self.slab(place)?;
        // SAFETY: these words of the pinned memory are not touched before the queue is known to be done; `at` is inside the
        // block.
        #[allow(unsafe_code, reason = "the source must stay as it is until the copy is done")]
        let outcome = unsafe {
            core::enqueue_write_buffer(&self.queue, slab, false, at, &*target, None::<Event>, None::<&mut Event>)
        };
        tables.used += words.len();
        self.tables = Some(tables);
        self.checked("write", outcome)
    }

    /// Notes that the queue is done: nothing of the host's is read any more.
    fn settled(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        if let Some(tables) = &mut self.tables {
            tables.used = 0;
        }
    }

    /// Copies columns to a block, in transfers of [`STAGING_WORDS`] at most. Waits for none but those whose buffer it needs.
    pub(super) fn write_columns(&mut self, place: Place, words: usize, parts: &Parts<'_>) -> Result<()> {
        let first = place.at(0, words)?;
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::new(&self.context, &self.queue)?,
        };
        let staging = self.staging.insert(staging);
        let slab = self.slabs[place.slab]
            .as_ref()
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
        let outcome = unsafe {
            core::enqueue_read_buffer(
                &self.queue,
                self.slab(place)?,
                true,
                at,
                &mut words,
                None::<Event>,
                None::<&mut Event>,
            )
        };
        self.checked("read", outcome)?;
        // In order: whatever was uploaded before has been copied.
        self.settled();
        Ok(words)
    }

    pub(super) fn copy(&mut self, source: (Place, usize), target: (Place, usize), len: usize) -> Result<()> {
        let (from, to) = (source.0.at(source.1, len)?, target.0.at(target.1, len)?);
        let (a, b) = (self.slab(source.0)?, self.slab(target.0)?);
        let outcome = core::enqueue_copy_buffer::<u32, _, _, _>(
            &self.queue,
            a,
            b,
            from,
            to,
            len,
            None::<Event>,
            None::<&mut Event>,
        );
        self.checked("copy", outcome)
    }

    pub(super) fn zero(&mut self, place: Place, offset: usize, len: usize) -> Result<()> {
        let at = place.at(offset, len)?;
        let slab = self.slab(place)?;
        let outcome =
            core::enqueue_fill_buffer(&self.queue, slab, 0_u32, at, len, None::<Event>, None::<&mut Event>, None);
        self.checked("fill", outcome)
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        let outcome = core::finish(&self.queue);
        self.checked("finish", outcome)?;
        self.settled();
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
