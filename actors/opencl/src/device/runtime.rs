//! The one device of this process. Owns its context, queue, memory slabs and kernels; everything runs on one in-order
//! queue, so a kernel sees what was enqueued before it and memory may be reused at once. Relies on the arena for
//! addresses. The only file with calls that the compiler cannot check.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ocl::core::{self, ArgVal, CommandQueue, Context, ContextProperties, Event, Kernel, Mem, MemFlags, Program};

use super::arena::{Arena, GRANULE_WORDS, Place, SLAB_WORDS_MAX, SLABS_MAX};
use super::counters::{Counters, Tally};
use super::list::{Choice, DeviceInfo, DeviceKind, Found, find};
use super::program::{Builder, CacheReport};
use crate::error::{Error, Result, raise, settle};
use crate::kernels;

/// How to open the device.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which device.
    pub choice: Choice,
    /// Folder of compiled kernels; `None` compiles them at every start.
    pub cache: Option<PathBuf>,
    /// Bytes of device memory to use at most; `None`: nine tenths of what the device has.
    pub memory_limit: Option<u64>,
}

/// Items of a work-group of our kernels.
const LOCAL_SIZE: usize = 64;
/// Uploads waiting for their copy may hold this many bytes of host memory.
const PENDING_BYTES_MAX: usize = 64 << 20;
/// Size of the first slab of the host's processor, whose memory is the host's.
const HOST_SLAB_BYTES: u64 = 256 << 20;

/// The open device.
#[derive(Debug)]
pub struct Runtime {
    info: DeviceInfo,
    tally: Tally,
    builder: Builder,
    limit_words: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    context: Context,
    queue: CommandQueue,
    arena: Arena,
    slabs: Vec<Mem>,
    slab_words: u64,
    kernels: HashMap<String, Kernel>,
    /// Host copies that the driver may still read; freed when the queue is known to be done.
    pending: Vec<Vec<u32>>,
    pending_bytes: usize,
    report: CacheReport,
}

/// A piece of device memory; freed when dropped.
#[derive(Debug)]
pub(crate) struct Block {
    place: Place,
}

/// A kernel start: name, work items in two dimensions, and its arguments after the slabs.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Name in the program.
    pub(crate) kernel: &'a str,
    /// Items in the first dimension; rounded up to whole work-groups, so kernels compare with an argument.
    pub(crate) items: usize,
    /// Items in the second dimension.
    pub(crate) rows: usize,
    /// Scalar arguments and block addresses.
    pub(crate) args: &'a [u32],
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// Opens the device of this process, or returns it if it is open already and the choice allows it.
///
/// # Errors
/// Whatever keeps the device from being used, in words; [`Error::AlreadyOpen`] if another one is in use.
pub fn open(options: &Options) -> Result<&'static Runtime> {
    let _guard = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        let found = std::slice::from_ref(&runtime.info);
        return match options.choice.pick(found) {
            Ok(_) => Ok(runtime),
            Err(_) => Err(Error::AlreadyOpen(runtime.info.name.clone())),
        };
    }
    let found = find()?;
    let infos: Vec<DeviceInfo> = found.iter().map(|found| found.info.clone()).collect();
    let index = options.choice.pick(&infos)?.index;
    let found = found.into_iter().nth(index).ok_or_else(|| Error::NoDevice("it vanished".to_owned()))?;
    let runtime = Runtime::new(found, options)?;
    Ok(RUNTIME.get_or_init(|| runtime))
}

/// The open device; [`raise`]s if none was opened.
pub(crate) fn runtime() -> &'static Runtime {
    RUNTIME.get().unwrap_or_else(|| raise(Error::NoDevice("no device was opened in this process".to_owned())))
}

impl Runtime {
    fn new(found: Found, options: &Options) -> Result<Self> {
        let Found { info, platform, device } = found;
        let properties = ContextProperties::new().platform(platform);
        let context =
            core::create_context(Some(&properties), &[device], None, None).map_err(Error::call("create context"))?;
        let queue = core::create_command_queue(&context, device, None).map_err(Error::call("create queue"))?;
        let limit = options.memory_limit.unwrap_or(info.memory_bytes / 10 * 9);
        // Four slabs must be able to hold all that may be used.
        let wanted = if info.kind == DeviceKind::Cpu { HOST_SLAB_BYTES } else { limit.div_ceil(SLABS_MAX as u64) };
        let slab_words = (wanted.min(info.allocation_bytes) / 4).min(SLAB_WORDS_MAX);
        let state = State {
            context: context.clone(),
            queue,
            arena: Arena::default(),
            slabs: Vec::new(),
            slab_words: slab_words / GRANULE_WORDS * GRANULE_WORDS,
            kernels: HashMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            report: CacheReport::default(),
        };
        let builder = Builder { context, device, info: info.clone(), folder: options.cache.clone() };
        let runtime = Self { info, tally: Tally::default(), builder, limit_words: limit / 4, state: Mutex::new(state) };
        let source = kernels::library();
        runtime.add_program("the kernel library", &source, kernels::LIBRARY_KERNELS)?;
        Ok(runtime)
    }

    /// The device's description.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The counters' present values.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tally.snapshot()
    }

    /// In strict mode any work on the host in the device's place, and any read of one element, panics.
    pub fn set_strict(&self, strict: bool) {
        self.tally.set_strict(strict);
    }

    /// What the kernel cache did.
    #[must_use]
    pub fn cache_report(&self) -> CacheReport {
        self.lock().report
    }

    /// Bytes of device memory in use, and the most at once since [`Runtime::reset_peak`].
    #[must_use]
    pub fn memory(&self) -> (u64, u64) {
        let state = self.lock();
        (state.arena.used() * 4, state.arena.peak() * 4)
    }

    /// Bytes of device memory that may be used.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.limit_words * 4
    }

    /// Starts the memory peak again.
    pub fn reset_peak(&self) {
        self.lock().arena.reset_peak();
    }

    pub(crate) fn host_fallback(&self, what: &str) {
        self.tally.host_fallback(what);
    }

    pub(crate) fn element_read(&self, len: usize) {
        self.tally.element_read(len);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves complete calls behind; the device's own errors come back by themselves.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds a program (without holding the lock: compilers are slow) and makes its kernels callable.
    pub(crate) fn add_program(&self, what: &str, source: &str, names: &[&str]) -> Result<()> {
        let mut report = CacheReport::default();
        let built = self.builder.build(what, source, &mut report);
        let mut state = self.lock();
        state.report.loaded += report.loaded;
        state.report.compiled += report.compiled;
        state.report.broken += report.broken;
        state.report.unwritten += report.unwritten;
        let program: Program = built?;
        for name in names {
            let kernel = core::create_kernel(&program, name).map_err(Error::call("create kernel"))?;
            state.kernels.insert((*name).to_owned(), kernel);
        }
        Ok(())
    }

    /// Whether a kernel of this name is ready.
    pub(crate) fn has_kernel(&self, name: &str) -> bool {
        self.lock().kernels.contains_key(name)
    }

    /// Takes device memory of `words` words; its content is undefined.
    pub(crate) fn take(&self, words: usize) -> Block {
        let mut state = self.lock();
        let place = settle(state.take(words as u64, self.limit_words));
        Block { place }
    }

    /// Starts a kernel; it runs after everything started before.
    pub(crate) fn launch(&self, launch: &Launch<'_>) {
        if launch.items == 0 || launch.rows == 0 {
            return;
        }
        let mut state = self.lock();
        settle(state.launch(launch));
        self.tally.kernels.fetch_add(1, Ordering::Relaxed);
    }

    /// Copies words to the device without waiting.
    pub(crate) fn write(&self, block: &Block, offset: usize, words: Vec<u32>) {
        if words.is_empty() {
            return;
        }
        self.tally.bytes_to_device.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        settle(self.lock().write(block.place, offset, words));
    }

    /// Copies words from the device; waits for it.
    pub(crate) fn read(&self, block: &Block, offset: usize, len: usize) -> Vec<u32> {
        if len == 0 {
            return Vec::new();
        }
        self.tally.bytes_to_host.fetch_add(len as u64 * 4, Ordering::Relaxed);
        self.tally.reads.fetch_add(1, Ordering::Relaxed);
        settle(self.lock().read(block.place, offset, len))
    }

    /// Copies words on the device: source and its first word, then target and its first word.
    pub(crate) fn copy(&self, source: (&Block, usize), target: (&Block, usize), len: usize) {
        if len > 0 {
            settle(self.lock().copy((source.0.place, source.1), (target.0.place, target.1), len));
        }
    }

    /// Sets words to zero.
    pub(crate) fn zero(&self, block: &Block, offset: usize, len: usize) {
        if len > 0 {
            settle(self.lock().zero(block.place, offset, len));
        }
    }

    /// Waits for all that was started.
    pub(crate) fn finish(&self) {
        settle(self.lock().finish());
    }
}

impl State {
    fn take(&mut self, words: u64, limit_words: u64) -> Result<Place> {
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
        if self.slabs.len() == SLABS_MAX || words > SLAB_WORDS_MAX {
            return Err(full(self));
        }
        // Later slabs double, so that the four hold what the device has.
        let grown = self.slab_words << self.slabs.len();
        let size = grown.max(Arena::rounded(words)).min(SLAB_WORDS_MAX);
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

    fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        let unknown = || Error::Call { call: "launch", reason: format!("no kernel {}", launch.kernel) };
        let kernel = self.kernels.get(launch.kernel).ok_or_else(unknown)?;
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
        let global = [launch.items.next_multiple_of(LOCAL_SIZE), launch.rows, 1];
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
                Some([LOCAL_SIZE, 1, 1]),
                None::<Event>,
                None::<&mut Event>,
            )
        }
        .map_err(Error::call("start kernel"))
    }

    fn write(&mut self, place: Place, offset: usize, words: Vec<u32>) -> Result<()> {
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

    fn read(&mut self, place: Place, offset: usize, len: usize) -> Result<Vec<u32>> {
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

    fn copy(&mut self, source: (Place, usize), target: (Place, usize), len: usize) -> Result<()> {
        let (from, to) = (source.0.at(source.1, len)?, target.0.at(target.1, len)?);
        let (a, b) = (self.slab(source.0)?, self.slab(target.0)?);
        core::enqueue_copy_buffer::<u32, _, _, _>(&self.queue, a, b, from, to, len, None::<Event>, None::<&mut Event>)
            .map_err(Error::call("copy"))
    }

    fn zero(&mut self, place: Place, offset: usize, len: usize) -> Result<()> {
        let at = place.at(offset, len)?;
        let slab = self.slab(place)?;
        core::enqueue_fill_buffer(&self.queue, slab, 0_u32, at, len, None::<Event>, None::<&mut Event>, None)
            .map_err(Error::call("fill"))
    }

    fn finish(&mut self) -> Result<()> {
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

impl Block {
    /// The address that kernels take: slab in the upper two bits, granule in the lower thirty. `offset` is in words.
    pub(crate) fn address(&self, offset: usize) -> u32 {
        let first = self.place.offset + offset as u64;
        debug_assert!(first.is_multiple_of(GRANULE_WORDS), "a kernel's column begins at a granule");
        ((self.place.slab as u32) << 30) | (first / GRANULE_WORDS) as u32
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(runtime) = RUNTIME.get() {
            runtime.lock().arena.give_back(self.place);
        }
    }
}
